/*
 * cuda_attention_test.c - rotary embedding, the paged cache and attention on a GPU
 *
 * What attention_test.c asks of the CPU: the reference's values, and the same bits for a token
 * however the prompt was cut into chunks and whoever else is in the step.
 */
#include "tests/unit/cuda_compare.h"

#define SEQS_MAX  4u
#define PAGES_MAX 64u
#define LAYERS    2u
#define LAYER     1u

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
    struct attention attention;
    uint32_t seqs, tokens[SEQS_MAX];
    float *q[SEQS_MAX], *k[SEQS_MAX], *v[SEQS_MAX];
    void *here[PAGES_MAX], *there[PAGES_MAX];
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
    s->rope = (struct rope){.theta = 10000, .scale = 1, .dims = shape->head_dim, .interleaved = 1};
    s->attention = (struct attention){.scale = (float)(1 / sqrt(shape->head_dim))};
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

/* The step's page table there, without the pages that a window has left behind. */
static void *window_table(const struct scene *s, const struct attn_row *rows, uint32_t n)
{
    void *pages[PAGES_MAX];

    memcpy(pages, s->there, sizeof(pages));
    for (uint32_t i = 0; i < n && s->attention.window != 0; i++) {
        uint32_t pos = rows[i].first_pos, window = s->attention.window;
        uint32_t first = pos >= window ? pos + 1 - window : 0;
        for (uint32_t p = 0; p < first / s->shape.page_tokens; p++)
            pages[rows[i].table + p] = NULL;
    }
    return there(pages, sizeof(pages));
}

/* The step's operations on the GPU: o from q, k, v. */
static void step_there(struct scene *s, const struct attn_row *rows, uint32_t n, uint32_t total,
                       float *o, const float *q, const float *k, const float *v)
{
    size_t qb = (size_t)total * s->shape.q_heads * s->shape.head_dim * sizeof(float);
    size_t kb = (size_t)total * s->shape.kv_heads * s->shape.head_dim * sizeof(float);
    float *dq = there(q, qb), *dk = there(k, kb), *dv = there(v, kb), *out = there(NULL, qb);
    struct attn_row *seqs = there(rows, n * sizeof(*rows));
    void *table = window_table(s, rows, n);

    k_rope_kv(gpu, dq, dk, dv, s->shape.q_heads, &s->rope, &s->kv, LAYER, seqs, n, table);
    k_attention(gpu, out, dq, s->shape.q_heads, &s->attention, &s->kv, LAYER, seqs, n, table);
    fetch(o, out, qb);
    device_free(gpu, dq);
    device_free(gpu, dk);
    device_free(gpu, dv);
    device_free(gpu, out);
    device_free(gpu, seqs);
    device_free(gpu, table);
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
        ref_attention(o, q, s->shape.q_heads, &s->attention, &s->kv, LAYER, rows, n, s->here);
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
    static const uint32_t windows[] = {1, 5, 16, 33, 64, 1000};
    uint64_t seed = 11;

    NEED_GPU(state);
    for (size_t i = 0; i < SHAPES; i++) {
        struct scene s;
        scene_open(&s, &shapes[i], tokens, 4, &seed);
        check_attention(&s);
        /* Windows within, at and beyond blocks and pages; of one token; longer than all. */
        for (size_t w = 0; i < 3 && w < sizeof(windows) / sizeof(windows[0]); w++) {
            if (small() && w % 3 != 1)
                continue;
            s.attention.window = windows[w];
            s.attention.softcap = w % 2 ? 5 : 0;
            check_attention(&s);
        }
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
        for (uint32_t window = 0; window <= 600; window += 300) {
            s.attention.window = window;
            run(&s, 1, 250, 1, want.rows);
            run(&s, 0, 250, 1, got.rows);
            assert_close(got.rows[0], want.rows[0], outputs_size(&s, 0), 1e-5, "long attention");
            run(&s, 0, 97, 1, again.rows);
            assert_same_bits(again.rows[0], got.rows[0], outputs_size(&s, 0), "long chunks");
        }
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
    memcpy(q, s->q[0], qn * sizeof(*q));
    memcpy(k, s->k[0], kn * sizeof(*k));
    ref_rope_kv(q, k, s->v[0], h->q_heads, &s->rope, &s->kv, LAYER, &row, 1, here);
    k_rope_kv(gpu, dq, dk, dv, h->q_heads, &s->rope, &s->kv, LAYER, far_row, 1, far_table);
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
        s.rope.scale = 1.25f;
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
                    100 * (float)(falling ? 20 - t / 16 : t / 16) / s.attention.scale;
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
    struct attention attention = {1, 0, 0};
    struct device *d;

    NEED_GPU(state);
    d = device_create_cuda(0, 4, 1024, &err);
    assert_non_null(d);
    assert_int_equal(device_check(d, &err), 0);
    k_attention(d, NULL, NULL, 1, &attention, &kv, 0, NULL, 0, NULL);
    assert_int_equal(device_check(d, &err), -1);
    assert_int_equal(device_check(d, &err), -1);
    device_destroy(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
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
