/*
 * cuda_kernels_test.c - stored types, matrix products and row operations on a GPU against the
 * reference
 *
 * What kernels_test.c asks of the CPU is asked here of the GPU: the reference's values, and the
 * same bits for a row whoever else is in the call.
 */
#include "tests/unit/cuda_compare.h"

#define CHECKED 64u /* rows of a result that the reference computes, at most */

static const enum dtype dtypes[] = {
    DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1,
    DTYPE_Q8_0, DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_F8,
};
#define DTYPE_COUNT (sizeof(dtypes) / sizeof(dtypes[0]))

static struct weight weight_there(const struct weight *w)
{
    struct weight copy = *w;

    copy.data = there(w->data, dtype_row_bytes(w->dtype, w->cols) * w->rows);
    return copy;
}

static void weight_free(const struct weight *here, const struct weight *copy)
{
    free((void *)(uintptr_t)here->data);
    device_free(gpu, (void *)(uintptr_t)copy->data);
}

static void test_device(void **state)
{
    struct error err;
    uint64_t left, total;

    NEED_GPU(state);
    print_message("%s\n", device_name(gpu));
    assert_int_equal(device_kind(gpu), DEVICE_CUDA);
    assert_int_equal(device_operand(gpu), DTYPE_F32);
    assert_int_equal(device_memory(gpu, &left, &total, &err), 0);
    assert_true(left > 0 && left < total);
    assert_null(device_alloc(gpu, UINT64_MAX / 2, &err));
    assert_int_equal(err.status, STATUS_NOMEM);
    assert_int_equal(device_check(gpu, &err), 0);
    assert_null(device_create_cuda(1000, PRECISION_EXACT, 1, 64, &err));
    assert_int_equal(err.status, STATUS_UNAVAILABLE);
    assert_null(device_create_cuda(0, PRECISION_EXACT, 0, 64, &err));
    assert_int_equal(err.status, STATUS_INVALID);
}

static void test_copies(void **state)
{
    uint64_t seed = 20;
    size_t n = 100001;
    struct error err;

    NEED_GPU(state);
    float *x = random_floats(n, &seed), *pinned;
    pinned = device_host_alloc(gpu, n * sizeof(*x), &err);
    assert_non_null(pinned);
    void *a = there(x, n * sizeof(*x)), *b = there(NULL, n * sizeof(*x));
    device_copy(gpu, b, a, n * sizeof(*x));
    fetch(pinned, b, n * sizeof(*x));
    assert_same_bits(pinned, x, n, "copy");
    device_host_free(gpu, pinned);
    device_free(gpu, a);
    device_free(gpu, b);
    free(x);
}

/* Without a GPU's help: what a build, or a machine, without CUDA answers. */
static void test_refusal(void **state)
{
    (void)state;
    if (gpu)
        return;
    print_message("%s\n", why.text);
    assert_true(why.status == STATUS_UNSUPPORTED || why.status == STATUS_UNAVAILABLE);
}

/* ---- stored types ------------------------------------------------------------------------------
 */

static void check_embed(enum dtype dtype, uint32_t cols, uint64_t *seed)
{
    struct weight table = random_weight(dtype, 40, cols, seed), copy = weight_there(&table);
    size_t row_bytes = dtype_row_bytes(dtype, cols);
    uint32_t rows = 33, tokens[33];
    float *want = allocate(cols * sizeof(*want));
    void *out = there(NULL, rows * cols * sizeof(float));

    for (uint32_t r = 0; r < rows; r++)
        tokens[r] = random_bits(seed) % table.rows;
    void *ids = there(tokens, sizeof(tokens));
    k_embed(gpu, out, &copy, ids, rows, 0.5f);
    float *got = fetched(out, rows * cols * sizeof(float));
    for (size_t r = 0; r < rows; r++) {
        ref_dequantize(want, (const char *)table.data + tokens[r] * row_bytes, dtype, cols);
        for (uint32_t i = 0; i < cols; i++)
            want[i] *= 0.5f;
        assert_same_bits(got + r * cols, want, cols, dtype_name(dtype));
    }
    weight_free(&table, &copy);
    device_free(gpu, out);
    device_free(gpu, ids);
    free(got);
    free(want);
}

static void test_embed(void **state)
{
    static const uint32_t widths[] = {1, 7, 33, 256, 576, 768, 4096};
    uint64_t seed = 1;

    NEED_GPU(state);
    for (size_t t = 0; t < DTYPE_COUNT; t++)
        for (size_t c = 0; c < sizeof(widths) / sizeof(widths[0]); c++)
            if (dtype_row_bytes(dtypes[t], widths[c]) > 0 && !(small() && c % 3 != 2))
                check_embed(dtypes[t], widths[c], &seed);
}

/* ---- matrix products ---------------------------------------------------------------------------
 */

struct product {
    struct weight w;
    const float *x, *bias;
    uint32_t rows;
};

/* A product's tolerance follows the sum of its terms' sizes: their rounding is what differs. */
static void assert_row(const struct product *p, const float *decoded, size_t j, size_t r, float got)
{
    uint32_t cols = p->w.cols;
    double sum = p->bias ? (double)p->bias[j] : 0, size = fabs(sum);

    for (size_t k = 0; k < cols; k++) {
        double term = (double)decoded[k] * p->x[r * cols + k];
        sum += term;
        size += fabs(term);
    }
    if (!close_to(got, sum, 1e-6 * size + 1e-7))
        fail_msg("%s %ux%u row %zu of %u, output %zu: %.9g, not %.9g", dtype_name(p->w.dtype),
                 p->w.rows, cols, r, p->rows, j, (double)got, sum);
}

/* All output rows, or CHECKED of them spread over the matrix, against sums in double. */
static void assert_product(const struct product *p, const float *got)
{
    size_t row_bytes = dtype_row_bytes(p->w.dtype, p->w.cols);
    size_t step = p->w.rows > CHECKED ? p->w.rows / CHECKED : 1;
    size_t x_step = p->rows > CHECKED ? 7 : 1;
    float *decoded = allocate(p->w.cols * sizeof(*decoded));

    for (size_t j = p->w.rows - 1; j < p->w.rows; j -= step) {
        ref_dequantize(decoded, (const char *)p->w.data + j * row_bytes, p->w.dtype, p->w.cols);
        for (size_t r = 0; r < p->rows; r += x_step)
            assert_row(p, decoded, j, r, got[r * p->w.rows + j]);
    }
    for (size_t i = 0; i < (size_t)p->rows * p->w.rows; i++)
        assert_false(is_nan(got[i]));
    free(decoded);
}

/* The last `rows` rows of x alone give what they gave among all. */
static void assert_fewer_rows(const struct product *p, const struct weight *w, const float *x,
                              const float *bias, float *out, const float *all, uint32_t rows)
{
    size_t first = p->rows - rows, n = (size_t)rows * w->rows;

    k_matmul(gpu, out, w->rows, x + first * w->cols, w, bias, rows);
    float *part = fetched(out, n * sizeof(*part));
    assert_same_bits(part, all + first * w->rows, n, "fewer rows");
    free(part);
}

/* The second half of the output rows alone. */
static void assert_slice(const struct product *p, const struct weight *w, const float *x,
                         const float *bias, float *out, const float *all)
{
    struct weight slice = *w;
    uint32_t rows = p->rows < 9 ? p->rows : 9;

    slice.rows = (w->rows + 1) / 2;
    size_t skipped = w->rows - slice.rows;
    slice.data = (const char *)w->data + skipped * dtype_row_bytes(w->dtype, w->cols);
    float *part = allocate((size_t)rows * w->rows * sizeof(*part));
    for (size_t i = 0; i < (size_t)rows * w->rows; i++)
        part[i] = -7;
    device_copy(gpu, out, part, (size_t)rows * w->rows * sizeof(*part));
    k_matmul(gpu, out + skipped, w->rows, x, &slice, bias + skipped, rows);
    fetch(part, out, (size_t)rows * w->rows * sizeof(*part));
    for (size_t r = 0; r < rows; r++) {
        assert_same_bits(part + r * w->rows + skipped, all + r * w->rows + skipped, slice.rows,
                         "slice of a matrix");
        for (size_t j = 0; j < skipped; j++)
            assert_true(part[r * w->rows + j] == -7);
    }
    free(part);
}

/* Added to what is there: the same sums, scaled. */
static void assert_added(const struct product *p, const struct weight *w, const float *x,
                         float *out, const float *all)
{
    size_t n = (size_t)p->rows * w->rows;
    float *sums = allocate(n * sizeof(*sums)), *want = allocate(n * sizeof(*want));

    for (size_t i = 0; i < n; i++) {
        volatile float scaled = all[i] * 0.5f;
        sums[i] = (float)(i % 9);
        want[i] = sums[i] + scaled;
    }
    device_copy(gpu, out, sums, n * sizeof(*sums));
    k_matmul_add(gpu, out, 0.5f, x, w, p->rows);
    fetch(sums, out, n * sizeof(*sums));
    assert_same_bits(sums, want, n, "product added");
    free(sums);
    free(want);
}

static void check_matmul(enum dtype dtype, uint32_t out_rows, uint32_t cols, uint32_t rows,
                         uint64_t *seed)
{
    static const uint32_t fewer[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 64, 129};
    struct weight here = random_weight(dtype, out_rows, cols, seed), w = weight_there(&here);
    float *x_here = random_floats((size_t)rows * cols, seed);
    float *bias_here = random_floats(out_rows, seed);
    float *x = there(x_here, (size_t)rows * cols * sizeof(*x));
    float *bias = there(bias_here, out_rows * sizeof(*bias));
    float *out = there(NULL, (size_t)rows * out_rows * sizeof(*out));
    struct product p = {here, x_here, bias_here, rows};

    k_matmul(gpu, out, out_rows, x, &w, bias, rows);
    float *all = fetched(out, (size_t)rows * out_rows * sizeof(*all));
    assert_product(&p, all);
    for (size_t i = 0; i < sizeof(fewer) / sizeof(fewer[0]) && fewer[i] < rows; i++)
        assert_fewer_rows(&p, &w, x, bias, out, all, fewer[i]);
    assert_slice(&p, &w, x, bias, out, all);
    free(all);
    p.bias = NULL;
    k_matmul_f32(gpu, out, x, &w, rows);
    all = fetched(out, (size_t)rows * out_rows * sizeof(*all));
    assert_product(&p, all);
    assert_added(&p, &w, x, out, all);
    free(all);
    weight_free(&here, &w);
    free(x_here);
    free(bias_here);
    device_free(gpu, x);
    device_free(gpu, bias);
    device_free(gpu, out);
}

static void test_matmul(void **state)
{
    static const struct {
        uint32_t out, cols, rows;
        int large;
    } shapes[] = {
        {1, 1, 5, 0},     {3, 7, 33, 0},      {17, 33, 33, 0},     {1, 256, 9, 0},
        {50, 256, 33, 0}, {19, 768, 33, 0},   {192, 576, 33, 0},   {576, 1536, 256, 1},
        {9, 96, 256, 1},  {1000, 4096, 4, 1}, {130, 14336, 17, 1}, {33, 1000, 70, 0},
    };
    uint64_t seed = 2;

    NEED_GPU(state);
    for (size_t t = 0; t < DTYPE_COUNT; t++)
        for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++)
            if (dtype_row_bytes(dtypes[t], shapes[s].cols) > 0 &&
                !(small() && (shapes[s].large || s == 0 || s == 3 || s == 6)) &&
                !repeated(dtypes[t]))
                check_matmul(dtypes[t], shapes[s].out, shapes[s].cols, shapes[s].rows, &seed);
}

static void test_matmul_passes_nan_on(void **state)
{
    uint64_t seed = 3;

    NEED_GPU(state);
    for (size_t t = 0; t < DTYPE_COUNT; t++) {
        struct weight here = random_weight(dtypes[t], 5, 256, &seed), w = weight_there(&here);
        float *x = random_floats(512, &seed);
        x[256 + 40] = NAN;
        void *in = there(x, 512 * sizeof(*x)), *out = there(NULL, 10 * sizeof(float));
        k_matmul(gpu, out, 5, in, &w, NULL, 2);
        float *got = fetched(out, 10 * sizeof(float));
        for (int j = 0; j < 5; j++) {
            assert_false(is_nan(got[j]));
            assert_true(is_nan(got[5 + j]));
        }
        weight_free(&here, &w);
        device_free(gpu, in);
        device_free(gpu, out);
        free(x);
        free(got);
    }
}

/* ---- rows --------------------------------------------------------------------------------------
 */

static const uint32_t row_widths[] = {1, 7, 8, 9, 31, 576, 1536, 4096};
#define ROW_WIDTHS (sizeof(row_widths) / sizeof(row_widths[0]))
static const uint32_t row_counts[] = {1, 2, 5, 33, 256};
#define ROW_COUNTS (sizeof(row_counts) / sizeof(row_counts[0]))

static void check_norms(uint32_t rows, uint32_t cols, uint64_t *seed)
{
    size_t n = (size_t)rows * cols, bytes = n * sizeof(float);
    float *x = random_floats(n, seed), *y = random_floats(n, seed), *w = random_floats(cols, seed);
    float *want = allocate(bytes), *sum = allocate(bytes);
    float *dx = there(x, bytes), *dy = there(y, bytes), *dw = there(w, cols * sizeof(*w));
    float *out = there(NULL, bytes);

    k_norm(gpu, out, dx, NULL, 0, NULL, dw, rows, cols, 1e-5f);
    float *got = fetched(out, bytes);
    ref_rmsnorm(want, x, w, rows, cols, 1e-5f);
    assert_close(got, want, n, 2e-6, "norm");
    k_norm(gpu, out, dx + n - cols, NULL, 0, NULL, dw, 1, cols, 1e-5f);
    float *alone = fetched(out, cols * sizeof(*alone));
    assert_same_bits(alone, got + n - cols, cols, "norm of one row");
    k_norm(gpu, out, dx, NULL, 0, NULL, NULL, rows, cols, 1e-5f);
    fetch(got, out, bytes);
    assert_same_bits(got, x, n, "no norm");

    /* y normed, then added; y itself added. */
    k_norm(gpu, out, dy, NULL, 0, NULL, dw, rows, cols, 1e-5f);
    fetch(sum, out, bytes);
    for (size_t i = 0; i < n; i++)
        sum[i] += x[i];
    k_norm(gpu, out, dx, dy, 1, dw, dw, rows, cols, 1e-5f);
    fetch(got, dx, bytes);
    assert_same_bits(got, sum, n, "sum of a normed part");
    fetch(got, out, bytes);
    ref_rmsnorm(want, sum, w, rows, cols, 1e-5f);
    assert_close(got, want, n, 2e-6, "norm of that sum");
    device_copy(gpu, dx, x, bytes);
    for (size_t i = 0; i < n; i++)
        sum[i] = x[i] + y[i];
    k_norm(gpu, out, dx, dy, 1, NULL, dw, rows, cols, 1e-5f);
    fetch(got, out, bytes);
    fetch(x, dx, bytes);
    assert_same_bits(x, sum, n, "sum before the norm");
    ref_rmsnorm(want, sum, w, rows, cols, 1e-5f);
    assert_close(got, want, n, 2e-6, "norm of a sum");
    device_free(gpu, dx);
    device_free(gpu, dy);
    device_free(gpu, dw);
    device_free(gpu, out);
    free(x);
    free(y);
    free(w);
    free(want);
    free(sum);
    free(got);
    free(alone);
}

static void test_norms(void **state)
{
    uint64_t seed = 4;

    NEED_GPU(state);
    for (size_t c = 0; c < ROW_WIDTHS; c++)
        for (size_t r = 0; r < (small() ? 2 : ROW_COUNTS); r++)
            check_norms(row_counts[r], row_widths[c], &seed);
}

static void check_glu(uint32_t rows, uint32_t cols, enum activation activation, uint64_t *seed)
{
    size_t n = (size_t)rows * cols;
    float *x = random_floats(2 * n, seed), *want = allocate(n * sizeof(*want));

    /* From where exp overflows to where it vanishes. */
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++)
            x[r * 2 * cols + i] *= i % 3 == 0 ? 1 : i % 3 == 1 ? 20 : 200;
    float *dx = there(x, 2 * n * sizeof(*x)), *out = there(NULL, n * sizeof(*out));
    k_glu(gpu, out, dx, rows, cols, activation);
    float *got = fetched(out, n * sizeof(*got));
    ref_glu(want, x, rows, cols, activation);
    assert_close(got, want, n, 2e-6, "glu");
    k_glu(gpu, out, dx + (size_t)(rows - 1) * 2 * cols, 1, cols, activation);
    float *alone = fetched(out, cols * sizeof(*alone));
    assert_same_bits(alone, got + n - cols, cols, "glu of one row");
    device_free(gpu, dx);
    device_free(gpu, out);
    free(x);
    free(want);
    free(got);
    free(alone);
}

static void test_glu(void **state)
{
    uint64_t seed = 5;

    NEED_GPU(state);
    for (size_t c = 0; c < ROW_WIDTHS; c++)
        for (size_t r = 0; r < (small() ? 2 : ROW_COUNTS); r++)
            for (int a = ACTIVATION_SILU; a <= ACTIVATION_GELU_TANH; a++)
                check_glu(row_counts[r], row_widths[c], (enum activation)a, &seed);
}

/* What is no number stays none, and what is too large keeps its sign. */
static void test_glu_ends(void **state)
{
    NEED_GPU(state);
    for (int a = ACTIVATION_SILU; a <= ACTIVATION_GELU_TANH; a++) {
        float x[8] = {NAN, INFINITY, 1e30f, -1e30f, 1, 1, 1, 1};
        void *dx = there(x, sizeof(x)), *out = there(NULL, 4 * sizeof(float));
        k_glu(gpu, out, dx, 1, 4, (enum activation)a);
        float *got = fetched(out, 4 * sizeof(*got));
        assert_true(is_nan(got[0]));
        assert_true(got[1] == INFINITY);
        assert_true(got[2] == 1e30f);
        assert_true(got[3] == 0);
        device_free(gpu, dx);
        device_free(gpu, out);
        free(got);
    }
}

/* Each element relative to itself: a cap must not lose small logits. */
static void check_scale(uint32_t rows, uint32_t cols, float scale, float cap, uint64_t *seed)
{
    size_t n = (size_t)rows * cols, bytes = n * sizeof(float);
    float *x = random_floats(n, seed), *want = allocate(bytes);

    for (size_t i = 0; i < n; i++)
        x[i] *= i % 4 == 0 ? 1000 : i % 4 == 1 ? 1 : i % 4 == 2 ? 20 : 1e-3f;
    x[0] = 0;
    memcpy(want, x, bytes);
    float *dx = there(x, bytes);
    ref_scale(want, rows, cols, scale, cap);
    k_scale(gpu, dx, rows, cols, scale, cap);
    fetch(x, dx, bytes);
    for (size_t i = 0; i < n; i++)
        assert_true(fabsf(x[i] - want[i]) <= 2e-6f * fabsf(want[i]));
    x[0] = NAN;
    device_copy(gpu, dx, x, sizeof(*x));
    k_scale(gpu, dx, 1, 1, scale, cap);
    fetch(x, dx, sizeof(*x));
    assert_true(is_nan(x[0]));
    device_free(gpu, dx);
    free(x);
    free(want);
}

static void test_scale(void **state)
{
    uint64_t seed = 6;

    NEED_GPU(state);
    for (size_t c = 0; c < ROW_WIDTHS; c++) {
        check_scale(3, row_widths[c], 0.125f, 0, &seed);
        check_scale(3, row_widths[c], 1, 30, &seed);
        check_scale(3, row_widths[c], 0.5f, 50, &seed);
    }
}

/* The sum alone, and with a factor, both as plain float arithmetic gives it. */
static void test_scaled_sum(void **state)
{
    uint64_t seed = 7;
    uint32_t rows = 3, cols = 577;
    size_t n = (size_t)rows * cols, bytes = n * sizeof(float);

    NEED_GPU(state);
    float *x = random_floats(n, &seed), *y = random_floats(n, &seed), *w = random_floats(n, &seed);
    float *sum = allocate(bytes), *want = allocate(bytes), *dx = there(x, bytes);
    float *dy = there(y, bytes), *dw = there(w, cols * sizeof(*w)), *out = there(NULL, bytes);
    for (size_t i = 0; i < n; i++) {
        volatile float part = y[i] * 0.22f;
        sum[i] = x[i] + part;
    }
    k_norm(gpu, out, dx, dy, 0.22f, NULL, NULL, rows, cols, 1e-5f);
    float *got = fetched(dx, bytes), *handed = fetched(out, bytes);
    assert_same_bits(got, sum, n, "scaled sum");
    assert_same_bits(handed, sum, n, "scaled sum handed on");
    device_copy(gpu, dx, x, bytes);
    k_norm(gpu, out, dx, dy, 0.22f, NULL, dw, rows, cols, 1e-5f);
    fetch(got, dx, bytes);
    assert_same_bits(got, sum, n, "scaled sum before its norm");
    fetch(got, out, bytes);
    ref_rmsnorm(want, sum, w, rows, cols, 1e-5f);
    assert_close(got, want, n, 2e-6, "norm of a scaled sum");
    device_free(gpu, dx);
    device_free(gpu, dy);
    device_free(gpu, dw);
    device_free(gpu, out);
    free(x);
    free(y);
    free(w);
    free(sum);
    free(want);
    free(got);
    free(handed);
}

/* ---- experts -----------------------------------------------------------------------------------
 */

#define ROUTED 7u /* rows */

static void route(uint32_t *ids, float *weights, const float *logits, uint32_t rows,
                  uint32_t experts, uint32_t top_k, int renormalize)
{
    size_t n = (size_t)rows * top_k;
    void *in = there(logits, (size_t)rows * experts * sizeof(*logits));
    void *di = there(NULL, n * sizeof(*ids)), *dw = there(NULL, n * sizeof(*weights));

    k_route(gpu, di, dw, in, rows, experts, top_k, renormalize);
    fetch(ids, di, n * sizeof(*ids));
    fetch(weights, dw, n * sizeof(*weights));
    device_free(gpu, in);
    device_free(gpu, di);
    device_free(gpu, dw);
}

static void check_route(uint32_t experts, uint32_t top_k, int renormalize, uint64_t *seed)
{
    size_t n = (size_t)ROUTED * top_k;
    uint32_t *ids = allocate(n * sizeof(*ids)), *want_ids = allocate(n * sizeof(*ids));
    float *weights = allocate(n * sizeof(*weights)), *want = allocate(n * sizeof(*want));
    float *logits = random_floats((size_t)ROUTED * experts, seed);

    logits[experts / 2] = logits[experts - 1] = 4; /* equals: the first one first */
    for (uint32_t e = 0; e < experts; e++)
        logits[experts + e] = 0.5f; /* and all of a row */
    route(ids, weights, logits, ROUTED, experts, top_k, renormalize);
    ref_route(want_ids, want, logits, ROUTED, experts, top_k, renormalize);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids[i], want_ids[i]);
    assert_close(weights, want, n, 2e-6, "shares of experts");
    for (size_t r = 0; r < ROUTED; r++) {
        route(want_ids, want, logits + r * experts, 1, experts, top_k, renormalize);
        assert_same_bits(weights + r * top_k, want, top_k, "shares of a lone row");
    }
    free(ids);
    free(want_ids);
    free(weights);
    free(want);
    free(logits);
}

static void test_route(void **state)
{
    static const uint32_t experts[] = {1, 9, 32, 33, 128, 2048}, top[] = {1, 2, 4, 8, 9, 33};
    uint64_t seed = 8;
    float logits[40], weights[2];
    uint32_t ids[2];

    NEED_GPU(state);
    for (size_t e = 0; e < sizeof(experts) / sizeof(experts[0]); e++)
        for (size_t k = 0; k < sizeof(top) / sizeof(top[0]) && top[k] <= experts[e]; k++)
            for (int renormalize = small() ? (int)(k % 2) : 0; renormalize < 2; renormalize++)
                check_route(experts[e], top[k], renormalize, &seed);
    /* No numbers name experts that exist all the same. */
    for (uint32_t i = 0; i < 40; i++)
        logits[i] = NAN;
    route(ids, weights, logits, 1, 40, 2, 1);
    assert_true(ids[0] == 0 && ids[1] == 1);
    assert_true(is_nan(weights[0]));
    logits[0] = 1;
    logits[37] = 2;
    route(ids, weights, logits, 1, 40, 2, 1);
    assert_true(ids[0] == 37 && ids[1] == 0);
}

/* Each chosen expert's product is the bits of the plain product of that row alone. */
static void check_experts(enum dtype dtype, uint32_t out_rows, uint32_t cols, uint64_t *seed)
{
    static const uint32_t ids[6] = {2, 0, 1, 1, 0, 2};
    static const float shares[6] = {0.125f, 0.25f, 0.375f, 0.5f, 0.625f, 0.75f};
    struct weight here = random_weight(dtype, 3 * out_rows, cols, seed), all = weight_there(&here);
    struct weight one = all;
    size_t n = 6 * (size_t)out_rows;
    float *x = random_floats(3 * (size_t)cols, seed), *want = allocate(n / 2 * sizeof(*want));
    float *dx = there(x, 3 * (size_t)cols * sizeof(*x)), *out = there(NULL, n * sizeof(*out));
    float *plain = there(NULL, out_rows * sizeof(*plain)), *sum = there(NULL, n / 2 * sizeof(*sum));
    void *di = there(ids, sizeof(ids)), *ds = there(shares, sizeof(shares));

    all.rows = one.rows = out_rows;
    k_matmul_expert(gpu, out, dx, &all, di, 6, 2);
    float *got = fetched(out, n * sizeof(*got));
    for (size_t i = 0; i < 6; i++) {
        one.data = (const char *)all.data + ids[i] * out_rows * dtype_row_bytes(dtype, cols);
        k_matmul(gpu, plain, out_rows, dx + i / 2 * cols, &one, NULL, 1);
        fetch(want, plain, out_rows * sizeof(*want));
        assert_same_bits(got + i * out_rows, want, out_rows, "an expert's product");
    }
    k_combine(gpu, sum, out, ds, 3, 2, out_rows);
    fetch(want, sum, n / 2 * sizeof(*want));
    for (size_t i = 0; i < n / 2; i++) {
        size_t at = i / out_rows * 2 * out_rows + i % out_rows, k = i / out_rows * 2;
        double both = (double)shares[k] * got[at] + (double)shares[k + 1] * got[at + out_rows];
        assert_true(close_to(want[i], both, 1e-5 * (1 + fabs(both))));
    }
    weight_free(&here, &all);
    device_free(gpu, dx);
    device_free(gpu, out);
    device_free(gpu, plain);
    device_free(gpu, sum);
    device_free(gpu, di);
    device_free(gpu, ds);
    free(x);
    free(want);
    free(got);
}

static void test_experts(void **state)
{
    static const uint32_t widths[] = {33, 96, 256, 2048};
    uint64_t seed = 9;

    NEED_GPU(state);
    for (size_t t = 0; t < DTYPE_COUNT; t++)
        for (size_t c = 0; c < sizeof(widths) / sizeof(widths[0]); c++)
            if (dtype_row_bytes(dtypes[t], widths[c]) > 0 && !(small() && c % 2 != 0))
                check_experts(dtypes[t], 21, widths[c], &seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusal),    cmocka_unit_test(test_device),
        cmocka_unit_test(test_copies),     cmocka_unit_test(test_embed),
        cmocka_unit_test(test_matmul),     cmocka_unit_test(test_matmul_passes_nan_on),
        cmocka_unit_test(test_norms),      cmocka_unit_test(test_glu),
        cmocka_unit_test(test_glu_ends),   cmocka_unit_test(test_scale),
        cmocka_unit_test(test_scaled_sum), cmocka_unit_test(test_route),
        cmocka_unit_test(test_experts),
    };
    gpu = device_create_cuda(0, PRECISION_EXACT, ROWS_MAX, COLS_MAX, &why);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (gpu)
        device_destroy(gpu);
    return failed;
}
