/*
 * safetensors_fuzz.c - libFuzzer target: bytes as a checkpoint's weights, JSON or vocabulary
 *
 * The first byte picks the file that the rest is; the other files are plain.  Whatever opens keeps
 * its tensors inside of the file, and goes on to the architecture table and the tokenizer.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -std=gnu11 -D_GNU_SOURCE -I. \
 *         -o safetensors_fuzz tests/fuzz/safetensors_fuzz.c model/[a-z]*.c common/error.c \
 *         -ljansson -lpcre2-8 -lutf8proc -lm
 *     ./safetensors_fuzz -max_len=4096 CORPUS
 *
 * A seed is a small file of a checkpoint folder behind a byte of enum source_kind
 * (safetensors_corpus: vocabularies); what that byte has beyond picks the settings in config.json.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/arch.h"
#include "model/tokenizer.h"

static int memory_file(const void *bytes, size_t len)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    if (fd < 0 || write(fd, bytes, len) != (ssize_t)len)
        abort();
    return fd;
}

/* The scales of an FP8 weight are the source's, and as many as its tiles. */
static void check_scales(const struct source *s, const struct source_tensor *t)
{
    const struct source_tensor *scale = t->scale;

    if (!scale)
        return;
    if (source_find_tensor(s, scale->name) != scale || t->scale_rows == 0 || t->scale_cols == 0 ||
        (t->shape[0] + t->scale_cols - 1) / t->scale_cols *
                ((t->shape[1] + t->scale_rows - 1) / t->scale_rows) !=
            scale->shape[0] * scale->shape[1] ||
        scale->bytes < 2 * scale->shape[0] * scale->shape[1])
        abort();
}

static void check_source(const struct source *s, size_t len)
{
    const char *text = NULL;
    size_t text_len = 0;
    unsigned sum = 0;

    for (size_t i = 0; i < source_tensor_count(s); i++) {
        const struct source_tensor *t = source_tensor(s, i);

        if (t->offset > len || t->bytes > len - t->offset || t->bytes == 0 ||
            source_find_tensor(s, t->name) != t)
            abort();
        check_scales(s, t);
    }
    if (source_template(s, &text, &text_len, NULL) == 0)
        for (size_t i = 0; i < text_len; i++)
            sum += (unsigned char)text[i];
    if (sum == UINT32_MAX)
        abort(); /* keeps the reads */
}

static void use_tokenizer(const struct tokenizer *t)
{
    static const char text[] = " The  quick<s>brown\n\nf\xc3\xb6x [INST]12\xe2\x96\x81";
    struct detokenizer d = {.pending_len = 0};
    struct token_list list = {NULL, 0, 0};
    size_t room = tokenizer_bytes_max(t) + 8;
    char *out = malloc(room);

    if (!out)
        abort();
    tokenizer_encode(t, text, sizeof(text) - 1, TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS, &list,
                     NULL);
    tokenizer_encode(t, text, sizeof(text) - 1, 0, &list, NULL);
    for (size_t i = 0; i < list.count; i++)
        if (list.tokens[i] >= tokenizer_vocabulary(t) ||
            detokenizer_push(&d, t, list.tokens[i], out, room) > room)
            abort();
    free(list.tokens);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const char none[] = "\x02\0\0\0\0\0\0\0{}";
    static const char *const configs[] = {
        "{}",
        "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}}",
        "{\"quantization_config\":{\"quant_method\":\"fp8\"}}"};
    const char *config;
    enum source_kind kind;
    struct arch arch;
    struct source_files files = {.count = 2};
    struct tokenizer *t;
    struct source *s;

    if (len == 0)
        return 0;
    kind = (enum source_kind)(data[0] % SOURCE_KIND_COUNT);
    config = configs[data[0] / SOURCE_KIND_COUNT % 3];
    data++;
    len--;
    if (kind == SOURCE_GGUF)
        kind = SOURCE_WEIGHTS;
    files.files[0] =
        kind == SOURCE_CONFIG
            ? (struct source_file){SOURCE_CONFIG, memory_file(data, len), "it"}
            : (struct source_file){SOURCE_CONFIG, memory_file(config, strlen(config)), "config"};
    files.files[1] =
        kind == SOURCE_WEIGHTS
            ? (struct source_file){SOURCE_WEIGHTS, memory_file(data, len), "it"}
            : (struct source_file){SOURCE_WEIGHTS, memory_file(none, sizeof(none) - 1), "weights"};
    if (kind != SOURCE_CONFIG && kind != SOURCE_WEIGHTS)
        files.files[files.count++] = (struct source_file){kind, memory_file(data, len), "it"};
    s = source_open_files(&files, "fuzz", NULL);
    source_files_close(&files);
    if (!s)
        return 0;
    check_source(s, kind == SOURCE_WEIGHTS ? len : sizeof(none) - 1);
    arch_read(&arch, s, NULL);
    t = tokenizer_create(s, NULL);
    if (t)
        use_tokenizer(t);
    tokenizer_destroy(t);
    source_close(s);
    return 0;
}
