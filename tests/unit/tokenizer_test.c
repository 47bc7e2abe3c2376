/* tokenizer_test.c - tokens against Hugging Face tokenizers (tests/golden/model/remake.py) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/pretokenizer.h"
#include "model/tokenizer.h"
#include "model/utf8.h"
#include "tests/unit/gguf_builder.h"

#define GOLDEN       SRCDIR "/tests/golden/model/tokenizer.jsonl"
#define GOLDEN_COUNT 500

struct golden {
    json_t *head;
    json_t *rows[GOLDEN_COUNT];
};

static int read_golden(void **state)
{
    struct golden *golden = calloc(1, sizeof(*golden));
    FILE *f = fopen(GOLDEN, "r");
    char *line = NULL;
    size_t room = 0, count = 0;
    ssize_t len;

    assert_non_null(golden);
    assert_non_null(f);
    while ((len = getline(&line, &room, f)) > 0) {
        json_t *row = json_loadb(line, (size_t)len, JSON_ALLOW_NUL, NULL);

        assert_non_null(row);
        assert_true(count <= GOLDEN_COUNT);
        if (count == 0)
            golden->head = row;
        else
            golden->rows[count - 1] = row;
        count++;
    }
    assert_int_equal(count, GOLDEN_COUNT + 1);
    free(line);
    fclose(f);
    *state = golden;
    return 0;
}

static int free_golden(void **state)
{
    struct golden *golden = *state;

    for (size_t i = 0; i < GOLDEN_COUNT; i++)
        json_decref(golden->rows[i]);
    json_decref(golden->head);
    free(golden);
    return 0;
}

static const char *text_of(const json_t *row, size_t *len)
{
    *len = json_string_length(json_object_get(row, "text"));
    return json_string_value(json_object_get(row, "text"));
}

/* The model that the test was given; skips the test without one. */
static struct gguf *open_model(void)
{
    const char *path = getenv("MODELPOOL_TEST_MODEL");
    struct error err = {.text = ""};
    struct gguf *g;

    if (!path) {
        print_message("MODELPOOL_TEST_MODEL is not set\n");
        skip();
    }
    g = gguf_open(path, &err);
    if (!g)
        fail_msg("%s", err.text);
    return g;
}

static struct tokenizer *create(const struct gguf *g)
{
    struct error err = {.text = ""};
    struct source *source = source_from_gguf(g, &err);
    struct tokenizer *t = source ? tokenizer_create(source, &err) : NULL;

    if (!t)
        fail_msg("%s", err.text);
    source_close(source);
    return t;
}

static void check_ids(const struct tokenizer *t, const json_t *row, const char *member,
                      unsigned flags)
{
    const json_t *ids = json_object_get(row, member);
    struct token_list list = {NULL, 0, 0};
    struct error err = {.text = ""};
    size_t len;
    const char *text = text_of(row, &len);

    if (tokenizer_encode(t, text, len, flags, &list, &err))
        fail_msg("%s: %s", text, err.text);
    for (size_t i = 0; i < list.count && i < json_array_size(ids); i++)
        if (list.tokens[i] != json_integer_value(json_array_get(ids, i)))
            fail_msg("%s %s: token %zu is %u, not %lld", text, member, i, list.tokens[i],
                     (long long)json_integer_value(json_array_get(ids, i)));
    assert_int_equal(list.count, json_array_size(ids));
    free(list.tokens);
}

static void golden_tokens(void **state)
{
    struct golden *golden = *state;
    struct gguf *g = open_model();
    struct tokenizer *t = create(g);

    gguf_close(g); /* the tokenizer must not need it any more */
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        const json_t *row = golden->rows[i];

        check_ids(t, row, "ids", TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS);
        check_ids(t, row, json_object_get(row, "plain") ? "plain" : "ids", 0);
    }
    tokenizer_destroy(t);
}

/* Text comes back, and each part of it is whole characters. */
static void check_decoding(const struct tokenizer *t, const json_t *row)
{
    struct token_list list = {NULL, 0, 0};
    struct detokenizer d = {.pending_len = 0};
    size_t room = tokenizer_bytes_max(t) + 8, len, count = 0;
    const char *text = text_of(row, &len);
    char *part = malloc(room), *all = malloc(len * 4 + room);

    assert_non_null(part);
    assert_non_null(all);
    assert_int_equal(tokenizer_encode(t, text, len, 0, &list, NULL), 0);
    for (size_t i = 0; i < list.count; i++) {
        size_t n = detokenizer_push(&d, t, list.tokens[i], part, room);

        assert_int_equal(utf8_check(part, n), n);
        memcpy(all + count, part, n);
        count += n;
    }
    count += detokenizer_flush(&d, all + count, room);
    assert_int_equal(d.pending_len, 0);
    if (!json_is_true(json_object_get(row, "lost"))) {
        assert_int_equal(count, len);
        assert_memory_equal(all, text, len);
    }
    free(all);
    free(part);
    free(list.tokens);
}

static void golden_decoding(void **state)
{
    struct golden *golden = *state;
    struct gguf *g = open_model();
    struct tokenizer *t = create(g);

    for (size_t i = 0; i < GOLDEN_COUNT; i++)
        check_decoding(t, golden->rows[i]);
    tokenizer_destroy(t);
    gguf_close(g);
}

/* The vocabulary of the model, its first merges, and another pre-tokenizer. */
static void copy_vocabulary(struct builder *b, const struct gguf *g, uint64_t merges)
{
    struct gguf_string *strings;
    int64_t *types;
    uint64_t count;

    builder_start(b, 3);
    pair_string(b, "tokenizer.ggml.model", "gpt2");
    pair_string(b, "tokenizer.ggml.pre", "llama-bpe");
    pair_u32(b, "tokenizer.ggml.bos_token_id", 1);
    assert_int_equal(gguf_get_strings(g, "tokenizer.ggml.tokens", &strings, &count, NULL), 0);
    pair_array(b, "tokenizer.ggml.tokens", 8, count);
    for (uint64_t i = 0; i < count; i++)
        put_string(b, strings[i].data, strings[i].len);
    free(strings);
    assert_int_equal(gguf_get_i64s(g, "tokenizer.ggml.token_type", &types, &count, NULL), 0);
    pair_array(b, "tokenizer.ggml.token_type", 5, count);
    for (uint64_t i = 0; i < count; i++)
        put_u32(b, (uint32_t)types[i]);
    free(types);
    assert_int_equal(gguf_get_strings(g, "tokenizer.ggml.merges", &strings, &count, NULL), 0);
    assert_true(merges > 0 && merges < count);
    pair_array(b, "tokenizer.ggml.merges", 8, merges);
    for (uint64_t i = 0; i < merges; i++)
        put_string(b, strings[i].data, strings[i].len);
    free(strings);
    builder_finish(b, 1, 0);
}

static void golden_llama3(void **state)
{
    struct golden *golden = *state;
    struct gguf *g = open_model(), *other;
    struct token_list list = {NULL, 0, 0};
    struct error err = {.text = ""};
    struct tokenizer *t;
    struct builder b;

    copy_vocabulary(&b, g, (uint64_t)json_integer_value(json_object_get(golden->head, "merges3")));
    other = open_bytes(b.data, b.len, &err);
    if (!other)
        fail_msg("%s", err.text);
    t = create(other);
    for (size_t i = 0; i < GOLDEN_COUNT; i++)
        if (json_object_get(golden->rows[i], "ids3"))
            check_ids(t, golden->rows[i], "ids3", TOKENIZER_PARSE_SPECIAL);
    assert_int_equal(tokenizer_encode(t, "", 0, TOKENIZER_ADD_BOS, &list, NULL), 0);
    assert_int_equal(list.count, 1); /* this family begins with BOS unless the file says no */
    assert_int_equal(list.tokens[0], 1);
    free(list.tokens);
    tokenizer_destroy(t);
    gguf_close(other);
    gguf_close(g);
    builder_free(&b);
}

struct expected {
    const json_t *lengths;
    const char *text;
    size_t at, count;
};

static int check_piece(void *arg, const char *piece, size_t len, struct error *err)
{
    struct expected *e = arg;

    (void)err;
    if (piece != e->text + e->at ||
        (json_int_t)len != json_integer_value(json_array_get(e->lengths, e->count)))
        fail_msg("%s: piece %zu is %zu bytes at %zu, not %lld at %zu", e->text, e->count, len,
                 (size_t)(piece - e->text),
                 (long long)json_integer_value(json_array_get(e->lengths, e->count)), e->at);
    e->at += len;
    e->count++;
    return 0;
}

static void check_pieces(const struct golden *golden, const char *name, const char *member)
{
    struct pretokenizer *p = pretokenizer_create(NULL);
    struct regex_match *match = regex_match_create(NULL);
    struct pretokenizer_family family;
    size_t checked = 0;

    assert_non_null(p);
    assert_non_null(match);
    assert_int_equal(pretokenizer_add_family(p, name, strlen(name), &family, NULL), 0);
    assert_true(pretokenizer_is_byte_level(p));
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        struct expected e = {.lengths = json_object_get(golden->rows[i], member)};
        size_t len;

        e.text = text_of(golden->rows[i], &len);
        if (!e.lengths)
            continue;
        assert_int_equal(pretokenizer_split(p, match, e.text, len, 1, check_piece, &e, NULL), 0);
        assert_int_equal(e.count, json_array_size(e.lengths));
        checked++;
    }
    assert_true(checked >= 100);
    regex_match_destroy(match);
    pretokenizer_destroy(p);
}

static void golden_pieces(void **state)
{
    check_pieces(*state, "gpt-2", "gpt2");
    check_pieces(*state, "llama-bpe", "llama");
}

/* A vocabulary of bytes 'a', 'b', ' ', a few merges and added tokens. */
static void put_small(struct builder *b)
{
    static const char *const tokens[] = {"a",  "b",     "\xc4\xa0", "aa",      "aaaa",
                                         "ab", "<|x|>", "<|x|>y",   "<|x|>yz", "<u>"};
    static const char *const merges[] = {"a b", "a a", "aa aa"};
    static const uint32_t types[] = {1, 1, 1, 1, 1, 1, 3, 3, 3, 4};

    builder_start(b, 3);
    pair_string(b, "tokenizer.ggml.model", "gpt2");
    pair_string(b, "tokenizer.ggml.pre", "gpt-2");
    pair_u32(b, "tokenizer.ggml.bos_token_id", 6);
    pair_bool(b, "tokenizer.ggml.add_bos_token", 1);
    pair_array(b, "tokenizer.ggml.tokens", 8, 10);
    for (size_t i = 0; i < 10; i++)
        put_string(b, tokens[i], strlen(tokens[i]));
    pair_array(b, "tokenizer.ggml.token_type", 5, 10);
    for (size_t i = 0; i < 10; i++)
        put_u32(b, types[i]);
    pair_array(b, "tokenizer.ggml.merges", 8, 3);
    for (size_t i = 0; i < 3; i++)
        put_string(b, merges[i], strlen(merges[i]));
}

static struct tokenizer *create_small(void)
{
    struct error err = {.text = ""};
    struct tokenizer *t;
    struct builder b;
    struct gguf *g;

    put_small(&b);
    builder_finish(&b, 1, 0);
    g = open_bytes(b.data, b.len, &err);
    builder_free(&b);
    if (!g)
        fail_msg("%s", err.text);
    t = create(g);
    gguf_close(g);
    return t;
}

static void expect(const struct tokenizer *t, const char *text, unsigned flags, size_t count,
                   const uint32_t *tokens)
{
    struct token_list list = {NULL, 0, 0};

    assert_int_equal(tokenizer_encode(t, text, strlen(text), flags, &list, NULL), 0);
    assert_int_equal(list.count, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(list.tokens[i], tokens[i]);
    free(list.tokens);
}
#define EXPECT(t, text, flags, ...)                                                                \
    expect(t, text, flags, sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t),                   \
           (uint32_t[]){__VA_ARGS__})

static void small_vocabulary(void **state)
{
    struct tokenizer *t = create_small();
    const unsigned special = TOKENIZER_PARSE_SPECIAL;

    (void)state;
    EXPECT(t, "ab", 0, 5);
    EXPECT(t, "aaab", 0, 3, 5); /* "a b" ranks before "a a" */
    EXPECT(t, "aaaaaaa", 0, 4, 3, 0);
    EXPECT(t, "a b", TOKENIZER_ADD_BOS, 6, 0, 2, 1);
    EXPECT(t, "<|x|>", special, 6);
    EXPECT(t, "a<|x|>yza", special, 0, 8, 0); /* the longest */
    EXPECT(t, "<|x|>yb", special, 7, 1);
    EXPECT(t, "<|x<|x|>", special, 6); /* bytes without a token are left out */
    EXPECT(t, "b<u>a", 0, 1, 9, 0);    /* user-defined ones always are tokens */
    EXPECT(t, "a<|x|>a", 0, 0, 0);
    assert_int_equal(tokenizer_vocabulary(t), 10);
    assert_int_equal(tokenizer_bos(t), 6);
    assert_int_equal(tokenizer_eos(t), -1);
    assert_true(tokenizer_is_control(t, 7));
    assert_false(tokenizer_is_control(t, 9));
    assert_false(tokenizer_is_control(t, 10));
    assert_string_equal(tokenizer_text(t, 8), "<|x|>yz");
    assert_string_equal(tokenizer_text(t, 4000000000u), "");
    tokenizer_destroy(t);
}

static void refused_text(void **state)
{
    static const char *const bad[] = {
        "\xff", "a\xc3",    "\xc0\x80",        "\xed\xa0\x80", "\xf4\x90\x80\x80",
        "\x80", "\xe4\xb8", "\xf5\x80\x80\x80"};
    struct tokenizer *t = create_small();
    struct token_list list = {NULL, 0, 0};
    struct error err;

    (void)state;
    assert_int_equal(tokenizer_encode(t, "a", 1, 0, &list, NULL), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(tokenizer_encode(t, bad[i], strlen(bad[i]), 0, &list, &err), -1);
        assert_int_equal(err.status, STATUS_INVALID);
        assert_int_equal(list.count, 1);
    }
    assert_int_equal(tokenizer_encode(t, NULL, (size_t)1 << 40, 0, &list, &err), -1);
    assert_int_equal(err.status, STATUS_INVALID);
    free(list.tokens);
    tokenizer_destroy(t);
}

/* A megabyte of one word, of spaces, of added tokens' beginnings: no more than linear memory, and
 * far from quadratic time, which would take hours here. */
static void long_text(void **state)
{
    static const char *const units[] = {"a", " ", "ab", "<|x", "\n", "1", "a<|x|>y"};
    const size_t len = 1u << 20;
    struct tokenizer *t = create_small();
    char *text = malloc(len);

    (void)state;
    assert_non_null(text);
    for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++) {
        struct token_list list = {NULL, 0, 0};

        for (size_t i = 0; i < len; i++)
            text[i] = units[u][i % strlen(units[u])];
        text[len - 1] = 'b';
        assert_int_equal(tokenizer_encode(t, text, len, TOKENIZER_PARSE_SPECIAL, &list, NULL), 0);
        assert_true(list.count > 0 && list.tokens[list.count - 1] <= 5);
        if (u == 0)
            assert_int_equal(list.count, (len - 4) / 4 + 2); /* aaaa... aa ab */
        free(list.tokens);
    }
    free(text);
    tokenizer_destroy(t);
}

/* Tokens of single bytes 0x80.., to feed broken text. */
static struct tokenizer *create_bytes(uint32_t *first)
{
    struct tokenizer *t;
    struct builder b;
    struct gguf *g;

    builder_start(&b, 2);
    pair_string(&b, "tokenizer.ggml.model", "gpt2");
    pair_string(&b, "tokenizer.ggml.pre", "gpt-2");
    pair_array(&b, "tokenizer.ggml.merges", 8, 0);
    pair_array(&b, "tokenizer.ggml.tokens", 8, 0xff - 0xae + 1);
    for (unsigned byte = 0xae; byte <= 0xff; byte++) { /* letters of themselves, as Latin-1 */
        char letter[2] = {(char)(0xc0 | byte >> 6), (char)(0x80 | (byte & 0x3f))};

        put_string(&b, letter, 2);
    }
    builder_finish(&b, 1, 0);
    g = open_bytes(b.data, b.len, NULL);
    assert_non_null(g);
    t = create(g);
    gguf_close(g);
    builder_free(&b);
    *first = 0xae;
    return t;
}

static void broken_output(void **state)
{
    static const struct {
        const char *bytes, *text; /* bytes 0xae.. only */
    } cases[] = {
        {"\xc3\xb6", "\xc3\xb6"},
        {"\xb0", "\xef\xbf\xbd"},
        {"\xe4\xb8\xc3\xb6", "\xef\xbf\xbd\xc3\xb6"},
        {"\xf0\xbf\xbf\xf0\xbf\xbf\xbf", "\xef\xbf\xbd\xf0\xbf\xbf\xbf"},
        {"\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe4\xb8", "\xef\xbf\xbd"},
        {"\xed\xbf\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xc3\xc3\xb6", "\xef\xbf\xbd\xc3\xb6"},
    };
    uint32_t first;
    struct tokenizer *t = create_bytes(&first);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct detokenizer d = {.pending_len = 0};
        char out[64];
        size_t count = 0;

        for (const char *c = cases[i].bytes; *c; c++)
            count += detokenizer_push(&d, t, (uint32_t)(unsigned char)*c - first, out + count,
                                      sizeof(out) - count);
        count += detokenizer_flush(&d, out + count, sizeof(out) - count);
        assert_int_equal(count, strlen(cases[i].text));
        assert_memory_equal(out, cases[i].text, count);
    }
    tokenizer_destroy(t);
}

/* Every room, also too little: nothing is written behind it. */
static void short_room(void **state)
{
    uint32_t first;
    struct tokenizer *t = create_bytes(&first);

    (void)state;
    for (size_t room = 0; room <= 8; room++) {
        struct detokenizer d = {.pending_len = 0};
        char *out = malloc(room ? room : 1);

        assert_non_null(out);
        for (unsigned i = 0; i < 8; i++)
            assert_true(detokenizer_push(&d, t, 0xff - first, out, room) <= room);
        assert_true(detokenizer_push(&d, t, 0xf0 - first, out, room) <= room);
        assert_true(detokenizer_flush(&d, out, room) <= room);
        free(out);
    }
    tokenizer_destroy(t);
}

struct refusal {
    const char *key, *value; /* a string pair put instead of the good one */
    enum status status;
    const char *text; /* that the message must have */
};

static void refused_files(void **state)
{
    static const struct refusal refusals[] = {
        {"tokenizer.ggml.model", "t5", STATUS_UNSUPPORTED, "tokenizer t5"},
        {"tokenizer.ggml.pre", "viking", STATUS_UNSUPPORTED, "pre-tokenizer viking"},
        {"tokenizer.ggml.pre", "bad\nname", STATUS_UNSUPPORTED, "bad?name"},
        {"tokenizer.ggml.pre", NULL, STATUS_CORRUPT, "tokenizer.ggml.pre is missing"},
        {"tokenizer.ggml.tokens", "x", STATUS_CORRUPT, "tokenizer.ggml.tokens"},
        {"tokenizer.ggml.tokens", NULL, STATUS_CORRUPT, "tokenizer.ggml.tokens is missing"},
        {"tokenizer.ggml.merges", NULL, STATUS_CORRUPT, "tokenizer.ggml.merges is missing"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        const struct refusal *r = &refusals[i];
        static const char *const words[][2] = {{"tokenizer.ggml.model", "gpt2"},
                                               {"tokenizer.ggml.pre", "gpt-2"}};
        struct error err = {.text = ""};
        struct builder b;
        struct source *g;

        builder_start(&b, 3);
        for (size_t w = 0; w < 2; w++)
            if (strcmp(words[w][0], r->key) != 0)
                pair_string(&b, words[w][0], words[w][1]);
        if (r->value)
            pair_string(&b, r->key, r->value);
        if (strcmp(r->key, "tokenizer.ggml.tokens") != 0) {
            pair_array(&b, "tokenizer.ggml.tokens", 8, 1);
            put_string(&b, "a", 1);
        }
        builder_finish(&b, 1, 0);
        g = open_source(b.data, b.len, &err);
        assert_non_null(g);
        assert_null(tokenizer_create(g, &err));
        if (err.status != r->status || !strstr(err.text, r->text))
            fail_msg("%s: %s", r->key, err.text);
        source_close(g);
        builder_free(&b);
    }
}

/* Faults in the vocabulary itself. */
static void refused_vocabularies(void **state)
{
    static const struct {
        const char *tokens[3];
        uint32_t type;
        const char *merge, *text;
    } cases[] = {
        {{"a", "b", "a"}, 1, "a b", "tokens 0 and 2 have the same text"},
        {{"a", "b", "\xff"}, 1, "a b", "token 2 is no UTF-8"},
        {{"a", "b", "ab"}, 9, "a b", "token 0 is of type 9"},
        {{"a", "b", "ab"}, 6, "a b", "token 0 is a byte"},
        {{"a", "b", "ab"}, 1, "a c", "merge 0 (a c)"},
        {{"a", "b", "ab"}, 1, "ab", "merge 0 (ab )"},
        {{"a", "b", "ab"}, 1, " ab", "merge 0 ( ab)"},
        {{"a", "b", "ba"}, 1, "a b", "merge 0 (a b)"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct error err = {.text = ""};
        struct builder b;
        struct source *g;

        builder_start(&b, 3);
        pair_string(&b, "tokenizer.ggml.model", "gpt2");
        pair_string(&b, "tokenizer.ggml.pre", "gpt-2");
        pair_array(&b, "tokenizer.ggml.tokens", 8, 3);
        for (size_t k = 0; k < 3; k++)
            put_string(&b, cases[i].tokens[k], strlen(cases[i].tokens[k]));
        pair_array(&b, "tokenizer.ggml.token_type", 4, 3);
        for (size_t k = 0; k < 3; k++)
            put_u32(&b, cases[i].type);
        pair_array(&b, "tokenizer.ggml.merges", 8, 1);
        put_string(&b, cases[i].merge, strlen(cases[i].merge));
        builder_finish(&b, 1, 0);
        g = open_source(b.data, b.len, &err);
        assert_non_null(g);
        assert_null(tokenizer_create(g, &err));
        if (!strstr(err.text, cases[i].text))
            fail_msg("case %zu: %s", i, err.text);
        source_close(g);
        builder_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(golden_pieces, read_golden, free_golden),
        cmocka_unit_test_setup_teardown(golden_tokens, read_golden, free_golden),
        cmocka_unit_test_setup_teardown(golden_decoding, read_golden, free_golden),
        cmocka_unit_test_setup_teardown(golden_llama3, read_golden, free_golden),
        cmocka_unit_test(small_vocabulary),
        cmocka_unit_test(refused_text),
        cmocka_unit_test(long_text),
        cmocka_unit_test(broken_output),
        cmocka_unit_test(short_room),
        cmocka_unit_test(refused_files),
        cmocka_unit_test(refused_vocabularies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
