/*
 * sched.c - state and interface of the scheduler; what to run next is the policy's
 */
#include "sched/sched.h"

#include <stdlib.h>
#include <string.h>

#include "sched/state.h"

static const struct sched_policy *const policies[] = {&sched_rr};

#define POLICY_COUNT (sizeof policies / sizeof policies[0])
#define BUCKETS      256u

/* --- life ------------------------------------------------------------------------------------ */

static const struct sched_policy *find_policy(const char *name, struct error *err)
{
    char known[128] = "";

    for (size_t i = 0; i < POLICY_COUNT; i++) {
        if (name != NULL && strcmp(policies[i]->name, name) == 0)
            return policies[i];
        if (i > 0)
            strncat(known, ", ", sizeof known - strlen(known) - 1);
        strncat(known, policies[i]->name, sizeof known - strlen(known) - 1);
    }
    error_set(err, STATUS_INVALID, "no scheduler is named \"%s\"; there is: %s",
              name != NULL ? name : "", known);
    return NULL;
}

struct sched *sched_create(const char *policy, const struct sched_params *params, struct error *err)
{
    const struct sched_policy *found = find_policy(policy, err);
    struct sched *s;

    if (found == NULL)
        return NULL;
    if (params->turn_us <= 0) {
        error_set(err, STATUS_INVALID, "scheduler %s: a turn must be longer than 0", policy);
        return NULL;
    }
    s = calloc(1, sizeof *s);
    if (s != NULL)
        s->buckets = calloc(BUCKETS, sizeof *s->buckets);
    if (s == NULL || s->buckets == NULL) {
        free(s);
        error_set(err, STATUS_NOMEM, "scheduler: out of memory");
        return NULL;
    }
    s->bucket_count = BUCKETS;
    s->policy = found;
    s->params = *params;
    return s;
}

void sched_destroy(struct sched *s)
{
    if (s == NULL)
        return;
    for (size_t b = 0; b < s->bucket_count; b++) {
        for (struct sched_entry *e = s->buckets[b], *next; e != NULL; e = next) {
            next = e->next;
            free(e);
        }
    }
    for (uint32_t i = 0; i < s->instance_count; i++)
        free(s->instances[i].slots);
    free(s->instances);
    free(s->buckets);
    free(s);
}

/* --- instances and models -------------------------------------------------------------------- */

static struct sched_instance *find_instance(const struct sched *s, uint32_t instance)
{
    if (instance >= s->instance_count || !s->instances[instance].known)
        return NULL;
    return &s->instances[instance];
}

static struct sched_slot *find_slot(const struct sched *s, uint32_t instance, uint32_t model)
{
    struct sched_instance *in = find_instance(s, instance);

    return in != NULL && model < in->slot_count ? &in->slots[model] : NULL;
}

/* Make room for index: the new array, zeroed behind the old one, or NULL. */
static void *grow(void *array, uint32_t *count, uint32_t index, size_t size)
{
    char *p;

    if (index < *count)
        return array;
    p = realloc(array, ((size_t)index + 1) * size);
    if (p == NULL)
        return NULL;
    memset(p + *count * size, 0, ((size_t)index + 1 - *count) * size);
    *count = index + 1;
    return p;
}

int sched_add_instance(struct sched *s, uint32_t instance, uint64_t memory_bytes, struct error *err)
{
    struct sched_instance *in;

    if (instance >= SCHED_INDEX_MAX)
        return error_set(err, STATUS_INVALID, "instance number %u is too large", instance);
    in = grow(s->instances, &s->instance_count, instance, sizeof *in);
    if (in == NULL)
        return error_set(err, STATUS_NOMEM, "scheduler: out of memory");
    s->instances = in;
    if (in[instance].known)
        return error_set(err, STATUS_EXISTS, "instance number %u is there already", instance);
    in[instance].known = 1;
    in[instance].available = 1;
    in[instance].memory_bytes = memory_bytes;
    return 0;
}

void sched_set_available(struct sched *s, uint32_t instance, int available)
{
    struct sched_instance *in = find_instance(s, instance);

    if (in != NULL)
        in->available = available != 0;
}

int sched_add_model(struct sched *s, uint32_t instance, uint32_t model, uint64_t weight_bytes,
                    uint64_t kv_token_bytes, struct error *err)
{
    struct sched_instance *in = find_instance(s, instance);
    struct sched_slot *slots;

    if (in == NULL)
        return error_set(err, STATUS_NOT_FOUND, "no instance has number %u", instance);
    if (model >= SCHED_INDEX_MAX)
        return error_set(err, STATUS_INVALID, "model number %u is too large", model);
    slots = grow(in->slots, &in->slot_count, model, sizeof *slots);
    if (slots == NULL)
        return error_set(err, STATUS_NOMEM, "scheduler: out of memory");
    in->slots = slots;
    slots[model].known = 1;
    slots[model].weight_bytes = weight_bytes;
    slots[model].kv_token_bytes = kv_token_bytes;
    return 0;
}

void sched_drop_model(struct sched *s, uint32_t instance, uint32_t model)
{
    struct sched_slot *slot = find_slot(s, instance, model);

    if (slot != NULL)
        slot->known = slot->resident = 0;
}

void sched_set_resident(struct sched *s, uint32_t instance, uint32_t model, int resident)
{
    struct sched_slot *slot = find_slot(s, instance, model);

    if (slot != NULL)
        slot->resident = resident != 0;
}

/* --- sequences ------------------------------------------------------------------------------- */

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014), so that consecutive ids spread. */
static size_t bucket_of(const struct sched *s, uint64_t seq)
{
    seq ^= seq >> 30;
    seq *= 0xbf58476d1ce4e5b9u;
    seq ^= seq >> 27;
    return (size_t)(seq & (s->bucket_count - 1));
}

static struct sched_entry **find_entry(const struct sched *s, uint64_t seq)
{
    struct sched_entry **e = &s->buckets[bucket_of(s, seq)];

    while (*e != NULL && (*e)->seq != seq)
        e = &(*e)->next;
    return e;
}

/* How good an instance is for a model: with its sequences, resident, others. */
static int preference(const struct sched_slot *slot)
{
    if (slot->running + slot->waiting > 0)
        return 2;
    return slot->resident ? 1 : 0;
}

/* Fewer sequences, then less time spent so far. */
static int less_loaded(const struct sched_instance *a, const struct sched_instance *b)
{
    if (a->sequences != b->sequences)
        return a->sequences < b->sequences;
    return a->busy_us < b->busy_us;
}

/* The best available instance that can run the model, or SCHED_NONE. */
static uint32_t pick(const struct sched *s, uint32_t model)
{
    uint32_t best = SCHED_NONE;
    int best_rank = -1;

    for (uint32_t i = 0; i < s->instance_count; i++) {
        const struct sched_instance *in = &s->instances[i];
        const struct sched_slot *slot = find_slot(s, i, model);

        if (slot == NULL || !slot->known || !in->available)
            continue;
        if (preference(slot) > best_rank ||
            (preference(slot) == best_rank && less_loaded(in, &s->instances[best]))) {
            best = i;
            best_rank = preference(slot);
        }
    }
    return best;
}

static void count(struct sched *s, const struct sched_entry *e, int up)
{
    struct sched_instance *in = &s->instances[e->instance];
    struct sched_slot *slot = &in->slots[e->model];
    uint32_t *n = e->waiting ? &slot->waiting : &slot->running;

    if (up) {
        in->sequences++;
        (*n)++;
    } else {
        in->sequences--;
        (*n)--;
    }
}

/* Twice the buckets when they are full; without memory the chains just grow. */
static void rehash(struct sched *s)
{
    struct sched_entry **old = s->buckets, **wider;
    size_t n = s->bucket_count;

    if (s->entries < n || (wider = calloc(n * 2, sizeof *wider)) == NULL)
        return;
    s->buckets = wider;
    s->bucket_count = n * 2;
    for (size_t b = 0; b < n; b++) {
        for (struct sched_entry *e = old[b], *next; e != NULL; e = next) {
            size_t to = bucket_of(s, e->seq);

            next = e->next;
            e->next = wider[to];
            wider[to] = e;
        }
    }
    free(old);
}

int sched_arrive(struct sched *s, int64_t now, const struct sched_seq *seq, uint32_t *instance,
                 struct error *err)
{
    struct sched_entry **at = find_entry(s, seq->seq), *e;
    uint32_t i;

    (void)now;
    if (seq->seq == 0)
        return error_set(err, STATUS_INVALID, "a sequence cannot have number 0");
    if (*at != NULL)
        return error_set(err, STATUS_EXISTS, "sequence %llu is there already",
                         (unsigned long long)seq->seq);
    i = pick(s, seq->model);
    if (i == SCHED_NONE)
        return error_set(err, STATUS_UNAVAILABLE, "no available instance can run model number %u",
                         seq->model);
    e = calloc(1, sizeof *e);
    if (e == NULL)
        return error_set(err, STATUS_NOMEM, "scheduler: out of memory");
    e->seq = seq->seq;
    e->order = ++s->arrivals;
    e->model = seq->model;
    e->instance = *instance = i;
    *at = e;
    s->entries++;
    count(s, e, 1);
    rehash(s);
    return 0;
}

void sched_finish(struct sched *s, int64_t now, uint64_t seq)
{
    struct sched_entry **at = find_entry(s, seq), *e = *at;

    (void)now;
    if (e == NULL)
        return;
    count(s, e, 0);
    *at = e->next;
    s->entries--;
    free(e);
}

void sched_requeue(struct sched *s, int64_t now, uint64_t seq)
{
    struct sched_entry *e = *find_entry(s, seq);

    (void)now;
    if (e == NULL || e->waiting)
        return;
    count(s, e, 0);
    e->waiting = 1;
    count(s, e, 1);
}

int sched_resume(struct sched *s, int64_t now, uint64_t seq, uint32_t *instance, struct error *err)
{
    struct sched_entry *e = *find_entry(s, seq);
    uint32_t i;

    (void)now;
    if (e == NULL)
        return error_set(err, STATUS_NOT_FOUND, "no sequence has number %llu",
                         (unsigned long long)seq);
    count(s, e, 0);
    i = pick(s, e->model);
    if (i == SCHED_NONE && !s->instances[e->instance].slots[e->model].known) {
        count(s, e, 1);
        return error_set(err, STATUS_UNAVAILABLE, "no available instance can run model number %u",
                         e->model);
    }
    if (i != SCHED_NONE)
        e->instance = i;
    e->waiting = 0;
    count(s, e, 1);
    *instance = e->instance;
    return 0;
}

/* --- decisions ------------------------------------------------------------------------------- */

void sched_turn_ended(struct sched *s, int64_t now, uint32_t instance, uint32_t model,
                      uint32_t steps, int64_t step_us, int64_t switch_us)
{
    struct sched_instance *in = find_instance(s, instance);

    (void)now;
    (void)model;
    (void)steps;
    if (in != NULL)
        in->busy_us += step_us + switch_us;
}

int sched_next(struct sched *s, int64_t now, uint32_t instance, struct sched_turn *turn)
{
    if (find_instance(s, instance) == NULL)
        return 0;
    return s->policy->next(s, now, instance, turn);
}

uint64_t sched_victim(const struct sched *s, uint32_t instance, uint32_t model)
{
    const struct sched_entry *newest = NULL;

    for (size_t b = 0; b < s->bucket_count; b++) {
        for (const struct sched_entry *e = s->buckets[b]; e != NULL; e = e->next) {
            if (e->instance == instance && e->model == model && !e->waiting &&
                (newest == NULL || e->order > newest->order))
                newest = e;
        }
    }
    return newest != NULL ? newest->seq : 0;
}

uint32_t sched_count(const struct sched *s, uint32_t instance, uint32_t model)
{
    const struct sched_slot *slot = find_slot(s, instance, model);

    return slot != NULL ? slot->running + slot->waiting : 0;
}
