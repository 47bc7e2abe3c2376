/* control_status.c - requests "list" and "status" */
#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "daemon/control.h"

/* One word for a model on an instance. */
static const char *model_state(const struct policy_instance_status *in,
                               const struct policy_model_status *m, uint32_t model)
{
    if (m->known && !m->ok)
        return "unusable";
    if (!strcmp(in->state, "down") || !strcmp(in->state, "starting") ||
        !strcmp(in->state, "drained"))
        return in->state;
    if (!m->known)
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
    wire_put(&w, "tier", m->resident ? "memory" : "disk");
    wire_put(&w, "state", fm && !fm->tokenizer ? "unusable" : model_state(in, m, model));
    wire_put(&w, "text", *text ? text : m->text);
    conn_send(conn, &w);
}

int control_list(struct conn *conn, const struct wire *request, struct error *err)
{
    struct front *f = conn->control->f;
    struct policy_snapshot s;

    (void)request;
    if (policy_snapshot(f->policy, &s, err) < 0)
        return -1;
    for (uint32_t model = 0; model < f->config->model_count; model++) {
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

static void send_daemon(struct conn *conn)
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
    wire_put_u64(&w, "tokens", in->tokens);
    wire_put_u64(&w, "switch_bytes", in->switch_bytes);
    wire_put_i64(&w, "step_us", in->step_us);
    wire_put_i64(&w, "switch_us", in->switch_us);
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

static void send_lease(const struct lease *lease, const struct grant *g, void *arg)
{
    struct conn *conn = arg;
    struct wire w;

    if (conn->uid != 0 && (int64_t)conn->uid != lease->row.uid)
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
    send_daemon(conn);
    for (uint32_t i = 0; i < s.instances; i++)
        send_instance(conn, &s.instance[i]);
    for (uint32_t i = 0; i < s.instances; i++)
        for (uint32_t model = 0; model < s.models; model++)
            send_model(conn, &s, i, model);
    policy_snapshot_free(&s);
    leases_each(f->leases, send_lease, conn);
    conn_end(conn);
    return 0;
}
