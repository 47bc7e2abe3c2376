/* arch_gguf.c - the architecture's fields from a GGUF file's keys */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/family.h"
#include "model/ggml_type.h"
#include "model/gguf_metadata.h"

/* A key that changes the forward pass unless it has the value at which it does nothing. */
struct neutral_key {
    const char *name; /* behind the family's prefix */
    double number;
    const char *word; /* a string's neutral value; NULL: a number or bool */
};

/* Keys behind the family's prefix that are honoured: in families with one of the traits, or in all
 * (0). */
static const struct {
    const char *name;
    uint32_t traits;
} honoured[] = {
    {"attention.head_count", 0},
    {"attention.head_count_kv", 0},
    {"attention.key_length", 0},
    {"attention.layer_norm_rms_epsilon", 0},
    {"attention.scale", TRAIT_MULTIPLIERS},
    {"attention.sliding_window", TRAIT_WINDOW_ALL | TRAIT_SOFTCAP},
    {"attention.sliding_window_pattern", TRAIT_SOFTCAP},
    {"attention.value_length", 0},
    {"attn_logit_softcapping", TRAIT_SOFTCAP},
    {"block_count", 0},
    {"context_length", 0},
    {"embedding_length", 0},
    {"embedding_scale", TRAIT_MULTIPLIERS},
    {"expert_count", TRAIT_EXPERTS},
    {"expert_feed_forward_length", TRAIT_EXPERTS},
    {"expert_used_count", TRAIT_EXPERTS},
    {"feed_forward_length", 0},
    {"final_logit_softcapping", TRAIT_SOFTCAP},
    {"logit_scale", TRAIT_MULTIPLIERS},
    {"residual_scale", TRAIT_MULTIPLIERS},
    {"rope.dimension_count", 0},
    {"rope.freq_base", 0},
    {"rope.freq_base_swa", TRAIT_LOCAL_ROPE},
    {"rope.scale_linear", 0},
    {"rope.scaling.attn_factor", TRAIT_LONGROPE},
    {"rope.scaling.factor", 0},
    {"rope.scaling.finetuned", 0},
    {"rope.scaling.original_context_length", 0},
    {"rope.scaling.type", 0},
    {"vocab_size", 0},
};

static const struct neutral_key neutral[] = {
    {"attention.causal", 1, NULL},
    {"attention.sliding_window", 0, NULL},
    {"expert_count", 0, NULL},
    {"expert_used_count", 0, NULL},
    {"rope.scaling.attn_factor", 1, NULL},
};

/* Fields */

static const char *full_key(const struct arch *a, const char *name, char key[128])
{
    snprintf(key, 128, "%s.%s", a->family, name);
    return key;
}

/* An integer in 1..most.  A missing one takes `otherwise`, or is an error if that is 0. */
static int read_field(const struct arch *a, const struct gguf *g, const char *name,
                      uint32_t otherwise, uint32_t most, uint32_t *out, struct error *err)
{
    char key[128];
    uint64_t value = otherwise;
    int found = gguf_get_u64(g, full_key(a, name, key), &value, err);

    if (found < 0)
        return -1;
    if (found == 1 && otherwise == 0)
        return error_set(err, STATUS_CORRUPT, "%s: key %s is missing", g->name, key);
    if (value < 1 || value > most)
        return error_set(err, STATUS_CORRUPT, "%s: key %s is %" PRIu64 ", must lie in 1..%" PRIu32,
                         g->name, key, value, most);
    *out = (uint32_t)value;
    return 0;
}

/* A positive number whose reciprocal is one too; as above. */
static int read_number(const struct arch *a, const struct gguf *g, const char *name,
                       double otherwise, float *out, struct error *err)
{
    char key[128];
    double value = otherwise;
    int found = gguf_get_f64(g, full_key(a, name, key), &value, err);

    if (found < 0)
        return -1;
    if (found == 1 && !(otherwise > 0))
        return error_set(err, STATUS_CORRUPT, "%s: key %s is missing", g->name, key);
    if (!(value >= 1e-30 && value <= 1e12))
        return error_set(err, STATUS_CORRUPT, "%s: key %s is %g, must be a positive number",
                         g->name, key, value);
    *out = (float)value;
    return 0;
}

static int has_key(const struct arch *a, const struct gguf *g, const char *name)
{
    char key[128];
    struct gguf_string text;
    double number;
    uint64_t integer;

    full_key(a, name, key);
    return gguf_get_f64(g, key, &number, NULL) == 0 || gguf_get_u64(g, key, &integer, NULL) == 0 ||
           gguf_get_string(g, key, &text, NULL) == 0;
}

static int read_heads(struct arch *a, const struct gguf *g, struct error *err)
{
    uint32_t value_dim;

    if (read_field(a, g, "attention.head_count", 0, FIELD_MAX, &a->heads, err) ||
        read_field(a, g, "attention.head_count_kv", a->heads, FIELD_MAX, &a->kv_heads, err) ||
        read_field(a, g, "attention.key_length", a->width / a->heads, FIELD_MAX, &a->head_dim,
                   err) ||
        read_field(a, g, "attention.value_length", a->head_dim, FIELD_MAX, &value_dim, err) ||
        read_field(a, g, "rope.dimension_count", a->head_dim, FIELD_MAX, &a->rope[0].dims, err))
        return -1;
    if (value_dim != a->head_dim)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: values of %" PRIu32 " and keys of %" PRIu32
                         " elements a head: they must be alike",
                         g->name, value_dim, a->head_dim);
    if (arch_check_heads(a, g->name, err))
        return -1;
    if (a->rope[0].dims % 2 || a->rope[0].dims > a->head_dim)
        return error_set(err, STATUS_CORRUPT,
                         "%s: key %s.rope.dimension_count is %" PRIu32
                         ", must be even and at most %" PRIu32,
                         g->name, a->family, a->rope[0].dims, a->head_dim);
    if (a->rope[0].dims / 2 > ARCH_FACTORS_MAX)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: a rope over %" PRIu32 " elements of a head is not supported", g->name,
                         a->rope[0].dims);
    return 0;
}

/* Rope */

/* The divisors of the frequencies that some files store as a tensor.  1: there is none. */
static int read_factors(const struct gguf *g, const char *name, uint32_t count, float *out,
                        struct error *err)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, name);

    if (!t)
        return 1;
    if (t->shape[0] != count || t->shape[1] != 1 || t->shape[2] != 1 || t->shape[3] != 1)
        return error_set(err, STATUS_CORRUPT,
                         "%s: tensor %s is %" PRIu64 "x%" PRIu64 "x%" PRIu64 "x%" PRIu64
                         ", the model's keys say %" PRIu32 "x1x1x1",
                         g->name, name, t->shape[0], t->shape[1], t->shape[2], t->shape[3], count);
    if (t->type != GGML_TYPE_F32)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: tensor %s is stored as %s, only F32 is supported there", g->name,
                         name, ggml_type_get(t->type)->name);
    memcpy(out, (const char *)gguf_base(g) + t->offset, count * sizeof(*out));
    for (uint32_t i = 0; i < count; i++)
        if (!(out[i] > 0 && out[i] < 1e12f))
            return error_set(err, STATUS_CORRUPT, "%s: tensor %s has a factor that is not positive",
                             g->name, name);
    return 0;
}

static int read_stored_factors(struct arch *a, const struct family *f, const struct gguf *g,
                               struct error *err)
{
    struct arch_rope *r = &a->rope[0];
    uint32_t count = r->dims / 2;
    int found;

    if (!(f->traits & TRAIT_LONGROPE)) {
        found = read_factors(g, "rope_freqs.weight", count, r->factors, err);
        if (found == 0)
            r->scaled = count;
        return found < 0 ? -1 : 0;
    }
    if (read_number(a, g, "rope.scaling.attn_factor", 1, &r->scale, err))
        return -1;
    found = read_factors(g, "rope_factors_short.weight", count, r->factors, err);
    if (found)
        return found < 0 ? -1 : 0;
    found = read_factors(g, "rope_factors_long.weight", count, r->long_factors, err);
    if (found)
        return found < 0 ? -1
                         : error_set(err, STATUS_CORRUPT,
                                     "%s: tensor rope_factors_long.weight is missing", g->name);
    r->scaled = count;
    return read_field(a, g, "rope.scaling.original_context_length", 0, CONTEXT_MAX, &r->extends,
                      err);
}

static int is_word(const struct gguf_string *s, const char *word)
{
    return s->len == strlen(word) && memcmp(s->data, word, s->len) == 0;
}

/* "none", "linear" and "yarn" by their keys. */
static int read_scaling(struct arch *a, const struct gguf *g, struct error *err)
{
    struct gguf_string type = {"none", 4};
    char key[128], shown[GGUF_SHOWN_MAX];
    float factor;
    uint32_t original;

    if (gguf_get_string(g, full_key(a, "rope.scaling.type", key), &type, err) < 0)
        return -1;
    if (is_word(&type, "none") && !has_key(a, g, "rope.scaling.type") &&
        (has_key(a, g, "rope.scale_linear") || has_key(a, g, "rope.scaling.factor")))
        type = (struct gguf_string){"linear", 6};
    if (is_word(&type, "none"))
        return 0;
    if (read_number(a, g,
                    has_key(a, g, "rope.scaling.factor") ? "rope.scaling.factor"
                                                         : "rope.scale_linear",
                    0, &factor, err))
        return -1;
    if (is_word(&type, "linear")) {
        if (!(factor <= 1 && factor >= 1))
            rope_linear(&a->rope[0], (double)factor);
        return 0;
    }
    if (is_word(&type, "yarn")) {
        if (read_field(a, g, "rope.scaling.original_context_length", a->context, CONTEXT_MAX,
                       &original, err))
            return -1;
        rope_yarn(&a->rope[0], (double)factor, original, 32, 1);
        return 0;
    }
    return error_set(err, STATUS_UNSUPPORTED, "%s: the value of key %s, %s, is not supported",
                     g->name, key, gguf_show(&type, shown));
}

static int read_rope(struct arch *a, const struct family *f, const struct gguf *g,
                     struct error *err)
{
    if (read_number(a, g, "rope.freq_base", (double)f->theta, &a->rope[0].theta, err))
        return -1;
    rope_plain(&a->rope[0]);
    a->rope[1] = a->rope[0];
    if (f->traits & TRAIT_LOCAL_ROPE &&
        read_number(a, g, "rope.freq_base_swa", 10000, &a->rope[1].theta, err))
        return -1;
    return read_scaling(a, g, err) || read_stored_factors(a, f, g, err) ? -1 : 0;
}

static int read_layers(struct arch *a, const struct family *f, const struct gguf *g,
                       struct error *err)
{
    struct arch_pattern p = {.pattern = f->pattern, .first = UINT32_MAX};
    uint64_t window = 0;
    char key[128];

    full_key(a, "attention.sliding_window", key);
    if (gguf_get_u64(g, key, &window, err) < 0)
        return -1;
    if (window > CONTEXT_MAX || (window == 0 && f->traits & TRAIT_SOFTCAP))
        return error_set(err, STATUS_CORRUPT, "%s: key %s must lie in 1..%u", g->name, key,
                         CONTEXT_MAX);
    p.window = (uint32_t)window;
    if (f->traits & TRAIT_SOFTCAP && read_field(a, g, "attention.sliding_window_pattern", p.pattern,
                                                ARCH_LAYERS_MAX, &p.pattern, err))
        return -1;
    family_layers(f, a, &p);
    if (!(f->traits & TRAIT_EXPERTS))
        return 0;
    for (uint32_t i = 0; i < a->layers; i++)
        a->layer[i].moe = 1;
    /* The converter leaves norm_topk_prob out: every file of the family has it set. */
    a->expert_renormalize = 1;
    return read_field(a, g, "expert_count", 0, 4096, &a->experts, err) ||
                   read_field(a, g, "expert_used_count", 0, a->experts, &a->experts_used, err) ||
                   read_field(a, g, "expert_feed_forward_length", 0, FIELD_MAX, &a->expert_ffn, err)
               ? -1
               : 0;
}

/* A cap; absent: the family's; 0: none. */
static int read_cap(const struct arch *a, const struct gguf *g, const char *name, float *cap,
                    struct error *err)
{
    char key[128];
    double value = (double)*cap;

    if (gguf_get_f64(g, full_key(a, name, key), &value, err) < 0)
        return -1;
    if (!(value >= 0 && value <= 1e12))
        return error_set(err, STATUS_CORRUPT, "%s: key %s is %g, must not be negative", g->name,
                         key, value);
    *cap = (float)value;
    return 0;
}

static int read_scales(struct arch *a, const struct family *f, const struct gguf *g,
                       struct error *err)
{
    float scaling;

    /* Gemma's query_pre_attn_scalar has no key: it is head_dim, and in the 27B models width/heads.
     */
    if (f->traits & TRAIT_QUERY_SCALAR && a->layers == (f->traits & TRAIT_LOCAL_ROPE ? 62u : 46u))
        a->attn_scale = (float)(1 / sqrt((double)a->width / a->heads));
    if (f->traits & TRAIT_SOFTCAP &&
        (read_cap(a, g, "attn_logit_softcapping", &a->attn_softcap, err) ||
         read_cap(a, g, "final_logit_softcapping", &a->logit_softcap, err)))
        return -1;
    if (!(f->traits & TRAIT_MULTIPLIERS))
        return 0;
    if (read_number(a, g, "attention.scale", (double)a->attn_scale, &a->attn_scale, err) ||
        read_number(a, g, "embedding_scale", 1, &a->embed_scale, err) ||
        read_number(a, g, "residual_scale", 1, &a->residual_scale, err) ||
        read_number(a, g, "logit_scale", 1, &scaling, err))
        return -1;
    a->logit_scale = 1 / scaling;
    return 0;
}

static int read_fields(struct arch *a, const struct family *f, const struct gguf *g,
                       struct error *err)
{
    snprintf(a->family, sizeof(a->family), "%s", f->name);
    if (read_field(a, g, "block_count", 0, ARCH_LAYERS_MAX, &a->layers, err) ||
        read_field(a, g, "embedding_length", 0, FIELD_MAX, &a->width, err) ||
        read_field(a, g, "feed_forward_length", f->traits & TRAIT_EXPERTS ? 1 : 0, FIELD_MAX,
                   &a->ffn, err) ||
        read_field(a, g, "context_length", 0, CONTEXT_MAX, &a->context, err) ||
        read_number(a, g, "attention.layer_norm_rms_epsilon", 0, &a->norm_eps, err) ||
        read_heads(a, g, err))
        return -1;
    family_defaults(f, a);
    if (read_rope(a, f, g, err) || read_layers(a, f, g, err) || read_scales(a, f, g, err))
        return -1;
    a->rope_interleaved = (f->traits & TRAIT_INTERLEAVED) != 0;
    return 0;
}

/* Keys */

/* Every key of the family is one that the forward pass honours, or changes nothing. */
static int check_neutral(const struct gguf *g, const char *key, const struct neutral_key *rule,
                         struct error *err)
{
    struct gguf_string word;
    uint64_t integer = 0;
    double number = 0;
    int truth = 0;

    if (rule->word) {
        if (gguf_get_string(g, key, &word, err))
            return -1;
        if (is_word(&word, rule->word))
            return 0;
    } else if (gguf_get_bool(g, key, &truth, NULL) == 0) {
        if (truth == (rule->number > 0))
            return 0;
    } else if (gguf_get_f64(g, key, &number, NULL) == 0) {
        if (!(number < rule->number) && !(number > rule->number) && !isnan(number))
            return 0;
    } else if (gguf_get_u64(g, key, &integer, err)) {
        return -1;
    } else if (integer == (uint64_t)rule->number) {
        return 0;
    }
    return error_set(err, STATUS_UNSUPPORTED, "%s: the value of key %s is not supported", g->name,
                     key);
}

static int check_key(const struct arch *a, const struct family *f, const struct gguf *g,
                     const struct gguf_string *key, struct error *err)
{
    char shown[GGUF_SHOWN_MAX], full[128];

    for (size_t i = 0; i < sizeof(honoured) / sizeof(honoured[0]); i++)
        if ((honoured[i].traits == 0 || honoured[i].traits & f->traits) &&
            is_word(key, full_key(a, honoured[i].name, full)))
            return 0;
    for (size_t i = 0; i < sizeof(neutral) / sizeof(neutral[0]); i++)
        if (is_word(key, full_key(a, neutral[i].name, full)))
            return check_neutral(g, full, &neutral[i], err);
    return error_set(err, STATUS_UNSUPPORTED, "%s: key %s is not supported", g->name,
                     gguf_show(key, shown));
}

static int check_keys(const struct arch *a, const struct family *f, const struct gguf *g,
                      struct error *err)
{
    size_t len = strlen(a->family);

    for (size_t i = 0; i < gguf_key_count(g); i++) {
        const struct gguf_string *key = gguf_key(g, i);

        if (key->len > len && memcmp(key->data, a->family, len) == 0 && key->data[len] == '.' &&
            check_key(a, f, g, key, err))
            return -1;
    }
    return 0;
}

/* Tokens */

/* A token id of the vocabulary.  1: the key is not there. */
static int read_token(const struct arch *a, const struct gguf *g, const char *key, uint32_t *token,
                      struct error *err)
{
    uint64_t value;
    int found = gguf_get_u64(g, key, &value, err);

    if (found)
        return found;
    if (value >= a->vocabulary)
        return error_set(err, STATUS_CORRUPT,
                         "%s: key %s is %" PRIu64 ", the vocabulary has %" PRIu32 " tokens",
                         g->name, key, value, a->vocabulary);
    *token = (uint32_t)value;
    return 0;
}

/* What ends a sequence is what the file declares (end of sequence, turn, message), no token by its
 * spelling: Hugging Face's generation_config says the same for these models. */
static int read_tokens(struct arch *a, const struct gguf *g, struct error *err)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    uint64_t tokens = a->vocabulary;
    uint32_t token;
    int found;

    _Static_assert(sizeof(ends) / sizeof(ends[0]) <= ARCH_EOS_MAX, "room for every end");
    if (gguf_get_array(g, "tokenizer.ggml.tokens", &tokens, err) < 0)
        return -1;
    if (tokens != a->vocabulary)
        return error_set(err, STATUS_CORRUPT,
                         "%s: key tokenizer.ggml.tokens has %" PRIu64
                         " tokens, tensor token_embd.weight %" PRIu32,
                         g->name, tokens, a->vocabulary);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        found = read_token(a, g, ends[i], &token, err);
        if (found < 0)
            return -1;
        if (found == 0)
            arch_add_eos(a, token);
    }
    found = read_token(a, g, "tokenizer.ggml.bos_token_id", &token, err);
    if (found < 0)
        return -1;
    a->bos = found == 0 ? (int64_t)token : -1;
    return 0;
}

/* The fields that only tensors tell. */
static int read_vocabulary(struct arch *a, const struct family *f, const struct gguf *g,
                           struct error *err)
{
    const struct gguf_tensor *embedding = gguf_find_tensor(g, "token_embd.weight");

    if (!embedding)
        return error_set(err, STATUS_CORRUPT, "%s: tensor token_embd.weight is missing", g->name);
    if (embedding->shape[1] > VOCABULARY_MAX)
        return error_set(err, STATUS_CORRUPT, "%s: a vocabulary of %" PRIu64 " is too large",
                         g->name, embedding->shape[1]);
    a->vocabulary = (uint32_t)embedding->shape[1];
    a->tied = !gguf_find_tensor(g, "output.weight");
    a->qkv_bias = (f->traits & TRAIT_QKV_BIAS) != 0 || gguf_find_tensor(g, "blk.0.attn_q.bias") ||
                  gguf_find_tensor(g, "blk.0.attn_k.bias") ||
                  gguf_find_tensor(g, "blk.0.attn_v.bias");
    return 0;
}

int arch_read_gguf(struct arch *a, const struct family **out, const struct source *s,
                   struct error *err)
{
    const struct gguf *g = source_gguf(s);
    struct gguf_string name;
    char shown[GGUF_SHOWN_MAX];
    const struct family *f;
    int found = gguf_get_string(g, "general.architecture", &name, err);

    if (found)
        return found < 0 ? -1
                         : error_set(err, STATUS_CORRUPT, "%s: key general.architecture is missing",
                                     g->name);
    f = family_by_name(name.data, name.len);
    if (!f)
        return error_set(err, STATUS_UNSUPPORTED, "%s: model family %s is not supported", g->name,
                         gguf_show(&name, shown));
    *out = f;
    snprintf(a->family, sizeof(a->family), "%s", f->name);
    if (check_keys(a, f, g, err) || read_fields(a, f, g, err) || read_vocabulary(a, f, g, err) ||
        read_tokens(a, g, err))
        return -1;
    return 0;
}
