/*
 * alike.cu - products of a deterministic device: the same bits for any number of rows
 *
 * Few rows: stream.cuh's kernel, without the way of a lone row, which sums otherwise.  Many: large
 * tiles, in the same order.  A block takes 128 rows of the weights (64 where there are few), 16 a
 * warp, and 64 rows of x, which all its warps read.  Where stream.cuh's warps share a row's units,
 * here one warp has all of them: those that would be the first warp's, in ascending order, then the
 * second's, and adds up the warps' sums as they were joined there.  A unit's products are the
 * codec's own.
 */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/stream_quant.cuh"

/*
 * A block of large tiles: warps along the weights, 16 rows each; warps along x, 8 * NT rows each.
 */
template <uint32_t DOWN_, uint32_t ACROSS_, uint32_t NT_> struct wide {
    static constexpr uint32_t DOWN = DOWN_, ACROSS = ACROSS_, NT = NT_;
    static constexpr uint32_t WARPS = DOWN * ACROSS, ROWS = 8 * NT * ACROSS;
};

/* Bytes of a stage: rows of the weights, then of x. */
template <class C, class W> static __host__ __device__ constexpr uint32_t wide_bytes(void)
{
    return W::DOWN * x_begin<C>() + W::ROWS * x_stride<C>();
}

/* So that GPUs with 164 KiB a block have room. */
template <class C, class W> static __host__ __device__ constexpr uint32_t wide_stages(void)
{
    constexpr uint32_t FIT = 160 * 1024 / wide_bytes<C, W>();
    return FIT >= 4 ? 4 : FIT >= 3 ? 3 : 2;
}

/* The unit behind this one; units: there is none. */
FN uint32_t following(uint32_t unit, uint32_t units)
{
    uint32_t next = unit + STREAM_WARPS;

    if (next < units)
        return next;
    next = unit % STREAM_WARPS + 1;
    return next < min(STREAM_WARPS, units) ? next : units;
}

/* The block's rows of x; zeros past a row's end. */
template <class C, class W>
FN void fill_wide_x(uint8_t *to, const stream_args &a, const struct place &at)
{
    constexpr uint32_t CHUNKS = C::COLS / 8, ROWS = WARP / CHUNKS;
    uint32_t lane = threadIdx.x % WARP, chunk = lane % CHUNKS, col = at.unit * C::COLS + chunk * 8;
    bool there = col < a.cols;

    for (uint32_t r = threadIdx.x / WARP * ROWS + lane / CHUNKS; r < at.count; r += W::WARPS * ROWS)
        copy_async(to + r * x_stride<C>() + chunk * 16,
                   there ? a.x + (size_t)(at.begin + r) * a.cols + col : a.x, there);
}

/* A stage of at.unit, and on to the next. */
template <class C, class W>
FN void fill_wide(uint8_t *stage, const stream_args &a, struct place &at)
{
    uint32_t warp = threadIdx.x / WARP;

    if (at.unit >= a.units)
        return;
    if (warp < W::DOWN)
        fill_weights<C>(stage + warp * x_begin<C>(), a, at);
    fill_wide_x<C, W>(stage + W::DOWN * x_begin<C>(), a, at);
    at.unit = following(at.unit, a.units);
}

/* first: the warp's first row of x in the block's. */
template <uint32_t NT>
FN void store_wide(const stream_args &a, const struct place &at, uint32_t first,
                   const float (&sums)[NT][4])
{
    uint32_t lane = threadIdx.x % WARP;

#pragma unroll
    for (uint32_t n = 0; n < NT; n++) {
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t j = at.row0 + lane / 4 + i / 2 * 8, r = first + n * 8 + lane % 4 * 2 + i % 2;
            if (j < a.w_rows && r < at.count)
                product_store<__nv_bfloat16>(a.to, at.begin + r, j, sums[n][i]);
        }
    }
}

template <class C, class W>
static __global__ void __launch_bounds__(W::WARPS *WARP, 1)
    wide_kernel(const __grid_constant__ stream_args a)
{
    constexpr uint32_t STAGES = wide_stages<C, W>(), NT = W::NT;
    extern __shared__ __align__(128) uint8_t shared[];
    uint32_t lane = threadIdx.x % WARP, down = threadIdx.x / WARP % W::DOWN, slot = 0;
    uint32_t first = threadIdx.x / WARP / W::DOWN * 8 * NT;
    float acc[NT][4] = {}, sums[NT][4] = {};
    struct place at = {};

    at.tile = blockIdx.x / a.groups;
    at.begin = blockIdx.x % a.groups * W::ROWS;
    at.count = min(a.rows - at.begin, W::ROWS);
    at.row0 = (at.tile * W::DOWN + down) * TILE_ROWS;
    at.data = a.data + at.row0 * a.row_bytes;
    await_kernels();
    for (uint32_t s = 0; s < STAGES - 1; s++) {
        fill_wide<C, W>(shared + s * wide_bytes<C, W>(), a, at);
        commit();
    }
    for (uint32_t unit = 0, after; unit < a.units; unit = after) {
        uint8_t *stage = shared + slot * wide_bytes<C, W>();
        await_copies<(int)STAGES - 2>();
        __syncthreads();
        fill_wide<C, W>(shared + (slot == 0 ? STAGES - 1 : slot - 1) * wide_bytes<C, W>(), a, at);
        commit();
        if (at.row0 < a.w_rows && first < at.count)
            C::template accumulate<NT>(acc, stage + down * x_begin<C>(),
                                       stage + W::DOWN * x_begin<C>() + first * x_stride<C>(),
                                       at.count - first, unit, lane);
        after = following(unit, a.units);
        if (after >= a.units || after % STREAM_WARPS != unit % STREAM_WARPS) {
#pragma unroll
            for (uint32_t n = 0; n < NT; n++)
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) {
                    sums[n][i] += acc[n][i];
                    acc[n][i] = 0;
                }
        }
        slot = slot + 1 == STAGES ? 0 : slot + 1;
    }
    store_wide<NT>(a, at, first, sums);
}

template <class C, class W> static bool wide_launch(struct cuda_device *c, const struct product *p)
{
    constexpr uint32_t SHARED = wide_stages<C, W>() * wide_bytes<C, W>();
    struct stream_args a = {};

    if (SHARED > c->attention->shared_max)
        return false;
    a.to = p->to;
    a.data = (const uint8_t *)p->w.data;
    a.x = (const __nv_bfloat16 *)p->x;
    a.row_bytes = dtype_row_bytes(p->w.dtype, p->w.cols);
    a.w_rows = p->w.rows;
    a.cols = p->w.cols;
    a.rows = p->rows;
    a.scales_at = C::SCALES ? (uint32_t)f8_scales_at(p->w.cols) : 0;
    a.tile_rows = TILE_ROWS;
    a.groups = (p->rows + W::ROWS - 1) / W::ROWS;
    a.units = (p->w.cols + C::COLS - 1) / C::COLS;
    uint32_t tiles = (p->w.rows + W::DOWN * TILE_ROWS - 1) / (W::DOWN * TILE_ROWS);
    cuda_note(c, cudaFuncSetAttribute(wide_kernel<C, W>,
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, (int)SHARED));
    cuda_launch(c, wide_kernel<C, W>, tiles * a.groups, W::WARPS * WARP, SHARED, a);
    return true;
}

/* The larger blocks where they are as many as multiprocessors. */
template <class C> static bool by_size(struct cuda_device *c, const struct product *p)
{
    uint64_t blocks = (p->w.rows + 127ull) / 128 * ((p->rows + 63) / 64);

    return blocks < c->sms ? wide_launch<C, wide<4, 1, 8>>(c, p)
                           : wide_launch<C, wide<8, 1, 8>>(c, p);
}

template <class C, uint32_t STAGES>
static void by_rows(struct cuda_device *c, const struct product *p,
                    const struct stream_experts &experts)
{
    constexpr uint32_t FEWER = C::COLS > 64 ? 2 : STAGES;

    if (experts.by)
        stream_launch<C, 2, FEWER, 1, ROWS_GROUPED>(c, p, experts);
    else if (experts.ids || p->rows == 1)
        stream_launch<C, 1, STAGES, 2>(c, p, experts);
    else if (p->rows <= 8)
        stream_launch<C, 1, FEWER, 2>(c, p, experts);
    else
        stream_launch<C, 2, FEWER, 1>(c, p, experts);
}

/* experts NULL: large tiles. */
template <class C, uint32_t STAGES>
static bool by_way(struct cuda_device *c, const struct product *p,
                   const struct stream_experts *experts)
{
    if (!experts)
        return by_size<C>(c, p);
    by_rows<C, STAGES>(c, p, *experts);
    return true;
}

static bool by_type(struct cuda_device *c, const struct product *p,
                    const struct stream_experts *experts)
{
    uint64_t row_bytes = dtype_row_bytes(p->w.dtype, p->w.cols);

    /* All rows begin at 16 bytes. */
    if (!aligned16(p->w.data, row_bytes) || !aligned16(p->x, 2 * (uint64_t)p->w.cols))
        return false;
    switch (p->w.dtype) {
    case DTYPE_BF16:
        return by_way<bf16_stream<128>, 3>(c, p, experts);
    case DTYPE_F16:
        return by_way<f16_stream, 4>(c, p, experts);
    case DTYPE_Q4_0:
        return by_way<nibble_stream<false, false>, 3>(c, p, experts);
    case DTYPE_Q4_1:
        return by_way<nibble_stream<true, false>, 3>(c, p, experts);
    case DTYPE_Q5_0:
        return by_way<nibble_stream<false, true>, 3>(c, p, experts);
    case DTYPE_Q5_1:
        return by_way<nibble_stream<true, true>, 3>(c, p, experts);
    case DTYPE_Q8_0:
        return by_way<q8_0_stream, 2>(c, p, experts);
    case DTYPE_Q4_K:
        return by_way<k_stream<false>, 3>(c, p, experts);
    case DTYPE_Q5_K:
        return by_way<k_stream<true>, 3>(c, p, experts);
    case DTYPE_Q6_K:
        return by_way<q6_k_stream, 2>(c, p, experts);
    case DTYPE_F8:
        return by_way<f8_stream, 4>(c, p, experts);
    default:
        return false;
    }
}

bool product_alike(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                   const struct expert_groups *by, uint32_t share)
{
    struct stream_experts experts = {ids, by, share};

    return by_type(c, p, &experts);
}

bool product_wide(struct cuda_device *c, const struct product *p)
{
    return by_type(c, p, NULL);
}
