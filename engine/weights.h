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
#include "kernels/kernels.h"
#include "model/arch.h"

/* The widest activation row that the device's scratch is sized for. */
#define ENGINE_COLS_MAX 65536u
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
};

struct tensor_copy; /* where in the file, where in the range */

struct model {
    uint32_t id; /* the daemon's number */
    char name[64];
    int fd;
    struct arch arch;
    uint32_t max_context;
    struct kv_layout kv;
    struct rope rope;

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
 * Read the file behind fd (which stays the caller's; a duplicate is kept) as the order asks.
 * owner: the model's number in the arena.  UNSUPPORTED or CORRUPT names the key or tensor.
 */
struct model *model_open(int fd, const struct order_model *order, uint32_t owner,
                         struct error *err);
/* The model must not be resident. */
void model_close(struct model *m);

/* Bytes of KV of one token. */
uint64_t model_kv_token_bytes(const struct model *m);

/* Take handles, map them and copy the weights in.  EXHAUSTED if too few handles are free; CORRUPT
 * or IO names the tensor that could not be read.  On failure nothing is held. */
int model_load(struct model *m, struct arena *a, struct error *err);
void model_unload(struct model *m, struct arena *a);

#endif
