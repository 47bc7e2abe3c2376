/*
 * state.h - what the scheduler knows, shared by its files
 *
 * A slot is a model on an instance; it exists once it was added, is resident or has sequences.
 * `order` numbers arrivals and `served` numbers decisions: both are counters, so that a decision is
 * a function of the calls alone.
 */
#ifndef MP_SCHED_STATE_H
#define MP_SCHED_STATE_H

#include <stddef.h>

#include "sched/sched.h"

#define SCHED_INDEX_MAX 65536u /* instances, models, tenants: more is a caller's mistake */
#define SCHED_FAR       (INT64_MAX / 4)

/* Best effort: deadlines that yield to everybody's, and still end. */
#define SCHED_EFFORT_TTFT 60000000
#define SCHED_EFFORT_TBT  1000000

struct sched_entry { /* a sequence */
    uint64_t seq;
    uint64_t order; /* of arrival: kept when requeued */
    struct sched_slot *slot;
    uint32_t tenant, tokens, cached, produced, oracle;
    int waiting;   /* requeued */
    int away;      /* its KV has left the device */
    int strict;    /* has an SLO */
    int64_t first; /* deadline of its first token */
    int64_t tbt;
    struct sched_group *group; /* aegaeon: not prefilled yet; fcfs */
    struct sched_entry *bucket_next, *prev, *next;
};

enum sched_residency { SCHED_ABSENT, SCHED_LOADING, SCHED_RESIDENT };

struct sched_slot { /* a model on an instance */
    uint32_t instance, model;
    int known;  /* may run there */
    int hosted; /* in the host tier of the instance's node */
    enum sched_residency resident;
    int unused; /* loaded behind a turn, and has had no turn since */
    int pinned; /* never to be evicted */
    uint64_t weight_bytes, kv_token_bytes;
    struct cost cost; /* decode 0: its model's */
    uint32_t running; /* sequences that may get turns */
    uint32_t waiting; /* requeued ones */
    /* Of these, the ones with an SLO: how many, their least TBT, their tokens. */
    uint32_t waiting_strict;
    int64_t waiting_tbt;
    double waiting_context;
    uint64_t served; /* number of the last decision for it; 0: never */
    int64_t since;   /* its sequences wait since: the end of its last turn, or their arrival */
    struct sched_entry *first, *last; /* running ones, in order of arrival */
    uint64_t kv_tokens;               /* on the device */
    uint32_t prompts; /* running ones without a token yet, and what is to be prefilled of them */
    uint64_t prompt_tokens;
    /* of its running sequences; scanned again when stale */
    int stale;
    int64_t due;                              /* the earliest deadline of an undelivered token */
    int64_t tbt;                              /* the least */
    uint32_t fresh, ready;                    /* not prefilled, prefilled */
    double context;                           /* tokens in the KV of ready ones */
    double behind;                            /* prompt tokens of fresh ones */
    struct sched_slot *bucket_next, *sibling; /* the model's next */
    uint32_t place;                           /* in the instance's list, or SCHED_NONE */
    int64_t quota;                            /* aegaeon: of this round */
    uint32_t *gone; /* tenants of sequences that ended since its turn began: they pay, too */
    uint32_t gone_count, gone_room;
};

struct sched_group { /* of sequences of one model: aegaeon's are prefilled, fcfs's run together */
    uint32_t model, admitted, left;
    struct sched_group *next;
};

struct sched_instance {
    int known, available, loads_behind;
    enum sched_role role;
    uint64_t memory_bytes;
    uint32_t sequences;        /* running and waiting, of all models */
    struct sched_slot **slots; /* that have sequences or are in memory, in no order */
    uint32_t slot_count, slot_room;
    int64_t busy_us;     /* sum over turns that ended */
    int64_t weights, kv; /* bytes in use */
    uint32_t turn_model; /* of the last decision */
    struct sched_slot *loading;
    struct sched_group *groups, *groups_last; /* aegaeon, fcfs */
    struct sched_slot **round;
    uint32_t round_count, round_at, round_room;
    int blocked;     /* slack: what should be loaded has no room beside what runs */
    int unused_next; /* slack: who starves waits for a place until those just loaded have run */
    int share_stale; /* of share: the part of its time that its batches need */
    double share;
};

struct sched_model {
    int known; /* on all instances */
    uint64_t weight_bytes, kv_token_bytes;
    struct cost cost;
    struct sched_slot *slots; /* by sibling */
};

struct sched_tenant {
    double share, time; /* GPU seconds over share, lifted after idling */
    double used;        /* GPU seconds */
    uint32_t sequences;
};

/* A policy decides among the models of an instance that have running sequences. */
struct sched_policy {
    const char *name;
    struct sched_traits traits;
    int keeps_slots; /* points to them, or goes by when they were served */
    /* An instance for a sequence, or NULL for pick_usual. */
    uint32_t (*pick)(struct sched *s, uint32_t model, enum sched_role role);
    int (*next)(struct sched *s, int64_t now, uint32_t instance, struct sched_turn *turn);
    int (*load)(struct sched *s, int64_t now, uint32_t instance, struct sched_load *load);
    int (*arrived)(struct sched *s, struct sched_entry *e); /* 0, or -1: out of memory */
    /* It is prefilled, or gone from its instance. */
    void (*left)(struct sched *s, struct sched_entry *e, int gone);
};

struct sched {
    const struct sched_policy *policy;
    struct sched_params params;
    struct sched_instance *instances;
    uint32_t instance_count;
    struct sched_model *models;
    uint32_t model_count;
    struct sched_tenant *tenants;
    uint32_t tenant_count, tenants_busy;
    struct sched_entry **buckets;
    size_t bucket_count, entries; /* buckets: a power of two */
    struct sched_slot **slot_buckets;
    size_t slot_bucket_count, slot_total;
    struct sched_entry *spare; /* freed ones, by bucket_next */
    uint64_t arrivals, decisions;
    int roles; /* some instance is not mixed */
};

extern const struct sched_policy sched_rr, sched_fcfs, sched_sjf, sched_aegaeon, sched_slack;

/* --- slot.c: models on instances -------------------------------------------------------------- */
struct sched_instance *find_instance(const struct sched *s, uint32_t instance);
struct sched_slot *find_slot(const struct sched *s, uint32_t instance, uint32_t model);
/* Found or made; NULL: out of memory. */
struct sched_slot *need_slot(struct sched *s, uint32_t instance, uint32_t model);
int slot_may_run(const struct sched *s, const struct sched_slot *slot, uint32_t instance,
                 uint32_t model);
/* In or out of its instance's list, after its sequences or residency changed. */
int slot_list(struct sched *s, struct sched_slot *slot);
/* Its sums are stale. */
void slot_touch(struct sched *s, struct sched_slot *slot);
/* Bring the stale sums up to date. */
void slot_scan(struct sched_slot *slot);
void slot_set_residency(struct sched *s, struct sched_slot *slot, enum sched_residency to);
const struct cost *slot_cost(const struct sched *s, const struct sched_slot *slot);
/* How long loading its model would take, in us: from the host tier, or from disk. */
int64_t slot_load_us(const struct sched *s, const struct sched_slot *slot);
/* Seconds of a decode step of all its ready sequences (of one at least). */
double slot_step(const struct sched *s, struct sched_slot *slot);
/* The share of a GPU that its batch needs to hold its TBT. */
double slot_share(const struct sched *s, struct sched_slot *slot);
/* admit.c: the same with its sequences that wait to run again and have an SLO. */
double slot_promise(const struct sched *s, struct sched_slot *slot);
/* An array with room for index, zeroed behind the old one; NULL: out of memory. */
void *grow(void *array, uint32_t *count, uint32_t index, size_t size);
/* Free it if it says no more than what its model does everywhere: it comes again when needed. */
void slot_release(struct sched *s, struct sched_slot *slot);
void slots_free(struct sched *s);

/* --- sequence.c ------------------------------------------------------------------------------- */
struct sched_entry *find_entry(const struct sched *s, uint64_t seq);
void sequences_free(struct sched *s);
/* The deadline of its next token. */
int64_t entry_due(const struct sched_entry *e);

/* --- group.c: queues of groups ---------------------------------------------------------------- */
/* e joins g, or a new group at the queue's end; -1: out of memory. */
int group_join(struct sched *s, struct sched_entry *e, struct sched_group *g);
/* e leaves its group, which goes when it was the last. */
void group_leave(struct sched *s, struct sched_entry *e);

/* --- dispatch.c ------------------------------------------------------------------------------- */
/* An available instance for a model and role: with its sequences, resident, in its host tier, the
 * least loaded; or SCHED_NONE. */
uint32_t pick_usual(struct sched *s, uint32_t model, enum sched_role role);
uint32_t pick(struct sched *s, uint32_t model, enum sched_role role);
int role_fits(enum sched_role have, enum sched_role want);

/* --- tenant.c --------------------------------------------------------------------------------- */
struct sched_tenant *need_tenant(struct sched *s, uint32_t tenant);
void tenant_joined(struct sched *s, uint32_t tenant);
void tenant_left(struct sched *s, uint32_t tenant);
/* One of the slot's sequences has ended. */
void tenant_gone(struct sched_slot *slot, uint32_t tenant);
/* Share out a turn's seconds among the slot's sequences. */
void tenants_charge(struct sched *s, struct sched_slot *slot, double seconds);
/* The least time of a tenant that has sequences. */
double tenants_least(const struct sched *s);

#endif
