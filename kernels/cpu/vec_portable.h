/*
 * vec_portable.h - eight float lanes in plain C with the compilers' vector extension
 *
 * The same operations as vec_avx2.h.  Two halves of 16 bytes, since wider vectors have no calling
 * convention without AVX.
 */
#ifndef MP_KERNELS_CPU_VEC_PORTABLE_H
#define MP_KERNELS_CPU_VEC_PORTABLE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define VEC_FN static inline __attribute__((always_inline, unused))

typedef float v4 __attribute__((vector_size(16)));
typedef uint32_t v4u __attribute__((vector_size(16)));

typedef struct {
    v4 lo, hi;
} v8;

/* Thirty-two unsigned bytes: the quants of a group before they become floats. */
typedef struct {
    uint8_t b[32];
} b32;

VEC_FN v8 v_load(const float *p)
{
    v8 a;
    memcpy(&a, p, sizeof(a));
    return a;
}

VEC_FN void v_store(float *p, v8 a)
{
    memcpy(p, &a, sizeof(a));
}

/* The first n < 8 lanes, zeros behind them. */
VEC_FN v8 v_load_part(const float *p, uint32_t n)
{
    float lanes[8] = {0};
    memcpy(lanes, p, n * sizeof(float));
    return v_load(lanes);
}

VEC_FN void v_store_part(float *p, v8 a, uint32_t n)
{
    float lanes[8];
    v_store(lanes, a);
    memcpy(p, lanes, n * sizeof(float));
}

VEC_FN v8 v_set(float x)
{
    v4 a = {x, x, x, x};
    return (v8){a, a};
}

VEC_FN v8 v_add(v8 a, v8 b)
{
    return (v8){a.lo + b.lo, a.hi + b.hi};
}

VEC_FN v8 v_sub(v8 a, v8 b)
{
    return (v8){a.lo - b.lo, a.hi - b.hi};
}

VEC_FN v8 v_mul(v8 a, v8 b)
{
    return (v8){a.lo * b.lo, a.hi * b.hi};
}

VEC_FN v8 v_div(v8 a, v8 b)
{
    return (v8){a.lo / b.lo, a.hi / b.hi};
}

/* a * b + c */
VEC_FN v8 v_fma(v8 a, v8 b, v8 c)
{
    return v_add(v_mul(a, b), c);
}

/* Lane-wise a > b ? a : b, so b where one is NaN. */
VEC_FN v8 v_max(v8 a, v8 b)
{
    float x[8], y[8];
    v_store(x, a);
    v_store(y, b);
    for (int i = 0; i < 8; i++)
        x[i] = x[i] > y[i] ? x[i] : y[i];
    return v_load(x);
}

/* Lane-wise a < b ? a : b, so b where one is NaN. */
VEC_FN v8 v_min(v8 a, v8 b)
{
    float x[8], y[8];
    v_store(x, a);
    v_store(y, b);
    for (int i = 0; i < 8; i++)
        x[i] = x[i] < y[i] ? x[i] : y[i];
    return v_load(x);
}

/* Lanes of a where x >= limit or x is NaN, else 0. */
VEC_FN v8 v_keep_from(v8 a, v8 x, float limit)
{
    float lanes[8], tests[8];
    v_store(lanes, a);
    v_store(tests, x);
    for (int i = 0; i < 8; i++)
        lanes[i] = tests[i] < limit ? 0 : lanes[i];
    return v_load(lanes);
}

/* Lanes of b where x < limit, of a elsewhere (also where x is NaN). */
VEC_FN v8 v_below(v8 a, v8 b, v8 x, float limit)
{
    float from[8], to[8], tests[8];
    v_store(from, b);
    v_store(to, a);
    v_store(tests, x);
    for (int i = 0; i < 8; i++)
        to[i] = tests[i] < limit ? from[i] : to[i];
    return v_load(to);
}

/* a with b's sign; a is not negative. */
VEC_FN v8 v_sign(v8 a, v8 b)
{
    float x[8], y[8];
    v_store(x, a);
    v_store(y, b);
    for (int i = 0; i < 8; i++)
        x[i] = copysignf(x[i], y[i]);
    return v_load(x);
}

/* The first n lanes of a, then those of b. */
VEC_FN v8 v_first(v8 a, v8 b, uint32_t n)
{
    float x[8], y[8];
    v_store(x, a);
    v_store(y, b);
    for (uint32_t i = n; i < 8; i++)
        x[i] = y[i];
    return v_load(x);
}

VEC_FN float v_sum(v8 a)
{
    v4 s = a.lo + a.hi;
    return (s[0] + s[2]) + (s[1] + s[3]);
}

VEC_FN float v_largest(v8 a)
{
    float x[8];
    v_store(x, a);
    for (int i = 1; i < 8; i++)
        x[0] = x[i] > x[0] ? x[i] : x[0];
    return x[0];
}

/* Lane i: the sum of a[i]'s lanes. */
VEC_FN v8 v_sums(const v8 a[8])
{
    float x[8];
    for (int i = 0; i < 8; i++)
        x[i] = v_sum(a[i]);
    return v_load(x);
}

/* a * 2^n, where `shifted` is n + 1.5 * 2^23 and 2^n is a normal number: its low bits are n. */
VEC_FN v8 v_scale_exp(v8 a, v8 shifted)
{
    v4u lo, hi, bias = {127, 127, 127, 127};
    memcpy(&lo, &shifted.lo, sizeof(lo));
    memcpy(&hi, &shifted.hi, sizeof(hi));
    lo = (lo + bias) << 23;
    hi = (hi + bias) << 23;
    v8 power;
    memcpy(&power.lo, &lo, sizeof(lo));
    memcpy(&power.hi, &hi, sizeof(hi));
    return v_mul(a, power);
}

/* ---- stored formats ------------------------------------------------------------------------ */

/* Half to single by scaling the exponent in float arithmetic: exact for all values, subnormal ones
 * included; infinities and NaNs get their exponent set. */
VEC_FN float half_float(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
    float f;
    if ((h & 0x7c00) == 0x7c00) {
        bits |= 0x7f800000;
        memcpy(&f, &bits, sizeof(f));
    } else {
        memcpy(&f, &bits, sizeof(f));
        f *= 0x1p112f;
    }
    return h & 0x8000 ? -f : f;
}

VEC_FN v8 v_half(const uint8_t *p)
{
    return v_set(half_float(p));
}

/* Eight halves. */
VEC_FN v8 v_load_f16(const uint8_t *p)
{
    float x[8];
    for (int i = 0; i < 8; i++)
        x[i] = half_float(p + 2 * i);
    return v_load(x);
}

VEC_FN v8 v_load_bf16(const uint8_t *p)
{
    uint16_t h[8];
    uint32_t bits[8];
    v8 a;
    memcpy(h, p, sizeof(h));
    for (int i = 0; i < 8; i++)
        bits[i] = (uint32_t)h[i] << 16;
    memcpy(&a, bits, sizeof(a));
    return a;
}

VEC_FN b32 b_load(const uint8_t *p)
{
    b32 a;
    memcpy(&a, p, sizeof(a));
    return a;
}

/* Sixteen bytes: their low nibbles, then their high ones. */
VEC_FN b32 b_nibbles(const uint8_t *p)
{
    b32 a;
    for (int i = 0; i < 16; i++) {
        a.b[i] = p[i] & 15;
        a.b[i + 16] = p[i] >> 4;
    }
    return a;
}

/* Four bytes of bits: byte i is 16 where bit i is set, else 0. */
VEC_FN b32 b_fifths(const uint8_t *p)
{
    b32 a;
    for (int i = 0; i < 32; i++)
        a.b[i] = (uint8_t)(((p[i / 8] >> (i % 8)) & 1) << 4);
    return a;
}

/* (a >> shift) & mask */
VEC_FN b32 b_shift_mask(b32 a, uint32_t shift, uint8_t mask)
{
    for (int i = 0; i < 32; i++)
        a.b[i] = (uint8_t)((a.b[i] >> shift) & mask);
    return a;
}

/* a | b << 4, b below 16 */
VEC_FN b32 b_join(b32 a, b32 b)
{
    for (int i = 0; i < 32; i++)
        a.b[i] = (uint8_t)(a.b[i] | b.b[i] << 4);
    return a;
}

VEC_FN b32 b_or(b32 a, b32 b)
{
    for (int i = 0; i < 32; i++)
        a.b[i] |= b.b[i];
    return a;
}

VEC_FN void b_floats(v8 w[4], b32 a)
{
    float x[32];
    for (int i = 0; i < 32; i++)
        x[i] = a.b[i];
    for (int i = 0; i < 4; i++)
        w[i] = v_load(x + 8 * i);
}

/* Thirty-two codes of e4m3, times 2^-8: with bit fields moved to those of a float, whose exponents
 * have a bias that is larger by 120. */
VEC_FN void v_load_e4m3(v8 w[4], const uint8_t *p)
{
    float x[32];
    for (int i = 0; i < 32; i++) {
        uint32_t bits = (uint32_t)(p[i] & 0x7f) << 20;
        memcpy(&x[i], &bits, sizeof(bits));
        x[i] *= p[i] & 0x80 ? -0x1p112f : 0x1p112f;
    }
    for (int i = 0; i < 4; i++)
        w[i] = v_load(x + 8 * i);
}

/* Thirty-two signed bytes. */
VEC_FN void v_load_i8(v8 w[4], const uint8_t *p)
{
    float x[32];
    for (int i = 0; i < 32; i++)
        x[i] = (int8_t)p[i];
    for (int i = 0; i < 4; i++)
        w[i] = v_load(x + 8 * i);
}

#endif
