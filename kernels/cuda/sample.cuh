/*
 * sample.cuh - what sample.cu is made of: logits as ranks and weights, sums over a block, passes
 * over a row
 */
#ifndef MP_KERNELS_CUDA_SAMPLE_CUH
#define MP_KERNELS_CUDA_SAMPLE_CUH

#include <float.h>
#include <math.h>

#include "kernels/cuda/operand.cuh"

#define THREADS  1024u
#define WARPS    (THREADS / WARP)
#define BINS     4096u /* and one for what is far below */
#define GATHERED 3072u
#define FEW      512u /* gathered ones that are compared each with each */
#define AHEAD    4u   /* loads of 16 bytes in flight in a thread */
#define FAR      30.0f
#define LOG2E    1.4426950408889634f

/* A logit and its token as one number: the better, the larger.  Tokens are below 2^18. */
#define TOKEN_BITS 18
#define TOKENS_MAX (1u << TOKEN_BITS)
typedef unsigned long long rank_t;

struct shared {
    uint32_t bins[BINS + 1];
    rank_t gathered[GATHERED];
    rank_t sums[WARPS];
    uint32_t count, at, bad;
    rank_t value;
};

/* What a row's passes need to know. */
struct row {
    const float *logits;
    uint32_t n;
    int by4;
    float max, low;   /* the largest; what is below low goes to the last bin */
    float by, width;  /* bins: (max - logit) * by; how wide they are */
    float slope;      /* weight: 2^((logit - max) * slope) */
    float least;      /* weights below are dropped: min_p */
    rank_t from;      /* ranks below are dropped, */
    float from_value; /* and so all whose logit is below */
    int gathered;     /* all that is kept lies in shared memory */
};

/* ---- one logit ---------------------------------------------------------------------------------
 */

FN uint32_t order_bits(float v)
{
    uint32_t bits = __float_as_uint(v + 0.0f); /* zero has one sign */
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

FN float value_of(uint32_t bits)
{
    return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

FN rank_t rank_of(float v, uint32_t token)
{
    return (rank_t)order_bits(v) << TOKEN_BITS | (TOKENS_MAX - 1 - token);
}

FN float rank_value(rank_t rank)
{
    return value_of((uint32_t)(rank >> TOKEN_BITS));
}

FN uint32_t rank_token(rank_t rank)
{
    return TOKENS_MAX - 1 - (uint32_t)(rank & (TOKENS_MAX - 1));
}

FN float power2(float x)
{
    float w;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(w) : "f"(x));
    return w;
}

FN float weight_of(const struct row &r, float v)
{
    return power2((v - r.max) * r.slope);
}

FN uint32_t bin_of(const struct row &r, float v)
{
    return v < r.low ? BINS : min(BINS - 1, (uint32_t)((r.max - v) * r.by));
}

/* A thread's sum of weights, as integers: of places 1 to 20, and 21 to 40. */
struct mass {
    uint32_t high;
    int low;
};

FN void mass_add(struct mass *m, float w)
{
    float high = fmaf(w, 0x1p20f, 0x1p23f), rest = fmaf(w, 0x1p20f, -(high - 0x1p23f));
    float low = fmaf(rest, 0x1p20f, 0x1.8p23f);

    m->high += __float_as_uint(high) - 0x4b000000u;
    m->low += (int)(__float_as_uint(low) - 0x4b400000u);
}

FN rank_t mass_sum(const struct mass &m)
{
    return ((rank_t)m.high << 20) + (rank_t)(long long)m.low;
}

/* ---- sums over the block -----------------------------------------------------------------------
 */

/* Everyone gets it. */
static __device__ rank_t block_sum(struct shared *s, rank_t v)
{
    for (int i = 16; i > 0; i /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, i);
    if (threadIdx.x % WARP == 0)
        s->sums[threadIdx.x / WARP] = v;
    __syncthreads();
    v = s->sums[threadIdx.x % WARP];
    for (int i = 16; i > 0; i /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, i);
    __syncthreads();
    return v;
}

static __device__ rank_t block_max(struct shared *s, rank_t v)
{
    for (int i = 16; i > 0; i /= 2)
        v = max(v, __shfl_xor_sync(ALL_LANES, v, i));
    if (threadIdx.x % WARP == 0)
        s->sums[threadIdx.x / WARP] = v;
    __syncthreads();
    v = s->sums[threadIdx.x % WARP];
    for (int i = 16; i > 0; i /= 2)
        v = max(v, __shfl_xor_sync(ALL_LANES, v, i));
    __syncthreads();
    return v;
}

/* The sum of the threads before; *all: of all. */
static __device__ rank_t block_before(struct shared *s, rank_t v, rank_t *all)
{
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    rank_t upto = v, other, sums;

    for (uint32_t i = 1; i < WARP; i *= 2) {
        other = __shfl_up_sync(ALL_LANES, upto, i);
        upto += lane >= i ? other : 0;
    }
    if (lane == WARP - 1)
        s->sums[warp] = upto;
    __syncthreads();
    sums = s->sums[lane];
    for (uint32_t i = 1; i < WARP; i *= 2) {
        other = __shfl_up_sync(ALL_LANES, sums, i);
        sums += lane >= i ? other : 0;
    }
    *all = __shfl_sync(ALL_LANES, sums, WARP - 1);
    other = __shfl_sync(ALL_LANES, sums, (int)(warp + WARP - 1) % (int)WARP);
    __syncthreads();
    return upto - v + (warp > 0 ? other : 0);
}

/* ---- passes over the row -----------------------------------------------------------------------
 */

/* Tokens [begin, end) by `threads` threads, this one's number `thread`; begin is a multiple of 4.
 */
template <class F>
FN void each_in(const struct row &r, uint32_t begin, uint32_t end, uint32_t thread,
                uint32_t threads, F f)
{
    if (!r.by4) {
        for (uint32_t i = begin + thread; i < end; i += threads * 4 * AHEAD) {
            float v[4 * AHEAD];
#pragma unroll
            for (uint32_t j = 0; j < 4 * AHEAD; j++)
                if (i + j * threads < end)
                    v[j] = __ldcg(r.logits + i + j * threads);
#pragma unroll
            for (uint32_t j = 0; j < 4 * AHEAD; j++)
                if (i + j * threads < end)
                    f(i + j * threads, v[j]);
        }
        return;
    }
    /* The row's length is a multiple of 4, too. */
    for (uint32_t i = begin + thread * 4; i < end; i += threads * 4 * AHEAD) {
        float4 v[AHEAD];
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; j++)
            if (i + j * threads * 4 < end)
                v[j] = __ldcg((const float4 *)(r.logits + i + j * threads * 4));
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; j++) {
            uint32_t t = i + j * threads * 4;
            if (t >= end)
                break;
            f(t, v[j].x);
            f(t + 1, v[j].y);
            f(t + 2, v[j].z);
            f(t + 3, v[j].w);
        }
    }
}

FN int is_kept(const struct row &r, uint32_t token, float v)
{
    return v > r.from_value || (v == r.from_value && rank_of(v, token) >= r.from);
}

FN void drop_below(struct row *r, rank_t from)
{
    if (from > r->from) {
        r->from = from;
        r->from_value = rank_value(from);
    }
}

/* Whatever is kept: f(token, value). */
template <class F> FN void each_kept(const struct row &r, const struct shared *s, F f)
{
    if (r.gathered) {
        for (uint32_t i = threadIdx.x; i < s->count; i += THREADS) {
            rank_t rank = s->gathered[i];
            if (rank >= r.from)
                f(rank_token(rank), rank_value(rank));
        }
        return;
    }
    each_in(r, 0, r.n, threadIdx.x, THREADS, [&](uint32_t t, float v) {
        if (is_kept(r, t, v))
            f(t, v);
    });
}

#endif
