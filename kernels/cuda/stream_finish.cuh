/*
 * stream_finish.cuh - where the sums of stream.cuh's products go, and what is done on the way
 *
 * Included by stream.cuh alone.  The warps' sums of a tile lie in shared memory as the accumulators
 * of mma.m16n8k16 have them: [warp][n][i][lane], of row lane / 4 (and 8 more where i >= 2) of the
 * tile and row n * 8 + lane % 4 * 2 + i % 2 of x.
 */
#ifndef MP_KERNELS_CUDA_STREAM_FINISH_CUH
#define MP_KERNELS_CUDA_STREAM_FINISH_CUH

#include "kernels/cuda/product.cuh"

#define STREAM_WARPS 8u
#define TILE_ROWS    16u
#define HALF_ROWS                                                                                  \
    8u /* of a tile in halves: gate's, then up's; a head's first half's, its second's */

struct stream_args {
    struct product_out to;
    const uint8_t *data;
    const __nv_bfloat16 *x;
    uint64_t row_bytes;
    uint32_t w_rows, cols, rows;
    uint32_t scales_at; /* of a row whose codec has SCALES: one for each unit */
    struct unscaled from;
    uint32_t tile_rows; /* that a tile yields; w_rows of them in all */
    uint64_t half_gap;  /* bytes that a tile's second half lies further off */
    uint32_t groups;    /* of x's rows: 8 * NT each */
    uint32_t units;     /* of a row */
    uint32_t units_up;  /* up to a multiple of STREAM_WARPS */
    /* Of k_matmul_expert(), else NULL: by rows, each its expert; or by groups of an expert's. */
    const uint32_t *ids;
    const struct expert_groups *by;
    uint64_t expert_bytes;
    uint32_t share;
    uint32_t head_tiles; /* of a head whose tiles are in halves; 0: none is */
    struct rope_sink rope;
};

/* What a warp is at: a unit of a tile.  Tiles go through the groups of x's rows first, so that the
 * blocks that need the same weights at once find them in the cache. */
struct place {
    uint32_t tile, unit;
    uint32_t row0;         /* of the weights */
    const uint8_t *data;   /* where that row begins */
    uint32_t begin, count; /* of x's rows, or of the list of chosen ones */
};

/* The warps' sums of one element: i and n as in the accumulators, l the lane. */
template <uint32_t NT> FN float joined(const float *shared, uint32_t n, uint32_t i, uint32_t l)
{
    float sum = 0;

#pragma unroll
    for (uint32_t w = 0; w < STREAM_WARPS; w++)
        sum += shared[((w * NT + n) * 4 + i) * WARP + l];
    return sum;
}

/* gate and up of a row lie in one lane's sums. */
template <uint32_t NT>
FN void store_glu(const float *shared, const float *scales, const stream_args &a,
                  const struct place &at)
{
    for (uint32_t e = threadIdx.x; e < NT * 2 * WARP; e += STREAM_WARPS * WARP) {
        uint32_t l = e % WARP, i = e / WARP % 2, n = e / WARP / 2;
        uint32_t j = at.row0 + l / 4, r = n * 8 + l % 4 * 2 + i;
        if (j >= a.w_rows || r >= at.count)
            continue;
        float scale = a.from.x ? scales[at.begin + r] : 1;
        float gate = joined<NT>(shared, n, i, l) * scale;
        float up = joined<NT>(shared, n, i + 2, l) * scale;
        operand_store((__nv_bfloat16 *)a.to.out + (size_t)(at.begin + r) * a.to.stride + j,
                      activate(gate, a.to.activation) * up);
    }
}

/* Of SINK_NORM: a thread's element of x, and its norm's weight, which are asked for before the sums
 * are there. */
struct residual {
    float x, norm;
};

/* Where thread e's element of a tile is: column j of row r of the group. */
FN bool residual_place(uint32_t *j, uint32_t *r, const stream_args &a, const struct place &at)
{
    uint32_t e = threadIdx.x, l = e % WARP, i = e / WARP % 4, n = e / WARP / 4;

    *j = at.row0 + l / 4 + i / 2 * 8;
    *r = n * 8 + l % 4 * 2 + i % 2;
    return *j < a.w_rows && *r < at.count;
}

FN struct residual read_residual(const stream_args &a, const struct place &at)
{
    uint32_t j, r;

    if (!residual_place(&j, &r, a, at))
        return {0, 0};
    return {((const float *)a.to.out)[(size_t)(at.begin + r) * a.to.stride + j], a.to.norm[j]};
}

/* x += scale * sum; x * norm for the next product, and the squares of x: of a row, 8 columns are in
 * 8 lanes of a warp. */
template <uint32_t NT>
FN void store_norm(const float *shared, const struct residual &was, const stream_args &a,
                   const struct place &at)
{
    uint32_t l = threadIdx.x % WARP, i = threadIdx.x / WARP % 4, n = threadIdx.x / WARP / 4, j, r;
    bool there = residual_place(&j, &r, a, at);
    float v = 0;

    static_assert(NT * 4 <= STREAM_WARPS, "an element a thread");
    if (n >= NT)
        return;
    if (there) {
        size_t to = (size_t)(at.begin + r) * a.to.stride + j;
        v = was.x + a.to.scale * joined<NT>(shared, n, i, l);
        ((float *)a.to.out)[to] = v;
        operand_store(a.to.normed + to, v * was.norm);
    }
    float squares = v * v;
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2)
        squares += __shfl_xor_sync(ALL_LANES, squares, lanes);
    if (there && l < 4)
        a.to.squares[(size_t)(at.begin + r) * (a.w_rows / SQUARES) + at.row0 / SQUARES + i / 2] =
            squares;
}

/* 1 / rms of each row, for all threads of the block behind its next barrier. */
FN void read_scales(float *scales, const stream_args &a)
{
    constexpr uint32_t AHEAD = 16; /* loads under way at once */
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    for (uint32_t r = warp; r < a.rows; r += STREAM_WARPS) {
        const float *squares = a.from.squares + (size_t)r * a.from.parts;
        float sum = 0;
        for (uint32_t begin = lane; begin < a.from.parts; begin += AHEAD * WARP) {
            float v[AHEAD];
#pragma unroll
            for (uint32_t i = 0; i < AHEAD; i++)
                v[i] = begin + i * WARP < a.from.parts ? squares[begin + i * WARP] : 0;
#pragma unroll
            for (uint32_t i = 0; i < AHEAD; i++)
                sum += v[i];
        }
#pragma unroll
        for (int lanes = 1; lanes < 32; lanes *= 2)
            sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
        if (lane == 0)
            scales[r] = 1 / sqrtf(sum / (float)a.cols + a.from.eps);
    }
}

/* ---- rotary embedding --------------------------------------------------------------------------
 */

/* Where a row's keys and values go. */
struct row_place {
    char *page; /* NULL: nowhere */
    uint32_t pos;
};

/* By a warp, for all threads of the block behind its next barrier.  No kernel of a step writes what
 * says so. */
FN void read_places(struct row_place *places, const rope_sink &rope, uint32_t rows)
{
    uint32_t i = threadIdx.x % WARP;

    static_assert(FUSED_ROWS_MAX <= WARP, "a lane a row");
    if (i < rows)
        places[i] = {NULL, 0};
    __syncwarp();
    if (i >= rope.seq_count)
        return;
    struct attn_row s = read_seq(rope.seqs + i);
    if (s.count == 1)
        places[s.first_row] = {read_page(rope.pages + s.table + s.first_pos / rope.page_tokens),
                               s.first_pos};
}

/* Turn the pair x, y of a token at pos. */
FN void turn_pair(float *x, float *y, const rope_sink &rope, uint32_t pair, uint32_t pos)
{
    const double turn = 6.283185307179586476925287;
    double angle = pos * rope.turns[pair];
    float s, c, v = *x;

    /* Within a half turn before it is rounded to float32. */
    sincosf((float)fma(-rint(angle / turn), turn, angle), &s, &c);
    c *= rope.scale;
    s *= rope.scale;
    *x = v * c - *y * s;
    *y = v * s + *y * c;
}

/* A row of a query in a.to.out, of keys or values in the token's page; NULL: nowhere. */
FN __nv_bfloat16 *head_row(const stream_args &a, const rope_sink &rope, uint32_t head, uint32_t r,
                           const struct row_place &to)
{
    if (head < rope.q_heads)
        return (__nv_bfloat16 *)a.to.out + (size_t)r * a.to.stride + head * rope.dim;
    if (!to.page)
        return NULL;
    return (__nv_bfloat16 *)(to.page + rope.layer_at) +
           ((size_t)(head - rope.q_heads) * rope.page_tokens + to.pos % rope.page_tokens) *
               rope.dim;
}

/* Queries and keys turned, keys and values into the pages.  The two of a pair lie in one lane's
 * sums, or, where they are neighbours, four lanes apart. */
template <uint32_t NT>
FN void store_rope(const float *shared, const float *scales, const struct row_place *places,
                   const stream_args &a, const rope_sink &rope, const struct place &at)
{
    uint32_t head = at.row0 / rope.dim, inner = at.row0 - head * rope.dim;
    bool turned = rope.turned && head < rope.q_heads + rope.kv_heads;

    for (uint32_t e = threadIdx.x; e < NT * 2 * WARP; e += STREAM_WARPS * WARP) {
        uint32_t l = e % WARP, i = e / WARP % 2, n = e / WARP / 2, first = l / 4;
        uint32_t r = n * 8 + l % 4 * 2 + i, dim, other, pair;
        float x, y;
        if (r >= at.count)
            continue;
        if (a.head_tiles) {
            pair = dim = inner + first;
            other = dim + rope.dim / 2;
            x = joined<NT>(shared, n, i, l);
            y = joined<NT>(shared, n, i + 2, l);
        } else {
            uint32_t lane = first % 4 * 8 + l % 4;
            dim = inner + first * 2;
            pair = dim / 2;
            other = dim + 1;
            x = joined<NT>(shared, n, i + first / 4 * 2, lane);
            y = joined<NT>(shared, n, i + first / 4 * 2, lane + 4);
        }
        r += at.begin;
        if (a.from.x) {
            x *= scales[r];
            y *= scales[r];
        }
        if (a.to.bias) {
            x += a.to.bias[head * rope.dim + dim];
            y += a.to.bias[head * rope.dim + other];
        }
        if (turned)
            turn_pair(&x, &y, rope, pair, places[r].pos);
        __nv_bfloat16 *out = head_row(a, rope, head, r, places[r]);
        if (out) {
            operand_store(out + dim, x);
            operand_store(out + other, y);
        }
    }
}

#endif
