/*
 * lease.h - who may use what: leases (one per job run) and grants (one per step and node)
 *
 * Owned by the front loop; no locks.  Keys: mp1.<grant id, 16 hex digits>.<HMAC-SHA256(secret, grant
 * id and uid), 64 hex digits>, compared in constant time; the secret is a 0400 file in StateDir, made
 * at the first start.
 */
#ifndef MP_DAEMON_LEASE_H
#define MP_DAEMON_LEASE_H

#include <stdint.h>
#include <sys/types.h>

#include "common/config.h"
#include "db/db.h"

#define LEASE_KEY_MAX 96
#define GRANT_MODELS_MAX 16

struct lease {
    struct db_lease row;
    uint64_t used;        /* prompt and completion tokens, billed and in flight */
    int identified;       /* account and start time are the controller's */
    uint32_t tenant;      /* small number of the account */
    uint32_t grants;      /* live ones */
    int ended;
};

struct grant {
    struct db_grant row;
    struct lease *lease;
    uint32_t models[GRANT_MODELS_MAX]; /* indices into config->models; the first is the default */
    uint32_t model_count;
    int64_t ttft_us, tbt_us;
    uint32_t requests;    /* in flight */
    int ended;
};

struct leases; /* the set of them */

/* Find the grant behind a request: by key (NULL if none came) and the peer's uid.  A key must be
 * well-formed, right, live, and the peer's uid its own; without a key the uid must have exactly one
 * live grant.  UNAUTHENTICATED says what to do. */
struct grant *leases_authenticate(struct leases *l, const char *key, uid_t peer, struct error *err);
/* Index of the model a request names (NULL or "": the grant's default).  NOT_FOUND if there is no
 * such model, DENIED if the grant does not hold it or the account may not use it. */
int leases_model(struct leases *l, const struct grant *g, const char *name, uint32_t *model,
                 struct error *err);
/* Reserve tokens (prompt now) against the budget: EXHAUSTED with the budget's size. */
int leases_charge(struct leases *l, struct grant *g, uint64_t tokens, struct error *err);
/* Tokens that the budget still allows; UINT64_MAX if there is no budget. */
uint64_t leases_left(const struct grant *g);
/* A request begins and ends: keeps the grant's memory alive in between. */
void leases_hold(struct grant *g);
void leases_release(struct leases *l, struct grant *g);

#endif
