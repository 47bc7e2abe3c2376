/*
 * policy_engine_test.c - the policy thread with the real engine and a real model
 *
 * MODELPOOL_TEST_MODEL is a GGUF file, MODELPOOL_TEST_ENGINE the engine (default: the one built
 * beside this test).  What a request yields alone is what it must yield among others, in turns with
 * another model, in memory that is too small, and when the engine is killed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/policy.h"

#define STREAMS 6
#define PROMPT  40
#define ANSWER  48
#define WAIT_US 240000000

struct outcome {
    uint32_t tokens[ANSWER];
    uint32_t count, position;
    int done, faulted;
    char text[ORDER_TEXT_MAX];
    struct policy_usage usage;
};

struct bench {
    struct config config;
    struct config_model models[3]; /* the third one for Aegaeon's turns alone */
    struct config_instance instance;
    struct mailbox *sink;
    struct policy *policy;
    struct outcome outcomes[STREAMS + 1]; /* by sequence number */
    struct outcome alone[STREAMS + 1];
    char engine[512];
    uint64_t weights;
};

static int find_engine(struct bench *b)
{
    const char *given = getenv("MODELPOOL_TEST_ENGINE");
    char self[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (given != NULL) {
        snprintf(b->engine, sizeof b->engine, "%s", given);
    } else if (n > 0) {
        self[n] = '\0';
        snprintf(b->engine, sizeof b->engine, "%s/../../modelpool-engine", dirname(self));
        if (access(b->engine, X_OK) != 0)
            snprintf(b->engine, sizeof b->engine, "%s/../../engine/modelpool-engine", self);
    }
    return access(b->engine, X_OK);
}

static int setup(void **state)
{
    static char node[] = "node1", scheduler[] = "rr";
    struct bench *b = calloc(1, sizeof *b);
    char *model = getenv("MODELPOOL_TEST_MODEL");

    assert_non_null(b);
    *state = b;
    if (model == NULL || find_engine(b) != 0)
        return 0;
    b->config.node = node;
    b->config.scheduler = scheduler;
    b->config.engine = b->engine;
    b->config.turn_us = 200000;
    b->config.models = b->models;
    b->config.instances = &b->instance;
    b->config.model_count = 3;
    b->config.instance_count = 1;
    for (int i = 0; i < 3; i++) {
        snprintf(b->models[i].name, sizeof b->models[i].name, "model%d", i);
        b->models[i].path = model;
        b->models[i].max_context = 1024;
    }
    snprintf(b->instance.name, sizeof b->instance.name, "cpu");
    b->instance.max_batch = 32;
    b->sink = mailbox_create(NULL);
    assert_non_null(b->sink);
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;

    policy_destroy(b->policy);
    mailbox_destroy(b->sink);
    free(b);
    return 0;
}

static void start(struct bench *b, uint64_t memory)
{
    struct error err;

    memset(b->outcomes, 0, sizeof b->outcomes);
    b->instance.memory_bytes = memory;
    b->policy = policy_create(&b->config, NULL, b->sink, &err);
    assert_non_null(b->policy);
}

static void stop(struct bench *b)
{
    policy_destroy(b->policy);
    b->policy = NULL;
}

static void submit(struct bench *b, uint64_t seq, uint32_t model)
{
    struct policy_request *r = calloc(1, sizeof *r);

    assert_non_null(r);
    r->seq = seq;
    r->model = model;
    r->max_tokens = ANSWER;
    r->token_count = PROMPT;
    r->tokens = calloc(PROMPT, sizeof *r->tokens);
    assert_non_null(r->tokens);
    for (uint32_t i = 0; i < PROMPT; i++)
        r->tokens[i] = 100 + (uint32_t)(seq * 977 + i * i * 31) % 20000;
    r->sampling = (struct order_sampling){.seed = seq,
                                          .temperature = seq % 2 ? 0.0f : 0.8f,
                                          .top_p = 1.0f,
                                          .repetition_penalty = 1.0f,
                                          .flags = SAMPLING_IGNORE_EOS};
    b->outcomes[seq].position = PROMPT;
    policy_submit(b->policy, r);
}

static void take_event(struct bench *b, const struct policy_event *ev)
{
    for (uint32_t i = 0; ev->mail.kind == POLICY_TOKENS && i < ev->count; i++) {
        struct outcome *o = &b->outcomes[ev->rows[i].seq];

        assert_int_equal(ev->rows[i].position, o->position);
        assert_true(o->count < ANSWER && !o->done);
        o->position++;
        o->tokens[o->count++] = ev->rows[i].token;
    }
    if (ev->mail.kind == POLICY_DONE) {
        struct outcome *o = &b->outcomes[ev->seq];

        assert_false(o->done);
        o->done = 1;
        o->faulted = ev->finish == FINISH_NONE;
        o->usage = ev->usage;
        memcpy(o->text, ev->text, sizeof o->text);
    }
}

static void take_events(struct bench *b)
{
    struct pollfd pfd = {.fd = mailbox_fd(b->sink), .events = POLLIN};

    poll(&pfd, 1, 100);
    for (struct mail *m = mailbox_take(b->sink), *next; m != NULL; m = next) {
        next = m->next;
        take_event(b, (struct policy_event *)m);
        free(m);
    }
}

/* Until sequences from..to have ended, or have that many tokens (ANSWER: have ended). */
static void wait_for(struct bench *b, uint64_t from, uint64_t to, uint32_t tokens)
{
    int64_t deadline = clock_monotonic_us() + WAIT_US;

    for (uint64_t i = from; i <= to; i++) {
        const struct outcome *o = &b->outcomes[i];

        while (!o->done && (tokens == ANSWER || o->count < tokens)) {
            assert_true(clock_monotonic_us() < deadline);
            take_events(b);
        }
    }
}

static void wait_done(struct bench *b)
{
    for (uint64_t i = 1; i <= STREAMS; i++) {
        wait_for(b, i, i, ANSWER);
        if (b->outcomes[i].faulted)
            fail_msg("sequence %d: %s", (int)i, b->outcomes[i].text);
        assert_int_equal(b->outcomes[i].count, ANSWER);
    }
}

static void expect_same(const struct bench *b)
{
    for (uint64_t i = 1; i <= STREAMS; i++)
        assert_memory_equal(b->outcomes[i].tokens, b->alone[i].tokens, sizeof b->alone[i].tokens);
}

static struct policy_instance_status status(struct bench *b)
{
    struct policy_instance_status s;
    struct policy_snapshot snap;

    assert_int_equal(policy_snapshot(b->policy, &snap, NULL), 0);
    s = snap.instance[0];
    b->weights = snap.model[0].weight_bytes;
    policy_snapshot_free(&snap);
    return s;
}

/* One after the other, with room for all. */
static void run_alone(struct bench *b)
{
    start(b, (uint64_t)1 << 30);
    for (uint64_t i = 1; i <= STREAMS; i++) {
        submit(b, i, i % 2);
        wait_for(b, i, i, ANSWER);
        if (b->outcomes[i].faulted)
            fail_msg("sequence %d: %s", (int)i, b->outcomes[i].text);
        assert_int_equal(b->outcomes[i].count, ANSWER);
        assert_true(b->outcomes[i].usage.engine_us > 0);
        assert_int_equal(b->outcomes[i].usage.prefilled, PROMPT);
    }
    memcpy(b->alone, b->outcomes, sizeof b->alone);
    assert_int_equal(status(b).restarts, 0);
    stop(b);
}

static void submit_all(struct bench *b)
{
    for (uint64_t i = 1; i <= STREAMS; i++)
        submit(b, i, i % 2);
}

/* Three models in Aegaeon's turns: KV goes with them, and has the same bits. */
static void check_parked(struct bench *b)
{
    static char aegaeon[] = "aegaeon";
    struct policy_instance_status s;

    b->config.scheduler = aegaeon;
    b->config.turn_us = 200000;
    b->config.swap_space = (uint64_t)64 << 20;
    start(b, (uint64_t)1 << 30);
    for (uint64_t i = 1; i <= STREAMS; i++)
        submit(b, i, (uint32_t)(i % 3));
    wait_done(b);
    expect_same(b);
    s = status(b);
    print_message("Aegaeon: %u spills\n", (unsigned)s.spills);
    assert_true(s.spills > 0);
    assert_int_equal(s.restarts, 0);
    stop(b);
}

static void streams_are_the_same_whatever_happens(void **state)
{
    struct bench *b = *state;
    struct policy_instance_status s;

    if (b->sink == NULL) {
        print_message("MODELPOOL_TEST_MODEL or the engine is not there\n");
        skip();
    }
    run_alone(b);

    /* Only one of the two models fits: they switch. */
    start(b, b->weights + b->weights / 2);
    submit_all(b);
    wait_done(b);
    expect_same(b);
    s = status(b);
    assert_true(s.switches >= 3);
    print_message("%u switches, %.1f ms each\n", (unsigned)s.switches,
                  (double)s.switch_us / 1e3 / (double)s.switches);

    /* Killed twice on the way. */
    for (uint32_t kills = 1; kills <= 2; kills++) {
        stop(b);
        start(b, (uint64_t)1 << 30);
        submit_all(b);
        wait_for(b, 1, STREAMS, kills * 12);
        assert_int_equal(kill(status(b).pid, SIGKILL), 0);
        wait_done(b);
        expect_same(b);
        assert_int_equal(status(b).restarts, 1);
    }
    stop(b);

    /* Memory for the weights and a little KV: sequences give way, and are given anew. */
    start(b, b->weights + ((uint64_t)12 << 20));
    submit_all(b);
    wait_done(b);
    expect_same(b);
    s = status(b);
    print_message("%u preemptions\n", (unsigned)s.preemptions);
    assert_true(s.preemptions > 0);
    assert_int_equal(s.restarts, 0);
    assert_int_equal(s.spills, 0);
    stop(b);

    /* The same with host memory for their KV, also for less than they want. */
    for (uint64_t swap = 64; swap >= 8; swap /= 8) {
        b->config.swap_space = swap << 20;
        start(b, b->weights + ((uint64_t)12 << 20));
        submit_all(b);
        wait_done(b);
        expect_same(b);
        s = status(b);
        print_message("%u preemptions, %u of them spills\n", (unsigned)s.preemptions,
                      (unsigned)s.spills);
        assert_true(s.spills > 0);
        assert_int_equal(s.restarts, 0);
        stop(b);
    }
    check_parked(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(streams_are_the_same_whatever_happens, setup, teardown),
    };

    log_init("policy_engine_test", LOG_LEVEL_INFO);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
