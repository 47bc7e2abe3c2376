/*
 * stream_quant.cuh - how stream.cuh's kernel multiplies quantized weights
 *
 * Quants become bfloat16 by their bits: 0x4300 | q is 128 + q, exact for q < 128.  A block's
 * products are summed first, then scaled; the 128, a type's zero and its minimum are taken off with
 * the sum of the block's x, which the tensor cores make, too (a product with ones).  F16 and F8 are
 * bfloat16, or sums of two, as they are.
 */
#ifndef MP_KERNELS_CUDA_STREAM_QUANT_CUH
#define MP_KERNELS_CUDA_STREAM_QUANT_CUH

#include <cuda_fp16.h>

#include "kernels/cuda/stream.cuh"

#define ONES 0x3f803f80u

FN float half_at(const uint8_t *p)
{
    return __half2float(*(const __half *)p);
}

FN float half_low(uint32_t v)
{
    return __half2float(__ushort_as_half((unsigned short)v));
}

FN float half_high(uint32_t v)
{
    return __half2float(__ushort_as_half((unsigned short)(v >> 16)));
}

/* Four bytes at a multiple of two. */
FN uint32_t word_at(const uint8_t *p, uint32_t at)
{
    const uint32_t *w = (const uint32_t *)(p + at / 4 * 4);
    return at % 4 == 0 ? w[0] : __funnelshift_r(w[0], w[1], 16);
}

/* 128 + each of four bytes below 128. */
FN uint2 offset_bytes(uint32_t v)
{
    return {__byte_perm(v, 0x43434343u, 0x4140), __byte_perm(v, 0x43434343u, 0x4342)};
}

FN uint32_t subtract(uint32_t a, uint32_t b)
{
    __nv_bfloat162 d = __hsub2(*(__nv_bfloat162 *)&a, *(__nv_bfloat162 *)&b);
    return *(uint32_t *)&d;
}

/* By its bits: under the exponent of 2^23 they are 2^23 + byte. */
FN float byte_of(uint32_t v, uint32_t i)
{
    return __uint_as_float(__byte_perm(v, 0x4b000000u, 0x7440u + i)) - 8388608.0f;
}

/* Scale, and what is taken off per sum of x, of rows g and g + 8. */
struct terms {
    float scale[2], off[2];
};

/* acc += scale * sum of q x - off * sum of x over 32 columns.  low, high: rows g and g + 8, eight
 * quants each; b: the same columns of x. */
template <uint32_t NT>
FN void add_block(float (&acc)[NT][4], uint2 low, uint2 high, const uint4 (&b)[NT],
                  const struct terms &by)
{
    uint2 l0 = offset_bytes(low.x), l1 = offset_bytes(low.y);
    uint2 h0 = offset_bytes(high.x), h1 = offset_bytes(high.y);

#pragma unroll
    for (uint32_t n = 0; n < NT; n++) {
        float c[4] = {}, x[4] = {};
        mma(c, l0.x, h0.x, l0.y, h0.y, b[n].x, b[n].y);
        mma(x, ONES, ONES, ONES, ONES, b[n].x, b[n].y);
        mma(c, l1.x, h1.x, l1.y, h1.y, b[n].z, b[n].w);
        mma(x, ONES, ONES, ONES, ONES, b[n].z, b[n].w);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            acc[n][i] = fmaf(by.scale[i / 2], c[i], fmaf(-by.off[i / 2], x[i % 2], acc[n][i]));
    }
}

/* ---- Q4_0, Q4_1, Q5_0, Q5_1 --------------------------------------------------------------------
 */

/* Lane t's quants: columns 4 t of the block's first half in the low nibbles, of its second in the
 * high ones. */
template <bool MIN, bool FIFTH> struct nibble_stream {
    enum : uint32_t {
        AT_FIFTH = MIN ? 4 : 2,
        AT_QUANTS = AT_FIFTH + (FIFTH ? 4 : 0),
        BLOCK = AT_QUANTS + 16,
        COLS = 256,
        BYTES = 8 * BLOCK,
        CHUNKS = BYTES / 16,
        STRIDE = BYTES / 16 % 2 ? BYTES : BYTES + 16, /* an odd number of 16 bytes */
        X_PAD = 32,
        SCALES = 0,
    };
    FN uint32_t place_of(uint32_t r, uint32_t chunk)
    {
        (void)r;
        return chunk;
    }
    /* Bits at..at + 3 of v as the fifth bits of four bytes. */
    FN uint32_t spread(uint32_t v, uint32_t at)
    {
        return ((v >> at & 15) * 0x00204081u & 0x01010101u) << 4;
    }
    FN uint2 quants(const uint8_t *row, uint32_t block, uint32_t t)
    {
        uint32_t q = word_at(row + 4 * t, block * BLOCK + AT_QUANTS);
        uint2 v = {q & 0x0f0f0f0fu, q >> 4 & 0x0f0f0f0fu};
        if (FIFTH) {
            uint32_t fifth = word_at(row, block * BLOCK + AT_FIFTH);
            v.x |= spread(fifth, 4 * t);
            v.y |= spread(fifth, 4 * t + 16);
        }
        return v;
    }
    FN void scale(struct terms &by, uint32_t which, const uint8_t *block)
    {
        float d = half_at(block);
        by.scale[which] = d;
        by.off[which] = MIN ? 128 * d - half_at(block + 2) : (FIFTH ? 144 : 136) * d;
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, uint32_t rows,
                       uint32_t unit, uint32_t lane)
    {
        (void)unit;
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *low = w + g * STRIDE, *high = low + 8 * STRIDE;
#pragma unroll
        for (uint32_t k = 0; k < COLS / 32; k++) {
            struct terms by;
            uint4 b[NT];
            scale(by, 0, low + k * BLOCK);
            scale(by, 1, high + k * BLOCK);
#pragma unroll
            for (uint32_t n = 0; n < NT; n++) {
                uint2 b0 = x_4<nibble_stream>(x, n * 8 + g, k * 32 + t * 4, rows);
                uint2 b1 = x_4<nibble_stream>(x, n * 8 + g, k * 32 + 16 + t * 4, rows);
                b[n] = {b0.x, b0.y, b1.x, b1.y};
            }
            add_block<NT>(acc, quants(low, k, t), quants(high, k, t), b, by);
        }
    }
};

/* ---- Q8_0 --------------------------------------------------------------------------------------
 */

struct q8_0_stream {
    enum : uint32_t { COLS = 256, BYTES = 272, CHUNKS = 17, STRIDE = 272, X_PAD = 32, SCALES = 0 };
    FN uint32_t place_of(uint32_t r, uint32_t chunk)
    {
        (void)r;
        return chunk;
    }
    /* Signed bytes: what is below the sign bit, minus what that bit is worth. */
    FN uint2 quads(uint32_t v)
    {
        uint2 rest = offset_bytes(v & 0x7f7f7f7fu);
        uint32_t sign = v & 0x80808080u;
        uint32_t s0 = 0x43004300u | __byte_perm(sign, 0, 0x4140);
        uint32_t s1 = 0x43004300u | __byte_perm(sign, 0, 0x4342);
        return {subtract(rest.x, s0), subtract(rest.y, s1)};
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, uint32_t rows,
                       uint32_t unit, uint32_t lane)
    {
        (void)unit;
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *low = w + g * STRIDE, *high = low + 8 * STRIDE;
#pragma unroll
        for (uint32_t k = 0; k < COLS / 32; k++) {
            float dl = half_at(low + k * 34), dh = half_at(high + k * 34);
            uint2 l0 = quads(word_at(low + 8 * t, k * 34 + 2));
            uint2 l1 = quads(word_at(low + 8 * t, k * 34 + 6));
            uint2 h0 = quads(word_at(high + 8 * t, k * 34 + 2));
            uint2 h1 = quads(word_at(high + 8 * t, k * 34 + 6));
#pragma unroll
            for (uint32_t n = 0; n < NT; n++) {
                uint4 b = x_8<q8_0_stream>(x, n * 8 + g, k * 32 + t * 8, rows);
                float c[4] = {};
                mma(c, l0.x, h0.x, l0.y, h0.y, b.x, b.y);
                mma(c, l1.x, h1.x, l1.y, h1.y, b.z, b.w);
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                    acc[n][i] = fmaf(i / 2 ? dh : dl, c[i], acc[n][i]);
            }
        }
    }
};

/* ---- Q4_K, Q5_K --------------------------------------------------------------------------------
 */

/* Lane t's quants: columns 8 t of each sub-block of 32, pairs of them in the low and the high
 * nibbles. */
template <bool FIFTH> struct k_stream {
    enum : uint32_t {
        COLS = 256,
        BYTES = FIFTH ? 176 : 144,
        CHUNKS = BYTES / 16,
        STRIDE = FIFTH ? 224 : 160, /* an odd number of 32 bytes */
        X_PAD = 64,
        SCALES = 0,
    };
    FN uint32_t place_of(uint32_t r, uint32_t chunk)
    {
        (void)r;
        return chunk;
    }
    /* Of one row: d, dmin, and the eight scales and minima in two words each. */
    struct header {
        float d, min;
        uint32_t scales[2], mins[2];
    };
    FN struct header read(const uint8_t *row)
    {
        uint4 v = *(const uint4 *)row;
        struct header h;
        h.d = half_low(v.x);
        h.min = half_high(v.x);
        h.scales[0] = v.y & 0x3f3f3f3fu;
        h.mins[0] = v.z & 0x3f3f3f3fu;
        h.scales[1] = (v.w & 0x0f0f0f0fu) | (v.y >> 2 & 0x30303030u);
        h.mins[1] = (v.w >> 4 & 0x0f0f0f0fu) | (v.z >> 2 & 0x30303030u);
        return h;
    }
    FN void scale(struct terms &by, uint32_t which, const struct header &h, uint32_t sub)
    {
        by.scale[which] = h.d * byte_of(h.scales[sub / 4], sub % 4);
        by.off[which] = fmaf(128, by.scale[which], h.min * byte_of(h.mins[sub / 4], sub % 4));
    }
    FN uint2 quants(uint2 q, uint2 fifth, uint32_t sub)
    {
        uint2 v = {q.x >> sub % 2 * 4 & 0x0f0f0f0fu, q.y >> sub % 2 * 4 & 0x0f0f0f0fu};
        if (FIFTH) {
            v.x |= (fifth.x >> sub & 0x01010101u) << 4;
            v.y |= (fifth.y >> sub & 0x01010101u) << 4;
        }
        return v;
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, uint32_t rows,
                       uint32_t unit, uint32_t lane)
    {
        (void)unit;
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *low = w + g * STRIDE, *high = low + 8 * STRIDE;
        struct header hl = read(low), hh = read(high);
        uint2 fl = {}, fh = {};
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
                struct terms by;
                uint4 b[NT];
                scale(by, 0, hl, sub);
                scale(by, 1, hh, sub);
#pragma unroll
                for (uint32_t n = 0; n < NT; n++)
                    b[n] = x_8<k_stream>(x, n * 8 + g, sub * 32 + t * 8, rows);
                add_block<NT>(acc, quants(ql, fl, sub), quants(qh, fh, sub), b, by);
            }
        }
    }
};

/* ---- Q6_K --------------------------------------------------------------------------------------
 */

/* Lane t's quants: columns 4 t of each 16, which have a scale of their own.  Blocks begin at even
 * places: a stage holds the 16 bytes around. */
struct q6_k_stream {
    enum : uint32_t { COLS = 256, BYTES = 210, CHUNKS = 14, STRIDE = 240, X_PAD = 32, SCALES = 0 };
    FN uint32_t place_of(uint32_t r, uint32_t chunk)
    {
        (void)r;
        return chunk;
    }
    /* Four quants, minus 32: four low bits and two high ones each. */
    FN uint2 quads(uint32_t low, uint32_t high, uint32_t group)
    {
        uint32_t q = (low >> group / 2 * 4 & 0x0f0f0f0fu) | (high >> group * 2 & 0x03030303u) << 4;
        uint2 v = offset_bytes(q);
        return {subtract(v.x, 0x43204320u), subtract(v.y, 0x43204320u)};
    }
    /* A row's word at `at`; shift 16 where its block begins in the middle of a word. */
    FN uint32_t word(const uint8_t *row, uint32_t at, uint32_t shift)
    {
        const uint32_t *w = (const uint32_t *)(row + at);
        return __funnelshift_r(w[0], w[1], shift);
    }
    template <uint32_t NT>
    FN void add_half(float (&acc)[NT][4], const uint8_t *low, const uint8_t *high, uint32_t shift,
                     uint32_t second, const uint8_t *x, uint32_t g, uint32_t t, uint32_t rows)
    {
        float dl = half_at(low + 208 + shift / 8), dh = half_at(high + 208 + shift / 8);
        const int8_t *sl = (const int8_t *)low + shift / 8 + 192 + second * 8;
        const int8_t *sh = (const int8_t *)high + shift / 8 + 192 + second * 8;
#pragma unroll
        for (uint32_t odd = 0; odd < 2; odd++) {
            uint32_t part = odd * 16 + 4 * t, from = second * 64 + part;
            uint32_t hl = word(low, 128 + second * 32 + part, shift);
            uint32_t hh = word(high, 128 + second * 32 + part, shift);
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                uint2 l = quads(word(low, from + j % 2 * 32, shift), hl, j);
                uint2 h = quads(word(high, from + j % 2 * 32, shift), hh, j);
                float by[2] = {dl * (float)sl[j * 2 + odd], dh * (float)sh[j * 2 + odd]};
#pragma unroll
                for (uint32_t n = 0; n < NT; n++) {
                    uint2 b = x_4<q6_k_stream>(x, n * 8 + g, second * 128 + j * 32 + part, rows);
                    float c[4] = {};
                    mma(c, l.x, h.x, l.y, h.y, b.x, b.y);
#pragma unroll
                    for (uint32_t i = 0; i < 4; i++)
                        acc[n][i] = fmaf(by[i / 2], c[i], acc[n][i]);
                }
            }
        }
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, uint32_t rows,
                       uint32_t unit, uint32_t lane)
    {
        uint32_t g = lane / 4, t = lane % 4;
        uint32_t begin = unit * BYTES % 16, shift = begin % 4 * 8;
        const uint8_t *low = w + g * STRIDE + begin / 4 * 4, *high = low + 8 * STRIDE;
        add_half<NT>(acc, low, high, shift, 0, x, g, t, rows);
        add_half<NT>(acc, low, high, shift, 1, x, g, t, rows);
    }
};

/* ---- F16 ---------------------------------------------------------------------------------------
 */

/* A half is the exact sum of two bfloat16. */
struct f16_stream {
    enum : uint32_t { COLS = 64, BYTES = 128, CHUNKS = 8, STRIDE = 128, X_PAD = 64, SCALES = 0 };
    FN uint32_t place_of(uint32_t r, uint32_t chunk)
    {
        return chunk ^ (r & 1) << 2;
    }
    FN uint2 split(uint32_t v)
    {
        float a = half_low(v), b = half_high(v);
        uint32_t large = bf16_pair(a, b);
        return {large, bf16_pair(a - bf16_low(large), b - bf16_high(large))};
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, uint32_t rows,
                       uint32_t unit, uint32_t lane)
    {
        (void)unit;
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *mine = w + g * STRIDE;
#pragma unroll
        for (uint32_t k = 0; k < COLS / 32; k++) {
            uint32_t chunk = place_of(g, k * 4 + t) * 16;
            uint4 low = *(const uint4 *)(mine + chunk);
            uint4 high = *(const uint4 *)(mine + 8 * STRIDE + chunk);
            uint2 l[4] = {split(low.x), split(low.y), split(low.z), split(low.w)};
            uint2 h[4] = {split(high.x), split(high.y), split(high.z), split(high.w)};
#pragma unroll
            for (uint32_t n = 0; n < NT; n++) {
                uint4 b = x_8<f16_stream>(x, n * 8 + g, k * 32 + t * 8, rows);
                mma(acc[n], l[0].x, h[0].x, l[1].x, h[1].x, b.x, b.y);
                mma(acc[n], l[2].x, h[2].x, l[3].x, h[3].x, b.z, b.w);
                mma(acc[n], l[0].y, h[0].y, l[1].y, h[1].y, b.x, b.y);
                mma(acc[n], l[2].y, h[2].y, l[3].y, h[3].y, b.z, b.w);
            }
        }
    }
};

/* ---- F8 ----------------------------------------------------------------------------------------
 */

/* A unit is what one scale is for.  Codes become bfloat16, which have all of their bits, and the
 * sum of a unit's products is scaled.  Behind a row's last code there may be bytes of its scales:
 * any code is some number here (what is NaN elsewhere is 480), and x has zeros there. */
struct f8_stream {
    enum : uint32_t {
        COLS = F8_BLOCK,
        BYTES = F8_BLOCK,
        CHUNKS = BYTES / 16,
        STRIDE = BYTES,
        X_PAD = 16, /* lanes read every other 16 bytes: rows take turns */
        SCALES = 1,
    };
    /* Two rows' 64 bytes are in different banks. */
    FN uint32_t place_of(uint32_t r, uint32_t chunk)
    {
        return chunk ^ (r & 1) << 2;
    }
    /* Codes 0 and 1 of a word, or 2 and 3, in the upper bytes of the halves of p: moved to where
     * bfloat16 has such bits they are their values times 2^-120, some of them subnormal. */
    FN uint32_t pair(uint32_t v, uint32_t selector)
    {
        uint32_t p = __byte_perm(v, 0, selector), bits = (p & 0x80008000u) | (p >> 4 & 0x07f007f0u);
        const uint32_t power = 0x7b807b80u; /* 2^120 */
        __nv_bfloat162 w = __hmul2(*(__nv_bfloat162 *)&bits, *(const __nv_bfloat162 *)&power);
        return *(uint32_t *)&w;
    }
    template <uint32_t NT>
    FN void accumulate(float (&acc)[NT][4], const uint8_t *w, const uint8_t *x, uint32_t rows,
                       uint32_t unit, uint32_t lane)
    {
        (void)unit;
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *mine = w + g * STRIDE;
        const float *scales = (const float *)(w + TILE_ROWS * STRIDE);
        float sums[2][NT][4] = {}; /* two chains of products are done sooner than one */
#pragma unroll
        for (uint32_t k = 0; k < COLS / 64; k++) {
            uint32_t chunk = place_of(g, k * 4 + t) * 16;
            uint4 low = *(const uint4 *)(mine + chunk);
            uint4 high = *(const uint4 *)(mine + 8 * STRIDE + chunk);
            const uint32_t l[4] = {low.x, low.y, low.z, low.w};
            const uint32_t h[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t l0 = pair(l[2 * half], 0x1404), l1 = pair(l[2 * half], 0x3424);
                uint32_t l2 = pair(l[2 * half + 1], 0x1404), l3 = pair(l[2 * half + 1], 0x3424);
                uint32_t h0 = pair(h[2 * half], 0x1404), h1 = pair(h[2 * half], 0x3424);
                uint32_t h2 = pair(h[2 * half + 1], 0x1404), h3 = pair(h[2 * half + 1], 0x3424);
#pragma unroll
                for (uint32_t n = 0; n < NT; n++) {
                    uint4 b = x_8<f8_stream>(x, n * 8 + g, k * 64 + t * 16 + half * 8, rows);
                    mma(sums[0][n], l0, h0, l1, h1, b.x, b.y);
                    mma(sums[1][n], l2, h2, l3, h3, b.z, b.w);
                }
            }
        }
        const float scale[2] = {scales[g], scales[g + 8]};
#pragma unroll
        for (uint32_t n = 0; n < NT; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                acc[n][i] = fmaf(scale[i / 2], sums[0][n][i] + sums[1][n][i], acc[n][i]);
    }
};

#endif
