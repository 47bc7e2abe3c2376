/* arch_config_rope.c - the rotary embeddings of a checkpoint's config.json */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "model/arch_config.h"

static int check_rope_keys(const struct config *c, const json_t *params)
{
    static const char *const known[] = {"attention_factor",
                                        "beta_fast",
                                        "beta_slow",
                                        "factor",
                                        "high_freq_factor",
                                        "long_factor",
                                        "low_freq_factor",
                                        "original_max_position_embeddings",
                                        "partial_rotary_factor",
                                        "rope_theta",
                                        "rope_type",
                                        "short_factor",
                                        "type"};
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)params, key, value)
    {
        int found = config_is_false(value);
        for (size_t i = 0; !found && i < sizeof(known) / sizeof(known[0]); i++)
            found = strcmp(key, known[i]) == 0;
        if (!found && strcmp(key, "truncate") == 0)
            found = json_is_true(value);
        if (!found)
            return error_set(c->err, STATUS_UNSUPPORTED,
                             "%s: key %.60s of the rope's parameters in config.json is not "
                             "supported",
                             c->where, key);
    }
    return 0;
}

static int get_factors(const struct config *c, const json_t *params, const char *key,
                       const struct arch_rope *r, float *out)
{
    const json_t *list = config_get(params, key);

    if (!json_is_array(list) || json_array_size(list) != r->dims / 2)
        return error_set(c->err, STATUS_CORRUPT,
                         "%s: key %s of the rope's parameters must be a list of %" PRIu32
                         " numbers",
                         c->where, key, r->dims / 2);
    for (uint32_t i = 0; i < r->dims / 2; i++) {
        double x = json_number_value(json_array_get(list, i));
        if (!(x > 0 && x < 1e12))
            return error_set(c->err, STATUS_CORRUPT,
                             "%s: key %s of the rope's parameters has a factor that is not "
                             "positive",
                             c->where, key);
        out[i] = (float)x;
    }
    return 0;
}

/* LongRoPE (Ding 2024).  Its factors depend on the context that is served, not on a prompt's
 * length, so that no cached key changes while a sequence grows. */
static int read_longrope(const struct config *c, const struct arch *a, const json_t *params,
                         struct arch_rope *r)
{
    const json_t *top = config_get(c->root, "original_max_position_embeddings");
    double original, factor, scale;

    if (config_number(c, top ? c->root : params, "original_max_position_embeddings", a->context,
                      &original) ||
        config_number(c, params, "factor", a->context / original, &factor) ||
        get_factors(c, params, "short_factor", r, r->factors) ||
        get_factors(c, params, "long_factor", r, r->long_factors))
        return -1;
    if (!(original >= 2 && original <= CONTEXT_MAX))
        return error_set(c->err, STATUS_CORRUPT,
                         "%s: key original_max_position_embeddings must lie in 2..%u", c->where,
                         CONTEXT_MAX);
    scale = factor > 1 ? sqrt(1 + log(factor) / log(original)) : 1;
    if (config_number(c, params, "attention_factor", scale, &scale))
        return -1;
    r->scaled = r->dims / 2;
    r->extends = (uint32_t)original;
    r->scale = (float)scale;
    return 0;
}

static int read_llama3(const struct config *c, const struct arch *a, const json_t *params,
                       struct arch_rope *r)
{
    double factor, low, high, original;

    if (config_number(c, params, "factor", 0, &factor) ||
        config_number(c, params, "low_freq_factor", 0, &low) ||
        config_number(c, params, "high_freq_factor", 0, &high) ||
        config_number(c, params, "original_max_position_embeddings", a->context, &original))
        return -1;
    if (!(high > low))
        return error_set(c->err, STATUS_CORRUPT,
                         "%s: key high_freq_factor of the rope's parameters must exceed "
                         "low_freq_factor",
                         c->where);
    rope_llama3(r, factor, low, high, original);
    return 0;
}

static int read_yarn(const struct config *c, const struct arch *a, const json_t *params,
                     struct arch_rope *r)
{
    double factor, original, fast, slow, scale;

    if (config_number(c, params, "factor", 0, &factor) ||
        config_number(c, params, "original_max_position_embeddings", a->context, &original) ||
        config_number(c, params, "beta_fast", 32, &fast) ||
        config_number(c, params, "beta_slow", 1, &slow))
        return -1;
    rope_yarn(r, factor, original, fast, slow);
    if (config_number(c, params, "attention_factor", (double)r->scale, &scale))
        return -1;
    r->scale = (float)scale;
    return 0;
}

/* One rope from its parameters (NULL: none), and the key that holds its base in older files. */
static int read_rope(const struct config *c, const struct arch *a, const json_t *params,
                     const char *theta_key, double theta, struct arch_rope *r)
{
    const json_t *word = config_get(params, "rope_type");
    const char *type;
    double base, part, factor;

    if (params && (!json_is_object(params) || check_rope_keys(c, params)))
        return json_is_object(params) ? -1
                                      : error_set(c->err, STATUS_CORRUPT,
                                                  "%s: the rope's parameters in config.json are no "
                                                  "object",
                                                  c->where);
    if (!word)
        word = config_get(params, "type");
    type = word ? json_string_value(word) : "default";
    if (config_number(c, config_get(params, "rope_theta") ? params : c->root,
                      config_get(params, "rope_theta") ? "rope_theta" : theta_key, theta, &base) ||
        config_number(c, config_get(params, "partial_rotary_factor") ? params : c->root,
                      "partial_rotary_factor", 1, &part))
        return -1;
    r->theta = (float)base;
    r->dims = part <= 1 ? (uint32_t)(a->head_dim * part) : UINT32_MAX;
    rope_plain(r);
    if (r->dims < 2 || r->dims % 2 || r->dims > a->head_dim || r->dims / 2 > ARCH_FACTORS_MAX)
        return error_set(c->err, STATUS_UNSUPPORTED,
                         "%s: a rope over %" PRIu32 " of %" PRIu32
                         " elements of a head is not supported",
                         c->where, r->dims, a->head_dim);
    if (type && strcmp(type, "default") == 0)
        return 0;
    if (type && strcmp(type, "llama3") == 0)
        return read_llama3(c, a, params, r);
    if (type && c->family->traits & TRAIT_LONGROPE &&
        (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0))
        return read_longrope(c, a, params, r);
    if (type && strcmp(type, "yarn") == 0 && !(c->family->traits & TRAIT_LONGROPE))
        return read_yarn(c, a, params, r);
    if (type && strcmp(type, "linear") == 0) {
        if (config_number(c, params, "factor", 0, &factor))
            return -1;
        rope_linear(r, factor);
        return 0;
    }
    return error_set(c->err, STATUS_UNSUPPORTED, "%s: rope_type %.40s is not supported", c->where,
                     type ? type : "that is no string");
}

int config_read_ropes(const struct config *c, struct arch *a)
{
    const json_t *params = config_get(c->root, "rope_parameters");
    const json_t *scaling = config_get(c->root, "rope_scaling"), *local = NULL;

    if (!(c->family->traits & TRAIT_LOCAL_ROPE))
        return read_rope(c, a, params ? params : scaling, "rope_theta", (double)c->family->theta,
                         &a->rope[0]);
    if (params) {
        local = config_get(params, "sliding_attention");
        params = config_get(params, "full_attention");
    }
    if (read_rope(c, a, params ? params : scaling, "rope_theta", (double)c->family->theta,
                  &a->rope[0]))
        return -1;
    return read_rope(c, a, local, "rope_local_base_freq", 10000, &a->rope[1]);
}
