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

#include "tests/unit/engine_rig.h"

#define FOLDER          SRCDIR "/tests/golden/engine/"
#define PROMPTS_MAX     32u
#define PROMPT_MAX      1024u
#define STEPS_MAX       64u
#define TOP             20u
#define LOGIT_STEPS     4u
#define LOGIT_TOLERANCE 1e-2

/* A model that the environment may name, and how much of it is in its file. */
struct suite {
    const char *environment, *file;
    uint32_t prompts, steps;
    uint64_t memory;
};

struct top {
    uint32_t step, count;
    uint32_t tokens[TOP];
    double logits[TOP];
};

struct golden {
    uint32_t prompt[PROMPT_MAX], length;
    uint32_t tokens[STEPS_MAX], count;
    double gap; /* the narrowest between the two highest logits */
    struct top tops[LOGIT_STEPS];
    uint32_t top_count;
};

static struct golden golden[PROMPTS_MAX];

static uint32_t read_list(const char *text, uint32_t *out, uint32_t room)
{
    uint32_t count = 0;
    char *end;

    for (;; text = end) {
        unsigned long v = strtoul(text, &end, 10);
        if (end == text)
            return count;
        assert_true(count < room && v <= UINT32_MAX);
        out[count++] = (uint32_t)v;
    }
}

static void read_top(const char *text, struct top *t)
{
    char *end;

    t->step = (uint32_t)strtoul(text, &end, 10);
    for (t->count = 0; t->count < TOP; t->count++) {
        text = end;
        t->tokens[t->count] = (uint32_t)strtoul(text, &end, 10);
        if (end == text)
            break;
        assert_int_equal(*end, ':');
        t->logits[t->count] = strtod(end + 1, &end);
    }
    assert_int_equal(t->count, TOP);
}

static void read_golden(const struct suite *suite)
{
    char path[512], *line = NULL;
    size_t room = 0;
    int at;
    unsigned n;
    char kind;
    FILE *f;

    memset(golden, 0, sizeof(golden));
    snprintf(path, sizeof(path), FOLDER "%s", suite->file);
    f = fopen(path, "re");
    assert_non_null(f);
    while (getline(&line, &room, f) > 0) {
        if (line[0] == '#')
            continue;
        assert_int_equal(sscanf(line, "%c %u%n", &kind, &n, &at), 2);
        assert_true(n < suite->prompts);
        struct golden *g = &golden[n];
        if (kind == 'p') {
            g->length = read_list(line + at, g->prompt, PROMPT_MAX);
        } else if (kind == 'g') {
            g->count = read_list(line + at, g->tokens, STEPS_MAX);
        } else if (kind == 'm') {
            g->gap = strtod(line + at, NULL);
        } else {
            assert_int_equal(kind, 'l');
            assert_true(g->top_count < LOGIT_STEPS);
            read_top(line + at, &g->tops[g->top_count++]);
        }
    }
    free(line);
    fclose(f);
    for (n = 0; n < suite->prompts; n++) {
        assert_int_equal(golden[n].count, suite->steps);
        assert_true(golden[n].length > 0 && golden[n].gap > 0);
    }
}

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
    struct model *m = e->residency.models[0];
    enum step_result got =
        step_build(&e->step, m, &e->sequences, &e->residency, e->max_batch, e->chunk_rows);

    if (got == STEP_IDLE)
        return 0;
    assert_int_equal(got, STEP_READY);
    step_run(&e->step, e->device, &e->workspace);
    for (uint32_t i = 0; i < e->step.head_count; i++) {
        struct sequence *s = e->step.head_members[i];
        const struct golden *g = &golden[s->id];
        const float *logits = e->workspace.logits + (uint64_t)i * m->arch.vocabulary;
        uint32_t step = s->count - s->prompt;
        struct sampler_input in = {.logits = logits,
                                   .vocabulary = m->arch.vocabulary,
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
    const char *path = getenv(suite->environment);
    struct tally tally = {0};
    struct rig r;

    if (path == NULL) {
        print_message("%s is unset: no real model to compare\n", suite->environment);
        skip();
    }
    read_golden(suite);
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
    static const struct suite suite = {"MODELPOOL_TEST_MODEL", "smollm2.golden", 32, 64,
                                       (uint64_t)1 << 30};

    (void)state;
    check_model(&suite);
}

static void test_gemma3(void **state)
{
    static const struct suite suite = {"MODELPOOL_TEST_GEMMA", "gemma3.golden", 16, 64,
                                       (uint64_t)1 << 30};

    (void)state;
    check_model(&suite);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_gemma3),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
