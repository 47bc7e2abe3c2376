/* bench_switch.c - how fast an engine goes from one model to another */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "engine/bench_subject.h"

#define MODELS     2u
#define BATCH      8u
#define PROMPT     64u
#define LONG       1024u /* tokens of a prompt whose first token is waited for */
#define SAMPLES    50u
#define OUTPUT     3000u
#define SWITCH_US  310000.0 /* that a cold one may take: a model of 8B in bfloat16 */
#define COPY_SHARE 0.95     /* of the copy's rate that it must have */

struct switching {
    struct subject *s;
    char params[96];
    uint32_t samples;
    double load_us; /* the median of what weights alone take */
    double step_us; /* of a step of the batch, its model resident */
};

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median_of(const double *samples, uint32_t count)
{
    double sorted[LIMIT_ROOM];

    memcpy(sorted, samples, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), ascending);
    return sorted[count / 2];
}

static const struct model *model_of(const struct switching *k, uint32_t number)
{
    return residency_find(&k->s->e->residency, number);
}

static void unload(struct switching *k, uint32_t model)
{
    struct order_ref order = {.kind = ORDER_UNLOAD, .model = model};
    const struct channel_files none = {0};

    engine_order(k->s->e, &order, &none);
}

static void unload_all(struct switching *k)
{
    for (uint32_t i = 0; i < k->s->e->residency.count; i++)
        unload(k, k->s->e->residency.models[i]->id);
}

static int is_8b(const struct switching *k)
{
    return strcmp(k->s->how.shape, "llama3-8b") == 0 && strcmp(k->s->how.dtype, "bf16") == 0;
}

/* One turn of a model that is not there, of so many steps (0: until nothing is left); the time from
 * its order to its end. */
static int cold_turn(struct switching *k, uint32_t model, uint32_t steps, double *us)
{
    const struct model *m = model_of(k, model);
    int64_t start;

    unload_all(k);
    start = clock_monotonic_us();
    if (subject_turn(k->s, model, steps) != 0)
        return -1;
    *us = (double)(clock_monotonic_us() - start);
    if (k->s->end.switch_bytes == m->weight_bytes)
        return 0;
    return error_set(k->s->err, STATUS_INTERNAL, "a switch moved %" PRIu64 " bytes of %" PRIu64,
                     k->s->end.switch_bytes, m->weight_bytes);
}

/* A batch that waits, with nothing in memory. */
static int cold(struct switching *k)
{
    struct limit copy = {.name = "switch: weights", .params = k->params, .unit = "us"};
    struct limit all = {.name = "switch: cold, to first step", .params = k->params, .unit = "us"};
    struct limit share = {.name = "switch: cold, of the copy's rate",
                          .params = k->params,
                          .unit = "x",
                          .bound = LIMIT_LEAST,
                          .limit = COPY_SHARE};

    copy.bytes = all.bytes = (double)model_of(k, 1)->weight_bytes;
    for (uint32_t i = 0; i < k->samples; i++) {
        if (cold_turn(k, 1 + i % MODELS, 1, &all.samples[i]) != 0)
            return -1;
        copy.samples[i] = (double)k->s->end.switch_us;
        share.samples[i] = all.bytes / 1e3 / all.samples[i] / k->s->how.copy_rate;
        copy.count = all.count = i + 1;
        share.count = k->s->how.copy_rate > 0 ? i + 1 : 0;
    }
    if (is_8b(k)) {
        all.bound = LIMIT_MOST;
        all.limit = SWITCH_US;
    }
    k->load_us = median_of(copy.samples, copy.count);
    k->s->found(k->s->arg, &copy);
    k->s->found(k->s->arg, &all);
    if (share.count > 0)
        k->s->found(k->s->arg, &share);
    return 0;
}

/* A prompt that waits, likewise. */
static int cold_prompt(struct switching *k)
{
    struct limit l = {.name = "switch: cold, first token of a prompt",
                      .params = k->params,
                      .unit = "us",
                      .bound = LIMIT_MOST,
                      .limit = k->load_us + 15000};
    uint32_t model = MODELS + 1;

    l.bytes = (double)model_of(k, model)->weight_bytes;
    for (uint32_t i = 0; i < k->samples; i++) {
        if (subject_sequence(k->s, model, 1000000 + i, LONG, 1) != 0 ||
            cold_turn(k, model, 0, &l.samples[i]) != 0)
            return -1;
        l.count++;
        if (k->s->yielded != 1)
            return error_set(k->s->err, STATUS_INTERNAL, "%" PRIu32 " first tokens of one prompt",
                             k->s->yielded);
    }
    k->s->found(k->s->arg, &l);
    return 0;
}

/* From the last step of one turn to the first one of the next, less what a step takes. */
static double gap(const struct switching *k, uint64_t from, uint64_t to, double step_us)
{
    return (double)(subject_steps(k->s, to)->first_us - subject_steps(k->s, from)->last_us) -
           step_us;
}

/* To a model that is there. */
static int resident(struct switching *k)
{
    struct limit l = {.name = "switch: resident, between two turns' steps",
                      .params = k->params,
                      .unit = "us",
                      .bound = LIMIT_MOST,
                      .limit = 1000};
    struct limit step = {.name = "switch: a step", .params = k->params, .unit = "us"};
    uint64_t before;

    for (uint32_t i = 1; i <= MODELS; i++)
        if (subject_turn(k->s, i, 2) != 0)
            return -1;
    k->s->full_batch = BATCH;
    if (subject_turn(k->s, 1, SUBJECT_STEPS + SUBJECT_FIRST) != 0)
        return -1;
    while (step.count < k->s->steps - SUBJECT_FIRST) {
        step.samples[step.count] = k->s->step_us[step.count];
        step.count++;
    }
    k->step_us = median_of(step.samples, step.count);
    k->s->found(k->s->arg, &step);
    before = subject_queue(k->s, 1, 2, 0);
    for (uint32_t i = 0; i <= k->samples; i++) {
        uint64_t turn = subject_queue(k->s, 1 + (i + 1) % MODELS, 2, 0);
        while (k->s->e->turns[0].order.turn != turn && subject_advance(k->s))
            ;
        while (subject_steps(k->s, turn)->turn != turn && subject_advance(k->s))
            ;
        if (subject_check(k->s) != 0)
            return -1;
        l.samples[l.count++] = gap(k, before, turn, k->step_us);
        before = turn;
    }
    while (subject_advance(k->s))
        ;
    k->s->found(k->s->arg, &l);
    return subject_check(k->s);
}

/* All bytes of all loads did go through a lane. */
static int check_bytes(struct switching *k)
{
    const struct subject *s = k->s;
    uint64_t copied = s->e->residency.copied;
    struct limit l = {
        .name = "switch: bytes copied", .params = k->params, .unit = "GB", .count = 1};

    l.samples[0] = (double)copied / 1e9;
    l.bound = LIMIT_LEAST;
    l.limit = (double)s->loaded_bytes / 1e9;
    s->found(s->arg, &l);
    if (copied >= s->loaded_bytes)
        return 0;
    return error_set(s->err, STATUS_INTERNAL,
                     "%" PRIu64 " bytes were copied for %" PRIu64 " loads of %" PRIu64 " in all",
                     copied, s->loads, s->loaded_bytes);
}

/* Two models with a batch and one without, each with a name, a place and keys and values of its
 * own, of one copy in host memory: what is moved is the same, and half as much is made. */
static int begin(struct switching *k)
{
    struct subject *s = k->s;

    if (subject_model(s, 1) != 0 || subject_prepare(s, 1) != 0)
        return -1;
    for (uint32_t i = 2; i <= MODELS + 1; i++)
        if (subject_same(s, i, 1) != 0)
            return -1;
    for (uint32_t i = 1; i <= MODELS; i++)
        if (subject_batch(s, i, BATCH, PROMPT, OUTPUT) != 0 ||
            subject_turn(s, i, 4) != 0) /* prompts are read, graphs and pages are warm */
            return -1;
    return 0;
}

int bench_switch(const struct bench_engine *how, limit_f *found, void *arg, struct error *err)
{
    struct switching k = {.s = subject_open(how, found, arg, err),
                          .samples = how->samples != 0 ? how->samples : SAMPLES};
    int rv = -1;

    if (k.s == NULL)
        return -1;
    if (k.samples > LIMIT_ROOM - 2)
        k.samples = LIMIT_ROOM - 2;
    snprintf(k.params, sizeof(k.params), "%s %s, host to GPU, batch %u", how->shape, how->dtype,
             BATCH);
    if (begin(&k) == 0 && cold(&k) == 0 && cold_prompt(&k) == 0 && resident(&k) == 0 &&
        check_bytes(&k) == 0 && bench_rotation(k.s) == 0)
        rv = bench_start(k.s);
    subject_close(k.s);
    return rv;
}
