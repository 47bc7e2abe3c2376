/*
 * arch.h - the architecture table: what a family's forward pass needs to know, as data
 *
 * There is one forward pass (engine/forward.c); families differ in these fields alone.  A file of a
 * family that the table lacks, or with a field that the pass does not honour, is UNSUPPORTED by
 * name.
 */
#ifndef MP_MODEL_ARCH_H
#define MP_MODEL_ARCH_H

#include "model/gguf.h"

#define ARCH_EOS_MAX    8
#define ARCH_LAYERS_MAX 512

struct arch {
    char family[32]; /* "llama" */
    uint32_t layers, width, heads, kv_heads, head_dim, ffn, vocabulary, context;
    float norm_eps;
    float embed_scale; /* 1 */
    float attn_scale;  /* 1/sqrt(head_dim) */
    float rope_theta;
    uint32_t rope_dims;
    int rope_interleaved; /* kernels.h struct rope */
    int tied;             /* the head is the embedding */
    int qkv_bias;
    uint32_t eos[ARCH_EOS_MAX]; /* tokens that end a sequence */
    uint32_t eos_count;
    int64_t bos; /* -1: none */
};

/* What a tensor is to the forward pass. */
enum role {
    ROLE_EMBEDDING,
    ROLE_HEAD,
    ROLE_FINAL_NORM,
    ROLE_ROPE_FACTORS,
    ROLE_ATTN_NORM, /* from here on: one per layer */
    ROLE_Q,
    ROLE_K,
    ROLE_V,
    ROLE_O,
    ROLE_Q_BIAS,
    ROLE_K_BIAS,
    ROLE_V_BIAS,
    ROLE_FFN_NORM,
    ROLE_GATE,
    ROLE_UP,
    ROLE_DOWN,
    ROLE_COUNT
};
#define ROLE_FIRST_LAYERED ROLE_ATTN_NORM

/* Read the fields from metadata and check every tensor of the family: there, of a known type and of
 * the right shape, none unknown.  CORRUPT or UNSUPPORTED names the key or tensor. */
int arch_read(struct arch *a, const struct gguf *g, struct error *err);
/* The tensor of a role (layer ignored for unlayered ones); NULL if this model has none. */
const struct gguf_tensor *arch_tensor(const struct arch *a, const struct gguf *g, enum role role,
                                      uint32_t layer);

#endif
