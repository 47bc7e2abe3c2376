/*
 * cuda.cuh - what the files of kernels/cuda share
 *
 * Rows are independent and nothing is summed by atomics: an output element's order of summation is
 * fixed by its own position, whatever the number of rows in the call.  Compiled with -fmad=false,
 * so that this holds between instantiations of one kernel, too; what is fused says so.
 */
#ifndef MP_KERNELS_CUDA_CUDA_CUH
#define MP_KERNELS_CUDA_CUDA_CUH

#include <cuda_runtime.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include "kernels/device.h"
}

struct attention_scratch;
struct chosen;
struct mover;
struct tuned;
struct unscaled_room;
struct vmm;

struct cuda_device {
    struct device device; /* first: the pointers are the same */
    int gpu;
    uint32_t sms; /* multiprocessors */
    uint32_t rows_max, cols_max;
    bool deterministic; /* one order of summation for any number of rows, splits, sequences */
    bool overlap;       /* a kernel may begin before the one ahead of it has ended */
    cudaStream_t stream;
    cudaEvent_t marks[DEVICE_MARKS];
    cudaError_t failed;                  /* the first thing that went wrong */
    struct vmm *vmm;                     /* of memory.cu */
    struct mover *mover;                 /* of move.cu */
    struct tuned *tuned;                 /* of tune.cu; with bfloat16 operands alone */
    struct chosen *chosen;               /* of chosen.cu; with bfloat16 operands alone */
    struct attention_scratch *attention; /* of attention.cu */
    /* Of fused.cu: rows that their next reader has to scale, NULL: none are. */
    const void *unscaled_of;
    struct unscaled_room *unscaled;
};

#define WARP      32u
#define ALL_LANES 0xffffffffu

/* Make the device's GPU this thread's: every entry from outside begins with it. */
struct cuda_device *cuda_enter(struct device *d);
/* Remember an error. */
void cuda_note(struct cuda_device *c, cudaError_t e);
/* -1, with CUDA's words behind ours. */
int cuda_failed(struct error *err, cudaError_t e, const char *doing);

/* Start a kernel whose first act is await_kernels(): it is brought onto the GPU while the one ahead
 * of it still runs. */
template <typename... P, typename... A>
static inline void cuda_launch(struct cuda_device *c, void (*kernel)(P...), dim3 grid,
                               uint32_t threads, size_t shared, A... args)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute overlap = {};

    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = c->stream;
    config.attrs = &overlap;
    config.numAttrs = c->overlap ? 1 : 0;
    cuda_note(c, cudaLaunchKernelEx(&config, kernel, P(args)...));
}

/* step.cu */
cudaError_t cuda_marks_open(struct cuda_device *c);
void cuda_marks_close(struct cuda_device *c);
void cuda_mark(struct device *d, uint32_t number);
void cuda_wait(struct device *d, uint32_t number);
int cuda_has_failed(struct device *d, struct error *err);
void cuda_feed(struct device *d, uint32_t *tokens, const uint32_t *picked, uint32_t rows);

/* memory.cu */
#define CUDA_HANDLE_BYTES (64ull << 20)
int cuda_memory_open(struct cuda_device *c, struct error *err);
void cuda_memory_close(struct cuda_device *c);
int cuda_memory(struct device *d, uint64_t *free_bytes, uint64_t *total, struct error *err);
void *cuda_alloc(struct device *d, uint64_t bytes, struct error *err);
void cuda_free(struct device *d, void *p);
void *cuda_host_alloc(struct device *d, uint64_t bytes, struct error *err);
void cuda_host_free(struct device *d, void *p);
void cuda_copy(struct device *d, void *to, const void *from, uint64_t bytes);
int cuda_remap(struct device *d, void *at, int mapped, uint32_t handle, struct error *err);
int cuda_pool(struct device *d, uint32_t count, struct error *err);
void *cuda_reserve(struct device *d, uint64_t bytes, struct error *err);
void cuda_release(struct device *d, void *range, uint64_t bytes);
int cuda_map(struct device *d, void *range, const uint32_t *handles, uint32_t count,
             struct error *err);
void cuda_unmap(struct device *d, void *range, uint32_t count);

/* move.cu: streams and events.  close() also after a failed or no open(). */
cudaError_t cuda_moves_open(struct cuda_device *c);
void cuda_moves_close(struct cuda_device *c);
void cuda_copy_now(struct device *d, void *to, const void *from, uint64_t bytes);
void cuda_move_begin(struct device *d, enum device_way way, uint32_t number);
void cuda_move_copy(struct device *d, enum device_way way, void *to, const void *from,
                    uint64_t bytes);
void cuda_move_end(struct device *d, enum device_way way, uint32_t number);
int cuda_move_done(struct device *d, enum device_way way, uint32_t number, int wait, uint64_t *us);
void cuda_move_after(struct device *d, enum device_way way);
void cuda_move_join(struct device *d);
/* lane.cu */
int cuda_host_pin(struct device *d, void *p, uint64_t bytes, struct error *err);
void cuda_host_unpin(struct device *d, void *p);
struct device_lane *cuda_lane_open(struct device *d, struct error *err);
void cuda_lane_close(struct device_lane *l);
void cuda_lane_follow(struct device_lane *l);
void cuda_lane_copy(struct device_lane *l, void *to, const void *from, uint64_t bytes);
void cuda_lane_mark(struct device_lane *l, uint32_t number);
int cuda_lane_wait(struct device_lane *l, uint32_t number, struct error *err);
void cuda_lane_await(struct device_lane *l, uint32_t number);

/* attention.cu: what its kernels need beside their arguments, into c->attention.  close() also
 * after a failed or no open(). */
int cuda_attention_open(struct cuda_device *c, struct error *err);
void cuda_attention_close(struct cuda_device *c);

/* tune.cu: what products with bfloat16 operands need, into c->tuned; as above. */
int cuda_tune_open(struct cuda_device *c, struct error *err);
void cuda_tune_close(struct cuda_device *c);
int cuda_tune(struct device *d, const struct weight *w, struct error *err);

/* chosen.cu: what products by chosen experts need, into c->chosen; as above. */
int cuda_chosen_open(struct cuda_device *c, struct error *err);
void cuda_chosen_close(struct cuda_device *c);

/* fused.cu: what products that norm need, into c->unscaled; as above. */
int cuda_fused_open(struct cuda_device *c, struct error *err);
void cuda_fused_close(struct cuda_device *c);

/* rope.cu: what each pair of a head turns by per position. */
#define ROPE_PAIRS 128u /* of a head, at most */
void rope_turns(double turns[ROPE_PAIRS], const struct rope *rope);

/* graph.cu */
int cuda_record(struct device *d, struct error *err);
struct graph *cuda_recorded(struct device *d, struct error *err);
void cuda_replay(struct device *d, struct graph *g);
void cuda_graph_free(struct device *d, struct graph *g);

/* The operations.  Those over T are there for float and for __nv_bfloat16 operands. */
void cuda_embed(struct device *d, float *out, const struct weight *table, const uint32_t *tokens,
                uint32_t rows, float scale);
template <typename T>
void cuda_norm(struct device *d, void *out, float *x, const void *y, float y_scale,
               const float *y_norm, const float *w, uint32_t rows, uint32_t cols, float eps);
template <typename T>
void cuda_matmul(struct device *d, void *out, uint32_t stride, const void *x,
                 const struct weight *w, const float *bias, uint32_t rows);
template <typename T>
void cuda_matmul_f32(struct device *d, float *out, const void *x, const struct weight *w,
                     uint32_t rows);
template <typename T>
void cuda_matmul_add(struct device *d, float *out, float scale, const void *x,
                     const struct weight *w, uint32_t rows);
template <typename T>
void cuda_matmul_expert(struct device *d, void *out, const void *x, const struct weight *w,
                        const uint32_t *expert_ids, uint32_t rows, uint32_t share);
/* With bfloat16 operands alone. */
bool cuda_matmul_add_norm(struct device *d, void *normed, const float *norm, float eps, float *x,
                          float scale, const void *in, const struct weight *w, uint32_t rows);
bool cuda_matmul_glu(struct device *d, void *out, const void *x, const struct weight *w,
                     uint32_t rows, enum activation activation);
bool cuda_matmul_rope_kv(struct device *d, void *qkv, const void *x, const struct weight *w,
                         const float *bias, uint32_t q_heads, const struct rope *rope,
                         const struct kv_layout *kv, uint32_t layer, const struct attn_step *step);
template <typename T>
void cuda_rope_kv(struct device *d, void *qkv, uint32_t q_heads, const struct qk_norm *norm,
                  const struct rope *rope, const struct kv_layout *kv, uint32_t layer,
                  const struct attn_step *step);
template <typename T>
void cuda_attention(struct device *d, void *out, const void *qkv, uint32_t q_heads,
                    const struct attention *attention, const struct kv_layout *kv, uint32_t layer,
                    const struct attn_step *step);
template <typename T>
void cuda_glu(struct device *d, void *out, const void *gate_up, uint32_t rows, uint32_t cols,
              enum activation activation);
void cuda_scale(struct device *d, float *x, uint32_t rows, uint32_t cols, float scale,
                float softcap);
void cuda_sample(struct device *d, uint32_t *tokens, const float *logits, const struct sample *how,
                 uint32_t rows, uint32_t vocabulary);
void cuda_route(struct device *d, uint32_t *expert_ids, float *expert_weights, const float *logits,
                uint32_t rows, uint32_t experts, uint32_t top_k, int renormalize);
template <typename T>
void cuda_combine(struct device *d, void *out, const void *y, const float *expert_weights,
                  uint32_t rows, uint32_t top_k, uint32_t cols);

#endif
