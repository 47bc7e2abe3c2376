/*
 * policy.h - the policy thread: engines and scheduler state, nothing else
 *
 * Starts and supervises the engines of this node's instances (restart with back-off), opens the
 * models there, hands sequences to them, asks sched/ at arrivals, completions and turn ends, and
 * keeps two turns queued in every engine.  An engine that dies loses no sequence: they are given
 * anew with the tokens so far.  A token that was passed on once is never passed on again.
 *
 * The front (HTTP loop) calls the functions below from its own thread; they post to the policy
 * thread's mailbox and return at once.  What happens comes back as struct policy_event by the sink.
 */
#ifndef MP_DAEMON_POLICY_H
#define MP_DAEMON_POLICY_H

#include <stdint.h>

#include "common/config.h"
#include "common/order.h"
#include "daemon/mailbox.h"
#include "sched/cost.h"

struct policy;
struct tier;

struct policy_request {
    struct mail mail; /* policy's, on its way */
    uint64_t seq;     /* unique for the daemon's life, not 0, chosen by the front */
    uint32_t model;   /* index into config->models */
    uint32_t tenant;
    uint32_t sharing; /* of prefixes: order_seq's */
    uint32_t max_tokens;
    uint32_t token_count;
    uint32_t *tokens; /* prompt, malloc'd: ownership passes to policy */
    int64_t ttft_us, tbt_us;
    struct order_sampling sampling;
    uint32_t logprobs; /* as in struct order_seq */
    uint32_t bias_count;
    struct token_bias *biases; /* malloc'd or NULL: ownership passes to policy */
};

struct policy_ask {   /* may a request with an SLO be promised? */
    struct mail mail; /* policy's, on its way */
    uint64_t seq;     /* as its policy_request will have it */
    uint32_t model, tenant, tokens, max_tokens;
    int64_t ttft_us, tbt_us;
    int64_t wait_us; /* how long it may wait for the promise; 0: now or never */
};

enum policy_event_kind {
    POLICY_TOKENS,   /* rows[] of one step */
    POLICY_LOGPROBS, /* of a token of the TOKENS that comes next */
    POLICY_DONE,     /* seq has ended: after its last token, or with a fault in text */
    POLICY_MODEL,    /* a model's weights came or went on an instance: placement */
    POLICY_REPLY,    /* answer to load, unload, drain, resume: tag, status, text */
    POLICY_ADMITTED, /* seq is promised: submit it, or cancel it */
    POLICY_WAITING,  /* seq has to wait for its promise; text says why */
    POLICY_REFUSED,  /* seq is not promised: status, text */
    POLICY_COST,     /* a struct policy_cost: what work was measured to cost */
};

struct policy_usage {
    int64_t engine_us;
    uint32_t switches, preemptions, prefilled;
    uint32_t cached; /* of the prompt, found computed already; of a sequence that was never given
                      * anew, where it would be its own */
};

enum cost_kind { COST_STEP, COST_PREFILL, COST_LOAD, COST_KINDS };

struct policy_cost { /* of a model on a device */
    struct mail mail;
    uint32_t model;  /* index into config->models */
    char device[64]; /* as the engine names it */
    uint64_t weight_bytes;
    struct cost cost;
    uint64_t samples[COST_KINDS]; /* measurements behind it */
    double error[COST_KINDS];     /* median of |measured - predicted| / measured */
};

struct policy_event {
    struct mail mail;          /* kind: enum policy_event_kind; free() when done */
    uint64_t seq;              /* DONE, LOGPROBS, ADMITTED, WAITING, REFUSED */
    enum finish finish;        /* DONE: FINISH_NONE means fault, see status and text */
    enum status status;        /* DONE with a fault, REPLY, REFUSED */
    struct policy_usage usage; /* DONE */
    uint64_t tag;              /* REPLY */
    uint32_t instance, model;  /* MODEL: indices into config->instances, config->models */
    int resident;              /* MODEL */
    uint64_t bytes;            /* MODEL */
    char text[ORDER_TEXT_MAX]; /* fault, reply, reason */
    uint32_t count;            /* TOKENS */
    struct event_logprobs logprobs;
    struct event_row rows[];
};

/* Starts the thread and the engines.  Events are posted to `sink` (its owner frees them).  tier:
 * NULL, or the thread's until policy_destroy(). */
struct policy *policy_create(const struct config *config, struct tier *tier, struct mailbox *sink,
                             struct error *err);
/* Ends the engines (by closing their channels; kill after 2 s), joins the thread. */
void policy_destroy(struct policy *p);

/*
 * Takes ownership of a (malloc'd).  Yields POLICY_WAITING at most once, then ADMITTED or REFUSED. A
 * promise holds until the request is submitted and ends, or is cancelled.  Who asks for best
 * effort, or where nothing is promised (Admission=no, schedulers without deadlines), is admitted at
 * once.
 */
void policy_admit(struct policy *p, struct policy_ask *a);
/* Takes ownership of r (malloc'd), its tokens and biases.  Every submit yields exactly one
 * POLICY_DONE. */
void policy_submit(struct policy *p, struct policy_request *r);
/* A tenant's share of the GPU time; 1 until it is told. */
void policy_set_share(struct policy *p, uint32_t tenant, double share);
/* A request's tenant has become known. */
void policy_set_tenant(struct policy *p, uint64_t seq, uint32_t tenant);
/* What an earlier life has measured; c is copied. */
void policy_teach(struct policy *p, const struct policy_cost *c);
/* What was asked for and not admitted yet, or not submitted, is forgotten without an event.  A
 * request's DONE comes with FINISH_NONE, STATUS_OK and an empty text; late tokens are dropped. */
void policy_cancel(struct policy *p, uint64_t seq);
/* The front found a stop string or a budget's end: as cancel, but finish is FINISH_STOP. */
void policy_stop(struct policy *p, uint64_t seq);

enum policy_command { POLICY_LOAD, POLICY_UNLOAD, POLICY_DRAIN, POLICY_RESUME };
/* target: index into config->models (load, unload) or config->instances (drain, resume).  A REPLY
 * event with the tag comes when it is done (load: resident; drain: its sequences have ended). */
void policy_command(struct policy *p, enum policy_command command, uint32_t target, uint64_t tag);

/* --- what status and metrics show --------------------------------------------------------------
 */

struct policy_instance_status {
    uint32_t index; /* into config->instances */
    char state[16]; /* "starting", "idle", "running", "drained", "down" */
    char device[64];
    uint64_t memory_bytes;
    uint32_t running_model; /* index or UINT32_MAX */
    uint32_t next_model;    /* of the turn after the running one: index or UINT32_MAX */
    uint32_t restarts;
    int32_t pid;
    uint64_t turns, steps, switches, preemptions, tokens, switch_bytes;
    uint64_t spills;                    /* of the preemptions: their KV went to host memory */
    uint64_t file_bytes;                /* read from models' files */
    uint64_t prefetches, prefetch_hits; /* loads behind turns; those that a turn then found */
    int64_t step_us, switch_us;
    uint32_t calibrations;  /* measurings off traffic that were completed */
    int64_t calibration_us; /* of steps that they took */
    int loads_behind;       /* it loads one model while another runs */
    double promised;        /* the part of its time that requests with an SLO were promised */
    char failure[160];      /* why the last engine ended; "" once another one is up */
};
struct policy_model_status {   /* of a model on an instance */
    int known, resident, ok;   /* known: the engine has read the file; ok: it can run there */
    char text[ORDER_TEXT_MAX]; /* why not */
    uint64_t weight_bytes, kv_token_bytes;
    uint32_t max_context;
    uint32_t running, waiting; /* sequences that the engine has / held back */
    uint32_t kv_pages_used, kv_pages_total;
    uint64_t switches, steps, tokens;
    int64_t since_us; /* its sequences wait for a turn since; 0: none does */
    int64_t due_us;   /* the earliest deadline of an undelivered token; INT64_MAX: none */
    double share;     /* of the instance's time, for its sequences' token rates */
    struct cost cost;
    uint64_t cost_samples[COST_KINDS];
    double cost_error[COST_KINDS];
    int calibrated;   /* its costs were measured off traffic, or by an earlier life */
    int in_host;      /* its weights lie in host memory */
    int preparing;    /* one is prepared, */
    uint32_t percent; /* of which this is done */
};
#define POLICY_CACHES_MAX 256u
struct policy_cache_status {              /* a model's master copy in host memory */
    char model[NAME_MAX_BYTES], name[48]; /* name: of its file */
    int state;                            /* enum tier_state */
    int pinned;
    uint32_t percent; /* while it is prepared */
    uint64_t bytes;
    int64_t used_us; /* wall */
};
struct policy_tenant_status {
    double share, used; /* used: seconds of GPU time */
};
struct policy_snapshot {
    uint32_t instances, models; /* instances of this node, in config order; all models */
    struct policy_instance_status *instance; /* [instances] */
    struct policy_model_status *model;       /* [instances][models] */
    struct policy_cache_status *cache;       /* [caches] of POLICY_CACHES_MAX; NULL: no host tier */
    uint32_t caches;
    uint64_t cache_used;     /* bytes */
    const char *cache_place; /* folder of the files; the tier's */
    uint32_t tenants;
    struct policy_tenant_status *tenant; /* [tenants], by their numbers */
    int admission;                       /* requests with an SLO are promised it, or refused */
};
/* A copy of the state as of the last turn end or arrival.  Any thread. */
int policy_snapshot(struct policy *p, struct policy_snapshot *out, struct error *err);
void policy_snapshot_free(struct policy_snapshot *s);

#endif
