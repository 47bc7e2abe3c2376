/*
 * lease.h - who may use what: leases (one per job run) and grants (one per step and node)
 *
 * Owned by the front loop; no locks.  Keys: mp1.<grant id, 16 hex digits>.<HMAC-SHA256(secret,
 * grant id and uid), 64 hex digits>, compared in constant time; the secret is a 0400 file in
 * StateDir, made at the first start.
 */
#ifndef MP_DAEMON_LEASE_H
#define MP_DAEMON_LEASE_H

#include <stdint.h>
#include <sys/types.h>

#include "common/config.h"
#include "db/db.h"

#define LEASE_KEY_MAX    96
#define GRANT_MODELS_MAX 16

struct lease {
    struct db_lease row;
    uint64_t used;       /* prompt and completion tokens, billed and in flight */
    int identified;      /* account and start time are the controller's */
    uint32_t tenant;     /* small number of the account; 0: not known yet */
    int64_t day;         /* leases_today() of the last tokens, */
    uint64_t day_tokens; /* and how many of them there were on that day */
    uint32_t grants;     /* live ones */
    int ended;
    int asking; /* lease.c: the controller is to be asked about it (again) */
};

struct grant {
    struct db_grant row;
    struct lease *lease;
    uint32_t models[GRANT_MODELS_MAX]; /* indices into config->models; the first is the default */
    uint32_t model_count;
    int64_t ttft_us, tbt_us;
    uint32_t requests; /* in flight */
    int ended;
    int64_t wait_deadline_us; /* wall; requests that cannot run yet are held until then */
    uint32_t holders;         /* lease.c: control connections that keep it alive */
    int64_t asked_tokens;     /* lease.c: --model-tokens of its step; -1: none */
};

struct tenant { /* an account; number 0 stands for those that are not known yet */
    char account[DB_NAME_MAX];
    uint32_t number;
    double share;            /* Tenant= Share= */
    uint64_t tokens_per_day; /* 0: no limit */
    uint32_t max_requests;   /* 0: no limit */
    int64_t day;             /* leases_today() of `tokens` */
    uint64_t tokens;         /* prompt and completion, billed and in flight */
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

/* --- quotas of accounts; lease_tenant.c --- */
/* The local midnight before now, in wall microseconds: the name of a day; *ends_us (or NULL): the
 * next one. */
int64_t leases_today(int64_t *ends_us);
/* Tokens that a request of that day may still take; UINT64_MAX: no limit. */
uint64_t leases_day_left(const struct leases *l, const struct lease *lease, int64_t day);
/* They are taken, or given back (below 0). */
void leases_count_tokens(struct leases *l, struct lease *lease, int64_t day, int64_t tokens);
/* EXHAUSTED, with the reason why no prompt of so many tokens is taken today. */
int leases_day_refusal(const struct leases *l, const struct lease *lease, uint64_t tokens,
                       struct error *err);
/* EXHAUSTED if the account may have no further request now. */
int leases_check_requests(const struct leases *l, const struct lease *lease, struct error *err);
/* The configuration's Tenant= lines have changed, or the policy thread is there to be told. */
void leases_reload_tenants(struct leases *l);
/* Every tenant, the unknown one first, with its requests that run or wait. */
void leases_each_tenant(const struct leases *l,
                        void (*each)(const struct tenant *, uint32_t requests, void *), void *arg);
/* Does the uid hold a live lease of the tenant? */
int leases_has_tenant(const struct leases *l, uint32_t tenant, int64_t uid);

/*
 * Can a request for this model (config index) run now?  1: submit it.  0: hold it (the text says
 * why) and ask again, every 100 ms or so, until grant->wait_deadline_us has passed (this function
 * then returns -1).  -1:
 * refuse it: UNSUPPORTED, the model can never run here (503); UNAVAILABLE, no instance is up and
 * the step gave no --model-wait (503); EXHAUSTED, --model-wait has run out (429); DENIED, the
 * account may not use it (403).  A model with AllowAccounts= is held until the account is known,
 * for 10 s. The text has the reason.
 */
int leases_ready(struct leases *l, const struct grant *g, uint32_t model, struct error *err);
/* A request begins and ends: keeps the grant's memory alive in between. */
void leases_hold(struct grant *g);
void leases_release(struct leases *l, struct grant *g);

/* --- for the control socket ------------------------------------------------------------------- */

struct lease_ask {     /* what a step, or a local user, asks for */
    int64_t job, step; /* job 0: a local lease */
    const char *step_name;
    uid_t uid;
    const char *models; /* comma-separated */
    const char *slo;    /* NULL or "": best effort */
    int64_t tokens;     /* budget; -1: none */
    int64_t wait_us;
    int64_t array_job, array_task, het_job,
        het_offset; /* -1: none; the controller has the last word */
};

/* The grant is durable and its key may be given out, or it could not be written (err is not NULL).
 * Comes from the loop, not from within leases_open. */
typedef void (*leases_opened_f)(void *arg, uint64_t tag, const struct error *err);

/*
 * Open a grant, or hold the live one of the same (job, step).  Takes a hold on it that leases_close
 * gives back, also when `opened` brings an error.  INVALID, NOT_FOUND, DENIED, UNSUPPORTED or
 * NOMEM: nothing was opened.  If the controller says later that the job has another start time or
 * account, the grant moves to that run's lease.
 */
struct grant *leases_open(struct leases *l, const struct lease_ask *ask, leases_opened_f opened,
                          void *arg, uint64_t tag, struct error *err);
/* Its connection has closed: the last one ends the grant, and a local lease with it. */
void leases_close(struct leases *l, struct grant *g);
/* The grant's key.  Never log it. */
int leases_key(const struct leases *l, const struct grant *g, char key[LEASE_KEY_MAX],
               struct error *err);
/* Whether some model of the grant has to be waited for: "waiting", else "live". */
const char *leases_state(struct leases *l, const struct grant *g);
/* Live leases and grants, for status. */
void leases_counts(const struct leases *l, uint32_t *leases, uint32_t *grants);
/* Every live lease, oldest first, with its first live grant or NULL. */
void leases_each(const struct leases *l,
                 void (*each)(const struct lease *, const struct grant *, void *), void *arg);

#endif
