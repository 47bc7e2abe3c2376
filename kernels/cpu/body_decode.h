/*
 * body_decode.h - 32 consecutive weights of a row as four vectors, for every stored type
 *
 * Included by portable.c and avx2.c behind their vectors.  `row` is a stored row, g the number of
 * the group of 32 in it.  Block layouts are explained in dequantize.c.  All results are exact but
 * for one rounding (a product of scale and quant fits float32; of F8 it is that rounding), so they
 * do not depend on the instruction set.
 */

VEC_FN void load_f32(v8 w[4], const uint8_t *row, size_t g)
{
    UNROLL
    for (int i = 0; i < 4; i++)
        w[i] = v_load((const float *)(const void *)row + 32 * g + 8 * i);
}

VEC_FN void load_f16(v8 w[4], const uint8_t *row, size_t g)
{
    UNROLL
    for (int i = 0; i < 4; i++)
        w[i] = v_load_f16(row + 64 * g + 16 * i);
}

VEC_FN void load_bf16(v8 w[4], const uint8_t *row, size_t g)
{
    UNROLL
    for (int i = 0; i < 4; i++)
        w[i] = v_load_bf16(row + 64 * g + 16 * i);
}

/* w = d * (q - zero) */
VEC_FN void scale_from(v8 w[4], v8 d, float zero)
{
    UNROLL
    for (int i = 0; i < 4; i++)
        w[i] = v_mul(v_sub(w[i], v_set(zero)), d);
}

/* w = d * q + m */
VEC_FN void scale_add(v8 w[4], v8 d, v8 m)
{
    UNROLL
    for (int i = 0; i < 4; i++)
        w[i] = v_fma(w[i], d, m);
}

VEC_FN void load_q4_0(v8 w[4], const uint8_t *row, size_t g)
{
    const uint8_t *b = row + 18 * g;
    b_floats(w, b_nibbles(b + 2));
    scale_from(w, v_half(b), 8);
}

VEC_FN void load_q4_1(v8 w[4], const uint8_t *row, size_t g)
{
    const uint8_t *b = row + 20 * g;
    b_floats(w, b_nibbles(b + 4));
    scale_add(w, v_half(b), v_half(b + 2));
}

VEC_FN void load_q5_0(v8 w[4], const uint8_t *row, size_t g)
{
    const uint8_t *b = row + 22 * g;
    b_floats(w, b_or(b_nibbles(b + 6), b_fifths(b + 2)));
    scale_from(w, v_half(b), 16);
}

VEC_FN void load_q5_1(v8 w[4], const uint8_t *row, size_t g)
{
    const uint8_t *b = row + 24 * g;
    b_floats(w, b_or(b_nibbles(b + 8), b_fifths(b + 4)));
    scale_add(w, v_half(b), v_half(b + 2));
}

VEC_FN void load_q8_0(v8 w[4], const uint8_t *row, size_t g)
{
    const uint8_t *b = row + 34 * g;
    v8 d = v_half(b);
    v_load_i8(w, b + 2);
    UNROLL
    for (int i = 0; i < 4; i++)
        w[i] = v_mul(w[i], d);
}

/* w = d * scale * q - dmin * min of sub-block s; b: the superblock, its scales at b + 4. */
VEC_FN void scale_k(v8 w[4], const uint8_t *b, uint32_t s)
{
    const uint8_t *p = b + 4;
    int scale, min;

    if (s < 4) {
        scale = p[s] & 63;
        min = p[s + 4] & 63;
    } else {
        scale = (p[s + 4] & 15) | (p[s - 4] >> 6) << 4;
        min = (p[s + 4] >> 4) | (p[s] >> 6) << 4;
    }
    scale_add(w, v_mul(v_half(b), v_set((float)scale)), v_mul(v_half(b + 2), v_set(-(float)min)));
}

VEC_FN void load_q4_k(v8 w[4], const uint8_t *row, size_t g)
{
    const uint8_t *b = row + 144 * (g / 8);
    uint32_t s = g % 8;
    b_floats(w, b_shift_mask(b_load(b + 16 + s / 2 * 32), s % 2 * 4, 15));
    scale_k(w, b, s);
}

VEC_FN void load_q5_k(v8 w[4], const uint8_t *row, size_t g)
{
    const uint8_t *b = row + 176 * (g / 8);
    uint32_t s = g % 8;
    b32 low = b_shift_mask(b_load(b + 48 + s / 2 * 32), s % 2 * 4, 15);
    b_floats(w, b_join(low, b_shift_mask(b_load(b + 16), s, 1)));
    scale_k(w, b, s);
}

VEC_FN void load_q2_k(v8 w[4], const uint8_t *row, size_t g)
{
    const uint8_t *b = row + 84 * (g / 8);
    uint32_t s = g % 8;
    v8 d = v_half(b + 80), dmin = v_half(b + 82);

    b_floats(w, b_shift_mask(b_load(b + 16 + s / 4 * 32), s % 4 * 2, 3));
    UNROLL
    for (int i = 0; i < 4; i++) {
        int scale = b[2 * s + (uint32_t)i / 2];
        w[i] = v_fma(w[i], v_mul(d, v_set((float)(scale & 15))),
                     v_mul(dmin, v_set(-(float)(scale >> 4))));
    }
}

VEC_FN void load_q3_k(v8 w[4], const uint8_t *row, size_t g)
{
    const uint8_t *b = row + 110 * (g / 8), *p = b + 96;
    uint32_t s = g % 8;
    b32 low = b_shift_mask(b_load(b + 32 + s / 4 * 32), s % 4 * 2, 3);
    b32 third = b_shift_mask(b_load(b), s, 1);
    v8 d = v_half(b + 108);

    b_floats(w, b_or(low, b_shift_mask(b_join(third, third), 2, 4)));
    UNROLL
    for (int i = 0; i < 4; i++) {
        uint32_t sub = 2 * s + (uint32_t)i / 2;
        int scale = (p[sub % 8] >> (sub / 8 * 4) & 15) | (p[8 + sub % 4] >> (sub / 4 * 2) & 3) << 4;
        w[i] = v_mul(v_sub(w[i], v_set(4)), v_mul(d, v_set((float)(scale - 32))));
    }
}

VEC_FN void load_q6_k(v8 w[4], const uint8_t *row, size_t g)
{
    const uint8_t *b = row + 210 * (g / 8);
    uint32_t half = g % 8 / 4, s = g % 4;
    b32 low = b_shift_mask(b_load(b + 64 * half + s % 2 * 32), s / 2 * 4, 15);
    b32 high = b_shift_mask(b_load(b + 128 + 32 * half), s * 2, 3);
    v8 d = v_half(b + 208);

    b_floats(w, b_join(low, high));
    UNROLL
    for (int i = 0; i < 4; i++) {
        int scale = (int8_t)b[192 + 8 * half + 2 * s + (uint32_t)i / 2];
        w[i] = v_mul(v_sub(w[i], v_set(32)), v_mul(d, v_set((float)scale)));
    }
}

/* w = code * scale of a row of DTYPE_F8 that has `cols` columns. */
VEC_FN void f8_group(v8 w[4], const uint8_t *codes, const uint8_t *row, size_t g, uint32_t cols)
{
    float scale;
    memcpy(&scale, row + ((size_t)cols + F8_ALIGN - 1) / F8_ALIGN * F8_ALIGN + g / 4 * 4,
           sizeof(scale));
    v8 d = v_set(scale * 0x1p8f);
    v_load_e4m3(w, codes);
    UNROLL
    for (int i = 0; i < 4; i++)
        w[i] = v_mul(w[i], d);
}

/* As the others, where `cols` is the row's. */
#define load_f8(w, row, g) f8_group((w), (row) + 32 * (g), (row), (g), cols)

/* The last `count` < 32 weights of a row of an unblocked type, zeros behind them. */
VEC_FN void load_tail(float tail[32], enum dtype dtype, const uint8_t *row, size_t g,
                      uint32_t count)
{
    uint32_t bytes = dtype == DTYPE_F8 ? 1 : dtype == DTYPE_F32 ? 4 : 2;
    uint8_t padded[128] = {0};
    v8 w[4];

    memcpy(padded, row + 32 * g * bytes, count * bytes);
    if (dtype == DTYPE_F32)
        load_f32(w, padded, 0);
    else if (dtype == DTYPE_F16)
        load_f16(w, padded, 0);
    else if (dtype == DTYPE_F8)
        f8_group(w, padded, row, g, (uint32_t)(32 * g) + count);
    else
        load_bf16(w, padded, 0);
    UNROLL
    for (int i = 0; i < 4; i++)
        v_store(tail + 8 * i, w[i]);
}
