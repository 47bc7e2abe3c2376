/*
 * dequantize.c - the stored formats, element by element
 *
 * The plain reading of each block layout, for tests.  A scale times a quant is exact in float32 (at
 * most 11 + 6 + 5 bits), so every type but Q6_K has a single rounding, and so has Q6_K's product.
 */
#include <math.h>
#include <string.h>

#include "kernels/reference.h"

static float from_half(uint16_t h)
{
    int exponent = (h >> 10) & 31;
    int mantissa = h & 1023;
    float sign = h & 0x8000 ? -1.0f : 1.0f;

    if (exponent == 31)
        return mantissa ? NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * ldexpf((float)mantissa, -24);
    return sign * ldexpf((float)(mantissa + 1024), exponent - 25);
}

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    return from_half(h);
}

static float bf16_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* d, [m], 16 bytes: element i < 16 in the low nibble of byte i, i + 16 in the high one. */
static float q4_at(const uint8_t *b, enum dtype dtype, int i)
{
    const uint8_t *qs = b + (dtype == DTYPE_Q4_1 ? 4 : 2);
    int q = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;

    if (dtype == DTYPE_Q4_1)
        return half_at(b) * (float)q + half_at(b + 2);
    return half_at(b) * (float)(q - 8);
}

/* d, [m], 32 fifth bits in element order, 16 bytes of nibbles as above. */
static float q5_at(const uint8_t *b, enum dtype dtype, int i)
{
    const uint8_t *qh = b + (dtype == DTYPE_Q5_1 ? 4 : 2);
    const uint8_t *qs = qh + 4;
    int q = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
    q |= ((qh[i / 8] >> (i % 8)) & 1) << 4;

    if (dtype == DTYPE_Q5_1)
        return half_at(b) * (float)q + half_at(b + 2);
    return half_at(b) * (float)(q - 16);
}

/* Six-bit scale and min of sub-block s of 8: 12 bytes; the first four pairs in the low six bits of
 * bytes s and s+4, the others in nibbles of bytes 8..11 with their top bits in bytes 0..7. */
static void scale_min(const uint8_t *p, int s, int *scale, int *min)
{
    if (s < 4) {
        *scale = p[s] & 63;
        *min = p[s + 4] & 63;
    } else {
        *scale = (p[s + 4] & 15) | (p[s - 4] >> 6) << 4;
        *min = (p[s + 4] >> 4) | (p[s] >> 6) << 4;
    }
}

/* d, dmin, 12 bytes of scales, [32 bytes of fifth bits], 128 bytes of nibbles. */
static float q45_k_at(const uint8_t *b, enum dtype dtype, int i)
{
    const uint8_t *qs = b + (dtype == DTYPE_Q5_K ? 48 : 16);
    int sub = i / 32, l = i % 32, scale, min;
    int byte = qs[sub / 2 * 32 + l];
    int q = sub % 2 ? byte >> 4 : byte & 15;

    if (dtype == DTYPE_Q5_K)
        q |= ((b[16 + l] >> sub) & 1) << 4;
    scale_min(b + 4, sub, &scale, &min);
    return half_at(b) * (float)scale * (float)q - half_at(b + 2) * (float)min;
}

/* 16 bytes with a sub-block's scale in the low nibble and its min in the high one, 64 bytes of
 * pairs, d, dmin. */
static float q2_k_at(const uint8_t *b, int i)
{
    int q = b[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    int scale = b[i / 16];

    return half_at(b + 80) * (float)(scale & 15) * (float)q - half_at(b + 82) * (float)(scale >> 4);
}

/* Six-bit scale of sub-block s of 16, less 32: 12 bytes; the low four bits in the nibbles of bytes
 * 0..7, the high two in pairs of bytes 8..11. */
static int scale_q3_k(const uint8_t *p, int s)
{
    return ((p[s % 8] >> (s / 8 * 4) & 15) | (p[8 + s % 4] >> (s / 4 * 2) & 3) << 4) - 32;
}

/* 32 bytes of third bits, 64 bytes of pairs, 12 bytes of scales, d. */
static float q3_k_at(const uint8_t *b, int i)
{
    int q = b[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    int third = b[i % 32] >> (i / 32) & 1;

    return half_at(b + 108) * (float)scale_q3_k(b + 96, i / 16) * (float)((q | third << 2) - 4);
}

/* 128 bytes of low nibbles, 64 bytes of high pairs, 16 signed scales, d. */
static float q6_k_at(const uint8_t *b, int i)
{
    int half = i / 128, group = i % 128 / 32, l = i % 32;
    int low = b[half * 64 + group % 2 * 32 + l] >> (group / 2 * 4) & 15;
    int high = b[128 + half * 32 + l] >> (group * 2) & 3;
    int scale = (int8_t)b[192 + i / 16];

    return half_at(b + 208) * (float)scale * (float)((low | high << 4) - 32);
}

/* Sign, 4 bits of exponent, 3 of fraction; no infinities, and NaN where all others are set. */
static float from_e4m3(uint8_t code)
{
    int exponent = code >> 3 & 15, fraction = code & 7;
    float sign = code & 128 ? -1.0f : 1.0f;

    if (exponent == 15 && fraction == 7)
        return NAN;
    if (exponent == 0)
        return sign * ldexpf((float)fraction, -9);
    return sign * ldexpf((float)(fraction + 8), exponent - 10);
}

/* Element k of a row of `cols`. */
static float f8_at(const uint8_t *row, uint64_t cols, uint64_t k)
{
    float scale;

    memcpy(&scale, row + (cols + 15) / 16 * 16 + k / 128 * 4, sizeof(scale));
    return from_e4m3(row[k]) * scale;
}

static float element(const uint8_t *b, enum dtype dtype, int i)
{
    float f;

    switch (dtype) {
    case DTYPE_F32:
        memcpy(&f, b, sizeof(f));
        return f;
    case DTYPE_F16:
        return half_at(b);
    case DTYPE_BF16:
        return bf16_at(b);
    case DTYPE_Q4_0:
    case DTYPE_Q4_1:
        return q4_at(b, dtype, i);
    case DTYPE_Q5_0:
    case DTYPE_Q5_1:
        return q5_at(b, dtype, i);
    case DTYPE_Q8_0:
        return half_at(b) * (float)(int8_t)b[2 + i];
    case DTYPE_Q2_K:
        return q2_k_at(b, i);
    case DTYPE_Q3_K:
        return q3_k_at(b, i);
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        return q45_k_at(b, dtype, i);
    case DTYPE_Q6_K:
        return q6_k_at(b, i);
    case DTYPE_F8:
        break; /* by row */
    }
    return NAN;
}

void ref_dequantize(float *out, const void *blocks, enum dtype dtype, uint64_t count)
{
    const uint8_t *b = blocks;
    uint32_t elements = dtype_block_elements(dtype);

    for (uint64_t i = 0; i < count && dtype == DTYPE_F8; i++)
        out[i] = f8_at(b, count, i);
    for (uint64_t i = 0; i < count && dtype != DTYPE_F8; i++)
        out[i] = element(b + i / elements * dtype_block_bytes(dtype), dtype, (int)(i % elements));
}
