/* arch_config.c - the architecture's fields from a checkpoint's config.json */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/arch_config.h"

/* Keys that the pass honours: in families with one of the traits, or in all (0). */
static const struct {
    const char *name;
    uint32_t traits;
} honoured[] = {
    {"architectures", 0},
    {"attention_multiplier", TRAIT_MULTIPLIERS},
    {"attn_logit_softcapping", TRAIT_SOFTCAP},
    {"bos_token_id", 0},
    {"decoder_sparse_step", TRAIT_EXPERTS},
    {"embedding_multiplier", TRAIT_MULTIPLIERS},
    {"eos_token_id", 0},
    {"final_logit_softcapping", TRAIT_SOFTCAP},
    {"head_dim", 0},
    {"hidden_act", 0},
    {"hidden_activation", TRAIT_GELU},
    {"hidden_size", 0},
    {"intermediate_size", 0},
    {"layer_types", 0},
    {"logits_scaling", TRAIT_MULTIPLIERS},
    {"max_position_embeddings", 0},
    {"max_window_layers", TRAIT_WINDOW_LAST | TRAIT_EXPERTS | TRAIT_NOPE},
    {"mlp_only_layers", TRAIT_EXPERTS},
    {"model_type", 0},
    {"moe_intermediate_size", TRAIT_EXPERTS},
    {"no_rope_layer_interval", TRAIT_NOPE},
    {"no_rope_layers", TRAIT_NOPE},
    {"norm_topk_prob", TRAIT_EXPERTS},
    {"num_attention_heads", 0},
    {"num_experts", TRAIT_EXPERTS},
    {"num_experts_per_tok", TRAIT_EXPERTS},
    {"num_hidden_layers", 0},
    {"num_key_value_heads", 0},
    {"num_local_experts", TRAIT_EXPERTS},
    {"original_max_position_embeddings", TRAIT_LONGROPE},
    {"partial_rotary_factor", 0},
    {"quantization_config", 0}, /* quantization.h */
    {"query_pre_attn_scalar", TRAIT_QUERY_SCALAR},
    {"residual_multiplier", TRAIT_MULTIPLIERS},
    {"rms_norm_eps", 0},
    {"rope_local_base_freq", TRAIT_LOCAL_ROPE},
    {"rope_parameters", 0},
    {"rope_scaling", 0},
    {"rope_theta", 0},
    {"sliding_window", TRAIT_WINDOW_ALL | TRAIT_WINDOW_LAST | TRAIT_SOFTCAP},
    {"sliding_window_pattern", TRAIT_SOFTCAP},
    {"_sliding_window_pattern", TRAIT_SOFTCAP},
    {"tie_word_embeddings", 0},
    {"use_sliding_window", TRAIT_WINDOW_LAST},
    {"vocab_size", 0},
};

/* Keys of training, of other programs, or of what serving decides anew: they change no logit. */
static const char *const harmless[] = {
    "attention_dropout",
    "auto_map",
    "bad_words_ids",
    "cache_implementation",
    "dtype",
    "embd_pdrop",
    "full_attn_mod",
    "id2label",
    "initializer_range",
    "interpolate_factor",
    "is_llama_config",
    "label2id",
    "max_length",
    "min_length",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "sliding_window_size",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
};

int config_is_false(const json_t *v)
{
    return json_is_null(v) || json_is_false(v) ||
           (json_is_integer(v) && json_integer_value(v) == 0);
}

/* Every key of the file is honoured or harmless.  Others must be absent, null, false or 0. */
static int check_keys(const struct config *c)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)c->root, key, value)
    {
        int known = config_is_false(value) || strcmp(key, "pretraining_tp") == 0;
        for (size_t i = 0; !known && i < sizeof(honoured) / sizeof(honoured[0]); i++)
            known = strcmp(key, honoured[i].name) == 0 &&
                    (honoured[i].traits == 0 || honoured[i].traits & c->family->traits);
        for (size_t i = 0; !known && i < sizeof(harmless) / sizeof(harmless[0]); i++)
            known = strcmp(key, harmless[i]) == 0;
        if (!known && key[0] == '_' && key[1] != '\0')
            known = strcmp(key, "_sliding_window_pattern") != 0;
        if (!known)
            return error_set(c->err, STATUS_UNSUPPORTED,
                             "%s: key %.60s of config.json is not supported in family %s", c->where,
                             key, c->family->config);
    }
    return 0;
}

/* Values */

const json_t *config_get(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);

    return json_is_null(v) ? NULL : v;
}

int config_count(const struct config *c, const char *key, uint32_t otherwise, uint32_t most,
                 uint32_t *out)
{
    const json_t *v = config_get(c->root, key);
    json_int_t n = v ? json_integer_value(v) : (json_int_t)otherwise;

    if (!v && otherwise == 0)
        return error_set(c->err, STATUS_CORRUPT, "%s: key %s is missing in config.json", c->where,
                         key);
    if ((v && !json_is_integer(v)) || n < 1 || n > (json_int_t)most)
        return error_set(c->err, STATUS_CORRUPT,
                         "%s: key %s of config.json must be an integer in 1..%" PRIu32, c->where,
                         key, most);
    *out = (uint32_t)n;
    return 0;
}

int config_number(const struct config *c, const json_t *object, const char *key, double otherwise,
                  double *out)
{
    const json_t *v = config_get(object, key);
    double x = v ? json_number_value(v) : otherwise;

    if (!v && !(otherwise > 0))
        return error_set(c->err, STATUS_CORRUPT, "%s: key %s is missing in config.json", c->where,
                         key);
    if ((v && !json_is_number(v)) || !(x >= 1e-30 && x <= 1e12))
        return error_set(c->err, STATUS_CORRUPT,
                         "%s: key %s of config.json must be a positive number", c->where, key);
    *out = x;
    return 0;
}

static int get_float(const struct config *c, const char *key, double otherwise, float *out)
{
    double x;

    if (config_number(c, c->root, key, otherwise, &x))
        return -1;
    *out = (float)x;
    return 0;
}

/* Like a number, but null and 0 mean none, as does a missing key if `otherwise` is 0. */
static int get_cap(const struct config *c, const char *key, float otherwise, float *out)
{
    const json_t *v = json_object_get(c->root, key);

    if (v ? config_is_false(v) : !(otherwise > 0)) {
        *out = 0;
        return 0;
    }
    return get_float(c, key, otherwise, out);
}

/* Layers */

/* A list of one entry a layer; NULL: none there, or an error (then -1). */
static int layer_list(const struct config *c, const struct arch *a, const char *key,
                      const json_t **list)
{
    *list = config_get(c->root, key);
    if (*list && (!json_is_array(*list) || json_array_size(*list) < a->layers))
        return error_set(c->err, STATUS_CORRUPT,
                         "%s: key %s of config.json must be a list of %" PRIu32 " entries",
                         c->where, key, a->layers);
    return 0;
}

static int read_layer_types(const struct config *c, const struct arch *a, const json_t *types,
                            unsigned char *sliding)
{
    for (uint32_t i = 0; i < a->layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));

        if (type && strcmp(type, "sliding_attention") == 0)
            sliding[i] = 1;
        else if (type && strcmp(type, "full_attention") == 0)
            sliding[i] = 0;
        else
            return error_set(c->err, STATUS_UNSUPPORTED,
                             "%s: layer %" PRIu32 " is of type %.40s, which is not supported",
                             c->where, i, type ? type : "(not a string)");
    }
    return 0;
}

static int read_window(const struct config *c, struct arch_pattern *p)
{
    const json_t *use = json_object_get(c->root, "use_sliding_window");
    const json_t *window = config_get(c->root, "sliding_window");
    int off = c->family->traits & TRAIT_WINDOW_LAST && !json_is_true(use);

    p->window = 0;
    p->first = UINT32_MAX;
    if (off || !window || config_is_false(window))
        return 0;
    if (c->family->traits & TRAIT_WINDOW_LAST &&
        config_count(c, "max_window_layers", 28, ARCH_LAYERS_MAX, &p->first))
        return -1;
    return config_count(c, "sliding_window", 0, CONTEXT_MAX, &p->window);
}

static int read_layers(const struct config *c, struct arch *a)
{
    unsigned char sliding[ARCH_LAYERS_MAX], nope[ARCH_LAYERS_MAX];
    struct arch_pattern p = {.pattern = c->family->pattern};
    const json_t *types, *ropes;

    if (read_window(c, &p) || layer_list(c, a, "layer_types", &types) ||
        layer_list(c, a, "no_rope_layers", &ropes))
        return -1;
    if (types) {
        if (read_layer_types(c, a, types, sliding))
            return -1;
        p.sliding = sliding;
    }
    if (c->family->traits & TRAIT_SOFTCAP && config_get(c->root, "sliding_window_pattern") &&
        config_count(c, "sliding_window_pattern", 0, ARCH_LAYERS_MAX, &p.pattern))
        return -1;
    if (c->family->traits & TRAIT_SOFTCAP && config_get(c->root, "_sliding_window_pattern") &&
        config_count(c, "_sliding_window_pattern", 0, ARCH_LAYERS_MAX, &p.pattern))
        return -1;
    if (c->family->traits & TRAIT_NOPE) {
        if (config_count(c, "no_rope_layer_interval", p.pattern, ARCH_LAYERS_MAX, &p.pattern))
            return -1;
        for (uint32_t i = 0; ropes && i < a->layers; i++)
            nope[i] = config_is_false(json_array_get(ropes, i)) != 0;
        p.nope = ropes ? nope : NULL;
    }
    family_layers(c->family, a, &p);
    for (uint32_t i = 0; p.window == 0 && types && i < a->layers; i++)
        if (sliding[i])
            return error_set(c->err, STATUS_CORRUPT,
                             "%s: layer %" PRIu32 " is of type sliding_attention, but config.json "
                             "has no sliding_window",
                             c->where, i);
    return 0;
}

/* Experts sit in every decoder_sparse_step-th layer, but for those that are listed. */
static int read_experts(const struct config *c, struct arch *a)
{
    const json_t *only = config_get(c->root, "mlp_only_layers");
    const char *count =
        config_get(c->root, "num_local_experts") ? "num_local_experts" : "num_experts";
    uint32_t step;

    if (!(c->family->traits & TRAIT_EXPERTS))
        return 0;
    if (config_count(c, count, 0, 4096, &a->experts) ||
        config_count(c, "num_experts_per_tok", 0, a->experts, &a->experts_used) ||
        config_count(c, "moe_intermediate_size", 0, FIELD_MAX, &a->expert_ffn) ||
        config_count(c, "decoder_sparse_step", 1, ARCH_LAYERS_MAX, &step))
        return -1;
    a->expert_renormalize = json_is_true(json_object_get(c->root, "norm_topk_prob"));
    for (uint32_t i = 0; i < a->layers; i++)
        a->layer[i].moe = (i + 1) % step == 0;
    for (size_t i = 0; i < json_array_size(only); i++) {
        json_int_t n = json_integer_value(json_array_get(only, i));
        if (n >= 0 && n < (json_int_t)a->layers)
            a->layer[n].moe = 0;
    }
    return 0;
}

/* Fields */

static int check_activation(const struct config *c)
{
    const json_t *word = config_get(c->root, "hidden_activation");
    const char *name = word ? "hidden_activation" : "hidden_act", *value;

    if (!word)
        word = config_get(c->root, "hidden_act");
    if (!word)
        return 0;
    value = json_string_value(word);
    /* Gemma's older files say "gelu" in hidden_act and mean its tanh form: transformers too. */
    if (value && (c->family->traits & TRAIT_GELU ? strcmp(value, "gelu_pytorch_tanh") == 0
                                                 : strcmp(value, "silu") == 0))
        return 0;
    return error_set(c->err, STATUS_UNSUPPORTED, "%s: %s %.40s is not supported in family %s",
                     c->where, name, value ? value : "(not a string)", c->family->config);
}

static int read_sizes(const struct config *c, struct arch *a)
{
    if (config_count(c, "num_hidden_layers", 0, ARCH_LAYERS_MAX, &a->layers) ||
        config_count(c, "hidden_size", 0, FIELD_MAX, &a->width) ||
        config_count(c, "intermediate_size", 0, FIELD_MAX, &a->ffn) ||
        config_count(c, "max_position_embeddings", 0, CONTEXT_MAX, &a->context) ||
        config_count(c, "vocab_size", 0, VOCABULARY_MAX, &a->vocabulary) ||
        config_count(c, "num_attention_heads", 0, FIELD_MAX, &a->heads) ||
        config_count(c, "num_key_value_heads", a->heads, FIELD_MAX, &a->kv_heads) ||
        config_count(c, "head_dim", a->width / a->heads, FIELD_MAX, &a->head_dim) ||
        get_float(c, "rms_norm_eps", 0, &a->norm_eps))
        return -1;
    return 0;
}

static int read_scales(const struct config *c, struct arch *a)
{
    double scalar = (double)a->head_dim;

    if (c->family->traits & TRAIT_QUERY_SCALAR) {
        if (config_number(c, c->root, "query_pre_attn_scalar", scalar, &scalar))
            return -1;
        a->attn_scale = (float)(1 / sqrt(scalar));
    }
    if (c->family->traits & TRAIT_SOFTCAP &&
        (get_cap(c, "attn_logit_softcapping", a->attn_softcap, &a->attn_softcap) ||
         get_cap(c, "final_logit_softcapping", a->logit_softcap, &a->logit_softcap)))
        return -1;
    if (c->family->traits & TRAIT_MULTIPLIERS) {
        if (get_float(c, "attention_multiplier", 1, &a->attn_scale) ||
            get_float(c, "embedding_multiplier", 1, &a->embed_scale) ||
            get_float(c, "residual_multiplier", 1, &a->residual_scale) ||
            config_number(c, c->root, "logits_scaling", 1, &scalar))
            return -1;
        a->logit_scale = (float)(1 / scalar);
    }
    if (c->family->traits & TRAIT_NORM_OFFSET)
        a->norm_offset = 1;
    return 0;
}

/* Tokens */

static int read_token(const struct config *c, const struct arch *a, const char *key,
                      const json_t *v, uint32_t *out)
{
    json_int_t n = json_integer_value(v);

    if (!json_is_integer(v) || n < 0 || n >= (json_int_t)a->vocabulary)
        return error_set(c->err, STATUS_CORRUPT,
                         "%s: %s must hold tokens of the vocabulary of %" PRIu32, c->where, key,
                         a->vocabulary);
    *out = (uint32_t)n;
    return 0;
}

/* What generation_config.json says of tokens goes before config.json. */
static const json_t *token_value(const struct config *c, const json_t *generation, const char *key)
{
    const json_t *v = config_get(generation, key);

    return v ? v : config_get(c->root, key);
}

static int read_tokens(const struct config *c, struct arch *a, const json_t *generation)
{
    const json_t *eos = token_value(c, generation, "eos_token_id");
    const json_t *bos = token_value(c, generation, "bos_token_id");
    uint32_t token;

    a->bos = -1;
    if (bos) {
        if (read_token(c, a, "bos_token_id", bos, &token))
            return -1;
        a->bos = token;
    }
    if (!eos)
        return 0;
    if (!json_is_array(eos)) {
        if (read_token(c, a, "eos_token_id", eos, &token))
            return -1;
        arch_add_eos(a, token);
        return 0;
    }
    for (size_t i = 0; i < json_array_size(eos); i++) {
        if (a->eos_count == ARCH_EOS_MAX)
            return error_set(c->err, STATUS_UNSUPPORTED, "%s: more than %d end tokens", c->where,
                             ARCH_EOS_MAX);
        if (read_token(c, a, "eos_token_id", json_array_get(eos, i), &token))
            return -1;
        arch_add_eos(a, token);
    }
    return 0;
}

/* The head is the embedding if the file says so, or says nothing and has no head. */
static int read_tied(const struct config *c, struct arch *a, const struct source *s)
{
    const json_t *tied = config_get(c->root, "tie_word_embeddings");

    a->tied = json_is_true(tied) || (!tied && !source_find_tensor(s, "lm_head.weight"));
    a->qkv_bias = (c->family->traits & TRAIT_QKV_BIAS) != 0;
    return 0;
}

int arch_read_config(struct arch *a, const struct family **f, const struct source *s,
                     struct error *err)
{
    struct config c = {.root = source_json(s, SOURCE_CONFIG), .where = source_name(s), .err = err};
    const char *type = json_string_value(json_object_get(c.root, "model_type"));

    if (!type)
        return error_set(err, STATUS_CORRUPT, "%s: key model_type is missing in config.json",
                         c.where);
    c.family = family_by_config(type);
    if (!c.family)
        return error_set(err, STATUS_UNSUPPORTED, "%s: model family %.60s is not supported",
                         c.where, type);
    *f = c.family;
    if (check_keys(&c) || check_activation(&c) || read_sizes(&c, a))
        return -1;
    family_defaults(c.family, a);
    if (arch_check_heads(a, c.where, err) || config_read_ropes(&c, a) || read_layers(&c, a) ||
        read_experts(&c, a) || read_scales(&c, a) || read_tied(&c, a, s) ||
        read_tokens(&c, a, source_json(s, SOURCE_GENERATION)))
        return -1;
    return 0;
}
