/*
 * tokenizer_fuzz.c - libFuzzer target: any JSON as tokenizer.json, its "config" as
 * tokenizer_config.json; then texts to tokens and all tokens to text
 *
 *     clang -std=gnu11 -D_GNU_SOURCE -I. -g -O1 -fsanitize=fuzzer,address,undefined \
 *         tests/fuzz/tokenizer_fuzz.c model/[a-z]*.c common/error.c \
 *         -ljansson -lpcre2-8 -lutf8proc -lm -o tokenizer_fuzz
 *     ./tokenizer_fuzz -max_len=16384 -max_total_time=120 -timeout=10 CORPUS
 *
 * A seed is the "tokenizer" of a first line in tests/golden/model/families, cut to a few tokens.
 */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void use(const struct tokenizer *t, const char *text, size_t len, unsigned flags)
{
    struct detokenizer d = {.pending_len = 0};
    struct token_list list = {NULL, 0, 0};
    size_t room = tokenizer_bytes_max(t) + 8;
    char *out = malloc(room);

    if (!out)
        abort();
    tokenizer_encode(t, text, len, flags, &list, NULL);
    for (size_t i = 0; i < list.count; i++)
        if (list.tokens[i] >= tokenizer_vocabulary(t) ||
            detokenizer_push(&d, t, list.tokens[i], out, room) > room)
            abort();
    if (detokenizer_flush(&d, out, room) > room)
        abort();
    free(list.tokens);
    free(out);
}

static void use_tokens(const struct tokenizer *t)
{
    struct detokenizer d = {.pending_len = 0};
    size_t room = tokenizer_bytes_max(t) + 8;
    char *out = malloc(room);

    if (!out)
        abort();
    for (uint32_t i = 0; i < tokenizer_vocabulary(t) && i < 300; i++)
        if (detokenizer_push(&d, t, i, out, room) > room)
            abort();
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const char text[] = " The  quick\xe2\x96\x81"
                               "brown\n\nf\xc3\xb6x e\xcc\x81 123 <s>it's</s>\xf0\x9f\x98\x80 ";
    json_t *root = json_loadb((const char *)data, len, JSON_REJECT_DUPLICATES, NULL);
    struct error err = {.text = ""};
    struct tokenizer *t;
    size_t tail = len < 300 ? len : 300;

    if (!root)
        return 0;
    t = tokenizer_create_json(root, json_object_get(root, "config"), "fuzz", &err);
    if (!t && (err.status == STATUS_OK || err.status == STATUS_INTERNAL || !err.text[0]))
        abort(); /* a refusal says why */
    if (t) {
        use(t, text, sizeof(text) - 1, TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS);
        use(t, (const char *)data + len - tail, tail, 0);
        use_tokens(t);
    }
    tokenizer_destroy(t);
    json_decref(root);
    return 0;
}
