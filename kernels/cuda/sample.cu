/*
 * sample.cu - from logits to a token, as engine/sampler.c
 *
 * A block a row.  Nothing is sorted: a histogram of the distances from the largest logit tells
 * which of its bins a filter's border lies in; what is above it, or in it alone if that is too
 * much, is gathered in shared memory, and the border found there bit by bit.  Weights are summed as
 * integers of 40 binary places: in whatever order, the same sum.
 *
 * Differences from the CPU: weights are 2^x of other last bits; and logits more than 30
 * temperatures below the largest, whose weight is below 1e-13, may stay in although a filter would
 * drop them.
 */
#include "kernels/cuda/sample.cuh"

/* The largest, and where bins lie; 0 if a logit is no finite number. */
static __device__ int measure(struct row *r, struct shared *s, float temperature, uint32_t *best)
{
    float max = -INFINITY, low = INFINITY;
    uint32_t token = 0;
    int bad = 0;

    each_in(*r, 0, r->n, threadIdx.x, THREADS, [&](uint32_t t, float v) {
        bad |= !(fabsf(v) <= FLT_MAX);
        low = fminf(low, v);
        if (v > max) {
            max = v;
            token = t;
        }
    });
    if (__syncthreads_or(bad))
        return 0;
    rank_t top = block_max(s, max == -INFINITY ? 0 : rank_of(max, token));
    *best = rank_token(top);
    if (!(temperature > 0))
        return 1;
    /* Of the smallest by the largest: bits inverted. */
    low = value_of(~(uint32_t)block_max(s, low == INFINITY ? 0 : ~order_bits(low)));
    r->max = rank_value(top);
    r->low = fmaxf(low, r->max - FAR * temperature);
    r->width = (r->max - r->low) / BINS;
    r->by = 1 / r->width;
    r->from_value = -INFINITY;
    r->slope = fminf(LOG2E / temperature, FLT_MAX);
    return 1;
}

/* ---- a filter's border -------------------------------------------------------------------------
 */

/* The largest rank such that those from it on, among what visit() shows, have at least `need`:
 * of weight, or in number.  visit(f): f(token, value), as often as it is called. */
template <int MASS, class V>
static __device__ rank_t find_border(const struct row &r, struct shared *s, rank_t need, V visit)
{
    rank_t top = 0, flipped = 0, border;

    visit([&](uint32_t token, float v) {
        rank_t rank = rank_of(v, token);
        top = max(top, rank);
        flipped = max(flipped, ~rank);
    });
    top = block_max(s, top);
    rank_t bottom = ~block_max(s, flipped);
    if (top <= bottom)
        return bottom;
    int bit = 63 - __clzll((long long)(top ^ bottom));
    /* What all have in common. */
    border = top >> bit >> 1 << bit << 1;
    for (; bit >= 0; bit--) {
        rank_t tried = border | (rank_t)1 << bit, got = 0;
        struct mass m = {};
        visit([&](uint32_t token, float v) {
            if (rank_of(v, token) < tried)
                return;
            if (MASS)
                mass_add(&m, weight_of(r, v));
            else
                got++;
        });
        got = block_sum(s, MASS ? mass_sum(m) : got);
        if (got >= need)
            border = tried;
        if (!MASS && got == need)
            break;
    }
    return border;
}

/* The same of the few that are gathered: each looks for itself among the others. */
template <int MASS>
static __device__ rank_t find_border_few(const struct row &r, struct shared *s, rank_t need)
{
    uint32_t i = threadIdx.x;
    rank_t rank = 0, own = 0, better = 0, *shares = (rank_t *)s->bins;

    if (i < s->count) {
        struct mass m = {};
        rank = s->gathered[i];
        mass_add(&m, weight_of(r, rank_value(rank)));
        own = rank < r.from ? 0 : MASS ? mass_sum(m) : 1;
        shares[i] = own;
    }
    if (i == 0)
        s->value = 0;
    __syncthreads();
    if (i < s->count) {
        for (uint32_t j = 0; j < s->count; j++)
            better += s->gathered[j] > rank ? shares[j] : 0;
        if (better < need && better + own >= need)
            s->value = rank;
    }
    __syncthreads();
    rank = s->value;
    __syncthreads();
    return rank;
}

template <int MASS>
static __device__ rank_t find_border_gathered(const struct row &r, struct shared *s, rank_t need)
{
    if (s->count <= FEW)
        return find_border_few<MASS>(r, s, need);
    return find_border<MASS>(r, s, need, [&](auto f) { each_kept(r, s, f); });
}

static __device__ rank_t sum_kept(const struct row &r, struct shared *s)
{
    struct mass m = {};

    each_kept(r, s, [&](uint32_t, float v) { mass_add(&m, weight_of(r, v)); });
    return block_sum(s, mass_sum(m));
}

/* Bins hold numbers, or weights in 1/8192 of the largest that the bin may hold. */
#define UNITS 8192.0f
FN float bin_weight(const struct row &r, uint32_t bin)
{
    return power2(-(float)bin * r.width * r.slope);
}

FN uint32_t bin_units(const struct row &r, uint32_t bin, float v)
{
    float share = power2((v - r.max + (float)bin * r.width) * r.slope);

    return bin < BINS ? (uint32_t)fmaf(fminf(share, 1), UNITS, 0.5f) : 0;
}

/* Count what is kept into bins; the sum of all weights, with MASS. */
template <int MASS> static __device__ rank_t count_bins(const struct row &r, struct shared *s)
{
    struct mass all = {};

    for (uint32_t i = threadIdx.x; i <= BINS; i += THREADS)
        s->bins[i] = 0;
    __syncthreads();
    each_kept(r, s, [&](uint32_t, float v) {
        uint32_t bin = bin_of(r, v), unit = 1;
        if (MASS) {
            mass_add(&all, weight_of(r, v));
            unit = bin_units(r, bin, v);
        }
        atomicAdd(&s->bins[bin], unit);
    });
    __syncthreads();
    return MASS ? block_sum(s, mass_sum(all)) : 0;
}

/* The bin in which the sum of bins reaches `need`; BINS if none before it does. */
template <int MASS>
static __device__ uint32_t find_bin(const struct row &r, struct shared *s, rank_t need)
{
    constexpr uint32_t EACH = BINS / THREADS;
    rank_t mine[EACH], sum = 0, all, upto;

    for (uint32_t i = 0; i < EACH; i++) {
        uint32_t bin = threadIdx.x * EACH + i;
        mine[i] = s->bins[bin];
        if (MASS)
            mine[i] = (rank_t)((double)mine[i] * bin_weight(r, bin) * (0x1p40 / UNITS));
        sum += mine[i];
    }
    if (threadIdx.x == 0)
        s->at = BINS;
    upto = block_before(s, sum, &all);
    for (uint32_t i = 0; i < EACH; i++) {
        if (upto < need && upto + mine[i] >= need)
            s->at = threadIdx.x * EACH + i;
        upto += mine[i];
    }
    __syncthreads();
    uint32_t at = s->at;
    __syncthreads();
    return at;
}

/* Gather what is kept and lies in bins first..last; how many there are, which may be more than
 * there is room for.  *above: weight, or number, of the bins before. */
template <int MASS>
static __device__ uint32_t gather(const struct row &r, struct shared *s, uint32_t first,
                                  uint32_t last, rank_t *above)
{
    struct mass m = {};
    rank_t number = 0;

    if (threadIdx.x == 0)
        s->count = 0;
    __syncthreads();
    each_kept(r, s, [&](uint32_t token, float v) {
        uint32_t bin = bin_of(r, v);
        if (bin > last)
            return;
        if (bin < first) {
            if (MASS)
                mass_add(&m, weight_of(r, v));
            else
                number++;
            return;
        }
        uint32_t at = atomicAdd(&s->count, 1);
        if (at < GATHERED)
            s->gathered[at] = rank_of(v, token);
    });
    *above = block_sum(s, MASS ? mass_sum(m) : number);
    return s->count;
}

/* Drop all but the best that have `need` in number, or of weight. */
template <int MASS> static __device__ void drop_rest(struct row *r, struct shared *s, rank_t need)
{
    rank_t above;

    if (r->gathered) {
        drop_below(r, find_border_gathered<MASS>(*r, s, need));
        return;
    }
    uint32_t bin = find_bin<MASS>(*r, s, need), before = 0;
    if (bin == BINS && !MASS)
        return;
    /* With weights the bins' sums are a little off: the border may lie in a bin beside. */
    uint32_t first = MASS && bin > 0 ? bin - 1 : bin, last = MASS ? min(bin + 1, BINS) : bin;
    for (uint32_t i = threadIdx.x; i <= min(last, BINS - 1); i += THREADS)
        before += s->bins[i];
    /* Whether there is room for all that is kept; a bin of weights holds a few more than units. */
    if (block_sum(s, before) <= (MASS ? (rank_t)(UNITS * 0.9f) * GATHERED : GATHERED))
        first = 0;
    uint32_t count = gather<MASS>(*r, s, first, last, &above);
    if (count <= GATHERED) {
        r->gathered = 1;
        if (!MASS || (above < need && sum_kept(*r, s) + above >= need)) {
            drop_below(r, find_border_gathered<MASS>(*r, s, need - above));
            r->gathered = first == 0;
            return;
        }
        r->gathered = 0;
    }
    /* Too many are alike. */
    drop_below(r, find_border<MASS>(*r, s, need, [&](auto f) { each_kept(*r, s, f); }));
}

/* ---- the pick ----------------------------------------------------------------------------------
 */

/* Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011): 53 bits of (seed, position). */
static __device__ rank_t random53(uint64_t seed, uint32_t position)
{
    uint32_t c[4] = {position, 0, 0, 0}, k[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};

    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t c1 = c[1], c3 = c[3];
        c[0] = (uint32_t)(b >> 32) ^ c1 ^ k[0];
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c3 ^ k[1];
        c[3] = (uint32_t)a;
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    return (rank_t)c[0] << 21 ^ c[1] >> 11;
}

/* A weight that is kept, as an integer; else 0. */
FN rank_t kept_weight(const struct row &r, uint32_t token, float v)
{
    struct mass m = {};
    float w = weight_of(r, v);

    if (w >= r.least && is_kept(r, token, v))
        mass_add(&m, w);
    return mass_sum(m);
}

/* floor(u * sum) for u = bits / 2^53: the pick is the first token up to which there is more. */
FN rank_t pick_point(rank_t sum, rank_t bits)
{
    return __umul64hi(sum, bits << 11);
}

/* Of the few that are gathered: each looks for the sum up to itself. */
static __device__ uint32_t pick_few(const struct row &r, struct shared *s, rank_t bits)
{
    uint32_t i = threadIdx.x, token = 0;
    rank_t own = 0, before = 0, *shares = (rank_t *)s->bins;

    if (i < s->count) {
        token = rank_token(s->gathered[i]);
        own = kept_weight(r, token, rank_value(s->gathered[i]));
        shares[i] = own;
    }
    rank_t point = pick_point(block_sum(s, own), bits);
    if (i < s->count) {
        for (uint32_t j = 0; j < s->count; j++)
            before += rank_token(s->gathered[j]) < token ? shares[j] : 0;
        if (before <= point && before + own > point)
            s->at = token;
    }
    __syncthreads();
    return s->at;
}

/* Of what is gathered: the token's bits one by one. */
static __device__ uint32_t pick_gathered(const struct row &r, struct shared *s, rank_t bits)
{
    uint32_t token = 0; /* as many tokens' weights are not enough */
    auto upto = [&](uint32_t end) {
        rank_t sum = 0;
        each_kept(r, s, [&](uint32_t t, float v) {
            if (t < end)
                sum += kept_weight(r, t, v);
        });
        return block_sum(s, sum);
    };
    rank_t point = pick_point(upto(TOKENS_MAX), bits);

    for (uint32_t step = TOKENS_MAX / 2; step > 0; step /= 2)
        if (upto(token + step) <= point)
            token += step;
    return token;
}

/* Of the whole row: the warps' runs of tokens first, then the run's tokens. */
static __device__ uint32_t pick_row(const struct row &r, struct shared *s, rank_t bits)
{
    uint32_t run = ((r.n + WARPS - 1) / WARPS + 3) / 4 * 4, warp = threadIdx.x / WARP;
    uint32_t lane = threadIdx.x % WARP, begin = min(warp * run, r.n), end = min(begin + run, r.n);
    struct mass m = {};
    rank_t mine, all, point, upto;

    each_in(r, begin, end, lane, WARP, [&](uint32_t t, float v) {
        float w = weight_of(r, v);
        if (w >= r.least && is_kept(r, t, v))
            mass_add(&m, w);
    });
    mine = mass_sum(m);
    /* Of a run, by its first lane; the runs in their order. */
    for (int i = 16; i > 0; i /= 2)
        mine += __shfl_xor_sync(ALL_LANES, mine, i);
    mine = lane == 0 ? mine : 0;
    upto = block_before(s, mine, &all);
    point = pick_point(all, bits);
    if (lane == 0 && upto <= point && upto + mine > point) {
        s->at = warp;
        s->value = upto;
    }
    __syncthreads();
    begin = s->at * run;
    end = min(begin + run, r.n);
    rank_t before = s->value;
    __syncthreads();
    uint32_t each = (end - begin + THREADS - 1) / THREADS, from = begin + threadIdx.x * each;
    rank_t sum = 0;
    for (uint32_t i = from; i < min(from + each, end); i++)
        sum += kept_weight(r, i, __ldcg(r.logits + i));
    upto = block_before(s, sum, &all) + before;
    if (upto <= point && upto + sum > point) {
        for (uint32_t i = from; i < min(from + each, end); i++) {
            upto += kept_weight(r, i, __ldcg(r.logits + i));
            if (upto > point) {
                s->at = i;
                break;
            }
        }
    }
    __syncthreads();
    return s->at;
}

static __device__ uint32_t pick(struct row *r, struct shared *s, const struct sample &how)
{
    rank_t bits = random53(how.seed, how.position);

    r->least = fminf(how.min_p, 1);
    if (how.top_k > 0 && how.top_k < r->n) {
        count_bins<0>(*r, s);
        drop_rest<0>(r, s, how.top_k);
    }
    if (how.top_p < 1) {
        rank_t sum = r->gathered ? sum_kept(*r, s) : count_bins<1>(*r, s);
        /* At least one stays. */
        rank_t need = (rank_t)ceil((double)sum * fmaxf(how.top_p, 0));
        drop_rest<1>(r, s, max(need, (rank_t)1));
    }
    if (!r->gathered)
        return pick_row(*r, s, bits);
    return s->count <= FEW ? pick_few(*r, s, bits) : pick_gathered(*r, s, bits);
}

static __global__ void __launch_bounds__(THREADS, 1)
    sample_kernel(uint32_t *tokens, const float *logits, const struct sample *how, uint32_t n)
{
    __shared__ struct shared shared;
    struct shared *s = &shared;
    struct row r = {};
    uint32_t best = 0;

    await_kernels();
    struct sample h = how[blockIdx.x];
    r.logits = logits + (size_t)blockIdx.x * n;
    r.n = n;
    r.by4 = n % 4 == 0 && ((uintptr_t)logits & 15) == 0;
    uint32_t token = SAMPLE_NONE;
    if (measure(&r, s, h.temperature, &best))
        token = h.temperature > 0 ? pick(&r, s, h) : best;
    if (threadIdx.x == 0)
        tokens[blockIdx.x] = token;
}

/* ---- public ------------------------------------------------------------------------------------
 */

void cuda_sample(struct device *d, uint32_t *tokens, const float *logits, const struct sample *how,
                 uint32_t rows, uint32_t vocabulary)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0)
        return;
    if (vocabulary == 0 || vocabulary > TOKENS_MAX) {
        cuda_note(c, cudaErrorInvalidValue);
        return;
    }
    cuda_launch(c, sample_kernel, dim3(rows), THREADS, 0, tokens, logits, how, vocabulary);
}
