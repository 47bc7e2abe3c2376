/*
 * matmul.cu - embedding rows and matrix products with exact float32 arithmetic
 *
 * A warp computes TX rows of x against TW rows of the weights.  The order of summation of every
 * output element, for every TX and TW: lane l adds the products of its columns (decode.cuh) in
 * ascending order into one accumulator, then the lanes' sums are added pairwise: l with l ^ 16,
 * ^ 8, ^ 4, ^ 2, ^ 1.
 */
#include "kernels/cuda/decode.cuh"

/* Of a block: enough that its part of x, read once by each block, is little beside its weights. */
#define MATMUL_WARPS 8u

struct matmul_args {
    float *out;
    const float *x, *bias;
    const uint8_t *data;
    uint64_t row_bytes;
    uint32_t w_rows, cols, rows, x_tiles;
};

FN float lanes_sum(float v)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, i);
    return v;
}

/* acc[r][j] += four products, for each row r of x. */
template <int TX> FN void add_products(float (&acc)[TX], const float4 (&x)[TX], const float *w)
{
#pragma unroll
    for (int r = 0; r < TX; r++) {
        acc[r] = fmaf(w[0], x[r].x, acc[r]);
        acc[r] = fmaf(w[1], x[r].y, acc[r]);
        acc[r] = fmaf(w[2], x[r].z, acc[r]);
        acc[r] = fmaf(w[3], x[r].w, acc[r]);
    }
}

/* Steps whose part of x lies in shared memory at once: 16 KiB, 32 for eight rows. */
#define CHUNK_STEPS(TX) ((TX) == 1 ? 16u : (TX) == 2 ? 8u : 4u)

/* Columns of TX rows of x from step `first` on, as [step][row][half][lane], so that each lane finds
 * its four columns of a half beside its neighbours'. */
template <class C, int TX, bool ALIGNED>
FN void next_chunk(float4 *to, const matmul_args &a, uint32_t r0, uint32_t first)
{
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < CHUNK_STEPS(TX) * TX * WARP; i += MATMUL_WARPS * WARP) {
        uint32_t lane = i % WARP, r = i / WARP % TX;
        uint32_t col = (first + i / (WARP * TX)) * STEP_COLS + C::first(lane);
        const uint8_t *row = (const uint8_t *)(a.x + (size_t)min(r0 + r, a.rows - 1) * a.cols);
        float4 *place = to + i / WARP * 2 * WARP + lane;
        place[0] = f32_codec::quad(row, col, a.cols, ALIGNED);
        place[WARP] = f32_codec::quad(row, col + C::GAP, a.cols, ALIGNED);
    }
    __syncthreads();
}

template <class C, int TW, int AHEAD, bool ALIGNED>
FN void load_steps(typename C::raw (&raw)[AHEAD][TW], const uint8_t *const (&row)[TW], uint32_t s,
                   uint32_t lane, uint32_t cols)
{
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
#pragma unroll
        for (int j = 0; j < TW; j++)
            raw[i][j] = C::load(row[j], (size_t)s + i, lane, cols, ALIGNED, true);
}

/* One step's products; x: its place in the chunk. */
template <class C, int TX, int TW>
FN void add_step(float (&acc)[TW][TX], const typename C::raw (&raw)[TW], const float4 *x,
                 uint32_t lane)
{
    float w[TW][8];

#pragma unroll
    for (int j = 0; j < TW; j++)
        C::decode(w[j], raw[j], lane);
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        float4 v[TX];
#pragma unroll
        for (int r = 0; r < TX; r++)
            v[r] = x[(r * 2 + half) * WARP + lane];
#pragma unroll
        for (int j = 0; j < TW; j++)
            add_products<TX>(acc[j], v, w[j] + 4 * half);
    }
}

/* Join the lanes' sums; each lane keeps and stores every 32nd. */
template <int TX, int TW>
FN void store_sums(const matmul_args &a, const float (&acc)[TW][TX], uint32_t r0, uint32_t j0,
                   uint32_t lane)
{
    float mine = 0;

#pragma unroll
    for (uint32_t i = 0; i < TX * TW; i++) {
        float sum = lanes_sum(acc[i % TW][i / TW]);
        mine = lane == i % WARP ? sum : mine;
        if (i % WARP != WARP - 1 && i != TX * TW - 1)
            continue;
        uint32_t at = i / WARP * WARP + lane, r = r0 + at / TW, j = j0 + at % TW;
        if (at < TX * TW && r < a.rows && j < a.w_rows)
            a.out[(size_t)r * a.w_rows + j] = mine + (a.bias ? a.bias[j] : 0);
    }
}

/* The weights of AHEAD steps are on their way while those of the AHEAD before them are used.
 * ALIGNED: all rows, of x and of the weights, begin at multiples of 16 bytes. */
template <class C, int TX, int TW, int AHEAD, bool ALIGNED>
FN void product(const matmul_args &a, uint32_t tile, uint32_t r0)
{
    __shared__ float4 chunk[CHUNK_STEPS(TX) * TX * 2 * WARP];
    uint32_t lane = threadIdx.x % WARP;
    uint32_t j0 = (tile * MATMUL_WARPS + threadIdx.x / WARP) * TW;
    uint32_t steps = (a.cols + STEP_COLS - 1) / STEP_COLS;
    uint32_t whole = a.cols / STEP_COLS / AHEAD * AHEAD;
    float acc[TW][TX];
    const uint8_t *row[TW];
    typename C::raw now[AHEAD][TW], next[AHEAD][TW];

    /* Tiles that stick out compute the last row again. */
#pragma unroll
    for (int j = 0; j < TW; j++)
        row[j] = a.data + min(j0 + j, a.w_rows - 1) * a.row_bytes;
#pragma unroll
    for (int j = 0; j < TW; j++)
#pragma unroll
        for (int r = 0; r < TX; r++)
            acc[j][r] = 0;

    if (whole > 0)
        load_steps<C, TW, AHEAD, ALIGNED>(now, row, 0, lane, a.cols);
    for (uint32_t s = 0; s < whole; s += AHEAD) {
        uint32_t in_chunk = s % CHUNK_STEPS(TX);
        if (in_chunk == 0)
            next_chunk<C, TX, ALIGNED>(chunk, a, r0, s);
        if (s + AHEAD < whole)
            load_steps<C, TW, AHEAD, ALIGNED>(next, row, s + AHEAD, lane, a.cols);
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            add_step<C, TX, TW>(acc, now[i], chunk + (in_chunk + i) * TX * 2 * WARP, lane);
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int j = 0; j < TW; j++)
                now[i][j] = next[i][j];
    }
    /* The rest, and the part of a step at the end. */
    for (uint32_t s = whole; s < steps; s++) {
        uint32_t in_chunk = s % CHUNK_STEPS(TX);
        if (in_chunk == 0)
            next_chunk<C, TX, ALIGNED>(chunk, a, r0, s);
#pragma unroll
        for (int j = 0; j < TW; j++)
            now[0][j] = C::load(row[j], s, lane, a.cols, ALIGNED, false);
        add_step<C, TX, TW>(acc, now[0], chunk + in_chunk * TX * 2 * WARP, lane);
    }
    store_sums<TX, TW>(a, acc, r0, j0, lane);
}

template <class C, int TX, int TW, int AHEAD, bool ALIGNED>
static __global__ void __launch_bounds__(MATMUL_WARPS *WARP) matmul_kernel(const matmul_args a)
{
    product<C, TX, TW, AHEAD, ALIGNED>(a, blockIdx.x / a.x_tiles, blockIdx.x % a.x_tiles * TX);
}

template <class C, int TX, int TW, int AHEAD, bool ALIGNED>
static void launch(struct cuda_device *c, struct matmul_args a)
{
    uint32_t tiles = (a.w_rows + MATMUL_WARPS * TW - 1) / (MATMUL_WARPS * TW);

    a.x_tiles = (a.rows + TX - 1) / TX;
    /* Row tiles of the same weights are neighbours, so that memory is read once. */
    matmul_kernel<C, TX, TW, AHEAD, ALIGNED>
        <<<tiles * a.x_tiles, MATMUL_WARPS * WARP, 0, c->stream>>>(a);
}

template <class C> struct matmul {
    static void run(struct cuda_device *c, struct matmul_args a, bool aligned)
    {
        if (!aligned)
            launch<C, 1, 1, 1, false>(c, a);
        else if (a.rows == 1)
            launch<C, 1, 2, 4, true>(c, a);
        else if (a.rows == 2)
            launch<C, 2, 2, 2, true>(c, a);
        else if (a.rows <= 4)
            launch<C, 4, 2, 2, true>(c, a);
        else
            launch<C, 8, 8, 1, true>(c, a);
    }
};

static bool aligned16(const void *p, uint64_t row_bytes)
{
    return (((uintptr_t)p | row_bytes) & 15) == 0;
}

/* Blocks of the quantized types are read in small pieces: any even place will do. */
static bool aligned_product(const float *x, const struct weight *w)
{
    bool wide = w->dtype == DTYPE_F32 || w->dtype == DTYPE_F16 || w->dtype == DTYPE_BF16;

    return aligned16(x, (uint64_t)w->cols * sizeof(float)) &&
           (!wide || aligned16(w->data, dtype_row_bytes(w->dtype, w->cols)));
}

static struct matmul_args arguments(float *out, const float *x, const struct weight *w,
                                    const float *bias, uint32_t rows)
{
    struct matmul_args a = {};

    a.out = out;
    a.x = x;
    a.bias = bias;
    a.data = (const uint8_t *)w->data;
    a.row_bytes = dtype_row_bytes(w->dtype, w->cols);
    a.w_rows = w->rows;
    a.cols = w->cols;
    a.rows = rows;
    return a;
}

void cuda_matmul(struct device *d, float *out, const float *x, const struct weight *w,
                 const float *bias, uint32_t rows)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0 || w->rows == 0)
        return;
    with_codec<matmul>(w->dtype, c, arguments(out, x, w, bias, rows), aligned_product(x, w));
    cuda_note(c, cudaGetLastError());
}

/* ---- by chosen experts -------------------------------------------------------------------------
 */

/* Each row of out as matmul_kernel computes a lone row. */
template <class C, int TW, int AHEAD, bool ALIGNED>
static __global__ void __launch_bounds__(MATMUL_WARPS *WARP)
    expert_kernel(const matmul_args all, const uint32_t *ids, uint64_t expert_bytes, uint32_t share)
{
    uint32_t row = blockIdx.x % all.rows;
    matmul_args a = all;

    a.out += (size_t)row * a.w_rows;
    a.x += (size_t)(row / share) * a.cols;
    a.data += ids[row] * expert_bytes;
    a.rows = 1;
    product<C, 1, TW, AHEAD, ALIGNED>(a, blockIdx.x / all.rows, 0);
}

template <class C> struct matmul_expert {
    static void run(struct cuda_device *c, struct matmul_args a, const uint32_t *ids,
                    uint32_t share, bool aligned)
    {
        uint32_t tile = MATMUL_WARPS * (aligned ? 2 : 1), tiles = (a.w_rows + tile - 1) / tile;
        uint64_t blocks = (uint64_t)tiles * a.rows, bytes = a.row_bytes * a.w_rows;

        if (blocks > INT32_MAX)
            cuda_note(c, cudaErrorInvalidValue);
        else if (aligned)
            expert_kernel<C, 2, 4, true>
                <<<(uint32_t)blocks, MATMUL_WARPS * WARP, 0, c->stream>>>(a, ids, bytes, share);
        else
            expert_kernel<C, 1, 1, false>
                <<<(uint32_t)blocks, MATMUL_WARPS * WARP, 0, c->stream>>>(a, ids, bytes, share);
    }
};

void cuda_matmul_expert(struct device *d, float *out, const float *x, const struct weight *w,
                        const uint32_t *expert_ids, uint32_t rows, uint32_t share)
{
    struct cuda_device *c = cuda_enter(d);
    struct matmul_args a = arguments(out, x, w, NULL, rows);

    if (rows == 0 || w->rows == 0)
        return;
    with_codec<matmul_expert>(w->dtype, c, a, expert_ids, share, aligned_product(x, w));
    cuda_note(c, cudaGetLastError());
}

/* ---- embedding ---------------------------------------------------------------------------------
 */

/* A warp decodes 256 columns of a row. */
template <class C>
static __global__ void embed_kernel(float *out, const uint8_t *table, uint64_t row_bytes,
                                    const uint32_t *tokens, uint32_t cols, float scale,
                                    bool aligned)
{
    uint32_t lane = threadIdx.x % WARP, col = blockIdx.y * STEP_COLS + C::first(lane);
    const uint8_t *row = table + tokens[blockIdx.x] * row_bytes;
    float w[8];

    C::decode(w, C::load(row, blockIdx.y, lane, cols, aligned, false), lane);
    out += (size_t)blockIdx.x * cols;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t at = col + i % 4 + i / 4 * C::GAP;
        if (at < cols)
            out[at] = w[i] * scale;
    }
}

template <class C> struct embed {
    static void run(struct cuda_device *c, float *out, const struct weight *table,
                    const uint32_t *tokens, uint32_t rows, float scale)
    {
        uint64_t row_bytes = dtype_row_bytes(table->dtype, table->cols);
        dim3 grid(rows, (table->cols + STEP_COLS - 1) / STEP_COLS);
        embed_kernel<C><<<grid, WARP, 0, c->stream>>>(out, (const uint8_t *)table->data, row_bytes,
                                                      tokens, table->cols, scale,
                                                      aligned16(table->data, row_bytes));
    }
};

void cuda_embed(struct device *d, float *out, const struct weight *table, const uint32_t *tokens,
                uint32_t rows, float scale)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0)
        return;
    with_codec<embed>(table->dtype, c, out, table, tokens, rows, scale);
    cuda_note(c, cudaGetLastError());
}
