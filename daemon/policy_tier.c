/*
 * policy_tier.c - the host tier as the policy thread uses it: what engines are lent, and when
 *
 * A complete master copy is lent as soon as an engine knows its model.  An empty one goes to the
 * first engine that is about to need it, which prepares the weights into it; the others are lent it
 * when it is complete.  An engine that has none reads the model's files.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/log.h"
#include "daemon/policy_state.h"

static const char *model_name(const struct instance *in, uint32_t model)
{
    return in->policy->config->models[model].name;
}

static uint32_t device_of(const struct instance *in)
{
    return in->config->device == CONFIG_CUDA ? ORDER_DEVICE_CUDA : ORDER_DEVICE_CPU;
}

void tier_note_file(struct instance *in, uint32_t model, int fd)
{
    struct engine_model *m = &in->models[model];
    struct tier_file *more;
    struct stat st;

    if (in->policy->tier == NULL || fstat(fd, &st) != 0)
        return;
    more = realloc(m->files, (m->file_count + 1) * sizeof *more);
    if (more == NULL)
        return;
    m->files = more;
    more[m->file_count++] = (struct tier_file){
        .device = st.st_dev,
        .inode = st.st_ino,
        .size = (uint64_t)st.st_size,
        .mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
        .ctime_ns = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec,
    };
}

void tier_forget_files(struct instance *in, uint32_t model)
{
    free(in->models[model].files);
    in->models[model].files = NULL;
    in->models[model].file_count = 0;
}

/* --- lending ---------------------------------------------------------------------------------- */

static void send_master(struct instance *in, uint32_t model, enum master_use use, int fd)
{
    const struct engine_model *m = &in->models[model];
    struct order_master order = {.kind = ORDER_MASTER, .model = model, .use = use};

    if (m->master != NULL && m->master->has_key)
        memcpy(order.key, m->master->key, sizeof order.key);
    engine_link_send_files(in->link, &order, sizeof order, &fd, fd >= 0);
    in->models[model].lent = use;
    in->policy->changed = 1;
}

static void lend(struct instance *in, uint32_t model, int prepare)
{
    struct engine_model *m = &in->models[model];
    enum master_use use;
    int fd;

    if (m->master == NULL || m->lent != MASTER_NONE || in->state != INSTANCE_READY)
        return;
    use = tier_lend(in->policy->tier, m->master, &fd);
    if (use == MASTER_FILL && prepare)
        use = MASTER_PREPARE;
    if (use != MASTER_NONE)
        send_master(in, model, use, fd);
}

/* It is complete: for all who run such a model. */
static void lend_to_all(struct policy *p, const struct tier_master *master)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        for (uint32_t m = 0; m < p->model_count; m++) {
            struct instance *in = &p->instances[i];

            if (in->models[m].master == master && engine_can_run(in, m))
                lend(in, m, 0);
        }
    }
}

void tier_model_known(struct instance *in, const struct event_model *ev)
{
    struct engine_model *m = &in->models[ev->model];
    enum config_pin pin = in->policy->config->models[ev->model].pin;

    m->lent = MASTER_NONE;
    m->master = NULL;
    if (in->policy->tier == NULL)
        return;
    m->master = tier_find(in->policy->tier, model_name(in, ev->model), m->files, m->file_count,
                          device_of(in), ev->layout, ev->master_bytes);
    if (m->master == NULL)
        return;
    if (pin == PIN_HOST) {
        m->master->pinned = 1;
        lend(in, ev->model, 1);
    } else if (m->master->state == TIER_COMPLETE) {
        lend(in, ev->model, 0);
    }
}

void tier_need(struct instance *in, uint32_t model)
{
    struct engine_model *m = &in->models[model];

    if (m->master == NULL)
        return;
    if (!m->status.resident)
        lend(in, model, 0);
    tier_touch(in->policy->tier, m->master);
}

void tier_turn_ended(struct instance *in, uint32_t model)
{
    struct engine_model *m = &in->models[model];

    if (m->lent != MASTER_FILL || m->status.resident || in->loading == model)
        return;
    for (uint32_t i = 0; i < in->turn_count; i++) {
        if (in->turns[i].model == model)
            return;
    }
    send_master(in, model, MASTER_NONE, -1);
    tier_discard(in->policy->tier, m->master, 0);
}

int tier_has(const struct instance *in, uint32_t model)
{
    return in->models[model].master != NULL;
}

void tier_tell(struct policy *p)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        for (uint32_t model = 0; model < p->model_count; model++) {
            struct engine_model *m = &p->instances[i].models[model];
            int hosted = m->master != NULL && m->master->state == TIER_COMPLETE;

            if (hosted == m->hosted || !m->status.known)
                continue;
            m->hosted = hosted;
            sched_set_hosted(p->sched, i, model, hosted);
        }
    }
}

/* --- what engines say ------------------------------------------------------------------------- */

static void replace(struct policy *p, const struct tier_master *gone, struct tier_master *by)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        for (uint32_t m = 0; m < p->model_count; m++) {
            if (p->instances[i].models[m].master == gone)
                p->instances[i].models[m].master = by;
        }
    }
}

/* The engine that filled it keeps what it has, unless the same contents were there already. */
static void completed(struct instance *in, const struct event_master *ev)
{
    struct policy *p = in->policy;
    struct engine_model *m = &in->models[ev->model];
    struct tier_master *was = m->master, *now;

    in->status.file_bytes += ev->file_bytes;
    if (was == NULL || (m->lent != MASTER_FILL && m->lent != MASTER_PREPARE))
        return;
    now = tier_completed(p->tier, was, ev);
    if (now != was) /* was is gone */
        replace(p, was, now);
    m->lent = MASTER_READ;
    if (now != was || now->state != TIER_COMPLETE) {
        send_master(in, ev->model, MASTER_NONE, -1);
        m->lent = MASTER_NONE;
    }
    if (now->state == TIER_COMPLETE)
        lend_to_all(p, now);
}

/* All others who read it give it up, too. */
static void recall(struct policy *p, const struct tier_master *master)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        struct instance *in = &p->instances[i];

        for (uint32_t m = 0; m < p->model_count; m++) {
            if (in->models[m].master != master || in->models[m].lent == MASTER_NONE)
                continue;
            if (in->state == INSTANCE_READY)
                send_master(in, m, MASTER_NONE, -1);
            in->models[m].lent = MASTER_NONE;
        }
    }
}

static void on_evict(void *context, struct tier_master *master)
{
    recall(context, master);
}

void tier_on_master(struct instance *in, const struct event_master *ev)
{
    struct policy *p = in->policy;
    struct engine_model *m;

    if (ev->model >= p->model_count) {
        engine_link_break(in->link, "it speaks of a model that it was not given");
        return;
    }
    m = &in->models[ev->model];
    p->changed = 1;
    if (m->master == NULL || m->lent == MASTER_NONE)
        return; /* it was recalled meanwhile */
    switch (ev->state) {
    case MASTER_PROGRESS:
        m->master->done = ev->done;
        m->master->total = ev->total;
        break;
    case MASTER_COMPLETE:
        completed(in, ev);
        break;
    case MASTER_CORRUPT:
        log_warn("model %s: its master copy %s is prepared again: %s", model_name(in, ev->model),
                 m->master->name, ev->text);
        m->lent = MASTER_NONE;
        recall(p, m->master);
        tier_discard(p->tier, m->master, 0);
        lend(in, ev->model, 1);
        break;
    case MASTER_FAILED:
        log_warn("model %s: no master copy: %s", model_name(in, ev->model), ev->text);
        m->lent = MASTER_NONE;
        tier_discard(p->tier, m->master, ev->no_space != 0);
        break;
    }
}

void tier_instance_lost(struct instance *in)
{
    for (uint32_t m = 0; m < in->policy->model_count; m++) {
        struct engine_model *em = &in->models[m];

        if (em->lent == MASTER_FILL || em->lent == MASTER_PREPARE)
            tier_discard(in->policy->tier, em->master, 0);
        em->lent = MASTER_NONE;
    }
}

void tier_begin(struct policy *p, struct tier *tier)
{
    p->tier = tier;
    if (tier != NULL)
        tier_on_evict(tier, on_evict, p);
}

/* --- for others to see ------------------------------------------------------------------------ */

static void show(struct policy_cache_status *to, const struct tier_master *m, const char *model)
{
    *to = (struct policy_cache_status){
        .bytes = m->bytes, .used_us = m->used_us, .pinned = m->pinned, .state = (int)m->state};
    snprintf(to->model, sizeof to->model, "%s", model);
    snprintf(to->name, sizeof to->name, "%s", m->name);
    if (m->total > 0)
        to->percent = (uint32_t)(m->done * 100 / m->total);
}

static const struct tier_master *master_of(const struct policy *p, uint32_t model)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        if (p->instances[i].models[model].master != NULL)
            return p->instances[i].models[model].master;
    }
    return NULL;
}

void tier_show(const struct policy *p, struct policy_snapshot *s)
{
    const struct tier_master *m;
    uint32_t n = 0;

    if (p->tier == NULL)
        return;
    for (uint32_t i = 0; i < p->model_count && n < POLICY_CACHES_MAX; i++) {
        m = master_of(p, i);
        if (m != NULL && m->state != TIER_ABSENT)
            show(&s->cache[n++], m, p->config->models[i].name);
    }
    TAILQ_FOREACH(m, tier_all(p->tier), link)
    {
        int shown = m->state == TIER_ABSENT || n == POLICY_CACHES_MAX;

        for (uint32_t i = 0; i < p->model_count && !shown; i++)
            shown = master_of(p, i) == m;
        if (!shown)
            show(&s->cache[n++], m, m->model);
    }
    s->caches = n;
    s->cache_used = tier_used(p->tier);
    s->cache_place = tier_folder(p->tier);
}

int tier_percent(const struct engine_model *m, uint32_t *percent)
{
    if (m->master == NULL || m->master->state != TIER_FILLING || m->master->total == 0)
        return 0;
    *percent = (uint32_t)(m->master->done * 100 / m->master->total);
    return 1;
}
