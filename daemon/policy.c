/*
 * policy.c - the policy thread: its loop, its mail, its beginning and end
 */
#include "daemon/policy.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "daemon/policy_state.h"

enum mail_kind {
    MAIL_ASK,    /* a struct policy_ask */
    MAIL_SUBMIT, /* a struct policy_request */
    MAIL_TEACH,  /* a struct policy_cost; all others are a struct note */
    MAIL_CANCEL,
    MAIL_STOP,
    MAIL_SHARE,
    MAIL_TENANT,
    MAIL_COMMAND,
    MAIL_QUIT
};

struct note {
    struct mail mail;
    enum policy_command command;
    uint32_t target; /* of the command; tenant */
    uint64_t id;     /* sequence, or tag */
    double share;
};

static const struct policy_limits usual_limits = {
    .restart = {.delay_min_us = 200000, .delay_max_us = 30000000, .reset_us = 60000000},
    .start_us = 60000000,
    .silence_us = 300000000,
    .quit_us = 2000000,
    .calibrate_us = 3000000,
    .starts_max = 5,
    .deaths_max = 3,
};

/* --- events ----------------------------------------------------------------------------------- */

struct policy_event *event_make(enum policy_event_kind kind, uint32_t rows)
{
    struct policy_event *ev;

    while ((ev = calloc(1, sizeof *ev + rows * sizeof ev->rows[0])) == NULL) {
        log_error("out of memory: waiting");
        usleep(100000);
    }
    ev->mail.kind = (int)kind;
    ev->count = rows;
    return ev;
}

void event_emit(struct policy *p, struct policy_event *ev)
{
    mailbox_post(p->sink, &ev->mail);
}

/* --- the loop --------------------------------------------------------------------------------- */

static void settle_stop(struct policy *p)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        if (!engine_is_down(&p->instances[i]))
            return;
    }
    event_base_loopbreak(p->base);
}

/* What others may know. */
static void publish(struct policy *p)
{
    if (!p->changed)
        return;
    p->changed = 0;
    tier_tell(p);
    snapshot_publish(p);
}

void policy_settle(struct policy *p)
{
    if (p->stopping) {
        settle_stop(p);
        return;
    }
    if (p->replace) {
        p->replace = 0;
        sequence_place_all(p);
    }
    promise_settle(p);
    for (uint32_t i = 0; i < p->instance_count; i++) {
        sequence_settle(&p->instances[i]);
        turn_feed(&p->instances[i]);
    }
    publish(p); /* who is answered now may ask at once */
    for (uint32_t i = 0; i < p->instance_count; i++)
        command_settle(&p->instances[i]);
    command_check_drains(p);
    publish(p);
}

static void stop_all(struct policy *p)
{
    p->stopping = 1;
    event_del(p->promise_timer);
    event_del(p->cost_timer);
    promise_refuse_all(p);
    cost_flush(p);
    while (!TAILQ_EMPTY(&p->sequences))
        sequence_end(p, TAILQ_FIRST(&p->sequences), FINISH_NONE, 0, STATUS_UNAVAILABLE,
                     "modelpoold is stopping");
    command_refuse_all(p);
    for (uint32_t i = 0; i < p->instance_count; i++)
        engine_stop(&p->instances[i]);
}

static void end_early(struct policy *p, uint64_t seq, enum finish finish)
{
    struct sequence *s = sequence_find(p, seq);

    if (s != NULL)
        sequence_end(p, s, finish, 1, STATUS_OK, "");
    else /* else it has ended by itself, and its DONE is on its way */
        promise_cancel(p, seq);
}

static void set_share(struct policy *p, uint32_t tenant, double share)
{
    struct error err;

    if (sched_set_share(p->sched, tenant, share, &err) != 0) {
        log_error("policy: %s", err.text);
        return;
    }
    if (tenant >= p->tenant_count) {
        double *more = realloc(p->shares, (tenant + 1u) * sizeof *more);

        if (more == NULL)
            return; /* it is not shown */
        for (uint32_t i = p->tenant_count; i <= tenant; i++)
            more[i] = 1;
        p->shares = more;
        p->tenant_count = tenant + 1;
    }
    p->shares[tenant] = share;
    p->changed = 1;
}

static void set_tenant(struct policy *p, uint64_t seq, uint32_t tenant)
{
    struct sequence *s = sequence_find(p, seq);

    if (s == NULL) {
        promise_set_tenant(p, seq, tenant);
        return;
    }
    s->request->tenant = tenant;
    if (s->scheduled)
        sched_set_tenant(p->sched, seq, tenant);
}

static void take_note(struct policy *p, const struct note *n)
{
    switch (n->mail.kind) {
    case MAIL_CANCEL:
        end_early(p, n->id, FINISH_NONE);
        break;
    case MAIL_STOP:
        end_early(p, n->id, FINISH_STOP);
        break;
    case MAIL_SHARE:
        set_share(p, n->target, n->share);
        break;
    case MAIL_TENANT:
        set_tenant(p, n->id, n->target);
        break;
    case MAIL_COMMAND:
        command_start(p, n->command, n->target, n->id);
        break;
    case MAIL_QUIT:
        stop_all(p);
        break;
    }
}

static void take_mail(struct policy *p, struct mail *m)
{
    switch (m->kind) {
    case MAIL_SUBMIT: /* which keeps it */
        sequence_submit(p, (struct policy_request *)m);
        return;
    case MAIL_ASK:
        promise_ask(p, (const struct policy_ask *)m);
        break;
    case MAIL_TEACH:
        cost_teach(p, (const struct policy_cost *)m);
        break;
    default:
        take_note(p, (const struct note *)m);
    }
    free(m);
}

static void on_mail(evutil_socket_t fd, short what, void *arg)
{
    struct policy *p = arg;

    (void)fd;
    (void)what;
    for (struct mail *m = mailbox_take(p->inbox), *next; m != NULL; m = next) {
        next = m->next;
        take_mail(p, m);
    }
    policy_settle(p);
}

static void on_cost_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    cost_on_timer(arg);
    policy_settle(arg);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct instance *in = arg;

    (void)fd;
    (void)what;
    engine_on_timer(in);
    policy_settle(in->policy);
}

static void *policy_main(void *arg)
{
    struct policy *p = arg;

    log_info("scheduler %s%s; admission: %s", p->config->scheduler,
             strcmp(p->config->scheduler, "aegaeon") == 0
                 ? " (unified: each instance takes prompts before decode turns)"
                 : "",
             p->admission ? "yes" : "no");

    for (uint32_t i = 0; i < p->instance_count; i++)
        engine_start(&p->instances[i]);
    policy_settle(p);
    cost_on_timer(p);
    if (event_base_dispatch(p->base) < 0)
        log_error("policy: the event loop has failed");
    return NULL;
}

/* --- beginning and end ------------------------------------------------------------------------ */

static int instance_init(struct policy *p, uint32_t config_index, struct error *err)
{
    struct instance *in = &p->instances[p->instance_count];

    in->policy = p;
    in->index = p->instance_count;
    in->config = &p->config->instances[config_index];
    in->status.index = config_index;
    in->status.running_model = in->status.next_model = UINT32_MAX;
    in->loading = in->calibration.model = UINT32_MAX;
    in->models = calloc(p->model_count > 0 ? p->model_count : 1, sizeof *in->models);
    in->timer = event_new(p->base, -1, 0, on_timer, in);
    p->instance_count++;
    if (in->models == NULL || in->timer == NULL)
        return error_set(err, STATUS_NOMEM, "policy: out of memory");
    if (sched_add_instance(p->sched, in->index, in->config->memory_bytes, err) != 0)
        return -1;
    sched_set_available(p->sched, in->index, 0);
    return 0;
}

static int instances_init(struct policy *p, struct error *err)
{
    const struct config *config = p->config;

    p->model_count = (uint32_t)config->model_count;
    p->instances = calloc(config->instance_count + 1, sizeof *p->instances);
    if (p->instances == NULL)
        return error_set(err, STATUS_NOMEM, "policy: out of memory");
    for (size_t i = 0; i < config->instance_count; i++) {
        if (config_is_here(config, &config->instances[i]) &&
            instance_init(p, (uint32_t)i, err) != 0)
            return -1;
    }
    return 0;
}

static int loop_init(struct policy *p, struct error *err)
{
    p->base = event_base_new();
    p->inbox = mailbox_create(err);
    if (p->inbox == NULL)
        return -1;
    if (p->base != NULL) {
        p->mail = event_new(p->base, mailbox_fd(p->inbox), EV_READ | EV_PERSIST, on_mail, p);
        p->cost_timer = event_new(p->base, -1, 0, on_cost_timer, p);
    }
    if (p->mail == NULL || p->cost_timer == NULL || event_add(p->mail, NULL) != 0)
        return error_set(err, STATUS_NOMEM, "policy: no event loop");
    return 0;
}

static void policy_free(struct policy *p)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        if (p->instances[i].timer != NULL)
            event_free(p->instances[i].timer);
        for (uint32_t m = 0; p->instances[i].models != NULL && m < p->model_count; m++)
            tier_forget_files(&p->instances[i], m);
        free(p->instances[i].models);
    }
    free(p->instances);
    if (p->buckets != NULL)
        sequence_table_clear(p);
    if (p->snapshot.instance != NULL)
        pthread_mutex_destroy(&p->snapshot_lock);
    policy_snapshot_free(&p->snapshot);
    sched_destroy(p->sched);
    promise_clear(p);
    free(p->taught);
    free(p->shares);
    if (p->cost_timer != NULL)
        event_free(p->cost_timer);
    if (p->mail != NULL)
        event_free(p->mail);
    if (p->base != NULL)
        event_base_free(p->base);
    mailbox_destroy(p->inbox);
    free(p);
}

/* Signals are the main thread's. */
static int thread_init(struct policy *p, struct error *err)
{
    sigset_t all, old;
    int e;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    e = pthread_create(&p->thread, NULL, policy_main, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e == 0)
        return 0;
    errno = e;
    return error_errno(err, "policy thread");
}

struct policy *policy_create_limited(const struct config *config, struct tier *tier,
                                     const struct policy_limits *limits, struct mailbox *sink,
                                     struct error *err)
{
    struct sched_params params = {
        .turn_us = config->turn_us, .held = POLICY_TURNS_HELD, .fair_us = config->fair_us};
    struct policy *p = calloc(1, sizeof *p);

    if (p == NULL) {
        error_set(err, STATUS_NOMEM, "policy: out of memory");
        return NULL;
    }
    p->config = config;
    p->limits = *limits;
    p->sink = sink;
    tier_begin(p, tier);
    TAILQ_INIT(&p->commands);
    TAILQ_INIT(&p->promises);
    p->sched = sched_create(config->scheduler, &params, err);
    if (p->sched == NULL || sequence_table_init(p, err) != 0 || loop_init(p, err) != 0 ||
        instances_init(p, err) != 0 || promise_init(p, err) != 0 || snapshot_init(p, err) != 0 ||
        thread_init(p, err) != 0) {
        policy_free(p);
        return NULL;
    }
    return p;
}

struct policy *policy_create(const struct config *config, struct tier *tier, struct mailbox *sink,
                             struct error *err)
{
    return policy_create_limited(config, tier, &usual_limits, sink, err);
}

/* --- the front's side ------------------------------------------------------------------------- */

static void post_note(struct policy *p, enum mail_kind kind, struct note note)
{
    struct note *n;

    while ((n = malloc(sizeof *n)) == NULL) {
        log_error("out of memory: waiting");
        usleep(100000);
    }
    *n = note;
    n->mail.kind = (int)kind;
    mailbox_post(p->inbox, &n->mail);
}

void policy_admit(struct policy *p, struct policy_ask *a)
{
    a->mail.kind = MAIL_ASK;
    mailbox_post(p->inbox, &a->mail);
}

void policy_teach(struct policy *p, const struct policy_cost *c)
{
    struct policy_cost *copy = malloc(sizeof *copy);

    if (copy == NULL)
        return; /* it is measured again */
    *copy = *c;
    copy->mail.kind = MAIL_TEACH;
    mailbox_post(p->inbox, &copy->mail);
}

void policy_set_share(struct policy *p, uint32_t tenant, double share)
{
    post_note(p, MAIL_SHARE, (struct note){.target = tenant, .share = share});
}

void policy_set_tenant(struct policy *p, uint64_t seq, uint32_t tenant)
{
    post_note(p, MAIL_TENANT, (struct note){.target = tenant, .id = seq});
}

void policy_submit(struct policy *p, struct policy_request *r)
{
    r->mail.kind = MAIL_SUBMIT;
    mailbox_post(p->inbox, &r->mail);
}

void policy_cancel(struct policy *p, uint64_t seq)
{
    post_note(p, MAIL_CANCEL, (struct note){.id = seq});
}

void policy_stop(struct policy *p, uint64_t seq)
{
    post_note(p, MAIL_STOP, (struct note){.id = seq});
}

void policy_command(struct policy *p, enum policy_command command, uint32_t target, uint64_t tag)
{
    post_note(p, MAIL_COMMAND, (struct note){.command = command, .target = target, .id = tag});
}

void policy_destroy(struct policy *p)
{
    if (p == NULL)
        return;
    post_note(p, MAIL_QUIT, (struct note){0});
    pthread_join(p->thread, NULL);
    policy_free(p);
}
