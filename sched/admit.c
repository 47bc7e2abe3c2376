/* admit.c - whether one more sequence with an SLO can be promised */
#include "sched/state.h"

/* What a model's batch needs of the instance's time, those that wait to run again included. */
double slot_promise(const struct sched *s, struct sched_slot *slot)
{
    const struct cost *c = slot_cost(s, slot);
    double sum = slot_share(s, slot);

    if (slot->waiting_strict == 0)
        return sum;
    if (slot->running > 0) /* one step for all: theirs are rows of it */
        return sum + (cost_decode(c, slot->waiting_strict, slot->waiting_context) -
                      cost_decode(c, 0, 0)) *
                         1e6 / (double)slot->waiting_tbt;
    return cost_decode(c, slot->waiting_strict, slot->waiting_context) * 1e6 /
           (double)slot->waiting_tbt;
}

double sched_promised(struct sched *s, uint32_t instance)
{
    struct sched_instance *in = find_instance(s, instance);
    double sum = 0;

    for (uint32_t i = 0; in != NULL && i < in->slot_count; i++) {
        struct sched_slot *slot = in->slots[i];
        int strict = slot->waiting_strict > 0;

        for (const struct sched_entry *e = slot->first; e != NULL && !strict; e = e->next)
            strict = e->strict;
        if (strict)
            sum += slot_promise(s, slot);
    }
    return sum;
}

/* What the sequence would add where its model's batch is, or begins; *alone: on an idle one. */
static double added(struct sched *s, uint32_t instance, const struct sched_seq *seq, double *alone)
{
    struct sched_slot *slot = find_slot(s, instance, seq->model);
    struct sched_slot none = {.model = seq->model};
    const struct cost *c = slot_cost(s, slot != NULL ? slot : &none);

    *alone = cost_decode(c, 1, seq->tokens) * 1e6 / (double)seq->tbt_us;
    if (slot == NULL || slot->running + slot->waiting_strict == 0)
        return *alone;
    return *alone - cost_decode(c, 0, 0) * 1e6 / (double)seq->tbt_us;
}

static int refuse(double least, double alone, double step, const struct sched_seq *seq,
                  struct error *err)
{
    if (least < 0)
        return error_set(err, STATUS_UNAVAILABLE, "no available instance can run model number %u",
                         seq->model);
    if (alone > SCHED_PROMISED_MAX)
        return error_set(err, STATUS_UNSUPPORTED,
                         "its time between tokens of %.0f ms cannot be kept: a step takes %.0f ms "
                         "even when nothing else runs",
                         (double)seq->tbt_us / 1e3, step * 1e3);
    return error_set(err, STATUS_EXHAUSTED,
                     "its time between tokens cannot be promised: with it, the least loaded "
                     "instance would owe %.0f %% of its time to requests with an SLO, and %.0f %% "
                     "is the most",
                     least * 100, SCHED_PROMISED_MAX * 100);
}

int sched_admit(struct sched *s, int64_t now, const struct sched_seq *seq, struct error *err)
{
    double least = -1, least_alone = -1;

    (void)now;
    if (seq->ttft_us <= 0 || seq->tbt_us <= 0)
        return 0;
    for (uint32_t i = 0; i < s->instance_count; i++) {
        double sum, alone;

        if (!slot_may_run(s, find_slot(s, i, seq->model), i, seq->model) ||
            s->instances[i].role == SCHED_PREFILL)
            continue;
        sum = added(s, i, seq, &alone) + sched_promised(s, i);
        if (sum <= SCHED_PROMISED_MAX)
            return 0;
        if (least < 0 || sum < least)
            least = sum;
        if (least_alone < 0 || alone < least_alone)
            least_alone = alone;
    }
    return refuse(least, least_alone, least_alone * (double)seq->tbt_us / 1e6, seq, err);
}
