/*
 * vocabularies_test.c - real vocabularies against their own implementations: 5,000 texts each
 *
 * tests/golden/vocabularies/ has the hashes of what those make of the texts (remake.py, which says
 * how they are made), and fetch, which gets the vocabularies.  They are looked for in the folder
 * that MODELPOOL_TEST_VOCABULARIES names; SmolLM2's and Gemma 3's are those of the models that
 * MODELPOOL_TEST_MODEL and MODELPOOL_TEST_GEMMA name.
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/bytes.h"
#include "model/tokenizer.h"

#define FOLDER    SRCDIR "/tests/golden/vocabularies/"
#define COUNT     5000u
#define DIGITS    6u
#define PATH_ROOM 1024

/* ---- the texts: remake.py's texts() ------------------------------------------------------------
 */

/* splitmix64 (Steele 2014) */
static uint64_t below(uint64_t *state, uint64_t n)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % n;
}

static void append(struct bytes *b, const char *text, size_t len)
{
    assert_int_equal(bytes_append(b, text, len, NULL), 0);
}

static void append_item(struct bytes *b, const json_t *item, uint64_t times)
{
    assert_true(json_is_string(item));
    while (times-- > 0)
        append(b, json_string_value(item), json_string_length(item));
}

static const json_t *pick(const json_t *parts, const char *name, uint64_t *state)
{
    const json_t *list = json_object_get(parts, name);

    assert_true(json_array_size(list) > 0);
    return json_array_get(list, below(state, json_array_size(list)));
}

static void append_code(struct bytes *b, uint64_t *state, uint64_t low, uint64_t high)
{
    uint32_t c = (uint32_t)(low + below(state, high - low + 1));
    char text[4];
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

    if (c >= 0xd800 && c <= 0xdfff)
        c = 0xfffd;
    if (n == 1)
        text[0] = (char)c;
    for (size_t i = n - 1; n > 1 && i > 0; i--, c >>= 6)
        text[i] = (char)(0x80 | (c & 0x3f));
    if (n > 1)
        text[0] = (char)((0xf00u >> n & 0xf0) | c);
    append(b, text, n);
}

static void append_part(struct bytes *b, const json_t *parts, const json_t *added, uint64_t kind,
                        uint64_t *state)
{
    const json_t *item;
    uint64_t n, range[2];
    char number[24];

    switch (kind) {
    case 0:
        append_item(b, pick(parts, "words", state), 1);
        append_item(b, pick(parts, "separators", state), 1);
        break;
    case 1:
        item = pick(parts, "ranges", state);
        for (size_t i = 0; i < 2; i++)
            range[i] = (uint64_t)json_integer_value(json_array_get(item, i));
        for (n = 1 + below(state, 6); n > 0; n--)
            append_code(b, state, range[0], range[1]);
        break;
    case 2:
        range[0] = 10;
        for (n = below(state, 14); n > 0; n--)
            range[0] *= 10;
        snprintf(number, sizeof(number), "%llu", (unsigned long long)below(state, range[0]));
        append(b, number, strlen(number));
        append_item(b, pick(parts, "separators", state), 1);
        break;
    case 3:
        item = pick(parts, "spaces", state);
        append_item(b, item, 1 + below(state, 4));
        append_item(b, pick(parts, "tails", state), 1);
        break;
    case 4:
        if (json_array_size(added) > 0 && below(state, 2))
            append_item(b, json_array_get(added, below(state, json_array_size(added))), 1);
        else
            append_item(b, pick(parts, "words", state), 1);
        break;
    case 5:
        append_item(b, pick(parts, "sentences", state), 1);
        break;
    default:
        append_code(b, state, 1, 0x10ffff);
    }
}

static void make_text(struct bytes *b, const json_t *parts, const json_t *added, uint64_t number)
{
    uint64_t state = number, kind = below(&state, 8);

    b->len = 0;
    for (uint64_t n = 1 + below(&state, 16); n > 0; n--)
        append_part(b, parts, added, kind == 7 ? below(&state, 7) : kind, &state);
}

/* ---- hashes ------------------------------------------------------------------------------------
 */

static uint32_t fnv32(uint32_t h, const void *data, size_t len)
{
    const unsigned char *c = data;

    for (size_t i = 0; i < len; i++)
        h = (h ^ c[i]) * 0x01000193u;
    return h;
}

static uint64_t fnv64(uint64_t h, const void *data, size_t len)
{
    const unsigned char *c = data;

    for (size_t i = 0; i < len; i++)
        h = (h ^ c[i]) * 0x100000001b3u;
    return h;
}

static unsigned hash_tokens(const struct token_list *list)
{
    uint32_t h = 0x811c9dc5u;

    for (size_t i = 0; i < list->count; i++)
        for (unsigned k = 0; k < 4; k++) {
            unsigned char byte = (unsigned char)(list->tokens[i] >> (8 * k));
            h = fnv32(h, &byte, 1);
        }
    return (h ^ h >> 16) & 0xffff;
}

static unsigned hash_decoded(const struct tokenizer *t, const struct token_list *list)
{
    struct detokenizer d = {.pending_len = 0};
    size_t room = tokenizer_bytes_max(t) + 8;
    char *out = malloc(room);
    uint32_t h = 0x811c9dc5u;

    assert_non_null(out);
    for (size_t i = 0; i < list->count; i++)
        h = fnv32(h, out, detokenizer_push(&d, t, list->tokens[i], out, room));
    h = fnv32(h, out, detokenizer_flush(&d, out, room));
    free(out);
    return (h ^ h >> 8 ^ h >> 16 ^ h >> 24) & 0xff;
}

/* ---- a vocabulary ------------------------------------------------------------------------------
 */

struct digest {
    json_t *head;
    char *digits; /* COUNT * DIGITS of them */
};

static void read_digest(struct digest *d, const char *name)
{
    char path[512], *line = NULL;
    size_t room = 0, count = 0;
    ssize_t len;
    FILE *f;

    snprintf(path, sizeof(path), FOLDER "%s.digest", name);
    f = fopen(path, "re");
    if (!f)
        fail_msg("%s cannot be opened", path);
    len = getline(&line, &room, f);
    d->head = len > 0 ? json_loadb(line, (size_t)len, 0, NULL) : NULL;
    d->digits = malloc(COUNT * DIGITS);
    assert_non_null(d->head);
    assert_non_null(d->digits);
    while ((len = getline(&line, &room, f)) > 1) {
        assert_true(count + (size_t)len - 1 <= COUNT * DIGITS);
        memcpy(d->digits + count, line, (size_t)len - 1);
        count += (size_t)len - 1;
    }
    assert_int_equal(count, COUNT * DIGITS);
    free(line);
    fclose(f);
}

static void fail_text(const char *name, const struct tokenizer *t, unsigned number,
                      const struct bytes *text, const struct token_list *list)
{
    print_message("%s: text %u: %.*s\n", name, number, (int)text->len, text->data);
    for (size_t i = 0; i < list->count; i++)
        print_message("%u <%s> ", list->tokens[i], tokenizer_text(t, list->tokens[i]));
    fail_msg("%s: text %u: its tokens, or what they decode to, are not the golden ones", name,
             number);
}

static void check_texts(const char *name, const struct tokenizer *t, const struct digest *d)
{
    json_t *parts = json_load_file(FOLDER "fragments.json", 0, NULL);
    const json_t *added = json_object_get(d->head, "added");
    int special = json_is_true(json_object_get(d->head, "special"));
    struct token_list list = {NULL, 0, 0};
    struct bytes text = {NULL, 0, 0};
    uint64_t all = 0xcbf29ce484222325u;
    struct error err = {.text = ""};
    char hex[17];

    assert_non_null(parts);
    for (unsigned i = 0; i < COUNT; i++) {
        make_text(&text, parts, added, i);
        all = fnv64(fnv64(all, text.data, text.len), "", 1);
        list.count = 0;
        if (tokenizer_encode(t, text.data, text.len,
                             special && i % 2 == 0 ? TOKENIZER_PARSE_SPECIAL : 0, &list, &err))
            fail_msg("%s: text %u: %s", name, i, err.text);
        snprintf(hex, sizeof(hex), "%04x%02x", hash_tokens(&list), hash_decoded(t, &list));
        if (memcmp(hex, d->digits + (size_t)i * DIGITS, DIGITS) != 0)
            fail_text(name, t, i, &text, &list);
    }
    snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)all);
    assert_string_equal(hex, json_string_value(json_object_get(d->head, "texts")));
    free(list.tokens);
    bytes_free(&text);
    json_decref(parts);
}

/* path: where it may be; wanted: what to do where it is not. */
static void check_vocabulary(const char *name, const char *path, const char *wanted)
{
    struct error err = {.text = ""};
    struct tokenizer *t;
    struct source *s;
    struct digest d;

    if (access(path, R_OK) != 0) {
        print_message("%s: no vocabulary: %s\n", name, wanted);
        skip();
    }
    s = source_open(path, &err);
    t = s ? tokenizer_create(s, &err) : NULL;
    if (!t)
        fail_msg("%s", err.text);
    source_close(s);
    read_digest(&d, name);
    check_texts(name, t, &d);
    tokenizer_destroy(t);
    json_decref(d.head);
    free(d.digits);
}

struct vocabulary_of {
    const char *name, *file;
};

static void path_of(const char *file, char path[PATH_ROOM])
{
    const char *folder = getenv("MODELPOOL_TEST_VOCABULARIES");

    snprintf(path, PATH_ROOM, "%s/%s", folder && *folder ? folder : "/nonexistent", file);
}

static void test_vocabulary(void **state)
{
    const struct vocabulary_of *v = *state;
    char path[PATH_ROOM];

    path_of(v->file, path);
    check_vocabulary(v->name, path,
                     "tests/golden/vocabularies/fetch FOLDER gets it; then "
                     "MODELPOOL_TEST_VOCABULARIES=FOLDER");
}

static void test_smollm2(void **state)
{
    const char *path = getenv("MODELPOOL_TEST_MODEL");

    (void)state;
    check_vocabulary("smollm2", path ? path : "",
                     "./quickstart build fetches the model; then "
                     "MODELPOOL_TEST_MODEL=FILE");
}

static void test_gemma3(void **state)
{
    const char *path = getenv("MODELPOOL_TEST_GEMMA");

    (void)state;
    check_vocabulary("gemma3", path ? path : "",
                     "./quickstart demo fetches the model; then "
                     "MODELPOOL_TEST_GEMMA=FILE");
}

#define VOCABULARY(name, file)                                                                     \
    {                                                                                              \
        "test_" name, test_vocabulary, NULL, NULL, &(struct vocabulary_of)                         \
        {                                                                                          \
            name, file                                                                             \
        }                                                                                          \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        VOCABULARY("gpt2", "gpt2"),         VOCABULARY("llama3", "llama3"),
        VOCABULARY("llama4", "llama4"),     VOCABULARY("qwen2", "qwen2"),
        VOCABULARY("deepseek", "deepseek"), VOCABULARY("tekken", "tekken"),
        VOCABULARY("mistral1", "mistral1"), VOCABULARY("mistral3", "mistral3"),
        cmocka_unit_test(test_smollm2),     cmocka_unit_test(test_gemma3),
    };
    const struct CMUnitTest more[] = {
        VOCABULARY("llama2", "llama2.gguf"),
        VOCABULARY("refact", "refact.gguf"),
        VOCABULARY("starcoder", "starcoder.gguf"),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char path[PATH_ROOM];

    /* Of fetch --all, who asked for it: the same kinds as others, in GGUF files. */
    path_of("llama2.gguf", path);
    if (access(path, R_OK) == 0)
        failed += cmocka_run_group_tests(more, NULL, NULL);
    return failed;
}
