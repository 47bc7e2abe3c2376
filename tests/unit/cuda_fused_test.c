/*
 * cuda_fused_test.c - products of a decode step that rotate and store what they yield, on a GPU,
 * against the reference's product, rotation and pages
 */
#include "tests/unit/cuda_compare.h"

#define LAYERS 2u
#define LAYER  1u
#define WIDTH  256u

typedef uint16_t bf16;

static bf16 rounded(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float widened(bf16 b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

struct shape {
    uint32_t q_heads, kv_heads, dim, page_tokens;
};

/* A step of `rows` rows, of which the last `idle` have no sequence; a page for each of the others,
 * the only one in its table. */
struct scene {
    struct shape shape;
    uint32_t rows, idle, cols; /* cols: of q, k and v together */
    struct kv_layout kv, kv_there;
    struct attn_row *seqs;
    void **here, **there;
    float *memory, *x, *bias;
    struct weight w, w_there;
    bf16 *pool;
    void *dx, *dbias, *dseqs, *dtable;
    uint32_t pages_each;
};

#define LAST_POSITION 3000u

static void scene_pages(struct scene *s, uint64_t *seed)
{
    static const uint32_t positions[] = {LAST_POSITION, 0, 1, 15, 16};
    const struct shape *h = &s->shape;
    uint64_t layer = 2ull * h->kv_heads * h->page_tokens * h->dim, page = LAYERS * layer;
    uint32_t tokens = s->rows - s->idle;
    size_t table = (size_t)s->rows * s->pages_each;

    s->kv = (struct kv_layout){LAYERS, h->kv_heads, h->dim, h->page_tokens, 4 * layer, 4 * page};
    s->kv_there = s->kv;
    s->kv_there.layer_bytes /= 2;
    s->kv_there.page_bytes /= 2;
    s->memory = allocate(tokens * page * sizeof(float));
    for (size_t i = 0; i < tokens * page; i++)
        s->memory[i] = NAN;
    s->pool = there(NULL, tokens * page * sizeof(bf16));
    s->here = calloc(table, sizeof(void *));
    s->there = calloc(table, sizeof(void *));
    s->seqs = calloc(s->rows, sizeof(*s->seqs));
    for (uint32_t i = 0; i < tokens; i++) {
        uint32_t pos = i < 5 ? positions[i] : random_bits(seed) % LAST_POSITION;
        /* Rows in another order than sequences. */
        s->seqs[i] = (struct attn_row){tokens - 1 - i, 1, pos, i * s->pages_each};
        s->here[s->seqs[i].table + pos / h->page_tokens] = s->memory + i * page;
        s->there[s->seqs[i].table + pos / h->page_tokens] = s->pool + i * page;
    }
    s->dseqs = there(s->seqs, s->rows * sizeof(*s->seqs));
    s->dtable = there(s->there, table * sizeof(void *));
}

static void scene_open(struct scene *s, const struct shape *shape, enum dtype dtype, uint32_t rows,
                       uint32_t idle, int bias, uint64_t *seed)
{
    size_t n = (size_t)rows * WIDTH;
    bf16 *x = allocate(n * sizeof(*x));

    memset(s, 0, sizeof(*s));
    s->shape = *shape;
    s->rows = rows;
    s->idle = idle;
    s->cols = (shape->q_heads + 2 * shape->kv_heads) * shape->dim;
    s->pages_each = LAST_POSITION / shape->page_tokens + 1;
    scene_pages(s, seed);
    s->x = random_floats(n, seed);
    for (size_t i = 0; i < n; i++) {
        x[i] = rounded(s->x[i]);
        s->x[i] = widened(x[i]);
    }
    s->w = random_weight(dtype, s->cols, WIDTH, seed);
    s->w_there = s->w;
    s->w_there.data = there(s->w.data, dtype_row_bytes(dtype, WIDTH) * s->cols);
    s->dx = there(x, n * sizeof(*x));
    if (bias) {
        s->bias = random_floats(s->cols, seed);
        s->dbias = there(s->bias, s->cols * sizeof(float));
    }
    free(x);
}

static void scene_close(struct scene *s)
{
    free((void *)(uintptr_t)s->w.data);
    device_free(gpu, (void *)(uintptr_t)s->w_there.data);
    free(s->seqs);
    free(s->here);
    free(s->there);
    free(s->memory);
    free(s->x);
    free(s->bias);
    device_free(gpu, s->pool);
    device_free(gpu, s->dx);
    device_free(gpu, s->dbias);
    device_free(gpu, s->dseqs);
    device_free(gpu, s->dtable);
}

/* Within the roundings of operands: of the result, and of the two that were turned, if they were
 * stored before; `size` is what elements are about. */
static void assert_operand(const struct scene *s, bf16 got, float want, double size,
                           const char *what, size_t at)
{
    double tolerance = fabs((double)want) / 200 + size / 48;

    if (!close_to(widened(got), want, tolerance))
        fail_msg("%s %u rows, heads %u/%u of %u, %s %zu: %.9g, not %.9g", dtype_name(s->w.dtype),
                 s->rows, s->shape.q_heads, s->shape.kv_heads, s->shape.dim, what, at,
                 (double)widened(got), (double)want);
}

static double root_mean_square(const float *x, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum / (double)n);
}

/* What the reference makes of it: queries into q, keys and values into the pages. */
static double scene_reference(struct scene *s, const struct rope *rope, float *q)
{
    size_t qw = (size_t)s->shape.q_heads * s->shape.dim;
    size_t kw = (size_t)s->shape.kv_heads * s->shape.dim, rows = s->rows;
    float *qkv = allocate(rows * s->cols * sizeof(float));
    float *k = allocate(rows * kw * sizeof(float)), *v = allocate(rows * kw * sizeof(float));

    ref_matmul(qkv, s->x, &s->w, s->bias, s->rows);
    for (size_t r = 0; r < rows; r++) {
        memcpy(q + r * qw, qkv + r * s->cols, qw * sizeof(float));
        memcpy(k + r * kw, qkv + r * s->cols + qw, kw * sizeof(float));
        memcpy(v + r * kw, qkv + r * s->cols + qw + kw, kw * sizeof(float));
    }
    double size = root_mean_square(qkv, rows * s->cols);
    ref_rope_kv(q, k, v, s->shape.q_heads, rope, &s->kv, LAYER, s->seqs, s->rows - s->idle,
                s->here);
    free(qkv);
    free(k);
    free(v);
    return size;
}

static void check_rope_kv(struct scene *s, const struct rope *rope)
{
    size_t qw = (size_t)s->shape.q_heads * s->shape.dim;
    size_t page = s->kv.page_bytes / sizeof(float), tokens = s->rows - s->idle;
    struct attn_step step = {s->dseqs, s->dtable, s->rows, s->rows, 1};
    float *q = allocate(s->rows * qw * sizeof(float));
    void *out = there(NULL, (size_t)s->rows * s->cols * sizeof(bf16));
    double size = scene_reference(s, rope, q);

    k_matmul_rope_kv(gpu, out, s->dx, &s->w_there, s->dbias, s->shape.q_heads, rope, &s->kv_there,
                     LAYER, &step);
    bf16 *got = fetched(out, (size_t)s->rows * s->cols * sizeof(bf16));
    for (size_t r = 0; r < tokens; r++)
        for (size_t i = 0; i < qw; i++)
            assert_operand(s, got[r * s->cols + i], q[r * qw + i], size, "query", r * qw + i);
    free(got);
    got = fetched(s->pool, tokens * page * sizeof(bf16));
    for (size_t i = 0; i < tokens * page; i++) {
        if (is_nan(s->memory[i]))
            assert_int_equal(got[i], 0xffff); /* untouched */
        else
            assert_operand(s, got[i], s->memory[i], size, "page", i);
    }
    free(got);
    free(q);
    device_free(gpu, out);
}

static void test_rope_kv(void **state)
{
    static const struct shape shapes[] = {{9, 3, 64, 16},   {4, 1, 128, 16}, {2, 2, 96, 32},
                                          {2, 1, 256, 128}, {6, 2, 80, 16},  {3, 1, 24, 16}};
    static const uint32_t rows[][2] = {{1, 0}, {2, 1}, {5, 0}, {8, 3}, {9, 0}, {16, 7}, {33, 2}};
    static const enum dtype types[] = {DTYPE_BF16, DTYPE_Q4_1, DTYPE_Q4_K, DTYPE_Q8_0, DTYPE_F8};
    uint64_t seed = 31;

    NEED_GPU(state);
    for (size_t h = 0; h < sizeof(shapes) / sizeof(shapes[0]); h++)
        for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++)
            for (uint32_t interleaved = 0; interleaved < 2; interleaved++) {
                struct scene s;
                float factors[128];
                enum dtype type = types[(h + r + interleaved) % (r % 2 ? 5 : 1)];
                struct rope rope = {10000, 1, shapes[h].dim, (int)interleaved, NULL};
                if (small() && (h > 1 || r % 2))
                    continue;
                for (uint32_t i = 0; i < 128; i++)
                    factors[i] = (float)(i % 5 + 1);
                scene_open(&s, &shapes[h], type, rows[r][0], rows[r][1], r % 3 == 1, &seed);
                check_rope_kv(&s, &rope);
                rope.scale = 1.25f;
                rope.factors = factors;
                check_rope_kv(&s, &rope);
                rope = (struct rope){10000, 1, 16, (int)interleaved, NULL}; /* of a part of it */
                check_rope_kv(&s, &rope);
                rope.dims = 0;
                check_rope_kv(&s, &rope);
                scene_close(&s);
            }
}

/* With rows that are left for the product to scale: as with norms that are done. */
static void check_behind_norm(enum dtype dtype, const struct shape *h, uint32_t rows,
                              uint64_t *seed)
{
    struct scene s;
    struct rope rope = {500000, 1, h->dim, 0, NULL};
    struct weight w = random_weight(dtype, WIDTH, 512, seed), w_there = w;
    size_t in_n = (size_t)rows * 512, x_n = (size_t)rows * WIDTH;
    float *in = random_floats(in_n, seed), *x = random_floats(x_n, seed);
    float *norm = random_floats(WIDTH, seed);
    bf16 *operands = allocate(in_n * sizeof(*operands)), *out[2], *pool[2];

    scene_open(&s, h, dtype, rows, 0, 0, seed);
    struct attn_step step = {s.dseqs, s.dtable, rows, rows, 1};
    size_t out_bytes = (size_t)rows * s.cols * sizeof(bf16), pool_bytes = s.kv_there.page_bytes;
    for (size_t i = 0; i < in_n; i++)
        operands[i] = rounded(in[i]);
    w_there.data = there(w.data, dtype_row_bytes(dtype, 512) * WIDTH);
    void *din = there(operands, in_n * sizeof(bf16)), *dnorm = there(norm, WIDTH * sizeof(float));
    void *poison = allocate(rows * pool_bytes);
    memset(poison, 0xff, rows * pool_bytes);
    for (int way = 0; way < 2; way++) {
        void *dx = there(x, x_n * sizeof(float)), *dout = there(NULL, out_bytes);
        device_copy(gpu, s.pool, poison, rows * pool_bytes);
        if (way == 0) {
            k_matmul_add(gpu, dx, 1, din, &w_there, rows);
            k_norm(gpu, s.dx, dx, NULL, 0, NULL, dnorm, rows, WIDTH, 1e-5f);
            k_matmul(gpu, dout, s.cols, s.dx, &s.w_there, NULL, rows);
            k_rope_kv(gpu, dout, h->q_heads, NULL, &rope, &s.kv_there, LAYER, &step);
        } else {
            k_matmul_add_norm(gpu, s.dx, dnorm, 1e-5f, dx, 1, din, &w_there, rows);
            k_matmul_rope_kv(gpu, dout, s.dx, &s.w_there, NULL, h->q_heads, &rope, &s.kv_there,
                             LAYER, &step);
        }
        out[way] = fetched(dout, out_bytes);
        pool[way] = fetched(s.pool, rows * pool_bytes);
        device_free(gpu, dx);
        device_free(gpu, dout);
    }
    float *wide = allocate((size_t)rows * s.cols * sizeof(float));
    for (size_t i = 0; i < (size_t)rows * s.cols; i++)
        wide[i] = widened(out[0][i]);
    double size = root_mean_square(wide, (size_t)rows * s.cols) * 2;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < (size_t)h->q_heads * h->dim; i++)
            assert_operand(&s, out[1][r * s.cols + i], wide[r * s.cols + i], size, "query", i);
    for (size_t i = 0; i < rows * pool_bytes / sizeof(bf16); i++) {
        if (pool[0][i] == 0xffff)
            assert_int_equal(pool[1][i], 0xffff);
        else
            assert_operand(&s, pool[1][i], widened(pool[0][i]), size, "page", i);
    }
    for (int way = 0; way < 2; way++) {
        free(out[way]);
        free(pool[way]);
    }
    free((void *)(uintptr_t)w.data);
    device_free(gpu, (void *)(uintptr_t)w_there.data);
    device_free(gpu, din);
    device_free(gpu, dnorm);
    free(poison);
    free(operands);
    free(in);
    free(x);
    free(norm);
    free(wide);
    scene_close(&s);
}

static void test_rope_kv_behind_norm(void **state)
{
    static const struct shape shapes[] = {{8, 2, 64, 16}, {4, 1, 128, 32}};
    static const uint32_t rows[] = {1, 3, 8, 16, 17, 32};
    static const enum dtype types[] = {DTYPE_BF16, DTYPE_Q4_K, DTYPE_Q8_0};
    uint64_t seed = 32;

    NEED_GPU(state);
    for (size_t h = 0; h < 2; h++)
        for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++)
            for (size_t t = 0; t < (small() ? 1 : 3); t++)
                check_behind_norm(types[t], &shapes[h], rows[r], &seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rope_kv),
                                       cmocka_unit_test(test_rope_kv_behind_norm)};
    gpu = device_create_cuda(0, PRECISION_FAST, ROWS_MAX, COLS_MAX, &why);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_destroy(gpu);
    return failed;
}
