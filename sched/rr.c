/*
 * rr.c - round robin of fixed quotas over the models of an instance
 *
 * The model that has waited longest since its last turn is next.  Between two turns of a model
 * every other one gets at most one, so a model that has sequences starts after at most (models - 1)
 * * (turn + switch) and what the engine held when they came.
 */
#include "sched/state.h"

/*
 * An engine holds two turns.  With one model at work both are its own, so each gets half a turn:
 * another model that arrives has its turn after turn_us at most, and the engine still never waits
 * for an order.
 */
static int64_t quota(int64_t turn_us, uint32_t busy)
{
    int64_t us = busy > 1 ? turn_us : turn_us / 2;

    return us > 0 ? us : 1;
}

static int rr_next(struct sched *s, int64_t now, uint32_t instance, struct sched_turn *turn)
{
    const struct sched_instance *in = &s->instances[instance];
    const struct sched_slot *best = NULL;
    uint32_t busy = 0;

    (void)now;
    for (uint32_t i = 0; i < in->slot_count; i++) {
        const struct sched_slot *slot = in->slots[i];

        if (slot->running == 0)
            continue;
        busy++;
        if (best == NULL || slot->served < best->served ||
            (slot->served == best->served && slot->model < best->model))
            best = slot;
    }
    if (best == NULL)
        return 0;
    turn->model = best->model;
    turn->quota_us = quota(s->params.turn_us, busy);
    return 1;
}

/* When a model had its last turn counts, also when it returns: its slot is kept. */
const struct sched_policy sched_rr = {.name = "rr", .keeps_slots = 1, .next = rr_next};
