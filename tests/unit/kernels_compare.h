/*
 * kernels_compare.h - inputs and comparisons of the kernels' tests
 */
#ifndef MP_TESTS_UNIT_KERNELS_COMPARE_H
#define MP_TESTS_UNIT_KERNELS_COMPARE_H

/* cmocka wants these four before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* That one first. */
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/device.h"
#include "kernels/reference.h"

static const char *const isa_names[] = {"portable", "avx2", "avx512"};
#define ISA_COUNT (sizeof(isa_names) / sizeof(isa_names[0]))

/* A device of that instruction set; NULL, and said so, where this CPU lacks it. */
static inline struct device *open_device(const char *isa, uint32_t threads, uint32_t cols_max)
{
    struct error err;
    struct device *d = device_create_isa(isa, NULL, threads, 64, cols_max, &err);

    if (!d) {
        print_message("%s: not tested\n", err.text);
        assert_int_equal(err.status, STATUS_UNSUPPORTED);
    }
    return d;
}

static inline uint32_t random_bits(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

/* Uniform in [-1, 1). */
static inline float random_float(uint64_t *state)
{
    return (float)((int32_t)random_bits(state)) * 0x1p-31f;
}

static inline void *allocate(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);

    assert_non_null(p);
    return p;
}

static inline float *random_floats(size_t n, uint64_t *state)
{
    float *x = allocate(n * sizeof(*x));

    for (size_t i = 0; i < n; i++)
        x[i] = random_float(state);
    return x;
}

/* Rows of q, k and v behind each other, as k_rope_kv() wants them, of widths qw, kw and kw. */
static inline float *fused(const float *q, const float *k, const float *v, size_t rows, size_t qw,
                           size_t kw)
{
    float *qkv = allocate(rows * (qw + 2 * kw) * sizeof(*qkv));

    for (size_t r = 0; r < rows; r++) {
        float *to = qkv + r * (qw + 2 * kw);
        memcpy(to, q + r * qw, qw * sizeof(*q));
        memcpy(to + qw, k + r * kw, kw * sizeof(*k));
        memcpy(to + qw + kw, v + r * kw, kw * sizeof(*v));
    }
    return qkv;
}

/* isnan() as a function: cmocka casts its macro's result, and the compilers warn. */
static inline int is_nan(float x)
{
    return isnan(x) ? 1 : 0;
}

/* Whether |got - want| <= tolerance; NaN never is. */
static inline int close_to(double got, double want, double tolerance)
{
    return fabs(got - want) <= tolerance;
}

static inline void assert_close(const float *got, const float *want, size_t n, double tolerance,
                                const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (!close_to(got[i], want[i], tolerance * (1 + fabs((double)want[i]))))
            fail_msg("%s: element %zu is %.9g, not %.9g", what, i, (double)got[i], (double)want[i]);
}

static inline void assert_same_bits(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof(*a)) != 0)
            fail_msg("%s: element %zu is %.9g here and %.9g there", what, i, (double)a[i],
                     (double)b[i]);
}

/* A half of the given exponent field's range: a normal number in about [2^-4, 2^-2). */
static inline void random_half(uint8_t *p, uint64_t *state)
{
    uint16_t h = (uint16_t)((random_bits(state) & 0x87ff) | 0x2c00);

    memcpy(p, &h, sizeof(h));
}

/* Where a block's first float16 lies. */
static inline uint32_t first_half(enum dtype dtype)
{
    return dtype == DTYPE_Q2_K ? 80 : dtype == DTYPE_Q3_K ? 108 : dtype == DTYPE_Q6_K ? 208 : 0;
}

/* A row of DTYPE_F8: random codes that are numbers, scales of ordinary size, zeros between. */
static inline void random_f8(uint8_t *row, uint32_t cols, uint64_t *state)
{
    memset(row, 0, dtype_row_bytes(DTYPE_F8, cols));
    for (uint32_t i = 0; i < cols; i++)
        do
            row[i] = (uint8_t)random_bits(state);
        while ((row[i] & 0x7f) == 0x7f);
    for (uint32_t b = 0; b < (cols + F8_BLOCK - 1) / F8_BLOCK; b++) {
        float scale = fabsf(random_float(state)) / 100;
        memcpy(row + f8_scales_at(cols) + b * sizeof(scale), &scale, sizeof(scale));
    }
}

/* Random stored rows: random quants, scales of ordinary size. */
static inline struct weight random_weight(enum dtype dtype, uint32_t rows, uint32_t cols,
                                          uint64_t *state)
{
    uint64_t bytes = dtype_row_bytes(dtype, cols) * rows;
    uint32_t block = dtype_block_bytes(dtype);
    uint8_t *data = allocate(bytes);

    assert_true(bytes > 0);
    for (uint64_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)random_bits(state);
    for (uint32_t r = 0; dtype == DTYPE_F8 && r < rows; r++)
        random_f8(data + r * dtype_row_bytes(dtype, cols), cols, state);
    for (uint64_t i = 0; dtype != DTYPE_F8 && i < bytes; i += block) {
        float f = random_float(state);
        if (dtype == DTYPE_F32)
            memcpy(data + i, &f, sizeof(f));
        else if (dtype == DTYPE_BF16)
            memcpy(data + i, (char *)&f + 2, 2);
        else
            random_half(data + i + first_half(dtype), state);
        if (dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1 || dtype == DTYPE_Q4_K ||
            dtype == DTYPE_Q5_K)
            random_half(data + i + 2, state);
        if (dtype == DTYPE_Q2_K)
            random_half(data + i + 82, state);
    }
    return (struct weight){.data = data, .dtype = dtype, .rows = rows, .cols = cols};
}

#endif
