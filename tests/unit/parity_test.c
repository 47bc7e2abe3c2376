/*
 * parity_test.c - a GPU held to the CPU on a real model
 *
 * Greedy tokens of the reference's prompts (tests/golden/engine/), both devices given the
 * reference's tokens, so that they are in the same state at every step: each token that the GPU
 * chooses otherwise is named, with how much less of the CPU's logit it has.  In float32, in
 * bfloat16, and deterministic.  Skipped without a GPU; bench/parity runs it.
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

static struct golden golden[PROMPTS_MAX];
static struct error why; /* there is no GPU */

struct side {
    const char *device; /* as MODELPOOL_TEST_DEVICE has it */
    struct rig rig;
    struct step *step;
    float *logits; /* of the step's head rows */
};

struct found {
    uint32_t states, same;
    double gap, squares, logits;
};

/* The rig asks for it at each call. */
static void at(const struct side *s)
{
    assert_int_equal(setenv("MODELPOOL_TEST_DEVICE", s->device, 1), 0);
}

static void open_side(struct side *s, const struct suite *suite, const char *path,
                      const char *device)
{
    memset(s, 0, sizeof(*s));
    s->device = device;
    at(s);
    uint64_t memory = rig_device() == RIG_CPU ? suite->memory : (uint64_t)2 << 30;
    rig_open_precision(&s->rig, ORDER_EXACT, memory, 0, suite->prompts);
    rig_model(&s->rig, 1, path, 0);
    if (!s->rig.model.ok)
        fail_msg("%s", s->rig.model.text);
    rig_ref(&s->rig, ORDER_LOAD, 1, 0);
    for (uint32_t i = 0; i < suite->prompts; i++)
        rig_seq(&s->rig, i, 1, golden[i].prompt, golden[i].length, 0, suite->steps + 1,
                SAMPLING_IGNORE_EOS);
}

static void close_side(struct side *s)
{
    at(s);
    rig_close(&s->rig);
    free(s->logits);
}

/* 0: nothing is left. */
static int step(struct side *s)
{
    const float *logits;

    at(s);
    s->step = rig_step(s->rig.e, STEP_ROWS_CPU, 0, &logits);
    if (s->step == NULL)
        return 0;
    for (uint32_t i = 0; i < s->step->run_count; i++)
        s->step->members[i]->computed += s->step->plan.runs[i].count;
    size_t bytes = (size_t)s->step->head_count * s->rig.model.vocabulary * sizeof(float);
    s->logits = realloc(s->logits, bytes + 1);
    assert_non_null(s->logits);
    memcpy(s->logits, logits, bytes);
    return 1;
}

/* Give the sequences of the step the reference's tokens. */
static void force(struct side *side, uint32_t steps)
{
    at(side);
    for (uint32_t i = 0; i < side->step->head_count; i++) {
        struct sequence *s = side->step->head_members[i];
        uint32_t done = s->count - s->prompt;
        s->tokens[s->count++] = golden[s->id].tokens[done];
        s->announced = s->count;
        if (done + 1 == steps)
            sequence_close(&side->rig.e->sequences, s);
    }
}

static uint32_t largest(const float *logits, uint32_t count)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static void compare(struct found *f, const struct sequence *s, const float *cpu, const float *gpu,
                    uint32_t count)
{
    uint32_t a = largest(cpu, count), b = largest(gpu, count);
    double gap = (double)cpu[a] - (double)cpu[b];

    f->states++;
    f->same += a == b;
    f->gap = gap > f->gap ? gap : f->gap;
    if (a != b)
        print_message("  prompt %" PRIu64 ", token %" PRIu32 ": %" PRIu32 " instead of %" PRIu32
                      ", which has %.5f more of a logit\n",
                      s->id, s->count - s->prompt, b, a, gap);
    for (uint32_t i = 0; i < count; i++) {
        double diff = (double)cpu[i] - (double)gpu[i];
        assert_true(fabs(diff) < 1e3); /* nor is any of them no number */
        f->squares += diff * diff;
    }
    f->logits += count;
}

/* most: a token chosen otherwise has at most this much less of a logit. */
static void check(const char *device, double most)
{
    const struct suite *suite = &suite_smollm2;
    const char *path = golden_model(suite);
    struct found f = {0};
    struct side cpu, gpu;

    if (path == NULL || why.text[0] != '\0') {
        print_message("%s\n", path == NULL ? "there is no model" : why.text);
        skip();
    }
    golden_read(suite, golden);
    open_side(&cpu, suite, path, "cpu");
    open_side(&gpu, suite, path, device);
    print_message("%s beside %s\n", gpu.rig.ready.device, cpu.rig.ready.device);
    while (step(&cpu)) {
        uint32_t vocabulary = cpu.rig.model.vocabulary;
        assert_true(step(&gpu));
        assert_int_equal(gpu.step->head_count, cpu.step->head_count);
        for (uint32_t i = 0; i < cpu.step->head_count; i++) {
            assert_true(gpu.step->head_members[i]->id == cpu.step->head_members[i]->id);
            compare(&f, cpu.step->head_members[i], cpu.logits + (size_t)i * vocabulary,
                    gpu.logits + (size_t)i * vocabulary, vocabulary);
        }
        force(&cpu, suite->steps);
        force(&gpu, suite->steps);
    }
    assert_int_equal(f.states, suite->prompts * suite->steps);
    print_message("%s: %" PRIu32 " of %" PRIu32 " tokens (%.2f %%) are the CPU's; one chosen "
                  "otherwise has at most %.5f less of a logit; logits differ by %.5f (root mean "
                  "square)\n",
                  device, f.same, f.states, 100.0 * f.same / f.states, f.gap,
                  sqrt(f.squares / f.logits));
    assert_true(f.gap <= most);
    close_side(&cpu);
    close_side(&gpu);
}

static void test_float32(void **state)
{
    (void)state;
    check("cuda", 0.01);
}

static void test_bfloat16(void **state)
{
    (void)state;
    check("cuda-fast", 0.6);
}

static void test_deterministic(void **state)
{
    (void)state;
    check("cuda-deterministic", 0.6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float32),
        cmocka_unit_test(test_bfloat16),
        cmocka_unit_test(test_deterministic),
    };
    struct device *gpu = device_create_cuda(0, PRECISION_EXACT, 1, 64, &why);

    if (gpu != NULL)
        device_destroy(gpu);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
