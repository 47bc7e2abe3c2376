/*
 * cuda_attention_test.c - rotary embedding, the paged cache and attention on a GPU
 *
 * What attention_test.c asks of the CPU: the reference's values, and the same bits for a token
 * however the prompt was cut into chunks and whoever else is in the step.  With bfloat16 operands
 * the values are near the reference's, and tokens that were alone of their sequence in a step come
 * from another kernel: their bits are compared with nobody's, but on a deterministic device.
 */
#include "tests/unit/attention_scene.h"
#include "tests/unit/cuda_compare.h"

static const struct shape shapes[] = {
    {9, 3, 64, 16}, {4, 4, 96, 32}, {8, 2, 128, 128}, {4, 1, 256, 16},
    {2, 1, 20, 16}, {40, 2, 8, 64}, {7, 1, 64, 64},   {6, 2, 80, 16},
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static struct device *exact, *fast, *alike; /* `gpu` is one of them; alike: deterministic */

/* ---- operands ----------------------------------------------------------------------------------
 */

static int bf16(void)
{
    return device_operand(gpu) == DTYPE_BF16;
}

/* To the nearest, ties to even. */
static uint16_t to_bf16(float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof(bits));
    if (is_nan(v))
        return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t v)
{
    uint32_t bits = (uint32_t)v << 16;
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* n floats as operands there, with 64 bytes of poison behind; of NULL: poison. */
static void *operands_there(const float *x, size_t n)
{
    size_t each = device_operand_bytes(gpu);
    uint8_t *as = allocate(n * each + 64);

    memset(as, 0xff, n * each + 64);
    for (size_t i = 0; x && i < n; i++) {
        uint16_t v = to_bf16(x[i]);
        memcpy(as + i * each, bf16() ? (const void *)&v : (const void *)&x[i], each);
    }
    void *p = there(as, n * each + 64);
    free(as);
    return p;
}

/* And back; what is behind must be poison yet. */
static float *operands_here(const void *p, size_t n, int behind)
{
    size_t each = device_operand_bytes(gpu);
    uint8_t *as = fetched(p, n * each + (behind ? 64 : 0));
    float *x = allocate(n * sizeof(*x));

    for (size_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(bf16() ? (void *)&v : (void *)&x[i], as + i * each, each);
        if (bf16())
            x[i] = from_bf16(v);
    }
    for (size_t i = 0; behind && i < 64; i++)
        assert_int_equal(as[n * each + i], 0xff);
    free(as);
    return x;
}

/* Elements near; with bfloat16 within 3e-2, and all together within 1e-2 by their norms. */
static void assert_near(const float *got, const float *want, size_t n, double tolerance,
                        const char *what)
{
    double difference = 0, size = 0;

    assert_close(got, want, n, bf16() ? 3e-2 : tolerance, what);
    for (size_t i = 0; i < n; i++) {
        difference += pow((double)got[i] - (double)want[i], 2);
        size += pow((double)want[i], 2);
    }
    if (bf16() && !(sqrt(difference) <= 1e-2 * sqrt(size)))
        fail_msg("%s: off by %g of %g", what, sqrt(difference), sqrt(size));
}

/* ---- scenes ------------------------------------------------------------------------------------
 */

/* A scene with pages there, too. */
struct far_scene {
    struct scene here;
    struct kv_layout kv;
    void *pages[PAGES_MAX];
};

/* Of bytes that were just set here. */
static void send_pages(struct far_scene *f, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        device_copy(gpu, f->pages[i], f->here.pages[i], f->kv.page_bytes);
    device_sync(gpu);
}

static float rounded(float x)
{
    return from_bf16(to_bf16(x));
}

static void far_open(struct far_scene *f, const struct shape *shape, const uint32_t *tokens,
                     uint32_t seqs, uint64_t *seed)
{
    scene_open(&f->here, shape, tokens, seqs, bf16() ? rounded : NULL, seed);
    f->kv = f->here.kv;
    f->kv.layer_bytes = f->here.kv.layer_bytes / sizeof(float) * device_operand_bytes(gpu);
    f->kv.page_bytes = LAYERS * f->kv.layer_bytes;
    for (uint32_t i = 0; i < PAGES_MAX; i++)
        f->pages[i] = there(NULL, f->here.kv.page_bytes);
    send_pages(f, PAGES_MAX);
}

static void far_close(struct far_scene *f)
{
    scene_close(&f->here);
    for (uint32_t i = 0; i < PAGES_MAX; i++)
        device_free(gpu, f->pages[i]);
}

/* The step's page table there, without the pages that a window has left behind. */
static void *window_table(const struct far_scene *f, const struct attn_row *rows, uint32_t n)
{
    const struct scene *s = &f->here;
    void *pages[PAGES_MAX];

    memcpy(pages, f->pages, sizeof(pages));
    for (uint32_t i = 0; i < n && s->attention.window != 0; i++) {
        uint32_t pos = rows[i].first_pos, window = s->attention.window;
        uint32_t first = pos >= window ? pos + 1 - window : 0;
        for (uint32_t p = 0; p < first / s->shape.page_tokens; p++)
            pages[rows[i].table + p] = NULL;
    }
    return there(pages, sizeof(pages));
}

/* The step by the GPU. */
static void step_there(void *far, struct scene *s, const struct scene_step *step)
{
    struct far_scene *f = far;
    uint32_t n = step->count, total = step->total;
    size_t qw = (size_t)s->shape.q_heads * s->shape.head_dim;
    size_t kw = (size_t)s->shape.kv_heads * s->shape.head_dim;
    struct attn_row padded[SEQS_MAX + 2] = {{0}};
    float *qkv = fused(step->q, step->k, step->v, total, qw, kw);
    void *dqkv = operands_there(qkv, total * (qw + 2 * kw)),
         *out = operands_there(NULL, total * qw);

    /* Some that have no tokens are behind. */
    memcpy(padded, step->rows, n * sizeof(*step->rows));
    void *seqs = there(padded, sizeof(padded)), *table = window_table(f, step->rows, n);
    struct attn_step in = {.seqs = seqs, .pages = table, .seq_count = n + total % 3, .rows = total};
    for (uint32_t i = 0; i < n; i++)
        in.longest = step->rows[i].count > in.longest ? step->rows[i].count : in.longest;
    k_rope_kv(gpu, dqkv, s->shape.q_heads, NULL, &s->rope, &f->kv, LAYER, &in);
    k_attention(gpu, out, dqkv, s->shape.q_heads, &s->attention, &f->kv, LAYER, &in);
    float *got = operands_here(out, total * qw, 1);
    memcpy(step->o, got, total * qw * sizeof(*got));
    free(got);
    free(qkv);
    device_free(gpu, dqkv);
    device_free(gpu, out);
    device_free(gpu, seqs);
    device_free(gpu, table);
}

static void run(struct far_scene *f, int reference, uint32_t chunk, int together, float *const *out)
{
    scene_poison(&f->here);
    send_pages(f, PAGES_MAX);
    scene_run(&f->here, reference ? scene_reference : step_there, f, chunk, together, out);
}

/* The same bits for tokens that both runs, in chunks of a and b, had a kernel for runs for. */
static void assert_same_rows(const struct scene *s, uint32_t seq, const float *x, uint32_t a,
                             const float *y, uint32_t b, const char *what)
{
    size_t width = (size_t)s->shape.q_heads * s->shape.head_dim;
    uint32_t n = s->tokens[seq];

    for (uint32_t t = 0; t < n; t++) {
        int alone = a == 1 || b == 1 || (t == n - 1 && (n % a == 1 || n % b == 1));
        if (!bf16() || !alone || gpu == alike)
            assert_same_bits(x + t * width, y + t * width, width, what);
    }
}

static void check_attention(struct far_scene *f)
{
    const struct scene *s = &f->here;
    static const uint32_t chunks[] = {1, 7, 16, 33, 64};
    struct outputs want = outputs_open(s), all = outputs_open(s), got = outputs_open(s);

    run(f, 1, ALL, 1, want.rows);
    run(f, 0, ALL, 1, all.rows);
    for (uint32_t i = 0; i < s->seqs; i++)
        assert_near(all.rows[i], want.rows[i], outputs_size(s, i), 1e-5, "attention");
    for (size_t c = small() ? 4 : 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
        run(f, 0, chunks[c], c % 2 == 0, got.rows);
        for (uint32_t i = 0; i < s->seqs; i++) {
            assert_near(got.rows[i], want.rows[i], outputs_size(s, i), 1e-5, "chunks");
            assert_same_rows(s, i, got.rows[i], chunks[c], all.rows[i], ALL, "chunks");
        }
    }
    outputs_close(&want);
    outputs_close(&all);
    outputs_close(&got);
}

static void test_attention(void **state)
{
    /* At, before and after the borders of pages and of blocks; a lone token. */
    static const uint32_t tokens[] = {130, 64, 17, 1}, fewer[] = {66, 17, 16, 1};
    static const uint32_t windows[] = {1, 5, 16, 33, 64, 1000};
    uint64_t seed = 11;

    NEED_GPU(state);
    for (size_t i = 0; i < SHAPES; i += small() ? 2 : 1) {
        struct far_scene f;
        struct scene *s = &f.here;
        far_open(&f, &shapes[i], small() ? fewer : tokens, 4, &seed);
        check_attention(&f);
        /* Windows within, at and beyond blocks and pages; of one token; longer than all. */
        for (size_t w = 0; i < (small() ? 1 : 3) && w < sizeof(windows) / sizeof(windows[0]); w++) {
            if (small() && w % 3 != 1)
                continue;
            s->attention.window = windows[w];
            s->attention.softcap = w % 2 ? 5 : 0;
            check_attention(&f);
        }
        far_close(&f);
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
        struct far_scene f;
        struct scene *s = &f.here;
        if (shapes[i].page_tokens * PAGES_MAX < tokens[0] || shapes[i].head_dim < 64)
            continue;
        far_open(&f, &shapes[i], tokens, 1, &seed);
        struct outputs want = outputs_open(s), got = outputs_open(s), again = outputs_open(s);
        for (uint32_t window = 0; window <= 600; window += 300) {
            s->attention.window = window;
            run(&f, 1, 250, 1, want.rows);
            run(&f, 0, 250, 1, got.rows);
            assert_near(got.rows[0], want.rows[0], outputs_size(s, 0), 1e-5, "long attention");
            run(&f, 0, 97, 1, again.rows);
            assert_same_rows(s, 0, again.rows[0], 97, got.rows[0], 250, "long chunks");
        }
        outputs_close(&want);
        outputs_close(&got);
        outputs_close(&again);
        far_close(&f);
    }
}

/* Rotated q, and the pages after a step, of the GPU and of the reference; norm may be NULL, and its
 * weights are here. */
static void check_rope(struct far_scene *f, const struct qk_norm *norm)
{
    struct scene *s = &f->here;
    const struct shape *h = &s->shape;
    uint32_t count = s->tokens[0], pos = 30000, table = (pos + count) / h->page_tokens + 1;
    struct attn_row row = {0, count, pos, 0};
    size_t qw = (size_t)h->q_heads * h->head_dim, kw = (size_t)h->kv_heads * h->head_dim;
    size_t qn = count * qw, kn = count * kw, page = s->kv.page_bytes / sizeof(float);
    void **here = allocate(table * sizeof(*here)), **far = allocate(table * sizeof(*far));
    float *q = allocate(qn * sizeof(*q)), *k = allocate(kn * sizeof(*k));
    float *qkv = fused(s->q[0], s->k[0], s->v[0], count, qw, kw);
    void *dqkv = operands_there(qkv, count * (qw + 2 * kw)), *dq = NULL, *dk = NULL;
    struct qk_norm norm_there = {0};

    for (uint32_t i = 0; i < table; i++) {
        here[i] = s->pages[i % 3];
        far[i] = f->pages[i % 3];
    }
    for (int i = 0; i < 3; i++)
        memset(s->pages[i], 0, s->kv.page_bytes);
    send_pages(f, 3);
    void *far_table = there(far, table * sizeof(*far)), *far_row = there(&row, sizeof(row));
    memcpy(q, s->q[0], qn * sizeof(*q));
    memcpy(k, s->k[0], kn * sizeof(*k));
    if (norm) {
        norm_rows(q, norm->q, count, h->q_heads, h->head_dim, norm);
        norm_rows(k, norm->k, count, h->kv_heads, h->head_dim, norm);
        dq = there(norm->q, (norm->width ? qw : h->head_dim) * sizeof(float));
        dk = there(norm->k, (norm->width ? kw : h->head_dim) * sizeof(float));
        norm_there = (struct qk_norm){dq, dk, norm->eps, norm->width, NULL, 0, 0};
    }
    ref_rope_kv(q, k, s->v[0], h->q_heads, &s->rope, &s->kv, LAYER, &row, 1, here);
    struct attn_step in = {far_row, far_table, 1, count, count};
    k_rope_kv(gpu, dqkv, h->q_heads, norm ? &norm_there : NULL, &s->rope, &f->kv, LAYER, &in);
    float *got = operands_here(dqkv, count * (qw + 2 * kw), 1);
    for (size_t r = 0; r < count; r++)
        assert_near(got + r * (qw + 2 * kw), q + r * qw, qw, 2e-6, "rotated q");
    free(got);
    for (size_t i = 0; i < 3; i++) {
        got = operands_here(f->pages[i], page, 0);
        assert_near(got, s->pages[i], page, 2e-6, "pages");
        free(got);
    }
    device_free(gpu, dqkv);
    device_free(gpu, dq);
    device_free(gpu, dk);
    device_free(gpu, far_table);
    device_free(gpu, far_row);
    free(here);
    free(far);
    free(q);
    free(k);
    free(qkv);
}

static void test_rope(void **state)
{
    static const uint32_t tokens[] = {35};
    static const float factors[] = {1, 2, 4, 8, 1, 2, 4, 8};
    uint64_t seed = 12;

    NEED_GPU(state);
    float *w = random_floats(4096, &seed);
    for (size_t i = 0; i < (small() ? 2 : SHAPES); i++) {
        struct far_scene f;
        struct scene *s = &f.here;
        far_open(&f, &shapes[i], tokens, 1, &seed);
        check_rope(&f, NULL);
        s->rope.interleaved = 0;
        check_rope(&f, NULL);
        check_rope(&f, &(struct qk_norm){.q = w, .k = w + 1, .eps = 1e-5f});
        check_rope(&f, &(struct qk_norm){.q = w, .k = w + 1, .eps = 1e-5f, .width = 1});
        /* A part of the head alone, with divided frequencies. */
        s->rope.dims = shapes[i].head_dim < 16 ? 4 : 16;
        s->rope.factors = factors;
        s->rope.scale = 1.25f;
        check_rope(&f, NULL);
        far_close(&f);
    }
    free(w);
}

/* Position 0 sees itself alone: its value comes back exactly, whatever the score. */
static void test_first_token(void **state)
{
    static const uint32_t tokens[] = {1};
    uint64_t seed = 13;
    struct far_scene f;
    struct scene *s = &f.here;

    NEED_GPU(state);
    far_open(&f, &shapes[0], tokens, 1, &seed);
    struct outputs o = outputs_open(s);
    run(&f, 0, 1, 1, o.rows);
    for (size_t h = 0; h < 9; h++)
        assert_same_bits(o.rows[0] + h * 64, s->v[0] + h / 3 * 64, 64, "value");
    s->k[0][5] = NAN;
    run(&f, 0, 1, 1, o.rows);
    assert_true(is_nan(o.rows[0][0]));
    assert_false(is_nan(o.rows[0][8 * 64]));
    outputs_close(&o);
    far_close(&f);
}

/* Scores that fall, or rise, by 100 every 16 positions: neither way may overflow or forget. */
static void test_stairs(void **state)
{
    static const uint32_t tokens[] = {200};
    uint64_t seed = 14;
    struct far_scene f;
    struct scene *s = &f.here;

    NEED_GPU(state);
    if (small())
        return;
    far_open(&f, &shapes[0], tokens, 1, &seed);
    s->rope.dims = 0;
    memset(s->k[0], 0, (size_t)tokens[0] * 3 * 64 * sizeof(float));
    for (size_t i = 0; i < (size_t)tokens[0] * 9 * 64; i++)
        s->q[0][i] = i % 64 == 7 ? 1 : 0;
    for (int falling = 0; falling < 2; falling++) {
        struct outputs want = outputs_open(s), got = outputs_open(s);
        for (uint32_t t = 0; t < tokens[0]; t++)
            for (size_t h = 0; h < 3; h++)
                s->k[0][(t * 3 + h) * 64 + 7] = from_bf16(
                    to_bf16(100 * (float)(falling ? 20 - t / 16 : t / 16) / s->attention.scale));
        run(&f, 1, 50, 1, want.rows);
        run(&f, 0, 50, 1, got.rows);
        assert_near(got.rows[0], want.rows[0], outputs_size(s, 0), 1e-5, "stairs");
        outputs_close(&want);
        outputs_close(&got);
    }
    far_close(&f);
}

/* ---- many sequences that decode ----------------------------------------------------------------
 */

struct crowd {
    struct shape shape;
    uint32_t seqs, pages_each;
    struct kv_layout kv, kv_there;
    struct attn_row *rows;
    void **here, **there;
    float *memory, *q;
    void *pool;
};

/* Each sequence's token `lengths[i]` sees as many before it; a length of 0: none of it is there. */
static void crowd_open(struct crowd *c, const struct shape *shape, const uint32_t *lengths,
                       uint32_t seqs, uint64_t seed)
{
    uint64_t layer = 2ull * shape->kv_heads * shape->page_tokens * shape->head_dim, page, total = 0;
    uint32_t longest = 0, rows = 0;

    memset(c, 0, sizeof(*c));
    c->shape = *shape;
    c->seqs = seqs;
    for (uint32_t i = 0; i < seqs; i++)
        longest = lengths[i] > longest ? lengths[i] : longest;
    c->pages_each = (longest + shape->page_tokens - 1) / shape->page_tokens;
    page = LAYERS * layer;
    total = (uint64_t)seqs * c->pages_each;
    c->kv = (struct kv_layout){LAYERS,
                               shape->kv_heads,
                               shape->head_dim,
                               shape->page_tokens,
                               layer * sizeof(float),
                               page * sizeof(float)};
    c->kv_there = c->kv;
    c->kv_there.layer_bytes = layer * device_operand_bytes(gpu);
    c->kv_there.page_bytes = page * device_operand_bytes(gpu);
    c->rows = allocate(seqs * sizeof(*c->rows));
    c->here = allocate(total * sizeof(void *));
    c->there = allocate(total * sizeof(void *));
    c->memory = allocate(total * page * sizeof(float));
    for (uint64_t i = 0; i < total * page; i++)
        c->memory[i] = NAN;
    for (uint32_t i = 0; i < seqs; i++) {
        uint64_t own = seed + 1000 * (uint64_t)lengths[i];
        c->rows[i] = (struct attn_row){rows, lengths[i] > 0, lengths[i] - 1, i * c->pages_each};
        rows += lengths[i] > 0;
        for (uint32_t t = 0; t < lengths[i]; t++)
            for (uint32_t h = 0; h < 2 * shape->kv_heads; h++) {
                float *to =
                    c->memory + (i * c->pages_each + t / shape->page_tokens) * page + layer +
                    ((uint64_t)h * shape->page_tokens + t % shape->page_tokens) * shape->head_dim;
                for (uint32_t d = 0; d < shape->head_dim; d++)
                    to[d] = from_bf16(to_bf16(random_float(&own)));
            }
    }
    c->pool = operands_there(c->memory, total * page);
    for (uint64_t i = 0; i < total; i++) {
        c->here[i] = c->memory + i * page;
        c->there[i] = (char *)c->pool + i * c->kv_there.page_bytes;
    }
    c->q = allocate(((size_t)rows + 1) * shape->q_heads * shape->head_dim * sizeof(float));
    for (uint32_t i = 0; i < seqs; i++) {
        uint64_t own = seed + 7 * (uint64_t)lengths[i];
        size_t width = (size_t)shape->q_heads * shape->head_dim;
        for (size_t j = 0; lengths[i] > 0 && j < width; j++)
            c->q[c->rows[i].first_row * width + j] = from_bf16(to_bf16(4 * random_float(&own)));
    }
}

static void crowd_close(struct crowd *c)
{
    free(c->rows);
    free(c->here);
    free(c->there);
    free(c->memory);
    free(c->q);
    device_free(gpu, c->pool);
}

static uint32_t crowd_rows(const struct crowd *c)
{
    uint32_t rows = 0;

    for (uint32_t i = 0; i < c->seqs; i++)
        rows += c->rows[i].count;
    return rows;
}

/* [rows][q_heads][head_dim] of the GPU; twice, with the same bits. */
static float *crowd_attend(struct device *d, const struct crowd *c, const struct attention *a)
{
    size_t qw = (size_t)c->shape.q_heads * c->shape.head_dim;
    size_t kw = (size_t)c->shape.kv_heads * c->shape.head_dim;
    uint32_t rows = crowd_rows(c);
    float *none = allocate(rows * kw * sizeof(float)), *got[2];
    void *out = operands_there(NULL, rows * qw), *seqs = there(c->rows, c->seqs * sizeof(*c->rows));
    void *table = there(c->there, (size_t)c->seqs * c->pages_each * sizeof(void *));

    for (size_t i = 0; i < rows * kw; i++)
        none[i] = NAN;
    float *qkv = fused(c->q, none, none, rows, qw, kw);
    void *dqkv = operands_there(qkv, rows * (qw + 2 * kw));
    struct attn_step in = {seqs, table, c->seqs, c->seqs, 1};
    for (int i = 0; i < 2; i++) {
        k_attention(d, out, dqkv, c->shape.q_heads, a, &c->kv_there, LAYER, &in);
        device_sync(d);
        got[i] = operands_here(out, rows * qw, 1);
    }
    assert_same_bits(got[1], got[0], rows * qw, "again");
    free(got[1]);
    free(none);
    free(qkv);
    device_free(gpu, out);
    device_free(gpu, seqs);
    device_free(gpu, table);
    device_free(gpu, dqkv);
    return got[0];
}

static void check_crowd(const struct crowd *c, const struct attention *a)
{
    size_t n = crowd_rows(c) * (size_t)c->shape.q_heads * c->shape.head_dim;
    float *got = crowd_attend(gpu, c, a), *want = allocate(n * sizeof(*want));

    ref_attention(want, c->q, c->shape.q_heads, a, &c->kv, LAYER, c->rows, c->seqs, c->here);
    assert_near(got, want, n, 1e-5, "decode");
    free(got);
    free(want);
}

static void test_decode(void **state)
{
    static const struct shape crowds[] = {
        {9, 3, 64, 16},  {8, 2, 128, 16},  {2, 2, 96, 32}, {4, 1, 256, 16},
        {20, 1, 64, 16}, {14, 2, 128, 64}, {6, 2, 80, 16}, {4, 2, 24, 16},
    };
    static const uint32_t batches[] = {1, 2, 5, 33, 256};
    uint64_t seed = 21;
    uint32_t lengths[256];

    NEED_GPU(state);
    for (size_t s = 0; s < sizeof(crowds) / sizeof(crowds[0]); s++) {
        for (size_t b = 0; b < sizeof(batches) / sizeof(batches[0]); b++) {
            uint32_t most = batches[b] > 33 ? 90 : batches[b] > 2 ? 400 : 1500;
            struct crowd c;
            if (small() && (b % 2 == 0 || s > 1))
                continue;
            for (uint32_t i = 0; i < batches[b]; i++)
                lengths[i] = random_bits(&seed) % (small() ? 100 : most) + 1;
            /* On the borders of pages and of splits, and the first; some have no token. */
            static const uint32_t borders[] = {64, 1, 0, 65, 128};
            for (uint32_t i = 0; i < 5 && i + 1 < batches[b]; i++)
                lengths[i] = borders[i];
            crowd_open(&c, &crowds[s], lengths, batches[b], seed);
            float scale = (float)(1 / sqrt(crowds[s].head_dim));
            check_crowd(&c, &(struct attention){scale, 0, 0});
            check_crowd(&c, &(struct attention){scale, 0, 40});
            check_crowd(&c, &(struct attention){scale, 10, 0});
            crowd_close(&c);
        }
    }
}

/* A sequence's bits follow from it alone, among as many others; and on a device that has little
 * memory for the splits. */
static void check_neighbours(uint32_t seqs)
{
    static const struct shape shape = {8, 2, 128, 16};
    uint32_t lengths[20] = {3000, 700, 1, 2900}, others[20] = {3000, 5, 2000, 1};
    const struct attention a = {0.1f, 0, 0};
    const size_t width = 8 * 128;
    struct crowd c, o;
    struct error err;

    for (uint32_t i = 4; i < seqs; i++) {
        lengths[i] = 10 + i;
        others[i] = 70 - i;
    }
    crowd_open(&c, &shape, lengths, seqs, 5);
    crowd_open(&o, &shape, others, seqs, 5);
    float *first = crowd_attend(gpu, &c, &a), *second = crowd_attend(gpu, &o, &a);
    assert_same_bits(second, first, width, "other neighbours");
    assert_same_bits(second + 3 * width, first + 2 * width, width, "other neighbours");
    check_crowd(&c, &a);
    struct device *poor =
        device_create_cuda(0, bf16() ? PRECISION_FAST : PRECISION_EXACT, seqs, 128, &err);
    assert_non_null(poor);
    if (gpu == alike)
        device_deterministic(poor);
    float *third = crowd_attend(poor, &c, &a);
    assert_same_bits(third, first, seqs * width, "little memory");
    assert_int_equal(device_check(poor, &err), 0);
    device_destroy(poor);
    free(first);
    free(second);
    free(third);
    crowd_close(&c);
    crowd_close(&o);
}

static void test_decode_neighbours(void **state)
{
    NEED_GPU(state);
    if (small())
        return;
    check_neighbours(4);
    check_neighbours(20); /* too many for clusters */
}

/* What an operation cannot do is an error that stays, and not a wrong result. */
static void test_refused_shape(void **state)
{
    struct error err;
    struct kv_layout kv = {1, 1, 300, 16, 38400, 38400};
    struct attention attention = {1, 0, 0};
    struct attn_step none = {NULL, NULL, 0, 0, 0};
    struct device *d;

    NEED_GPU(state);
    d = device_create_cuda(0, bf16() ? PRECISION_FAST : PRECISION_EXACT, 4, 1024, &err);
    assert_non_null(d);
    assert_int_equal(device_check(d, &err), 0);
    k_attention(d, NULL, NULL, 1, &attention, &kv, 0, &none);
    assert_int_equal(device_check(d, &err), -1);
    assert_int_equal(device_check(d, &err), -1);
    device_destroy(d);
}

static int use_exact(void **state)
{
    (void)state;
    gpu = exact;
    return 0;
}

static int use_fast(void **state)
{
    (void)state;
    gpu = fast;
    return 0;
}

static int use_alike(void **state)
{
    (void)state;
    gpu = alike;
    return 0;
}

#define WITH(use, f) cmocka_unit_test_setup(f, use)
#define TESTS(use)                                                                                 \
    WITH(use, test_attention), WITH(use, test_long_attention), WITH(use, test_rope),               \
        WITH(use, test_first_token), WITH(use, test_stairs), WITH(use, test_decode),               \
        WITH(use, test_decode_neighbours), WITH(use, test_refused_shape)

int main(void)
{
    const struct CMUnitTest tests[] = {TESTS(use_exact), TESTS(use_fast), TESTS(use_alike)};
    exact = device_create_cuda(0, PRECISION_EXACT, ROWS_MAX, COLS_MAX, &why);
    fast = device_create_cuda(0, PRECISION_FAST, ROWS_MAX, COLS_MAX, &why);
    alike = device_create_cuda(0, PRECISION_FAST, ROWS_MAX, COLS_MAX, &why);
    if (alike)
        device_deterministic(alike);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_destroy(exact);
    device_destroy(fast);
    device_destroy(alike);
    return failed;
}
