/*
 * attention_work.cuh - which sequences' splits the blocks of attention_decode.cu take
 */
#ifndef MP_KERNELS_CUDA_ATTENTION_WORK_CUH
#define MP_KERNELS_CUDA_ATTENTION_WORK_CUH

#include "kernels/cuda/attention.cuh"

#define WARPS      4u /* of a block */
#define THREADS    (WARPS * WARP)
#define HEADS      16u /* query heads that a block takes: rows of a tile */
#define SPLITS_MAX 64u

/* What is known of a sequence, in shared memory. */
struct decode_seq {
    uint32_t unit; /* its first: a unit is a split, or a whole sequence that has no room */
    uint32_t row, pos, table; /* pos NO_POS: none of ours */
};
#define NO_POS UINT32_MAX

/* A power of two: as many splits as the launch asks for, or fewer that are short, or more that are
 * long. */
static __device__ uint32_t split_length(uint32_t positions, const struct attention_args &a)
{
    uint32_t length = positions <= 512    ? 64
                      : positions <= 1024 ? 128
                      : positions <= 4096 ? 256
                                          : 512;

    while (length < a.split_max && length * a.splits < positions)
        length *= 2;
    while (length * SPLITS_MAX < positions)
        length *= 2;
    return length;
}

FN uint32_t first_visible(uint32_t pos, uint32_t window)
{
    return window != 0 && pos >= window ? pos + 1 - window : 0;
}

FN uint32_t seq_splits(uint32_t pos, const struct attention_args &a)
{
    uint32_t length = split_length(pos + 1, a);

    return pos / length - first_visible(pos, a.window) / length + 1;
}

/* ---- the list of work --------------------------------------------------------------------------
 */

struct work {
    const struct decode_seq *seqs; /* [count + 1] */
    uint32_t count, serial;        /* from that sequence on there is no room */
    uint32_t items, parts;         /* parts: of a unit, one for each key head and 16 query heads */
};

/* All threads of the block. */
static __device__ void list_work(struct work *w, struct decode_seq *seqs,
                                 const struct attention_args &a)
{
    __shared__ uint32_t warp_sums[WARPS], serial;
    uint32_t each = (a.seq_count + THREADS - 1) / THREADS, begin = threadIdx.x * each;
    uint32_t end = min(begin + each, a.seq_count), lane = threadIdx.x % WARP, sum = 0, upto;

    if (threadIdx.x == 0)
        serial = a.seq_count;
    for (uint32_t i = begin; i < end; i++) {
        struct attn_row s = read_seq(a.seqs + i);
        uint32_t pos = s.count == 1 ? s.first_pos : NO_POS;
        seqs[i] = {0, s.first_row, pos, s.table};
        sum += pos == NO_POS ? 1 : seq_splits(pos, a);
    }
    upto = sum;
    for (uint32_t i = 1; i < WARP; i *= 2) {
        uint32_t other = __shfl_up_sync(ALL_LANES, upto, i);
        upto += lane >= i ? other : 0;
    }
    if (lane == WARP - 1)
        warp_sums[threadIdx.x / WARP] = upto;
    __syncthreads();
    upto -= sum;
    for (uint32_t i = 0; i < threadIdx.x / WARP; i++)
        upto += warp_sums[i];
    /* Units if all had room; there must be a slot for each that has none, too. */
    for (uint32_t i = begin; i < end; i++) {
        uint32_t pos = seqs[i].pos;
        seqs[i].unit = upto;
        upto += pos == NO_POS ? 1 : seq_splits(pos, a);
        if (upto + (a.seq_count - i - 1) > a.slots)
            atomicMin(&serial, i);
    }
    if (end == a.seq_count && begin < end)
        seqs[a.seq_count].unit = upto;
    __syncthreads();
    uint32_t from = serial;
    if (from < a.seq_count) {
        uint32_t at = seqs[from].unit;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i <= a.seq_count; i += THREADS)
            if (i > from)
                seqs[i].unit = at + (i - from);
        __syncthreads();
    }
    w->seqs = seqs;
    w->count = a.seq_count;
    w->serial = from;
    w->parts = a.kv_heads * ((a.group + HEADS - 1) / HEADS);
    w->items = seqs[a.seq_count].unit * w->parts;
}

/* One item: a split of a sequence (or all of them, one after the other) for some query heads. */
struct task {
    uint32_t seq, unit, head, heads, kv_head, part;
    uint32_t length, first, last; /* of a split; positions that it covers and sees */
    uint32_t splits;              /* units of the sequence; 0: there is no task */
    int serial;
};

/* The first item from *item on that has something to do, among the block's; 0: there is none. */
static __device__ int find_task(struct task *t, uint32_t *item, const struct work *w,
                                const struct attention_args &a)
{
    uint32_t heads_parts = (a.group + HEADS - 1) / HEADS;

    for (; *item < w->items; *item += gridDim.x) {
        uint32_t lo = 0, hi = w->count;
        t->unit = *item / w->parts;
        t->part = *item % w->parts;
        while (hi - lo > 1) {
            uint32_t middle = (lo + hi) / 2;
            if (w->seqs[middle].unit <= t->unit)
                lo = middle;
            else
                hi = middle;
        }
        t->last = w->seqs[lo].pos;
        if (t->last == NO_POS)
            continue;
        uint32_t inner = t->part % heads_parts * HEADS, base = w->seqs[lo].unit;
        t->seq = lo;
        t->kv_head = t->part / heads_parts;
        t->head = t->kv_head * a.group + inner;
        t->heads = min(a.group - inner, HEADS);
        t->serial = lo >= w->serial;
        t->splits = w->seqs[lo + 1].unit - base;
        t->first = first_visible(t->last, a.window);
        t->length = split_length(t->last + 1, a);
        if (!t->serial) {
            uint32_t begin = (t->first / t->length + (t->unit - base)) * t->length;
            t->first = max(t->first, begin);
            t->last = min(t->last, begin + t->length - 1);
        }
        return 1;
    }
    t->splits = 0;
    return 0;
}

#endif
