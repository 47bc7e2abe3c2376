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

void snapshot_publish(struct policy *p)
{
    pthread_mutex_lock(&p->snapshot_lock);
    for (uint32_t i = 0; i < p->instance_count; i++) {
        struct instance *in = &p->instances[i];
        struct policy_instance_status *to = &p->snapshot.instance[i];

        *to = in->status;
        snprintf(to->state, sizeof to->state, "%s", state_word(in));
        for (uint32_t m = 0; m < p->model_count; m++) {
            struct policy_model_status *shown = &p->snapshot.model[(size_t)i * p->model_count + m];

            *shown = in->models[m].status;
            shown->in_host =
                in->models[m].master != NULL && in->models[m].master->state == TIER_COMPLETE;
            shown->preparing = tier_percent(&in->models[m], &shown->percent);
            /* The engine tells at turn ends; pages of sequences that ended since are free again. */
            if (shown->running == 0)
                shown->kv_pages_used = 0;
        }
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
    s->instance = NULL;
    s->model = NULL;
}
