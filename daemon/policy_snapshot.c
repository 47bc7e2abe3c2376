/*
 * policy_snapshot.c - a copy of the state for other threads
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/policy_state.h"

static int allocate(struct policy_snapshot *s, uint32_t instances, uint32_t models, int tier)
{
    size_t cells = (size_t)instances * models;

    *s = (struct policy_snapshot){.instances = instances, .models = models};
    s->instance = calloc(instances > 0 ? instances : 1, sizeof *s->instance);
    s->model = calloc(cells > 0 ? cells : 1, sizeof *s->model);
    s->tenant = NULL;
    if (tier)
        s->cache = calloc(POLICY_CACHES_MAX, sizeof *s->cache);
    if (s->instance != NULL && s->model != NULL && (s->cache != NULL || !tier))
        return 0;
    policy_snapshot_free(s);
    return -1;
}

int snapshot_init(struct policy *p, struct error *err)
{
    if (allocate(&p->snapshot, p->instance_count, p->model_count, p->tier != NULL) != 0)
        return error_set(err, STATUS_NOMEM, "policy: out of memory");
    pthread_mutex_init(&p->snapshot_lock, NULL);
    snapshot_publish(p);
    return 0;
}

static const char *state_word(const struct instance *in)
{
    if (in->state == INSTANCE_STARTING || (in->state == INSTANCE_READY && !in->complete))
        return "starting";
    if (in->state != INSTANCE_READY)
        return "down";
    if (in->drained)
        return "drained";
    return in->turn_count > 0 ? "running" : "idle";
}

static void copy_model(const struct instance *in, uint32_t model, struct policy_model_status *to)
{
    const struct engine_model *m = &in->models[model];
    struct sched_work work;

    *to = m->status;
    /* The engine tells at turn ends; pages of sequences that ended since are free again. */
    if (to->running == 0)
        to->kv_pages_used = 0;
    to->calibrated = m->calibrated;
    to->in_host = m->hosted;
    to->preparing = tier_percent(m, &to->percent);
    sched_get_work(in->policy->sched, in->index, model, &work);
    to->since_us = work.since;
    to->due_us = work.due;
    to->share = work.share;
    to->cost = m->cost;
    to->cost_samples[COST_STEP] = m->step.samples;
    to->cost_samples[COST_PREFILL] = m->prefill.samples;
    to->cost_samples[COST_LOAD] = m->loads;
    to->cost_error[COST_STEP] = m->step.error;
    to->cost_error[COST_PREFILL] = m->prefill.error;
    to->cost_error[COST_LOAD] = m->load_error;
}

static void copy_tenants(struct policy *p)
{
    struct policy_snapshot *s = &p->snapshot;

    if (s->tenants < p->tenant_count) {
        struct policy_tenant_status *more = realloc(s->tenant, p->tenant_count * sizeof *more);

        if (more == NULL)
            return;
        s->tenant = more;
        s->tenants = p->tenant_count;
    }
    for (uint32_t i = 0; i < s->tenants; i++)
        s->tenant[i] = (struct policy_tenant_status){p->shares[i], sched_tenant_used(p->sched, i)};
}

void snapshot_publish(struct policy *p)
{
    pthread_mutex_lock(&p->snapshot_lock);
    p->snapshot.admission = p->admission;
    copy_tenants(p);
    for (uint32_t i = 0; i < p->instance_count; i++) {
        struct instance *in = &p->instances[i];
        struct policy_instance_status *to = &p->snapshot.instance[i];

        *to = in->status;
        snprintf(to->state, sizeof to->state, "%s", state_word(in));
        to->promised = sched_promised(p->sched, i);
        to->loads_behind = in->loads_behind;
        snprintf(to->failure, sizeof to->failure, "%.*s", (int)sizeof to->failure - 1, in->failure);
        for (uint32_t m = 0; m < p->model_count; m++)
            copy_model(in, m, &p->snapshot.model[(size_t)i * p->model_count + m]);
    }
    tier_show(p, &p->snapshot);
    pthread_mutex_unlock(&p->snapshot_lock);
}

int policy_snapshot(struct policy *p, struct policy_snapshot *out, struct error *err)
{
    size_t cells = (size_t)p->instance_count * p->model_count;

    if (allocate(out, p->instance_count, p->model_count, p->tier != NULL) != 0)
        return error_set(err, STATUS_NOMEM, "policy: out of memory");
    pthread_mutex_lock(&p->snapshot_lock);
    memcpy(out->instance, p->snapshot.instance, p->instance_count * sizeof *out->instance);
    memcpy(out->model, p->snapshot.model, cells * sizeof *out->model);
    out->caches = p->snapshot.caches;
    out->cache_used = p->snapshot.cache_used;
    out->cache_place = p->snapshot.cache_place;
    if (out->cache != NULL)
        memcpy(out->cache, p->snapshot.cache, out->caches * sizeof *out->cache);
    out->admission = p->snapshot.admission;
    if (p->snapshot.tenants > 0)
        out->tenant = malloc(p->snapshot.tenants * sizeof *out->tenant);
    if (out->tenant != NULL) {
        memcpy(out->tenant, p->snapshot.tenant, p->snapshot.tenants * sizeof *out->tenant);
        out->tenants = p->snapshot.tenants;
    }
    pthread_mutex_unlock(&p->snapshot_lock);
    return 0;
}

void policy_snapshot_free(struct policy_snapshot *s)
{
    if (s == NULL)
        return;
    free(s->instance);
    free(s->model);
    free(s->cache);
    s->cache = NULL;
    free(s->tenant);
    s->instance = NULL;
    s->tenant = NULL;
    s->model = NULL;
}
