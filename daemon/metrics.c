/* metrics.c - what /metrics shows; see metrics.h */
#include "daemon/metrics.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MAX 24

struct histogram {
    uint64_t count[BUCKETS_MAX + 1]; /* not cumulative; the last is above every bound */
    uint64_t total;
    int64_t sum_us;
};

struct model_metrics {
    uint64_t prompt_tokens, cached_tokens, generation_tokens, finished[METRICS_FINISHES];
    struct histogram first_token, next_token, whole;
};

struct metrics {
    const struct config *config;
    uint64_t answers[6]; /* by the status code's first digit */
    uint64_t refused[METRICS_REFUSALS];
    struct model_metrics *model; /* [config->model_count] */
};

/* Upper bounds in microseconds; vLLM's, so that their dashboards fit. 0 ends the list. */
static const int64_t first_token_bounds[BUCKETS_MAX] = {
    1000,    5000,     10000,    20000,    40000,    60000,     80000,
    100000,  250000,   500000,   750000,   1000000,  2500000,   5000000,
    7500000, 10000000, 20000000, 40000000, 80000000, 160000000, 640000000};
static const int64_t next_token_bounds[BUCKETS_MAX] = {
    10000,  25000,  50000,   75000,   100000,  150000,  200000,   300000,  400000,
    500000, 750000, 1000000, 2500000, 5000000, 7500000, 10000000, 20000000};
static const int64_t whole_bounds[BUCKETS_MAX] = {
    300000,   500000,    800000,    1000000,   1500000,   2000000,   2500000,
    5000000,  10000000,  15000000,  20000000,  30000000,  40000000,  50000000,
    60000000, 120000000, 240000000, 480000000, 960000000, 1920000000};

static const char *const finish_words[METRICS_FINISHES] = {"stop", "length", "abort", "error"};

struct metrics *metrics_create(const struct config *config, struct error *err)
{
    struct metrics *m = calloc(1, sizeof *m);
    if (m)
        m->model = calloc(config->model_count + 1, sizeof *m->model);
    if (!m || !m->model) {
        free(m);
        error_set(err, STATUS_NOMEM, "no memory for metrics");
        return NULL;
    }
    m->config = config;
    return m;
}

void metrics_destroy(struct metrics *m)
{
    if (m)
        free(m->model);
    free(m);
}

/* --- counting -----------------------------------------------------------------------------------
 */

static void observe(struct histogram *h, const int64_t *bounds, int64_t us)
{
    size_t i = 0;

    while (i < BUCKETS_MAX && bounds[i] && us > bounds[i])
        i++;
    h->count[i]++;
    h->total++;
    h->sum_us += us;
}

void metrics_prompt(struct metrics *m, uint32_t model, uint64_t tokens)
{
    m->model[model].prompt_tokens += tokens;
}

void metrics_cached(struct metrics *m, uint32_t model, uint64_t tokens)
{
    m->model[model].cached_tokens += tokens;
}

void metrics_first_token(struct metrics *m, uint32_t model, int64_t us)
{
    m->model[model].generation_tokens++;
    observe(&m->model[model].first_token, first_token_bounds, us);
}

void metrics_next_token(struct metrics *m, uint32_t model, int64_t us)
{
    m->model[model].generation_tokens++;
    observe(&m->model[model].next_token, next_token_bounds, us);
}

void metrics_end(struct metrics *m, uint32_t model, enum metrics_finish finish, int64_t us)
{
    m->model[model].finished[finish]++;
    observe(&m->model[model].whole, whole_bounds, us);
}

void metrics_answer(struct metrics *m, int http)
{
    if (http >= 100 && http < 600)
        m->answers[http / 100]++;
}

void metrics_refuse(struct metrics *m, enum metrics_refusal why)
{
    m->refused[why]++;
}

int metrics_instance_up(const struct policy_instance_status *s)
{
    return strcmp(s->state, "idle") == 0 || strcmp(s->state, "running") == 0;
}

/* --- text ---------------------------------------------------------------------------------------
 */

struct page {
    const struct metrics *m;
    const struct metrics_gauge *gauges;
    const struct policy_snapshot *snapshot;
    const struct metrics_now *now;
    struct evbuffer *out;
    int failed;
};

static void put(struct page *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct page *p, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (evbuffer_add_vprintf(p->out, fmt, ap) < 0)
        p->failed = 1;
    va_end(ap);
}

static void head(struct page *p, const char *name, const char *type, const char *help)
{
    put(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static const char *model_name(const struct page *p, size_t model)
{
    return p->m->config->models[model].name; /* config's names need no escaping */
}

static const char *instance_name(const struct page *p, uint32_t k)
{
    return p->m->config->instances[p->snapshot->instance[k].index].name;
}

static void put_histogram(struct page *p, const char *name, const char *help, size_t offset,
                          const int64_t *bounds)
{
    head(p, name, "histogram", help);
    for (size_t i = 0; i < p->m->config->model_count; i++) {
        const char *base = (const char *)&p->m->model[i];
        const struct histogram *h = (const struct histogram *)(const void *)(base + offset);
        const char *model = model_name(p, i);
        uint64_t sum = 0;
        for (size_t b = 0; b < BUCKETS_MAX && bounds[b]; b++) {
            sum += h->count[b];
            put(p, "%s_bucket{model_name=\"%s\",le=\"%g\"} %" PRIu64 "\n", name, model,
                (double)bounds[b] / 1e6, sum);
        }
        put(p, "%s_bucket{model_name=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", name, model, h->total);
        put(p, "%s_sum{model_name=\"%s\"} %.6f\n", name, model, (double)h->sum_us / 1e6);
        put(p, "%s_count{model_name=\"%s\"} %" PRIu64 "\n", name, model, h->total);
    }
}

static void put_requests(struct page *p)
{
    size_t n = p->m->config->model_count;

    head(p, "vllm:num_requests_running", "gauge", "Requests that are being generated.");
    for (size_t i = 0; i < n; i++)
        put(p, "vllm:num_requests_running{model_name=\"%s\"} %u\n", model_name(p, i),
            p->gauges[i].running);
    head(p, "vllm:num_requests_waiting", "gauge", "Requests without a token yet.");
    for (size_t i = 0; i < n; i++)
        put(p, "vllm:num_requests_waiting{model_name=\"%s\"} %u\n", model_name(p, i),
            p->gauges[i].waiting);
    head(p, "vllm:prompt_tokens_total", "counter", "Prompt tokens of admitted requests.");
    for (size_t i = 0; i < n; i++)
        put(p, "vllm:prompt_tokens_total{model_name=\"%s\"} %" PRIu64 "\n", model_name(p, i),
            p->m->model[i].prompt_tokens);
    head(p, "vllm:prefix_cache_hits_total", "counter",
         "Prompt tokens that were found computed already.");
    for (size_t i = 0; i < n; i++)
        put(p, "vllm:prefix_cache_hits_total{model_name=\"%s\"} %" PRIu64 "\n", model_name(p, i),
            p->m->model[i].cached_tokens);
    head(p, "vllm:generation_tokens_total", "counter", "Tokens generated.");
    for (size_t i = 0; i < n; i++)
        put(p, "vllm:generation_tokens_total{model_name=\"%s\"} %" PRIu64 "\n", model_name(p, i),
            p->m->model[i].generation_tokens);
    head(p, "vllm:request_success_total", "counter", "Requests that have ended, by reason.");
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < METRICS_FINISHES; k++)
            put(p,
                "vllm:request_success_total{model_name=\"%s\",finished_reason=\"%s\"} %" PRIu64
                "\n",
                model_name(p, i), finish_words[k], p->m->model[i].finished[k]);
    head(p, "modelpool_http_answers_total", "counter", "Answers over HTTP, by class of status.");
    for (int k = 2; k < 6; k++)
        put(p, "modelpool_http_answers_total{class=\"%dxx\"} %" PRIu64 "\n", k, p->m->answers[k]);
}

static void put_kv(struct page *p)
{
    const struct policy_snapshot *s = p->snapshot;

    head(p, "vllm:kv_cache_usage_perc", "gauge", "KV pages in use, 0 to 1, over all instances.");
    for (uint32_t i = 0; i < s->models; i++) {
        uint64_t used = 0, total = 0;
        for (uint32_t k = 0; k < s->instances; k++) {
            used += s->model[(size_t)k * s->models + i].kv_pages_used;
            total += s->model[(size_t)k * s->models + i].kv_pages_total;
        }
        put(p, "vllm:kv_cache_usage_perc{model_name=\"%s\"} %.6f\n", model_name(p, i),
            total ? (double)used / (double)total : 0.0);
    }
}

enum instance_value {
    TURNS,
    STEPS,
    TOKENS,
    SWITCHES,
    SWITCH_BYTES,
    FILE_BYTES,
    PREFETCHES,
    PREFETCH_HITS,
    PREEMPTIONS,
    SPILLS,
    RESTARTS
};

static uint64_t instance_value(const struct policy_instance_status *s, enum instance_value what)
{
    switch (what) {
    case TURNS:
        return s->turns;
    case STEPS:
        return s->steps;
    case TOKENS:
        return s->tokens;
    case SWITCHES:
        return s->switches;
    case SWITCH_BYTES:
        return s->switch_bytes;
    case FILE_BYTES:
        return s->file_bytes;
    case PREFETCHES:
        return s->prefetches;
    case PREFETCH_HITS:
        return s->prefetch_hits;
    case PREEMPTIONS:
        return s->preemptions;
    case SPILLS:
        return s->spills;
    case RESTARTS:
        return s->restarts;
    }
    return 0;
}

static void put_instances(struct page *p)
{
    static const struct {
        const char *name, *help;
        enum instance_value what;
    } counters[] = {
        {"modelpool_turns_total", "Turns that have ended.", TURNS},
        {"modelpool_steps_total", "Forward passes.", STEPS},
        {"modelpool_tokens_total", "Tokens that engines gave.", TOKENS},
        {"modelpool_switches_total", "Times that a model was made resident.", SWITCHES},
        {"modelpool_switch_bytes_total", "Bytes copied by switches.", SWITCH_BYTES},
        {"modelpool_file_bytes_total", "Bytes read from models' files.", FILE_BYTES},
        {"modelpool_prefetches_total", "Models loaded behind turns.", PREFETCHES},
        {"modelpool_prefetch_hits_total", "Of those, found in memory by a turn.", PREFETCH_HITS},
        {"modelpool_preemptions_total", "Sequences put back for want of memory.", PREEMPTIONS},
        {"modelpool_spills_total", "Of these, those whose KV went to host memory.", SPILLS},
        {"modelpool_engine_restarts_total", "Times that the engine was started again.", RESTARTS},
    };
    const struct policy_snapshot *s = p->snapshot;

    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++) {
        head(p, counters[i].name, "counter", counters[i].help);
        for (uint32_t k = 0; k < s->instances; k++)
            put(p, "%s{instance=\"%s\"} %" PRIu64 "\n", counters[i].name, instance_name(p, k),
                instance_value(&s->instance[k], counters[i].what));
    }
    head(p, "modelpool_step_seconds_total", "counter", "Time in forward passes.");
    for (uint32_t k = 0; k < s->instances; k++)
        put(p, "modelpool_step_seconds_total{instance=\"%s\"} %.6f\n", instance_name(p, k),
            (double)s->instance[k].step_us / 1e6);
    head(p, "modelpool_calibration_seconds_total", "counter",
         "Time in steps that measured what work costs, off traffic.");
    for (uint32_t k = 0; k < s->instances; k++)
        put(p, "modelpool_calibration_seconds_total{instance=\"%s\"} %.6f\n", instance_name(p, k),
            (double)s->instance[k].calibration_us / 1e6);
    head(p, "modelpool_switch_seconds_total", "counter", "Time in switches between models.");
    for (uint32_t k = 0; k < s->instances; k++)
        put(p, "modelpool_switch_seconds_total{instance=\"%s\"} %.6f\n", instance_name(p, k),
            (double)s->instance[k].switch_us / 1e6);
    head(p, "modelpool_memory_bytes", "gauge", "Memory for weights and KV together.");
    for (uint32_t k = 0; k < s->instances; k++)
        put(p, "modelpool_memory_bytes{instance=\"%s\"} %" PRIu64 "\n", instance_name(p, k),
            s->instance[k].memory_bytes);
    if (s->cache) {
        head(p, "modelpool_host_cache_bytes", "gauge", "Master copies of weights in host memory.");
        put(p, "modelpool_host_cache_bytes %" PRIu64 "\n", s->cache_used);
    }
    head(p, "modelpool_instance_up", "gauge", "1 if the instance's engine is up.");
    for (uint32_t k = 0; k < s->instances; k++)
        put(p, "modelpool_instance_up{instance=\"%s\"} %d\n", instance_name(p, k),
            metrics_instance_up(&s->instance[k]));
    head(p, "modelpool_model_resident", "gauge", "1 if the model's weights are on the instance.");
    for (uint32_t k = 0; k < s->instances; k++)
        for (uint32_t i = 0; i < s->models; i++)
            put(p, "modelpool_model_resident{model_name=\"%s\",instance=\"%s\"} %d\n",
                model_name(p, i), instance_name(p, k),
                s->model[(size_t)k * s->models + i].resident != 0);
}

/* --- promises, costs, tenants -------------------------------------------------------------------
 */

static void put_promises(struct page *p)
{
    static const char *const words[METRICS_REFUSALS] = {"budget", "tokens_per_day", "max_requests",
                                                        "admission", "wait"};
    const struct policy_snapshot *s = p->snapshot;

    head(p, "modelpool_refused_total", "counter", "Requests that were answered 429, by reason.");
    for (int i = 0; i < METRICS_REFUSALS; i++)
        put(p, "modelpool_refused_total{reason=\"%s\"} %" PRIu64 "\n", words[i], p->m->refused[i]);
    head(p, "modelpool_admission_queue", "gauge", "Requests that wait for a promise of their SLO.");
    for (size_t i = 0; i < p->m->config->model_count; i++)
        put(p, "modelpool_admission_queue{model_name=\"%s\"} %u\n", model_name(p, i),
            p->gauges[i].asking);
    head(p, "modelpool_promised_ratio", "gauge",
         "The part of an instance's time that is promised to requests with an SLO.");
    for (uint32_t k = 0; k < s->instances; k++)
        put(p, "modelpool_promised_ratio{instance=\"%s\"} %.6f\n", instance_name(p, k),
            s->instance[k].promised);
}

/* A row for each model that has sequences on an instance. */
static void put_work(struct page *p)
{
    const struct policy_snapshot *s = p->snapshot;

    head(p, "modelpool_oldest_wait_seconds", "gauge",
         "How long a model's sequences have waited for a turn.");
    for (uint32_t k = 0; k < s->instances; k++)
        for (uint32_t i = 0; i < s->models; i++) {
            const struct policy_model_status *m = &s->model[(size_t)k * s->models + i];
            if (m->since_us > 0)
                put(p, "modelpool_oldest_wait_seconds{model_name=\"%s\",instance=\"%s\"} %.6f\n",
                    model_name(p, i), instance_name(p, k),
                    (double)(p->now->now_us - m->since_us) / 1e6);
        }
    head(p, "modelpool_slack_seconds", "gauge",
         "Until the earliest deadline of a token that nobody has; below 0 it is late.");
    for (uint32_t k = 0; k < s->instances; k++)
        for (uint32_t i = 0; i < s->models; i++) {
            const struct policy_model_status *m = &s->model[(size_t)k * s->models + i];
            if (m->since_us > 0 && m->due_us != INT64_MAX)
                put(p, "modelpool_slack_seconds{model_name=\"%s\",instance=\"%s\"} %.6f\n",
                    model_name(p, i), instance_name(p, k),
                    (double)(m->due_us - p->now->now_us) / 1e6);
        }
}

static void put_costs(struct page *p)
{
    static const char *const words[COST_KINDS] = {"step", "prefill", "load"};
    const struct policy_snapshot *s = p->snapshot;

    head(p, "modelpool_cost_error_ratio", "gauge",
         "How far predictions are off: a running median over what was measured.");
    for (uint32_t k = 0; k < s->instances; k++)
        for (uint32_t i = 0; i < s->models; i++)
            for (int kind = 0; kind < COST_KINDS; kind++) {
                const struct policy_model_status *m = &s->model[(size_t)k * s->models + i];
                if (m->cost_samples[kind] > 0)
                    put(p,
                        "modelpool_cost_error_ratio{model_name=\"%s\",instance=\"%s\","
                        "kind=\"%s\"} %.6f\n",
                        model_name(p, i), instance_name(p, k), words[kind], m->cost_error[kind]);
            }
}

/* Accounts are Slurm's, and may hold what ends a label. */
static void escape(const char *text, char *out, size_t room)
{
    size_t n = 0;

    for (; *text && n + 3 < room; text++) {
        if (*text == '\\' || *text == '"')
            out[n++] = '\\';
        out[n++] = *text == '\n' ? ' ' : *text;
    }
    out[n] = '\0';
}

enum tenant_value { TENANT_TIME, TENANT_SHARE, TENANT_REQUESTS, TENANT_TOKENS, TENANT_LIMIT };

static double tenant_value(const struct page *p, const struct metrics_tenant *t,
                           enum tenant_value what)
{
    const struct policy_snapshot *s = p->snapshot;

    switch (what) {
    case TENANT_TIME:
        return t->number < s->tenants ? s->tenant[t->number].used : 0;
    case TENANT_SHARE:
        return t->number < s->tenants ? s->tenant[t->number].share : 1;
    case TENANT_REQUESTS:
        return t->requests;
    case TENANT_TOKENS:
        return (double)t->tokens_today;
    case TENANT_LIMIT:
        return (double)t->tokens_per_day;
    }
    return 0;
}

static void put_tenants(struct page *p)
{
    static const struct {
        const char *name, *type, *help;
        enum tenant_value what;
    } values[] = {
        {"modelpool_tenant_gpu_seconds_total", "counter", "Device time that an account has had.",
         TENANT_TIME},
        {"modelpool_tenant_share", "gauge", "Its share of the time (Tenant= Share=).",
         TENANT_SHARE},
        {"modelpool_tenant_requests", "gauge", "Its requests that run or wait.", TENANT_REQUESTS},
        {"modelpool_tenant_tokens_today", "gauge", "Tokens of its requests since midnight.",
         TENANT_TOKENS},
        {"modelpool_tenant_tokens_per_day", "gauge", "Its limit, where it has one.", TENANT_LIMIT},
    };

    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
        head(p, values[v].name, values[v].type, values[v].help);
        for (size_t i = 0; i < p->now->tenant_count; i++) {
            const struct metrics_tenant *t = &p->now->tenants[i];
            char account[160];
            if (values[v].what == TENANT_LIMIT && t->tokens_per_day == 0)
                continue;
            escape(t->account, account, sizeof account);
            put(p, "%s{account=\"%s\"} %.15g\n", values[v].name, account,
                tenant_value(p, t, values[v].what));
        }
    }
}

int metrics_write(const struct metrics *m, const struct metrics_now *now, struct evbuffer *out,
                  struct error *err)
{
    struct page p = {m, now->gauges, now->snapshot, now, out, 0};

    put_requests(&p);
    put_histogram(&p, "vllm:time_to_first_token_seconds", "From arrival to the first token.",
                  offsetof(struct model_metrics, first_token), first_token_bounds);
    put_histogram(&p, "vllm:inter_token_latency_seconds", "From one token to the next.",
                  offsetof(struct model_metrics, next_token), next_token_bounds);
    put_histogram(&p, "vllm:e2e_request_latency_seconds", "From arrival to the end.",
                  offsetof(struct model_metrics, whole), whole_bounds);
    put_kv(&p);
    put_instances(&p);
    put_promises(&p);
    put_work(&p);
    put_costs(&p);
    put_tenants(&p);
    return p.failed ? error_set(err, STATUS_NOMEM, "no memory for the page") : 0;
}
