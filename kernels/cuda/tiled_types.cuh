/*
 * tiled_types.cuh - how tiled.cuh's kernel multiplies a unit of each type
 *
 * Integers and codes become bfloat16, exactly; a group's sums are scaled in float32.  What is taken
 * off per sum of x (a type's zero, its minima, and the 128 that decoding adds) is a small product
 * of its own at a unit's end: 8 groups' terms times 8 sums of x, each of them as two bfloat16.
 */
#ifndef MP_KERNELS_CUDA_TILED_TYPES_CUH
#define MP_KERNELS_CUDA_TILED_TYPES_CUH

#include "kernels/cuda/lone_types.cuh"

/* Of rows g and g + 8: fragments of 32 columns. */
struct fragments {
    uint32_t a[2][4];
};

FN struct fragments fragments_of(uint2 low0, uint2 low1, uint2 high0, uint2 high1)
{
    return {{{low0.x, high0.x, low0.y, high0.y}, {low1.x, high1.x, low1.y, high1.y}}};
}

/* 128 more than the quants. */
FN struct fragments offset_fragments(uint2 low, uint2 high)
{
    return fragments_of(offset_bytes(low.x), offset_bytes(low.y), offset_bytes(high.x),
                        offset_bytes(high.y));
}

FN void add(float (&c)[4], const struct fragments &f, const uint4 &b)
{
    mma(c, f.a[0][0], f.a[0][1], f.a[0][2], f.a[0][3], b.x, b.y);
    mma(c, f.a[1][0], f.a[1][1], f.a[1][2], f.a[1][3], b.z, b.w);
}

/* acc += scale * fragments x. */
FN void add_scaled(float (&acc)[4], const struct fragments &f, const uint4 &b, float low,
                   float high)
{
    float c[4] = {};

    add(c, f, b);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        acc[i] = fmaf(i / 2 ? high : low, c[i], acc[i]);
}

/* acc += off * sums of x: off of rows g and g + 8 and groups 2 t and 2 t + 1. */
template <uint32_t NT>
FN void add_offsets(float (&acc)[NT][4], const float (&off)[2][2], const uint8_t *sums,
                    uint32_t lane)
{
    uint32_t high[2], low[2];

#pragma unroll
    for (uint32_t r = 0; r < 2; r++) {
        high[r] = bf16_pair(off[r][0], off[r][1]);
        low[r] = bf16_pair(off[r][0] - bf16_low(high[r]), off[r][1] - bf16_high(high[r]));
    }
#pragma unroll
    for (uint32_t n = 0; n < NT; n++) {
        uint2 b = *(const uint2 *)(sums + n * 256 + lane * 8);
        mma(acc[n], high[0], high[1], low[0], low[1], b.x, b.x);
        mma(acc[n], high[0], high[1], low[0], low[1], b.y, b.y);
    }
}

/* Sums of x of group `group`: of each row 8 pairs, high and low, two groups each. */
template <class C, uint32_t NT>
FN void sum_group(uint8_t *sums, const uint8_t *x, uint32_t group, uint32_t lane)
{
    uint32_t g = lane / 4, t = lane % 4;

#pragma unroll
    for (uint32_t n = 0; n < NT; n++) {
        uint4 b = x_8<C>(x, n * 8 + g, group * 32 + t * 8, NT * 8);
        float c[4] = {};
        mma(c, ONES, ONES, ONES, ONES, b.x, b.y);
        mma(c, ONES, ONES, ONES, ONES, b.z, b.w);
        if (g > 0)
            continue;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            __nv_bfloat16 *to =
                (__nv_bfloat16 *)(sums + (n * 8 + 2 * t + i) * 32 + group / 2 * 8 + group % 2 * 2);
            to[0] = __float2bfloat16_rn(c[i]);
            to[2] = __float2bfloat16_rn(c[i] - __bfloat162float(to[0]));
        }
    }
}

template <bool MIN, bool FIFTH> struct nibble_tiled : nibble_stream<MIN, FIFTH> {
    typedef nibble_stream<MIN, FIFTH> B;
    enum : uint32_t { SIDE = 0, OFFSETS = 1 };
    FN void terms(float (&off)[2], const uint8_t *row, uint32_t t)
    {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const uint8_t *block = row + (2 * t + i) * B::BLOCK;
            float d = half_at(block);
            off[i] = MIN ? fmaf(-128, d, half_at(block + 2)) : (FIFTH ? -144 : -136) * d;
        }
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, const uint8_t *sums,
                       uint32_t unit, uint32_t lane)
    {
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *low = w + g * B::STRIDE, *high = low + 8 * B::STRIDE;
        float off[2][2];
        (void)unit;
#pragma unroll
        for (uint32_t k = 0; k < 8; k++) {
            struct fragments f = offset_fragments(B::quants(low, k, t), B::quants(high, k, t));
            float dl = half_at(low + k * B::BLOCK), dh = half_at(high + k * B::BLOCK);
#pragma unroll
            for (uint32_t n = 0; n < NT; n++) {
                uint2 b0 = x_4<B>(x, n * 8 + g, k * 32 + t * 4, NT * 8);
                uint2 b1 = x_4<B>(x, n * 8 + g, k * 32 + 16 + t * 4, NT * 8);
                add_scaled(acc[n], f, {b0.x, b0.y, b1.x, b1.y}, dl, dh);
            }
        }
        terms(off[0], low, t);
        terms(off[1], high, t);
        add_offsets<NT>(acc, off, sums, lane);
    }
};

struct q8_0_tiled : q8_0_stream {
    enum : uint32_t { SIDE = 0, OFFSETS = 0 };
    FN uint2 signed_quads(uint32_t v)
    {
        uint2 rest = offset_bytes(v & 0x7f7f7f7fu), sign = offset_bytes(v & 0x80808080u);
        return {subtract(rest.x, sign.x), subtract(rest.y, sign.y)};
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, const uint8_t *sums,
                       uint32_t unit, uint32_t lane)
    {
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *low = w + g * STRIDE, *high = low + 8 * STRIDE;
        (void)unit;
        (void)sums;
#pragma unroll
        for (uint32_t k = 0; k < 8; k++) {
            struct fragments f = fragments_of(signed_quads(word_at(low + 4 * t, k * 34 + 2)),
                                              signed_quads(word_at(low + 4 * t, k * 34 + 18)),
                                              signed_quads(word_at(high + 4 * t, k * 34 + 2)),
                                              signed_quads(word_at(high + 4 * t, k * 34 + 18)));
            float dl = half_at(low + k * 34), dh = half_at(high + k * 34);
#pragma unroll
            for (uint32_t n = 0; n < NT; n++) {
                uint2 b0 = x_4<q8_0_stream>(x, n * 8 + g, k * 32 + t * 4, NT * 8);
                uint2 b1 = x_4<q8_0_stream>(x, n * 8 + g, k * 32 + 16 + t * 4, NT * 8);
                add_scaled(acc[n], f, {b0.x, b0.y, b1.x, b1.y}, dl, dh);
            }
        }
    }
};

template <bool FIFTH> struct k_tiled : k_stream<FIFTH> {
    typedef k_stream<FIFTH> B;
    typedef k_lone<FIFTH> L;
    enum : uint32_t { SIDE = 0, OFFSETS = 1 };
    /* d times byte i, below 64, of v. */
    FN float times(float d, float zero, uint32_t v, uint32_t i)
    {
        return fmaf(d, __uint_as_float(__byte_perm(v, 0x4b000000u, 0x7440u + i)), zero);
    }
    FN void terms(float (&off)[2], const typename B::header &h, uint32_t t)
    {
        uint32_t at = t % 2 * 16, scales = (t < 2 ? h.scales[0] : h.scales[1]) >> at,
                 mins = (t < 2 ? h.mins[0] : h.mins[1]) >> at;
        float zero = h.d * -8388608.0f, min_zero = h.min * -8388608.0f;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++)
            off[i] = fmaf(-128, times(h.d, zero, scales, i), -times(h.min, min_zero, mins, i));
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, const uint8_t *sums,
                       uint32_t unit, uint32_t lane)
    {
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *low = w + g * B::STRIDE, *high = low + 8 * B::STRIDE;
        typename B::header hl = B::read(low), hh = B::read(high);
        float zero_low = hl.d * -8388608.0f, zero_high = hh.d * -8388608.0f, off[2][2];
        uint2 fl = {}, fh = {};
        (void)unit;
        if (FIFTH) {
            fl = *(const uint2 *)(low + 16 + 8 * t);
            fh = *(const uint2 *)(high + 16 + 8 * t);
        }
#pragma unroll
        for (uint32_t p = 0; p < 4; p++) {
            uint32_t from = (FIFTH ? 48 : 16) + p * 32 + 8 * t;
            uint2 ql = *(const uint2 *)(low + from), qh = *(const uint2 *)(high + from);
#pragma unroll
            for (uint32_t sub = 2 * p; sub < 2 * p + 2; sub++) {
                struct fragments f =
                    offset_fragments(B::quants(ql, fl, sub), B::quants(qh, fh, sub));
                float sl = times(hl.d, zero_low, hl.scales[sub / 4], sub % 4);
                float sh = times(hh.d, zero_high, hh.scales[sub / 4], sub % 4);
#pragma unroll
                for (uint32_t n = 0; n < NT; n++)
                    add_scaled(acc[n], f, x_8<B>(x, n * 8 + g, sub * 32 + t * 8, NT * 8), sl, sh);
            }
        }
        terms(off[0], hl, t);
        terms(off[1], hh, t);
        add_offsets<NT>(acc, off, sums, lane);
    }
};

struct q6_k_tiled : q6_k_stream {
    enum : uint32_t { SIDE = 0, OFFSETS = 0 };
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, const uint8_t *sums,
                       uint32_t unit, uint32_t lane)
    {
        (void)sums;
        q6_k_stream::template accumulate<NT>(acc, w, x, NT * 8, unit, lane);
    }
};

struct bf16_tiled : bf16_stream<UNIT_COLS> {
    enum : uint32_t { SIDE = 0, OFFSETS = 0 };
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, const uint8_t *sums,
                       uint32_t unit, uint32_t lane)
    {
        (void)sums;
        bf16_stream<UNIT_COLS>::template accumulate<NT>(acc, w, x, NT * 8, unit, lane);
    }
};

struct f8_tiled : f8_lone {
    enum : uint32_t { STRIDE = BYTES, OFFSETS = 0, X_PAD = f8_stream::X_PAD };
    FN uint32_t place_of(uint32_t r, uint32_t chunk)
    {
        return f8_stream::place_of(r, chunk);
    }
    FN uint2 quads(uint32_t v)
    {
        return {f8_stream::pair(v, 0x1404), f8_stream::pair(v, 0x3424)};
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, const uint8_t *sums,
                       uint32_t unit, uint32_t lane)
    {
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *mine = w + g * STRIDE;
        const float *scales = (const float *)(w + TILE_ROWS * STRIDE);
        (void)unit;
        (void)sums;
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            float c[NT][4] = {};
#pragma unroll
            for (uint32_t k = half * 2; k < half * 2 + 2; k++) {
                uint32_t chunk = place_of(g, k * 4 + t) * 16;
                uint4 low = *(const uint4 *)(mine + chunk);
                uint4 high = *(const uint4 *)(mine + 8 * STRIDE + chunk);
                const uint32_t l[4] = {low.x, low.y, low.z, low.w};
                const uint32_t h[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
                for (uint32_t i = 0; i < 4; i += 2) {
                    struct fragments f =
                        fragments_of(quads(l[i]), quads(l[i + 1]), quads(h[i]), quads(h[i + 1]));
#pragma unroll
                    for (uint32_t n = 0; n < NT; n++) {
                        uint4 b = x_8<f8_tiled>(x, n * 8 + g, k * 64 + t * 16 + i * 4, NT * 8);
                        add(c[n], f, b);
                    }
                }
            }
            float sl = scales[2 * g + half], sh = scales[2 * (g + 8) + half];
#pragma unroll
            for (uint32_t n = 0; n < NT; n++)
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                    acc[n][i] = fmaf(i / 2 ? sh : sl, c[n][i], acc[n][i]);
        }
    }
};

#endif
