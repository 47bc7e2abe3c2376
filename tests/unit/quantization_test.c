/* quantization_test.c - quantization_config and the scales of FP8 weights: what is understood, and
 * that all else is refused by name */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/ggml_type.h"
#include "model/source.h"
#include "tests/unit/checkpoint_folder.h"

#define BLOCK   "\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]"
#define WEIGHTS "\"num_bits\":8,\"type\":\"float\",\"symmetric\":true,\"dynamic\":false"

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

/* Settings, "" for none; and a file with tensors of these entries one after the other. */
struct stored {
    const char *name, *dtype, *shape;
    size_t bytes;
};

static void put(const char *settings, const struct stored *tensors, size_t count)
{
    char config[2048], header[4096];
    size_t len = 1, at = 0;

    snprintf(config, sizeof(config), "{\"model_type\":\"llama\"%s%s%s}",
             settings[0] ? ",\"quantization_config\":{" : "", settings, settings[0] ? "}" : "");
    checkpoint_text(&folder, "config.json", config);
    header[0] = '{';
    for (size_t i = 0; i < count; i++) {
        len += (size_t)snprintf(
            header + len, sizeof(header) - len,
            "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", i ? "," : "",
            tensors[i].name, tensors[i].dtype, tensors[i].shape, at, at + tensors[i].bytes);
        at += tensors[i].bytes;
    }
    snprintf(header + len, sizeof(header) - len, "}");
    checkpoint_tensors(&folder, "model.safetensors", header, at);
}

static void expect_refusal(enum status status, const char *text)
{
    struct error err = {.text = ""};
    struct source *s = source_open(folder.folder, &err);

    if (s || err.status != status || !strstr(err.text, text))
        fail_msg("wanted \"%s\": %d %s", text, (int)err.status, err.text);
}

/* The only weight's scales come out so. */
static void expect_tile(uint64_t rows, uint64_t cols)
{
    struct error err = {.text = ""};
    struct source *s = source_open(folder.folder, &err);
    const struct source_tensor *t;

    if (!s)
        fail_msg("%s", err.text);
    t = source_find_tensor(s, "a.weight");
    assert_int_equal(t->type, GGML_TYPE_F8);
    assert_non_null(t->scale);
    assert_memory_equal(t->scale->name, "a.weight_scale", 14);
    assert_int_equal(t->scale_rows, rows);
    assert_int_equal(t->scale_cols, cols);
    assert_null(t->scale->scale);
    source_close(s);
}

/* --- settings --------------------------------------------------------------------------------- */

static void good_settings(void **state)
{
    static const char *const all[] = {
        BLOCK,
        BLOCK
        ",\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\",\"scale_fmt\":\"ue8m0\","
        "\"dequantize\":false,\"modules_to_not_convert\":[\"lm_head\"],\"expert_dtype\":\"fp8\"",
        "\"quant_method\":\"fp8\",\"weight_block_size\":null,\"activation_scheme\":\"static\","
        "\"ignored_layers\":null",
        "\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\",\"ignore\":[\"x\"],"
        "\"kv_cache_scheme\":null,\"sparsity_config\":{\"format\":\"dense\"},\"transform_config\":{"
        "},"
        "\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],\"input_activations\":{},"
        "\"weights\":{" WEIGHTS ",\"strategy\":\"channel\",\"group_size\":null}}}",
        "\"quant_method\":\"compressed-tensors\",\"config_groups\":{"
        "\"one\":{\"weights\":{" WEIGHTS ",\"strategy\":\"block\",\"block_structure\":[128,256]}},"
        "\"two\":{\"weights\":{" WEIGHTS ",\"strategy\":\"block\",\"block_structure\":[128,256]}}}",
    };
    const struct stored plain = {"a.weight", "F32", "[1]", 4};

    (void)state;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct error err = {.text = ""};
        struct source *s;

        put(all[i], &plain, 1);
        s = source_open(folder.folder, &err);
        if (!s)
            fail_msg("case %zu: %s", i, err.text);
        source_close(s);
    }
}

static void refused_settings(void **state)
{
#define COMPRESSED(more) "\"quant_method\":\"compressed-tensors\"," more
#define GROUP(weights)   COMPRESSED("\"config_groups\":{\"g\":{\"weights\":{" weights "}}}")
    static const char *const all[][2] = {
        {BLOCK ",\"fmt\":\"e5m2\"", "fmt: e5m2 is not supported (fp8)"},
        {BLOCK ",\"activation_scheme\":7", "activation_scheme: 7"},
        {BLOCK ",\"expert_dtype\":\"fp4\"", "expert_dtype: fp4"},
        {BLOCK ",\"scale_fmt\":\"other\"", "scale_fmt: other"},
        {BLOCK ",\"something\":\"new\"", "something: new"},
        {BLOCK ",\"modules_to_not_convert\":\"lm_head\"", "modules_to_not_convert: lm_head"},
        {BLOCK ",\"modules_to_not_convert\":[3]", "modules_to_not_convert: 3"},
        {"\"quant_method\":\"fp8\",\"weight_block_size\":[128]", "must be two integers"},
        {"\"quant_method\":\"fp8\",\"weight_block_size\":[0,128]", "must be two integers"},
        {"\"quant_method\":\"fp8\",\"weight_block_size\":[128,1e30]", "must be two integers"},
        {"\"quant_method\":\"fp8\",\"weight_block_size\":[99999999999,128]", "two integers"},
        {"\"quant_method\":\"fp8\",\"weight_block_size\":[64,64]", "blocks of 64 columns"},
        {"\"quant_method\":\"fp8\",\"weight_block_size\":\"128x128\"", "must be two integers"},
        {COMPRESSED("\"kv_cache_scheme\":{\"num_bits\":8}"), "kv_cache_scheme"},
        {COMPRESSED("\"format\":\"int-quantized\""), "format: int-quantized"},
        {COMPRESSED("\"format\":\"pack-quantized\""), "format: pack-quantized"},
        {COMPRESSED("\"sparsity_config\":{\"format\":\"sparse-24-bitmask\"}"), "sparse-24-bitmask"},
        {COMPRESSED("\"transform_config\":{\"u\":1}"), "transform_config"},
        {COMPRESSED("\"config_groups\":{}"), "config_groups"},
        {COMPRESSED("\"version\":\"1\""), "config_groups"},
        {COMPRESSED("\"config_groups\":{\"g\":{\"targets\":[\"Linear\"]}}"), "weights"},
        {COMPRESSED("\"config_groups\":{\"g\":3}"), "weights"},
        {GROUP("\"num_bits\":8,\"type\":\"int\""), "weights: type: int"},
        {GROUP("\"num_bits\":4,\"type\":\"float\""), "num_bits: 4"},
        {GROUP("\"num_bits\":8,\"type\":\"float\",\"symmetric\":false"), "weights: symmetric"},
        {GROUP("\"num_bits\":8,\"type\":\"float\",\"symmetric\":true,\"dynamic\":true"),
         "weights: dynamic"},
        {GROUP(WEIGHTS ",\"strategy\":\"group\",\"group_size\":128"), "group_size: 128"},
        {GROUP(WEIGHTS ",\"strategy\":\"tensor_group\""), "strategy: tensor_group"},
        {GROUP(WEIGHTS ",\"strategy\":\"block\",\"block_structure\":null"), "block_structure"},
        {GROUP(WEIGHTS ",\"strategy\":\"channel\",\"odd\":1"), "odd: 1"},
        {COMPRESSED("\"config_groups\":{\"a\":{\"weights\":{" WEIGHTS
                    ",\"strategy\":\"channel\"}},\"b\":{\"weights\":{" WEIGHTS
                    ",\"strategy\":\"tensor\"}}}"),
         "different strategies"},
        {COMPRESSED(
             "\"config_groups\":{\"a\":{\"format\":\"nvfp4-pack-quantized\",\"weights\":{}}}"),
         "format: nvfp4-pack-quantized"},
        {"\"quant_method\":\"modelopt\"", "modelopt"},
        {"\"quant_method\":\"fbgemm_fp8\"", "fbgemm_fp8"},
        {"\"bits\":8", "quantized (quantization_config: none"},
    };
    const struct stored plain = {"a.weight", "F32", "[1]", 4};

    (void)state;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        put(all[i][0], &plain, 1);
        expect_refusal(STATUS_UNSUPPORTED, all[i][1]);
    }
}

/* --- scales ----------------------------------------------------------------------------------- */

#define WEIGHT(rows, cols)                                                                         \
    {                                                                                              \
        "a.weight", "F8_E4M3", "[" #rows "," #cols "]", (rows) * (cols)                            \
    }

static void good_scales(void **state)
{
    const struct stored block[] = {WEIGHT(130, 136), {"a.weight_scale_inv", "F32", "[2,2]", 16}};
    const struct stored half[] = {WEIGHT(130, 136), {"a.weight_scale_inv", "BF16", "[2,2]", 8}};
    const struct stored scalar[] = {WEIGHT(6, 4), {"a.weight_scale", "F32", "[]", 4}};
    const struct stored one[] = {WEIGHT(6, 4), {"a.weight_scale", "BF16", "[1]", 2}};
    const struct stored rows[] = {WEIGHT(6, 4), {"a.weight_scale", "BF16", "[6,1]", 12}};
    const struct stored list[] = {WEIGHT(6, 4), {"a.weight_scale_inv", "F16", "[6]", 12}};
    const char *whole = "\"quant_method\":\"fp8\"";

    (void)state;
    put(BLOCK, block, 2);
    expect_tile(128, 128);
    put(BLOCK, half, 2);
    expect_tile(128, 128);
    put(whole, scalar, 2);
    expect_tile(6, 4);
    put(whole, one, 2);
    expect_tile(6, 4);
    put(whole, rows, 2);
    expect_tile(1, 4);
    put(whole, list, 2);
    expect_tile(1, 4);
    put(GROUP(WEIGHTS ",\"strategy\":\"channel\""), rows, 2);
    expect_tile(1, 4);
    put(GROUP(WEIGHTS ",\"strategy\":\"tensor\""), one, 2);
    expect_tile(6, 4);
}

static void refused_scales(void **state)
{
    static const struct {
        const char *settings;
        struct stored tensors[2];
        enum status status;
        const char *text;
    } all[] = {
        {"",
         {WEIGHT(6, 4)},
         STATUS_UNSUPPORTED,
         "tensor a.weight is stored as F8_E4M3, and config"},
        {BLOCK, {WEIGHT(6, 4)}, STATUS_CORRUPT, "tensor a.weight_scale_inv is missing"},
        {GROUP(WEIGHTS ",\"strategy\":\"channel\""),
         {WEIGHT(6, 4), {"a.weight_scale_inv", "F32", "[1,1]", 4}},
         STATUS_CORRUPT,
         "tensor a.weight_scale is missing"},
        {BLOCK,
         {WEIGHT(130, 136), {"a.weight_scale_inv", "F32", "[2,1]", 8}},
         STATUS_CORRUPT,
         "tensor a.weight_scale_inv of 2x1 scales does not fit a weight of 130 rows and 136"},
        {BLOCK,
         {WEIGHT(6, 4), {"a.weight_scale_inv", "F32", "[6,1]", 24}},
         STATUS_CORRUPT,
         "6x1 scales does not fit"},
        {BLOCK,
         {WEIGHT(6, 4), {"a.weight_scale_inv", "F32", "[1]", 4}},
         STATUS_CORRUPT,
         "does not fit"},
        {BLOCK,
         {WEIGHT(6, 4), {"a.weight_scale_inv", "F32", "[1,1,1]", 4}},
         STATUS_CORRUPT,
         "does not fit"},
        {BLOCK,
         {WEIGHT(6, 4), {"a.weight_scale_inv", "F8_E4M3", "[1,1]", 1}},
         STATUS_UNSUPPORTED,
         "tensor a.weight_scale_inv is stored as F8_E4M3; scales are"},
        {BLOCK,
         {WEIGHT(6, 4), {"a.weight_scale_inv", "F8_E8M0", "[1,1]", 1}},
         STATUS_UNSUPPORTED,
         "tensor a.weight_scale_inv is stored as F8_E8M0;"},
        {"\"quant_method\":\"fp8\"",
         {WEIGHT(6, 4), {"a.weight_scale", "F32", "[3]", 12}},
         STATUS_CORRUPT,
         "1x3 scales does not fit"},
        {"\"quant_method\":\"fp8\"",
         {WEIGHT(6, 4), {"a.weight_scale", "F32", "[1,6]", 24}},
         STATUS_CORRUPT,
         "does not fit"},
        {GROUP(WEIGHTS ",\"strategy\":\"tensor\""),
         {WEIGHT(6, 4), {"a.weight_scale", "F32", "[6,1]", 24}},
         STATUS_CORRUPT,
         "(compressed-tensors)"},
        {GROUP(WEIGHTS ",\"strategy\":\"channel\""),
         {WEIGHT(6, 4), {"a.weight_scale", "F32", "[1]", 4}},
         STATUS_CORRUPT,
         "does not fit"},
        {BLOCK,
         {{"a.weight", "F8_E4M3", "[2,6,4]", 48}, {"a.weight_scale_inv", "F32", "[2,1,1]", 8}},
         STATUS_UNSUPPORTED,
         "tensor a.weight of F8_E4M3 has 3 dimensions"},
        {BLOCK,
         {{"a.weight", "F8_E4M3", "[6]", 6}, {"a.weight_scale_inv", "F32", "[1]", 4}},
         STATUS_UNSUPPORTED,
         "only matrices"},
        {BLOCK,
         {{"a.weight", "F8_E5M2", "[6,4]", 24}, {"a.weight_scale_inv", "F32", "[1,1]", 4}},
         STATUS_UNSUPPORTED,
         "tensor a.weight is stored as F8_E5M2;"},
        {BLOCK,
         {WEIGHT(6, 4), {"a.weight_scale_inv", "F32", "[1,4611686018427387904]", 4}},
         STATUS_CORRUPT,
         "impossible dimension"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        put(all[i].settings, all[i].tensors, all[i].tensors[1].name ? 2 : 1);
        expect_refusal(all[i].status, all[i].text);
    }
}

/* A module that is said to be plain is no FP8: by its name, its place, or its last part. */
static void plain_modules(void **state)
{
    static const struct {
        const char *weight, *entry;
        int refused;
    } all[] = {
        {"model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj", 1},
        {"model.layers.1.mlp.up_proj", "model.layers.1", 1},
        {"model.layers.1.mlp.up_proj", "up_proj", 1},
        {"model.layers.1.mlp.up_proj", "mlp.up_proj", 1},
        {"model.layers.10.mlp.up_proj", "model.layers.1", 0},
        {"model.layers.1.mlp.gate_up_proj", "up_proj", 0},
        {"model.layers.1.mlp.up_proj", "", 0},
        {"model.layers.1.mlp.up_proj", "lm_head", 0},
        {"model.layers.1.mlp.up_proj", "re:.*up_proj", 0}, /* its dtype says what it is */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        char settings[256], weight[96], scale[96];
        struct error err = {.text = ""};
        struct source *s;

        snprintf(settings, sizeof(settings), BLOCK ",\"modules_to_not_convert\":[\"%s\"]",
                 all[i].entry);
        snprintf(weight, sizeof(weight), "%s.weight", all[i].weight);
        snprintf(scale, sizeof(scale), "%s.weight_scale_inv", all[i].weight);
        const struct stored tensors[] = {{weight, "F8_E4M3", "[6,4]", 24},
                                         {scale, "F32", "[1,1]", 4}};
        put(settings, tensors, 2);
        s = source_open(folder.folder, &err);
        if (all[i].refused ? s != NULL || !strstr(err.text, "lists its module") : s == NULL)
            fail_msg("case %zu: %s", i, err.text);
        source_close(s);
    }
}

static void activation_scales(void **state)
{
    const struct stored tensors[] = {WEIGHT(6, 4),
                                     {"a.weight_scale", "F32", "[]", 4},
                                     {"a.input_scale", "F32", "[]", 4},
                                     {"b.weight", "F32", "[1]", 4},
                                     {"b.input_scale", "F32", "[]", 4},
                                     {"c.activation_scale", "F32", "[]", 4}};
    static const char *const names[] = {"a.input_scale", "a.weight_scale", "a.weight",
                                        "b.input_scale", "c.activation_scale"};
    struct error err = {.text = ""};
    struct source *s;

    (void)state;
    put("\"quant_method\":\"fp8\"", tensors, 6);
    s = source_open(folder.folder, &err);
    if (!s)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(source_is_activation_scale(s, source_find_tensor(s, names[i])), i == 0);
    source_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_settings), cmocka_unit_test(refused_settings),
        cmocka_unit_test(good_scales),   cmocka_unit_test(refused_scales),
        cmocka_unit_test(plain_modules), cmocka_unit_test(activation_scales),
    };

    return cmocka_run_group_tests(tests, start_folder, end_folder);
}
