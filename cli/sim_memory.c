/* sim_memory.c - a simulated device's memory: weights that come and go, KV that gives way */
#include <stdlib.h>

#include "cli/sim_state.h"

struct resident *device_resident(const struct device *d, uint32_t model)
{
    for (uint32_t i = 0; i < d->resident_count; i++) {
        if (d->residents[i].model == model)
            return &d->residents[i];
    }
    return NULL;
}

static struct resident *add_resident(struct sim *s, struct device *d, uint32_t model)
{
    if (d->resident_count == d->resident_room) {
        uint32_t room = d->resident_room > 0 ? d->resident_room * 2 : 4;
        struct resident *more = realloc(d->residents, room * sizeof *more);

        if (more == NULL) {
            sim_fail(s);
            return NULL;
        }
        d->residents = more;
        d->resident_room = room;
    }
    d->residents[d->resident_count] = (struct resident){.model = model};
    return &d->residents[d->resident_count++];
}

static void drop_resident(struct device *d, uint32_t model)
{
    struct resident *r = device_resident(d, model);

    if (r != NULL)
        *r = d->residents[--d->resident_count];
}

/* The least recently run one that is neither running nor on its way; 0: there is none. */
static int evict_one(struct sim *s, struct device *d, uint32_t keep)
{
    struct resident *oldest = NULL;

    for (uint32_t i = 0; i < d->resident_count; i++) {
        struct resident *r = &d->residents[i];

        if (r->model != keep && !r->loading && (oldest == NULL || r->used < oldest->used))
            oldest = r;
    }
    if (oldest == NULL)
        return 0;
    sched_set_resident(s->sched, d->index, oldest->model, 0);
    drop_resident(d, oldest->model);
    return 1;
}

static double weights(const struct sim *s, uint32_t model)
{
    return s->trace->models[model].kind->weight_bytes;
}

/* When the link has copied a model from the host; while its disk reads, the link may copy others.
 */
static int64_t copied_at(struct sim *s, struct device *d, uint32_t model, int64_t hosted)
{
    int64_t from = d->link_free > s->now ? d->link_free : s->now;
    int64_t takes = (int64_t)(sim_cost(s, model)->load * 1e9);
    int64_t done = (hosted > from ? hosted : from) + takes;

    d->link_free = from + takes;
    host_hold(s, d, model, done);
    return done;
}

static int64_t wait_for_load(struct sim *s, struct device *d, struct resident *r)
{
    if (r->loading) {
        s->report->prefetch_waits++;
        r->behind = 0;
        return d->loaded;
    }
    if (r->behind && d->last_model != r->model)
        s->report->prefetch_hits++;
    else if (d->last_model != r->model)
        s->report->resident_hits++;
    r->behind = 0;
    return s->now;
}

int64_t device_load_now(struct sim *s, struct device *d, uint32_t model)
{
    struct resident *r = device_resident(d, model);
    int64_t hosted;

    if (r != NULL)
        return wait_for_load(s, d, r);
    while (s->traits.residents_max > 0 && d->resident_count >= s->traits.residents_max &&
           evict_one(s, d, model))
        ;
    while ((double)sched_free_bytes(s->sched, d->index) < weights(s, model) &&
           evict_one(s, d, model))
        ;
    device_make_room(s, d, model, weights(s, model));
    r = add_resident(s, d, model);
    if (r == NULL)
        return s->now;
    sched_set_resident(s->sched, d->index, model, 1);
    s->report->loads++;
    s->report->bytes += weights(s, model);
    hosted = host_fetch(s, d, model);
    if (s->fleet->prefetch == SIM_HALF && sim_uniform(&s->coin) < 0.5) {
        s->report->prefetch_hits++;
        return hosted;
    }
    return copied_at(s, d, model, hosted);
}

void device_load_behind(struct sim *s, struct device *d)
{
    struct sched_load load;
    struct resident *r;

    if (d->loaded > s->now || !sched_load(s->sched, s->now / 1000, d->index, &load))
        return;
    for (uint32_t i = 0; i < load.evict_count; i++)
        drop_resident(d, load.evict[i]);
    r = add_resident(s, d, load.model);
    if (r == NULL)
        return;
    r->loading = r->behind = 1;
    device_make_room(s, d, load.model, 0);
    s->report->loads++;
    s->report->bytes += weights(s, load.model);
    d->loaded = copied_at(s, d, load.model, host_fetch(s, d, load.model));
    if ((double)(d->loaded - s->now) / 1e9 > s->report->longest_load)
        s->report->longest_load = (double)(d->loaded - s->now) / 1e9;
    sim_push(s,
             (struct event){
                 .at = d->loaded, .kind = EVENT_LOADED, .device = d->index, .request = load.model});
}

/* --- KV --------------------------------------------------------------------------------------- */

static void spill(struct sim *s, struct device *d, const struct sched_spill *out)
{
    struct progress *p = &s->progress[out->seq - 1];

    (void)d;
    p->away = 1;
    p->fresh_copy = out->recompute != 0;
    s->report->spills++;
    s->report->recomputes += out->recompute != 0;
}

/* What is on its way gives way, too, in the end. */
static int cancel_load(struct sim *s, struct device *d, uint32_t keep)
{
    for (uint32_t i = 0; i < d->resident_count; i++) {
        uint32_t model = d->residents[i].model;

        if (!d->residents[i].loading || model == keep)
            continue;
        sched_set_resident(s->sched, d->index, model, 0);
        drop_resident(d, model);
        return 1;
    }
    return 0;
}

int device_make_room(struct sim *s, struct device *d, uint32_t model, double bytes)
{
    struct sched_spill out;

    while ((double)sched_free_bytes(s->sched, d->index) < bytes) {
        if (sched_spill(s->sched, s->now / 1000, d->index, model, &out))
            spill(s, d, &out);
        else if (!evict_one(s, d, model) && !cancel_load(s, d, model))
            return 0;
    }
    return 1;
}

double device_fetch(struct sim *s, struct device *d, uint32_t request)
{
    struct progress *p = &s->progress[request];
    uint32_t model = s->trace->requests[request].model;
    const struct cost *c = sim_cost(s, model);
    double bytes = p->cached * s->trace->models[model].kind->kv_token_bytes;

    (void)d;
    if (!p->away)
        return 0;
    p->away = 0;
    sched_fetched(s->sched, request + 1);
    if (p->fresh_copy)
        return cost_prefill(c, 0, p->cached);
    s->report->kv_bytes += bytes;
    return c->kv_token * p->cached;
}
