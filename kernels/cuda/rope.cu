/*
 * rope.cu - norms of queries and keys, rotary embedding, and writing keys and values to the pages
 */
#include <math.h>

#include "kernels/cuda/group.cuh"
#include "kernels/cuda/operand.cuh"

#define ROPE_WARPS 8u
#define HEAD_MAX   (2 * ROPE_PAIRS)

template <typename T> struct rope_args {
    T *qkv;
    uint32_t q_heads, layer;
    struct qk_norm norm; /* q NULL: none */
    struct rope rope;
    struct kv_layout kv;
    struct attn_step step;
    double turns[ROPE_PAIRS]; /* what a pair turns by per position */
};

/* A token of a step: where it lies. */
struct token {
    const struct attn_row *seq; /* NULL: there is no such token */
    uint32_t of;                /* among its sequence's */
};

/* By all lanes of a warp. */
static __device__ struct token find_token(const struct attn_step &step, uint32_t item)
{
    uint32_t lane = threadIdx.x % WARP;

    if (step.longest == 1 && item < step.seq_count && __ldcg(&step.seqs[item].count) == 1) {
        /* Those of count 0 stand at the end. */
        return {step.seqs + item, 0};
    }
    for (uint32_t first = 0; first < step.seq_count; first += WARP) {
        uint32_t count = first + lane < step.seq_count ? __ldcg(&step.seqs[first + lane].count) : 0;
        uint32_t end = count;
        for (uint32_t i = 1; i < WARP; i *= 2) {
            uint32_t before = __shfl_up_sync(ALL_LANES, end, i);
            end += lane >= i ? before : 0;
        }
        uint32_t mine = __ballot_sync(ALL_LANES, item < end);
        if (mine != 0) {
            uint32_t at = (uint32_t)__ffs((int)mine) - 1;
            uint32_t begin = __shfl_sync(ALL_LANES, end - count, (int)at);
            return {step.seqs + first + at, item - begin};
        }
        item -= __shfl_sync(ALL_LANES, end, WARP - 1);
    }
    return {NULL, 0};
}

/* In double: an angle of float32 is off by 1e-3 at position 10,000. */
void rope_turns(double turns[ROPE_PAIRS], const struct rope *rope)
{
    for (uint32_t i = 0; i < rope->dims / 2; i++) {
        double f = pow((double)rope->theta, -2.0 * i / rope->dims);
        turns[i] = rope->factors ? f / rope->factors[i] : f;
    }
}

/* A token's cosines and sines. */
static __device__ void angles(float2 *turns, const double *of, const struct rope &rope,
                              uint32_t pos)
{
    for (uint32_t i = threadIdx.x; i < rope.dims / 2; i += blockDim.x) {
        const double turn = 6.283185307179586476925287;
        double angle = pos * of[i];
        float s, c;
        /* Within a half turn before it is rounded to float32. */
        sincosf((float)fma(-rint(angle / turn), turn, angle), &s, &c);
        turns[i] = {c * rope.scale, s * rope.scale};
    }
}

/* Of n consecutive elements, by one warp. */
template <typename T> static __device__ float square_sum(const T *x, uint32_t n)
{
    float squares = 0;

    for (uint32_t i = threadIdx.x % WARP; i < n; i += WARP) {
        float v = operand_load(x + i);
        squares = fmaf(v, v, squares);
    }
    for (int i = 16; i > 0; i /= 2)
        squares += __shfl_xor_sync(ALL_LANES, squares, i);
    return squares;
}

/* 1 / rms of them. */
template <typename T> static __device__ float inverse_rms(const T *x, uint32_t n, float eps)
{
    return 1 / sqrtf(square_sum(x, n) / (float)n + eps);
}

/* A block is a row of qkv, its warps are q and k. */
template <typename T>
static __global__ void squares_kernel(float *out, const T *qkv, uint32_t stride, uint32_t q_cols,
                                      uint32_t k_cols)
{
    uint32_t which = threadIdx.x / WARP;

    await_kernels();
    const T *x = qkv + (size_t)blockIdx.x * stride + (which == 0 ? 0 : q_cols);
    float sum = square_sum(x, which == 0 ? q_cols : k_cols);
    if (threadIdx.x % WARP == 0)
        out[2 * blockIdx.x + which] = sum;
}

template <typename T>
void cuda_squares(struct device *d, float *out, const void *qkv, uint32_t stride, uint32_t q_cols,
                  uint32_t k_cols, uint32_t rows)
{
    if (rows > 0)
        cuda_launch(cuda_enter(d), squares_kernel<T>, dim3(rows), 2 * WARP, 0, out, (const T *)qkv,
                    stride, q_cols, k_cols);
}
template void cuda_squares<float>(struct device *d, float *out, const void *qkv, uint32_t stride,
                                  uint32_t q_cols, uint32_t k_cols, uint32_t rows);
template void cuda_squares<__nv_bfloat16>(struct device *d, float *out, const void *qkv,
                                          uint32_t stride, uint32_t q_cols, uint32_t k_cols,
                                          uint32_t rows);

/* One head by one warp: from x, normed by w where there is one, turned, to `to`. */
template <typename T>
static __device__ void head(T *to, const T *x, float *shared, const float *w, float scale,
                            uint32_t dim, const struct rope &rope, const float2 *turns)
{
    uint32_t lane = threadIdx.x % WARP, half = rope.dims / 2;

    for (uint32_t i = lane; i < dim; i += WARP)
        shared[i] = w ? operand_load(x + i) * scale * w[i] : operand_load(x + i);
    __syncwarp();
    for (uint32_t i = lane; i < dim; i += WARP) {
        uint32_t pair = rope.interleaved ? i / 2 : i % half;
        bool second = rope.interleaved ? i % 2 : i >= half;
        float v = shared[i];
        if (i < rope.dims) {
            float a = shared[rope.interleaved ? 2 * pair : pair];
            float b = shared[rope.interleaved ? 2 * pair + 1 : pair + half];
            float2 t = turns[pair];
            v = second ? a * t.y + b * t.x : a * t.x - b * t.y;
        }
        operand_store(to + i, v);
    }
    __syncwarp();
}

/* A block goes through heads of one token, a warp a head: queries, keys, values.  With a norm over
 * all of a token's heads one block has them all. */
template <typename T>
static __global__ void __launch_bounds__(ROPE_WARPS *WARP)
    rope_kernel(const __grid_constant__ rope_args<T> a)
{
    __shared__ float2 turns[ROPE_PAIRS];
    __shared__ float heads[ROPE_WARPS][HEAD_MAX], scales[2];
    uint32_t dim = a.kv.head_dim, kv_heads = a.kv.kv_heads, all = a.q_heads + 2 * kv_heads;
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;

    /* What says where tokens lie is there before the kernels ahead have ended. */
    launch_next();
    struct token t = find_token(a.step, blockIdx.x);
    uint32_t pos = 0;
    char *page = NULL;
    struct attn_row seq = {};
    if (t.seq) {
        seq = read_seq(t.seq);
        pos = seq.first_pos + t.of;
        page = read_page(a.step.pages + seq.table + pos / a.kv.page_tokens);
        angles(turns, a.turns, a.rope, pos);
    }
    wait_kernels();
    if (!t.seq)
        return;
    T *token = a.qkv + (size_t)(seq.first_row + t.of) * all * dim;
    T *base = (T *)(page + a.layer * a.kv.layer_bytes) + (size_t)(pos % a.kv.page_tokens) * dim;

    if (a.norm.q && a.norm.width && warp < 2) {
        const T *x = token + (warp == 0 ? 0 : a.q_heads * dim);
        size_t row = t.seq->first_row + t.of;
        float s = a.norm.squares
                      ? 1 / sqrtf(a.norm.squares[2 * row + warp] /
                                      (float)(warp == 0 ? a.norm.q_all : a.norm.k_all) +
                                  a.norm.eps)
                      : inverse_rms(x, (warp == 0 ? a.q_heads : kv_heads) * dim, a.norm.eps);
        if (lane == 0)
            scales[warp] = s;
    }
    __syncthreads();
    for (uint32_t h = blockIdx.y * ROPE_WARPS + warp; h < all; h += gridDim.y * ROPE_WARPS) {
        T *x = token + (size_t)h * dim;
        bool query = h < a.q_heads;
        if (h >= a.q_heads + kv_heads) {
            T *to = base + (size_t)(h - a.q_heads) * a.kv.page_tokens * dim;
            for (uint32_t i = lane; i < dim; i += WARP)
                to[i] = x[i];
            continue;
        }
        const float *w = query ? a.norm.q : a.norm.k;
        uint32_t nth = query ? h : h - a.q_heads;
        float scale = 0;
        if (w && a.norm.width) {
            scale = scales[query ? 0 : 1];
            w += nth * dim;
        } else if (w) {
            scale = inverse_rms(x, dim, a.norm.eps);
        }
        head(query ? x : base + (size_t)nth * a.kv.page_tokens * dim, x, heads[warp], w, scale, dim,
             a.rope, turns);
    }
}

template <typename T>
void cuda_rope_kv(struct device *d, void *qkv, uint32_t q_heads, const struct qk_norm *norm,
                  const struct rope *rope, const struct kv_layout *kv, uint32_t layer,
                  const struct attn_step *step)
{
    struct cuda_device *c = cuda_enter(d);
    struct rope_args<T> a = {
    };
    uint32_t all = q_heads + 2 * kv->kv_heads;

    if (rope->dims > kv->head_dim || kv->head_dim > HEAD_MAX) {
        cuda_note(c, cudaErrorInvalidValue);
        return;
    }
    if (step->rows == 0 || step->seq_count == 0)
        return;
    a.qkv = (T *)qkv;
    a.q_heads = q_heads;
    a.layer = layer;
    if (norm)
        a.norm = *norm;
    a.rope = *rope;
    rope_turns(a.turns, rope);
    a.kv = *kv;
    a.step = *step;
    uint32_t parts = norm && norm->width ? 1 : (all + ROPE_WARPS - 1) / ROPE_WARPS;
    /* Long prompts fill the GPU by tokens alone. */
    if (step->rows >= 4 * c->sms)
        parts = 1;
    cuda_launch(c, rope_kernel<T>, dim3(step->rows, parts), ROPE_WARPS * WARP, 0, a);
}

template void cuda_rope_kv<float>(struct device *d, void *qkv, uint32_t q_heads,
                                  const struct qk_norm *norm, const struct rope *rope,
                                  const struct kv_layout *kv, uint32_t layer,
                                  const struct attn_step *step);
template void cuda_rope_kv<__nv_bfloat16>(struct device *d, void *qkv, uint32_t q_heads,
                                          const struct qk_norm *norm, const struct rope *rope,
                                          const struct kv_layout *kv, uint32_t layer,
                                          const struct attn_step *step);
