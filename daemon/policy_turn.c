/*
 * policy_turn.c - turns: keep the engine fed, and make room when its memory is full
 *
 * The engine holds two turns, so it goes from one to the next without asking.  Memory is made by
 * closing or spilling sequences, the newest first: they are given anew, with the tokens so far, or
 * fetched, when pages can be expected.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/policy_state.h"

#define LOADS_MAX 3 /* behind turns that failed in a row, until one is made by itself */

_Static_assert(ORDER_EVICT_MAX == SCHED_EVICT_MAX, "all that the scheduler gives up go");

/* --- feeding ---------------------------------------------------------------------------------- */

_Static_assert((int)ORDER_PREFILL == SCHED_PREFILL_ONLY && (int)ORDER_DECODE == SCHED_DECODE_ONLY &&
                   (int)ORDER_PHASES == SCHED_BOTH,
               "the scheduler's phases are the engine's");

static void show_running(struct instance *in)
{
    in->status.next_model = in->turn_count > 1 ? in->turns[1].model : UINT32_MAX;
    in->status.running_model = in->turn_count > 0 ? in->turns[0].model : UINT32_MAX;
    in->policy->changed = 1;
}

/*
 * Bring the model that will be wanted next in behind the turns.  Only while all turns that the
 * engine holds are of one model, which is the one that the scheduler does not give up for it.
 */
static void feed_load(struct instance *in, int64_t now)
{
    struct order_prefetch order = {.kind = ORDER_PREFETCH};
    struct sched_load load;

    if (!in->loads_behind || in->loading != UINT32_MAX ||
        (in->turn_count == POLICY_TURNS_HELD && in->turns[0].model != in->turns[1].model) ||
        !sched_load(in->policy->sched, now, in->index, &load))
        return;
    tier_need(in, load.model);
    order.model = load.model;
    order.evict_count = load.evict_count;
    memcpy(order.evict, load.evict, sizeof order.evict);
    if (in->turn_count == 0)
        in->heard_us = now;
    engine_link_send(in->link, &order, sizeof order);
    in->loading = load.model;
    in->evict_count = load.evict_count;
    memcpy(in->evicting, load.evict, sizeof in->evicting);
    in->status.prefetches++;
    in->policy->changed = 1;
}

void turn_hold(struct instance *in, uint64_t turn, uint32_t model)
{
    in->turns[in->turn_count++] = (struct held_turn){turn, model};
    show_running(in);
}

void turn_feed(struct instance *in)
{
    struct policy *p = in->policy;
    int64_t now = clock_monotonic_us();
    struct sched_turn turn;

    if (in->state != INSTANCE_READY)
        return;
    feed_load(in, now);
    while (in->turn_count < POLICY_TURNS_HELD && sched_next(p->sched, now, in->index, &turn)) {
        struct order_turn order = {
            .kind = ORDER_TURN,
            .model = turn.model,
            .turn = ++p->turns,
            .quota_us = (uint64_t)turn.quota_us,
            .quota_steps = turn.quota_steps,
            .phases = turn.phases,
            .fresh_max = turn.fresh_max,
            .chunk = turn.chunk,
        };

        if (in->turn_count == 0)
            in->heard_us = now; /* the silence of an idle engine does not count */
        calibrate_yield(in);
        tier_need(in, order.model);
        swap_unpark(in, order.model);
        engine_link_send(in->link, &order, sizeof order);
        turn_hold(in, order.turn, order.model);
    }
    swap_park(in);
}

/* --- making room ------------------------------------------------------------------------------ */

static void preempt(struct policy *p, struct sequence *s)
{
    struct instance *in = &p->instances[s->instance];

    if (!swap_spill(in, s))
        sequence_order_close(p, s);
    s->usage.preemptions++;
    in->status.preemptions++;
    sequence_take_back(p, s, SEQUENCE_HELD);
    log_debug("instance %s: sequence %" PRIu64 " %s later", in->config->name, s->request->seq,
              s->away ? "is fetched" : "is given anew");
}

/* The newest open sequence of the instance's other models. */
static struct sequence *newest_of_others(const struct instance *in, uint32_t model)
{
    struct sequence *newest = NULL;

    for (uint32_t m = 0; m < in->policy->model_count; m++) {
        struct sequence *s;

        if (m == model)
            continue;
        s = sequence_find(in->policy, sched_victim(in->policy->sched, in->index, m));
        if (s != NULL && !s->parked && (newest == NULL || s->order > newest->order))
            newest = s;
    }
    return newest;
}

/* No page is left for the next step of a model. */
static void pages_full(struct instance *in, uint32_t model)
{
    struct policy *p = in->policy;
    struct sequence *own = sequence_find(p, sched_victim(p->sched, in->index, model));
    struct sequence *other = newest_of_others(in, model);
    char text[ORDER_TEXT_MAX];

    if (own == NULL)
        return;
    if (in->models[model].status.running > 1 || (other != NULL && own->order > other->order)) {
        preempt(p, own);
    } else if (other != NULL) {
        preempt(p, other);
    } else {
        snprintf(text, sizeof text,
                 "the request's context of %u tokens does not fit into the memory of instance %s "
                 "beside model %s; shorten it, or raise Memory=",
                 own->count, in->config->name, p->config->models[model].name);
        sequence_end(p, own, FINISH_NONE, 1, STATUS_EXHAUSTED, text);
    }
}

static void fail_model(struct instance *in, uint32_t model, const char *text)
{
    struct policy *p = in->policy;
    struct sequence *s, *next;

    for (s = TAILQ_FIRST(&p->sequences); s != NULL; s = next) {
        next = TAILQ_NEXT(s, link);
        if (s->scheduled && s->instance == in->index && s->request->model == model)
            sequence_end(p, s, FINISH_NONE, 1, STATUS_EXHAUSTED, text);
    }
}

/* The weights find no room beside the KV that is there: others' goes first, then the model's own.
 */
static void weights_do_not_fit(struct instance *in, uint32_t model, const char *why)
{
    struct policy *p = in->policy;
    struct sequence *own = sequence_find(p, sched_victim(p->sched, in->index, model));
    struct sequence *other = newest_of_others(in, model);
    const char *name = p->config->models[model].name;
    char text[2 * ORDER_TEXT_MAX];

    if (in->models[model].status.weight_bytes > in->status.memory_bytes) {
        snprintf(
            text, sizeof text,
            "model %s needs %" PRIu64 " bytes, instance %s has %" PRIu64 "; raise Memory=", name,
            in->models[model].status.weight_bytes, in->config->name, in->status.memory_bytes);
        fail_model(in, model, text);
    } else if (other != NULL) {
        preempt(p, other);
    } else if (in->models[model].status.running > 1 && own != NULL) {
        preempt(p, own);
    } else {
        snprintf(text, sizeof text, "model %s cannot be loaded on instance %s: %s", name,
                 in->config->name, why);
        fail_model(in, model, text);
    }
}

/* The scheduler has given up what the engine did not: it ran when the order came. */
static void stay(struct instance *in)
{
    for (uint32_t i = 0; i < in->evict_count; i++) {
        if (in->models[in->evicting[i]].status.resident)
            sched_set_resident(in->policy->sched, in->index, in->evicting[i], 1);
    }
    in->evict_count = 0;
}

void turn_loaded(struct instance *in, const struct event_residency *ev)
{
    const struct order_ref order = {.kind = ORDER_LOAD, .model = ev->model};
    struct engine_model *m = &in->models[ev->model];

    if (!ev->resident)
        m->prefetched = 0;
    if (in->loading != ev->model)
        return;
    in->loading = UINT32_MAX;
    stay(in);
    if (ev->resident) {
        in->failed_loads = 0;
        m->prefetched = 1;
        in->status.switches++;
        in->status.switch_bytes += ev->bytes;
        m->status.switches++;
        return;
    }
    /* It found no room, or gave it up to KV; the scheduler may ask again. */
    sched_set_resident(in->policy->sched, in->index, ev->model, 0);
    if (++in->failed_loads == LOADS_MAX) {
        engine_link_send(in->link, &order, sizeof order); /* the engine finds room by itself, */
        in->loading = ev->model;
    } else if (in->failed_loads > LOADS_MAX) { /* or there is none */
        in->failed_loads = 0;
        weights_do_not_fit(in, ev->model, "it finds no room beside what runs there");
    }
}

/* Pages are free: the oldest held sequence goes on if it and a page for every open one fit. */
static void use_free_pages(struct instance *in, const struct event_turn_end *ev)
{
    const struct engine_model *m = &in->models[ev->model];
    struct sequence *s;
    uint64_t need;

    if (in->held == 0 || m->page_tokens == 0)
        return;
    TAILQ_FOREACH(s, &in->policy->sequences, link)
    {
        if (s->state == SEQUENCE_HELD && s->instance == in->index)
            break;
    }
    if (s == NULL || s->request->model != ev->model)
        return;
    need = s->count / m->page_tokens + 1u + m->status.running;
    if (ev->kv_pages_used + need <= ev->kv_pages_total)
        sequence_release(in);
}

/* --- turn ends -------------------------------------------------------------------------------- */

/* How far the model's sequences have come, for their deadlines. */
static void tell_progress(struct instance *in, uint32_t model)
{
    const struct sequence *s;

    TAILQ_FOREACH(s, &in->policy->sequences, link)
    {
        if (s->state == SEQUENCE_OPEN && s->instance == in->index && s->request->model == model)
            sched_progress(in->policy->sched, clock_monotonic_us(), s->request->seq,
                           s->count > s->prompt ? s->count : 0, s->count - s->prompt);
    }
}

static void account(struct instance *in, const struct event_turn_end *ev)
{
    struct policy_model_status *status = &in->models[ev->model].status;

    in->status.turns++;
    in->status.steps += ev->steps;
    in->status.step_us += (int64_t)ev->step_us;
    in->status.switch_us += (int64_t)ev->switch_us;
    in->status.switch_bytes += ev->switch_bytes;
    status->steps += ev->steps;
    status->kv_pages_used = ev->kv_pages_used;
    status->kv_pages_total = ev->kv_pages_total;
    if (ev->switch_bytes > 0) {
        in->status.switches++;
        status->switches++;
    }
    if (in->models[ev->model].prefetched && ev->steps > 0) {
        in->models[ev->model].prefetched = 0;
        in->status.prefetch_hits += ev->switch_bytes == 0;
    }
    tell_progress(in, ev->model);
    sched_turn_ended(in->policy->sched, clock_monotonic_us(), in->index, ev->model, ev->steps,
                     (int64_t)ev->step_us, (int64_t)ev->switch_us);
}

/* Turn after turn without a step, though the engine has sequences of the model. */
static void check_progress(struct instance *in, const struct event_turn_end *ev)
{
    if (ev->steps > 0)
        in->empty_turns = 0;
    else if (in->models[ev->model].status.running > 0 && ++in->empty_turns >= POLICY_EMPTY_MAX)
        engine_link_break(in->link, "its turns end without a step though sequences wait");
}

void turn_ended(struct instance *in, const struct event_turn_end *ev)
{
    if (in->turn_count == 0 || in->turns[0].turn != ev->turn || in->turns[0].model != ev->model) {
        engine_link_break(in->link, "it ended a turn that it was not given");
        return;
    }
    in->turn_count--;
    in->turns[0] = in->turns[1];
    if (calibrate_turn_ended(in, ev)) {
        show_running(in);
        return;
    }
    account(in, ev);
    tier_turn_ended(in, ev->model);
    show_running(in);
    in->policy->retry = 1;
    if (in->models[ev->model].status.running == 0) /* what was not charged is nobody's */
        in->models[ev->model].prefill_us = in->models[ev->model].prefill_tokens = 0;
    switch (ev->reason) {
    case TURN_KV_FULL:
        if (ev->turn >= in->settled_turn)
            pages_full(in, ev->model);
        break;
    case TURN_FAULT:
        if (ev->turn >= in->settled_turn)
            weights_do_not_fit(in, ev->model, ev->text);
        break;
    default:
        check_progress(in, ev);
        use_free_pages(in, ev);
    }
}
