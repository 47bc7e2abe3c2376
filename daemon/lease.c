/* lease.c - the set of leases: finding, permission, budgets */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <openssl/crypto.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/lease_set.h"

#define NAMED_MODELS_MAX 10

/* --- the set ---------------------------------------------------------------------------------- */

struct leases *leases_create(struct front *f, struct db *db, struct error *err)
{
    char path[4096];
    struct leases *l = calloc(1, sizeof(*l));

    if (!l) {
        error_set(err, STATUS_NOMEM, "no memory for leases");
        return NULL;
    }
    l->f = f;
    int n = snprintf(path, sizeof(path), "%s/secret", f->config->state_dir);
    if (n < 0 || (size_t)n >= sizeof(path)) {
        error_set(err, STATUS_INVALID, "StateDir=%s: too long", f->config->state_dir);
        goto fail;
    }
    if (leases_tenants_create(l, err) < 0 || key_secret_load(&l->secret, path, err) < 0 ||
        leases_restore(l, db, err) < 0 || leases_watch_create(l, err) < 0)
        goto fail;
    return l;
fail:
    leases_destroy(l);
    return NULL;
}

void leases_destroy(struct leases *l)
{
    if (!l)
        return;
    leases_watch_destroy(l);
    for (size_t i = 0; i < l->grant_count; i++)
        free(l->grant[i]);
    for (size_t i = 0; i < l->lease_count; i++)
        free(l->lease[i]);
    leases_tenants_destroy(l);
    free(l->grant);
    free(l->lease);
    OPENSSL_cleanse(&l->secret, sizeof(l->secret));
    free(l);
}

/* Room for one more pointer. */
static void *grow(void *array, size_t count, size_t *room)
{
    if (count < *room)
        return array;
    size_t more = *room ? *room * 2 : 16;
    void *bigger = reallocarray(array, more, sizeof(void *));
    if (bigger)
        *room = more;
    return bigger;
}

struct lease *leases_add_lease(struct leases *l, struct error *err)
{
    struct lease **array = grow(l->lease, l->lease_count, &l->lease_room);
    if (array)
        l->lease = array;
    struct lease *lease = array ? calloc(1, sizeof(*lease)) : NULL;
    if (!lease) {
        error_set(err, STATUS_NOMEM, "no memory for a lease");
        return NULL;
    }
    lease->row.array_job = lease->row.array_task = -1;
    lease->row.het_job = lease->row.het_offset = -1;
    lease->row.budget = -1;
    l->lease[l->lease_count++] = lease;
    return lease;
}

struct grant *leases_add_grant(struct leases *l, struct error *err)
{
    struct grant **array = grow(l->grant, l->grant_count, &l->grant_room);
    if (array)
        l->grant = array;
    struct grant *g = array ? calloc(1, sizeof(*g)) : NULL;
    if (!g) {
        error_set(err, STATUS_NOMEM, "no memory for a grant");
        return NULL;
    }
    g->asked_tokens = -1;
    l->grant[l->grant_count++] = g;
    return g;
}

void leases_remove_lease(struct leases *l, struct lease *lease)
{
    size_t kept = 0;

    for (size_t i = 0; i < l->lease_count; i++)
        if (l->lease[i] != lease)
            l->lease[kept++] = l->lease[i];
    l->lease_count = kept;
    free(lease);
}

int64_t leases_new_id(struct leases *l)
{
    int64_t now = clock_wall_us();

    l->last_id = now > l->last_id ? now : l->last_id + 1;
    return l->last_id;
}

static int has_grants(const struct leases *l, const struct lease *lease)
{
    for (size_t i = 0; i < l->grant_count; i++)
        if (l->grant[i]->lease == lease)
            return 1;
    return 0;
}

void leases_reap(struct leases *l)
{
    size_t kept = 0;

    if (l->busy)
        return;
    for (size_t i = 0; i < l->grant_count; i++) {
        struct grant *g = l->grant[i];
        if (g->ended && !g->holders && !g->requests)
            free(g);
        else
            l->grant[kept++] = g;
    }
    l->grant_count = kept;
    kept = 0;
    for (size_t i = 0; i < l->lease_count; i++) {
        struct lease *lease = l->lease[i];
        if (lease->ended && !has_grants(l, lease))
            free(lease);
        else
            l->lease[kept++] = lease;
    }
    l->lease_count = kept;
}

struct grant *leases_find_grant(const struct leases *l, int64_t id)
{
    for (size_t i = 0; i < l->grant_count; i++)
        if (l->grant[i]->row.id == id)
            return l->grant[i];
    return NULL;
}

struct lease *leases_find_lease(const struct leases *l, int64_t id)
{
    for (size_t i = 0; i < l->lease_count; i++)
        if (l->lease[i]->row.id == id && !l->lease[i]->ended)
            return l->lease[i];
    return NULL;
}

void leases_counts(const struct leases *l, uint32_t *leases, uint32_t *grants)
{
    *leases = *grants = 0;
    for (size_t i = 0; i < l->lease_count; i++)
        if (!l->lease[i]->ended)
            ++*leases;
    for (size_t i = 0; i < l->grant_count; i++)
        if (!l->grant[i]->ended)
            ++*grants;
}

void leases_each(const struct leases *l,
                 void (*each)(const struct lease *, const struct grant *, void *), void *arg)
{
    for (size_t i = 0; i < l->lease_count; i++) {
        const struct grant *first = NULL;
        if (l->lease[i]->ended)
            continue;
        for (size_t j = 0; j < l->grant_count && !first; j++)
            if (l->grant[j]->lease == l->lease[i] && !l->grant[j]->ended)
                first = l->grant[j];
        each(l->lease[i], first, arg);
    }
}

/* --- who may ---------------------------------------------------------------------------------- */

int leases_key(const struct leases *l, const struct grant *g, char key[LEASE_KEY_MAX],
               struct error *err)
{
    return key_make(&l->secret, (uint64_t)g->row.id, (uid_t)g->lease->row.uid, key, err);
}

static struct grant *only_grant(struct leases *l, uid_t peer, struct error *err)
{
    struct grant *found = NULL;
    unsigned count = 0;

    for (size_t i = 0; i < l->grant_count; i++)
        if (!l->grant[i]->ended && l->grant[i]->lease->row.uid == (int64_t)peer) {
            found = l->grant[i];
            count++;
        }
    if (count == 1)
        return found;
    if (count == 0)
        error_set(err, STATUS_UNAUTHENTICATED,
                  "no key came, and uid %ld holds no lease on this node: run under "
                  "`srun --model=NAME`, or use `modelpool run`",
                  (long)peer);
    else
        error_set(err, STATUS_UNAUTHENTICATED,
                  "no key came, and uid %ld holds %u grants on this node: pass the step's "
                  "OPENAI_API_KEY to say which",
                  (long)peer, count);
    return NULL;
}

struct grant *leases_authenticate(struct leases *l, const char *key, uid_t peer, struct error *err)
{
    uint64_t id;

    if (!key)
        return only_grant(l, peer, err);
    if (key_parse(key, &id, err) < 0)
        return NULL;
    struct grant *g = id <= INT64_MAX ? leases_find_grant(l, (int64_t)id) : NULL;
    if (!g) {
        error_set(err, STATUS_UNAUTHENTICATED,
                  "this key's job step has ended, or belongs to another node");
        return NULL;
    }
    if (!key_check(&l->secret, id, (uid_t)g->lease->row.uid, key)) {
        error_set(err, STATUS_UNAUTHENTICATED,
                  "this key is wrong: use OPENAI_API_KEY as the job step has it");
        return NULL;
    }
    if (g->lease->row.uid != (int64_t)peer) {
        error_set(err, STATUS_UNAUTHENTICATED,
                  "this key belongs to another user, and works for that user alone");
        return NULL;
    }
    if (g->ended) {
        error_set(err, STATUS_UNAUTHENTICATED, "this key's job step has ended");
        return NULL;
    }
    return g;
}

int leases_allowed(const struct leases *l, const struct lease *lease, uint32_t model,
                   struct error *err)
{
    const struct config_model *m = &l->f->config->models[model];
    const char *account = lease->row.account;

    if (!m->allow_accounts || !lease->identified)
        return 0;
    for (const char *at = m->allow_accounts; *at;) {
        at += strspn(at, ", ");
        size_t len = strcspn(at, ", ");
        if (len && len == strlen(account) && strncasecmp(at, account, len) == 0)
            return 0;
        at += len;
    }
    return error_set(err, STATUS_DENIED, "account \"%s\" may not use model \"%s\" (AllowAccounts=)",
                     account, m->name);
}

void leases_name_models(const struct config *c, char *out, size_t room)
{
    size_t len = 0;

    snprintf(out, room, "none");
    for (size_t i = 0; i < c->model_count && i < NAMED_MODELS_MAX && len < room; i++)
        len += (size_t)snprintf(out + len, room - len, "%s%s", i ? ", " : "", c->models[i].name);
    if (c->model_count > NAMED_MODELS_MAX && len < room)
        snprintf(out + len, room - len, " and %zu more", c->model_count - NAMED_MODELS_MAX);
}

int leases_model(struct leases *l, const struct grant *g, const char *name, uint32_t *model,
                 struct error *err)
{
    const struct config *c = l->f->config;
    char names[384];

    if (!name || !*name)
        name = c->models[g->models[0]].name;
    const struct config_model *m = config_find_model(c, name);
    if (!m) {
        leases_name_models(c, names, sizeof(names));
        return error_set(err, STATUS_NOT_FOUND, "no model \"%.64s\": there are %s", name, names);
    }
    uint32_t index = (uint32_t)(m - c->models);
    for (uint32_t i = 0; i < g->model_count; i++) {
        if (g->models[i] != index)
            continue;
        if (leases_allowed(l, g->lease, index, err) < 0)
            return -1;
        *model = index;
        return 0;
    }
    return error_set(err, STATUS_DENIED,
                     "this step may use %.300s: start it with --model=%s to use that one",
                     g->row.models, m->name);
}

/* --- budgets ---------------------------------------------------------------------------------- */

uint64_t leases_left(const struct grant *g)
{
    const struct lease *lease = g->lease;

    if (lease->row.budget < 0)
        return UINT64_MAX;
    uint64_t budget = (uint64_t)lease->row.budget;
    return lease->used >= budget ? 0 : budget - lease->used;
}

int leases_charge(struct leases *l, struct grant *g, uint64_t tokens, struct error *err)
{
    struct lease *lease = g->lease;

    (void)l;
    if (tokens > leases_left(g) || tokens > UINT64_MAX - lease->used)
        return error_set(err, STATUS_EXHAUSTED,
                         "the budget of %" PRId64 " tokens (--model-tokens) has %" PRIu64
                         " left, and this takes %" PRIu64,
                         lease->row.budget, leases_left(g), tokens);
    lease->used += tokens;
    return 0;
}

void leases_hold(struct grant *g)
{
    g->requests++;
}

void leases_release(struct leases *l, struct grant *g)
{
    g->requests--;
    if (g->ended)
        leases_reap(l);
}
