/*
 * lone.cuh - the product of a lone row, whose weights are all that there is to read
 *
 * Instructions are what it is short of, so the row of x is prepared once a block, in shared memory,
 * as tensor cores' fragments want it (lone_types.cuh), and one warp of a block does nothing but
 * copy weights in bulk, ahead across tiles; the first are on their way before the kernel ahead has
 * ended.  The other warps share the columns of 16 rows of the weights, a tile: a team's warp w has
 * units w, w + team, ...  With fewer units than warps there are several teams.  Order of summation:
 * a lane's groups in ascending order, a row's four lanes, the team's warps in theirs.
 */
#ifndef MP_KERNELS_CUDA_LONE_CUH
#define MP_KERNELS_CUDA_LONE_CUH

#include "kernels/cuda/lone_types.cuh"
#include "kernels/cuda/wgmma.cuh"

#define LONE_HELD 8u /* tiles whose sums wait for each other */

/* Shared memory of a block, and of one of two of a multiprocessor's, beside what is fixed. */
#define SHARED_FIXED    (6u << 10)
#define LONE_SHARED_MAX (200u << 10)
#define LONE_SHARED_TWO (107u << 10)

struct lone_args {
    struct product_out to;
    struct unscaled from;
    const uint8_t *data;
    const __nv_bfloat16 *x;
    const uint32_t *ids; /* NULL: no experts; else one a row of the grid */
    uint64_t row_bytes, expert_bytes, half_gap;
    uint32_t w_rows, cols;
    uint32_t tile_rows, tiles, rounds;
    uint32_t units, team;
    uint32_t scales_at;  /* in a row whose scales are behind its codes */
    uint32_t code_bytes; /* of a row, without those */
    uint32_t share;
};

/* ---- the kernel --------------------------------------------------------------------------------
 */

/* A stage is a unit for each warp: of each team's tile 16 rows, a team's units of a row behind each
 * other, as they are stored; `stride` has the remainder by 128 that STRIDE has, which spreads the
 * rows over the banks.  Scales that are beside the weights come behind all rows. */
struct lone_stage {
    uint32_t rows, run, stride, side, bytes;
};

template <class C> static __host__ __device__ struct lone_stage lone_stage_of(uint32_t team)
{
    struct lone_stage s;

    s.rows = STREAM_WARPS / team * TILE_ROWS;
    s.run = team * C::BYTES;
    s.stride = (s.run + 127 - C::STRIDE % 128) / 128 * 128 + C::STRIDE % 128;
    s.side = (team * C::SIDE + 15) / 16 * 16;
    s.bytes = (s.rows * (s.stride + s.side) + 127) / 128 * 128;
    return s;
}

FN uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Of 16 bytes each; the barrier counts them. */
FN void copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

FN void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

/* All warps but the one that copies. */
FN void lone_sync(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"(STREAM_WARPS * WARP) : "memory");
}

/* Row r of a team's tile is there. */
FN bool lone_row_there(const lone_args &a, uint32_t tile, uint32_t r)
{
    return tile < a.tiles && tile * a.tile_rows + (a.half_gap ? r % HALF_ROWS : r) < a.w_rows;
}

/* The stage of units [unit, unit + a.team) of the teams' tiles from tile0 on. */
template <class C>
FN void lone_copy(uint32_t to, const lone_args &a, const struct lone_stage &stage, uint32_t tile0,
                  uint32_t unit, uint32_t barrier, uint32_t lane)
{
    uint32_t begin = unit * C::BYTES, bytes = min(stage.run, a.code_bytes - begin), all = 0;
    uint32_t side_at = a.scales_at + unit * C::SIDE;
    uint32_t side = C::SIDE ? min(stage.side, (uint32_t)a.row_bytes - side_at) : 0;

    for (uint32_t i = lane; i < stage.rows; i += WARP)
        all += lone_row_there(a, tile0 + i / TILE_ROWS, i % TILE_ROWS) ? bytes + side : 0;
    all = __reduce_add_sync(ALL_LANES, all);
    if (lane == 0)
        barrier_expect(barrier, all);
    __syncwarp();
    for (uint32_t i = lane; i < stage.rows; i += WARP) {
        uint32_t tile = tile0 + i / TILE_ROWS, r = i % TILE_ROWS;
        if (!lone_row_there(a, tile, r))
            continue;
        const uint8_t *row = a.data + (uint64_t)(tile * a.tile_rows + r) * a.row_bytes +
                             (r >= HALF_ROWS ? a.half_gap : 0);
        copy_bulk(to + i * stage.stride, row + begin, bytes, barrier);
        if (C::SIDE)
            copy_bulk(to + stage.rows * stage.stride + i * stage.side, row + side_at, side,
                      barrier);
    }
}

/* 1 / rms of a row whose squares' sums are from `squares` on, each `stride` floats behind the last;
 * by one warp, which has many loads under way at once. */
FN float row_rms(const struct unscaled &from, const float *squares, uint32_t stride, uint32_t cols,
                 uint32_t lane)
{
    constexpr uint32_t AHEAD = 16;
    float sum = 0;

    for (uint32_t begin = lane; begin < from.parts; begin += AHEAD * WARP) {
        float v[AHEAD];
#pragma unroll
        for (uint32_t i = 0; i < AHEAD; i++)
            v[i] = begin + i * WARP < from.parts ? squares[(size_t)(begin + i * WARP) * stride] : 0;
#pragma unroll
        for (uint32_t i = 0; i < AHEAD; i++)
            sum += v[i];
    }
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    return 1 / sqrtf(sum / (float)cols + from.eps);
}

/* The team's sums of row r of the tile that was held as `nth`. */
FN float lone_joined(const float *sums, const lone_args &a, uint32_t nth, uint32_t team, uint32_t r)
{
    float sum = 0;

    for (uint32_t w = 0; w < a.team; w++)
        sum += sums[(nth * STREAM_WARPS + team * a.team + w) * TILE_ROWS + r];
    return sum;
}

/* Row j of the weights; all lanes of a warp. */
FN void lone_store(const lone_args &a, float sum, float up, uint32_t j, bool there)
{
    if (a.to.sink == SINK_GLU) {
        if (there)
            operand_store((__nv_bfloat16 *)a.to.out + j, activate(sum, a.to.activation) * up);
    } else if (a.to.sink == SINK_NORM) {
        float v = 0;
        if (there) {
            v = ((float *)a.to.out)[j] + a.to.scale * sum;
            ((float *)a.to.out)[j] = v;
            operand_store(a.to.normed + j, v * a.to.norm[j]);
        }
        float squares = v * v;
#pragma unroll
        for (int lanes = 1; lanes < (int)SQUARES; lanes *= 2)
            squares += __shfl_xor_sync(ALL_LANES, squares, lanes);
        if (there && j % SQUARES == 0)
            a.to.squares[j / SQUARES] = squares;
    } else if (there) {
        product_store<__nv_bfloat16>(a.to, 0, j, sum);
    }
}

/* The block's tiles of rounds [first, first + count). */
FN void lone_flush(const float *sums, const lone_args &a, float scale, uint32_t first,
                   uint32_t count)
{
    uint32_t teams = STREAM_WARPS / a.team, all = count * teams * a.tile_rows;

    for (uint32_t e = threadIdx.x; e / WARP * WARP < all; e += STREAM_WARPS * WARP) {
        uint32_t r = e % a.tile_rows, team = e / a.tile_rows % teams, nth = e / a.tile_rows / teams;
        uint32_t tile = ((first + nth) * gridDim.x + blockIdx.x) * teams + team;
        uint32_t j = tile * a.tile_rows + r;
        bool there = e < all && j < a.w_rows;
        float sum = 0, up = 0;
        if (there) {
            sum = lone_joined(sums, a, nth, team, r) * scale;
            if (a.to.sink == SINK_GLU)
                up = lone_joined(sums, a, nth, team, r + HALF_ROWS) * scale;
        }
        lone_store(a, sum, up, j, there);
    }
}

/* x as C wants it, by all warps that multiply.  It is copied to where it will lie before any of it
 * is prepared: waiting for one unit after the other would take longer than all else. */
template <class C> FN void prepare_x(uint8_t *to, const lone_args &a, uint32_t lane, uint32_t warp)
{
    for (uint32_t u = warp; u < a.units; u += STREAM_WARPS) {
        uint32_t col = u * UNIT_COLS + lane * 8;
        copy_async(to + u * C::X_BYTES + lane * 16, col < a.cols ? a.x + col : a.x, col < a.cols);
    }
    commit();
    await_copies<0>();
    for (uint32_t u = warp; u < a.units; u += STREAM_WARPS) {
        uint4 v = *(const uint4 *)(to + u * C::X_BYTES + lane * 16);
        __syncwarp();
        C::prepare(to + u * C::X_BYTES, v, lane);
    }
}

/* Where the tiles of a round begin. */
FN uint32_t lone_tile(const lone_args &a, uint32_t round)
{
    return (round * gridDim.x + blockIdx.x) * (STREAM_WARPS / a.team);
}

/* The row's scale, as soon as it can be known, which is not before the kernel ahead has ended. */
FN void lone_scale(float *scale, uint32_t ready, const lone_args &a, uint32_t lane)
{
    float rms = 1;

    await_kernels();
    if (a.from.x)
        rms = row_rms(a.from, a.from.squares, 1, a.cols, lane);
    if (lane == 0) {
        *scale = rms;
        barrier_arrive(ready);
    }
}

/* Weights first, into all stages, then the scale, then weights wherever there is room. */
template <class C, uint32_t STAGES>
FN void lone_produce(uint32_t ring, const lone_args &a, const struct lone_stage &stage,
                     uint32_t full, uint32_t empty, float *scale, uint32_t ready, uint32_t lane)
{
    uint32_t slot = 0, phase = 0, left = STAGES;

    for (uint32_t round = 0; round < a.rounds; round++) {
        for (uint32_t unit = 0; unit < a.units; unit += a.team) {
            barrier_wait(empty + slot * 8, phase ^ 1);
            lone_copy<C>(ring + slot * stage.bytes, a, stage, lone_tile(a, round), unit,
                         full + slot * 8, lane);
            slot = slot + 1 == STAGES ? 0 : slot + 1;
            phase ^= slot == 0;
            if (left && --left == 0)
                lone_scale(scale, ready, a, lane);
        }
    }
    if (left)
        lone_scale(scale, ready, a, lane);
}

/* The lane's sums of rows g and g + 8 of the warp's tile. */
template <class C> FN void lone_keep(float *sums, float (&acc)[2], uint32_t lane)
{
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        if (C::QUAD) {
            acc[i] += __shfl_xor_sync(ALL_LANES, acc[i], 1);
            acc[i] += __shfl_xor_sync(ALL_LANES, acc[i], 2);
        }
        if (lane % 4 == 0)
            sums[lane / 4 + 8 * i] = acc[i];
    }
}

/* One warp copies, the others multiply. */
template <class C, uint32_t STAGES>
static __global__ void __launch_bounds__(STREAM_WARPS *WARP + WARP, 2)
    lone_kernel(const __grid_constant__ lone_args given)
{
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float sums[LONE_HELD * STREAM_WARPS * TILE_ROWS];
    __shared__ uint64_t full[STAGES], empty[STAGES], ready;
    __shared__ float scale;
    lone_args a = given;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const struct lone_stage stage = lone_stage_of<C>(a.team);
    uint8_t *x = shared + STAGES * stage.bytes;
    uint32_t slot = 0, phase = 0;

    if (threadIdx.x < STAGES) {
        barrier_init(shared_at(full + threadIdx.x), 1);
        barrier_init(shared_at(empty + threadIdx.x), STREAM_WARPS);
    }
    if (threadIdx.x == 0)
        barrier_init(shared_at(&ready), 1);
    /* What no copy fills must be numbers: x is zero there. */
    if (a.units * C::BYTES > a.code_bytes)
        for (uint32_t i = threadIdx.x; i < STAGES * stage.bytes / 16; i += blockDim.x)
            *(uint4 *)(shared + i * 16) = {0, 0, 0, 0};
    shared_to_products();
    __syncthreads();
    if (a.ids) {
        await_kernels();
        a.data += a.ids[blockIdx.y] * a.expert_bytes;
        a.x += (size_t)(blockIdx.y / a.share) * a.cols;
        a.to.out = (__nv_bfloat16 *)a.to.out + (size_t)blockIdx.y * a.to.stride;
    }
    if (warp == STREAM_WARPS) {
        lone_produce<C, STAGES>(shared_at(shared), a, stage, shared_at(full), shared_at(empty),
                                &scale, shared_at(&ready), lane);
        return;
    }
    const uint32_t member = warp % a.team, team = warp / a.team, run = member * C::BYTES;
    struct lone_unit at = {shared + team * TILE_ROWS * stage.stride + run / 16 * 16,
                           shared + stage.rows * stage.stride + team * TILE_ROWS * stage.side +
                               member * C::SIDE,
                           run % 16, stage.stride, stage.side};
    await_kernels();
    prepare_x<C>(x, a, lane, warp);
    lone_sync();
    for (uint32_t round = 0; round < a.rounds; round++) {
        uint32_t held = round % LONE_HELD;
        bool there = lone_tile(a, round) + team < a.tiles;
        float acc[2] = {0, 0};
        for (uint32_t unit = member; unit < a.units + member; unit += a.team) {
            struct lone_unit now = at;
            now.w += slot * stage.bytes;
            now.side += slot * stage.bytes;
            barrier_wait(shared_at(full + slot), phase);
            if (there && unit < a.units)
                C::accumulate(acc, now, x + unit * C::X_BYTES, lane);
            __syncwarp();
            if (lane == 0)
                barrier_arrive(shared_at(empty + slot));
            slot = slot + 1 == STAGES ? 0 : slot + 1;
            phase ^= slot == 0;
        }
        lone_keep<C>(sums + (held * STREAM_WARPS + warp) * TILE_ROWS, acc, lane);
        if (held + 1 == LONE_HELD || round + 1 == a.rounds) {
            lone_sync();
            barrier_wait(shared_at(&ready), 0);
            lone_flush(sums, a, scale, round - held, held + 1);
            lone_sync();
        }
    }
#endif
}

/* A block of this GPU can have so much shared memory, beside what is fixed. */
static inline bool shared_fits(const struct cuda_device *c, uint64_t bytes)
{
    int most = 0;

    return cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->gpu) ==
               cudaSuccess &&
           bytes + SHARED_FIXED <= (uint64_t)most;
}

/* Warps that share a tile: with more units than they are, a unit each in turn; else all units at
 * once. */
static uint32_t lone_team(uint32_t units)
{
    uint32_t team = 1;

    while (team < units && team < STREAM_WARPS)
        team *= 2;
    return team;
}

/* false: too large for it. */
template <class C> static bool lone_args_of(struct lone_args *a, const struct product *p)
{
    a->to = p->to;
    a->from = p->from;
    a->data = (const uint8_t *)p->w.data;
    a->x = (const __nv_bfloat16 *)p->x;
    a->row_bytes = dtype_row_bytes(p->w.dtype, p->w.cols);
    a->expert_bytes = a->row_bytes * p->w.rows;
    a->w_rows = p->w.rows;
    a->cols = p->w.cols;
    a->tile_rows = TILE_ROWS;
    if (p->to.sink == SINK_GLU) {
        a->tile_rows = HALF_ROWS;
        a->w_rows /= 2;
        a->half_gap = (a->w_rows - HALF_ROWS) * a->row_bytes;
    }
    a->tiles = (a->w_rows + a->tile_rows - 1) / a->tile_rows;
    a->units = (p->w.cols + UNIT_COLS - 1) / UNIT_COLS;
    a->scales_at = C::SIDE != 0 ? (uint32_t)f8_scales_at(p->w.cols) : 0;
    a->code_bytes = C::SIDE != 0 ? a->scales_at : (uint32_t)a->row_bytes;
    return a->half_gap + TILE_ROWS * a->row_bytes <= UINT32_MAX;
}

template <class C, uint32_t STAGES>
static bool lone_launch(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                        uint32_t share)
{
    struct lone_args a = {};
    auto kernel = lone_kernel<C, STAGES>;

    /* Copies in bulk are Hopper's. */
    if (!c->overlap || !lone_args_of<C>(&a, p))
        return false;
    a.ids = ids;
    a.share = share;
    a.team = lone_team(a.units);
    uint64_t shared = STAGES * lone_stage_of<C>(a.team).bytes + (uint64_t)a.units * C::X_BYTES;
    if (shared > LONE_SHARED_MAX || !shared_fits(c, shared))
        return false;
    uint32_t rows = ids ? p->rows : 1, most = shared <= LONE_SHARED_TWO ? 2 * c->sms : c->sms;
    uint32_t teams = STREAM_WARPS / a.team, blocks = (a.tiles + teams - 1) / teams;
    most = most > rows ? most / rows : 1;
    blocks = blocks < most ? blocks : most;
    a.rounds = (a.tiles + blocks * teams - 1) / (blocks * teams);
    cuda_note(
        c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    cuda_launch(c, kernel, dim3(blocks, rows), STREAM_WARPS * WARP + WARP, shared, a);
    return true;
}

#endif
