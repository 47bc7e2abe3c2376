/*
 * kernels_test.c - stored types, matrix products and row operations against the reference
 */
#include "tests/unit/kernels_compare.h"

static const enum dtype dtypes[] = {
    DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1,
    DTYPE_Q8_0, DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_F8,
};
#define DTYPE_COUNT (sizeof(dtypes) / sizeof(dtypes[0]))
#define ROWS_MAX    33u

/* ---- comparisons and sizes ----------------------------------------------------------------- */

static void test_nan_is_never_close(void **state)
{
    (void)state;
    assert_false(close_to(NAN, 0, 1e9));
    assert_false(close_to(0, NAN, 1e9));
    assert_false(close_to(NAN, NAN, INFINITY));
    assert_false(close_to(1.1, 1, 0.05));
    assert_true(close_to(1.1, 1, 0.2));
}

static void test_row_bytes(void **state)
{
    (void)state;
    assert_int_equal(dtype_row_bytes(DTYPE_F32, 7), 28);
    assert_int_equal(dtype_row_bytes(DTYPE_Q4_1, 576), 360);
    assert_int_equal(dtype_row_bytes(DTYPE_Q8_0, 576), 612);
    assert_int_equal(dtype_row_bytes(DTYPE_Q2_K, 512), 168);
    assert_int_equal(dtype_row_bytes(DTYPE_Q3_K, 512), 220);
    assert_int_equal(dtype_row_bytes(DTYPE_Q6_K, 512), 420);
    assert_int_equal(dtype_row_bytes(DTYPE_F8, 1), 32);
    assert_int_equal(dtype_row_bytes(DTYPE_F8, 16), 32);
    assert_int_equal(dtype_row_bytes(DTYPE_F8, 129), 144 + 16);
    assert_int_equal(dtype_row_bytes(DTYPE_F8, 576), 576 + 32);
    assert_int_equal(dtype_row_bytes(DTYPE_F8, 4096), 4096 + 128);
    assert_int_equal(dtype_row_bytes(DTYPE_F8, UINT64_MAX - 3), 0);
    assert_int_equal(dtype_row_bytes(DTYPE_Q4_0, 33), 0);
    assert_int_equal(dtype_row_bytes(DTYPE_Q4_K, 576), 0);
    assert_int_equal(dtype_row_bytes(99, 32), 0);
    assert_int_equal(dtype_row_bytes(4, 32), 0);
    assert_int_equal(dtype_row_bytes(DTYPE_F32, UINT64_MAX / 2), 0);
    assert_int_equal(dtype_block_bytes(1000000), 0);
    assert_string_equal(dtype_name(DTYPE_Q6_K), "Q6_K");
    assert_string_equal(dtype_name(31), "unknown");
}

static void test_device_refusals(void **state)
{
    struct error err;

    (void)state;
    assert_null(device_create(1, PRECISION_EXACT, 1, 0, &err));
    assert_int_equal(err.status, STATUS_INVALID);
    assert_null(device_create(100000, PRECISION_EXACT, 1, 64, &err));
    assert_int_equal(err.status, STATUS_INVALID);
    assert_null(device_create_isa("cray", NULL, 1, 1, 64, &err));
    assert_int_equal(err.status, STATUS_UNSUPPORTED);
    device_destroy(NULL);
}

static void test_device_name(void **state)
{
    struct device *d = device_create_isa("portable", NULL, 2, 1, 64, NULL);

    (void)state;
    assert_non_null(d);
    assert_string_equal(device_name(d), "cpu portable exact, 2 threads");
    device_destroy(d);
}

/* ---- stored types -------------------------------------------------------------------------- */

/* What the gguf package decodes; see tests/golden/kernels/dequantize.py. */
static void test_golden_blocks(void **state)
{
    FILE *f = fopen(SRCDIR "/tests/golden/kernels/dequantize.bin", "rb");
    uint8_t blocks[2048];
    float want[512], got[512];
    uint32_t head[2];
    size_t records = 0;

    (void)state;
    assert_non_null(f);
    while (fread(head, sizeof(head), 1, f) == 1) {
        size_t bytes = dtype_row_bytes(head[0], head[1]);
        assert_true(bytes > 0 && bytes <= sizeof(blocks) && head[1] <= 512);
        assert_int_equal(fread(blocks, bytes, 1, f), 1);
        assert_int_equal(fread(want, head[1] * sizeof(float), 1, f), 1);
        ref_dequantize(got, blocks, (enum dtype)head[0], head[1]);
        assert_same_bits(got, want, head[1], dtype_name(head[0]));
        records++;
    }
    fclose(f);
    assert_int_equal(records, DTYPE_COUNT - 1); /* all but F8, which GGUF has not */
}

/* All codes of e4m3 that are numbers, as torch decodes them (tests/golden/kernels/e4m3.py), with
 * scales from subnormal to the largest: the reference and every instruction set. */
static void test_golden_e4m3(void **state)
{
    static const float scales[] = {1, 0, 0x1.234566p-7f, 1e-40f, 0x1.fffffep-130f, F8_SCALE_MAX};
    FILE *f = fopen(SRCDIR "/tests/golden/kernels/e4m3.bin", "rb");
    float codes[256], want[254], got[254];
    uint8_t row[256 + 16];
    uint32_t count = 0;

    (void)state;
    assert_non_null(f);
    assert_int_equal(fread(codes, sizeof(codes), 1, f), 1);
    fclose(f);
    assert_true(is_nan(codes[0x7f]) && is_nan(codes[0xff]));
    memset(row, 0, sizeof(row));
    for (uint32_t code = 0; code < 256; code++)
        if ((code & 0x7f) != 0x7f)
            row[count++] = (uint8_t)code;
    assert_int_equal(count, 254);
    for (size_t i = 0; i < sizeof(scales) / sizeof(scales[0]); i++) {
        const struct weight table = {.data = row, .dtype = DTYPE_F8, .rows = 1, .cols = 254};
        const uint32_t token = 0;
        /* The second block's is another. */
        const float two[2] = {scales[i], 0.5f * scales[i]};
        memcpy(row + f8_scales_at(254), two, sizeof(two));
        for (uint32_t k = 0; k < 254; k++)
            want[k] = codes[row[k]] * two[k / F8_BLOCK];
        ref_dequantize(got, row, DTYPE_F8, 254);
        assert_same_bits(got, want, 254, "e4m3 by the reference");
        for (size_t n = 0; n < ISA_COUNT; n++) {
            struct device *d = open_device(isa_names[n], 1, 256);
            if (!d)
                continue;
            k_embed(d, got, &table, &token, 1, 1);
            device_sync(d);
            assert_same_bits(got, want, 254, isa_names[n]);
            device_destroy(d);
        }
    }
    row[3] = 0x7f; /* no number, if it were stored */
    ref_dequantize(got, row, DTYPE_F8, 254);
    assert_true(is_nan(got[3]));
}

/* Embedding a row decodes it: every instruction set gives the reference's bits. */
static void check_embed(struct device *d, enum dtype dtype, uint32_t cols, uint64_t *seed)
{
    struct weight table = random_weight(dtype, 40, cols, seed);
    size_t row_bytes = dtype_row_bytes(dtype, cols);
    uint32_t tokens[ROWS_MAX];
    float *got = allocate(ROWS_MAX * cols * sizeof(*got));
    float *want = allocate(cols * sizeof(*want));

    for (uint32_t r = 0; r < ROWS_MAX; r++)
        tokens[r] = random_bits(seed) % table.rows;
    k_embed(d, got, &table, tokens, ROWS_MAX, 0.5f);
    device_sync(d);
    for (size_t r = 0; r < ROWS_MAX; r++) {
        ref_dequantize(want, (const char *)table.data + tokens[r] * row_bytes, dtype, cols);
        for (uint32_t i = 0; i < cols; i++)
            want[i] *= 0.5f;
        assert_same_bits(got + r * cols, want, cols, dtype_name(dtype));
    }
    free((void *)(uintptr_t)table.data);
    free(got);
    free(want);
}

static void test_embed(void **state)
{
    static const uint32_t widths[] = {1, 7, 33, 127, 144, 256, 576, 768};
    uint64_t seed = 1;

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 2, 768);
        for (size_t t = 0; d && t < DTYPE_COUNT; t++)
            for (size_t c = 0; c < sizeof(widths) / sizeof(widths[0]); c++)
                if (dtype_row_bytes(dtypes[t], widths[c]) > 0)
                    check_embed(d, dtypes[t], widths[c], &seed);
        device_destroy(d);
    }
}

/* ---- matrix products ----------------------------------------------------------------------- */

/* A product's tolerance follows the sum of its terms' sizes: their rounding is what differs. */
static void assert_product(const float *got, const float *x, const struct weight *w,
                           const float *bias, uint32_t rows)
{
    size_t row_bytes = dtype_row_bytes(w->dtype, w->cols);
    float *decoded = allocate(w->cols * sizeof(*decoded));
    float *want = allocate((size_t)rows * w->rows * sizeof(*want));

    ref_matmul(want, x, w, bias, rows);
    for (size_t j = 0; j < w->rows; j++) {
        ref_dequantize(decoded, (const char *)w->data + j * row_bytes, w->dtype, w->cols);
        for (size_t r = 0; r < rows; r++) {
            double size = bias ? fabs((double)bias[j]) : 0;
            for (size_t k = 0; k < w->cols; k++)
                size += fabs((double)decoded[k] * x[r * w->cols + k]);
            size_t at = r * w->rows + j;
            if (!close_to(got[at], want[at], 1e-6 * size + 1e-7))
                fail_msg("%s %ux%u row %zu of %u, output %zu: %.9g, not %.9g", dtype_name(w->dtype),
                         w->rows, w->cols, r, rows, j, (double)got[at], (double)want[at]);
        }
    }
    free(decoded);
    free(want);
}

/* All rows at once against the reference, then every smaller number of rows, an odd slice of the
 * output rows, and another number of threads, all bit for bit. */
static void check_matmul(struct device *d, struct device *other, enum dtype dtype, uint32_t out,
                         uint32_t cols, uint64_t *seed)
{
    struct weight w = random_weight(dtype, out, cols, seed), slice = w;
    float *x = random_floats((size_t)ROWS_MAX * cols, seed), *bias = random_floats(out, seed);
    float *all = allocate((size_t)ROWS_MAX * out * sizeof(*all));
    float *part = allocate((size_t)ROWS_MAX * out * sizeof(*part));
    float *sums = allocate((size_t)ROWS_MAX * out * sizeof(*sums));

    k_matmul(d, all, out, x, &w, bias, ROWS_MAX);
    assert_product(all, x, &w, bias, ROWS_MAX);
    for (uint32_t rows = 1; rows < ROWS_MAX; rows += rows < 8 ? 1 : 5) {
        size_t first = ROWS_MAX - rows;
        k_matmul(d, part, out, x + first * cols, &w, bias, rows);
        assert_same_bits(part, all + first * out, (size_t)rows * out, "fewer rows");
    }
    k_matmul(other, part, out, x, &w, bias, ROWS_MAX);
    assert_same_bits(part, all, (size_t)ROWS_MAX * out, "other threads");
    slice.rows = (out + 1) / 2;
    slice.data = (const char *)w.data + (out - slice.rows) * dtype_row_bytes(dtype, cols);
    for (uint32_t rows = 1; rows <= 2; rows++) {
        float *at = part + out - slice.rows;
        for (size_t i = 0; i < (size_t)rows * out; i++)
            part[i] = -7;
        k_matmul(d, at, out, x, &slice, bias + out - slice.rows, rows);
        for (size_t r = 0; r < rows; r++) {
            assert_same_bits(at + r * out, all + r * out + out - slice.rows, slice.rows,
                             "slice of a matrix");
            for (size_t j = 0; j < out - slice.rows; j++)
                assert_true(part[r * out + j] == -7);
        }
    }
    k_matmul_f32(d, part, x, &w, ROWS_MAX);
    assert_product(part, x, &w, NULL, ROWS_MAX);
    /* Added to what is there: the same sums, scaled. */
    for (uint32_t rows = 1; rows <= ROWS_MAX; rows += ROWS_MAX - 1) {
        for (size_t i = 0; i < (size_t)rows * out; i++) {
            volatile float scaled = part[i] * 0.5f;
            all[i] = (float)(i % 9) + scaled;
            sums[i] = (float)(i % 9);
        }
        k_matmul_add(d, sums, 0.5f, x, &w, rows);
        assert_same_bits(sums, all, (size_t)rows * out, "product added");
    }
    free(sums);
    free((void *)(uintptr_t)w.data);
    free(x);
    free(bias);
    free(all);
    free(part);
}

static void test_matmul(void **state)
{
    static const struct {
        uint32_t out, cols;
    } shapes[] = {{1, 1}, {3, 7}, {17, 33}, {5, 129}, {1, 256}, {50, 256}, {19, 768}, {192, 576}};
    uint64_t seed = 2;

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *one = open_device(isa_names[n], 1, 768);
        struct device *three = open_device(isa_names[n], 3, 768);
        for (size_t t = 0; one && three && t < DTYPE_COUNT; t++)
            for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++)
                if (dtype_row_bytes(dtypes[t], shapes[s].cols) > 0)
                    check_matmul(three, one, dtypes[t], shapes[s].out, shapes[s].cols, &seed);
        device_destroy(one);
        device_destroy(three);
    }
}

static void test_matmul_passes_nan_on(void **state)
{
    uint64_t seed = 3;
    struct weight w = random_weight(DTYPE_Q4_1, 5, 64, &seed);
    float *x = random_floats(128, &seed), out[10];

    (void)state;
    x[64 + 40] = NAN;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 1, 64);
        if (!d)
            continue;
        k_matmul(d, out, 5, x, &w, NULL, 2);
        for (int j = 0; j < 5; j++) {
            assert_false(is_nan(out[j]));
            assert_true(is_nan(out[5 + j]));
        }
        device_destroy(d);
    }
    free((void *)(uintptr_t)w.data);
    free(x);
}

/* ---- rows ---------------------------------------------------------------------------------- */

static const uint32_t row_widths[] = {1, 7, 8, 9, 31, 576, 1536};
#define ROW_WIDTHS (sizeof(row_widths) / sizeof(row_widths[0]))

static void check_norms(struct device *d, uint32_t rows, uint32_t cols, uint64_t *seed)
{
    size_t n = (size_t)rows * cols;
    float *x = random_floats(n, seed), *y = random_floats(n, seed), *w = random_floats(cols, seed);
    float *sum = allocate(n * sizeof(*sum)), *got = allocate(n * sizeof(*got));
    float *want = allocate(n * sizeof(*want)), *alone = allocate(cols * sizeof(*alone));
    float *normed = allocate(n * sizeof(*normed));

    k_norm(d, got, x, NULL, 0, NULL, w, rows, cols, 1e-5f);
    ref_rmsnorm(want, x, w, rows, cols, 1e-5f);
    assert_close(got, want, n, 2e-6, "norm");
    k_norm(d, alone, x + n - cols, NULL, 0, NULL, w, 1, cols, 1e-5f);
    assert_same_bits(alone, got + n - cols, cols, "norm of one row");
    k_norm(d, got, x, NULL, 0, NULL, NULL, rows, cols, 1e-5f);
    assert_same_bits(got, x, n, "no norm");

    /* y normed, then added. */
    k_norm(d, normed, y, NULL, 0, NULL, w, rows, cols, 1e-5f);
    for (size_t i = 0; i < n; i++)
        sum[i] = x[i] + normed[i];
    memcpy(got, x, n * sizeof(*x));
    k_norm(d, want, got, y, 1, w, w, rows, cols, 1e-5f);
    assert_same_bits(got, sum, n, "sum of a normed part");

    for (size_t i = 0; i < n; i++)
        sum[i] = x[i] + y[i];
    k_norm(d, want, sum, NULL, 0, NULL, w, rows, cols, 1e-5f);
    k_norm(d, got, x, y, 1, NULL, w, rows, cols, 1e-5f);
    assert_same_bits(x, sum, n, "sum before the norm");
    assert_same_bits(got, want, n, "norm of a sum");
    free(normed);
    free(x);
    free(y);
    free(w);
    free(sum);
    free(got);
    free(want);
    free(alone);
}

static void test_norms(void **state)
{
    uint64_t seed = 4;

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 2, 1536);
        for (size_t c = 0; d && c < ROW_WIDTHS; c++)
            for (uint32_t rows = 1; rows <= ROWS_MAX; rows += 4)
                check_norms(d, rows, row_widths[c], &seed);
        device_destroy(d);
    }
}

static void check_glu(struct device *d, uint32_t rows, uint32_t cols, enum activation activation,
                      uint64_t *seed)
{
    size_t n = (size_t)rows * cols;
    float *x = random_floats(2 * n, seed), *got = allocate(n * sizeof(*got));
    float *want = allocate(n * sizeof(*want)), *alone = allocate(cols * sizeof(*alone));

    /* From where exp overflows to where it vanishes. */
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++)
            x[r * 2 * cols + i] *= i % 3 == 0 ? 1 : i % 3 == 1 ? 20 : 200;
    k_glu(d, got, x, rows, cols, activation);
    ref_glu(want, x, rows, cols, activation);
    assert_close(got, want, n, 2e-6, "glu");
    k_glu(d, alone, x + (size_t)(rows - 1) * 2 * cols, 1, cols, activation);
    assert_same_bits(alone, got + n - cols, cols, "glu of one row");
    free(x);
    free(got);
    free(want);
    free(alone);
}

static void test_glu(void **state)
{
    uint64_t seed = 5;

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 2, 1536);
        for (size_t c = 0; d && c < ROW_WIDTHS; c++)
            for (uint32_t rows = 1; rows <= ROWS_MAX; rows += 4) {
                check_glu(d, rows, row_widths[c], ACTIVATION_SILU, &seed);
                check_glu(d, rows, row_widths[c], ACTIVATION_GELU_TANH, &seed);
            }
        device_destroy(d);
    }
}

/* The same number in every lane of a vector and in every tail gives the same bits, and what is no
 * number stays none. */
static void check_glu_lanes(struct device *d, enum activation activation)
{
    float x[22], out[11];

    for (int i = 0; i < 11; i++) {
        x[i] = -1.2345f;
        x[11 + i] = 1;
    }
    k_glu(d, out, x, 1, 11, activation);
    for (int i = 1; i < 11; i++)
        assert_same_bits(&out[i], &out[0], 1, "lane");
    x[3] = NAN;
    x[4] = INFINITY;
    k_glu(d, out, x, 1, 11, activation);
    assert_true(is_nan(out[3]));
    assert_true(out[4] == INFINITY);
    assert_false(is_nan(out[5]));
}

static void test_glu_lanes(void **state)
{
    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 1, 16);
        if (!d)
            continue;
        check_glu_lanes(d, ACTIVATION_SILU);
        check_glu_lanes(d, ACTIVATION_GELU_TANH);
        device_destroy(d);
    }
}

/* Each element relative to itself: a cap must not lose small logits. */
static void check_scale(struct device *d, float scale, float cap, uint64_t *seed)
{
    uint32_t rows = 3, cols = 61;
    size_t n = (size_t)rows * cols;
    float *x = random_floats(n, seed), *want = allocate(n * sizeof(*want));

    for (size_t i = 0; i < n; i++) {
        x[i] *= i % 4 == 0 ? 1000 : i % 4 == 1 ? 1 : i % 4 == 2 ? 20 : 1e-3f;
        want[i] = x[i];
    }
    ref_scale(want, rows, cols, scale, cap);
    k_scale(d, x, rows, cols, scale, cap);
    for (size_t i = 0; i < n; i++)
        assert_true(fabsf(x[i] - want[i]) <= 2e-6f * fabsf(want[i]));
    x[0] = NAN;
    k_scale(d, x, 1, 1, scale, cap);
    assert_true(is_nan(x[0]));
    free(x);
    free(want);
}

static void test_scale(void **state)
{
    uint64_t seed = 6;

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 2, 64);
        if (!d)
            continue;
        check_scale(d, 0.125f, 0, &seed);
        check_scale(d, 1, 30, &seed);
        check_scale(d, 0.5f, 50, &seed);
        device_destroy(d);
    }
}

/* A sum with a factor, as plain float arithmetic gives it. */
static void test_scaled_sum(void **state)
{
    uint64_t seed = 7;
    uint32_t n = 3 * 77;
    float *x = random_floats(n, &seed), *y = random_floats(n, &seed);
    float *sum = allocate(n * sizeof(*sum)), *got = allocate(n * sizeof(*got));
    float *out = allocate(n * sizeof(*out));

    (void)state;
    for (size_t i = 0; i < ISA_COUNT; i++) {
        struct device *d = open_device(isa_names[i], 2, 77);
        if (!d)
            continue;
        for (uint32_t j = 0; j < n; j++) {
            volatile float part = y[j] * 0.22f;
            sum[j] = x[j] + part;
            got[j] = x[j];
        }
        k_norm(d, out, got, y, 0.22f, NULL, NULL, 3, 77, 1e-5f);
        assert_same_bits(got, sum, n, "scaled sum");
        assert_same_bits(out, sum, n, "scaled sum handed on");
        device_destroy(d);
    }
    free(x);
    free(y);
    free(sum);
    free(got);
    free(out);
}

/* ---- experts ------------------------------------------------------------------------------- */

#define EXPERTS 9u

static void check_route(struct device *d, uint32_t top_k, int renormalize, uint64_t *seed)
{
    uint32_t rows = 7, ids[7 * EXPERTS], want_ids[7 * EXPERTS];
    float weights[7 * EXPERTS], want[7 * EXPERTS];
    float *logits = random_floats((size_t)rows * EXPERTS, seed);

    logits[3] = logits[5] = 4; /* equals: the first one first */
    k_route(d, ids, weights, logits, rows, EXPERTS, top_k, renormalize);
    ref_route(want_ids, want, logits, rows, EXPERTS, top_k, renormalize);
    for (uint32_t i = 0; i < rows * top_k; i++)
        assert_int_equal(ids[i], want_ids[i]);
    assert_close(weights, want, (size_t)rows * top_k, 2e-6, "shares of experts");
    free(logits);
}

static void test_route(void **state)
{
    uint64_t seed = 8;
    float logits[EXPERTS] = {0}, weights[2];
    uint32_t ids[2];

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 2, 64);
        if (!d)
            continue;
        for (uint32_t k = 1; k <= EXPERTS; k++)
            for (int renormalize = 0; renormalize < 2; renormalize++)
                check_route(d, k, renormalize, &seed);
        /* No numbers name experts that exist all the same. */
        for (uint32_t i = 0; i < EXPERTS; i++)
            logits[i] = NAN;
        k_route(d, ids, weights, logits, 1, EXPERTS, 2, 1);
        assert_true(ids[0] < EXPERTS && ids[1] < EXPERTS && ids[0] != ids[1]);
        assert_true(is_nan(weights[0]));
        device_destroy(d);
    }
}

/* Each chosen expert's product is the bits of the plain product of that row alone. */
static void check_experts(struct device *d, enum dtype dtype, uint64_t *seed)
{
    static const uint32_t ids[6] = {2, 0, 1, 1, 0, 2};
    struct weight all = random_weight(dtype, 3 * 21, 256, seed), one = all;
    float *x = random_floats(3 * 256, seed), got[6 * 21], want[21], shares[6], sum[3 * 21];

    all.rows = one.rows = 21;
    k_matmul_expert(d, got, x, &all, ids, 6, 2);
    for (uint32_t i = 0; i < 6; i++) {
        one.data = (const char *)all.data + ids[i] * 21 * dtype_row_bytes(dtype, 256);
        k_matmul(d, want, 21, x + i / 2 * 256, &one, NULL, 1);
        assert_same_bits(got + (size_t)i * 21, want, 21, "an expert's product");
        shares[i] = (float)(i + 1) / 8;
    }
    k_combine(d, sum, got, shares, 3, 2, 21);
    for (uint32_t i = 0; i < 3 * 21; i++) {
        size_t r = i / 21, c = i % 21;
        double plain = (double)shares[2 * r] * got[2 * r * 21 + c] +
                       (double)shares[2 * r + 1] * got[(2 * r + 1) * 21 + c];
        assert_true(fabs(sum[i] - plain) <= 1e-5 * (1 + fabs(plain)));
    }
    free((void *)(uintptr_t)all.data);
    free(x);
}

static void test_experts(void **state)
{
    uint64_t seed = 9;

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 2, 256);
        for (size_t t = 0; d && t < DTYPE_COUNT; t++)
            check_experts(d, dtypes[t], &seed);
        device_destroy(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nan_is_never_close),
        cmocka_unit_test(test_row_bytes),
        cmocka_unit_test(test_device_refusals),
        cmocka_unit_test(test_device_name),
        cmocka_unit_test(test_golden_blocks),
        cmocka_unit_test(test_golden_e4m3),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_matmul_passes_nan_on),
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_glu),
        cmocka_unit_test(test_glu_lanes),
        cmocka_unit_test(test_scale),
        cmocka_unit_test(test_scaled_sum),
        cmocka_unit_test(test_route),
        cmocka_unit_test(test_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
