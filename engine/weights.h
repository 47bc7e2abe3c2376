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

#include <stdatomic.h>

#include "common/order.h"
#include "engine/arena.h"
#include "engine/channel.h"
#include "engine/master.h"
#include "engine/shard.h"
#include "kernels/collective.h"
#include "kernels/kernels.h"
#include "model/arch.h"

/* The widest activation row that the device's scratch is sized for. */
#define ENGINE_COLS_MAX ARCH_COLS_MAX
/* Tokens of a KV page: as few as there may be on a CPU, where nothing is copied over a bus; else
 * the smallest power of two that makes a page worth a copy of its own, within the two. */
#define ENGINE_PAGE_TOKENS     16u
#define ENGINE_PAGE_TOKENS_MAX 128u
#define ENGINE_PAGE_BYTES      ((uint64_t)3 << 19)

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
    uint64_t end; /* of its tensors, in the range */
};

#define MODEL_GRAPHS 13u

/* Weights on their way: those before a mark of the lane are there once it is met. */
struct arrival {
    struct device_lane *lane;
    uint64_t mark_bytes; /* of the range, between marks */
};

struct tensor_copy; /* where in which file, where in the range */

struct model {
    uint32_t id; /* the daemon's number */
    char name[64];
    int fds[ORDER_FILES_MAX]; /* of the files with weights; -1: of another kind */
    uint32_t fd_count;
    struct arch arch; /* heads and widths are those of its part */
    uint32_t max_context;
    /* Which part it is, and from which token on each part has the vocabulary.  What the engine
     * knows as a model is the first part, which names them all, itself first; a whole model is one
     * part.  The others have layout, range and layers of their own, and the first one's handles. */
    struct shard shard;
    uint32_t vocabulary_firsts[COLLECTIVE_RANKS_MAX + 1]; /* of each part, and the end */
    struct model *parts[COLLECTIVE_RANKS_MAX];
    uint32_t part_count;
    /* Two kinds of pages: of the layers that see all positions (of all layers, where each has a
     * window), and of those with a window beside others (layers 0: there are none). Of positions
     * that no later token sees the pages are given back: window is how many one does, 0 all. */
    struct kv_layout kv, kv_local;
    uint32_t window, window_local;
    struct rope rope[2]; /* arch.rope; their factors lie in arch */

    struct weight embedding, head;
    const float *final_norm;
    struct layer_weights *layers;
    uint64_t embedding_end; /* in the range */

    struct tensor_copy *copies;
    uint32_t copy_count;
    uint64_t weight_bytes; /* that a load copies, of all parts */

    struct arena *arena;
    uint8_t *range;
    uint64_t range_bytes; /* of it that the layout uses */
    uint64_t layout;      /* digest of which tensor lies where in it, as what type */
    struct master copy;   /* the daemon's master copy, if it has lent one */
    int pinned;           /* not to be evicted */
    uint32_t owner;       /* in the arena */
    uint32_t *handles;    /* room for handle_count; in use while resident */
    uint32_t handle_count;
    int resident;
    uint64_t used; /* stamp of the last use, for eviction */
    /* Loaded by a lane: what is mapped at each handle's place stays so while it is not resident,
     * for nothing looks there then.  UINT32_MAX: nothing is. */
    int by_lane;
    int in_loader; /* a loader has it, and its master copy */
    uint32_t *mapped;
    const struct arrival *arriving; /* resident, but wait by model_await(); NULL: all is there */
    int64_t arrived_us;             /* when the last load was done (clock_monotonic_us()) */
    uint64_t load_us;               /* of loads that turns waited for and have not counted yet */
    /* On a GPU: decode steps by their rows (step.h), and what addresses they were recorded with. */
    struct graph *graphs[MODEL_GRAPHS];
    uint64_t graphs_generation;
};

/* The device that holds this part. */
static inline struct device *model_device(const struct model *m)
{
    return arena_rank_device(m->arena, m->shard.rank);
}

/*
 * Read the files (which stay the caller's; duplicates are kept) as the order asks.
 * owner: the model's number in the arena.  UNSUPPORTED or CORRUPT names the key or tensor.  Of an
 * arena of several ranks the model has as many parts.
 */
struct model *model_open(const struct channel_files *files, const struct order_model *order,
                         struct arena *arena, uint32_t owner, struct error *err);
/* The model must not be resident. */
void model_close(struct model *m);

/* Bytes of KV of one token, in this part. */
uint64_t model_kv_token_bytes(const struct model *m);
/* Handles that a sequence of so many tokens takes for its pages, when it is alone and a step has up
 * to step_rows of its tokens. */
uint64_t model_kv_handles(const struct model *m, uint64_t tokens, uint32_t step_rows);

/* Read a part's tensors to where it is mapped on a CPU, as they lie in the range.  *read counts
 * bytes of the files while it goes on; *cancel ends it, UNAVAILABLE.  CORRUPT or IO names the
 * tensor. */
int model_read_part(const struct model *part, atomic_int *cancel, atomic_uint_fast64_t *read,
                    struct error *err);

/* Where weights wait between file and device, if there is no master copy. */
struct staging {
    struct device *device;
    uint8_t *buffers; /* STAGING_BUFFERS of STAGING_BYTES, of device_host_alloc() */
};
#define STAGING_BYTES   ((uint64_t)16 << 20)
#define STAGING_BUFFERS 2u

/* Let the device try how it multiplies with these matrices best; once, off any request's path. */
int model_tune(const struct model *m, struct error *err);

int staging_open(struct staging *s, struct device *d, struct error *err);
void staging_close(struct staging *s);

/* Take handles; EXHAUSTED if too few are free.  And give them back, unmapped first. */
int model_take(struct model *m, struct error *err);
/* Map them for all parts. */
int model_map(struct model *m, struct error *err);
void model_give(struct model *m, int mapped);

/* By a lane: the handles that lie in [from, to) of the range are mapped. */
int model_place(struct model *m, uint64_t from, uint64_t to, struct error *err);
/* From the files to the mapped range, by way of s and the lane, whose marks it uses; *bytes counts
 * what was read.  CORRUPT or IO names the tensor; UNAVAILABLE: cancel became 1. */
int model_stage(const struct model *m, struct staging *s, struct device_lane *lane,
                const atomic_int *cancel, uint64_t *bytes, struct error *err);
/* What the device is asked for from now on waits for the range's first `end` bytes. */
void model_await(const struct model *m, uint64_t end);
void model_unload(struct model *m);

#endif
