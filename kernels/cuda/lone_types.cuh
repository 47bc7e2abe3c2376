/*
 * lone_types.cuh - how lone.cuh's kernel multiplies a unit of each type
 *
 * Weights that are integers are multiplied as bytes, x as integers of 16 bits with a scale for each
 * group of columns that has one in the weights.  Such an integer goes in two bytes, high and low,
 * as two columns of a product of bytes; the eight columns are four groups' two parts, and what is
 * not of the group that is multiplied is zero, so that four groups' sums gather in one set of
 * accumulators and each lane has its own to scale.  Nothing is lost by that that bfloat16 has: a
 * group's largest is 32512.
 *
 * l / 4 is a lane's row of the weights (and that + 8), l % 4 says which columns.
 */
#ifndef MP_KERNELS_CUDA_LONE_TYPES_CUH
#define MP_KERNELS_CUDA_LONE_TYPES_CUH

#include "kernels/cuda/stream_quant.cuh"

#define UNIT_COLS 256u

/* A warp's unit of a tile in shared memory: it begins `begin` bytes behind w in the first row, rows
 * are `stride` apart.  Scales that lie beside it have rows of their own. */
struct lone_unit {
    const uint8_t *w, *side;
    uint32_t begin, stride, side_stride;
};

/* ---- x -----------------------------------------------------------------------------------------
 */

FN void unpack(float (&to)[8], const uint4 &v)
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};

#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        to[2 * i] = bf16_low(words[i]);
        to[2 * i + 1] = bf16_high(words[i]);
    }
}

/* Eight columns as integers: bytes of their high and low parts; the group's scale and the sum of
 * what the integers stand for.  A group is LANES of eight.  One with what is no number, or
 * infinite, has a scale that is none. */
struct integers {
    uint2 high, low;
    float scale, sum;
};

template <uint32_t LANES> FN struct integers integers_of(const uint4 &v)
{
    float f[8], most = 0, bad = 0;
    int n[8], total = 0;
    struct integers to;

    unpack(f, v);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        most = fmaxf(most, fabsf(f[i]));
        bad += f[i] * 0;
    }
#pragma unroll
    for (uint32_t i = 1; i < LANES; i *= 2) {
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, i));
        bad += __shfl_xor_sync(ALL_LANES, bad, i);
    }
    most = most > 1e-30f ? most : 0;
    float by = most > 0 ? 32512 / most : 0;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        n[i] = __float2int_rn(f[i] * by);
        total += n[i];
    }
#pragma unroll
    for (uint32_t i = 1; i < LANES; i *= 2)
        total += __shfl_xor_sync(ALL_LANES, total, i);
    uint32_t low[4], high[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t a = (uint32_t)n[2 * i], b = (uint32_t)n[2 * i + 1];
        low[i] = __byte_perm(a, b, 0x0040);
        high[i] = __byte_perm(a + 128, b + 128, 0x0051);
    }
    to.low = {__byte_perm(low[0], low[1], 0x5410), __byte_perm(low[2], low[3], 0x5410)};
    to.high = {__byte_perm(high[0], high[1], 0x5410), __byte_perm(high[2], high[3], 0x5410)};
    to.scale = most * (1.0f / 32512) + bad;
    to.sum = to.scale * (float)total;
    return to;
}

/* A unit of x: the integers' fragments, 16 bytes a lane, then scale and sum of each group. */
#define FRAGMENT_BYTES (16u * WARP)

/* Where four columns of group g of four (part 0: high), which lane t of its row has, go: register
 * `nth` of four. */
FN uint32_t *fragment_at(uint8_t *unit, uint32_t g, uint32_t part, uint32_t t, uint32_t nth)
{
    return (uint32_t *)(unit + ((2 * g + part) * 4 + t) * 16 + nth * 4);
}

/* Groups of 32; lane t has columns 8 t on (EIGHTS), or 4 t on of each half.  BY16: of odd groups
 * the weights are read times 16. */
template <bool EIGHTS, bool BY16> FN void prepare_32(uint8_t *unit, const uint4 &v, uint32_t lane)
{
    struct integers n = integers_of<4>(v);
    uint32_t group = lane / 4, t = lane % 4, half = group / 4 * 2;

    if (EIGHTS) {
        *(uint2 *)fragment_at(unit, group % 4, 0, t, half) = n.high;
        *(uint2 *)fragment_at(unit, group % 4, 1, t, half) = n.low;
    } else {
        uint32_t first = t % 2 * 2, nth = half + t / 2;
        *fragment_at(unit, group % 4, 0, first, nth) = n.high.x;
        *fragment_at(unit, group % 4, 0, first + 1, nth) = n.high.y;
        *fragment_at(unit, group % 4, 1, first, nth) = n.low.x;
        *fragment_at(unit, group % 4, 1, first + 1, nth) = n.low.y;
    }
    if (t == 0) {
        float by = BY16 && group % 2 ? 0.0625f : 1;
        *(float2 *)(unit + FRAGMENT_BYTES + group % 4 * 16 + group / 4 * 8) = {n.scale * by, n.sum};
    }
}

/* Groups of 16; lane t has columns 4 t on. */
FN void prepare_16(uint8_t *unit, const uint4 &v, uint32_t lane)
{
    struct integers n = integers_of<2>(v);
    uint32_t group = lane / 2, first = lane % 2 * 2, set = group / 4;

    *fragment_at(unit, group % 4, 0, first, set) = n.high.x;
    *fragment_at(unit, group % 4, 0, first + 1, set) = n.high.y;
    *fragment_at(unit, group % 4, 1, first, set) = n.low.x;
    *fragment_at(unit, group % 4, 1, first + 1, set) = n.low.y;
    if (first == 0)
        *(float2 *)(unit + FRAGMENT_BYTES + group % 4 * 32 + set * 8) = {n.scale, n.sum};
}

/* ---- products of bytes -------------------------------------------------------------------------
 */

/* c += a b over 32 columns, a unsigned (or signed), b signed. */
template <bool SIGNED>
FN void mma_bytes(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                  uint32_t b1)
{
    if (SIGNED)
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Of row g (0) or g + 8 (1): the lane's group, high and low part together. */
FN float whole(const int (&c)[4], uint32_t row)
{
    return (float)(c[2 * row] * 256 + c[2 * row + 1]);
}

/* The eight groups of 32 of a unit: low and high are rows g and g + 8 of group `group`. */
template <bool SIGNED>
FN void add_group(int (&c)[2][4], uint2 low, uint2 high, const uint4 &x, uint32_t group, uint32_t g)
{
    bool mine = g / 2 == group % 4;
    uint32_t b0 = group / 4 ? x.z : x.x, b1 = group / 4 ? x.w : x.y;

    mma_bytes<SIGNED>(c[group / 4], low.x, high.x, low.y, high.y, mine ? b0 : 0, mine ? b1 : 0);
}

/* acc += scale of the weights * sum of q x + off * sum of x, of groups t and t + 4. */
FN void add_scaled(float &acc, const int (&c)[2][4], uint32_t row, const float4 &x, float scale0,
                   float off0, float scale1, float off1)
{
    acc = fmaf(scale0, whole(c[0], row) * x.x, fmaf(off0, x.y, acc));
    acc = fmaf(scale1, whole(c[1], row) * x.z, fmaf(off1, x.w, acc));
}

/* ---- Q4_0, Q4_1, Q5_0, Q5_1 --------------------------------------------------------------------
 */

template <bool MIN, bool FIFTH> struct nibble_lone : nibble_stream<MIN, FIFTH> {
    typedef nibble_stream<MIN, FIFTH> B;
    enum : uint32_t { X_BYTES = FRAGMENT_BYTES + 64, SIDE = 0, QUAD = 1 };
    FN void prepare(uint8_t *unit, const uint4 &v, uint32_t lane)
    {
        prepare_32<false, false>(unit, v, lane);
    }
    FN void add_row(float &acc, const int (&c)[2][4], uint32_t row, const float4 &x,
                    const uint8_t *w, uint32_t t)
    {
        const uint8_t *b0 = w + t * B::BLOCK, *b1 = b0 + 4 * B::BLOCK;
        float d0 = half_at(b0), d1 = half_at(b1);
        const float zero = FIFTH ? -16 : -8;
        add_scaled(acc, c, row, x, d0, MIN ? half_at(b0 + 2) : zero * d0, d1,
                   MIN ? half_at(b1 + 2) : zero * d1);
    }
    FN void accumulate(float (&acc)[2], const struct lone_unit &at, const uint8_t *x, uint32_t lane)
    {
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *low = at.w + g * at.stride, *high = low + 8 * at.stride;
        uint4 b = *(const uint4 *)(x + lane * 16);
        float4 scales = *(const float4 *)(x + FRAGMENT_BYTES + t * 16);
        int c[2][4] = {};
#pragma unroll
        for (uint32_t k = 0; k < 8; k++)
            add_group<false>(c, B::quants(low, k, t), B::quants(high, k, t), b, k, g);
        add_row(acc[0], c, 0, scales, low, t);
        add_row(acc[1], c, 1, scales, high, t);
    }
};

/* ---- Q8_0 --------------------------------------------------------------------------------------
 */

struct q8_0_lone : q8_0_stream {
    enum : uint32_t { X_BYTES = FRAGMENT_BYTES + 64, SIDE = 0, QUAD = 1 };
    FN void prepare(uint8_t *unit, const uint4 &v, uint32_t lane)
    {
        prepare_32<false, false>(unit, v, lane);
    }
    FN void accumulate(float (&acc)[2], const struct lone_unit &at, const uint8_t *x, uint32_t lane)
    {
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *low = at.w + g * at.stride, *high = low + 8 * at.stride;
        uint4 b = *(const uint4 *)(x + lane * 16);
        float4 scales = *(const float4 *)(x + FRAGMENT_BYTES + t * 16);
        int c[2][4] = {};
#pragma unroll
        for (uint32_t k = 0; k < 8; k++) {
            uint2 l = {word_at(low + 4 * t, k * 34 + 2), word_at(low + 4 * t, k * 34 + 18)};
            uint2 h = {word_at(high + 4 * t, k * 34 + 2), word_at(high + 4 * t, k * 34 + 18)};
            add_group<true>(c, l, h, b, k, g);
        }
        low += t * 34;
        high += t * 34;
        add_scaled(acc[0], c, 0, scales, half_at(low), 0, half_at(low + 136), 0);
        add_scaled(acc[1], c, 1, scales, half_at(high), 0, half_at(high + 136), 0);
    }
};

/* ---- Q4_K, Q5_K --------------------------------------------------------------------------------
 */

template <bool FIFTH> struct k_lone : k_stream<FIFTH> {
    typedef k_stream<FIFTH> B;
    enum : uint32_t { X_BYTES = FRAGMENT_BYTES + 64, SIDE = 0, QUAD = 1 };
    FN void prepare(uint8_t *unit, const uint4 &v, uint32_t lane)
    {
        prepare_32<true, !FIFTH>(unit, v, lane);
    }
    /* Four quants of sub-block sub; Q4_K's of odd ones stay where they are, times 16. */
    FN uint32_t four(uint32_t q, uint32_t fifth, uint32_t sub)
    {
        if (!FIFTH)
            return sub % 2 ? q & 0xf0f0f0f0u : q & 0x0f0f0f0fu;
        return (q >> sub % 2 * 4 & 0x0f0f0f0fu) |
               ((sub < 4 ? fifth << (4 - sub) : fifth >> (sub - 4)) & 0x10101010u);
    }
    /* scale d times a byte below 64, which is the mantissa's end of 2^23. */
    FN float times(float d, uint32_t byte)
    {
        return fmaf(d, __uint_as_float(byte | 0x4b000000u), d * -8388608.0f);
    }
    /* Lane t's sub-blocks are t and t + 4: byte t of each word of the header has all of theirs. */
    FN void add_row(float &acc, const int (&c)[2][4], uint32_t row, const float4 &x,
                    const uint8_t *w, uint32_t t)
    {
        uint4 v = *(const uint4 *)w;
        float d = half_low(v.x), min = -half_high(v.x);
        uint32_t a = v.y >> 8 * t, b = v.z >> 8 * t, low = v.w >> 8 * t;
        add_scaled(acc, c, row, x, times(d, a & 63), times(min, b & 63),
                   times(d, (low & 15) | (a >> 2 & 48)),
                   times(min, (low >> 4 & 15) | (b >> 2 & 48)));
    }
    FN void accumulate(float (&acc)[2], const struct lone_unit &at, const uint8_t *x, uint32_t lane)
    {
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *low = at.w + g * at.stride, *high = low + 8 * at.stride;
        uint4 b = *(const uint4 *)(x + lane * 16);
        float4 scales = *(const float4 *)(x + FRAGMENT_BYTES + t * 16);
        int c[2][4] = {};
        uint2 fl = {}, fh = {};
        if (FIFTH) {
            fl = *(const uint2 *)(low + 16 + 8 * t);
            fh = *(const uint2 *)(high + 16 + 8 * t);
        }
#pragma unroll
        for (uint32_t sub = 0; sub < 8; sub++) {
            uint32_t from = (FIFTH ? 48 : 16) + sub / 2 * 32 + 8 * t;
            uint2 ql = *(const uint2 *)(low + from), qh = *(const uint2 *)(high + from);
            add_group<false>(c, {four(ql.x, fl.x, sub), four(ql.y, fl.y, sub)},
                             {four(qh.x, fh.x, sub), four(qh.y, fh.y, sub)}, b, sub, g);
        }
        add_row(acc[0], c, 0, scales, low, t);
        add_row(acc[1], c, 1, scales, high, t);
    }
};

/* ---- Q6_K --------------------------------------------------------------------------------------
 */

/* Of 32 columns the first 16 are one group, the others the next. */
struct q6_k_lone : q6_k_stream {
    enum : uint32_t { X_BYTES = FRAGMENT_BYTES + 128, SIDE = 0, QUAD = 1 };
    FN void prepare(uint8_t *unit, const uint4 &v, uint32_t lane)
    {
        prepare_16(unit, v, lane);
    }
    FN uint32_t four(uint32_t low, uint32_t high, uint32_t j)
    {
        uint32_t h = j < 2 ? high << (4 - 2 * j) : high >> (2 * j - 4);
        return (low >> j / 2 * 4 & 0x0f0f0f0fu) | (h & 0x30303030u);
    }
    FN void accumulate(float (&acc)[2], const struct lone_unit &at, const uint8_t *x, uint32_t lane)
    {
        uint32_t g = lane / 4, t = lane % 4, shift = at.begin % 4 * 8;
        const uint8_t *first = at.w + g * at.stride + at.begin / 4 * 4;
        const uint8_t *rows[2] = {first, first + 8 * at.stride};
        uint4 b = *(const uint4 *)(x + lane * 16);
        float4 scales[2] = {*(const float4 *)(x + FRAGMENT_BYTES + t * 32),
                            *(const float4 *)(x + FRAGMENT_BYTES + t * 32 + 16)};
        int c[4][4] = {};
#pragma unroll
        for (uint32_t second = 0; second < 2; second++) {
            uint32_t q[2][4], high[2][2];
#pragma unroll
            for (uint32_t r = 0; r < 2; r++) {
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                    q[r][i] = word(rows[r], second * 64 + i * 16 + 4 * t, shift);
                high[r][0] = word(rows[r], 128 + second * 32 + 4 * t, shift);
                high[r][1] = word(rows[r], 144 + second * 32 + 4 * t, shift);
            }
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                uint32_t set = second * 2 + j / 2, k = j % 2 * 2;
                uint32_t mine = set == 0 ? b.x : set == 1 ? b.y : set == 2 ? b.z : b.w;
                mma_bytes<false>(c[set], four(q[0][k], high[0][0], j), four(q[1][k], high[1][0], j),
                                 four(q[0][k + 1], high[0][1], j), four(q[1][k + 1], high[1][1], j),
                                 g / 2 == k ? mine : 0, g / 2 == k + 1 ? mine : 0);
            }
        }
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            float d = half_at(rows[r] + 208 + shift / 8);
            const int8_t *s = (const int8_t *)rows[r] + shift / 8 + 192 + t;
#pragma unroll
            for (uint32_t set = 0; set < 4; set++) {
                const float4 &by = scales[set / 2];
                float scale = d * (float)s[set * 4];
                acc[r] = fmaf(
                    scale,
                    fmaf(-32, set % 2 ? by.w : by.y, whole(c[set], r) * (set % 2 ? by.z : by.x)),
                    acc[r]);
            }
        }
    }
};

/* ---- F8 ----------------------------------------------------------------------------------------
 */

/* c += a b of halves. */
FN void mma_half(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                 uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Codes become halves, whose exponents are larger by 8: their values times 2^-8.  x is halves, too,
 * times a power of two that makes a unit's largest one 2^13 to 2^14: all of bfloat16's bits but of
 * what is 2^-38 of that.  Of four columns the even ones stand before the odd ones, as the codes are
 * unpacked.  Two scales a row lie beside a unit. */
struct f8_lone {
    enum : uint32_t {
        COLS = UNIT_COLS,
        BYTES = UNIT_COLS,
        CHUNKS = BYTES / 16,
        STRIDE = BYTES + 64, /* two rows' 64 bytes are in different banks */
        SIDE = 8,
        QUAD = 0, /* all four lanes of a row have its sum */
        X_BYTES = 2 * UNIT_COLS + 16,
    };
    FN void prepare(uint8_t *unit, const uint4 &v, uint32_t lane)
    {
        float f[8], most = 0;
        unpack(f, v);
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            most = fmaxf(most, fabsf(f[i]));
#pragma unroll
        for (uint32_t i = 1; i < WARP; i *= 2)
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, i));
        /* 2^e <= most, as float's exponent has it. */
        int e = max((int)(__float_as_uint(most) >> 23) - 127, -100);
        float by = __uint_as_float((uint32_t)(13 - e + 127) << 23);
        __half2 pairs[4];
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            pairs[2 * i] = __floats2half2_rn(f[4 * i] * by, f[4 * i + 2] * by);
            pairs[2 * i + 1] = __floats2half2_rn(f[4 * i + 1] * by, f[4 * i + 3] * by);
        }
        *(uint4 *)(unit + lane * 16) = *(uint4 *)pairs;
        if (lane == 0)
            *(float *)(unit + 2 * UNIT_COLS) = __uint_as_float((uint32_t)(e - 13 + 8 + 127) << 23);
    }
    FN uint32_t even(uint32_t v)
    {
        return (v << 8 & 0x80008000u) | (v << 7 & 0x3f803f80u);
    }
    FN uint32_t odd(uint32_t v)
    {
        return (v & 0x80008000u) | (v >> 1 & 0x3f803f80u);
    }
    FN void accumulate(float (&acc)[2], const struct lone_unit &at, const uint8_t *x, uint32_t lane)
    {
        uint32_t g = lane / 4, t = lane % 4;
        const uint8_t *mine = at.w + g * at.stride + t * 16;
        float c[2][4] = {};
#pragma unroll
        for (uint32_t k = 0; k < UNIT_COLS / 64; k++) {
            uint4 low = *(const uint4 *)(mine + k * 64);
            uint4 high = *(const uint4 *)(mine + 8 * at.stride + k * 64);
            uint4 b0 = *(const uint4 *)(x + k * 128 + t * 32);
            uint4 b1 = *(const uint4 *)(x + k * 128 + t * 32 + 16);
            float(&sums)[4] = c[k / 2];
            mma_half(sums, even(low.x), even(high.x), odd(low.x), odd(high.x), b0.x, b0.y);
            mma_half(sums, even(low.y), even(high.y), odd(low.y), odd(high.y), b0.z, b0.w);
            mma_half(sums, even(low.z), even(high.z), odd(low.z), odd(high.z), b1.x, b1.y);
            mma_half(sums, even(low.w), even(high.w), odd(low.w), odd(high.w), b1.z, b1.w);
        }
        float by = *(const float *)(x + 2 * UNIT_COLS);
        float2 l = *(const float2 *)(at.side + g * at.side_stride);
        float2 h = *(const float2 *)(at.side + (g + 8) * at.side_stride);
        acc[0] = fmaf(l.x * by, c[0][0], fmaf(l.y * by, c[1][0], acc[0]));
        acc[1] = fmaf(h.x * by, c[0][2], fmaf(h.y * by, c[1][2], acc[1]));
    }
};

#endif
