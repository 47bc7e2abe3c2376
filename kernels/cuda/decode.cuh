/*
 * decode.cuh - a warp's share of a stored row: 256 columns a step, eight a lane
 *
 * A codec names, for each lane, two runs of four columns (first(), and GAP after it), loads what
 * they are stored in (`inside`: the step lies within the row), and decodes it.  The mapping from
 * column to lane is the same for aligned and unaligned rows: a sum over a row is in the same order.
 * Columns past the row's end are zeros. Block layouts are explained in kernels/dequantize.c; all
 * results are exact but for one rounding.
 */
#ifndef MP_KERNELS_CUDA_DECODE_CUH
#define MP_KERNELS_CUDA_DECODE_CUH

#include <cuda_fp16.h>

#include "kernels/cuda/operand.cuh"

#define STEP_COLS 256u

/* Volatile, so that the compiler leaves them where they are, ahead of their use. */
FN uint32_t load16(const uint8_t *p)
{
    unsigned short v;
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
}

FN uint32_t load32(const uint8_t *p)
{
    uint32_t v;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

/* 16 bytes that nobody else reads. */
FN uint4 load128(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

FN float4 load4(const float4 *p)
{
    uint4 v = load128(p);
    return {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
}

/* 16 bytes that other lanes read, too. */
FN uint4 load128shared(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

/* Four bytes that begin at a multiple of two. */
FN uint32_t load32by16(const uint8_t *p)
{
    return load16(p) | load16(p + 2) << 16;
}

FN float half_bits(uint32_t h)
{
    return __half2float(__ushort_as_half((unsigned short)h));
}

/* Byte i of v, minus zero: its bits under the exponent of 2^23 are 2^23 + byte. */
FN float byte_at(uint32_t v, uint32_t i, float zero)
{
    return __uint_as_float(__byte_perm(v, 0x4b000000u, 0x7440u + i)) - (8388608.0f + zero);
}

/* ---- F32, F16, BF16 ----------------------------------------------------------------------------
 */

struct f32_codec {
    enum : uint32_t { GAP = 128 };
    struct raw {
        float4 a, b;
    };
    FN uint32_t first(uint32_t lane)
    {
        return 4 * lane;
    }
    FN float4 quad(const uint8_t *row, uint32_t col, uint32_t cols, bool aligned)
    {
        const float *p = (const float *)row + col;
        float4 v = {0, 0, 0, 0};
        if (aligned) {
            if (col < cols)
                v = __ldg((const float4 *)p);
            return v;
        }
        if (col < cols)
            v.x = __ldg(p);
        if (col + 1 < cols)
            v.y = __ldg(p + 1);
        if (col + 2 < cols)
            v.z = __ldg(p + 2);
        if (col + 3 < cols)
            v.w = __ldg(p + 3);
        return v;
    }
    FN raw load(const uint8_t *row, size_t step, uint32_t lane, uint32_t cols, bool aligned,
                bool inside)
    {
        uint32_t col = (uint32_t)step * STEP_COLS + first(lane);
        if (aligned && inside) {
            const float4 *p = (const float4 *)(row + step * 1024) + lane;
            return {load4(p), load4(p + 32)};
        }
        return {quad(row, col, cols, aligned), quad(row, col + GAP, cols, aligned)};
    }
    FN void decode(float w[8], const raw &r, uint32_t lane)
    {
        (void)lane;
        w[0] = r.a.x, w[1] = r.a.y, w[2] = r.a.z, w[3] = r.a.w;
        w[4] = r.b.x, w[5] = r.b.y, w[6] = r.b.z, w[7] = r.b.w;
    }
};

/* Two bytes an element, eight consecutive ones a lane. */
template <bool BF16> struct wide_codec {
    enum : uint32_t { GAP = 4 };
    struct raw {
        uint4 v;
    };
    FN uint32_t first(uint32_t lane)
    {
        return 8 * lane;
    }
    FN uint32_t pair(const uint8_t *row, uint32_t col, uint32_t cols)
    {
        uint32_t v = col < cols ? load16(row + 2 * (size_t)col) : 0;
        return col + 1 < cols ? v | load16(row + 2 * (size_t)col + 2) << 16 : v;
    }
    FN raw load(const uint8_t *row, size_t step, uint32_t lane, uint32_t cols, bool aligned,
                bool inside)
    {
        uint32_t col = (uint32_t)step * STEP_COLS + first(lane);
        raw r = {{0, 0, 0, 0}};
        if (aligned) {
            if (inside || col < cols)
                r.v = load128(row + step * 512 + lane * 16);
            return r;
        }
        r.v.x = pair(row, col, cols);
        r.v.y = pair(row, col + 2, cols);
        r.v.z = pair(row, col + 4, cols);
        r.v.w = pair(row, col + 6, cols);
        return r;
    }
    FN void decode(float w[8], const raw &r, uint32_t lane)
    {
        const uint32_t v[4] = {r.v.x, r.v.y, r.v.z, r.v.w};
        (void)lane;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[2 * i] = BF16 ? __uint_as_float(v[i] << 16) : half_bits(v[i] & 0xffff);
            w[2 * i + 1] = BF16 ? __uint_as_float(v[i] & 0xffff0000u) : half_bits(v[i] >> 16);
        }
    }
};

/* ---- Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32, four lanes a block -----------------------------
 */

/* Four bytes of nibbles: columns 4 (lane % 4) in the low ones, 16 after them in the high ones. */
template <bool MIN, bool FIFTH> struct nibble_codec {
    enum : uint32_t {
        GAP = 16,
        AT_FIFTH = MIN ? 4 : 2,
        AT_QUANTS = AT_FIFTH + (FIFTH ? 4 : 0),
        BYTES = AT_QUANTS + 16,
    };
    struct raw {
        uint32_t scale, fifth, quants; /* scale: d, and m in the high half */
    };
    FN uint32_t first(uint32_t lane)
    {
        return lane / 4 * 32 + lane % 4 * 4;
    }
    FN raw load(const uint8_t *row, size_t step, uint32_t lane, uint32_t cols, bool aligned,
                bool inside)
    {
        const uint8_t *b = row + step * (8 * BYTES) + lane / 4 * BYTES;
        const uint8_t *quants = b + AT_QUANTS + lane % 4 * 4;
        raw r = {0, 0, 0};
        (void)aligned;
        if (!inside && step * 8 + lane / 4 >= cols / 32)
            return r;
        r.scale = MIN ? load32(b) : load16(b);
        r.quants = MIN ? load32(quants) : load32by16(quants);
        if (FIFTH)
            r.fifth = MIN ? load32(b + AT_FIFTH) : load32by16(b + AT_FIFTH);
        return r;
    }
    /* Bits at, at + 1, at + 2, at + 3 of v as the fifth bits of four bytes. */
    FN uint32_t spread(uint32_t v, uint32_t at)
    {
        uint32_t bits = v >> at & 15;
        return (bits * 0x00204081u & 0x01010101u) << 4;
    }
    FN void decode(float w[8], const raw &r, uint32_t lane)
    {
        uint32_t low = r.quants & 0x0f0f0f0fu, high = r.quants >> 4 & 0x0f0f0f0fu;
        float d = half_bits(r.scale & 0xffff), m = half_bits(r.scale >> 16);
        if (FIFTH) {
            low |= spread(r.fifth, lane % 4 * 4);
            high |= spread(r.fifth, lane % 4 * 4 + 16);
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const float zero = MIN ? 0 : FIFTH ? 16 : 8;
            float a = byte_at(low, i, zero), b = byte_at(high, i, zero);
            w[i] = MIN ? fmaf(a, d, m) : a * d;
            w[4 + i] = MIN ? fmaf(b, d, m) : b * d;
        }
    }
};

struct q8_0_codec {
    enum : uint32_t { GAP = 4 };
    struct raw {
        uint32_t scale, a, b;
    };
    FN uint32_t first(uint32_t lane)
    {
        return 8 * lane;
    }
    FN raw load(const uint8_t *row, size_t step, uint32_t lane, uint32_t cols, bool aligned,
                bool inside)
    {
        const uint8_t *b = row + step * (8 * 34) + lane / 4 * 34;
        const uint8_t *quants = b + 2 + lane % 4 * 8;
        raw r = {0, 0, 0};
        (void)aligned;
        if (inside || step * 8 + lane / 4 < cols / 32)
            r = {load16(b), load32by16(quants), load32by16(quants + 4)};
        return r;
    }
    FN void decode(float w[8], const raw &r, uint32_t lane)
    {
        float d = half_bits(r.scale);
        (void)lane;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            w[i] = byte_at(r.a ^ 0x80808080u, i, 128) * d;
            w[4 + i] = byte_at(r.b ^ 0x80808080u, i, 128) * d;
        }
    }
};

/* ---- Q2_K, Q3_K, Q4_K, Q5_K, Q6_K: a superblock of 256 is a step -------------------------------
 */

/* Four bytes of pairs a lane, of which it uses two neighbours: groups of 32 columns, 32 apart. */
struct q2_k_codec {
    enum : uint32_t { GAP = 32 };
    struct raw {
        uint32_t quants, scale, s0, s1; /* scale: d, and dmin in the high half */
    };
    FN uint32_t first(uint32_t lane)
    {
        return lane / 8 * 64 + lane % 8 * 4;
    }
    FN raw load(const uint8_t *row, size_t step, uint32_t lane, uint32_t cols, bool aligned,
                bool inside)
    {
        const uint8_t *b = row + step * 84;
        const uint8_t *s = b + first(lane) / 16;
        (void)aligned;
        if (!inside && step >= cols / 256)
            return {0, 0, 0, 0};
        return {load32(b + 16 + lane / 16 * 32 + lane % 8 * 4), load32(b + 80), __ldg(s),
                __ldg(s + 2)};
    }
    FN void decode(float w[8], const raw &r, uint32_t lane)
    {
        uint32_t at = lane / 8 % 2 * 4;
        uint32_t low = r.quants >> at & 0x03030303u, high = r.quants >> (at + 2) & 0x03030303u;
        float d = half_bits(r.scale & 0xffff), dmin = half_bits(r.scale >> 16);
        float dl = d * (float)(r.s0 & 15), ml = -dmin * (float)(r.s0 >> 4);
        float dh = d * (float)(r.s1 & 15), mh = -dmin * (float)(r.s1 >> 4);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            w[i] = fmaf(byte_at(low, i, 0), dl, ml);
            w[4 + i] = fmaf(byte_at(high, i, 0), dh, mh);
        }
    }
};

/* As q2_k, with third bits. */
struct q3_k_codec {
    enum : uint32_t { GAP = 32 };
    struct raw {
        uint32_t quants, thirds, scale;
        uint32_t s; /* bytes with the two scales' low bits, then high bits */
    };
    FN uint32_t first(uint32_t lane)
    {
        return q2_k_codec::first(lane);
    }
    FN raw load(const uint8_t *row, size_t step, uint32_t lane, uint32_t cols, bool aligned,
                bool inside)
    {
        const uint8_t *b = row + step * 110;
        uint32_t sub = first(lane) / 16; /* sub % 4 is 0 or 1 */
        const uint8_t *low = b + 96 + sub % 8, *high = b + 104 + sub % 4;
        (void)aligned;
        if (!inside && step >= cols / 256)
            return {0, 0, 0, 0};
        return {load32by16(b + 32 + lane / 16 * 32 + lane % 8 * 4), load32by16(b + lane % 8 * 4),
                load16(b + 108),
                (uint32_t)__ldg(low) | (uint32_t)__ldg(low + 2) << 8 | (uint32_t)__ldg(high) << 16 |
                    (uint32_t)__ldg(high + 2) << 24};
    }
    /* Of the group in the low or the high place. */
    FN float scale(const raw &r, uint32_t lane, uint32_t place)
    {
        uint32_t low = r.s >> (8 * place + lane / 16 * 4) & 15;
        uint32_t high = r.s >> (16 + 8 * place + lane / 8 * 2) & 3;
        return half_bits(r.scale) * (float)((int)(low | high << 4) - 32);
    }
    FN void decode(float w[8], const raw &r, uint32_t lane)
    {
        uint32_t at = lane / 8 % 2 * 4, group = lane / 8 * 2;
        uint32_t low = (r.quants >> at & 0x03030303u) | (r.thirds >> group & 0x01010101u) << 2;
        uint32_t high =
            (r.quants >> (at + 2) & 0x03030303u) | (r.thirds >> (group + 1) & 0x01010101u) << 2;
        float dl = scale(r, lane, 0), dh = scale(r, lane, 1);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            w[i] = byte_at(low, i, 4) * dl;
            w[4 + i] = byte_at(high, i, 4) * dh;
        }
    }
};

/* Four bytes of nibbles a lane: sub-block 2 (lane / 8) in the low ones, the next in the high. */
template <bool FIFTH> struct k_codec {
    enum : uint32_t { GAP = 32, BYTES = FIFTH ? 176 : 144 };
    struct raw {
        uint32_t scale, s0, s1, s2, fifth, quants;
    };
    FN uint32_t first(uint32_t lane)
    {
        return lane / 8 * 64 + lane % 8 * 4;
    }
    FN raw load(const uint8_t *row, size_t step, uint32_t lane, uint32_t cols, bool aligned,
                bool inside)
    {
        const uint8_t *b = row + step * BYTES;
        raw r = {0, 0, 0, 0, 0, 0};
        (void)aligned;
        if (!inside && step >= cols / 256)
            return r;
        uint4 head = load128shared(b);
        r.scale = head.x, r.s0 = head.y, r.s1 = head.z, r.s2 = head.w;
        if (FIFTH)
            r.fifth = load32(b + 16 + lane % 8 * 4);
        r.quants = load32(b + (FIFTH ? 48 : 16) + lane * 4);
        return r;
    }
    /* d * scale and -(dmin * min) of sub-block s. */
    FN float2 scales(const raw &r, uint32_t s)
    {
        uint32_t at = s % 4 * 8, a = r.s0 >> at & 255, b = r.s1 >> at & 255, c = r.s2 >> at & 255;
        uint32_t scale = s < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
        uint32_t min = s < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
        return {half_bits(r.scale & 0xffff) * (float)scale, -half_bits(r.scale >> 16) * (float)min};
    }
    FN void decode(float w[8], const raw &r, uint32_t lane)
    {
        uint32_t low = r.quants & 0x0f0f0f0fu, high = r.quants >> 4 & 0x0f0f0f0fu;
        uint32_t sub = lane / 8 * 2;
        float2 sl = scales(r, sub), sh = scales(r, sub + 1);
        if (FIFTH) {
            low |= (r.fifth >> sub & 0x01010101u) << 4;
            high |= (r.fifth >> (sub + 1) & 0x01010101u) << 4;
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            w[i] = fmaf(byte_at(low, i, 0), sl.x, sl.y);
            w[4 + i] = fmaf(byte_at(high, i, 0), sh.x, sh.y);
        }
    }
};

/* Four bytes of low nibbles a lane: two groups of 32 columns, 64 apart, of one half. */
struct q6_k_codec {
    enum : uint32_t { GAP = 64 };
    struct raw {
        uint32_t low, high, scale; /* scale: d, and the two signed scales in bytes 2 and 3 */
    };
    FN uint32_t first(uint32_t lane)
    {
        return lane / 16 * 128 + lane / 8 % 2 * 32 + lane % 8 * 4;
    }
    FN raw load(const uint8_t *row, size_t step, uint32_t lane, uint32_t cols, bool aligned,
                bool inside)
    {
        const uint8_t *b = row + step * 210;
        raw r = {0, 0, 0};
        (void)aligned;
        if (!inside && step >= cols / 256)
            return r;
        r.low = load32by16(b + lane * 4);
        r.high = load32by16(b + 128 + lane / 16 * 32 + lane % 8 * 4);
        uint32_t s = first(lane) / 16;
        r.scale = load16(b + 208) | (uint32_t)__ldg(b + 192 + s) << 16 |
                  (uint32_t)__ldg(b + 192 + s + 4) << 24;
        return r;
    }
    FN void decode(float w[8], const raw &r, uint32_t lane)
    {
        uint32_t group = lane / 8 % 2;
        uint32_t low = (r.low & 0x0f0f0f0fu) | (r.high >> 2 * group & 0x03030303u) << 4;
        uint32_t high = (r.low >> 4 & 0x0f0f0f0fu) | (r.high >> (2 * group + 4) & 0x03030303u) << 4;
        float d = half_bits(r.scale & 0xffff);
        float dl = d * (float)(int8_t)(r.scale >> 16), dh = d * (float)(int8_t)(r.scale >> 24);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            w[i] = byte_at(low, i, 32) * dl;
            w[4 + i] = byte_at(high, i, 32) * dh;
        }
    }
};

/* ---- F8 ----------------------------------------------------------------------------------------
 */

/* Where a row's scales begin: f8_scales_at(). */
FN uint32_t f8_scales(uint32_t cols)
{
    return (cols + F8_ALIGN - 1) / F8_ALIGN * F8_ALIGN;
}

/* Eight consecutive codes a lane, which one scale is for.  Codes are padded to 16 by zeros, so that
 * eight of them can be read wherever one begins. */
struct f8_codec {
    enum : uint32_t { GAP = 4 };
    struct raw {
        uint32_t x, y;
        float scale;
    };
    FN uint32_t first(uint32_t lane)
    {
        return 8 * lane;
    }
    FN uint32_t word(const uint8_t *p, bool aligned)
    {
        if (aligned)
            return load32(p);
        return (uint32_t)__ldg(p) | (uint32_t)__ldg(p + 1) << 8 | (uint32_t)__ldg(p + 2) << 16 |
               (uint32_t)__ldg(p + 3) << 24;
    }
    FN raw load(const uint8_t *row, size_t step, uint32_t lane, uint32_t cols, bool aligned,
                bool inside)
    {
        uint32_t col = (uint32_t)step * STEP_COLS + first(lane);
        raw r = {0, 0, 0};
        if (!inside && col >= cols)
            return r;
        r.scale = __uint_as_float(word(row + f8_scales(cols) + col / F8_BLOCK * 4, aligned));
        if (aligned) {
            asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];"
                         : "=r"(r.x), "=r"(r.y)
                         : "l"(row + col));
            return r;
        }
        r.x = word(row + col, aligned);
        r.y = word(row + col + 4, aligned);
        return r;
    }
    /* Codes 0 and 1 of a word (or 2 and 3) as halves: their exponents' bias is larger by 8, so
     * they are the codes' values times 2^-8. */
    FN uint32_t halves(uint32_t v, uint32_t selector)
    {
        uint32_t p = __byte_perm(v, 0, selector);
        return (p & 0x80008000u) | (p >> 1 & 0x3f803f80u);
    }
    FN void decode(float w[8], const raw &r, uint32_t lane)
    {
        uint32_t h[4] = {halves(r.x, 0x1404), halves(r.x, 0x3424), halves(r.y, 0x1404),
                         halves(r.y, 0x3424)};
        float scale = r.scale * 256.0f;
        (void)lane;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            w[2 * i] = half_bits(h[i] & 0xffff) * scale;
            w[2 * i + 1] = half_bits(h[i] >> 16) * scale;
        }
    }
};

/* Call F<codec, T>::run(args...) for the type. */
template <template <class, typename> class F, typename T, class... A>
void with_codec(enum dtype dtype, A... args)
{
    switch (dtype) {
    case DTYPE_F32:
        return F<f32_codec, T>::run(args...);
    case DTYPE_F16:
        return F<wide_codec<false>, T>::run(args...);
    case DTYPE_BF16:
        return F<wide_codec<true>, T>::run(args...);
    case DTYPE_Q4_0:
        return F<nibble_codec<false, false>, T>::run(args...);
    case DTYPE_Q4_1:
        return F<nibble_codec<true, false>, T>::run(args...);
    case DTYPE_Q5_0:
        return F<nibble_codec<false, true>, T>::run(args...);
    case DTYPE_Q5_1:
        return F<nibble_codec<true, true>, T>::run(args...);
    case DTYPE_Q8_0:
        return F<q8_0_codec, T>::run(args...);
    case DTYPE_Q2_K:
        return F<q2_k_codec, T>::run(args...);
    case DTYPE_Q3_K:
        return F<q3_k_codec, T>::run(args...);
    case DTYPE_Q4_K:
        return F<k_codec<false>, T>::run(args...);
    case DTYPE_Q5_K:
        return F<k_codec<true>, T>::run(args...);
    case DTYPE_Q6_K:
        return F<q6_k_codec, T>::run(args...);
    case DTYPE_F8:
        return F<f8_codec, T>::run(args...);
    }
}

#endif
