/*
 * quantized_test.c - products by integer dots: what they compute, and that it is the same in every
 * path
 */
#include "tests/unit/kernels_compare.h"

static const enum dtype dtypes[] = {
    DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K,
};
#define DTYPE_COUNT (sizeof(dtypes) / sizeof(dtypes[0]))
static const char *const fast_names[] = {"avx2", "avx-vnni", "avx512-vnni"};
#define FAST_COUNT (sizeof(fast_names) / sizeof(fast_names[0]))
#define ROWS_MAX   17u
#define COLS_MAX   1536u

/* NULL, and said so, where this CPU lacks it. */
static struct device *open_fast(size_t name, uint32_t threads, uint32_t rows_max)
{
    struct error err;
    struct device *d =
        device_create_isa("avx2", fast_names[name], threads, rows_max, COLS_MAX, &err);

    if (!d) {
        print_message("%s: not tested\n", err.text);
        assert_int_equal(err.status, STATUS_UNSUPPORTED);
    }
    return d;
}

static void free_weight(const struct weight *w)
{
    free((void *)(uintptr_t)w->data);
}

/* What quantized.h says of a row of x: each block of 32 rounded to 8 bits. */
static void round_row(float *x, uint32_t cols)
{
    for (uint32_t b = 0; b < cols; b += 32) {
        float amax = 0;
        for (uint32_t i = b; i < b + 32; i++)
            amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
        for (uint32_t i = b; i < b + 32 && amax > 0; i++)
            x[i] = nearbyintf(x[i] * (127 / amax)) * (amax / 127);
    }
}

/* Against float64 sums over the reference's weights and rounded activations: only the sums' own
 * rounding differs. */
static void check_values(struct device *d, enum dtype dtype, uint32_t out_cols, uint32_t cols,
                         uint32_t rows, uint64_t *seed)
{
    struct weight w = random_weight(dtype, out_cols, cols, seed);
    size_t row_bytes = dtype_row_bytes(dtype, cols);
    float *x = random_floats((size_t)rows * cols, seed), *bias = random_floats(out_cols, seed);
    float *got = allocate((size_t)rows * out_cols * sizeof(*got));
    float *decoded = allocate(cols * sizeof(*decoded));

    k_matmul(d, got, out_cols, x, &w, bias, rows);
    for (size_t r = 0; r < rows; r++)
        round_row(x + r * cols, cols);
    for (size_t j = 0; j < out_cols; j++) {
        ref_dequantize(decoded, (const char *)w.data + j * row_bytes, dtype, cols);
        for (size_t r = 0; r < rows; r++) {
            double sum = bias[j], size = 1;
            for (size_t k = 0; k < cols; k++) {
                double term = (double)decoded[k] * (double)x[r * cols + k];
                sum += term;
                size += fabs(term);
            }
            if (!close_to(got[r * out_cols + j], sum, 1e-6 * size))
                fail_msg("%s %ux%u, row %zu of %u, output %zu: %.9g, not %.9g", dtype_name(dtype),
                         out_cols, cols, r, rows, j, (double)got[r * out_cols + j], sum);
        }
    }
    free_weight(&w);
    free(x);
    free(bias);
    free(got);
    free(decoded);
}

static void test_values(void **state)
{
    static const uint32_t widths[] = {32, 96, 256, 576, 768, 1536};
    static const uint32_t heights[] = {16, 17, 40, 64};
    static const uint32_t rows[] = {1, 2, 8, 9};
    uint64_t seed = 1;

    (void)state;
    for (size_t n = 0; n < FAST_COUNT; n++) {
        struct device *d = open_fast(n, 2, 64);
        for (size_t t = 0; d && t < DTYPE_COUNT; t++)
            for (size_t c = 0; c < sizeof(widths) / sizeof(widths[0]); c++)
                if (dtype_row_bytes(dtypes[t], widths[c]) > 0)
                    for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++)
                        check_values(d, dtypes[t], heights[(c + r) % 4], widths[c], rows[r], &seed);
        device_destroy(d);
    }
}

/* A row alone, in every batch from 2 to ROWS_MAX and at every place in it, has the same bits; so it
 * has on every instruction set, with any number of threads, and where few rows fit at once. */
static void check_rows(struct device *const *devices, size_t count, enum dtype dtype,
                       uint32_t out_cols, uint32_t cols, uint64_t *seed)
{
    struct weight w = random_weight(dtype, out_cols, cols, seed);
    float *x = random_floats((size_t)ROWS_MAX * cols, seed), *bias = random_floats(out_cols, seed);
    float *alone = allocate((size_t)ROWS_MAX * out_cols * sizeof(*alone));
    float *got = allocate((size_t)ROWS_MAX * out_cols * sizeof(*got));

    for (size_t r = 0; r < ROWS_MAX; r++)
        k_matmul(devices[0], alone + r * out_cols, out_cols, x + r * cols, &w, bias, 1);
    for (size_t i = 0; i < count; i++) {
        for (uint32_t rows = 1; rows <= ROWS_MAX; rows++) {
            k_matmul(devices[i], got, out_cols, x, &w, bias, rows);
            assert_same_bits(got, alone, (size_t)rows * out_cols, dtype_name(dtype));
        }
        for (uint32_t first = 1; first < ROWS_MAX; first++) {
            k_matmul(devices[i], got, out_cols, x + (size_t)first * cols, &w, bias,
                     ROWS_MAX - first);
            assert_same_bits(got, alone + (size_t)first * out_cols,
                             (size_t)(ROWS_MAX - first) * out_cols, dtype_name(dtype));
        }
    }
    free_weight(&w);
    free(x);
    free(bias);
    free(alone);
    free(got);
}

static void test_rows_do_not_matter(void **state)
{
    struct device *devices[3 * FAST_COUNT];
    size_t count = 0;
    uint64_t seed = 2;

    (void)state;
    for (size_t n = 0; n < FAST_COUNT; n++) {
        static const uint32_t threads[] = {1, 2, 3}, rows_max[] = {64, 64, 1};
        for (size_t i = 0; i < 3; i++)
            if ((devices[count] = open_fast(n, threads[i], rows_max[i])))
                count++;
    }
    for (size_t t = 0; count > 0 && t < DTYPE_COUNT; t++) {
        check_rows(devices, count, dtypes[t], 100, 768, &seed);
        check_rows(devices, count, dtypes[t], 16, 256, &seed);
        if (dtype_row_bytes(dtypes[t], 96) > 0)
            check_rows(devices, count, dtypes[t], 35, 96, &seed);
    }
    for (size_t i = 0; i < count; i++)
        device_destroy(devices[i]);
}

/* Experts' products have the bits that k_matmul's have. */
static void test_experts(void **state)
{
    enum { EXPERTS = 5, OUT = 40, COLS = 256, ROWS = 12, SHARE = 3 };
    uint64_t seed = 3;
    uint32_t ids[ROWS];
    float got[ROWS * OUT], want[OUT];

    (void)state;
    for (size_t n = 0; n < FAST_COUNT; n++) {
        struct device *d = open_fast(n, 2, 1);
        for (size_t t = 0; d && t < DTYPE_COUNT; t++) {
            struct weight all = random_weight(dtypes[t], EXPERTS * OUT, COLS, &seed), w = all;
            float *x = random_floats(ROWS / SHARE * COLS, &seed);
            w.rows = OUT;
            for (uint32_t r = 0; r < ROWS; r++)
                ids[r] = random_bits(&seed) % EXPERTS;
            k_matmul_expert(d, got, x, &w, ids, ROWS, SHARE);
            for (size_t r = 0; r < ROWS; r++) {
                struct weight one = w;
                one.data = (const char *)all.data + ids[r] * OUT * dtype_row_bytes(w.dtype, COLS);
                k_matmul(d, want, OUT, x + r / SHARE * COLS, &one, NULL, 1);
                assert_same_bits(got + r * OUT, want, OUT, dtype_name(w.dtype));
            }
            free_weight(&all);
            free(x);
        }
        device_destroy(d);
    }
}

/* Nothing hides a value that is no number; blocks of zeros, of tiny and of huge values are what
 * they are. */
static void test_strange_values(void **state)
{
    uint64_t seed = 4;

    (void)state;
    for (size_t n = 0; n < FAST_COUNT; n++) {
        struct device *d = open_fast(n, 1, 8);
        for (size_t t = 0; d && t < DTYPE_COUNT; t++) {
            struct weight w = random_weight(dtypes[t], 16, 256, &seed);
            float x[512] = {0}, out[2 * 16], zero[16] = {0};
            k_matmul(d, out, 16, x, &w, NULL, 1);
            for (size_t i = 0; i < 16; i++)
                assert_true(out[i] == 0);
            x[40] = 1e-38f;
            x[256 + 7] = NAN;
            x[256 + 8] = 3;
            k_matmul(d, out, 16, x, &w, NULL, 2);
            assert_close(out, zero, 16, 1e-30, "a tiny value");
            for (size_t i = 16; i < 32; i++)
                assert_true(is_nan(out[i]));
            x[256 + 7] = -INFINITY;
            x[40] = 1e33f;
            k_matmul(d, out, 16, x, &w, NULL, 2);
            for (size_t i = 0; i < 16; i++) {
                assert_true(fabsf(out[i]) < INFINITY);
                assert_false(fabsf(out[16 + i]) < INFINITY);
            }
            free_weight(&w);
        }
        device_destroy(d);
    }
}

/* Rows of out further apart, and sums added to what is there: the same sums.  33 rows end within a
 * panel of any width. */
static void test_where_sums_go(void **state)
{
    enum { OUT_ROWS = 33, WIDTH = 64, ROWS = 5, STRIDE = 40 };
    uint64_t seed = 6;

    (void)state;
    for (size_t n = 0; n < FAST_COUNT; n++) {
        struct device *d = open_fast(n, 1, 8);
        struct weight w = random_weight(DTYPE_Q4_1, OUT_ROWS, WIDTH, &seed);
        float *x = random_floats(ROWS * WIDTH, &seed);
        float plain[ROWS * OUT_ROWS], apart[ROWS * STRIDE], sums[ROWS * OUT_ROWS];
        for (uint32_t rows = 1; d && rows <= ROWS; rows += ROWS - 1) {
            k_matmul(d, plain, OUT_ROWS, x, &w, NULL, rows);
            for (size_t i = 0; i < ROWS * STRIDE; i++)
                apart[i] = -7;
            k_matmul(d, apart, STRIDE, x, &w, NULL, rows);
            for (size_t i = 0; i < rows * OUT_ROWS; i++)
                sums[i] = (float)(i % 5);
            k_matmul_add(d, sums, 0.25f, x, &w, rows);
            for (size_t r = 0; r < rows; r++) {
                assert_same_bits(apart + r * STRIDE, plain + r * OUT_ROWS, OUT_ROWS, "apart");
                for (size_t j = OUT_ROWS; j < STRIDE; j++)
                    assert_true(apart[r * STRIDE + j] == -7);
            }
            for (size_t i = 0; i < rows * OUT_ROWS; i++) {
                volatile float scaled = plain[i] * 0.25f;
                assert_true(sums[i] == (float)(i % 5) + scaled);
            }
        }
        free_weight(&w);
        free(x);
        device_destroy(d);
    }
}

/* Matrices that are not quantized, FP8, or too narrow, get the exact bits. */
static void test_what_stays_exact(void **state)
{
    static const enum dtype exact[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8, DTYPE_Q4_0};
    static const uint32_t heights[] = {24, 24, 24, 24, 5};
    struct device *d = open_device("avx2", 1, 64), *fast;
    uint64_t seed = 5;

    (void)state;
    for (size_t n = 0; d && n < FAST_COUNT; n++) {
        fast = open_fast(n, 1, 8);
        for (size_t t = 0; fast && t < sizeof(exact) / sizeof(exact[0]); t++) {
            struct weight w = random_weight(exact[t], heights[t], 64, &seed);
            float *x = random_floats(3 * 64, &seed), got[3 * 24], want[3 * 24];
            k_matmul(d, want, heights[t], x, &w, NULL, 3);
            k_matmul(fast, got, heights[t], x, &w, NULL, 3);
            assert_same_bits(got, want, 3 * heights[t], dtype_name(exact[t]));
            free_weight(&w);
            free(x);
        }
        device_destroy(fast);
    }
    device_destroy(d);
}

static void test_names(void **state)
{
    struct error err;

    (void)state;
    assert_null(device_create_isa("avx2", "abacus", 1, 1, 64, &err));
    assert_int_equal(err.status, STATUS_UNSUPPORTED);
    for (size_t n = 0; n < FAST_COUNT; n++) {
        struct device *d = open_fast(n, 1, 1);
        if (d) {
            assert_non_null(strstr(device_name(d), fast_names[n]));
            assert_non_null(strstr(device_name(d), " fast, 1 thread"));
        }
        device_destroy(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),        cmocka_unit_test(test_rows_do_not_matter),
        cmocka_unit_test(test_experts),       cmocka_unit_test(test_strange_values),
        cmocka_unit_test(test_where_sums_go), cmocka_unit_test(test_what_stays_exact),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
