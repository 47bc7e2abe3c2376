/*
 * policy_command.c - load, unload, drain, resume
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/log.h"
#include "daemon/policy_state.h"

/* --- replies ---------------------------------------------------------------------------------- */

static void reply(struct policy *p, uint64_t tag, enum status status, const char *text)
{
    struct policy_event *ev = event_make(POLICY_REPLY, 0);

    ev->tag = tag;
    ev->status = status;
    snprintf(ev->text, sizeof ev->text, "%s", text);
    event_emit(p, ev);
}

__attribute__((format(printf, 4, 5))) static void replyf(struct policy *p, uint64_t tag,
                                                         enum status status, const char *fmt, ...)
{
    char text[ORDER_TEXT_MAX];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    reply(p, tag, status, text);
}

/* Remember a command that is answered later; 0, and an answer, without memory. */
static struct pending_command *pend(struct policy *p, enum policy_command command, uint32_t target,
                                    uint64_t tag, struct instance *in)
{
    struct pending_command *c = calloc(1, sizeof *c);

    if (c == NULL) {
        reply(p, tag, STATUS_NOMEM, "modelpoold is out of memory");
        return NULL;
    }
    c->command = command;
    c->target = target;
    c->tag = tag;
    c->instance = in;
    TAILQ_INSERT_TAIL(&p->commands, c, link);
    return c;
}

static void settle_command(struct policy *p, struct pending_command *c, enum status status,
                           const char *text)
{
    reply(p, c->tag, status, text);
    TAILQ_REMOVE(&p->commands, c, link);
    free(c);
}

static const char *model_name(const struct policy *p, uint32_t model)
{
    return p->config->models[model].name;
}

/* --- load and unload -------------------------------------------------------------------------- */

static void order_model(struct instance *in, uint32_t kind, uint32_t model)
{
    struct order_ref order = {.kind = kind, .model = model};

    if (kind == ORDER_LOAD)
        tier_need(in, model);
    engine_link_send(in->link, &order, sizeof order);
}

static void refuse_load(struct policy *p, uint32_t model, uint64_t tag)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        const struct engine_model *m = &p->instances[i].models[model];

        if (m->status.known && !m->status.ok) {
            replyf(p, tag, m->refusal, "model %s: %s", model_name(p, model), m->status.text);
            return;
        }
    }
    replyf(p, tag, STATUS_UNAVAILABLE, "no instance is up that can run model %s",
           model_name(p, model));
}

static void load(struct policy *p, uint32_t model, uint64_t tag)
{
    struct instance *where = NULL;
    struct pending_command *c;

    for (uint32_t i = 0; i < p->instance_count; i++) {
        struct instance *in = &p->instances[i];

        if (!engine_can_run(in, model))
            continue;
        if (in->models[model].status.resident) {
            c = pend(p, POLICY_LOAD, model, tag, in);
            if (c != NULL)
                c->loaded = 1;
            return; /* command_settle() answers */
        }
        if (where == NULL && !in->drained)
            where = in;
    }
    if (where == NULL)
        refuse_load(p, model, tag);
    else if (pend(p, POLICY_LOAD, model, tag, where) != NULL)
        order_model(where, ORDER_LOAD, model);
}

static int resident_somewhere(const struct policy *p, uint32_t model)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        if (p->instances[i].models[model].status.resident)
            return 1;
    }
    return 0;
}

static void unload(struct policy *p, uint32_t model, uint64_t tag)
{
    if (!resident_somewhere(p, model)) {
        replyf(p, tag, STATUS_OK, "model %s is not resident", model_name(p, model));
        return;
    }
    if (pend(p, POLICY_UNLOAD, model, tag, NULL) == NULL)
        return;
    for (uint32_t i = 0; i < p->instance_count; i++) {
        if (p->instances[i].calibration.model == model)
            calibrate_yield(&p->instances[i]);
        if (p->instances[i].models[model].status.resident)
            order_model(&p->instances[i], ORDER_UNLOAD, model);
    }
}

/* An engine answers a load that finds no room, and an unload of what is not there, by "went, 0
 * bytes". */
static void check_load(struct policy *p, struct pending_command *c,
                       const struct event_residency *ev)
{
    char text[ORDER_TEXT_MAX];

    if (ev->resident) {
        c->loaded = 1;
    } else if (ev->bytes == 0 && !c->loaded) {
        snprintf(text, sizeof text, "model %s finds no room on instance %s beside what runs there",
                 model_name(p, c->target), c->instance->config->name);
        settle_command(p, c, STATUS_EXHAUSTED, text);
    }
}

static void settle_load(struct policy *p, struct pending_command *c, const char *note)
{
    char text[ORDER_TEXT_MAX];

    snprintf(text, sizeof text, "model %s is resident on instance %s%s", model_name(p, c->target),
             c->instance->config->name, note);
    settle_command(p, c, STATUS_OK, text);
}

void command_settle(struct instance *in)
{
    struct policy *p = in->policy;
    struct pending_command *c, *next;

    for (c = TAILQ_FIRST(&p->commands); c != NULL; c = next) {
        next = TAILQ_NEXT(c, link);
        if (c->command != POLICY_LOAD || c->instance != in || !c->loaded)
            continue;
        if (!calibrate_wanted(in, c->target))
            settle_load(p, c, "");
        else if (calibrate_may(in))
            calibrate_begin(in, c->target);
        else if (in->calibration.model == UINT32_MAX)
            settle_load(p, c, "; its costs are measured when the instance is idle");
    }
}

static void check_unload(struct policy *p, struct pending_command *c)
{
    char text[ORDER_TEXT_MAX];

    if (resident_somewhere(p, c->target))
        return;
    snprintf(text, sizeof text, "model %s is unloaded", model_name(p, c->target));
    settle_command(p, c, STATUS_OK, text);
}

void command_residency(struct instance *in, const struct event_residency *ev)
{
    struct policy *p = in->policy;
    struct pending_command *c, *next;

    for (c = TAILQ_FIRST(&p->commands); c != NULL; c = next) {
        next = TAILQ_NEXT(c, link);
        if (c->target != ev->model)
            continue;
        if (c->command == POLICY_LOAD && c->instance == in)
            check_load(p, c, ev);
        else if (c->command == POLICY_UNLOAD)
            check_unload(p, c);
    }
}

void command_instance_lost(struct instance *in)
{
    struct policy *p = in->policy;
    struct pending_command *c, *next;

    for (c = TAILQ_FIRST(&p->commands); c != NULL; c = next) {
        next = TAILQ_NEXT(c, link);
        if (c->command == POLICY_LOAD && c->instance == in)
            settle_command(p, c, STATUS_UNAVAILABLE, "the engine died while it loaded the model");
        else if (c->command == POLICY_UNLOAD)
            check_unload(p, c);
    }
}

/* --- drain and resume ------------------------------------------------------------------------- */

static uint32_t sequences_at(const struct instance *in)
{
    const struct sequence *s;
    uint32_t n = 0;

    TAILQ_FOREACH(s, &in->policy->sequences, link)
    n += s->scheduled && s->instance == in->index;
    return n;
}

static void drain(struct policy *p, struct instance *in, uint64_t tag)
{
    in->drained = 1;
    p->changed = p->replace = p->retry = 1;
    sched_set_available(p->sched, in->index, 0);
    log_info("instance %s: draining", in->config->name);
    pend(p, POLICY_DRAIN, in->status.index, tag, in);
}

void command_check_drains(struct policy *p)
{
    struct pending_command *c, *next;
    char text[ORDER_TEXT_MAX];

    for (c = TAILQ_FIRST(&p->commands); c != NULL; c = next) {
        next = TAILQ_NEXT(c, link);
        if (c->command != POLICY_DRAIN || sequences_at(c->instance) > 0)
            continue;
        snprintf(text, sizeof text, "instance %s is drained", c->instance->config->name);
        settle_command(p, c, STATUS_OK, text);
    }
}

static void resume(struct policy *p, struct instance *in, uint64_t tag)
{
    struct pending_command *c, *next;

    in->drained = 0;
    p->changed = p->replace = p->retry = 1;
    sched_set_available(p->sched, in->index, in->state == INSTANCE_READY);
    for (c = TAILQ_FIRST(&p->commands); c != NULL; c = next) {
        next = TAILQ_NEXT(c, link);
        if (c->command == POLICY_DRAIN && c->instance == in)
            settle_command(p, c, STATUS_UNAVAILABLE, "the instance was resumed meanwhile");
    }
    log_info("instance %s: resumed", in->config->name);
    replyf(p, tag, STATUS_OK, "instance %s takes requests", in->config->name);
}

/* --- all of them ------------------------------------------------------------------------------ */

static struct instance *instance_of(struct policy *p, uint32_t index)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        if (p->instances[i].status.index == index)
            return &p->instances[i];
    }
    return NULL;
}

void command_start(struct policy *p, enum policy_command command, uint32_t target, uint64_t tag)
{
    int of_model = command == POLICY_LOAD || command == POLICY_UNLOAD;
    struct instance *in = of_model ? NULL : instance_of(p, target);

    if (p->stopping)
        reply(p, tag, STATUS_UNAVAILABLE, "modelpoold is stopping");
    else if (of_model && target >= p->model_count)
        reply(p, tag, STATUS_NOT_FOUND, "no such model");
    else if (!of_model && in == NULL)
        reply(p, tag, STATUS_NOT_FOUND, "no such instance on this node");
    else if (command == POLICY_LOAD)
        load(p, target, tag);
    else if (command == POLICY_UNLOAD)
        unload(p, target, tag);
    else if (command == POLICY_DRAIN)
        drain(p, in, tag);
    else
        resume(p, in, tag);
}

void command_refuse_all(struct policy *p)
{
    while (!TAILQ_EMPTY(&p->commands))
        settle_command(p, TAILQ_FIRST(&p->commands), STATUS_UNAVAILABLE, "modelpoold is stopping");
}
