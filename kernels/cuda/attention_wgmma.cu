/*
 * attention_wgmma.cu - attention of runs of tokens over pages, by Hopper's tensor cores
 *
 * attention_prefill.cu's work with products of whole warpgroups, after FlashAttention-3 (Shah et
 * al., 2024): one warpgroup copies keys and values, page by page, through rings in shared memory;
 * two take 64 rows of a tile each, and weigh a block's scores while the products with the values of
 * the block before run.  The grid stays and goes through the tiles, long and short ones in turn.
 */
#include <math.h>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/wgmma.cuh"

#define GROUP     128u /* threads of a warpgroup */
#define CONSUMERS 2u
#define THREADS   (GROUP * (1 + CONSUMERS))
#define WARPS     (THREADS / WARP)
#define ROWS      (64 * CONSUMERS)
#define STAGES    2u

template <uint32_t DIM> struct wide_shape {
    static constexpr uint32_t KEYS = DIM <= 128 ? 128 : 64;
    static constexpr uint32_t UNIT = KEYS * DIM * 2; /* keys, or values, of a block */
    static constexpr uint32_t QUERY = ROWS * DIM * 2;
    static constexpr uint32_t QUERIES = DIM <= 128 ? 2 : 1; /* tiles whose queries are there */
    static constexpr uint32_t SHARED = QUERIES * QUERY + 2 * STAGES * UNIT;
};

/* Addresses in shared memory. */
struct places {
    uint32_t query, keys, values; /* values: behind the keys' stages */
    /* Barriers: what is there, and what may be written again. */
    uint32_t query_full, query_empty, keys_full, keys_empty, values_full, values_empty;
};

struct tile {
    uint32_t row, pos, table, tokens; /* of its first token; how many */
    uint32_t kv_head;
    uint32_t first, last; /* positions that its rows see */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* ---- the list of tiles -------------------------------------------------------------------------
 */

FN uint32_t seq_tiles(uint32_t count, uint32_t tokens)
{
    return count > 1 ? (count + tokens - 1) / tokens : 0;
}

/* The step's sequences, in shared memory; upto: tiles of those before each, upto[seq_count] in all.
 */
struct list {
    struct attn_row *seqs;
    uint32_t *upto, tokens; /* tokens: of a tile */
};

/* All threads of the block. */
static __device__ void list_tiles(const struct list *l, const struct attention_args &a)
{
    __shared__ uint32_t warp_sums[WARPS];
    uint32_t each = (a.seq_count + THREADS - 1) / THREADS, begin = threadIdx.x * each;
    uint32_t end = min(begin + each, a.seq_count), lane = threadIdx.x % WARP, sum = 0, before;

    for (uint32_t i = begin; i < end; i++) {
        l->seqs[i] = a.seqs[i];
        sum += seq_tiles(l->seqs[i].count, l->tokens);
    }
    before = sum;
    for (uint32_t i = 1; i < WARP; i *= 2) {
        uint32_t other = __shfl_up_sync(ALL_LANES, before, i);
        before += lane >= i ? other : 0;
    }
    if (lane == WARP - 1)
        warp_sums[threadIdx.x / WARP] = before;
    __syncthreads();
    before -= sum;
    for (uint32_t i = 0; i < threadIdx.x / WARP; i++)
        before += warp_sums[i];
    if (threadIdx.x == 0)
        l->upto[0] = 0;
    for (uint32_t i = begin; i < end; i++) {
        before += seq_tiles(l->seqs[i].count, l->tokens);
        l->upto[i + 1] = before;
    }
    __syncthreads();
}

/* The block's round-th tile; 0: there are no more.  The last tiles of a sequence are the longest:
 * they come first, and every other round goes the other way, so that all blocks have as much. */
static __device__ int find_tile(struct tile *t, uint32_t round, const struct list *l,
                                const struct attention_args &a)
{
    uint32_t tiles = l->upto[a.seq_count], lo = 0, hi = a.seq_count;
    uint32_t at = round * gridDim.x + (round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);

    if (at >= tiles * a.kv_heads)
        return 0;
    uint32_t index = tiles - 1 - at / a.kv_heads;
    while (hi - lo > 1) {
        uint32_t middle = (lo + hi) / 2;
        if (l->upto[middle] <= index)
            lo = middle;
        else
            hi = middle;
    }
    struct attn_row s = l->seqs[lo];
    uint32_t skipped = (index - l->upto[lo]) * l->tokens;
    t->row = s.first_row + skipped;
    t->pos = s.first_pos + skipped;
    t->table = s.table;
    t->tokens = min(l->tokens, s.count - skipped);
    t->kv_head = at % a.kv_heads;
    t->last = t->pos + t->tokens - 1;
    t->first = a.window != 0 && t->pos >= a.window ? t->pos + 1 - a.window : 0;
    return 1;
}

/* ---- the copying warpgroup ---------------------------------------------------------------------
 */

template <uint32_t DIM> struct copier {
    static constexpr uint32_t KEYS = wide_shape<DIM>::KEYS;
    static constexpr uint32_t CHUNKS = DIM / 8;
    static constexpr uint32_t PASS = GROUP / CHUNKS; /* rows at once, at most 16 */
    static constexpr uint32_t RUNS = KEYS / 16;
};

/* Queries of the tile: row r is token r / group, head r % group; zeros behind the last. */
template <uint32_t DIM>
FN void copy_query(uint32_t to, const struct tile &t, const struct attention_args &a)
{
    using part = copier<DIM>;
    uint32_t thread = threadIdx.x % GROUP, chunk = thread % part::CHUNKS;
    const char *from = (const char *)((const __nv_bfloat16 *)a.qkv + (size_t)t.row * a.qkv_cols +
                                      t.kv_head * a.group * DIM + chunk * 8);

    uint32_t row = thread / part::CHUNKS, token = row / a.group, head = row % a.group;
    uint32_t more_tokens = part::PASS / a.group, more_heads = part::PASS % a.group;
#pragma unroll 4
    for (uint32_t r = row; r < ROWS; r += part::PASS) {
        int there = token < t.tokens;
        copy16(to + panel_at(ROWS, r, chunk),
               from + (there ? ((size_t)token * a.qkv_cols + head * DIM) * 2 : 0), there);
        token += more_tokens;
        head += more_heads;
        if (head >= a.group) {
            head -= a.group;
            token++;
        }
    }
}

/* Keys, or values, of the block at `start`; `page`: lane i's is that of its positions 16 i to 16 i
 * + 15, with where the head's lie in it. */
template <uint32_t DIM>
FN void copy_unit(uint32_t to, const char *page, uint32_t start, const struct tile &t,
                  uint32_t page_tokens)
{
    using part = copier<DIM>;
    uint32_t thread = threadIdx.x % GROUP, chunk = thread % part::CHUNKS;
    uint32_t row = thread / part::CHUNKS;

#pragma unroll
    for (uint32_t i = 0; i < part::KEYS / part::PASS; i++) {
        uint32_t r = row + i * part::PASS, pos = start + r;
        const char *from = (const char *)__shfl_sync(ALL_LANES, (unsigned long long)page,
                                                     (int)(i * part::PASS / 16));
        copy16(to + panel_at(part::KEYS, r, chunk),
               from + (pos & (page_tokens - 1)) * (DIM * 2) + chunk * 16,
               pos >= t.first && pos <= t.last);
    }
}

/* The page of the lane's run of 16 positions in a block; pages that hold no position which is seen
 * may be none, and are not read. */
template <uint32_t DIM>
FN const char *find_page(const struct tile &t, uint32_t block, const struct attention_args &a)
{
    uint32_t lane = threadIdx.x % WARP, p = block * wide_shape<DIM>::KEYS + lane * 16;

    if (lane >= copier<DIM>::RUNS || p + 15 < t.first || p > t.last)
        return NULL;
    return (const char *)a.pages[t.table + (p >> a.page_shift)];
}

template <uint32_t DIM>
static __device__ void copy_tiles(const struct places &at, const struct list *l,
                                  const struct attention_args &a)
{
    using shape = wide_shape<DIM>;
    uint32_t units = 0, tiles = 0;
    const char *next = NULL;
    struct tile t, following;
    int more = find_tile(&t, 0, l, a);

    if (more)
        next = find_page<DIM>(t, t.first / shape::KEYS, a);
    while (more) {
        uint32_t block = t.first / shape::KEYS, end = t.last / shape::KEYS;
        uint32_t place = tiles % shape::QUERIES;
        uint64_t offset = a.layer_bytes + (uint64_t)t.kv_head * a.page_tokens * (DIM * 2);
        barrier_wait(at.query_empty + 8 * place, tiles / shape::QUERIES % 2 ^ 1);
        copy_query<DIM>(at.query + place * shape::QUERY, t, a);
        barrier_arrive_copied(at.query_full + 8 * place);
        tiles++;
        for (; block <= end; block++, units++) {
            uint32_t stage = units % STAGES, parity = units / STAGES % 2 ^ 1;
            const char *page = next + offset;
            /* Pages are looked up a block ahead, the next tile's, too. */
            if (block < end) {
                next = find_page<DIM>(t, block + 1, a);
            } else {
                more = find_tile(&following, tiles, l, a);
                if (more)
                    next = find_page<DIM>(following, following.first / shape::KEYS, a);
            }
            barrier_wait(at.keys_empty + 8 * stage, parity);
            copy_unit<DIM>(at.keys + stage * shape::UNIT, page, block * shape::KEYS, t,
                           a.page_tokens);
            barrier_arrive_copied(at.keys_full + 8 * stage);
            barrier_wait(at.values_empty + 8 * stage, parity);
            copy_unit<DIM>(at.values + stage * shape::UNIT, page + a.half_bytes,
                           block * shape::KEYS, t, a.page_tokens);
            barrier_arrive_copied(at.values_full + 8 * stage);
        }
        t = following;
    }
    copy_wait<0>();
}

/* ---- a multiplying warpgroup -------------------------------------------------------------------
 */

/* A thread's rows: lane / 4 of its warp's sixteen, and that plus eight. */
template <uint32_t DIM> struct wide_state {
    float scores[wide_shape<DIM>::KEYS / 2], out[DIM / 2];
    uint32_t weights[wide_shape<DIM>::KEYS / 4]; /* as operand registers */
    float max[2], sum[2], keep[2];
};

/* Start scores = queries keys. */
template <uint32_t DIM>
FN void start_scores(struct wide_state<DIM> *p, uint32_t query, uint32_t keys)
{
    wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < DIM / 16; k++)
        wgmma_shared(
            p->scores, matrix_descriptor(query + k / 4 * ROWS * PANEL_ROW + k % 4 * 32, 16),
            matrix_descriptor(keys + k / 4 * wide_shape<DIM>::KEYS * PANEL_ROW + k % 4 * 32, 16),
            k > 0);
    wgmma_commit();
}

/* Start out += weights values, or =. */
template <uint32_t DIM>
FN void start_values(struct wide_state<DIM> *p, uint32_t values, uint32_t add)
{
    wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < wide_shape<DIM>::KEYS / 16; k++)
        wgmma_registers(
            p->out, p->weights + 4 * k,
            matrix_descriptor(values + k * 16 * PANEL_ROW, wide_shape<DIM>::KEYS * PANEL_ROW),
            k > 0 || add);
    wgmma_commit();
}

/* Weights in place of scores; keep: by how much what was summed up before shrinks. */
template <uint32_t DIM> FN void weigh(struct wide_state<DIM> *p, float by)
{
    constexpr uint32_t N = wide_shape<DIM>::KEYS / 8;

#pragma unroll
    for (uint32_t r = 0; r < 2; r++) {
        float max = p->max[r], sum = 0;
#pragma unroll
        for (uint32_t n = 0; n < N; n++)
            max = fmaxf(max, fmaxf(p->scores[4 * n + 2 * r], p->scores[4 * n + 2 * r + 1]));
        max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, 1));
        max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, 2));
        /* A row that has seen nothing yet. */
        float base = max == -INFINITY ? 0 : max * by;
        p->keep[r] = p->max[r] == max ? 1 : power2((p->max[r] - max) * by);
        p->max[r] = max;
#pragma unroll
        for (uint32_t n = 0; n < N; n++) {
            float x = power2(fmaf(p->scores[4 * n + 2 * r], by, -base));
            float y = power2(fmaf(p->scores[4 * n + 2 * r + 1], by, -base));
            p->scores[4 * n + 2 * r] = x;
            p->scores[4 * n + 2 * r + 1] = y;
            sum += x + y;
        }
        p->sum[r] = fmaf(p->sum[r], p->keep[r], sum);
    }
}

/* Operand registers of products under way must not be written: not before they are done. */
template <uint32_t DIM> FN void put_weights(struct wide_state<DIM> *p)
{
#pragma unroll
    for (uint32_t i = 0; i < wide_shape<DIM>::KEYS / 4; i++)
        p->weights[i] = bf16_pair(p->scores[2 * i], p->scores[2 * i + 1]);
}

/* What is not seen becomes minus infinity; scores are capped where asked. */
template <uint32_t DIM>
FN void finish_scores(struct wide_state<DIM> *p, uint32_t start, const uint32_t (&pos)[2],
                      const struct attention_args &a)
{
    constexpr uint32_t KEYS = wide_shape<DIM>::KEYS;
    uint32_t at = start + threadIdx.x % 4 * 2;

    if (a.softcap > 0) {
#pragma unroll
        for (uint32_t i = 0; i < KEYS / 2; i++)
            p->scores[i] = scaled_score(p->scores[i], a.scale, a.softcap);
    }
    if (start + KEYS - 1 <= pos[0] && (a.window == 0 || start + a.window > pos[1]))
        return;
#pragma unroll
    for (uint32_t r = 0; r < 2; r++) {
        uint32_t first = a.window != 0 && pos[r] >= a.window ? pos[r] + 1 - a.window : 0;
#pragma unroll
        for (uint32_t n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (uint32_t j = 0; j < 2; j++)
                if (at + 8 * n + j < first || at + 8 * n + j > pos[r])
                    p->scores[4 * n + 2 * r + j] = -INFINITY;
    }
}

template <uint32_t DIM>
FN void put_rows(struct wide_state<DIM> *p, const struct tile &t, uint32_t row,
                 const struct attention_args &a)
{
#pragma unroll
    for (uint32_t r = 0; r < 2; r++) {
        uint32_t token = (row + 8 * r) / a.group, head = (row + 8 * r) % a.group;
        float sum = p->sum[r];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        float one = 1 / sum;
        if (token >= t.tokens)
            continue;
        uint32_t *to =
            (uint32_t *)((__nv_bfloat16 *)a.out +
                         ((size_t)(t.row + token) * a.q_heads + t.kv_head * a.group + head) * DIM) +
            threadIdx.x % 4;
#pragma unroll
        for (uint32_t n = 0; n < DIM / 8; n++)
            to[4 * n] = bf16_pair(p->out[4 * n + 2 * r] * one, p->out[4 * n + 2 * r + 1] * one);
    }
}

template <uint32_t DIM>
static __device__ void multiply_tiles(const struct places &at, const struct list *l,
                                      const struct attention_args &a)
{
    using shape = wide_shape<DIM>;
    uint32_t lane = threadIdx.x % WARP, group = threadIdx.x / GROUP - 1;
    uint32_t row = group * 64 + threadIdx.x % GROUP / WARP * 16 + lane / 4;
    uint32_t keys = 0, values = 0, tiles = 0;
    float by = a.softcap > 0 ? 1 : a.scale * LOG2E;
    struct tile t;
    struct wide_state<DIM> p;
    auto keys_there = [&] {
        barrier_wait(at.keys_full + 8 * (keys % STAGES), keys / STAGES % 2);
        shared_to_products();
        return at.keys + keys % STAGES * shape::UNIT;
    };
    auto values_there = [&] {
        barrier_wait(at.values_full + 8 * (values % STAGES), values / STAGES % 2);
        shared_to_products();
        return at.values + values % STAGES * shape::UNIT;
    };
    /* A warp at a time. */
    auto done = [&](uint32_t barrier) {
        __syncwarp();
        if (lane == 0)
            barrier_arrive(barrier);
    };

    while (find_tile(&t, tiles, l, a)) {
        uint32_t begin = t.first / shape::KEYS, end = t.last / shape::KEYS;
        /* Rows behind the last token are as its own. */
        uint32_t pos[2] = {min(t.pos + row / a.group, t.last),
                           min(t.pos + (row + 8) / a.group, t.last)};
        p.max[0] = p.max[1] = -INFINITY;
        p.sum[0] = p.sum[1] = 0;
        uint32_t place = tiles % shape::QUERIES;
        uint32_t query = at.query + place * shape::QUERY + group * 64 * PANEL_ROW;
        barrier_wait(at.query_full + 8 * place, tiles / shape::QUERIES % 2);
        tiles++;
        start_scores<DIM>(&p, query, keys_there());
        wgmma_wait<0>();
        wgmma_result(p.scores);
        done(at.keys_empty + 8 * (keys++ % STAGES));
        if (begin == end)
            done(at.query_empty + 8 * place);
        finish_scores<DIM>(&p, begin * shape::KEYS, pos, a);
        weigh<DIM>(&p, by);
        put_weights<DIM>(&p);
        for (uint32_t block = begin + 1; block <= end; block++) {
            start_scores<DIM>(&p, query, keys_there());
            start_values<DIM>(&p, values_there(), block - 1 > begin);
            wgmma_wait<1>();
            wgmma_result(p.scores);
            done(at.keys_empty + 8 * (keys++ % STAGES));
            if (block == end)
                done(at.query_empty + 8 * place);
            finish_scores<DIM>(&p, block * shape::KEYS, pos, a);
            weigh<DIM>(&p, by);
            wgmma_wait<0>();
            wgmma_result(p.out);
            wgmma_result(p.scores);
            done(at.values_empty + 8 * (values++ % STAGES));
#pragma unroll
            for (uint32_t i = 0; i < DIM / 2; i++)
                p.out[i] *= p.keep[i / 2 % 2];
            put_weights<DIM>(&p);
        }
        start_values<DIM>(&p, values_there(), begin < end);
        wgmma_wait<0>();
        wgmma_result(p.out);
        done(at.values_empty + 8 * (values++ % STAGES));
        put_rows<DIM>(&p, t, row, a);
    }
}

#endif

/* ---- the kernel --------------------------------------------------------------------------------
 */

template <uint32_t DIM>
static __global__ void __launch_bounds__(THREADS, 1)
    wide_kernel(const __grid_constant__ attention_args a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using shape = wide_shape<DIM>;
    extern __shared__ __align__(1024) char memory[];
    __shared__ uint64_t barriers[4 + 4 * STAGES];
    uint32_t base = (shared_address(memory) + 1023) / 1024 * 1024, own = shared_address(barriers);
    struct list l;
    struct places at;

    l.seqs = (struct attn_row *)(memory + (base - shared_address(memory)) + shape::SHARED);
    l.upto = (uint32_t *)(l.seqs + a.seq_count);
    l.tokens = ROWS / a.group;
    at.query = base;
    at.keys = base + shape::QUERIES * shape::QUERY;
    at.values = at.keys + STAGES * shape::UNIT;
    at.query_full = own;
    at.query_empty = own + 16;
    at.keys_full = own + 32;
    at.keys_empty = at.keys_full + 8 * STAGES;
    at.values_full = at.keys_empty + 8 * STAGES;
    at.values_empty = at.values_full + 8 * STAGES;
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < shape::QUERIES; i++) {
            barrier_init(at.query_full + 8 * i, GROUP);
            barrier_init(at.query_empty + 8 * i, CONSUMERS * GROUP / WARP);
        }
        for (uint32_t i = 0; i < STAGES; i++) {
            barrier_init(at.keys_full + 8 * i, GROUP);
            barrier_init(at.values_full + 8 * i, GROUP);
            barrier_init(at.keys_empty + 8 * i, CONSUMERS * GROUP / WARP);
            barrier_init(at.values_empty + 8 * i, CONSUMERS * GROUP / WARP);
        }
    }
    await_kernels();
    /* Its barriers are for the ones above, too. */
    list_tiles(&l, a);
    if (threadIdx.x < GROUP) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        copy_tiles<DIM>(at, &l, a);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        multiply_tiles<DIM>(at, &l, a);
    }
#endif
}

/* ---- launches ----------------------------------------------------------------------------------
 */

template <uint32_t DIM> static int launch(struct cuda_device *c, const struct attention_args *a)
{
    uint32_t tokens = ROWS / a->group;
    uint64_t shared = wide_shape<DIM>::SHARED + 1024 + a->seq_count * sizeof(struct attn_row) +
                      (a->seq_count + 1ull) * sizeof(uint32_t);
    uint64_t tiles = (a->rows / (tokens ? tokens : 1) + (uint64_t)a->seq_count) * a->kv_heads;

    if (tokens == 0 || shared + 1024 > c->attention->shared_max)
        return 0;
    cuda_launch(c, wide_kernel<DIM>, dim3(tiles < c->sms ? (uint32_t)tiles : c->sms), THREADS,
                shared, *a);
    return 1;
}

int attention_wgmma(struct cuda_device *c, const struct attention_args *a)
{
    /* Sums take the largest score before it is scaled. */
    if (!c->attention->wgmma || !(a->scale > 0))
        return 0;
    switch (a->head_dim) {
    case 64:
        return launch<64>(c, a);
    case 128:
        return launch<128>(c, a);
    case 256:
        return launch<256>(c, a);
    default:
        return 0;
    }
}

/* Whether the code that this GPU runs has the products in it: without them a kernel is empty, and
 * needs few registers. */
template <uint32_t DIM> static int prepare(struct cuda_device *c)
{
    struct cudaFuncAttributes built;
    cudaError_t e = cudaFuncGetAttributes(&built, wide_kernel<DIM>);

    cuda_note(c, e);
    if (e != cudaSuccess || built.numRegs < 128 ||
        wide_shape<DIM>::SHARED + 2048 > c->attention->shared_max)
        return 0;
    cuda_note(c, cudaFuncSetAttribute(wide_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)c->attention->shared_max - 1024));
    return 1;
}

void attention_wgmma_prepare(struct cuda_device *c)
{
    c->attention->wgmma = prepare<64>(c) && prepare<128>(c) && prepare<256>(c);
}
