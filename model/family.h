/*
 * family.h - inside of the architecture table: what sets each family apart
 *
 * For arch*.c.  A family is a set of traits; everything else is in its settings.  A tensor's name
 * and shape follow from its role and the traits.
 */
#ifndef MP_MODEL_FAMILY_H
#define MP_MODEL_FAMILY_H

#include "model/arch.h"

enum trait {
    TRAIT_PRE_NORM = 1 << 0,  /* a norm before attention and before the feed-forward part */
    TRAIT_POST_NORM = 1 << 1, /* one behind each, before the residual stream */
    TRAIT_QKV_BIAS = 1 << 2,  /* q, k and v have biases; without: a GGUF file may have them */
    TRAIT_QK_NORM_HEAD = 1 << 3,
    TRAIT_QK_NORM_WIDTH = 1 << 4,
    TRAIT_FUSED = 1 << 5,       /* stored as one tensor: q, k, v; and gate, up */
    TRAIT_GELU = 1 << 6,        /* gated by GELU's tanh form; else SiLU */
    TRAIT_NORM_OFFSET = 1 << 7, /* checkpoints store a norm's weights less 1 (GGUF stores all) */
    TRAIT_EMBED_SQRT = 1 << 8,  /* embeddings are scaled by the root of the width */
    TRAIT_EXPERTS = 1 << 9,
    TRAIT_INTERLEAVED = 1 << 10, /* GGUF stores q and k permuted for rope over neighbours */
    TRAIT_WINDOW_ALL = 1 << 11,  /* a window in the settings is every layer's */
    TRAIT_WINDOW_LAST = 1 << 12, /* is that of the layers from max_window_layers on */
    TRAIT_LOCAL_ROPE = 1 << 13,  /* layers with a window have a rope of their own */
    TRAIT_SOFTCAP = 1 << 14,
    TRAIT_QUERY_SCALAR = 1 << 15, /* scores are divided by the root of a setting */
    TRAIT_MULTIPLIERS = 1 << 16,
    TRAIT_NOPE = 1 << 17, /* some layers have no rotary embedding */
    TRAIT_LONGROPE = 1 << 18,
};

struct family {
    const char *name;   /* GGUF's general.architecture, and the prefix of its keys */
    const char *config; /* config.json's model_type */
    uint32_t traits;
    uint32_t pattern; /* every so manieth layer has no window (or, by TRAIT_NOPE, no rope) */
    float theta;      /* of the rope if nothing says: that of the configuration's class */
};

/* NULL if there is none. */
const struct family *family_by_name(const char *name, uint64_t len);
const struct family *family_by_config(const char *model_type);

/* Extents of a tensor in terms of the fields. */
enum extent {
    EXTENT_ONE,
    EXTENT_WIDTH,
    EXTENT_Q,  /* heads * head_dim */
    EXTENT_KV, /* kv_heads * head_dim */
    EXTENT_QK_NORM_Q,
    EXTENT_QK_NORM_K,
    EXTENT_FFN,
    EXTENT_EXPERT_FFN,
    EXTENT_EXPERTS,
    EXTENT_VOCABULARY,
};

/* A tensor's name by role.  In GGUF a layered one is "blk.N." and this, in a checkpoint
 * "model.layers.N." and this. */
struct role_rule {
    const char *gguf, *config;
    int vector;
    enum extent columns, rows; /* of a vector: ONE row */
};

const struct role_rule *role_rule(enum role role);
uint64_t extent(const struct arch *a, enum extent e);

/* Whether a model of these fields has the role in that layer. */
int role_present(const struct family *f, const struct arch *a, enum role role, uint32_t layer);
/* The stored tensor's name, and which of its rows are the role's.  `all` rows stand in it. */
struct role_place {
    char name[96];
    uint64_t columns, first, count, all;
    uint64_t depth; /* third dimension: experts, or 1 */
};
void role_place(const struct family *f, const struct arch *a, int gguf, enum role role,
                uint32_t layer, uint32_t expert, struct role_place *p);

/* What is left to do for every source once the settings are read: windows, ropes by layer. A
 * missing window is named. */
struct arch_pattern {
    const unsigned char *sliding; /* [layers], or NULL: by the family's pattern */
    const unsigned char *nope;    /* [layers], or NULL */
    uint32_t window;              /* 0: none */
    uint32_t first;               /* TRAIT_WINDOW_LAST: the first layer with it */
    uint32_t pattern;
};
void family_layers(const struct family *f, struct arch *a, const struct arch_pattern *p);
/* Defaults of every field that a format may leave alone; layers, width, head_dim are set. */
void family_defaults(const struct family *f, struct arch *a);

/* The two formats. Fields and end tokens; sets *f.  vocabulary, tied and qkv_bias come before. */
int arch_read_gguf(struct arch *a, const struct family **f, const struct source *s,
                   struct error *err);
int arch_read_config(struct arch *a, const struct family **f, const struct source *s,
                     struct error *err);

/* Ceilings of fields: beyond any known model, and small enough that products stay in 64 bits. */
#define FIELD_MAX      (1u << 20)
#define VOCABULARY_MAX (1u << 22)
#define CONTEXT_MAX    (1u << 30)

/* Check what both formats must hold of heads and ropes. */
int arch_check_heads(const struct arch *a, const char *name, struct error *err);
void arch_add_eos(struct arch *a, uint32_t token);

/* Factors of r->dims/2 frequencies; r->theta and r->dims are set. */
void rope_plain(struct arch_rope *r);
void rope_linear(struct arch_rope *r, double factor);
/* Llama 3.1's: wavelengths beyond original/low are stretched by `factor`, those below original/high
 * not at all, those between by what lies between. */
void rope_llama3(struct arch_rope *r, double factor, double low, double high, double original);
/* YaRN (Peng 2023): frequencies that turn less than `slow` times in `original` positions are
 * stretched, more than `fast` times not, between linearly by index. scale: see there. */
void rope_yarn(struct arch_rope *r, double factor, double original, double fast, double slow);

#endif
