/*
 * cuda_kernels_test.c - the operations of kernels.h on a GPU against the reference
 *
 * Skipped, and said so, where there is no GPU; bench/results/ holds the output of a machine with
 * one. What kernels_test.c and attention_test.c ask of the CPU is asked here of the GPU: the
 * reference's values, and the same bits for a row whoever else is in the call.  With
 * CUDA_TEST_SMALL=1 in the environment (compute-sanitizer is slow) the largest shapes are left out.
 */
#include "tests/unit/kernels_compare.h"

#define ROWS_MAX  256u
#define COLS_MAX  14336u
#define CHECKED   64u /* rows of a result that the reference computes, at most */
#define SEQS_MAX  4u
#define PAGES_MAX 64u
#define LAYERS    2u
#define LAYER     1u

static const enum dtype dtypes[] = {
    DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0,
    DTYPE_Q5_1, DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K,
};
#define DTYPE_COUNT (sizeof(dtypes) / sizeof(dtypes[0]))

static struct device *gpu; /* of all tests; NULL: there is none */
static struct error why;

#define NEED_GPU(state)                                                                            \
    do {                                                                                           \
        (void)(state);                                                                             \
        if (!gpu) {                                                                                \
            print_message("%s: see the recorded run, bench/results/h200-*/"                        \
                          "cuda_kernels_test.txt\n",                                               \
                          why.text);                                                               \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

static int small(void)
{
    return getenv("CUDA_TEST_SMALL") != NULL;
}

/* ---- memory of the GPU -------------------------------------------------------------------------
 */

/* A copy of n bytes there; of NULL: bytes 0xff, which are NaN. */
static void *there(const void *from, size_t bytes)
{
    struct error err;
    void *p = device_alloc(gpu, bytes, &err);
    void *poison = NULL;

    if (!p)
        fail_msg("%s", err.text);
    if (!from) {
        poison = allocate(bytes);
        memset(poison, 0xff, bytes);
    }
    device_copy(gpu, p, from ? from : poison, bytes);
    device_sync(gpu);
    free(poison);
    return p;
}

static void fetch(void *to, const void *from, size_t bytes)
{
    struct error err;

    device_copy(gpu, to, from, bytes);
    if (device_check(gpu, &err) != 0)
        fail_msg("%s", err.text);
}

static void *fetched(const void *from, size_t bytes)
{
    void *p = allocate(bytes);

    fetch(p, from, bytes);
    return p;
}

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
    assert_int_equal(device_memory(gpu, &left, &total, &err), 0);
    assert_true(left > 0 && left < total);
    assert_null(device_alloc(gpu, UINT64_MAX / 2, &err));
    assert_int_equal(err.status, STATUS_NOMEM);
    assert_int_equal(device_check(gpu, &err), 0);
    assert_null(device_create_cuda(1000, 1, 64, &err));
    assert_int_equal(err.status, STATUS_UNAVAILABLE);
    assert_null(device_create_cuda(0, 0, 64, &err));
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
            if (dtype_row_bytes(dtypes[t], widths[c]) > 0)
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

    k_matmul(gpu, out, x + first * w->cols, w, bias, rows);
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
    k_matmul(gpu, out, x, &slice, bias + skipped, rows);
    float *part = fetched(out, (size_t)rows * slice.rows * sizeof(*part));
    for (size_t r = 0; r < rows; r++)
        assert_same_bits(part + r * slice.rows, all + r * w->rows + skipped, slice.rows,
                         "slice of a matrix");
    free(part);
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

    k_matmul(gpu, out, x, &w, bias, rows);
    float *all = fetched(out, (size_t)rows * out_rows * sizeof(*all));
    assert_product(&p, all);
    for (size_t i = 0; i < sizeof(fewer) / sizeof(fewer[0]) && fewer[i] < rows; i++)
        assert_fewer_rows(&p, &w, x, bias, out, all, fewer[i]);
    assert_slice(&p, &w, x, bias, out, all);
    free(all);
    k_matmul(gpu, out, x, &w, NULL, 1);
    all = fetched(out, out_rows * sizeof(*all));
    assert_product(&(struct product){here, x_here, NULL, 1}, all);
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
            if (dtype_row_bytes(dtypes[t], shapes[s].cols) > 0 && !(small() && shapes[s].large))
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
        k_matmul(gpu, out, in, &w, NULL, 2);
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

    k_rmsnorm(gpu, out, dx, dw, rows, cols, 1e-5f);
    float *got = fetched(out, bytes);
    ref_rmsnorm(want, x, w, rows, cols, 1e-5f);
    assert_close(got, want, n, 2e-6, "rmsnorm");
    k_rmsnorm(gpu, out, dx + n - cols, dw, 1, cols, 1e-5f);
    float *alone = fetched(out, cols * sizeof(*alone));
    assert_same_bits(alone, got + n - cols, cols, "rmsnorm of one row");

    for (size_t i = 0; i < n; i++)
        sum[i] = x[i] + y[i];
    k_add_rmsnorm(gpu, out, dx, dy, dw, rows, cols, 1e-5f);
    fetch(got, out, bytes);
    fetch(x, dx, bytes);
    assert_same_bits(x, sum, n, "sum of add_rmsnorm");
    ref_rmsnorm(want, sum, w, rows, cols, 1e-5f);
    assert_close(got, want, n, 2e-6, "add_rmsnorm");
    k_rmsnorm(gpu, dx, dx, dw, rows, cols, 1e-5f);
    fetch(x, dx, bytes);
    assert_same_bits(x, got, n, "rmsnorm in place");
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
        for (size_t r = 0; r < ROW_COUNTS; r++)
            check_norms(row_counts[r], row_widths[c], &seed);
}

static void check_swiglu(uint32_t rows, uint32_t cols, uint64_t *seed)
{
    size_t n = (size_t)rows * cols;
    float *x = random_floats(2 * n, seed), *want = allocate(n * sizeof(*want));

    /* From where exp overflows to where it vanishes. */
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++)
            x[r * 2 * cols + i] *= i % 3 == 0 ? 1 : i % 3 == 1 ? 20 : 200;
    float *dx = there(x, 2 * n * sizeof(*x)), *out = there(NULL, n * sizeof(*out));
    k_swiglu(gpu, out, dx, rows, cols);
    float *got = fetched(out, n * sizeof(*got));
    ref_swiglu(want, x, rows, cols);
    assert_close(got, want, n, 2e-6, "swiglu");
    k_swiglu(gpu, out, dx + (size_t)(rows - 1) * 2 * cols, 1, cols);
    float *alone = fetched(out, cols * sizeof(*alone));
    assert_same_bits(alone, got + n - cols, cols, "swiglu of one row");
    device_free(gpu, dx);
    device_free(gpu, out);
    free(x);
    free(want);
    free(got);
    free(alone);
}

static void test_swiglu(void **state)
{
    uint64_t seed = 5;

    NEED_GPU(state);
    for (size_t c = 0; c < ROW_WIDTHS; c++)
        for (size_t r = 0; r < ROW_COUNTS; r++)
            check_swiglu(row_counts[r], row_widths[c], &seed);
}

/* ---- rotary embedding, cache and attention -----------------------------------------------------
 */

struct shape {
    uint32_t q_heads, kv_heads, head_dim, page_tokens;
};

static const struct shape shapes[] = {
    {9, 3, 64, 16},  {4, 4, 96, 32}, {8, 2, 128, 128},
    {4, 1, 256, 16}, {2, 1, 20, 16}, {40, 2, 8, 64},
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

/* Sequences that grow together; pages here for the reference, there for the GPU. */
struct scene {
    struct shape shape;
    struct kv_layout kv;
    struct rope rope;
    float scale;
    uint32_t seqs, tokens[SEQS_MAX];
    float *q[SEQS_MAX], *k[SEQS_MAX], *v[SEQS_MAX];
    void *here[PAGES_MAX], *there[PAGES_MAX], *table; /* table: there[], there */
};

static void scene_poison(struct scene *s)
{
    /* What was never written must never be read: it is NaN. */
    for (uint32_t i = 0; i < PAGES_MAX; i++) {
        memset(s->here[i], 0xff, s->kv.page_bytes);
        device_copy(gpu, s->there[i], s->here[i], s->kv.page_bytes);
    }
    device_sync(gpu);
}

static void scene_open(struct scene *s, const struct shape *shape, const uint32_t *tokens,
                       uint32_t seqs, uint64_t *seed)
{
    uint64_t layer = 2ull * shape->kv_heads * shape->page_tokens * shape->head_dim * sizeof(float);

    memset(s, 0, sizeof(*s));
    s->shape = *shape;
    s->kv = (struct kv_layout){LAYERS, shape->kv_heads, shape->head_dim, shape->page_tokens,
                               layer,  LAYERS * layer};
    s->rope = (struct rope){.theta = 10000, .dims = shape->head_dim, .interleaved = 1};
    s->scale = (float)(1 / sqrt(shape->head_dim));
    s->seqs = seqs;
    for (uint32_t i = 0; i < seqs; i++) {
        size_t row = (size_t)tokens[i] * shape->head_dim;
        s->tokens[i] = tokens[i];
        s->q[i] = random_floats(row * shape->q_heads, seed);
        s->k[i] = random_floats(row * shape->kv_heads, seed);
        s->v[i] = random_floats(row * shape->kv_heads, seed);
        for (size_t j = 0; j < row * shape->q_heads; j++)
            s->q[i][j] *= 4; /* peaked enough that the running maximum moves */
    }
    for (uint32_t i = 0; i < PAGES_MAX; i++) {
        s->here[i] = allocate(s->kv.page_bytes);
        s->there[i] = there(NULL, s->kv.page_bytes);
    }
    s->table = there(s->there, sizeof(s->there));
    scene_poison(s);
}

static void scene_close(struct scene *s)
{
    for (uint32_t i = 0; i < s->seqs; i++) {
        free(s->q[i]);
        free(s->k[i]);
        free(s->v[i]);
    }
    for (uint32_t i = 0; i < PAGES_MAX; i++) {
        free(s->here[i]);
        device_free(gpu, s->there[i]);
    }
    device_free(gpu, s->table);
}

/* Gather the sequences' rows of a step, or scatter them back. */
static void copy_rows(const struct attn_row *rows, const uint32_t *which, uint32_t n,
                      float *const *of_seq, float *step, size_t width, int back)
{
    for (uint32_t i = 0; i < n; i++) {
        float *a = step + rows[i].first_row * width;
        float *b = of_seq[which[i]] + rows[i].first_pos * width;
        memcpy(back ? b : a, back ? a : b, rows[i].count * width * sizeof(float));
    }
}

static float *gathered(const struct attn_row *rows, const uint32_t *which, uint32_t n,
                       float *const *of_seq, uint32_t total, size_t width)
{
    float *step = allocate(total * width * sizeof(*step));

    copy_rows(rows, which, n, of_seq, step, width, 0);
    return step;
}

/* The step's operations on the GPU: o from q, k, v. */
static void step_there(struct scene *s, const struct attn_row *rows, uint32_t n, uint32_t total,
                       float *o, const float *q, const float *k, const float *v)
{
    size_t qb = (size_t)total * s->shape.q_heads * s->shape.head_dim * sizeof(float);
    size_t kb = (size_t)total * s->shape.kv_heads * s->shape.head_dim * sizeof(float);
    float *dq = there(q, qb), *dk = there(k, kb), *dv = there(v, kb), *out = there(NULL, qb);
    struct attn_row *seqs = there(rows, n * sizeof(*rows));

    k_rope_kv(gpu, dq, dk, dv, s->shape.q_heads, &s->rope, &s->kv, LAYER, seqs, n, s->table);
    k_attention(gpu, out, dq, s->shape.q_heads, s->scale, &s->kv, LAYER, seqs, n, s->table);
    fetch(o, out, qb);
    device_free(gpu, dq);
    device_free(gpu, dk);
    device_free(gpu, dv);
    device_free(gpu, out);
    device_free(gpu, seqs);
}

/* One step: sequence which[i] computes positions [from[i], to[i]). */
static void step(struct scene *s, int reference, uint32_t n, const uint32_t *which,
                 const uint32_t *from, const uint32_t *to, float *const *out)
{
    struct attn_row rows[SEQS_MAX];
    uint32_t total = 0;
    size_t qw = (size_t)s->shape.q_heads * s->shape.head_dim;
    size_t kw = (size_t)s->shape.kv_heads * s->shape.head_dim;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t table = which[i] * (PAGES_MAX / s->seqs);
        rows[i] = (struct attn_row){total, to[i] - from[i], from[i], table};
        total += to[i] - from[i];
    }
    float *q = gathered(rows, which, n, s->q, total, qw), *o = allocate(total * qw * sizeof(*o));
    float *k = gathered(rows, which, n, s->k, total, kw);
    float *v = gathered(rows, which, n, s->v, total, kw);
    if (reference) {
        ref_rope_kv(q, k, v, s->shape.q_heads, &s->rope, &s->kv, LAYER, rows, n, s->here);
        ref_attention(o, q, s->shape.q_heads, s->scale, &s->kv, LAYER, rows, n, s->here);
    } else {
        step_there(s, rows, n, total, o, q, k, v);
    }
    copy_rows(rows, which, n, out, o, qw, 1);
    free(q);
    free(o);
    free(k);
    free(v);
}

/* Run the whole scene in steps of `chunk` tokens a sequence, all sequences in each step (together)
 * or one after the other. */
static void run(struct scene *s, int reference, uint32_t chunk, int together, float *const *out)
{
    uint32_t done[SEQS_MAX] = {0}, alone = 0;

    scene_poison(s);
    for (;;) {
        uint32_t which[SEQS_MAX], from[SEQS_MAX], to[SEQS_MAX], n = 0;
        while (!together && alone < s->seqs && done[alone] == s->tokens[alone])
            alone++;
        for (uint32_t i = 0; i < s->seqs; i++) {
            uint32_t left = s->tokens[i] - done[i];
            if (left == 0 || (!together && i != alone))
                continue;
            which[n] = i;
            from[n] = done[i];
            to[n++] = done[i] += left < chunk ? left : chunk;
        }
        if (n == 0)
            return;
        step(s, reference, n, which, from, to, out);
    }
}

struct outputs {
    float *rows[SEQS_MAX];
};

static size_t outputs_size(const struct scene *s, uint32_t i)
{
    return (size_t)s->tokens[i] * s->shape.q_heads * s->shape.head_dim;
}

static struct outputs outputs_open(const struct scene *s)
{
    struct outputs o = {{0}};

    for (uint32_t i = 0; i < s->seqs; i++)
        o.rows[i] = allocate(outputs_size(s, i) * sizeof(float));
    return o;
}

static void outputs_close(struct outputs *o)
{
    for (uint32_t i = 0; i < SEQS_MAX; i++)
        free(o->rows[i]);
}

static void check_attention(struct scene *s)
{
    static const uint32_t chunks[] = {1, 7, 16, 33, 64};
    struct outputs want = outputs_open(s), all = outputs_open(s), got = outputs_open(s);

    run(s, 1, 1000, 1, want.rows);
    run(s, 0, 1000, 1, all.rows);
    for (uint32_t i = 0; i < s->seqs; i++)
        assert_close(all.rows[i], want.rows[i], outputs_size(s, i), 1e-5, "attention");
    for (size_t c = small() ? 3 : 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
        run(s, 0, chunks[c], c % 2 == 0, got.rows);
        for (uint32_t i = 0; i < s->seqs; i++)
            assert_same_bits(got.rows[i], all.rows[i], outputs_size(s, i), "chunks");
    }
    outputs_close(&want);
    outputs_close(&all);
    outputs_close(&got);
}

static void test_attention(void **state)
{
    /* At, before and after the borders of pages and of blocks; a lone token. */
    static const uint32_t tokens[] = {130, 64, 17, 1};
    uint64_t seed = 11;

    NEED_GPU(state);
    for (size_t i = 0; i < SHAPES; i++) {
        struct scene s;
        scene_open(&s, &shapes[i], tokens, 4, &seed);
        check_attention(&s);
        scene_close(&s);
    }
}

/* Long enough that every warp has several blocks. */
static void test_long_attention(void **state)
{
    static const uint32_t tokens[] = {1000};
    uint64_t seed = 15;

    NEED_GPU(state);
    if (small())
        return;
    for (size_t i = 0; i < SHAPES; i++) {
        struct scene s;
        if (shapes[i].page_tokens * PAGES_MAX < tokens[0] || shapes[i].head_dim < 64)
            continue;
        scene_open(&s, &shapes[i], tokens, 1, &seed);
        struct outputs want = outputs_open(&s), got = outputs_open(&s), again = outputs_open(&s);
        run(&s, 1, 250, 1, want.rows);
        run(&s, 0, 250, 1, got.rows);
        assert_close(got.rows[0], want.rows[0], outputs_size(&s, 0), 1e-5, "long attention");
        run(&s, 0, 97, 1, again.rows);
        assert_same_bits(again.rows[0], got.rows[0], outputs_size(&s, 0), "long chunks");
        outputs_close(&want);
        outputs_close(&got);
        outputs_close(&again);
        scene_close(&s);
    }
}

/* Rotated q and k, and the pages after a step, of the GPU and of the reference. */
static void check_rope(struct scene *s)
{
    const struct shape *h = &s->shape;
    uint32_t count = s->tokens[0], pos = 30000, table = (pos + count) / h->page_tokens + 1;
    struct attn_row row = {0, count, pos, 0};
    size_t qn = (size_t)count * h->q_heads * h->head_dim;
    size_t kn = (size_t)count * h->kv_heads * h->head_dim;
    size_t page = s->kv.page_bytes / sizeof(float);
    void **here = allocate(table * sizeof(*here)), **far = allocate(table * sizeof(*far));
    float *q = allocate(qn * sizeof(*q)), *k = allocate(kn * sizeof(*k));
    float *dq = there(s->q[0], qn * sizeof(*q)), *dk = there(s->k[0], kn * sizeof(*k));
    float *dv = there(s->v[0], kn * sizeof(*k));

    for (uint32_t i = 0; i < table; i++) {
        here[i] = s->here[i % 3];
        far[i] = s->there[i % 3];
    }
    for (int i = 0; i < 3; i++) {
        memset(s->here[i], 0, s->kv.page_bytes);
        device_copy(gpu, s->there[i], s->here[i], s->kv.page_bytes);
    }
    void *far_table = there(far, table * sizeof(*far)), *far_row = there(&row, sizeof(row));
    void *factors = s->rope.factors ? there(s->rope.factors, 8 * sizeof(float)) : NULL;
    struct rope rope = s->rope;
    rope.factors = factors;
    memcpy(q, s->q[0], qn * sizeof(*q));
    memcpy(k, s->k[0], kn * sizeof(*k));
    ref_rope_kv(q, k, s->v[0], h->q_heads, &s->rope, &s->kv, LAYER, &row, 1, here);
    k_rope_kv(gpu, dq, dk, dv, h->q_heads, &rope, &s->kv, LAYER, far_row, 1, far_table);
    float *got_q = fetched(dq, qn * sizeof(*q)), *got_k = fetched(dk, kn * sizeof(*k));
    float *got_page = allocate(s->kv.page_bytes);
    assert_close(got_q, q, qn, 1e-6, "rotated q");
    assert_close(got_k, k, kn, 1e-6, "rotated k");
    for (size_t i = 0; i < 3; i++) {
        fetch(got_page, s->there[i], s->kv.page_bytes);
        assert_close(got_page, s->here[i], page, 1e-6, "pages");
    }
    device_free(gpu, dq);
    device_free(gpu, dk);
    device_free(gpu, dv);
    device_free(gpu, far_table);
    device_free(gpu, far_row);
    device_free(gpu, factors);
    free(here);
    free(far);
    free(q);
    free(k);
    free(got_q);
    free(got_k);
    free(got_page);
}

static void test_rope(void **state)
{
    static const uint32_t tokens[] = {35};
    static const float factors[] = {1, 2, 4, 8, 1, 2, 4, 8};
    uint64_t seed = 12;

    NEED_GPU(state);
    for (size_t i = 0; i < SHAPES; i++) {
        struct scene s;
        scene_open(&s, &shapes[i], tokens, 1, &seed);
        check_rope(&s);
        s.rope.interleaved = 0;
        check_rope(&s);
        /* A part of the head alone, with divided frequencies. */
        s.rope.dims = shapes[i].head_dim < 16 ? 4 : 16;
        s.rope.factors = factors;
        check_rope(&s);
        scene_close(&s);
    }
}

/* Position 0 sees itself alone: its value comes back exactly, whatever the score. */
static void test_first_token(void **state)
{
    static const uint32_t tokens[] = {1};
    uint64_t seed = 13;
    struct scene s;

    NEED_GPU(state);
    scene_open(&s, &shapes[0], tokens, 1, &seed);
    struct outputs o = outputs_open(&s);
    run(&s, 0, 1, 1, o.rows);
    for (size_t h = 0; h < 9; h++)
        assert_same_bits(o.rows[0] + h * 64, s.v[0] + h / 3 * 64, 64, "value");
    s.k[0][5] = NAN;
    run(&s, 0, 1, 1, o.rows);
    assert_true(is_nan(o.rows[0][0]));
    assert_false(is_nan(o.rows[0][8 * 64]));
    outputs_close(&o);
    scene_close(&s);
}

/* Scores that fall, or rise, by 100 every 16 positions: neither way may overflow or forget. */
static void test_stairs(void **state)
{
    static const uint32_t tokens[] = {200};
    uint64_t seed = 14;
    struct scene s;

    NEED_GPU(state);
    scene_open(&s, &shapes[0], tokens, 1, &seed);
    s.rope.dims = 0;
    memset(s.k[0], 0, (size_t)tokens[0] * 3 * 64 * sizeof(float));
    for (size_t i = 0; i < (size_t)tokens[0] * 9 * 64; i++)
        s.q[0][i] = i % 64 == 7 ? 1 : 0;
    for (int falling = 0; falling < 2; falling++) {
        struct outputs want = outputs_open(&s), got = outputs_open(&s);
        for (uint32_t t = 0; t < tokens[0]; t++)
            for (size_t h = 0; h < 3; h++)
                s.k[0][(t * 3 + h) * 64 + 7] =
                    100 * (float)(falling ? 20 - t / 16 : t / 16) / s.scale;
        run(&s, 1, 50, 1, want.rows);
        run(&s, 0, 50, 1, got.rows);
        assert_close(got.rows[0], want.rows[0], outputs_size(&s, 0), 1e-5, "stairs");
        outputs_close(&want);
        outputs_close(&got);
    }
    scene_close(&s);
}

/* What an operation cannot do is an error that stays, and not a wrong result. */
static void test_refused_shape(void **state)
{
    struct error err;
    struct kv_layout kv = {1, 1, 300, 16, 38400, 38400};
    struct device *d;

    NEED_GPU(state);
    d = device_create_cuda(0, 4, 1024, &err);
    assert_non_null(d);
    assert_int_equal(device_check(d, &err), 0);
    k_attention(d, NULL, NULL, 1, 1, &kv, 0, NULL, 0, NULL);
    assert_int_equal(device_check(d, &err), -1);
    assert_int_equal(device_check(d, &err), -1);
    device_destroy(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusal),   cmocka_unit_test(test_device),
        cmocka_unit_test(test_copies),    cmocka_unit_test(test_embed),
        cmocka_unit_test(test_matmul),    cmocka_unit_test(test_matmul_passes_nan_on),
        cmocka_unit_test(test_norms),     cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_attention), cmocka_unit_test(test_long_attention),
        cmocka_unit_test(test_rope),      cmocka_unit_test(test_first_token),
        cmocka_unit_test(test_stairs),    cmocka_unit_test(test_refused_shape),
    };
    gpu = device_create_cuda(0, ROWS_MAX, COLS_MAX, &why);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (gpu)
        device_destroy(gpu);
    return failed;
}
