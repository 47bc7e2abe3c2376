/* dispatch.c - where a sequence goes */
#include "sched/state.h"

int role_fits(enum sched_role have, enum sched_role want)
{
    return have == want || have == SCHED_MIXED || want == SCHED_MIXED;
}

/* How good an instance is for a model: with its sequences, resident, in the host tier, others. */
static int preference(const struct sched_slot *slot)
{
    if (slot == NULL)
        return 0;
    if (slot->running + slot->waiting > 0)
        return 3;
    return slot->resident != SCHED_ABSENT ? 2 : slot->hosted;
}

/* Fewer sequences, then less time spent so far. */
static int less_loaded(const struct sched_instance *a, const struct sched_instance *b)
{
    if (a->sequences != b->sequences)
        return a->sequences < b->sequences;
    return a->busy_us < b->busy_us;
}

uint32_t pick_usual(struct sched *s, uint32_t model, enum sched_role role)
{
    uint32_t best = SCHED_NONE;
    int best_rank = -1;

    for (uint32_t i = 0; i < s->instance_count; i++) {
        const struct sched_instance *in = &s->instances[i];
        const struct sched_slot *slot = find_slot(s, i, model);

        if (!slot_may_run(s, slot, i, model) || !role_fits(in->role, role))
            continue;
        if (preference(slot) > best_rank ||
            (preference(slot) == best_rank && less_loaded(in, &s->instances[best]))) {
            best = i;
            best_rank = preference(slot);
        }
    }
    return best;
}

uint32_t pick(struct sched *s, uint32_t model, enum sched_role role)
{
    return s->policy->pick != NULL ? s->policy->pick(s, model, role) : pick_usual(s, model, role);
}
