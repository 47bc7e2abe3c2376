/*
 * attention.cu - causal grouped-query attention over pages
 *
 * Online softmax (Milakov and Gimelshein, 2018).  Positions go in blocks of 32 that begin at
 * multiples of 32 (16 where a page holds no more); block b is warp b % 8's, each warp takes its
 * blocks in ascending order, and the warps' results are joined in the order of the warps.  What a
 * token computes thus depends on its position and the keys and values before it alone.
 *
 * With bfloat16 operands this is for the heads that the kernels with tensor cores do not know.
 */
#include <math.h>
#include <stdlib.h>

#include "kernels/cuda/attention.cuh"

#define SPLITS     8u  /* warps of a block */
#define BLOCK_POS  32u /* positions that a warp takes at once */
#define DIM_MAX    256u
#define DIM_A_LANE (DIM_MAX / WARP)
#define KEY_LANES  8u /* lanes that share a key */

/* One warp's part of the softmax; acc[i] is of dimension lane + 32 i. */
struct part {
    float max, sum, acc[DIM_A_LANE];
};

/* Scores of the block's positions, one a lane; minus infinity below `begin` and past the last. */
template <typename T>
static __device__ float block_scores(float *shared, const float *q, const T *keys, uint32_t begin,
                                     uint32_t count, const attention_args *a)
{
    uint32_t lane = threadIdx.x % WARP, part = lane % KEY_LANES, dim = a->head_dim;

    for (uint32_t first = 0; first < count; first += WARP / KEY_LANES) {
        uint32_t t = first + lane / KEY_LANES;
        float s = 0;
        if (t < count) {
            for (uint32_t i = part * 4; i < dim; i += KEY_LANES * 4) {
                float4 k = operand_load4(keys + (size_t)t * dim + i);
                float4 v = *(const float4 *)(q + i);
                s = fmaf(k.x, v.x, s);
                s = fmaf(k.y, v.y, s);
                s = fmaf(k.z, v.z, s);
                s = fmaf(k.w, v.w, s);
            }
        }
        for (uint32_t i = KEY_LANES / 2; i > 0; i /= 2)
            s += __shfl_xor_sync(ALL_LANES, s, i);
        s *= a->scale;
        if (a->softcap > 0)
            s = a->softcap * tanhf(s / a->softcap);
        if (part == 0 && t < count)
            shared[t] = s;
    }
    __syncwarp();
    float mine = lane >= begin && lane < count ? shared[lane] : -INFINITY;
    __syncwarp();
    return mine;
}

/* Positions [begin, count) of a block; at least one. */
template <typename T>
static __device__ void attend_block(struct part *p, float *shared, const float *q, const T *keys,
                                    const T *values, uint32_t begin, uint32_t count,
                                    const attention_args *a)
{
    uint32_t lane = threadIdx.x % WARP, dim = a->head_dim;
    float score = block_scores(shared, q, keys, begin, count, a), max = score, sum;

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
                p->acc[i] = fmaf(weight, operand_load(values + (size_t)t * dim + lane + WARP * i),
                                 p->acc[i]);
    }
}

/* Join the warps' parts; all threads of the block. */
template <typename T> static __device__ void join(T *out, const struct part *p, uint32_t dim)
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
        operand_store(out + i, v / total);
    }
    __syncthreads();
}

/* A query head of a token a block; blocks go through them all, so that a launch does not depend on
 * how many there are. */
template <typename T>
static __global__ void __launch_bounds__(SPLITS *WARP, 2)
    attention_kernel(const __grid_constant__ attention_args a)
{
    __shared__ float scores[SPLITS][BLOCK_POS];
    __shared__ __align__(16) float query[DIM_MAX];
    uint32_t dim = a.head_dim, warp = threadIdx.x / WARP, seq = 0, head = blockIdx.y;
    uint32_t length = min(a.page_tokens, BLOCK_POS), kv_head = head / a.group;

    await_kernels();
    for (uint32_t item = blockIdx.x;; item += gridDim.x) {
        while (seq < a.seq_count && item >= a.seqs[seq].count)
            item -= a.seqs[seq++].count;
        if (seq == a.seq_count)
            return;
        uint32_t pos = a.seqs[seq].first_pos + item, row = a.seqs[seq].first_row + item;
        uint32_t first = a.window != 0 && pos >= a.window ? pos + 1 - a.window : 0;
        const T *q = (const T *)a.qkv + (size_t)row * a.qkv_cols + head * dim;
        struct part p = {-INFINITY, 0, {0}};
        for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x)
            query[i] = operand_load(q + i);
        __syncthreads();
        /* Blocks before the window may have no page. */
        uint32_t skipped = first / (SPLITS * length) * SPLITS * length;
        for (uint32_t start = skipped + warp * length; start <= pos; start += SPLITS * length) {
            if (start + length <= first)
                continue;
            const char *page = (const char *)a.pages[a.seqs[seq].table + (start >> a.page_shift)];
            const T *keys = (const T *)(page + a.layer_bytes);
            keys += ((size_t)kv_head * a.page_tokens + start % a.page_tokens) * dim;
            attend_block(&p, scores[warp], query, keys,
                         (const T *)((const char *)keys + a.half_bytes),
                         first > start ? first - start : 0, min(pos + 1 - start, length), &a);
        }
        join((T *)a.out + ((size_t)row * a.q_heads + head) * dim, &p, dim);
    }
}

/* ---- scratch -----------------------------------------------------------------------------------
 */

/* Results of splits: of 16 splits of each of 256 sequences with 8192 columns, or less; what needs
 * more is done with less parallelism. */
static uint64_t parts_bytes(uint32_t rows_max, uint32_t cols_max)
{
    uint64_t rows = rows_max < 256 ? rows_max : 256, cols = cols_max < 8192 ? cols_max : 8192;

    return rows * 16 * cols * sizeof(float);
}

int cuda_attention_open(struct cuda_device *c, struct error *err)
{
    struct attention_scratch *s;
    int block = 0, sm = 0;
    cudaError_t e;

    if (c->device.ops->operand != DTYPE_BF16)
        return 0;
    s = (struct attention_scratch *)calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, STATUS_NOMEM, "no memory for a device");
    c->attention = s;
    s->bytes = parts_bytes(c->rows_max, c->cols_max);
    e = cudaDeviceGetAttribute(&block, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->gpu);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, c->gpu);
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&s->counters, COUNTERS * sizeof(*s->counters));
    if (e == cudaSuccess)
        e = cudaMemset(s->counters, 0, COUNTERS * sizeof(*s->counters));
    if (e == cudaSuccess)
        e = cudaStreamSynchronize(NULL);
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&s->parts, s->bytes);
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&s->tokens, c->rows_max * sizeof(*s->tokens));
    if (e != cudaSuccess) {
        cudaGetLastError();
        cuda_attention_close(c);
        return cuda_failed(err, e, "no GPU memory for what attention leaves between its blocks");
    }
    s->shared_max = (uint32_t)block;
    s->shared_sm = (uint32_t)sm;
    attention_cluster_prepare(c);
    attention_decode_prepare(c);
    attention_prefill_prepare(c);
    attention_wgmma_prepare(c);
    return 0;
}

void cuda_attention_close(struct cuda_device *c)
{
    if (!c->attention)
        return;
    cudaFree(c->attention->counters);
    cudaFree(c->attention->parts);
    cudaFree(c->attention->tokens);
    free(c->attention);
    c->attention = NULL;
}

/* ---- public ------------------------------------------------------------------------------------
 */

template <typename T> static void launch(struct cuda_device *c, const struct attention_args *a)
{
    cuda_launch(c, attention_kernel<T>, dim3(a->rows, a->q_heads), SPLITS * WARP, 0, *a);
}

/* Lay the scratch out for these heads. */
static void place_scratch(struct attention_args *a, const struct attention_scratch *s)
{
    uint64_t slot = (uint64_t)a->q_heads * (a->head_dim * sizeof(float) + sizeof(float2));
    uint64_t slots = s->bytes / slot;

    a->counters = s->counters;
    a->slots = slots < UINT32_MAX ? (uint32_t)slots : UINT32_MAX;
    a->parts = (float *)s->parts;
    a->sums = (float2 *)(s->parts + slots * a->q_heads * a->head_dim * sizeof(float));
}

/* Each row of the step as a sequence of one token; rows of none: of no token. */
static __global__ void apart_kernel(struct attn_row *to, const struct attn_row *seqs,
                                    uint32_t seq_count, uint32_t rows)
{
    uint32_t r = blockIdx.x * blockDim.x + threadIdx.x;
    struct attn_row token = {};

    await_kernels();
    for (uint32_t i = 0; i < seq_count; i++) {
        struct attn_row s = seqs[i];
        if (r >= s.first_row && r - s.first_row < s.count)
            token = {r, 1, s.first_pos + (r - s.first_row), s.table};
    }
    if (r < rows)
        to[r] = token;
}

/* Of a deterministic device: every token by the kernel of lone ones, with splits that follow from
 * its position. */
static int launch_alike(struct cuda_device *c, struct attention_args *a, uint32_t longest)
{
    uint32_t parts = a->kv_heads * ((a->group + 15) / 16), count = a->seq_count;
    bool overlap = c->overlap, done = true;

    place_scratch(a, c->attention);
    uint32_t most = a->slots < ALIKE_MAX ? a->slots : ALIKE_MAX;
    most = most * parts > COUNTERS ? COUNTERS / parts : most;
    if (most == 0)
        return 0;
    if (longest > 1) {
        count = a->rows;
        cuda_launch(c, apart_kernel, (count + 255) / 256, 256, 0, c->attention->tokens, a->seqs,
                    a->seq_count, count);
        a->seqs = c->attention->tokens;
        /* Kernels may read their sequences before those ahead have ended. */
        c->overlap = false;
    }
    for (uint32_t first = 0; first < count && done; first += most, a->seqs += most) {
        a->seq_count = count - first < most ? count - first : most;
        done = attention_decode(c, a);
    }
    c->overlap = overlap;
    return done;
}

/* Tokens of their own go one way, longer runs another; 0 where neither knows the shape. */
static int launch_fast(struct cuda_device *c, struct attention_args *a, uint32_t longest)
{
    if (c->deterministic)
        return launch_alike(c, a, longest);
    place_scratch(a, c->attention);
    if (longest > 1 && !attention_wgmma(c, a) && !attention_prefill(c, a))
        return 0;
    /* Alone it was the longest. */
    if (longest > 1 && a->seq_count == 1)
        return 1;
    return attention_cluster(c, a) || attention_decode(c, a);
}

template <typename T>
void cuda_attention(struct device *d, void *out, const void *qkv, uint32_t q_heads,
                    const struct attention *attention, const struct kv_layout *kv, uint32_t layer,
                    const struct attn_step *step)
{
    struct cuda_device *c = cuda_enter(d);
    struct attention_args a = {};

    if (kv->head_dim > DIM_MAX || kv->head_dim % 4 != 0 || kv->kv_heads == 0 ||
        q_heads % kv->kv_heads != 0) {
        cuda_note(c, cudaErrorInvalidValue);
        return;
    }
    if (step->seq_count == 0 || step->rows == 0)
        return;
    a.out = out;
    a.qkv = qkv;
    a.seqs = step->seqs;
    a.pages = step->pages;
    a.layer_bytes = layer * kv->layer_bytes;
    a.half_bytes = (uint64_t)kv->kv_heads * kv->page_tokens * kv->head_dim * sizeof(T);
    a.q_heads = q_heads;
    a.kv_heads = kv->kv_heads;
    a.group = q_heads / kv->kv_heads;
    a.head_dim = kv->head_dim;
    a.qkv_cols = (q_heads + 2 * kv->kv_heads) * kv->head_dim;
    a.page_tokens = kv->page_tokens;
    a.page_shift = (uint32_t)__builtin_ctz(kv->page_tokens);
    a.seq_count = step->seq_count;
    a.rows = step->rows;
    a.window = attention->window;
    a.scale = attention->scale;
    a.softcap = attention->softcap;
    struct attention_args given = a;
    if (sizeof(T) == sizeof(__nv_bfloat16) && c->attention && launch_fast(c, &a, step->longest))
        return;
    launch<T>(c, &given);
}

template void cuda_attention<float>(struct device *, void *, const void *, uint32_t,
                                    const struct attention *, const struct kv_layout *, uint32_t,
                                    const struct attn_step *);
template void cuda_attention<__nv_bfloat16>(struct device *, void *, const void *, uint32_t,
                                            const struct attention *, const struct kv_layout *,
                                            uint32_t, const struct attn_step *);
