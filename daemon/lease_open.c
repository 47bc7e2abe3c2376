/* lease_open.c - leases and grants begin and end */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/lease_set.h"

/* How long after a grant its requests to restricted models wait for the job's account. */
#define IDENTIFY_MAX_US 10000000
#define WHY_MAX         480 /* a reason; what is put around it fits into ERROR_TEXT_MAX with it */

/* --- names to numbers ------------------------------------------------------------------------- */

int leases_resolve_models(const struct config *c, const char *names, uint32_t *models,
                          uint32_t *count, struct error *err)
{
    char known[384], name[NAME_MAX_BYTES];

    if (!names || !*names) {
        leases_name_models(c, known, sizeof(known));
        return error_set(err, STATUS_INVALID, "no model is named: there are %s", known);
    }
    if (config_check_models(names, err) < 0)
        return -1;
    *count = 0;
    for (const char *at = names; *at && *count < GRANT_MODELS_MAX;) {
        size_t len = strcspn(at, ",");
        snprintf(name, sizeof(name), "%.*s", (int)len, at);
        const struct config_model *m = config_find_model(c, name);
        if (!m) {
            leases_name_models(c, known, sizeof(known));
            return error_set(err, STATUS_NOT_FOUND, "no model \"%s\": there are %s", name, known);
        }
        models[(*count)++] = (uint32_t)(m - c->models);
        at += len + (at[len] == ',');
    }
    return 0;
}

int leases_resolve_slo(const struct config *c, const char *slo, int64_t *ttft_us, int64_t *tbt_us,
                       struct error *err)
{
    char known[256] = "no classes";
    size_t len = 0;

    *ttft_us = *tbt_us = 0;
    if (!slo || !*slo)
        return 0;
    if (strlen(slo) >= DB_NAME_MAX)
        return error_set(err, STATUS_INVALID, "SLO \"%.40s...\": at most %d characters", slo,
                         DB_NAME_MAX - 1);
    if (config_parse_slo(slo, ttft_us, tbt_us, err) < 0)
        return -1;
    if (strchr(slo, ':'))
        return 0;
    const struct config_slo *class = config_find_slo(c, slo);
    if (class) {
        *ttft_us = class->ttft_us;
        *tbt_us = class->tbt_us;
        return 0;
    }
    for (size_t i = 0; i < c->slo_count && len < sizeof(known); i++)
        len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s", i ? ", " : "",
                                c->slos[i].name);
    return error_set(err, STATUS_NOT_FOUND,
                     "no SLO class \"%s\": there are %s; or give ttft:T,tbt:T", slo, known);
}

/* --- can it run? ------------------------------------------------------------------------------ */

enum readiness { NEVER = -1, NOT_YET, READY };

/* One model over the instances of this node; why: the reason if it is not ready. */
static enum readiness model_ready(const struct leases *l, const struct policy_snapshot *s,
                                  uint32_t model, char *why, size_t room)
{
    const struct front_model *fm = l->f->models ? &l->f->models[model] : NULL;
    const char *name = l->f->config->models[model].name;
    enum readiness best = NEVER;

    if (fm && !fm->tokenizer) { /* without a template it still serves completions */
        snprintf(why, room, "model \"%s\" cannot be used: %.300s", name, fm->text);
        return NEVER;
    }
    snprintf(why, room, "model \"%s\" has no instance on this node", name);
    if (model >= s->models)
        return NEVER;
    for (uint32_t i = 0; i < s->instances; i++) {
        const struct policy_instance_status *in = &s->instance[i];
        const struct policy_model_status *m = &s->model[(size_t)i * s->models + model];
        int away = !strcmp(in->state, "down") || !strcmp(in->state, "drained") ||
                   !strcmp(in->state, "starting");
        if (m->known && !m->ok) {
            if (best == NEVER)
                snprintf(why, room, "model \"%s\" cannot run on instance %s: %.250s", name,
                         l->f->config->instances[in->index].name, m->text);
        } else if (m->known && !away) {
            return READY;
        } else {
            best = NOT_YET;
            snprintf(why, room, "model \"%s\": instance %s is %s", name,
                     l->f->config->instances[in->index].name,
                     away ? in->state : "reading its file");
            if (away && in->failure[0]) {
                size_t len = strlen(why);
                snprintf(why + len, room - len, " (its engine: %s)", in->failure);
            }
        }
    }
    return best;
}

/* As leases_ready, of the account alone: a restricted model waits until the controller has told it.
 */
static int account_ready(const struct leases *l, const struct grant *g, uint32_t model,
                         struct error *err)
{
    const struct config_model *m = &l->f->config->models[model];

    if (g->lease->identified || !m->allow_accounts)
        return leases_allowed(l, g->lease, model, err) < 0 ? -1 : 1;
    if (clock_wall_us() - g->row.created_us < IDENTIFY_MAX_US) {
        error_set(err, STATUS_UNAVAILABLE,
                  "model \"%s\" is for some accounts, and this job's is being asked for", m->name);
        return 0;
    }
    return error_set(
        err, STATUS_UNAVAILABLE,
        "model \"%s\" is for some accounts (AllowAccounts=), and Slurm's controller has "
        "not told this job's yet: try again later",
        m->name);
}

int leases_ready(struct leases *l, const struct grant *g, uint32_t model, struct error *err)
{
    struct policy_snapshot s;
    char why[WHY_MAX];
    int account = account_ready(l, g, model, err);

    if (account <= 0)
        return account;
    if (policy_snapshot(l->f->policy, &s, err) < 0)
        return -1;
    enum readiness r = model_ready(l, &s, model, why, sizeof(why));
    policy_snapshot_free(&s);
    if (r == READY)
        return 1;
    if (r == NEVER)
        return error_set(err, STATUS_UNSUPPORTED, "%s", why);
    if (g->row.wait_us <= 0)
        return error_set(err, STATUS_UNAVAILABLE, "%s: try again later, or give --model-wait", why);
    if (clock_wall_us() >= g->wait_deadline_us)
        return error_set(err, STATUS_EXHAUSTED, "waited %.0f s (--model-wait) and %s",
                         (double)g->row.wait_us / 1e6, why);
    error_set(err, STATUS_UNAVAILABLE, "%s", why);
    return 0;
}

const char *leases_state(struct leases *l, const struct grant *g)
{
    if (g->row.wait_us <= 0)
        return "live";
    for (uint32_t i = 0; i < g->model_count; i++)
        if (leases_ready(l, g, g->models[i], NULL) != 1)
            return "waiting";
    return "live";
}

/* What can never run is refused at once. */
static int check_can_run(const struct leases *l, const uint32_t *models, uint32_t count,
                         struct error *err)
{
    struct policy_snapshot s;
    char why[WHY_MAX];
    int rv = 0;

    if (policy_snapshot(l->f->policy, &s, err) < 0)
        return -1;
    for (uint32_t i = 0; i < count && rv == 0; i++)
        if (model_ready(l, &s, models[i], why, sizeof(why)) == NEVER)
            rv = error_set(err, STATUS_UNSUPPORTED, "%s", why);
    policy_snapshot_free(&s);
    return rv;
}

/* --- ends ------------------------------------------------------------------------------------- */

void leases_end_grant(struct leases *l, struct grant *g)
{
    if (g->ended)
        return;
    g->ended = 1;
    g->row.ended_us = clock_wall_us();
    g->lease->grants--;
    leases_store(l, NULL, g, 0);
    l->busy++; /* http gives requests back here: nothing may be freed under our callers */
    if (l->f->http)
        http_grant_ended(l->f->http, g);
    l->busy--;
}

void leases_end_lease(struct leases *l, struct lease *lease, const char *why)
{
    if (lease->ended)
        return;
    l->busy++;
    for (size_t i = 0; i < l->grant_count; i++)
        if (l->grant[i]->lease == lease)
            leases_end_grant(l, l->grant[i]);
    l->busy--;
    lease->ended = 1;
    lease->asking = 0;
    lease->row.ended_us = clock_wall_us();
    leases_store(l, lease, NULL, 0);
    if (lease->row.job)
        log_info("job %" PRId64 ": lease %" PRId64 " ended: %s", lease->row.job, lease->row.id,
                 why);
    else
        log_debug("lease %" PRId64 " of uid %" PRId64 " ended: %s", lease->row.id, lease->row.uid,
                  why);
}

void leases_end_if_unwatched(struct leases *l, struct lease *lease)
{
    if (lease->grants == 0 && (lease->row.job == 0 || l->f->config->identity == IDENTITY_NONE))
        leases_end_lease(l, lease, "its last step has ended");
}

void leases_close(struct leases *l, struct grant *g)
{
    if (--g->holders == 0 && !g->ended) {
        struct lease *lease = g->lease;
        leases_end_grant(l, g);
        leases_end_if_unwatched(l, lease);
    }
    leases_reap(l);
}

/* --- opening ---------------------------------------------------------------------------------- */

/* What an ask comes to, checked. */
struct opening {
    uint32_t models[GRANT_MODELS_MAX];
    uint32_t model_count;
    int64_t ttft_us, tbt_us;
    int64_t grant_id;
};

static int check_ask(const struct leases *l, const struct lease_ask *ask, struct opening *o,
                     struct error *err)
{
    const struct config *c = l->f->config;
    unsigned char bytes[8];

    if (ask->job < 0 || ask->step < -1 || !ask->step_name || !*ask->step_name ||
        strlen(ask->step_name) >= sizeof(((struct db_grant *)0)->step_name))
        return error_set(err, STATUS_INVALID, "job %" PRId64 " step %" PRId64 ": no such numbers",
                         ask->job, ask->step);
    if (leases_resolve_models(c, ask->models, o->models, &o->model_count, err) < 0 ||
        leases_resolve_slo(c, ask->slo, &o->ttft_us, &o->tbt_us, err) < 0)
        return -1;
    if (strlen(ask->models) >= sizeof(((struct db_grant *)0)->models))
        return error_set(err, STATUS_INVALID, "the list of models is too long");
    if (ask->wait_us < 0 || ask->wait_us > c->wait_max_us)
        return error_set(err, STATUS_INVALID, "--model-wait: at most %.0f s here (WaitMax=)",
                         (double)c->wait_max_us / 1e6);
    if (check_can_run(l, o->models, o->model_count, err) < 0)
        return -1;
    do {
        if (RAND_bytes(bytes, (int)sizeof(bytes)) != 1)
            return error_set(err, STATUS_IO, "no random bytes from OpenSSL");
        memcpy(&o->grant_id, bytes, sizeof(bytes));
        o->grant_id &= INT64_MAX;
    } while (o->grant_id == 0 || leases_find_grant(l, o->grant_id));
    return 0;
}

/* The live lease of the job's run; a uid that does not fit shows that the number was used again. */
static struct lease *find_job(struct leases *l, const struct lease_ask *ask)
{
    for (size_t i = 0; i < l->lease_count && ask->job; i++) {
        struct lease *lease = l->lease[i];
        if (lease->ended || lease->row.job != ask->job)
            continue;
        if (lease->row.uid == (int64_t)ask->uid)
            return lease;
        leases_end_lease(l, lease, "the job's number now belongs to another user");
    }
    return NULL;
}

static struct lease *new_lease(struct leases *l, const struct lease_ask *ask, struct error *err)
{
    struct lease *lease = leases_add_lease(l, err);

    if (!lease)
        return NULL;
    struct db_lease *row = &lease->row;
    row->id = leases_new_id(l);
    snprintf(row->cluster, sizeof(row->cluster), "%s", l->f->config->cluster);
    row->job = ask->job;
    row->uid = ask->uid;
    row->array_job = ask->array_job;
    row->array_task = ask->array_task;
    row->het_job = ask->het_job;
    row->het_offset = ask->het_offset;
    row->created_us = clock_wall_us();
    if (ask->job == 0 || l->f->config->identity == IDENTITY_NONE) {
        snprintf(row->account, sizeof(row->account), ask->job ? "unknown" : "local");
        lease->identified = 1;
        lease->tenant = leases_tenant(l, row->account);
    }
    return lease;
}

static struct grant *new_grant(struct leases *l, struct lease *lease, const struct lease_ask *ask,
                               const struct opening *o, struct error *err)
{
    struct grant *g = leases_add_grant(l, err);

    if (!g)
        return NULL;
    g->row.id = o->grant_id;
    g->row.lease = lease->row.id;
    g->row.step = ask->step;
    snprintf(g->row.step_name, sizeof(g->row.step_name), "%s", ask->step_name);
    snprintf(g->row.models, sizeof(g->row.models), "%s", ask->models);
    snprintf(g->row.slo, sizeof(g->row.slo), "%s", ask->slo ? ask->slo : "");
    g->row.wait_us = ask->wait_us;
    g->row.created_us = clock_wall_us();
    g->wait_deadline_us = g->row.created_us + ask->wait_us;
    g->lease = lease;
    memcpy(g->models, o->models, sizeof(g->models));
    g->model_count = o->model_count;
    g->ttft_us = o->ttft_us;
    g->tbt_us = o->tbt_us;
    g->asked_tokens = ask->tokens;
    lease->grants++;
    return g;
}

static struct grant *find_step(const struct leases *l, const struct lease *lease, int64_t step)
{
    for (size_t i = 0; i < l->grant_count; i++)
        if (l->grant[i]->lease == lease && l->grant[i]->row.step == step && !l->grant[i]->ended)
            return l->grant[i];
    return NULL;
}

struct grant *leases_open(struct leases *l, const struct lease_ask *ask, leases_opened_f opened,
                          void *arg, uint64_t tag, struct error *err)
{
    struct opening o;

    if (check_ask(l, ask, &o, err) < 0)
        return NULL;
    struct lease *found = find_job(l, ask), *lease = found;
    if (!lease && !(lease = new_lease(l, ask, err)))
        return NULL;
    for (uint32_t i = 0; i < o.model_count; i++)
        if (leases_allowed(l, lease, o.models[i], err) < 0)
            goto fail;
    int idle = lease->grants == 0;
    struct grant *g = ask->job ? find_step(l, lease, ask->step) : NULL;
    int again = g != NULL;
    if (!g && !(g = new_grant(l, lease, ask, &o, err)))
        goto fail;
    /* The first one sets the budget, later ones can only lower it. */
    int64_t budget = lease->row.budget;
    if (ask->tokens >= 0 && (budget < 0 || ask->tokens < budget))
        lease->row.budget = ask->tokens;
    g->holders++;
    if (leases_store_opened(l, g, opened, arg, tag, err) < 0) {
        lease->row.budget = budget;
        g->holders--;
        if (!again) {
            g->ended = 1; /* never written: it only has to go */
            lease->grants--;
        }
        goto fail;
    }
    if (ask->job)
        log_info("job %" PRId64 " step %s: uid %ld is granted %s%s", ask->job, g->row.step_name,
                 (long)ask->uid, g->row.models, again ? " (again)" : "");
    else
        log_info("uid %ld is granted %s, no job", (long)ask->uid, g->row.models);
    /* A lease without a live grant may be of a run before a requeue: ask about it again. */
    if (idle && lease->row.job && l->f->config->identity == IDENTITY_SLURM) {
        lease->asking = 1;
        leases_ask(l);
    }
    return g;
fail:
    leases_reap(l);
    if (!found)
        leases_remove_lease(l, lease);
    return NULL;
}
