/*
 * tokenizer_family_test.c - tokens of the families' pipelines against Hugging Face tokenizers and
 * SentencePiece (tests/golden/model/families.py): from tokenizer.json, and from GGUF's keys
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"
#include "model/utf8.h"
#include "tests/unit/gguf_builder.h"

#ifndef FAMILIES
#define FAMILIES SRCDIR "/tests/golden/model/families/"
#endif

struct family {
    const char *name;
    json_t *head, *rows; /* rows: a list */
};

static void open_family(struct family *f, const char *name)
{
    char path[1024], *line = NULL;
    size_t room = 0;
    ssize_t len;
    FILE *file;

    snprintf(path, sizeof(path), FAMILIES "%s.jsonl", name);
    *f = (struct family){name, NULL, json_array()};
    file = fopen(path, "r");
    if (!file)
        fail_msg("%s: cannot be opened", path);
    while ((len = getline(&line, &room, file)) > 0) {
        json_t *row = json_loadb(line, (size_t)len, 0, NULL);

        assert_non_null(row);
        if (f->head)
            json_array_append_new(f->rows, row);
        else
            f->head = row;
    }
    free(line);
    fclose(file);
    assert_true(json_array_size(f->rows) >= 100);
}

static void close_family(struct family *f)
{
    json_decref(f->head);
    json_decref(f->rows);
}

static const char *text_of(const json_t *row, const char *member, size_t *len)
{
    const json_t *text = json_object_get(row, member);

    if (!text)
        text = json_object_get(row, "text");
    *len = json_string_length(text);
    return json_string_value(text);
}

static const json_t *ids_of(const json_t *row, const char *member)
{
    const json_t *ids = json_object_get(row, member);

    return ids ? ids : json_object_get(row, "ids");
}

/* The text's tokens are those of prefix, then ids. */
static void check_ids(const struct family *f, const struct tokenizer *t, const json_t *row,
                      const json_t *prefix, const char *member, unsigned flags)
{
    const json_t *ids = ids_of(row, member);
    size_t len, before = json_array_size(prefix);
    const char *text = text_of(row, "text", &len);
    struct token_list list = {NULL, 0, 0};
    struct error err = {.text = ""};

    if (tokenizer_encode(t, text, len, flags, &list, &err))
        fail_msg("%s: %s: %s", f->name, text, err.text);
    for (size_t i = 0; i < list.count && i < json_array_size(ids) + before; i++) {
        json_int_t wanted = json_integer_value(i < before ? json_array_get(prefix, i)
                                                          : json_array_get(ids, i - before));

        if (list.tokens[i] != wanted)
            fail_msg("%s: \"%s\" %s: token %zu is %u (%s), not %lld (%s)", f->name, text, member, i,
                     list.tokens[i], tokenizer_text(t, list.tokens[i]), (long long)wanted,
                     tokenizer_text(t, (uint32_t)wanted));
    }
    if (list.count != json_array_size(ids) + before)
        fail_msg("%s: \"%s\" %s: %zu tokens, not %zu", f->name, text, member, list.count,
                 json_array_size(ids) + before);
    free(list.tokens);
}

/* Decoding token by token gives the text, in whole characters. */
static void check_decoding(const struct family *f, const struct tokenizer *t, const json_t *row)
{
    const json_t *ids = ids_of(row, "plain");
    struct detokenizer d = {.pending_len = 0};
    size_t room = tokenizer_bytes_max(t) + 8, len, count = 0, i;
    const char *text = text_of(row, "decoded", &len);
    char *all = malloc((json_array_size(ids) + 1) * room);
    const json_t *id;

    assert_non_null(all);
    json_array_foreach((json_t *)ids, i, id)
    {
        size_t n = detokenizer_push(&d, t, (uint32_t)json_integer_value(id), all + count, room);

        assert_int_equal(utf8_check(all + count, n), n);
        count += n;
    }
    count += detokenizer_flush(&d, all + count, room);
    if (count != len || memcmp(all, text, len) != 0)
        fail_msg("%s: \"%s\" became \"%.*s\"", f->name, text, (int)count, all);
    free(all);
}

static void check_family(const struct family *f, const struct tokenizer *t)
{
    const json_t *prefix = json_object_get(f->head, "prefix"), *row;
    size_t i;

    json_array_foreach(f->rows, i, row)
    {
        check_ids(f, t, row, NULL, "ids", TOKENIZER_PARSE_SPECIAL);
        check_ids(f, t, row, prefix, "ids", TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS);
        check_ids(f, t, row, NULL, "plain", 0);
        check_decoding(f, t, row);
    }
}

static void check_json(const char *name)
{
    struct error err = {.text = ""};
    struct tokenizer *t;
    struct family f;

    open_family(&f, name);
    t = tokenizer_create_json(json_object_get(f.head, "tokenizer"),
                              json_object_get(f.head, "config"), name, &err);
    if (!t)
        fail_msg("%s", err.text);
    check_family(&f, t);
    tokenizer_destroy(t);
    close_family(&f);
}

static struct tokenizer *create_gguf(struct builder *b)
{
    struct error err = {.text = ""};
    struct tokenizer *t = NULL;
    struct source *s;
    struct gguf *g;

    builder_finish(b, 1, 0);
    g = open_bytes(b->data, b->len, &err);
    s = g ? source_from_gguf(g, &err) : NULL;
    if (s)
        t = tokenizer_create(s, &err);
    if (!t)
        fail_msg("%s", err.text);
    source_close(s);
    gguf_close(g);
    builder_free(b);
    return t;
}

/* A byte-level tokenizer.json as its converter to GGUF writes it. */
static void put_byte_level(struct builder *b, const struct family *f)
{
    const json_t *root = json_object_get(f->head, "tokenizer"), *item;
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *added = json_object_get(root, "added_tokens");
    const json_t *merges = json_object_get(model, "merges");
    size_t count = json_object_size(vocab) + json_array_size(added), i;
    const char **texts = calloc(count, sizeof(*texts)), *text;
    uint32_t *types = calloc(count, sizeof(*types));

    assert_non_null(texts);
    assert_non_null(types);
    json_object_foreach((json_t *)vocab, text, item)
    {
        texts[json_integer_value(item)] = text;
        types[json_integer_value(item)] = 1;
    }
    json_array_foreach((json_t *)added, i, item)
    {
        size_t id = (size_t)json_integer_value(json_object_get(item, "id"));

        texts[id] = json_string_value(json_object_get(item, "content"));
        types[id] = json_is_true(json_object_get(item, "special")) ? 3 : 4;
    }
    pair_array(b, "tokenizer.ggml.tokens", 8, count);
    for (i = 0; i < count; i++)
        put_string(b, texts[i], strlen(texts[i]));
    pair_array(b, "tokenizer.ggml.token_type", 5, count);
    for (i = 0; i < count; i++)
        put_u32(b, types[i]);
    pair_array(b, "tokenizer.ggml.merges", 8, json_array_size(merges));
    json_array_foreach((json_t *)merges, i, item)
    {
        char joined[512];

        if (json_is_array(item))
            snprintf(joined, sizeof(joined), "%s %s", json_string_value(json_array_get(item, 0)),
                     json_string_value(json_array_get(item, 1)));
        else
            snprintf(joined, sizeof(joined), "%s", json_string_value(item));
        put_string(b, joined, strlen(joined));
    }
    free(types);
    free(texts);
}

static void check_gguf(const char *name)
{
    const json_t *prefix;
    struct tokenizer *t;
    struct builder b;
    struct family f;

    open_family(&f, name);
    builder_start(&b, 3);
    pair_string(&b, "tokenizer.ggml.model", "gpt2");
    pair_string(&b, "tokenizer.ggml.pre", json_string_value(json_object_get(f.head, "pre")));
    put_byte_level(&b, &f);
    prefix = json_object_get(f.head, "prefix");
    pair_bool(&b, "tokenizer.ggml.add_bos_token", json_array_size(prefix) > 0);
    if (json_array_size(prefix) > 0)
        pair_u32(&b, "tokenizer.ggml.bos_token_id",
                 (uint32_t)json_integer_value(json_array_get(prefix, 0)));
    t = create_gguf(&b);
    check_family(&f, t);
    tokenizer_destroy(t);
    close_family(&f);
}

static void check_sentencepiece(const char *name)
{
    const json_t *pieces, *piece;
    struct tokenizer *t;
    struct builder b;
    struct family f;
    size_t i;

    open_family(&f, name);
    pieces = json_object_get(f.head, "pieces");
    builder_start(&b, 3);
    pair_string(&b, "tokenizer.ggml.model", "llama");
    pair_bool(&b, "tokenizer.ggml.add_space_prefix",
              json_is_true(json_object_get(f.head, "add_space_prefix")));
    pair_u32(&b, "tokenizer.ggml.bos_token_id", 1);
    pair_u32(&b, "tokenizer.ggml.eos_token_id", 2);
    pair_u32(&b, "tokenizer.ggml.unknown_token_id", 0);
    pair_array(&b, "tokenizer.ggml.tokens", 8, json_array_size(pieces));
    json_array_foreach((json_t *)pieces, i, piece)
    {
        const json_t *text = json_array_get(piece, 0);

        put_string(&b, json_string_value(text), json_string_length(text));
    }
    pair_array(&b, "tokenizer.ggml.scores", 6, json_array_size(pieces));
    json_array_foreach((json_t *)pieces, i, piece)
    {
        float score = (float)json_number_value(json_array_get(piece, 1));

        put_bytes(&b, &score, sizeof(score));
    }
    pair_array(&b, "tokenizer.ggml.token_type", 5, json_array_size(pieces));
    json_array_foreach((json_t *)pieces, i, piece)
        put_u32(&b, (uint32_t)json_integer_value(json_array_get(piece, 2)));
    t = create_gguf(&b);
    check_family(&f, t);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_int_equal(tokenizer_unk(t), 0);
    tokenizer_destroy(t);
    close_family(&f);
}

static void tokenizer_json(void **state)
{
    static const char *const names[] = {"deepseek_qwen", "deepseek_v3",   "gemma",         "gpt2",
                                        "gpt4o",         "granite",       "llama2",        "llama3",
                                        "mistral",       "o200k",         "phi3",          "qwen2",
                                        "smollm3",       "strange_bytes", "strange_first", "tekken",
                                        "strange_words", "unigram",       "unigram_bytes"};

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        check_json(names[i]);
}

static void gguf_byte_level(void **state)
{
    static const char *const names[] = {"deepseek_v3", "gpt2",  "gpt4o",   "granite",
                                        "llama3",      "qwen2", "smollm3", "tekken"};

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        check_gguf(names[i]);
}

static void gguf_sentencepiece(void **state)
{
    (void)state;
    check_sentencepiece("sentencepiece_plain");
    check_sentencepiece("sentencepiece_prefix");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenizer_json),
        cmocka_unit_test(gguf_byte_level),
        cmocka_unit_test(gguf_sentencepiece),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
