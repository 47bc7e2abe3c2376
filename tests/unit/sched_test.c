/*
 * sched_test.c - the scheduler under a fake clock: bounded starvation, no sequence lost,
 * determinism
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "sched/sched.h"

#define TURN_US   250000
#define SWITCH_US 100000
#define STEP_US   10000
#define MODELS    6u
#define SEQS      400u

static struct sched *create(void)
{
    struct sched_params params = {.turn_us = TURN_US};
    struct sched *s = sched_create("rr", &params, NULL);

    assert_non_null(s);
    return s;
}

static struct sched *create_with(uint32_t instances, uint32_t models)
{
    struct sched *s = create();

    for (uint32_t i = 0; i < instances; i++) {
        assert_int_equal(sched_add_instance(s, i, 1u << 30, NULL), 0);
        for (uint32_t m = 0; m < models; m++)
            assert_int_equal(sched_add_model(s, i, m, 1u << 20, 1024, NULL), 0);
    }
    return s;
}

static int arrive(struct sched *s, uint64_t seq, uint32_t model, uint32_t *instance)
{
    struct sched_seq a = {.seq = seq, .model = model, .tokens = 10, .max_tokens = 10};

    return sched_arrive(s, 0, &a, instance, NULL);
}

/* --- single rules ----------------------------------------------------------------------------- */

static void names_are_checked(void **state)
{
    struct sched_params params = {.turn_us = TURN_US}, none = {.turn_us = 0};
    struct error err;

    (void)state;
    assert_null(sched_create("fifo", &params, &err));
    assert_int_equal(err.status, STATUS_INVALID);
    assert_non_null(strstr(err.text, "rr"));
    assert_null(sched_create(NULL, &params, &err));
    assert_null(sched_create("rr", &none, &err));
    assert_int_equal(err.status, STATUS_INVALID);
    sched_destroy(NULL);
}

static void unknown_things_are_refused(void **state)
{
    struct sched *s = create_with(1, 2);
    struct sched_turn turn;
    struct error err;
    struct sched_seq seq = {.seq = 1, .model = 7};
    uint32_t in;

    (void)state;
    assert_int_equal(sched_arrive(s, 0, &seq, &in, &err), -1);
    assert_int_equal(err.status, STATUS_UNAVAILABLE);
    assert_int_equal(sched_add_instance(s, 0, 1, &err), -1);
    assert_int_equal(err.status, STATUS_EXISTS);
    assert_int_equal(sched_add_instance(s, UINT32_MAX, 1, &err), -1);
    assert_int_equal(err.status, STATUS_INVALID);
    assert_int_equal(sched_add_model(s, 3, 0, 1, 1, &err), -1);
    assert_int_equal(err.status, STATUS_NOT_FOUND);
    assert_int_equal(sched_add_model(s, 0, UINT32_MAX, 1, 1, &err), -1);
    assert_int_equal(err.status, STATUS_INVALID);
    assert_int_equal(arrive(s, 0, 0, &in), -1);
    assert_int_equal(arrive(s, 5, 0, &in), 0);
    assert_int_equal(arrive(s, 5, 0, &in), -1);
    assert_int_equal(sched_resume(s, 0, 6, &in, &err), -1);
    assert_int_equal(err.status, STATUS_NOT_FOUND);
    sched_finish(s, 0, 99);
    sched_requeue(s, 0, 99);
    sched_set_available(s, 9, 1);
    sched_set_resident(s, 9, 9, 1);
    sched_drop_model(s, 9, 9);
    sched_turn_ended(s, 0, 9, 9, 1, 1, 1);
    assert_int_equal(sched_next(s, 0, 9, &turn), 0);
    assert_int_equal(sched_count(s, 9, 9), 0);
    assert_int_equal(sched_victim(s, 9, 9), 0);
    sched_destroy(s);
}

/* A lone model's two held turns are together one turn; with two models each has a whole one. */
static void quotas_are_as_said(void **state)
{
    struct sched *s = create_with(1, 2);
    struct sched_turn turn;
    uint32_t in;

    (void)state;
    assert_int_equal(sched_next(s, 0, 0, &turn), 0);
    assert_int_equal(arrive(s, 1, 0, &in), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(sched_next(s, 0, 0, &turn), 1);
        assert_int_equal(turn.model, 0);
        assert_int_equal(turn.quota_us, TURN_US / 2);
        assert_int_equal(turn.quota_steps, 0);
    }
    assert_int_equal(arrive(s, 2, 1, &in), 0);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(sched_next(s, 0, 0, &turn), 1);
        assert_int_equal(turn.model, (i + 1) % 2);
        assert_int_equal(turn.quota_us, TURN_US);
    }
    sched_finish(s, 0, 1);
    sched_finish(s, 0, 2);
    assert_int_equal(sched_next(s, 0, 0, &turn), 0);
    sched_destroy(s);
}

static void arrivals_go_where_they_belong(void **state)
{
    struct sched *s = create_with(3, 4);
    uint32_t in;

    (void)state;
    assert_int_equal(arrive(s, 1, 0, &in), 0);
    assert_int_equal(in, 0); /* all alike: the first */
    assert_int_equal(arrive(s, 2, 1, &in), 0);
    assert_int_equal(in, 1); /* least loaded */
    assert_int_equal(arrive(s, 3, 0, &in), 0);
    assert_int_equal(in, 0); /* with its model */
    sched_set_resident(s, 0, 2, 1);
    assert_int_equal(arrive(s, 4, 2, &in), 0);
    assert_int_equal(in, 0); /* resident, though loaded */
    sched_turn_ended(s, 0, 2, 0, 1, 5, 5);
    sched_finish(s, 0, 2);
    assert_int_equal(arrive(s, 5, 3, &in), 0);
    assert_int_equal(in, 1); /* as empty as 2, and has worked less */
    sched_destroy(s);
}

static void drained_instances_get_nothing_new(void **state)
{
    struct sched *s = create_with(2, 1);
    struct sched_turn turn;
    struct error err;
    struct sched_seq seq = {.seq = 9, .model = 0};
    uint32_t in;

    (void)state;
    assert_int_equal(arrive(s, 1, 0, &in), 0);
    assert_int_equal(in, 0);
    sched_set_available(s, 0, 0);
    assert_int_equal(arrive(s, 2, 0, &in), 0);
    assert_int_equal(in, 1);
    assert_int_equal(sched_next(s, 0, 0, &turn), 1); /* its own go on */
    sched_set_available(s, 1, 0);
    assert_int_equal(sched_arrive(s, 0, &seq, &in, &err), -1);
    assert_int_equal(err.status, STATUS_UNAVAILABLE);
    sched_requeue(s, 0, 1);
    assert_int_equal(sched_next(s, 0, 0, &turn), 0);
    assert_int_equal(sched_count(s, 0, 0), 1);
    assert_int_equal(sched_resume(s, 0, 1, &in, NULL), 0);
    assert_int_equal(in, 0); /* its own, as no other is available */
    sched_requeue(s, 0, 1);
    sched_drop_model(s, 0, 0); /* dead */
    assert_int_equal(sched_resume(s, 0, 1, &in, &err), -1);
    assert_int_equal(err.status, STATUS_UNAVAILABLE);
    sched_set_available(s, 1, 1);
    assert_int_equal(sched_resume(s, 0, 1, &in, NULL), 0);
    assert_int_equal(in, 1);
    assert_int_equal(sched_count(s, 0, 0), 0);
    assert_int_equal(sched_count(s, 1, 0), 2);
    sched_destroy(s);
}

static void victims_are_the_newest(void **state)
{
    struct sched *s = create_with(1, 2);
    uint32_t in;

    (void)state;
    for (uint64_t i = 1; i <= 4; i++)
        assert_int_equal(arrive(s, 100 - i, i == 4, &in), 0);
    assert_int_equal(sched_victim(s, 0, 0), 97);
    sched_requeue(s, 0, 97);
    assert_int_equal(sched_victim(s, 0, 0), 98);
    sched_requeue(s, 0, 98);
    sched_requeue(s, 0, 98); /* twice is once */
    assert_int_equal(sched_count(s, 0, 0), 3);
    /* Given anew, it is as old as it was. */
    assert_int_equal(sched_resume(s, 0, 98, &in, NULL), 0);
    assert_int_equal(sched_resume(s, 0, 97, &in, NULL), 0);
    assert_int_equal(sched_victim(s, 0, 0), 97);
    assert_int_equal(sched_victim(s, 0, 1), 96);
    sched_destroy(s);
}

/* --- a simulated instance --------------------------------------------------------------------- */

struct job {
    uint64_t seq;
    uint32_t model, left; /* steps */
    int waiting;          /* requeued */
};

struct simulation {
    struct sched *sched;
    struct job jobs[SEQS];
    uint32_t arrived, finished;
    int64_t now, waits_since[MODELS], worst;
    struct sched_turn held[2];
    uint32_t held_count, resident;
    uint64_t trace; /* hash of all decisions */
    uint32_t random;
};

static uint32_t next_random(struct simulation *sim)
{
    sim->random = sim->random * 1664525u + 1013904223u; /* Numerical Recipes' LCG */
    return sim->random >> 8;
}

static uint32_t runnable(const struct simulation *sim, uint32_t model)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < sim->arrived; i++)
        n += sim->jobs[i].model == model && sim->jobs[i].left > 0 && !sim->jobs[i].waiting;
    return n;
}

static void note_waits(struct simulation *sim)
{
    for (uint32_t m = 0; m < MODELS; m++) {
        if (runnable(sim, m) == 0)
            sim->waits_since[m] = -1;
        else if (sim->waits_since[m] < 0)
            sim->waits_since[m] = sim->now;
    }
}

static void maybe_arrive(struct simulation *sim)
{
    while (sim->arrived < SEQS && next_random(sim) % 3 == 0) {
        struct job *j = &sim->jobs[sim->arrived++];
        uint32_t in;

        *j = (struct job){.seq = sim->arrived,
                          .model = next_random(sim) % MODELS,
                          .left = 1 + next_random(sim) % 60};
        assert_int_equal(arrive(sim->sched, j->seq, j->model, &in), 0);
    }
}

/* Now and then one is preempted, or comes back. */
static void maybe_preempt(struct simulation *sim)
{
    struct job *j;
    uint32_t in;

    if (sim->arrived == 0)
        return;
    j = &sim->jobs[next_random(sim) % sim->arrived];
    if (j->left == 0)
        return;
    if (j->waiting)
        assert_int_equal(sched_resume(sim->sched, sim->now, j->seq, &in, NULL), 0);
    else if (next_random(sim) % 4 == 0)
        sched_requeue(sim->sched, sim->now, j->seq);
    else
        return;
    j->waiting = !j->waiting;
}

static void run_step(struct simulation *sim, uint32_t model)
{
    for (uint32_t i = 0; i < sim->arrived; i++) {
        struct job *j = &sim->jobs[i];

        if (j->model != model || j->waiting || j->left == 0 || --j->left > 0)
            continue;
        sched_finish(sim->sched, sim->now, j->seq);
        sim->finished++;
    }
    sim->now += STEP_US;
}

static void run_turn(struct simulation *sim, const struct sched_turn *t)
{
    int64_t start, wait, moved = 0;
    uint32_t steps = 0;

    if (runnable(sim, t->model) == 0)
        return; /* idle: it ends at once */
    wait = sim->now - sim->waits_since[t->model];
    if (sim->waits_since[t->model] >= 0 && wait > sim->worst)
        sim->worst = wait;
    if (sim->resident != t->model)
        sim->now += moved = SWITCH_US;
    sim->resident = t->model;
    for (start = sim->now; sim->now - start < t->quota_us && runnable(sim, t->model) > 0; steps++) {
        run_step(sim, t->model);
        maybe_arrive(sim);
        maybe_preempt(sim);
        note_waits(sim);
    }
    sched_turn_ended(sim->sched, sim->now, 0, t->model, steps, sim->now - start, moved);
    sim->waits_since[t->model] = -1;
    note_waits(sim);
}

static void check_counts(const struct simulation *sim)
{
    for (uint32_t m = 0; m < MODELS; m++) {
        uint32_t n = 0;

        for (uint32_t i = 0; i < sim->arrived; i++)
            n += sim->jobs[i].model == m && sim->jobs[i].left > 0;
        assert_int_equal(sched_count(sim->sched, 0, m), n);
    }
}

static void simulate(struct simulation *sim, uint32_t seed)
{
    *sim = (struct simulation){.sched = create_with(1, MODELS), .random = seed};
    sim->resident = SCHED_NONE;
    for (int rounds = 0; sim->finished < SEQS; rounds++) {
        assert_true(rounds < 100000); /* a lost sequence would never finish */
        maybe_arrive(sim);
        maybe_preempt(sim);
        note_waits(sim);
        while (sim->held_count < 2 &&
               sched_next(sim->sched, sim->now, 0, &sim->held[sim->held_count])) {
            struct sched_turn *t = &sim->held[sim->held_count++];

            sim->trace = (sim->trace ^ (t->model + (uint64_t)t->quota_us)) * 1099511628211u;
        }
        if (sim->held_count == 0) {
            sim->now += STEP_US;
            continue;
        }
        run_turn(sim, &sim->held[0]);
        sim->held[0] = sim->held[--sim->held_count];
        check_counts(sim);
    }
    sched_destroy(sim->sched);
}

/*
 * Every sequence ends, and no model that could run waits longer than a turn and a switch of each
 * other one, and of the two that the engine held when it came.  A turn ends with a step: one more.
 */
static void nothing_starves_or_is_lost(void **state)
{
    static struct simulation sim;

    (void)state;
    for (uint32_t seed = 1; seed <= 100; seed++) {
        simulate(&sim, seed);
        assert_int_equal(sim.finished, SEQS);
        assert_true(sim.worst <= (int64_t)(MODELS - 1 + 2) * (TURN_US + STEP_US + SWITCH_US));
        assert_true(sim.worst > 2 * (TURN_US + SWITCH_US)); /* they did compete */
    }
}

static void the_same_calls_decide_the_same(void **state)
{
    static struct simulation a, b;

    (void)state;
    for (uint32_t seed = 1; seed <= 20; seed++) {
        simulate(&a, seed);
        simulate(&b, seed);
        assert_true(a.trace == b.trace && a.now == b.now);
    }
    simulate(&b, 21);
    assert_true(a.trace != b.trace);
}

/* More sequences than the first table has buckets. */
static void many_sequences_fit(void **state)
{
    struct sched *s = create_with(2, 3);
    uint32_t in;

    (void)state;
    for (uint64_t i = 1; i <= 5000; i++)
        assert_int_equal(arrive(s, i * 4096, (uint32_t)(i % 3), &in), 0);
    assert_int_equal(sched_count(s, 0, 0) + sched_count(s, 1, 0) + sched_count(s, 0, 1) +
                         sched_count(s, 1, 1) + sched_count(s, 0, 2) + sched_count(s, 1, 2),
                     5000);
    for (uint64_t i = 1; i <= 5000; i += 2)
        sched_finish(s, 0, i * 4096);
    assert_int_equal(sched_count(s, 0, 0) + sched_count(s, 1, 0) + sched_count(s, 0, 1) +
                         sched_count(s, 1, 1) + sched_count(s, 0, 2) + sched_count(s, 1, 2),
                     2500);
    sched_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(unknown_things_are_refused),
        cmocka_unit_test(quotas_are_as_said),
        cmocka_unit_test(arrivals_go_where_they_belong),
        cmocka_unit_test(drained_instances_get_nothing_new),
        cmocka_unit_test(victims_are_the_newest),
        cmocka_unit_test(nothing_starves_or_is_lost),
        cmocka_unit_test(the_same_calls_decide_the_same),
        cmocka_unit_test(many_sequences_fit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
