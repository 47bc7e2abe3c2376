/* slot.c - models on instances: their table, residency, and sums over their sequences */
#include <stdlib.h>
#include <string.h>

#include "sched/state.h"

#define SLOT_BUCKETS 256u

/* Without figures of its own a model costs what a small one does on a few cores. */
static const struct cost usual_cost = {.prefill = 5e-3,
                                       .prefill_token = 2e-3,
                                       .decode = 2e-2,
                                       .decode_row = 2e-3,
                                       .load = 0.2,
                                       .kv_token = 1e-5};

void *grow(void *array, uint32_t *count, uint32_t index, size_t size)
{
    uint32_t room = index + 1;
    char *p;

    if (index < *count)
        return array;
    p = realloc(array, (size_t)room * size);
    if (p == NULL)
        return NULL;
    memset(p + *count * size, 0, (size_t)(room - *count) * size);
    *count = room;
    return p;
}

struct sched_instance *find_instance(const struct sched *s, uint32_t instance)
{
    if (instance >= s->instance_count || !s->instances[instance].known)
        return NULL;
    return &s->instances[instance];
}

/* --- the table -------------------------------------------------------------------------------- */

/* Fibonacci hashing (Knuth, TAOCP 3, 6.4). */
static size_t bucket_of(size_t buckets, uint32_t instance, uint32_t model)
{
    uint64_t key = (uint64_t)instance << 32 | model;

    return (size_t)((key * 0x9e3779b97f4a7c15u) >> 20) & (buckets - 1);
}

struct sched_slot *find_slot(const struct sched *s, uint32_t instance, uint32_t model)
{
    struct sched_slot *slot;

    if (s->slot_buckets == NULL)
        return NULL;
    slot = s->slot_buckets[bucket_of(s->slot_bucket_count, instance, model)];
    while (slot != NULL && (slot->instance != instance || slot->model != model))
        slot = slot->bucket_next;
    return slot;
}

/* Twice the buckets when they are full; without memory the chains just grow. */
static int rehash(struct sched *s)
{
    size_t n = s->slot_bucket_count, wide = n > 0 ? n * 2 : SLOT_BUCKETS;
    struct sched_slot **wider;

    if (n > 0 && s->slot_total < n)
        return 0;
    wider = calloc(wide, sizeof(struct sched_slot *));
    if (wider == NULL)
        return n > 0 ? 0 : -1;
    for (size_t b = 0; b < n; b++) {
        for (struct sched_slot *slot = s->slot_buckets[b], *next; slot != NULL; slot = next) {
            size_t to = bucket_of(wide, slot->instance, slot->model);

            next = slot->bucket_next;
            slot->bucket_next = wider[to];
            wider[to] = slot;
        }
    }
    free(s->slot_buckets);
    s->slot_buckets = wider;
    s->slot_bucket_count = wide;
    return 0;
}

struct sched_slot *need_slot(struct sched *s, uint32_t instance, uint32_t model)
{
    struct sched_slot *slot = find_slot(s, instance, model);
    struct sched_model *models;
    size_t b;

    if (slot != NULL)
        return slot;
    models = grow(s->models, &s->model_count, model, sizeof *models);
    if (models == NULL)
        return NULL;
    s->models = models;
    if (rehash(s) != 0 || (slot = calloc(1, sizeof *slot)) == NULL)
        return NULL;
    slot->instance = instance;
    slot->model = model;
    slot->place = SCHED_NONE;
    slot->known = models[model].known;
    slot->weight_bytes = models[model].weight_bytes;
    slot->kv_token_bytes = models[model].kv_token_bytes;
    slot->due = SCHED_FAR;
    slot->sibling = models[model].slots;
    models[model].slots = slot;
    b = bucket_of(s->slot_bucket_count, instance, model);
    slot->bucket_next = s->slot_buckets[b];
    s->slot_buckets[b] = slot;
    s->slot_total++;
    return slot;
}

int slot_may_run(const struct sched *s, const struct sched_slot *slot, uint32_t instance,
                 uint32_t model)
{
    if (!s->instances[instance].known || !s->instances[instance].available)
        return 0;
    if (slot != NULL)
        return slot->known;
    return model < s->model_count && s->models[model].known;
}

static int is_needed(const struct sched *s, const struct sched_slot *slot)
{
    const struct sched_model *m = &s->models[slot->model];

    return slot->running + slot->waiting > 0 || slot->resident != SCHED_ABSENT || slot->hosted ||
           slot->gone_count > 0 || !m->known || !slot->known || slot->cost.decode > 0 ||
           slot->weight_bytes != m->weight_bytes || slot->kv_token_bytes != m->kv_token_bytes;
}

void slot_release(struct sched *s, struct sched_slot *slot)
{
    struct sched_slot **link;

    if (slot == NULL || s->policy->keeps_slots || is_needed(s, slot))
        return;
    link = &s->slot_buckets[bucket_of(s->slot_bucket_count, slot->instance, slot->model)];
    while (*link != slot)
        link = &(*link)->bucket_next;
    *link = slot->bucket_next;
    link = &s->models[slot->model].slots;
    while (*link != slot)
        link = &(*link)->sibling;
    *link = slot->sibling;
    s->slot_total--;
    free(slot->gone);
    free(slot);
}

void slots_free(struct sched *s)
{
    for (size_t b = 0; b < s->slot_bucket_count; b++) {
        for (struct sched_slot *slot = s->slot_buckets[b], *next; slot != NULL; slot = next) {
            next = slot->bucket_next;
            free(slot->gone);
            free(slot);
        }
    }
    free(s->slot_buckets);
}

/* --- an instance's list ----------------------------------------------------------------------- */

int slot_list(struct sched *s, struct sched_slot *slot)
{
    struct sched_instance *in = &s->instances[slot->instance];
    int wanted = slot->running + slot->waiting > 0 || slot->resident != SCHED_ABSENT;

    if (wanted && slot->place == SCHED_NONE) {
        if (in->slot_count == in->slot_room) {
            uint32_t room = in->slot_room > 0 ? in->slot_room * 2 : 8;
            struct sched_slot **more = realloc(in->slots, room * sizeof(struct sched_slot *));

            if (more == NULL)
                return -1;
            in->slots = more;
            in->slot_room = room;
        }
        slot->place = in->slot_count;
        in->slots[in->slot_count++] = slot;
    } else if (!wanted && slot->place != SCHED_NONE) {
        in->slots[slot->place] = in->slots[--in->slot_count];
        in->slots[slot->place]->place = slot->place;
        slot->place = SCHED_NONE;
    }
    return 0;
}

void slot_set_residency(struct sched *s, struct sched_slot *slot, enum sched_residency to)
{
    struct sched_instance *in = &s->instances[slot->instance];

    if (slot->resident == SCHED_ABSENT && to != SCHED_ABSENT)
        in->weights += (int64_t)slot->weight_bytes;
    else if (slot->resident != SCHED_ABSENT && to == SCHED_ABSENT)
        in->weights -= (int64_t)slot->weight_bytes;
    if (in->loading == slot && to != SCHED_LOADING)
        in->loading = NULL;
    if (to == SCHED_LOADING)
        in->loading = slot;
    slot->unused = slot->resident == SCHED_LOADING && to == SCHED_RESIDENT;
    slot->resident = to;
    slot_list(s, slot); /* without memory it is not listed: it looks absent, and is loaded again */
}

/* --- sums ------------------------------------------------------------------------------------- */

void slot_touch(struct sched *s, struct sched_slot *slot)
{
    slot->stale = 1;
    s->instances[slot->instance].share_stale = 1;
}

void slot_scan(struct sched_slot *slot)
{
    if (!slot->stale)
        return;
    slot->stale = 0;
    slot->due = slot->tbt = SCHED_FAR;
    slot->fresh = slot->ready = 0;
    slot->context = slot->behind = 0;
    for (const struct sched_entry *e = slot->first; e != NULL; e = e->next) {
        int64_t due = entry_due(e);

        if (due < slot->due)
            slot->due = due;
        if (e->tbt < slot->tbt)
            slot->tbt = e->tbt;
        if (e->produced > 0) {
            slot->ready++;
            slot->context += e->cached;
        } else {
            slot->fresh++;
            slot->behind += e->tokens;
        }
    }
}

const struct cost *slot_cost(const struct sched *s, const struct sched_slot *slot)
{
    const struct cost *c = &slot->cost;

    if (!(c->decode > 0))
        c = &s->models[slot->model].cost;
    return c->decode > 0 ? c : &usual_cost;
}

int64_t slot_load_us(const struct sched *s, const struct sched_slot *slot)
{
    const struct cost *c = slot_cost(s, slot);

    return (int64_t)((slot->hosted ? c->load : c->load + c->disk) * 1e6);
}

double slot_step(const struct sched *s, struct sched_slot *slot)
{
    double rows;

    slot_scan(slot);
    rows = slot->ready + slot->fresh;
    return cost_decode(slot_cost(s, slot), rows > 0 ? rows : 1, slot->context + slot->behind);
}

double slot_share(const struct sched *s, struct sched_slot *slot)
{
    slot_scan(slot);
    if (slot->running == 0)
        return 0;
    return slot_step(s, slot) * 1e6 / (double)slot->tbt;
}
