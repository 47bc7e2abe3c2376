/*
 * policy_admit.c - promises to requests with an SLO
 *
 * A request asks before its ledger row is opened.  What can be promised becomes a sequence of the
 * scheduler at once, one that gets no turns yet, so that the next one to ask finds its share taken.
 * What cannot is refused, or waits: in order of arrival within its model, asked about again
 * whenever a sequence or turn has ended.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/policy_state.h"

#define LOOK_US    100000 /* at deadlines */
#define PROBES     4u     /* sequences that a model may have before its costs are known */
#define PROBE_ROOM 0.5    /* of an instance's time may be promised to others then */

/* --- the list --------------------------------------------------------------------------------- */

static struct promise *find(const struct policy *p, uint64_t seq)
{
    struct promise *a;

    TAILQ_FOREACH(a, &p->promises, link)
    {
        if (a->seq.seq == seq)
            return a;
    }
    return NULL;
}

static void waits(struct policy *p)
{
    const struct timeval look = {.tv_usec = LOOK_US};

    if (p->promises_waiting++ == 0)
        event_add(p->promise_timer, &look);
}

static void drop(struct policy *p, struct promise *a)
{
    if (!a->admitted)
        p->promises_waiting--;
    TAILQ_REMOVE(&p->promises, a, link);
    free(a);
    p->retry = 1;
}

static void emit(struct policy *p, enum policy_event_kind kind, uint64_t seq, enum status status,
                 const char *text)
{
    struct policy_event *ev = event_make(kind, 0);

    ev->seq = seq;
    ev->status = status;
    snprintf(ev->text, sizeof ev->text, "%.*s", (int)sizeof ev->text - 1, text);
    event_emit(p, ev);
}

/* --- can it be promised? ---------------------------------------------------------------------- */

/*
 * A guess refuses nobody: a few sequences of a model whose costs are not known (any more) go on, if
 * an instance has room for them, and are measured.
 */
static int may_probe(const struct policy *p, uint32_t model)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        const struct instance *in = &p->instances[i];
        struct sched_work work;

        if (!engine_can_run(in, model) || in->drained || cost_is_known(in, model) ||
            sched_count(p->sched, i, model) >= PROBES)
            continue;
        sched_get_work(p->sched, i, model, &work);
        if (sched_promised(p->sched, i) - work.share <= PROBE_ROOM)
            return 1;
    }
    return 0;
}

/* 0: promised, and the scheduler knows it. */
static int try(struct policy *p, struct promise *a, struct error *err)
{
    int64_t now = clock_monotonic_us();

    if (sched_admit(p->sched, now, &a->seq, err) != 0 && err->status != STATUS_UNAVAILABLE &&
        !may_probe(p, a->seq.model))
        return -1;
    a->admitted = 1;
    /* Without an instance now it goes the way of all requests: they wait for an engine. */
    if (sched_arrive(p->sched, now, &a->seq, &a->instance, NULL) == 0)
        sched_requeue(p->sched, now, a->seq.seq);
    else
        a->instance = UINT32_MAX;
    return 0;
}

static void describe(const struct policy *p, struct promise *a, const char *why)
{
    snprintf(a->text, sizeof a->text, "model %s: %.170s", p->config->models[a->seq.model].name,
             why);
}

static void refuse(struct policy *p, struct promise *a, enum status status)
{
    char text[2 * ORDER_TEXT_MAX];

    if (a->deadline_us > a->asked_us && status == STATUS_EXHAUSTED)
        snprintf(text, sizeof text, "waited %.0f s (--model-wait); %s",
                 (double)(a->deadline_us - a->asked_us) / 1e6, a->text);
    else
        snprintf(text, sizeof text, "%s", a->text);
    emit(p, POLICY_REFUSED, a->seq.seq, status, text);
    drop(p, a);
}

static int is_behind_others(const struct policy *p, const struct promise *a)
{
    const struct promise *other;

    TAILQ_FOREACH(other, &p->promises, link)
    {
        if (other != a && !other->admitted && other->seq.model == a->seq.model)
            return 1;
    }
    return 0;
}

/* The first time: promised, refused, or it waits from here on. */
static void begin(struct policy *p, struct promise *a)
{
    struct error err = {.status = STATUS_EXHAUSTED};
    int behind = is_behind_others(p, a);

    TAILQ_INSERT_TAIL(&p->promises, a, link);
    if (!behind && try(p, a, &err) == 0) {
        emit(p, POLICY_ADMITTED, a->seq.seq, STATUS_OK, "");
        return;
    }
    describe(p, a, behind ? "others wait for a promise of their SLO already" : err.text);
    waits(p);
    if (a->deadline_us <= a->asked_us || err.status == STATUS_UNSUPPORTED)
        refuse(p, a, err.status);
    else
        emit(p, POLICY_WAITING, a->seq.seq, STATUS_OK, a->text);
}

/* --- from outside ----------------------------------------------------------------------------- */

void promise_ask(struct policy *p, const struct policy_ask *ask)
{
    struct promise *a;

    if (p->stopping) {
        emit(p, POLICY_REFUSED, ask->seq, STATUS_UNAVAILABLE, "modelpoold is stopping");
    } else if (!p->admission || ask->ttft_us <= 0 || ask->tbt_us <= 0 ||
               ask->model >= p->model_count) { /* policy_submit says what is wrong */
        emit(p, POLICY_ADMITTED, ask->seq, STATUS_OK, "");
    } else if ((a = calloc(1, sizeof *a)) == NULL) {
        emit(p, POLICY_REFUSED, ask->seq, STATUS_NOMEM, "modelpoold is out of memory");
    } else {
        a->seq = (struct sched_seq){
            .seq = ask->seq,
            .model = ask->model,
            .tenant = ask->tenant,
            .tokens = ask->tokens,
            .max_tokens = ask->max_tokens,
            .ttft_us = ask->ttft_us,
            .tbt_us = ask->tbt_us,
        };
        a->asked_us = clock_monotonic_us();
        a->deadline_us = a->asked_us + ask->wait_us;
        begin(p, a);
    }
}

int promise_claim(struct policy *p, uint64_t seq, uint32_t *instance)
{
    struct promise *a = find(p, seq);
    int known;

    if (a == NULL || !a->admitted)
        return 0;
    *instance = a->instance;
    known = a->instance != UINT32_MAX;
    drop(p, a);
    return known;
}

int promise_cancel(struct policy *p, uint64_t seq)
{
    struct promise *a = find(p, seq);

    if (a == NULL)
        return 0;
    if (a->admitted)
        sched_finish(p->sched, clock_monotonic_us(), seq);
    drop(p, a);
    return 1;
}

void promise_set_tenant(struct policy *p, uint64_t seq, uint32_t tenant)
{
    struct promise *a = find(p, seq);

    if (a == NULL)
        return;
    a->seq.tenant = tenant;
    sched_set_tenant(p->sched, seq, tenant);
}

void promise_refuse_all(struct policy *p)
{
    struct promise *a, *next;

    for (a = TAILQ_FIRST(&p->promises); a != NULL; a = next) {
        next = TAILQ_NEXT(a, link);
        if (!a->admitted)
            emit(p, POLICY_REFUSED, a->seq.seq, STATUS_UNAVAILABLE, "modelpoold is stopping");
        promise_cancel(p, a->seq.seq);
    }
}

/* --- waiting ---------------------------------------------------------------------------------- */

void promise_settle(struct policy *p)
{
    struct promise *a, *next;
    struct error err;

    if (!p->retry || p->promises_waiting == 0)
        return;
    p->retry = 0;
    memset(p->blocked, 0, p->model_count);
    for (a = TAILQ_FIRST(&p->promises); a != NULL; a = next) {
        next = TAILQ_NEXT(a, link);
        if (a->admitted || p->blocked[a->seq.model])
            continue;
        if (try(p, a, &err) == 0) {
            p->promises_waiting--;
            emit(p, POLICY_ADMITTED, a->seq.seq, STATUS_OK, "");
            continue;
        }
        p->blocked[a->seq.model] = 1;
        describe(p, a, err.text);
        if (err.status == STATUS_UNSUPPORTED)
            refuse(p, a, err.status);
    }
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    const struct timeval look = {.tv_usec = LOOK_US};
    struct policy *p = arg;
    struct promise *a, *next;
    int64_t now = clock_monotonic_us();

    (void)fd;
    (void)what;
    for (a = TAILQ_FIRST(&p->promises); a != NULL; a = next) {
        next = TAILQ_NEXT(a, link);
        if (!a->admitted && now >= a->deadline_us)
            refuse(p, a, STATUS_EXHAUSTED);
    }
    policy_settle(p);
    if (p->promises_waiting > 0)
        event_add(p->promise_timer, &look);
}

int promise_init(struct policy *p, struct error *err)
{
    p->admission = p->config->admission && sched_traits(p->sched).slo;
    p->blocked = calloc(p->model_count + 1, 1);
    p->promise_timer = event_new(p->base, -1, 0, on_timer, p);
    if (p->blocked == NULL || p->promise_timer == NULL)
        return error_set(err, STATUS_NOMEM, "policy: out of memory");
    return 0;
}

void promise_clear(struct policy *p)
{
    struct promise *a;

    while ((a = TAILQ_FIRST(&p->promises)) != NULL) {
        TAILQ_REMOVE(&p->promises, a, link);
        free(a);
    }
    if (p->promise_timer != NULL)
        event_free(p->promise_timer);
    free(p->blocked);
}
