/* policy_bench.c - fixture of the policy tests */
#include "tests/unit/policy_bench.h"

#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"

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
void add_model(struct bench *b, const char *name, off_t bytes)
{
    size_t i = b->config.model_count++;
    int fd;

    snprintf(b->models[i].name, sizeof b->models[i].name, "%s", name);
    snprintf(b->paths[i], sizeof b->paths[i], "%s/%s.gguf", b->folder, name);
    b->models[i].path = b->paths[i];
    fd = open(b->paths[i], O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, bytes), 0);
    close(fd);
}

void add_instance(struct bench *b, const char *name, uint64_t memory)
{
    struct config_instance *in = &b->instances[b->config.instance_count++];

    snprintf(in->name, sizeof in->name, "%s", name);
    in->memory_bytes = memory;
    in->max_batch = 32;
}

int bench_setup(void **state)
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

void bench_start(struct bench *b)
{
    struct error err;

    b->policy = policy_create_limited(&b->config, NULL, &b->limits, b->sink, &err);
    assert_non_null(b->policy);
}

int bench_teardown(void **state)
{
    static const char *const names[] = {"FAKE_MODE",     "FAKE_STEP_US",  "FAKE_BAD_MODEL",
                                        "FAKE_DIE_FILE", "FAKE_DIE_STEP", "FAKE_COST_NS"};
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
void submit(struct bench *b, uint64_t seq, uint32_t model, uint32_t first, uint32_t prompt,
            uint32_t max_tokens)
{
    struct policy_request *r = calloc(1, sizeof *r);
    struct stream *s = &b->streams[seq];

    assert_non_null(r);
    assert_true(seq < STREAMS);
    r->seq = seq;
    r->model = model;
    r->tenant = b->tenant;
    r->ttft_us = b->ttft_us;
    r->tbt_us = b->tbt_us;
    r->max_tokens = max_tokens;
    r->token_count = prompt;
    r->tokens = calloc(prompt + 1, sizeof *r->tokens);
    s->tokens = calloc((size_t)prompt + max_tokens + 1, sizeof *s->tokens);
    assert_non_null(r->tokens);
    assert_non_null(s->tokens);
    for (uint32_t i = 0; i < prompt; i++)
        r->tokens[i] = s->tokens[i] = i == 0 ? first : (uint32_t)(seq * 31 + i) % FAKE_VOCABULARY;
    r->sampling.flags = SAMPLING_IGNORE_EOS;
    r->logprobs = s->logprobs = seq % 3 == 0 ? 1 + (uint32_t)seq % 5 : 0;
    r->bias_count = (uint32_t)seq % 4;
    r->biases = calloc(r->bias_count + 1, sizeof *r->biases);
    assert_non_null(r->biases);
    s->model = model;
    s->prompt = s->count = prompt;
    policy_submit(b->policy, r);
}

/* Those of the next token, once, and only if they were asked for. */
static void take_logprobs(struct stream *s, const struct event_logprobs *ev)
{
    assert_true(s->logprobs > 0 && !s->done);
    assert_int_equal(ev->count, s->logprobs - 1);
    assert_int_equal(ev->position, s->count);
    assert_true(ev->picked.logprob >= fake_logprob(ev->picked.token) &&
                ev->picked.logprob <= fake_logprob(ev->picked.token));
    for (uint32_t i = 0; i < ev->count; i++)
        assert_int_equal(ev->top[i].token, fake_alternative(ev->picked.token, i));
    s->heard = *ev;
}

void ask(struct bench *b, uint64_t seq, uint32_t model, int64_t wait_us)
{
    struct policy_ask *a = calloc(1, sizeof *a);

    assert_non_null(a);
    *a = (struct policy_ask){.seq = seq,
                             .model = model,
                             .tenant = b->tenant,
                             .tokens = 10,
                             .max_tokens = 100,
                             .ttft_us = b->ttft_us,
                             .tbt_us = b->tbt_us,
                             .wait_us = wait_us};
    policy_admit(b->policy, a);
}

static void take_row(struct bench *b, const struct event_row *row)
{
    struct stream *s = &b->streams[row->seq];

    assert_true(row->seq < STREAMS && s->tokens != NULL);
    assert_false(s->done); /* nothing comes after DONE */
    assert_int_equal(row->position, s->count);
    assert_int_equal(row->token, fake_token(s->model, s->tokens, s->count));
    if (s->logprobs > 0) {
        assert_int_equal(s->heard.position, row->position);
        assert_int_equal(s->heard.picked.token, row->token);
    }
    s->tokens[s->count++] = row->token;
    if (b->order_count < 4096)
        b->order[b->order_count++] = s->model;
}

static void take_event(struct bench *b, const struct policy_event *ev)
{
    struct stream *s;

    if (ev->mail.kind == POLICY_COST) {
        const struct policy_cost *c = (const struct policy_cost *)(const void *)ev;

        b->costs[c->model] = *c;
        return;
    }
    s = &b->streams[ev->seq < STREAMS ? ev->seq : 0];
    switch ((enum policy_event_kind)ev->mail.kind) {
    case POLICY_TOKENS:
        for (uint32_t i = 0; i < ev->count; i++)
            take_row(b, &ev->rows[i]);
        break;
    case POLICY_LOGPROBS:
        assert_true(ev->seq < STREAMS);
        take_logprobs(s, &ev->logprobs);
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
    case POLICY_ADMITTED:
        s->admitted++;
        b->admissions[b->admission_count++ % STREAMS] = ev->seq;
        break;
    case POLICY_WAITING:
        s->waiting++;
        snprintf(s->text, sizeof s->text, "%s", ev->text);
        break;
    case POLICY_REFUSED:
        s->refused++;
        s->status = ev->status;
        snprintf(s->text, sizeof s->text, "%s", ev->text);
        break;
    case POLICY_COST:
        break;
    case POLICY_MODEL:
        if (ev->resident)
            b->arrivals[ev->model]++;
        else
            b->departures[ev->model]++;
        break;
    }
}

void take_events(struct bench *b, int wait_ms)
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

int all_done(const struct bench *b, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i <= to; i++) {
        if (!b->streams[i].done)
            return 0;
    }
    return 1;
}

uint32_t generated(const struct bench *b, uint64_t seq)
{
    return b->streams[seq].count - b->streams[seq].prompt;
}

int all_have(const struct bench *b, uint64_t from, uint64_t to, uint32_t tokens)
{
    for (uint64_t i = from; i <= to; i++) {
        if (generated(b, i) < tokens)
            return 0;
    }
    return 1;
}

void expect_length(const struct bench *b, uint64_t from, uint64_t to, uint32_t tokens)
{
    for (uint64_t i = from; i <= to; i++) {
        assert_string_equal(b->streams[i].text, "");
        assert_int_equal(b->streams[i].finish, FINISH_LENGTH);
        assert_int_equal(generated(b, i), tokens);
    }
}

void expect_fault(const struct bench *b, uint64_t seq, enum status status, const char *part)
{
    assert_true(b->streams[seq].done);
    assert_int_equal(b->streams[seq].finish, FINISH_NONE);
    assert_string_equal(status_word(b->streams[seq].status), status_word(status));
    if (strstr(b->streams[seq].text, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", b->streams[seq].text, part);
}

/* --- the snapshot ----------------------------------------------------------------------------- */

struct policy_instance_status instance_status(struct bench *b, uint32_t i)
{
    struct policy_instance_status status;
    struct policy_snapshot snap;

    assert_int_equal(policy_snapshot(b->policy, &snap, NULL), 0);
    assert_true(i < snap.instances);
    status = snap.instance[i];
    policy_snapshot_free(&snap);
    return status;
}

struct policy_model_status model_status(struct bench *b, uint32_t i, uint32_t model)
{
    struct policy_model_status status;
    struct policy_snapshot snap;

    assert_int_equal(policy_snapshot(b->policy, &snap, NULL), 0);
    assert_true(i < snap.instances && model < snap.models);
    status = snap.model[i * snap.models + model];
    policy_snapshot_free(&snap);
    return status;
}

int state_is(struct bench *b, uint32_t i, const char *word)
{
    return strcmp(instance_status(b, i).state, word) == 0;
}

void kill_engine(struct bench *b)
{
    int32_t pid;

    wait_until(b, instance_status(b, 0).pid > 0);
    pid = instance_status(b, 0).pid;
    assert_int_equal(kill(pid, SIGKILL), 0);
}
