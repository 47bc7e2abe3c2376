/* residency.c - which models' weights are in the arena */
#include "engine/residency.h"

#include <inttypes.h>

#include "common/clock.h"

struct model *residency_find(const struct residency *r, uint32_t id)
{
    for (uint32_t i = 0; i < r->count; i++)
        if (r->models[i]->id == id)
            return r->models[i];
    return NULL;
}

void residency_unload(struct residency *r, struct model *m)
{
    if (!m->resident)
        return;
    model_unload(m);
    if (r->notify != NULL)
        r->notify(r->context, m, 0, m->weight_bytes, 0);
}

int residency_evict(struct residency *r, const struct model *keep, const struct model *also)
{
    struct model *oldest = NULL;

    for (uint32_t i = 0; i < r->count; i++) {
        struct model *m = r->models[i];
        if (m->resident && m != keep && m != also && (oldest == NULL || m->used < oldest->used))
            oldest = m;
    }
    if (oldest == NULL)
        return 0;
    residency_unload(r, oldest);
    return 1;
}

int residency_load(struct residency *r, struct model *m, const struct model *keep, uint64_t *bytes,
                   uint64_t *us, struct error *err)
{
    int64_t start;
    uint64_t room = arena_held(r->arena, ARENA_FREE), size = arena_handle_bytes(r->arena);

    *bytes = *us = 0;
    m->used = ++r->stamp;
    if (m->resident)
        return 0;
    for (uint32_t i = 0; i < r->count; i++)
        if (r->models[i]->resident && r->models[i] != keep)
            room += r->models[i]->handle_count;
    if (r->spare != NULL && arena_held(r->arena, ARENA_FREE) < m->handle_count)
        room += r->spare(r->context);
    if (room < m->handle_count)
        return error_set(
            err, STATUS_EXHAUSTED,
            "model %s needs %" PRIu64 " MiB for its weights; of Memory= (%" PRIu64 " MiB), %" PRIu64
            " MiB hold the KV of live sequences%s: close sequences, or raise it",
            m->name, m->handle_count * size >> 20, arena_handles(r->arena) * size >> 20,
            arena_held(r->arena, ARENA_KV) * size >> 20,
            keep != NULL && keep->resident ? " and another model runs" : "");
    if (r->reclaim != NULL)
        r->reclaim(r->context, m->handle_count);
    while (arena_held(r->arena, ARENA_FREE) < m->handle_count)
        if (!residency_evict(r, m, keep))
            return error_set(err, STATUS_INTERNAL, "model %s: the arena's count is wrong", m->name);
    /* The first time takes as long as the files do, and is not a switch's own. */
    if (host_tier_hold(&r->host, r, m, err) != 0)
        return -1;
    start = clock_monotonic_us();
    if (model_load(m, &r->staging, err) != 0)
        return -1;
    *bytes = m->weight_bytes;
    *us = (uint64_t)(clock_monotonic_us() - start);
    if (r->notify != NULL)
        r->notify(r->context, m, 1, *bytes, *us);
    return 0;
}

void residency_clear(struct residency *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        model_unload(r->models[i]);
        host_tier_drop(&r->host, r->models[i]);
        model_close(r->models[i]);
    }
    r->count = 0;
}
