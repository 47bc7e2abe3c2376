/* serve.c - modelpool bench serve: replay a trace against a running pool */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/serve.h"
#include "common/clock.h"

#define NAMES_OF 16u /* models of a lease, as the daemon has it */

struct lease { /* of a tenant's requests of a class, on some models */
    uint32_t tenant, class, models[NAMES_OF], count;
    struct serve_grant grant;
};

struct bench {
    struct serve_options *o;
    struct cli cli; /* the pool's */
    struct serve_pool pool;
    struct serve_names names; /* of a pool of its own */
    struct sim_trace trace;
    const char **served; /* [trace.model_count]: what the pool calls them */
    struct lease *leases;
    uint32_t lease_count;
    struct serve_ask *asks;
    struct serve_fate *fates;
    struct sim_outcome *outcomes;
    struct serve_counters before, after;
    int64_t began_us; /* Unix */
    struct serve_result result;
};

/* --- the pool -----------------------------------------------------------------------------------
 */

/* The names that the simulator gives to so many models of these kinds, fit for a configuration. */
static int name_models(struct bench *b, struct error *err)
{
    const char *list = b->o->private.shapes;
    struct sim_workload one = {.tenants = 1, .rate = 1e-9, .duration = 1e-6, .day = 1};
    struct sim_trace trace = {.count = 0};
    struct cost_table costs = {.model_count = 0};
    char shape[64], *text = NULL;
    size_t len;
    FILE *to = open_memstream(&text, &len);
    uint32_t count;
    int rv = -1;

    if (to == NULL)
        return error_set(err, STATUS_NOMEM, "out of memory");
    fprintf(to, "Device=any Memory=1e9 Link=1e9\n");
    while (serve_shape_next(&list, shape, &count) == 1) {
        fprintf(to, "Model=%s Weights=1 KvToken=1 Context=9 Prefill=1,1,1 Decode=1,1,1 Mix=%u\n",
                shape, count);
        one.models += count;
    }
    snprintf(one.input, sizeof one.input, "fixed:1");
    snprintf(one.output, sizeof one.output, "fixed:1");
    one.input_scale = one.output_scale = 1;
    if (fclose(to) != 0 || text == NULL) {
        error_set(err, STATUS_NOMEM, "out of memory");
        goto out;
    }
    if (cost_table_parse(&costs, text, "--shapes", err) != 0 ||
        sim_synthesize(&trace, &one, &costs, &b->o->setup.slo, err) != 0)
        goto out;
    b->names.name = calloc(trace.model_count, sizeof *b->names.name);
    b->names.kind = calloc(trace.model_count, sizeof *b->names.kind);
    if (b->names.name == NULL || b->names.kind == NULL) {
        error_set(err, STATUS_NOMEM, "out of memory");
        goto out;
    }
    for (b->names.count = 0; b->names.count < trace.model_count; b->names.count++) {
        char *name = b->names.name[b->names.count];

        snprintf(name, sizeof *b->names.name, "%s", trace.models[b->names.count].name);
        *strchr(name, '#') = '-';
        snprintf(b->names.kind[b->names.count], sizeof *b->names.kind, "%s",
                 trace.models[b->names.count].kind->name);
    }
    rv = 0;
out:
    free(text);
    sim_trace_clear(&trace);
    cost_table_clear(&costs);
    return rv;
}

static int open_pool(struct bench *b)
{
    struct error err;
    int code = EXIT_OK;

    if (b->o->private.shapes != NULL) {
        if (name_models(b, &err) != 0)
            return cli_fail(EXIT_REFUSED, "%s", err.text);
        code = serve_private_start(&b->o->private, b->cli.tmp, &b->names);
        b->cli = (struct cli){.socket = b->o->private.socket};
    }
    if (code == EXIT_OK)
        code = serve_pool_wait(&b->cli, NULL, 0);
    if (code == EXIT_OK)
        code = serve_pool_read(&b->cli, &b->pool);
    if (code == EXIT_OK && b->pool.scheduler[0] == '\0')
        code = cli_fail(EXIT_REFUSED, "the daemon does not say its scheduler: it is of an older "
                                      "release than this program");
    return code;
}

/* --- costs and trace ----------------------------------------------------------------------------
 */

static int keep_costs(const struct serve_options *o, const char *text)
{
    FILE *to = fopen(o->write_costs, "we");
    int failed = to == NULL || fputs(text, to) == EOF;

    if (to != NULL && fclose(to) != 0)
        failed = 1;
    return failed ? cli_fail(EXIT_REFUSED, "%s: cannot be written", o->write_costs) : EXIT_OK;
}

/* Kinds of the pool's models: its shapes, or each model its own. */
static size_t list_kinds(const struct bench *b, const char **kinds, const char **names,
                         double *shares)
{
    size_t n = 0;

    for (uint32_t i = 0; i < b->names.count; i++) {
        size_t k = 0;

        while (k < n && strcmp(kinds[k], b->names.kind[i]) != 0)
            k++;
        if (k == n) {
            kinds[n] = b->names.kind[i];
            names[n] = b->names.name[i];
            shares[n++] = 0;
        }
        shares[k]++;
    }
    for (uint32_t i = 0; b->names.count == 0 && i < b->pool.model_count; i++) {
        if (b->pool.models[i].weight_bytes == 0)
            continue; /* it cannot be used, and is told if the trace asks for it */
        kinds[n] = names[n] = b->pool.models[i].name;
        shares[n++] = 1;
    }
    return n;
}

/* The mix of a made-up load is the shapes', whatever the file says. */
static int take_shares(struct cost_table *t, const char *path, const char *const *kinds,
                       const double *shares, size_t n)
{
    for (size_t i = 0; i < t->model_count; i++)
        t->models[i].weight = 0;
    for (size_t k = 0; k < n; k++) {
        struct cost_entry *m = (struct cost_entry *)(uintptr_t)cost_table_find(t, kinds[k]);

        if (m == NULL)
            return cli_fail(EXIT_REFUSED, "%s: has no costs of the shape %s", path, kinds[k]);
        m->weight = shares[k];
    }
    return EXIT_OK;
}

static int get_costs(struct bench *b)
{
    struct serve_options *o = b->o;
    uint32_t room = b->pool.model_count + b->names.count + 1;
    const char **kinds = calloc(room, sizeof *kinds), **names = calloc(room, sizeof *names);
    double *shares = calloc(room, sizeof *shares);
    char *text = NULL;
    struct error err;
    int code = EXIT_OK;

    if (kinds == NULL || names == NULL || shares == NULL) {
        code = cli_fail(EXIT_REFUSED, "out of memory");
        goto out;
    }
    size_t n = list_kinds(b, kinds, names, shares);
    if (o->costs != NULL) {
        if (sim_read_costs(&o->setup.costs, o->costs, &err) != 0)
            code = cli_fail(EXIT_REFUSED, "%s", err.text);
        else if (b->names.count > 0)
            code = take_shares(&o->setup.costs, o->costs, kinds, shares, n);
        goto out;
    }
    int measure = o->predict || o->write_costs != NULL;

    if (measure && isatty(STDERR_FILENO))
        fprintf(stderr, "modelpool: measuring what the pool's models cost\n");
    text = serve_costs(&b->cli, &b->pool, kinds, names, shares, n, measure, &code);
    if (text != NULL && cost_table_parse(&o->setup.costs, text, "costs of the pool", &err) != 0)
        code = cli_fail(EXIT_REFUSED, "%s", err.text);
    if (code == EXIT_OK && o->write_costs != NULL)
        code = keep_costs(o, text);
out:
    free(text);
    free(kinds);
    free(names);
    free(shares);
    return code;
}

/* "smollm2#3" is the pool's smollm2-3 if it has one, else its smollm2. */
static int resolve(struct bench *b, uint32_t model, struct error *err)
{
    char name[64];
    const char *given = b->trace.models[model].name;
    const struct serve_model *m;
    char *mark;

    snprintf(name, sizeof name, "%s", given);
    mark = strchr(name, '#');
    if (mark != NULL)
        *mark = '-';
    m = serve_pool_find(&b->pool, name);
    if (m == NULL && mark != NULL) {
        *mark = '\0';
        m = serve_pool_find(&b->pool, name);
    }
    if (m == NULL)
        return error_set(err, STATUS_NOT_FOUND,
                         "the pool has no model for the trace's %s; `modelpool list` shows what "
                         "it has",
                         given);
    if (m->weight_bytes == 0)
        return error_set(err, STATUS_UNSUPPORTED, "the pool cannot use model %s: %s", m->name,
                         m->text);
    b->served[model] = m->name;
    return 0;
}

static int get_trace(struct bench *b)
{
    struct serve_options *o = b->o;
    struct sim_workload *w = &o->setup.workload;
    struct error err;

    if (!o->models_given)
        w->models = b->names.count > 0 ? b->names.count : (uint32_t)o->setup.costs.model_count;
    if (sim_get_trace(&o->setup, o->trace_in, &b->trace, &err) != 0)
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    while (o->trace_in != NULL && o->duration_given && b->trace.count > 0 &&
           (double)b->trace.requests[b->trace.count - 1].arrival / 1e9 >= w->duration)
        b->trace.count--;
    if (b->trace.count == 0)
        return cli_fail(EXIT_REFUSED, "bench serve: nothing arrives; raise --rate= or --duration=");
    b->served = calloc(b->trace.model_count, sizeof *b->served);
    if (b->served == NULL)
        return cli_fail(EXIT_REFUSED, "out of memory");
    for (uint32_t m = 0; m < b->trace.model_count; m++)
        if (resolve(b, m, &err) != 0)
            return cli_fail(EXIT_REFUSED, "%s", err.text);
    if (o->trace_out != NULL && sim_put_trace(o->trace_out, &b->trace, &err) != 0)
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    return EXIT_OK;
}

/* --- leases -------------------------------------------------------------------------------------
 */

static int lease_holds(const struct lease *l, uint32_t model)
{
    for (uint32_t i = 0; i < l->count; i++)
        if (l->models[i] == model)
            return 1;
    return 0;
}

/* The lease for a request, planned if it is the first of its kind; NULL: there are too many. */
static struct lease *plan_lease(struct bench *b, const struct sim_request *q, int job)
{
    struct lease *with_room = NULL;

    if (job) {
        b->lease_count = 1;
        return b->leases;
    }
    for (uint32_t i = 0; i < b->lease_count; i++) {
        struct lease *l = &b->leases[i];

        if (l->tenant != q->tenant || l->class != q->class)
            continue;
        if (lease_holds(l, q->model))
            return l;
        if (l->count < NAMES_OF)
            with_room = l;
    }
    if (with_room == NULL && b->lease_count < SERVE_GRANTS_MAX) {
        with_room = &b->leases[b->lease_count++];
        *with_room = (struct lease){.tenant = q->tenant, .class = q->class, .grant = {.fd = -1}};
    }
    if (with_room != NULL)
        with_room->models[with_room->count++] = q->model;
    return with_room;
}

static int open_leases(struct bench *b)
{
    for (uint32_t i = 0; i < b->lease_count; i++) {
        struct lease *l = &b->leases[i];
        const char *names[NAMES_OF];
        uint32_t n = 0;

        for (uint32_t k = 0; k < l->count; k++) { /* two of the trace's may be one of the pool's */
            uint32_t j = 0;

            while (j < n && strcmp(names[j], b->served[l->models[k]]) != 0)
                j++;
            if (j == n)
                names[n++] = b->served[l->models[k]];
        }
        int code = serve_lease(&b->cli, names, n, &b->trace.classes[l->class], &l->grant);
        if (code != EXIT_OK)
            return code;
    }
    return EXIT_OK;
}

static int plan(struct bench *b)
{
    int job = b->cli.base_url != NULL && b->cli.api_key != NULL, code = EXIT_OK;
    size_t n = b->trace.count;

    b->leases = calloc(SERVE_GRANTS_MAX, sizeof *b->leases);
    b->asks = calloc(n, sizeof *b->asks);
    b->fates = calloc(n, sizeof *b->fates);
    b->outcomes = calloc(n, sizeof *b->outcomes);
    if (b->leases == NULL || b->asks == NULL || b->fates == NULL || b->outcomes == NULL)
        return cli_fail(EXIT_REFUSED, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const struct sim_request *q = &b->trace.requests[i];
        struct lease *l = plan_lease(b, q, job);

        if (l == NULL)
            return cli_fail(EXIT_REFUSED,
                            "the trace wants more than %u leases: one for each tenant, class and "
                            "%u models",
                            SERVE_GRANTS_MAX, NAMES_OF);
        b->asks[i] = (struct serve_ask){.grant = &l->grant,
                                        .model = b->served[q->model],
                                        .class = &b->trace.classes[q->class],
                                        .at = q->arrival,
                                        .input = q->input,
                                        .output = q->output,
                                        .seed = b->o->setup.workload.seed * 1000003u + 1000 + i};
    }
    if (!job) {
        code = open_leases(b);
    } else { /* the job's own, with its own deadlines for the scheduler */
        struct serve_grant *g = &b->leases[0].grant;
        g->fd = -1;
        snprintf(g->base_url, sizeof g->base_url, "%s", b->cli.base_url);
        snprintf(g->key, sizeof g->key, "%s", b->cli.api_key);
    }
    return code;
}

/* --- the run ------------------------------------------------------------------------------------
 */

static void on_mark(void *arg)
{
    struct bench *b = arg;
    struct serve_pool p;

    if (serve_pool_read(&b->cli, &p) == EXIT_OK) {
        b->before = p.now;
        serve_pool_clear(&p);
    }
}

static int replay(struct bench *b)
{
    struct serve_run run = {.asks = b->asks,
                            .count = b->trace.count,
                            .outcomes = b->outcomes,
                            .fates = b->fates,
                            .progress = isatty(STDERR_FILENO),
                            .mark_at = (int64_t)(b->o->warmup * 1e9),
                            .mark = on_mark,
                            .arg = b};
    struct error err;
    int code = serve_pool_settle(&b->cli, &b->before);

    if (code != EXIT_OK)
        return code;
    b->began_us = clock_wall_us();
    if (serve_run(&run, &err) != 0)
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    if (run.interrupted)
        return cli_fail(EXIT_INTERRUPTED, "bench serve: interrupted, there is no report");
    return serve_pool_settle(&b->cli, &b->after);
}

/* How late requests were sent, and what failed. */
static int note_fates(struct bench *b)
{
    struct serve_result *r = &b->result;
    double *late = malloc(b->trace.count * sizeof *late);

    if (late == NULL)
        return cli_fail(EXIT_REFUSED, "out of memory");
    for (size_t i = 0; i < b->trace.count; i++) {
        late[i] = (double)(b->fates[i].sent - b->asks[i].at) / 1e9;
        if (late[i] > r->late_most)
            r->late_most = late[i];
        r->failed += b->fates[i].reason[0] != '\0';
        r->received += b->fates[i].tokens;
    }
    sim_percentiles(late, b->trace.count, r->late);
    free(late);
    return EXIT_OK;
}

/* What the ledger billed; tenants' seconds are their leases'. */
static int read_ledger(struct bench *b)
{
    struct serve_bill bills[SERVE_GRANTS_MAX] = {{.lease = 0}};
    struct serve_result *r = &b->result;
    int code;

    if (b->lease_count == 0 || b->leases[0].grant.lease == 0)
        return EXIT_OK; /* a job's key does not say whose lease it is */
    for (uint32_t i = 0; i < b->lease_count; i++)
        bills[i].lease = b->leases[i].grant.lease;
    code = serve_ledger(&b->cli, b->began_us - 1000000, bills, b->lease_count);
    if (code != EXIT_OK)
        return code;
    r->has_ledger = 1;
    for (uint32_t i = 0; i < b->lease_count; i++) {
        r->ledger.rows += bills[i].rows;
        r->ledger.prompt_tokens += bills[i].prompt_tokens;
        r->ledger.completion_tokens += bills[i].completion_tokens;
        r->ledger.engine_seconds += bills[i].engine_seconds;
        r->served.tenants[b->leases[i].tenant].seconds += bills[i].engine_seconds;
    }
    return EXIT_OK;
}

static int sum_up(struct bench *b)
{
    struct serve_result *r = &b->result;
    struct sim_report *rep = &r->served;
    int64_t from = (int64_t)(b->o->warmup * 1e9);
    struct error err;

    *r = (struct serve_result){.trace = &b->trace,
                               .setup = &b->o->setup,
                               .device = b->pool.device,
                               .fates = b->fates,
                               .outcomes = b->outcomes,
                               .warmup = b->o->warmup};
    if (sim_sum_up(&b->trace, b->outcomes, from, rep, &err) != 0)
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    rep->gpu_seconds = (rep->makespan - b->o->warmup) * b->pool.instances;
    rep->turns = b->after.turns - b->before.turns;
    rep->loads = b->after.switches - b->before.switches;
    rep->bytes = (double)(b->after.switch_bytes - b->before.switch_bytes);
    rep->step_seconds = b->after.step_seconds - b->before.step_seconds;
    rep->switch_seconds = b->after.switch_seconds - b->before.switch_seconds;
    r->preemptions = b->after.preemptions - b->before.preemptions;
    int code = note_fates(b);
    return code == EXIT_OK ? read_ledger(b) : code;
}

/* The same arrivals on devices that are only costs. */
static int predict(struct bench *b)
{
    struct error err;

    b->o->setup.fleet.from = (int64_t)(b->o->warmup * 1e9);
    if (sim_run(&b->trace, &b->o->setup.fleet, &b->o->setup.costs, &b->result.predicted, &err) != 0)
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    b->result.has_prediction = 1;
    return EXIT_OK;
}

static int report(struct bench *b)
{
    struct serve_result *r = &b->result;
    struct error err;

    if (!b->o->json)
        serve_print(r);
    else if (serve_print_json(r) != 0)
        return cli_fail(EXIT_REFUSED, "out of memory");
    fflush(stdout);
    if (b->o->plot != NULL && serve_plot(b->o->plot, r, &err) != 0)
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    for (size_t i = 0; i < b->trace.count; i++)
        if (b->fates[i].reason[0] == '\0')
            return EXIT_OK;
    return cli_fail(EXIT_REFUSED, "all %zu requests failed; the first: %s", b->trace.count,
                    b->fates[0].reason);
}

static int serve(struct bench *b)
{
    struct sim_setup *u = &b->o->setup;
    int code = open_pool(b);

    if (code == EXIT_OK) {
        u->fleet.scheduler = b->pool.scheduler;
        u->fleet.devices = b->pool.instances;
        u->fleet.turn = b->pool.turn;
        u->fleet.rows_max = b->pool.max_batch;
        u->fleet.admit = b->pool.admission;
        u->fleet.as_daemon = 1;
        if (!b->o->prefetch_given)
            u->fleet.prefetch = b->pool.loads_behind ? SIM_BEHIND : SIM_NONE;
        u->fleet.seed = u->workload.seed;
        code = get_costs(b);
    }
    if (code == EXIT_OK) {
        sim_setup_switches(u);
        code = get_trace(b);
    }
    if (code == EXIT_OK)
        code = plan(b);
    if (code == EXIT_OK)
        code = replay(b);
    if (code == EXIT_OK)
        code = sum_up(b);
    if (code == EXIT_OK && b->o->predict)
        code = predict(b);
    return code == EXIT_OK ? report(b) : code;
}

static void clean(struct bench *b)
{
    for (uint32_t i = 0; i < b->lease_count; i++)
        if (b->leases[i].grant.fd >= 0)
            close(b->leases[i].grant.fd);
    if (b->leases != NULL)
        explicit_bzero(b->leases, SERVE_GRANTS_MAX * sizeof *b->leases);
    serve_private_stop(&b->o->private);
    serve_pool_clear(&b->pool);
    sim_trace_clear(&b->trace);
    sim_report_clear(&b->result.served);
    sim_report_clear(&b->result.predicted);
    cost_table_clear(&b->o->setup.costs);
    free(b->names.name);
    free(b->names.kind);
    free(b->served);
    free(b->leases);
    free(b->asks);
    free(b->fates);
    free(b->outcomes);
}

int bench_serve(const struct cli *cli, int argc, char **argv)
{
    struct serve_options o;
    struct bench b = {.o = &o, .cli = *cli};
    int code, over = 0;

    code = serve_options(&o, argc, argv, &over);
    if (code != EXIT_OK || over)
        return code;
    code = serve(&b);
    clean(&b);
    return code;
}
