/*
 * sched.h - the token-level policy: which model an instance runs next, and for how long
 *
 * Pure functions of the calls made so far: no clock, no socket, no thread; `now` comes in with
 * every call in microseconds of one monotonic clock.  Asked at turn ends, arrivals and completions,
 * never per step.  The same code runs in the daemon, in tests and in the simulator.  Policies stand
 * behind one table of functions (struct sched_policy in state.h):
 *   rr       fixed quotas in turn
 *   fcfs     run to completion: what request-level systems do
 *   sjf      the shortest first, by an oracle of the output's length (simulator only)
 *   aegaeon  prefill groups and decode rounds, as published (SOSP 2025)
 *   slack    deadlines of undelivered tokens; what to run and what to load are decided apart
 */
#ifndef MP_SCHED_SCHED_H
#define MP_SCHED_SCHED_H

#include <stdint.h>

#include "common/error.h"
#include "sched/cost.h"

#define SCHED_NONE      UINT32_MAX
#define SCHED_ALL       UINT32_MAX /* sched_add_model: on every instance */
#define SCHED_EVICT_MAX 16u

struct sched;

struct sched_params {
    int64_t turn_us;   /* the longest turn while another model of the instance waits */
    int64_t starve_us; /* a model that has waited this long for a turn is next; 0: 60 s */
    uint32_t held;     /* turns that an engine holds at a time; 0: 1 */
    int64_t fair_us;   /* tenants' GPU time may drift apart so far before it counts; 0: 10 s */
};

enum sched_role { SCHED_MIXED, SCHED_PREFILL, SCHED_DECODE };

struct sched_seq { /* an arrival */
    uint64_t seq;
    uint32_t model;
    uint32_t tenant; /* number of the account; 0: unknown yet */
    uint32_t tokens; /* to be prefilled */
    uint32_t max_tokens;
    int64_t ttft_us, tbt_us; /* SLO; 0: best effort */
    uint32_t oracle;         /* sjf: tokens that it will yield */
};

enum sched_phase { SCHED_PREFILL_ONLY = 1, SCHED_DECODE_ONLY = 2, SCHED_BOTH = 3 };

struct sched_turn { /* a decision */
    uint32_t model;
    uint32_t quota_steps;    /* 0: none */
    int64_t quota_us;        /* 0: none: until idle or the next order */
    enum sched_phase phases; /* of its sequences that run */
    uint32_t fresh_max;      /* at most so many prompts, the oldest; 0: all */
    uint32_t chunk; /* prompt tokens in a step beside the batch; 0: a prompt alone, whole */
    int64_t since;  /* its batch has waited for a turn since then; told by sched_next */
};

struct sched_load { /* a decision: bring a model in behind the running turn */
    uint32_t model;
    uint32_t evict[SCHED_EVICT_MAX]; /* models that go first */
    uint32_t evict_count;
};

struct sched_spill { /* a decision: a sequence's KV leaves the device */
    uint64_t seq;
    int recompute; /* cheaper than to keep a copy on the host */
};

/* policy: one of those above.  INVALID names the known ones. */
struct sched *sched_create(const char *policy, const struct sched_params *params,
                           struct error *err);
void sched_destroy(struct sched *s);

struct sched_traits {       /* what the caller's engine must know of a policy */
    int oracle;             /* wants sched_seq.oracle */
    int slo;                /* goes by deadlines: sched_admit has a meaning */
    int kv_leaves;          /* a batch's KV leaves the device at the end of its turn */
    uint32_t residents_max; /* models on a device at a time; 0: what fits */
};
struct sched_traits sched_traits(const struct sched *s);

/* --- instances and models -------------------------------------------------------------------- */

/* Instances and models are small numbers chosen by the caller. */
int sched_add_instance(struct sched *s, uint32_t instance, uint64_t memory_bytes,
                       struct error *err);
/* A role, and whether it can load one model while another runs (default: mixed, no). */
void sched_set_role(struct sched *s, uint32_t instance, enum sched_role role, int loads_behind);
/* A drained or dead instance gets no new sequences; its own stay until finished or resumed
 * elsewhere. */
void sched_set_available(struct sched *s, uint32_t instance, int available);
/* What a model needs on an instance, or on all of them (SCHED_ALL). */
int sched_add_model(struct sched *s, uint32_t instance, uint32_t model, uint64_t weight_bytes,
                    uint64_t kv_token_bytes, struct error *err);
/* What its work costs there, or on all instances; without it a small model's costs are assumed. */
int sched_set_cost(struct sched *s, uint32_t instance, uint32_t model, const struct cost *cost,
                   struct error *err);
/* The instance cannot run the model (any more). */
void sched_drop_model(struct sched *s, uint32_t instance, uint32_t model);
/* Its weights lie, or are coming, in the host memory of the instance's node: loading it there takes
 * cost.load alone, and elsewhere cost.disk more. */
void sched_set_hosted(struct sched *s, uint32_t instance, uint32_t model, int hosted);
void sched_set_resident(struct sched *s, uint32_t instance, uint32_t model, int resident);
/* It is not to be evicted for another one; of a model that the instance knows. */
void sched_set_pinned(struct sched *s, uint32_t instance, uint32_t model, int pinned);

/* --- tenants --------------------------------------------------------------------------------- */

/* A tenant's share of the GPU time when others want it, too; default 1. */
int sched_set_share(struct sched *s, uint32_t tenant, double share, struct error *err);
/* Seconds of GPU time over its share, since the beginning; a tenant that returns after idling is
 * lifted to the least of those who have work. */
double sched_tenant_time(const struct sched *s, uint32_t tenant);
/* Seconds of GPU time that it has had: not lifted, and not divided by its share. */
double sched_tenant_used(const struct sched *s, uint32_t tenant);
/* A sequence's tenant has become known. */
void sched_set_tenant(struct sched *s, uint64_t seq, uint32_t tenant);
/*
 * Would a sequence with this SLO keep it?  0, or EXHAUSTED with the reason: every instance that
 * could take it has promised its steps already; UNSUPPORTED: not even an idle one keeps it.
 * Best effort is always admitted.  A requeued sequence keeps its promise.
 */
int sched_admit(struct sched *s, int64_t now, const struct sched_seq *seq, struct error *err);
/* The part of an instance's time that its sequences with an SLO, and who shares their batches,
 * need; above SCHED_PROMISED_MAX nothing more is promised. */
double sched_promised(struct sched *s, uint32_t instance);
#define SCHED_PROMISED_MAX 0.9

/* --- sequences ------------------------------------------------------------------------------- */

/* A new sequence: *instance is where it goes.  UNAVAILABLE if no instance can run its model. */
int sched_arrive(struct sched *s, int64_t now, const struct sched_seq *seq, uint32_t *instance,
                 struct error *err);
/* Where it stands: tokens in its KV, output tokens delivered.  Told at turn ends. */
void sched_progress(struct sched *s, int64_t now, uint64_t seq, uint32_t cached, uint32_t produced);
/* Its prompt is prefilled on a prefill instance: *instance is where it decodes.  Its KV is on its
 * way to the host, and it gets no turns until sched_handed_over. */
int sched_hand_over(struct sched *s, int64_t now, uint64_t seq, uint32_t *instance,
                    struct error *err);
void sched_handed_over(struct sched *s, int64_t now, uint64_t seq);
/* It ended or was cancelled. */
void sched_finish(struct sched *s, int64_t now, uint64_t seq);
/* Close it and give it anew later (KV full, engine died): it waits again, before newer ones.  It
 * gets no turns until sched_resume. */
void sched_requeue(struct sched *s, int64_t now, uint64_t seq);
/* A requeued sequence is given anew: *instance is where, chosen as for an arrival, or its own one
 * if no available instance can run its model.  UNAVAILABLE if that one cannot either (it waits on),
 * NOT_FOUND if the sequence is unknown. */
int sched_resume(struct sched *s, int64_t now, uint64_t seq, uint32_t *instance, struct error *err);

/* --- decisions ------------------------------------------------------------------------------- */

/* How many steps a turn had, and how long it really took.  Its sequences' tenants pay. */
void sched_turn_ended(struct sched *s, int64_t now, uint32_t instance, uint32_t model,
                      uint32_t steps, int64_t step_us, int64_t switch_us);
/*
 * What should the instance run now (after the turns it was given before)?  1 with *turn filled, 0
 * if nothing can run there (now).  Deterministic.
 */
int sched_next(struct sched *s, int64_t now, uint32_t instance, struct sched_turn *turn);
/*
 * What should be loaded behind the running turn?  1 with *load filled: the evicted ones are gone
 * for sched, and the model is loading until sched_set_resident.  0: nothing, or a load is going on.
 */
int sched_load(struct sched *s, int64_t now, uint32_t instance, struct sched_load *load);
/*
 * The instance needs device memory for `model`: a sequence whose KV leaves, others' first, then the
 * model's own newest.  0: there is none (but perhaps the model's oldest).  The KV is away until
 * sched_fetched.
 */
int sched_spill(struct sched *s, int64_t now, uint32_t instance, uint32_t model,
                struct sched_spill *spill);
/* Its KV leaves the device, or is there again (fetched, or computed anew). */
void sched_away(struct sched *s, uint64_t seq);
void sched_fetched(struct sched *s, uint64_t seq);
/* Bytes of device memory that neither weights nor KV use; may be negative. */
int64_t sched_free_bytes(const struct sched *s, uint32_t instance);
/* Which of the instance's sequences of a model to give up when its pages are full: the newest that
 * is not requeued already, of those without an SLO if there are such.  0: none. */
uint64_t sched_victim(const struct sched *s, uint32_t instance, uint32_t model);
struct sched_work {            /* what an instance has to do for a model */
    uint32_t running, waiting; /* sequences that get turns, and requeued ones */
    int64_t since;             /* they wait since: the last turn's end, or their arrival */
    int64_t due;               /* the next undelivered token's deadline; INT64_MAX: none */
    double share; /* of the instance's time, for the token rates of its running sequences, and of
                   * those requeued that have an SLO */
};
void sched_get_work(const struct sched *s, uint32_t instance, uint32_t model,
                    struct sched_work *work);
/* Sequences of a model that run or wait on an instance. */
uint32_t sched_count(const struct sched *s, uint32_t instance, uint32_t model);

#endif
