/* sched.c - life and interface of the scheduler; what to run and to load next is the policy's */
#include "sched/sched.h"

#include <stdlib.h>
#include <string.h>

#include "sched/state.h"

static const struct sched_policy *const policies[] = {&sched_rr, &sched_fcfs, &sched_sjf,
                                                      &sched_aegaeon, &sched_slack};

#define POLICY_COUNT (sizeof policies / sizeof policies[0])

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
    error_set(err, STATUS_INVALID, "no scheduler is named \"%s\"; there are: %s",
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
    if (s == NULL) {
        error_set(err, STATUS_NOMEM, "scheduler: out of memory");
        return NULL;
    }
    s->policy = found;
    s->params = *params;
    if (s->params.starve_us <= 0)
        s->params.starve_us = 60000000;
    if (s->params.held == 0)
        s->params.held = 1;
    if (s->params.fair_us <= 0)
        s->params.fair_us = 10000000;
    return s;
}

static void groups_free(struct sched_group *g)
{
    while (g != NULL) {
        struct sched_group *next = g->next;

        free(g);
        g = next;
    }
}

void sched_destroy(struct sched *s)
{
    if (s == NULL)
        return;
    sequences_free(s);
    slots_free(s);
    for (uint32_t i = 0; i < s->instance_count; i++) {
        groups_free(s->instances[i].groups);
        free(s->instances[i].slots);
        free(s->instances[i].round);
    }
    free(s->instances);
    free(s->models);
    free(s->tenants);
    free(s);
}

struct sched_traits sched_traits(const struct sched *s)
{
    return s->policy->traits;
}

/* --- instances and models -------------------------------------------------------------------- */

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
    in[instance].turn_model = SCHED_NONE;
    return 0;
}

void sched_set_role(struct sched *s, uint32_t instance, enum sched_role role, int loads_behind)
{
    struct sched_instance *in = find_instance(s, instance);

    if (in == NULL)
        return;
    in->role = role;
    in->loads_behind = loads_behind != 0;
    s->roles = 0;
    for (uint32_t i = 0; i < s->instance_count; i++)
        s->roles |= s->instances[i].known && s->instances[i].role != SCHED_MIXED;
}

void sched_set_available(struct sched *s, uint32_t instance, int available)
{
    struct sched_instance *in = find_instance(s, instance);

    if (in != NULL)
        in->available = available != 0;
}

static struct sched_model *need_model(struct sched *s, uint32_t model)
{
    struct sched_model *more;

    if (model >= SCHED_INDEX_MAX)
        return NULL;
    more = grow(s->models, &s->model_count, model, sizeof *more);
    if (more != NULL)
        s->models = more;
    return more != NULL ? &more[model] : NULL;
}

int sched_add_model(struct sched *s, uint32_t instance, uint32_t model, uint64_t weight_bytes,
                    uint64_t kv_token_bytes, struct error *err)
{
    struct sched_slot *slot;
    struct sched_model *m;

    if (instance != SCHED_ALL && find_instance(s, instance) == NULL)
        return error_set(err, STATUS_NOT_FOUND, "no instance has number %u", instance);
    if (model >= SCHED_INDEX_MAX)
        return error_set(err, STATUS_INVALID, "model number %u is too large", model);
    m = need_model(s, model);
    slot = m != NULL && instance != SCHED_ALL ? need_slot(s, instance, model) : NULL;
    if (m == NULL || (slot == NULL && instance != SCHED_ALL))
        return error_set(err, STATUS_NOMEM, "scheduler: out of memory");
    if (instance == SCHED_ALL) {
        m->known = 1;
        m->weight_bytes = weight_bytes;
        m->kv_token_bytes = kv_token_bytes;
        return 0;
    }
    if (slot->resident == SCHED_ABSENT)
        slot->weight_bytes = weight_bytes;
    if (slot->kv_tokens == 0)
        slot->kv_token_bytes = kv_token_bytes;
    slot->known = 1;
    return 0;
}

int sched_set_cost(struct sched *s, uint32_t instance, uint32_t model, const struct cost *cost,
                   struct error *err)
{
    struct sched_model *m = need_model(s, model);
    struct sched_slot *slot;

    if (m == NULL)
        return error_set(err, STATUS_INVALID, "model number %u is too large", model);
    if (instance == SCHED_ALL) {
        m->cost = *cost;
        return 0;
    }
    if (find_instance(s, instance) == NULL)
        return error_set(err, STATUS_NOT_FOUND, "no instance has number %u", instance);
    slot = need_slot(s, instance, model);
    if (slot == NULL)
        return error_set(err, STATUS_NOMEM, "scheduler: out of memory");
    slot->cost = *cost;
    s->instances[instance].share_stale = 1;
    return 0;
}

void sched_drop_model(struct sched *s, uint32_t instance, uint32_t model)
{
    struct sched_slot *slot = find_slot(s, instance, model);

    if (slot == NULL && find_instance(s, instance) != NULL && model < s->model_count &&
        s->models[model].known)
        slot = need_slot(s, instance, model); /* an exception to what is known on all */
    if (slot == NULL)
        return;
    slot->known = 0;
    slot_set_residency(s, slot, SCHED_ABSENT);
}

void sched_set_resident(struct sched *s, uint32_t instance, uint32_t model, int resident)
{
    struct sched_slot *slot;

    if (find_instance(s, instance) == NULL || model >= SCHED_INDEX_MAX)
        return;
    slot = resident ? need_slot(s, instance, model) : find_slot(s, instance, model);
    if (slot != NULL)
        slot_set_residency(s, slot, resident ? SCHED_RESIDENT : SCHED_ABSENT);
    slot_release(s, slot);
}

void sched_set_hosted(struct sched *s, uint32_t instance, uint32_t model, int hosted)
{
    struct sched_slot *slot;

    if (find_instance(s, instance) == NULL || model >= SCHED_INDEX_MAX)
        return;
    slot = hosted ? need_slot(s, instance, model) : find_slot(s, instance, model);
    if (slot != NULL)
        slot->hosted = hosted != 0;
    slot_release(s, slot);
}

void sched_set_pinned(struct sched *s, uint32_t instance, uint32_t model, int pinned)
{
    struct sched_slot *slot = find_slot(s, instance, model);

    if (slot != NULL)
        slot->pinned = pinned;
}

/* --- decisions ------------------------------------------------------------------------------- */

void sched_turn_ended(struct sched *s, int64_t now, uint32_t instance, uint32_t model,
                      uint32_t steps, int64_t step_us, int64_t switch_us)
{
    struct sched_instance *in = find_instance(s, instance);
    struct sched_slot *slot = find_slot(s, instance, model);

    (void)steps;
    if (in == NULL)
        return;
    in->busy_us += step_us + switch_us;
    if (slot == NULL)
        return;
    slot->since = now;
    tenants_charge(s, slot, (double)(step_us + switch_us) / 1e6);
    slot_release(s, slot);
}

int sched_next(struct sched *s, int64_t now, uint32_t instance, struct sched_turn *turn)
{
    struct sched_instance *in = find_instance(s, instance);
    struct sched_slot *slot;

    if (in == NULL)
        return 0;
    *turn = (struct sched_turn){.phases = SCHED_BOTH};
    if (!s->policy->next(s, now, instance, turn))
        return 0;
    slot = find_slot(s, instance, turn->model);
    slot->served = ++s->decisions;
    slot->unused = 0;
    in->turn_model = turn->model;
    turn->since = slot->since;
    return 1;
}

int sched_load(struct sched *s, int64_t now, uint32_t instance, struct sched_load *load)
{
    struct sched_instance *in = find_instance(s, instance);

    if (in == NULL || !in->loads_behind || in->loading != NULL || s->policy->load == NULL)
        return 0;
    *load = (struct sched_load){.evict_count = 0};
    if (!s->policy->load(s, now, instance, load))
        return 0;
    for (uint32_t i = 0; i < load->evict_count; i++) {
        struct sched_slot *slot = find_slot(s, instance, load->evict[i]);

        slot_set_residency(s, slot, SCHED_ABSENT);
        slot_release(s, slot);
    }
    slot_set_residency(s, find_slot(s, instance, load->model), SCHED_LOADING);
    return 1;
}

int64_t sched_free_bytes(const struct sched *s, uint32_t instance)
{
    const struct sched_instance *in = find_instance(s, instance);

    return in != NULL ? (int64_t)in->memory_bytes - in->weights - in->kv : 0;
}

uint64_t sched_victim(const struct sched *s, uint32_t instance, uint32_t model)
{
    const struct sched_slot *slot = find_slot(s, instance, model);
    const struct sched_entry *e = slot != NULL ? slot->last : NULL;

    while (e != NULL && e->strict)
        e = e->prev;
    if (e == NULL && slot != NULL)
        e = slot->last;
    return e != NULL ? e->seq : 0;
}

uint32_t sched_count(const struct sched *s, uint32_t instance, uint32_t model)
{
    const struct sched_slot *slot = find_slot(s, instance, model);

    return slot != NULL ? slot->running + slot->waiting : 0;
}

void sched_get_work(const struct sched *s, uint32_t instance, uint32_t model,
                    struct sched_work *work)
{
    struct sched_slot *slot = find_slot(s, instance, model);

    *work = (struct sched_work){.due = INT64_MAX};
    if (slot == NULL)
        return;
    work->running = slot->running;
    work->waiting = slot->waiting;
    work->share = slot_promise(s, slot); /* which scans it */
    if (slot->running == 0)
        return;
    work->since = slot->since;
    work->due = slot->due;
}

/* --- KV pressure ------------------------------------------------------------------------------ */

static struct sched_entry *newest_on_device(const struct sched_slot *slot)
{
    struct sched_entry *e = slot->last;

    while (e != NULL && (e->away || e->cached == 0))
        e = e->prev;
    return e;
}

/* The batch that can spare its KV longest: not resident first, then the latest deadline, and last
 * the one that runs. */
static int spares_more(const struct sched_instance *in, struct sched_slot *a, struct sched_slot *b)
{
    int a_in = (a->resident == SCHED_RESIDENT) + 2 * (a->model == in->turn_model);
    int b_in = (b->resident == SCHED_RESIDENT) + 2 * (b->model == in->turn_model);

    slot_scan(a);
    slot_scan(b);
    if (a_in != b_in)
        return a_in < b_in;
    return a->due != b->due ? a->due > b->due : a->model > b->model;
}

int sched_spill(struct sched *s, int64_t now, uint32_t instance, uint32_t model,
                struct sched_spill *spill)
{
    struct sched_instance *in = find_instance(s, instance);
    struct sched_slot *best = NULL;
    struct sched_entry *e;
    const struct cost *c;

    (void)now;
    for (uint32_t i = 0; in != NULL && i < in->slot_count; i++) {
        struct sched_slot *slot = in->slots[i];

        if (slot->model != model && newest_on_device(slot) != NULL &&
            (best == NULL || spares_more(in, slot, best)))
            best = slot;
    }
    if (best == NULL && in != NULL)
        best = find_slot(s, instance, model);
    e = best != NULL ? newest_on_device(best) : NULL;
    if (e == NULL || (best->model == model && e == best->first))
        return 0;
    c = slot_cost(s, best);
    spill->seq = e->seq;
    spill->recompute = cost_prefill(c, 0, e->cached) < 2 * c->kv_token * e->cached;
    best->kv_tokens -= e->cached;
    in->kv -= (int64_t)e->cached * (int64_t)best->kv_token_bytes;
    e->away = 1;
    return 1;
}
