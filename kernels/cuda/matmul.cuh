/*
 * matmul.cuh - matrix products by plain arithmetic in float32, of any type and shape
 *
 * A warp computes TX rows of x against TW rows of the weights.  The order of summation of every
 * output element, for every TX and TW: lane l adds the products of its columns (decode.cuh) in
 * ascending order into one accumulator, then the lanes' sums are added pairwise: l with l ^ 16,
 * ^ 8, ^ 4, ^ 2, ^ 1.
 */
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/product.cuh"

/* Of a block: enough that its part of x, read once by each block, is little beside its weights. */
#define MATMUL_WARPS 8u

struct matmul_args {
    struct product_out to;
    const void *x;
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

/* Four columns of a row of x, zeros past its end. */
template <bool ALIGNED, typename T> FN float4 x_quad(const T *row, uint32_t col, uint32_t cols)
{
    float4 v = {0, 0, 0, 0};

    if (ALIGNED) {
        if (col < cols)
            v = operand_load4(row + col);
        return v;
    }
    if (col < cols)
        v.x = operand_load(row + col);
    if (col + 1 < cols)
        v.y = operand_load(row + col + 1);
    if (col + 2 < cols)
        v.z = operand_load(row + col + 2);
    if (col + 3 < cols)
        v.w = operand_load(row + col + 3);
    return v;
}

/* Columns of TX rows of x from step `first` on, as [step][row][half][lane], so that each lane finds
 * its four columns of a half beside its neighbours'. */
template <typename T, class C, int TX, bool ALIGNED>
FN void next_chunk(float4 *to, const matmul_args &a, uint32_t r0, uint32_t first)
{
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < CHUNK_STEPS(TX) * TX * WARP; i += MATMUL_WARPS * WARP) {
        uint32_t lane = i % WARP, r = i / WARP % TX;
        uint32_t col = (first + i / (WARP * TX)) * STEP_COLS + C::first(lane);
        const T *row = (const T *)a.x + (size_t)min(r0 + r, a.rows - 1) * a.cols;
        float4 *place = to + i / WARP * 2 * WARP + lane;
        place[0] = x_quad<ALIGNED>(row, col, a.cols);
        place[WARP] = x_quad<ALIGNED>(row, col + C::GAP, a.cols);
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
template <typename T, int TX, int TW>
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
            product_store<T>(a.to, r, j, mine);
    }
}

/* The weights of AHEAD steps are on their way while those of the AHEAD before them are used.
 * ALIGNED: all rows, of x and of the weights, begin at multiples of 16 bytes. */
template <typename T, class C, int TX, int TW, int AHEAD, bool ALIGNED>
FN void multiply(const matmul_args &a, uint32_t tile, uint32_t r0)
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
    await_kernels();
    for (uint32_t s = 0; s < whole; s += AHEAD) {
        uint32_t in_chunk = s % CHUNK_STEPS(TX);
        if (in_chunk == 0)
            next_chunk<T, C, TX, ALIGNED>(chunk, a, r0, s);
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
            next_chunk<T, C, TX, ALIGNED>(chunk, a, r0, s);
#pragma unroll
        for (int j = 0; j < TW; j++)
            now[0][j] = C::load(row[j], s, lane, a.cols, ALIGNED, false);
        add_step<C, TX, TW>(acc, now[0], chunk + in_chunk * TX * 2 * WARP, lane);
    }
    store_sums<T, TX, TW>(a, acc, r0, j0, lane);
}

template <typename T, class C, int TX, int TW, int AHEAD, bool ALIGNED>
static __global__ void __launch_bounds__(MATMUL_WARPS *WARP) matmul_kernel(const matmul_args a)
{
    multiply<T, C, TX, TW, AHEAD, ALIGNED>(a, blockIdx.x / a.x_tiles, blockIdx.x % a.x_tiles * TX);
}

template <typename T, class C, int TX, int TW, int AHEAD, bool ALIGNED>
static void launch(struct cuda_device *c, struct matmul_args a)
{
    uint32_t tiles = (a.w_rows + MATMUL_WARPS * TW - 1) / (MATMUL_WARPS * TW);

    a.x_tiles = (a.rows + TX - 1) / TX;
    /* Row tiles of the same weights are neighbours, so that memory is read once. */
    cuda_launch(c, matmul_kernel<T, C, TX, TW, AHEAD, ALIGNED>, tiles * a.x_tiles,
                MATMUL_WARPS * WARP, 0, a);
}

template <class C, typename T> struct plain {
    static void run(struct cuda_device *c, struct matmul_args a, bool aligned)
    {
        if (!aligned)
            launch<T, C, 1, 1, 1, false>(c, a);
        else if (a.rows == 1)
            launch<T, C, 1, 2, 4, true>(c, a);
        else if (a.rows <= 4)
            launch<T, C, 4, 2, 2, true>(c, a);
        else
            launch<T, C, 8, 8, 1, true>(c, a);
    }
};

/* Blocks of the quantized types are read in small pieces: any even place will do. */
template <typename T> static bool aligned_product(const struct product *p)
{
    enum dtype type = p->w.dtype;
    bool wide = type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16 || type == DTYPE_F8;

    return operand_by4((const T *)p->x, p->w.cols) &&
           (!wide || aligned16(p->w.data, dtype_row_bytes(type, p->w.cols)));
}

static struct matmul_args arguments(const struct product *p)
{
    struct matmul_args a = {};

    a.to = p->to;
    a.x = p->x;
    a.data = (const uint8_t *)p->w.data;
    a.row_bytes = dtype_row_bytes(p->w.dtype, p->w.cols);
    a.w_rows = p->w.rows;
    a.cols = p->w.cols;
    a.rows = p->rows;
    return a;
}

template <typename T> void product_plain(struct cuda_device *c, const struct product *p)
{
    with_codec<plain, T>(p->w.dtype, c, arguments(p), aligned_product<T>(p));
}

/* ---- by chosen experts -------------------------------------------------------------------------
 */

/* Each row of out as matmul_kernel computes a lone row. */
template <typename T, class C, int TW, int AHEAD, bool ALIGNED>
static __global__ void __launch_bounds__(MATMUL_WARPS *WARP)
    expert_kernel(const matmul_args all, const uint32_t *ids, uint64_t expert_bytes, uint32_t share)
{
    uint32_t row = blockIdx.x % all.rows;
    matmul_args a = all;

    await_kernels();
    a.to.out = (T *)a.to.out + (size_t)row * a.to.stride;
    a.x = (const T *)a.x + (size_t)(row / share) * a.cols;
    a.data += ids[row] * expert_bytes;
    a.rows = 1;
    multiply<T, C, 1, TW, AHEAD, ALIGNED>(a, blockIdx.x / all.rows, 0);
}

template <class C, typename T> struct plain_expert {
    static void run(struct cuda_device *c, struct matmul_args a, const uint32_t *ids,
                    uint32_t share, bool aligned)
    {
        uint32_t tile = MATMUL_WARPS * (aligned ? 2 : 1), tiles = (a.w_rows + tile - 1) / tile;
        uint64_t blocks = (uint64_t)tiles * a.rows, bytes = a.row_bytes * a.w_rows;

        if (blocks > INT32_MAX)
            cuda_note(c, cudaErrorInvalidValue);
        else
            cuda_launch(
                c, aligned ? expert_kernel<T, C, 2, 4, true> : expert_kernel<T, C, 1, 1, false>,
                (uint32_t)blocks, MATMUL_WARPS * WARP, 0, a, ids, bytes, share);
    }
};

template <typename T>
void product_plain_expert(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                          uint32_t share)
{
    with_codec<plain_expert, T>(p->w.dtype, c, arguments(p), ids, share, aligned_product<T>(p));
}
