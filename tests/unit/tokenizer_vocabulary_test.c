/*
 * tokenizer_vocabulary_test.c - checkpoints without tokenizer.json: ranks, tekken.json and
 * SentencePiece's own files.  Real ones are for vocabularies_test.c.
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

#include "model/bytes.h"
#include "model/tokenizer.h"
#include "tests/unit/checkpoint_folder.h"

#define FAMILIES SRCDIR "/tests/golden/model/families/"

/* A checkpoint of that model_type without tensors. */
static void start(struct checkpoint *c, const char *model_type)
{
    char config[128];

    checkpoint_start(c);
    snprintf(config, sizeof(config), "{\"model_type\": \"%s\"}", model_type);
    checkpoint_text(c, "config.json", config);
    checkpoint_tensors(c, "model.safetensors", "{}", 0);
}

static struct tokenizer *create(const struct checkpoint *c, struct error *err)
{
    struct source *s = source_open(c->folder, err);
    struct tokenizer *t = s ? tokenizer_create(s, err) : NULL;

    source_close(s);
    return t;
}

static struct tokenizer *must_create(const struct checkpoint *c)
{
    struct error err = {.text = ""};
    struct tokenizer *t = create(c, &err);

    if (!t)
        fail_msg("%s", err.text);
    return t;
}

/* It is refused, with these words. */
static void refused(const struct checkpoint *c, enum status status, const char *words)
{
    struct error err = {.text = ""};
    struct tokenizer *t = create(c, &err);

    assert_null(t);
    if (!strstr(err.text, words))
        fail_msg("\"%s\" does not say \"%s\"", err.text, words);
    assert_int_equal(err.status, status);
}

static void append(struct bytes *b, const void *data, size_t len)
{
    assert_int_equal(bytes_append(b, data, len, NULL), 0);
}

static void put_base64(struct bytes *b, const unsigned char *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t at = 0; at < len; at += 3) {
        size_t n = len - at < 3 ? len - at : 3;
        uint32_t bits = (uint32_t)data[at] << 16 | (n > 1 ? (uint32_t)data[at + 1] << 8 : 0) |
                        (n > 2 ? data[at + 2] : 0);

        for (unsigned i = 0; i < 4; i++)
            append(b, i <= n ? &digits[bits >> (18 - 6 * i) & 63] : "=", 1);
    }
}

/* What merges: by rank, "cd" before "bc" before "ab"; "xyz" is a token that nothing merges into. */
static const char *const merged[] = {"cd", "bc", "ab", "abc", "xyz", " a"};
#define MERGED (sizeof(merged) / sizeof(merged[0]))

static void put_line(struct bytes *b, const unsigned char *data, size_t len, unsigned rank)
{
    char number[16];

    put_base64(b, data, len);
    snprintf(number, sizeof(number), " %u\n", rank);
    append(b, number, strlen(number));
}

/* 256 bytes, those that merge, and three control characters each up to `count`. */
static void put_ranks(struct bytes *b, unsigned count)
{
    for (unsigned i = 0; i < 256; i++) {
        unsigned char byte = (unsigned char)i;
        put_line(b, &byte, 1, i);
    }
    for (unsigned i = 0; i < MERGED; i++)
        put_line(b, (const unsigned char *)merged[i], strlen(merged[i]), 256 + i);
    for (unsigned i = 256 + MERGED; i < count; i++) {
        const unsigned char filler[4] = {1, (unsigned char)(i >> 16), (unsigned char)(i >> 8),
                                         (unsigned char)i};
        put_line(b, filler, sizeof(filler), i);
    }
}

static void write_bytes(const struct checkpoint *c, const char *name, struct bytes *b)
{
    checkpoint_write(c, name, b->data, b->len);
    bytes_free(b);
}

static void check(const struct tokenizer *t, const char *text, unsigned flags, size_t count,
                  const uint32_t *wanted)
{
    struct token_list list = {NULL, 0, 0};

    assert_int_equal(tokenizer_encode(t, text, strlen(text), flags, &list, NULL), 0);
    assert_int_equal(list.count, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(list.tokens[i], wanted[i]);
    free(list.tokens);
}

#define CHECK(t, text, flags, ...)                                                                 \
    check(t, text, flags, sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t),                    \
          (uint32_t[]){__VA_ARGS__})

/* Lowest rank first, the leftmost of equal ones; a piece that is a token is that token. */
static void check_merging(const struct tokenizer *t, unsigned first)
{
    CHECK(t, "abcd", 0, first + 258, first + 256);
    CHECK(t, "abc", 0, first + 259);
    CHECK(t, "abcbc", 0, first + 259, first + 257);
    CHECK(t, "xyz", 0, first + 260);
    CHECK(t, "wxyz", 0, first + 'w', first + 'x', first + 'y', first + 'z');
    CHECK(t, "b a", 0, first + 'b', first + 261);
    CHECK(t, "\xc3\xa9", 0, first + 0xc3, first + 0xa9);
}

static void test_llama3(void **state)
{
    struct bytes b = {NULL, 0, 0};
    struct checkpoint c;
    struct tokenizer *t;

    (void)state;
    start(&c, "llama");
    put_ranks(&b, 128000);
    write_bytes(&c, "tokenizer.model", &b);
    t = must_create(&c);
    check_merging(t, 0);
    assert_int_equal(tokenizer_vocabulary(t), 128256);
    assert_int_equal(tokenizer_bos(t), 128000);
    assert_int_equal(tokenizer_eos(t), 128001);
    assert_string_equal(tokenizer_text(t, 128009), "<|eot_id|>");
    assert_string_equal(tokenizer_text(t, 128012), "<|reserved_special_token_2|>");
    assert_string_equal(tokenizer_text(t, 128255), "<|reserved_special_token_245|>");
    CHECK(t, "<|eot_id|>", TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS, 128000, 128009);
    tokenizer_destroy(t);

    /* tokenizer_config.json has the last word. */
    checkpoint_text(&c, "tokenizer_config.json",
                    "{\"eos_token\": \"<|end|>\", \"add_bos_token\": false,"
                    " \"added_tokens_decoder\": {\"128009\": {\"content\": \"<|end|>\","
                    " \"special\": true}, \"128300\": {\"content\": \"<tool>\"}}}");
    t = must_create(&c);
    assert_int_equal(tokenizer_eos(t), 128009);
    assert_int_equal(tokenizer_vocabulary(t), 128301);
    CHECK(t, "<|end|><tool>", TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS, 128009, 128300);
    tokenizer_destroy(t);
    checkpoint_text(&c, "tokenizer_config.json", "{\"added_tokens_decoder\": {\"x\": {}}}");
    refused(&c, STATUS_INVALID, "added token x is none");
    checkpoint_text(&c, "tokenizer_config.json",
                    "{\"added_tokens_decoder\": {\"5\": "
                    "{\"content\": \"<|end|>\"}}}");
    refused(&c, STATUS_CORRUPT, "number 5 is that of two tokens");
    checkpoint_text(&c, "tokenizer_config.json",
                    "{\"added_tokens_decoder\": {\"-1\": "
                    "{\"content\": \"<|end|>\"}}}");
    refused(&c, STATUS_CORRUPT, "has no number");
    checkpoint_remove(&c);
}

static void test_qwen(void **state)
{
    struct bytes b = {NULL, 0, 0};
    struct checkpoint c;
    struct tokenizer *t;

    (void)state;
    start(&c, "qwen2");
    put_ranks(&b, 151643);
    write_bytes(&c, "qwen.tiktoken", &b);
    t = must_create(&c);
    check_merging(t, 0);
    assert_int_equal(tokenizer_vocabulary(t), 151646);
    assert_int_equal(tokenizer_bos(t), -1);
    assert_int_equal(tokenizer_eos(t), 151643);
    CHECK(t, "<|im_end|>1", TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS, 151645, '1');
    CHECK(t, "e\xcc\x81", 0, 0xc3, 0xa9); /* normalized */
    tokenizer_destroy(t);
    checkpoint_text(&c, "config.json", "{\"model_type\": \"gemma2\"}");
    refused(&c, STATUS_UNSUPPORTED, "model_type \"gemma2\" are not known; fetch tokenizer.json");
    checkpoint_text(&c, "other.tiktoken", "IQ== 0\n");
    refused(&c, STATUS_INVALID, "has several .tiktoken files");
    checkpoint_remove(&c);
}

static void test_broken_ranks(void **state)
{
    static const struct {
        const char *text, *words;
    } broken[] = {
        {"", "0 ranks and model_type"},
        {"IQ== 0\n\r\nIg== 1", "2 ranks and model_type"},
        {"IQ== 0\nIg==\n", "line 2: a line is no token"},
        {"IQ== \n", "a line is no token"},
        {"IQ== 12345678\n", "a line is no token"},
        {"IQ== 9999999\n", "rank 9999999 is not in"},
        {"IQ== 1x\n", "a rank is no number"},
        {"IQ== 0\nIg== 0\n", "rank 0 is that of two tokens"},
        {" 0\n", "is no base64"},
        {"==== 0\n", "is no base64"},
        {"IQ= 0\n", "is no base64"},
        {"I=== 0\n", "is no base64"},
        {"I*== 0\n", "is no base64"},
        {"IQ==IQ== 0\n", "is no base64"},
        {"{", "no JSON in line 1"},
        {"{}", "pattern"},
        {"\n", "is no SentencePiece model"},
    };
    struct checkpoint c;

    (void)state;
    start(&c, "llama");
    refused(&c, STATUS_NOT_FOUND, "there is no tokenizer.json");
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        struct error err = {.text = ""};

        checkpoint_text(&c, "tokenizer.model", broken[i].text);
        assert_null(create(&c, &err));
        if (!strstr(err.text, broken[i].words))
            fail_msg("\"%s\" does not say \"%s\"", err.text, broken[i].words);
        if (!strstr(err.text, "tokenizer.model: "))
            fail_msg("\"%s\" does not name the file", err.text);
    }
    checkpoint_remove(&c);
}

/* ---- tekken.json -------------------------------------------------------------------------------
 */

static void put_text(struct bytes *b, const char *text)
{
    append(b, text, strlen(text));
}

/* `special` goes behind the vocabulary; size counts ten special tokens. */
static void write_tekken(const struct checkpoint *c, unsigned size, unsigned special_count,
                         const char *special)
{
    struct bytes b = {NULL, 0, 0};
    char text[256];

    snprintf(text, sizeof(text),
             "{\"config\": {\"pattern\": \" ?\\\\p{L}+|\\\\s+|.\", \"default_vocab_size\": %u, "
             "\"default_num_special_tokens\": %u}, \"vocab\": [",
             size, special_count);
    put_text(&b, text);
    for (unsigned i = 0; i < 256 + MERGED; i++) {
        unsigned char byte = (unsigned char)i;

        put_text(&b, i ? ",{\"token_bytes\": \"" : "{\"token_bytes\": \"");
        if (i < 256)
            put_base64(&b, &byte, 1);
        else
            put_base64(&b, (const unsigned char *)merged[i - 256], strlen(merged[i - 256]));
        snprintf(text, sizeof(text), "\", \"rank\": %u, \"token_str\": \"\\u0000\"}", i);
        put_text(&b, text);
    }
    put_text(&b, "]");
    put_text(&b, special);
    put_text(&b, "}");
    write_bytes(c, "tekken.json", &b);
}

static void test_tekken(void **state)
{
    struct checkpoint c;
    struct tokenizer *t;

    (void)state;
    start(&c, "mistral");
    write_tekken(&c, 25 + 256 + MERGED, 25, "");
    t = must_create(&c);
    check_merging(t, 25);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_int_equal(tokenizer_unk(t), 0);
    assert_int_equal(tokenizer_pad(t), 11);
    assert_string_equal(tokenizer_text(t, 24), "<SPECIAL_24>");
    CHECK(t, "[INST]", TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS, 1, 3);
    tokenizer_destroy(t);

    /* Ranks beyond the size are not part of it; the file's own special tokens. */
    write_tekken(
        &c, 3 + 256 + MERGED - 1, 3,
        ", \"special_tokens\": [{\"rank\": 0, \"token_str\": \"<s>\", \"is_control\": true},"
        "{\"rank\": 1, \"token_str\": \"</s>\", \"is_control\": true}]");
    t = must_create(&c);
    assert_int_equal(tokenizer_vocabulary(t), 3 + 256 + MERGED - 1);
    assert_int_equal(tokenizer_bos(t), 0);
    CHECK(t, " a", 0, 3 + ' ', 3 + 'a');
    CHECK(t, "abcd", 0, 3 + 258, 3 + 256);
    tokenizer_destroy(t);

    write_tekken(&c, 19 + 256, 19, "");
    refused(&c, STATUS_CORRUPT, "20 special tokens of 19");
    write_tekken(&c, 2000, 20, "");
    refused(&c, STATUS_CORRUPT, "\"vocab\" is no list of 1980 tokens");
    write_tekken(&c, 10, 20, "");
    refused(&c, STATUS_CORRUPT, "more special tokens than tokens");
    write_tekken(&c, 256, 2, ", \"special_tokens\": [{\"rank\": 7, \"token_str\": \"<s>\"}]");
    refused(&c, STATUS_CORRUPT, "special token 0");
    checkpoint_remove(&c);
}

/* tokenizer.json goes before the others. */
static void test_order(void **state)
{
    struct source_files files;
    struct checkpoint c;

    (void)state;
    start(&c, "llama");
    checkpoint_text(&c, "tokenizer.model", "IQ== 0\n");
    assert_int_equal(source_files_open(c.folder, &files, NULL), 0);
    assert_int_equal(files.count, 3);
    source_files_for_engine(&files);
    assert_int_equal(files.count, 2);
    source_files_close(&files);
    checkpoint_text(&c, "tokenizer.json", "{}");
    assert_int_equal(source_files_open(c.folder, &files, NULL), 0);
    assert_int_equal(files.count, 3);
    for (uint32_t i = 0; i < files.count; i++)
        assert_int_not_equal(files.files[i].kind, SOURCE_VOCABULARY);
    source_files_close(&files);
    checkpoint_remove(&c);
}

/* ---- SentencePiece's file: a message of Protocol Buffers ---------------------------------------
 */

static void put_varint(struct bytes *b, uint64_t value)
{
    do {
        unsigned char byte = (unsigned char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        append(b, &byte, 1);
    } while (value >>= 7);
}

static void put_number(struct bytes *b, unsigned field, uint64_t value)
{
    put_varint(b, field << 3);
    put_varint(b, value);
}

static void put_message(struct bytes *b, unsigned field, const void *data, size_t len)
{
    put_varint(b, field << 3 | 2);
    put_varint(b, len);
    append(b, data, len);
}

static void put_pieces(struct bytes *b, const json_t *pieces)
{
    const json_t *piece;
    size_t i;

    json_array_foreach((json_t *)pieces, i, piece)
    {
        const json_t *text = json_array_get(piece, 0);
        float score = (float)json_number_value(json_array_get(piece, 1));
        struct bytes m = {NULL, 0, 0};

        put_message(&m, 1, json_string_value(text), json_string_length(text));
        put_varint(&m, 2 << 3 | 5);
        append(&m, &score, sizeof(score));
        put_number(&m, 3, (uint64_t)json_integer_value(json_array_get(piece, 2)));
        put_message(b, 1, m.data, m.len);
        bytes_free(&m);
    }
}

struct settings {
    unsigned type, table, prefix, removes, escapes, suffix;
};

static void write_model(const struct checkpoint *c, const json_t *pieces, struct settings s)
{
    struct bytes b = {NULL, 0, 0}, trainer = {NULL, 0, 0}, normalizer = {NULL, 0, 0};

    put_pieces(&b, pieces);
    put_number(&trainer, 3, s.type);
    put_number(&trainer, 24, s.suffix);
    put_number(&trainer, 35, 1);
    put_number(&trainer, 43, (uint64_t)-1);
    put_message(&trainer, 99, "unknown", 7);
    put_message(&b, 2, trainer.data, trainer.len);
    put_message(&normalizer, 2, "table", s.table);
    put_number(&normalizer, 3, s.prefix);
    put_number(&normalizer, 4, s.removes);
    put_number(&normalizer, 5, s.escapes);
    put_message(&b, 3, normalizer.data, normalizer.len);
    bytes_free(&trainer);
    bytes_free(&normalizer);
    write_bytes(c, "tokenizer.model", &b);
}

/* The golden file's head, and its other lines as a list. */
static json_t *read_golden(const char *name, json_t **rows)
{
    char path[1024], *line = NULL;
    size_t room = 0;
    ssize_t len;
    json_t *head = NULL;
    FILE *f;

    snprintf(path, sizeof(path), FAMILIES "%s.jsonl", name);
    f = fopen(path, "re");
    if (!f)
        fail_msg("%s cannot be opened", path);
    *rows = json_array();
    while ((len = getline(&line, &room, f)) > 0) {
        json_t *row = json_loadb(line, (size_t)len, 0, NULL);

        assert_non_null(row);
        if (head)
            json_array_append_new(*rows, row);
        else
            head = row;
    }
    free(line);
    fclose(f);
    return head;
}

static void check_rows(const struct tokenizer *t, const json_t *rows)
{
    const json_t *row;
    size_t i;

    assert_true(json_array_size(rows) >= 100);
    json_array_foreach((json_t *)rows, i, row)
    {
        const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, "ids");
        uint32_t *wanted = calloc(json_array_size(ids) + 1, sizeof(*wanted));

        assert_non_null(wanted);
        for (size_t k = 0; k < json_array_size(ids); k++)
            wanted[k] = (uint32_t)json_integer_value(json_array_get(ids, k));
        check(t, json_string_value(text), 0, json_array_size(ids), wanted);
        free(wanted);
    }
}

static void test_sentencepiece(void **state)
{
    static const char *const names[] = {"sentencepiece_plain", "sentencepiece_prefix"};

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        json_t *rows, *head = read_golden(names[i], &rows),
                      *pieces = json_object_get(head, "pieces");
        struct checkpoint c;
        struct tokenizer *t;

        start(&c, "llama");
        write_model(&c, pieces, (struct settings){2, 0, i, 0, 1, 0});
        t = must_create(&c);
        check_rows(t, rows);
        assert_int_equal(tokenizer_bos(t), 1);
        assert_int_equal(tokenizer_eos(t), 2);
        assert_int_equal(tokenizer_unk(t), 0);
        assert_int_equal(tokenizer_pad(t), -1);
        CHECK(t, "", TOKENIZER_ADD_BOS, 1);
        tokenizer_destroy(t);
        checkpoint_remove(&c);
        json_decref(head);
        json_decref(rows);
    }
}

static void test_refused_models(void **state)
{
    static const struct {
        struct settings settings;
        const char *words;
    } refusals[] = {
        {{1, 0, 1, 0, 1, 0}, "other than BPE"},
        {{2, 5, 1, 0, 1, 0}, "by a precompiled table"},
        {{2, 0, 1, 1, 1, 0}, "removing extra white space"},
        {{2, 0, 1, 0, 0, 0}, "unescaped white space"},
        {{2, 0, 1, 0, 1, 1}, "white space as suffix"},
    };
    static const char *const broken[] = {"\n\x7f", "\n\x03\x0a\x01", "\n\x02\x18\x01", "\n\x80\x80",
                                         "\n\x05\x0a\x01\x61\x18\x09"};
    json_t *rows, *head = read_golden("sentencepiece_plain", &rows);
    char text[1026] = "";
    struct checkpoint c;

    (void)state;
    start(&c, "llama");
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        write_model(&c, json_object_get(head, "pieces"), refusals[i].settings);
        refused(&c, STATUS_UNSUPPORTED, refusals[i].words);
    }
    memset(text, 'x', sizeof(text) - 1);
    json_array_append_new(json_object_get(head, "pieces"), json_pack("[s, f, i]", text, -1.0, 1));
    write_model(&c, json_object_get(head, "pieces"), (struct settings){2, 0, 1, 0, 1, 0});
    refused(&c, STATUS_UNSUPPORTED, "is longer than 1024");
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        checkpoint_text(&c, "tokenizer.model", broken[i]);
        assert_null(create(&c, NULL));
    }
    checkpoint_remove(&c);
    json_decref(head);
    json_decref(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama3),         cmocka_unit_test(test_qwen),
        cmocka_unit_test(test_broken_ranks),   cmocka_unit_test(test_tekken),
        cmocka_unit_test(test_order),          cmocka_unit_test(test_sentencepiece),
        cmocka_unit_test(test_refused_models),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
