/* bench_rotation.c - many models in turns of equal length, each loaded behind the turn before */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "engine/bench_subject.h"

#define NAMES       20u
#define SAMPLES     50u
#define BATCH       8u
#define PROMPT      64u
#define OUTPUT      3000u
#define TURN_US     400000u
#define PIN_STEPS   64u
#define PIN_WAIT_US 60000000

static const char *const shapes[] = {"qwen2.5-7b", "yi-1.5-9b"}; /* beside llama3-8b */
#define SHAPES 3u

struct rotation {
    struct subject *s;
    uint32_t names, turns;
    uint32_t distinct; /* copies in host memory */
    uint32_t misses;   /* turns whose model was not there */
    double in_steps_us;
    struct limit gaps, steps;
};

static uint32_t open_of(const struct subject *s, uint32_t model)
{
    const struct sequence *q;
    uint32_t n = 0;

    TAILQ_FOREACH(q, &s->e->sequences.queue, link)
    n += q->model->id == model;
    return n;
}

/* One of a shape that is not there yet. */
static int add_shape(struct rotation *k, uint32_t model, const char *shape)
{
    struct subject *s = k->s;

    if (subject_model_of(s, model, shape) != 0)
        return -1;
    if (s->models[model].master < 0)
        return error_set(s->err, STATUS_EXHAUSTED, "--host=: no room for a copy of %s", shape);
    return subject_prepare(s, model);
}

/* Steps of the first model while that one's master copy is pinned and checked. */
static int beside_pinning(struct rotation *k, uint32_t other)
{
    struct subject *s = k->s;
    struct limit l = {.name = "switch: a step beside pinning", .unit = "us"};
    struct limit rate = {.name = "switch: pinned and checked beside steps", .unit = "us"};
    const struct model *m = residency_find(&s->e->residency, other);
    int64_t start;

    l.params = rate.params = s->models[other].shape->name;
    if (subject_turn(s, 1, 2) != 0)
        return -1;
    subject_lend(s, other, 1);
    subject_lend(s, other, 0);
    start = clock_monotonic_us();
    while (!master_is_ready(&m->copy) && clock_monotonic_us() - start < PIN_WAIT_US) {
        s->full_batch = BATCH;
        if (subject_turn(s, 1, PIN_STEPS) != 0)
            return -1;
        for (uint32_t i = 0; i + SUBJECT_FIRST < s->steps && l.count < LIMIT_ROOM; i++)
            l.samples[l.count++] = s->step_us[i];
    }
    rate.samples[rate.count++] = (double)(clock_monotonic_us() - start);
    rate.bytes = (double)m->range_bytes;
    s->found(s->arg, &l);
    s->found(s->arg, &rate);
    if (master_is_ready(&m->copy))
        return 0;
    return error_set(s->err, STATUS_INTERNAL, "a master copy is never pinned");
}

/* Each shape has one copy in host memory, as far as there is room, which all names of that shape
 * read.  Every name has a batch. */
static int add_models(struct rotation *k)
{
    struct subject *s = k->s;
    uint32_t there = s->e->residency.count, of_shape[SHAPES] = {1}, model = there;

    for (uint32_t i = 0; i + 1 < SHAPES && strcmp(s->how.shape, "llama3-8b") == 0; i++) {
        uint64_t room = s->how.host_bytes - s->host_used;
        if (room < s->host_used / k->distinct * 9 / 8 || model == k->names)
            break;
        if (add_shape(k, ++model, shapes[i]) != 0 || (i == 0 && beside_pinning(k, model) != 0))
            return -1;
        of_shape[k->distinct++] = model;
    }
    for (; model < k->names; model++)
        if (subject_same(s, model + 1, of_shape[model % k->distinct]) != 0)
            return -1;
    for (uint32_t i = 1; i <= k->names; i++)
        if ((i > there || open_of(s, i) == 0) && subject_batch(s, i, BATCH, PROMPT, OUTPUT) != 0)
            return -1;
    return 0;
}

static uint32_t model_at(const struct rotation *k, uint32_t turn)
{
    return 1 + turn % k->names;
}

/* Bring the next turn's model in, in place of all that does not run. */
static void prefetch(struct rotation *k, uint32_t running, uint32_t next)
{
    const struct residency *r = &k->s->e->residency;
    struct order_prefetch order = {.kind = ORDER_PREFETCH, .model = next};
    const struct channel_files none = {0};

    for (uint32_t i = 0; i < r->count && order.evict_count < ORDER_EVICT_MAX; i++) {
        const struct model *m = r->models[i];
        if (m->resident && m->id != running && m->id != next)
            order.evict[order.evict_count++] = m->id;
    }
    engine_order(k->s->e, &order, &none);
}

static int run(struct rotation *k)
{
    struct subject *s = k->s;
    uint64_t before, now = subject_queue(s, model_at(k, 0), 0, TURN_US);

    for (uint32_t turn = 0; turn < k->turns; turn++) {
        uint32_t model = model_at(k, turn), next = model_at(k, turn + 1);
        /* The turn's first step is there before the next model begins to come. */
        while (subject_steps(s, now)->turn != now && subject_advance(s))
            ;
        prefetch(k, model, next);
        before = now;
        now = subject_queue(s, next, 0, TURN_US);
        while (s->e->turn_count > 1 && subject_advance(s))
            ;
        if (subject_check(s) != 0)
            return -1;
        k->in_steps_us += subject_steps(s, before)->us;
        k->misses += subject_steps(s, before)->end.switch_bytes != 0;
        /* The first visits read prompts. */
        while (subject_steps(s, now)->turn != now && subject_advance(s))
            ;
        if (turn < k->names || k->gaps.count == LIMIT_ROOM)
            continue;
        const struct subject_steps *b = subject_steps(s, before), *n = subject_steps(s, now);
        double step = b->us / b->steps;
        k->gaps.samples[k->gaps.count++] = (double)(n->first_us - b->last_us) - step;
        k->steps.samples[k->steps.count++] = step;
    }
    subject_cancel_all(s);
    while (subject_advance(s))
        ;
    return subject_check(s);
}

static void tell(struct rotation *k, const char *name, const char *params, const char *unit,
                 double value, enum limit_bound bound, double limit)
{
    const struct limit l = {.name = name,
                            .params = params,
                            .unit = unit,
                            .samples = {value},
                            .count = 1,
                            .bound = bound,
                            .limit = limit};

    k->s->found(k->s->arg, &l);
}

static int measure(struct rotation *k)
{
    struct subject *s = k->s;
    uint64_t loads, asked, copied;
    char params[160];
    double wall;
    int64_t start;

    if (add_models(k) != 0)
        return -1;
    for (uint32_t i = 0; i < s->e->residency.count; i++)
        residency_unload(&s->e->residency, s->e->residency.models[i]);
    subject_events(s);
    loads = s->loads;
    asked = s->loaded_bytes;
    copied = s->e->residency.copied;
    start = clock_monotonic_us();
    if (run(k) != 0)
        return -1;
    wall = (double)(clock_monotonic_us() - start);
    residency_settle(&s->e->residency, NULL);
    loads = s->loads - loads;
    asked = s->loaded_bytes - asked;
    copied = s->e->residency.copied - copied;
    snprintf(params, sizeof(params),
             "%" PRIu32 " models, %" PRIu32 " copies in host memory, %" PRIu32 " turns of %g s",
             k->names, k->distinct, k->turns, TURN_US / 1e6);
    tell(k, "rotation: time in steps", params, "x", k->in_steps_us / wall, LIMIT_LEAST, 0.9);
    k->gaps.name = "rotation: prefetched, between two turns' steps";
    k->gaps.params = params;
    k->gaps.unit = "us";
    k->gaps.bound = LIMIT_MOST;
    k->gaps.limit = 3000;
    k->steps.name = "rotation: a step beside a load";
    k->steps.params = params;
    k->steps.unit = "us";
    s->found(s->arg, &k->gaps);
    s->found(s->arg, &k->steps);
    tell(k, "rotation: switches", params, "", k->turns, LIMIT_NONE, 0);
    tell(k, "rotation: turns that waited for a load", params, "", k->misses, LIMIT_NONE, 0);
    tell(k, "rotation: loads", params, "", (double)loads, LIMIT_LEAST, k->turns);
    tell(k, "rotation: bytes copied", params, "GB", (double)copied / 1e9, LIMIT_LEAST,
         (double)asked / 1e9);
    if (copied < asked || loads < k->turns)
        return error_set(s->err, STATUS_INTERNAL,
                         "%" PRIu64 " loads in %" PRIu32 " turns, %" PRIu64
                         " bytes copied of %" PRIu64,
                         loads, k->turns, copied, asked);
    return 0;
}

int bench_rotation(struct subject *s)
{
    const struct bench_engine *how = &s->how;
    struct rotation k = {.s = s, .names = how->names != 0 ? how->names : NAMES, .distinct = 1};

    if (k.names < s->e->residency.count || k.names >= SUBJECT_MODELS)
        return error_set(s->err, STATUS_INVALID, "--names: %" PRIu32 " to %u models in rotation",
                         s->e->residency.count, SUBJECT_MODELS - 1);
    k.turns = k.names + (how->samples != 0 ? how->samples : SAMPLES);
    return measure(&k);
}
