/*
 * lone.cu - lone.cuh's kernel for each type
 */
#include "kernels/cuda/lone.cuh"

bool product_lone(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                  uint32_t share)
{
    switch (p->w.dtype) {
    case DTYPE_Q4_0:
        return lone_launch<nibble_lone<false, false>, 3>(c, p, ids, share);
    case DTYPE_Q4_1:
        return lone_launch<nibble_lone<true, false>, 3>(c, p, ids, share);
    case DTYPE_Q5_0:
        return lone_launch<nibble_lone<false, true>, 2>(c, p, ids, share);
    case DTYPE_Q5_1:
        return lone_launch<nibble_lone<true, true>, 2>(c, p, ids, share);
    case DTYPE_Q8_0:
        return lone_launch<q8_0_lone, 2>(c, p, ids, share);
    case DTYPE_Q4_K:
        return lone_launch<k_lone<false>, 3>(c, p, ids, share);
    case DTYPE_Q5_K:
        return lone_launch<k_lone<true>, 2>(c, p, ids, share);
    case DTYPE_Q6_K:
        return lone_launch<q6_k_lone, 2>(c, p, ids, share);
    case DTYPE_F8:
        return lone_launch<f8_lone, 2>(c, p, ids, share);
    default:
        return false;
    }
}
