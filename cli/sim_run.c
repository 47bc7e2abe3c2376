/* sim_run.c - the event loop, and what a run is summed up to */
#include <stdlib.h>

#include "cli/sim_state.h"

void sim_fail(struct sim *s)
{
    if (!s->failed)
        error_set(s->err, STATUS_NOMEM, "sim: out of memory");
    s->failed = 1;
}

const struct cost *sim_cost(const struct sim *s, uint32_t model)
{
    return &s->trace->models[model].kind->cost;
}

/* --- the queue: a binary heap ----------------------------------------------------------------- */

static int earlier(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->number < b->number;
}

int sim_push(struct sim *s, struct event e)
{
    size_t i = s->heap_count;

    if (i == s->heap_room) {
        size_t room = i > 0 ? i * 2 : 256;
        struct event *more = realloc(s->heap, room * sizeof *more);

        if (more == NULL) {
            sim_fail(s);
            return -1;
        }
        s->heap = more;
        s->heap_room = room;
    }
    e.number = ++s->events;
    for (s->heap_count++; i > 0 && earlier(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = e;
    return 0;
}

static struct event pop(struct sim *s)
{
    struct event top = s->heap[0], e = s->heap[--s->heap_count];
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= s->heap_count)
            break;
        if (child + 1 < s->heap_count && earlier(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!earlier(&s->heap[child], &e))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = e;
    return top;
}

/* --- beginning -------------------------------------------------------------------------------- */

static enum sched_role role_of(const struct sim_fleet *fleet, uint32_t device)
{
    if (fleet->prefill + fleet->decode == 0)
        return SCHED_MIXED;
    return device < fleet->prefill ? SCHED_PREFILL : SCHED_DECODE;
}

static int begin(struct sim *s)
{
    struct sched_params params = {.turn_us = (int64_t)(s->fleet->turn * 1e6),
                                  .starve_us = (int64_t)(s->fleet->starve * 1e6),
                                  .held = s->fleet->as_daemon ? 2 : 0};

    if (host_begin(s) != 0)
        return -1;
    s->sched = sched_create(s->fleet->scheduler, &params, s->err);
    if (s->sched == NULL)
        return -1;
    s->traits = sched_traits(s->sched);
    if (s->fleet->as_daemon) {
        s->traits.kv_leaves = 0;
        s->traits.residents_max = 0;
    }
    s->devices = calloc(s->fleet->devices, sizeof *s->devices);
    s->progress = calloc(s->trace->count, sizeof *s->progress);
    s->outcomes = calloc(s->trace->count, sizeof *s->outcomes);
    s->seen = calloc(s->trace->model_count, sizeof *s->seen);
    if (s->seen == NULL || s->devices == NULL || s->progress == NULL || s->outcomes == NULL)
        return error_set(s->err, STATUS_NOMEM, "sim: out of memory");
    for (uint32_t i = s->fleet->devices; i-- > 0;) {
        s->devices[i].index = i;
        s->devices[i].role = role_of(s->fleet, i);
        s->devices[i].last_model = SCHED_NONE;
        if (sched_add_instance(s->sched, i, (uint64_t)s->costs->memory_bytes, s->err) != 0)
            return -1;
        sched_set_role(s->sched, i, s->devices[i].role, s->fleet->prefetch == SIM_BEHIND);
    }
    for (uint32_t m = 0; m < s->trace->model_count; m++) {
        const struct cost_entry *kind = s->trace->models[m].kind;
        struct cost cost = kind->cost;

        cost.disk = s->nodes != NULL ? kind->weight_bytes / s->costs->disk : 0;
        if (sched_add_model(s->sched, SCHED_ALL, m, (uint64_t)kind->weight_bytes,
                            (uint64_t)kind->kv_token_bytes, s->err) != 0 ||
            sched_set_cost(s->sched, SCHED_ALL, m, &cost, s->err) != 0)
            return -1;
    }
    s->coin = sim_random_stream(s->fleet->seed, UINT64_MAX);
    return 0;
}

static void end(struct sim *s)
{
    for (uint32_t i = 0; s->devices != NULL && i < s->fleet->devices; i++) {
        free(s->devices[i].members);
        free(s->devices[i].residents);
        free(s->devices[i].rows);
        free(s->devices[i].prompts);
    }
    host_end(s);
    free(s->devices);
    free(s->progress);
    free(s->seen);
    free(s->outcomes);
    free(s->heap);
    sched_destroy(s->sched);
}

/* --- the loop --------------------------------------------------------------------------------- */

static void arrive(struct sim *s, uint32_t r)
{
    const struct sim_request *q = &s->trace->requests[r];
    const struct sim_class *class = &s->trace->classes[q->class];
    struct sched_seq seq = {.seq = r + 1u,
                            .model = q->model,
                            .tenant = q->tenant,
                            .tokens = q->input,
                            .max_tokens = q->output,
                            .ttft_us = class->ttft / 1000,
                            .tbt_us = class->tbt / 1000,
                            .oracle = s->traits.oracle ? q->output : 0};
    uint32_t instance;

    if (s->fleet->admit && sched_admit(s->sched, s->now / 1000, &seq, NULL) != 0) {
        s->outcomes[r].refused = 1;
        s->done++;
        return;
    }
    if (sched_arrive(s->sched, s->now / 1000, &seq, &instance, s->err) != 0) {
        s->failed = 1;
        return;
    }
    host_touch(s, &s->devices[instance], q->model);
    device_add(s, &s->devices[instance], r);
    device_join(s, &s->devices[instance], r);
    device_kick(s, &s->devices[instance]);
}

static void handle(struct sim *s, const struct event *e)
{
    struct device *d = &s->devices[e->device];

    switch (e->kind) {
    case EVENT_SEGMENT:
        if (e->version == d->version)
            device_segment_end(s, d);
        break;
    case EVENT_LOADED:
        device_loaded(s, d);
        break;
    case EVENT_MOVED:
        sched_handed_over(s->sched, s->now / 1000, e->request + 1u);
        device_add(s, d, e->request);
        device_kick(s, d);
        break;
    }
}

static int loop(struct sim *s)
{
    while (s->done < s->trace->count && !s->failed) {
        const struct sim_request *next = &s->trace->requests[s->next_arrival];
        int arrivals = s->next_arrival < s->trace->count;

        if (arrivals && (s->heap_count == 0 || next->arrival <= s->heap[0].at)) {
            s->now = next->arrival;
            arrive(s, (uint32_t)s->next_arrival++);
        } else if (s->heap_count > 0) {
            struct event e = pop(s);

            s->now = e.at;
            handle(s, &e);
        } else {
            return error_set(s->err, STATUS_INTERNAL,
                             "sim: %zu requests wait and nothing happens any more",
                             s->trace->count - s->done);
        }
    }
    return s->failed ? -1 : 0;
}

/* --- sums ------------------------------------------------------------------------------------- */

static int sum_up(struct sim *s)
{
    struct sim_report *rep = s->report;

    if (sim_sum_up(s->trace, s->outcomes, s->fleet->from, rep, s->err) != 0)
        return -1;
    for (uint32_t t = 0; t < rep->tenant_count; t++)
        rep->tenants[t].seconds = sched_tenant_time(s->sched, t);
    rep->gpu_seconds = rep->makespan * s->fleet->devices;
    return 0;
}

/* What they paid, in place of the scheduler's counters, which idling lifts. */
static void bill(const struct sim *s)
{
    for (uint32_t t = 0; s->trace->tenant_count <= SIM_TENANTS_MAX && t < s->trace->tenant_count;
         t++) {
        s->report->tenants[t].seconds = s->paid[t];
        s->report->tenants[t].switch_seconds = s->paid_switches[t];
    }
}

int sim_run(const struct sim_trace *t, const struct sim_fleet *fleet,
            const struct cost_table *costs, struct sim_report *report, struct error *err)
{
    struct sim s = {.trace = t, .fleet = fleet, .costs = costs, .report = report, .err = err};
    int rv = -1;

    *report = (struct sim_report){.requests = 0};
    if (begin(&s) == 0 && loop(&s) == 0 && sum_up(&s) == 0) {
        bill(&s);
        rv = 0;
    }
    end(&s);
    if (rv != 0)
        sim_report_clear(report);
    return rv;
}

double sim_wait_bound(const struct sim_report *r, const struct sim_fleet *fleet)
{
    return fleet->starve + (r->most_batches + 1) * (r->longest_turn + r->longest_load);
}

void sim_report_clear(struct sim_report *r)
{
    free(r->tenants);
    *r = (struct sim_report){.requests = 0};
}
