#include "model/arch.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/ggml_type.h"
#include "model/gguf_metadata.h"

/* Ceilings of fields: beyond any known model, and small enough that products stay in 64 bits. */
#define FIELD_MAX      (1u << 20)
#define VOCABULARY_MAX (1u << 22)
#define CONTEXT_MAX    (1u << 30)

/* Extents of a tensor in terms of the fields. */
enum extent {
    EXTENT_NONE, /* this dimension is not there */
    EXTENT_WIDTH,
    EXTENT_Q,  /* heads * head_dim */
    EXTENT_KV, /* kv_heads * head_dim */
    EXTENT_FFN,
    EXTENT_VOCABULARY,
    EXTENT_FREQUENCIES, /* rope_dims / 2 */
};

enum presence {
    ABSENT = 0,
    REQUIRED,
    OPTIONAL,      /* a model has it or not */
    OPTIONAL_BIAS, /* all layers have all of them, or none has any */
};

struct tensor_rule {
    const char *name; /* of a layered role: what stands behind "blk.N." */
    enum presence presence;
    enum extent columns, rows; /* rows NONE: a vector of float32; else a matrix */
};

/* A key that changes the forward pass unless it has the value at which it does nothing. */
struct neutral_key {
    const char *name; /* behind the family's prefix */
    double number;
    const char *word; /* a string's neutral value; NULL: a number or bool */
};

struct family {
    const char *name; /* general.architecture, and the prefix of its keys */
    int rope_interleaved;
    struct tensor_rule tensors[ROLE_COUNT];
};

/* One entry per family.  llama: Touvron 2023 as GGUF stores it, q and k permuted so that rope turns
 * neighbouring pairs. */
static const struct family families[] = {
    {
        .name = "llama",
        .rope_interleaved = 1,
        .tensors =
            {
                [ROLE_EMBEDDING] = {"token_embd.weight", REQUIRED, EXTENT_WIDTH, EXTENT_VOCABULARY},
                [ROLE_HEAD] = {"output.weight", OPTIONAL, EXTENT_WIDTH, EXTENT_VOCABULARY},
                [ROLE_FINAL_NORM] = {"output_norm.weight", REQUIRED, EXTENT_WIDTH, EXTENT_NONE},
                [ROLE_ROPE_FACTORS] = {"rope_freqs.weight", OPTIONAL, EXTENT_FREQUENCIES,
                                       EXTENT_NONE},
                [ROLE_ATTN_NORM] = {"attn_norm.weight", REQUIRED, EXTENT_WIDTH, EXTENT_NONE},
                [ROLE_Q] = {"attn_q.weight", REQUIRED, EXTENT_WIDTH, EXTENT_Q},
                [ROLE_K] = {"attn_k.weight", REQUIRED, EXTENT_WIDTH, EXTENT_KV},
                [ROLE_V] = {"attn_v.weight", REQUIRED, EXTENT_WIDTH, EXTENT_KV},
                [ROLE_O] = {"attn_output.weight", REQUIRED, EXTENT_Q, EXTENT_WIDTH},
                [ROLE_Q_BIAS] = {"attn_q.bias", OPTIONAL_BIAS, EXTENT_Q, EXTENT_NONE},
                [ROLE_K_BIAS] = {"attn_k.bias", OPTIONAL_BIAS, EXTENT_KV, EXTENT_NONE},
                [ROLE_V_BIAS] = {"attn_v.bias", OPTIONAL_BIAS, EXTENT_KV, EXTENT_NONE},
                [ROLE_FFN_NORM] = {"ffn_norm.weight", REQUIRED, EXTENT_WIDTH, EXTENT_NONE},
                [ROLE_GATE] = {"ffn_gate.weight", REQUIRED, EXTENT_WIDTH, EXTENT_FFN},
                [ROLE_UP] = {"ffn_up.weight", REQUIRED, EXTENT_WIDTH, EXTENT_FFN},
                [ROLE_DOWN] = {"ffn_down.weight", REQUIRED, EXTENT_FFN, EXTENT_WIDTH},
            },
    },
};

/* Keys behind the family's prefix that arch_read honours. */
static const char *const honoured[] = {
    "attention.head_count",   "attention.head_count_kv",
    "attention.key_length",   "attention.layer_norm_rms_epsilon",
    "attention.value_length", "block_count",
    "context_length",         "embedding_length",
    "feed_forward_length",    "rope.dimension_count",
    "rope.freq_base",         "vocab_size",
};

static const struct neutral_key neutral[] = {
    {"attention.causal", 1, NULL},    {"attention.sliding_window", 0, NULL},
    {"expert_count", 0, NULL},        {"expert_used_count", 0, NULL},
    {"rope.scale_linear", 1, NULL},   {"rope.scaling.attn_factor", 1, NULL},
    {"rope.scaling.factor", 1, NULL}, {"rope.scaling.type", 0, "none"},
};

static const struct family *find_family(const char *name, uint64_t len)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        if (strlen(families[i].name) == len && memcmp(families[i].name, name, len) == 0)
            return &families[i];
    return NULL;
}

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

/* A positive number; as above. */
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
    if (!(value > 0 && value <= 1e12) || !((float)value > 0))
        return error_set(err, STATUS_CORRUPT, "%s: key %s is %g, must be a positive number",
                         g->name, key, value);
    *out = (float)value;
    return 0;
}

static int read_heads(struct arch *a, const struct gguf *g, struct error *err)
{
    uint32_t value_dim;

    if (read_field(a, g, "attention.head_count", 0, FIELD_MAX, &a->heads, err) ||
        read_field(a, g, "attention.head_count_kv", a->heads, FIELD_MAX, &a->kv_heads, err) ||
        read_field(a, g, "attention.key_length", a->width / a->heads, FIELD_MAX, &a->head_dim,
                   err) ||
        read_field(a, g, "attention.value_length", a->head_dim, FIELD_MAX, &value_dim, err) ||
        read_field(a, g, "rope.dimension_count", a->head_dim, FIELD_MAX, &a->rope_dims, err))
        return -1;
    if (a->heads % a->kv_heads)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu32 " heads do not share %" PRIu32 " heads of keys evenly",
                         g->name, a->heads, a->kv_heads);
    if (value_dim != a->head_dim)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: values of %" PRIu32 " and keys of %" PRIu32
                         " elements a head: they must be alike",
                         g->name, value_dim, a->head_dim);
    if ((uint64_t)a->heads * a->head_dim > FIELD_MAX)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu32 " heads of %" PRIu32 " elements are too many", g->name,
                         a->heads, a->head_dim);
    if (a->rope_dims % 2 || a->rope_dims > a->head_dim)
        return error_set(err, STATUS_CORRUPT,
                         "%s: key %s.rope.dimension_count is %" PRIu32
                         ", must be even and at most %" PRIu32,
                         g->name, a->family, a->rope_dims, a->head_dim);
    return 0;
}

static int read_fields(struct arch *a, const struct gguf *g, struct error *err)
{
    if (read_field(a, g, "block_count", 0, ARCH_LAYERS_MAX, &a->layers, err) ||
        read_field(a, g, "embedding_length", 0, FIELD_MAX, &a->width, err) ||
        read_field(a, g, "feed_forward_length", 0, FIELD_MAX, &a->ffn, err) ||
        read_field(a, g, "context_length", 0, CONTEXT_MAX, &a->context, err) ||
        read_number(a, g, "attention.layer_norm_rms_epsilon", 0, &a->norm_eps, err) ||
        read_number(a, g, "rope.freq_base", 10000, &a->rope_theta, err) || read_heads(a, g, err))
        return -1;
    a->embed_scale = 1;
    a->attn_scale = (float)(1 / sqrt((double)a->head_dim));
    return 0;
}

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
        if (word.len == strlen(rule->word) && memcmp(word.data, rule->word, word.len) == 0)
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

static int check_key(const struct arch *a, const struct gguf *g, const struct gguf_string *key,
                     struct error *err)
{
    char shown[GGUF_SHOWN_MAX], full[128];

    for (size_t i = 0; i < sizeof(honoured) / sizeof(honoured[0]); i++)
        if (strlen(full_key(a, honoured[i], full)) == key->len &&
            memcmp(full, key->data, key->len) == 0)
            return 0;
    for (size_t i = 0; i < sizeof(neutral) / sizeof(neutral[0]); i++)
        if (strlen(full_key(a, neutral[i].name, full)) == key->len &&
            memcmp(full, key->data, key->len) == 0)
            return check_neutral(g, full, &neutral[i], err);
    return error_set(err, STATUS_UNSUPPORTED, "%s: key %s is not supported", g->name,
                     gguf_show(key, shown));
}

static int check_keys(const struct arch *a, const struct gguf *g, struct error *err)
{
    size_t len = strlen(a->family);

    for (size_t i = 0; i < gguf_key_count(g); i++) {
        const struct gguf_string *key = gguf_key(g, i);

        if (key->len > len && memcmp(key->data, a->family, len) == 0 && key->data[len] == '.' &&
            check_key(a, g, key, err))
            return -1;
    }
    return 0;
}

/* Tensors */

static uint64_t extent(const struct arch *a, enum extent e)
{
    switch (e) {
    case EXTENT_WIDTH:
        return a->width;
    case EXTENT_Q:
        return (uint64_t)a->heads * a->head_dim;
    case EXTENT_KV:
        return (uint64_t)a->kv_heads * a->head_dim;
    case EXTENT_FFN:
        return a->ffn;
    case EXTENT_VOCABULARY:
        return a->vocabulary;
    case EXTENT_FREQUENCIES:
        return a->rope_dims / 2;
    case EXTENT_NONE:
        break;
    }
    return 1;
}

static const struct gguf_tensor *find_tensor(const struct family *f, const struct gguf *g,
                                             enum role role, uint32_t layer)
{
    char name[96];

    if (f->tensors[role].presence == ABSENT)
        return NULL;
    if (role >= ROLE_FIRST_LAYERED)
        snprintf(name, sizeof(name), "blk.%" PRIu32 ".%s", layer, f->tensors[role].name);
    else
        snprintf(name, sizeof(name), "%s", f->tensors[role].name);
    return gguf_find_tensor(g, name);
}

static int check_tensor(const struct arch *a, const struct gguf *g, const struct tensor_rule *rule,
                        const struct gguf_tensor *t, struct error *err)
{
    const struct ggml_type *type = ggml_type_get(t->type);
    uint64_t columns = extent(a, rule->columns), rows = extent(a, rule->rows);
    char shown[GGUF_SHOWN_MAX];

    if (t->shape[0] != columns || t->shape[1] != rows || t->shape[2] != 1 || t->shape[3] != 1)
        return error_set(err, STATUS_CORRUPT,
                         "%s: tensor %s is %" PRIu64 "x%" PRIu64 "x%" PRIu64 "x%" PRIu64
                         ", the model's keys say %" PRIu64 "x%" PRIu64,
                         g->name, gguf_show(&t->name, shown), t->shape[0], t->shape[1], t->shape[2],
                         t->shape[3], columns, rows);
    if (rule->rows == EXTENT_NONE ? t->type != GGML_TYPE_F32 : !type->weight)
        return error_set(err, STATUS_UNSUPPORTED, "%s: tensor %s is stored as %s, %s", g->name,
                         gguf_show(&t->name, shown), type->name,
                         rule->rows == EXTENT_NONE ? "only F32 is supported there"
                                                   : "which is not supported; quantize it anew");
    return 0;
}

static int missing_tensor(const struct gguf *g, const struct family *f, enum role role,
                          uint32_t layer, struct error *err)
{
    if (role < ROLE_FIRST_LAYERED)
        return error_set(err, STATUS_CORRUPT, "%s: tensor %s is missing", g->name,
                         f->tensors[role].name);
    return error_set(err, STATUS_CORRUPT, "%s: tensor blk.%" PRIu32 ".%s is missing", g->name,
                     layer, f->tensors[role].name);
}

/* Check one role in all its layers and mark its tensors in seen[]. */
static int check_role(const struct arch *a, const struct gguf *g, const struct family *f,
                      enum role role, unsigned char *seen, struct error *err)
{
    const struct tensor_rule *rule = &f->tensors[role];
    uint32_t layers = role < ROLE_FIRST_LAYERED ? 1 : a->layers;
    int required = rule->presence == REQUIRED || rule->presence == OPTIONAL_BIAS;

    if (rule->presence == OPTIONAL_BIAS && !a->qkv_bias)
        return 0;
    for (uint32_t layer = 0; layer < layers; layer++) {
        const struct gguf_tensor *t = find_tensor(f, g, role, layer);

        if (!t && required)
            return missing_tensor(g, f, role, layer, err);
        if (!t)
            continue;
        if (check_tensor(a, g, rule, t, err))
            return -1;
        seen[t - gguf_tensor(g, 0)] = 1;
    }
    return 0;
}

/* The fields that only tensors tell, then every tensor of the file. */
static int check_tensors(struct arch *a, const struct gguf *g, const struct family *f,
                         struct error *err)
{
    const struct gguf_tensor *embedding = find_tensor(f, g, ROLE_EMBEDDING, 0);
    unsigned char *seen;
    int rv = -1;

    if (!embedding)
        return missing_tensor(g, f, ROLE_EMBEDDING, 0, err);
    if (embedding->shape[1] > VOCABULARY_MAX)
        return error_set(err, STATUS_CORRUPT, "%s: a vocabulary of %" PRIu64 " is too large",
                         g->name, embedding->shape[1]);
    a->vocabulary = (uint32_t)embedding->shape[1];
    a->tied = !find_tensor(f, g, ROLE_HEAD, 0);
    a->qkv_bias = find_tensor(f, g, ROLE_Q_BIAS, 0) || find_tensor(f, g, ROLE_K_BIAS, 0) ||
                  find_tensor(f, g, ROLE_V_BIAS, 0);
    seen = calloc(gguf_tensor_count(g), 1);
    if (!seen)
        return error_set(err, STATUS_NOMEM, "%s: no memory to check its tensors", g->name);
    for (enum role role = 0; role < ROLE_COUNT; role++)
        if (check_role(a, g, f, role, seen, err))
            goto out;
    for (size_t i = 0; i < gguf_tensor_count(g); i++)
        if (!seen[i]) {
            char shown[GGUF_SHOWN_MAX];

            error_set(err, STATUS_UNSUPPORTED, "%s: tensor %s has no place in family %s", g->name,
                      gguf_show(&gguf_tensor(g, i)->name, shown), f->name);
            goto out;
        }
    rv = 0;
out:
    free(seen);
    return rv;
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

static void add_eos(struct arch *a, uint32_t token)
{
    for (uint32_t i = 0; i < a->eos_count; i++)
        if (a->eos[i] == token)
            return;
    a->eos[a->eos_count++] = token;
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
            add_eos(a, token);
    }
    found = read_token(a, g, "tokenizer.ggml.bos_token_id", &token, err);
    if (found < 0)
        return -1;
    a->bos = found == 0 ? (int64_t)token : -1;
    return 0;
}

/* Public */

int arch_read(struct arch *out, const struct gguf *g, struct error *err)
{
    struct arch a = {.bos = -1};
    const struct family *f;
    struct gguf_string name;
    char shown[GGUF_SHOWN_MAX];
    int found = gguf_get_string(g, "general.architecture", &name, err);

    if (found)
        return found < 0 ? -1
                         : error_set(err, STATUS_CORRUPT, "%s: key general.architecture is missing",
                                     g->name);
    f = find_family(name.data, name.len);
    if (!f)
        return error_set(err, STATUS_UNSUPPORTED, "%s: model family %s is not supported", g->name,
                         gguf_show(&name, shown));
    snprintf(a.family, sizeof(a.family), "%s", f->name);
    a.rope_interleaved = f->rope_interleaved;
    if (check_keys(&a, g, err) || read_fields(&a, g, err) || check_tensors(&a, g, f, err) ||
        read_tokens(&a, g, err))
        return -1;
    *out = a;
    return 0;
}

const struct gguf_tensor *arch_tensor(const struct arch *a, const struct gguf *g, enum role role,
                                      uint32_t layer)
{
    const struct family *f = find_family(a->family, strlen(a->family));

    if (!f || (role >= ROLE_FIRST_LAYERED && layer >= a->layers))
        return NULL;
    return find_tensor(f, g, role, layer);
}
