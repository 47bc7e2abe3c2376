/* front.c - the front loop: what it is made of, and where events go; see front.h */
#include "daemon/front.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/tier.h"

#define STOP_US  1900000 /* for requests to end after a signal */
#define FLUSH_US 50000   /* for their last bytes to leave */

struct front_loop { /* events that front_run watches */
    struct event *events, *written, *term, *interrupt, *reload, *deadline;
    struct front *f;
    int stopping;
};

/* --- the database -------------------------------------------------------------------------------
 */

void front_write(struct front *f, struct front_job *job,
                 int (*run)(struct db *, struct writer_job *, struct error *),
                 void (*done)(struct front *, struct front_job *))
{
    job->job.reply = f->written;
    job->job.run = run;
    job->done = done;
    writer_post(f->writer, &job->job);
}

static void on_written(evutil_socket_t fd, short what, void *arg)
{
    struct front_loop *loop = arg;

    (void)fd;
    (void)what;
    for (struct mail *m = mailbox_take(loop->f->written), *next; m; m = next) {
        struct front_job *job = (struct front_job *)m;
        next = m->next;
        if (job->done)
            job->done(loop->f, job);
        else if (job->job.error.status != STATUS_OK)
            log_error("database: %s", job->job.error.text);
        free(job);
    }
}

struct placement_job {
    struct front_job job;
    struct db_placement row;
};

static int run_placement(struct db *db, struct writer_job *job, struct error *err)
{
    return db_put_placement(db, &((struct placement_job *)job)->row, err);
}

static void write_placement(struct front *f, const struct policy_event *ev)
{
    struct placement_job *p = calloc(1, sizeof *p);

    if (!p) {
        log_error("no memory to record a placement");
        return;
    }
    p->row.bytes = ev->bytes;
    p->row.changed_us = clock_wall_us();
    snprintf(p->row.model, sizeof p->row.model, "%s", f->config->models[ev->model].name);
    snprintf(p->row.place, sizeof p->row.place, "%s", f->config->instances[ev->instance].name);
    snprintf(p->row.tier, sizeof p->row.tier, "gpu");
    snprintf(p->row.state, sizeof p->row.state, ev->resident ? "resident" : "absent");
    front_write(f, &p->job, run_placement, NULL);
}

/* --- events of the policy -----------------------------------------------------------------------
 */

static void route(struct front *f, const struct policy_event *ev)
{
    switch ((enum policy_event_kind)ev->mail.kind) {
    case POLICY_TOKENS:
    case POLICY_LOGPROBS:
    case POLICY_DONE:
    case POLICY_ADMITTED:
    case POLICY_WAITING:
    case POLICY_REFUSED:
        http_policy_event(f->http, ev);
        break;
    case POLICY_COST:
        front_cost_write(f, (const struct policy_cost *)(const void *)ev);
        break;
    case POLICY_MODEL:
        write_placement(f, ev);
        break;
    case POLICY_REPLY:
        control_policy_reply(f->control, ev);
        break;
    }
}

static void on_events(evutil_socket_t fd, short what, void *arg)
{
    struct front_loop *loop = arg;

    (void)fd;
    (void)what;
    for (struct mail *m = mailbox_take(loop->f->events), *next; m; m = next) {
        next = m->next;
        route(loop->f, (struct policy_event *)m);
        free(m);
    }
}

/* --- signals ------------------------------------------------------------------------------------
 */

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    struct front_loop *loop = arg;

    (void)fd;
    (void)what;
    log_warn("some requests did not end in time; their ledger rows are closed at the next start");
    event_base_loopbreak(loop->f->base);
}

static void on_idle(void *arg)
{
    struct front_loop *loop = arg;
    const struct timeval flush = {.tv_usec = FLUSH_US};

    event_del(loop->deadline);
    event_base_loopexit(loop->f->base, &flush);
}

static void on_stop(evutil_socket_t signal_number, short what, void *arg)
{
    struct front_loop *loop = arg;
    const struct timeval limit = {STOP_US / 1000000, STOP_US % 1000000};

    (void)what;
    if (loop->stopping++)
        return;
    log_info("signal %d: stopping", (int)signal_number);
    event_add(loop->deadline, &limit);
    http_stop(loop->f->http, on_idle, loop);
}

static void on_reload(evutil_socket_t signal_number, short what, void *arg)
{
    struct front_loop *loop = arg;
    struct config *c = loop->f->config;
    struct error err = {0};

    (void)signal_number;
    (void)what;
    struct config *fresh = config_read(c->path, c->node, &err);
    if (fresh) {
        config_apply(c, fresh);
        leases_reload_tenants(loop->f->leases);
        log_info("SIGHUP: %s is valid: AllowAccounts=, Slo=, Tenant= and WaitMax= are applied; "
                 "restart modelpoold to apply all else",
                 c->path);
    } else {
        log_error("SIGHUP: the running configuration stays: %s", err.text);
    }
    config_destroy(fresh);
}

/* --- opening, running, closing ------------------------------------------------------------------
 */

static int open_models(struct front *f, struct db *db, struct error *err)
{
    const struct config *c = f->config;

    f->models = calloc(c->model_count + 1, sizeof *f->models);
    if (!f->models)
        return error_set(err, STATUS_NOMEM, "no memory for the models");
    for (size_t i = 0; i < c->model_count; i++) {
        struct front_model *m = &f->models[i];
        front_model_open(m, &c->models[i]);
        if (!m->tokenizer)
            log_error("model %s cannot be used: %s", c->models[i].name, m->text);
        else if (!m->template)
            log_warn("model %s cannot chat: %s", c->models[i].name, m->text);
        if (db_put_model(db, c->models[i].name, c->models[i].path, m->bytes, err))
            return -1;
    }
    return 0;
}

/* What the database holds of master copies and costs goes to who uses it; in between the database
 * becomes the writer's alone. */
static int open_stored(struct front *f, struct db *db, struct error *err)
{
    struct front_tier rows = {0};
    struct front_costs costs = {0};
    int rv = -1;

    if (front_tier_read(&rows, db, err) || front_cost_read(f, &costs, db, err))
        goto out;
    f->writer = writer_create(db, f->journal, err);
    if (!f->writer || front_tier_open(f, &rows, err))
        goto out;
    f->policy = policy_create(f->config, f->tier, f->events, err);
    if (!f->policy)
        goto out;
    front_cost_teach(f, &costs);
    leases_reload_tenants(f->leases); /* the policy learns their shares */
    rv = 0;
out:
    front_tier_free(&rows);
    free(costs.costs);
    return rv;
}

static int open_parts(struct front *f, struct db *db, struct error *err)
{
    f->base = event_base_new();
    if (!f->base)
        return error_set(err, STATUS_NOMEM, "no memory for the event loop");
    f->events = mailbox_create(err);
    f->written = mailbox_create(err);
    if (!f->events || !f->written || open_models(f, db, err) || front_check_pins(f, err))
        return -1;
    f->leases = leases_create(f, db, err);
    return f->leases ? open_stored(f, db, err) : -1;
}

int front_open(struct front *f, struct config *config, struct db *db, struct journal *journal,
               const struct front_listeners *listeners, struct error *err)
{
    f->config = config;
    f->journal = journal;
    f->started_us = clock_wall_us();
    snprintf(f->base_url, sizeof f->base_url, "http://%s/v1", config->listen);
    int n = snprintf(f->http_socket, sizeof f->http_socket, "%s/http.sock", config->run_dir);
    if (n < 0 || (size_t)n >= sizeof f->http_socket)
        return error_set(err, STATUS_INVALID, "RunDir=%s: too long", config->run_dir);
    if (open_parts(f, db, err))
        return -1;
    f->http = http_create(f, listeners->http_tcp, listeners->http_unix, err);
    if (!f->http)
        return -1;
    f->control = control_create(f, listeners->control, err);
    return f->control ? 0 : -1;
}

static int watch(struct front_loop *loop)
{
    struct event_base *base = loop->f->base;

    loop->events =
        event_new(base, mailbox_fd(loop->f->events), EV_READ | EV_PERSIST, on_events, loop);
    loop->written =
        event_new(base, mailbox_fd(loop->f->written), EV_READ | EV_PERSIST, on_written, loop);
    loop->term = evsignal_new(base, SIGTERM, on_stop, loop);
    loop->interrupt = evsignal_new(base, SIGINT, on_stop, loop);
    loop->reload = evsignal_new(base, SIGHUP, on_reload, loop);
    loop->deadline = evtimer_new(base, on_deadline, loop);
    if (!loop->deadline)
        return -1;
    struct event *const all[] = {loop->events, loop->written, loop->term, loop->interrupt,
                                 loop->reload};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!all[i] || event_add(all[i], NULL))
            return -1;
    return 0;
}

int front_run(struct front *f, struct error *err)
{
    struct front_loop loop = {.f = f};
    int rv = watch(&loop);

    if (rv)
        error_set(err, STATUS_NOMEM, "the event loop could not be set up");
    else if (event_base_dispatch(f->base) < 0)
        rv = error_set(err, STATUS_INTERNAL, "the event loop failed");
    struct event *const all[] = {loop.events,    loop.written, loop.term,
                                 loop.interrupt, loop.reload,  loop.deadline};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i])
            event_free(all[i]);
    return rv;
}

/* Order: nobody may call what is gone.  Connections first, then engines; the writer last, since it
 * runs what all of them have posted. */
void front_close(struct front *f)
{
    struct http *http = f->http;

    f->http = NULL; /* leases that end now find no requests */
    http_destroy(http);
    control_destroy(f->control);
    policy_destroy(f->policy);
    for (struct mail *m = f->policy ? mailbox_take(f->events) : NULL, *next; m; m = next) {
        next = m->next;
        if (m->kind == POLICY_COST) /* its last words */
            front_cost_write(f, (const struct policy_cost *)(const void *)m);
        free(m);
    }
    tier_destroy(f->tier);
    leases_destroy(f->leases);
    writer_destroy(f->writer);
    mailbox_destroy(f->events);
    mailbox_destroy(f->written);
    for (size_t i = 0; f->models && i < f->config->model_count; i++)
        front_model_close(&f->models[i]);
    free(f->models);
    if (f->base)
        event_base_free(f->base);
    memset(f, 0, sizeof *f);
}
