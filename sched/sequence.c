/* sequence.c - sequences: their table, their places in slots, and what changes them */
#include <stdlib.h>

#include "sched/state.h"

#define BUCKETS 256u

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014), so that consecutive ids spread. */
static size_t bucket_of(size_t buckets, uint64_t seq)
{
    seq ^= seq >> 30;
    seq *= 0xbf58476d1ce4e5b9u;
    seq ^= seq >> 27;
    return (size_t)(seq & (buckets - 1));
}

static struct sched_entry **find_link(const struct sched *s, uint64_t seq)
{
    struct sched_entry **e = &s->buckets[bucket_of(s->bucket_count, seq)];

    while (*e != NULL && (*e)->seq != seq)
        e = &(*e)->bucket_next;
    return e;
}

struct sched_entry *find_entry(const struct sched *s, uint64_t seq)
{
    return s->buckets != NULL ? *find_link(s, seq) : NULL;
}

int64_t entry_due(const struct sched_entry *e)
{
    return e->first + (int64_t)e->produced * e->tbt;
}

/* Twice the buckets when they are full; without memory the chains just grow. */
static int rehash(struct sched *s)
{
    size_t n = s->bucket_count, wide = n > 0 ? n * 2 : BUCKETS;
    struct sched_entry **wider;

    if (n > 0 && s->entries < n)
        return 0;
    wider = calloc(wide, sizeof(struct sched_entry *));
    if (wider == NULL)
        return n > 0 ? 0 : -1;
    for (size_t b = 0; b < n; b++) {
        for (struct sched_entry *e = s->buckets[b], *next; e != NULL; e = next) {
            size_t to = bucket_of(wide, e->seq);

            next = e->bucket_next;
            e->bucket_next = wider[to];
            wider[to] = e;
        }
    }
    free(s->buckets);
    s->buckets = wider;
    s->bucket_count = wide;
    return 0;
}

void sequences_free(struct sched *s)
{
    for (size_t b = 0; b < s->bucket_count; b++) {
        for (struct sched_entry *e = s->buckets[b], *next; e != NULL; e = next) {
            next = e->bucket_next;
            free(e);
        }
    }
    for (struct sched_entry *e = s->spare, *next; e != NULL; e = next) {
        next = e->bucket_next;
        free(e);
    }
    free(s->buckets);
}

/* --- in and out of slots ---------------------------------------------------------------------- */

static void account_kv(struct sched *s, const struct sched_entry *e, int64_t tokens)
{
    struct sched_slot *slot = e->slot;

    slot->kv_tokens = (uint64_t)((int64_t)slot->kv_tokens + tokens);
    s->instances[slot->instance].kv += tokens * (int64_t)slot->kv_token_bytes;
}

/* One more that waits for its first token, or (by -1) one less. */
static void count_prompt(struct sched_slot *slot, const struct sched_entry *e, int by)
{
    if (e->produced > 0)
        return;
    slot->prompts = (uint32_t)((int64_t)slot->prompts + by);
    slot->prompt_tokens = (uint64_t)((int64_t)slot->prompt_tokens + by * (int64_t)e->tokens);
}

static void link_running(struct sched_slot *slot, struct sched_entry *e)
{
    struct sched_entry *before = slot->last;

    while (before != NULL && before->order > e->order)
        before = before->prev;
    e->prev = before;
    e->next = before != NULL ? before->next : slot->first;
    *(e->next != NULL ? &e->next->prev : &slot->last) = e;
    *(before != NULL ? &before->next : &slot->first) = e;
}

static void unlink_running(struct sched_slot *slot, struct sched_entry *e)
{
    *(e->next != NULL ? &e->next->prev : &slot->last) = e->prev;
    *(e->prev != NULL ? &e->prev->next : &slot->first) = e->next;
}

static void enter_waiting(struct sched_slot *slot, const struct sched_entry *e)
{
    slot->waiting++;
    if (!e->strict)
        return;
    if (slot->waiting_strict++ == 0 || e->tbt < slot->waiting_tbt)
        slot->waiting_tbt = e->tbt;
    slot->waiting_context += e->tokens;
}

static void leave_waiting(struct sched_slot *slot, const struct sched_entry *e)
{
    slot->waiting--;
    if (!e->strict)
        return;
    slot->waiting_context -= e->tokens;
    if (--slot->waiting_strict == 0)
        slot->waiting_context = 0;
}

static void enter(struct sched *s, int64_t now, struct sched_entry *e, struct sched_slot *slot)
{
    e->slot = slot;
    s->instances[slot->instance].sequences++;
    if (e->waiting) {
        enter_waiting(slot, e);
    } else {
        if (slot->running++ == 0)
            slot->since = now;
        link_running(slot, e);
        count_prompt(slot, e, 1);
        if (!e->away)
            account_kv(s, e, e->cached);
    }
    slot_touch(s, slot);
    slot_list(s, slot);
}

static void leave(struct sched *s, struct sched_entry *e)
{
    struct sched_slot *slot = e->slot;

    s->instances[slot->instance].sequences--;
    if (e->waiting) {
        leave_waiting(slot, e);
    } else {
        slot->running--;
        unlink_running(slot, e);
        count_prompt(slot, e, -1);
        if (!e->away)
            account_kv(s, e, -(int64_t)e->cached);
    }
    slot_touch(s, slot);
    slot_list(s, slot);
}

/* --- arrival and end -------------------------------------------------------------------------- */

static struct sched_entry *take_entry(struct sched *s)
{
    struct sched_entry *e = s->spare;

    if (e == NULL)
        return calloc(1, sizeof *e);
    s->spare = e->bucket_next;
    *e = (struct sched_entry){0};
    return e;
}

static void give_entry(struct sched *s, struct sched_entry *e)
{
    e->bucket_next = s->spare;
    s->spare = e;
}

static void fill(struct sched *s, int64_t now, const struct sched_seq *seq, struct sched_entry *e)
{
    e->seq = seq->seq;
    e->order = ++s->arrivals;
    e->tenant = seq->tenant;
    e->tokens = seq->tokens > 0 ? seq->tokens : 1;
    e->oracle = seq->oracle;
    e->strict = seq->ttft_us > 0;
    e->first = now + (e->strict ? seq->ttft_us : SCHED_EFFORT_TTFT);
    e->tbt = seq->tbt_us > 0 ? seq->tbt_us : SCHED_EFFORT_TBT;
}

int sched_arrive(struct sched *s, int64_t now, const struct sched_seq *seq, uint32_t *instance,
                 struct error *err)
{
    struct sched_slot *slot;
    struct sched_entry *e, **link;
    uint32_t i;

    if (seq->seq == 0)
        return error_set(err, STATUS_INVALID, "a sequence cannot have number 0");
    if (find_entry(s, seq->seq) != NULL)
        return error_set(err, STATUS_EXISTS, "sequence %llu is there already",
                         (unsigned long long)seq->seq);
    i = pick(s, seq->model, s->roles ? SCHED_PREFILL : SCHED_MIXED);
    if (i == SCHED_NONE)
        return error_set(err, STATUS_UNAVAILABLE, "no available instance can run model number %u",
                         seq->model);
    slot = need_slot(s, i, seq->model);
    if (slot == NULL || need_tenant(s, seq->tenant) == NULL || rehash(s) != 0 ||
        (e = take_entry(s)) == NULL)
        return error_set(err, STATUS_NOMEM, "scheduler: out of memory");
    fill(s, now, seq, e);
    e->slot = slot;
    if (s->policy->arrived != NULL && s->policy->arrived(s, e) != 0) {
        give_entry(s, e);
        return error_set(err, STATUS_NOMEM, "scheduler: out of memory");
    }
    link = find_link(s, e->seq);
    *link = e;
    s->entries++;
    enter(s, now, e, slot);
    tenant_joined(s, e->tenant);
    *instance = i;
    return 0;
}

static void left(struct sched *s, struct sched_entry *e, int gone)
{
    if (s->policy->left != NULL)
        s->policy->left(s, e, gone);
}

void sched_finish(struct sched *s, int64_t now, uint64_t seq)
{
    struct sched_entry **link, *e = find_entry(s, seq);

    (void)now;
    if (e == NULL)
        return;
    left(s, e, 1);
    leave(s, e);
    tenant_gone(e->slot, e->tenant);
    tenant_left(s, e->tenant);
    link = find_link(s, seq);
    *link = e->bucket_next;
    s->entries--;
    give_entry(s, e);
}

/* --- changes ---------------------------------------------------------------------------------- */

void sched_progress(struct sched *s, int64_t now, uint64_t seq, uint32_t cached, uint32_t produced)
{
    struct sched_entry *e = find_entry(s, seq);

    (void)now;
    if (e == NULL || e->waiting)
        return;
    if (!e->away)
        account_kv(s, e, (int64_t)cached - e->cached);
    e->cached = cached;
    if (e->produced == 0 && produced > 0)
        left(s, e, 0);
    count_prompt(e->slot, e, -1);
    e->produced = produced;
    count_prompt(e->slot, e, 1);
    slot_touch(s, e->slot);
}

int sched_hand_over(struct sched *s, int64_t now, uint64_t seq, uint32_t *instance,
                    struct error *err)
{
    struct sched_entry *e = find_entry(s, seq);
    struct sched_slot *slot;
    uint32_t i;

    if (e == NULL || e->waiting)
        return error_set(err, STATUS_NOT_FOUND, "no running sequence has number %llu",
                         (unsigned long long)seq);
    i = pick(s, e->slot->model, SCHED_DECODE);
    if (i == SCHED_NONE)
        return error_set(err, STATUS_UNAVAILABLE, "no available instance can run model number %u",
                         e->slot->model);
    slot = need_slot(s, i, e->slot->model);
    if (slot == NULL)
        return error_set(err, STATUS_NOMEM, "scheduler: out of memory");
    left(s, e, 1);
    leave(s, e);
    tenant_gone(e->slot, e->tenant); /* pays for the turn that it had */
    e->waiting = 1;
    enter(s, now, e, slot);
    *instance = i;
    return 0;
}

void sched_handed_over(struct sched *s, int64_t now, uint64_t seq)
{
    struct sched_entry *e = find_entry(s, seq);

    if (e == NULL || !e->waiting)
        return;
    leave(s, e);
    e->waiting = 0;
    e->away = 1;
    enter(s, now, e, e->slot);
    if (s->policy->arrived != NULL)
        s->policy->arrived(s, e); /* as above */
}

void sched_away(struct sched *s, uint64_t seq)
{
    struct sched_entry *e = find_entry(s, seq);

    if (e == NULL || e->away || e->waiting)
        return;
    account_kv(s, e, -(int64_t)e->cached);
    e->away = 1;
}

void sched_fetched(struct sched *s, uint64_t seq)
{
    struct sched_entry *e = find_entry(s, seq);

    if (e == NULL || !e->away)
        return;
    e->away = 0;
    if (!e->waiting)
        account_kv(s, e, e->cached);
}

void sched_requeue(struct sched *s, int64_t now, uint64_t seq)
{
    struct sched_entry *e = find_entry(s, seq);

    if (e == NULL || e->waiting)
        return;
    left(s, e, 1);
    leave(s, e);
    e->waiting = 1;
    e->away = 0;
    e->cached = 0;
    enter(s, now, e, e->slot);
}

int sched_resume(struct sched *s, int64_t now, uint64_t seq, uint32_t *instance, struct error *err)
{
    struct sched_entry *e = find_entry(s, seq);
    struct sched_slot *slot;
    uint32_t i;

    if (e == NULL)
        return error_set(err, STATUS_NOT_FOUND, "no sequence has number %llu",
                         (unsigned long long)seq);
    leave(s, e);
    i = pick(s, e->slot->model, s->roles ? SCHED_PREFILL : SCHED_MIXED);
    slot = i != SCHED_NONE ? need_slot(s, i, e->slot->model) : e->slot;
    if (slot == NULL || !slot->known) {
        enter(s, now, e, e->slot);
        return error_set(err, STATUS_UNAVAILABLE, "no available instance can run model number %u",
                         e->slot->model);
    }
    e->waiting = 0;
    enter(s, now, e, slot);
    if (e->group == NULL && s->policy->arrived != NULL)
        s->policy->arrived(s, e); /* without memory it has no group, and runs with the next one */
    *instance = slot->instance;
    return 0;
}
