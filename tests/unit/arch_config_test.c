/* arch_config_test.c - the architecture from config.json: what is refused, and how it is named */
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
#include <unistd.h>

#include "model/arch.h"

#define FOLDER SRCDIR "/tests/golden/families/"

/* A checkpoint of tests/golden/families/ with its config.json changed: `key` has `value` (JSON), or
 * is absent if that is NULL. */
static struct source *open_changed(const char *name, const char *key, const char *value)
{
    char dir[] = "/tmp/arch_config_test.XXXXXX", from[512], to[512];
    struct error err = {.text = ""};
    struct source *s;
    json_t *config;

    assert_non_null(mkdtemp(dir));
    snprintf(from, sizeof(from), FOLDER "%s/config.json", name);
    config = json_load_file(from, 0, NULL);
    assert_non_null(config);
    if (key && value) {
        json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
        assert_non_null(v);
        assert_int_equal(json_object_set_new(config, key, v), 0);
    } else if (key) {
        assert_int_equal(json_object_del(config, key), 0);
    }
    snprintf(to, sizeof(to), "%s/config.json", dir);
    assert_int_equal(json_dump_file(config, to, 0), 0);
    json_decref(config);
    snprintf(from, sizeof(from), FOLDER "%s/model.safetensors", name);
    snprintf(to, sizeof(to), "%s/model.safetensors", dir);
    assert_int_equal(symlink(from, to), 0);
    s = source_open(dir, &err);
    unlink(to);
    snprintf(to, sizeof(to), "%s/config.json", dir);
    unlink(to);
    rmdir(dir);
    if (!s)
        fail_msg("%s", err.text);
    return s;
}

static struct arch *read_changed(const char *name, const char *key, const char *value)
{
    struct source *s = open_changed(name, key, value);
    struct arch *a = calloc(1, sizeof(*a));
    struct error err = {.text = ""};

    assert_non_null(a);
    if (arch_read(a, s, &err))
        fail_msg("%s", err.text);
    source_close(s);
    return a;
}

struct refusal {
    const char *name, *key, *value;
    enum status status;
    const char *text;
};

static void check_refusals(const struct refusal *cases, size_t count)
{
    struct arch *a = malloc(sizeof(*a)), *before = malloc(sizeof(*a));

    assert_true(a && before);
    memset(a, 0x5a, sizeof(*a));
    memcpy(before, a, sizeof(*a));
    for (size_t i = 0; i < count; i++) {
        struct source *s = open_changed(cases[i].name, cases[i].key, cases[i].value);
        struct error err = {.text = ""};
        int rv = arch_read(a, s, &err);

        if (rv != -1 || err.status != cases[i].status || !strstr(err.text, cases[i].text))
            fail_msg("%s with %s: %s: wanted \"%s\": %s", cases[i].name, cases[i].key,
                     cases[i].value ? cases[i].value : "(absent)", cases[i].text, err.text);
        assert_memory_equal(a, before, sizeof(*a));
        source_close(s);
    }
    free(a);
    free(before);
}

static void unsupported(void **state)
{
    static const struct refusal cases[] = {
        {"llama3", "model_type", "\"mamba\"", STATUS_UNSUPPORTED, "model family mamba"},
        {"llama3", "hidden_act", "\"gelu\"", STATUS_UNSUPPORTED, "hidden_act gelu"},
        {"gemma3", "hidden_activation", "\"gelu\"", STATUS_UNSUPPORTED, "hidden_activation gelu"},
        {"llama3", "rope_scaling", "{\"rope_type\": \"dynamic\", \"factor\": 2}",
         STATUS_UNSUPPORTED, "rope_type dynamic"},
        {"llama3", "rope_scaling", "{\"type\": \"mrope\", \"mrope_section\": [1]}",
         STATUS_UNSUPPORTED, "mrope_section"},
        {"llama3", "rope_scaling", "{\"rope_type\": \"longrope\"}", STATUS_UNSUPPORTED,
         "rope_type longrope"},
        {"llama3", "rope_scaling", "{\"rope_type\": 7}", STATUS_UNSUPPORTED, "rope_type"},
        {"qwen3", "layer_types", "[\"full_attention\", \"linear_attention\", \"full_attention\"]",
         STATUS_UNSUPPORTED, "layer 1 is of type linear_attention"},
        {"qwen3", "layer_types", "[\"full_attention\", \"mamba\", \"mamba\"]", STATUS_UNSUPPORTED,
         "layer 1 is of type mamba"},
        {"qwen3", "attention_bias", "true", STATUS_UNSUPPORTED, "key attention_bias"},
        {"llama3", "mlp_bias", "true", STATUS_UNSUPPORTED, "key mlp_bias"},
        {"llama3", "sliding_attention_factor", "2", STATUS_UNSUPPORTED, "sliding_attention_factor"},
        {"llama3", "embedding_multiplier", "2.0", STATUS_UNSUPPORTED, "key embedding_multiplier"},
        {"qwen3", "num_experts", "8", STATUS_UNSUPPORTED, "key num_experts"},
        {"olmo2", "sliding_window", "16", STATUS_UNSUPPORTED, "key sliding_window"},
        {"llama3", "sliding_window", "16", STATUS_UNSUPPORTED, "key sliding_window"},
        {"qwen3moe", "use_sliding_window", "true", STATUS_UNSUPPORTED, "key use_sliding_window"},
        {"smollm3", "use_sliding_window", "true", STATUS_UNSUPPORTED, "key use_sliding_window"},
        {"gemma3", "use_bidirectional_attention", "true", STATUS_UNSUPPORTED,
         "key use_bidirectional_attention"},
        {"phi3", "partial_rotary_factor", "0.1", STATUS_UNSUPPORTED, "a rope over 1 of 16"},
        {"llama3", "partial_rotary_factor", "1.5", STATUS_UNSUPPORTED, "a rope over"},
    };

    (void)state;
    check_refusals(cases, sizeof(cases) / sizeof(cases[0]));
}

static void corrupt(void **state)
{
    static const struct refusal cases[] = {
        {"llama3", "model_type", NULL, STATUS_CORRUPT, "key model_type is missing"},
        {"llama3", "hidden_size", NULL, STATUS_CORRUPT, "key hidden_size is missing"},
        {"llama3", "hidden_size", "\"32\"", STATUS_CORRUPT, "key hidden_size"},
        {"llama3", "hidden_size", "64", STATUS_CORRUPT, "model.embed_tokens.weight is 32x272x"},
        {"llama3", "num_hidden_layers", "513", STATUS_CORRUPT, "num_hidden_layers"},
        {"llama3", "num_hidden_layers", "4", STATUS_CORRUPT, "model.layers.3."},
        {"llama3", "num_hidden_layers", "2", STATUS_UNSUPPORTED, "tensor model.layers.2."},
        {"llama3", "num_attention_heads", "3", STATUS_CORRUPT, "do not share"},
        {"llama3", "num_attention_heads", "0", STATUS_CORRUPT, "num_attention_heads"},
        {"llama3", "num_attention_heads", "1048576", STATUS_CORRUPT, "are too many"},
        {"llama3", "rms_norm_eps", "-1", STATUS_CORRUPT, "rms_norm_eps"},
        {"llama3", "rope_theta", "0", STATUS_CORRUPT, "rope_theta"},
        {"granite", "logits_scaling", "1e-40", STATUS_CORRUPT, "logits_scaling"},
        {"llama3", "rope_scaling", "[8]", STATUS_CORRUPT, "are no object"},
        {"llama3", "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8}", STATUS_CORRUPT,
         "low_freq_factor is missing"},
        {"llama3", "rope_scaling",
         "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
         "\"high_freq_factor\": 4}",
         STATUS_CORRUPT, "must exceed"},
        {"llama3", "eos_token_id", "272", STATUS_CORRUPT, "eos_token_id"},
        {"llama3", "eos_token_id", "[2, -1]", STATUS_CORRUPT, "eos_token_id"},
        {"llama3", "bos_token_id", "\"one\"", STATUS_CORRUPT, "bos_token_id"},
        {"llama3", "tie_word_embeddings", "false", STATUS_CORRUPT, "lm_head.weight is missing"},
        {"phi3", "rope_scaling",
         "{\"type\": \"longrope\", \"short_factor\": [1], \"long_factor\": [1]}", STATUS_CORRUPT,
         "short_factor"},
        {"phi3", "rope_scaling",
         "{\"type\": \"longrope\", \"short_factor\": [1, 1, 1, 1, 1, 0], "
         "\"long_factor\": [1, 1, 1, 1, 1, 1]}",
         STATUS_CORRUPT, "short_factor"},
        {"qwen3", "layer_types", "[\"full_attention\"]", STATUS_CORRUPT, "layer_types"},
        {"qwen3", "layer_types", "[\"full_attention\", \"full_attention\", \"sliding_attention\"]",
         STATUS_CORRUPT, "layer 2 is of type sliding_attention"},
        {"qwen3moe", "num_experts_per_tok", "7", STATUS_CORRUPT, "num_experts_per_tok"},
        {"smollm3", "no_rope_layers", "[1, 0]", STATUS_CORRUPT, "no_rope_layers"},
    };

    (void)state;
    check_refusals(cases, sizeof(cases) / sizeof(cases[0]));
}

/* What does nothing is taken as what it is. */
static void harmless(void **state)
{
    static const struct refusal cases[] = {
        {"llama3", "mlp_bias", "false", STATUS_OK, ""},
        {"llama3", "unknown_to_all", "null", STATUS_OK, ""},
        {"llama3", "rope_interleaved", "false", STATUS_OK, ""},
        {"llama3", "_name_or_path", "\"x\"", STATUS_OK, ""},
        {"llama3", "torch_dtype", "\"float32\"", STATUS_OK, ""},
        {"mistral", "sliding_window", "null", STATUS_OK, ""},
        {"qwen2", "use_sliding_window", "false", STATUS_OK, ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct arch *a = read_changed(cases[i].name, cases[i].key, cases[i].value);

        for (uint32_t l = 0; i >= 5 && l < a->layers; l++)
            assert_int_equal(a->layer[l].window, 0);
        free(a);
    }
}

static void layers(void **state)
{
    struct arch *a = read_changed("gemma3", NULL, NULL);

    (void)state;
    assert_string_equal(a->family, "gemma3");
    for (uint32_t l = 0; l < 6; l++) {
        assert_int_equal(a->layer[l].window, l == 5 ? 0 : 16);
        assert_int_equal(a->layer[l].rope, l != 5);
    }
    assert_true(a->rope[0].theta > 4999 && a->rope[1].theta > 9999);
    assert_non_null(arch_rope_factors(&a->rope[0], 1));
    assert_null(arch_rope_factors(&a->rope[1], 1));
    free(a);
    a = read_changed("gemma3", "sliding_window_pattern", "2");
    for (uint32_t l = 0; l < 6; l++)
        assert_int_equal(a->layer[l].window, l % 2 ? 0 : 16);
    free(a);
    a = read_changed("qwen2", "max_window_layers", "2");
    for (uint32_t l = 0; l < 3; l++)
        assert_int_equal(a->layer[l].window, l < 2 ? 0 : 16);
    free(a);
    a = read_changed("smollm3", "no_rope_layers", "[1, 0, 1, 1, 0]");
    for (uint32_t l = 0; l < 5; l++)
        assert_int_equal(a->layer[l].rope, l == 1 || l == 4 ? ARCH_NO_ROPE : 0);
    free(a);
    a = read_changed("phi3", NULL, NULL);
    assert_ptr_equal(arch_rope_factors(&a->rope[0], 32), a->rope[0].factors);
    assert_ptr_equal(arch_rope_factors(&a->rope[0], 33), a->rope[0].long_factors);
    assert_int_equal(a->rope[0].dims, 12);
    free(a);
}

static void tokens(void **state)
{
    struct arch *a = read_changed("llama3", "eos_token_id", "[2, 9, 2]");

    (void)state;
    assert_int_equal(a->eos_count, 2);
    assert_int_equal(a->eos[1], 9);
    assert_int_equal(a->bos, 1);
    assert_true(a->tied && !a->rope_interleaved);
    free(a);
    a = read_changed("llama3", "bos_token_id", "null");
    assert_int_equal(a->bos, -1);
    free(a);
}

/* Parts of fused tensors, and experts. */
static void places(void **state)
{
    struct source *s = open_changed("phi3", NULL, NULL);
    struct error err = {.text = ""};
    struct arch *a = calloc(1, sizeof(*a));
    struct arch_ref r;

    (void)state;
    assert_non_null(a);
    assert_int_equal(arch_read(a, s, &err), 0);
    assert_int_equal(arch_tensor(a, s, ROLE_K, 1, &r), 1);
    assert_string_equal(r.tensor->name, "model.layers.1.self_attn.qkv_proj.weight");
    assert_int_equal(r.first, 32);
    assert_int_equal(r.count, 16);
    assert_int_equal(arch_tensor(a, s, ROLE_UP, 2, &r), 1);
    assert_int_equal(r.first, 48);
    assert_int_equal(r.count, 48);
    assert_int_equal(arch_tensor(a, s, ROLE_Q_NORM, 0, &r), 0);
    source_close(s);
    s = open_changed("qwen3moe", NULL, NULL);
    assert_int_equal(arch_read(a, s, &err), 0);
    assert_int_equal(arch_tensor(a, s, ROLE_GATE, 0, &r), 0);
    assert_int_equal(arch_expert(a, s, ROLE_EXPERT_DOWN, 0, 5, &r), 1);
    assert_string_equal(r.tensor->name, "model.layers.0.mlp.experts.5.down_proj.weight");
    assert_int_equal(arch_expert(a, s, ROLE_EXPERT_DOWN, 0, 6, &r), 0);
    source_close(s);
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unsupported), cmocka_unit_test(corrupt), cmocka_unit_test(harmless),
        cmocka_unit_test(layers),      cmocka_unit_test(tokens),  cmocka_unit_test(places),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
