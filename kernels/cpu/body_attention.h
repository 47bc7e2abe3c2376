/*
 * body_attention.h - causal grouped-query attention over pages
 *
 * Included by portable.c and avx2.c behind body_row.h.
 *
 * Online softmax (Milakov and Gimelshein, 2018) over blocks of positions that begin at multiples of
 * the block's length, in ascending order.  What a token computes thus depends on its position and
 * the keys and values before it alone, whether it was decoded or part of a prompt's chunk.  Scores
 * come eight positions at a time, lane = position mod 8; lanes past the token count as minus
 * infinity.  The query heads that share a key head go through a block together, while it is in
 * cache.
 */

/* One query head's running state; acc[head_dim] lies elsewhere. */
struct softmax {
    v8 sum;    /* of exp(score - max), by lane */
    float max; /* of the scores so far */
};

/* Scores of `count` positions into p, those below `first` and up to a multiple of 8 minus infinity;
 * their maximum. */
static float block_scores(float *p, const float *q, const float *keys, uint32_t first,
                          uint32_t count, uint32_t dim, const struct attention *attention)
{
    v8 largest = v_set(-INFINITY);

    for (uint32_t t = 0; t < count; t += 8) {
        const float *key[8];
        v8 acc[8], s;
        uint32_t i = 0;
        /* Positions past the last one have no key yet: read the last one's again. */
        UNROLL
        for (uint32_t l = 0; l < 8; l++) {
            key[l] = keys + (size_t)(t + l < count ? t + l : count - 1) * dim;
            acc[l] = v_set(0);
        }
        for (; i + 8 <= dim; i += 8) {
            v8 qv = v_load(q + i);
            UNROLL
            for (uint32_t l = 0; l < 8; l++)
                acc[l] = v_fma(v_load(key[l] + i), qv, acc[l]);
        }
        if (i < dim) {
            v8 qv = v_load_part(q + i, dim - i);
            UNROLL
            for (uint32_t l = 0; l < 8; l++)
                acc[l] = v_fma(v_load_part(key[l] + i, dim - i), qv, acc[l]);
        }
        s = v_mul(v_sums(acc), v_set(attention->scale));
        if (attention->softcap > 0)
            s = v_mul(v_tanh(v_div(s, v_set(attention->softcap))), v_set(attention->softcap));
        if (count - t < 8)
            s = v_first(s, v_set(-INFINITY), count - t);
        if (first > t)
            s = v_first(v_set(-INFINITY), s, first - t < 8 ? first - t : 8);
        largest = v_max(largest, s);
        v_store(p + t, s);
    }
    return v_largest(largest);
}

/* acc[0..8n) = acc * keep + sum of p[t] * values[t], t ascending. */
VEC_FN void add_values(float *acc, const float *p, const float *values, uint32_t count,
                       uint32_t dim, float keep, const uint32_t n)
{
    v8 a[8];

    UNROLL
    for (uint32_t i = 0; i < n; i++)
        a[i] = v_mul(v_load(acc + 8 * i), v_set(keep));
    for (uint32_t t = 0; t < count; t++) {
        v8 pt = v_set(p[t]);
        UNROLL
        for (uint32_t i = 0; i < n; i++)
            a[i] = v_fma(pt, v_load(values + (size_t)t * dim + 8 * i), a[i]);
    }
    UNROLL
    for (uint32_t i = 0; i < n; i++)
        v_store(acc + 8 * i, a[i]);
}

static void block_values(float *acc, const float *p, const float *values, uint32_t count,
                         uint32_t dim, float keep)
{
    uint32_t i = 0;

    for (; i + 64 <= dim; i += 64)
        add_values(acc + i, p, values + i, count, dim, keep, 8);
    for (; i + 8 <= dim; i += 8)
        add_values(acc + i, p, values + i, count, dim, keep, 1);
    if (i < dim) {
        v8 a = v_mul(v_load_part(acc + i, dim - i), v_set(keep));
        for (uint32_t t = 0; t < count; t++)
            a = v_fma(v_set(p[t]), v_load_part(values + (size_t)t * dim + i, dim - i), a);
        v_store_part(acc + i, a, dim - i);
    }
}

static void attend_block(struct softmax *s, float *acc, const float *q, const float *keys,
                         const float *values, uint32_t first, uint32_t count, uint32_t dim,
                         const struct attention *attention)
{
    float p[ATTENTION_BLOCK];
    float block_max = block_scores(p, q, keys, first, count, dim, attention);
    float max = s->max > block_max ? s->max : block_max;
    float keep[8];

    v_store(keep, v_exp(v_set(s->max - max)));
    s->sum = v_mul(s->sum, v_set(keep[0]));
    for (uint32_t t = 0; t < count; t += 8) {
        v8 e = v_exp(v_sub(v_load(p + t), v_set(max)));
        s->sum = v_add(s->sum, e);
        v_store(p + t, e);
    }
    s->max = max;
    block_values(acc, p, values, count, dim, keep[0]);
}

#ifdef ATTENTION_PAIRS
#include "kernels/cpu/attention_pair_avx512.h"
#endif

/* One head's block, or two heads' of the n <= GROUP_AT_ONCE that are left; how many it was. */
static uint32_t attend_heads(struct softmax *s, uint32_t n, float *acc, const float *q,
                             const float *keys, const float *values, uint32_t first, uint32_t count,
                             uint32_t dim, const struct attention *attention)
{
#ifdef ATTENTION_PAIRS
    if (n > 1 && dim % 8 == 0 && !(attention->softcap > 0)) {
        attend_pair(s, acc, q, keys, values, first, count, dim, attention);
        return 2;
    }
#endif
    (void)n;
    attend_block(s, acc, q, keys, values, first, count, dim, attention);
    return 1;
}

/* The first position that a token at pos sees. */
static uint32_t first_seen(const struct attention *attention, uint32_t pos)
{
    return attention->window != 0 && pos >= attention->window ? pos + 1 - attention->window : 0;
}

/* Query heads, and tokens of a sequence, that go through a block together; more take several turns.
 */
#define GROUP_AT_ONCE 16u

/* n <= GROUP_AT_ONCE query heads of one key head for `tokens` <= ATTENTION_TOKENS tokens from pos
 * on; out, q: the first head of the first of them, the next token's a row further on. */
static void attend(const struct attention_job *job, const struct attn_row *seq, uint32_t pos,
                   uint32_t tokens, uint32_t kv_head, float *out, const float *q, uint32_t n)
{
    const struct kv_layout *kv = job->kv;
    uint32_t dim = kv->head_dim, last = pos + tokens - 1;
    uint32_t length = kv->page_tokens < ATTENTION_BLOCK ? kv->page_tokens : ATTENTION_BLOCK;
    struct softmax heads[ATTENTION_TOKENS][GROUP_AT_ONCE];
    size_t stride = (size_t)job->q_heads * dim, q_stride = stride + 2 * (size_t)kv->kv_heads * dim;

    for (uint32_t t = 0; t < tokens; t++) {
        for (uint32_t g = 0; g < n; g++)
            heads[t][g] = (struct softmax){v_set(0), -INFINITY};
        memset(out + t * stride, 0, (size_t)n * dim * sizeof(float));
    }
    /* Blocks that no token of the run sees are skipped; what a window cuts off counts as minus
     * infinity. */
    for (uint32_t start = first_seen(job->attention, pos) / length * length; start <= last;
         start += length) {
        size_t slot = start % kv->page_tokens * (size_t)dim;
        const float *keys = page_rows(kv, job->layer, seq, job->pages, 0, kv_head, start) + slot;
        const float *values = page_rows(kv, job->layer, seq, job->pages, 1, kv_head, start) + slot;
        for (uint32_t t = start > pos ? start - pos : 0; t < tokens; t++) {
            uint32_t seen = pos + t + 1 - start, count = seen < length ? seen : length;
            uint32_t from = first_seen(job->attention, pos + t);
            uint32_t first = from > start ? from - start : 0;
            for (size_t g = 0; first < count && g < n;)
                g += attend_heads(&heads[t][g], n - (uint32_t)g, out + t * stride + g * dim,
                                  q + t * q_stride + g * dim, keys, values, first, count, dim,
                                  job->attention);
        }
    }
    for (uint32_t t = 0; t < tokens; t++) {
        for (uint32_t g = 0; g < n; g++) {
            v8 sum = v_set(v_sum(heads[t][g].sum));
            float *o = out + t * stride + (size_t)g * dim;
            for (uint32_t i = 0; i < dim; i += 8)
                store_upto(o + i, v_div(load_upto(o + i, dim - i), sum), dim - i);
        }
    }
}

/* An item is a key head of a run of at most ATTENTION_TOKENS tokens of one sequence. */
static void attention_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct attention_job *job = arg;
    const struct kv_layout *kv = job->kv;
    uint32_t group = job->q_heads / kv->kv_heads;
    size_t q_row = (size_t)(job->q_heads + 2 * kv->kv_heads) * kv->head_dim;
    size_t out_row = (size_t)job->q_heads * kv->head_dim;

    (void)worker;
    for (uint32_t item = begin; item < end; item++) {
        const struct attn_row *seq = job->seqs;
        uint32_t run = item / kv->kv_heads, kv_head = item % kv->kv_heads;
        while (run >= ATTENTION_RUNS(seq->count))
            run -= ATTENTION_RUNS((seq++)->count);
        uint32_t token = run * ATTENTION_TOKENS, left = seq->count - token;
        uint32_t tokens = left < ATTENTION_TOKENS ? left : ATTENTION_TOKENS;
        for (uint32_t g = 0; g < group; g += GROUP_AT_ONCE) {
            uint32_t n = group - g < GROUP_AT_ONCE ? group - g : GROUP_AT_ONCE;
            size_t row = (size_t)seq->first_row + token;
            size_t head = ((size_t)kv_head * group + g) * kv->head_dim;
            attend(job, seq, seq->first_pos + token, tokens, kv_head,
                   job->out + row * out_row + head, job->qkv + row * q_row + head, n);
        }
    }
}
