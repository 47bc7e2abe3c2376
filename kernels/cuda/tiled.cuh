/*
 * tiled.cuh - products of 2 to some hundred rows with quantized weights
 *
 * A block has 128 rows of the weights, 16 a warp, and goes through their columns, or through a part
 * of them, unit by unit; its warps share the rows of x, of which each unit's part is copied once
 * for all of them, and a warp decodes its weights once for all rows of x (tiled_types.cuh).  Warp w
 * makes the sums of x of group w of a unit for all warps, a unit ahead.  The blocks of a cluster
 * share the columns of a tile and add their sums through each other's shared memory.  Groups of
 * rows that chose an expert, tiled_groups_kernel(), are done the same way.
 *
 * Order of summation: units in ascending order, then the cluster's blocks in theirs; how many these
 * are depends on the weights' shape and the number of rows, up to a power of two.
 */
#ifndef MP_KERNELS_CUDA_TILED_CUH
#define MP_KERNELS_CUDA_TILED_CUH

#include <cooperative_groups.h>

#include "kernels/cuda/lone.cuh"
#include "kernels/cuda/tiled_types.cuh"

/* Shared memory of a block, and of one of two of a multiprocessor's, beside what is fixed. */
#define TILED_SHARED_MAX (220u << 10)
#define TILED_SHARED_TWO (112u << 10)

#define TILED_ROWS   (STREAM_WARPS * TILE_ROWS)
#define TILED_STRIDE (TILED_ROWS + 4u) /* of a row's sums */

/* ---- the kernel --------------------------------------------------------------------------------
 */

template <class C> static __host__ __device__ constexpr uint32_t warp_stage(void)
{
    return TILE_ROWS * (C::STRIDE + C::SIDE);
}

/* What a lane copies of each unit: where it lies from the unit's beginning in the tile's first row
 * on, and where it goes. */
template <class C> struct copies {
    enum : uint32_t { COUNT = (TILE_ROWS * C::CHUNKS + WARP - 1) / WARP };
    uint32_t from[COUNT], to[COUNT];
};

template <class C> FN void plan_copies(struct copies<C> &plan, const lone_args &a, uint32_t lane)
{
#pragma unroll
    for (uint32_t i = 0; i < copies<C>::COUNT; i++) {
        uint32_t at16 = i * WARP + lane, r = at16 / C::CHUNKS, chunk = at16 % C::CHUNKS;
        plan.from[i] = (uint32_t)(r * a.row_bytes + (r >= HALF_ROWS ? a.half_gap : 0)) + chunk * 16;
        plan.to[i] = r * C::STRIDE + C::place_of(r, chunk) * 16;
    }
}

/* Where a warp is. */
struct tile_place {
    uint32_t tile, unit;
    const uint8_t *data; /* the unit's beginning in the tile's first row */
};

FN void tile_enter(struct tile_place &at, const lone_args &a, uint32_t first, uint32_t bytes)
{
    at.unit = first;
    at.data = a.data + (uint64_t)at.tile * a.tile_rows * a.row_bytes + first * bytes;
}

FN void copy_async8(void *to, const void *from, bool there)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(at), "l"(from),
                 "r"(there ? 8 : 0)
                 : "memory");
}

/* A unit's end may be past its row's, a tile's past the last row: zeros, or nothing that counts. */
template <class C>
FN void tile_fill(uint8_t *stage, const lone_args &a, const struct copies<C> &plan,
                  const struct tile_place &at, uint32_t lane)
{
    constexpr uint32_t ALL = TILE_ROWS * C::CHUNKS;
    if (at.tile >= a.tiles)
        return;
    uint32_t begin = at.unit * C::BYTES, skew = C::BYTES % 16 ? begin % 16 : 0;
    uint32_t left = (uint32_t)a.row_bytes - (begin - skew);
    uint32_t rows = a.w_rows - at.tile * a.tile_rows;
    const uint8_t *from = at.data - skew;
    if (left >= C::CHUNKS * 16 && rows >= a.tile_rows) {
#pragma unroll
        for (uint32_t i = 0; i < copies<C>::COUNT; i++)
            if ((i + 1) * WARP <= ALL || i * WARP + lane < ALL)
                copy_async(stage + plan.to[i], from + plan.from[i], true);
    } else {
#pragma unroll 1
        for (uint32_t i = lane; i < ALL; i += WARP) {
            uint32_t r = i / C::CHUNKS, chunk = i % C::CHUNKS;
            bool second = r >= HALF_ROWS;
            bool there = chunk * 16 < left && (a.half_gap ? r % HALF_ROWS : r) < rows;
            const uint8_t *p = from + r * a.row_bytes + (second ? a.half_gap : 0) + chunk * 16;
            copy_async(stage + r * C::STRIDE + C::place_of(r, chunk) * 16, there ? p : a.data,
                       there);
        }
    }
    if (C::SIDE != 0 && lane < TILE_ROWS) {
        bool there = (a.half_gap ? lane % HALF_ROWS : lane) < rows;
        const uint8_t *row = at.data - begin + lane * a.row_bytes;
        copy_async8(stage + TILE_ROWS * C::STRIDE + lane * 8,
                    there ? row + (lane >= HALF_ROWS ? a.half_gap : 0) + a.scales_at + at.unit * 8
                          : a.data,
                    there);
    }
}

struct tiled_args {
    struct lone_args all;
    const struct expert_groups *by; /* of chosen experts', else NULL */
    const uint32_t *list;           /* of a group: who its rows are */
    uint32_t rows, tiles;
    uint32_t splits, split_units; /* the cluster's blocks, and what each of them has */
};

template <class C, uint32_t NT> struct tiled_shared {
    enum : uint32_t {
        X_AT = STREAM_WARPS * TILE_ROWS * (C::STRIDE + C::SIDE),
        STAGE = X_AT + NT * 8 * (2 * UNIT_COLS + C::X_PAD),
        SUMS = C::OFFSETS ? 2 * NT * 256 : 0, /* of x */
        ENDS = NT * 8 * TILED_STRIDE * 4,
    };
};

/* from: the rows that a warp copies, that of its first and each eighth after it. */
template <class C, uint32_t NT>
FN void tiled_fill_x(uint8_t *x, const tiled_args &a, const uint32_t (&from)[NT], uint32_t unit,
                     uint32_t lane, uint32_t warp)
{
    uint32_t col = unit * UNIT_COLS + lane * 8;

#pragma unroll
    for (uint32_t i = 0; i < NT; i++) {
        bool there = i * 8 + warp < a.rows && col < a.all.cols;
        copy_async(x + (i * 8 + warp) * x_stride<C>() + lane * 16,
                   there ? a.all.x + (size_t)from[i] * a.all.cols + col : a.all.x, there);
    }
}

FN void tiled_scales(float *scales, const tiled_args &a, uint32_t lane, uint32_t warp)
{
    for (uint32_t r = warp; r < a.rows; r += STREAM_WARPS) {
        float rms = row_rms(a.all.from, a.all.from.squares + (size_t)r * a.all.from.parts, 1,
                            a.all.cols, lane);
        if (lane == 0)
            scales[r] = rms;
    }
}

FN void cluster_barrier(uint32_t splits)
{
#if __CUDA_ARCH__ >= 900
    if (splits > 1) {
        cooperative_groups::this_cluster().sync();
        return;
    }
#endif
    (void)splits;
    __syncthreads();
}

/* Element `at` of that block's sums. */
FN float of_block(const float *ends, uint32_t at, uint32_t block)
{
#if __CUDA_ARCH__ >= 900
    return cooperative_groups::this_cluster().map_shared_rank(ends, block)[at];
#else
    (void)block;
    return ends[at];
#endif
}

FN float tiled_joined(const float *ends, const tiled_args &a, uint32_t at)
{
    float sum = 0;

    if (a.splits == 1)
        return ends[at];
    for (uint32_t b = 0; b < a.splits; b++)
        sum += of_block(ends, at, b);
    return sum;
}

/* Of row r of x and row j of the weights; all lanes of a warp. */
FN void tiled_store(const tiled_args &a, float sum, float up, uint32_t r, uint32_t j, bool there)
{
    const struct product_out &to = a.all.to;
    size_t at = (size_t)r * to.stride + j;

    if (to.sink == SINK_GLU) {
        if (there)
            operand_store((__nv_bfloat16 *)to.out + at, activate(sum, to.activation) * up);
    } else if (to.sink == SINK_NORM) {
        float v = 0;
        if (there) {
            v = ((float *)to.out)[at] + to.scale * sum;
            ((float *)to.out)[at] = v;
            operand_store(to.normed + at, v * to.norm[j]);
        }
        float squares = v * v;
#pragma unroll
        for (int lanes = 1; lanes < (int)SQUARES; lanes *= 2)
            squares += __shfl_xor_sync(ALL_LANES, squares, lanes);
        if (there && j % SQUARES == 0)
            to.squares[(size_t)r * (a.all.w_rows / SQUARES) + j / SQUARES] = squares;
    } else if (there) {
        product_store<__nv_bfloat16>(to, r, j, sum);
    }
}

/* A block of the cluster stores some of the tile's rows of the weights. */
FN void tiled_end(const float *ends, const float *scales, const tiled_args &a, uint32_t tile0,
                  uint32_t part, uint32_t first)
{
    uint32_t mine = STREAM_WARPS / a.splits, wide = mine * a.all.tile_rows, all = wide * a.rows;

    for (uint32_t e = threadIdx.x; e / WARP * WARP < all; e += STREAM_WARPS * WARP) {
        uint32_t r = e / wide, tile = part * mine + e % wide / a.all.tile_rows;
        uint32_t row = e % a.all.tile_rows, j = (tile0 + tile) * a.all.tile_rows + row;
        bool there = e < all && j < a.all.w_rows;
        float sum = 0, up = 0;
        if (there) {
            float scale = a.all.from.x ? scales[r] : 1;
            uint32_t at = r * TILED_STRIDE + tile * TILE_ROWS + row;
            sum = tiled_joined(ends, a, at) * scale;
            if (a.all.to.sink == SINK_GLU)
                up = tiled_joined(ends, a, at + HALF_ROWS) * scale;
        }
        tiled_store(a, sum, up, a.list && e < all ? a.list[r] : first + r, j, there);
    }
}

/* Where a block works: on a tile, in a part of the columns, with rows of x from `first` on. */
struct tiled_job {
    uint32_t tile0, part, first;
};

template <class C, uint32_t NT, uint32_t STAGES>
FN void tiled_run(uint8_t *shared, float *scales, const tiled_args &a, const tiled_job &job)
{
    typedef tiled_shared<C, NT> S;
    constexpr uint32_t AHEAD = STAGES - 1; /* units that are on their way beside the one at hand */
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const uint32_t begin = job.part * a.split_units;
    const uint32_t end = min(a.all.units, begin + a.split_units);
    const uint32_t count = end > begin ? end - begin : 0;
    uint8_t *sums = shared + STAGES * S::STAGE;
    struct copies<C> plan;
    struct tile_place next;
    uint32_t from[NT];
    float acc[NT][4] = {};

    plan_copies<C>(plan, a.all, lane);
    next.tile = job.tile0 + warp;
    tile_enter(next, a.all, begin, C::BYTES);
#pragma unroll
    for (uint32_t i = 0; i < NT; i++) {
        from[i] = i * 8 + warp;
        if (a.list)
            from[i] = from[i] < a.rows ? a.list[from[i]] / a.all.share : 0;
    }
    auto fill_weights = [&](uint32_t u, uint32_t slot) {
        if (u < count)
            tile_fill<C>(shared + slot * S::STAGE + warp * warp_stage<C>(), a.all, plan, next,
                         lane);
        next.unit++;
        next.data += C::BYTES;
    };
    auto fill_x = [&](uint32_t u, uint32_t slot) {
        if (u < count)
            tiled_fill_x<C, NT>(shared + slot * S::STAGE + S::X_AT, a, from, begin + u, lane, warp);
        commit();
    };
    auto sum_x = [&](uint32_t u, uint32_t slot) {
        if (C::OFFSETS && u < count)
            sum_group<C, NT>(sums + u % 2 * NT * 256, shared + slot * S::STAGE + S::X_AT, warp,
                             lane);
    };
#pragma unroll 1
    for (uint32_t s = 0; s < AHEAD; s++)
        fill_weights(s, s);
    await_kernels();
#pragma unroll 1
    for (uint32_t s = 0; s < AHEAD; s++)
        fill_x(s, s);
    if (a.all.from.x)
        tiled_scales(scales, a, lane, warp);
    if (C::OFFSETS) {
        await_copies<AHEAD - 1>();
        __syncthreads();
        sum_x(0, 0);
    }
    uint32_t slot = 0, filled = AHEAD;
    for (uint32_t u = 0; u < count; u++) {
        uint32_t after = slot + 1 == STAGES ? 0 : slot + 1;
        const uint8_t *stage = shared + slot * S::STAGE;
        await_copies<(C::OFFSETS ? AHEAD - 2 : AHEAD - 1)>();
        __syncthreads();
        fill_weights(u + AHEAD, filled);
        fill_x(u + AHEAD, filled);
        filled = filled + 1 == STAGES ? 0 : filled + 1;
        sum_x(u + 1, after);
        C::template accumulate<NT>(acc, stage + warp * warp_stage<C>(), stage + S::X_AT,
                                   sums + u % 2 * NT * 256, begin + u, lane);
        slot = after;
    }
    await_copies<0>();
    __syncthreads();
    float *ends = (float *)shared;
#pragma unroll
    for (uint32_t n = 0; n < NT; n++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            ends[(n * 8 + lane % 4 * 2 + i % 2) * TILED_STRIDE + warp * TILE_ROWS + lane / 4 +
                 i / 2 * 8] = acc[n][i];
    cluster_barrier(a.splits);
    tiled_end(ends, scales, a, job.tile0, job.part, job.first);
    cluster_barrier(a.splits);
}

template <class C, uint32_t NT, uint32_t STAGES, uint32_t BLOCKS>
static __global__ void __launch_bounds__(STREAM_WARPS *WARP, BLOCKS)
    tiled_kernel(const __grid_constant__ tiled_args given)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float scales[FUSED_ROWS_MAX];
    tiled_args a = given;
    tiled_job job = {blockIdx.x / a.splits * STREAM_WARPS, blockIdx.x % a.splits,
                     blockIdx.y * NT * 8};

    a.all.x += (size_t)job.first * a.all.cols;
    a.rows = min(a.rows - job.first, NT * 8);
    tiled_run<C, NT, STAGES>(shared, scales, a, job);
}

/* All tiles of all groups, by as many blocks as there is room for. */
template <class C, uint32_t NT, uint32_t STAGES, uint32_t BLOCKS>
static __global__ void __launch_bounds__(STREAM_WARPS *WARP, BLOCKS)
    tiled_groups_kernel(const __grid_constant__ tiled_args given)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float scales[FUSED_ROWS_MAX];

    await_kernels();
    uint32_t jobs = given.by->count * given.tiles;
    for (uint32_t i = blockIdx.x; i < jobs; i += gridDim.x) {
        struct expert_group group = given.by->groups[i / given.tiles];
        tiled_args a = given;
        a.all.data += group.expert * a.all.expert_bytes;
        a.list = given.by->rows + group.begin;
        a.rows = group.count;
        tiled_run<C, NT, STAGES>(shared, scales, a, {i % given.tiles * STREAM_WARPS, 0, 0});
    }
}

/* Into how many parts the columns go: what leaves the multiprocessor that has the most to do the
 * least, if a block costs two units more than it has. */
static uint32_t tiled_splits(uint32_t tiles, uint32_t units, uint32_t blocks)
{
    uint32_t best = 1;
    uint64_t least = UINT64_MAX;

    for (uint32_t splits = 1; splits <= STREAM_WARPS && splits <= units; splits *= 2) {
        uint64_t rounds = ((uint64_t)tiles * splits + blocks - 1) / blocks;
        uint64_t work = rounds * ((units + splits - 1) / splits + 2);
        if (work < least) {
            least = work;
            best = splits;
        }
    }
    return best;
}

/* As many stages as blocks of a multiprocessor's have room for. */
template <class C, uint32_t NT> static constexpr uint32_t tiled_stages(uint32_t blocks)
{
    typedef tiled_shared<C, NT> S;
    uint32_t fit = ((blocks > 1 ? TILED_SHARED_TWO : TILED_SHARED_MAX) - S::SUMS) / S::STAGE;

    return fit < 5 ? fit : 5;
}

/* What a kernel for these is built for. */
template <class C, uint32_t NT> struct tiled_build {
    typedef tiled_shared<C, NT> S;
    enum : uint32_t {
        LEAST = C::OFFSETS ? 3 : 2, /* stages; sums of x are made a unit ahead */
        BLOCKS = NT <= 4 && tiled_stages<C, NT>(2) >= LEAST ? 2 : 1,
        STAGES = tiled_stages<C, NT>(BLOCKS),
        RING = STAGES * S::STAGE + S::SUMS,
        SHARED = (uint32_t)RING > (uint32_t)S::ENDS ? (uint32_t)RING : (uint32_t)S::ENDS,
    };
    static_assert((uint32_t)STAGES >= (uint32_t)LEAST, "the stages have room");
};

/* In clusters of `splits` blocks. */
static void tiled_start(struct cuda_device *c, void (*kernel)(const tiled_args), dim3 grid,
                        uint32_t shared, const tiled_args &a)
{
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};

    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = a.splits;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    config.gridDim = grid;
    config.blockDim = dim3(STREAM_WARPS * WARP);
    config.dynamicSmemBytes = shared;
    config.stream = c->stream;
    config.attrs = attributes;
    config.numAttrs = !c->overlap ? 0 : a.splits > 1 ? 2 : 1;
    cuda_note(
        c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    cuda_note(c, cudaLaunchKernelEx(&config, kernel, a));
}

template <class C, uint32_t NT>
static bool tiled_launch(struct cuda_device *c, const struct product *p)
{
    typedef tiled_build<C, NT> B;
    struct tiled_args a = {};

    if (!lone_args_of<C>(&a.all, p) || !shared_fits(c, B::SHARED))
        return false;
    a.rows = p->rows;
    a.tiles = (a.all.tiles + STREAM_WARPS - 1) / STREAM_WARPS;
    a.splits = c->overlap ? tiled_splits(a.tiles, a.all.units, c->sms * B::BLOCKS) : 1;
    a.split_units = (a.all.units + a.splits - 1) / a.splits;
    tiled_start(c, tiled_kernel<C, NT, B::STAGES, B::BLOCKS>,
                dim3(a.tiles * a.splits, (p->rows + NT * 8 - 1) / (NT * 8)), B::SHARED, a);
    return true;
}

template <class C, uint32_t NT>
static bool tiled_launch_groups(struct cuda_device *c, const struct product *p,
                                const struct expert_groups *by, uint32_t share)
{
    typedef tiled_build<C, NT> B;
    struct tiled_args a = {};

    if (!lone_args_of<C>(&a.all, p) || !shared_fits(c, B::SHARED))
        return false;
    a.all.share = share;
    a.by = by;
    a.tiles = (a.all.tiles + STREAM_WARPS - 1) / STREAM_WARPS;
    a.splits = 1;
    a.split_units = a.all.units;
    tiled_start(c, tiled_groups_kernel<C, NT, B::STAGES, B::BLOCKS>, dim3(c->sms * B::BLOCKS),
                B::SHARED, a);
    return true;
}

#endif
