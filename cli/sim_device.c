/* sim_device.c - a simulated device: turns, and the segments of steps that they are made of */
#include <stdlib.h>
#include <string.h>

#include "cli/sim_state.h"

#define LOOKAHEAD 64u  /* tokens a row for which a turn makes room at its beginning */
#define ROWS_MAX  256u /* of a step, where the fleet does not say */

static void next_segment(struct sim *s, struct device *d);

static uint32_t rows_max(const struct sim *s)
{
    return s->fleet->rows_max > 0 ? s->fleet->rows_max : ROWS_MAX;
}

/* --- members and rows ------------------------------------------------------------------------- */

static int push(struct sim *s, uint32_t **list, uint32_t *count, uint32_t *room, uint32_t value)
{
    if (*count == *room) {
        uint32_t wider = *room > 0 ? *room * 2 : 16;
        uint32_t *more = realloc(*list, wider * sizeof *more);

        if (more == NULL) {
            sim_fail(s);
            return -1;
        }
        *list = more;
        *room = wider;
    }
    (*list)[(*count)++] = value;
    return 0;
}

static void take_out(uint32_t *list, uint32_t *count, uint32_t value)
{
    for (uint32_t i = 0; i < *count; i++) {
        if (list[i] == value) {
            memmove(list + i, list + i + 1, (*count - i - 1) * sizeof *list);
            --*count;
            return;
        }
    }
}

static const struct sim_request *request_of(const struct sim *s, uint32_t r)
{
    return &s->trace->requests[r];
}

void device_add(struct sim *s, struct device *d, uint32_t request)
{
    s->progress[request].device = d->index;
    push(s, &d->members, &d->member_count, &d->member_room, request);
}

static void leave(struct sim *s, struct device *d, uint32_t request)
{
    (void)s;
    take_out(d->members, &d->member_count, request);
}

static void finish(struct sim *s, struct device *d, uint32_t request)
{
    struct progress *p = &s->progress[request];

    p->done = 1;
    s->done++;
    s->outcomes[request].produced = p->produced;
    sched_finish(s->sched, s->now / 1000, request + 1);
    leave(s, d, request);
}

/* --- segments --------------------------------------------------------------------------------- */

static double context_of(const struct sim *s, const struct device *d)
{
    double sum = 0;

    for (uint32_t i = 0; i < d->row_count; i++)
        sum += s->progress[d->rows[i]].cached;
    return sum;
}

static void schedule(struct sim *s, struct device *d)
{
    sim_push(s, (struct event){.at = sim_segment_end(&d->segment, d->segment.steps),
                               .kind = EVENT_SEGMENT,
                               .device = d->index,
                               .version = ++d->version});
}

/* A segment of one step, or a wait, that takes so long. */
static void one_step(struct sim *s, struct device *d, enum segment_kind kind, double seconds)
{
    d->kind = kind;
    d->segment = (struct sim_segment){.start = s->now, .base = seconds * 1e9, .steps = 1};
    schedule(s, d);
}

static void give_away(struct sim *s, uint32_t request)
{
    sched_away(s->sched, request + 1);
    s->progress[request].away = 1;
    s->progress[request].fresh_copy = 0;
    s->report->spills++;
}

/* The batch's newest row gives its KV away and waits for a later turn. */
static void drop_row(struct sim *s, struct device *d)
{
    give_away(s, d->rows[--d->row_count]);
}

/* All KV of the model but one request's: nothing else is left to make room for it. */
static void drop_others(struct sim *s, struct device *d, uint32_t request)
{
    for (uint32_t i = 0; i < d->member_count; i++) {
        uint32_t r = d->members[i];

        if (r != request && request_of(s, r)->model == d->turn.model && s->progress[r].cached > 0 &&
            !s->progress[r].away)
            give_away(s, r);
    }
}

/* Making room may have taken the KV of the turn's own newer rows. */
static void forget_away(struct sim *s, struct device *d)
{
    for (uint32_t i = 0; i < d->row_count;) {
        if (s->progress[d->rows[i]].away)
            take_out(d->rows, &d->row_count, d->rows[i]);
        else
            i++;
    }
}

/* Steps for which there is room: others give way, then own rows, the newest first. */
static uint32_t steps_that_fit(struct sim *s, struct device *d)
{
    double token = s->trace->models[d->turn.model].kind->kv_token_bytes, steps = 0;

    while (d->row_count > 0) {
        int made;

        steps = (double)sched_free_bytes(s->sched, d->index) / (token * d->row_count);
        if (steps >= LOOKAHEAD / 4)
            break;
        made = device_make_room(s, d, d->turn.model, token * d->row_count * LOOKAHEAD);
        forget_away(s, d);
        if (!made && d->row_count <= 1)
            break;
        if (!made)
            drop_row(s, d);
    }
    if (d->row_count == 0)
        return 0;
    steps = (double)sched_free_bytes(s->sched, d->index) / (token * d->row_count);
    if (!(steps >= 1))
        return 1; /* it has the device to itself */
    return steps < UINT32_MAX / 2 ? (uint32_t)steps : UINT32_MAX / 2;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* The KV that a segment will have written is taken at its beginning: no load gets its room. */
static void take_kv(struct sim *s, uint32_t request, uint32_t tokens)
{
    const struct progress *p = &s->progress[request];

    sched_progress(s->sched, s->now / 1000, request + 1, p->cached + tokens, p->produced);
}

static int64_t quota_end(const struct device *d)
{
    return d->turn.quota_us > 0 ? d->steps_began + d->turn.quota_us * 1000 : INT64_MAX;
}

static void decode_segment(struct sim *s, struct device *d)
{
    const struct cost *c = sim_cost(s, d->turn.model);
    uint32_t steps = steps_that_fit(s, d);

    if (d->row_count == 0) {
        next_segment(s, d);
        return;
    }
    for (uint32_t i = 0; i < d->row_count; i++)
        steps = least(steps, request_of(s, d->rows[i])->output - s->progress[d->rows[i]].produced);
    if (d->turn.quota_steps > 0)
        steps = least(steps, d->turn.quota_steps - d->steps);
    d->kind = SEGMENT_DECODE;
    d->segment = (struct sim_segment){.start = s->now,
                                      .base = cost_decode(c, d->row_count, context_of(s, d)) * 1e9,
                                      .slope = c->decode_context * d->row_count * 1e9,
                                      .steps = steps};
    d->segment.steps = sim_segment_until(&d->segment, quota_end(d));
    for (uint32_t i = 0; i < d->row_count; i++)
        take_kv(s, d->rows[i], d->segment.steps);
    schedule(s, d);
}

static void prompt_segment(struct sim *s, struct device *d)
{
    uint32_t r = d->prompts[d->prompt_at];
    const struct cost *c = sim_cost(s, d->turn.model);
    double token = s->trace->models[d->turn.model].kind->kv_token_bytes;
    const struct progress *p = &s->progress[r];
    int beside;

    d->chunk = request_of(s, r)->input - p->prefilled;
    if (d->turn.chunk > 0)
        d->chunk = least(d->chunk, d->turn.chunk);
    while (!device_make_room(s, d, d->turn.model, token * (d->chunk + d->row_count)) &&
           d->row_count > 0)
        drop_row(s, d);
    if (!device_make_room(s, d, d->turn.model, token * d->chunk))
        drop_others(s, d, r);
    forget_away(s, d);
    if (p->away) { /* its own part has gone: it goes on in a later turn */
        d->prompt_at++;
        next_segment(s, d);
        return;
    }
    take_kv(s, r, d->chunk);
    beside = d->turn.chunk > 0 && d->row_count > 0 && (d->turn.phases & SCHED_DECODE_ONLY);
    if (beside)
        one_step(s, d, SEGMENT_MIXED,
                 cost_decode(c, d->row_count, context_of(s, d)) +
                     cost_chunk(c, p->prefilled, d->chunk));
    else
        one_step(s, d, SEGMENT_PROMPT, cost_prefill(c, p->prefilled, d->chunk));
}

/* --- the turn's end --------------------------------------------------------------------------- */

static void note_gap(struct sim *s)
{
    double low = 0, high = 0;
    int n = 0;

    if (s->trace->tenant_count < 2 || s->trace->tenant_count > 64)
        return;
    for (uint32_t i = 0; i < s->trace->tenant_count; i++) {
        double t = sched_tenant_time(s->sched, i);

        low = n == 0 || t < low ? t : low;
        high = n == 0 || t > high ? t : high;
        n++;
    }
    if (high - low > s->report->fairness_gap)
        s->report->fairness_gap = high - low;
}

/* Published systems take a batch's KV to the host when its turn ends, unless it is the only one. */
static void kv_leaves(struct sim *s, struct device *d)
{
    int others = 0;

    for (uint32_t i = 0; i < d->member_count && !others; i++)
        others = request_of(s, d->members[i])->model != d->turn.model;
    for (uint32_t i = 0; i < d->row_count && others; i++) {
        struct progress *p = &s->progress[d->rows[i]];

        sched_away(s->sched, d->rows[i] + 1);
        p->away = 1;
        p->fresh_copy = 0;
    }
}

static void note_memory(struct sim *s, const struct device *d)
{
    double over = -(double)sched_free_bytes(s->sched, d->index);

    if (over > s->report->overcommitted)
        s->report->overcommitted = over;
}

/* Tell the scheduler, and see from its counters who pays; nothing else moves them meanwhile. */
static void charge(struct sim *s, const struct device *d, int64_t steps, int64_t waited)
{
    uint32_t tenants = s->trace->tenant_count <= SIM_TENANTS_MAX ? s->trace->tenant_count : 0;
    double before[SIM_TENANTS_MAX], part = 0;

    for (uint32_t i = 0; i < tenants; i++)
        before[i] = sched_tenant_time(s->sched, i);
    sched_turn_ended(s->sched, s->now / 1000, d->index, d->turn.model, d->steps, steps / 1000,
                     waited / 1000);
    if (steps + waited > 0)
        part = (double)waited / (double)(steps + waited);
    for (uint32_t i = 0; i < tenants; i++) {
        double paid = sched_tenant_time(s->sched, i) - before[i];

        s->paid[i] += paid;
        s->paid_switches[i] += paid * part;
    }
}

static void end_turn(struct sim *s, struct device *d)
{
    int64_t step_time = d->step_time, waited = s->now - d->began - step_time;

    if (s->traits.kv_leaves)
        kv_leaves(s, d);
    charge(s, d, step_time, waited);
    if ((double)(s->now - d->began) / 1e9 > s->report->longest_turn)
        s->report->longest_turn = (double)(s->now - d->began) / 1e9;
    s->report->turns++;
    s->report->step_seconds += (double)step_time / 1e9;
    s->report->switch_seconds += (double)waited / 1e9;
    if (s->fleet->timeline != NULL)
        fprintf(s->fleet->timeline, "%u %.6f %.6f %.6f %u %u\n", d->index, (double)d->began / 1e9,
                (double)d->steps_began / 1e9, (double)s->now / 1e9, d->turn.model, d->steps);
    note_gap(s);
    d->last_model = d->turn.model;
    d->busy = 0;
    d->version++;
}

static void next_segment(struct sim *s, struct device *d)
{
    int over = s->now >= quota_end(d) && d->steps > 0;

    over |= d->turn.quota_steps > 0 && d->steps >= d->turn.quota_steps;
    if (!over && d->prompt_at < d->prompt_count)
        prompt_segment(s, d);
    else if (!over && d->row_count > 0 && (d->turn.phases & SCHED_DECODE_ONLY))
        decode_segment(s, d);
    else
        end_turn(s, d);
}

/* --- what a segment yields -------------------------------------------------------------------- */

static void decoded(struct sim *s, struct device *d, uint32_t steps)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < d->row_count; i++) {
        uint32_t r = d->rows[i];
        const struct sim_request *q = request_of(s, r);
        const struct sim_class *class = &s->trace->classes[q->class];
        struct progress *p = &s->progress[r];
        int64_t due = q->arrival + class->ttft + (int64_t)p->produced * class->tbt;
        struct sim_segment g = d->segment;

        g.steps = steps;
        s->outcomes[r].on_time +=
            class->ttft > 0 ? sim_segment_on_time(&g, due, class->tbt) : steps;
        s->outcomes[r].last = s->now;
        g.start -= q->arrival;
        sim_qos_add(&s->outcomes[r].qos, &g, class->tbt);
        p->produced += steps;
        p->cached += steps;
        if (p->produced >= q->output) {
            finish(s, d, r);
            continue;
        }
        sched_progress(s->sched, s->now / 1000, r + 1, p->cached, p->produced);
        d->rows[kept++] = r;
    }
    d->row_count = kept;
}

static void hand_over(struct sim *s, struct device *d, uint32_t request)
{
    struct progress *p = &s->progress[request];
    uint32_t to;

    if (sched_hand_over(s->sched, s->now / 1000, request + 1, &to, s->err) != 0) {
        s->failed = 1;
        return;
    }
    leave(s, d, request);
    p->away = 1;
    p->device = to;
    sim_push(s, (struct event){.at = s->now + (int64_t)(sim_cost(s, d->turn.model)->kv_token *
                                                        p->cached * 1e9),
                               .kind = EVENT_MOVED,
                               .device = to,
                               .request = request});
}

/* The prompt at hand is in the KV: its last step has yielded a token. */
static void prefilled(struct sim *s, struct device *d)
{
    uint32_t r = d->prompts[d->prompt_at];
    const struct sim_request *q = request_of(s, r);
    const struct sim_class *class = &s->trace->classes[q->class];
    struct progress *p = &s->progress[r];

    p->prefilled += d->chunk;
    p->cached = p->prefilled;
    if (p->prefilled < q->input) {
        sched_progress(s->sched, s->now / 1000, r + 1, p->cached, 0);
        return;
    }
    d->prompt_at++;
    p->produced = 1;
    s->outcomes[r].first = s->outcomes[r].last = s->now;
    s->outcomes[r].on_time = class->ttft == 0 || s->now <= q->arrival + class->ttft;
    s->outcomes[r].qos.target = class->ttft;
    sim_qos_add(&s->outcomes[r].qos,
                &(struct sim_segment){.start = s->now - q->arrival, .steps = 1}, class->tbt);
    if (q->output == 1) {
        finish(s, d, r);
        return;
    }
    sched_progress(s->sched, s->now / 1000, r + 1, p->cached, 1);
    if (d->role == SCHED_PREFILL)
        hand_over(s, d, r);
    else if (d->row_count < rows_max(s))
        push(s, &d->rows, &d->row_count, &d->row_room, r);
}

void device_segment_end(struct sim *s, struct device *d)
{
    if (d->kind == SEGMENT_WAIT) {
        d->steps_began = s->now;
    } else {
        d->steps += d->segment.steps;
        d->step_time += s->now - d->segment.start;
        if (d->kind == SEGMENT_DECODE || d->kind == SEGMENT_MIXED)
            decoded(s, d, d->segment.steps);
        if (d->kind == SEGMENT_PROMPT || d->kind == SEGMENT_MIXED)
            prefilled(s, d);
        note_memory(s, d);
    }
    next_segment(s, d);
    if (!d->busy)
        device_kick(s, d);
}

void device_loaded(struct sim *s, struct device *d)
{
    struct resident *r;

    for (uint32_t i = 0; i < d->resident_count; i++) {
        r = &d->residents[i];
        if (r->loading && d->loaded <= s->now) {
            r->loading = 0;
            sched_set_resident(s->sched, d->index, r->model, 1);
        }
    }
    device_kick(s, d);
}

/* --- the turn's beginning --------------------------------------------------------------------- */

void device_join(struct sim *s, struct device *d, uint32_t request)
{
    if (!d->busy || d->turn.model != request_of(s, request)->model ||
        !(d->turn.phases & SCHED_PREFILL_ONLY) || d->turn.fresh_max > 0 ||
        d->row_count + d->prompt_count - d->prompt_at >= rows_max(s))
        return;
    push(s, &d->prompts, &d->prompt_count, &d->prompt_room, request);
    if (d->kind != SEGMENT_DECODE)
        return;
    d->segment.steps = sim_segment_until(&d->segment, s->now);
    schedule(s, d);
}

/* Its model's requests: prompts, and rows whose KV is brought back as far as there is room. */
static double gather(struct sim *s, struct device *d)
{
    double seconds = 0, token = s->trace->models[d->turn.model].kind->kv_token_bytes;
    uint32_t batches = 0;
    int full = 0;

    d->row_count = d->prompt_count = d->prompt_at = 0;
    for (uint32_t i = 0; i < d->member_count; i++) {
        uint32_t r = d->members[i];
        struct progress *p = &s->progress[r];
        int fresh = p->produced == 0;
        double need = (LOOKAHEAD + (fresh     ? request_of(s, r)->input
                                    : p->away ? p->cached
                                              : 0u)) *
                      token;

        batches += s->seen[request_of(s, r)->model] != s->turn_number;
        s->seen[request_of(s, r)->model] = s->turn_number;
        if (request_of(s, r)->model != d->turn.model || full ||
            d->row_count + d->prompt_count >= rows_max(s) ||
            !(d->turn.phases & (fresh ? SCHED_PREFILL_ONLY : SCHED_DECODE_ONLY)) ||
            (fresh && d->turn.fresh_max > 0 && d->prompt_count >= d->turn.fresh_max))
            continue;
        full = !device_make_room(s, d, d->turn.model, need) && d->row_count + d->prompt_count > 0;
        if (full)
            continue;
        seconds += device_fetch(s, d, r);
        if (fresh)
            push(s, &d->prompts, &d->prompt_count, &d->prompt_room, r);
        else
            push(s, &d->rows, &d->row_count, &d->row_room, r);
    }
    forget_away(s, d);
    if (batches > s->report->most_batches)
        s->report->most_batches = batches;
    return seconds;
}

static void note_wait(struct sim *s, const struct device *d)
{
    double waited = (double)(s->now / 1000 - d->turn.since) / 1e6;

    if (waited > s->report->longest_wait)
        s->report->longest_wait = waited;
}

static void begin_turn(struct sim *s, struct device *d)
{
    struct resident *r;
    int64_t ready;

    d->busy = 1;
    d->began = s->now;
    d->step_time = 0;
    d->steps = 0;
    note_wait(s, d);
    s->report->switches += d->turn.model != d->last_model;
    ready = device_load_now(s, d, d->turn.model);
    if (ready == s->now && d->turn.model != d->last_model)
        ready += (int64_t)(s->fleet->hop * 1e9);
    host_touch(s, d, d->turn.model);
    r = device_resident(d, d->turn.model);
    if (r != NULL)
        r->used = ++s->turn_number;
    ready += (int64_t)(gather(s, d) * 1e9);
    d->steps_began = ready;
    if (ready > s->now)
        one_step(s, d, SEGMENT_WAIT, (double)(ready - s->now) / 1e9);
    else
        next_segment(s, d);
}

void device_kick(struct sim *s, struct device *d)
{
    uint32_t idle_turns = 0;

    while (!d->busy && !s->failed) {
        device_load_behind(s, d);
        s->report->decisions++;
        if (!sched_next(s->sched, s->now / 1000, d->index, &d->turn))
            break;
        begin_turn(s, d);
        if (!d->busy && d->steps == 0 && ++idle_turns > 1000) {
            error_set(s->err, STATUS_INTERNAL, "sim: the scheduler gives turns without work");
            s->failed = 1;
        }
    }
    device_load_behind(s, d);
}
