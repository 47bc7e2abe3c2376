/*
 * sampler.c - from logits to a token
 *
 * Filters never sort the vocabulary: top-k and top-p are found by partitioning around pivots
 * (quickselect; for top-p the side to go on with is chosen by probability mass), linear on average.
 */
#include "engine/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    float value;  /* logit after penalties */
    float weight; /* exp((value - largest) / temperature), in [0, 1] */
    uint32_t token;
};

struct sampler {
    uint32_t room;                /* tokens that each of these holds */
    uint32_t *marks;              /* all 0 between picks */
    float *values;                /* logits after penalties */
    float *weights;               /* of kept tokens, 0 of others */
    struct candidate *candidates; /* what the filters work on */
};

/* ---- random numbers ------------------------------------------------------------------------ */

void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
    uint32_t k[2] = {key[0], key[1]};

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
    memcpy(out, c, sizeof(c));
}

/* In [0, 1), of 53 bits. */
static double uniform(uint64_t seed, uint32_t position)
{
    uint32_t counter[4] = {position, 0, 0, 0}, out[4];
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};

    philox4x32(counter, key, out);
    uint64_t bits = (uint64_t)out[0] << 21 ^ out[1] >> 11;
    return (double)bits * 0x1p-53;
}

/* ---- biases and penalties ------------------------------------------------------------------ */

static void add_biases(struct sampler *s, const struct sampler_input *in)
{
    for (uint32_t i = 0; i < in->bias_count; i++)
        if (in->biases[i].token < in->vocabulary)
            s->values[in->biases[i].token] += in->biases[i].bias;
}

static void penalize_repetition(struct sampler *s, const struct sampler_input *in)
{
    float penalty = in->sampling->repetition_penalty;

    for (uint32_t i = 0; i < in->count; i++) {
        uint32_t t = in->tokens[i];
        if (t >= in->vocabulary || s->marks[t])
            continue;
        s->marks[t] = 1;
        s->values[t] = s->values[t] > 0 ? s->values[t] / penalty : s->values[t] * penalty;
    }
    for (uint32_t i = 0; i < in->count; i++)
        if (in->tokens[i] < in->vocabulary)
            s->marks[in->tokens[i]] = 0;
}

static void penalize_output(struct sampler *s, const struct sampler_input *in)
{
    const struct order_sampling *o = in->sampling;

    for (uint32_t i = in->prompt; i < in->count; i++)
        if (in->tokens[i] < in->vocabulary)
            s->marks[in->tokens[i]]++;
    for (uint32_t i = in->prompt; i < in->count; i++) {
        uint32_t t = in->tokens[i];
        if (t >= in->vocabulary || s->marks[t] == 0)
            continue;
        s->values[t] -= o->frequency_penalty * (float)s->marks[t] + o->presence_penalty;
        s->marks[t] = 0;
    }
}

/* The logits after biases and penalties: the input's own where there are none. */
static const float *penalize(struct sampler *s, const struct sampler_input *in)
{
    const struct order_sampling *o = in->sampling;
    int repetition = o->repetition_penalty != 1;
    int output = o->frequency_penalty != 0 || o->presence_penalty != 0;

    if (!repetition && !output && in->bias_count == 0)
        return in->logits;
    memcpy(s->values, in->logits, in->vocabulary * sizeof(*s->values));
    add_biases(s, in);
    if (repetition)
        penalize_repetition(s, in);
    if (output)
        penalize_output(s, in);
    return s->values;
}

#define LARGEST_BLOCK 256u

typedef float lanes __attribute__((vector_size(16)));
typedef int32_t int_lanes __attribute__((vector_size(16)));

/* Whether all of LARGEST_BLOCK values are finite; *largest is then the largest of them.  A
 * vocabulary is large and this is one thread's work: four chains of four lanes. */
static int block_largest(const float *values, float *largest)
{
    lanes most[4], v;
    int_lanes bad = {0}, above;

    memcpy(most, values, sizeof(most));
    for (uint32_t i = 0; i < LARGEST_BLOCK; i += 16) {
        for (uint32_t j = 0; j < 4; j++) {
            memcpy(&v, values + i + 4 * j, sizeof(v));
            above = v > most[j];
            most[j] = (lanes)((above & (int_lanes)v) | (~above & (int_lanes)most[j]));
            bad |= ((int_lanes)v & 0x7fffffff) > 0x7f7fffff; /* FLT_MAX */
        }
    }
    *largest = most[0][0];
    for (uint32_t i = 1; i < 16; i++)
        *largest = most[i / 4][i % 4] > *largest ? most[i / 4][i % 4] : *largest;
    return (bad[0] | bad[1] | bad[2] | bad[3]) == 0;
}

/* The lowest token with the largest value; -1 if a value is no finite number. */
static int64_t largest(const float *values, uint32_t n)
{
    uint32_t best = 0, i = 0;
    float most;

    for (; i + LARGEST_BLOCK <= n; i += LARGEST_BLOCK) {
        if (!block_largest(values + i, &most))
            return -1;
        for (uint32_t j = i; most > values[best]; j++)
            best = values[j] >= most ? j : best;
    }
    for (; i < n; i++) {
        if (!(fabsf(values[i]) <= FLT_MAX))
            return -1;
        if (values[i] > values[best])
            best = i;
    }
    return best;
}

/* ---- filters ------------------------------------------------------------------------------- */

static int before(const struct candidate *a, const struct candidate *b)
{
    return a->value > b->value || (a->value == b->value && a->token < b->token);
}

static void swap(struct candidate *a, struct candidate *b)
{
    struct candidate t = *a;
    *a = *b;
    *b = t;
}

/* Partition c[lo, hi) around one of its members: those before it, it, those after it.  Returns
 * where it is.  Pivots are medians of three drawn by a generator of our own, so that no order of
 * logits is a bad one by construction. */
static uint32_t partition(struct candidate *c, uint32_t lo, uint32_t hi, uint64_t *random)
{
    struct candidate *pick[3];
    uint32_t at = lo;

    for (int i = 0; i < 3; i++) {
        *random = *random * 6364136223846793005u + 1442695040888963407u;
        pick[i] = &c[lo + (uint32_t)((*random >> 32) * (hi - lo) >> 32)];
    }
    int ab = before(pick[0], pick[1]), bc = before(pick[1], pick[2]), ac = before(pick[0], pick[2]);
    swap(ab == bc ? pick[1] : ab == ac ? pick[2] : pick[0], &c[hi - 1]);
    for (uint32_t i = lo; i + 1 < hi; i++)
        if (before(&c[i], &c[hi - 1]))
            swap(&c[i], &c[at++]);
    swap(&c[at], &c[hi - 1]);
    return at;
}

/* Bring the k best to the front. */
static void select_count(struct candidate *c, uint32_t n, uint32_t k, uint64_t *random)
{
    uint32_t lo = 0, hi = n;

    while (lo < k && k < hi) {
        uint32_t at = partition(c, lo, hi, random);
        if (k <= at)
            hi = at;
        else
            lo = at + 1;
    }
}

/* Bring the fewest best whose weights reach `share` of the sum to the front; their number, at least
 * 1. */
static uint32_t select_mass(struct candidate *c, uint32_t n, float share, uint64_t *random)
{
    uint32_t lo = 0, hi = n;
    double target = 0, mass = 0; /* mass: of c[0, lo), all of them kept */

    for (uint32_t i = 0; i < n; i++)
        target += c[i].weight;
    target *= share;
    while (lo < hi) {
        uint32_t at = partition(c, lo, hi, random);
        double upper = mass;
        for (uint32_t i = lo; i < at; i++)
            upper += c[i].weight;
        if (upper >= target) {
            hi = at;
            continue;
        }
        mass = upper + c[at].weight;
        lo = at + 1;
        if (mass >= target)
            break;
    }
    return lo > 0 ? lo : 1;
}

/* Leave weights of kept tokens alone in s->weights. */
static void filter(struct sampler *s, const float *values, uint32_t n, float max,
                   const struct order_sampling *o)
{
    struct candidate *c = s->candidates;
    uint64_t random = 0x9E3779B97F4A7C15u;
    uint32_t kept = n;

    for (uint32_t i = 0; i < n; i++)
        c[i] = (struct candidate){.value = values[i], .token = i};
    if (o->top_k > 0 && o->top_k < n) {
        kept = o->top_k;
        select_count(c, n, kept, &random);
    }
    for (uint32_t i = 0; i < kept; i++)
        c[i].weight = expf((c[i].value - max) / o->temperature);
    if (o->top_p < 1)
        kept = select_mass(c, kept, o->top_p, &random);
    /* The largest weight is 1, so min_p is a bound on weights; it never drops the largest. */
    float least = o->min_p < 1 ? o->min_p : 1;
    memset(s->weights, 0, n * sizeof(*s->weights));
    for (uint32_t i = 0; i < kept; i++)
        if (c[i].weight >= least)
            s->weights[c[i].token] = c[i].weight;
}

/* The token at u of the cumulative distribution. */
static int64_t invert(const float *weights, uint32_t n, double u)
{
    double sum = 0, upto = 0;
    int64_t last = -1;

    for (uint32_t i = 0; i < n; i++)
        sum += weights[i];
    for (uint32_t i = 0; i < n; i++) {
        if (!(weights[i] > 0))
            continue;
        last = i;
        upto += weights[i];
        if (upto > u * sum)
            break;
    }
    return last;
}

/* ---- public -------------------------------------------------------------------------------- */

struct sampler *sampler_create(struct error *err)
{
    struct sampler *s = calloc(1, sizeof(*s));

    if (!s)
        error_set(err, STATUS_NOMEM, "no memory for a sampler");
    return s;
}

static void release(struct sampler *s)
{
    free(s->marks);
    free(s->values);
    free(s->weights);
    free(s->candidates);
}

void sampler_destroy(struct sampler *s)
{
    if (!s)
        return;
    release(s);
    free(s);
}

int sampler_fit(struct sampler *s, uint32_t vocabulary, struct error *err)
{
    struct sampler grown = {.room = vocabulary};

    if (vocabulary <= s->room)
        return 0;
    grown.marks = calloc(vocabulary, sizeof(*grown.marks));
    grown.values = calloc(vocabulary, sizeof(*grown.values));
    grown.weights = calloc(vocabulary, sizeof(*grown.weights));
    grown.candidates = calloc(vocabulary, sizeof(*grown.candidates));
    if (!grown.marks || !grown.values || !grown.weights || !grown.candidates) {
        release(&grown);
        return error_set(err, STATUS_NOMEM, "no memory to sample from %u tokens", vocabulary);
    }
    release(s);
    *s = grown;
    return 0;
}

int64_t sampler_pick(struct sampler *s, const struct sampler_input *in)
{
    const struct order_sampling *o = in->sampling;
    uint32_t n = in->vocabulary;

    if (n == 0 || n > s->room)
        return -1;
    const float *values = penalize(s, in);
    int64_t best = largest(values, n);
    if (best < 0 || !(o->temperature > 0))
        return best;
    float max = values[best];
    if ((o->top_k > 0 && o->top_k < n) || o->top_p < 1 || o->min_p > 0) {
        filter(s, values, n, max, o);
    } else {
        for (uint32_t i = 0; i < n; i++)
            s->weights[i] = expf((values[i] - max) / o->temperature);
    }
    return invert(s->weights, n, uniform(o->seed, in->position));
}
