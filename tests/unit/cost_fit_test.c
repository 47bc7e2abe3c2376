/* cost_fit_test.c - coefficients are found in noise, follow changes, and never run away */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "daemon/cost_fit.h"

static const double guess[COST_TERMS] = {0.05, 1e-5, 0.02};
static const double least[COST_TERMS] = {1e-6, 1e-9, 1e-6};

static uint64_t state_of_random = 7;

/* splitmix64 (Steele, Lea, Flood 2014), to [0, 1). */
static double uniform(void)
{
    uint64_t z = state_of_random += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

static double truth(double factor, double context, double rows)
{
    return factor * (0.01 + 1e-6 * context + 0.0005 * rows);
}

/* Steps of 1 to 16 rows with 100 to 1,000 tokens each; 5 % noise, and 2 % of them are 10 times as
 * long. */
static void measure(struct cost_fit *f, int count, double factor)
{
    for (int i = 0; i < count; i++) {
        double rows = 1 + floor(uniform() * 16), context = rows * (100 + 900 * uniform());
        double terms[COST_TERMS] = {1, context, rows};
        double noise = 0.95 + 0.1 * uniform();

        if (uniform() < 0.02)
            noise *= 10;
        cost_fit_learn(f, terms, truth(factor, context, rows) * noise);
    }
}

static void expect_near(const struct cost_fit *f, double factor, double tolerance)
{
    for (double rows = 1; rows <= 16; rows += 5) {
        for (double each = 100; each <= 1000; each += 300) {
            const double terms[COST_TERMS] = {1, rows * each, rows};
            double want = truth(factor, rows * each, rows);
            double got = cost_fit_predict(f, terms);

            if (!(fabs(got - want) <= tolerance * want))
                fail_msg("%g rows of %g tokens: %g, not %g", rows, each, got, want);
        }
    }
}

static void coefficients_are_found_in_noise(void **state)
{
    struct cost_fit f;

    (void)state;
    cost_fit_begin(&f, guess, least, 0);
    measure(&f, 400, 1);
    expect_near(&f, 1, 0.3);
    measure(&f, 1000, 1);
    expect_near(&f, 1, 0.1);
    assert_true(f.error < 0.2);
    assert_int_equal(f.samples, 1400);
    assert_true(fabs(cost_fit_coefficient(&f, 2) - 0.0005) < 0.0002);
}

static void a_change_is_followed(void **state)
{
    struct cost_fit f;

    (void)state;
    cost_fit_begin(&f, guess, least, 0);
    measure(&f, 1000, 1);
    measure(&f, 3000, 3);
    expect_near(&f, 3, 0.1);
    measure(&f, 3000, 0.5);
    expect_near(&f, 0.5, 0.1);
}

/* The same step over and over tells no terms apart: they stay as they are. */
static void what_is_not_told_stays(void **state)
{
    static const double terms[COST_TERMS] = {1, 300, 1};
    struct cost_fit f, before;

    (void)state;
    cost_fit_begin(&f, guess, least, 0);
    measure(&f, 1000, 1);
    before = f;
    for (int i = 0; i < 100000; i++)
        cost_fit_learn(&f, terms, truth(1, 300, 1) * (0.9 + 0.2 * uniform()));
    expect_near(&f, 1, 0.3);
    assert_true(fabs(f.value[2] - before.value[2]) < 0.5 * before.value[2]);
}

/* All of it is wrong by one factor: a few steps of one row tell that of many rows. */
static void a_guess_is_wrong_as_a_whole(void **state)
{
    static const double one[COST_TERMS] = {1, 100, 1}, many[COST_TERMS] = {1, 1600, 16};

    (void)state;
    for (double factor = 0.01; factor < 20; factor *= 10) {
        struct cost_fit f;

        cost_fit_begin(&f, guess, least, 0);
        for (int i = 0; i < 30; i++)
            cost_fit_learn(&f, one, factor * 0.071);
        assert_true(fabs(cost_fit_predict(&f, one) / (factor * 0.071) - 1) < 0.05);
        assert_true(cost_fit_predict(&f, many) / (factor * 0.386) > 0.4);
        assert_true(cost_fit_predict(&f, many) / (factor * 0.386) < 2.5);
    }
}

static void nonsense_is_no_measurement(void **state)
{
    static const double terms[COST_TERMS] = {1, 300, 1};
    struct cost_fit f;

    (void)state;
    cost_fit_begin(&f, guess, least, 0);
    cost_fit_learn(&f, terms, NAN);
    cost_fit_learn(&f, terms, 0);
    cost_fit_learn(&f, terms, -1);
    cost_fit_learn(&f, terms, INFINITY);
    assert_int_equal(f.samples, 0);
    for (int i = 0; i < 100; i++)
        cost_fit_learn(&f, terms, 1e-9);
    for (int i = 0; i < COST_TERMS; i++)
        assert_true(f.value[i] >= 0 && isfinite(f.value[i]));
}

/* A few measurements made on purpose say all that they can; nothing falls below zero. */
static void points_are_fitted_at_once(void **state)
{
    static const double shapes[][2] = {{1, 20}, {1, 260}, {4, 80}, {16, 320}, {4, 520}};
    const uint32_t n = sizeof shapes / sizeof shapes[0];
    struct cost_point points[sizeof shapes / sizeof shapes[0]];
    struct cost_fit f;

    (void)state;
    for (double factor = 0.01; factor < 20; factor *= 10) {
        cost_fit_begin(&f, guess, least, 0);
        for (uint32_t i = 0; i < n; i++)
            points[i] = (struct cost_point){{1, shapes[i][1], shapes[i][0]},
                                            truth(factor, shapes[i][1], shapes[i][0])};
        cost_fit_points(&f, points, n, 8);
        expect_near(&f, factor, 0.02);
        assert_true(f.error < 0.01);
        assert_int_equal(f.samples, 8 * n);
        measure(&f, 200, factor * 1.3); /* and go on from there */
        expect_near(&f, factor * 1.3, 0.1);
    }
    for (uint32_t i = 0; i < n; i++) /* rows that make a step cheaper are noise */
        points[i].seconds = 0.01 - 1e-4 * points[i].terms[2];
    cost_fit_begin(&f, guess, least, 0);
    cost_fit_points(&f, points, n, 8);
    for (int i = 0; i < COST_TERMS; i++)
        assert_true(f.value[i] >= 0 && isfinite(f.value[i]));
}

/* One size alone tells no parts apart: they keep their proportions. */
static void one_point_scales_all(void **state)
{
    const struct cost_point point = {{1, 100, 1}, 0.142};
    struct cost_fit f;

    (void)state;
    cost_fit_begin(&f, guess, least, 0);
    cost_fit_points(&f, &point, 1, 8);
    for (int i = 0; i < COST_TERMS; i++)
        assert_true(fabs(cost_fit_coefficient(&f, i) / (2 * guess[i]) - 1) < 0.02);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coefficients_are_found_in_noise),
        cmocka_unit_test(a_change_is_followed),
        cmocka_unit_test(what_is_not_told_stays),
        cmocka_unit_test(a_guess_is_wrong_as_a_whole),
        cmocka_unit_test(nonsense_is_no_measurement),
        cmocka_unit_test(points_are_fitted_at_once),
        cmocka_unit_test(one_point_scales_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
