/*
 * engine_f8_test.c - FP8 weights through a whole engine: what lies in memory is what the file says,
 * scales in another shard are found, and a weight or scale that is no number is refused by name
 *
 * The checkpoints are tiny random ones of tests/golden/families (fp8.py).
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/ggml_type.h"
#include "tests/unit/checkpoint_folder.h"
#include "tests/unit/engine_rig.h"

#define GOLDEN SRCDIR "/tests/golden/families/"
#define MEMORY ((uint64_t)64 << 20)
#define TOKENS 24u

static struct checkpoint folder;

static int start_folder(void **state)
{
    (void)state;
    checkpoint_start(&folder);
    return 0;
}

static int end_folder(void **state)
{
    (void)state;
    checkpoint_remove(&folder);
    return 0;
}

static unsigned char *read_all(const char *model, const char *name, size_t *len)
{
    char path[512];
    unsigned char *bytes;
    FILE *f;

    snprintf(path, sizeof(path), GOLDEN "%s/%s", model, name);
    f = fopen(path, "r");
    if (!f || fseek(f, 0, SEEK_END) != 0)
        fail_msg("%s cannot be read", path);
    *len = (size_t)ftell(f);
    rewind(f);
    bytes = malloc(*len + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *len, f), *len);
    fclose(f);
    return bytes;
}

static struct source *open_source(const char *path)
{
    struct error err = {.text = ""};
    struct source *s = source_open(path, &err);

    if (!s)
        fail_msg("%s", err.text);
    return s;
}

static void open_model(struct rig *r, uint32_t id, const char *path)
{
    rig_model(r, id, path, 0);
    if (!r->model.ok)
        fail_msg("%s: %s", path, r->model.text);
}

/* --- what lies in memory ---------------------------------------------------------------------- */

/* A stored scale. */
static float scale_at(const unsigned char *file, const struct source_tensor *t, uint64_t i)
{
    uint32_t bits = 0;
    float f;

    memcpy((char *)&bits + (t->type == GGML_TYPE_F32 ? 0 : 2),
           file + t->offset + i * (t->type == GGML_TYPE_F32 ? 4 : 2),
           t->type == GGML_TYPE_F32 ? 4 : 2);
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Rows of a weight that lies resident, against the file's codes and scales from `first` on. */
static void check_weight(const struct weight *w, const struct source *s, const unsigned char *file,
                         const char *name, uint64_t first)
{
    const struct source_tensor *t = source_find_tensor(s, name);
    uint64_t across = (t->shape[0] + t->scale_cols - 1) / t->scale_cols;

    assert_int_equal(w->dtype, DTYPE_F8);
    assert_int_equal(w->cols, t->shape[0]);
    for (uint64_t r = 0; r < w->rows; r++) {
        const uint8_t *row = (const uint8_t *)w->data + r * dtype_row_bytes(DTYPE_F8, w->cols);
        const unsigned char *codes = file + t->offset + (first + r) * w->cols;
        uint64_t at = w->cols;

        assert_memory_equal(row, codes, w->cols);
        for (; at < f8_scales_at(w->cols); at++)
            assert_int_equal(row[at], 0);
        for (uint64_t b = 0; b < (w->cols + 127) / 128; b++, at += 4) {
            float scale = scale_at(file, t->scale,
                                   (first + r) / t->scale_rows * across + b * 128 / t->scale_cols);
            assert_memory_equal(row + at, &scale, 4);
        }
        for (; at < dtype_row_bytes(DTYPE_F8, w->cols); at++)
            assert_int_equal(row[at], 0);
    }
}

static void check_resident(const char *name, const char *in, int fused)
{
    char path[256];
    struct source *s;
    unsigned char *file;
    struct rig r;
    size_t len;

    snprintf(path, sizeof(path), GOLDEN "%s", name);
    s = open_source(path);
    file = read_all(name, "model.safetensors", &len);
    rig_open(&r, MEMORY, 1, 4);
    open_model(&r, 1, path);
    rig_ref(&r, ORDER_LOAD, 1, 0);
    assert_int_equal(r.came, 1);
    const struct layer_weights *w = &r.e->residency.models[0]->layers[0];
    uint64_t q = w->q.rows, k = w->k.rows;
    check_weight(&w->q, s, file, fused ? in : "model.layers.0.self_attn.q_proj.weight", 0);
    check_weight(&w->k, s, file, fused ? in : "model.layers.0.self_attn.k_proj.weight",
                 fused ? q : 0);
    check_weight(&w->v, s, file, fused ? in : "model.layers.0.self_attn.v_proj.weight",
                 fused ? q + k : 0);
    check_weight(&w->down, s, file, "model.layers.0.mlp.down_proj.weight", 0);
    /* As one matrix, which is what they are multiplied as. */
    assert_int_equal(w->qkv.rows, w->q.rows + w->k.rows + w->v.rows);
    assert_int_equal(w->gate_up.rows, w->gate.rows + w->up.rows);
    rig_close(&r);
    source_close(s);
    free(file);
}

static void memory_is_the_file(void **state)
{
    (void)state;
    check_resident("qwen3-f8-block", NULL, 0);
    check_resident("llama-f8-channel", NULL, 0);
    check_resident("phi3-f8-block", "model.layers.0.self_attn.qkv_proj.weight", 1);
}

/* --- shards ----------------------------------------------------------------------------------- */

static const char *dtype_of(const struct source_tensor *t)
{
    return ggml_type_get(t->type)->name;
}

/* All scales, or all other tensors, of the whole file. */
static void write_shard(const struct source *s, const unsigned char *whole, int scales,
                        const char *name, json_t *map)
{
    json_t *header = json_object();
    unsigned char *data = malloc(1 << 20), *bytes;
    size_t used = 0, len;
    char *text;

    assert_non_null(data);
    for (size_t i = 0; i < source_tensor_count(s); i++) {
        const struct source_tensor *t = source_tensor(s, i);
        json_t *shape = json_array();

        if ((strstr(t->name, "_scale") != NULL) != scales) {
            json_decref(shape);
            continue;
        }
        for (uint32_t d = t->dims; d > 0; d--)
            json_array_append_new(shape, json_integer((json_int_t)t->shape[d - 1]));
        json_object_set_new(header, t->name,
                            json_pack("{s:s,s:o,s:[I,I]}", "dtype", dtype_of(t), "shape", shape,
                                      "data_offsets", (json_int_t)used,
                                      (json_int_t)(used + t->bytes)));
        json_object_set_new(map, t->name, json_string(name));
        assert_true(used + t->bytes <= 1 << 20);
        memcpy(data + used, whole + t->offset, t->bytes);
        used += t->bytes;
    }
    text = json_dumps(header, JSON_COMPACT);
    bytes = safetensors_bytes(text, strlen(text), used, &len);
    memcpy(bytes + len - used, data, used);
    checkpoint_write(&folder, name, bytes, len);
    free(bytes);
    free(text);
    free(data);
    json_decref(header);
}

static void ask(struct rig *r, uint64_t seq, uint32_t model)
{
    static const uint32_t prompt[] = {1, 40, 99, 7, 260, 13, 77, 5};

    rig_reset(r, seq);
    rig_seq(r, seq, model, prompt, sizeof(prompt) / sizeof(prompt[0]), 0, TOKENS,
            SAMPLING_IGNORE_EOS);
    rig_turn(r, model, 0);
    assert_string_equal(r->seqs[seq].fault, "");
    assert_int_equal(r->seqs[seq].count, TOKENS);
}

/* Scales in a shard of their own give the same tokens. */
static void scales_in_another_shard(void **state)
{
    struct source *s = open_source(GOLDEN "qwen3-f8-block");
    json_t *map = json_object(), *index = json_pack("{s:O}", "weight_map", map);
    size_t len, config_len;
    unsigned char *whole = read_all("qwen3-f8-block", "model.safetensors", &len);
    unsigned char *config = read_all("qwen3-f8-block", "config.json", &config_len);
    struct rig r;
    char *text;

    (void)state;
    write_shard(s, whole, 0, "weights.safetensors", map);
    write_shard(s, whole, 1, "scales.safetensors", map);
    text = json_dumps(index, 0);
    checkpoint_text(&folder, "model.safetensors.index.json", text);
    checkpoint_write(&folder, "config.json", config, config_len);
    rig_open(&r, MEMORY, 1, 4);
    open_model(&r, 1, GOLDEN "qwen3-f8-block");
    open_model(&r, 2, folder.folder);
    ask(&r, 1, 1);
    ask(&r, 2, 2);
    assert_memory_equal(r.seqs[1].tokens, r.seqs[2].tokens, TOKENS * sizeof(uint32_t));
    assert_memory_not_equal(r.seqs[1].tokens, r.seqs[1].tokens + 1,
                            (TOKENS - 1) * sizeof(uint32_t));
    rig_close(&r);
    free(text);
    json_decref(index);
    json_decref(map);
    free(whole);
    free(config);
    source_close(s);
    checkpoint_unlink(&folder, "model.safetensors.index.json");
}

/* --- what is no number ------------------------------------------------------------------------ */

/* The model with some bytes of a tensor changed cannot be loaded, and says why. */
static void expect_fault(const char *model, const char *tensor, uint64_t at, const void *bytes,
                         size_t count, const char *text)
{
    static const uint32_t prompt[] = {1, 2, 3};
    char path[256];
    struct source *s;
    size_t len, config_len;
    unsigned char *whole = read_all(model, "model.safetensors", &len);
    unsigned char *config = read_all(model, "config.json", &config_len);
    struct rig r;

    snprintf(path, sizeof(path), GOLDEN "%s", model);
    s = open_source(path);
    assert_true(at + count <= source_find_tensor(s, tensor)->bytes);
    memcpy(whole + source_find_tensor(s, tensor)->offset + at, bytes, count);
    source_close(s);
    checkpoint_write(&folder, "model.safetensors", whole, len);
    checkpoint_write(&folder, "config.json", config, config_len);
    rig_open(&r, MEMORY, 1, 4);
    open_model(&r, 1, folder.folder);
    rig_seq(&r, 1, 1, prompt, 3, 0, 5, 0);
    rig_turn(&r, 1, 0);
    if (text == NULL) {
        assert_int_equal(r.seqs[1].count > 0, 1);
    } else {
        assert_int_equal(r.turn_end.reason, TURN_FAULT);
        if (!strstr(r.turn_end.text, text))
            fail_msg("wanted \"%s\": %s", text, r.turn_end.text);
        assert_int_equal(r.e->residency.models[0]->resident, 0);
        rig_ref(&r, ORDER_SEQ_CLOSE, 1, 1);
    }
    rig_close(&r);
    free(whole);
    free(config);
}

static void expect_scale_fault(const char *model, const char *tensor, uint64_t i, float scale,
                               const char *text)
{
    uint32_t bits;
    int wide = strcmp(model, "qwen3-f8-block") == 0; /* float32, else bfloat16 */

    memcpy(&bits, &scale, sizeof(bits));
    expect_fault(model, tensor, i * (wide ? 4 : 2), (char *)&bits + (wide ? 0 : 2), wide ? 4 : 2,
                 text);
}

static void no_numbers(void **state)
{
#define UP "model.layers.0.mlp.up_proj.weight"
    const uint8_t nan = 0x7f, negative_nan = 0xff, largest = 0xfe;

    (void)state;
    expect_fault("qwen3-f8-block", UP, 137, &nan, 1, "tensor " UP ": a weight of row 1 is NaN");
    expect_fault("qwen3-f8-block", UP, 143 * 136 + 135, &negative_nan, 1,
                 "tensor " UP ": a weight of row 143 is NaN");
    expect_fault("qwen3-f8-block", UP, 0, &largest, 1, NULL);
    expect_scale_fault("qwen3-f8-block", UP "_scale_inv", 0, NAN,
                       "tensor " UP ": the scale of row 0, column 0 on is nan");
    expect_scale_fault("qwen3-f8-block", UP "_scale_inv", 3, INFINITY,
                       "tensor " UP ": the scale of row 128, column 128 on is inf");
    expect_scale_fault("qwen3-f8-block", UP "_scale_inv", 1, -1, "column 128 on is -1, no number");
    expect_scale_fault("qwen3-f8-block", UP "_scale_inv", 1, 1e30f, "is 1e+30, no number in 0..");
    expect_scale_fault("qwen3-f8-block", UP "_scale_inv", 1, 0, NULL);
    expect_scale_fault("llama-f8-channel", UP "_scale", 77, -INFINITY,
                       "tensor " UP ": the scale of row 77, column 0 on is -inf");
    expect_scale_fault("llama-f8-channel", UP "_scale", 77, 0.01f, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_the_file),
        cmocka_unit_test(scales_in_another_shard),
        cmocka_unit_test(no_numbers),
    };

    if (rig_device() != RIG_CPU)
        return 77; /* it looks into a CPU's memory; families_test runs FP8 on GPUs */
    return cmocka_run_group_tests(tests, start_folder, end_folder);
}
