/*
 * policy_event.c - what engines say
 */
#include <stdio.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/policy_state.h"

/* --- steps ------------------------------------------------------------------------------------ */

/*
 * A step's time is shared evenly by its rows.  Rows that prefill and yield no token yet cannot be
 * named: their time is kept, and charged by the tokens that a sequence says it has prefilled.
 */
static void keep_prefill(struct engine_model *m, const struct event_step *ev)
{
    if (ev->batch > ev->count)
        m->prefill_us += ev->us * (ev->batch - ev->count) / ev->batch;
    m->prefill_tokens += ev->prefill_tokens;
}

static void charge(struct engine_model *m, const struct event_step *ev, const struct event_row *row,
                   struct sequence *s)
{
    uint64_t tokens = row->prefilled, us;
    uint32_t rows = ev->batch > ev->count ? ev->batch : ev->count;

    s->engine_ns += (int64_t)(ev->us * 1000 / rows);
    s->usage.prefilled += row->prefilled;
    if (s->usage.preemptions == 0 && row->position == s->prompt)
        s->usage.cached = row->cached < s->prompt ? row->cached : s->prompt;
    if (tokens == 0 || m->prefill_tokens == 0)
        return;
    if (tokens > m->prefill_tokens)
        tokens = m->prefill_tokens;
    us = (uint64_t)((double)m->prefill_us * (double)tokens / (double)m->prefill_tokens);
    m->prefill_us -= us;
    m->prefill_tokens -= tokens;
    s->engine_ns += (int64_t)us * 1000;
}

/* Its tokens do not join up with what we have: it is given anew, and given up if that goes on. */
static void misplaced(struct policy *p, struct sequence *s, const struct event_row *row)
{
    log_error("instance %s: sequence has %u tokens, the engine sent number %u",
              p->instances[s->instance].config->name, s->count, row->position);
    if (++s->deaths >= p->limits.deaths_max) {
        sequence_end(p, s, FINISH_NONE, 1, STATUS_INTERNAL,
                     "the engine sent tokens of this request in the wrong order");
        return;
    }
    sequence_order_close(p, s);
    sequence_take_back(p, s, SEQUENCE_WAITING);
    p->replace = 1;
}

/* A row's token into its sequence: 1 if it is to be passed on. */
static int take_row(struct instance *in, const struct event_step *ev, const struct event_row *row)
{
    struct policy *p = in->policy;
    struct sequence *s = sequence_find(p, row->seq);
    struct engine_model *m;
    int added;

    if (s == NULL || !s->scheduled || s->instance != in->index)
        return 0; /* cancelled, or moved, while the step ran */
    m = &in->models[s->request->model];
    charge(m, ev, row, s);
    added = sequence_append(p, s, row);
    if (added < 0)
        misplaced(p, s, row);
    if (added <= 0)
        return 0;
    m->status.tokens++;
    in->status.tokens++;
    return 1;
}

/* End the sequences whose last token this was; the engine has forgotten those that it ended. */
static void end_finished(struct policy *p, const struct event_row *row)
{
    struct sequence *s = sequence_find(p, row->seq);

    if (s == NULL) /* the same sequence twice in one step */
        return;
    if (row->finish == FINISH_STOP || row->finish == FINISH_LENGTH)
        sequence_end(p, s, (enum finish)row->finish, 0, STATUS_OK, "");
    else if (s->count - s->prompt >= s->request->max_tokens)
        sequence_end(p, s, FINISH_LENGTH, 1, STATUS_OK, "");
}

static void on_step(struct instance *in, const struct event_step *ev)
{
    struct policy *p = in->policy;
    struct event_row rows[ORDER_ROWS_MAX];
    struct policy_event *out;
    uint32_t count = 0, model;

    if (in->turn_count == 0) {
        engine_link_break(in->link, "it made a step outside of its turns");
        return;
    }
    if (calibrate_step(in, ev))
        return;
    model = in->turns[0].model;
    cost_step(in, model, ev, in->models[model].prefill_tokens);
    keep_prefill(&in->models[model], ev);
    for (uint32_t i = 0; i < ev->count; i++) {
        if (take_row(in, ev, &ev->rows[i]))
            rows[count++] = ev->rows[i];
    }
    if (count == 0)
        return;
    out = event_make(POLICY_TOKENS, count);
    for (uint32_t i = 0; i < count; i++)
        out->rows[i] = rows[i];
    event_emit(p, out);
    for (uint32_t i = 0; i < count; i++)
        end_finished(p, &rows[i]);
}

/* Passed on unless its token is known already, or nobody has asked. */
static void on_logprobs(struct instance *in, const struct event_logprobs *ev)
{
    struct sequence *s = sequence_find(in->policy, ev->seq);

    /* As take_row(): a token that a step had made when its sequence gave way counts. */
    if (s == NULL || !s->scheduled || s->instance != in->index || s->request->logprobs == 0 ||
        ev->position != s->count)
        return;
    struct policy_event *out = event_make(POLICY_LOGPROBS, 0);
    out->seq = ev->seq;
    out->logprobs = *ev;
    event_emit(in->policy, out);
}

static void on_fault(struct instance *in, const struct event_seq_fault *ev)
{
    struct sequence *s = sequence_find(in->policy, ev->seq);

    if (s == NULL || !s->scheduled || s->instance != in->index || s->state != SEQUENCE_OPEN)
        return;
    sequence_end(in->policy, s, FINISH_NONE, 1, STATUS_INTERNAL, ev->text);
}

/* --- residency -------------------------------------------------------------------------------- */

static void set_resident(struct instance *in, const struct event_residency *ev)
{
    struct policy *p = in->policy;
    struct policy_event *out = event_make(POLICY_MODEL, 0);
    struct sequence *s;

    in->models[ev->model].status.resident = ev->resident != 0;
    p->changed = 1;
    sched_set_resident(p->sched, in->index, ev->model, ev->resident != 0);
    TAILQ_FOREACH(s, &p->sequences, link)
    {
        if (ev->resident && s->state == SEQUENCE_OPEN && s->instance == in->index &&
            s->request->model == ev->model)
            s->usage.switches++;
    }
    out->instance = in->status.index;
    out->model = ev->model;
    out->resident = ev->resident != 0;
    out->bytes = ev->bytes;
    event_emit(p, out);
}

static void on_residency(struct instance *in, const struct event_residency *ev)
{
    if (ev->model >= in->policy->model_count) {
        engine_link_break(in->link, "it speaks of a model that it was not given");
        return;
    }
    in->status.file_bytes += ev->file_bytes;
    if (in->models[ev->model].status.resident != (ev->resident != 0))
        set_resident(in, ev);
    if (ev->resident)
        cost_load(in, ev);
    turn_loaded(in, ev);
    command_residency(in, ev);
    calibrate_residency(in, ev);
}

/* --- the channel's calls ---------------------------------------------------------------------- */

static void on_event(void *arg, const void *msg)
{
    struct instance *in = arg;
    uint32_t kind = *(const uint32_t *)msg;

    in->heard_us = clock_monotonic_us();
    if (in->state == INSTANCE_STARTING && kind != EVENT_READY) {
        engine_link_break(in->link, "it spoke before it was ready");
        return;
    }
    switch (kind) {
    case EVENT_READY:
        engine_ready(in, msg);
        break;
    case EVENT_MODEL:
        engine_model(in, msg);
        break;
    case EVENT_RESIDENCY:
        on_residency(in, msg);
        break;
    case EVENT_STEP:
        on_step(in, msg);
        break;
    case EVENT_LOGPROBS:
        on_logprobs(in, msg);
        break;
    case EVENT_SEQ_FAULT:
        on_fault(in, msg);
        break;
    case EVENT_SEQ_MOVED:
        swap_moved(in, msg);
        break;
    case EVENT_MASTER:
        tier_on_master(in, msg);
        break;
    case EVENT_TURN_END:
        turn_ended(in, msg);
        break;
    }
    policy_settle(in->policy);
}

static void on_closed(void *arg, const char *why)
{
    struct instance *in = arg;

    engine_lost(in, why);
    policy_settle(in->policy);
}

static void on_drained(void *arg)
{
    struct instance *in = arg;

    in->policy->replace = 1;
    policy_settle(in->policy);
}

const struct engine_link_calls engine_calls = {
    .event = on_event, .closed = on_closed, .drained = on_drained};
