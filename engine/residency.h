/*
 * residency.h - which models' weights are in the arena
 *
 * Several stay while they fit.  Who must go is the least recently used one that does not run.  The
 * KV of sequences is never taken for weights: that is the daemon's decision, by closing or spilling
 * them.  What KV nobody uses goes before any weights do.
 */
#ifndef MP_ENGINE_RESIDENCY_H
#define MP_ENGINE_RESIDENCY_H

#include "engine/host_tier.h"
#include "engine/weights.h"

#define RESIDENCY_MODELS_MAX 256u

struct residency {
    struct arena *arena;
    struct staging staging;
    struct host_tier host;
    struct model *models[RESIDENCY_MODELS_MAX];
    uint32_t count;
    uint64_t stamp;
    /* Told of each arrival and departure: weights' bytes, and microseconds of the copy. */
    void (*notify)(void *context, const struct model *m, int resident, uint64_t bytes, uint64_t us);
    /* Handles that KV could give without loss; and let it give until so many are free, if it can.
     * NULL: there is no KV. */
    uint32_t (*spare)(void *context);
    void (*reclaim)(void *context, uint32_t handles);
    void *context;
};

struct model *residency_find(const struct residency *r, uint32_t id);

/*
 * Make m resident, evicting others than `keep` (NULL: any other).  *bytes and *us are what the copy
 * took, 0 if it was there.  EXHAUSTED, with nothing evicted, if it cannot fit beside the live KV.
 */
int residency_load(struct residency *r, struct model *m, const struct model *keep, uint64_t *bytes,
                   uint64_t *us, struct error *err);
void residency_unload(struct residency *r, struct model *m);
/* Evict the least recently used model that is neither of the two (NULL: no such exception).  0 if
 * there is none. */
int residency_evict(struct residency *r, const struct model *keep, const struct model *also);
/* Unload and close all. */
void residency_clear(struct residency *r);

#endif
