/* policy_admit_test.c - promises, waiting for them, tenants and their shares, costs, aegaeon's
 * turns */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "tests/unit/policy_bench.h"

#define STEP_US 20000 /* of the simulated engine; 30 ms are promised between tokens */

/* Two models that both fit, measured: a batch of either needs two thirds of the time. */
static void start_measured(struct bench *b, char *scheduler)
{
    b->config.scheduler = scheduler;
    b->config.admission = 1;
    add_model(b, "a", 1000);
    add_model(b, "b", 1000);
    add_instance(b, "cpu", MB);
    setenv("FAKE_STEP_US", "20000", 1);
    bench_start(b);
    submit(b, 1, 0, 1, 10, 30);
    submit(b, 2, 1, 1, 10, 30);
    wait_until(b, all_done(b, 1, 2));
    b->ttft_us = 5000000;
    b->tbt_us = 30000;
}

static void says(const struct bench *b, uint64_t seq, const char *part)
{
    if (strstr(b->streams[seq].text, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", b->streams[seq].text, part);
}

/* --- promises --------------------------------------------------------------------------------- */

static void what_cannot_be_promised_is_refused(void **state)
{
    static char slack[] = "slack";
    struct bench *b = *state;

    start_measured(b, slack);
    ask(b, 3, 0, 0);
    wait_until(b, b->streams[3].admitted);
    ask(b, 4, 1, 0); /* 3 has not even been submitted */
    wait_until(b, b->streams[4].refused);
    assert_int_equal(b->streams[4].status, STATUS_EXHAUSTED);
    says(b, 4, "model b: its time between tokens cannot be promised");
    assert_int_equal(b->streams[4].waiting, 0);
    submit(b, 3, 0, 1, 10, 50);
    wait_until(b, all_have(b, 3, 3, 5));
    assert_true(instance_status(b, 0).promised > 0.4);
    ask(b, 5, 0, 0); /* one more row of a's batch costs nothing here */
    wait_until(b, b->streams[5].admitted);
    policy_cancel(b->policy, 5);
    ask(b, 6, 1, 0);
    wait_until(b, b->streams[6].refused);
    b->tbt_us = 5000; /* a step takes 20 ms: waiting would not help */
    ask(b, 7, 1, 60000000);
    wait_until(b, b->streams[7].refused);
    assert_int_equal(b->streams[7].status, STATUS_UNSUPPORTED);
    says(b, 7, "5 ms cannot be kept");
    b->ttft_us = b->tbt_us = 0;
    ask(b, 8, 1, 0); /* best effort */
    wait_until(b, b->streams[8].admitted);
    wait_until(b, all_done(b, 3, 3));
    expect_length(b, 3, 3, 50);
    b->ttft_us = 5000000;
    b->tbt_us = 30000;
    ask(b, 9, 1, 0);
    wait_until(b, b->streams[9].admitted);
    policy_cancel(b->policy, 9);
    wait_until(b, state_is(b, 0, "idle"));
    assert_int_equal(model_status(b, 0, 0).waiting + model_status(b, 0, 0).running, 0);
}

static void who_waits_is_admitted_in_order(void **state)
{
    static char slack[] = "slack";
    struct bench *b = *state;

    start_measured(b, slack);
    ask(b, 3, 0, 0);
    wait_until(b, b->streams[3].admitted);
    submit(b, 3, 0, 1, 10, 40);
    for (uint64_t seq = 4; seq <= 6; seq++) {
        ask(b, seq, 1, 20000000);
        wait_until(b, b->streams[seq].waiting);
    }
    says(b, 4, "model b: its time between tokens cannot be promised");
    says(b, 5, "others wait");
    policy_cancel(b->policy, 5);
    wait_until(b, b->streams[4].admitted && b->streams[6].admitted);
    assert_true(b->streams[3].done); /* its end made the room */
    assert_int_equal(b->admission_count, 3);
    assert_int_equal(b->admissions[1], 4);
    assert_int_equal(b->admissions[2], 6);
    assert_int_equal(b->streams[5].admitted + b->streams[5].refused, 0);
    submit(b, 4, 1, 1, 10, 20);
    submit(b, 6, 1, 1, 10, 20);
    wait_until(b, all_done(b, 4, 4) && all_done(b, 6, 6));
    expect_length(b, 4, 4, 20);
}

static void waiting_has_an_end(void **state)
{
    static char slack[] = "slack";
    struct bench *b = *state;
    int64_t began;

    start_measured(b, slack);
    ask(b, 3, 0, 0);
    wait_until(b, b->streams[3].admitted);
    began = clock_monotonic_us();
    ask(b, 4, 1, 400000);
    wait_until(b, b->streams[4].waiting);
    wait_until(b, b->streams[4].refused);
    assert_true(clock_monotonic_us() - began >= 400000);
    assert_int_equal(b->streams[4].status, STATUS_EXHAUSTED);
    says(b, 4, "waited 0 s (--model-wait); model b: its time");
    policy_cancel(b->policy, 3);
}

/* A promise that its engine's death did not take with it. */
static void a_promise_outlives_the_engine(void **state)
{
    static char slack[] = "slack";
    struct bench *b = *state;

    start_measured(b, slack);
    ask(b, 3, 0, 0);
    wait_until(b, b->streams[3].admitted);
    kill_engine(b);
    wait_until(b, instance_status(b, 0).restarts == 1);
    assert_string_not_equal(instance_status(b, 0).failure, "");
    submit(b, 3, 0, 1, 10, 5);
    wait_until(b, all_done(b, 3, 3));
    expect_length(b, 3, 3, 5);
    assert_string_equal(instance_status(b, 0).failure, "");
}

static void without_admission_all_are_admitted(void **state)
{
    static char rr[] = "rr", slack[] = "slack";
    struct bench *b = *state;

    start_measured(b, rr); /* has no deadlines */
    for (uint64_t seq = 3; seq <= 8; seq++)
        ask(b, seq, seq % 2, 0);
    wait_until(b, b->admission_count == 6);
    policy_destroy(b->policy);
    b->config.scheduler = slack;
    b->config.admission = 0;
    bench_start(b);
    for (uint64_t seq = 9; seq <= 12; seq++)
        ask(b, seq, seq % 2, 0);
    wait_until(b, b->admission_count == 10);
}

/* A guess refuses nobody. */
static void a_model_that_is_not_measured_gets_a_try(void **state)
{
    static char slack[] = "slack";
    struct bench *b = *state;

    b->config.scheduler = slack;
    b->config.admission = 1;
    add_model(b, "big", 512 * MB); /* 70 ms a step, as a guess */
    add_instance(b, "cpu", 1024 * (uint64_t)MB);
    bench_start(b);
    wait_until(b, state_is(b, 0, "idle"));
    b->ttft_us = 5000000;
    b->tbt_us = 30000;
    for (uint64_t seq = 1; seq <= 5; seq++)
        ask(b, seq, 0, 0);
    wait_until(b, b->streams[4].admitted && b->streams[5].refused);
    submit(b, 1, 0, 1, 10, 60);
    wait_until(b, all_done(b, 1, 1));
    ask(b, 6, 0, 0); /* 0.5 ms a step, in truth */
    wait_until(b, b->streams[6].admitted);
    for (uint64_t seq = 2; seq <= 6; seq++)
        policy_cancel(b->policy, seq);
}

/* Best effort fills the batch, and then the memory, of the same model. */
static void best_effort_yields_in_its_own_batch(void **state)
{
    static char slack[] = "slack";
    struct bench *b = *state;

    b->config.scheduler = slack;
    b->config.admission = 1;
    add_model(b, "a", 10 * 1024);
    add_instance(b, "cpu", 70 * 1024); /* 60 pages */
    b->instances[0].max_batch = 4;
    bench_start(b);
    for (uint64_t seq = 1; seq <= 12; seq++)
        submit(b, seq, 0, 1, 100, 300);
    wait_until(b, all_have(b, 1, 2, 20));
    b->ttft_us = 5000000;
    b->tbt_us = 100000;
    ask(b, 20, 0, 0);
    wait_until(b, b->streams[20].admitted);
    submit(b, 20, 0, 1, 100, 50);
    wait_until(b, all_done(b, 20, 20));
    expect_length(b, 20, 20, 50);
    assert_int_equal(b->streams[20].usage.preemptions, 0);
    for (uint64_t seq = 1; seq <= 12; seq++)
        assert_false(b->streams[seq].done);
    wait_until(b, all_done(b, 1, 12));
    expect_length(b, 1, 12, 300);
}

/* --- tenants ---------------------------------------------------------------------------------- */

static double used(struct bench *b, uint32_t tenant)
{
    struct policy_snapshot s;
    double seconds = 0;

    assert_int_equal(policy_snapshot(b->policy, &s, NULL), 0);
    if (tenant < s.tenants)
        seconds = s.tenant[tenant].used;
    policy_snapshot_free(&s);
    return seconds;
}

/* Both have more to do than there is time, and miss their deadlines. */
static void shares_divide_the_time(void **state)
{
    static char slack[] = "slack";
    struct bench *b = *state;
    double one, three;

    b->config.scheduler = slack;
    b->config.fair_us = 200000;
    add_model(b, "a", 1000);
    add_model(b, "b", 1000);
    add_instance(b, "cpu", MB);
    setenv("FAKE_STEP_US", "5000", 1);
    bench_start(b);
    policy_set_share(b->policy, 1, 1);
    policy_set_share(b->policy, 2, 3);
    b->ttft_us = b->tbt_us = 1000;
    for (uint64_t seq = 1; seq <= 2; seq++) {
        b->tenant = (uint32_t)seq;
        submit(b, seq, (uint32_t)seq - 1, 1, 10, 4000);
    }
    wait_until(b, used(b, 1) + used(b, 2) > 6);
    one = used(b, 1);
    three = used(b, 2);
    if (!(three > 2.2 * one && three < 3.8 * one))
        fail_msg("%.2f and %.2f s", one, three);
    policy_cancel(b->policy, 1);
    policy_cancel(b->policy, 2);
    wait_until(b, all_done(b, 1, 2));
}

static void a_tenant_that_becomes_known_pays(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    bench_start(b);
    policy_set_share(b->policy, 0, 1);
    policy_set_share(b->policy, 3, 2);
    submit(b, 1, 0, 1, 10, 2000);
    wait_until(b, used(b, 0) > 0.01);
    policy_set_tenant(b->policy, 1, 3);
    wait_until(b, used(b, 3) > 0.05);
    policy_cancel(b->policy, 1);
    wait_until(b, all_done(b, 1, 1));
}

/* --- costs ------------------------------------------------------------------------------------ */

static void costs_are_measured_told_and_taught(void **state)
{
    static char slack[] = "slack";
    struct bench *b = *state;
    struct policy_cost cost, wrong;

    start_measured(b, slack);
    assert_true(model_status(b, 0, 0).cost_error[COST_STEP] < 0.2);
    policy_destroy(b->policy); /* which tells the last ones */
    take_events(b, 0);
    cost = b->costs[0];
    assert_string_equal(cost.device, "simulated");
    assert_int_equal(cost.weight_bytes, 1000);
    assert_true(cost.samples[COST_STEP] >= 20 && cost.samples[COST_LOAD] == 1);
    assert_true(cost_decode(&cost.cost, 1, 30) > 0.018 && cost_decode(&cost.cost, 1, 30) < 0.022);
    bench_start(b);
    policy_teach(b->policy, &cost);
    wrong = cost;
    wrong.model = 1;
    wrong.weight_bytes++; /* other weights under the name */
    policy_teach(b->policy, &wrong);
    wait_until(b, state_is(b, 0, "idle"));
    assert_int_equal(model_status(b, 0, 0).cost_samples[COST_STEP], cost.samples[COST_STEP]);
    assert_true(model_status(b, 0, 0).cost.decode > 0.8 * cost.cost.decode);
    assert_int_equal(model_status(b, 0, 1).cost_samples[COST_STEP], 0);
    b->tbt_us = 5000; /* known at once: no probes */
    ask(b, 3, 0, 0);
    wait_until(b, b->streams[3].refused);
}

/* --- aegaeon ---------------------------------------------------------------------------------- */

/* Prompts have turns of their own, before those that decode; all get what they asked for. */
static void aegaeon_serves_two_models_in_memory_for_one(void **state)
{
    static char name[] = "aegaeon";
    struct bench *b = *state;

    b->config.scheduler = name;
    b->config.turn_us = 50000;
    add_model(b, "a", 300 * 1024);
    add_model(b, "b", 300 * 1024);
    add_instance(b, "cpu", 500 * 1024);
    bench_start(b);
    for (uint64_t i = 1; i <= 12; i++)
        submit(b, i, i % 2, 1, 100, 150);
    wait_until(b, all_have(b, 1, 12, 1));
    for (uint64_t i = 1; i <= 12; i++) /* all have begun before the first one ends */
        assert_true(generated(b, i) < 150);
    for (uint64_t i = 13; i <= 16; i++) /* arrivals go before decoding */
        submit(b, i, i % 2, 1, 100, 20);
    wait_until(b, all_have(b, 13, 16, 1));
    wait_until(b, all_done(b, 1, 16));
    expect_length(b, 1, 12, 150);
    expect_length(b, 13, 16, 20);
    wait_until(b, state_is(b, 0, "idle"));
    assert_int_equal(instance_status(b, 0).restarts, 0);
    assert_true(instance_status(b, 0).switches >= 4);
}

static void aegaeon_goes_on_after_a_death_and_full_pages(void **state)
{
    static char name[] = "aegaeon";
    struct bench *b = *state;

    b->config.scheduler = name;
    add_model(b, "a", 10 * 1024);
    add_instance(b, "cpu", 70 * 1024); /* 60 pages; 12 sequences need 120 */
    bench_start(b);
    for (uint64_t i = 1; i <= 12; i++)
        submit(b, i, 0, 1, 10, 150);
    wait_until(b, all_have(b, 1, 2, 40));
    kill_engine(b);
    wait_until(b, all_done(b, 1, 12));
    expect_length(b, 1, 12, 150);
    assert_true(instance_status(b, 0).preemptions > 0);
    assert_int_equal(instance_status(b, 0).restarts, 1);
}

/* With host memory for KV it leaves with a batch's turn, and comes back with the next one; also
 * where there is too little of either memory, and behind an engine's death. */
static void aegaeon_turns_take_their_kv_along(void **state)
{
    static char name[] = "aegaeon";
    struct bench *b = *state;

    b->config.scheduler = name;
    b->config.turn_us = 20000;
    b->config.swap_space = 150 * FAKE_PAGE_BYTES;
    add_model(b, "a", 10 * FAKE_PAGE_BYTES);
    add_model(b, "b", 10 * FAKE_PAGE_BYTES);
    add_model(b, "c", 10 * FAKE_PAGE_BYTES);
    add_instance(b, "cpu", 150 * FAKE_PAGE_BYTES);
    bench_start(b);
    for (uint64_t i = 1; i <= 18; i++)
        submit(b, i, (uint32_t)(i % 3), 1, 10, 150);
    wait_until(b, all_have(b, 1, 18, 20));
    policy_cancel(b->policy, 18);
    assert_true(instance_status(b, 0).spills > 12);
    wait_until(b, all_have(b, 1, 2, 60));
    kill_engine(b);
    wait_until(b, all_done(b, 1, 18));
    expect_length(b, 1, 17, 150);
    assert_int_equal(instance_status(b, 0).restarts, 1);
    for (uint32_t m = 0; m < 3; m++)
        wait_until(b, model_status(b, 0, m).waiting + model_status(b, 0, m).running == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        bench_test(what_cannot_be_promised_is_refused),
        bench_test(who_waits_is_admitted_in_order),
        bench_test(waiting_has_an_end),
        bench_test(a_promise_outlives_the_engine),
        bench_test(without_admission_all_are_admitted),
        bench_test(a_model_that_is_not_measured_gets_a_try),
        bench_test(best_effort_yields_in_its_own_batch),
        bench_test(shares_divide_the_time),
        bench_test(a_tenant_that_becomes_known_pays),
        bench_test(costs_are_measured_told_and_taught),
        bench_test(aegaeon_serves_two_models_in_memory_for_one),
        bench_test(aegaeon_goes_on_after_a_death_and_full_pages),
        bench_test(aegaeon_turns_take_their_kv_along),
    };

    signal(SIGPIPE, SIG_IGN);
    log_init("policy_admit_test", LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
