/* bench_switch.c - how fast an engine goes from one model to another */
#include <inttypes.h>
#include <stdio.h>

#include "common/clock.h"
#include "engine/bench_subject.h"

#define MODELS 2u
#define ROUNDS (LIMIT_SAMPLES_MAX / MODELS + 1)
#define BATCH  8u
#define PROMPT 64u

/* From the order of a turn to the end of its first step: a batch that waits, whose model is not
 * there.  The other one is given up for it, since both do not fit. */
static int switch_to(struct subject *s, uint32_t model, struct limit *copy, struct limit *all)
{
    const struct model *m = residency_find(&s->e->residency, model);
    int64_t start = clock_monotonic_us();

    if (subject_turn(s, model, 1) != 0)
        return -1;
    all->samples[all->count++] = (double)(clock_monotonic_us() - start);
    copy->samples[copy->count++] = (double)s->end.switch_us;
    if (s->end.switch_bytes != m->weight_bytes)
        return error_set(s->err, STATUS_INTERNAL,
                         "a switch moved %" PRIu64 " bytes of %" PRIu64 ": the memory holds both",
                         s->end.switch_bytes, m->weight_bytes);
    copy->bytes = all->bytes = (double)m->weight_bytes;
    return 0;
}

static int measure(struct subject *s)
{
    char params[96];
    struct limit copy = {.name = "switch: weights", .params = params, .unit = "us"};
    struct limit all = {.name = "switch: to first step", .params = params, .unit = "us"};

    snprintf(params, sizeof(params), "%s %s, host to GPU, batch %u", s->how.shape, s->how.dtype,
             BATCH);
    for (uint32_t i = 1; i <= MODELS; i++)
        if (subject_model(s, i) != 0 || subject_batch(s, i, BATCH, PROMPT, 4 * ROUNDS) != 0 ||
            subject_turn(s, i, 4) != 0) /* prompts are read, graphs and pages are warm */
            return -1;
    for (uint32_t round = 0; round < ROUNDS - 1; round++)
        for (uint32_t i = 1; i <= MODELS; i++)
            if (switch_to(s, i, &copy, &all) != 0)
                return -1;
    s->found(s->arg, &copy);
    s->found(s->arg, &all);
    return 0;
}

int bench_switch(const struct bench_engine *how, limit_f *found, void *arg, struct error *err)
{
    struct subject *s = subject_open(how, found, arg, err);
    int rv = -1;

    if (s != NULL)
        rv = measure(s);
    subject_close(s);
    return rv;
}
