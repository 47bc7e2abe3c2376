/*
 * sampler_test.c - the sampler's order of filters, its support, its distribution and its numbers
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those four before it. */
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"

#define SMALL 8u
#define LARGE 5000u

static struct order_sampling plain(float temperature)
{
    return (struct order_sampling){
        .seed = 42, .temperature = temperature, .top_p = 1, .repetition_penalty = 1};
}

/* Biases are added before penalties, forbid and force; the logits themselves stay. */
static void test_biases(void **state)
{
    float logits[SMALL] = {0, 4, 3, 1, 2, -1, 0, 1};
    const float before[SMALL] = {0, 4, 3, 1, 2, -1, 0, 1};
    struct order_sampling o = plain(0);
    struct token_bias biases[] = {{1, -100}, {5, 100}, {SMALL, 100}};
    uint32_t tokens[] = {4};
    struct sampler_input in = {logits, SMALL, &o, 1, tokens, 1, 0, biases, 1};

    assert_int_equal(sampler_pick(*state, &in), 2);
    in.bias_count = 3; /* one is beyond the vocabulary */
    assert_int_equal(sampler_pick(*state, &in), 5);
    o.temperature = 1.5f;
    o.top_p = 0.9f;
    for (in.position = 0; in.position < 50; in.position++)
        assert_int_equal(sampler_pick(*state, &in), 5);
    /* 2 + 3 is divided to 2.5, below 3; divided first it would be 1 + 3. */
    biases[0] = (struct token_bias){4, 3};
    biases[1] = (struct token_bias){1, -100};
    o = plain(0);
    o.repetition_penalty = 2;
    assert_int_equal(sampler_pick(*state, &in), 2);
    o.repetition_penalty = 1.25f;
    assert_int_equal(sampler_pick(*state, &in), 4);
    assert_memory_equal(logits, before, sizeof(logits));
}

static int64_t pick(struct sampler *s, const float *logits, uint32_t n,
                    const struct order_sampling *o, uint32_t position)
{
    struct sampler_input in = {
        .logits = logits, .vocabulary = n, .sampling = o, .position = position};
    return sampler_pick(s, &in);
}

static int open_sampler(void **state)
{
    struct sampler *s = sampler_create(NULL);

    if (!s || sampler_fit(s, LARGE, NULL) != 0)
        return -1;
    *state = s;
    return 0;
}

static int close_sampler(void **state)
{
    sampler_destroy(*state);
    return 0;
}

/* ---- random numbers ------------------------------------------------------------------------ */

/* The known answers that come with Random123 (kat_vectors, philox4x32 10). */
static void test_philox(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    uint32_t out[4];

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        philox4x32(rows[i].counter, rows[i].key, out);
        assert_memory_equal(out, rows[i].want, sizeof(out));
    }
}

/* ---- greedy and refusals ------------------------------------------------------------------- */

static void test_greedy(void **state)
{
    float logits[SMALL] = {-3, 1, 5, 2, 5, -9, 5, 0};
    struct order_sampling o = plain(0);

    assert_int_equal(pick(*state, logits, SMALL, &o, 0), 2); /* the lowest of the tie */
    logits[6] = 5.1f;
    assert_int_equal(pick(*state, logits, SMALL, &o, 0), 6);
    o.top_k = 1;
    o.temperature = NAN;
    assert_int_equal(pick(*state, logits, SMALL, &o, 0), 6);
    assert_int_equal(pick(*state, logits, 1, &o, 0), 0);
}

/* Wherever the largest or what is no number lies, in vocabularies of any size. */
static void test_greedy_in_many(void **state)
{
    enum { N = 900 };
    float logits[N];
    struct order_sampling o = plain(0);

    for (uint32_t n = 1; n <= N; n = n < 40 ? n + 3 : n + 37) {
        for (uint32_t at = 0; at < n; at += 1 + n / 50) {
            for (uint32_t i = 0; i < n; i++)
                logits[i] = -(float)(i * 7919u % 613u) - 0.5f;
            logits[at] = -0.25f;
            assert_int_equal(pick(*state, logits, n, &o, 0), at);
            logits[n - 1] = -0.25f; /* a tie, perhaps with itself */
            assert_int_equal(pick(*state, logits, n, &o, 0), at);
            logits[at] = at % 3 == 0 ? NAN : at % 3 == 1 ? INFINITY : -INFINITY;
            assert_int_equal(pick(*state, logits, n, &o, 0), -1);
        }
    }
}

static void test_no_number_no_token(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float logits[SMALL] = {0};
    uint32_t tokens[] = {3};
    struct order_sampling greedy = plain(0), hot = plain(1), tiny = plain(0);
    struct sampler_input in = {logits, SMALL, &tiny, 1, tokens, 1, 0, NULL, 0};

    for (size_t i = 0; i < 3; i++) {
        logits[SMALL - 1] = bad[i];
        assert_int_equal(pick(*state, logits, SMALL, &greedy, 0), -1);
        assert_int_equal(pick(*state, logits, SMALL, &hot, 0), -1);
    }
    logits[SMALL - 1] = 0;
    assert_int_equal(pick(*state, logits, 0, &hot, 0), -1);
    assert_int_equal(pick(*state, logits, LARGE + 1, &hot, 0), -1);
    /* A penalty that overflows. */
    logits[3] = 1e30f;
    tiny.repetition_penalty = 1e-30f;
    assert_int_equal(sampler_pick(*state, &in), -1);
    tiny.repetition_penalty = 1;
    assert_int_equal(sampler_pick(*state, &in), 3);
}

/* ---- distribution -------------------------------------------------------------------------- */

#define DRAWS 20000u

/* Chi-square of DRAWS picks against probabilities; tokens of probability 0 must never come. Returns
 * the statistic; *freedom: tokens that may come, less one. */
static double chi_square(struct sampler *s, const float *logits, const double *p, uint32_t n,
                         const struct order_sampling *o, uint32_t *freedom)
{
    uint32_t counts[SMALL] = {0};
    double sum = 0;

    *freedom = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        int64_t t = pick(s, logits, n, o, i);
        assert_in_range(t, 0, n - 1);
        counts[t]++;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (p[i] > 0) {
            double want = p[i] * DRAWS;
            sum += (counts[i] - want) * (counts[i] - want) / want;
            ++*freedom;
        } else {
            assert_int_equal(counts[i], 0);
        }
    }
    --*freedom;
    return sum;
}

/* Normalized exp(logit / temperature) of the tokens whose bit is set in `kept`. */
static void softmax(double *p, const float *logits, double temperature, unsigned kept)
{
    double sum = 0;

    for (unsigned i = 0; i < SMALL; i++)
        sum += p[i] = kept >> i & 1 ? exp(logits[i] / temperature) : 0;
    for (unsigned i = 0; i < SMALL; i++)
        p[i] /= sum;
}

/* Probabilities at temperature 1, in per cent: 2.4 6.5 1.2 17.7 0.5 48.2 17.7 5.8 (3 and 6 tie). */
static const float mixed[SMALL] = {0, 1, -0.7f, 2, -1.6f, 3, 2, 0.88f};

static void test_distribution(void **state)
{
    /* 0.1 % points of chi-square for 1..7 degrees of freedom. */
    static const double limits[] = {0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32};
    static const struct {
        float temperature;
        uint32_t top_k;
        float top_p, min_p;
        unsigned kept; /* bit i: token i may come */
    } rows[] = {
        {1, 0, 1, 0, 0xff},
        {2.5f, 0, 1, 0, 0xff},
        {0.5f, 0, 1, 0, 0xff},
        {1, SMALL, 1, 0, 0xff},
        {1, 3, 1, 0, 1u << 5 | 1u << 3 | 1u << 6},
        {1, 2, 1, 0, 1u << 5 | 1u << 3}, /* the lower of the tie */
        {1, 0, 0.6f, 0, 1u << 5 | 1u << 3},
        {1, 0, 0.7f, 0, 1u << 5 | 1u << 3 | 1u << 6},
        {1, 0, 0.86f, 0, 1u << 5 | 1u << 3 | 1u << 6 | 1u << 1},
        {1, 0, 1, 0.3f, 1u << 5 | 1u << 3 | 1u << 6},
        {1, 0, 1, 0.1f, 1u << 5 | 1u << 3 | 1u << 6 | 1u << 1 | 1u << 7},
        {2.5f, 0, 1, 0.3f, 0xff & ~(1u << 2 | 1u << 4)}, /* after the temperature */
        /* top-p counts mass after top-k: of 48.2 + 17.7 + 17.7, the first is 58 % and two are 79 %.
         */
        {1, 3, 0.75f, 0, 1u << 5 | 1u << 3},
        {1, 0, 0.95f, 0.2f, 1u << 5 | 1u << 3 | 1u << 6},
    };
    double p[SMALL];
    uint32_t freedom;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct order_sampling o = plain(rows[i].temperature);
        o.seed = 1000 + i;
        o.top_k = rows[i].top_k;
        o.top_p = rows[i].top_p;
        o.min_p = rows[i].min_p;
        softmax(p, mixed, (double)rows[i].temperature, rows[i].kept);
        double got = chi_square(*state, mixed, p, SMALL, &o, &freedom);
        if (!(got < limits[freedom]))
            fail_msg("row %zu: chi-square %.2f with %u degrees of freedom", i, got, freedom);
    }
}

/* One token is left: the best, however small the share. */
static void test_filters_keep_the_best(void **state)
{
    struct order_sampling o[5];

    for (int i = 0; i < 5; i++)
        o[i] = plain(1);
    o[0].top_k = 1;
    o[1].top_p = 1e-6f;
    o[2].top_p = 0;
    o[3].min_p = 1;
    o[4].min_p = 7;
    for (int i = 0; i < 5; i++)
        for (uint32_t at = 0; at < 200; at++)
            assert_int_equal(pick(*state, mixed, SMALL, &o[i], at), 5);
    /* A temperature so low that all weights but one vanish. */
    o[0] = plain(1e-40f);
    for (uint32_t at = 0; at < 200; at++)
        assert_int_equal(pick(*state, mixed, SMALL, &o[0], at), 5);
}

/* ---- filters over many tokens, against a full sort ----------------------------------------- */

struct ranked {
    float value;
    uint32_t token;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->token < y->token ? -1 : 1;
}

/* The kept tokens by sorting: marks[token] = 1. */
static void sort_filter(const float *logits, const struct order_sampling *o, uint8_t *marks)
{
    static struct ranked r[LARGE];
    uint32_t kept = LARGE, n = 0;
    double total = 0, mass = 0;

    for (uint32_t i = 0; i < LARGE; i++)
        r[i] = (struct ranked){logits[i], i};
    qsort(r, LARGE, sizeof(r[0]), by_rank);
    if (o->top_k > 0 && o->top_k < LARGE)
        kept = o->top_k;
    for (uint32_t i = 0; i < kept; i++)
        total += exp((double)(r[i].value - r[0].value) / (double)o->temperature);
    memset(marks, 0, LARGE);
    for (n = 0; n < kept && (n == 0 || mass < (double)o->top_p * total); n++) {
        mass += exp((double)(r[n].value - r[0].value) / (double)o->temperature);
        marks[r[n].token] = 1;
    }
}

static void test_filters_of_many(void **state)
{
    static float logits[LARGE];
    static uint8_t marks[LARGE];
    static const struct {
        uint32_t top_k;
        float top_p, temperature;
        int ties;
    } rows[] = {
        {50, 1, 1, 0},      {4999, 1, 1, 0}, {0, 0.3f, 1, 0},    {0, 0.9f, 3, 0},
        {1000, 0.5f, 2, 0}, {37, 1, 1, 1},   {100, 0.73f, 1, 1},
    };

    for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
        struct order_sampling o = plain(rows[k].temperature);
        uint32_t x = 12345, distinct = 0;
        static uint8_t seen[LARGE];
        o.top_k = rows[k].top_k;
        o.top_p = rows[k].top_p;
        for (uint32_t i = 0; i < LARGE; i++) {
            x = x * 1664525 + 1013904223;
            logits[i] = rows[k].ties ? (float)(x >> 31) : (float)(x >> 8) * 0x1p-22f;
        }
        sort_filter(logits, &o, marks);
        memset(seen, 0, sizeof(seen));
        for (uint32_t at = 0; at < 4000; at++) {
            int64_t t = pick(*state, logits, LARGE, &o, at);
            assert_in_range(t, 0, LARGE - 1);
            assert_true(marks[t]);
            distinct += !seen[t];
            seen[t] = 1;
        }
        /* Not a few of them alone. */
        assert_true(distinct > 30);
    }
}

/* ---- penalties ----------------------------------------------------------------------------- */

static int64_t greedy_of(struct sampler *s, const float *logits, const struct order_sampling *o,
                         const uint32_t *tokens, uint32_t count, uint32_t prompt)
{
    struct sampler_input in = {logits, SMALL, o, count, tokens, count, prompt, NULL, 0};
    return sampler_pick(s, &in);
}

static void test_repetition(void **state)
{
    /* Penalty 2: 4 -> 2 where it occurred, -1 -> -2. */
    float up[SMALL] = {4, 3, 0, 0, 0, 0, 0, 0}, down[SMALL] = {-1, -1.5f, -9, -9, -9, -9, -9, -9};
    uint32_t tokens[] = {0, 0, 0, 4000000000u};
    struct order_sampling o = plain(0);

    o.repetition_penalty = 2;
    assert_int_equal(greedy_of(*state, up, &o, tokens, 4, 4), 1);
    assert_int_equal(greedy_of(*state, up, &o, tokens, 4, 0), 1);
    assert_int_equal(greedy_of(*state, up, &o, tokens, 0, 0), 0);
    assert_int_equal(greedy_of(*state, down, &o, tokens, 1, 1), 1);
    /* Once, however often the token occurred: 4 / 1.3 = 3.08. */
    o.repetition_penalty = 1.3f;
    assert_int_equal(greedy_of(*state, up, &o, tokens, 3, 1), 0);
    assert_true(up[0] == 4); /* the caller's logits are left alone */
}

static void test_frequency_and_presence(void **state)
{
    float logits[SMALL] = {4, 3, 0, 0, 0, 0, 0, 0};
    uint32_t tokens[] = {0, 0, 0};
    struct order_sampling o = plain(0);

    o.presence_penalty = 0.9f; /* once: 3.1 */
    assert_int_equal(greedy_of(*state, logits, &o, tokens, 3, 0), 0);
    o.presence_penalty = 1.1f;
    assert_int_equal(greedy_of(*state, logits, &o, tokens, 3, 0), 1);
    assert_int_equal(greedy_of(*state, logits, &o, tokens, 3, 3), 0); /* the prompt is free */
    assert_int_equal(greedy_of(*state, logits, &o, tokens, 3, 2), 1);
    o.presence_penalty = 0;
    o.frequency_penalty = 0.4f; /* per token: 3.2 of two, 2.8 of three */
    assert_int_equal(greedy_of(*state, logits, &o, tokens, 3, 1), 0);
    assert_int_equal(greedy_of(*state, logits, &o, tokens, 3, 0), 1);
    o.frequency_penalty = -0.4f;
    assert_int_equal(greedy_of(*state, logits, &o, tokens, 3, 0), 0);
}

/* Penalties come before the temperature and the filters. */
static void test_penalties_first(void **state)
{
    float logits[SMALL] = {4, 3, -9, -9, -9, -9, -9, -9};
    uint32_t tokens[] = {0};
    struct order_sampling o = plain(1);
    struct sampler_input in = {logits, SMALL, &o, 0, tokens, 1, 0, NULL, 0};

    o.presence_penalty = 2;
    o.top_k = 1;
    for (in.position = 0; in.position < 100; in.position++)
        assert_int_equal(sampler_pick(*state, &in), 1);
}

/* ---- determinism --------------------------------------------------------------------------- */

/* A function of (seed, position, logits): not of what was picked before, nor of the sampler. */
static void test_determinism(void **state)
{
    struct sampler *other = sampler_create(NULL);
    struct order_sampling o = plain(1), filtered = plain(1), seeded = plain(1);
    int64_t first[100];
    uint32_t moved = 0;

    assert_non_null(other);
    assert_int_equal(sampler_fit(other, 3, NULL), 0);
    assert_int_equal(sampler_fit(other, SMALL, NULL), 0);
    filtered.top_k = 4;
    seeded.seed = 43;
    for (uint32_t i = 0; i < 100; i++)
        first[i] = pick(*state, mixed, SMALL, &o, i);
    for (uint32_t i = 100; i-- > 0;) {
        pick(other, mixed, SMALL, &filtered, i + 7);
        assert_int_equal(pick(other, mixed, SMALL, &o, i), first[i]);
        moved += pick(other, mixed, SMALL, &seeded, i) != first[i];
    }
    assert_true(moved > 30);
    /* The upper half of the seed counts too. */
    seeded.seed = o.seed + (1ull << 32);
    moved = 0;
    for (uint32_t i = 0; i < 100; i++)
        moved += pick(other, mixed, SMALL, &seeded, i) != first[i];
    assert_true(moved > 30);
    sampler_destroy(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_greedy_in_many),
        cmocka_unit_test(test_biases),
        cmocka_unit_test(test_no_number_no_token),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_filters_keep_the_best),
        cmocka_unit_test(test_filters_of_many),
        cmocka_unit_test(test_repetition),
        cmocka_unit_test(test_frequency_and_presence),
        cmocka_unit_test(test_penalties_first),
        cmocka_unit_test(test_determinism),
    };
    return cmocka_run_group_tests(tests, open_sampler, close_sampler);
}
