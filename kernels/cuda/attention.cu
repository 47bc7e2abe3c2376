/*
 * attention.cu - causal grouped-query attention over pages
 *
 * Online softmax (Milakov and Gimelshein, 2018).  Positions go in blocks of 32 that begin at
 * multiples of 32 (16 where a page holds no more); block b is warp b % 8's, each warp takes its
 * blocks in ascending order, and the warps' results are joined in the order of the warps.  What a
 * token computes thus depends on its position and the keys and values before it alone.
 */
#include <math.h>

#include "kernels/cuda/cuda.cuh"

#define SPLITS     8u  /* warps of a block */
#define BLOCK_POS  32u /* positions that a warp takes at once */
#define DIM_MAX    256u
#define DIM_A_LANE (DIM_MAX / WARP)
#define KEY_LANES  8u /* lanes that share a key: 128 bytes a load */

struct attention_args {
    float *out;
    const float *q;
    uint32_t q_heads, layer, seq_count;
    struct attention attention;
    struct kv_layout kv;
    const struct attn_row *seqs;
    void *const *pages;
};

/* One warp's part of the softmax; acc[i] is of dimension lane + 32 i. */
struct part {
    float max, sum, acc[DIM_A_LANE];
};

/* Scores of the block's positions, one a lane; minus infinity below `begin` and past the last. */
static __device__ float block_scores(float *shared, const float *q, const float *keys,
                                     uint32_t begin, uint32_t count, uint32_t dim,
                                     const struct attention *attention)
{
    uint32_t lane = threadIdx.x % WARP, part = lane % KEY_LANES;

    for (uint32_t first = 0; first < count; first += WARP / KEY_LANES) {
        uint32_t t = first + lane / KEY_LANES;
        float s = 0;
        if (t < count) {
            for (uint32_t i = part * 4; i < dim; i += KEY_LANES * 4) {
                float4 k = *(const float4 *)(keys + (size_t)t * dim + i);
                float4 v = *(const float4 *)(q + i);
                s = fmaf(k.x, v.x, s);
                s = fmaf(k.y, v.y, s);
                s = fmaf(k.z, v.z, s);
                s = fmaf(k.w, v.w, s);
            }
        }
        for (uint32_t i = KEY_LANES / 2; i > 0; i /= 2)
            s += __shfl_xor_sync(ALL_LANES, s, i);
        s *= attention->scale;
        if (attention->softcap > 0)
            s = attention->softcap * tanhf(s / attention->softcap);
        if (part == 0 && t < count)
            shared[t] = s;
    }
    __syncwarp();
    float mine = lane >= begin && lane < count ? shared[lane] : -INFINITY;
    __syncwarp();
    return mine;
}

/* Positions [begin, count) of a block; at least one. */
static __device__ void attend_block(struct part *p, float *shared, const float *q,
                                    const float *keys, const float *values, uint32_t begin,
                                    uint32_t count, uint32_t dim, const struct attention *attention)
{
    uint32_t lane = threadIdx.x % WARP;
    float score = block_scores(shared, q, keys, begin, count, dim, attention), max = score, sum;

    for (int i = 16; i > 0; i /= 2)
        max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, i));
    max = fmaxf(max, p->max);
    float keep = expf(p->max - max), e = lane >= begin && lane < count ? expf(score - max) : 0;
    sum = e;
    for (int i = 16; i > 0; i /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, i);
    p->sum = fmaf(p->sum, keep, sum);
    p->max = max;
#pragma unroll
    for (uint32_t i = 0; i < DIM_A_LANE; i++)
        p->acc[i] *= keep;
    for (uint32_t t = begin; t < count; t++) {
        float weight = __shfl_sync(ALL_LANES, e, (int)t);
#pragma unroll
        for (uint32_t i = 0; i < DIM_A_LANE; i++)
            if (lane + WARP * i < dim)
                p->acc[i] = fmaf(weight, values[(size_t)t * dim + lane + WARP * i], p->acc[i]);
    }
}

/* Join the warps' parts; all threads of the block. */
static __device__ void join(float *out, const struct part *p, uint32_t dim)
{
    __shared__ float acc[SPLITS][DIM_MAX], max[SPLITS], sum[SPLITS];
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

#pragma unroll
    for (uint32_t i = 0; i < DIM_A_LANE; i++)
        acc[warp][lane + WARP * i] = p->acc[i];
    max[warp] = p->max;
    sum[warp] = p->sum;
    __syncthreads();
    float largest = -INFINITY, total = 0, weight[SPLITS];
    for (uint32_t s = 0; s < SPLITS; s++)
        largest = fmaxf(largest, max[s]);
#pragma unroll
    for (uint32_t s = 0; s < SPLITS; s++) {
        weight[s] = max[s] == -INFINITY && sum[s] == 0 ? 0 : expf(max[s] - largest);
        total = fmaf(weight[s], sum[s], total);
    }
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        float v = 0;
#pragma unroll
        for (uint32_t s = 0; s < SPLITS; s++)
            v = fmaf(weight[s], acc[s][i], v);
        out[i] = v / total;
    }
    __syncthreads();
}

/* A query head of a token a block; blocks go through them all, so that a launch does not depend on
 * how many there are. */
static __global__ void __launch_bounds__(SPLITS *WARP, 2)
    attention_kernel(const __grid_constant__ attention_args a)
{
    __shared__ float scores[SPLITS][BLOCK_POS];
    __shared__ __align__(16) float query[DIM_MAX];
    uint32_t dim = a.kv.head_dim, warp = threadIdx.x / WARP, seq = 0, head = blockIdx.y;
    uint32_t length = min(a.kv.page_tokens, BLOCK_POS),
             kv_head = head / (a.q_heads / a.kv.kv_heads);
    size_t half = (size_t)a.kv.kv_heads * a.kv.page_tokens * dim;

    for (uint32_t item = blockIdx.x;; item += gridDim.x) {
        while (seq < a.seq_count && item >= a.seqs[seq].count)
            item -= a.seqs[seq++].count;
        if (seq == a.seq_count)
            return;
        uint32_t pos = a.seqs[seq].first_pos + item, window = a.attention.window;
        uint32_t first = window != 0 && pos >= window ? pos + 1 - window : 0;
        size_t at = ((size_t)(a.seqs[seq].first_row + item) * a.q_heads + head) * dim;
        struct part p = {-INFINITY, 0, {0}};
        for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x)
            query[i] = a.q[at + i];
        __syncthreads();
        /* Blocks before the window may have no page. */
        uint32_t skipped = first / (SPLITS * length) * SPLITS * length;
        for (uint32_t start = skipped + warp * length; start <= pos; start += SPLITS * length) {
            if (start + length <= first)
                continue;
            const char *page = (const char *)a.pages[a.seqs[seq].table + start / a.kv.page_tokens];
            const float *keys = (const float *)(page + a.layer * a.kv.layer_bytes);
            keys += ((size_t)kv_head * a.kv.page_tokens + start % a.kv.page_tokens) * dim;
            attend_block(&p, scores[warp], query, keys, keys + half,
                         first > start ? first - start : 0, min(pos + 1 - start, length), dim,
                         &a.attention);
        }
        join(a.out + at, &p, dim);
    }
}

void cuda_attention(struct device *d, float *out, const float *q, uint32_t q_heads,
                    const struct attention *attention, const struct kv_layout *kv, uint32_t layer,
                    const struct attn_row *seqs, uint32_t seq_count, void *const *pages)
{
    struct cuda_device *c = cuda_enter(d);
    struct attention_args a = {out, q, q_heads, layer, seq_count, *attention, *kv, seqs, pages};

    if (kv->head_dim > DIM_MAX || kv->head_dim % 4 != 0 || q_heads % kv->kv_heads != 0) {
        cuda_note(c, cudaErrorInvalidValue);
        return;
    }
    attention_kernel<<<dim3(c->rows_max, q_heads), SPLITS * WARP, 0, c->stream>>>(a);
    cuda_note(c, cudaGetLastError());
}
