/* sched_policy_test.c - what each policy decides, case by case; costs and their file */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "sched/sched.h"

#define GB UINT64_C(1000000000)

static const struct cost usual = {
    .prefill = 1e-3, .prefill_token = 2e-5, .decode = 0.025, .load = 1, .kv_token = 1e-6};

static struct sched *create(const char *policy, uint32_t instances, uint64_t memory,
                            uint32_t models, uint64_t weights, int behind)
{
    struct sched_params params = {.turn_us = 500000};
    struct sched *s = sched_create(policy, &params, NULL);

    assert_non_null(s);
    for (uint32_t i = 0; i < instances; i++) {
        assert_int_equal(sched_add_instance(s, i, memory, NULL), 0);
        sched_set_role(s, i, SCHED_MIXED, behind);
    }
    for (uint32_t m = 0; m < models; m++) {
        assert_int_equal(sched_add_model(s, SCHED_ALL, m, weights, 100000, NULL), 0);
        assert_int_equal(sched_set_cost(s, SCHED_ALL, m, &usual, NULL), 0);
    }
    return s;
}

static uint32_t arrive(struct sched *s, int64_t now, uint64_t seq, uint32_t model, int64_t ttft)
{
    struct sched_seq q = {.seq = seq,
                          .model = model,
                          .tokens = 100,
                          .max_tokens = 100,
                          .ttft_us = ttft,
                          .tbt_us = 100000,
                          .oracle = (uint32_t)(1000 - seq)};
    uint32_t instance;

    assert_int_equal(sched_arrive(s, now, &q, &instance, NULL), 0);
    return instance;
}

static uint32_t next(struct sched *s, int64_t now, uint32_t instance)
{
    struct sched_turn turn;

    return sched_next(s, now, instance, &turn) ? turn.model : SCHED_NONE;
}

/* --- fcfs and sjf ----------------------------------------------------------------------------- */

static void fcfs_keeps_the_order(void **state)
{
    struct sched *s = create("fcfs", 1, 10 * GB, 3, GB, 0);
    struct sched_turn turn;

    (void)state;
    arrive(s, 0, 1, 2, 1000000);
    arrive(s, 1, 2, 0, 1000000);
    arrive(s, 2, 3, 2, 1000000); /* behind model 0: a group of its own */
    assert_int_equal(sched_next(s, 3, 0, &turn), 1);
    assert_int_equal(turn.model, 2);
    assert_int_equal(turn.fresh_max, 1);
    sched_progress(s, 4, 1, 100, 1);
    assert_int_equal(sched_next(s, 5, 0, &turn), 1);
    assert_int_equal(turn.model, 2); /* until it has ended */
    assert_int_equal(turn.phases, SCHED_DECODE_ONLY);
    sched_finish(s, 6, 1);
    assert_int_equal(next(s, 7, 0), 0);
    sched_finish(s, 8, 2);
    assert_int_equal(next(s, 9, 0), 2);
    sched_finish(s, 10, 3);
    assert_int_equal(next(s, 11, 0), SCHED_NONE);
    sched_destroy(s);
}

static void sjf_takes_the_shortest(void **state)
{
    struct sched *s = create("sjf", 1, 10 * GB, 3, GB, 0);
    struct sched_turn turn;

    (void)state;
    arrive(s, 0, 1, 0, 1000000);
    arrive(s, 0, 9, 2, 1000000);
    arrive(s, 0, 5, 1, 1000000);
    assert_int_equal(sched_next(s, 3, 0, &turn), 1);
    assert_int_equal(turn.model, 2);
    assert_int_equal(turn.quota_steps, 991);
    sched_destroy(s);
}

/* --- aegaeon ---------------------------------------------------------------------------------- */

/* A group takes 8 prompts ever: one that drains does not refill, and holds nobody up. */
static void a_group_does_not_refill(void **state)
{
    struct sched *s = create("aegaeon", 1, 10 * GB, 2, GB, 0);
    uint64_t seq = 100;

    (void)state;
    for (uint64_t i = 1; i <= 7; i++)
        arrive(s, 0, i, 0, 1000000);
    arrive(s, 0, 50, 1, 1000000);
    for (uint64_t i = 1; i <= 8; i++) {
        assert_int_equal(next(s, 1, 0), 0);
        arrive(s, 1, seq, 0, 1000000); /* the eighth joins, the others queue behind model 1 */
        sched_progress(s, 2, i < 8 ? i : 100, 100, 1);
        seq++;
    }
    assert_int_equal(next(s, 3, 0), 1);
    sched_destroy(s);
}

/* The notes' example: TBT 0.1 s, steps of 25 ms, three switches of 1 s: alpha 0.9375, quotas 4 s.
 */
static void quotas_are_as_published(void **state)
{
    struct sched *s = create("aegaeon", 1, 10 * GB, 4, GB, 0);
    struct sched_turn turn;

    (void)state;
    for (uint32_t m = 0; m < 3; m++) {
        arrive(s, 0, m + 1, m, 1000000);
        sched_progress(s, 1, m + 1, 100, 1);
    }
    for (uint32_t m = 0; m < 3; m++) {
        assert_int_equal(sched_next(s, 2, 0, &turn), 1);
        assert_int_equal(turn.model, m);
        assert_int_equal(turn.phases, SCHED_DECODE_ONLY);
        assert_in_range(turn.quota_us, 3999000, 4000001);
    }
    /* a prompt goes before the decode turns of a mixed instance */
    arrive(s, 3, 9, 3, 1000000);
    assert_int_equal(sched_next(s, 4, 0, &turn), 1);
    assert_int_equal(turn.model, 3);
    assert_int_equal(turn.phases, SCHED_PREFILL_ONLY);
    /* one batch: alpha is 1/2, and the quota 1 * 0.25 / 0.25 = 1 s */
    sched_finish(s, 5, 9);
    sched_finish(s, 5, 1);
    sched_finish(s, 5, 2);
    assert_int_equal(sched_next(s, 6, 0, &turn), 1);
    assert_int_equal(turn.model, 2);
    assert_in_range(turn.quota_us, 999000, 1000001);
    sched_destroy(s);
}

static void roles_are_kept(void **state)
{
    static const char *const policies[] = {"aegaeon", "slack"};

    (void)state;
    for (int p = 0; p < 2; p++) {
        struct sched *s = create(policies[p], 3, 10 * GB, 2, GB, 0);
        uint32_t to;

        sched_set_role(s, 0, SCHED_PREFILL, 0);
        sched_set_role(s, 1, SCHED_DECODE, 0);
        sched_set_role(s, 2, SCHED_DECODE, 0);
        assert_int_equal(arrive(s, 0, 1, 0, 1000000), 0);
        assert_int_equal(arrive(s, 0, 2, 1, 1000000), 0);
        assert_int_equal(arrive(s, 0, 3, 0, 1000000), 0);
        for (uint64_t i = 1; i <= 3; i++) {
            sched_progress(s, 1, i, 100, 1);
            assert_int_equal(sched_hand_over(s, 1, i, &to, NULL), 0);
            assert_int_equal(to, i == 2 ? 2 : 1); /* the fewest batches; its model's batch */
            assert_int_equal(next(s, 1, to), i == 3 ? 0 : SCHED_NONE);
            sched_handed_over(s, 2, i);
            assert_int_equal(next(s, 2, to), i == 2 ? 1 : 0);
        }
        assert_int_equal(sched_count(s, 0, 0), 0);
        assert_int_equal(sched_hand_over(s, 1, 77, &to, NULL), -1);
        sched_destroy(s);
    }
}

/* --- slack ------------------------------------------------------------------------------------ */

static void slack_runs_the_earliest_deadline(void **state)
{
    struct sched *s = create("slack", 1, 10 * GB, 3, GB, 1);

    (void)state;
    for (uint32_t m = 0; m < 2; m++)
        sched_set_resident(s, 0, m, 1);
    arrive(s, 0, 1, 0, 3000000);
    arrive(s, 0, 2, 1, 2000000);
    arrive(s, 0, 3, 2, 1000000); /* not in memory */
    assert_int_equal(next(s, 1, 0), 1);
    sched_progress(s, 2, 2, 100, 30); /* its next token is due at 5 s now */
    assert_int_equal(next(s, 3, 0), 0);
    sched_set_resident(s, 0, 2, 1);
    assert_int_equal(next(s, 4, 0), 2);
    sched_destroy(s);
}

static void slack_loads_the_most_urgent(void **state)
{
    struct sched *s = create("slack", 1, 10 * GB, 6, 3 * GB, 1);
    struct sched_load load;

    (void)state;
    for (uint32_t m = 0; m < 3; m++) {
        sched_set_resident(s, 0, m, 1);
        arrive(s, 0, m + 1, m, 5000000 + 5000000 * (int64_t)m);
    }
    assert_int_equal(next(s, 0, 0), 0);
    assert_int_equal(sched_load(s, 0, 0, &load), 0); /* nothing is wanted */
    arrive(s, 0, 10, 4, 20000000);
    assert_int_equal(sched_load(s, 0, 0, &load), 0); /* all that are there are due before it */
    arrive(s, 0, 11, 5, 4000000);
    assert_int_equal(sched_load(s, 0, 0, &load), 1);
    assert_int_equal(load.model, 5);
    assert_int_equal(load.evict_count, 1);
    assert_int_equal(load.evict[0], 2);              /* due last */
    assert_int_equal(sched_load(s, 0, 0, &load), 0); /* one at a time */
    assert_int_equal(next(s, 1, 0), 0);              /* it is not there yet */
    sched_set_resident(s, 0, 5, 1);
    assert_int_equal(next(s, 2, 0), 5);
    sched_finish(s, 3, 11);
    sched_finish(s, 3, 2);
    arrive(s, 3, 12, 3, 9000000);
    assert_int_equal(sched_load(s, 3, 0, &load), 1); /* in place of an idle one, not of 0 */
    assert_int_equal(load.model, 3);
    assert_int_equal(load.evict_count, 1);
    assert_int_equal(load.evict[0], 1);
    sched_destroy(s);
}

/* A device with room for one model, and one that cannot load behind a turn, still switch. */
static void slack_switches_where_it_cannot_prefetch(void **state)
{
    (void)state;
    for (int behind = 0; behind < 2; behind++) {
        struct sched *s = create("slack", 1, 4 * GB, 2, 3 * GB, behind);
        struct sched_turn turn;
        struct sched_load load;

        sched_set_resident(s, 0, 0, 1);
        arrive(s, 0, 1, 0, 30000000);
        assert_int_equal(next(s, 0, 0), 0);
        arrive(s, 0, 2, 1, 1500000);
        assert_int_equal(sched_load(s, 1, 0, &load), 0);
        assert_int_equal(sched_next(s, 1, 0, &turn), 1);
        assert_int_equal(turn.model, 1);
        assert_true(turn.quota_us >= 4000000); /* worth the second that the switch takes */
        sched_destroy(s);
    }
}

static void chunks_leave_time_for_deadlines(void **state)
{
    struct sched *s = create("slack", 1, 10 * GB, 1, GB, 1);
    struct sched_turn turn;

    (void)state;
    sched_set_resident(s, 0, 0, 1);
    arrive(s, 0, 1, 0, 1000000);
    assert_int_equal(sched_next(s, 0, 0, &turn), 1);
    assert_int_equal(turn.chunk, 8192); /* nobody waits for a token */
    sched_progress(s, 0, 1, 100, 1);
    arrive(s, 0, 2, 0, 1000000);
    /* due at 1.1 s: half of what is left beside a step of 25 ms, at 20 us a token */
    assert_int_equal(sched_next(s, 1000000, 0, &turn), 1);
    assert_in_range(turn.chunk, 1800, 1900);
    assert_int_equal(sched_next(s, 1090000, 0, &turn), 1);
    assert_int_equal(turn.chunk, 256);
    sched_destroy(s);
}

static void arrivals_follow_their_model(void **state)
{
    struct sched *s = create("slack", 3, 10 * GB, 4, GB, 1);

    (void)state;
    assert_int_equal(arrive(s, 0, 1, 0, 1000000), 0);
    assert_int_equal(arrive(s, 0, 2, 1, 1000000), 1);
    assert_int_equal(arrive(s, 0, 3, 0, 1000000), 0); /* its batch */
    sched_set_resident(s, 0, 2, 1);
    assert_int_equal(arrive(s, 0, 4, 2, 1000000), 0); /* resident; its load is small */
    assert_int_equal(arrive(s, 0, 5, 3, 1000000), 2);
    sched_destroy(s);
}

/* --- KV pressure ------------------------------------------------------------------------------ */

static void the_slackest_spills_first(void **state)
{
    struct sched *s = create("slack", 1, 4 * GB, 3, GB, 1);
    struct cost slow_link = usual;
    struct sched_spill spill;

    (void)state;
    for (uint32_t m = 0; m < 3; m++) {
        sched_set_resident(s, 0, m, 1);
        arrive(s, 0, 2 * m + 1, m, 1000000 * (m + 1));
        arrive(s, 0, 2 * m + 2, m, 1000000 * (m + 1));
        sched_progress(s, 0, 2 * m + 1, 1000, 1);
        sched_progress(s, 0, 2 * m + 2, 2000, 1);
    }
    assert_true(sched_free_bytes(s, 0) == (int64_t)(GB - 9000 * 100000u));
    assert_int_equal(sched_spill(s, 0, 0, 0, &spill), 1);
    assert_int_equal(spill.seq, 6); /* the newest of the model that is due last */
    assert_int_equal(spill.recompute, 0);
    assert_true(sched_free_bytes(s, 0) == (int64_t)(GB - 7000 * 100000u));
    slow_link.kv_token = 1; /* a second a token: prefill is cheaper */
    sched_set_cost(s, SCHED_ALL, 2, &slow_link, NULL);
    assert_int_equal(sched_spill(s, 0, 0, 0, &spill), 1);
    assert_int_equal(spill.seq, 5);
    assert_int_equal(spill.recompute, 1);
    assert_int_equal(sched_spill(s, 0, 0, 0, &spill), 1);
    assert_int_equal(sched_spill(s, 0, 0, 0, &spill), 1);
    assert_int_equal(sched_spill(s, 0, 0, 0, &spill), 1);
    assert_int_equal(spill.seq, 2);                       /* its own newest at last */
    assert_int_equal(sched_spill(s, 0, 0, 0, &spill), 0); /* but not its oldest */
    sched_fetched(s, 2);
    assert_true(sched_free_bytes(s, 0) == (int64_t)(GB - 3000 * 100000u));
    sched_away(s, 2);
    sched_finish(s, 0, 2);
    sched_finish(s, 0, 1);
    assert_true(sched_free_bytes(s, 0) == (int64_t)GB);
    sched_destroy(s);
}

/* --- costs ------------------------------------------------------------------------------------ */

static void costs_are_read(void **state)
{
    static const char text[] =
        "# a device\nDevice=d Memory=10e9 Link=1e9 # 1 GB/s\n\n"
        "Model=m Weights=2e9 KvToken=1000 Context=4096 Prefill=1e-3,2e-5,3e-9 "
        "Decode=1e-2,1e-8,1e-4\nModel=n Weights=2e9 KvToken=1 Context=99 "
        "Prefill=0,1e-5,0 Decode=1e-2,0,0 Switch=1.5 Mix=0.25";
    struct cost_table t;
    struct error err;
    const struct cost_entry *m;

    (void)state;
    assert_int_equal(cost_table_parse(&t, text, "x", &err), 0);
    assert_int_equal(t.model_count, 2);
    m = cost_table_find(&t, "m");
    assert_non_null(m);
    assert_true(m->cost.load == 2 && m->cost.kv_token == 1e-6 && m->context == 4096);
    assert_true(cost_decode(&m->cost, 4, 1000) > 0.010409 &&
                cost_decode(&m->cost, 4, 1000) < 0.010411);
    /* in two chunks a prompt costs what it costs in one, and `a` once more */
    assert_true(cost_prefill(&m->cost, 0, 500) + cost_chunk(&m->cost, 500, 500) -
                    cost_prefill(&m->cost, 0, 1000) <
                1e-12);
    assert_true(cost_table_find(&t, "n")->cost.load == 1.5);
    assert_null(cost_table_find(&t, "o"));
    cost_table_clear(&t);
}

static void bad_costs_are_refused(void **state)
{
#define DEV  "Device=d Memory=10e9 Link=1e9\n"
#define GOOD "Weights=2e9 KvToken=1 Context=99 Prefill=0,1e-5,0 Decode=1e-2,0,0"
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "no Model="},
        {"Model=m " GOOD, "no line Device="},
        {DEV "Model=m " GOOD " Fast=1", "x:2: unknown key \"Fast\""},
        {"Device=d Memory=1 Link=1 Weight=2", "there are Memory, Link"},
        {DEV "Weights=1", "begins with Device= or Model="},
        {DEV "Model=m Weights", "is not Key=Value"},
        {DEV "Model=m Weights=0", "above 0"},
        {DEV "Model=m Weights=nan", "above 0"},
        {DEV "Model=m Weights=2e9", "has no KvToken="},
        {DEV "Model=m " GOOD " Prefill=1,2", "three numbers"},
        {DEV "Model=m " GOOD " Decode=1,2,-3", "three numbers"},
        {DEV "Model=m " GOOD " Context=1", "from 2"},
        {DEV "Model=m " GOOD "\nModel=m " GOOD, "is there already"},
        {DEV "Model=m " GOOD " Weights=1e10", "does not fit"},
        {"Device= Memory=1 Link=1", "a name of"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct cost_table t;
        struct error err = {.text = ""};

        assert_int_equal(cost_table_parse(&t, bad[i].text, "x", &err), -1);
        assert_int_equal(err.status, STATUS_INVALID);
        if (strstr(err.text, bad[i].says) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", err.text, bad[i].says);
        assert_null(t.models);
    }
}

/* --- speed ------------------------------------------------------------------------------------ */

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* 100 models, 1,000 sequences on an instance: under 20 us a decision (here, 5 times that). */
static void a_decision_is_fast(void **state)
{
    struct sched *s = create("slack", 1, 50 * GB, 100, GB, 1);
    struct sched_turn turn;
    struct sched_load load;
    double spent = 0;

    (void)state;
    for (uint64_t i = 1; i <= 1000; i++)
        arrive(s, (int64_t)i, i, (uint32_t)(i % 100), 1000000);
    for (uint32_t m = 0; m < 40; m++)
        sched_set_resident(s, 0, m, 1);
    for (int i = 0; i < 20000; i++) {
        int64_t now = 1000 + 10000 * (int64_t)i;
        double began = seconds();

        if (sched_load(s, now, 0, &load))
            sched_set_resident(s, 0, load.model, 1);
        assert_int_equal(sched_next(s, now, 0, &turn), 1);
        sched_turn_ended(s, now, 0, turn.model, 5, 10000, 0);
        spent += seconds() - began;
        for (uint64_t k = 0; k < 10; k++)
            sched_progress(s, now, turn.model + 100 * k + (turn.model == 0 ? 100 : 0), 10,
                           (uint32_t)i / 10 + 1);
    }
    printf("a decision: %.2f us\n", spent / 20000 * 1e6);
    assert_true(spent / 20000 < 100e-6);
    sched_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fcfs_keeps_the_order),
        cmocka_unit_test(sjf_takes_the_shortest),
        cmocka_unit_test(a_group_does_not_refill),
        cmocka_unit_test(quotas_are_as_published),
        cmocka_unit_test(roles_are_kept),
        cmocka_unit_test(slack_runs_the_earliest_deadline),
        cmocka_unit_test(slack_loads_the_most_urgent),
        cmocka_unit_test(slack_switches_where_it_cannot_prefetch),
        cmocka_unit_test(chunks_leave_time_for_deadlines),
        cmocka_unit_test(arrivals_follow_their_model),
        cmocka_unit_test(the_slackest_spills_first),
        cmocka_unit_test(costs_are_read),
        cmocka_unit_test(bad_costs_are_refused),
        cmocka_unit_test(a_decision_is_fast),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
