#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/pretokenizer.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define PATTERNS_MAX 2

/* Unicode's White_Space inside of brackets.  Not \s: PCRE2's holds U+180E, other engines' does not.
 */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"

/* Letters and numbers inside of brackets.  The tokens must not depend on the PCRE2 that is there:
 * what Unicode 15 and 16 added is listed for releases that know Unicode 14. */
#define LETTER                                                                                     \
    "\\p{L}\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"         \
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}"         \
    "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}" \
    "\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}"          \
    "\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}"         \
    "\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"                     \
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}"          \
    "\\x{31350}-\\x{323af}"
#define NUMBER                                                                                     \
    "\\p{N}\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"   \
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"         \
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"
/* The rule for single digits goes by Unicode 17 where the others go by 16. */
#define NUMBER_17 NUMBER "\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}"

/* What most patterns end with: white space up to the last one before a word, else all of it. */
#define SPACES "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

static const char pattern_digit[] = "[" NUMBER_17 "]";

static const char pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d"
                                   "| ?[" LETTER "]+"
                                   "| ?[" NUMBER "]+"
                                   "| ?[^" SPACE LETTER NUMBER "]+"
                                   "|" SPACES;

static const char pattern_llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
                                     "|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]+"
                                     "|[" NUMBER "]{1,3}"
                                     "| ?[^" SPACE LETTER NUMBER "]+[\\r\\n]*"
                                     "|[" SPACE "]*[\\r\\n]+"
                                     "|" SPACES;

static const struct family {
    const char *name; /* tokenizer.ggml.pre */
    const char *patterns[PATTERNS_MAX];
    int ignores_merges, wants_bos;
} families[] = {
    {"gpt-2", {pattern_gpt2}, 0, 0},
    {"llama-bpe", {pattern_llama3}, 1, 1},
    {"smollm", {pattern_digit, pattern_gpt2}, 0, 0},
};

struct pretokenizer {
    const struct family *family;
    pcre2_code *codes[PATTERNS_MAX];
    size_t count;
};

static const struct family *find_family(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        if (strlen(families[i].name) == len && memcmp(families[i].name, name, len) == 0)
            return &families[i];
    return NULL;
}

static int compile(struct pretokenizer *p, const char *pattern, struct error *err)
{
    int code;
    size_t offset;
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);

    if (!re)
        return error_set(err, STATUS_INTERNAL, "pre-tokenizer %s: PCRE2 error %d at offset %zu",
                         p->family->name, code, offset);
    /* Where no executable memory is to be had, the interpreter does the same, slower. */
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE);
    p->codes[p->count++] = re;
    return 0;
}

struct pretokenizer *pretokenizer_create(const char *name, size_t len, struct error *err)
{
    const struct family *family = find_family(name, len);
    struct pretokenizer *p;

    if (!family) {
        error_set(err, STATUS_UNSUPPORTED, "pre-tokenizer %.*s is not supported",
                  (int)(len < 64 ? len : 64), name);
        return NULL;
    }
    p = calloc(1, sizeof(*p));
    if (!p) {
        error_set(err, STATUS_NOMEM, "no memory for a pre-tokenizer");
        return NULL;
    }
    p->family = family;
    for (size_t i = 0; i < PATTERNS_MAX && family->patterns[i]; i++)
        if (compile(p, family->patterns[i], err)) {
            pretokenizer_destroy(p);
            return NULL;
        }
    return p;
}

void pretokenizer_destroy(struct pretokenizer *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->count; i++)
        pcre2_code_free(p->codes[i]);
    free(p);
}

int pretokenizer_ignores_merges(const struct pretokenizer *p)
{
    return p->family->ignores_merges;
}

int pretokenizer_wants_bos(const struct pretokenizer *p)
{
    return p->family->wants_bos;
}

struct splitter {
    const struct pretokenizer *p;
    pcre2_match_data *match;
    piece_f *piece;
    void *arg;
};

/* Apply the patterns from number `level` on.  The piece is a subject of its own: a look-ahead ends
 * with it. */
static int split(const struct splitter *s, size_t level, const char *text, size_t len,
                 struct error *err)
{
    size_t at = 0;

    if (len == 0)
        return 0;
    if (level == s->p->count)
        return s->piece(s->arg, text, len, err);
    while (at < len) {
        size_t start = len, end = len;
        int found = pcre2_match(s->p->codes[level], (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK,
                                s->match, NULL);

        if (found >= 0) {
            const size_t *range = pcre2_get_ovector_pointer(s->match);

            start = range[0];
            end = range[1];
        } else if (found != PCRE2_ERROR_NOMATCH) {
            return error_set(err, STATUS_INVALID, "the text cannot be split: PCRE2 error %d",
                             found);
        }
        if (found >= 0 && end <= start)
            return error_set(err, STATUS_INTERNAL, "pre-tokenizer %s: an empty match",
                             s->p->family->name);
        if (split(s, level + 1, text + at, start - at, err) ||
            split(s, level + 1, text + start, end - start, err))
            return -1;
        at = end;
    }
    return 0;
}

int pretokenizer_split(const struct pretokenizer *p, const char *text, size_t len, piece_f *piece,
                       void *arg, struct error *err)
{
    struct splitter s = {p, pcre2_match_data_create(1, NULL), piece, arg};
    int rv;

    if (!s.match)
        return error_set(err, STATUS_NOMEM, "no memory to split a text");
    rv = split(&s, 0, text, len, err);
    pcre2_match_data_free(s.match);
    return rv;
}
