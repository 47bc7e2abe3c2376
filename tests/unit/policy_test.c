/*
 * policy_test.c - the policy thread against a simulated engine (tests/tools/fake_engine.c)
 *
 * Every stream is compared with what its tokens must be, so a token that is lost, doubled or put in
 * another place is seen, whatever was killed in between.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/policy_state.h"
#include "tests/tools/fake_engine.h"

#define STREAMS 64
#define WAIT_US 30000000
#define MB      (1024u * 1024u)

struct stream { /* what a client has seen of a sequence */
    uint32_t model, prompt, count;
    uint32_t *tokens;
    int done;
    enum finish finish;
    enum status status;
    struct policy_usage usage;
    char text[ORDER_TEXT_MAX];
};

struct bench {
    struct config config;
    struct config_model models[4];
    struct config_instance instances[2];
    struct policy_limits limits;
    struct mailbox *sink;
    struct policy *policy;
    struct stream streams[STREAMS]; /* by sequence number */
    char folder[64], engine[512], paths[4][128];
    uint32_t order[4096], order_count; /* models of the rows as they came */
    int replies;
    struct {
        uint64_t tag;
        enum status status;
        char text[ORDER_TEXT_MAX];
    } last_reply;
    int arrivals[4], departures[4]; /* POLICY_MODEL */
};

/* --- fixture ---------------------------------------------------------------------------------- */

static void find_engine(char *path, size_t size)
{
    char self[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    assert_true(n > 0);
    self[n] = '\0';
    snprintf(path, size, "%s/../tools/fake_engine", dirname(self));
    if (access(path, X_OK) != 0) /* an out-of-tree build may put all into one folder */
        snprintf(path, size, "%s/fake_engine", self);
    assert_int_equal(access(path, X_OK), 0);
}

/* A model file of that many bytes: its weights. */
static void add_model(struct bench *b, const char *name, off_t bytes)
{
    size_t i = b->config.model_count++;
    int fd;

    snprintf(b->models[i].name, sizeof b->models[i].name, "%s", name);
    snprintf(b->paths[i], sizeof b->paths[i], "%s/%s", b->folder, name);
    b->models[i].path = b->paths[i];
    fd = open(b->paths[i], O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, bytes), 0);
    close(fd);
}

static void add_instance(struct bench *b, const char *name, uint64_t memory)
{
    struct config_instance *in = &b->instances[b->config.instance_count++];

    snprintf(in->name, sizeof in->name, "%s", name);
    in->memory_bytes = memory;
    in->max_batch = 32;
}

static int setup(void **state)
{
    static char node[] = "node1", scheduler[] = "rr";
    struct bench *b = calloc(1, sizeof *b);

    assert_non_null(b);
    snprintf(b->folder, sizeof b->folder, "/tmp/policy_test.XXXXXX");
    assert_non_null(mkdtemp(b->folder));
    find_engine(b->engine, sizeof b->engine);
    b->config.node = node;
    b->config.scheduler = scheduler;
    b->config.engine = b->engine;
    b->config.turn_us = 20000;
    b->config.models = b->models;
    b->config.instances = b->instances;
    b->limits = (struct policy_limits){
        .restart = {.delay_min_us = 20000, .delay_max_us = 100000, .reset_us = 60000000},
        .start_us = 5000000,
        .silence_us = 20000000,
        .quit_us = 2000000,
        .starts_max = 3,
        .deaths_max = 3,
    };
    b->sink = mailbox_create(NULL);
    assert_non_null(b->sink);
    *state = b;
    return 0;
}

static void start(struct bench *b)
{
    struct error err;

    b->policy = policy_create_limited(&b->config, &b->limits, b->sink, &err);
    assert_non_null(b->policy);
}

static int teardown(void **state)
{
    static const char *const names[] = {"FAKE_MODE", "FAKE_STEP_US", "FAKE_BAD_MODEL",
                                        "FAKE_DIE_FILE", "FAKE_DIE_STEP"};
    struct bench *b = *state;

    policy_destroy(b->policy);
    mailbox_destroy(b->sink);
    for (size_t i = 0; i < b->config.model_count; i++)
        unlink(b->paths[i]);
    rmdir(b->folder);
    for (size_t i = 0; i < STREAMS; i++)
        free(b->streams[i].tokens);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
    free(b);
    return 0;
}

/* --- requests and events ---------------------------------------------------------------------- */

/* Prompt: `first`, then numbers made from the sequence's. */
static void submit(struct bench *b, uint64_t seq, uint32_t model, uint32_t first, uint32_t prompt,
                   uint32_t max_tokens)
{
    struct policy_request *r = calloc(1, sizeof *r);
    struct stream *s = &b->streams[seq];

    assert_non_null(r);
    assert_true(seq < STREAMS);
    r->seq = seq;
    r->model = model;
    r->max_tokens = max_tokens;
    r->token_count = prompt;
    r->tokens = calloc(prompt + 1, sizeof *r->tokens);
    s->tokens = calloc((size_t)prompt + max_tokens + 1, sizeof *s->tokens);
    assert_non_null(r->tokens);
    assert_non_null(s->tokens);
    for (uint32_t i = 0; i < prompt; i++)
        r->tokens[i] = s->tokens[i] = i == 0 ? first : (uint32_t)(seq * 31 + i) % FAKE_VOCABULARY;
    r->sampling.flags = SAMPLING_IGNORE_EOS;
    s->model = model;
    s->prompt = s->count = prompt;
    policy_submit(b->policy, r);
}

static void take_row(struct bench *b, const struct event_row *row)
{
    struct stream *s = &b->streams[row->seq];

    assert_true(row->seq < STREAMS && s->tokens != NULL);
    assert_false(s->done); /* nothing comes after DONE */
    assert_int_equal(row->position, s->count);
    assert_int_equal(row->token, fake_token(s->model, s->tokens, s->count));
    s->tokens[s->count++] = row->token;
    if (b->order_count < 4096)
        b->order[b->order_count++] = s->model;
}

static void take_event(struct bench *b, const struct policy_event *ev)
{
    struct stream *s = &b->streams[ev->seq < STREAMS ? ev->seq : 0];

    switch ((enum policy_event_kind)ev->mail.kind) {
    case POLICY_TOKENS:
        for (uint32_t i = 0; i < ev->count; i++)
            take_row(b, &ev->rows[i]);
        break;
    case POLICY_DONE:
        assert_false(s->done); /* exactly one */
        s->done = 1;
        s->finish = ev->finish;
        s->status = ev->status;
        s->usage = ev->usage;
        snprintf(s->text, sizeof s->text, "%s", ev->text);
        break;
    case POLICY_REPLY:
        b->replies++;
        b->last_reply.tag = ev->tag;
        b->last_reply.status = ev->status;
        memcpy(b->last_reply.text, ev->text, sizeof ev->text);
        break;
    case POLICY_MODEL:
        if (ev->resident)
            b->arrivals[ev->model]++;
        else
            b->departures[ev->model]++;
        break;
    }
}

static void take_events(struct bench *b, int wait_ms)
{
    struct pollfd pfd = {.fd = mailbox_fd(b->sink), .events = POLLIN};

    if (poll(&pfd, 1, wait_ms) < 0)
        return;
    for (struct mail *m = mailbox_take(b->sink), *next; m != NULL; m = next) {
        next = m->next;
        take_event(b, (struct policy_event *)m);
        free(m);
    }
}

#define wait_until(b, condition)                                                                   \
    do {                                                                                           \
        int64_t deadline = clock_monotonic_us() + WAIT_US;                                         \
        while (!(condition) && clock_monotonic_us() < deadline)                                    \
            take_events(b, 20);                                                                    \
        if (!(condition))                                                                          \
            fail_msg("%s did not come true in time", #condition);                                  \
    } while (0)

static int all_done(const struct bench *b, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i <= to; i++) {
        if (!b->streams[i].done)
            return 0;
    }
    return 1;
}

static uint32_t generated(const struct bench *b, uint64_t seq)
{
    return b->streams[seq].count - b->streams[seq].prompt;
}

static int all_have(const struct bench *b, uint64_t from, uint64_t to, uint32_t tokens)
{
    for (uint64_t i = from; i <= to; i++) {
        if (generated(b, i) < tokens)
            return 0;
    }
    return 1;
}

static void expect_length(const struct bench *b, uint64_t from, uint64_t to, uint32_t tokens)
{
    for (uint64_t i = from; i <= to; i++) {
        assert_string_equal(b->streams[i].text, "");
        assert_int_equal(b->streams[i].finish, FINISH_LENGTH);
        assert_int_equal(generated(b, i), tokens);
    }
}

static void expect_fault(const struct bench *b, uint64_t seq, enum status status, const char *part)
{
    assert_true(b->streams[seq].done);
    assert_int_equal(b->streams[seq].finish, FINISH_NONE);
    assert_string_equal(status_word(b->streams[seq].status), status_word(status));
    if (strstr(b->streams[seq].text, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", b->streams[seq].text, part);
}

/* --- the snapshot ----------------------------------------------------------------------------- */

static struct policy_instance_status instance_status(struct bench *b, uint32_t i)
{
    struct policy_instance_status status;
    struct policy_snapshot snap;

    assert_int_equal(policy_snapshot(b->policy, &snap, NULL), 0);
    assert_true(i < snap.instances);
    status = snap.instance[i];
    policy_snapshot_free(&snap);
    return status;
}

static struct policy_model_status model_status(struct bench *b, uint32_t i, uint32_t model)
{
    struct policy_model_status status;
    struct policy_snapshot snap;

    assert_int_equal(policy_snapshot(b->policy, &snap, NULL), 0);
    assert_true(i < snap.instances && model < snap.models);
    status = snap.model[i * snap.models + model];
    policy_snapshot_free(&snap);
    return status;
}

static int state_is(struct bench *b, uint32_t i, const char *word)
{
    return strcmp(instance_status(b, i).state, word) == 0;
}

/* --- tests: streams --------------------------------------------------------------------------- */

static void a_request_streams(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    start(b);
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
    start(b);
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
    start(b);
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
    start(b);
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
    start(b);
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

static void a_long_prompt_arrives_whole(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", 4 * MB);
    start(b);
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
    start(b);
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

/* --- tests: death ----------------------------------------------------------------------------- */

static void kill_engine(struct bench *b)
{
    int32_t pid;

    wait_until(b, instance_status(b, 0).pid > 0);
    pid = instance_status(b, 0).pid;
    assert_int_equal(kill(pid, SIGKILL), 0);
}

static void killed_engines_lose_nothing(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_model(b, "b", 1000);
    add_instance(b, "cpu", 4 * MB);
    start(b);
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
    start(b);
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
    start(b);
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
    start(b);
    submit(b, 1, 0, FAKE_TWICE, 10, 40);
    wait_until(b, all_done(b, 1, 1));
    expect_length(b, 1, 1, 40);
}

static void an_engine_that_never_starts_is_named(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    setenv("FAKE_MODE", "exit", 1);
    start(b);
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
    start(b);
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
    start(b);
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
    start(b);
    submit(b, 1, 0, 1, 10, 10);
    wait_until(b, instance_status(b, 0).restarts >= 1);
    unsetenv("FAKE_MODE");
    wait_until(b, all_done(b, 1, 1));
    expect_length(b, 1, 1, 10);
    usleep(500000); /* idle, it may be silent */
    assert_true(state_is(b, 0, "idle"));
}

/* --- tests: memory ---------------------------------------------------------------------------- */

/* 12 sequences of 160 tokens need 120 pages; there are 60. */
static void full_pages_preempt(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 10 * 1024);
    add_instance(b, "cpu", 70 * 1024);
    start(b);
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

static void what_never_fits_is_a_fault(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 10 * 1024);
    add_model(b, "huge", 100 * 1024);
    add_instance(b, "cpu", 20 * 1024); /* 10 pages beside a: 160 tokens */
    start(b);
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
    start(b);
    for (uint64_t i = 1; i <= 3; i++)
        submit(b, i, 0, 1, 150, 40); /* 12 pages each in the end */
    wait_until(b, all_have(b, 1, 3, 3));
    submit(b, 4, 1, 1, 10, 100);
    wait_until(b, all_done(b, 1, 4));
    expect_length(b, 1, 3, 40);
    expect_length(b, 4, 4, 100);
    assert_int_equal(instance_status(b, 0).restarts, 0);
}

/* --- tests: commands -------------------------------------------------------------------------- */

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
    start(b);
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
    start(b);
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

/* A drained instance whose engine dies still finishes what it had. */
static void a_drained_engine_that_dies_finishes(void **state)
{
    struct bench *b = *state;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    start(b);
    submit(b, 1, 0, 1, 10, 200);
    wait_until(b, all_have(b, 1, 1, 5));
    policy_command(b->policy, POLICY_DRAIN, 0, 78);
    kill_engine(b);
    wait_until(b, b->replies == 1);
    assert_int_equal(b->last_reply.status, STATUS_OK);
    expect_length(b, 1, 1, 200);
}

/* --- tests: instances, snapshot, end ---------------------------------------------------------- */

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
    start(b);
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
    start(b);
    assert_int_equal(policy_snapshot(b->policy, &snap, NULL), 0);
    assert_int_equal(snap.instances, 1);
    assert_int_equal(snap.instance[0].index, 1);
    policy_snapshot_free(&snap);
}

static void the_snapshot_counts(void **state)
{
    struct bench *b = *state;
    struct policy_instance_status in;
    struct policy_model_status m;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    start(b);
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

static void the_end_answers_all(void **state)
{
    struct bench *b = *state;
    int32_t pid;

    add_model(b, "a", 1000);
    add_instance(b, "cpu", MB);
    start(b);
    submit(b, 1, 0, 1, 10, 3000);
    wait_until(b, all_have(b, 1, 1, 2));
    pid = instance_status(b, 0).pid;
    policy_destroy(b->policy);
    b->policy = NULL;
    take_events(b, 0);
    expect_fault(b, 1, STATUS_UNAVAILABLE, "stopping");
    assert_int_not_equal(kill(pid, 0), 0); /* gone, and reaped */
}

/* Two instances, three models of which one fits, pages for a third of the sequences, engines killed
 * one after the other, requests cancelled: every other stream comes whole. */
static void everything_at_once(void **state)
{
    struct bench *b = *state;
    uint32_t random = 1;

    for (int m = 0; m < 3; m++)
        add_model(b, (const char *[]){"a", "b", "c"}[m], 60 * 1024);
    add_instance(b, "cpu0", 120 * 1024);
    add_instance(b, "cpu1", 120 * 1024);
    b->config.turn_us = 5000;
    start(b);
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
    start(b);
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
    start(b);
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
    start(b);
    wait_until(b, state_is(b, 0, "idle"));
    pid = instance_status(b, 0).pid;
    assert_int_equal(kill(pid, SIGSTOP), 0);
    begin = clock_monotonic_us();
    policy_destroy(b->policy);
    b->policy = NULL;
    assert_in_range(clock_monotonic_us() - begin, 250000, 5000000);
    assert_int_not_equal(kill(pid, 0), 0);
}

static void a_bad_scheduler_is_refused(void **state)
{
    static char name[] = "fifo";
    struct bench *b = *state;
    struct error err;

    b->config.scheduler = name;
    assert_null(policy_create(&b->config, b->sink, &err));
    assert_int_equal(err.status, STATUS_INVALID);
    assert_non_null(strstr(err.text, "rr"));
}

#define bench_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        bench_test(a_request_streams),
        bench_test(an_end_of_sequence_stops),
        bench_test(cancel_and_stop_end_at_once),
        bench_test(two_models_take_turns),
        bench_test(a_new_model_waits_a_turn_at_most),
        bench_test(a_long_prompt_arrives_whole),
        bench_test(what_cannot_run_is_refused),
        bench_test(killed_engines_lose_nothing),
        bench_test(dying_in_a_step_loses_nothing),
        bench_test(a_poisonous_request_is_given_up),
        bench_test(doubled_tokens_are_dropped),
        bench_test(an_engine_that_never_starts_is_named),
        bench_test(a_missing_engine_is_named),
        bench_test(an_engine_that_is_never_ready_is_restarted),
        bench_test(a_silent_engine_is_restarted),
        bench_test(full_pages_preempt),
        bench_test(what_never_fits_is_a_fault),
        bench_test(weights_take_room_from_others),
        bench_test(models_load_and_unload),
        bench_test(a_drain_waits_for_its_sequences),
        bench_test(a_drained_engine_that_dies_finishes),
        bench_test(instances_share_and_help),
        bench_test(the_snapshot_counts),
        bench_test(the_end_answers_all),
        bench_test(everything_at_once),
        bench_test(an_engine_inherits_nothing),
        bench_test(orders_queue_for_a_slow_engine),
        bench_test(a_stopped_engine_does_not_hold_the_end),
        bench_test(a_bad_scheduler_is_refused),
    };

    signal(SIGPIPE, SIG_IGN);
    log_init("policy_test", LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
