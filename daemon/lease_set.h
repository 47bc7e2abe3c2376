/*
 * lease_set.h - the set of leases, shared by lease*.c alone
 *
 * lease.c: finding, permission, budgets.  lease_open.c: opening and closing.  lease_watch.c: what
 * the controller says.  lease_store.c: the database.  lease_tenant.c: accounts.
 *
 * Invariants:
 * 1. A live grant's lease is live; lease->grants counts its live grants.
 * 2. An ended grant is freed when no connection (holders) and no request is left on it, an ended
 *    lease when no grant in memory points to it: leases_reap, never while l->busy.
 * 3. Whatever changes in a row is posted to the writer at once, in order.
 */
#ifndef MP_DAEMON_LEASE_SET_H
#define MP_DAEMON_LEASE_SET_H

#include <event2/event.h>

#include "daemon/front.h"
#include "daemon/key.h"
#include "daemon/slurm.h"

struct leases {
    struct front *f;
    struct key_secret secret;
    struct lease **lease;
    struct grant **grant;
    size_t lease_count, lease_room, grant_count, grant_room;
    struct tenant **tenant; /* by number */
    uint32_t tenant_count;
    int64_t last_id; /* of a lease */
    int busy;        /* somebody walks the arrays: nothing is freed */

    struct event *sweep;
    struct slurm_question *question; /* at most one at a time */
    int64_t asked[SLURM_JOBS_MAX];   /* lease ids that it is about */
    size_t asked_count;
    int silent; /* the controller did not answer, and that was logged */
};

/* --- lease.c --- */
struct grant *leases_find_grant(const struct leases *l, int64_t id); /* live or ended; NULL */
struct lease *leases_find_lease(const struct leases *l, int64_t id); /* live; NULL */
/* A zeroed one in the set, with room made; NULL (NOMEM). */
struct lease *leases_add_lease(struct leases *l, struct error *err);
struct grant *leases_add_grant(struct leases *l, struct error *err);
void leases_remove_lease(struct leases *l, struct lease *lease); /* frees it */
int64_t leases_new_id(struct leases *l);
/* DENIED, naming both, if AllowAccounts= keeps a known account from a model. */
int leases_allowed(const struct leases *l, const struct lease *lease, uint32_t model,
                   struct error *err);
/* "a, b, c" of the configuration's models, at most ten. */
void leases_name_models(const struct config *c, char *out, size_t room);
void leases_reap(struct leases *l);

/* --- lease_tenant.c --- */
int leases_tenants_create(struct leases *l, struct error *err);
void leases_tenants_destroy(struct leases *l);
/* Today's tokens, from the ledger. */
int leases_restore_tenants(struct leases *l, struct db *db, struct error *err);
/* The small number of an account, from 1 on; 0 (unknown) if there is no memory for it. */
uint32_t leases_tenant(struct leases *l, const char *account);
/* The lease's account has become known: its tokens of today, and its requests, are the account's.
 */
void leases_identified(struct leases *l, struct lease *lease);

/* --- lease_open.c --- */
/* Model names to indices; NOT_FOUND names what there is. */
int leases_resolve_models(const struct config *c, const char *names, uint32_t *models,
                          uint32_t *count, struct error *err);
int leases_resolve_slo(const struct config *c, const char *slo, int64_t *ttft_us, int64_t *tbt_us,
                       struct error *err);
void leases_end_grant(struct leases *l, struct grant *g);
void leases_end_lease(struct leases *l, struct lease *lease, const char *why);
/* No grant has to come back to it: end it now if nobody else says when it ends. */
void leases_end_if_unwatched(struct leases *l, struct lease *lease);

/* --- lease_watch.c --- */
int leases_watch_create(struct leases *l, struct error *err);
void leases_watch_destroy(struct leases *l);
/* Ask the controller about what has `asking` set, now or when the running question is done. */
void leases_ask(struct leases *l);
/* What the controller says of a lease's job; NULL: it does not know it. */
void leases_apply(struct leases *l, struct lease *lease, const struct slurm_job *job);

/* --- lease_store.c --- */
/* Post rows as they are now (NULL: not this one).  identify: also fill the lease's ledger rows. */
void leases_store(struct leases *l, const struct lease *lease, const struct grant *g, int identify);
/* As above, then opened(arg, tag, ...) in the loop. */
int leases_store_opened(struct leases *l, const struct grant *g, leases_opened_f opened, void *arg,
                        uint64_t tag, struct error *err);
int leases_restore(struct leases *l, struct db *db, struct error *err);

#endif
