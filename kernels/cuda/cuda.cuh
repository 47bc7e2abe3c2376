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

struct cuda_device {
    struct device device; /* first: the pointers are the same */
    int gpu;
    uint32_t sms; /* multiprocessors */
    uint32_t rows_max, cols_max;
    cudaStream_t stream;
    cudaError_t failed; /* the first thing that went wrong */
};

#define WARP      32u
#define ALL_LANES 0xffffffffu

/* Make the device's GPU this thread's: every entry from outside begins with it. */
struct cuda_device *cuda_enter(struct device *d);
/* Remember an error.  After a launch: cuda_note(c, cudaGetLastError()). */
void cuda_note(struct cuda_device *c, cudaError_t e);
/* -1, with CUDA's words behind ours. */
int cuda_failed(struct error *err, cudaError_t e, const char *doing);

void cuda_embed(struct device *d, float *out, const struct weight *table, const uint32_t *tokens,
                uint32_t rows, float scale);
void cuda_rmsnorm(struct device *d, float *out, const float *x, const float *w, uint32_t rows,
                  uint32_t cols, float eps);
void cuda_add_rmsnorm(struct device *d, float *out, float *x, const float *y, float y_scale,
                      const float *w, uint32_t rows, uint32_t cols, float eps);
void cuda_matmul(struct device *d, float *out, const float *x, const struct weight *w,
                 const float *bias, uint32_t rows);
void cuda_rope_kv(struct device *d, float *q, float *k, const float *v, uint32_t q_heads,
                  const struct rope *rope, const struct kv_layout *kv, uint32_t layer,
                  const struct attn_row *seqs, uint32_t seq_count, void *const *pages);
void cuda_attention(struct device *d, float *out, const float *q, uint32_t q_heads,
                    const struct attention *attention, const struct kv_layout *kv, uint32_t layer,
                    const struct attn_row *seqs, uint32_t seq_count, void *const *pages);
void cuda_glu(struct device *d, float *out, const float *gate_up, uint32_t rows, uint32_t cols,
              enum activation activation);
void cuda_scale(struct device *d, float *x, uint32_t rows, uint32_t cols, float scale,
                float softcap);
void cuda_route(struct device *d, uint32_t *expert_ids, float *expert_weights, const float *logits,
                uint32_t rows, uint32_t experts, uint32_t top_k, int renormalize);
void cuda_matmul_expert(struct device *d, float *out, const float *x, const struct weight *w,
                        const uint32_t *expert_ids, uint32_t rows, uint32_t share);
void cuda_combine(struct device *d, float *out, const float *y, const float *expert_weights,
                  uint32_t rows, uint32_t top_k, uint32_t cols);

#endif
