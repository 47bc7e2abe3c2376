/* turn.c - the turn loop's one iteration */
#include "engine/turn.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"

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

/* End the running turn; the next one becomes the first. */
static void end(struct engine *e, enum turn_end reason, const char *text)
{
    struct turn t = e->turns[0];

    e->turn_count--;
    memmove(e->turns, e->turns + 1, e->turn_count * sizeof(*e->turns));
    send_end(e, &t, reason, text);
}

/* 1 if the turn is over before another step, with the reason. */
static int quota_used(const struct engine *e, enum turn_end *reason)
{
    const struct turn *t = &e->turns[0];
    const struct order_turn *o = &t->order;

    if (t->steps == 0)
        return 0;
    *reason = TURN_QUOTA;
    if (o->quota_steps != 0 && t->steps >= o->quota_steps)
        return 1;
    if (o->quota_us != 0 && t->step_us >= o->quota_us)
        return 1;
    *reason = TURN_NEXT;
    return o->quota_steps == 0 && o->quota_us == 0 && e->turn_count > 1;
}

/* Append the picked token; *row tells the daemon. */
static void row_fill(struct event_row *row, struct sequence *s, uint32_t token)
{
    const struct arch *a = &s->model->arch;

    *row = (struct event_row){
        .seq = s->id, .token = token, .position = s->count, .prefilled = s->prefilled};
    s->prefilled = 0;
    s->tokens[s->count++] = token;
    s->announced = s->count;
    row->finish = s->count >= s->limit ? FINISH_LENGTH : FINISH_NONE;
    for (uint32_t i = 0; i < a->eos_count && (s->sampling.flags & SAMPLING_IGNORE_EOS) == 0; i++)
        if (token == a->eos[i])
            row->finish = FINISH_STOP;
}

/* Sample each head row; returns the rows that yielded a token. */
static uint32_t pick_tokens(struct engine *e, struct event_row *rows)
{
    struct step *st = &e->step;
    uint64_t vocabulary = st->model->arch.vocabulary;
    uint32_t count = 0;

    for (uint32_t i = 0; i < st->head_count; i++) {
        struct sequence *s = st->head_members[i];
        struct sampler_input in = {.logits = e->logits + i * vocabulary,
                                   .vocabulary = (uint32_t)vocabulary,
                                   .sampling = &s->sampling,
                                   .position = s->count,
                                   .tokens = s->tokens,
                                   .count = s->count,
                                   .prompt = s->prompt};
        int64_t token = sampler_pick(e->sampler, &in);
        if (token < 0) {
            char text[ORDER_TEXT_MAX];
            snprintf(text, sizeof(text),
                     "model %s gave no number (NaN) for position %" PRIu32
                     ": its file is damaged, or its type of weights overflows",
                     s->model->name, s->count);
            engine_fault(e, s, text);
            continue;
        }
        row_fill(&rows[count], s, (uint32_t)token);
        if (rows[count++].finish != FINISH_NONE)
            sequence_close(&e->sequences, s);
    }
    return count;
}

/* Where the sampler reads them. */
static int fetch_logits(struct engine *e, struct error *err)
{
    uint64_t row = e->step.model->arch.vocabulary * sizeof(float);

    if (e->logits == e->workspace.logits || e->step.head_count == 0)
        return 0;
    device_copy(e->device, e->logits, e->workspace.logits, e->step.head_count * row);
    return device_check(e->device, err);
}

static void run_step(struct engine *e, struct turn *t)
{
    union {
        struct event_step event;
        unsigned char bytes[sizeof(struct event_step) + ORDER_ROWS_MAX * sizeof(struct event_row)];
    } u;
    int64_t start = clock_monotonic_us();
    struct error err = {0};

    memset(&u.event, 0, sizeof(u.event));
    if (step_run(&e->step, &e->workspace, &err) != 0 || fetch_logits(e, &err) != 0) {
        log_error("instance %s: %s: everything on the device is lost", e->instance, err.text);
        e->gone = 1;
        return;
    }
    u.event.kind = EVENT_STEP;
    u.event.turn = t->order.turn;
    u.event.batch = e->step.run_count;
    u.event.prefill_tokens = e->step.prefill_tokens;
    u.event.count = pick_tokens(e, u.event.rows);
    u.event.us = (uint64_t)(clock_monotonic_us() - start);
    t->steps++;
    t->step_us += u.event.us;
    engine_send(e, &u, sizeof(u.event) + u.event.count * sizeof(struct event_row));
}

int turn_ever_fits(const struct engine *e, const struct model *m, uint32_t tokens, char *text,
                   size_t room)
{
    uint64_t handles = model_kv_handles(m, tokens, e->rows_max) + m->handle_count;
    uint64_t size = arena_handle_bytes(e->arena);

    if (handles <= arena_handles(e->arena))
        return 1;
    snprintf(text, room,
             "%" PRIu32 " tokens of model %s need %" PRIu64 " MiB with its weights; Memory= of "
             "instance %s is %" PRIu64 " MiB: raise it, or lower MaxContext=",
             tokens, m->name, handles * size >> 20, e->instance,
             arena_handles(e->arena) * size >> 20);
    return 0;
}

static void kv_full(struct engine *e, struct sequence *s)
{
    char text[ORDER_TEXT_MAX];

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

void turn_advance(struct engine *e)
{
    struct turn *t = &e->turns[0];
    struct model *m = residency_find(&e->residency, t->order.model);
    struct error err = {0};
    enum turn_end reason;
    uint64_t bytes, us;

    if (m == NULL) {
        end(e, TURN_FAULT, "the engine has no such model");
        return;
    }
    if (quota_used(e, &reason)) {
        end(e, reason, "");
        return;
    }
    if (!sequence_any_ready(&e->sequences, m)) { /* no switch for nothing */
        end(e, TURN_IDLE, "");
        return;
    }
    if (residency_load(&e->residency, m, NULL, &bytes, &us, &err) != 0) {
        log_warn("instance %s: %s", e->instance, err.text);
        end(e, TURN_FAULT, err.text);
        return;
    }
    t->switch_bytes += bytes;
    t->switch_us += us;
    switch (step_build(&e->step, m, &e->sequences, &e->residency, e->max_batch, e->rows_max)) {
    case STEP_READY:
        run_step(e, t);
        break;
    case STEP_IDLE:
        end(e, TURN_IDLE, "");
        break;
    case STEP_KV_FULL:
        kv_full(e, e->step.members[0]);
        break;
    }
}
