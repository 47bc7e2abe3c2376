/*
 * policy_swap.c - sequences that give way, and whose KV their engine keeps in host memory
 *
 * Such a sequence is HELD and `away`: the engine still has it.  It comes back by an order in place
 * of being given anew.  Whatever goes wrong, it can be closed and given anew: we have its tokens.
 */
#include <inttypes.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/policy_state.h"

static void order(struct instance *in, const struct sequence *s, uint32_t kind)
{
    struct order_ref ref = {.kind = kind, .model = s->request->model, .seq = s->request->seq};

    engine_link_send(in->link, &ref, sizeof ref);
}

/* An instance's share of SwapSpace=.  KV in parts is not swapped yet: none. */
uint64_t swap_share(const struct instance *in)
{
    const struct policy *p = in->policy;
    uint64_t whole = 0;

    if (in->config->ranks > 1)
        return 0;
    for (size_t i = 0; i < p->instance_count; i++)
        whole += p->instances[i].config->ranks <= 1;
    return p->config->swap_space / whole;
}

/* Its tokens are computed sooner than its KV is copied twice. */
static int recompute_is_cheaper(const struct instance *in, const struct sequence *s)
{
    const struct cost *c = &in->models[s->request->model].cost;

    return cost_prefill(c, 0, s->count) <= 2 * c->kv_token * s->count;
}

/* A turn of the model is held by the engine. */
static int has_turn(const struct instance *in, uint32_t model)
{
    for (uint32_t i = 0; i < in->turn_count; i++)
        if (in->turns[i].model == model)
            return 1;
    return 0;
}

void swap_park(struct instance *in)
{
    struct sequence *s;

    if (swap_share(in) == 0 || !sched_traits(in->policy->sched).kv_leaves ||
        in->turn_count < POLICY_TURNS_HELD)
        return;
    TAILQ_FOREACH(s, &in->policy->sequences, link)
    {
        if (s->state != SEQUENCE_OPEN || s->instance != in->index || s->parked ||
            s->count == s->prompt || has_turn(in, s->request->model) || recompute_is_cheaper(in, s))
            continue;
        order(in, s, ORDER_SEQ_SPILL);
        s->parked = 1;
        in->status.spills++;
    }
}

void swap_unpark(struct instance *in, uint32_t model)
{
    struct sequence *s;

    if (!sched_traits(in->policy->sched).kv_leaves)
        return;
    TAILQ_FOREACH(s, &in->policy->sequences, link)
    {
        if (s->state != SEQUENCE_OPEN || s->instance != in->index || !s->parked ||
            s->request->model != model)
            continue;
        order(in, s, ORDER_SEQ_FETCH);
        s->parked = 0;
    }
}

int swap_spill(struct instance *in, struct sequence *s)
{
    if (s->parked) { /* it is there already */
        s->away = 1;
        return 1;
    }
    if (swap_share(in) == 0 || s->state != SEQUENCE_OPEN || in->link == NULL ||
        in->held + 1 >= POLICY_OPEN_MAX || recompute_is_cheaper(in, s))
        return 0;
    order(in, s, ORDER_SEQ_SPILL);
    s->away = 1;
    in->status.spills++;
    in->settled_turn = in->policy->turns + 1;
    return 1;
}

void swap_fetch(struct instance *in, struct sequence *s)
{
    order(in, s, ORDER_SEQ_FETCH);
    s->away = 0;
}

/* No room for it yet.  With nothing else open there never will be: what it needs has changed, and
 * it is given anew. */
static void fetch_failed(struct instance *in, struct sequence *s)
{
    if (s->state != SEQUENCE_OPEN)
        return;
    if (in->open == 1)
        sequence_order_close(in->policy, s);
    else
        s->away = 1;
    sequence_take_back(in->policy, s, SEQUENCE_HELD);
}

void swap_moved(struct instance *in, const struct event_seq_moved *ev)
{
    struct sequence *s = sequence_find(in->policy, ev->seq);

    if (s == NULL || !s->scheduled || s->instance != in->index)
        return; /* it ended, or went elsewhere, meanwhile */
    log_debug("instance %s: KV of sequence %" PRIu64 " %s: %s, %" PRIu64 " bytes, %" PRIu64 " us",
              in->config->name, ev->seq, ev->out ? "spilled" : "fetched", ev->ok ? "done" : "not",
              ev->bytes, ev->us);
    if (ev->ok)
        cost_moved(in, s->request->model, ev->bytes, ev->us);
    else if (!ev->out)
        fetch_failed(in, s);
}
