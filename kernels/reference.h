/*
 * reference.h - each operation of kernels.h once more, slow and plain
 *
 * Scalar loops in double precision over dequantized weights, no threads: what the kernels of every
 * device are compared with.  Linked into tests only.
 */
#ifndef MP_KERNELS_REFERENCE_H
#define MP_KERNELS_REFERENCE_H

#include "kernels/kernels.h"

/* Decode `count` elements (whole blocks; of DTYPE_F8: one row) of a stored type. */
void ref_dequantize(float *out, const void *blocks, enum dtype dtype, uint64_t count);
void ref_rmsnorm(float *out, const float *x, const float *w, uint32_t rows, uint32_t cols,
                 float eps);
void ref_matmul(float *out, const float *x, const struct weight *w, const float *bias,
                uint32_t rows);
void ref_rope_kv(float *q, float *k, const float *v, uint32_t q_heads, const struct rope *rope,
                 const struct kv_layout *kv, uint32_t layer, const struct attn_row *seqs,
                 uint32_t seq_count, void *const *pages);
void ref_attention(float *out, const float *q, uint32_t q_heads, const struct attention *attention,
                   const struct kv_layout *kv, uint32_t layer, const struct attn_row *seqs,
                   uint32_t seq_count, void *const *pages);
void ref_glu(float *out, const float *gate_up, uint32_t rows, uint32_t cols,
             enum activation activation);
void ref_scale(float *x, uint32_t rows, uint32_t cols, float scale, float softcap);
/* Logits must be finite and small enough for exp. */
void ref_route(uint32_t *ids, float *weights, const float *logits, uint32_t rows, uint32_t experts,
               uint32_t top_k, int renormalize);

#endif
