/* lease_store.c - leases and grants in the database: written as they change, read at the start */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/lease_set.h"

/* --- writing ---------------------------------------------------------------------------------- */

struct lease_write {
    struct front_job job; /* first */
    int has_lease, has_grant, identify;
    struct db_lease lease;
    struct db_grant grant;
    leases_opened_f opened; /* NULL: nobody waits */
    void *arg;
    uint64_t tag;
};

/* In the writer's thread: copies only. */
static int write_run(struct db *db, struct writer_job *job, struct error *err)
{
    struct lease_write *w = (struct lease_write *)job;

    if (w->has_lease && db_put_lease(db, &w->lease, err) < 0)
        return -1;
    if (w->has_grant && db_put_grant(db, &w->grant, err) < 0)
        return -1;
    if (w->identify && db_identify_usage(db, &w->lease, err) < 0)
        return -1;
    return 0;
}

static void write_done(struct front *f, struct front_job *job)
{
    struct lease_write *w = (struct lease_write *)job;
    const struct error *error = job->job.error.status == STATUS_OK ? NULL : &job->job.error;

    (void)f;
    if (error)
        log_error("lease %" PRId64 " was not written: %s",
                  w->has_lease ? w->lease.id : w->grant.lease, error->text);
    if (w->opened)
        w->opened(w->arg, w->tag, error);
}

static struct lease_write *new_write(const struct lease *lease, const struct grant *g)
{
    struct lease_write *w = calloc(1, sizeof(*w));

    if (!w)
        return NULL;
    if (lease) {
        w->has_lease = 1;
        w->lease = lease->row;
    }
    if (g) {
        w->has_grant = 1;
        w->grant = g->row;
    }
    return w;
}

void leases_store(struct leases *l, const struct lease *lease, const struct grant *g, int identify)
{
    struct lease_write *w = new_write(lease, g);

    if (!w) {
        log_error("no memory to write a lease's change");
        return;
    }
    w->identify = identify;
    front_write(l->f, &w->job, write_run, write_done);
}

int leases_store_opened(struct leases *l, const struct grant *g, leases_opened_f opened, void *arg,
                        uint64_t tag, struct error *err)
{
    struct lease_write *w = new_write(g->lease, g);

    if (!w)
        return error_set(err, STATUS_NOMEM, "no memory for a grant");
    w->opened = opened;
    w->arg = arg;
    w->tag = tag;
    front_write(l->f, &w->job, write_run, write_done);
    return 0;
}

/* --- reading ---------------------------------------------------------------------------------- */

struct restore {
    struct leases *l;
    struct error err;
    int failed;
};

static int restore_lease(const struct db_lease *row, void *arg)
{
    struct restore *r = arg;
    struct lease *lease = leases_add_lease(r->l, &r->err);

    if (!lease) {
        r->failed = 1;
        return 1;
    }
    lease->row = *row;
    lease->identified = row->account[0] != '\0';
    if (lease->identified)
        lease->tenant = leases_tenant(r->l, row->account);
    if (row->id > r->l->last_id)
        r->l->last_id = row->id;
    return 0;
}

static int restore_grant(const struct db_grant *row, void *arg)
{
    struct restore *r = arg;
    struct grant *g = leases_add_grant(r->l, &r->err);

    if (!g) {
        r->failed = 1;
        return 1;
    }
    g->row = *row;
    return 0;
}

/* A grant whose lease has gone, or whose models or SLO the configuration no longer has, is over. */
static int adopt(struct leases *l, struct grant *g)
{
    const struct config *c = l->f->config;
    struct error err;
    struct lease *lease = leases_find_lease(l, g->row.lease);

    if (!lease)
        return -1;
    if (leases_resolve_models(c, g->row.models, g->models, &g->model_count, &err) < 0 ||
        leases_resolve_slo(c, g->row.slo, &g->ttft_us, &g->tbt_us, &err) < 0) {
        log_warn("job %" PRId64 " step %s: its grant ends: %s", lease->row.job, g->row.step_name,
                 err.text);
        return -1;
    }
    g->wait_deadline_us = g->row.created_us + g->row.wait_us;
    g->lease = lease;
    lease->grants++;
    return 0;
}

/* A lease that no controller watches ended when the daemon went, with its connection. */
static int end_unwatched(struct leases *l, struct db *db, struct error *err)
{
    size_t kept = 0;

    for (size_t i = 0; i < l->lease_count; i++) {
        struct lease *lease = l->lease[i];
        if (lease->row.job && l->f->config->identity == IDENTITY_SLURM) {
            l->lease[kept++] = lease;
            continue;
        }
        lease->row.ended_us = clock_wall_us();
        int rv = db_put_lease(db, &lease->row, err);
        free(lease);
        if (rv < 0) {
            memmove(&l->lease[kept], &l->lease[i + 1],
                    (l->lease_count - i - 1) * sizeof(*l->lease));
            l->lease_count -= i + 1 - kept;
            return -1;
        }
    }
    l->lease_count = kept;
    return 0;
}

static int adopt_grants(struct leases *l, struct db *db, struct error *err)
{
    size_t kept = 0;
    int rv = 0;

    for (size_t i = 0; i < l->grant_count; i++) {
        struct grant *g = l->grant[i];
        if (rv == 0 && adopt(l, g) == 0) {
            l->grant[kept++] = g;
            continue;
        }
        g->row.ended_us = clock_wall_us();
        if (rv == 0)
            rv = db_put_grant(db, &g->row, err);
        free(g);
    }
    l->grant_count = kept;
    return rv;
}

int leases_restore(struct leases *l, struct db *db, struct error *err)
{
    struct restore r = {.l = l};

    if (db_each_live_lease(db, restore_lease, &r, err) < 0)
        return -1;
    if (!r.failed && db_each_live_grant(db, restore_grant, &r, err) < 0)
        return -1;
    if (r.failed)
        return error_set(err, r.err.status, "%s", r.err.text);
    if (end_unwatched(l, db, err) < 0 || adopt_grants(l, db, err) < 0)
        return -1;
    for (size_t i = 0; i < l->lease_count; i++)
        if (db_lease_used(db, l->lease[i]->row.id, &l->lease[i]->used, err) < 0)
            return -1;
    if (leases_restore_tenants(l, db, err) < 0)
        return -1;
    if (l->lease_count)
        log_info("%zu leases and %zu grants of before", l->lease_count, l->grant_count);
    return 0;
}
