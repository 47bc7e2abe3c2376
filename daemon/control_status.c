/* control_status.c - requests "list" and "status" */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "daemon/control.h"
#include "daemon/tier.h"

/* One word for a model on an instance. */
static const char *model_state(const struct policy_instance_status *in,
                               const struct policy_model_status *m, uint32_t model)
{
    if (m->known && !m->ok)
        return "unusable";
    if (!strcmp(in->state, "down") || !strcmp(in->state, "starting") ||
        !strcmp(in->state, "drained"))
        return in->state;
    if (!m->known || m->preparing)
        return "preparing";
    if (!m->resident)
        return "ready";
    return in->running_model == model && !strcmp(in->state, "running") ? "running" : "resident";
}

/* --- list ------------------------------------------------------------------------------------- */

/* status: of the model on the instance, NULL without one.  What it can take there is less than what
 * the file allows where the instance's memory is small. */
static void start_list_row(struct wire *w, const struct front *f, uint32_t model,
                           const struct policy_model_status *status)
{
    const struct config_model *m = &f->config->models[model];
    const struct front_model *fm = f->models ? &f->models[model] : NULL;

    wire_start(w, "row");
    wire_put(w, "model", m->name);
    wire_put(w, "path", m->path);
    if (fm) {
        uint32_t context = fm->context;
        if (m->max_context && m->max_context < context)
            context = m->max_context;
        if (status && status->known && status->ok)
            context = status->max_context;
        wire_put_u64(w, "bytes", fm->bytes);
        wire_put_u64(w, "context", context);
    }
}

/* A model without an instance here. */
static void list_alone(struct conn *conn, uint32_t model)
{
    const struct front *f = conn->control->f;
    const struct front_model *fm = f->models ? &f->models[model] : NULL;
    const char *text = fm ? fm->text : "";
    struct wire w;

    start_list_row(&w, f, model, NULL);
    wire_put(&w, "instance", "");
    wire_put(&w, "tier", "disk");
    wire_put(&w, "state", fm && !fm->tokenizer ? "unusable" : "no-instance");
    wire_put(&w, "text", *text ? text : "this node has no instance");
    conn_send(conn, &w);
}

static void list_on(struct conn *conn, const struct policy_snapshot *s, uint32_t i, uint32_t model)
{
    const struct front *f = conn->control->f;
    const struct policy_instance_status *in = &s->instance[i];
    const struct policy_model_status *m = &s->model[(size_t)i * s->models + model];
    const struct front_model *fm = f->models ? &f->models[model] : NULL;
    const char *text = fm ? fm->text : "";
    struct wire w;

    start_list_row(&w, f, model, m);
    wire_put(&w, "instance", f->config->instances[in->index].name);
    wire_put(&w, "tier", m->resident ? "memory" : m->in_host ? "host" : "disk");
    wire_put(&w, "state", fm && !fm->tokenizer ? "unusable" : model_state(in, m, model));
    if (m->preparing)
        wire_put_u64(&w, "percent", m->percent);
    wire_put(&w, "text", *text ? text : m->text);
    conn_send(conn, &w);
}

/* --- list --cache ----------------------------------------------------------------------------- */

static void cache_row(struct conn *conn, const char *model, const char *tier, const char *place,
                      uint64_t bytes, const char *state, enum config_pin pin)
{
    struct wire w;

    wire_start(&w, "row");
    wire_put(&w, "model", model);
    wire_put(&w, "tier", tier);
    wire_put(&w, "place", place);
    wire_put_u64(&w, "bytes", bytes);
    wire_put(&w, "state", state);
    wire_put(&w, "pinned", pin == PIN_NONE ? "" : pin == PIN_HOST ? "host" : "gpu");
    conn_send(conn, &w);
}

static void host_row(struct conn *conn, const char *folder, const struct policy_cache_status *s)
{
    char place[TIER_PLACE_MAX + 64];
    struct wire w;

    wire_start(&w, "row");
    wire_put(&w, "model", s->model);
    wire_put(&w, "tier", "host");
    snprintf(place, sizeof place, "%s/%s", folder, s->name);
    wire_put(&w, "place", place);
    wire_put_u64(&w, "bytes", s->bytes);
    wire_put(&w, "state", s->state == TIER_COMPLETE ? "complete" : "preparing");
    if (s->state != TIER_COMPLETE)
        wire_put_u64(&w, "percent", s->percent);
    wire_put(&w, "pinned", s->pinned ? "host" : "");
    wire_put_i64(&w, "used", s->used_us / 1000000);
    conn_send(conn, &w);
}

/* Where each model's weights lie: its files, its master copy, the instances' memory. */
static void list_caches(struct conn *conn, const struct policy_snapshot *s)
{
    const struct front *f = conn->control->f;
    const struct config *c = f->config;

    for (uint32_t model = 0; model < c->model_count; model++) {
        const struct config_model *m = &c->models[model];

        cache_row(conn, m->name, "disk", m->path, f->models ? f->models[model].bytes : 0,
                  f->models && !f->models[model].tokenizer ? "unusable" : "complete", PIN_NONE);
        for (uint32_t i = 0; i < s->caches; i++)
            if (strcmp(s->cache[i].model, m->name) == 0)
                host_row(conn, s->cache_place, &s->cache[i]);
        for (uint32_t i = 0; i < s->instances && model < s->models; i++) {
            const struct policy_model_status *at = &s->model[(size_t)i * s->models + model];
            if (at->resident)
                cache_row(conn, m->name, "memory", c->instances[s->instance[i].index].name,
                          at->weight_bytes, "resident", m->pin == PIN_GPU ? PIN_GPU : PIN_NONE);
        }
    }
    for (uint32_t i = 0; i < s->caches; i++)
        if (!config_find_model(c, s->cache[i].model)) /* of an earlier configuration */
            host_row(conn, s->cache_place, &s->cache[i]);
}

int control_list(struct conn *conn, const struct wire *request, struct error *err)
{
    struct front *f = conn->control->f;
    struct policy_snapshot s;

    if (policy_snapshot(f->policy, &s, err) < 0)
        return -1;
    if (wire_get(request, "cache"))
        list_caches(conn, &s);
    for (uint32_t model = 0; model < f->config->model_count && !wire_get(request, "cache");
         model++) {
        if (s.instances == 0 || model >= s.models)
            list_alone(conn, model);
        for (uint32_t i = 0; i < s.instances && model < s.models; i++)
            list_on(conn, &s, i, model);
    }
    policy_snapshot_free(&s);
    conn_end(conn);
    return 0;
}

/* --- status ----------------------------------------------------------------------------------- */

static void put_number(struct wire *w, const char *key, double value)
{
    char text[32];

    snprintf(text, sizeof(text), "%.6g", value);
    wire_put(w, key, text);
}

static void send_daemon(struct conn *conn, const struct policy_snapshot *s)
{
    const struct front *f = conn->control->f;
    uint32_t running = 0, held = 0, leases = 0, grants = 0;
    struct wire w;

    if (f->http)
        http_counts(f->http, &running, &held);
    leases_counts(f->leases, &leases, &grants);
    wire_start(&w, "daemon");
    wire_put(&w, "release", MODELPOOL_RELEASE);
    wire_put(&w, "cluster", f->config->cluster);
    wire_put(&w, "node", f->config->node);
    wire_put(&w, "base_url", f->base_url);
    wire_put_i64(&w, "uptime", (clock_wall_us() - f->started_us) / 1000000);
    wire_put_u64(&w, "running", running);
    wire_put_u64(&w, "held", held);
    wire_put_u64(&w, "leases", leases);
    wire_put_u64(&w, "grants", grants);
    wire_put(&w, "scheduler", f->config->scheduler);
    wire_put(&w, "admission", s->admission ? "yes" : "no");
    wire_put_i64(&w, "turn_us", f->config->turn_us);
    conn_send(conn, &w);
}

static void send_instance(struct conn *conn, const struct policy_instance_status *in)
{
    const struct config *c = conn->control->f->config;
    struct wire w;

    wire_start(&w, "instance");
    wire_put(&w, "instance", c->instances[in->index].name);
    wire_put(&w, "state", in->state);
    wire_put(&w, "device", in->device);
    wire_put_u64(&w, "memory", in->memory_bytes);
    wire_put(&w, "model",
             in->running_model < c->model_count ? c->models[in->running_model].name : "");
    wire_put_i64(&w, "pid", in->pid);
    wire_put_u64(&w, "restarts", in->restarts);
    wire_put_u64(&w, "turns", in->turns);
    wire_put_u64(&w, "steps", in->steps);
    wire_put_u64(&w, "switches", in->switches);
    wire_put_u64(&w, "preemptions", in->preemptions);
    wire_put_u64(&w, "spills", in->spills);
    wire_put_u64(&w, "tokens", in->tokens);
    wire_put_u64(&w, "switch_bytes", in->switch_bytes);
    wire_put_u64(&w, "file_bytes", in->file_bytes);
    wire_put_u64(&w, "prefetches", in->prefetches);
    wire_put_u64(&w, "prefetch_hits", in->prefetch_hits);
    wire_put_i64(&w, "step_us", in->step_us);
    wire_put_i64(&w, "switch_us", in->switch_us);
    wire_put(&w, "next", in->next_model < c->model_count ? c->models[in->next_model].name : "");
    put_number(&w, "promised", in->promised);
    wire_put_u64(&w, "max_batch", c->instances[in->index].max_batch);
    wire_put(&w, "loads_behind", in->loads_behind ? "yes" : "no");
    wire_put_u64(&w, "calibrations", in->calibrations);
    wire_put_i64(&w, "calibration_us", in->calibration_us);
    wire_put(&w, "text", in->failure);
    conn_send(conn, &w);
}

static void send_model(struct conn *conn, const struct policy_snapshot *s, uint32_t i,
                       uint32_t model)
{
    const struct config *c = conn->control->f->config;
    const struct policy_instance_status *in = &s->instance[i];
    const struct policy_model_status *m = &s->model[(size_t)i * s->models + model];
    struct wire w;

    wire_start(&w, "model");
    wire_put(&w, "model", c->models[model].name);
    wire_put(&w, "instance", c->instances[in->index].name);
    wire_put(&w, "state", model_state(in, m, model));
    wire_put_u64(&w, "weight_bytes", m->weight_bytes);
    wire_put_u64(&w, "kv_token_bytes", m->kv_token_bytes);
    wire_put_u64(&w, "context", m->max_context);
    wire_put_u64(&w, "running", m->running);
    wire_put_u64(&w, "waiting", m->waiting);
    wire_put_u64(&w, "kv_pages_used", m->kv_pages_used);
    wire_put_u64(&w, "kv_pages_total", m->kv_pages_total);
    wire_put_u64(&w, "switches", m->switches);
    wire_put_u64(&w, "steps", m->steps);
    wire_put_u64(&w, "tokens", m->tokens);
    wire_put(&w, "text", m->text);
    conn_send(conn, &w);
}

/* What an instance has to do for a model; nothing if it has nothing to do. */
static void send_work(struct conn *conn, const struct policy_snapshot *s, uint32_t i,
                      uint32_t model)
{
    const struct config *c = conn->control->f->config;
    const struct policy_instance_status *in = &s->instance[i];
    const struct policy_model_status *m = &s->model[(size_t)i * s->models + model];
    int64_t now = clock_monotonic_us();
    struct wire w;

    if (m->running + m->waiting == 0)
        return;
    wire_start(&w, "work");
    wire_put(&w, "instance", c->instances[in->index].name);
    wire_put(&w, "model", c->models[model].name);
    wire_put(&w, "turn",
             in->running_model == model ? "runs"
             : in->next_model == model  ? "next"
                                        : "");
    wire_put_u64(&w, "running", m->running);
    wire_put_u64(&w, "waiting", m->waiting);
    put_number(&w, "wait", m->since_us > 0 ? (double)(now - m->since_us) / 1e6 : 0);
    if (m->since_us > 0 && m->due_us != INT64_MAX)
        put_number(&w, "slack", (double)(m->due_us - now) / 1e6);
    else
        wire_put(&w, "slack", "");
    put_number(&w, "need", m->share);
    conn_send(conn, &w);
}

/* What a model's work was measured to cost; nothing if it was not. */
static void send_cost(struct conn *conn, const struct policy_snapshot *s, uint32_t i,
                      uint32_t model)
{
    static const char *const samples[COST_KINDS] = {"steps", "prefills", "loads"};
    static const char *const errors[COST_KINDS] = {"step_error", "prefill_error", "load_error"};
    const struct config *c = conn->control->f->config;
    const struct policy_model_status *m = &s->model[(size_t)i * s->models + model];
    struct wire w;

    if (m->cost_samples[COST_STEP] + m->cost_samples[COST_PREFILL] + m->cost_samples[COST_LOAD] ==
        0)
        return;
    wire_start(&w, "cost");
    wire_put(&w, "model", c->models[model].name);
    wire_put(&w, "instance", c->instances[s->instance[i].index].name);
    put_number(&w, "step", m->cost.decode);
    put_number(&w, "row", m->cost.decode_row);
    put_number(&w, "context_token", m->cost.decode_context);
    put_number(&w, "prompt", m->cost.prefill);
    put_number(&w, "prompt_token", m->cost.prefill_token);
    put_number(&w, "prompt_square", m->cost.prefill_square);
    put_number(&w, "load", m->cost.load);
    put_number(&w, "disk", m->cost.disk);
    put_number(&w, "kv_token", m->cost.kv_token);
    wire_put(&w, "measured", m->calibrated ? "yes" : "no");
    for (int kind = 0; kind < COST_KINDS; kind++) {
        wire_put_u64(&w, samples[kind], m->cost_samples[kind]);
        put_number(&w, errors[kind], m->cost_samples[kind] ? m->cost_error[kind] : 0);
    }
    conn_send(conn, &w);
}

/* Root and the daemon's user see everybody's. */
static int sees(const struct conn *conn, int64_t uid)
{
    return conn->uid == 0 || conn->uid == geteuid() || (int64_t)conn->uid == uid;
}

struct tenants_answer {
    struct conn *conn;
    const struct policy_snapshot *snapshot;
};

static void send_tenant(const struct tenant *t, uint32_t requests, void *arg)
{
    const struct tenants_answer *a = arg;
    const struct policy_snapshot *s = a->snapshot;
    struct wire w;

    if (!sees(a->conn, -1) &&
        (t->number == 0 ||
         !leases_has_tenant(a->conn->control->f->leases, t->number, (int64_t)a->conn->uid)))
        return;
    wire_start(&w, "tenant");
    wire_put(&w, "account", t->account);
    put_number(&w, "share", t->share);
    put_number(&w, "gpu_seconds", t->number < s->tenants ? s->tenant[t->number].used : 0);
    wire_put_u64(&w, "requests", requests);
    wire_put_u64(&w, "max_requests", t->max_requests);
    wire_put_u64(&w, "tokens_today", t->day == leases_today(NULL) ? t->tokens : 0);
    wire_put_u64(&w, "tokens_per_day", t->tokens_per_day);
    conn_send(a->conn, &w);
}

static void send_waiting(const struct http_waiting *r, void *arg)
{
    struct conn *conn = arg;
    const struct lease *lease = r->grant->lease;
    int64_t waited = clock_monotonic_us() - r->arrived_us;
    struct wire w;

    if (!sees(conn, lease->row.uid))
        return;
    wire_start(&w, "wait");
    wire_put(&w, "model", conn->control->f->config->models[r->model].name);
    wire_put_i64(&w, "job", lease->row.job);
    wire_put_i64(&w, "uid", lease->row.uid);
    wire_put(&w, "account", lease->row.account);
    wire_put(&w, "slo", r->grant->row.slo);
    put_number(&w, "wait", (double)waited / 1e6);
    wire_put(&w, "text", r->why);
    conn_send(conn, &w);
}

static void send_lease(const struct lease *lease, const struct grant *g, void *arg)
{
    struct conn *conn = arg;
    struct wire w;

    if (!sees(conn, lease->row.uid))
        return;
    wire_start(&w, "lease");
    wire_put_i64(&w, "lease", lease->row.id);
    wire_put_i64(&w, "job", lease->row.job);
    wire_put_i64(&w, "uid", lease->row.uid);
    wire_put(&w, "account", lease->row.account);
    wire_put(&w, "partition", lease->row.partition);
    wire_put(&w, "state", !g ? "idle" : leases_state(conn->control->f->leases, g));
    wire_put(&w, "models", g ? g->row.models : "");
    wire_put(&w, "slo", g ? g->row.slo : "");
    wire_put_u64(&w, "grants", lease->grants);
    wire_put_u64(&w, "requests", g ? g->requests : 0);
    wire_put_u64(&w, "used", lease->used);
    wire_put_i64(&w, "budget", lease->row.budget);
    wire_put_i64(&w, "created", lease->row.created_us / 1000000);
    conn_send(conn, &w);
}

int control_status(struct conn *conn, const struct wire *request, struct error *err)
{
    struct front *f = conn->control->f;
    struct policy_snapshot s;

    (void)request;
    if (policy_snapshot(f->policy, &s, err) < 0)
        return -1;
    send_daemon(conn, &s);
    for (uint32_t i = 0; i < s.instances; i++)
        send_instance(conn, &s.instance[i]);
    for (uint32_t i = 0; i < s.instances; i++)
        for (uint32_t model = 0; model < s.models; model++)
            send_model(conn, &s, i, model);
    for (uint32_t i = 0; i < s.instances; i++)
        for (uint32_t model = 0; model < s.models; model++)
            send_work(conn, &s, i, model);
    for (uint32_t i = 0; i < s.instances; i++)
        for (uint32_t model = 0; model < s.models; model++)
            send_cost(conn, &s, i, model);
    struct tenants_answer tenants = {conn, &s};
    leases_each_tenant(f->leases, send_tenant, &tenants);
    policy_snapshot_free(&s);
    leases_each(f->leases, send_lease, conn);
    if (f->http)
        http_each_waiting(f->http, send_waiting, conn);
    conn_end(conn);
    return 0;
}
