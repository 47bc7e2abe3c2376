/*
 * chosen.cu - products by chosen experts, with bfloat16 operands
 *
 * Few rows: each is multiplied by itself.  More: they are put in groups of an expert's, which share
 * the reading of its weights.  A row's sums are the same whatever group it is in.
 */
#include <stdlib.h>

#include "kernels/cuda/product.cuh"

#define EXPERTS_MAX   2048u
#define GROUP_THREADS 1024u
#define LONE_ROWS     64u /* that are multiplied by themselves, at most */
#define CHOSEN_MAX    16u /* experts of a token that there is room for */

struct chosen {
    struct expert_groups *groups; /* in device memory, as what it points to */
    uint32_t *rows;
    struct expert_group *list;
    uint32_t most; /* rows */
};

int cuda_chosen_open(struct cuda_device *c, struct error *err)
{
    struct chosen *t = (struct chosen *)calloc(1, sizeof(*t));
    struct expert_groups groups = {};

    if (!t)
        return error_set(err, STATUS_NOMEM, "no memory for chosen experts");
    c->chosen = t;
    t->most = c->rows_max * CHOSEN_MAX;
    cudaError_t e = cudaMalloc((void **)&t->groups, sizeof(*t->groups));
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&t->rows, t->most * sizeof(*t->rows));
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&t->list, (t->most / GROUP_ROWS + EXPERTS_MAX) * sizeof(*t->list));
    groups.rows = t->rows;
    groups.groups = t->list;
    if (e == cudaSuccess)
        e = cudaMemcpy(t->groups, &groups, sizeof(groups), cudaMemcpyHostToDevice);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return cuda_failed(err, e, "no GPU memory for chosen experts");
    }
    return 0;
}

void cuda_chosen_close(struct cuda_device *c)
{
    struct chosen *t = c->chosen;

    if (!t)
        return;
    cudaFree(t->groups);
    cudaFree(t->rows);
    cudaFree(t->list);
    free(t);
    c->chosen = NULL;
}

/* Exclusive sums of counts and of the groups that they make, over all experts, by one warp; the
 * number of groups. */
static __device__ uint32_t begin_all(const uint32_t *counts, uint32_t *begins, uint32_t *firsts,
                                     uint32_t size)
{
    uint32_t lane = threadIdx.x, begin = 0, first = 0;

    for (uint32_t e = lane; e < EXPERTS_MAX; e += WARP) {
        uint32_t groups = (counts[e] + size - 1) / size, ends = counts[e], last = groups;
        for (uint32_t i = 1; i < WARP; i *= 2) {
            uint32_t a = __shfl_up_sync(ALL_LANES, ends, i), b = __shfl_up_sync(ALL_LANES, last, i);
            ends += lane >= i ? a : 0;
            last += lane >= i ? b : 0;
        }
        begins[e] = begin + ends - counts[e];
        firsts[e] = first + last - groups;
        begin += __shfl_sync(ALL_LANES, ends, WARP - 1);
        first += __shfl_sync(ALL_LANES, last, WARP - 1);
    }
    return first;
}

/* One block.  Where a row stands within its expert's is left to chance: no result depends on it. */
static __global__ void __launch_bounds__(GROUP_THREADS)
    group_kernel(struct expert_groups *to, const uint32_t *ids, uint32_t rows, uint32_t size)
{
    __shared__ uint32_t counts[EXPERTS_MAX], begins[EXPERTS_MAX], firsts[EXPERTS_MAX];

    await_kernels();
    for (uint32_t e = threadIdx.x; e < EXPERTS_MAX; e += GROUP_THREADS)
        counts[e] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < rows; i += GROUP_THREADS)
        atomicAdd(&counts[ids[i]], 1);
    __syncthreads();
    if (threadIdx.x < WARP) {
        uint32_t groups = begin_all(counts, begins, firsts, size);
        if (threadIdx.x == 0)
            to->count = groups;
    }
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < EXPERTS_MAX; e += GROUP_THREADS) {
        struct expert_group *g = to->groups + firsts[e];
        for (uint32_t i = 0; i < counts[e]; i += size, g++)
            *g = {e, begins[e] + i, min(counts[e] - i, size)};
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < rows; i += GROUP_THREADS)
        to->rows[atomicAdd(&begins[ids[i]], 1)] = i;
}

void product_fast_expert(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                         uint32_t share)
{
    struct chosen *t = c->chosen;

    scale_rows(c, p->x, p->w.cols);
    if (p->rows > LONE_ROWS && p->rows <= t->most) {
        /* A deterministic device has the one way of alike.cu. */
        uint32_t size = c->deterministic ? GROUP_ROWS : tiled_group_rows(c, p);
        bool aligned = aligned16(p->w.data, dtype_row_bytes(p->w.dtype, p->w.cols)) &&
                       aligned16(p->x, 2 * (uint64_t)p->w.cols);
        if (aligned)
            cuda_launch(c, group_kernel, 1, GROUP_THREADS, 0, t->groups, ids, p->rows, size);
        if (aligned && ((!c->deterministic && product_tiled_expert(c, p, t->groups, size, share)) ||
                        product_stream_expert(c, p, NULL, t->groups, share)))
            return;
    } else if (p->rows <= UINT16_MAX && product_stream_expert(c, p, ids, NULL, share)) {
        return;
    }
    product_plain_expert<__nv_bfloat16>(c, p, ids, share);
}
