/* policy_test.c - the policy thread: streams, memory, commands, the snapshot */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "tests/unit/policy_bench.h"

/* --- streams
 * -------------------------------------------------------------------------------------- */

static void a_request_streams(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    bench_start(b);
    submit(b, 1, 0, 7, 200, 50);
    wait_until(b, all_done(b, 1, 1));
    expect_length(b, 1, 1, 50);
    assert_int_equal(b->streams[1].usage.prefilled, 200);
    assert_int_equal(b->streams[1].usage.preemptions, 0);
    assert_true(b->streams[1].usage.switches <= 1);
    /* 4 steps of prefill, 3 of them without a token, and 49 more, of 500 us each, alone */
    assert_int_equal(b->streams[1].usage.engine_us, 53 * 500);
    assert_int_equal(b->arrivals[0], 1);
}

static void an_end_of_sequence_stops(void **state)
{
    struct bench *b = *state;
    struct policy_request *r = calloc(1, sizeof *r);
    struct stream *s = &b->streams[1];

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    bench_start(b);
    r->seq = 1;
    r->max_tokens = 3000;
    r->token_count = s->prompt = s->count = 1;
    r->tokens = calloc(1, sizeof *r->tokens);
    s->tokens = calloc(4000, sizeof *s->tokens);
    policy_submit(b->policy, r);
    wait_until(b, s->done);
    assert_int_equal(s->finish, FINISH_STOP);
    assert_int_equal(s->tokens[s->count - 1] % FAKE_EOS_EVERY, 0);
}

static void cancel_and_stop_end_at_once(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    bench_start(b);
    submit(b, 1, 0, 1, 10, 3000);
    submit(b, 2, 0, 1, 10, 3000);
    submit(b, 3, 0, 1, 10, 60);
    wait_until(b, all_have(b, 1, 2, 3));
    policy_cancel(b->policy, 1);
    policy_stop(b->policy, 2);
    policy_cancel(b->policy, 999);
    wait_until(b, all_done(b, 1, 3));
    assert_int_equal(b->streams[1].finish, FINISH_NONE);
    assert_int_equal(b->streams[1].status, STATUS_OK);
    assert_string_equal(b->streams[1].text, "");
    assert_int_equal(b->streams[2].finish, FINISH_STOP);
    assert_true(generated(b, 1) < 3000 && generated(b, 2) < 3000);
    expect_length(b, 3, 3, 60);
    wait_until(b, state_is(b, 0, "idle"));
    assert_int_equal(model_status(b, 0, 0).running, 0);
    assert_int_equal(model_status(b, 0, 0).waiting, 0);
    assert_int_equal(instance_status(b, 0).restarts, 0);
}

/* Both get tokens all the time, though only one fits into memory. */
static void two_models_take_turns(void **state)
{
    struct bench *b = *state;
    uint32_t changes = 0;

    add_model(b, "a", 300 * 1024);
    add_model(b, "b", 300 * 1024);
    add_instance(b, "cpu", 500 * 1024);
    bench_start(b);
    for (uint64_t i = 1; i <= 4; i++)
        submit(b, i, i % 2, 1, 20, 200);
    wait_until(b, all_done(b, 1, 4));
    expect_length(b, 1, 4, 200);
    for (uint32_t i = 1; i < b->order_count; i++)
        changes += b->order[i] != b->order[i - 1];
    /* 200 steps of at least 0.5 ms in turns of at most 20 ms */
    assert_in_range(changes, 5, 100);
    assert_true(instance_status(b, 0).switches >= 5);
    assert_true(b->streams[1].usage.switches >= 3);
    assert_true(b->departures[0] >= 3 && b->departures[1] >= 3);
}

/* A lone model runs without a pause, and lets another one in within a turn. */
static void a_new_model_waits_a_turn_at_most(void **state)
{
    struct bench *b = *state;
    uint32_t first = 0;

    add_model(b, "a", 1000);
    add_model(b, "b", 1000);
    add_instance(b, "cpu", MB);
    b->config.turn_us = 50000;
    bench_start(b);
    submit(b, 1, 0, 1, 10, 2000);
    wait_until(b, all_have(b, 1, 1, 20));
    b->order_count = 0;
    submit(b, 2, 1, 1, 10, 5);
    wait_until(b, all_done(b, 2, 2));
    while (first < b->order_count && b->order[first] == 0)
        first++;
    /* 50 ms are at most 100 steps of 0.5 ms; the rest is what our reading of events lags behind */
    assert_true(first <= 150);
    policy_cancel(b->policy, 1);
    wait_until(b, all_done(b, 1, 1));
}

/* By request: each model keeps the device until its requests have ended. */
static void fcfs_runs_to_completion(void **state)
{
    static char name[] = "fcfs";
    struct bench *b = *state;
    uint32_t changes = 0;

    b->config.scheduler = name;
    add_model(b, "a", 300 * 1024);
    add_model(b, "b", 300 * 1024);
    add_instance(b, "cpu", 500 * 1024);
    bench_start(b);
    submit(b, 1, 0, 1, 20, 200);
    wait_until(b, all_have(b, 1, 1, 1));
    submit(b, 2, 1, 1, 20, 200);
    wait_until(b, all_done(b, 1, 2));
    expect_length(b, 1, 2, 200);
    for (uint32_t i = 1; i < b->order_count; i++)
        changes += b->order[i] != b->order[i - 1];
    assert_int_equal(changes, 1);
    wait_until(b, state_is(b, 0, "idle"));
    assert_int_equal(instance_status(b, 0).switches, 2);
}

/* By deadlines: both move on, and there are no more switches than they can pay for. */
static void slack_takes_turns_that_pay(void **state)
{
    static char name[] = "slack";
    struct bench *b = *state;
    struct policy_instance_status in;

    b->config.scheduler = name;
    add_model(b, "a", 300 * 1024);
    add_model(b, "b", 300 * 1024);
    add_instance(b, "cpu", 500 * 1024);
    bench_start(b);
    for (uint64_t i = 1; i <= 4; i++)
        submit(b, i, i % 2, 1, 20, 400);
    wait_until(b, all_have(b, 1, 4, 100));
    for (uint64_t i = 1; i <= 4; i++) /* nobody is done before all have begun */
        assert_true(generated(b, i) < 400);
    wait_until(b, all_done(b, 1, 4));
    expect_length(b, 1, 4, 400);
    wait_until(b, state_is(b, 0, "idle"));
    in = instance_status(b, 0);
    assert_in_range(in.switches, 3, 400);
    assert_true(in.switch_us < in.step_us);
}

static void a_long_prompt_arrives_whole(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", 4 * MB);
    bench_start(b);
    submit(b, 1, 0, 1, FAKE_CONTEXT - 10, 500); /* max_tokens is clipped */
    submit(b, 2, 0, 1, FAKE_CONTEXT, 1);
    wait_until(b, all_done(b, 1, 2));
    expect_length(b, 1, 1, 10);
    expect_fault(b, 2, STATUS_INVALID, "4096 tokens");
}

static void what_cannot_run_is_refused(void **state)
{
    struct bench *b = *state;
    struct policy_request *r;

    add_model(b, "a", 1000);
    add_model(b, "bad", 1000);
    add_model(b, "gone", 1000);
    unlink(b->paths[2]);
    add_instance(b, "cpu", MB);
    setenv("FAKE_BAD_MODEL", "bad", 1);
    bench_start(b);
    submit(b, 1, 1, 1, 10, 10);
    submit(b, 2, 2, 1, 10, 10);
    submit(b, 3, 3, 1, 10, 10);
    submit(b, 4, 0, 1, 0, 10);
    submit(b, 5, 0, FAKE_BROKEN, 10, 10);
    submit(b, 6, 0, 1, 10, 10);
    wait_until(b, all_done(b, 1, 6));
    expect_fault(b, 1, STATUS_UNSUPPORTED, "architecture");
    expect_fault(b, 2, STATUS_UNAVAILABLE, "No such file");
    expect_fault(b, 3, STATUS_NOT_FOUND, "model");
    expect_fault(b, 4, STATUS_INVALID, "prompt");
    expect_fault(b, 5, STATUS_INTERNAL, "broken");
    expect_length(b, 6, 6, 10);
    assert_true(model_status(b, 0, 1).known && !model_status(b, 0, 1).ok);
    r = calloc(1, sizeof *r); /* number 0 is nobody's */
    policy_submit(b->policy, r);
    wait_until(b, b->streams[0].done);
    expect_fault(b, 0, STATUS_INTERNAL, "number");
}

/* --- memory
 * --------------------------------------------------------------------------------------- */

/* 12 sequences of 160 tokens need 120 pages; there are 60. */
static void full_pages_preempt(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 10 * 1024);
    add_instance(b, "cpu", 70 * 1024);
    bench_start(b);
    for (uint64_t i = 1; i <= 12; i++)
        submit(b, i, 0, 1, 10, 150);
    wait_until(b, all_done(b, 1, 12));
    expect_length(b, 1, 12, 150);
    assert_true(instance_status(b, 0).preemptions > 0);
    assert_true(b->streams[12].usage.preemptions > 0);
    assert_int_equal(b->streams[1].usage.preemptions, 0); /* the oldest goes first */
    assert_int_equal(instance_status(b, 0).restarts, 0);
    assert_int_equal(model_status(b, 0, 0).waiting, 0);
}

/* With host memory for KV they are not given anew; where that is too small, all goes on as well. */
static void check_spills(struct bench *b, uint64_t swap)
{
    add_model(b, "a", 10 * FAKE_PAGE_BYTES);
    add_model(b, "b", 10 * FAKE_PAGE_BYTES);
    add_instance(b, "cpu", 80 * FAKE_PAGE_BYTES);
    b->config.swap_space = swap;
    bench_start(b);
    for (uint64_t i = 1; i <= 24; i++)
        submit(b, i, i % 2, 1, 10, 150);
    wait_until(b, all_have(b, 1, 4, 20));
    policy_cancel(b->policy, 24); /* held, or away */
    policy_cancel(b->policy, 20);
    wait_until(b, all_done(b, 1, 24));
    expect_length(b, 1, 19, 150);
    expect_length(b, 21, 23, 150);
    assert_true(instance_status(b, 0).spills > 0);
    assert_true(instance_status(b, 0).spills <= instance_status(b, 0).preemptions);
    assert_int_equal(instance_status(b, 0).restarts, 0);
    for (uint32_t m = 0; m < 2; m++) /* the snapshot comes after the last event */
        wait_until(b, model_status(b, 0, m).waiting + model_status(b, 0, m).running == 0);
}

static void full_pages_spill(void **state)
{
    check_spills(*state, 100 * FAKE_PAGE_BYTES);
}

static void full_pages_spill_by_deadlines(void **state)
{
    static char slack[] = "slack";
    struct bench *b = *state;

    b->config.scheduler = slack;
    check_spills(b, 100 * FAKE_PAGE_BYTES);
}

static void full_host_memory_does_not_matter(void **state)
{
    check_spills(*state, 3 * FAKE_PAGE_BYTES);
}

/* What was in an engine's host memory dies with it. */
static void an_engine_dies_with_spilled_sequences(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 10 * MB);
    add_instance(b, "cpu", 10 * MB + 60 * FAKE_PAGE_BYTES);
    b->config.swap_space = 100 * FAKE_PAGE_BYTES;
    bench_start(b);
    for (uint64_t i = 1; i <= 12; i++)
        submit(b, i, 0, 1, 10, 300);
    wait_until(b, instance_status(b, 0).spills > 2);
    kill_engine(b);
    wait_until(b, all_done(b, 1, 12));
    expect_length(b, 1, 12, 300);
    assert_int_equal(instance_status(b, 0).restarts, 1);
}

static void what_never_fits_is_a_fault(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 10 * 1024);
    add_model(b, "huge", 100 * 1024);
    add_instance(b, "cpu", 20 * 1024); /* 10 pages beside a: 160 tokens */
    bench_start(b);
    submit(b, 1, 0, 1, 10, 1000);
    submit(b, 2, 0, 1, 10, 100);
    submit(b, 3, 1, 1, 10, 10);
    wait_until(b, all_done(b, 1, 3));
    expect_fault(b, 1, STATUS_EXHAUSTED, "Memory=");
    assert_int_equal(generated(b, 1), 151); /* the last one needs no page */
    expect_length(b, 2, 2, 100);
    expect_fault(b, 3, STATUS_EXHAUSTED, "model huge needs 102400 bytes");
}

/* b's weights fit only if a gives up pages; both go on to their ends. */
static void weights_take_room_from_others(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 20 * 1024);
    add_model(b, "b", 40 * 1024);
    add_instance(b, "cpu", 60 * 1024);
    bench_start(b);
    for (uint64_t i = 1; i <= 3; i++)
        submit(b, i, 0, 1, 150, 40); /* 12 pages each in the end */
    wait_until(b, all_have(b, 1, 3, 3));
    submit(b, 4, 1, 1, 10, 100);
    wait_until(b, all_done(b, 1, 4));
    expect_length(b, 1, 3, 40);
    expect_length(b, 4, 4, 100);
    assert_int_equal(instance_status(b, 0).restarts, 0);
}

/* --- commands
 * ------------------------------------------------------------------------------------- */

static void command(struct bench *b, enum policy_command c, uint32_t target, enum status status,
                    const char *part)
{
    static uint64_t tag;
    int replies = b->replies;

    policy_command(b->policy, c, target, ++tag);
    wait_until(b, b->replies > replies);
    assert_int_equal(b->last_reply.tag, tag);
    assert_string_equal(status_word(b->last_reply.status), status_word(status));
    if (strstr(b->last_reply.text, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", b->last_reply.text, part);
}

static void models_load_and_unload(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_model(b, "huge", 2 * MB);
    add_instance(b, "cpu", MB);
    bench_start(b);
    wait_until(b, state_is(b, 0, "idle"));
    command(b, POLICY_UNLOAD, 0, STATUS_OK, "not resident");
    command(b, POLICY_LOAD, 0, STATUS_OK, "instance cpu");
    wait_until(b, model_status(b, 0, 0).resident);
    assert_int_equal(b->arrivals[0], 1);
    command(b, POLICY_LOAD, 0, STATUS_OK, "resident");
    command(b, POLICY_LOAD, 1, STATUS_EXHAUSTED, "no room");
    command(b, POLICY_UNLOAD, 0, STATUS_OK, "unloaded");
    wait_until(b, !model_status(b, 0, 0).resident);
    command(b, POLICY_LOAD, 7, STATUS_NOT_FOUND, "model");
    command(b, POLICY_DRAIN, 7, STATUS_NOT_FOUND, "instance");
}

static void a_drain_waits_for_its_sequences(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    bench_start(b);
    submit(b, 1, 0, 1, 10, 400);
    wait_until(b, all_have(b, 1, 1, 5));
    policy_command(b->policy, POLICY_DRAIN, 0, 77);
    submit(b, 2, 0, 1, 10, 10);
    wait_until(b, all_done(b, 2, 2));
    expect_fault(b, 2, STATUS_UNAVAILABLE, "drained");
    assert_false(b->streams[1].done);
    assert_int_equal(b->replies, 0);
    wait_until(b, b->replies == 1);
    assert_int_equal(b->last_reply.tag, 77);
    assert_int_equal(b->last_reply.status, STATUS_OK);
    expect_length(b, 1, 1, 400);
    assert_true(state_is(b, 0, "drained"));
    command(b, POLICY_DRAIN, 0, STATUS_OK, "drained");
    command(b, POLICY_RESUME, 0, STATUS_OK, "cpu");
    submit(b, 3, 0, 1, 10, 10);
    wait_until(b, all_done(b, 3, 3));
    expect_length(b, 3, 3, 10);
}

/* --- others
 * --------------------------------------------------------------------------------------- */

static void the_snapshot_counts(void **state)
{
    struct bench *b = *state;
    struct policy_instance_status in;
    struct policy_model_status m;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    bench_start(b);
    for (uint64_t i = 1; i <= 5; i++)
        submit(b, i, 0, 1, 10, 20);
    wait_until(b, all_done(b, 1, 5));
    wait_until(b, state_is(b, 0, "idle"));
    in = instance_status(b, 0);
    m = model_status(b, 0, 0);
    assert_string_equal(in.device, "simulated");
    assert_int_equal(in.memory_bytes, MB);
    assert_int_equal(in.tokens, 100);
    assert_int_equal(m.tokens, 100);
    assert_true(in.steps >= 20 && in.steps == m.steps);
    assert_int_equal(in.step_us, in.steps * 500);
    assert_int_equal(in.switches, 1);
    assert_int_equal(in.switch_bytes, 1000);
    assert_int_equal(in.running_model, UINT32_MAX);
    assert_true(in.turns >= 1);
    assert_int_equal(m.weight_bytes, 1000);
    assert_int_equal(m.max_context, FAKE_CONTEXT);
    assert_int_equal(m.running, 0);
    assert_int_equal(m.kv_pages_used, 0);
    assert_true(m.known && m.ok && m.resident);
}

static void a_bad_scheduler_is_refused(void **state)
{
    static char name[] = "fifo";
    struct bench *b = *state;
    struct error err;

    b->config.scheduler = name;
    assert_null(policy_create(&b->config, NULL, b->sink, &err));
    assert_int_equal(err.status, STATUS_INVALID);
    assert_non_null(strstr(err.text, "rr"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        bench_test(a_request_streams),
        bench_test(an_end_of_sequence_stops),
        bench_test(cancel_and_stop_end_at_once),
        bench_test(two_models_take_turns),
        bench_test(a_new_model_waits_a_turn_at_most),
        bench_test(fcfs_runs_to_completion),
        bench_test(slack_takes_turns_that_pay),
        bench_test(a_long_prompt_arrives_whole),
        bench_test(what_cannot_run_is_refused),
        bench_test(full_pages_preempt),
        bench_test(full_pages_spill),
        bench_test(full_pages_spill_by_deadlines),
        bench_test(full_host_memory_does_not_matter),
        bench_test(an_engine_dies_with_spilled_sequences),
        bench_test(what_never_fits_is_a_fault),
        bench_test(weights_take_room_from_others),
        bench_test(models_load_and_unload),
        bench_test(a_drain_waits_for_its_sequences),
        bench_test(the_snapshot_counts),
        bench_test(a_bad_scheduler_is_refused),
    };

    signal(SIGPIPE, SIG_IGN);
    log_init("policy_test", LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
