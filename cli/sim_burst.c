/* sim_burst.c - bursts on top of a load that was made up: all of it arrives at one instant */
#include <stdlib.h>
#include <string.h>

#include "cli/sim_command.h"

#define FLOOD_REQUESTS 10000u
#define PROMPT_TOKENS  26000u /* the longest of the published workload */
#define PROMPT_COUNT   10u
#define PROMPT_OUTPUT  200u
#define KV_OUTPUT      256u

struct burst {
    struct sim_trace *made; /* the burst's requests alone */
    const struct sim_trace *trace;
    const struct sim_workload *workload;
    const struct cost_table *costs;
    struct sim_random random;
    struct error *err;
};

static int send(struct burst *b, uint32_t model, double input, double output)
{
    double context = b->trace->models[model].kind->context;
    struct sim_request r = {.model = model,
                            .arrival = (int64_t)(b->workload->duration / 4 * 1e9),
                            .tenant = b->trace->tenant_count - 1};

    input = input < context - 1 ? input : context - 1;
    r.input = input > 1 ? (uint32_t)input : 1;
    output = output < context - r.input ? output : context - r.input;
    r.output = output > 1 ? (uint32_t)output : 1;
    return sim_trace_add(b->made, &r, b->err);
}

static int send_usual(struct burst *b, uint32_t model)
{
    double input = sim_length(&b->random, b->workload->input) * b->workload->input_scale;
    double output = sim_length(&b->random, b->workload->output) * b->workload->output_scale;

    return send(b, model, input, output);
}

/* A request to each model. */
static int all_models(struct burst *b)
{
    for (uint32_t m = 0; m < b->trace->model_count; m++) {
        if (send_usual(b, m) != 0)
            return -1;
    }
    return 0;
}

/* One tenant, to a tenth of the models. */
static int flood(struct burst *b)
{
    uint32_t models = (b->trace->model_count + 9) / 10;

    for (uint32_t i = 0; i < FLOOD_REQUESTS; i++) {
        if (send_usual(b, i % models) != 0)
            return -1;
    }
    return 0;
}

/* Long prompts to the models that take them, in turn. */
static int prompts(struct burst *b)
{
    uint32_t sent = 0, before;

    do {
        before = sent;
        for (uint32_t m = 0; m < b->trace->model_count && sent < PROMPT_COUNT; m++) {
            if (b->trace->models[m].kind->context <= PROMPT_TOKENS)
                continue;
            if (send(b, m, PROMPT_TOKENS, PROMPT_OUTPUT) != 0)
                return -1;
            sent++;
        }
    } while (sent < PROMPT_COUNT && sent > before);
    if (sent > 0)
        return 0;
    return error_set(b->err, STATUS_INVALID,
                     "sim: --burst=prompts: no model has a Context= above %u tokens",
                     PROMPT_TOKENS);
}

static double full_kv(const struct cost_entry *kind)
{
    return kind->kv_token_bytes * kind->context;
}

/* To the model whose KV is largest, twice what a device has room for beside its weights. */
static int kv(struct burst *b)
{
    const struct cost_entry *kind;
    uint32_t model = 0;
    double bytes = 0;

    for (uint32_t m = 1; m < b->trace->model_count; m++) {
        if (full_kv(b->trace->models[m].kind) > full_kv(b->trace->models[model].kind))
            model = m;
    }
    kind = b->trace->models[model].kind;
    while (bytes < 2 * (b->costs->memory_bytes - kind->weight_bytes)) {
        if (send(b, model, kind->context > 2 * KV_OUTPUT ? kind->context - KV_OUTPUT : 1,
                 KV_OUTPUT) != 0)
            return -1;
        bytes += full_kv(kind);
    }
    return 0;
}

static const struct {
    const char *name;
    int (*make)(struct burst *b);
} bursts[] = {{"models", all_models}, {"flood", flood}, {"prompts", prompts}, {"kv", kv}};

#define BURSTS (sizeof bursts / sizeof bursts[0])

/* --- into the trace --------------------------------------------------------------------------- */

static int add_tenant(struct sim_trace *t, const char *name, struct error *err)
{
    char(*more)[64] = realloc(t->tenants, (t->tenant_count + 1) * sizeof *more);

    if (more == NULL)
        return error_set(err, STATUS_NOMEM, "sim: out of memory");
    t->tenants = more;
    snprintf(more[t->tenant_count++], sizeof *more, "%s", name);
    return 0;
}

/* Behind what arrives before it or with it. */
static int merge(struct sim_trace *t, const struct sim_trace *made, struct error *err)
{
    size_t at = 0, old = t->count;

    for (size_t i = 0; i < made->count; i++) {
        if (sim_trace_add(t, &made->requests[i], err) != 0)
            return -1;
    }
    while (at < old && t->requests[at].arrival <= made->requests[0].arrival)
        at++;
    memmove(t->requests + at + made->count, t->requests + at, (old - at) * sizeof *t->requests);
    memcpy(t->requests + at, made->requests, made->count * sizeof *t->requests);
    return 0;
}

static int add_one(struct sim_trace *t, size_t which, const struct sim_workload *w,
                   const struct cost_table *costs, struct error *err)
{
    struct sim_trace made = {.count = 0};
    struct burst b = {.made = &made,
                      .trace = t,
                      .workload = w,
                      .costs = costs,
                      .random = sim_random_stream(w->seed, UINT64_MAX - 1 - which),
                      .err = err};
    int rv = -1;

    if (add_tenant(t, bursts[which].name, err) == 0 && bursts[which].make(&b) == 0 &&
        merge(t, &made, err) == 0)
        rv = 0;
    sim_trace_clear(&made);
    return rv;
}

int sim_burst_check(const char *names, struct error *err)
{
    while (*names != '\0') {
        size_t len = strcspn(names, ","), i = 0;

        while (i < BURSTS && (strlen(bursts[i].name) != len || memcmp(bursts[i].name, names, len)))
            i++;
        if (i == BURSTS)
            return error_set(err, STATUS_INVALID,
                             "no burst is named \"%.*s\"; there are models, flood, prompts, kv",
                             (int)len, names);
        names += len + (names[len] == ',');
    }
    return 0;
}

int sim_burst(struct sim_trace *t, const char *names, const struct sim_workload *w,
              const struct cost_table *costs, struct error *err)
{
    if (sim_burst_check(names, err) != 0)
        return -1;
    for (size_t i = 0; i < BURSTS; i++) {
        const char *at = strstr(names, bursts[i].name);

        if (at != NULL && add_one(t, i, w, costs, err) != 0)
            return -1;
    }
    return 0;
}
