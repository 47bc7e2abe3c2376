/*
 * weights.h - one model on this engine: its table of tensors and its place in the arena
 *
 * Opening reads the file's metadata and lays the tensors out in the model's own virtual range; no
 * weight is read.  Every pointer in struct model is good for ever, but may be followed only while
 * the model is resident.  Layout: q, k and v of a layer lie behind each other, rows concatenated,
 * so that one matrix-vector product does all three where they are of one stored type; gate and up
 * likewise. Each group starts at a multiple of 64 bytes.
 */
#ifndef MP_ENGINE_WEIGHTS_H
#define MP_ENGINE_WEIGHTS_H

#include "common/order.h"
#include "engine/arena.h"
#include "engine/channel.h"
#include "kernels/kernels.h"
#include "model/arch.h"

/* The widest activation row that the device's scratch is sized for. */
#define ENGINE_COLS_MAX ARCH_COLS_MAX
#define ENGINE_PAGE_TOKENS                                                                         \
    16u /* of a KV page on the CPU: small, since nothing is copied over a bus */

struct layer_weights {
    const float *attn_norm;
    struct weight q, k, v;
    struct weight qkv;     /* all three as one; rows 0: their types differ */
    const float *qkv_bias; /* [q|k|v], or NULL */
    struct weight o;
    const float *ffn_norm;
    struct weight gate, up;
    struct weight gate_up; /* both as one; rows 0: their types differ */
    struct weight down;
    /* Norms that not every family has, or NULL. */
    const float *q_norm, *k_norm, *attn_post_norm, *ffn_post_norm;
    /* Of a layer with experts, in place of gate, up and down: the first expert's matrices, behind
     * which the others' lie. */
    struct weight router, expert_gate_up, expert_down;
    /* Where its keys and values lie: layer cache_layer of model.kv, or of kv_local. */
    uint32_t cache_layer;
    int cache_local;
};

struct tensor_copy; /* where in which file, where in the range */

struct model {
    uint32_t id; /* the daemon's number */
    char name[64];
    int fds[ORDER_FILES_MAX]; /* of the files that weights are read from; -1: not needed */
    uint32_t fd_count;
    struct arch arch;
    uint32_t max_context;
    /* Two kinds of pages: of the layers that see all positions (of all layers, where each has a
     * window), and of those with a window beside others (layers 0: there are none). Of positions
     * that no later token sees the pages are given back: window is how many one does, 0 all. */
    struct kv_layout kv, kv_local;
    uint32_t window, window_local;
    struct rope rope[2]; /* arch.rope; their factors lie in arch */

    struct weight embedding, head;
    const float *final_norm;
    struct layer_weights *layers;

    struct tensor_copy *copies;
    uint32_t copy_count;
    uint64_t weight_bytes; /* that a load copies */

    uint8_t *range;
    uint32_t owner;    /* in the arena */
    uint32_t *handles; /* room for handle_count; in use while resident */
    uint32_t handle_count;
    int resident;
    uint64_t used; /* stamp of the last use, for eviction */
};

/*
 * Read the files (which stay the caller's; duplicates are kept) as the order asks.
 * owner: the model's number in the arena.  UNSUPPORTED or CORRUPT names the key or tensor.
 */
struct model *model_open(const struct channel_files *files, const struct order_model *order,
                         uint32_t owner, struct error *err);
/* The model must not be resident. */
void model_close(struct model *m);

/* Bytes of KV of one token. */
uint64_t model_kv_token_bytes(const struct model *m);
/* Handles that a sequence of so many tokens takes for its pages, when it is alone and a step has up
 * to step_rows of its tokens. */
uint64_t model_kv_handles(const struct model *m, uint64_t tokens, uint32_t step_rows);

/* Take handles, map them and copy the weights in.  EXHAUSTED if too few handles are free; CORRUPT
 * or IO names the tensor that could not be read.  On failure nothing is held. */
int model_load(struct model *m, struct arena *a, struct error *err);
void model_unload(struct model *m, struct arena *a);

#endif
