/*
 * attention_run.cuh - a warp's part of decoding attention: 16 positions by the tensor cores
 *
 * What attention_decode.cu and attention_cluster.cu share: the sixteen rows of the tensor cores'
 * tiles are the query heads that share a key head.
 */
#ifndef MP_KERNELS_CUDA_ATTENTION_RUN_CUH
#define MP_KERNELS_CUDA_ATTENTION_RUN_CUH

#include <math.h>

#include "kernels/cuda/attention_work.cuh"

#define RUN  16u  /* positions of a step of a warp: within one page */
#define LINE 128u /* bytes, of the cache */

/* Halves: the keys, or the values, of a run; how many a warp has in its pipeline. */
template <uint32_t DIM> struct decode_shape {
    static constexpr uint32_t HALF = RUN * tile_rows<DIM>::BYTES;
    static constexpr uint32_t HALVES = DIM <= 64    ? 10
                                       : DIM <= 80  ? 7
                                       : DIM <= 96  ? 6
                                       : DIM <= 128 ? 5
                                                    : 4;
    static constexpr uint32_t BLOCKS = DIM <= 128 ? 2 : 1; /* of a multiprocessor */
    static constexpr uint32_t QUERY = HEADS * tile_rows<DIM>::BYTES;
    static constexpr uint32_t JOIN_COLS = DIM + 8; /* of the warps' results: rows in other banks */
};

FN void prefetch(const void *at)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

/* ---- a run ------------------------------------------------------------------------------------
 */

/* One warp's part of the softmax: rows lane / 4 and lane / 4 + 8; sum: of this lane's columns. */
template <uint32_t DIM> struct part {
    float max[2], sum[2], out[DIM / 8][4];
};

/* Scores of a run: s[i] are of positions 8 i + lane % 4 * 2 and the next. */
template <uint32_t DIM>
FN void run_scores(float s[2][4], const uint32_t (*q)[4], uint32_t query, uint32_t keys)
{
    using rows = tile_rows<DIM>;
    uint32_t lane = threadIdx.x % WARP, row = lane / 16 * 8 + lane % 8;
    float sums[2][2][4] = {}; /* of even and of odd steps: half as long a chain */

#pragma unroll
    for (uint32_t k = 0; k < DIM / 16; k++) {
        uint32_t b[4], reloaded[4];
        load_matrices(b, keys + rows::at(row, k * 2 + lane / 8 % 2));
        if (DIM > 128)
            load_matrices(reloaded, query + rows::at(lane % 16, k * 2 + lane / 16));
        const uint32_t *a = DIM > 128 ? reloaded : q[k];
        multiply(sums[k % 2][0], a, b[0], b[1]);
        multiply(sums[k % 2][1], a, b[2], b[3]);
    }
    for (uint32_t i = 0; i < 4; i++) {
        s[0][i] = sums[0][0][i] + sums[1][0][i];
        s[1][i] = sums[0][1][i] + sums[1][1][i];
    }
}

/* Weights in place of scores; what was summed up before is scaled to the new largest score. */
template <uint32_t DIM>
FN void run_weights(struct part<DIM> *p, float s[2][4], uint32_t start, uint32_t first,
                    uint32_t last, const struct attention_args &a)
{
    uint32_t at = start + threadIdx.x % 4 * 2;
    int border = start < first || start + RUN - 1 > last, moved = 0;
    float keep[2];

#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t pos = at + 8 * i + j % 2;
            s[i][j] = scaled_score(s[i][j], a.scale, a.softcap);
            if (border && (pos < first || pos > last))
                s[i][j] = -INFINITY;
        }
    }
#pragma unroll
    for (uint32_t r = 0; r < 2; r++) {
        float max = fmaxf(fmaxf(s[0][2 * r], s[0][2 * r + 1]), fmaxf(s[1][2 * r], s[1][2 * r + 1]));
        max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, 1));
        max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, 2));
        max = fmaxf(max, p->max[r]);
        keep[r] = power2(p->max[r] - max);
        moved |= max != p->max[r];
        p->max[r] = max;
        for (uint32_t i = 0; i < 2; i++)
            for (uint32_t j = 2 * r; j < 2 * r + 2; j++)
                s[i][j] = power2(s[i][j] - max);
        p->sum[r] = fmaf(p->sum[r], keep[r],
                         (s[0][2 * r] + s[0][2 * r + 1]) + (s[1][2 * r] + s[1][2 * r + 1]));
    }
    if (__any_sync(ALL_LANES, moved)) {
#pragma unroll
        for (uint32_t i = 0; i < DIM / 8; i++)
            for (uint32_t j = 0; j < 4; j++)
                p->out[i][j] *= keep[j / 2];
    }
}

template <uint32_t DIM>
FN void run_values(struct part<DIM> *p, const float s[2][4], uint32_t values)
{
    using rows = tile_rows<DIM>;
    uint32_t lane = threadIdx.x % WARP;
    uint32_t w[4] = {bf16_pair(s[0][0], s[0][1]), bf16_pair(s[0][2], s[0][3]),
                     bf16_pair(s[1][0], s[1][1]), bf16_pair(s[1][2], s[1][3])};

#pragma unroll
    for (uint32_t n = 0; n < DIM / 16; n++) {
        uint32_t b[4];
        load_matrices_transposed(b, values + rows::at(lane % 16, n * 2 + lane / 16));
        multiply(p->out[2 * n], w, b[0], b[1]);
        multiply(p->out[2 * n + 1], w, b[2], b[3]);
    }
}

/* ---- joining -----------------------------------------------------------------------------------
 */

/* Softmax of one query head over some positions, and four dims of its output. */
struct folded {
    float max, sum;
    float4 out;
};

FN void fold(struct folded *f, const struct folded &g)
{
    float max = fmaxf(f->max, g.max), x = power2(f->max - max), y = power2(g.max - max);

    f->max = max;
    f->sum = fmaf(f->sum, x, g.sum * y);
    f->out.x = fmaf(f->out.x, x, g.out.x * y);
    f->out.y = fmaf(f->out.y, x, g.out.y * y);
    f->out.z = fmaf(f->out.z, x, g.out.z * y);
    f->out.w = fmaf(f->out.w, x, g.out.w * y);
}

FN void put_out(const struct attention_args &a, uint32_t row, uint32_t head, uint32_t dim,
                const struct folded &f)
{
    size_t at = ((size_t)row * a.q_heads + head) * a.head_dim + dim;
    uint2 v = {bf16_pair(f.out.x / f.sum, f.out.y / f.sum),
               bf16_pair(f.out.z / f.sum, f.out.w / f.sum)};

    *(uint2 *)((__nv_bfloat16 *)a.out + at) = v;
}

/* A warp's part into shared memory: its rows [heads][JOIN_COLS], sums[warp][row]. */
template <uint32_t DIM>
FN void put_part(struct part<DIM> *p, float *join, float2 (*sums)[HEADS], uint32_t heads)
{
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    join += (size_t)warp * heads * decode_shape<DIM>::JOIN_COLS;
#pragma unroll
    for (uint32_t r = 0; r < 2; r++) {
        uint32_t row = lane / 4 + 8 * r;
        p->sum[r] += __shfl_xor_sync(ALL_LANES, p->sum[r], 1);
        p->sum[r] += __shfl_xor_sync(ALL_LANES, p->sum[r], 2);
        if (row >= heads)
            continue;
        if (lane % 4 == 0)
            sums[warp][row] = make_float2(p->max[r], p->sum[r]);
#pragma unroll
        for (uint32_t i = 0; i < DIM / 8; i++)
            *(float2 *)(join + row * decode_shape<DIM>::JOIN_COLS + i * 8 + lane % 4 * 2) =
                make_float2(p->out[i][2 * r], p->out[i][2 * r + 1]);
    }
}

/* The warps' parts of a row, joined; of dims dim to dim + 3. */
template <uint32_t DIM>
FN struct folded get_joined(const float *join, const float2 (*sums)[HEADS], uint32_t heads,
                            uint32_t row, uint32_t dim)
{
    struct folded f = {-INFINITY, 0, {0, 0, 0, 0}};

#pragma unroll
    for (uint32_t w = 0; w < WARPS; w++)
        f.max = fmaxf(f.max, sums[w][row].x);
#pragma unroll
    for (uint32_t w = 0; w < WARPS; w++) {
        float2 s = sums[w][row];
        float x = power2(s.x - f.max);
        const float4 *from =
            (const float4 *)(join + (w * heads + row) * decode_shape<DIM>::JOIN_COLS + dim);
        float4 v = *from;
        f.sum = fmaf(s.y, x, f.sum);
        f.out.x = fmaf(v.x, x, f.out.x);
        f.out.y = fmaf(v.y, x, f.out.y);
        f.out.z = fmaf(v.z, x, f.out.z);
        f.out.w = fmaf(v.w, x, f.out.w);
    }
    return f;
}

/* ---- queries -----------------------------------------------------------------------------------
 */

/* The query heads of a block, on their way into shared memory; zeros behind them. */
template <uint32_t DIM> struct query_rows {
    static constexpr uint32_t EACH = (HEADS * DIM / 8 + THREADS - 1) / THREADS;
    uint4 v[EACH];
};

template <uint32_t DIM>
FN void query_load(struct query_rows<DIM> *q, uint32_t row, uint32_t head, uint32_t heads,
                   const struct attention_args &a)
{
    const __nv_bfloat16 *from =
        (const __nv_bfloat16 *)a.qkv + (size_t)row * a.qkv_cols + head * DIM;

#pragma unroll
    for (uint32_t i = 0; i < query_rows<DIM>::EACH; i++) {
        uint32_t e = threadIdx.x + THREADS * i;
        q->v[i] = {0, 0, 0, 0};
        if (e < heads * (DIM / 8))
            q->v[i] = *(const uint4 *)(from + e * 8);
    }
}

template <uint32_t DIM> FN void query_store(const struct query_rows<DIM> *q, char *query)
{
#pragma unroll
    for (uint32_t i = 0; i < query_rows<DIM>::EACH; i++) {
        uint32_t e = threadIdx.x + THREADS * i;
        if (e < HEADS * (DIM / 8))
            *(uint4 *)(query + tile_rows<DIM>::at(e / (DIM / 8), e % (DIM / 8))) = q->v[i];
    }
}

#endif
