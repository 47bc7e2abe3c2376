/*
 * stream.cuh - products of few rows: the weights stream once through shared memory to the tensor
 * cores
 *
 * A block's warps share the columns of 16 rows of the weights, a tile: unit u of them (as many
 * columns as the codec says) is warp u % STREAM_WARPS's.  Each warp has a ring of its own in shared
 * memory, which it fills itself, ahead across units and tiles; the first units are on their way
 * before the kernel ahead has ended.  Order of summation of an output element: a warp's units in
 * ascending order, then the warps' sums in theirs.
 *
 * Fragments of mma.m16n8k16: which columns a lane's registers stand for is free as long as both
 * operands agree, so a lane takes neighbours: it reads 16 bytes of x for two products.  l / 4 is a
 * lane's row of the weights (and that + 8), or its row of x; l % 4 says which columns.
 */
#ifndef MP_KERNELS_CUDA_STREAM_CUH
#define MP_KERNELS_CUDA_STREAM_CUH

#include "kernels/cuda/stream_finish.cuh"

/* ---- instructions ------------------------------------------------------------------------------
 */

FN void copy_async(void *to, const void *from, bool there)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}

/* Four bytes. */
FN void copy_async4(void *to, const void *from, bool there)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from),
                 "r"(there ? 4 : 0)
                 : "memory");
}

FN void commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LEFT> FN void await_copies(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* c += a b, 16 rows of the weights and 8 of x. */
FN void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
            uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* ---- the kernel --------------------------------------------------------------------------------
 */

/* Of x's rows in a stage: PAD spreads them over the banks. */
template <class C> static __host__ __device__ constexpr uint32_t x_stride(void)
{
    return C::COLS * 2 + C::X_PAD;
}

/* A stage is 16 rows of the weights; their scales, where the codec has SCALES; rows of x. */
template <class C> static __host__ __device__ constexpr uint32_t x_begin(void)
{
    return TILE_ROWS * (C::STRIDE + (C::SCALES ? 4 : 0));
}

template <class C> static __host__ __device__ constexpr uint32_t stage_bytes(uint32_t x_rows)
{
    return x_begin<C>() + x_rows * x_stride<C>();
}

/* The divisions are done once a tile. */
template <uint32_t NT, bool GROUPED> FN void enter_tile(struct place &at, const stream_args &a)
{
    uint32_t nth = 0, tile = at.tile;

    if (GROUPED || a.groups > 1) {
        tile = at.tile / a.groups;
        nth = at.tile - tile * a.groups;
    }
    at.row0 = tile * a.tile_rows;
    if (a.head_tiles)
        at.row0 += tile / a.head_tiles * (a.head_tiles * HALF_ROWS);
    at.data = a.data + at.row0 * a.row_bytes;
    at.begin = nth * 8 * NT;
    at.count = min(a.rows - at.begin, 8 * NT);
    if constexpr (GROUPED) {
        if (at.row0 < a.w_rows) {
            struct expert_group g = a.by->groups[nth];
            at.data += g.expert * a.expert_bytes;
            at.begin = g.begin;
            at.count = g.count;
        }
    }
}

template <uint32_t NT, bool GROUPED> FN void advance(struct place &at, const stream_args &a)
{
    at.unit += STREAM_WARPS;
    if (at.unit >= a.units_up) {
        at.unit = threadIdx.x / WARP;
        at.tile += gridDim.x;
        enter_tile<NT, GROUPED>(at, a);
    }
}

FN bool there_is(const struct place &at, const stream_args &a)
{
    return at.row0 < a.w_rows && at.unit < a.units;
}

/* Rows of the weights into a stage.  What is past a row's end, or the last row, becomes zeros. */
template <class C>
FN void fill_weights(uint8_t *stage, const stream_args &a, const struct place &at)
{
    constexpr uint32_t COPIES = (TILE_ROWS * C::CHUNKS + WARP - 1) / WARP;
    uint32_t lane = threadIdx.x % WARP, begin = at.unit * C::BYTES / 16 * 16;

    if (!there_is(at, a))
        return;
    uint32_t left = (uint32_t)a.row_bytes - begin, rows = a.w_rows - at.row0;
    const uint8_t *from = at.data + begin;
#pragma unroll
    for (uint32_t i = 0; i < COPIES; i++) {
        uint32_t at16 = i * WARP + lane, r = at16 / C::CHUNKS, chunk = at16 % C::CHUNKS;
        if (TILE_ROWS * C::CHUNKS % WARP != 0 && r >= TILE_ROWS)
            break;
        bool second = r >= HALF_ROWS;
        bool there = chunk * 16 < left && (a.half_gap ? r % HALF_ROWS : r) < rows;
        copy_async(stage + r * C::STRIDE + C::place_of(r, chunk) * 16,
                   there ? from + r * a.row_bytes + (second ? a.half_gap : 0) + chunk * 16 : a.data,
                   there);
    }
    if (C::SCALES && lane < TILE_ROWS) {
        uint64_t row = lane * a.row_bytes + (lane >= HALF_ROWS ? a.half_gap : 0);
        bool there = (a.half_gap ? lane % HALF_ROWS : lane) < rows;
        copy_async4(stage + TILE_ROWS * C::STRIDE + lane * 4,
                    there ? at.data + row + a.scales_at + at.unit * 4 : a.data, there);
    }
}

template <class C, bool GROUPED>
FN void fill_x(uint8_t *stage, const stream_args &a, const struct place &at)
{
    constexpr uint32_t CHUNKS = C::COLS / 8, ROWS = CHUNKS < WARP ? WARP / CHUNKS : 1;
    uint32_t lane = threadIdx.x % WARP, chunk = lane % CHUNKS, col = at.unit * C::COLS + chunk * 8;
    bool there = col < a.cols;

    static_assert(CHUNKS <= WARP, "a warp copies whole rows of x at once");
    if (!there_is(at, a))
        return;
#pragma unroll 1
    for (uint32_t r = lane / CHUNKS; r < at.count; r += ROWS) {
        uint32_t row = at.begin + r;
        if (GROUPED)
            row = a.by->rows[row] / a.share;
        copy_async(stage + x_begin<C>() + r * x_stride<C>() + chunk * 16,
                   there ? a.x + (size_t)row * a.cols + col : a.x, there);
    }
}

/* A lone row's sums are spread over the lanes that have its blocks; lane 0 of four gets them all.
 */
FN void add_quad(float (&acc)[4])
{
#pragma unroll
    for (uint32_t i = 0; i < 4; i += 2) {
        acc[i] += __shfl_xor_sync(ALL_LANES, acc[i], 1);
        acc[i] += __shfl_xor_sync(ALL_LANES, acc[i], 2);
    }
}

/* Join the warps' sums of a tile and store them. */
template <uint32_t NT, bool GROUPED>
FN void finish(float *shared, const float *scales, const struct row_place *places,
               const struct residual &was, float (&acc)[NT][4], const stream_args &a,
               const rope_sink &rope, const struct place &at)
{
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

#pragma unroll
    for (uint32_t n = 0; n < NT; n++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            shared[((warp * NT + n) * 4 + i) * WARP + lane] = acc[n][i];
            acc[n][i] = 0;
        }
    __syncthreads();
    if (a.to.sink == SINK_GLU) {
        store_glu<NT>(shared, scales, a, at);
        return;
    }
    if (a.to.sink == SINK_NORM) {
        store_norm<NT>(shared, was, a, at);
        return;
    }
    if (!GROUPED && a.to.sink == SINK_ROPE) {
        store_rope<NT>(shared, scales, places, a, rope, at);
        return;
    }
    for (uint32_t e = threadIdx.x; e < NT * 4 * WARP; e += STREAM_WARPS * WARP) {
        uint32_t l = e % WARP, i = e / WARP % 4, n = e / WARP / 4;
        uint32_t j = at.row0 + l / 4 + i / 2 * 8;
        uint32_t r = n * 8 + l % 4 * 2 + i % 2;
        if (j >= a.w_rows || r >= at.count)
            continue;
        float sum = joined<NT>(shared, n, i, l);
        r += at.begin;
        if (a.from.x)
            sum *= scales[r];
        product_store<__nv_bfloat16>(a.to, GROUPED ? a.by->rows[r] : r, j, sum);
    }
}

/* Which rows of x there are: any, one, or those of groups. */
enum stream_rows { ROWS_ANY, ROWS_ONE, ROWS_GROUPED };

/* BLOCKS a multiprocessor: all that there are run at once, and each goes through its tiles. */
template <class C, uint32_t NT, uint32_t STAGES, uint32_t BLOCKS, enum stream_rows ROWS>
static __global__ void __launch_bounds__(STREAM_WARPS *WARP, BLOCKS)
    stream_kernel(const __grid_constant__ stream_args given)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float scales[FUSED_ROWS_MAX];
    __shared__ struct row_place places[FUSED_ROWS_MAX];
    stream_args a = given;
    constexpr bool GROUPED = ROWS == ROWS_GROUPED;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t bytes = stage_bytes<C>(GROUPED ? 8 * NT : min(a.rows, 8 * NT));
    float *sums = (float *)shared;
    uint8_t *ring = shared + 2 * STREAM_WARPS * NT * 4 * WARP * sizeof(float);
    struct place next = {}, x_next, now;
    float acc[NT][4] = {};
    struct residual was = {};
    uint32_t odd = 0, slot = 0;

    ring += warp * STAGES * bytes;
    if (GROUPED) {
        await_kernels();
        a.groups = a.by->count;
    } else if (a.ids) {
        await_kernels();
        a.data += a.ids[blockIdx.y] * a.expert_bytes;
        a.x += (size_t)(blockIdx.y / a.share) * a.cols;
        a.to.out = (__nv_bfloat16 *)a.to.out + (size_t)blockIdx.y * a.to.stride;
    }
    next.tile = blockIdx.x;
    next.unit = warp;
    enter_tile<NT, GROUPED>(next, a);
    x_next = now = next;
#pragma unroll
    for (uint32_t s = 0; s < STAGES; s++) {
        fill_weights<C>(ring + s * bytes, a, next);
        advance<NT, GROUPED>(next, a);
    }
    if (!GROUPED && a.to.sink == SINK_ROPE && warp == STREAM_WARPS - 1)
        read_places(places, given.rope, a.rows);
    await_kernels();
#pragma unroll
    for (uint32_t s = 0; s < STAGES; s++) {
        fill_x<C, GROUPED>(ring + s * bytes, a, x_next);
        advance<NT, GROUPED>(x_next, a);
    }
    commit();
    if (a.from.x)
        read_scales(scales, a);
    await_copies<0>();
    while (now.row0 < a.w_rows) {
        uint8_t *stage = ring + slot * bytes;
        bool last = now.unit + STREAM_WARPS >= a.units_up; /* of a tile */
        if (last && a.to.sink == SINK_NORM)
            was = read_residual(a, now);
        await_copies<STAGES - 1>();
        __syncwarp();
        if (now.unit < a.units) {
            const uint8_t *x = stage + x_begin<C>();
            if constexpr (ROWS == ROWS_ONE)
                C::accumulate_one(acc[0], stage, x, now.unit, lane);
            else
                C::template accumulate<NT>(acc, stage, x, now.count, now.unit, lane);
        }
        __syncwarp();
        fill_weights<C>(stage, a, next);
        fill_x<C, GROUPED>(stage, a, next);
        commit();
        advance<NT, GROUPED>(next, a);
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        if (last) {
            if (ROWS == ROWS_ONE)
                add_quad(acc[0]);
            finish<NT, GROUPED>(sums + odd * STREAM_WARPS * NT * 4 * WARP, scales, places, was, acc,
                                a, given.rope, now);
            odd ^= 1;
        }
        advance<NT, GROUPED>(now, a);
    }
}

/* Of the experts of p: each row its own, or by groups; both NULL: of no experts. */
struct stream_experts {
    const uint32_t *ids;
    const struct expert_groups *by;
    uint32_t share;
};

template <class C, uint32_t NT, uint32_t STAGES, uint32_t BLOCKS, enum stream_rows ROWS = ROWS_ANY>
static void stream_launch(struct cuda_device *c, const struct product *p,
                          const struct stream_experts &experts)
{
    struct stream_args a = {};
    uint32_t each = TILE_ROWS; /* rows of the weights that a tile takes on its way through them */
    uint32_t x_rows = experts.ids ? 1 : p->rows;
    uint32_t stage = stage_bytes<C>(ROWS != ROWS_GROUPED && x_rows < 8 * NT ? x_rows : 8 * NT);
    uint32_t shared = STREAM_WARPS * (2 * NT * 4 * WARP * (uint32_t)sizeof(float) + STAGES * stage);
    auto kernel = stream_kernel<C, NT, STAGES, BLOCKS, ROWS>;

    a.to = p->to;
    a.data = (const uint8_t *)p->w.data;
    a.x = (const __nv_bfloat16 *)p->x;
    a.row_bytes = dtype_row_bytes(p->w.dtype, p->w.cols);
    a.w_rows = p->w.rows;
    a.cols = p->w.cols;
    a.rows = x_rows;
    a.scales_at = C::SCALES ? (uint32_t)f8_scales_at(p->w.cols) : 0;
    a.from = p->from;
    a.tile_rows = TILE_ROWS;
    if (p->to.sink == SINK_GLU) {
        a.tile_rows = each = HALF_ROWS;
        a.w_rows /= 2;
        a.half_gap = (a.w_rows - HALF_ROWS) * a.row_bytes;
    }
    if (p->to.sink == SINK_ROPE) {
        a.rope = *p->to.rope;
        each = TILE_ROWS;
        if (a.rope.turned && !a.rope.interleaved) {
            a.tile_rows = HALF_ROWS;
            a.half_gap = (a.rope.dim / 2 - HALF_ROWS) * a.row_bytes;
            a.head_tiles = a.rope.dim / TILE_ROWS;
        }
    }
    a.groups = (x_rows + 8 * NT - 1) / (8 * NT);
    a.units = (p->w.cols + C::COLS - 1) / C::COLS;
    a.units_up = (a.units + STREAM_WARPS - 1) / STREAM_WARPS * STREAM_WARPS;
    a.ids = experts.ids;
    a.by = experts.by;
    a.expert_bytes = a.row_bytes * p->w.rows;
    a.share = experts.share;
    uint64_t tiles = (uint64_t)((a.w_rows + each - 1) / each) * a.groups;
    uint32_t most = c->sms * BLOCKS;
    cuda_note(
        c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    cuda_launch(c, kernel, dim3(tiles < most ? (uint32_t)tiles : most, experts.ids ? p->rows : 1),
                STREAM_WARPS * WARP, shared, a);
}

/* ---- bfloat16 ----------------------------------------------------------------------------------
 */

/* Eight columns of x from col on (and 4 at two places), zeros where the group has no such row. */
template <class C> FN uint4 x_8(const uint8_t *x, uint32_t n, uint32_t col, uint32_t rows)
{
    return n < rows ? *(const uint4 *)(x + n * x_stride<C>() + col * 2) : uint4{0, 0, 0, 0};
}

template <class C> FN uint2 x_4(const uint8_t *x, uint32_t n, uint32_t col, uint32_t rows)
{
    return n < rows ? *(const uint2 *)(x + n * x_stride<C>() + col * 2) : uint2{0, 0};
}

template <uint32_t UNIT> struct bf16_stream {
    enum : uint32_t {
        COLS = UNIT,
        BYTES = 2 * UNIT,
        CHUNKS = BYTES / 16,
        STRIDE = BYTES,
        X_PAD = 64,
        LONE = 0,   /* no way of its own for a lone row */
        SCALES = 0, /* none but in the units */
    };
    /* Two rows' 64 bytes are in different banks. */
    FN uint32_t place_of(uint32_t r, uint32_t chunk)
    {
        return chunk ^ (r & 1) << 2;
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, uint32_t rows,
                       uint32_t unit, uint32_t lane)
    {
        (void)unit;
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *mine = w + g * STRIDE;
        float other[NT][4] = {}; /* two chains of products are done sooner than one */
#pragma unroll
        for (uint32_t k = 0; k < UNIT / 32; k++) {
            uint32_t chunk = place_of(g, k * 4 + t) * 16;
            uint4 low = *(const uint4 *)(mine + chunk);
            uint4 high = *(const uint4 *)(mine + 8 * STRIDE + chunk);
#pragma unroll
            for (uint32_t n = 0; n < NT; n++) {
                uint4 b = x_8<bf16_stream>(x, n * 8 + g, k * 32 + t * 8, rows);
                mma(acc[n], low.x, high.x, low.y, high.y, b.x, b.y);
                mma(other[n], low.z, high.z, low.w, high.w, b.z, b.w);
            }
        }
#pragma unroll
        for (uint32_t n = 0; n < NT; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                acc[n][i] += other[n][i];
    }
};

#endif
