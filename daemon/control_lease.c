/* control_lease.c - requests "grant" (a step, from root) and "lease" (a local user) */
#include <inttypes.h>
#include <string.h>

#include "daemon/control.h"

/* A number that may be missing; INVALID if it is there and none, or below zero. */
static int get_optional(const struct wire *w, const char *key, int64_t missing, int64_t *value,
                        struct error *err)
{
    *value = missing;
    if (!wire_get(w, key))
        return 0;
    if (wire_get_i64(w, key, value, err) < 0)
        return -1;
    return *value >= 0 ? 0 : error_set(err, STATUS_INVALID, "%s is below zero", key);
}

static void send_granted(struct conn *conn)
{
    struct front *f = conn->control->f;
    const struct grant *g = conn->grant;
    char key[LEASE_KEY_MAX];
    struct error err;
    struct wire w;

    if (leases_key(f->leases, g, key, &err) < 0) {
        conn_refuse(conn, &err);
        return;
    }
    wire_start(&w, "granted");
    wire_putf(&w, "grant", "%016" PRIx64, (uint64_t)g->row.id);
    wire_put_i64(&w, "lease", g->lease->row.id);
    wire_put(&w, "key", key);
    wire_put(&w, "base_url", f->base_url);
    wire_put(&w, "http_socket", f->http_socket);
    wire_put(&w, "model", f->config->models[g->models[0]].name);
    wire_put(&w, "state", leases_state(f->leases, g));
    conn_answer(conn, &w);
}

/* The grant is in the database, so that its key outlives us. */
static void on_opened(void *arg, uint64_t tag, const struct error *err)
{
    struct control *c = arg;
    struct conn *conn = control_find(c, tag);

    if (!conn)
        return; /* it hung up, and its grant has ended with it */
    if (!err) {
        send_granted(conn);
        return;
    }
    struct grant *g = conn->grant;
    conn->grant = NULL;
    leases_close(c->f->leases, g);
    conn_refuse(conn, err);
}

static int open_grant(struct conn *conn, const struct lease_ask *ask, struct error *err)
{
    struct control *c = conn->control;

    if (conn->grant)
        return error_set(err, STATUS_EXISTS, "this connection holds a grant already");
    conn->grant = leases_open(c->f->leases, ask, on_opened, c, conn->id, err);
    return conn->grant ? 0 : -1;
}

/* Models, SLO, budget and wait, which both kinds have. */
static int get_wishes(const struct wire *w, struct lease_ask *ask, struct error *err)
{
    int64_t wait;

    ask->models = wire_get(w, "models");
    ask->slo = wire_get(w, "slo");
    if (get_optional(w, "tokens", -1, &ask->tokens, err) < 0 ||
        get_optional(w, "wait", 0, &wait, err) < 0)
        return -1;
    if (wait > INT64_MAX / 1000000)
        return error_set(err, STATUS_INVALID, "wait is out of range");
    ask->wait_us = wait * 1000000;
    return 0;
}

int control_grant(struct conn *conn, const struct wire *request, struct error *err)
{
    struct lease_ask ask = {.step_name = wire_get(request, "step_name")};
    int64_t uid;

    if (conn->uid != 0)
        return error_set(err, STATUS_DENIED, "a job step's grant is asked for by slurmstepd alone");
    if (wire_get_i64(request, "job", &ask.job, err) < 0 ||
        wire_get_i64(request, "step", &ask.step, err) < 0 ||
        wire_get_i64(request, "uid", &uid, err) < 0 || get_wishes(request, &ask, err) < 0 ||
        get_optional(request, "array_job", -1, &ask.array_job, err) < 0 ||
        get_optional(request, "array_task", -1, &ask.array_task, err) < 0 ||
        get_optional(request, "het_job", -1, &ask.het_job, err) < 0 ||
        get_optional(request, "het_offset", -1, &ask.het_offset, err) < 0)
        return -1;
    if (ask.job <= 0 || ask.step < 0 || uid < 0 || uid >= UINT32_MAX)
        return error_set(err, STATUS_INVALID,
                         "job %" PRId64 " step %" PRId64 " uid %" PRId64 ": no such numbers",
                         ask.job, ask.step, uid);
    ask.uid = (uid_t)uid;
    return open_grant(conn, &ask, err);
}

int control_lease(struct conn *conn, const struct wire *request, struct error *err)
{
    struct lease_ask ask = {.step = -1, .step_name = "local", .uid = conn->uid};

    if (!conn->control->f->config->local_users)
        return error_set(err, STATUS_DENIED,
                         "this node serves job steps alone (LocalUsers=no): use srun --model=NAME");
    ask.array_job = ask.array_task = ask.het_job = ask.het_offset = -1;
    if (get_wishes(request, &ask, err) < 0)
        return -1;
    return open_grant(conn, &ask, err);
}
