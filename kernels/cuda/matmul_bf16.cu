/*
 * matmul_bf16.cu - plain products of bfloat16 operands
 */
#include "kernels/cuda/matmul.cuh"

template void product_plain<__nv_bfloat16>(struct cuda_device *c, const struct product *p);
template void product_plain_expert<__nv_bfloat16>(struct cuda_device *c, const struct product *p,
                                                  const uint32_t *ids, uint32_t share);
