/*
 * engine_test.c - the engine's invariants: what a sequence is given does not depend on neighbours,
 * chunks, preemption, switching or threads, and nothing is lost
 *
 * Each runs on a tiny random model and, with MODELPOOL_TEST_MODEL, on a real one.
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/turn.h"
#include "tests/unit/engine_rig.h"
#include "tests/unit/tiny_gguf.h"

#define SEQS   16u
#define TOKENS 20u /* of output */
#define PROMPT 90u /* the longest */
#define HANDLE rig_handle()
#define MEMORY (256 * HANDLE)
#define MODEL  1u
#define NO_EOS SAMPLING_IGNORE_EOS

/* What sequence i is asked, and what it is given when it is alone. */
struct subject {
    const char *path;
    enum order_precision precision;
    uint32_t vocabulary;
    uint32_t weight_handles;
    uint32_t prompts[SEQS][PROMPT];
    uint32_t lengths[SEQS];
    uint32_t alone[SEQS][TOKENS];
};

static char tiny_path[64], other_path[64];
static struct subject subjects[4]; /* the tiny one, the real one; both exact, then both fast */
static size_t subject_count;

static void make_prompts(struct subject *s)
{
    uint64_t state = 42;

    for (uint32_t i = 0; i < SEQS; i++) {
        s->lengths[i] = 1 + i * 6 % PROMPT;
        for (uint32_t j = 0; j < s->lengths[i]; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            s->prompts[i][j] = (uint32_t)(state >> 33) % s->vocabulary;
        }
    }
}

static void ask(struct rig *r, const struct subject *s, uint32_t i, uint32_t model)
{
    rig_reset(r, i);
    rig_seq(r, i, model, s->prompts[i], s->lengths[i], 0, TOKENS, NO_EOS);
}

static void check(const struct rig *r, const struct subject *s, uint32_t i)
{
    const struct rig_seq *got = &r->seqs[i];

    assert_string_equal(got->fault, "");
    assert_int_equal(got->count, TOKENS);
    assert_int_equal(got->finish, FINISH_LENGTH);
    assert_int_equal(got->next_position, s->lengths[i] + TOKENS);
    assert_memory_equal(got->tokens, s->alone[i], sizeof(s->alone[i]));
}

static void open_subject(struct rig *r, const struct subject *s, uint64_t memory, uint32_t threads)
{
    rig_open_precision(r, s->precision, memory, threads, SEQS);
    rig_model(r, MODEL, s->path, 0);
    if (!r->model.ok)
        fail_msg("%s", r->model.text);
}

/* Ask each alone: the values that all else is compared with. */
static void measure_subject(const char *path, enum order_precision precision)
{
    struct subject *s = &subjects[subject_count++];
    struct rig r;

    s->path = path;
    s->precision = precision;
    open_subject(&r, s, MEMORY, 2);
    s->vocabulary = r.model.vocabulary;
    s->weight_handles = (uint32_t)(r.model.weight_bytes / HANDLE);
    make_prompts(s);
    for (uint32_t i = 0; i < SEQS; i++) {
        ask(&r, s, i, MODEL);
        rig_turn(&r, MODEL, 0);
        assert_int_equal(r.turn_end.reason, TURN_IDLE);
        assert_int_equal(r.seqs[i].prefilled, s->lengths[i]);
        memcpy(s->alone[i], r.seqs[i].tokens, sizeof(s->alone[i]));
        check(&r, s, i);
        rig_assert_empty(&r);
    }
    rig_close(&r);
}

static int setup(void **state)
{
    const char *real = getenv("MODELPOOL_TEST_MODEL");
    struct tiny_options other = {.seed = 7};

    (void)state;
    snprintf(tiny_path, sizeof(tiny_path), "/tmp/engine_test.%d.a.gguf", (int)getpid());
    snprintf(other_path, sizeof(other_path), "/tmp/engine_test.%d.b.gguf", (int)getpid());
    if (tiny_gguf_write(tiny_path, NULL) != 0 || tiny_gguf_write(other_path, &other) != 0)
        return -1;
    if (real == NULL)
        print_message("MODELPOOL_TEST_MODEL is unset: the tiny random model alone is tested\n");
    for (enum order_precision p = ORDER_EXACT; p <= ORDER_FAST; p++) {
        measure_subject(tiny_path, p);
        if (real != NULL)
            measure_subject(real, p);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(tiny_path);
    unlink(other_path);
    return 0;
}

/* The tokens vary, so that equality means something. */
static void test_outputs_vary(void **state)
{
    (void)state;
    for (size_t n = 0; n < subject_count; n++) {
        const struct subject *s = &subjects[n];
        uint32_t same = 0, repeated = 0;
        for (uint32_t i = 1; i < SEQS; i++)
            same += memcmp(s->alone[i], s->alone[0], sizeof(s->alone[0])) == 0;
        for (uint32_t i = 0; i < SEQS; i++)
            for (uint32_t j = 1; j < TOKENS; j++)
                repeated += s->alone[i][j] == s->alone[i][j - 1];
        assert_true(same <= 2);
        assert_true(repeated < SEQS * TOKENS / 2);
    }
}

static void test_batch_of_16(void **state)
{
    struct rig r;

    (void)state;
    for (size_t n = 0; n < subject_count; n++) {
        const struct subject *s = &subjects[n];
        open_subject(&r, s, MEMORY, 2);
        for (uint32_t i = 0; i < SEQS; i++)
            ask(&r, s, i, MODEL);
        rig_turn(&r, MODEL, 0);
        assert_int_equal(r.widest_batch, SEQS);
        for (uint32_t i = 0; i < SEQS; i++)
            check(&r, s, i);
        rig_close(&r);
    }
}

/* Any chunking of prompts, and sequences that join at a later step. */
static void test_chunks_and_joins(void **state)
{
    static const uint32_t chunks[] = {1, 7, 16, 33};
    struct rig r;

    (void)state;
    for (size_t n = 0; n < subject_count; n++) {
        const struct subject *s = &subjects[n];
        open_subject(&r, s, MEMORY, 1);
        for (size_t c = s->path == tiny_path ? 0 : 1; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
            r.e->rows_max = chunks[c];
            for (uint32_t i = 0; i < SEQS; i++) {
                ask(&r, s, SEQS - 1 - i, MODEL);
                rig_turn(&r, MODEL, 2);
            }
            rig_turn(&r, MODEL, 0);
            for (uint32_t i = 0; i < SEQS; i++)
                check(&r, s, i);
            rig_assert_empty(&r);
        }
        rig_close(&r);
    }
}

/* Two models, memory for the weights of one: every single step is behind a switch. */
static void test_preempted_each_step(void **state)
{
    struct rig r;

    (void)state;
    for (size_t n = 0; n < subject_count; n++) {
        const struct subject *s = &subjects[n];
        uint32_t count = 4, kv = s->path == tiny_path ? 2 : 24, turns = 0;
        uint64_t memory = (s->weight_handles + kv) * HANDLE;
        if (s->path == tiny_path)
            memory = 2 * HANDLE; /* one of weights, one of KV for both */
        open_subject(&r, s, memory, 2);
        rig_model(&r, 2, s->path == tiny_path ? other_path : s->path, 0);
        assert_int_equal(r.model.ok, 1);
        for (uint32_t i = 0; i < count; i++) {
            ask(&r, s, i, MODEL);
            rig_seq(&r, SEQS + i, 2, s->prompts[i], s->lengths[i], 0, TOKENS, NO_EOS);
        }
        for (; r.e->sequences.count > 0; turns++) {
            rig_turn(&r, MODEL + turns % 2, 1);
            assert_int_equal(r.turn_end.reason, TURN_QUOTA);
            assert_true(r.turn_end.switch_bytes > 0);
        }
        assert_int_equal(r.came, turns);
        assert_int_equal(r.went, turns - 1);
        for (uint32_t i = 0; i < count; i++) {
            check(&r, s, i);
            if (s->path == tiny_path) /* another model, other tokens */
                assert_memory_not_equal(r.seqs[SEQS + i].tokens, s->alone[i], sizeof(s->alone[i]));
            else
                assert_memory_equal(r.seqs[SEQS + i].tokens, s->alone[i], sizeof(s->alone[i]));
        }
        rig_close(&r);
    }
}

/* Closed after any number of tokens and given anew with the tokens so far. */
static void test_close_and_reopen(void **state)
{
    struct rig r;

    (void)state;
    for (size_t n = 0; n < subject_count; n++) {
        const struct subject *s = &subjects[n];
        open_subject(&r, s, MEMORY, 2);
        for (uint32_t i = 0; i < SEQS; i++)
            ask(&r, s, i, MODEL);
        rig_turn(&r, MODEL, 5);
        for (uint32_t i = 0; i < SEQS; i++) {
            rig_ref(&r, ORDER_SEQ_CLOSE, 0, i);
            if (i == SEQS - 1)
                rig_assert_empty(&r);
            /* Drop some as a restart would: what was generated but not delivered comes again. */
            r.seqs[i].count -= r.seqs[i].count > i % 3 ? i % 3 : 0;
            r.seqs[i].next_position = s->lengths[i] + r.seqs[i].count;
        }
        for (uint32_t i = 0; i < SEQS; i++)
            rig_seq(&r, i, MODEL, s->prompts[i], s->lengths[i], r.seqs[i].count, TOKENS, NO_EOS);
        rig_turn(&r, MODEL, 0);
        for (uint32_t i = 0; i < SEQS; i++)
            check(&r, s, i);
        rig_close(&r);
    }
}

/* The daemon's part when pages run out: close the newest, go on, give it anew later. */
static void test_kv_full_and_go_on(void **state)
{
    struct rig r;

    (void)state;
    if (rig_device() != RIG_CPU)
        skip(); /* what is made tight here is tight for a CPU's small pages */
    for (size_t n = 0; n < subject_count; n++) {
        const struct subject *s = &subjects[n];
        uint32_t waiting[SEQS], waits = 0, full = 0, newest = SEQS;
        open_subject(&r, s, MEMORY, 2);
        /* Room for a third of the pages that all need at once: pages as large as a handle. */
        struct model *m = r.e->residency.models[0];
        uint64_t page = m->kv.page_bytes;
        rig_close(&r);
        uint32_t kv = s->path == tiny_path ? 1 : 16;
        open_subject(&r, s, (s->weight_handles + kv) * HANDLE, 2);
        m = r.e->residency.models[0];
        if (s->path == tiny_path) /* its pages are small: waste most of each */
            m->kv.page_bytes = HANDLE / 20 / 64 * 64;
        else
            assert_true(page * 3 > HANDLE / 2);
        for (uint32_t i = 0; i < SEQS; i++)
            ask(&r, s, i, MODEL);
        do {
            rig_turn(&r, MODEL, 0);
            if (r.turn_end.reason == TURN_KV_FULL) {
                full++;
                assert_true(strstr(r.turn_end.text, "Memory=") != NULL);
                do
                    newest--;
                while (sequence_find(&r.e->sequences, newest) == NULL);
                rig_ref(&r, ORDER_SEQ_CLOSE, 0, newest);
                waiting[waits++] = newest;
            } else {
                assert_int_equal(r.turn_end.reason, TURN_IDLE);
                if (waits > 0) {
                    uint32_t i = waiting[--waits];
                    rig_seq(&r, i, MODEL, s->prompts[i], s->lengths[i], r.seqs[i].count, TOKENS,
                            NO_EOS);
                    newest = i + 1;
                }
            }
        } while (r.e->sequences.count > 0);
        assert_true(full > 0);
        for (uint32_t i = 0; i < SEQS; i++)
            check(&r, s, i);
        rig_close(&r);
    }
}

/* A cancel at a step boundary gives every page back and leaves the others alone. */
static void test_cancel(void **state)
{
    struct rig r;

    (void)state;
    for (size_t n = 0; n < subject_count; n++) {
        const struct subject *s = &subjects[n];
        open_subject(&r, s, MEMORY, 2);
        r.e->rows_max = 50; /* some are cancelled within their prompt */
        for (uint32_t i = 0; i < SEQS; i++)
            ask(&r, s, i, MODEL);
        for (uint32_t i = 0; i + 2 < SEQS; i++) {
            rig_turn(&r, MODEL, 1);
            rig_ref(&r, ORDER_SEQ_CLOSE, 0, i);
            rig_ref(&r, ORDER_SEQ_CLOSE, 0, i); /* a second time: ignored */
        }
        rig_turn(&r, MODEL, 0);
        check(&r, s, SEQS - 2);
        check(&r, s, SEQS - 1);
        rig_assert_empty(&r);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outputs_vary),     cmocka_unit_test(test_batch_of_16),
        cmocka_unit_test(test_chunks_and_joins), cmocka_unit_test(test_preempted_each_step),
        cmocka_unit_test(test_close_and_reopen), cmocka_unit_test(test_kv_full_and_go_on),
        cmocka_unit_test(test_cancel),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
