/* turn.c - the turn loop's one iteration */
#include "engine/turn.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "engine/logprobs.h"

static void send_end(struct engine *e, const struct turn *t, enum turn_end reason, const char *text)
{
    struct event_turn_end event = {.kind = EVENT_TURN_END,
                                   .model = t->order.model,
                                   .turn = t->order.turn,
                                   .reason = reason,
                                   .steps = t->steps,
                                   .step_us = t->step_us,
                                   .switch_us = t->switch_us,
                                   .switch_bytes = t->switch_bytes};
    const struct model *m = residency_find(&e->residency, t->order.model);

    if (m != NULL)
        pages_count(e->pages, m->kv.page_bytes, &event.kv_pages_used, &event.kv_pages_total);
    snprintf(event.text, sizeof(event.text), "%.*s", (int)sizeof(event.text) - 1, text);
    engine_send(e, &event, sizeof(event));
}

void turn_queue(struct engine *e, const struct order_turn *order)
{
    struct turn t = {.order = *order};

    if (e->turn_count == ENGINE_TURNS_MAX) {
        send_end(e, &t, TURN_FAULT, "two turns are held already");
        return;
    }
    e->turns[e->turn_count++] = t;
}

/* What its model's load has taken since it was asked; waits for one that is not done. */
static void count_load(struct engine *e, struct turn *t, struct model *m)
{
    struct error err = {0};

    if (m == NULL)
        return;
    if (residency_arrive(&e->residency, m, &err) != 0 && !e->gone) {
        log_error("instance %s: %s: everything on the device is lost", e->instance, err.text);
        e->gone = 1;
    }
    t->switch_us += m->load_us;
    m->load_us = 0;
}

/* End the running turn, all of whose steps are collected; the next one becomes the first. */
static void end(struct engine *e, enum turn_end reason, const char *text)
{
    struct turn t = e->turns[0];

    count_load(e, &t, residency_find(&e->residency, t.order.model));
    e->turn_count--;
    memmove(e->turns, e->turns + 1, e->turn_count * sizeof(*e->turns));
    send_end(e, &t, reason, text);
}

/* 1 if the turn asks for no further step, with the reason. */
static int quota_used(const struct engine *e, enum turn_end *reason)
{
    const struct turn *t = &e->turns[0];
    const struct order_turn *o = &t->order;

    if (t->asked == 0)
        return 0;
    *reason = TURN_QUOTA;
    if (o->quota_steps != 0 && t->asked >= o->quota_steps)
        return 1;
    if (o->quota_us != 0 && t->step_us >= o->quota_us)
        return 1;
    *reason = TURN_NEXT;
    if (o->phases == ORDER_PREFILL)
        return 0;
    return o->quota_steps == 0 && o->quota_us == 0 && e->turn_count > 1;
}

/* Take on prompts of the turn's model, up to as many as it may. */
static void take_prompts(struct engine *e, struct turn *t, const struct model *m)
{
    struct sequence *s;

    TAILQ_FOREACH(s, &e->sequences.queue, link)
    {
        if (t->prompts == t->order.fresh_max)
            break;
        if (s->model == m && sequence_ready(s) && !sequence_decodes(s) &&
            s->turn != t->order.turn) {
            s->turn = t->order.turn;
            t->prompts++;
        }
    }
}

/* What the turn's next step may hold. */
static struct step_choice choose(struct engine *e, struct turn *t, const struct model *m)
{
    const struct order_turn *o = &t->order;
    struct step_choice c = {
        .rows_max = e->rows_max, .phases = o->phases & ORDER_PHASES, .chunk = o->chunk};

    if (c.phases == 0)
        c.phases = ORDER_PHASES;
    if (o->fresh_max != 0) {
        take_prompts(e, t, m);
        c.turn = o->turn;
    }
    return c;
}

/* 1 if nothing more is asked for, with the reason. */
static int is_over(const struct engine *e, const struct model *m, const struct step_choice *choice,
                   enum turn_end *reason)
{
    if (quota_used(e, reason))
        return 1;
    *reason = TURN_IDLE; /* no switch for nothing */
    return !step_any(&e->sequences, m, choice);
}

/* Append the picked token; *row tells the daemon. */
static void row_fill(struct event_row *row, struct sequence *s, uint32_t token)
{
    const struct arch *a = &s->model->arch;

    *row = (struct event_row){.seq = s->id,
                              .token = token,
                              .position = s->count,
                              .prefilled = s->prefilled,
                              .cached = s->cached};
    s->prefilled = s->cached = 0;
    s->tokens[s->count++] = token;
    s->announced = s->count;
    row->finish = s->count >= s->limit ? FINISH_LENGTH : FINISH_NONE;
    for (uint32_t i = 0; i < a->eos_count && (s->sampling.flags & SAMPLING_IGNORE_EOS) == 0; i++)
        if (token == a->eos[i])
            row->finish = FINISH_STOP;
}

/* The token of a head row: the device's pick, or the host's. -1: its logits are no numbers. */
static int64_t picked_token(struct engine *e, const struct step *st, uint32_t i)
{
    const struct sequence *s = st->head_members[i];
    uint64_t vocabulary = st->model->arch.vocabulary;

    if (st->picks != NULL && !sequence_host_sampled(s))
        return st->picks[i] == SAMPLE_NONE ? -1 : (int64_t)st->picks[i];
    struct sampler_input in = {.logits = st->logits + i * vocabulary,
                               .vocabulary = (uint32_t)vocabulary,
                               .sampling = &s->sampling,
                               .position = s->count,
                               .tokens = s->tokens,
                               .count = s->count,
                               .prompt = s->prompt,
                               .biases = s->biases,
                               .bias_count = s->bias_count};
    return sampler_pick(e->sampler, &in);
}

/* Log probabilities of the token that was picked, ahead of its row. */
static void send_logprobs(struct engine *e, const struct step *st, uint32_t i, uint32_t token)
{
    const struct sequence *s = st->head_members[i];
    uint32_t vocabulary = st->model->arch.vocabulary;
    struct event_logprobs event = {.kind = EVENT_LOGPROBS, .seq = s->id, .position = s->count};

    logprobs_fill(&event, st->logits + (uint64_t)i * vocabulary, vocabulary, token,
                  s->logprobs - 1);
    engine_send(e, &event, sizeof(event));
}

/* Each head row's token; returns the rows that yielded one. */
static uint32_t take_tokens(struct engine *e, struct step *st, struct event_row *rows)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < st->head_count; i++) {
        struct sequence *s = st->head_members[i];
        if (s == NULL)
            continue; /* it ended while this was in flight */
        int64_t token = picked_token(e, st, i);
        s->pending--;
        if (token < 0) {
            char text[ORDER_TEXT_MAX];
            snprintf(text, sizeof(text),
                     "model %s gave no number (NaN) for position %" PRIu32
                     ": its file is damaged, or its type of weights overflows",
                     s->model->name, s->count);
            engine_fault(e, s, text);
            continue;
        }
        if (s->logprobs > 0)
            send_logprobs(e, st, i, (uint32_t)token);
        row_fill(&rows[count], s, (uint32_t)token);
        if (rows[count++].finish != FINISH_NONE)
            engine_close(e, s);
    }
    return count;
}

/* Wait for the oldest step in flight and tell the daemon its tokens. */
static void collect(struct engine *e)
{
    union {
        struct event_step event;
        unsigned char bytes[sizeof(struct event_step) + ORDER_ROWS_MAX * sizeof(struct event_row)];
    } u;
    struct turn *t = &e->turns[0];
    struct error err = {0};
    struct step *st;
    int64_t now;

    if (step_wait(&e->flight, &st, &err) != 0) {
        log_error("instance %s: %s: everything on the device is lost", e->instance, err.text);
        e->gone = 1;
        return;
    }
    now = clock_monotonic_us();
    if (st->loading) { /* what it took is the load's, up to its end */
        count_load(e, t, st->model);
        if (e->gone)
            return;
        if (st->model->arrived_us > t->stepped_us)
            t->stepped_us = st->model->arrived_us < now ? st->model->arrived_us : now;
    }
    memset(&u.event, 0, sizeof(u.event));
    u.event.loading = (uint32_t)st->loading;
    u.event.kind = EVENT_STEP;
    u.event.turn = t->order.turn;
    u.event.batch = st->run_count;
    u.event.prefill_tokens = st->prefill_tokens;
    u.event.count = take_tokens(e, st, u.event.rows);
    if (e->flight.picked == NULL)
        now = clock_monotonic_us(); /* sampling is a part of the step */
    /* It began when it was asked for, or when the one before was done. */
    u.event.us = (uint64_t)(now - (st->asked_us > t->stepped_us ? st->asked_us : t->stepped_us));
    t->stepped_us = now;
    t->steps++;
    t->step_us += u.event.us;
    engine_send(e, &u, sizeof(u.event) + u.event.count * sizeof(struct event_row));
}

void turn_drain(struct engine *e)
{
    while (e->flight.count > 0 && !e->gone)
        collect(e);
}

int turn_ever_fits(const struct engine *e, const struct model *m, uint32_t tokens, char *text,
                   size_t room)
{
    uint64_t handles = model_kv_handles(m, tokens, e->rows_max) + m->handle_count;

    if (handles <= arena_handles(e->arena))
        return 1;
    snprintf(text, room,
             "%" PRIu32 " tokens of model %s need %" PRIu64 " MiB with its weights; Memory= of "
             "instance %s is %" PRIu64 " MiB: raise it, or lower MaxContext=",
             tokens, m->name, arena_bytes(e->arena, handles) >> 20, e->instance,
             arena_bytes(e->arena, arena_handles(e->arena)) >> 20);
    return 0;
}

static void kv_full(struct engine *e, struct sequence *s)
{
    char text[ORDER_TEXT_MAX];

    /* What is in flight may end sequences, and give their pages back; so does what is leaving. */
    if (e->flight.count > 0) {
        turn_drain(e);
        return;
    }
    if (swap_wait_leaving(&e->swap))
        return;

    /* If it alone with its weights is more than there is, waiting does not help. */
    if (!turn_ever_fits(e, s->model, s->count, text, sizeof(text))) {
        engine_fault(e, s, text); /* the turn goes on without it */
        return;
    }
    snprintf(text, sizeof(text),
             "no KV page is left for sequence %" PRIu64 " of model %s: Memory= of instance %s is "
             "used up",
             s->id, s->model->name, e->instance);
    end(e, TURN_KV_FULL, text);
}

/* Ask for the next step, or say why there is none. */
static void ask(struct engine *e, struct turn *t, struct model *m, const struct step_choice *choice)
{
    struct step *st = flight_next(&e->flight);

    switch (step_build(&e->flight, st, m, &e->sequences, &e->residency, choice)) {
    case STEP_READY:
        step_launch(&e->flight, st, &e->sequences, &e->workspace);
        t->asked++;
        break;
    case STEP_IDLE: /* all wait for what is in flight */
        turn_drain(e);
        break;
    case STEP_KV_FULL:
        kv_full(e, st->members[0]);
        break;
    }
}

void turn_advance(struct engine *e)
{
    struct turn *t = &e->turns[0];
    struct model *m = residency_find(&e->residency, t->order.model);
    struct step_choice choice;
    struct error err = {0};
    enum turn_end reason;
    uint64_t bytes, us;

    residency_poll(&e->residency);
    if (m == NULL) {
        end(e, TURN_FAULT, "the engine has no such model");
        return;
    }
    choice = choose(e, t, m);
    if (is_over(e, m, &choice, &reason)) {
        if (reason == TURN_IDLE && swap_wait_coming(&e->swap, m))
            return;
        turn_drain(e);
        end(e, reason, "");
        return;
    }
    if (residency_load(&e->residency, m, NULL, &bytes, &us, &err) != 0) {
        if (swap_wait_leaving(&e->swap))
            return;
        log_warn("instance %s: %s", e->instance, err.text);
        end(e, TURN_FAULT, err.text);
        return;
    }
    t->switch_bytes += bytes;
    t->switch_us += us;
    ask(e, t, m, &choice);
    if (e->flight.count == e->flight.depth)
        collect(e);
}
