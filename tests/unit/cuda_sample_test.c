/*
 * cuda_sample_test.c - tokens picked on a GPU, against engine/sampler.c's
 *
 * Greedy picks are always the same.  Others may differ where the rounding of a sum decides: they
 * are counted, and must be as rare as that.
 */
#include "engine/sampler.h"
#include "tests/unit/cuda_compare.h"

#define ROWS 48u

/* How logits are made. */
enum kind { NORMAL, STEPS, EQUAL, OUTLIER, MASKED, KINDS };
static const char *const kind_names[] = {"normal", "steps", "equal", "outlier", "masked"};

static struct {
    uint32_t picks, differ;
} seen;

static float normal(uint64_t *seed)
{
    float sum = 0;

    for (int i = 0; i < 12; i++)
        sum += random_float(seed);
    return sum / 2;
}

static float *make_logits(enum kind kind, float size, uint32_t rows, uint32_t n, uint64_t *seed)
{
    float *x = allocate((size_t)rows * n * sizeof(*x));

    for (size_t i = 0; i < (size_t)rows * n; i++) {
        x[i] = normal(seed) * size;
        if (kind == STEPS)
            x[i] = roundf(x[i] * 2) / 2;
        else if (kind == EQUAL)
            x[i] = size;
        else if (kind == OUTLIER && i % n == n / 3)
            x[i] = 8 * size;
        else if (kind == MASKED && random_bits(seed) % 8 != 0)
            x[i] = -1e30f;
    }
    return x;
}

static struct sample how(const struct order_sampling *o, uint32_t position)
{
    return (struct sample){o->seed, position, o->top_k, o->temperature, o->top_p, o->min_p};
}

/* The GPU's picks from rows of logits, all by o, at positions from `position` on. */
static void pick_there(uint32_t *tokens, const float *logits, uint32_t rows, uint32_t n,
                       const struct order_sampling *o, uint32_t position)
{
    struct sample by[ROWS];

    assert_true(rows <= ROWS);
    for (uint32_t i = 0; i < rows; i++)
        by[i] = how(o, position + i);
    void *dl = there(logits, (size_t)rows * n * sizeof(*logits));
    void *db = there(by, rows * sizeof(*by)), *dt = there(NULL, (rows + 1) * sizeof(*tokens));
    uint32_t *got = NULL;
    k_sample(gpu, dt, dl, db, rows, n);
    got = fetched(dt, (rows + 1) * sizeof(*tokens));
    assert_int_equal(got[rows], UINT32_MAX); /* nothing past the end */
    memcpy(tokens, got, rows * sizeof(*tokens));
    /* The same again: sums have no order of their own. */
    k_sample(gpu, dt, dl, db, rows, n);
    uint32_t *again = fetched(dt, rows * sizeof(*tokens));
    assert_memory_equal(again, tokens, rows * sizeof(*tokens));
    free(got);
    free(again);
    device_free(gpu, dl);
    device_free(gpu, db);
    device_free(gpu, dt);
}

static uint32_t pick_here(struct sampler *s, const float *logits, uint32_t n,
                          const struct order_sampling *o, uint32_t position)
{
    struct sampler_input in = {
        .logits = logits, .vocabulary = n, .sampling = o, .position = position};
    int64_t token = sampler_pick(s, &in);

    return token < 0 ? SAMPLE_NONE : (uint32_t)token;
}

static void compare(const float *logits, uint32_t rows, uint32_t n, struct order_sampling o,
                    uint32_t position, const char *what)
{
    struct sampler *s = sampler_create(NULL);
    uint32_t tokens[ROWS];

    assert_non_null(s);
    assert_int_equal(sampler_fit(s, n, NULL), 0);
    o.repetition_penalty = 1;
    pick_there(tokens, logits, rows, n, &o, position);
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t want = pick_here(s, logits + (size_t)i * n, n, &o, position + i);
        seen.picks++;
        if (tokens[i] == want)
            continue;
        seen.differ++;
        print_message("%s of %u: temperature %g top_k %u top_p %g min_p %g row %u: %u, not %u\n",
                      what, n, (double)o.temperature, o.top_k, (double)o.top_p, (double)o.min_p, i,
                      tokens[i], want);
        if (!(o.temperature > 0))
            fail_msg("a greedy pick differs");
        assert_true(tokens[i] < n);
    }
    sampler_destroy(s);
}

static const struct order_sampling samplings[] = {
    {.temperature = 0, .top_p = 1},
    {.temperature = 1, .top_p = 1},
    {.temperature = 0.7f, .top_p = 1, .top_k = 1},
    {.temperature = 0.7f, .top_p = 1, .top_k = 40},
    {.temperature = 2, .top_p = 1, .top_k = 3500},
    {.temperature = 1, .top_p = 0.95f},
    {.temperature = 0.6f, .top_p = 0.5f},
    {.temperature = 5, .top_p = 0.999f},
    {.temperature = 1, .top_p = 0},
    {.temperature = 1, .top_p = 1, .min_p = 0.05f},
    {.temperature = 0.8f, .top_p = 0.9f, .top_k = 50, .min_p = 0.01f},
    {.temperature = 1.5f, .top_p = 0.8f, .top_k = 20000},
    {.temperature = 1e-30f, .top_p = 0.9f},
    {.temperature = 1e30f, .top_p = 0.5f, .top_k = 100},
};
#define SAMPLINGS (sizeof(samplings) / sizeof(samplings[0]))

static void test_picks(void **state)
{
    static const uint32_t sizes[] = {1, 2, 7, 1000, 50257, 128256, 262144};
    static const float widths[] = {0.02f, 1, 4};
    uint64_t seed = 31;

    NEED_GPU(state);
    memset(&seen, 0, sizeof(seen));
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint32_t n = sizes[i], rows = n > 10000 || small() ? 4 : ROWS;
        if (small() && n != 1000)
            continue;
        for (enum kind kind = 0; kind < KINDS; kind++) {
            for (size_t w = small() ? 2 : 0; w < 3; w++) {
                float *logits = make_logits(kind, widths[w], rows, n, &seed);
                for (size_t k = 0; k < SAMPLINGS; k++) {
                    struct order_sampling o = samplings[k];
                    o.seed = seed;
                    compare(logits, rows, n, o, (uint32_t)k * 1000, kind_names[kind]);
                }
                free(logits);
            }
        }
    }
    print_message("%u picks, %u differ\n", seen.picks, seen.differ);
    assert_true(seen.differ * 500 <= seen.picks);
}

/* One row of few tokens at many positions: the whole distribution, and what a filter leaves. */
static void test_support(void **state)
{
    static const float logits[] = {1, 3, 3, 0.5f, 3, 2, -4, 2.5f, 3, -0.0f, 0.0f, 1};
    const uint32_t n = sizeof(logits) / sizeof(logits[0]);
    float rows[ROWS * sizeof(logits) / sizeof(logits[0])];

    NEED_GPU(state);
    memset(&seen, 0, sizeof(seen));
    for (uint32_t i = 0; i < ROWS; i++)
        memcpy(rows + i * n, logits, sizeof(logits));
    for (uint32_t k = 0; k <= n; k += small() ? 4 : 1)
        for (uint32_t position = 0; position < (small() ? 1 : 4) * ROWS; position += ROWS)
            for (uint32_t p = 0; p < 2; p++) {
                struct order_sampling o = {
                    .seed = 5, .temperature = 1, .top_p = p ? 0.7f : 1, .top_k = k};
                compare(rows, small() ? 4 : ROWS, n, o, position, "few");
            }
    print_message("%u picks, %u differ\n", seen.picks, seen.differ);
    assert_int_equal(seen.differ, 0);
}

static void test_no_number(void **state)
{
    static const float wrong[] = {NAN, INFINITY, -INFINITY};
    const uint32_t n = 5000;
    uint64_t seed = 33;
    uint32_t tokens[3];

    NEED_GPU(state);
    for (size_t k = 0; k < SAMPLINGS; k++) {
        for (uint32_t i = small() ? (uint32_t)k % 3 : 0; i < 3; i += small() ? 3 : 1) {
            float *logits = make_logits(NORMAL, 1, 3, n, &seed);
            /* The middle row alone. */
            logits[n + random_bits(&seed) % n] = wrong[i];
            pick_there(tokens, logits, 3, n, &samplings[k], 7);
            assert_true(tokens[0] < n);
            assert_int_equal(tokens[1], SAMPLE_NONE);
            assert_true(tokens[2] < n);
            free(logits);
        }
    }
}

/* Rows are sampled each in its own way. */
static void test_mixed_rows(void **state)
{
    const uint32_t n = 3000, rows = SAMPLINGS;
    uint64_t seed = 34;
    struct sample by[SAMPLINGS];

    NEED_GPU(state);
    float *logits = make_logits(NORMAL, 2, rows, n, &seed);
    struct sampler *s = sampler_create(NULL);
    assert_int_equal(sampler_fit(s, n, NULL), 0);
    for (uint32_t i = 0; i < rows; i++)
        by[i] = how(&samplings[i], 100 - i);
    void *dl = there(logits, (size_t)rows * n * sizeof(*logits)), *db = there(by, sizeof(by));
    void *dt = there(NULL, rows * sizeof(uint32_t));
    k_sample(gpu, dt, dl, db, rows, n);
    uint32_t *got = fetched(dt, rows * sizeof(*got));
    for (uint32_t i = 0; i < rows; i++) {
        struct order_sampling o = samplings[i];
        o.repetition_penalty = 1;
        assert_int_equal(got[i], pick_here(s, logits + (size_t)i * n, n, &o, 100 - i));
    }
    sampler_destroy(s);
    free(logits);
    free(got);
    device_free(gpu, dl);
    device_free(gpu, db);
    device_free(gpu, dt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_picks),
        cmocka_unit_test(test_support),
        cmocka_unit_test(test_no_number),
        cmocka_unit_test(test_mixed_rows),
    };
    gpu = device_create_cuda(0, PRECISION_EXACT, ROWS_MAX, COLS_MAX, &why);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (gpu)
        device_destroy(gpu);
    return failed;
}
