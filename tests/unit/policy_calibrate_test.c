/* policy_calibrate_test.c - costs that are measured off traffic: what is found, what it takes */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "tests/unit/policy_bench.h"

/* ns: a step 2 ms, 1 us a token of context, 0.2 ms a row; a prompt 1 ms, and 10 us a token */
#define COSTS "2000000,1000,200000,1000000,10000"

static void begin(struct bench *b, int64_t calibrate_us)
{
    setenv("FAKE_COST_NS", COSTS, 1);
    b->limits.calibrate_us = calibrate_us;
    bench_start(b);
    for (uint32_t i = 0; i < b->config.model_count; i++)
        wait_until(b, model_status(b, 0, i).known);
}

static void load(struct bench *b, uint32_t model)
{
    int before = b->replies;

    policy_command(b->policy, POLICY_LOAD, model, 77);
    wait_until(b, b->replies > before);
    assert_int_equal(b->last_reply.tag, 77);
    assert_string_equal(status_word(b->last_reply.status), "ok");
}

static void expect_costs(const struct policy_model_status *m)
{
    static const double sizes[][2] = {{1, 30}, {1, 1000}, {4, 400}, {16, 2000}, {32, 1000}};

    assert_true(m->calibrated);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        double want = 2e-3 + 1e-6 * sizes[i][1] + 2e-4 * sizes[i][0];
        double got = cost_decode(&m->cost, sizes[i][0], sizes[i][1]);

        if (!(fabs(got / want - 1) < 0.05))
            fail_msg("%g rows, %g tokens: %g, not %g", sizes[i][0], sizes[i][1], got, want);
    }
    for (double n = 16; n <= 64; n *= 2)
        assert_true(fabs(cost_prefill(&m->cost, 0, n) / (1e-3 + 1e-5 * n) - 1) < 0.05);
    assert_true(m->cost_error[COST_STEP] < 0.05 && m->cost_error[COST_PREFILL] < 0.05);
}

/* By command, before a request ever came; nothing of it is anybody's, and models of its shape need
 * none of their own. */
static void a_load_measures(void **state)
{
    struct bench *b = *state;
    struct policy_instance_status in;
    struct policy_model_status m;

    add_model(b, "a", 1000);
    add_model(b, "b", 1000);
    add_model(b, "c", 2000);
    add_instance(b, "cpu", 4 * MB);
    begin(b, 1000000);
    load(b, 0);
    assert_string_equal(b->last_reply.text, "model a is resident on instance cpu");
    m = model_status(b, 0, 0);
    expect_costs(&m);
    m = model_status(b, 0, 1);
    expect_costs(&m);
    assert_false(model_status(b, 0, 2).calibrated);
    in = instance_status(b, 0);
    assert_int_equal(in.calibrations, 1);
    assert_true(in.calibration_us > 0 && in.calibration_us < 1300000);
    assert_int_equal(in.steps + in.turns + in.tokens + in.switches, 0);
    assert_int_equal(b->order_count, 0);
    load(b, 0); /* once is enough */
    load(b, 1);
    assert_int_equal(instance_status(b, 0).calibrations, 1);
    submit(b, 1, 0, 3, 100, 20); /* and requests go on as ever */
    wait_until(b, all_done(b, 1, 1));
    expect_length(b, 1, 1, 20);
    wait_until(b, instance_status(b, 0).tokens == 20);
}

/* A request that comes meanwhile is served at once; what was measured so far stays. */
static void a_request_goes_first(void **state)
{
    struct bench *b = *state;
    int64_t start;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", 4 * MB);
    begin(b, 1000000);
    policy_command(b->policy, POLICY_LOAD, 0, 5);
    wait_until(b, instance_status(b, 0).calibration_us > 20000);
    start = clock_monotonic_us();
    submit(b, 1, 0, 3, 10, 5);
    wait_until(b, all_done(b, 1, 1));
    assert_true(clock_monotonic_us() - start < 1000000);
    expect_length(b, 1, 1, 5);
    wait_until(b, b->replies == 1);
    assert_non_null(strstr(b->last_reply.text, "when the instance is idle"));
    assert_int_equal(instance_status(b, 0).calibrations, 0);
    assert_int_equal(instance_status(b, 0).restarts, 0);
    assert_true(model_status(b, 0, 0).cost_samples[COST_STEP] > 0);
    load(b, 0);
    assert_int_equal(instance_status(b, 0).calibrations, 1);
}

/* However slow the device: the time is bounded, and a prompt and its steps are what is known. */
static void its_time_is_bounded(void **state)
{
    struct bench *b = *state;
    struct policy_model_status m;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", 4 * MB);
    b->limits.calibrate_us = 200000;
    setenv("FAKE_STEP_US", "20000", 1);
    bench_start(b);
    wait_until(b, model_status(b, 0, 0).known);
    load(b, 0);
    m = model_status(b, 0, 0);
    assert_true(m.calibrated);
    assert_true(instance_status(b, 0).calibration_us < 2 * 200000);
    assert_true(cost_decode(&m.cost, 1, 20) < 0.2);
}

/* By itself, once nothing else is to be done; nothing that is in memory goes for it. */
static void an_idle_instance_measures(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000000);
    add_model(b, "b", 1000001);
    add_instance(b, "cpu", 2 * MB);
    begin(b, 300000);
    submit(b, 1, 0, 3, 10, 5);
    submit(b, 2, 1, 3, 10, 5);
    wait_until(b, all_done(b, 1, 2));
    assert_int_equal(instance_status(b, 0).calibrations, 0);
    wait_until(b, instance_status(b, 0).calibrations == 1);
    assert_true(model_status(b, 0, 0).resident || model_status(b, 0, 1).resident);
    /* only itself, to see what a load takes */
    assert_true(b->departures[0] + b->departures[1] <= 2);
}

static void a_death_ends_it(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", 4 * MB);
    begin(b, 1000000);
    policy_command(b->policy, POLICY_LOAD, 0, 5);
    wait_until(b, instance_status(b, 0).calibration_us > 20000);
    kill_engine(b);
    wait_until(b, b->replies == 1);
    assert_string_equal(status_word(b->last_reply.status), "unavailable");
    wait_until(b, state_is(b, 0, "idle"));
    submit(b, 1, 0, 3, 10, 5);
    wait_until(b, all_done(b, 1, 1));
    expect_length(b, 1, 1, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        bench_test(a_load_measures),     bench_test(a_request_goes_first),
        bench_test(its_time_is_bounded), bench_test(an_idle_instance_measures),
        bench_test(a_death_ends_it),
    };

    signal(SIGPIPE, SIG_IGN);
    log_init("policy_calibrate_test", LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
