/*
 * kernels.h - the operations of a forward pass, on one device
 *
 * The engine knows only this header; cpu/ and cuda/ implement it.  Pointers to activations, blocks
 * of weights, tokens, seqs and pages[] are device memory (on the CPU: plain memory, 64-byte aligned
 * at every tensor and row start that the engine hands over); struct weight, rope, kv_layout and
 * attn_step themselves are read by the call.  All calls are asynchronous in principle;
 * device_sync() waits, and calls on one device run in their order.  No operation allocates after
 * device_create().
 *
 * Activations are row-major, one row a token.  The residual stream, logits and the router's numbers
 * are float32.  All others are *operands* (void * below), of the device's operand type: float32, or
 * bfloat16 on a GPU with PRECISION_FAST.  Keys and values in the pages are operands, too.
 *
 * Numerics (DESIGN: output does not depend on neighbours): every output element is computed by one
 * fixed order of summation that depends only on the row's own data, its absolute position and the
 * instruction set; never on the number of rows, the chunking of a prompt, or the threads. Attention
 * splits by absolute position.  The quantized formats are GGUF's.  PRECISION_EXACT: weights are
 * decoded to float32 in registers and multiplied with float32 activations.  PRECISION_FAST: the
 * activations that meet quantized weights in a product are rounded to 8 bits, in blocks of 32
 * columns with a scale each, and the products are summed in integers within a block; all else is as
 * with PRECISION_EXACT. (A GPU with PRECISION_FAST: bfloat16
 * operands, and a sum depends on the kernel that is chosen by the number of rows, too, but for
 * device_deterministic().)
 */
#ifndef MP_KERNELS_KERNELS_H
#define MP_KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Stored types of weights.  Values are GGUF's ggml_type numbers. */
enum dtype {
    DTYPE_F32 = 0,
    DTYPE_F16 = 1,
    DTYPE_Q4_0 = 2,
    DTYPE_Q4_1 = 3,
    DTYPE_Q5_0 = 6,
    DTYPE_Q5_1 = 7,
    DTYPE_Q8_0 = 8,
    DTYPE_Q2_K = 10,
    DTYPE_Q3_K = 11,
    DTYPE_Q4_K = 12,
    DTYPE_Q5_K = 13,
    DTYPE_Q6_K = 14,
    DTYPE_BF16 = 30,
    DTYPE_F8 = 63, /* our own: beyond GGUF's numbers */
};

/*
 * DTYPE_F8 is what weights of FP8 checkpoints become as they are read.  A row of cols elements is
 * cols codes of e4m3fn (sign, 4 bits of exponent with bias 7, 3 of fraction), then a float32 scale
 * for every F8_BLOCK columns, the last of which may be fewer; zeros fill up codes and scales to
 * multiples of F8_ALIGN bytes each.  Element k is code[k] times scale[k / F8_BLOCK].  The codes
 * that are no numbers (0x7f, 0xff) are never stored, and scales are in 0..F8_SCALE_MAX.
 */
#define F8_BLOCK     128u
#define F8_ALIGN     16u
#define F8_SCALE_MAX 0x1p64f

/* Elements and bytes of one block of a type; 0 for a type that no kernel here knows.  (Of DTYPE_F8:
 * of a code; its rows are no sequence of blocks.) */
uint32_t dtype_block_elements(uint32_t dtype);
uint32_t dtype_block_bytes(uint32_t dtype);
const char *dtype_name(uint32_t dtype);
/* Bytes of a row of cols elements; 0 if the type is unknown or cols is no multiple of a block. */
uint64_t dtype_row_bytes(uint32_t dtype, uint64_t cols);
/* Where the scales begin in a row of DTYPE_F8. */
uint64_t f8_scales_at(uint64_t cols);

/* A weight matrix [rows][cols], stored row-major: out[rows] = W x[cols]. */
struct weight {
    const void *data;
    enum dtype dtype;
    uint32_t rows, cols;
};

/* How one layer's keys and values lie in a page: [kv: 2][kv_heads][page_tokens][head_dim] operands.
 * A page holds all layers, one after the other; layer l starts at l * layer_bytes of the page. */
struct kv_layout {
    uint32_t layers, kv_heads, head_dim, page_tokens; /* page_tokens: power of two >= 16 */
    uint64_t layer_bytes, page_bytes;
};

/* A run of consecutive tokens of one sequence within a step. */
struct attn_row {
    uint32_t first_row; /* of this sequence in the step's activations */
    uint32_t count;     /* tokens in this step */
    uint32_t first_pos; /* absolute position of the first of them */
    uint32_t table;     /* index of its first page in the step's page table */
};

/* What a step's tokens see.  seqs may be followed by ones of count 0: a step is padded so.  Both
 * arrays are written by device_copy() alone: a kernel may read them while those ahead of it run. */
struct attn_step {
    const struct attn_row *seqs; /* [seq_count], device memory */
    void *const *pages;          /* the table that .table points into; both in device memory */
    uint32_t seq_count;
    uint32_t rows;    /* tokens, at most: the sum of the counts */
    uint32_t longest; /* no count is larger; 1: every sequence decodes */
};

struct rope {
    float theta;          /* base */
    float scale;          /* multiplies cosine and sine: 1 */
    uint32_t dims;        /* rotated dims of a head, even */
    int interleaved;      /* 1: pairs (0,1)(2,3) as GGUF's llama stores; 0: halves (neox) */
    const float *factors; /* dims/2 divisors of the frequencies, or NULL: in host memory */
};

/* Scores of q and k: softcap > 0 ? softcap * tanh(scale * qk / softcap) : scale * qk. */
struct attention {
    float scale;     /* usually 1/sqrt(head_dim) */
    float softcap;   /* 0: off */
    uint32_t window; /* 0: all positions; else a token sees the last `window`, its own included */
};

/* Norms of q and k before they are rotated: over each head, or over all heads of a token. */
struct qk_norm {
    const float *q, *k; /* [head_dim], or [heads * head_dim]; device memory */
    float eps;
    int width; /* 1: over all heads of a token */
    /* Where other devices have the other heads: the sums of the squares of q and of k over all of
     * them, [rows][2] in device memory, and of how many elements.  NULL: all heads are here. */
    const float *squares;
    uint32_t q_all, k_all;
};

enum activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH };

/* How products are computed (above). */
struct device;
struct graph;

enum device_kind {
    DEVICE_CPU,
    DEVICE_CUDA,
};

enum precision {
    PRECISION_EXACT,
    PRECISION_FAST,
};

/* threads 0: one per core in our affinity mask; bound by hwloc when there is one.  The scratch a
 * step needs inside kernels is sized for rows_max rows and cols_max the widest activation.  A CPU
 * without the instructions for PRECISION_FAST is exact; device_name() says which it is. */
struct device *device_create(uint32_t threads, enum precision precision, uint32_t rows_max,
                             uint32_t cols_max, struct error *err);
/* The threads of device_create(0). */
uint32_t device_threads(void);
/* A GPU by its number among those visible.  One stream; what the operations need is allocated here.
 * UNSUPPORTED: built without CUDA, or the GPU is older than compute capability 8.0; UNAVAILABLE: no
 * such GPU or no driver.  Its operations want head_dim a multiple of 4 and at most 256, at most
 * 2048 experts, and at most rows_max rows. */
struct device *device_create_cuda(uint32_t gpu, enum precision precision, uint32_t rows_max,
                                  uint32_t cols_max, struct error *err);
/* From now on what a row gives has the same bits whatever the number of rows, however prompts are
 * cut and whoever else is in the step, as above; asked for before anything is tuned or recorded.
 * CPUs and PRECISION_EXACT are always so. */
void device_deterministic(struct device *d);
void device_destroy(struct device *d);
/* "cpu avx512-vnni fast, 2 threads" */
const char *device_name(const struct device *d);
enum device_kind device_kind(const struct device *d);
/* Of operands: DTYPE_F32 or DTYPE_BF16, and the bytes of one. */
enum dtype device_operand(const struct device *d);
uint32_t device_operand_bytes(const struct device *d);
/* Wait until everything asked for is done. */
void device_sync(struct device *d);
/* Remember this place among what was asked for; device_wait() waits for what stood before it.  A
 * number may be used again.  On a CPU everything is done already. */
#define DEVICE_MARKS 4u
void device_mark(struct device *d, uint32_t number);
void device_wait(struct device *d, uint32_t number);
/* The first error that was met so far, without waiting, as device_check() says. */
int device_failed(struct device *d, struct error *err);
/* device_sync(), then the first error that anything on the device met: from then on its results are
 * void, and every further check says the same. */
int device_check(struct device *d, struct error *err);

/* Free and total bytes of the device's memory, for all its users. */
int device_memory(struct device *d, uint64_t *free_bytes, uint64_t *total, struct error *err);
/* Device memory, and host memory that the device copies from and to at full speed; both at least
 * 64-byte aligned, uninitialised.  NULL may be freed.  Allocating may wait for the device. */
void *device_alloc(struct device *d, uint64_t bytes, struct error *err);
void device_free(struct device *d, void *p);
void *device_host_alloc(struct device *d, uint64_t bytes, struct error *err);
void device_host_free(struct device *d, void *p);
/* Copy within and between host and device memory, in order with the operations.  Host memory that
 * did not come from device_host_alloc() is read before the call returns; what is written is there
 * after device_sync(). */
void device_copy(struct device *d, void *to, const void *from, uint64_t bytes);

/* The same between device memory and that of device_host_alloc(), for the little that a step waits
 * for: multiples of 4 bytes, and it does not queue behind moves (below). */
void device_copy_now(struct device *d, void *to, const void *from, uint64_t bytes);

/*
 * Moves: copies between device memory and host memory of device_host_alloc(), beside the operations
 * and in no order with them but what is asked for here.  Each way has its own; they come in pieces,
 * one after the other.  A piece is begun, copied and ended; its number, below DEVICE_MOVES, may be
 * used again when it is done.  On a CPU a piece is done when it is ended, and any memory will do.
 */
#define DEVICE_MOVES 16u
enum device_way { DEVICE_OUT, DEVICE_IN };
void device_move_begin(struct device *d, enum device_way way, uint32_t number);
void device_move_copy(struct device *d, enum device_way way, void *to, const void *from,
                      uint64_t bytes);
void device_move_end(struct device *d, enum device_way way, uint32_t number);
/* 1: the piece is done, and *us is what it took; with `wait` it always is.  What it wrote is there,
 * and what it read may be written.  (Of a device that failed all is done.) */
int device_move_done(struct device *d, enum device_way way, uint32_t number, int wait,
                     uint64_t *us);
/* Pieces that begin later come after all operations that were asked for so far. */
void device_move_after(struct device *d, enum device_way way);
/* Operations that are asked for later come after all pieces of both ways so far. */
void device_move_join(struct device *d);

/* Let the device copy from host memory of another kind (a mapped file) at full speed, or no longer;
 * by any thread.  A piece is unpinned as it was pinned; a copy from pinned memory stays within one
 * piece.  On failure it is as it was, and copies from it are slower. */
int device_host_pin(struct device *d, void *p, uint64_t bytes, struct error *err);
void device_host_unpin(struct device *d, void *p);

/*
 * A lane: a second order of things beside the device's operations, of copies from host memory
 * alone.  One thread at a time may use it, which may be another than the operations'; what says so
 * below is the operations' thread's.  A CPU's copies are done when the call returns.
 */
struct device_lane {
    struct device *device;
};
#define DEVICE_LANE_MARKS 256u
struct device_lane *device_lane_open(struct device *d, struct error *err);
void device_lane_close(struct device_lane *l);
/* What is asked of the lane from now on waits for what the device was asked for before; of the
 * operations' thread, while no other uses the lane. */
void device_lane_follow(struct device_lane *l);
void device_lane_copy(struct device_lane *l, void *to, const void *from, uint64_t bytes);
/* Remember this place in the lane, to wait for the copies before it: by the host, or by what the
 * device is asked for from now on (device_await(), of the operations' thread, once the mark was
 * made).  A number may be used again.  -1: some copy has failed. */
void device_lane_mark(struct device_lane *l, uint32_t number);
int device_lane_wait(struct device_lane *l, uint32_t number, struct error *err);
void device_await(struct device_lane *l, uint32_t number);

/* Physical memory in pieces that are all alike, called handles, and ranges of addresses into which
 * they are mapped; a handle may be mapped at several places at once. */
uint64_t device_handle_bytes(const struct device *d);
/* Take `count` handles from the device, once; it gives them back when it is destroyed.  EXHAUSTED:
 * its memory does not hold them. */
int device_pool(struct device *d, uint32_t count, struct error *err);
/* Reserve `bytes` (whole handles) of addresses that nothing can be read from. */
void *device_reserve(struct device *d, uint64_t bytes, struct error *err);
/* Nothing is mapped there any more. */
void device_release(struct device *d, void *range, uint64_t bytes);
/* Map handles one after the other from `range` on.  On failure nothing is mapped there. */
int device_map(struct device *d, void *range, const uint32_t *handles, uint32_t count,
               struct error *err);
/* Waits for what the device was asked for before. */
void device_unmap(struct device *d, void *range, uint32_t count);
/* Map one handle in place of the one that is mapped there (mapped 1), or of none; by any thread,
 * without waiting: nothing that the device was asked for uses the place.  On failure nothing is
 * mapped there. */
int device_remap(struct device *d, void *at, int mapped, uint32_t handle, struct error *err);

/* Choose how products with this matrix are done best, by trying, for every number of rows: done
 * once per shape and remembered.  w->data is not followed.  Never called while a request runs. */
int device_tune(struct device *d, const struct weight *w, struct error *err);

/* Record what is asked for between device_record() and device_recorded() in place of doing it, and
 * do it by device_replay(), as often as wanted: the same kernels with the same addresses.  NULL,
 * and nothing was recorded, where the device knows no such thing (the CPU: UNSUPPORTED) or failed.
 */
int device_record(struct device *d, struct error *err);
struct graph *device_recorded(struct device *d, struct error *err);
void device_replay(struct device *d, struct graph *g);
void device_graph_free(struct device *d, struct graph *g);

/* out[r][0..cols) = row tokens[r] of the table, decoded, times scale. */
void k_embed(struct device *d, float *out, const struct weight *table, const uint32_t *tokens,
             uint32_t rows, float scale);
/* What one part of a layer gives is added to the residual stream x, and the next part's input is
 * made of it:  x += y_scale * (y_norm ? rmsnorm(y) * y_norm : y), without y not;
 * out = w ? rmsnorm(x) * w : x.  rms over cols with eps inside the root. */
void k_norm(struct device *d, void *out, float *x, const void *y, float y_scale,
            const float *y_norm, const float *w, uint32_t rows, uint32_t cols, float eps);
/* out[r][j] = sum_k W[j][k] x[r][k] + (bias ? bias[j] : 0), rows of x `rows`, rows of out
 * `stride` >= W->rows elements apart.  W->cols is at most the device's cols_max. */
void k_matmul(struct device *d, void *out, uint32_t stride, const void *x, const struct weight *w,
              const float *bias, uint32_t rows);
/* The same into float32, without a bias, rows of out W->rows apart: logits. */
void k_matmul_f32(struct device *d, float *out, const void *x, const struct weight *w,
                  uint32_t rows);
/* out[r][j] += scale * sum_k W[j][k] x[r][k], rows of out W->rows apart: the residual stream. */
void k_matmul_add(struct device *d, float *out, float scale, const void *x, const struct weight *w,
                  uint32_t rows);
/* k_matmul_add() into x, then k_norm() of x without y, w->rows wide: the end of a part and the
 * beginning of the next.  normed is read by products alone. */
void k_matmul_add_norm(struct device *d, void *normed, const float *norm, float eps, float *x,
                       float scale, const void *in, const struct weight *w, uint32_t rows);
/* k_matmul() with [gate | up], then k_glu(): out [rows][w->rows / 2]; gate_up: room for [rows]
 * [w->rows] operands, what becomes of it is left open. */
void k_matmul_glu(struct device *d, void *out, void *gate_up, const void *x, const struct weight *w,
                  uint32_t rows, enum activation activation);
/* qkv [rows][q_heads + 2 kv_heads][head_dim]: norm q and k in place where asked (norm NULL: not),
 * rotate them, and write k and v into the pages; what becomes of k in qkv is left open.  Sequence
 * i's token at position p lies in pages[seqs[i].table + p / page_tokens]. */
void k_rope_kv(struct device *d, void *qkv, uint32_t q_heads, const struct qk_norm *norm,
               const struct rope *rope, const struct kv_layout *kv, uint32_t layer,
               const struct attn_step *step);
/* k_matmul() of x with [q | k | v] (and bias, or NULL), then k_rope_kv() without norms: qkv is as
 * wide as w has rows; what becomes of k and v in it is left open. */
void k_matmul_rope_kv(struct device *d, void *qkv, const void *x, const struct weight *w,
                      const float *bias, uint32_t q_heads, const struct rope *rope,
                      const struct kv_layout *kv, uint32_t layer, const struct attn_step *step);
/* Causal grouped-query attention over the pages: out [rows][q_heads][head_dim], q at the front of
 * each row of qkv (as above).  A token sees positions 0..its own, or the last of them
 * (attention.window): pages that hold none which a token of the step sees may be NULL, and are not
 * read.  out is not qkv. */
void k_attention(struct device *d, void *out, const void *qkv, uint32_t q_heads,
                 const struct attention *attention, const struct kv_layout *kv, uint32_t layer,
                 const struct attn_step *step);
/* out = activation(gate) * up, with gate_up [rows][2*cols]: gate first. */
void k_glu(struct device *d, void *out, const void *gate_up, uint32_t rows, uint32_t cols,
           enum activation activation);
/* In place: x = softcap > 0 ? softcap * tanh(x * scale / softcap) : x * scale. */
void k_scale(struct device *d, float *x, uint32_t rows, uint32_t cols, float scale, float softcap);

/* How a row's token is picked: engine/sampler.h says what it means, without penalties. */
struct sample {
    uint64_t seed;
    uint32_t position, top_k;        /* top_k 0: all */
    float temperature, top_p, min_p; /* temperature 0: the largest */
};

/* tokens[i] = picked[n] where a token is SAMPLE_FED + n: the pick of the step before, which the
 * host has not seen yet.  All device memory.  A GPU's alone. */
#define SAMPLE_FED 0x80000000u
void k_feed(struct device *d, uint32_t *tokens, const uint32_t *picked, uint32_t rows);
/* tokens[i] = the pick by how[i] from logits [rows][vocabulary]; SAMPLE_NONE where a logit is no
 * finite number.  All device memory.  A GPU's alone: the engine samples on the CPU by itself. */
#define SAMPLE_NONE UINT32_MAX
void k_sample(struct device *d, uint32_t *tokens, const float *logits, const struct sample *how,
              uint32_t rows, uint32_t vocabulary);

/* Mixtures of experts.  The top_k largest of each row's logits, largest first and of equals the
 * first: ids [rows][top_k]; weights: their softmax over all experts, which renormalize makes sum
 * to 1. */
void k_route(struct device *d, uint32_t *expert_ids, float *expert_weights, const float *logits,
             uint32_t rows, uint32_t experts, uint32_t top_k, int renormalize);
/* k_matmul by chosen experts.  w is the first expert's matrix, behind which the others' lie, of the
 * same shape and type; out[i] = W_e x[i / share] with e = expert_ids[i], i < rows. */
void k_matmul_expert(struct device *d, void *out, const void *x, const struct weight *w,
                     const uint32_t *expert_ids, uint32_t rows, uint32_t share);
/* out[r] = sum over k, ascending, of expert_weights[r][k] * y[r][k], with y [rows][top_k][cols]. */
void k_combine(struct device *d, void *out, const void *y, const float *expert_weights,
               uint32_t rows, uint32_t top_k, uint32_t cols);

/* For devices that have a part of a model each (collective.h).  k_embed() of a table whose first
 * row is that of token `first`: zeros for tokens that it lacks. */
void k_embed_part(struct device *d, float *out, const struct weight *table, uint32_t first,
                  const uint32_t *tokens, uint32_t rows, float scale);
/* out [rows][2] = the sums of the squares of the first q_cols elements of each row of qkv, and of
 * the k_cols behind them; rows of qkv `stride` apart.  Both in float32. */
void k_squares(struct device *d, float *out, const void *qkv, uint32_t stride, uint32_t q_cols,
               uint32_t k_cols, uint32_t rows);

#endif
