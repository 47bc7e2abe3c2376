/* family.c - the table of families, and what follows from a family's traits */
#include "model/family.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Sources: the modeling and configuration files of Hugging Face's transformers, and for GGUF's
 * names and permutations the converter of the ggml project. */
static const struct family families[] = {
    /* In GGUF a mistral is a llama, so that this entry is that of GGUF's llamas. */
    {"llama", "mistral", TRAIT_PRE_NORM | TRAIT_INTERLEAVED | TRAIT_WINDOW_ALL, 0, 10000},
    {"llama", "llama", TRAIT_PRE_NORM | TRAIT_INTERLEAVED, 0, 10000},
    {"qwen2", "qwen2", TRAIT_PRE_NORM | TRAIT_QKV_BIAS | TRAIT_WINDOW_LAST, 0, 10000},
    {"qwen3", "qwen3", TRAIT_PRE_NORM | TRAIT_QK_NORM_HEAD | TRAIT_WINDOW_LAST, 0, 10000},
    {"qwen3moe", "qwen3_moe", TRAIT_PRE_NORM | TRAIT_QK_NORM_HEAD | TRAIT_EXPERTS, 0, 10000},
    {"gemma2", "gemma2",
     TRAIT_PRE_NORM | TRAIT_POST_NORM | TRAIT_GELU | TRAIT_NORM_OFFSET | TRAIT_EMBED_SQRT |
         TRAIT_SOFTCAP | TRAIT_QUERY_SCALAR,
     2, 10000},
    {"gemma3", "gemma3_text",
     TRAIT_PRE_NORM | TRAIT_POST_NORM | TRAIT_GELU | TRAIT_NORM_OFFSET | TRAIT_EMBED_SQRT |
         TRAIT_SOFTCAP | TRAIT_QUERY_SCALAR | TRAIT_QK_NORM_HEAD | TRAIT_LOCAL_ROPE,
     6, 1000000},
    {"phi3", "phi3", TRAIT_PRE_NORM | TRAIT_FUSED | TRAIT_WINDOW_ALL | TRAIT_LONGROPE, 0, 10000},
    {"smollm3", "smollm3", TRAIT_PRE_NORM | TRAIT_INTERLEAVED | TRAIT_NOPE, 4, 2000000},
    {"olmo2", "olmo2", TRAIT_POST_NORM | TRAIT_QK_NORM_WIDTH, 0, 10000},
    {"granite", "granite", TRAIT_PRE_NORM | TRAIT_INTERLEAVED | TRAIT_MULTIPLIERS, 0, 10000},
};
#define FAMILIES (sizeof(families) / sizeof(families[0]))

/* The first of several. */
const struct family *family_by_name(const char *name, uint64_t len)
{
    for (size_t i = 0; i < FAMILIES; i++)
        if (strlen(families[i].name) == len && memcmp(families[i].name, name, len) == 0)
            return &families[i];
    return NULL;
}

const struct family *family_by_config(const char *model_type)
{
    for (size_t i = 0; i < FAMILIES; i++)
        if (strcmp(families[i].config, model_type) == 0)
            return &families[i];
    return NULL;
}

static const struct role_rule rules[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = {"token_embd.weight", "model.embed_tokens.weight", 0, EXTENT_WIDTH,
                        EXTENT_VOCABULARY},
    [ROLE_HEAD] = {"output.weight", "lm_head.weight", 0, EXTENT_WIDTH, EXTENT_VOCABULARY},
    [ROLE_FINAL_NORM] = {"output_norm.weight", "model.norm.weight", 1, EXTENT_WIDTH, EXTENT_ONE},
    [ROLE_ATTN_NORM] = {"attn_norm.weight", "input_layernorm.weight", 1, EXTENT_WIDTH, EXTENT_ONE},
    [ROLE_Q] = {"attn_q.weight", "self_attn.q_proj.weight", 0, EXTENT_WIDTH, EXTENT_Q},
    [ROLE_K] = {"attn_k.weight", "self_attn.k_proj.weight", 0, EXTENT_WIDTH, EXTENT_KV},
    [ROLE_V] = {"attn_v.weight", "self_attn.v_proj.weight", 0, EXTENT_WIDTH, EXTENT_KV},
    [ROLE_O] = {"attn_output.weight", "self_attn.o_proj.weight", 0, EXTENT_Q, EXTENT_WIDTH},
    [ROLE_Q_BIAS] = {"attn_q.bias", "self_attn.q_proj.bias", 1, EXTENT_Q, EXTENT_ONE},
    [ROLE_K_BIAS] = {"attn_k.bias", "self_attn.k_proj.bias", 1, EXTENT_KV, EXTENT_ONE},
    [ROLE_V_BIAS] = {"attn_v.bias", "self_attn.v_proj.bias", 1, EXTENT_KV, EXTENT_ONE},
    [ROLE_Q_NORM] = {"attn_q_norm.weight", "self_attn.q_norm.weight", 1, EXTENT_QK_NORM_Q,
                     EXTENT_ONE},
    [ROLE_K_NORM] = {"attn_k_norm.weight", "self_attn.k_norm.weight", 1, EXTENT_QK_NORM_K,
                     EXTENT_ONE},
    [ROLE_ATTN_POST_NORM] = {"post_attention_norm.weight", "post_attention_layernorm.weight", 1,
                             EXTENT_WIDTH, EXTENT_ONE},
    [ROLE_FFN_NORM] = {"ffn_norm.weight", "post_attention_layernorm.weight", 1, EXTENT_WIDTH,
                       EXTENT_ONE},
    [ROLE_GATE] = {"ffn_gate.weight", "mlp.gate_proj.weight", 0, EXTENT_WIDTH, EXTENT_FFN},
    [ROLE_UP] = {"ffn_up.weight", "mlp.up_proj.weight", 0, EXTENT_WIDTH, EXTENT_FFN},
    [ROLE_DOWN] = {"ffn_down.weight", "mlp.down_proj.weight", 0, EXTENT_FFN, EXTENT_WIDTH},
    [ROLE_FFN_POST_NORM] = {"post_ffw_norm.weight", "post_feedforward_layernorm.weight", 1,
                            EXTENT_WIDTH, EXTENT_ONE},
    [ROLE_ROUTER] = {"ffn_gate_inp.weight", "mlp.gate.weight", 0, EXTENT_WIDTH, EXTENT_EXPERTS},
    [ROLE_EXPERT_GATE] = {"ffn_gate_exps.weight", "gate_proj.weight", 0, EXTENT_WIDTH,
                          EXTENT_EXPERT_FFN},
    [ROLE_EXPERT_UP] = {"ffn_up_exps.weight", "up_proj.weight", 0, EXTENT_WIDTH, EXTENT_EXPERT_FFN},
    [ROLE_EXPERT_DOWN] = {"ffn_down_exps.weight", "down_proj.weight", 0, EXTENT_EXPERT_FFN,
                          EXTENT_WIDTH},
};

const struct role_rule *role_rule(enum role role)
{
    return &rules[role];
}

uint64_t extent(const struct arch *a, enum extent e)
{
    switch (e) {
    case EXTENT_ONE:
        break;
    case EXTENT_WIDTH:
        return a->width;
    case EXTENT_Q:
        return (uint64_t)a->heads * a->head_dim;
    case EXTENT_KV:
        return (uint64_t)a->kv_heads * a->head_dim;
    case EXTENT_QK_NORM_Q:
        return a->qk_norm == QK_NORM_WIDTH ? (uint64_t)a->heads * a->head_dim : a->head_dim;
    case EXTENT_QK_NORM_K:
        return a->qk_norm == QK_NORM_WIDTH ? (uint64_t)a->kv_heads * a->head_dim : a->head_dim;
    case EXTENT_FFN:
        return a->ffn;
    case EXTENT_EXPERT_FFN:
        return a->expert_ffn;
    case EXTENT_EXPERTS:
        return a->experts;
    case EXTENT_VOCABULARY:
        return a->vocabulary;
    }
    return 1;
}

int role_present(const struct family *f, const struct arch *a, enum role role, uint32_t layer)
{
    if (role >= ROLE_FIRST_LAYERED && layer >= a->layers)
        return 0;
    switch (role) {
    case ROLE_HEAD:
        return !a->tied;
    case ROLE_Q_BIAS:
    case ROLE_K_BIAS:
    case ROLE_V_BIAS:
        return a->qkv_bias;
    case ROLE_Q_NORM:
    case ROLE_K_NORM:
        return a->qk_norm != QK_NORM_NONE;
    case ROLE_ATTN_NORM:
    case ROLE_FFN_NORM:
        return (f->traits & TRAIT_PRE_NORM) != 0;
    case ROLE_ATTN_POST_NORM:
    case ROLE_FFN_POST_NORM:
        return (f->traits & TRAIT_POST_NORM) != 0;
    case ROLE_GATE:
    case ROLE_UP:
    case ROLE_DOWN:
        return !a->layer[layer].moe;
    case ROLE_ROUTER:
    case ROLE_EXPERT_GATE:
    case ROLE_EXPERT_UP:
    case ROLE_EXPERT_DOWN:
        return a->layer[layer].moe;
    default:
        return 1;
    }
}

/* The tensor that holds q, k and v, or gate and up, in place of one of them; NULL: its own. */
static const char *fused_name(const struct arch *a, int gguf, enum role role, struct role_place *p)
{
    uint64_t q = extent(a, EXTENT_Q), kv = extent(a, EXTENT_KV);

    switch (role) {
    case ROLE_Q:
    case ROLE_K:
    case ROLE_V:
        p->first = role == ROLE_Q ? 0 : role == ROLE_K ? q : q + kv;
        p->all = q + 2 * kv;
        return gguf ? "attn_qkv.weight" : "self_attn.qkv_proj.weight";
    case ROLE_GATE:
    case ROLE_UP:
        p->first = role == ROLE_GATE ? 0 : a->ffn;
        p->all = (uint64_t)2 * a->ffn;
        return gguf ? "ffn_up.weight" : "mlp.gate_up_proj.weight";
    default:
        return NULL;
    }
}

void role_place(const struct family *f, const struct arch *a, int gguf, enum role role,
                uint32_t layer, uint32_t expert, struct role_place *p)
{
    const struct role_rule *rule = &rules[role];
    const char *name = gguf ? rule->gguf : rule->config, *fused;

    p->columns = extent(a, rule->columns);
    p->first = 0;
    p->count = p->all = extent(a, rule->rows);
    p->depth = 1;
    if (f->traits & TRAIT_FUSED && (fused = fused_name(a, gguf, role, p)) != NULL)
        name = fused;
    /* Between two norms of attention, the one before the feed-forward part has a name of its own.
     */
    if (!gguf && role == ROLE_FFN_NORM && f->traits & TRAIT_POST_NORM)
        name = "pre_feedforward_layernorm.weight";
    if (role < ROLE_FIRST_LAYERED) {
        snprintf(p->name, sizeof(p->name), "%s", name);
    } else if (gguf) {
        snprintf(p->name, sizeof(p->name), "blk.%" PRIu32 ".%s", layer, name);
        if (role >= ROLE_FIRST_EXPERT) {
            p->first = p->count * expert;
            p->depth = a->experts;
        }
    } else if (role >= ROLE_FIRST_EXPERT) {
        snprintf(p->name, sizeof(p->name), "model.layers.%" PRIu32 ".mlp.experts.%" PRIu32 ".%s",
                 layer, expert, name);
    } else {
        snprintf(p->name, sizeof(p->name), "model.layers.%" PRIu32 ".%s", layer, name);
    }
}

void family_layers(const struct family *f, struct arch *a, const struct arch_pattern *p)
{
    for (uint32_t i = 0; i < a->layers; i++) {
        struct arch_layer *l = &a->layer[i];
        int sliding, nope = 0;

        if (p->sliding)
            sliding = p->sliding[i];
        else if (f->traits & TRAIT_WINDOW_LAST)
            sliding = i >= p->first;
        else if (p->pattern != 0 && !(f->traits & TRAIT_NOPE))
            sliding = (i + 1) % p->pattern != 0;
        else
            sliding = (f->traits & TRAIT_WINDOW_ALL) != 0;
        if (f->traits & TRAIT_NOPE)
            nope = p->nope ? p->nope[i] : p->pattern != 0 && (i + 1) % p->pattern == 0;
        l->mixer = MIXER_ATTENTION;
        l->window = sliding ? p->window : 0;
        l->rope = nope ? ARCH_NO_ROPE : sliding && f->traits & TRAIT_LOCAL_ROPE ? 1 : 0;
    }
}

void family_defaults(const struct family *f, struct arch *a)
{
    snprintf(a->family, sizeof(a->family), "%s", f->name);
    a->embed_scale = f->traits & TRAIT_EMBED_SQRT ? (float)sqrt((double)a->width) : 1;
    a->residual_scale = 1;
    a->logit_scale = 1;
    a->attn_scale = (float)(1 / sqrt((double)a->head_dim));
    a->activation = f->traits & TRAIT_GELU ? ARCH_ACTIVATION_GELU_TANH : ARCH_ACTIVATION_SILU;
    a->qk_norm = f->traits & TRAIT_QK_NORM_HEAD    ? QK_NORM_HEAD
                 : f->traits & TRAIT_QK_NORM_WIDTH ? QK_NORM_WIDTH
                                                   : QK_NORM_NONE;
    if (f->traits & TRAIT_SOFTCAP && !(f->traits & TRAIT_LOCAL_ROPE)) {
        a->attn_softcap = 50;
        a->logit_softcap = 30;
    }
    for (int i = 0; i < 2; i++)
        a->rope[i].scale = 1;
}
