/*
 * attention_decode.cu - attention of one token a sequence over pages, by the tensor cores
 *
 * A sequence is cut into splits (flash decoding: Dao et al., 2023) whose length follows from its
 * own and from how many sequences the step is for.  A block takes a split of one key head at a
 * time, with the query heads that share it as the sixteen rows of the tensor cores' tiles; within
 * the split, warp w takes the runs of 16 positions whose number is w modulo four, in ascending
 * order, by its own pipeline of copies.  The warps' results are joined in their order, the splits'
 * by whichever block is done last, from the first to the last.  So a token's result follows from
 * its position, the data before it and the step's number of sequences.
 *
 * The grid is fixed and goes through what it finds in seqs: a recorded launch serves every step of
 * as many sequences.  Results of splits go through memory that is there for a number of them; a
 * sequence that finds no room has its splits done by one block, one after the other, and folded in
 * the same order: the same bits, slower.
 */
#include <math.h>

#include "kernels/cuda/attention_run.cuh"

/* ---- copies ------------------------------------------------------------------------------------
 */

/* Where a warp's copies are: a run after the other, of item after item. */
struct cursor {
    uint32_t item, run, run_end; /* runs in positions / RUN; run >= run_end: there are no more */
    uint32_t first, last, table;
    uint64_t offset; /* of the key head's keys in a page */
    const char *page;
    int values; /* the next half is values */
};

static __device__ void cursor_page(struct cursor *c, const struct attention_args &a)
{
    if (c->run < c->run_end)
        c->page = read_page(a.pages + c->table + (c->run * RUN >> a.page_shift));
}

/* To the first run of this or a later item that the warp has. */
static __device__ void cursor_seek(struct cursor *c, const struct work *w,
                                   const struct attention_args &a, uint32_t row_bytes)
{
    uint32_t warp = threadIdx.x / WARP;
    struct task t;

    for (; find_task(&t, &c->item, w, a); c->item += gridDim.x) {
        c->first = t.first;
        c->last = t.last;
        c->table = w->seqs[t.seq].table;
        c->run = t.first / RUN;
        c->run += (warp - c->run) % WARPS;
        c->run_end = t.last / RUN + 1;
        c->offset = a.layer_bytes + (uint64_t)t.kv_head * a.page_tokens * row_bytes;
        if (c->run < c->run_end)
            break;
    }
    cursor_page(c, a);
}

/* Copy the next half into `to`; an empty group where there is none. */
template <uint32_t DIM>
FN void cursor_fetch(struct cursor *c, uint32_t to, const struct work *w,
                     const struct attention_args &a)
{
    using rows = tile_rows<DIM>;
    uint32_t lane = threadIdx.x % WARP, start = c->run * RUN;

    if (c->run < c->run_end) {
        const char *from = c->page + c->offset + (c->values ? a.half_bytes : 0) +
                           (uint64_t)(start & (a.page_tokens - 1)) * (DIM * 2);
#pragma unroll
        for (uint32_t i = 0; i < rows::CHUNKS / 2; i++) {
            uint32_t e = lane + WARP * i, r = e / rows::CHUNKS, chunk = e % rows::CHUNKS;
            copy16(to + rows::at(r, chunk), from + e * 16,
                   start + r >= c->first && start + r <= c->last);
        }
        c->values ^= 1;
        if (!c->values) {
            c->run += WARPS;
            if (c->run < c->run_end) {
                cursor_page(c, a);
            } else {
                c->item += gridDim.x;
                cursor_seek(c, w, a, DIM * 2);
            }
        }
    }
    copy_commit();
}

/* ---- joining -----------------------------------------------------------------------------------
 */

/* Slots are written by one block and read by another. */
FN void put_slot(const struct attention_args &a, uint32_t slot, uint32_t head, uint32_t dim,
                 const struct folded &f)
{
    size_t at = (size_t)slot * a.q_heads + head;

    if (dim == 0)
        __stcg(a.sums + at, make_float2(f.max, f.sum));
    __stcg((float4 *)(a.parts + at * a.head_dim + dim), f.out);
}

FN struct folded get_slot(const struct attention_args &a, uint32_t slot, uint32_t head,
                          uint32_t dim)
{
    size_t at = (size_t)slot * a.q_heads + head;
    float2 s = __ldcg(a.sums + at);

    return {s.x, s.y, __ldcg((const float4 *)(a.parts + at * a.head_dim + dim))};
}

/* The block that finished a sequence's last split folds them all. */
template <uint32_t DIM>
static __device__ void fold_splits(const struct work *w, const struct task &t,
                                   const struct attention_args &a)
{
    constexpr uint32_t AHEAD = 8;
    uint32_t base = w->seqs[t.seq].unit, row = w->seqs[t.seq].row;

    for (uint32_t e = threadIdx.x; e < t.heads * (DIM / 4); e += THREADS) {
        uint32_t head = t.head + e / (DIM / 4), dim = e % (DIM / 4) * 4;
        struct folded f = {-INFINITY, 0, {0, 0, 0, 0}}, next[AHEAD];
        for (uint32_t i = 0; i < t.splits; i += AHEAD) {
#pragma unroll
            for (uint32_t j = 0; j < AHEAD; j++)
                if (i + j < t.splits)
                    next[j] = get_slot(a, base + i + j, head, dim);
#pragma unroll
            for (uint32_t j = 0; j < AHEAD; j++) {
                if (i + j == 0)
                    f = next[j];
                else if (i + j < t.splits)
                    fold(&f, next[j]);
            }
        }
        put_out(a, row, head, dim, f);
    }
    if (threadIdx.x == 0)
        a.counters[t.seq * w->parts + t.part] = 0;
}

/* ---- the kernel --------------------------------------------------------------------------------
 */

/* A warp's pipeline of copies: its ring in shared memory and where it is filled and emptied. */
template <uint32_t DIM> struct pipeline {
    using shape = decode_shape<DIM>;
    uint32_t ring, in, out;
    struct cursor cursor;

    __device__ __forceinline__ void begin(uint32_t ring_address, const struct work *w,
                                          const struct attention_args &a)
    {
        ring = ring_address;
        in = out = 0;
        cursor = {};
        cursor.item = blockIdx.x;
        cursor_seek(&cursor, w, a, DIM * 2);
    }

    __device__ __forceinline__ void start(const struct work *w, const struct attention_args &a)
    {
        for (uint32_t i = 0; i < shape::HALVES - 1; i++)
            fill(w, a);
    }

    __device__ __forceinline__ void fill(const struct work *w, const struct attention_args &a)
    {
        cursor_fetch<DIM>(&cursor, ring + in * shape::HALF, w, a);
        in = in + 1 == shape::HALVES ? 0 : in + 1;
    }

    /* The next half is there; the one before it is not needed any more and makes room. */
    __device__ __forceinline__ uint32_t next(const struct work *w, const struct attention_args &a)
    {
        uint32_t half = ring + out * shape::HALF;

        copy_wait<(int)shape::HALVES - 2>();
        __syncwarp();
        fill(w, a);
        out = out + 1 == shape::HALVES ? 0 : out + 1;
        return half;
    }
};

/* By the same thread, ahead of a barrier: whether they are all done, and what they stored is seen
 * behind the barrier. */
static __device__ int all_splits(const struct task &t, uint32_t before)
{
    if (before + 1 != t.splits)
        return 0;
    __threadfence();
    return 1;
}

/* The block's results of a split, to where they belong. */
template <uint32_t DIM>
static __device__ void put_split(const struct work *w, const struct task &t, const float *join,
                                 const float2 (*sums)[HEADS], int first, int last,
                                 const struct attention_args &a)
{
    for (uint32_t e = threadIdx.x; e < t.heads * (DIM / 4); e += THREADS) {
        uint32_t row = e / (DIM / 4), dim = e % (DIM / 4) * 4;
        struct folded f = get_joined<DIM>(join, sums, t.heads, row, dim);
        if (!first) {
            struct folded earlier = get_slot(a, t.unit, t.head + row, dim);
            fold(&earlier, f);
            f = earlier;
        }
        if (last)
            put_out(a, w->seqs[t.seq].row, t.head + row, dim, f);
        else
            put_slot(a, t.unit, t.head + row, dim, f);
    }
}

/* By one thread: one more split of `t` is done, and its stores are before a barrier that the thread
 * has passed; how many were done before. */
static __device__ uint32_t count_split(const struct work *w, const struct task &t,
                                       const struct attention_args &a)
{
    __threadfence();
    return atomicAdd(&a.counters[t.seq * w->parts + t.part], 1);
}

template <uint32_t DIM>
static __global__ void __launch_bounds__(THREADS, decode_shape<DIM>::BLOCKS)
    decode_kernel(const __grid_constant__ attention_args a)
{
    using shape = decode_shape<DIM>;
    extern __shared__ __align__(128) char memory[];
    __shared__ float2 sums[WARPS][HEADS];
    __shared__ int complete;
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    char *query = memory + WARPS * shape::HALVES * shape::HALF;
    float *join = (float *)(query + shape::QUERY);
    struct decode_seq *seqs =
        (struct decode_seq *)(join + WARPS * min(a.group, HEADS) * shape::JOIN_COLS);
    __shared__ struct task tasks[4]; /* the one before, this one and two to come */
    struct work w;
    struct query_rows<DIM> rows;
    struct pipeline<DIM> pipe;
    uint32_t item = blockIdx.x, arrived = 0; /* thread 0's: where it looks for tasks; see below */
    int pending = 0;                         /* the one before may have been its sequence's last */

    /* What is to be done is known before the kernels ahead have ended.  Who comes next fetches
     * weights as fast as there is: not before those kernels are done. */
    list_work(&w, seqs, a);
    pipe.begin(shared_address(memory) + warp * shape::HALVES * shape::HALF, &w, a);
    if (threadIdx.x == 0) {
        find_task(&tasks[0], &item, &w, a);
        item += gridDim.x;
        find_task(&tasks[1], &item, &w, a);
    }
    __syncthreads();
    /* A block waits for them at least: whoever waits for this kernel does for those ahead of it. */
    if (tasks[0].splits == 0 && blockIdx.x != 0)
        return;
    wait_kernels();
    launch_next();
    pipe.start(&w, a);
    if (tasks[0].splits > 0)
        query_load(&rows, w.seqs[tasks[0].seq].row, tasks[0].head, tasks[0].heads, a);
    uint32_t k = 0;
    for (; tasks[k % 4].splits > 0; k++) {
        const struct task &t = tasks[k % 4], &before = tasks[(k + 3) % 4];
        const struct task &following = tasks[(k + 1) % 4];
        uint32_t q[DIM <= 128 ? DIM / 16 : 1][4];
        query_store(&rows, query);
        __syncthreads();
        if (threadIdx.x == 0) {
            if (pending)
                arrived = count_split(&w, before, a);
            item += gridDim.x;
            find_task(&tasks[(k + 2) % 4], &item, &w, a);
        }
        if (DIM <= 128) {
#pragma unroll
            for (uint32_t i = 0; i < DIM / 16; i++)
                load_matrices(q[DIM <= 128 ? i : 0],
                              shared_address(query) +
                                  tile_rows<DIM>::at(lane % 16, i * 2 + lane / 16));
        }
        if (following.splits > 0)
            query_load(&rows, w.seqs[following.seq].row, following.head, following.heads, a);
        uint32_t first = t.first, last = t.last, run = first / RUN, begin = first;
        run += (warp - run) % WARPS;
        do {
            uint32_t end = t.serial ? min(last, begin / t.length * t.length + t.length - 1) : last;
            struct part<DIM> p = {
                {-INFINITY, -INFINITY}, {0, 0},
                {
                }
            };
            for (; run <= end / RUN; run += WARPS) {
                float s[2][4];
                run_scores<DIM>(s, q, shared_address(query), pipe.next(&w, a));
                run_weights<DIM>(&p, s, run * RUN, first, last, a);
                run_values<DIM>(&p, s, pipe.next(&w, a));
            }
            put_part<DIM>(&p, join, sums, t.heads);
            if (pending && threadIdx.x == 0)
                complete = all_splits(before, arrived);
            __syncthreads();
            put_split<DIM>(&w, t, join, sums, begin == first,
                           t.serial ? end == last : t.splits == 1, a);
            begin = end + 1;
            if (t.serial)
                __syncthreads();
        } while (begin <= last);
        if (pending && complete)
            fold_splits<DIM>(&w, before, a);
        pending = !t.serial && t.splits > 1;
    }
    if (pending) {
        const struct task &before = tasks[(k + 3) % 4];
        __syncthreads();
        if (threadIdx.x == 0)
            complete = all_splits(before, count_split(&w, before, a));
        __syncthreads();
        if (complete)
            fold_splits<DIM>(&w, before, a);
    }
    copy_wait<0>();
}

/* ---- launches ----------------------------------------------------------------------------------
 */

template <uint32_t DIM> static int launch(struct cuda_device *c, const struct attention_args *a)
{
    using shape = decode_shape<DIM>;
    uint32_t heads = a->group < HEADS ? a->group : HEADS, seqs = a->seq_count;

    /* Whether a shape is ours must not depend on a step's sequences. */
    if (c->deterministic && seqs < ALIKE_MAX)
        seqs = ALIKE_MAX;
    uint64_t shared = WARPS * shape::HALVES * shape::HALF + shape::QUERY +
                      WARPS * heads * shape::JOIN_COLS * sizeof(float) +
                      (seqs + 1ull) * sizeof(struct decode_seq);
    /* Each block's own arrays and what the system takes: 2 KiB. */
    uint64_t blocks = c->attention->shared_sm / (shared + 2048);

    if (shared + 1024 > c->attention->shared_max || blocks == 0)
        return 0;
    if (blocks > shape::BLOCKS)
        blocks = shape::BLOCKS;
    cuda_launch(c, decode_kernel<DIM>, dim3((uint32_t)blocks * c->sms), THREADS, shared, *a);
    return 1;
}

/* Into how many splits to cut a sequence: so that the blocks of the grid have a share each, and few
 * times another; a share costs as much as a fiftieth of a sequence more. */
static uint32_t choose_splits(uint64_t whole, uint64_t blocks)
{
    uint32_t best = 1;
    double least = INFINITY;

    for (uint32_t n = 1; n <= SPLITS_MAX; n *= 2) {
        double cost = (double)((whole * n + blocks - 1) / blocks) * (1.0 / n + 0.02);
        if (cost < least) {
            least = cost;
            best = n;
        }
    }
    return best;
}

int attention_decode(struct cuda_device *c, const struct attention_args *args)
{
    struct attention_args own = *args, *a = &own;
    uint64_t parts = a->kv_heads * ((a->group + HEADS - 1ull) / HEADS),
             whole = parts * a->seq_count;
    uint64_t blocks = c->sms * (a->head_dim <= 128 ? 2ull : 1ull);

    if (a->slots < a->seq_count || whole > COUNTERS)
        return 0;
    a->splits = c->deterministic ? ALIKE_SPLITS : choose_splits(whole, blocks);
    /* So that one long sequence does not outlast all others. */
    a->split_max = whole < blocks && !c->deterministic ? 8192 : 2048;
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
    cuda_note(c,
              cudaFuncSetAttribute(decode_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   (int)c->attention->shared_max - 1024));
}

void attention_decode_prepare(struct cuda_device *c)
{
    prepare<64>(c);
    prepare<80>(c);
    prepare<96>(c);
    prepare<128>(c);
    prepare<256>(c);
}
