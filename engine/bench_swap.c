/* bench_swap.c - how fast KV goes to host memory and back, and what that costs others' steps */
#include <inttypes.h>
#include <stdio.h>

#include "common/clock.h"
#include "engine/bench_subject.h"
#include "engine/turn.h"

#define SWAPPED  1u /* the model whose sequences move */
#define DECODES  2u /* the one that runs meanwhile */
#define BESIDE   8u
#define CONTEXT  64u
#define ROUNDS   5u
#define OUTPUT   4096u
#define PAGE_MAX 128u /* tokens */

static int order_all(struct subject *s, uint64_t first, uint32_t kind)
{
    const struct channel_files none = {0};

    s->moved = s->moved_not = 0;
    s->moved_bytes = 0;
    s->moved_start = clock_monotonic_us();
    for (uint32_t i = 0; i < s->how.batch_max; i++) {
        struct order_ref ref = {.kind = kind, .model = SWAPPED, .seq = first + (uint64_t)i * 64};
        engine_order(s->e, &ref, &none);
    }
    return 0;
}

static int check_moved(struct subject *s)
{
    if (s->moved == s->how.batch_max && s->moved_not == 0)
        return 0;
    return error_set(s->err, STATUS_INTERNAL,
                     "of %" PRIu32 " sequences %" PRIu32 " have moved, %" PRIu32 " were refused",
                     s->how.batch_max, s->moved, s->moved_not);
}

static void add(struct limit *l, struct subject *s)
{
    l->samples[l->count++] = (double)(s->moved_us - s->moved_start);
    l->bytes = (double)s->moved_bytes;
}

/* With nothing else to do. */
static int move_alone(struct subject *s, uint64_t first, uint32_t kind, struct limit *l)
{
    order_all(s, first, kind);
    while (s->e->swap.moving > 0) {
        swap_advance(&s->e->swap, s->e->swap.stride);
        swap_wait(&s->e->swap);
        subject_events(s);
    }
    subject_events(s);
    add(l, s);
    return check_moved(s);
}

static void add_steps(struct limit *l, const struct subject *s, uint32_t end)
{
    end = end < SUBJECT_STEPS + SUBJECT_FIRST ? end : SUBJECT_STEPS + SUBJECT_FIRST;
    for (uint32_t i = 0; i + SUBJECT_FIRST < end && l->count < LIMIT_SAMPLES_MAX; i++)
        l->samples[l->count++] = s->step_us[i];
}

/* While the other model decodes; the steps that ended before all had moved. */
static int move_beside(struct subject *s, uint64_t first, uint32_t kind, struct limit *l,
                       struct limit *steps)
{
    order_all(s, first, kind);
    if (subject_turn(s, DECODES, SUBJECT_STEPS + SUBJECT_FIRST) != 0)
        return -1;
    add_steps(steps, s, s->e->swap.moving > 0 ? s->steps : s->moved_steps);
    while (s->e->swap.moving > 0 && subject_turn(s, DECODES, 4) == 0)
        ;
    add(l, s);
    return check_moved(s);
}

/* Sequences that decode, of both models. */
static int begin(struct subject *s, uint64_t *first)
{
    uint32_t steps, batch = s->how.batch_max;

    if (batch >= s->e->rows_max)
        return error_set(s->err, STATUS_INVALID,
                         "%" PRIu32 " sequences: a step has %" PRIu32 " rows", batch,
                         s->e->rows_max);
    if (subject_model(s, SWAPPED) != 0 || subject_model(s, DECODES) != 0)
        return -1;
    *first = s->turn * 1000 * 64 + SWAPPED;
    steps = batch * s->how.context / (s->e->rows_max - batch) + 4;
    if (subject_batch(s, SWAPPED, batch, s->how.context, OUTPUT) != 0 ||
        subject_turn(s, SWAPPED, steps) != 0)
        return -1;
    steps = BESIDE * CONTEXT / s->e->rows_max + 4;
    if (subject_batch(s, DECODES, BESIDE, CONTEXT, OUTPUT) != 0 ||
        subject_turn(s, DECODES, steps) != 0)
        return -1;
    return 0;
}

static int measure(struct subject *s)
{
    char params[96], with[96];
    struct limit out = {.name = "swap: out", .params = params, .unit = "us"};
    struct limit in = {.name = "swap: in", .params = params, .unit = "us"};
    struct limit out_beside = {.name = "swap: out beside steps", .params = params, .unit = "us"};
    struct limit in_beside = {.name = "swap: in beside steps", .params = params, .unit = "us"};
    struct limit step = {.name = "step: nothing moves", .params = with, .unit = "us"};
    struct limit step_out = {.name = "step: beside swap out", .params = with, .unit = "us"};
    struct limit step_in = {.name = "step: beside swap in", .params = with, .unit = "us"};
    const struct limit *all[] = {&out, &in, &out_beside, &in_beside, &step, &step_out, &step_in};
    uint64_t first = 0;

    snprintf(params, sizeof(params), "%s KV, %" PRIu32 " x %" PRIu32 " tokens", s->how.shape,
             s->how.batch_max, s->how.context);
    snprintf(with, sizeof(with), "%s %s, batch %u", s->how.shape, s->how.dtype, BESIDE);
    if (begin(s, &first) != 0)
        return -1;
    for (uint32_t i = 0; i < ROUNDS; i++)
        if (move_alone(s, first, ORDER_SEQ_SPILL, &out) != 0 ||
            move_alone(s, first, ORDER_SEQ_FETCH, &in) != 0)
            return -1;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        if (subject_turn(s, DECODES, SUBJECT_STEPS + SUBJECT_FIRST) != 0)
            return -1;
        add_steps(&step, s, SUBJECT_STEPS / 2);
        if (move_beside(s, first, ORDER_SEQ_SPILL, &out_beside, &step_out) != 0 ||
            move_beside(s, first, ORDER_SEQ_FETCH, &in_beside, &step_in) != 0)
            return -1;
    }
    /* And they go on. */
    if (subject_turn(s, SWAPPED, 4) != 0)
        return -1;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (all[i]->count > 0) /* all may have moved before a step was done */
            s->found(s->arg, all[i]);
    return 0;
}

int bench_swap(const struct bench_engine *how, limit_f *found, void *arg, struct error *err)
{
    const struct random_shape *shape = random_shape_find(how->shape);
    struct bench_engine with = *how;
    struct subject *s;
    int rv = -1;

    if (shape == NULL)
        return error_set(err, STATUS_INVALID, "no shape %s", how->shape);
    with.swap_bytes = (uint64_t)2 * shape->kv_heads * shape->head_dim * shape->layers *
                      (how->precision == PRECISION_FAST ? 2 : 4) * how->batch_max *
                      ((uint64_t)how->context + 2 * PAGE_MAX);
    s = subject_open(&with, found, arg, err);
    if (s != NULL)
        rv = measure(s);
    subject_close(s);
    return rv;
}
