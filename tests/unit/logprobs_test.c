/* logprobs_test.c - log probabilities against sums in long double, in descending order */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those four before it. */
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/logprobs.h"

#define LARGE 50000u

static float *logits;

static int close_to(double got, long double want)
{
    return fabsl((long double)got - want) <= 1e-12L * (1 + fabsl(want));
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

/* Small terms first, in long double: another order and another precision than what is tested. */
static long double reference(uint32_t n, float logit)
{
    float *sorted = malloc(n * sizeof(*sorted));
    long double sum = 0;

    assert_non_null(sorted);
    memcpy(sorted, logits, n * sizeof(*sorted));
    qsort(sorted, n, sizeof(*sorted), descending);
    for (uint32_t i = n; i-- > 0;)
        sum += expl((long double)sorted[i] - (long double)sorted[0]);
    long double all = logl(sum) + (long double)sorted[0];
    free(sorted);
    return (long double)logit - all;
}

static void fill(uint32_t n, float spread, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        logits[i] = spread * (float)(int32_t)(seed >> 32) * 0x1p-31f;
    }
}

static void check(uint32_t n, uint32_t token, uint32_t top)
{
    struct event_logprobs e;

    memset(&e, 0xff, sizeof(e));
    logprobs_fill(&e, logits, n, token, top);
    assert_int_equal(e.picked.token, token);
    assert_true(close_to(e.picked.logprob, reference(n, logits[token])));
    assert_int_equal(e.count, top < n ? top : n);
    for (uint32_t i = 0; i < e.count; i++) {
        assert_true(e.top[i].token < n);
        assert_true(close_to(e.top[i].logprob, reference(n, logits[e.top[i].token])));
        uint32_t better = 0; /* tokens that go before this one */
        for (uint32_t t = 0; t < n; t++)
            better += logits[t] > logits[e.top[i].token] ||
                      (!(logits[t] < logits[e.top[i].token]) && t < e.top[i].token);
        assert_int_equal(better, i);
    }
}

static void test_reference(void **state)
{
    static const uint32_t sizes[] = {1, 2, 7, 20, 21, 1000, LARGE};
    static const float spreads[] = {1e-3f, 1, 30, 1e4f};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (size_t j = 0; j < sizeof(spreads) / sizeof(spreads[0]); j++) {
            fill(sizes[i], spreads[j], i * 10 + j);
            check(sizes[i], sizes[i] / 2, 3);
            check(sizes[i], sizes[i] - 1, sizes[i] < LARGE ? ORDER_TOP_MAX : 5);
        }
}

/* All the same, and pairs: the lower token goes first. */
static void test_ties(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        logits[i] = -3;
    check(100, 99, ORDER_TOP_MAX);
    for (uint32_t i = 0; i < 100; i++)
        logits[i] = (float)(i % 50 / 2);
    check(100, 0, ORDER_TOP_MAX);
    check(100, 0, 0);
}

/* As far apart as floats are: nothing is infinite, and a certain token has probability 1. */
static void test_extremes(void **state)
{
    struct event_logprobs e = {0};

    (void)state;
    fill(10, 1, 3);
    logits[4] = FLT_MAX;
    logits[7] = -FLT_MAX;
    logprobs_fill(&e, logits, 10, 7, 2);
    assert_true(e.picked.logprob < -6e38 && isfinite(e.picked.logprob));
    assert_int_equal(e.top[0].token, 4);
    assert_true(fabs(e.top[0].logprob) <= 0);
    /* Far from the largest, digits stay: 1 - p of a near certain token. */
    logits[4] = 60;
    logits[7] = 0;
    logprobs_fill(&e, logits, 10, 4, 0);
    assert_true(e.picked.logprob < 0 && e.picked.logprob > -1e-24);
}

/* All probabilities together are 1, and a constant changes none. */
static void test_whole(void **state)
{
    struct event_logprobs e = {0};
    double sum = 0, one;

    (void)state;
    fill(1000, 8, 5);
    for (uint32_t i = 0; i < 1000; i++) {
        logits[i] = rintf(logits[i] * 64) / 64; /* exact with 256 added */
        logits[i] = logits[i] < 7 ? logits[i] : 7;
    }
    for (uint32_t i = 0; i < 1000; i++) {
        logprobs_fill(&e, logits, 1000, i, 0);
        sum += exp(e.picked.logprob);
    }
    assert_true(fabs(sum - 1) <= 1e-12);
    one = e.picked.logprob;
    for (uint32_t i = 0; i < 1000; i++)
        logits[i] += 256;
    logprobs_fill(&e, logits, 1000, 999, 0);
    assert_true(fabs(e.picked.logprob - one) <= 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_whole),
    };

    logits = malloc(LARGE * sizeof(*logits));
    int failed = logits ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
    free(logits);
    return failed;
}
