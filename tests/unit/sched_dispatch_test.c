/*
 * sched_dispatch_test.c - where a sequence goes: to its model's batch, to its weights, to a host
 * that has a copy, to the least loaded; over thousands of random states
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "sched/sched.h"

#define INSTANCES 6u
#define MODELS    8u
#define GB        UINT64_C(1000000000)

static const struct cost usual = {.prefill = 1e-3,
                                  .prefill_token = 2e-5,
                                  .decode = 0.025,
                                  .load = 1,
                                  .disk = 3,
                                  .kv_token = 1e-6};

static struct sched *create(const char *policy, uint32_t instances, uint64_t memory)
{
    struct sched_params params = {.turn_us = 500000};
    struct sched *s = sched_create(policy, &params, NULL);

    assert_non_null(s);
    for (uint32_t i = 0; i < instances; i++) {
        assert_int_equal(sched_add_instance(s, i, memory, NULL), 0);
        sched_set_role(s, i, SCHED_MIXED, 1);
    }
    for (uint32_t m = 0; m < MODELS; m++) {
        assert_int_equal(sched_add_model(s, SCHED_ALL, m, GB, 100000, NULL), 0);
        assert_int_equal(sched_set_cost(s, SCHED_ALL, m, &usual, NULL), 0);
    }
    return s;
}

static uint32_t arrive(struct sched *s, uint64_t seq, uint32_t model, uint32_t tokens)
{
    struct sched_seq q = {.seq = seq,
                          .model = model,
                          .tokens = tokens,
                          .max_tokens = 100,
                          .ttft_us = 10000000,
                          .tbt_us = 100000};
    uint32_t instance;

    assert_int_equal(sched_arrive(s, 0, &q, &instance, NULL), 0);
    return instance;
}

/* --- one by one ------------------------------------------------------------------------------- */

static const char *const policies[] = {"rr", "slack"};

static void the_nearest_copy_is_preferred(void **state)
{
    (void)state;
    for (int p = 0; p < 2; p++) {
        struct sched *s = create(policies[p], 4, 10 * GB);

        sched_set_hosted(s, 3, 0, 1);
        assert_int_equal(arrive(s, 1, 0, 100), 3); /* its host has it */
        sched_finish(s, 0, 1);
        sched_set_resident(s, 2, 0, 1);
        assert_int_equal(arrive(s, 2, 0, 100), 2); /* it is in memory */
        sched_set_resident(s, 2, 0, 0);
        sched_set_resident(s, 1, 0, 1);
        assert_int_equal(arrive(s, 3, 0, 100), 2); /* its batch runs there */
        sched_finish(s, 0, 2);
        sched_finish(s, 0, 3);
        assert_int_equal(arrive(s, 4, 0, 100), 1);
        sched_finish(s, 0, 4);
        sched_set_resident(s, 1, 0, 0);
        sched_set_available(s, 3, 0);
        assert_int_equal(arrive(s, 5, 0, 100), 0); /* that one takes no more: the first */
        sched_finish(s, 0, 5);
        sched_set_available(s, 3, 1);
        sched_set_hosted(s, 3, 0, 0);
        assert_int_equal(arrive(s, 6, 0, 100), 0);
        sched_set_hosted(s, 99, 0, 1); /* nobody */
        sched_set_hosted(s, 0, UINT32_MAX, 1);
        sched_destroy(s);
    }
}

/* A batch with more than 3 s of prompts before it takes no others while somebody is idle. */
static void a_flood_spreads(void **state)
{
    struct sched *s = create("slack", 3, 10 * GB);
    uint32_t count[3] = {0};

    (void)state;
    for (uint64_t i = 1; i <= 3000; i++)
        count[arrive(s, i, 0, 1000)]++; /* 21 ms of prompt each */
    assert_in_range(count[0], 900, 1100);
    assert_in_range(count[1], 900, 1100);
    assert_in_range(count[2], 900, 1100);
    for (uint64_t i = 1; i <= 3000; i++)
        sched_progress(s, 0, i, 1000, 1);
    assert_int_equal(arrive(s, 5000, 0, 1000), 0); /* they are prefilled: a further row */
    for (uint64_t i = 1; i <= 3000; i++)
        sched_finish(s, 0, i);
    assert_int_equal(arrive(s, 5001, 0, 1000), 0);
    sched_destroy(s);
}

static void arrive_at(struct sched *s, int64_t now, uint64_t seq, uint32_t model)
{
    struct sched_seq q = {
        .seq = seq, .model = model, .tokens = 10, .ttft_us = 10000000, .tbt_us = 100000};
    uint32_t instance;

    assert_int_equal(sched_arrive(s, now, &q, &instance, NULL), 0);
}

/* But not to where its first token would come later than here, load and prompt taken together. */
static void a_flood_stays_where_others_are_slower(void **state)
{
    struct sched *s = create("slack", 2, 10 * GB);
    struct cost slow = usual;
    uint32_t count[2] = {0};

    (void)state;
    slow.prefill_token = 5e-3; /* 5 s for a prompt of 1,000, and the load takes 4 s */
    sched_set_cost(s, 1, 0, &slow, NULL);
    for (uint64_t i = 1; i <= 1000; i++)
        count[arrive(s, i, 0, 1000)]++;
    assert_in_range(count[0], 990, 1000); /* 9 s of prompts are 429 of these */
    assert_in_range(count[1], 1, 10);
    sched_destroy(s);
}

/*
 * Model 0 runs and is late, 1 was just loaded, 2 starves and finds no room: nobody is evicted
 * before it ran, so 1 has its turn now, although its deadline is later than that of 0.
 */
static void who_starves_waits_for_a_turn_of_those_just_loaded(void **state)
{
    struct sched *s = create("slack", 1, 2 * GB + GB / 2);
    struct sched_turn turn;
    struct sched_load load;

    (void)state;
    sched_set_resident(s, 0, 0, 1);
    arrive_at(s, 0, 1, 0);
    arrive_at(s, 50000000, 2, 1);
    assert_int_equal(sched_next(s, 50000000, 0, &turn), 1);
    assert_int_equal(turn.model, 0);
    assert_int_equal(sched_load(s, 50000000, 0, &load), 1);
    assert_int_equal(load.model, 1);
    sched_set_resident(s, 0, 1, 1);
    arrive_at(s, 51000000, 3, 2);
    sched_progress(s, 112000000, 1, 10, 100);
    sched_turn_ended(s, 112000000, 0, 0, 100, 1000000, 0);
    arrive_at(s, 112000000, 4, 0);
    sched_finish(s, 112000000, 2); /* 1's batch begins anew, and does not starve */
    arrive_at(s, 112000000, 5, 1);
    assert_int_equal(sched_load(s, 112000000, 0, &load), 0); /* 2 has no place */
    assert_int_equal(sched_next(s, 112000000, 0, &turn), 1);
    assert_int_equal(turn.model, 1);
    sched_turn_ended(s, 112500000, 0, 1, 10, 500000, 0);
    assert_int_equal(sched_next(s, 112500000, 0, &turn), 1);
    assert_int_equal(turn.model, 0);
    assert_int_equal(sched_load(s, 112500000, 0, &load), 1);
    assert_int_equal(load.model, 2);
    assert_int_equal(load.evict[0], 1);
    sched_destroy(s);
}

/* --- random states ---------------------------------------------------------------------------- */

struct world { /* what the test knows of it */
    struct sched *s;
    uint64_t random;
    int resident[INSTANCES][MODELS], hosted[INSTANCES][MODELS], known[INSTANCES][MODELS];
    uint32_t batch[INSTANCES][MODELS], sequences[INSTANCES];
    int available[INSTANCES];
    uint64_t seq;
};

static uint32_t draw(struct world *w, uint32_t below)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX LCG */
    return (uint32_t)(w->random >> 33) % below;
}

static void random_state(struct world *w, const char *policy, uint64_t seed)
{
    *w = (struct world){.random = seed * 2654435761u + 1};
    w->s = create(policy, INSTANCES, 10 * GB);
    for (uint32_t i = 0; i < INSTANCES; i++) {
        for (uint32_t m = 0; m < MODELS; m++) {
            w->known[i][m] = draw(w, 8) > 0;
            w->resident[i][m] = w->known[i][m] && draw(w, 4) == 0;
            w->hosted[i][m] = draw(w, 3) == 0;
            sched_set_resident(w->s, i, m, w->resident[i][m]);
            sched_set_hosted(w->s, i, m, w->hosted[i][m]);
            if (!w->known[i][m])
                sched_drop_model(w->s, i, m);
        }
    }
}

static uint32_t may(const struct world *w, uint32_t i, uint32_t m)
{
    return w->available[i] && w->known[i][m] ? 1 : 0;
}

/* Batches, the test saying where they are by what it is told. */
static void fill(struct world *w)
{
    for (uint32_t i = 0; i < INSTANCES; i++)
        w->available[i] = 1;
    for (uint32_t n = draw(w, 20); n > 0; n--) {
        uint32_t m = draw(w, MODELS), at, anywhere = 0;

        for (uint32_t i = 0; i < INSTANCES; i++)
            anywhere += may(w, i, m);
        if (anywhere == 0)
            continue;
        at = arrive(w->s, ++w->seq, m, 100);
        assert_true(may(w, at, m));
        w->batch[at][m]++;
        w->sequences[at]++;
    }
    for (uint32_t i = 0; i < INSTANCES; i++) {
        w->available[i] = draw(w, 6) > 0;
        sched_set_available(w->s, i, w->available[i]);
    }
}

static int rank(const struct world *w, uint32_t i, uint32_t m)
{
    if (w->batch[i][m] > 0)
        return 3;
    return w->resident[i][m] ? 2 : w->hosted[i][m];
}

/* A batch's time: a step of 25 ms each 100 ms. */
static double load(const struct world *w, uint32_t i)
{
    double sum = 0;

    for (uint32_t m = 0; m < MODELS; m++)
        sum += w->batch[i][m] > 0 ? 0.25 : 0;
    return sum;
}

/* Is `at` as good as any other instance? */
static void check(const struct world *w, int by_load, uint32_t at, uint32_t m)
{
    static const double gain[] = {0, 0.1, 0.3};

    assert_true(may(w, at, m));
    for (uint32_t i = 0; i < INSTANCES; i++) {
        if (!may(w, i, m) || rank(w, at, m) == 3)
            continue;
        assert_true(rank(w, i, m) < 3); /* a batch is never parted */
        if (by_load)
            assert_true(load(w, at) - gain[rank(w, at, m)] <=
                        load(w, i) - gain[rank(w, i, m)] + 1e-9);
        else
            assert_true(rank(w, at, m) > rank(w, i, m) ||
                        (rank(w, at, m) == rank(w, i, m) && w->sequences[at] <= w->sequences[i]));
    }
}

static void arrivals_go_where_the_model_lies(void **state)
{
    static struct world w;
    uint32_t ranks[4] = {0};

    (void)state;
    for (int p = 0; p < 2; p++) {
        for (uint64_t seed = 1; seed <= 3000; seed++) {
            random_state(&w, policies[p], seed);
            fill(&w);
            for (uint32_t m = 0; m < MODELS; m++) {
                uint32_t anywhere = 0, at;

                for (uint32_t i = 0; i < INSTANCES; i++)
                    anywhere += may(&w, i, m);
                if (anywhere == 0)
                    continue;
                at = arrive(w.s, ++w.seq, m, 100);
                check(&w, p == 1, at, m);
                ranks[rank(&w, at, m)]++;
                sched_finish(w.s, 0, w.seq);
            }
            sched_destroy(w.s);
        }
    }
    for (int r = 0; r < 4; r++)
        assert_true(ranks[r] > 100); /* each has occurred */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nearest_copy_is_preferred),
        cmocka_unit_test(a_flood_spreads),
        cmocka_unit_test(a_flood_stays_where_others_are_slower),
        cmocka_unit_test(who_starves_waits_for_a_turn_of_those_just_loaded),
        cmocka_unit_test(arrivals_go_where_the_model_lies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
