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
                                  .starve_us = (int64_t)(s->fleet->starve * 1e6)};

    if (host_begin(s) != 0)
        return -1;
    s->sched = sched_create(s->fleet->scheduler, &params, s->err);
    if (s->sched == NULL)
        return -1;
    s->traits = sched_traits(s->sched);
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

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void percentiles(double *v, size_t n, double out[3])
{
    static const double at[3] = {0.5, 0.95, 0.99};

    qsort(v, n, sizeof *v, ascending);
    for (int i = 0; i < 3; i++)
        out[i] = n > 0 ? v[(size_t)(at[i] * (double)(n - 1) + 0.5)] : 0;
}

static double seconds(int64_t ns)
{
    return (double)ns / 1e9;
}

/* Its mean time between tokens, s. */
static double mean_gap(const struct sim_request *q, const struct sim_outcome *o)
{
    return q->output > 1 ? seconds(o->last - o->first) / (q->output - 1) : 0;
}

static void add_up(const struct sim *s, double *ttft, double *tbt, size_t *n, size_t *gaps)
{
    struct sim_report *rep = s->report;

    for (size_t i = 0; i < s->trace->count; i++) {
        const struct sim_request *q = &s->trace->requests[i];
        const struct sim_class *class = &s->trace->classes[q->class];
        const struct sim_outcome *o = &s->outcomes[i];
        struct sim_tenant_report *tenant = &rep->tenants[q->tenant];
        double first = seconds(o->first - q->arrival), gap = mean_gap(q, o);

        rep->requests++;
        rep->refused += o->refused != 0;
        if (o->refused)
            continue;
        rep->tokens += q->output;
        rep->on_time += o->on_time;
        tenant->requests++;
        tenant->tokens += q->output;
        tenant->attainment += o->on_time;
        rep->requests_kept +=
            class->ttft == 0 || (first <= seconds(class->ttft) && gap <= seconds(class->tbt));
        ttft[(*n)++] = first;
        rep->published_attainment += sim_qos_share(&o->qos, o->last - q->arrival);
        if (q->output > 1)
            tbt[(*gaps)++] = gap;
        if (seconds(o->last) > rep->makespan)
            rep->makespan = seconds(o->last);
    }
}

static int tenant_tails(const struct sim *s, double *v)
{
    for (uint32_t t = 0; t < s->report->tenant_count; t++) {
        struct sim_tenant_report *r = &s->report->tenants[t];
        double p[3];
        size_t n = 0;

        for (size_t i = 0; i < s->trace->count; i++) {
            const struct sim_request *q = &s->trace->requests[i];

            if (q->tenant == t && !s->outcomes[i].refused)
                v[n++] = seconds(s->outcomes[i].first - q->arrival);
        }
        percentiles(v, n, p);
        r->ttft_p99 = p[2];
        r->attainment = r->tokens > 0 ? r->attainment / (double)r->tokens : 1;
        r->seconds = sched_tenant_time(s->sched, t);
    }
    return 0;
}

static int sum_up(struct sim *s)
{
    struct sim_report *rep = s->report;
    double *ttft = malloc(s->trace->count * sizeof *ttft);
    double *tbt = malloc(s->trace->count * sizeof *tbt);
    size_t n = 0, gaps = 0;
    int rv = -1;

    rep->tenant_count = s->trace->tenant_count;
    rep->tenants = calloc(rep->tenant_count, sizeof *rep->tenants);
    if (ttft == NULL || tbt == NULL || rep->tenants == NULL) {
        error_set(s->err, STATUS_NOMEM, "sim: out of memory");
        goto out;
    }
    add_up(s, ttft, tbt, &n, &gaps);
    percentiles(ttft, n, rep->ttft);
    percentiles(tbt, gaps, rep->tbt);
    if (rep->tenant_count <= 1024)
        tenant_tails(s, ttft);
    rep->token_attainment = rep->tokens > 0 ? (double)rep->on_time / (double)rep->tokens : 1;
    rep->request_attainment =
        rep->requests > rep->refused
            ? (double)rep->requests_kept / (double)(rep->requests - rep->refused)
            : 1;
    rep->published_attainment = n > 0 ? rep->published_attainment / (double)n : 1;
    rep->gpu_seconds = rep->makespan * s->fleet->devices;
    rv = 0;
out:
    free(ttft);
    free(tbt);
    return rv;
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
