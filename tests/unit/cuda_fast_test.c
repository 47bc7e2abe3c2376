/*
 * cuda_fast_test.c - operations on bfloat16 operands on a GPU against sums in double
 *
 * The reference gets what the GPU gets: operands rounded to bfloat16.  A product may then differ by
 * the rounding of its result (1/256 of it), of its sums in float32 (SUM_ERROR of the sum of the
 * terms' sizes), and, where quantized weights were expanded, of each weight to bfloat16: 1/512 of
 * each term, of which the root of the sum of squares is a deviation.
 */
#include "tests/unit/cuda_compare.h"

#define SUM_ERROR  5e-5
#define DEVIATIONS 6
#define ROWS_MOST  2048u
#define CHECKED    24u /* rows of a result that the reference computes, at most */

typedef uint16_t bf16;

static bf16 rounded(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    if (is_nan(f))
        return 0x7fff;
    return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float widened(bf16 b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Random operands, and what they are as floats. */
static bf16 *random_operands(size_t n, float **floats, uint64_t *seed)
{
    bf16 *to = allocate(n * sizeof(*to));

    *floats = random_floats(n, seed);
    for (size_t i = 0; i < n; i++) {
        to[i] = rounded((*floats)[i]);
        (*floats)[i] = widened(to[i]);
    }
    return to;
}

/* ---- matrix products ---------------------------------------------------------------------------
 */

struct product {
    struct weight here, w; /* w: on the GPU */
    float *x, *bias;
    bf16 *dx;
    float *dbias;
    uint32_t rows; /* that x has */
    uint32_t count;
};

static struct product new_product(enum dtype dtype, uint32_t out, uint32_t cols, uint32_t rows,
                                  uint64_t *seed)
{
    struct product p = {.rows = rows};
    bf16 *x = random_operands((size_t)rows * cols, &p.x, seed);

    p.here = random_weight(dtype, out, cols, seed);
    p.w = p.here;
    p.w.data = there(p.here.data, dtype_row_bytes(dtype, cols) * out);
    /* A bias of bfloat16, as checkpoints have it: it may be kept so. */
    free(random_operands(out, &p.bias, seed));
    p.dx = there(x, (size_t)rows * cols * sizeof(*x));
    p.dbias = there(p.bias, out * sizeof(*p.bias));
    free(x);
    return p;
}

static void free_product(struct product *p)
{
    free((void *)(uintptr_t)p->here.data);
    device_free(gpu, (void *)(uintptr_t)p->w.data);
    free(p->x);
    free(p->bias);
    device_free(gpu, p->dx);
    device_free(gpu, p->dbias);
}

/* What is computed of `before` + scale * (product + bias). */
struct want {
    float before, scale;
    int bias, bf16;
};

static void assert_sum(const struct product *p, const float *decoded, size_t j, size_t r, float got,
                       const struct want *how)
{
    const float *x = p->x + r * p->w.cols;
    double sum = how->bias ? (double)p->bias[j] : 0, size = fabs(sum), squares = 0;

    for (size_t k = 0; k < p->w.cols; k++) {
        double term = (double)decoded[k] * x[k];
        sum += term;
        size += fabs(term);
        squares += term * term;
    }
    double want = how->before + how->scale * sum;
    double tolerance = SUM_ERROR * (size + fabs((double)how->before)) + 1e-7;
    if (p->w.dtype != DTYPE_BF16)
        tolerance += DEVIATIONS * sqrt(squares) / 512;
    if (how->bf16)
        tolerance += fabs(want) / 256;
    if (!close_to(got, want, tolerance))
        fail_msg("%s %ux%u row %zu of %u, output %zu: %.9g, not %.9g (tolerance %.3g)",
                 dtype_name(p->w.dtype), p->w.rows, p->w.cols, r, p->count, j, (double)got, want,
                 tolerance);
}

static void assert_sums(const struct product *p, const float *got, const struct want *how)
{
    size_t row_bytes = dtype_row_bytes(p->w.dtype, p->w.cols);
    size_t step = p->w.rows > CHECKED ? p->w.rows / CHECKED : 1;
    size_t x_step = p->count > 9 ? p->count / 7 : 1;
    float *decoded = allocate(p->w.cols * sizeof(*decoded));

    for (size_t j = p->w.rows - 1; j < p->w.rows; j -= step) {
        ref_dequantize(decoded, (const char *)p->here.data + j * row_bytes, p->w.dtype, p->w.cols);
        for (size_t r = p->count - 1; r < p->count; r -= x_step)
            assert_sum(p, decoded, j, r, got[r * p->w.rows + j], how);
    }
    for (size_t i = 0; i < (size_t)p->count * p->w.rows; i++)
        assert_false(is_nan(got[i]));
    free(decoded);
}

/* Operands [rows][cols] of rows `stride` apart, as floats; what is between them is untouched. */
static float *strided(const void *out, uint32_t rows, uint32_t cols, uint32_t stride)
{
    bf16 *all = fetched(out, ((size_t)rows * stride) * sizeof(*all));
    float *to = allocate((size_t)rows * cols * sizeof(*to));

    for (size_t r = 0; r < rows; r++) {
        for (size_t j = 0; j < cols; j++)
            to[r * cols + j] = widened(all[r * stride + j]);
        for (size_t j = cols; j < stride; j++)
            assert_int_equal(all[r * stride + j], 0xffff);
    }
    free(all);
    return to;
}

/* All three ways that sums go, for the first `count` rows. */
static void check_rows(struct product *p, uint32_t count)
{
    uint32_t n = p->w.rows, stride = n + 8;
    size_t bytes = (size_t)count * stride * sizeof(float);
    void *out = there(NULL, bytes);
    float *before = allocate(bytes), *got;

    p->count = count;
    k_matmul(gpu, out, stride, p->dx, &p->w, p->dbias, count);
    got = strided(out, count, n, stride);
    assert_sums(p, got, &(struct want){0, 1, 1, 1});
    free(got);
    device_free(gpu, out);
    out = there(NULL, bytes);
    k_matmul_f32(gpu, out, p->dx, &p->w, count);
    got = fetched(out, (size_t)count * n * sizeof(*got));
    assert_sums(p, got, &(struct want){0, 1, 0, 0});
    free(got);
    for (size_t i = 0; i < (size_t)count * n; i++)
        before[i] = 3;
    device_copy(gpu, out, before, (size_t)count * n * sizeof(*before));
    k_matmul_add(gpu, out, 0.5f, p->dx, &p->w, count);
    got = fetched(out, (size_t)count * n * sizeof(*got));
    assert_sums(p, got, &(struct want){3, 0.5f, 0, 0});
    free(got);
    free(before);
    device_free(gpu, out);
}

/* Two to eight rows are done by the same kernel: each as it is done beside any other. */
static void check_neighbours(struct product *p)
{
    uint32_t n = p->w.rows, rows = p->rows < 8 ? p->rows : 8;
    void *out = there(NULL, (size_t)rows * n * sizeof(float));

    k_matmul_f32(gpu, out, p->dx, &p->w, rows);
    float *all = fetched(out, (size_t)rows * n * sizeof(float));
    for (size_t r = 0; r + 1 < rows; r++) {
        k_matmul_f32(gpu, out, p->dx + r * p->w.cols, &p->w, 2);
        float *two = fetched(out, 2 * n * sizeof(*two));
        assert_same_bits(two, all + r * n, 2 * n, "two rows of more");
        free(two);
    }
    free(all);
    device_free(gpu, out);
}

static const enum dtype dtypes[] = {
    DTYPE_BF16, DTYPE_F16,  DTYPE_F32,  DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0,
    DTYPE_Q5_1, DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_F8,
};
#define DTYPE_COUNT (sizeof(dtypes) / sizeof(dtypes[0]))

struct size {
    uint32_t out, cols, rows;
    int large;
};

static void check_size(enum dtype dtype, const struct size *s, uint64_t *seed)
{
    static const uint32_t counts[] = {1, 2, 3, 5, 8, 9, 16, 17, 64, 65, 255, 256, 300, 2048};

    if (dtype_row_bytes(dtype, s->cols) == 0 || (small() && s->large) || repeated(dtype))
        return;
    struct product p = new_product(dtype, s->out, s->cols, s->rows, seed);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]) && counts[i] <= s->rows; i++)
        if (!small() || counts[i] <= 2 || counts[i] == 9 || counts[i] == 17)
            check_rows(&p, counts[i]);
    if (!small())
        check_neighbours(&p);
    free_product(&p);
}

static void test_matmul(void **state)
{
    static const struct size sizes[] = {
        {1, 1, 5, 1},      {3, 7, 33, 0},       {17, 33, 33, 1},      {50, 64, 17, 1},
        {1, 256, 9, 1},    {17, 512, 17, 0},    {192, 576, 300, 1},   {40, 1000, 17, 0},
        {96, 768, 256, 1}, {33, 96, 65, 0},     {576, 1536, 2048, 1}, {1000, 4096, 65, 1},
        {24, 4096, 17, 1}, {136, 14336, 17, 1}, {5136, 512, 65, 1},   {5144, 640, 65, 1},
    };
    uint64_t seed = 2;

    NEED_GPU(state);
    for (size_t t = 0; t < DTYPE_COUNT; t++)
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
            check_size(dtypes[t], &sizes[s], &seed);
}

/* Weights that are expanded part by part: more than fit at once. */
static void test_matmul_in_parts(void **state)
{
    static const struct size size = {10240, 4096, 300, 1};
    uint64_t seed = 12;

    NEED_GPU(state);
    check_size(DTYPE_Q4_K, &size, &seed);
}

/* After tuning the fastest ways are taken, and they are as right. */
static void test_tuned(void **state)
{
    static const enum dtype types[] = {DTYPE_BF16, DTYPE_Q4_K, DTYPE_Q8_0, DTYPE_F8};
    static const struct size size = {768, 2048, 300, 1};
    uint64_t seed = 3;
    struct error err;

    NEED_GPU(state);
    if (small())
        skip();
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        struct weight w = {NULL, types[t], size.out, size.cols};
        if (device_tune(gpu, &w, &err) != 0)
            fail_msg("%s", err.text);
        check_size(types[t], &size, &seed);
    }
    assert_int_equal(device_check(gpu, &err), 0);
}

static void test_matmul_passes_nan_on(void **state)
{
    uint64_t seed = 4;

    NEED_GPU(state);
    for (size_t t = 0; t < DTYPE_COUNT; t++) {
        static const uint32_t counts[] = {1, 2, 12, 40};
        size_t some = repeated(dtypes[t]) ? 0 : sizeof(counts) / sizeof(counts[0]);
        for (size_t k = 0; k < some; k++) {
            uint32_t rows = counts[k], has = rows > 1;
            struct product p = new_product(dtypes[t], 16, 512, rows, &seed);
            bf16 nan = 0x7fff;
            device_copy(gpu, p.dx + has * 512 + 140, &nan, sizeof(nan));
            void *out = there(NULL, (size_t)rows * 16 * sizeof(float));
            k_matmul_f32(gpu, out, p.dx, &p.w, rows);
            float *got = fetched(out, (size_t)rows * 16 * sizeof(*got));
            for (size_t i = 0; i < (size_t)rows * 16; i++)
                assert_int_equal(is_nan(got[i]), i / 16 == has);
            free(got);
            device_free(gpu, out);
            free_product(&p);
        }
    }
}

/* ---- products that do what stands behind them --------------------------------------------------
 */

/* As floats. */
static float *operands(const void *there_, size_t n)
{
    return strided(there_, 1, (uint32_t)n, (uint32_t)n);
}

/* The same as the two that it stands for, but for roundings between them. */
static void check_matmul_glu(enum dtype dtype, uint32_t ffn, uint32_t cols, uint32_t rows,
                             enum activation activation, uint64_t *seed)
{
    struct product p = new_product(dtype, 2 * ffn, cols, rows, seed);
    size_t n = (size_t)rows * ffn;
    void *two = there(NULL, n * sizeof(bf16)), *one = there(NULL, n * sizeof(bf16));
    void *gate_up = there(NULL, 2 * n * sizeof(bf16));

    k_matmul(gpu, gate_up, 2 * ffn, p.dx, &p.w, NULL, rows);
    k_glu(gpu, two, gate_up, rows, ffn, activation);
    k_matmul_glu(gpu, one, gate_up, p.dx, &p.w, rows, activation);
    float *want = operands(two, n), *got = operands(one, n), *parts = operands(gate_up, 2 * n);
    for (size_t i = 0; i < n; i++)
        if (!close_to(got[i], want[i], fabs((double)want[i]) / 32 + 2e-3))
            fail_msg("%s glu %ux%u of %u rows, %zu: %.9g, not %.9g", dtype_name(dtype), ffn, cols,
                     rows, i, (double)got[i], (double)want[i]);
    free(want);
    free(got);
    free(parts);
    device_free(gpu, two);
    device_free(gpu, one);
    device_free(gpu, gate_up);
    free_product(&p);
}

static void test_matmul_glu(void **state)
{
    static const uint32_t rows[] = {1, 2, 3, 8, 9, 16, 17, 32, 33, 65};
    static const enum dtype types[] = {DTYPE_BF16, DTYPE_F16,  DTYPE_Q4_1, DTYPE_Q4_K,
                                       DTYPE_Q6_K, DTYPE_Q8_0, DTYPE_F8};
    uint64_t seed = 21;

    NEED_GPU(state);
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++)
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i += small() ? 4 : 1) {
            check_matmul_glu(types[t], 16, 256, rows[i], ACTIVATION_SILU, &seed);
            check_matmul_glu(types[t], 40, 512, rows[i], ACTIVATION_GELU_TANH, &seed);
            if (small())
                continue;
            check_matmul_glu(types[t], 1536, 1024, rows[i], ACTIVATION_SILU, &seed);
            check_matmul_glu(types[t], 2600, 512, rows[i], ACTIVATION_SILU, &seed);
        }
}

/* x += product, normed, times another matrix: by three operations and by two. */
static void check_add_norm(enum dtype dtype, uint32_t width, uint32_t cols, uint32_t out,
                           uint32_t rows, uint64_t *seed)
{
    struct product p = new_product(dtype, width, cols, rows, seed);
    struct product next = new_product(dtype, out, width, 1, seed);
    size_t n = (size_t)rows * width, m = (size_t)rows * out;
    float *x = random_floats(n, seed), *norm = random_floats(width, seed);
    void *dx[2], *normed = there(NULL, n * sizeof(bf16)),
                 *dnorm = there(norm, width * sizeof(float));
    float *sums[2], *kept[2], *also[2];

    for (int way = 0; way < 2; way++) {
        void *y = there(NULL, m * sizeof(float)), *z = there(NULL, m * sizeof(bf16));
        dx[way] = there(x, n * sizeof(float));
        if (way == 0) {
            k_matmul_add(gpu, dx[way], 0.75f, p.dx, &p.w, rows);
            k_norm(gpu, normed, dx[way], NULL, 0, NULL, dnorm, rows, width, 1e-5f);
        } else {
            k_matmul_add_norm(gpu, normed, dnorm, 1e-5f, dx[way], 0.75f, p.dx, &p.w, rows);
        }
        k_matmul_f32(gpu, y, normed, &next.w, rows);
        k_matmul(gpu, z, out, normed, &next.w, next.dbias, rows);
        sums[way] = fetched(y, m * sizeof(float));
        also[way] = operands(z, m);
        kept[way] = fetched(dx[way], n * sizeof(float));
        device_free(gpu, y);
        device_free(gpu, z);
        device_free(gpu, dx[way]);
    }
    for (size_t i = 0; i < n; i++)
        if (!close_to(kept[1][i], kept[0][i], fabs((double)kept[0][i]) / 256 + 2e-3))
            fail_msg("%s residual %zu: %.9g, not %.9g", dtype_name(dtype), i, (double)kept[1][i],
                     (double)kept[0][i]);
    double size = 0;
    for (size_t i = 0; i < m; i++)
        size += (double)sums[0][i] * sums[0][i];
    size = sqrt(size / (double)m);
    for (size_t i = 0; i < m; i++) {
        if (!close_to(sums[1][i], sums[0][i], size / 24) ||
            !close_to(also[1][i], also[0][i], size / 24 + fabs((double)also[0][i]) / 128))
            fail_msg("%s normed, %u of %u, %u rows, %zu: %.9g and %.9g, not %.9g and %.9g",
                     dtype_name(dtype), width, cols, rows, i, (double)sums[1][i],
                     (double)also[1][i], (double)sums[0][i], (double)also[0][i]);
    }
    for (int way = 0; way < 2; way++) {
        free(sums[way]);
        free(also[way]);
        free(kept[way]);
    }
    free(x);
    free(norm);
    device_free(gpu, normed);
    device_free(gpu, dnorm);
    free_product(&p);
    free_product(&next);
}

static void test_matmul_add_norm(void **state)
{
    static const uint32_t rows[] = {1, 2, 5, 8, 9, 16, 17, 32, 33, 65};
    static const enum dtype types[] = {DTYPE_BF16, DTYPE_F16,  DTYPE_Q4_1, DTYPE_Q4_K,
                                       DTYPE_Q6_K, DTYPE_Q8_0, DTYPE_F8};
    uint64_t seed = 22;

    NEED_GPU(state);
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++)
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i += small() ? 4 : 1) {
            check_add_norm(types[t], 256, 512, 48, rows[i], &seed);
            if (small())
                continue;
            check_add_norm(types[t], 2048, 768, 200, rows[i], &seed);
            check_add_norm(types[t], 5376, 256, 24, rows[i], &seed);
        }
}

/* ---- experts -----------------------------------------------------------------------------------
 */

/* Each chosen expert's product, and their sums. */
static void check_experts(enum dtype dtype, uint32_t out, uint32_t cols, uint32_t rows,
                          uint64_t *seed)
{
    enum { EXPERTS = 5, SHARE = 2 };
    struct product all = new_product(dtype, EXPERTS * out, cols, rows / SHARE, seed), one = all;
    size_t n = (size_t)rows * out, expert_bytes = dtype_row_bytes(dtype, cols) * out;
    uint32_t *ids = allocate(rows * sizeof(*ids));
    float *shares = allocate(rows * sizeof(*shares)), *decoded = allocate(cols * sizeof(float));
    void *y = there(NULL, n * sizeof(bf16)), *sum = there(NULL, n / SHARE * sizeof(bf16));

    for (uint32_t i = 0; i < rows; i++) {
        ids[i] = random_bits(seed) % (EXPERTS - 1); /* the last has none */
        shares[i] = (float)(i % 7 + 1) / 8;
    }
    void *dids = there(ids, rows * sizeof(*ids)), *dshares = there(shares, rows * sizeof(*shares));
    one.w.rows = one.count = out;
    k_matmul_expert(gpu, y, all.dx, &one.w, dids, rows, SHARE);
    float *got = strided(y, rows, out, out);
    for (size_t i = 0; i<rows; i += rows> 40 ? 7 : 1) {
        for (size_t j = 0; j<out; j += out> 24 ? 5 : 1) {
            ref_dequantize(decoded,
                           (const char *)all.here.data + ids[i] * expert_bytes +
                               j * dtype_row_bytes(dtype, cols),
                           dtype, cols);
            assert_sum(&one, decoded, j, i / SHARE, got[i * out + j], &(struct want){0, 1, 0, 1});
        }
    }
    k_combine(gpu, sum, y, dshares, rows / SHARE, SHARE, out);
    float *sums = strided(sum, rows / SHARE, out, out);
    for (size_t i = 0; i < n / SHARE; i++) {
        size_t at = i / out * SHARE * out + i % out, k = i / out * SHARE;
        double both = (double)shares[k] * got[at] + (double)shares[k + 1] * got[at + out];
        assert_true(close_to(sums[i], both, fabs(both) / 256 + 1e-5));
    }
    free_product(&all);
    device_free(gpu, y);
    device_free(gpu, sum);
    device_free(gpu, dids);
    device_free(gpu, dshares);
    free(ids);
    free(shares);
    free(decoded);
    free(got);
    free(sums);
}

/* ---- one order for all -------------------------------------------------------------------------
 */

/* Every count's rows have the bits of the most rows' product, by all three ways that sums go. */
static void check_alike(enum dtype dtype, uint32_t out, uint32_t cols, uint32_t most,
                        uint64_t *seed)
{
    static const uint32_t counts[] = {1, 2, 7, 8, 9, 16, 17, 33, 64, 65, 130, 300};
    struct product p = new_product(dtype, out, cols, most, seed);
    size_t n = (size_t)most * out;
    float *zeros = allocate(n * sizeof(*zeros)), *all[3] = {NULL, NULL, NULL};
    void *to = there(NULL, n * sizeof(float));

    memset(zeros, 0, n * sizeof(*zeros));
    for (size_t c = sizeof(counts) / sizeof(counts[0]); c-- > 0;) {
        uint32_t rows = counts[c] < most ? counts[c] : most;
        if (small() && counts[c] != 1 && counts[c] != 17 && counts[c] < most)
            continue;
        for (int way = 0; way < 3; way++) {
            device_copy(gpu, to, zeros, n * sizeof(*zeros));
            if (way == 0)
                k_matmul(gpu, to, out, p.dx, &p.w, p.dbias, rows);
            else if (way == 1)
                k_matmul_f32(gpu, to, p.dx, &p.w, rows);
            else
                k_matmul_add(gpu, to, 0.5f, p.dx, &p.w, rows);
            float *got = fetched(to, n * sizeof(*got));
            size_t count = (size_t)rows * out / (way == 0 ? 2 : 1);
            if (all[way] != NULL)
                assert_same_bits(got, all[way], count, "other rows");
            if (all[way] == NULL)
                all[way] = got;
            else
                free(got);
        }
    }
    p.count = most;
    assert_sums(&p, all[1], &(struct want){0, 1, 0, 0});
    for (int way = 0; way < 3; way++)
        free(all[way]);
    free(zeros);
    device_free(gpu, to);
    free_product(&p);
}

/* By experts: rows by themselves, and in groups. */
static void check_experts_alike(enum dtype dtype, uint32_t cols, uint64_t *seed)
{
    enum { EXPERTS = 5, OUT = 32, ROWS = 66 };
    struct product p = new_product(dtype, EXPERTS * OUT, cols, ROWS, seed);
    struct weight w = p.w;
    uint32_t ids[ROWS];

    w.rows = OUT;
    for (uint32_t i = 0; i < ROWS; i++)
        ids[i] = random_bits(seed) % EXPERTS;
    void *dids = there(ids, sizeof(ids)), *out = there(NULL, (size_t)ROWS * OUT * sizeof(bf16));
    k_matmul_expert(gpu, out, p.dx, &w, dids, ROWS, 1);
    bf16 *all = fetched(out, (size_t)ROWS * OUT * sizeof(*all));
    for (uint32_t rows = 1; rows <= 64; rows += 21) {
        k_matmul_expert(gpu, out, p.dx, &w, dids, rows, 1);
        bf16 *got = fetched(out, (size_t)rows * OUT * sizeof(*got));
        assert_memory_equal(got, all, (size_t)rows * OUT * sizeof(*got));
        free(got);
    }
    free(all);
    device_free(gpu, dids);
    device_free(gpu, out);
    free_product(&p);
}

static void test_deterministic(void **state)
{
    static const struct size sizes[] = {{40, 768, 33, 1},     {576, 1536, 300, 1},
                                        {136, 14336, 130, 1}, {128, 256, 66, 0},
                                        {5632, 256, 130, 1},  {24, 2816, 300, 1}};
    struct device *usual = gpu;
    struct error err;
    uint64_t seed = 19;

    NEED_GPU(state);
    gpu = device_create_cuda(0, PRECISION_FAST, 300, COLS_MAX, &err);
    if (!gpu) {
        gpu = usual;
        fail_msg("%s", err.text);
    }
    device_deterministic(gpu);
    for (size_t t = 0; t < DTYPE_COUNT; t++) {
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            const struct size *z = &sizes[s];
            if (dtype_row_bytes(dtypes[t], z->cols) != 0 && !(small() && z->large) &&
                !repeated(dtypes[t]))
                check_alike(dtypes[t], z->out, z->cols, z->rows, &seed);
        }
        if (!repeated(dtypes[t]))
            check_experts_alike(dtypes[t], small() ? 256 : 512, &seed);
    }
    /* Tuned: by whichever is faster. */
    for (size_t t = 0; !small() && t < DTYPE_COUNT; t++) {
        struct weight w = {NULL, dtypes[t], 576, 1536};
        assert_int_equal(device_tune(gpu, &w, &err), 0);
        check_alike(dtypes[t], 576, 1536, 300, &seed);
    }
    int failed = device_check(gpu, &err);
    device_destroy(gpu);
    gpu = usual;
    if (failed)
        fail_msg("%s", err.text);
}

static void test_experts(void **state)
{
    static const uint32_t widths[] = {33, 96, 256, 2048};
    uint64_t seed = 9;

    NEED_GPU(state);
    for (size_t t = 0; t < DTYPE_COUNT; t++) {
        for (size_t c = 0; c < sizeof(widths) / sizeof(widths[0]); c++) {
            if (dtype_row_bytes(dtypes[t], widths[c]) == 0 || repeated(dtypes[t]) ||
                (small() && c % 2 != 0))
                continue;
            check_experts(dtypes[t], 21, widths[c], 6, &seed);
            if (!small())
                check_experts(dtypes[t], 128, widths[c], 514, &seed);
        }
        /* Larger groups. */
        for (uint32_t rows = 2052; rows <= 8208 && !small(); rows *= 4)
            check_experts(dtypes[t], 152, 512, rows, &seed);
    }
}

/* ---- rows --------------------------------------------------------------------------------------
 */

static const uint32_t row_widths[] = {1, 7, 8, 9, 31, 576, 1536, 4096, 9000};
#define ROW_WIDTHS (sizeof(row_widths) / sizeof(row_widths[0]))

static void assert_operands(const void *out, const float *want, size_t n, const char *what)
{
    bf16 *got = fetched(out, n * sizeof(*got));

    for (size_t i = 0; i < n; i++)
        if (!close_to(widened(got[i]), want[i], fabs((double)want[i]) / 250 + 1e-6))
            fail_msg("%s: element %zu is %.9g, not %.9g", what, i, (double)widened(got[i]),
                     (double)want[i]);
    free(got);
}

static void check_norms(uint32_t rows, uint32_t cols, uint64_t *seed)
{
    size_t n = (size_t)rows * cols;
    float *x = random_floats(n, seed), *w = random_floats(cols, seed), *y;
    bf16 *ys = random_operands(n, &y, seed);
    float *want = allocate(n * sizeof(*want)), *normed = allocate(n * sizeof(*normed));
    void *dx = there(x, n * sizeof(*x)), *dw = there(w, cols * sizeof(*w));
    void *dy = there(ys, n * sizeof(*ys)), *out = there(NULL, n * sizeof(bf16));

    k_norm(gpu, out, dx, NULL, 0, NULL, dw, rows, cols, 1e-5f);
    ref_rmsnorm(want, x, w, rows, cols, 1e-5f);
    assert_operands(out, want, n, "norm");
    ref_rmsnorm(normed, y, w, rows, cols, 1e-5f);
    for (size_t i = 0; i < n; i++)
        x[i] += 0.5f * normed[i];
    k_norm(gpu, out, dx, dy, 0.5f, dw, dw, rows, cols, 1e-5f);
    float *sum = fetched(dx, n * sizeof(*sum));
    assert_close(sum, x, n, 2e-6, "sum of a normed part");
    ref_rmsnorm(want, sum, w, rows, cols, 1e-5f);
    assert_operands(out, want, n, "norm of a sum");
    k_norm(gpu, out, dx, dy, 2, NULL, NULL, rows, cols, 1e-5f);
    for (size_t i = 0; i < n; i++)
        sum[i] += 2 * y[i];
    assert_operands(out, sum, n, "sum handed on");
    device_free(gpu, dx);
    device_free(gpu, dw);
    device_free(gpu, dy);
    device_free(gpu, out);
    free(x);
    free(w);
    free(y);
    free(ys);
    free(want);
    free(normed);
    free(sum);
}

static void check_glu(uint32_t rows, uint32_t cols, enum activation activation, uint64_t *seed)
{
    size_t n = (size_t)rows * cols;
    float *x, *want = allocate(n * sizeof(*want));
    bf16 *xs = random_operands(2 * n, &x, seed);
    void *dx = there(xs, 2 * n * sizeof(*xs)), *out = there(NULL, n * sizeof(bf16));

    k_glu(gpu, out, dx, rows, cols, activation);
    ref_glu(want, x, rows, cols, activation);
    assert_operands(out, want, n, "glu");
    device_free(gpu, dx);
    device_free(gpu, out);
    free(x);
    free(xs);
    free(want);
}

static void test_rows(void **state)
{
    static const uint32_t counts[] = {1, 3, 65};
    uint64_t seed = 5;

    NEED_GPU(state);
    for (size_t c = 0; c < ROW_WIDTHS; c++) {
        for (size_t r = small() ? 1 : 0; r < (small() ? 2 : 3); r++) {
            check_norms(counts[r], row_widths[c], &seed);
            for (int a = ACTIVATION_SILU; a <= ACTIVATION_GELU_TANH; a++)
                check_glu(counts[r], row_widths[c], (enum activation)a, &seed);
        }
    }
}

static void test_operand(void **state)
{
    NEED_GPU(state);
    print_message("%s\n", device_name(gpu));
    assert_int_equal(device_operand(gpu), DTYPE_BF16);
    assert_int_equal(device_operand_bytes(gpu), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operand),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_matmul_in_parts),
        cmocka_unit_test(test_matmul_glu),
        cmocka_unit_test(test_matmul_add_norm),
        cmocka_unit_test(test_matmul_passes_nan_on),
        cmocka_unit_test(test_tuned),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_deterministic),
    };
    gpu = device_create_cuda(0, PRECISION_FAST, ROWS_MOST, COLS_MAX, &why);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (gpu)
        device_destroy(gpu);
    return failed;
}
