/*
 * state.h - what the scheduler knows, shared by sched.c and the policies
 *
 * Instances and models are indices of arrays that grow on demand.  `order` numbers arrivals and
 * `served` numbers decisions: both are counters, so that a decision is a function of the calls
 * alone.
 */
#ifndef MP_SCHED_STATE_H
#define MP_SCHED_STATE_H

#include <stddef.h>

#include "sched/sched.h"

#define SCHED_INDEX_MAX 65536u /* instances or models: more is a caller's mistake */

struct sched_slot { /* a model on an instance */
    int known, resident;
    uint64_t weight_bytes, kv_token_bytes;
    uint32_t running; /* sequences that may get turns */
    uint32_t waiting; /* requeued ones */
    uint64_t served;  /* number of the last decision for it; 0: never */
};

struct sched_instance {
    int known, available;
    uint64_t memory_bytes;
    uint32_t sequences; /* running and waiting, of all models */
    struct sched_slot *slots;
    uint32_t slot_count;
    int64_t busy_us; /* sum over turns that ended */
};

struct sched_entry { /* a sequence */
    uint64_t seq;
    uint64_t order; /* of arrival: kept when requeued */
    uint32_t model, instance;
    int waiting;
    struct sched_entry *next; /* in its bucket */
};

/* A policy decides among the models of an instance that have running sequences. */
struct sched_policy {
    const char *name;
    int (*next)(struct sched *s, int64_t now, uint32_t instance, struct sched_turn *turn);
};

struct sched {
    const struct sched_policy *policy;
    struct sched_params params;
    struct sched_instance *instances;
    uint32_t instance_count;
    struct sched_entry **buckets;
    size_t bucket_count; /* a power of two */
    size_t entries;
    uint64_t arrivals, decisions;
};

extern const struct sched_policy sched_rr;

#endif
