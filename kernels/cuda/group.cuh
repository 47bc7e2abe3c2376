/*
 * group.cuh - operations of GPUs that have a part of a model each
 */
#ifndef MP_KERNELS_CUDA_GROUP_CUH
#define MP_KERNELS_CUDA_GROUP_CUH

#include "kernels/cuda/cuda.cuh"

void cuda_embed_part(struct device *d, float *out, const struct weight *table, uint32_t first,
                     const uint32_t *tokens, uint32_t rows, float scale);
template <typename T>
void cuda_squares(struct device *d, float *out, const void *qkv, uint32_t stride, uint32_t q_cols,
                  uint32_t k_cols, uint32_t rows);

#endif
