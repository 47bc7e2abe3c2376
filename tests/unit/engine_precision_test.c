/*
 * engine_precision_test.c - Precision=fast held to Precision=exact on real models
 *
 * Two engines run the same prompts, both given the reference's tokens (tests/golden/engine/), so
 * that they are in the same state at every step.  How often they choose the same token, and how
 * much less likely by the exact logits the other choice is, must stay within what was measured,
 * with some room.
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
#include <stdlib.h>
#include <string.h>

#include "tests/unit/engine_golden.h"
#include "tests/unit/engine_rig.h"

/* What must hold of a model. */
struct bounds {
    double agreement; /* at least this part of the tokens is the same */
    double gap;       /* a token chosen otherwise has at most this much less of an exact logit */
    double rms;       /* difference of a logit, at most, root of the mean square over all */
};

struct found {
    uint32_t states, same;
    double gap, worst, squares, logits;
};

static struct golden golden[PROMPTS_MAX];

static uint32_t largest(const float *logits, uint32_t count)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static void compare(struct found *f, const float *exact, const float *fast, uint32_t count)
{
    uint32_t a = largest(exact, count), b = largest(fast, count);
    double gap = (double)exact[a] - (double)exact[b];

    f->states++;
    f->same += a == b;
    f->gap = gap > f->gap ? gap : f->gap;
    for (uint32_t i = 0; i < count; i++) {
        double diff = (double)exact[i] - (double)fast[i];
        assert_true(fabs(diff) < 1e3); /* nor is any of them no number */
        f->squares += diff * diff;
        f->worst = fabs(diff) > f->worst ? fabs(diff) : f->worst;
    }
    f->logits += count;
}

static struct step *step(struct rig *r, const float **logits)
{
    struct step *st = rig_step(r->e, r->e->rows_max, 0, logits);

    for (uint32_t i = 0; st != NULL && i < st->run_count; i++)
        st->members[i]->computed += st->plan.runs[i].count;
    return st;
}

/* Give the sequences of the step the reference's tokens. */
static void force(struct rig *r, struct step *st, uint32_t steps)
{
    for (uint32_t i = 0; i < st->head_count; i++) {
        struct sequence *s = st->head_members[i];
        uint32_t at = s->count - s->prompt;
        s->tokens[s->count++] = golden[s->id].tokens[at];
        s->announced = s->count;
        if (at + 1 == steps)
            sequence_close(&r->e->sequences, s);
    }
}

static void open_rig(struct rig *r, const struct suite *suite, const char *path,
                     enum order_precision precision)
{
    rig_open_precision(r, precision, suite->memory, 2, suite->prompts);
    rig_model(r, 1, path, 0);
    if (!r->model.ok)
        fail_msg("%s", r->model.text);
    rig_ref(r, ORDER_LOAD, 1, 0);
    assert_int_equal(r->came, 1);
    for (uint32_t i = 0; i < suite->prompts; i++)
        rig_seq(r, i, 1, golden[i].prompt, golden[i].length, 0, suite->steps + 1,
                SAMPLING_IGNORE_EOS);
}

static void check_model(const struct suite *suite, const struct bounds *bounds)
{
    const char *path = golden_model(suite);
    struct found f = {0};
    struct rig exact, fast;
    struct step *one, *other;
    const float *logits, *others;

    golden_read(suite, golden);
    open_rig(&exact, suite, path, ORDER_EXACT);
    open_rig(&fast, suite, path, ORDER_FAST);
    while ((one = step(&exact, &logits)) != NULL) {
        uint32_t vocabulary = exact.e->residency.models[0]->arch.vocabulary;
        other = step(&fast, &others);
        assert_non_null(other);
        assert_int_equal(other->head_count, one->head_count);
        for (uint32_t i = 0; i < one->head_count; i++) {
            assert_true(other->head_members[i]->id == one->head_members[i]->id);
            compare(&f, logits + (size_t)i * vocabulary, others + (size_t)i * vocabulary,
                    vocabulary);
        }
        force(&exact, one, suite->steps);
        force(&fast, other, suite->steps);
    }
    assert_int_equal(f.states, suite->prompts * suite->steps);
    double agreement = (double)f.same / f.states, rms = sqrt(f.squares / f.logits);
    print_message("%s and %s: %" PRIu32 " of %" PRIu32 " tokens (%.2f %%) are the same; one chosen "
                  "otherwise has at most %.3f less of a logit; logits differ by %.4f (root mean "
                  "square), at most %.3f\n",
                  exact.ready.device, fast.ready.device, f.same, f.states, 100 * agreement, f.gap,
                  rms, f.worst);
    assert_true(agreement >= bounds->agreement);
    assert_true(f.gap <= bounds->gap);
    assert_true(rms <= bounds->rms);
    rig_close(&exact);
    rig_close(&fast);
}

static void test_smollm2(void **state)
{
    static const struct bounds bounds = {0.965, 0.6, 0.35};

    (void)state;
    check_model(&suite_smollm2, &bounds);
}

static void test_gemma3(void **state)
{
    static const struct bounds bounds = {0.92, 0.6, 0.35};

    (void)state;
    check_model(&suite_gemma3, &bounds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_gemma3),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
