/* tiny_gguf.c - writer of a tiny random model (GGUF version 3, little-endian) */
#include "tests/unit/tiny_gguf.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH    64u
#define HEADS    4u
#define KV_HEADS 2u
#define HEAD_DIM 16u
#define FFN      128u
#define ALIGN    32u

#define TYPE_F32  0u
#define TYPE_Q4_1 3u
#define TYPE_Q8_0 8u

#define KEY_U32    4u
#define KEY_F32    6u
#define KEY_BOOL   7u
#define KEY_STRING 8u
#define KEY_ARRAY  9u
#define KEY_I32    5u

static const char *const merged[] = {"th", "the", "in", "er", "\304\240t", "\304\240a", "an"};
static const char *const merges[] = {"t h",        "th e",       "i n", "e r",
                                     "\304\240 t", "\304\240 a", "a n"};
static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
static const char template[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}";

struct tensor {
    char name[64];
    uint32_t type;
    uint32_t cols, rows; /* rows 0: a vector */
    float amplitude;     /* values within +-amplitude; of a vector: 1 +- amplitude */
    uint64_t offset;
};

struct writer {
    FILE *file;
    uint64_t random;
    struct tensor *tensors;
    uint32_t count;
    uint64_t data_bytes;
};

static void put(struct writer *w, const void *bytes, size_t len)
{
    fwrite(bytes, 1, len, w->file); /* errors show at the end, by ferror */
}

static void put_u32(struct writer *w, uint32_t v)
{
    put(w, &v, sizeof(v));
}

static void put_u64(struct writer *w, uint64_t v)
{
    put(w, &v, sizeof(v));
}

static void put_string(struct writer *w, const char *s)
{
    put_u64(w, strlen(s));
    put(w, s, strlen(s));
}

static void key_u32(struct writer *w, const char *key, uint32_t v)
{
    put_string(w, key);
    put_u32(w, KEY_U32);
    put_u32(w, v);
}

static void key_f32(struct writer *w, const char *key, float v)
{
    put_string(w, key);
    put_u32(w, KEY_F32);
    put(w, &v, sizeof(v));
}

static void key_string(struct writer *w, const char *key, const char *v)
{
    put_string(w, key);
    put_u32(w, KEY_STRING);
    put_string(w, v);
}

static void key_array(struct writer *w, const char *key, uint32_t type, uint64_t count)
{
    put_string(w, key);
    put_u32(w, KEY_ARRAY);
    put_u32(w, type);
    put_u64(w, count);
}

/* splitmix64 */
static uint64_t next(struct writer *w)
{
    uint64_t z = w->random += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static float next_float(struct writer *w)
{
    return (float)(int32_t)(next(w) >> 40) / 8388608.0f - 1.0f; /* 24 bits: [-1, 1) */
}

/* Half precision of a value between 2^-14 and 2^15, mantissa cut. */
static uint16_t half(float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof(bits));
    return (uint16_t)(((bits >> 16) & 0x8000u) | ((((bits >> 23) & 0xffu) - 112u) << 10) |
                      ((bits >> 13) & 0x3ffu));
}

/* GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and on. */
static void byte_text(uint32_t byte, char text[4])
{
    uint32_t code = byte, shifted = 0;

    for (uint32_t b = 0; b <= byte; b++) {
        int plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        code = plain ? b : 256 + shifted++;
    }
    if (code < 0x80) {
        text[0] = (char)code;
        text[1] = '\0';
    } else {
        text[0] = (char)(0xc0 | (code >> 6));
        text[1] = (char)(0x80 | (code & 0x3f));
        text[2] = '\0';
    }
}

static void write_tokenizer(struct writer *w)
{
    const uint32_t merged_count = sizeof(merged) / sizeof(merged[0]);
    char text[4];

    key_string(w, "tokenizer.ggml.model", "gpt2");
    key_string(w, "tokenizer.ggml.pre", "smollm");
    key_array(w, "tokenizer.ggml.tokens", KEY_STRING, TINY_VOCABULARY);
    for (uint32_t b = 0; b < 256; b++) {
        byte_text(b, text);
        put_string(w, text);
    }
    for (uint32_t i = 0; i < merged_count; i++)
        put_string(w, merged[i]);
    for (uint32_t i = 0; i < 3; i++)
        put_string(w, special[i]);
    key_array(w, "tokenizer.ggml.token_type", KEY_I32, TINY_VOCABULARY);
    for (uint32_t i = 0; i < TINY_VOCABULARY; i++)
        put_u32(w, i < 256 + merged_count ? 1 : 3);
    key_array(w, "tokenizer.ggml.merges", KEY_STRING, merged_count);
    for (uint32_t i = 0; i < merged_count; i++)
        put_string(w, merges[i]);
    key_u32(w, "tokenizer.ggml.bos_token_id", TINY_IM_START);
    key_u32(w, "tokenizer.ggml.eos_token_id", TINY_IM_END);
    put_string(w, "tokenizer.ggml.add_bos_token");
    put_u32(w, KEY_BOOL);
    put(w, "", 1);
    key_string(w, "tokenizer.chat_template", template);
}

static void write_metadata(struct writer *w, uint32_t layers, uint32_t context)
{
    put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, w->count);
    put_u64(w, 21);
    key_string(w, "general.architecture", "llama");
    key_string(w, "general.name", "tiny random");
    key_u32(w, "general.alignment", ALIGN);
    key_u32(w, "llama.block_count", layers);
    key_u32(w, "llama.context_length", context);
    key_u32(w, "llama.embedding_length", WIDTH);
    key_u32(w, "llama.feed_forward_length", FFN);
    key_u32(w, "llama.attention.head_count", HEADS);
    key_u32(w, "llama.attention.head_count_kv", KV_HEADS);
    key_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    key_f32(w, "llama.rope.freq_base", 10000.0f);
    key_u32(w, "llama.rope.dimension_count", HEAD_DIM);
    write_tokenizer(w); /* 9 keys */
}

static uint64_t tensor_bytes(const struct tensor *t)
{
    uint64_t elements = (uint64_t)t->cols * (t->rows == 0 ? 1 : t->rows);

    if (t->type == TYPE_F32)
        return elements * 4;
    return elements / 32 * (t->type == TYPE_Q8_0 ? 34 : 20);
}

static void add(struct writer *w, const char *name, uint32_t type, uint32_t cols, uint32_t rows,
                float amplitude)
{
    struct tensor *t = &w->tensors[w->count++];

    snprintf(t->name, sizeof(t->name), "%s", name);
    t->type = type;
    t->cols = cols;
    t->rows = rows;
    t->amplitude = amplitude;
    t->offset = w->data_bytes;
    w->data_bytes += (tensor_bytes(t) + ALIGN - 1) / ALIGN * ALIGN;
}

static void add_layer(struct writer *w, uint32_t i)
{
    /* Even layers have one type throughout, odd ones mix. */
    uint32_t a = TYPE_Q4_1, b = i % 2 == 0 ? TYPE_Q4_1 : TYPE_Q8_0;
    uint32_t c = i % 2 == 0 ? TYPE_Q4_1 : TYPE_F32;
    char name[64];

#define NAME(suffix) (snprintf(name, sizeof(name), "blk.%u." suffix, i), name)
    add(w, NAME("attn_norm.weight"), TYPE_F32, WIDTH, 0, 0.2f);
    add(w, NAME("attn_q.weight"), a, WIDTH, HEADS * HEAD_DIM, 0.6f);
    add(w, NAME("attn_k.weight"), a, WIDTH, KV_HEADS * HEAD_DIM, 0.6f);
    add(w, NAME("attn_v.weight"), b, WIDTH, KV_HEADS * HEAD_DIM, 0.6f);
    add(w, NAME("attn_output.weight"), b, HEADS * HEAD_DIM, WIDTH, 0.6f);
    add(w, NAME("ffn_norm.weight"), TYPE_F32, WIDTH, 0, 0.2f);
    add(w, NAME("ffn_gate.weight"), a, WIDTH, FFN, 0.4f);
    add(w, NAME("ffn_up.weight"), c, WIDTH, FFN, 0.4f);
    add(w, NAME("ffn_down.weight"), c, FFN, WIDTH, 0.4f);
#undef NAME
}

static void write_values(struct writer *w, const struct tensor *t)
{
    uint64_t elements = (uint64_t)t->cols * (t->rows == 0 ? 1 : t->rows);

    if (t->type == TYPE_F32) {
        for (uint64_t i = 0; i < elements; i++) {
            float v = (t->rows == 0 ? 1.0f : 0.0f) + next_float(w) * t->amplitude;
            put(w, &v, sizeof(v));
        }
        return;
    }
    for (uint64_t block = 0; block < elements / 32; block++) {
        float amplitude = t->amplitude * (0.75f + 0.25f * next_float(w));
        int q8 = t->type == TYPE_Q8_0;
        uint16_t scale = half(q8 ? amplitude / 127 : 2 * amplitude / 15), low = half(-amplitude);
        put(w, &scale, sizeof(scale));
        if (!q8)
            put(w, &low, sizeof(low));
        for (int i = 0; i < (q8 ? 4 : 2); i++)
            put_u64(w, next(w));
    }
}

static void write_tensors(struct writer *w, int nan)
{
    static const unsigned char zeros[ALIGN];
    long start;

    for (uint32_t i = 0; i < w->count; i++) {
        const struct tensor *t = &w->tensors[i];
        put_string(w, t->name);
        put_u32(w, t->rows == 0 ? 1 : 2);
        put_u64(w, t->cols);
        if (t->rows != 0)
            put_u64(w, t->rows);
        put_u32(w, t->type);
        put_u64(w, t->offset);
    }
    start = ftell(w->file);
    if (start < 0)
        return;
    put(w, zeros, (ALIGN - (size_t)start % ALIGN) % ALIGN);
    for (uint32_t i = 0; i < w->count; i++) {
        const struct tensor *t = &w->tensors[i];
        if (nan && strcmp(t->name, "output_norm.weight") == 0) {
            float v = NAN;
            for (uint32_t j = 0; j < t->cols; j++)
                put(w, &v, sizeof(v));
        } else {
            write_values(w, t);
        }
        put(w, zeros, (ALIGN - tensor_bytes(t) % ALIGN) % ALIGN);
    }
}

int tiny_gguf_write(const char *path, const struct tiny_options *options)
{
    static const struct tiny_options plain = {0};
    const struct tiny_options *o = options == NULL ? &plain : options;
    uint32_t layers = o->layers == 0 ? 2 : o->layers;
    struct writer w = {.random = o->seed};
    int rv = -1;

    w.tensors = calloc(3 + 9 * (size_t)layers, sizeof(*w.tensors));
    w.file = fopen(path, "wb");
    if (w.tensors == NULL || w.file == NULL)
        goto out;
    add(&w, "token_embd.weight", TYPE_Q8_0, WIDTH, TINY_VOCABULARY, 0.5f);
    for (uint32_t i = 0; i < layers; i++)
        add_layer(&w, i);
    add(&w, "output_norm.weight", TYPE_F32, WIDTH, 0, 0.2f);
    if (o->untied)
        add(&w, "output.weight", TYPE_Q8_0, WIDTH, TINY_VOCABULARY, 0.5f);
    write_metadata(&w, layers, o->context == 0 ? 4096 : o->context);
    write_tensors(&w, o->nan);
    rv = ferror(w.file) ? -1 : 0;
out:
    free(w.tensors);
    if (w.file != NULL && fclose(w.file) != 0)
        rv = -1;
    return rv;
}
