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

/* An instance's share of SwapSpace=.  A GPU's KV, and one in parts, is not swapped yet: none. */
uint64_t swap_share(const struct instance *in)
{
    const struct policy *p = in->policy;
    uint64_t cpus = 0;

    if (in->config->device != CONFIG_CPU || in->config->ranks > 1)
        return 0;
    for (size_t i = 0; i < p->instance_count; i++)
        cpus += p->instances[i].config->device == CONFIG_CPU && p->instances[i].config->ranks <= 1;
    return p->config->swap_space / cpus;
}

/* Its tokens are computed sooner than its KV is copied twice. */
static int recompute_is_cheaper(const struct instance *in, const struct sequence *s)
{
    const struct cost *c = &in->models[s->request->model].cost;

    return cost_prefill(c, 0, s->count) <= 2 * c->kv_token * s->count;
}

int swap_spill(struct instance *in, struct sequence *s)
{
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
