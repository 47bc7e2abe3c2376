/* generation.c - a completion from admission to the last byte; see generation.h */
#include "daemon/generation_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/prompt.h"
#include "daemon/reply.h"
#include "daemon/usage.h"

#define HELD_POLL_US 100000

/* --- the set ------------------------------------------------------------------------------------
 */

static struct generation *find(const struct generations *all, uint64_t seq)
{
    struct generation *g = all->slot[seq % GENERATIONS_MAX];
    return g && g->seq == seq ? g : NULL;
}

static int enter(struct generations *all, struct generation *g, struct openai_error *e)
{
    uint32_t i = 0;

    if (all->count == GENERATIONS_MAX) {
        openai_fail(e, 503, "server_error", "overloaded",
                    "%u requests are being served, which is as many as fit", GENERATIONS_MAX);
        e->retry_after = 5;
        return -1;
    }
    while (all->slot[i])
        i++;
    g->seq = ++all->started * GENERATIONS_MAX + i;
    all->slot[i] = g;
    all->count++;
    return 0;
}

static void destroy(struct generation *g)
{
    stream_close(&g->stream);
    openai_request_fini(&g->request);
    free(g->prompt);
    free(g->piece);
    free(g->text);
    free(g);
}

static void leave(struct generation *g)
{
    struct generations *all = g->all;

    all->slot[g->seq % GENERATIONS_MAX] = NULL;
    all->count--;
    leases_release(all->f->leases, g->grant);
    destroy(g);
    if (all->stopping && all->count == 0)
        all->idle(all->idle_arg);
}

/* --- the answer's end ---------------------------------------------------------------------------
 */

static void send_stream_end(struct generation *g)
{
    struct openai_answer a = generation_answer(g);
    struct openai_usage usage = {g->prompt_count, g->completion};
    int with_usage = g->request.include_usage, failed = 0;

    if (g->outcome != DONE)
        failed = stream_event(&g->stream, openai_error_json(&g->error), 0, NULL);
    if (g->outcome == DONE && g->text_len)
        failed = stream_event(&g->stream, generation_text_chunk(g, g->text, g->text_len), 0, NULL);
    if (g->outcome == DONE && !failed)
        failed = stream_event(&g->stream, openai_finish_chunk(&a, g->finish, with_usage), 0, NULL);
    if (g->outcome == DONE && !failed && with_usage)
        failed = stream_event(&g->stream, openai_usage_chunk(&a, &usage), 0, NULL);
    if (failed) /* a stream that breaks off says that something is missing */
        stream_close(&g->stream);
    else
        stream_end(&g->stream);
}

static void send_end(struct generation *g)
{
    struct openai_usage usage = {g->prompt_count, g->completion};

    if (!g->stream.req)
        return;
    if (g->stream.started || (g->request.stream && g->outcome == DONE)) {
        metrics_answer(g->all->metrics, 200);
        send_stream_end(g);
        return;
    }
    struct evhttp_request *req = stream_take(&g->stream);
    metrics_answer(g->all->metrics, g->outcome == DONE ? 200 : g->error.http);
    if (g->outcome == DONE) {
        struct openai_answer a = generation_answer(g);
        reply_json(req, g->id, 200,
                   openai_answer_json(&a, g->text ? g->text : "", g->text_len, g->finish, &usage));
    } else {
        reply_error(req, g->id, &g->error);
    }
}

/* --- the ledger row's end -----------------------------------------------------------------------
 */

/* Give back what was reserved for tokens that are not billed.  The lease may be another one by now,
 * if the controller has said that the job is another run. */
static void refund(struct generation *g, uint64_t tokens)
{
    struct lease *lease = g->grant->lease;
    lease->used -= tokens < lease->used ? tokens : lease->used;
}

static void count_end(struct generation *g)
{
    enum metrics_finish finish = METRICS_ABORT;

    if (g->outcome == DONE)
        finish = strcmp(g->finish, "stop") == 0 ? METRICS_STOP : METRICS_LENGTH;
    else if (g->outcome == FAILED)
        finish = METRICS_ERROR;
    metrics_end(g->all->metrics, g->model, finish, clock_monotonic_us() - g->arrived_us);
    log_debug("%s: uid %lld, %s: %s, %u and %u tokens", g->id, (long long)g->grant->lease->row.uid,
              g->all->f->config->models[g->model].name,
              g->outcome == DONE ? g->finish : "ended early", g->prompt_count, g->completion);
}

static void on_closed(void *arg, uint64_t seq, const struct db_usage *row, const struct error *err)
{
    struct generation *g = find(arg, seq);

    if (!g)
        return;
    if (err) { /* the journal's slot is kept: the row is closed by it at the next start */
        log_error("ledger row %lld could not be closed: %s", (long long)row->row, err->text);
        g->outcome = FAILED;
        openai_fail(&g->error, 500, "server_error", NULL,
                    "the request's usage could not be recorded");
    } else if (g->journal_slot >= 0) {
        journal_release(g->all->f->journal, g->journal_slot);
    }
    count_end(g);
    send_end(g);
    leave(g);
}

static void close_row(struct generation *g)
{
    static const char *const states[] = {
        [DONE] = "done",
        [CANCELLED] = "cancelled",
        [FAILED] = "failed",
        [INTERRUPTED] = "interrupted",
    };
    static const char *const finishes[] = {
        [CANCELLED] = "cancel", [FAILED] = "error", [INTERRUPTED] = "error"};
    struct error err = {0};
    uint32_t billed = g->outcome == DONE ? g->completion : g->delivered;

    generation_set_state(g, CLOSING);
    refund(g, g->completion - billed);
    g->row.completion_tokens = billed;
    g->row.end_us = clock_wall_us();
    snprintf(g->row.state, sizeof g->row.state, "%s", states[g->outcome]);
    snprintf(g->row.finish, sizeof g->row.finish, "%s",
             g->outcome == DONE ? g->finish : finishes[g->outcome]);
    if (usage_close(g->all->f, &g->row, g->seq, on_closed, g->all, &err))
        on_closed(g->all, g->seq, &g->row, &err);
}

/* --- ending early -------------------------------------------------------------------------------
 */

/* Nothing more is wanted.  The first reason stays, except that nobody is served who has gone. */
static void end_early(struct generation *g, enum generation_outcome outcome,
                      const struct openai_error *e)
{
    if (g->outcome == OUTCOME_NONE || !g->stream.req) {
        g->outcome = outcome;
        if (e)
            g->error = *e;
    }
    switch (g->state) {
    case HELD:
        generation_set_state(g, CLOSING);
        count_end(g);
        send_end(g);
        leave(g);
        break;
    case RUNNING:
        policy_cancel(g->all->f->policy, g->seq);
        generation_set_state(g, ENDING);
        break;
    case OPENING: /* on_opened goes on from there */
    case ENDING:
    case CLOSING:
        break;
    }
}

static void on_gone(void *arg)
{
    struct generation *g = arg;

    if (g->state != CLOSING)
        end_early(g, CANCELLED, NULL);
}

static void on_delivered(void *arg, uint32_t tokens)
{
    struct generation *g = arg;

    g->delivered = tokens;
    if (g->journal_slot >= 0 && g->state != CLOSING)
        journal_set(g->all->f->journal, g->journal_slot, tokens);
}

static void fail(struct generation *g, const struct error *err)
{
    struct openai_error e;

    openai_refuse(&e, err);
    if (err->status == STATUS_EXHAUSTED) { /* of ours, not of the budget */
        openai_fail(&e, 503, "server_error", "overloaded", "%s", err->text);
        e.retry_after = 5;
    }
    end_early(g, FAILED, &e);
}

/* --- events of the policy -----------------------------------------------------------------------
 */

static void on_row(struct generations *all, const struct event_row *row)
{
    struct generation *g = find(all, row->seq);
    struct error err = {0};

    if (!g || g->state != RUNNING)
        return;
    if (generation_take_token(g, row, &err) == 0)
        return;
    if (err.status == STATUS_EXHAUSTED) { /* a slow reader */
        log_info("%s: cut off: %s", g->id, err.text);
        stream_close(&g->stream);
        end_early(g, CANCELLED, NULL);
    } else {
        g->outcome = OUTCOME_NONE;
        fail(g, &err);
    }
}

static void on_done(struct generations *all, const struct policy_event *ev)
{
    struct generation *g = find(all, ev->seq);
    struct error err = {0};

    if (!g || (g->state != RUNNING && g->state != ENDING))
        return;
    g->row.engine_us = ev->usage.engine_us;
    g->row.switches = ev->usage.switches;
    g->row.preemptions = ev->usage.preemptions;
    int running = g->state == RUNNING;
    generation_set_state(g, ENDING);
    if (running && ev->finish != FINISH_NONE) { /* it ended without a token of its own */
        generation_finish(g, ev->finish == FINISH_STOP ? "stop" : "length");
        if (generation_keep_rest(g, &err))
            fail(g, &err);
    } else if (running) {
        error_set(&err, ev->status != STATUS_OK ? ev->status : STATUS_INTERNAL, "%s",
                  ev->text[0] ? ev->text : "the engine gave the request up and did not say why");
        log_warn("%s: %s", g->id, err.text);
        fail(g, &err);
    }
    close_row(g);
}

/* --- beginning ----------------------------------------------------------------------------------
 */

static void submit(struct generation *g)
{
    struct policy_request *r = calloc(1, sizeof *r);
    struct error err = {0};

    if (!r) {
        error_set(&err, STATUS_NOMEM, "out of memory");
        fail(g, &err);
        close_row(g);
        return;
    }
    *r = (struct policy_request){
        .seq = g->seq,
        .model = g->model,
        .tenant = g->grant->lease->tenant,
        .max_tokens = g->request.max_tokens,
        .token_count = g->prompt_count,
        .tokens = g->prompt,
        .ttft_us = g->grant->ttft_us,
        .tbt_us = g->grant->tbt_us,
        .sampling = g->request.sampling,
    };
    g->prompt = NULL;
    generation_set_state(g, RUNNING);
    metrics_prompt(g->all->metrics, g->model, g->prompt_count);
    policy_submit(g->all->f->policy, r);
}

static void on_opened(void *arg, uint64_t seq, const struct db_usage *row, const struct error *err)
{
    struct generation *g = find(arg, seq);
    struct error full = {0};

    if (!g)
        return;
    if (err) {
        log_error("a ledger row could not be opened: %s", err->text);
        refund(g, g->prompt_count);
        if (g->outcome == OUTCOME_NONE) {
            g->outcome = FAILED;
            openai_fail(&g->error, 503, "server_error", NULL,
                        "the request's usage cannot be recorded");
            g->error.retry_after = 5;
        }
        generation_set_state(g, CLOSING);
        count_end(g);
        send_end(g);
        leave(g);
        return;
    }
    g->row = *row;
    g->journal_slot = journal_take(g->all->f->journal, row->row, &full);
    if (g->journal_slot < 0 && g->outcome == OUTCOME_NONE)
        fail(g, &full);
    if (g->outcome != OUTCOME_NONE)
        close_row(g);
    else
        submit(g);
}

/* Reserve the prompt, cut max_tokens to what the budget leaves behind it, open the ledger row. */
static int admit(struct generation *g, struct openai_error *e)
{
    struct error err = {0};
    uint64_t left = leases_left(g->grant);
    struct front *f = g->all->f;

    if (left <= g->prompt_count)
        return openai_fail(e, 429, "insufficient_quota", "insufficient_quota",
                           "the budget of %lld tokens (--model-tokens) has %llu left, and the "
                           "prompt alone takes %u",
                           (long long)g->grant->lease->row.budget, (unsigned long long)left,
                           g->prompt_count);
    if (leases_charge(f->leases, g->grant, g->prompt_count, &err))
        return openai_refuse(e, &err);
    if (g->request.max_tokens > left - g->prompt_count)
        g->request.max_tokens = (uint32_t)(left - g->prompt_count);
    usage_fill(&g->row, f, g->grant, g->model, g->id, g->prompt_count);
    if (usage_open(f, &g->row, g->seq, on_opened, g->all, &err)) {
        refund(g, g->prompt_count);
        return openai_refuse(e, &err);
    }
    generation_set_state(g, OPENING);
    return 0;
}

/* Ask whether it can run now: 1 it is on its way, 0 hold it, -1 refused. */
static int try_admit(struct generation *g, struct openai_error *e)
{
    struct error err = {0};
    int ready = leases_ready(g->all->f->leases, g->grant, g->model, &err);

    if (ready > 0)
        return admit(g, e) ? -1 : 1;
    if (ready == 0)
        return 0;
    openai_refuse(e, &err);
    if (err.status == STATUS_EXHAUSTED) { /* --model-wait has run out */
        openai_fail(e, 429, "rate_limit_error", "rate_limit_exceeded", "%s", err.text);
        e->retry_after = 30;
    }
    return -1;
}

static void on_poll(evutil_socket_t fd, short what, void *arg)
{
    struct generations *all = arg;
    struct openai_error e;

    (void)fd;
    (void)what;
    for (uint32_t i = 0; i < GENERATIONS_MAX && all->held; i++) {
        struct generation *g = all->slot[i];
        if (g && g->state == HELD && try_admit(g, &e) < 0)
            end_early(g, FAILED, &e);
    }
    if (!all->held)
        event_del(all->poll);
}

static int prepare(struct generation *g, const char *id, struct openai_request *request,
                   struct openai_error *e)
{
    const struct front_model *fm = &g->all->f->models[g->model];
    const char *name = g->all->f->config->models[g->model].name;

    if (!fm->tokenizer)
        return openai_fail(e, 503, "server_error", "model_unavailable", "%s cannot be used: %s",
                           name, fm->text);
    if (prompt_tokens(g->all->f, g->model, request, &g->prompt, &g->prompt_count, e))
        return -1;
    g->piece_room = tokenizer_bytes_max(fm->tokenizer) + 8;
    g->piece = malloc(g->piece_room);
    if (!g->piece)
        return openai_fail(e, 500, "server_error", NULL, "out of memory");
    if (!request->seeded && getrandom(&request->sampling.seed, sizeof request->sampling.seed, 0) !=
                                sizeof request->sampling.seed)
        return openai_fail(e, 500, "server_error", NULL, "no random seed");
    snprintf(g->id, sizeof g->id, "%s", id);
    g->request = *request;
    /* A completion goes on from its prompt's text: a space at its start is one. */
    g->detokenizer.started = g->request.kind == OPENAI_COMPLETION;
    memset(request, 0, sizeof *request);
    return 0;
}

int generation_start(struct generations *all, struct evhttp_request *req, const char *id,
                     struct grant *grant, uint32_t model, struct openai_request *request,
                     struct openai_error *e)
{
    struct generation *g = calloc(1, sizeof *g);

    if (!g)
        return openai_fail(e, 500, "server_error", NULL, "out of memory");
    g->all = all;
    g->state = OPENING;
    g->grant = grant;
    g->model = model;
    g->journal_slot = -1;
    g->arrived_us = clock_monotonic_us();
    g->created = clock_wall_us() / 1000000;
    if (prepare(g, id, request, e) || enter(all, g, e)) {
        destroy(g);
        return -1;
    }
    leases_hold(grant);
    int admitted = try_admit(g, e);
    if (admitted < 0) {
        leave(g);
        return -1;
    }
    if (admitted == 0) {
        const struct timeval interval = {.tv_usec = HELD_POLL_US};
        generation_set_state(g, HELD);
        event_add(all->poll, &interval);
    }
    stream_open(&g->stream, req, g->id, on_gone, on_delivered, g);
    return 0;
}

/* --- from outside -------------------------------------------------------------------------------
 */

int generations_init(struct generations *all, struct front *f, struct metrics *metrics,
                     struct error *err)
{
    all->f = f;
    all->metrics = metrics;
    all->poll = event_new(f->base, -1, EV_PERSIST, on_poll, all);
    return all->poll ? 0 : error_set(err, STATUS_NOMEM, "no memory for a timer");
}

void generations_fini(struct generations *all)
{
    for (uint32_t i = 0; i < GENERATIONS_MAX; i++)
        if (all->slot[i])
            destroy(all->slot[i]);
    if (all->poll)
        event_free(all->poll);
}

void generations_policy_event(struct generations *all, const struct policy_event *ev)
{
    if (ev->mail.kind == POLICY_DONE)
        on_done(all, ev);
    for (uint32_t i = 0; ev->mail.kind == POLICY_TOKENS && i < ev->count; i++)
        on_row(all, &ev->rows[i]);
}

void generations_grant_ended(struct generations *all, const struct grant *grant)
{
    struct openai_error e;

    openai_fail(&e, 401, "invalid_request_error", "invalid_api_key",
                "the step that this key belongs to has ended");
    for (uint32_t i = 0; i < GENERATIONS_MAX; i++) /* the last one to leave may free the grant */
        if (all->slot[i] && all->slot[i]->grant == grant)
            end_early(all->slot[i], CANCELLED, &e);
}

void generations_stop(struct generations *all, void (*idle)(void *arg), void *arg)
{
    struct openai_error e;

    openai_fail(&e, 503, "server_error", "shutting_down", "the daemon is being stopped");
    e.retry_after = 5;
    all->idle = idle;
    all->idle_arg = arg;
    all->stopping = 1;
    if (all->count == 0) {
        idle(arg);
        return;
    }
    for (uint32_t i = 0; i < GENERATIONS_MAX; i++)
        if (all->slot[i])
            end_early(all->slot[i], INTERRUPTED, &e);
}

void generations_count(const struct generations *all, struct metrics_gauge *gauges)
{
    for (uint32_t i = 0; i < GENERATIONS_MAX; i++) {
        const struct generation *g = all->slot[i];
        if (g && g->completion == 0)
            gauges[g->model].waiting++;
        else if (g)
            gauges[g->model].running++;
    }
}
