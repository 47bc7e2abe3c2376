/*
 * arch.h - the architecture table: what a family's forward pass needs to know, as data
 *
 * There is one forward pass (engine/forward.c); families differ in these fields alone, whichever
 * format they were read from.  A file of a family that the table lacks, or with a field that the
 * pass does not honour, is UNSUPPORTED by name.
 */
#ifndef MP_MODEL_ARCH_H
#define MP_MODEL_ARCH_H

#include <stdint.h>

#include "common/error.h"
#include "model/source.h"

#define ARCH_EOS_MAX     16
#define ARCH_LAYERS_MAX  512
#define ARCH_FACTORS_MAX 256    /* rotated pairs of a head */
#define ARCH_COLS_MAX    65536u /* of an engine's widest activation row */

/* What mixes the tokens of a layer. Others than attention are UNSUPPORTED today. */
enum mixer { MIXER_ATTENTION };

/* Values are kernels.h's enum activation. */
enum arch_activation { ARCH_ACTIVATION_SILU, ARCH_ACTIVATION_GELU_TANH };

/* What q and k are normed over, before the rotary embedding. */
enum qk_norm_kind { QK_NORM_NONE, QK_NORM_HEAD, QK_NORM_WIDTH };

#define ARCH_NO_ROPE UINT8_MAX

struct arch_layer {
    uint32_t window; /* a token sees that many positions, its own included; 0: all before it */
    uint8_t mixer;   /* enum mixer */
    uint8_t rope;    /* index of arch.rope, or ARCH_NO_ROPE */
    uint8_t moe;     /* its feed-forward part is a router and experts */
};

/* One rotary embedding.  Frequency i of dims/2 is theta^(-2i/dims) / factors[i]. */
struct arch_rope {
    float theta;
    float scale;      /* multiplies cosine and sine */
    uint32_t dims;    /* rotated elements of a head, even */
    uint32_t scaled;  /* factors that are given: 0 (all 1) or dims/2 */
    uint32_t extends; /* longrope: contexts beyond this take long_factors; 0: none do */
    float factors[ARCH_FACTORS_MAX];
    float long_factors[ARCH_FACTORS_MAX];
};

struct arch {
    char family[32]; /* "llama" */
    uint32_t layers, width, heads, kv_heads, head_dim, ffn, vocabulary, context;
    float norm_eps;
    float norm_offset;    /* added to each stored weight of a norm as it is loaded: 0, or 1 */
    float embed_scale;    /* 1 */
    float residual_scale; /* of what a layer adds to the residual stream: 1 */
    float logit_scale;    /* 1 */
    float logit_softcap;  /* 0: none; behind the scale */
    float attn_scale;     /* 1/sqrt(head_dim) */
    float attn_softcap;   /* 0: none */
    enum arch_activation activation;
    enum qk_norm_kind qk_norm;
    /* 1: q and k are stored so that rope turns pairs (0,1)(2,3), as GGUF's llama; 0: halves */
    int rope_interleaved;
    struct arch_rope rope[2];
    struct arch_layer layer[ARCH_LAYERS_MAX];
    /* Experts of the layers with moe: how many, chosen for a token, their width, whether the
     * weights of the chosen ones are made to sum to 1. */
    uint32_t experts, experts_used, expert_ffn;
    int expert_renormalize;
    int tied;                   /* the head is the embedding */
    int qkv_bias;               /* all of q, k and v have one */
    uint32_t eos[ARCH_EOS_MAX]; /* tokens that end a sequence */
    uint32_t eos_count;
    int64_t bos; /* -1: none */
};

/* What a tensor is to the forward pass. */
enum role {
    ROLE_EMBEDDING,
    ROLE_HEAD,
    ROLE_FINAL_NORM,
    ROLE_ATTN_NORM, /* from here on: one per layer */
    ROLE_Q,
    ROLE_K,
    ROLE_V,
    ROLE_O,
    ROLE_Q_BIAS,
    ROLE_K_BIAS,
    ROLE_V_BIAS,
    ROLE_Q_NORM,
    ROLE_K_NORM,
    ROLE_ATTN_POST_NORM, /* of what attention adds to the residual stream */
    ROLE_FFN_NORM,
    ROLE_GATE,
    ROLE_UP,
    ROLE_DOWN,
    ROLE_FFN_POST_NORM,
    ROLE_ROUTER,
    ROLE_EXPERT_GATE, /* from here on: one per expert of a layer */
    ROLE_EXPERT_UP,
    ROLE_EXPERT_DOWN,
    ROLE_COUNT
};
#define ROLE_FIRST_LAYERED ROLE_ATTN_NORM
#define ROLE_FIRST_EXPERT  ROLE_EXPERT_GATE

/* Norms take arch.norm_offset, and are stored as any float type; biases too. */
static inline int role_is_norm(enum role r)
{
    return r == ROLE_FINAL_NORM || r == ROLE_ATTN_NORM || r == ROLE_Q_NORM || r == ROLE_K_NORM ||
           r == ROLE_ATTN_POST_NORM || r == ROLE_FFN_NORM || r == ROLE_FFN_POST_NORM;
}

/* Read the fields from the source's metadata and check every tensor of the family: there, of a
 * known type and of the right shape, none unknown.  CORRUPT or UNSUPPORTED names the key or tensor.
 */
int arch_read(struct arch *a, const struct source *s, struct error *err);

/* Where a role's weights lie: a tensor or, in a checkpoint that stores several roles as one, some
 * of its rows.  Of a vector: its elements. */
struct arch_ref {
    const struct source_tensor *tensor;
    uint64_t first, count; /* of the tensor's rows, counted through all further dimensions */
};

/* The weights of a role (layer ignored for unlayered ones): 1 found, 0 this model has none. */
int arch_tensor(const struct arch *a, const struct source *s, enum role role, uint32_t layer,
                struct arch_ref *out);
/* The same of one expert of a layer; for roles from ROLE_FIRST_EXPERT on. */
int arch_expert(const struct arch *a, const struct source *s, enum role role, uint32_t layer,
                uint32_t expert, struct arch_ref *out);
/* Is every activation row at most ARCH_COLS_MAX wide?  UNSUPPORTED names the one that is not.  Gate
 * and up are computed side by side, as one row. */
int arch_check_cols(const struct arch *a, struct error *err);
/* The factors of a rope for sequences of up to `context` tokens (dims/2 of them), or NULL. */
const float *arch_rope_factors(const struct arch_rope *r, uint32_t context);

#endif
