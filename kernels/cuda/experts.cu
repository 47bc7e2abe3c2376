/*
 * experts.cu - mixtures of experts: who computes a row, and the sum of what they computed
 */
#include <math.h>

#include "kernels/cuda/operand.cuh"

#define ROUTE_WARPS 4u
#define EXPERTS_MAX 2048u /* a bit each in the lanes' masks */

struct choice {
    float logit;
    uint32_t expert; /* EXPERTS_MAX: none */
};

/* The larger logit, of equals the first. */
static __device__ bool before(struct choice a, struct choice b)
{
    if (a.expert == EXPERTS_MAX || b.expert == EXPERTS_MAX)
        return b.expert == EXPERTS_MAX;
    return a.logit > b.logit || (a.logit == b.logit && a.expert < b.expert);
}

/* The best of the experts that are not taken; bit i of a lane's `taken` is expert lane + 32 i. What
 * is no number is chosen only where it is the first left: a row of such names experts, too. */
static __device__ struct choice best(const float *logits, uint32_t experts, uint64_t taken)
{
    uint32_t first = EXPERTS_MAX;
    struct choice mine = {0, EXPERTS_MAX};

    for (uint32_t e = threadIdx.x % WARP, i = 0; e < experts; e += WARP, i++) {
        struct choice c = {logits[e], e};
        if (taken >> i & 1)
            continue;
        first = min(first, e);
        if (!isnan(c.logit) && before(c, mine))
            mine = c;
    }
    for (int i = 16; i > 0; i /= 2) {
        struct choice other;
        other.logit = __shfl_xor_sync(ALL_LANES, mine.logit, i);
        other.expert = __shfl_xor_sync(ALL_LANES, mine.expert, i);
        first = min(first, __shfl_xor_sync(ALL_LANES, first, i));
        if (before(other, mine))
            mine = other;
    }
    if (isnan(logits[first]))
        mine = {logits[first], first};
    return mine;
}

/* A warp a row.  The sum over all experts: a lane's in ascending order, then the lanes pairwise;
 * over the chosen: largest first. */
static __global__ void route_kernel(uint32_t *ids, float *weights, const float *logits,
                                    uint32_t rows, uint32_t experts, uint32_t top_k,
                                    int renormalize)
{
    uint32_t lane = threadIdx.x % WARP, row = blockIdx.x * ROUTE_WARPS + threadIdx.x / WARP;
    float max = 0, chosen = 0, all = 0;
    uint64_t taken = 0;

    await_kernels();
    if (row >= rows)
        return;
    logits += (size_t)row * experts;
    ids += (size_t)row * top_k;
    weights += (size_t)row * top_k;
    for (uint32_t k = 0; k < top_k; k++) {
        struct choice c = best(logits, experts, taken);
        if (c.expert % WARP == lane)
            taken |= 1ull << c.expert / WARP;
        max = k == 0 ? c.logit : max;
        float e = expf(c.logit - max);
        chosen += e;
        if (lane == 0) {
            ids[k] = c.expert;
            weights[k] = e;
        }
    }
    for (uint32_t e = lane; e < experts; e += WARP)
        all += expf(logits[e] - max);
    for (int i = 16; i > 0; i /= 2)
        all += __shfl_xor_sync(ALL_LANES, all, i);
    __syncwarp();
    for (uint32_t k = lane; k < top_k; k += WARP)
        weights[k] /= renormalize ? chosen : all;
}

void cuda_route(struct device *d, uint32_t *expert_ids, float *expert_weights, const float *logits,
                uint32_t rows, uint32_t experts, uint32_t top_k, int renormalize)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0 || top_k == 0)
        return;
    if (experts > EXPERTS_MAX || top_k > experts) {
        cuda_note(c, cudaErrorInvalidValue);
        return;
    }
    cuda_launch(c, route_kernel, (rows + ROUTE_WARPS - 1) / ROUTE_WARPS, ROUTE_WARPS * WARP, 0,
                expert_ids, expert_weights, logits, rows, experts, top_k, renormalize);
}

template <typename T>
static __global__ void combine_kernel(T *out, const T *y, const float *weights, uint32_t top_k,
                                      uint32_t cols)
{
    size_t row = blockIdx.x;
    uint32_t i = blockIdx.y * blockDim.x + threadIdx.x;
    float sum = 0;

    await_kernels();
    if (i >= cols)
        return;
    for (size_t k = row * top_k; k < (row + 1) * top_k; k++)
        sum = fmaf(weights[k], operand_load(y + k * cols + i), sum);
    operand_store(out + row * cols + i, sum);
}

template <typename T>
void cuda_combine(struct device *d, void *out, const void *y, const float *expert_weights,
                  uint32_t rows, uint32_t top_k, uint32_t cols)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0 || cols == 0)
        return;
    cuda_launch(c, combine_kernel<T>, dim3(rows, (cols + 255) / 256), 256, 0, (T *)out,
                (const T *)y, expert_weights, top_k, cols);
}

template void cuda_combine<float>(struct device *d, void *out, const void *y,
                                  const float *expert_weights, uint32_t rows, uint32_t top_k,
                                  uint32_t cols);
template void cuda_combine<__nv_bfloat16>(struct device *d, void *out, const void *y,
                                          const float *expert_weights, uint32_t rows,
                                          uint32_t top_k, uint32_t cols);
