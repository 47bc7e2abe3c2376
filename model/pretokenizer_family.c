/* pretokenizer_family.c - the values of tokenizer.ggml.pre and the patterns that they stand for */
#include <string.h>

#include "model/pretokenizer.h"

#define PATTERNS_MAX 3

/* What most patterns end with: white space up to the last one before a word, else all of it. */
#define SPACES   "\\s+(?!\\S)|\\s+"
#define SUFFIXES "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

static const char gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|" SPACES;

/* Of cl100k's kind: they differ in how many digits stand together. */
#define CL100K(numbers)                                                                            \
    SUFFIXES "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers                                             \
             "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" SPACES
static const char llama3[] = CL100K("\\p{N}{1,3}");
static const char qwen2[] = CL100K("\\p{N}");

/* Of o200k's kind: words are cut where capitals begin. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(suffixes, numbers)                                                                   \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffixes "|[^\\r\\n\\p{L}\\p{N}]?" UPPER          \
    "+" LOWER "*" suffixes "|" numbers "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|" SPACES
static const char gpt4o[] = O200K(SUFFIXES "?", "\\p{N}{1,3}");
static const char tekken[] = O200K("", "\\p{N}");

static const char deepseek_v3[] = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
                                  "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                                  "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|" SPACES;

/* Unicode 17's, where the others go by 16. */
static const char digit[] = "[\\p{N}\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}]";
static const char digits3[] = "\\p{N}{1,3}";
static const char east_asian[] = "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+";

static const struct family {
    const char *name;
    const char *patterns[PATTERNS_MAX];
    struct pretokenizer_family more;
} families[] = {
    {"dbrx", {llama3}, {0, 0, 0}},
    {"deepseek-r1-qwen", {qwen2}, {0, 0, 0}},
    {"deepseek-v3", {digits3, east_asian, deepseek_v3}, {0, 0, 0}},
    {"falcon3", {llama3}, {1, 1, 0}},
    {"gpt-2", {gpt2}, {0, 0, 0}},
    {"gpt-4o", {gpt4o}, {0, 0, 0}},
    {"llama-bpe", {llama3}, {1, 1, 0}},
    {"llama-v3", {llama3}, {1, 1, 0}},
    {"llama3", {llama3}, {1, 1, 0}},
    {"llama4", {gpt4o}, {0, 0, 0}},
    {"olmo", {gpt2}, {0, 0, 0}},
    {"qwen2", {qwen2}, {0, 0, 1}},
    {"refact", {digit, gpt2}, {0, 0, 0}},
    {"smaug-bpe", {llama3}, {0, 0, 0}},
    {"smollm", {digit, gpt2}, {0, 0, 0}},
    {"starcoder", {digit, gpt2}, {0, 0, 0}},
    {"tekken", {tekken}, {1, 1, 0}},
};

int pretokenizer_add_family(struct pretokenizer *p, const char *name, size_t len,
                            struct pretokenizer_family *family, struct error *err)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        const struct family *f = &families[i];

        if (strlen(f->name) != len || memcmp(f->name, name, len) != 0)
            continue;
        for (size_t k = 0; k < PATTERNS_MAX && f->patterns[k]; k++)
            if (pretokenizer_add_split(p, f->patterns[k], strlen(f->patterns[k]), 0,
                                       BEHAVIOR_ISOLATED, 0, err))
                return -1;
        *family = f->more;
        return pretokenizer_add_byte_level(p, 0, 0, err);
    }
    return error_set(err, STATUS_UNSUPPORTED, "pre-tokenizer %.*s is not supported",
                     (int)(len < 64 ? len : 64), name);
}
