/*
 * attention_prefill.cu - attention of runs of tokens over pages, by the tensor cores
 *
 * Flash attention (Dao, 2023): a block takes some tokens of one sequence with all query heads that
 * share one key head, packed as rows of a tile, and goes through blocks of keys in ascending order;
 * they begin at multiples of their length.  A row's result follows from its own position and the
 * data before it: what it does not see leaves its sums as they are, bit by bit.  Keys and values
 * come through two stages of asynchronous copies, page by page.
 */
#include <math.h>

#include "kernels/cuda/attention.cuh"

#define WARPS   4u
#define THREADS (WARPS * WARP)

template <uint32_t DIM> struct prefill_shape {
    static constexpr uint32_t TILES = DIM <= 128 ? 2 : 1; /* of 16 rows, of a warp */
    static constexpr uint32_t ROWS = WARPS * TILES * 16;
    static constexpr uint32_t KEYS = DIM <= 128 ? 64 : 32;
    static constexpr uint32_t HALF = KEYS * tile_rows<DIM>::BYTES;
    static constexpr uint32_t QUERY = ROWS * tile_rows<DIM>::BYTES;
    static constexpr uint32_t SHARED = QUERY + 2 * 2 * HALF;
};

/* ---- which tile -------------------------------------------------------------------------------
 */

struct place {
    uint32_t row, pos, table; /* of the tile's first token */
    uint32_t tokens;          /* 0: there is no such tile */
};

FN uint32_t seq_tiles(const struct attn_row &s, uint32_t tokens)
{
    return s.count > 1 ? (s.count + tokens - 1) / tokens : 0;
}

/* Tile number `index` counted from the last, all threads of the block: the longest begin first. */
static __device__ struct place find_tile(const struct attention_args &a, uint32_t index,
                                         uint32_t tokens)
{
    __shared__ uint32_t warp_sums[WARPS];
    __shared__ struct place found;
    uint32_t each = (a.seq_count + THREADS - 1) / THREADS, begin = threadIdx.x * each;
    uint32_t end = min(begin + each, a.seq_count), lane = threadIdx.x % WARP, sum = 0, upto;
    uint32_t total = 0;

    for (uint32_t i = begin; i < end; i++)
        sum += seq_tiles(a.seqs[i], tokens);
    upto = sum;
    for (uint32_t i = 1; i < WARP; i *= 2) {
        uint32_t other = __shfl_up_sync(ALL_LANES, upto, i);
        upto += lane >= i ? other : 0;
    }
    if (lane == WARP - 1)
        warp_sums[threadIdx.x / WARP] = upto;
    if (threadIdx.x == 0)
        found.tokens = 0;
    __syncthreads();
    upto -= sum;
    for (uint32_t i = 0; i < WARPS; i++) {
        upto += i < threadIdx.x / WARP ? warp_sums[i] : 0;
        total += warp_sums[i];
    }
    uint32_t tile = total - 1 - index;
    if (index < total && tile >= upto && tile < upto + sum) {
        uint32_t i = begin;
        for (; tile >= upto + seq_tiles(a.seqs[i], tokens); i++)
            upto += seq_tiles(a.seqs[i], tokens);
        struct attn_row s = a.seqs[i];
        uint32_t first = (tile - upto) * tokens;
        found = {s.first_row + first, s.first_pos + first, s.table, min(tokens, s.count - first)};
    }
    __syncthreads();
    return found;
}

/* ---- copies ------------------------------------------------------------------------------------
 */

/* Queries of the tile: row r is token r / group, head r % group. */
template <uint32_t DIM>
FN void copy_query(uint32_t to, const struct place &at, uint32_t kv_head,
                   const struct attention_args &a)
{
    using rows = tile_rows<DIM>;
    const char *from = (const char *)((const __nv_bfloat16 *)a.qkv + (size_t)at.row * a.qkv_cols +
                                      kv_head * a.group * DIM);

#pragma unroll 4
    for (uint32_t e = threadIdx.x; e < prefill_shape<DIM>::ROWS * rows::CHUNKS; e += THREADS) {
        uint32_t r = e / rows::CHUNKS, chunk = e % rows::CHUNKS;
        uint32_t token = r / a.group, head = r % a.group;
        int there = token < at.tokens;
        copy16(to + rows::at(r, chunk),
               from + (there ? ((size_t)token * a.qkv_cols + head * DIM) * 2 + chunk * 16 : 0),
               there);
    }
}

/* Keys, or values, of a block: pages are of its runs of 16 positions, `offset` where the key head's
 * lie in them; zeros outside of first..last. */
template <uint32_t DIM>
FN void copy_block(uint32_t to, const char *const *pages, uint64_t offset, uint32_t start,
                   uint32_t first, uint32_t last, uint32_t page_tokens)
{
    using rows = tile_rows<DIM>;

#pragma unroll
    for (uint32_t i = 0; i < prefill_shape<DIM>::KEYS * rows::CHUNKS / THREADS; i++) {
        uint32_t e = threadIdx.x + THREADS * i, r = e / rows::CHUNKS, chunk = e % rows::CHUNKS;
        uint32_t pos = start + r;
        copy16(to + rows::at(r, chunk),
               pages[r / 16] + offset + (pos & (page_tokens - 1)) * (DIM * 2) + chunk * 16,
               pos >= first && pos <= last);
    }
}

/* ---- a block of keys ---------------------------------------------------------------------------
 */

/* A warp's rows: lane / 4 and that plus 8 of each of its tiles. */
template <uint32_t DIM> struct state {
    float max[prefill_shape<DIM>::TILES][2], sum[prefill_shape<DIM>::TILES][2];
    float out[prefill_shape<DIM>::TILES][DIM / 8][4];
};

template <uint32_t DIM>
using block_scores = float[prefill_shape<DIM>::TILES][prefill_shape<DIM>::KEYS / 8][4];

template <uint32_t DIM> FN void multiply_keys(block_scores<DIM> &s, uint32_t query, uint32_t keys)
{
    using shape = prefill_shape<DIM>;
    using rows = tile_rows<DIM>;
    uint32_t lane = threadIdx.x % WARP;

#pragma unroll
    for (uint32_t m = 0; m < shape::TILES; m++)
#pragma unroll
        for (uint32_t n = 0; n < shape::KEYS / 8; n++)
#pragma unroll
            for (uint32_t j = 0; j < 4; j++)
                s[m][n][j] = 0;
#pragma unroll
    for (uint32_t k = 0; k < DIM / 16; k++) {
        uint32_t q[shape::TILES][4];
#pragma unroll
        for (uint32_t m = 0; m < shape::TILES; m++)
            load_matrices(q[m], query + rows::at(m * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
        for (uint32_t n = 0; n < shape::KEYS / 16; n++) {
            uint32_t b[4];
            load_matrices(b,
                          keys + rows::at(n * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
#pragma unroll
            for (uint32_t m = 0; m < shape::TILES; m++) {
                multiply(s[m][2 * n], q[m], b[0], b[1]);
                multiply(s[m][2 * n + 1], q[m], b[2], b[3]);
            }
        }
    }
}

template <uint32_t DIM>
FN void multiply_values(struct state<DIM> *p, const block_scores<DIM> &s, uint32_t values)
{
    using shape = prefill_shape<DIM>;
    using rows = tile_rows<DIM>;
    uint32_t lane = threadIdx.x % WARP;

#pragma unroll
    for (uint32_t k = 0; k < shape::KEYS / 16; k++) {
        uint32_t w[shape::TILES][4];
#pragma unroll
        for (uint32_t m = 0; m < shape::TILES; m++)
#pragma unroll
            for (uint32_t j = 0; j < 4; j++)
                w[m][j] =
                    bf16_pair(s[m][2 * k + j / 2][j % 2 * 2], s[m][2 * k + j / 2][j % 2 * 2 + 1]);
#pragma unroll
        for (uint32_t n = 0; n < DIM / 16; n++) {
            uint32_t b[4];
            load_matrices_transposed(b, values + rows::at(k * 16 + lane % 16, n * 2 + lane / 16));
#pragma unroll
            for (uint32_t m = 0; m < shape::TILES; m++) {
                multiply(p->out[m][2 * n], w[m], b[0], b[1]);
                multiply(p->out[m][2 * n + 1], w[m], b[2], b[3]);
            }
        }
    }
}

/* Minus infinity where a row does not see a position: row r of the warp's is of position pos(r). */
template <uint32_t DIM, class F>
FN void mask_scores(block_scores<DIM> &s, uint32_t start, uint32_t window, F pos)
{
    using shape = prefill_shape<DIM>;
    uint32_t lane = threadIdx.x % WARP;

#pragma unroll
    for (uint32_t m = 0; m < shape::TILES; m++) {
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            uint32_t last = pos(m * 16 + lane / 4 + 8 * r);
            uint32_t first = window != 0 && last >= window ? last + 1 - window : 0;
#pragma unroll
            for (uint32_t n = 0; n < shape::KEYS / 8; n++)
#pragma unroll
                for (uint32_t j = 0; j < 2; j++) {
                    uint32_t at = start + n * 8 + lane % 4 * 2 + j;
                    if (at < first || at > last)
                        s[m][n][2 * r + j] = -INFINITY;
                }
        }
    }
}

/* Weights in place of scores, which `by` times are powers of two; what was summed up before is
 * scaled to the new largest score. */
template <uint32_t DIM> FN void weigh(struct state<DIM> *p, block_scores<DIM> &s, float by)
{
    using shape = prefill_shape<DIM>;

#pragma unroll
    for (uint32_t m = 0; m < shape::TILES; m++) {
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            float max = p->max[m][r], sum = 0;
#pragma unroll
            for (uint32_t n = 0; n < shape::KEYS / 8; n++)
                max = fmaxf(max, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
            max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, 1));
            max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, 2));
            /* A row that has seen nothing yet. */
            float base = max == -INFINITY ? 0 : max * by;
            float keep = p->max[m][r] == max ? 1 : power2((p->max[m][r] - max) * by);
            p->max[m][r] = max;
#pragma unroll
            for (uint32_t n = 0; n < shape::KEYS / 8; n++) {
                float x = power2(fmaf(s[m][n][2 * r], by, -base));
                float y = power2(fmaf(s[m][n][2 * r + 1], by, -base));
                s[m][n][2 * r] = x;
                s[m][n][2 * r + 1] = y;
                sum += x + y;
            }
            p->sum[m][r] = fmaf(p->sum[m][r], keep, sum);
#pragma unroll
            for (uint32_t n = 0; n < DIM / 8; n++) {
                p->out[m][n][2 * r] *= keep;
                p->out[m][n][2 * r + 1] *= keep;
            }
        }
    }
}

/* The warp's rows to where its queries were, and from there out. */
template <uint32_t DIM>
FN void put_rows(struct state<DIM> *p, char *query, const struct place &at, uint32_t kv_head,
                 const struct attention_args &a)
{
    using shape = prefill_shape<DIM>;
    using rows = tile_rows<DIM>;
    uint32_t lane = threadIdx.x % WARP, row = threadIdx.x / WARP * shape::TILES * 16;

    __syncwarp();
#pragma unroll
    for (uint32_t m = 0; m < shape::TILES; m++) {
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            float sum = p->sum[m][r];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            float one = 1 / sum;
#pragma unroll
            for (uint32_t n = 0; n < DIM / 8; n++)
                *(uint32_t *)(query + rows::at(m * 16 + r * 8 + lane / 4, n) + lane % 4 * 4) =
                    bf16_pair(p->out[m][n][2 * r] * one, p->out[m][n][2 * r + 1] * one);
        }
    }
    __syncwarp();
    for (uint32_t e = lane; e < shape::TILES * 16 * rows::CHUNKS; e += WARP) {
        uint32_t r = e / rows::CHUNKS, chunk = e % rows::CHUNKS;
        uint32_t token = (row + r) / a.group, head = kv_head * a.group + (row + r) % a.group;
        if (token < at.tokens)
            *(uint4 *)((__nv_bfloat16 *)a.out +
                       ((size_t)(at.row + token) * a.q_heads + head) * DIM + chunk * 8) =
                *(const uint4 *)(query + rows::at(r, chunk));
    }
}

/* ---- the kernel --------------------------------------------------------------------------------
 */

template <uint32_t DIM>
static __global__ void __launch_bounds__(THREADS, 2)
    prefill_kernel(const __grid_constant__ attention_args a)
{
    using shape = prefill_shape<DIM>;
    constexpr uint32_t RUNS = shape::KEYS / 16;
    extern __shared__ __align__(128) char memory[];
    __shared__ const char *pages[2][RUNS];
    uint32_t warp_row = threadIdx.x / WARP * shape::TILES * 16, kv_head = blockIdx.x;
    char *query = memory + warp_row * tile_rows<DIM>::BYTES;
    uint32_t ring = shared_address(memory) + shape::QUERY;
    const char *next = NULL;

    await_kernels();
    struct place at = find_tile(a, blockIdx.y, shape::ROWS / a.group);
    if (at.tokens == 0)
        return;
    uint32_t last = at.pos + at.tokens - 1;
    uint32_t first = a.window != 0 && at.pos >= a.window ? at.pos + 1 - a.window : 0;
    uint32_t block = first / shape::KEYS, end = last / shape::KEYS;
    uint64_t offset = a.layer_bytes + (uint64_t)kv_head * a.page_tokens * (DIM * 2);
    /* Rows past the last token are as its own. */
    auto pos = [&](uint32_t r) { return min(at.pos + (warp_row + r) / a.group, last); };
    uint32_t low = pos(0), high = pos(shape::TILES * 16 - 1);
    /* Pages that hold no position of first..last may be none; they are not read. */
    auto page = [&](uint32_t of_block) {
        uint32_t p = of_block * shape::KEYS + threadIdx.x * 16;
        if (threadIdx.x < RUNS && p + 15 >= first && p <= last)
            next = (const char *)a.pages[at.table + (p >> a.page_shift)];
    };
    auto fetch = [&](uint32_t of_block) {
        uint32_t to = ring + of_block % 2 * 2 * shape::HALF, start = of_block * shape::KEYS;
        copy_block<DIM>(to, pages[of_block % 2], offset, start, first, last, a.page_tokens);
        copy_block<DIM>(to + shape::HALF, pages[of_block % 2], offset + a.half_bytes, start, first,
                        last, a.page_tokens);
    };

    page(block);
    if (threadIdx.x < RUNS)
        pages[block % 2][threadIdx.x] = next;
    copy_query<DIM>(shared_address(memory), at, kv_head, a);
    __syncthreads();
    fetch(block);
    copy_commit();
    page(block + 1);

    struct state<DIM> p = {
    };
    for (uint32_t m = 0; m < shape::TILES; m++)
        p.max[m][0] = p.max[m][1] = -INFINITY;
    float by = a.softcap > 0 ? 1 : a.scale * LOG2E;
    for (; block <= end; block++) {
        uint32_t start = block * shape::KEYS, keys = ring + block % 2 * 2 * shape::HALF;
        if (threadIdx.x < RUNS)
            pages[(block + 1) % 2][threadIdx.x] = next;
        copy_wait<0>();
        __syncthreads();
        if (block < end) {
            fetch(block + 1);
            page(block + 2);
        }
        copy_commit();
        if (start > high || (a.window != 0 && start + shape::KEYS - 1 + a.window <= low))
            continue;
        block_scores<DIM> s;
        multiply_keys<DIM>(s, shared_address(query), keys);
        if (a.softcap > 0) {
#pragma unroll
            for (uint32_t m = 0; m < shape::TILES; m++)
#pragma unroll
                for (uint32_t n = 0; n < shape::KEYS / 8; n++)
#pragma unroll
                    for (uint32_t j = 0; j < 4; j++)
                        s[m][n][j] = scaled_score(s[m][n][j], a.scale, a.softcap);
        }
        if (start + shape::KEYS - 1 > low || (a.window != 0 && start + a.window <= high))
            mask_scores<DIM>(s, start, a.window, pos);
        weigh<DIM>(&p, s, by);
        multiply_values<DIM>(&p, s, keys + shape::HALF);
    }
    put_rows<DIM>(&p, query, at, kv_head, a);
}

/* ---- launches ----------------------------------------------------------------------------------
 */

template <uint32_t DIM> static int launch(struct cuda_device *c, const struct attention_args *a)
{
    using shape = prefill_shape<DIM>;
    uint32_t tokens = shape::ROWS / a->group;

    if (tokens == 0 || shape::SHARED + 1024 > c->attention->shared_max)
        return 0;
    cuda_launch(c, prefill_kernel<DIM>, dim3(a->kv_heads, a->rows / tokens + a->seq_count), THREADS,
                shape::SHARED, *a);
    return 1;
}

int attention_prefill(struct cuda_device *c, const struct attention_args *a)
{
    /* Sums take the largest score before it is scaled. */
    if (!(a->scale > 0) || (uint64_t)a->rows + a->seq_count > 65535)
        return 0;
    switch (a->head_dim) {
    case 64:
        return launch<64>(c, a);
    case 80:
        return launch<80>(c, a);
    case 96:
        return launch<96>(c, a);
    case 128:
        return launch<128>(c, a);
    case 256:
        return launch<256>(c, a);
    default:
        return 0;
    }
}

template <uint32_t DIM> static void prepare(struct cuda_device *c)
{
    if (prefill_shape<DIM>::SHARED + 1024 <= c->attention->shared_max)
        cuda_note(c, cudaFuncSetAttribute(prefill_kernel<DIM>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          (int)prefill_shape<DIM>::SHARED));
}

void attention_prefill_prepare(struct cuda_device *c)
{
    prepare<64>(c);
    prepare<80>(c);
    prepare<96>(c);
    prepare<128>(c);
    prepare<256>(c);
}
