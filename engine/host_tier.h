/*
 * host_tier.h - master copies of weights in host memory that the device copies from at full speed
 *
 * A master copy is a model's range as a whole, in the engine's own layout, read from its files
 * once: from then on making the model resident is one copy over the wire, and giving it up costs
 * nothing.  Models of the same files share one. The budget bounds them all; the least recently used
 * one goes first.  A model that is larger than the budget has none, and is read from its files each
 * time.
 */
#ifndef MP_ENGINE_HOST_TIER_H
#define MP_ENGINE_HOST_TIER_H

#include "engine/weights.h"

struct residency;

struct host_tier {
    uint64_t budget, used; /* bytes; budget 0: there is no such tier */
    uint64_t read;         /* bytes that were read from files for master copies */
};

/* The model's master copy, made if it can be: 0 also if the budget or the host's memory does not
 * hold it (m->master NULL).  -1: its files cannot be read. */
int host_tier_hold(struct host_tier *t, struct residency *r, struct model *m, struct error *err);
/* Give it up; it is freed with the last name that copies from it. */
void host_tier_drop(struct host_tier *t, struct residency *r, struct model *m);

#endif
