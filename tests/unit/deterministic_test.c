/*
 * deterministic_test.c - a sequence's logits and tokens, bit for bit, whatever its steps are like
 *
 * Random models of the heads and types that a GPU's fast kernels know: each sequence alone with its
 * prompt in one piece, against any pieces, batches of 3, 17 and 64 of all lengths, and beginning
 * anew after every step.  A CPU promises it always (one model is tried here), a GPU where it was
 * asked: MODELPOOL_TEST_DEVICE=cuda-deterministic.
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/random_model.h"
#include "tests/unit/engine_rig.h"

#define SEQS   64u
#define LENGTH 150u /* the longest */
#define TOKENS 12u  /* of output */
#define MODEL  1u
#define NO_EOS SAMPLING_IGNORE_EOS

struct subject {
    const char *shape, *dtype;
};

/* The first on CPUs, too. */
static const struct subject subjects[] = {
    {"tiny-a", "bf16"}, {"tiny-b", "q4_k"}, {"tiny-c", "q8_0"}, {"tiny-a", "q4_1"},
    {"tiny-b", "f16"},  {"tiny-c", "q6_k"}, {"tiny-a", "f32"},
};

/* What a sequence's positions gave: a hash of the logits' bits each. */
struct outcome {
    uint64_t logits[SEQS][LENGTH];
};

struct trial {
    struct rig r;
    uint32_t vocabulary;
    uint32_t prompts[SEQS][LENGTH];
    uint32_t lengths[SEQS];
    struct outcome alone;
};

static size_t subject_count(void)
{
    return rig_device() == RIG_CPU ? 1 : sizeof(subjects) / sizeof(subjects[0]);
}

/* Little on a CPU, which sanitizers make slow. */
static uint32_t crowd(void)
{
    return rig_device() == RIG_CPU ? 4 : SEQS;
}

/* FNV-1a over words. */
static uint64_t hash(const float *logits, uint32_t count)
{
    uint64_t h = 14695981039346656037u;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof(bits));
        h = (h ^ bits) * 1099511628211u;
    }
    return h;
}

static struct trial *open_trial(const struct subject *s)
{
    struct trial *t = calloc(1, sizeof(*t));
    char path[64];
    struct error err = {0};
    enum dtype dtype;
    uint64_t bytes, state = 7;

    assert_non_null(t);
    snprintf(path, sizeof(path), "/tmp/deterministic_test.%d.gguf", (int)getpid());
    assert_int_equal(random_dtype(s->dtype, &dtype), 0);
    if (random_model_write(random_shape_find(s->shape), dtype, path, &bytes, &err) != 0)
        fail_msg("%s", err.text);
    rig_open(&t->r, 32 * rig_handle(), 2, STEP_BATCH_MAX);
    rig_model(&t->r, MODEL, path, 0);
    unlink(path);
    if (!t->r.model.ok)
        fail_msg("%s", t->r.model.text);
    rig_ref(&t->r, ORDER_LOAD, MODEL, 0);
    t->vocabulary = t->r.model.vocabulary;
    for (uint32_t i = 0; i < SEQS; i++) {
        t->lengths[i] = 1 + i * 37 % (rig_device() == RIG_CPU ? 40 : LENGTH);
        for (uint32_t j = 0; j < t->lengths[i]; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            t->prompts[i][j] = (uint32_t)(state >> 33) % t->vocabulary;
        }
    }
    return t;
}

static void close_trial(struct trial *t)
{
    rig_close(&t->r);
    free(t);
}

/* Sequences [first, first + count) together, at most `chunk` rows a step. */
static void run(struct trial *t, uint32_t first, uint32_t count, uint32_t chunk,
                struct outcome *out)
{
    const float *logits;
    struct step *st;

    for (uint32_t i = first; i < first + count; i++)
        rig_seq(&t->r, i, MODEL, t->prompts[i], t->lengths[i], 0, 1, NO_EOS);
    while ((st = rig_step(t->r.e, chunk, 1, &logits)) != NULL) {
        for (uint32_t i = 0; i < st->run_count; i++) {
            struct sequence *s = st->members[i];
            const struct attn_row *rows = &st->plan.runs[i];
            for (uint32_t k = 0; k < rows->count; k++)
                out->logits[s->id][rows->first_pos + k] =
                    hash(logits + (uint64_t)(rows->first_row + k) * t->vocabulary, t->vocabulary);
            s->computed += rows->count;
            if (s->computed == s->count)
                sequence_close(&t->r.e->sequences, s);
        }
    }
}

static void assert_same(const struct trial *t, const struct subject *s, uint32_t count,
                        const struct outcome *got, const char *how)
{
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t at = 0; at < t->lengths[i]; at++)
            if (got->logits[i][at] != t->alone.logits[i][at])
                fail_msg("%s %s, %s: sequence %" PRIu32 " of %" PRIu32
                         " tokens has other logits at %" PRIu32,
                         s->shape, s->dtype, how, i, t->lengths[i], at);
}

static void test_logits(void **state)
{
    static const uint32_t chunks[] = {1, 7, 33, 100}, crowds[] = {3, 17, SEQS};

    (void)state;
    for (size_t n = 0; n < subject_count(); n++) {
        struct trial *t = open_trial(&subjects[n]);
        struct outcome *got = calloc(1, sizeof(*got));
        uint32_t all = crowd();
        assert_non_null(got);
        for (uint32_t i = 0; i < all; i++)
            run(t, i, 1, LENGTH, &t->alone);
        assert_true(t->alone.logits[0][0] != t->alone.logits[1][0]);
        for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
            for (uint32_t i = 0; i < 4; i++)
                run(t, i, 1, chunks[c], got);
            assert_same(t, &subjects[n], 4, got, "in pieces");
        }
        for (size_t c = 0; c < sizeof(crowds) / sizeof(crowds[0]) && crowds[c] <= all; c++) {
            memset(got, 0, sizeof(*got));
            run(t, 0, crowds[c], STEP_BATCH_MAX, got);
            assert_same(t, &subjects[n], crowds[c], got, "in a batch");
            memset(got, 0, sizeof(*got));
            run(t, 0, crowds[c], crowds[c] + 5, got); /* nearly all decode */
            assert_same(t, &subjects[n], crowds[c], got, "beside others that decode");
        }
        free(got);
        close_trial(t);
    }
}

static void ask(struct trial *t, uint32_t i, uint32_t generated)
{
    rig_seq(&t->r, i, MODEL, t->prompts[i], t->lengths[i], generated, TOKENS, NO_EOS);
}

static void assert_tokens(struct trial *t, const struct subject *s, uint32_t count,
                          uint32_t (*alone)[TOKENS], const char *how)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct rig_seq *got = &t->r.seqs[i];
        assert_string_equal(got->fault, "");
        assert_int_equal(got->count, TOKENS);
        if (memcmp(got->tokens, alone[i], sizeof(alone[i])) != 0)
            fail_msg("%s %s, %s: sequence %" PRIu32 " has other tokens", s->shape, s->dtype, how,
                     i);
    }
}

/* Whole turns, whose decoding steps are recorded ones. */
static void test_tokens(void **state)
{
    static const uint32_t crowds[] = {3, 17, SEQS};
    static uint32_t alone[SEQS][TOKENS];

    (void)state;
    for (size_t n = 0; n < subject_count(); n++) {
        const struct subject *s = &subjects[n];
        struct trial *t = open_trial(s);
        uint32_t all = crowd(), anew = rig_device() == RIG_CPU ? 1 : 3;
        for (uint32_t i = 0; i < all; i++) {
            ask(t, i, 0);
            rig_turn(&t->r, MODEL, 0);
            memcpy(alone[i], t->r.seqs[i].tokens, sizeof(alone[i]));
        }
        assert_tokens(t, s, all, alone, "alone");
        for (size_t c = 0; c < sizeof(crowds) / sizeof(crowds[0]) && crowds[c] <= all; c++) {
            for (uint32_t i = 0; i < crowds[c]; i++) {
                rig_reset(&t->r, i);
                ask(t, i, 0);
            }
            rig_turn(&t->r, MODEL, 0);
            assert_tokens(t, s, crowds[c], alone, "in a batch");
        }
        /* Its KV is lost behind each step and computed again, of prompt and tokens. */
        for (uint32_t i = 0; i < anew; i++)
            rig_reset(&t->r, i);
        for (uint32_t k = 0; k < TOKENS; k++) {
            for (uint32_t i = 0; i < anew; i++)
                ask(t, i, t->r.seqs[i].count);
            rig_turn(&t->r, MODEL, 1);
            for (uint32_t i = 0; i < anew; i++)
                rig_ref(&t->r, ORDER_SEQ_CLOSE, 0, i);
            rig_assert_empty(&t->r);
        }
        assert_tokens(t, s, anew, alone, "begun anew after each step");
        close_trial(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_tokens),
    };

    if (rig_device() == RIG_CUDA_FAST) {
        puts("1..0 # SKIP of a GPU it is asked with MODELPOOL_TEST_DEVICE=cuda-deterministic");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
