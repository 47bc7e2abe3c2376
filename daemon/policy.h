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

enum policy_event_kind {
    POLICY_TOKENS,   /* rows[] of one step */
    POLICY_LOGPROBS, /* of a token of the TOKENS that comes next */
    POLICY_DONE,     /* seq has ended: after its last token, or with a fault in text */
    POLICY_MODEL,    /* a model's weights came or went on an instance: placement */
    POLICY_REPLY,    /* answer to load, unload, drain, resume: tag, status, text */
};

struct policy_usage {
    int64_t engine_us;
    uint32_t switches, preemptions, prefilled;
    uint32_t cached; /* of the prompt, found computed already; of a sequence that was never given
                      * anew, where it would be its own */
};

struct policy_event {
    struct mail mail;          /* kind: enum policy_event_kind; free() when done */
    uint64_t seq;              /* DONE, LOGPROBS */
    enum finish finish;        /* DONE: FINISH_NONE means fault, see status and text */
    enum status status;        /* DONE with a fault, REPLY */
    struct policy_usage usage; /* DONE */
    uint64_t tag;              /* REPLY */
    uint32_t instance, model;  /* MODEL: indices into config->instances, config->models */
    int resident;              /* MODEL */
    uint64_t bytes;            /* MODEL */
    char text[ORDER_TEXT_MAX]; /* fault, reply */
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

/* Takes ownership of r (malloc'd), its tokens and biases.  Every submit yields exactly one
 * POLICY_DONE. */
void policy_submit(struct policy *p, struct policy_request *r);
/* Its DONE comes with FINISH_NONE, STATUS_OK and an empty text; late tokens are dropped. */
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
    uint32_t restarts;
    int32_t pid;
    uint64_t turns, steps, switches, preemptions, tokens, switch_bytes;
    uint64_t spills;                    /* of the preemptions: their KV went to host memory */
    uint64_t file_bytes;                /* read from models' files */
    uint64_t prefetches, prefetch_hits; /* loads behind turns; those that a turn then found */
    int64_t step_us, switch_us;
};
struct policy_model_status {   /* of a model on an instance */
    int known, resident, ok;   /* known: the engine has read the file; ok: it can run there */
    char text[ORDER_TEXT_MAX]; /* why not */
    uint64_t weight_bytes, kv_token_bytes;
    uint32_t max_context;
    uint32_t running, waiting; /* sequences that the engine has / held back */
    uint32_t kv_pages_used, kv_pages_total;
    uint64_t switches, steps, tokens;
    int in_host;      /* it has a master copy */
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
struct policy_snapshot {
    uint32_t instances, models; /* instances of this node, in config order; all models */
    struct policy_instance_status *instance; /* [instances] */
    struct policy_model_status *model;       /* [instances][models] */
    struct policy_cache_status *cache;       /* [caches] of POLICY_CACHES_MAX; NULL: no host tier */
    uint32_t caches;
    uint64_t cache_used;     /* bytes */
    const char *cache_place; /* folder of the files; the tier's */
};
/* A copy of the state as of the last turn end or arrival.  Any thread. */
int policy_snapshot(struct policy *p, struct policy_snapshot *out, struct error *err);
void policy_snapshot_free(struct policy_snapshot *s);

#endif
