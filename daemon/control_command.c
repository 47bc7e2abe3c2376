/* control_command.c - requests "load", "unload", "drain", "resume": orders to the policy thread */
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "daemon/control.h"

static int order(struct conn *conn, enum policy_command command, uint32_t target, const char *what,
                 const char *name)
{
    log_info("uid %ld: %s %s", (long)conn->uid, what, name);
    policy_command(conn->control->f->policy, command, target, conn->id);
    return 0; /* control_policy_reply answers */
}

static int order_model(struct conn *conn, const struct wire *request, enum policy_command command,
                       const char *what, struct error *err)
{
    const struct config *c = conn->control->f->config;
    const char *name = wire_get(request, "model");

    if (conn_check_admin(conn, what, err) < 0)
        return -1;
    if (!name)
        return error_set(err, STATUS_INVALID, "message lacks \"model\"");
    const struct config_model *m = config_find_model(c, name);
    if (!m)
        return error_set(err, STATUS_NOT_FOUND, "no model \"%.64s\": see `modelpool list`", name);
    return order(conn, command, (uint32_t)(m - c->models), what, m->name);
}

/* Instances of this node alone; the error names them. */
static int order_instance(struct conn *conn, const struct wire *request,
                          enum policy_command command, const char *what, struct error *err)
{
    const struct front *f = conn->control->f;
    const char *name = wire_get(request, "instance");
    struct policy_snapshot s;
    char known[300] = "none";
    size_t len = 0;

    if (conn_check_admin(conn, what, err) < 0)
        return -1;
    if (!name)
        return error_set(err, STATUS_INVALID, "message lacks \"instance\"");
    if (policy_snapshot(f->policy, &s, err) < 0)
        return -1;
    const struct config_instance *found = NULL;
    for (uint32_t i = 0; i < s.instances; i++) {
        const struct config_instance *in = &f->config->instances[s.instance[i].index];
        if (strcmp(in->name, name) == 0)
            found = in;
        if (len < sizeof(known))
            len +=
                (size_t)snprintf(known + len, sizeof(known) - len, "%s%s", i ? ", " : "", in->name);
    }
    policy_snapshot_free(&s);
    if (!found)
        return error_set(err, STATUS_NOT_FOUND, "no instance \"%.64s\" on this node: there are %s",
                         name, known);
    return order(conn, command, (uint32_t)(found - f->config->instances), what, found->name);
}

int control_load(struct conn *conn, const struct wire *request, struct error *err)
{
    return order_model(conn, request, POLICY_LOAD, "load", err);
}

int control_unload(struct conn *conn, const struct wire *request, struct error *err)
{
    return order_model(conn, request, POLICY_UNLOAD, "unload", err);
}

int control_drain(struct conn *conn, const struct wire *request, struct error *err)
{
    return order_instance(conn, request, POLICY_DRAIN, "drain", err);
}

int control_resume(struct conn *conn, const struct wire *request, struct error *err)
{
    return order_instance(conn, request, POLICY_RESUME, "resume", err);
}

void control_policy_reply(struct control *c, const struct policy_event *ev)
{
    struct conn *conn = control_find(c, ev->tag);
    struct error err;
    struct wire w;

    if (!conn || !conn->busy)
        return; /* it did not wait for the end */
    if (ev->status != STATUS_OK) {
        error_set(&err, ev->status, "%.*s", (int)sizeof(ev->text), ev->text);
        conn_refuse(conn, &err);
        return;
    }
    wire_start(&w, "ok");
    wire_put(&w, "text", ev->text);
    conn_answer(conn, &w);
}
