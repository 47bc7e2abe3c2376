/* arch_test.c - the architecture table over crafted files, and over the real model if there is one
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "model/arch.h"
#include "model/ggml_type.h"
#include "tests/unit/gguf_builder.h"

/* A llama of 2 layers: width 64, 4 heads of 16, 2 of keys, ffn 96, 32 tokens. */
struct tensor {
    const char *name; /* behind "blk.N." if layered */
    int layered;
    uint32_t type;
    uint64_t columns, rows;
};

#define WIDTH  64
#define KV     32
#define FFN    96
#define TOKENS 32

static const struct tensor plain[] = {
    {"token_embd.weight", 0, DTYPE_Q8_0, WIDTH, TOKENS},
    {"output_norm.weight", 0, DTYPE_F32, WIDTH, 0},
    {"attn_norm.weight", 1, DTYPE_F32, WIDTH, 0},
    {"attn_q.weight", 1, DTYPE_Q4_1, WIDTH, WIDTH},
    {"attn_k.weight", 1, DTYPE_Q4_0, WIDTH, KV},
    {"attn_v.weight", 1, DTYPE_F16, WIDTH, KV},
    {"attn_output.weight", 1, DTYPE_BF16, WIDTH, WIDTH},
    {"ffn_norm.weight", 1, DTYPE_F32, WIDTH, 0},
    {"ffn_gate.weight", 1, DTYPE_Q5_0, WIDTH, FFN},
    {"ffn_up.weight", 1, DTYPE_Q5_1, WIDTH, FFN},
    {"ffn_down.weight", 1, DTYPE_F32, FFN, WIDTH},
};
#define PLAIN_COUNT (sizeof(plain) / sizeof(plain[0]))

/* What a test changes. */
struct change {
    const char *omit_key, *omit_tensor;
    void (*pairs)(struct builder *); /* further keys */
    const struct tensor *replace;    /* instead of the plain one of that name */
    const struct tensor *add;        /* further ones, up to a NULL name */
    const char *family;
};

static void put_one(struct builder *b, const struct tensor *t, unsigned layer, uint64_t *offset)
{
    const struct ggml_type *type = ggml_type_get(t->type);
    uint64_t rows = t->rows ? t->rows : 1;
    char name[64];

    snprintf(name, sizeof(name), t->layered ? "blk.%u.%s" : "%.0u%s", t->layered ? layer : 0,
             t->name);
    put_tensor(b, name, t->type, t->columns, t->rows, *offset);
    *offset += t->columns / type->block_elements * rows * type->block_bytes;
    *offset = (*offset + 31) / 32 * 32;
}

static void put_each(struct builder *b, const struct tensor *t, uint64_t *offset)
{
    for (unsigned layer = 0; layer < (t->layered ? 2 : 1); layer++)
        put_one(b, t, layer, offset);
}

static void put_keys(struct builder *b, const struct change *c)
{
    static const struct {
        const char *key;
        uint32_t value;
    } keys[] = {
        {"llama.block_count", 2},           {"llama.context_length", 128},
        {"llama.embedding_length", WIDTH},  {"llama.feed_forward_length", FFN},
        {"llama.attention.head_count", 4},  {"llama.attention.head_count_kv", 2},
        {"tokenizer.ggml.bos_token_id", 1}, {"tokenizer.ggml.eos_token_id", 2},
    };

    pair_string(b, "general.architecture", c->family ? c->family : "llama");
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (!c->omit_key || strcmp(c->omit_key, keys[i].key) != 0)
            pair_u32(b, keys[i].key, keys[i].value);
    if (!c->omit_key || strcmp(c->omit_key, "llama.attention.layer_norm_rms_epsilon") != 0)
        pair_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (c->pairs)
        c->pairs(b);
}

static struct source *open_changed(const struct change *c)
{
    struct error err = {.text = ""};
    uint64_t offset = 0;
    struct builder b;
    struct source *g;

    builder_start(&b, 3);
    put_keys(&b, c);
    for (size_t i = 0; i < PLAIN_COUNT; i++) {
        const struct tensor *t = &plain[i];

        if (c->omit_tensor && strcmp(c->omit_tensor, t->name) == 0)
            continue;
        if (c->replace && strcmp(c->replace->name, t->name) == 0)
            t = c->replace;
        put_each(&b, t, &offset);
    }
    for (const struct tensor *t = c->add; t && t->name; t++)
        put_each(&b, t, &offset);
    builder_finish(&b, 32, offset);
    memset(b.data + b.len - offset, 0x3f, offset); /* as F32: 0.747 */
    g = open_source(b.data, b.len, &err);
    builder_free(&b);
    if (!g)
        fail_msg("%s", err.text);
    return g;
}

static void expect_refusal(const struct change *c, enum status status, const char *text)
{
    struct source *g = open_changed(c);
    struct error err = {.text = ""};
    struct arch a, before;

    memset(&a, 0x5a, sizeof(a));
    before = a;
    assert_int_equal(arch_read(&a, g, &err), -1);
    assert_memory_equal(&a, &before, sizeof(a));
    if (err.status != status || !strstr(err.text, text))
        fail_msg("wanted \"%s\": %s", text, err.text);
    source_close(g);
}

static struct arch read_changed(const struct change *c, struct source **g)
{
    struct error err = {.text = ""};
    struct arch a;

    *g = open_changed(c);
    if (arch_read(&a, *g, &err))
        fail_msg("%s", err.text);
    return a;
}

/* Roles that no llama has. */
static int elsewhere(enum role role)
{
    return role == ROLE_Q_NORM || role == ROLE_K_NORM || role == ROLE_ATTN_POST_NORM ||
           role == ROLE_FFN_POST_NORM || role >= ROLE_ROUTER;
}

static void plain_model(void **state)
{
    const struct change c = {0};
    struct source *g;
    struct arch a = read_changed(&c, &g);
    struct arch_ref ref;

    (void)state;
    assert_string_equal(a.family, "llama");
    assert_int_equal(a.layers, 2);
    assert_int_equal(a.width, WIDTH);
    assert_int_equal(a.heads, 4);
    assert_int_equal(a.kv_heads, 2);
    assert_int_equal(a.head_dim, 16);
    assert_int_equal(a.ffn, FFN);
    assert_int_equal(a.vocabulary, TOKENS);
    assert_int_equal(a.context, 128);
    assert_int_equal(a.rope[0].dims, 16);
    assert_true(fabsf(a.norm_eps - 1e-5f) <= 0 && fabsf(a.rope[0].theta - 10000) <= 0);
    assert_null(arch_rope_factors(&a.rope[0], 128));
    assert_true(fabsf(a.attn_scale - 0.25f) <= 0 && fabsf(a.embed_scale - 1) <= 0);
    assert_true(a.rope_interleaved && a.tied && !a.qkv_bias);
    assert_int_equal(a.eos_count, 1);
    assert_int_equal(a.eos[0], 2);
    assert_int_equal(a.bos, 1);
    for (enum role role = 0; role < ROLE_COUNT; role++)
        for (uint32_t layer = 0; layer < 3; layer++) {
            int there = role != ROLE_HEAD && !elsewhere(role) && role != ROLE_Q_BIAS &&
                        role != ROLE_K_BIAS && role != ROLE_V_BIAS &&
                        (role < ROLE_FIRST_LAYERED || layer < 2);

            assert_int_equal(arch_tensor(&a, g, role, layer, &ref), there);
        }
    assert_int_equal(arch_tensor(&a, g, ROLE_DOWN, 1, &ref), 1);
    assert_int_equal(ref.tensor->shape[0], FFN);
    assert_int_equal(ref.first, 0);
    assert_int_equal(ref.count, WIDTH);
    assert_string_equal(ref.tensor->name, "blk.1.ffn_down.weight");
    source_close(g);
}

static void more_keys(struct builder *b)
{
    pair_u32(b, "llama.attention.key_length", 16);
    pair_u32(b, "llama.attention.value_length", 16);
    pair_u32(b, "llama.rope.dimension_count", 8);
    pair_u32(b, "llama.vocab_size", TOKENS);
    pair_f32(b, "llama.rope.freq_base", 500000);
    pair_string(b, "llama.rope.scaling.type", "none");
    pair_f32(b, "llama.rope.scaling.factor", 1);
    pair_f32(b, "llama.rope.scaling.attn_factor", 1);
    pair_u32(b, "llama.expert_count", 0);
    pair_u32(b, "llama.attention.sliding_window", 0);
    pair_bool(b, "llama.attention.causal", 1);
    pair_u32(b, "tokenizer.ggml.eot_token_id", 2);
    pair_u32(b, "tokenizer.ggml.eom_token_id", 5);
    pair_array(b, "tokenizer.ggml.tokens", 8, TOKENS);
    for (char c = 0; c < TOKENS; c++)
        put_string(b, &c, 1);
}

static void full_model(void **state)
{
    static const struct tensor more[] = {
        {"output.weight", 0, DTYPE_Q8_0, WIDTH, TOKENS},
        {"rope_freqs.weight", 0, DTYPE_F32, 4, 0},
        {"attn_q.bias", 1, DTYPE_F32, WIDTH, 0},
        {"attn_k.bias", 1, DTYPE_F32, KV, 0},
        {"attn_v.bias", 1, DTYPE_F32, KV, 0},
        {NULL, 0, 0, 0, 0},
    };
    const struct change c = {.pairs = more_keys, .add = more};
    struct source *g;
    struct arch a = read_changed(&c, &g);
    struct arch_ref ref;

    (void)state;
    assert_true(!a.tied && a.qkv_bias);
    assert_int_equal(a.rope[0].dims, 8);
    assert_true(fabsf(a.rope[0].theta - 500000) <= 0);
    assert_int_equal(a.rope[0].scaled, 4);
    assert_true(fabsf(arch_rope_factors(&a.rope[0], 128)[3] - 0.747f) < 1e-3f);
    assert_int_equal(a.eos_count, 2);
    assert_int_equal(a.eos[1], 5);
    for (enum role role = 0; role < ROLE_COUNT; role++)
        assert_int_equal(arch_tensor(&a, g, role, 1, &ref), !elsewhere(role));
    source_close(g);
}

static void absent_keys(void **state)
{
    static const char *const needed[] = {
        "llama.block_count",          "llama.context_length",
        "llama.embedding_length",     "llama.feed_forward_length",
        "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon",
    };
    const struct change no_ends = {.omit_key = "tokenizer.ggml.eos_token_id"};
    const struct change no_bos = {.omit_key = "tokenizer.ggml.bos_token_id"};
    struct source *g;

    (void)state;
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        const struct change c = {.omit_key = needed[i]};
        char text[96];

        snprintf(text, sizeof(text), "key %s is missing", needed[i]);
        expect_refusal(&c, STATUS_CORRUPT, text);
    }
    assert_int_equal(read_changed(&no_ends, &g).eos_count, 0);
    source_close(g);
    assert_int_equal(read_changed(&no_bos, &g).bos, -1);
    source_close(g);
}

static void wrong_tensors(void **state)
{
    (void)state;
    for (size_t i = 0; i < PLAIN_COUNT; i++) {
        const char *prefix = plain[i].layered ? "blk.0." : "";
        const struct change absent = {.omit_tensor = plain[i].name};
        struct tensor twice = plain[i], typed = plain[i];
        const struct change shape = {.replace = &twice}, type = {.replace = &typed};
        char text[96];

        snprintf(text, sizeof(text), "tensor %s%s is missing", prefix, plain[i].name);
        expect_refusal(&absent, STATUS_CORRUPT, text);
        if (i > 0) { /* the embedding's rows are the vocabulary */
            twice.columns *= 2;
            snprintf(text, sizeof(text), "tensor %s%s is %" PRIu64 "x", prefix, plain[i].name,
                     twice.columns);
            expect_refusal(&shape, STATUS_CORRUPT, text);
        }
        typed.type = typed.rows ? 20 : DTYPE_F16; /* IQ4_NL */
        snprintf(text, sizeof(text), "tensor %s%s is stored as %s", prefix, plain[i].name,
                 typed.rows ? "IQ4_NL" : "F16");
        expect_refusal(&type, STATUS_UNSUPPORTED, text);
    }
}

static void further_tensors(void **state)
{
    static const struct {
        struct tensor add[3];
        enum status status;
        const char *text;
    } cases[] = {
        {{{"ffn_gate_inp.weight", 1, 0, 64, 8}, {0}},
         STATUS_UNSUPPORTED,
         "blk.0.ffn_gate_inp.weight"},
        {{{"attn_output.bias", 1, 0, 64, 0}, {0}}, STATUS_UNSUPPORTED, "blk.0.attn_output.bias"},
        {{{"blk.2.attn_norm.weight", 0, 0, 64, 0}, {0}}, STATUS_UNSUPPORTED, "blk.2.attn_norm"},
        {{{"blk.00.attn_norm.weight", 0, 0, 64, 0}, {0}}, STATUS_UNSUPPORTED, "blk.00.attn_norm"},
        {{{"attn_q.bias", 1, 0, 64, 0}, {0}}, STATUS_CORRUPT, "blk.0.attn_k.bias is missing"},
        {{{"blk.1.attn_q.bias", 0, 0, 64, 0}, {0}}, STATUS_UNSUPPORTED, "blk.1.attn_q.bias"},
        {{{"rope_freqs.weight", 0, 0, 16, 0}, {0}}, STATUS_CORRUPT, "rope_freqs.weight is 16x1x"},
        {{{"output.weight", 0, 8, 64, 31}, {0}}, STATUS_CORRUPT, "output.weight is 64x31x"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct change c = {.add = cases[i].add};

        expect_refusal(&c, cases[i].status, cases[i].text);
    }
}

/* One further or changed number. */
static const char *odd_key;
static uint32_t odd_value;

static void put_odd(struct builder *b)
{
    pair_u32(b, odd_key, odd_value);
}

static void wrong_integers(void **state)
{
    static const struct {
        const char *key;
        uint32_t value;
        int instead; /* of the plain one */
        enum status status;
        const char *text;
    } cases[] = {
        {"llama.block_count", 0, 1, STATUS_CORRUPT, "block_count is 0"},
        {"llama.block_count", 513, 1, STATUS_CORRUPT, "block_count is 513"},
        {"llama.block_count", 3, 1, STATUS_CORRUPT, "blk.2.attn_norm.weight is missing"},
        {"llama.attention.head_count", 0, 1, STATUS_CORRUPT, "head_count is 0"},
        {"llama.attention.head_count", 3, 1, STATUS_CORRUPT, "do not share"},
        {"llama.attention.head_count", 1u << 20, 1, STATUS_CORRUPT, "key_length"},
        {"llama.embedding_length", UINT32_MAX, 1, STATUS_CORRUPT, "embedding_length is 4294967295"},
        {"llama.attention.head_count_kv", 3, 1, STATUS_CORRUPT, "do not share"},
        {"llama.attention.key_length", 1u << 20, 0, STATUS_CORRUPT, "are too many"},
        {"llama.attention.value_length", 8, 0, STATUS_UNSUPPORTED, "values of 8 and keys of 16"},
        {"llama.rope.dimension_count", 7, 0, STATUS_CORRUPT, "rope.dimension_count is 7"},
        {"llama.rope.dimension_count", 18, 0, STATUS_CORRUPT, "rope.dimension_count is 18"},
        {"llama.expert_count", 8, 0, STATUS_UNSUPPORTED, "key llama.expert_count"},
        {"llama.expert_used_count", 2, 0, STATUS_UNSUPPORTED, "key llama.expert_used_count"},
        {"llama.logit_scale", 1, 0, STATUS_UNSUPPORTED, "key llama.logit_scale"},
        {"llama.rope.scaling.type", 1, 0, STATUS_CORRUPT, "rope.scaling.type is u32"},
        {"tokenizer.ggml.eos_token_id", TOKENS, 1, STATUS_CORRUPT, "eos_token_id is 32"},
        {"tokenizer.ggml.eot_token_id", 4000, 0, STATUS_CORRUPT, "eot_token_id is 4000"},
        {"tokenizer.ggml.bos_token_id", 4000, 1, STATUS_CORRUPT, "bos_token_id is 4000"},
        {"tokenizer.ggml.tokens", 1, 0, STATUS_CORRUPT, "tokenizer.ggml.tokens is u32"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct change c = {.omit_key = cases[i].instead ? cases[i].key : NULL,
                                 .pairs = put_odd};

        odd_key = cases[i].key;
        odd_value = cases[i].value;
        expect_refusal(&c, cases[i].status, cases[i].text);
    }
}

static void scaled_rope(struct builder *b)
{
    pair_string(b, "llama.rope.scaling.type", "longrope");
    pair_f32(b, "llama.rope.scaling.factor", 4);
}

static void louder_rope(struct builder *b)
{
    pair_f32(b, "llama.rope.scaling.attn_factor", 1.2f);
}

static void not_causal(struct builder *b)
{
    pair_bool(b, "llama.attention.causal", 0);
}

static void nan_theta(struct builder *b)
{
    pair_f32(b, "llama.rope.freq_base", NAN);
}

static void nan_epsilon(struct builder *b)
{
    pair_f32(b, "llama.attention.layer_norm_rms_epsilon", NAN);
}

static void negative_epsilon(struct builder *b)
{
    pair_f32(b, "llama.attention.layer_norm_rms_epsilon", -1);
}

static void few_tokens(struct builder *b)
{
    pair_array(b, "tokenizer.ggml.tokens", 8, 1);
    put_string(b, "a", 1);
}

static void wrong_values(void **state)
{
    static const char epsilon[] = "llama.attention.layer_norm_rms_epsilon";
    static const struct {
        struct change change;
        enum status status;
        const char *text;
    } cases[] = {
        {{.pairs = scaled_rope}, STATUS_UNSUPPORTED, "key llama.rope.scaling.type"},
        {{.pairs = louder_rope}, STATUS_UNSUPPORTED, "key llama.rope.scaling.attn_factor"},
        {{.pairs = not_causal}, STATUS_UNSUPPORTED, "key llama.attention.causal"},
        {{.pairs = nan_theta}, STATUS_CORRUPT, "key llama.rope.freq_base"},
        {{.omit_key = epsilon, .pairs = nan_epsilon}, STATUS_CORRUPT, epsilon},
        {{.omit_key = epsilon, .pairs = negative_epsilon}, STATUS_CORRUPT, epsilon},
        {{.pairs = few_tokens}, STATUS_CORRUPT, "tokenizer.ggml.tokens has 1 tokens"},
        {{.family = "mamba"}, STATUS_UNSUPPORTED, "model family mamba"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect_refusal(&cases[i].change, cases[i].status, cases[i].text);
}

/* The two tables that may not know each other agree. */
static void types_of_kernels(void **state)
{
    size_t weights = 0;

    (void)state;
    for (uint32_t i = 0; i < 64; i++) {
        const struct ggml_type *type = ggml_type_get(i);

        assert_int_equal(dtype_block_bytes(i) != 0, type && type->weight);
        if (!type || !type->weight)
            continue;
        assert_int_equal(dtype_block_bytes(i), type->block_bytes);
        assert_int_equal(dtype_block_elements(i), type->block_elements);
        assert_string_equal(dtype_name(i), type->name);
        weights++;
    }
    assert_int_equal(weights, 14);
}

static void real_model(void **state)
{
    const char *path = getenv("MODELPOOL_TEST_MODEL");
    struct error err = {.text = ""};
    struct arch a;
    struct source *g;

    (void)state;
    if (!path) {
        print_message("MODELPOOL_TEST_MODEL is not set\n");
        skip();
    }
    g = source_open(path, &err);
    if (!g || arch_read(&a, g, &err))
        fail_msg("%s", err.text);
    assert_int_equal(a.layers, 30);
    assert_int_equal(a.width, 576);
    assert_int_equal(a.heads, 9);
    assert_int_equal(a.kv_heads, 3);
    assert_int_equal(a.head_dim, 64);
    assert_int_equal(a.ffn, 1536);
    assert_int_equal(a.vocabulary, 49152);
    assert_int_equal(a.eos[0], 2);
    assert_true(a.tied);
    source_close(g);
}

static void widest_rows(void **state)
{
    struct arch a = {.width = ARCH_COLS_MAX,
                     .heads = 512,
                     .head_dim = ARCH_COLS_MAX / 512,
                     .ffn = ARCH_COLS_MAX / 2,
                     .expert_ffn = ARCH_COLS_MAX / 2};
    struct arch wide = a;
    struct error err;

    (void)state;
    assert_int_equal(arch_check_cols(&a, &err), 0);
    wide.expert_ffn++;
    assert_int_equal(arch_check_cols(&wide, &err), -1);
    assert_int_equal(err.status, STATUS_UNSUPPORTED);
    assert_string_equal(err.text, "twice an expert's width is 65538, and an engine's activations "
                                  "have at most 65536 elements");
    wide = a;
    wide.ffn = UINT32_MAX; /* no overflow */
    assert_int_equal(arch_check_cols(&wide, &err), -1);
    wide = a;
    wide.heads = wide.head_dim = 1u << 16;
    assert_int_equal(arch_check_cols(&wide, &err), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_model),     cmocka_unit_test(full_model),
        cmocka_unit_test(absent_keys),     cmocka_unit_test(wrong_tensors),
        cmocka_unit_test(further_tensors), cmocka_unit_test(wrong_integers),
        cmocka_unit_test(wrong_values),    cmocka_unit_test(types_of_kernels),
        cmocka_unit_test(widest_rows),     cmocka_unit_test(real_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
