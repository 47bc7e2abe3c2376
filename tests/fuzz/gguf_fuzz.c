/*
 * gguf_fuzz.c - hostile model files: reader, architecture table, tokenizer
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -std=gnu11 -D_GNU_SOURCE -I. \
 *         -Wl,--wrap=mmap -Wl,--wrap=munmap -o gguf_fuzz tests/fuzz/gguf_fuzz.c \
 *         tests/unit/exact_map.c model/[a-z]*.c common/error.c \
 *         -ljansson -lpcre2-8 -lutf8proc -lm
 *     ./gguf_fuzz -max_len=65536 CORPUS
 *
 * A seed is any small GGUF file, such as what tests/unit/tiny_gguf.c writes with one layer.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/arch.h"
#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Read every value by every getter, so that a wrong bound is touched. */
static void read_values(const struct gguf *g)
{
    for (size_t i = 0; i < gguf_key_count(g) && i < 64; i++) {
        const struct gguf_string *s = gguf_key(g, i);
        char *key = strndup(s->data, s->len);
        struct gguf_string text, *texts;
        uint64_t integer, count;
        int64_t *integers;
        double number;
        float *numbers;
        int truth;

        if (!key)
            abort();
        gguf_get_u64(g, key, &integer, NULL);
        gguf_get_f64(g, key, &number, NULL);
        gguf_get_bool(g, key, &truth, NULL);
        gguf_get_string(g, key, &text, NULL);
        if (gguf_get_array(g, key, &count, NULL) == 0 && count > 0)
            gguf_array_string(g, key, count - 1, &text, NULL);
        if (gguf_get_strings(g, key, &texts, &count, NULL) == 0)
            free(texts);
        if (gguf_get_i64s(g, key, &integers, &count, NULL) == 0)
            free(integers);
        if (gguf_get_f32s(g, key, &numbers, &count, NULL) == 0)
            free(numbers);
        free(key);
    }
}

static void read_weights(const struct source *s)
{
    const unsigned char *base = gguf_base(source_gguf(s));
    unsigned sum = 0;
    struct arch_ref ref;
    struct arch a;

    if (arch_read(&a, s, NULL))
        return;
    for (enum role role = 0; role < ROLE_COUNT; role++)
        for (uint32_t layer = 0; layer < a.layers; layer++)
            if (arch_tensor(&a, s, role, layer, &ref))
                sum += base[ref.tensor->offset] + base[ref.tensor->offset + ref.tensor->bytes - 1];
    if (sum == UINT32_MAX)
        abort(); /* keeps the reads */
}

/* The file's end as text, there and back. */
static void use_tokenizer(const struct source *s, const uint8_t *data, size_t len)
{
    struct token_list list = {NULL, 0, 0};
    struct detokenizer d = {.pending_len = 0};
    struct tokenizer *t = tokenizer_create(s, NULL);
    size_t n = len < 256 ? len : 256, room;
    char *out;

    if (!t)
        return;
    room = tokenizer_bytes_max(t) + 8;
    out = malloc(room);
    if (!out)
        abort();
    tokenizer_encode(t, (const char *)data + len - n, n, TOKENIZER_PARSE_SPECIAL, &list, NULL);
    tokenizer_encode(t, "<|im_start|>the an 12\n", 22, TOKENIZER_ADD_BOS, &list, NULL);
    for (size_t i = 0; i < list.count; i++)
        if (list.tokens[i] >= tokenizer_vocabulary(t) ||
            detokenizer_push(&d, t, list.tokens[i], out, room) > room)
            abort();
    for (uint32_t i = 0; i < tokenizer_vocabulary(t) && i < 300; i++)
        if (detokenizer_push(&d, t, i, out, room) > room)
            abort();
    free(out);
    free(list.tokens);
    tokenizer_destroy(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct source_files files = {.count = 1, .files = {{.kind = SOURCE_GGUF}}};
    struct source *s;

    files.files[0].fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (files.files[0].fd < 0 || write(files.files[0].fd, data, len) != (ssize_t)len)
        abort();
    s = source_open_files(&files, "fuzz.gguf", NULL);
    source_files_close(&files);
    if (!s)
        return 0;
    read_values(source_gguf(s));
    read_weights(s);
    use_tokenizer(s, data, len);
    source_close(s);
    return 0;
}
