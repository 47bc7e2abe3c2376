/* admit.c - whether one more sequence with an SLO can be promised */
#include "sched/state.h"

/* Batches may need so much of an instance's time: what is left covers switches and prompts. */
#define PROMISED_MAX 0.9

static double promised(struct sched *s, uint32_t instance)
{
    struct sched_instance *in = &s->instances[instance];
    double sum = 0;

    for (uint32_t i = 0; i < in->slot_count; i++) {
        struct sched_slot *slot = in->slots[i];
        int strict = 0;

        for (const struct sched_entry *e = slot->first; e != NULL && !strict; e = e->next)
            strict = e->strict;
        if (strict)
            sum += slot_share(s, slot);
    }
    return sum;
}

/* What the sequence would add where its model's batch is, or begins. */
static double added(struct sched *s, uint32_t instance, const struct sched_seq *seq)
{
    struct sched_slot *slot = find_slot(s, instance, seq->model);
    struct sched_slot none = {.model = seq->model};
    const struct cost *c = slot_cost(s, slot != NULL ? slot : &none);
    double alone = cost_decode(c, 1, seq->tokens) * 1e6 / (double)seq->tbt_us;

    if (slot == NULL || slot->running == 0)
        return alone;
    return alone - cost_decode(c, 0, 0) * 1e6 / (double)seq->tbt_us;
}

int sched_admit(struct sched *s, int64_t now, const struct sched_seq *seq, struct error *err)
{
    double least = -1;

    (void)now;
    if (seq->ttft_us <= 0 || seq->tbt_us <= 0)
        return 0;
    for (uint32_t i = 0; i < s->instance_count; i++) {
        double sum;

        if (!slot_may_run(s, find_slot(s, i, seq->model), i, seq->model) ||
            s->instances[i].role == SCHED_PREFILL)
            continue;
        sum = promised(s, i) + added(s, i, seq);
        if (sum <= PROMISED_MAX)
            return 0;
        if (least < 0 || sum < least)
            least = sum;
    }
    if (least < 0)
        return error_set(err, STATUS_UNAVAILABLE, "no available instance can run model number %u",
                         seq->model);
    return error_set(err, STATUS_EXHAUSTED,
                     "its time between tokens cannot be promised: with it, the least loaded "
                     "instance would owe %.0f %% of its time to requests with an SLO, and %.0f %% "
                     "is the most",
                     least * 100, PROMISED_MAX * 100);
}
