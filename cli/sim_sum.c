/* sim_sum.c - what a trace's outcomes are summed up to */
#include <stdlib.h>

#include "cli/sim.h"

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

void sim_percentiles(double *v, size_t n, double out[3])
{
    static const double at[3] = {0.5, 0.95, 0.99};

    if (n > 0)
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

struct times { /* of requests that had a first token, and of those that had all */
    double *ttft, *tbt;
    size_t firsts, gaps;
};

/* One that was not refused; what has not come of one that failed is late. */
static void add(const struct sim_trace *t, const struct sim_request *q, const struct sim_outcome *o,
                struct sim_report *rep, struct times *all)
{
    const struct sim_class *class = &t->classes[q->class];
    struct sim_tenant_report *tenant = &rep->tenants[q->tenant];
    double first = seconds(o->first - q->arrival), gap = mean_gap(q, o);

    rep->tokens += q->output;
    rep->on_time += o->on_time;
    tenant->requests++;
    tenant->tokens += q->output;
    tenant->attainment += o->on_time;
    if (o->first > 0)
        all->ttft[all->firsts++] = first;
    if (seconds(o->last) > rep->makespan)
        rep->makespan = seconds(o->last);
    if (o->failed)
        return;
    rep->requests_kept +=
        class->ttft == 0 || (first <= seconds(class->ttft) && gap <= seconds(class->tbt));
    rep->published_attainment += sim_qos_share(&o->qos, o->last - q->arrival);
    if (q->output > 1)
        all->tbt[all->gaps++] = gap;
}

static void tenant_tails(const struct sim_trace *t, const struct sim_outcome *outcomes,
                         int64_t from, struct sim_report *rep, double *v)
{
    for (uint32_t k = 0; k < rep->tenant_count; k++) {
        struct sim_tenant_report *r = &rep->tenants[k];
        double p[3];
        size_t n = 0;

        for (size_t i = 0; i < t->count; i++) {
            const struct sim_request *q = &t->requests[i];

            if (q->tenant == k && q->arrival >= from && outcomes[i].first > 0)
                v[n++] = seconds(outcomes[i].first - q->arrival);
        }
        sim_percentiles(v, n, p);
        r->ttft_p99 = p[2];
    }
}

int sim_sum_up(const struct sim_trace *t, const struct sim_outcome *outcomes, int64_t from,
               struct sim_report *rep, struct error *err)
{
    struct times all = {.ttft = malloc((t->count + 1) * sizeof(double)),
                        .tbt = malloc((t->count + 1) * sizeof(double))};
    int rv = -1;

    rep->tenant_count = t->tenant_count;
    rep->tenants = calloc(rep->tenant_count + 1, sizeof *rep->tenants);
    if (all.ttft == NULL || all.tbt == NULL || rep->tenants == NULL) {
        error_set(err, STATUS_NOMEM, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < t->count; i++) {
        if (t->requests[i].arrival < from)
            continue;
        rep->requests++;
        rep->refused += outcomes[i].refused != 0;
        if (!outcomes[i].refused)
            add(t, &t->requests[i], &outcomes[i], rep, &all);
    }
    sim_percentiles(all.ttft, all.firsts, rep->ttft);
    sim_percentiles(all.tbt, all.gaps, rep->tbt);
    if (rep->tenant_count <= 1024)
        tenant_tails(t, outcomes, from, rep, all.ttft);
    for (uint32_t k = 0; k < rep->tenant_count; k++) {
        struct sim_tenant_report *r = &rep->tenants[k];
        r->attainment = r->tokens > 0 ? r->attainment / (double)r->tokens : 1;
    }
    rep->token_attainment = rep->tokens > 0 ? (double)rep->on_time / (double)rep->tokens : 1;
    uint64_t served = rep->requests - rep->refused;
    rep->request_attainment = served > 0 ? (double)rep->requests_kept / (double)served : 1;
    rep->published_attainment = served > 0 ? rep->published_attainment / (double)served : 1;
    rv = 0;
out:
    free(all.ttft);
    free(all.tbt);
    return rv;
}
