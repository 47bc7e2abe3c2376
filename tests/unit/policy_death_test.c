/* policy_death_test.c - the policy thread when engines die, hang or do not start */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "tests/unit/policy_bench.h"

/* --- death
 * ---------------------------------------------------------------------------------------- */

static void killed_engines_lose_nothing(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_model(b, "b", 1000);
    add_instance(b, "cpu", 4 * MB);
    bench_start(b);
    for (uint64_t i = 1; i <= 8; i++)
        submit(b, i, i % 2, 1, 100, 300);
    for (uint32_t kills = 1; kills <= 3; kills++) {
        wait_until(b, all_have(b, 1, 8, kills * 40));
        kill_engine(b);
        wait_until(b, instance_status(b, 0).restarts == kills);
    }
    wait_until(b, all_done(b, 1, 8));
    expect_length(b, 1, 8, 300);
    assert_true(b->streams[1].usage.prefilled >= 400);
}

/* The engine dies in the middle of its step loop, with orders unread. */
static void dying_in_a_step_loses_nothing(void **state)
{
    struct bench *b = *state;
    char file[128];
    int fd;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", 4 * MB);
    snprintf(file, sizeof file, "%s/die", b->folder);
    fd = open(file, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    setenv("FAKE_DIE_FILE", file, 1);
    setenv("FAKE_DIE_STEP", "17", 1);
    bench_start(b);
    for (uint64_t i = 1; i <= 8; i++)
        submit(b, i, 0, 1, 100, 50);
    wait_until(b, all_done(b, 1, 8));
    expect_length(b, 1, 8, 50);
    assert_int_equal(instance_status(b, 0).restarts, 1);
    assert_int_not_equal(access(file, F_OK), 0);
}

/* One request kills every engine that computes it; the seven others are not blamed. */
static void a_poisonous_request_is_given_up(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", 4 * MB);
    bench_start(b);
    for (uint64_t i = 1; i <= 8; i++)
        submit(b, i, 0, i == 4 ? FAKE_POISON : 1, 100, 50);
    wait_until(b, all_done(b, 1, 8));
    expect_fault(b, 4, STATUS_INTERNAL, "died");
    expect_length(b, 1, 3, 50);
    expect_length(b, 5, 8, 50);
}

static void doubled_tokens_are_dropped(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    bench_start(b);
    submit(b, 1, 0, FAKE_TWICE, 10, 40);
    wait_until(b, all_done(b, 1, 1));
    expect_length(b, 1, 1, 40);
}

/* A drained instance whose engine dies still finishes what it had. */
static void a_drained_engine_that_dies_finishes(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    bench_start(b);
    submit(b, 1, 0, 1, 10, 200);
    wait_until(b, all_have(b, 1, 1, 5));
    policy_command(b->policy, POLICY_DRAIN, 0, 78);
    kill_engine(b);
    wait_until(b, b->replies == 1);
    assert_int_equal(b->last_reply.status, STATUS_OK);
    expect_length(b, 1, 1, 200);
}

/* Another node's instance is not started; sequences of a dead engine move to a living one. */
static void instances_share_and_help(void **state)
{
    static char elsewhere[] = "node10,node2";
    struct bench *b = *state;
    struct policy_snapshot snap;

    add_model(b, "a", 1000);
    add_model(b, "b", 1000);
    add_instance(b, "cpu0", MB);
    add_instance(b, "cpu1", MB);
    b->limits.restart.delay_min_us = 20000000; /* the dead one stays dead */
    b->limits.restart.delay_max_us = 20000000;
    bench_start(b);
    wait_until(b, state_is(b, 0, "idle") && state_is(b, 1, "idle"));
    submit(b, 1, 0, 1, 10, 400);
    submit(b, 2, 1, 1, 10, 400);
    submit(b, 3, 0, 1, 10, 400);
    wait_until(b, all_have(b, 1, 3, 5));
    assert_int_equal(policy_snapshot(b->policy, &snap, NULL), 0);
    assert_int_equal(snap.model[0].running, 2); /* cpu0: a */
    assert_int_equal(snap.model[3].running, 1); /* cpu1: b */
    assert_int_equal(snap.instance[1].running_model, 1);
    policy_snapshot_free(&snap);
    kill_engine(b);
    wait_until(b, all_done(b, 1, 3));
    expect_length(b, 1, 3, 400);
    assert_true(state_is(b, 0, "down"));
    policy_destroy(b->policy);
    b->instances[0].nodes = elsewhere;
    bench_start(b);
    assert_int_equal(policy_snapshot(b->policy, &snap, NULL), 0);
    assert_int_equal(snap.instances, 1);
    assert_int_equal(snap.instance[0].index, 1);
    policy_snapshot_free(&snap);
}

static void everything_at_once(void **state)
{
    struct bench *b = *state;
    uint32_t random = 1;

    for (int m = 0; m < 3; m++)
        add_model(b, (const char *[]){"a", "b", "c"}[m], 60 * 1024);
    add_instance(b, "cpu0", 120 * 1024);
    add_instance(b, "cpu1", 120 * 1024);
    b->config.turn_us = 5000;
    b->limits.deaths_max = 7; /* more than we kill: nobody is to be blamed */
    bench_start(b);
    for (uint64_t i = 1; i < STREAMS; i++) {
        random = random * 1664525u + 1013904223u;
        submit(b, i, (random >> 8) % 3, 1, 1 + (random >> 12) % 200, 80);
        if (i % 8 == 0)
            policy_cancel(b->policy, i - 3);
        take_events(b, 3);
    }
    for (uint32_t kills = 0; kills < 6; kills++) {
        uint32_t i = kills % 2;

        wait_until(b, instance_status(b, i).pid > 0 && !state_is(b, i, "starting"));
        kill(instance_status(b, i).pid, SIGKILL);
        wait_until(b, instance_status(b, i).restarts == kills / 2 + 1);
        take_events(b, 100);
    }
    wait_until(b, all_done(b, 1, STREAMS - 1));
    for (uint64_t i = 1; i < STREAMS; i++) {
        if (i % 8 != 5 || b->streams[i].finish != FINISH_NONE)
            expect_length(b, i, i, 80);
        else
            assert_int_equal(b->streams[i].status, STATUS_OK);
    }
    wait_until(b, state_is(b, 0, "idle") && state_is(b, 1, "idle"));
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(model_status(b, i / 3, i % 3).running, 0);
        assert_int_equal(model_status(b, i / 3, i % 3).waiting, 0);
    }
    print_message("%u preemptions, %u switches\n",
                  (unsigned)(instance_status(b, 0).preemptions + instance_status(b, 1).preemptions),
                  (unsigned)(instance_status(b, 0).switches + instance_status(b, 1).switches));
}

/* --- beginning and end
 * ---------------------------------------------------------------------------- */

static void an_engine_that_never_starts_is_named(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    setenv("FAKE_MODE", "exit", 1);
    bench_start(b);
    submit(b, 1, 0, 1, 10, 10);
    wait_until(b, all_done(b, 1, 1));
    expect_fault(b, 1, STATUS_UNAVAILABLE, "exit status 1");
    submit(b, 2, 0, 1, 10, 10);
    wait_until(b, all_done(b, 2, 2));
    expect_fault(b, 2, STATUS_UNAVAILABLE, "instance cpu");
    /* It is tried again all the same: mended, it serves. */
    unsetenv("FAKE_MODE");
    wait_until(b, state_is(b, 0, "idle"));
    submit(b, 3, 0, 1, 10, 10);
    wait_until(b, all_done(b, 3, 3));
    expect_length(b, 3, 3, 10);
}

static void a_missing_engine_is_named(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    snprintf(b->engine, sizeof b->engine, "/nowhere/modelpool-engine");
    bench_start(b);
    submit(b, 1, 0, 1, 10, 10);
    wait_until(b, all_done(b, 1, 1));
    expect_fault(b, 1, STATUS_UNAVAILABLE, "/nowhere/modelpool-engine");
    assert_true(state_is(b, 0, "down"));
}

static void an_engine_that_is_never_ready_is_restarted(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    b->limits.start_us = 100000;
    b->limits.starts_max = 100;
    setenv("FAKE_MODE", "mute", 1);
    bench_start(b);
    submit(b, 1, 0, 1, 10, 10);
    wait_until(b, instance_status(b, 0).restarts >= 2);
    assert_false(b->streams[1].done);
    unsetenv("FAKE_MODE");
    wait_until(b, all_done(b, 1, 1));
    expect_length(b, 1, 1, 10);
}

static void a_silent_engine_is_restarted(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    b->limits.silence_us = 200000;
    b->limits.deaths_max = 100;
    setenv("FAKE_MODE", "silent", 1);
    bench_start(b);
    submit(b, 1, 0, 1, 10, 10);
    wait_until(b, instance_status(b, 0).restarts >= 1);
    unsetenv("FAKE_MODE");
    wait_until(b, all_done(b, 1, 1));
    expect_length(b, 1, 1, 10);
    usleep(500000); /* idle, it may be silent */
    assert_true(state_is(b, 0, "idle"));
}

/* A line of /proc/PID/status. */
static void status_line(int32_t pid, const char *key, char *value, size_t size)
{
    char path[64], line[256];
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    f = fopen(path, "r");
    assert_non_null(f);
    value[0] = '\0';
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0)
            snprintf(value, size, "%.60s", line + strlen(key));
    }
    fclose(f);
}

/* Standard streams and the channel, no signal blocked or ignored, no new privileges. */
static void an_engine_inherits_nothing(void **state)
{
    struct bench *b = *state;
    char path[64], value[64];
    int extra = open("/dev/null", O_RDONLY); /* not close-on-exec */
    int32_t pid;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    bench_start(b);
    wait_until(b, state_is(b, 0, "idle"));
    pid = instance_status(b, 0).pid;
    for (int fd = 0; fd < 256; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
        if ((access(path, F_OK) == 0 || errno != ENOENT) != (fd <= ORDER_FD))
            fail_msg("descriptor %d", fd);
    }
    status_line(pid, "SigBlk:", value, sizeof value);
    assert_int_equal(strtoull(value, NULL, 16), 0);
    status_line(pid, "SigIgn:", value, sizeof value);
    assert_int_equal(strtoull(value, NULL, 16), 0);
    status_line(pid, "NoNewPrivs:", value, sizeof value);
    assert_int_equal(atoi(value), 1);
    close(extra);
}

/* More orders than the socket takes: they queue, in order, and nothing blocks meanwhile. */
static void orders_queue_for_a_slow_engine(void **state)
{
    struct bench *b = *state;
    int32_t pid;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", 64 * MB);
    bench_start(b);
    wait_until(b, state_is(b, 0, "idle"));
    pid = instance_status(b, 0).pid;
    assert_int_equal(kill(pid, SIGSTOP), 0);
    for (uint64_t i = 1; i < STREAMS; i++)
        submit(b, i, 0, 1, 4000, 3);
    submit(b, 0, 0, 1, 1, 1); /* number 0 is refused at once: the thread is awake */
    wait_until(b, b->streams[0].done);
    assert_true(model_status(b, 0, 0).waiting > 0);
    policy_cancel(b->policy, 1);
    wait_until(b, b->streams[1].done);
    assert_int_equal(kill(pid, SIGCONT), 0);
    wait_until(b, all_done(b, 2, STREAMS - 1));
    expect_length(b, 2, STREAMS - 1, 3);
    assert_int_equal(instance_status(b, 0).restarts, 0);
}

/* An engine that does not end by itself is killed after quit_us. */
static void a_stopped_engine_does_not_hold_the_end(void **state)
{
    struct bench *b = *state;
    int64_t begin;
    int32_t pid;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    b->limits.quit_us = 300000;
    bench_start(b);
    wait_until(b, state_is(b, 0, "idle"));
    pid = instance_status(b, 0).pid;
    assert_int_equal(kill(pid, SIGSTOP), 0);
    begin = clock_monotonic_us();
    policy_destroy(b->policy);
    b->policy = NULL;
    assert_in_range(clock_monotonic_us() - begin, 250000, 5000000);
    assert_int_not_equal(kill(pid, 0), 0);
}

static void the_end_answers_all(void **state)
{
    struct bench *b = *state;
    int32_t pid;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    bench_start(b);
    submit(b, 1, 0, 1, 10, 3000);
    wait_until(b, all_have(b, 1, 1, 2));
    pid = instance_status(b, 0).pid;
    policy_destroy(b->policy);
    b->policy = NULL;
    take_events(b, 0);
    expect_fault(b, 1, STATUS_UNAVAILABLE, "stopping");
    assert_int_not_equal(kill(pid, 0), 0); /* gone, and reaped */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        bench_test(killed_engines_lose_nothing),
        bench_test(dying_in_a_step_loses_nothing),
        bench_test(a_poisonous_request_is_given_up),
        bench_test(doubled_tokens_are_dropped),
        bench_test(a_drained_engine_that_dies_finishes),
        bench_test(instances_share_and_help),
        bench_test(everything_at_once),
        bench_test(an_engine_that_never_starts_is_named),
        bench_test(a_missing_engine_is_named),
        bench_test(an_engine_that_is_never_ready_is_restarted),
        bench_test(a_silent_engine_is_restarted),
        bench_test(an_engine_inherits_nothing),
        bench_test(orders_queue_for_a_slow_engine),
        bench_test(a_stopped_engine_does_not_hold_the_end),
        bench_test(the_end_answers_all),
    };

    signal(SIGPIPE, SIG_IGN);
    log_init("policy_death_test", LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
