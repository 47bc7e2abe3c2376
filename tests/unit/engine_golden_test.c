/*
 * engine_golden_test.c - real models against an independent f32 reference
 *
 * tests/golden/engine/ holds what transformers gives on the dequantized weights of each model
 * (remake.py beside it).  All prompts run together and greedily, each going on with the engine's
 * own token; every one must be the reference's, and its logits within LOGIT_TOLERANCE.
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/engine_golden.h"
#include "tests/unit/engine_rig.h"

#define LOGIT_TOLERANCE 1e-2

static struct golden golden[PROMPTS_MAX];

/* The greatest difference from the reference's logits of this step; 0 if it has none. */
static double compare_logits(const struct golden *g, uint32_t step, const float *logits)
{
    double worst = 0;

    for (uint32_t t = 0; t < g->top_count; t++) {
        if (g->tops[t].step != step)
            continue;
        for (uint32_t i = 0; i < TOP; i++) {
            double diff = fabs((double)logits[g->tops[t].tokens[i]] - g->tops[t].logits[i]);
            if (!(diff <= LOGIT_TOLERANCE))
                fail_msg("prompt %td, token %" PRIu32 " of the output: logit of %" PRIu32
                         " is %g off",
                         g - golden, step, g->tops[t].tokens[i], diff);
            worst = diff > worst ? diff : worst;
        }
    }
    return worst;
}

/* The pick must be the reference's. */
static void check_pick(const struct golden *g, uint32_t step, int64_t pick, const float *logits)
{
    uint32_t want = g->tokens[step];

    if (pick != want)
        fail_msg("prompt %td, token %" PRIu32 " of the output: %" PRId64 " (%g) instead of %" PRIu32
                 " (%g); the reference's narrowest gap is %g",
                 g - golden, step, pick, pick < 0 ? NAN : (double)logits[pick], want,
                 (double)logits[want], g->gap);
}

struct tally {
    double worst; /* difference of a logit */
    uint32_t compared;
};

/* Run one step; returns 0 when nothing is left. */
static int run_step(struct rig *r, uint32_t steps, struct tally *tally)
{
    struct engine *e = r->e;
    uint32_t vocabulary = e->residency.models[0]->arch.vocabulary;
    const float *all;
    struct step *st = rig_step(e, e->rows_max, 0, &all);

    if (st == NULL)
        return 0;
    for (uint32_t i = 0; i < st->run_count; i++)
        st->members[i]->computed += st->plan.runs[i].count;
    for (uint32_t i = 0; i < st->head_count; i++) {
        struct sequence *s = st->head_members[i];
        const struct golden *g = &golden[s->id];
        const float *logits = all + (uint64_t)i * vocabulary;
        uint32_t step = s->count - s->prompt;
        struct sampler_input in = {.logits = logits,
                                   .vocabulary = vocabulary,
                                   .sampling = &s->sampling,
                                   .position = s->count,
                                   .tokens = s->tokens,
                                   .count = s->count,
                                   .prompt = s->prompt};
        double diff = compare_logits(g, step, logits);
        tally->worst = diff > tally->worst ? diff : tally->worst;
        int64_t pick = sampler_pick(e->sampler, &in);
        check_pick(g, step, pick, logits);
        tally->compared++;
        s->tokens[s->count++] = (uint32_t)pick;
        s->announced = s->count;
        if (step + 1 == steps)
            sequence_close(&e->sequences, s);
    }
    return 1;
}

static void check_model(const struct suite *suite)
{
    const char *path = golden_model(suite);
    struct tally tally = {0};
    struct rig r;

    golden_read(suite, golden);
    rig_open(&r, suite->memory, 1, suite->prompts); /* beside other tests */
    rig_model(&r, 1, path, 0);
    if (!r.model.ok)
        fail_msg("%s", r.model.text);
    rig_ref(&r, ORDER_LOAD, 1, 0);
    assert_int_equal(r.came, 1);
    for (uint32_t i = 0; i < suite->prompts; i++)
        rig_seq(&r, i, 1, golden[i].prompt, golden[i].length, 0, suite->steps + 1,
                SAMPLING_IGNORE_EOS);
    while (run_step(&r, suite->steps, &tally))
        ;
    assert_int_equal(tally.compared, suite->prompts * suite->steps);
    print_message("%" PRIu32 " tokens equal; logits at most %.2g off\n", tally.compared,
                  tally.worst);
    rig_close(&r);
}

static void test_smollm2(void **state)
{
    (void)state;
    check_model(&suite_smollm2);
}

static void test_gemma3(void **state)
{
    (void)state;
    check_model(&suite_gemma3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_gemma3),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
