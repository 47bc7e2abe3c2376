/*
 * fcfs.c - request-level scheduling: a model keeps the device until its sequences have ended
 *
 * fcfs: each instance has a queue of groups of one model; a sequence joins the last group if that
 * is its model's, else it opens one; the first group runs until it is empty.  That is what systems
 * do that scale models by request (the ServerlessLLM of Aegaeon's artifact, but for its bound of 4
 * in a group, and its choice of an instance, the least recently used: here, the shortest queue).
 * sjf: the sequence with the fewest tokens left, by an oracle, and its model's others beside it
 * until it has ended.
 */
#include "sched/state.h"

/* The instance whose last group is the model's, or else the one with the shortest queue. */
static uint32_t fcfs_pick(struct sched *s, uint32_t model, enum sched_role role)
{
    uint32_t best = SCHED_NONE;
    double best_load = 0;

    for (uint32_t i = 0; i < s->instance_count; i++) {
        const struct sched_instance *in = &s->instances[i];
        const struct sched_slot *slot = find_slot(s, i, model);
        double load = in->sequences / 1e3;

        if (!slot_may_run(s, slot, i, model) || !role_fits(in->role, role))
            continue;
        if (in->groups_last != NULL && in->groups_last->model == model)
            return i;
        for (const struct sched_group *g = in->groups; g != NULL; g = g->next)
            load += 1;
        if (slot != NULL && slot->resident != SCHED_ABSENT)
            load -= 0.5;
        else if (slot != NULL && slot->hosted)
            load -= 0.25;
        if (best == SCHED_NONE || load < best_load) {
            best = i;
            best_load = load;
        }
    }
    return best;
}

static int fcfs_arrived(struct sched *s, struct sched_entry *e)
{
    struct sched_group *last = s->instances[e->slot->instance].groups_last;

    return group_join(s, e, last != NULL && last->model == e->slot->model ? last : NULL);
}

static void fcfs_left(struct sched *s, struct sched_entry *e, int gone)
{
    if (gone)
        group_leave(s, e);
}

/* Prompts of the group; those of a later group of the same model wait. */
static uint32_t fresh_of(const struct sched_slot *slot, const struct sched_group *g)
{
    uint32_t n = 0;

    for (const struct sched_entry *e = slot->first; e != NULL; e = e->next)
        n += e->group == g && e->produced == 0;
    return n;
}

static int fcfs_next(struct sched *s, int64_t now, uint32_t instance, struct sched_turn *turn)
{
    const struct sched_instance *in = &s->instances[instance];
    const struct sched_group *g = in->groups;
    const struct sched_slot *slot;

    (void)now;
    while (g != NULL && find_slot(s, instance, g->model)->running == 0)
        g = g->next;
    if (g == NULL)
        return 0;
    slot = find_slot(s, instance, g->model);
    turn->model = g->model;
    if (g != in->groups_last) {
        turn->fresh_max = fresh_of(slot, g);
        if (turn->fresh_max == 0)
            turn->phases = SCHED_DECODE_ONLY;
    }
    turn->quota_us = s->params.starve_us / 4;
    return 1;
}

/* --- sjf -------------------------------------------------------------------------------------- */

static uint32_t left(const struct sched_entry *e)
{
    return e->oracle > e->produced ? e->oracle - e->produced : 1;
}

static int sjf_next(struct sched *s, int64_t now, uint32_t instance, struct sched_turn *turn)
{
    const struct sched_instance *in = &s->instances[instance];
    const struct sched_slot *late = NULL;
    const struct sched_entry *best = NULL;

    for (uint32_t i = 0; i < in->slot_count; i++) {
        const struct sched_slot *slot = in->slots[i];

        for (const struct sched_entry *e = slot->first; e != NULL; e = e->next) {
            if (best == NULL || left(e) < left(best) ||
                (left(e) == left(best) && e->order < best->order))
                best = e;
        }
        if (slot->running > 0 && now - slot->since >= s->params.starve_us &&
            (late == NULL || slot->since < late->since))
            late = slot;
    }
    if (best == NULL)
        return 0;
    turn->model = late != NULL ? late->model : best->slot->model;
    turn->quota_us = s->params.starve_us / 4;
    turn->quota_steps = late != NULL ? left(late->first) : left(best);
    return 1;
}

const struct sched_policy sched_fcfs = {.name = "fcfs",
                                        .traits = {.residents_max = 1},
                                        .pick = fcfs_pick,
                                        .next = fcfs_next,
                                        .arrived = fcfs_arrived,
                                        .left = fcfs_left};
const struct sched_policy sched_sjf = {
    .name = "sjf", .traits = {.oracle = 1, .residents_max = 1}, .next = sjf_next};
