/*
 * sched.h - the token-level policy: which model an instance runs next, and for how long
 *
 * Pure functions of the calls made so far: no clock, no socket, no thread; `now` comes in with
 * every call in microseconds of one monotonic clock.  Asked at turn ends, arrivals and completions,
 * never per step.  The same code runs in the daemon, in tests and in the simulator.  Policies stand
 * behind one table of functions (struct sched_policy); `rr` is the first.
 */
#ifndef MP_SCHED_SCHED_H
#define MP_SCHED_SCHED_H

#include <stdint.h>

#include "common/error.h"

#define SCHED_NONE UINT32_MAX

struct sched;

struct sched_params {
    int64_t turn_us; /* rr: the longest turn while another model of the instance waits */
};

struct sched_seq { /* an arrival */
    uint64_t seq;
    uint32_t model;
    uint32_t tenant; /* number of the account; 0: unknown yet */
    uint32_t tokens; /* to be prefilled */
    uint32_t max_tokens;
    int64_t ttft_us, tbt_us; /* SLO; 0: best effort */
};

struct sched_turn { /* a decision */
    uint32_t model;
    uint32_t quota_steps; /* 0: none */
    int64_t quota_us;     /* 0: none: until idle or the next order */
};

/* policy: "rr".  INVALID names the known ones. */
struct sched *sched_create(const char *policy, const struct sched_params *params,
                           struct error *err);
void sched_destroy(struct sched *s);

/* Instances and models are small numbers chosen by the caller. */
int sched_add_instance(struct sched *s, uint32_t instance, uint64_t memory_bytes,
                       struct error *err);
/* A drained or dead instance gets no new sequences; its own stay until finished or resumed
 * elsewhere. */
void sched_set_available(struct sched *s, uint32_t instance, int available);
/* What a model needs on an instance, known once its engine has read the file. */
int sched_add_model(struct sched *s, uint32_t instance, uint32_t model, uint64_t weight_bytes,
                    uint64_t kv_token_bytes, struct error *err);
/* The instance cannot run the model (any more). */
void sched_drop_model(struct sched *s, uint32_t instance, uint32_t model);
void sched_set_resident(struct sched *s, uint32_t instance, uint32_t model, int resident);

/* A new sequence: *instance is where it goes.  UNAVAILABLE if no instance can run its model. */
int sched_arrive(struct sched *s, int64_t now, const struct sched_seq *seq, uint32_t *instance,
                 struct error *err);
/* It ended or was cancelled. */
void sched_finish(struct sched *s, int64_t now, uint64_t seq);
/* Close it and give it anew later (KV full, engine died): it waits again, before newer ones.  It
 * gets no turns until sched_resume. */
void sched_requeue(struct sched *s, int64_t now, uint64_t seq);
/* A requeued sequence is given anew: *instance is where, chosen as for an arrival, or its own one
 * if no available instance can run its model.  UNAVAILABLE if that one cannot either (it waits on),
 * NOT_FOUND if the sequence is unknown. */
int sched_resume(struct sched *s, int64_t now, uint64_t seq, uint32_t *instance, struct error *err);

/* How many steps a turn had, and how long it really took. */
void sched_turn_ended(struct sched *s, int64_t now, uint32_t instance, uint32_t model,
                      uint32_t steps, int64_t step_us, int64_t switch_us);
/*
 * What should the instance run now (after the turns it was given before)?  1 with *turn filled, 0
 * if nothing waits there.  Deterministic.
 */
int sched_next(struct sched *s, int64_t now, uint32_t instance, struct sched_turn *turn);
/* Which of the instance's sequences of a model to give up when its pages are full: the newest that
 * is not requeued already.  0: none. */
uint64_t sched_victim(const struct sched *s, uint32_t instance, uint32_t model);
/* Sequences of a model that run or wait on an instance. */
uint32_t sched_count(const struct sched *s, uint32_t instance, uint32_t model);

#endif
