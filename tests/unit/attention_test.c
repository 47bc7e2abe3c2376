/*
 * attention_test.c - rotary embedding, the paged cache and attention against the reference
 *
 * A step holds several sequences whose pages are scattered; a token's result must be the same bits
 * however the prompt was cut into chunks, whoever else is in the step, and with any threads.
 */
#include "tests/unit/attention_scene.h"
#include "tests/unit/kernels_compare.h"

static const struct shape shapes[] = {
    {9, 3, 64, 16}, {4, 4, 96, 32}, {8, 2, 128, 128}, {2, 1, 20, 16}, {40, 2, 8, 64},
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

/* The step by a device. */
static void step_of(void *device, struct scene *s, const struct scene_step *step)
{
    size_t qw = (size_t)s->shape.q_heads * s->shape.head_dim;
    size_t kw = (size_t)s->shape.kv_heads * s->shape.head_dim;
    float *qkv = fused(step->q, step->k, step->v, step->total, qw, kw);
    const struct attn_step in = {.seqs = step->rows,
                                 .pages = s->pages,
                                 .seq_count = step->count,
                                 .rows = step->total,
                                 .longest = step->total};

    k_rope_kv(device, qkv, s->shape.q_heads, NULL, &s->rope, &s->kv, LAYER, &in);
    k_attention(device, step->o, qkv, s->shape.q_heads, &s->attention, &s->kv, LAYER, &in);
    device_sync(device);
    free(qkv);
}

/* d NULL: the reference. */
static void run(struct scene *s, struct device *d, uint32_t chunk, int together, float *const *out)
{
    scene_run(s, d ? step_of : scene_reference, d, chunk, together, out);
}

static void check_chunks(struct scene *s, struct device *d, struct device *other)
{
    static const uint32_t chunks[] = {1, 7, 16, 33, 64};
    struct outputs want = outputs_open(s), all = outputs_open(s), got = outputs_open(s);

    run(s, NULL, ALL, 1, want.rows);
    run(s, d, ALL, 1, all.rows);
    for (uint32_t i = 0; i < s->seqs; i++)
        assert_close(all.rows[i], want.rows[i], outputs_size(s, i), 1e-5, "attention");
    for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
        run(s, d, chunks[c], c % 2 == 0, got.rows);
        for (uint32_t i = 0; i < s->seqs; i++)
            assert_same_bits(got.rows[i], all.rows[i], outputs_size(s, i), "chunks");
    }
    run(s, other, 5, 1, got.rows);
    for (uint32_t i = 0; i < s->seqs; i++)
        assert_same_bits(got.rows[i], all.rows[i], outputs_size(s, i), "other threads");
    outputs_close(&want);
    outputs_close(&all);
    outputs_close(&got);
}

static void test_attention(void **state)
{
    /* At, before and after the borders of pages and of blocks; a lone token. */
    static const uint32_t tokens[] = {130, 64, 17, 1};
    uint64_t seed = 11;

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        /* AVX-512 has AVX2's bits. */
        struct device *one = open_device(isa_names[n < 2 ? n : 1], 1, 1024);
        struct device *three = open_device(isa_names[n], 3, 1024);
        for (size_t i = 0; one && three && i < SHAPES; i++) {
            struct scene s;
            scene_open(&s, &shapes[i], tokens, 4, NULL, &seed);
            check_chunks(&s, three, one);
            /* Windows within, at and beyond blocks and pages; of one token; longer than all. */
            static const uint32_t windows[] = {1, 5, 16, 33, 64, 1000};
            for (size_t w = 0; i < 3 && w < sizeof(windows) / sizeof(windows[0]); w++) {
                s.attention.window = windows[w];
                s.attention.softcap = w % 2 ? 5 : 0;
                check_chunks(&s, three, one);
            }
            scene_close(&s);
        }
        device_destroy(one);
        device_destroy(three);
    }
}

/* q and the pages after a step, of the device and of the reference; norm may be NULL. */
static void check_rope(struct device *d, struct scene *s, const struct qk_norm *norm)
{
    const struct shape *h = &s->shape;
    uint32_t count = s->tokens[0], pos = 30000;
    struct attn_row row = {0, count, pos, 0};
    size_t qn = (size_t)count * h->q_heads * h->head_dim;
    size_t kn = (size_t)count * h->kv_heads * h->head_dim;
    uint32_t table = (pos + count) / h->page_tokens + 1;
    void **pages = allocate(table * sizeof(*pages));
    float *q = allocate(qn * sizeof(*q)), *k = allocate(kn * sizeof(*k));
    size_t page = s->kv.page_bytes / sizeof(float);
    float *want = allocate(3 * s->kv.page_bytes);

    for (uint32_t i = 0; i < table; i++)
        pages[i] = s->pages[i % 3];
    for (int i = 0; i < 3; i++)
        memset(s->pages[i], 0, s->kv.page_bytes);
    memcpy(q, s->q[0], qn * sizeof(*q));
    memcpy(k, s->k[0], kn * sizeof(*k));
    if (norm) {
        norm_rows(q, norm->q, count, h->q_heads, h->head_dim, norm);
        norm_rows(k, norm->k, count, h->kv_heads, h->head_dim, norm);
    }
    ref_rope_kv(q, k, s->v[0], h->q_heads, &s->rope, &s->kv, LAYER, &row, 1, pages);
    for (size_t i = 0; i < 3; i++) {
        memcpy(want + i * page, s->pages[i], s->kv.page_bytes);
        memset(s->pages[i], 0, s->kv.page_bytes);
    }
    size_t qw = (size_t)h->q_heads * h->head_dim, kw = (size_t)h->kv_heads * h->head_dim;
    float *qkv = fused(s->q[0], s->k[0], s->v[0], count, qw, kw);
    const struct attn_step in = {
        .seqs = &row, .pages = pages, .seq_count = 1, .rows = count, .longest = count};
    k_rope_kv(d, qkv, h->q_heads, norm, &s->rope, &s->kv, LAYER, &in);
    for (size_t r = 0; r < count; r++)
        assert_close(qkv + r * (qw + 2 * kw), q + r * qw, qw, 2e-6, "rotated q");
    for (size_t i = 0; i < 3; i++)
        assert_close(s->pages[i], want + i * page, page, 2e-6, "pages");
    free(pages);
    free(q);
    free(k);
    free(qkv);
    free(want);
}

static void test_rope(void **state)
{
    static const uint32_t tokens[] = {35};
    static const float factors[] = {1, 2, 4, 8, 1, 2, 4, 8};
    uint64_t seed = 12;
    float *w = random_floats(4096, &seed);

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 2, 1024);
        for (size_t i = 0; d && i < SHAPES; i++) {
            struct scene s;
            scene_open(&s, &shapes[i], tokens, 1, NULL, &seed);
            check_rope(d, &s, NULL);
            s.rope.interleaved = 0;
            check_rope(d, &s, NULL);
            check_rope(d, &s, &(struct qk_norm){.q = w, .k = w + 1, .eps = 1e-5f});
            check_rope(d, &s, &(struct qk_norm){.q = w, .k = w + 1, .eps = 1e-5f, .width = 1});
            /* A part of the head alone, with divided frequencies. */
            s.rope.dims = shapes[i].head_dim < 16 ? 4 : 16;
            s.rope.factors = factors;
            s.rope.scale = 1.25f;
            check_rope(d, &s, NULL);
            scene_close(&s);
        }
        device_destroy(d);
    }
    free(w);
}

/* Position 0 sees itself alone: its value comes back exactly, whatever the score. */
static void test_first_token(void **state)
{
    static const uint32_t tokens[] = {1};
    uint64_t seed = 13;

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 1, 1024);
        struct scene s;
        if (!d)
            continue;
        scene_open(&s, &shapes[0], tokens, 1, NULL, &seed);
        struct outputs o = outputs_open(&s);
        run(&s, d, 1, 1, o.rows);
        for (size_t h = 0; h < 9; h++)
            assert_same_bits(o.rows[0] + h * 64, s.v[0] + h / 3 * 64, 64, "value");
        s.k[0][5] = NAN;
        run(&s, d, 1, 1, o.rows);
        assert_true(is_nan(o.rows[0][0]));
        assert_false(is_nan(o.rows[0][8 * 64]));
        outputs_close(&o);
        scene_close(&s);
        device_destroy(d);
    }
}

/* A score that is 150 above all others takes everything, in whichever block it lies: e^-150 is 0.
 */
static void check_peak(struct device *d, struct scene *s, uint32_t peak)
{
    struct outputs o = outputs_open(s);
    uint32_t tokens = s->tokens[0];

    memset(s->k[0], 0, (size_t)tokens * 3 * 64 * sizeof(float));
    for (size_t i = 0; i < (size_t)tokens * 9 * 64; i++)
        s->q[0][i] = i % 64 == 7 ? 1 : 0;
    for (size_t h = 0; h < 3; h++)
        s->k[0][(peak * 3 + h) * 64 + 7] = 150 / s->attention.scale;
    run(s, d, 50, 1, o.rows);
    for (size_t t = peak; t < tokens; t++)
        for (size_t h = 0; h < 9; h++)
            assert_close(o.rows[0] + (t * 9 + h) * 64, s->v[0] + (peak * 3 + h / 3) * 64, 64, 1e-6,
                         "peak");
    outputs_close(&o);
}

/* Scores that fall, or rise, by 100 a block: neither way may overflow or forget. */
static void check_stairs(struct device *d, struct scene *s, int falling)
{
    struct outputs want = outputs_open(s), got = outputs_open(s);

    for (uint32_t t = 0; t < s->tokens[0]; t++) {
        float score = 100 * (float)(falling ? 10 - t / 16 : t / 16);
        for (size_t h = 0; h < 3; h++)
            s->k[0][(t * 3 + h) * 64 + 7] = score / s->attention.scale;
    }
    run(s, NULL, 50, 1, want.rows);
    run(s, d, 50, 1, got.rows);
    assert_close(got.rows[0], want.rows[0], outputs_size(s, 0), 1e-5, "stairs");
    outputs_close(&want);
    outputs_close(&got);
}

static void test_peaks(void **state)
{
    static const uint32_t tokens[] = {200};
    uint64_t seed = 14;

    (void)state;
    for (size_t n = 0; n < ISA_COUNT; n++) {
        struct device *d = open_device(isa_names[n], 2, 1024);
        struct scene s;
        if (!d)
            continue;
        scene_open(&s, &shapes[0], tokens, 1, NULL, &seed);
        s.rope.dims = 0;
        check_peak(d, &s, 3);
        check_peak(d, &s, 15);
        check_peak(d, &s, 16);
        check_peak(d, &s, 190);
        check_stairs(d, &s, 1);
        check_stairs(d, &s, 0);
        scene_close(&s);
        device_destroy(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_first_token),
        cmocka_unit_test(test_peaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
