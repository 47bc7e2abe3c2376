/*
 * matmul_f32.cu - plain products of float32 operands
 */
#include "kernels/cuda/matmul.cuh"

template void product_plain<float>(struct cuda_device *c, const struct product *p);
template void product_plain_expert<float>(struct cuda_device *c, const struct product *p,
                                          const uint32_t *ids, uint32_t share);
