/*
 * swap_test.c - KV on its way to host memory and back: whatever comes in between, its tokens are
 * those it has alone, and every page and place is given back once
 *
 * MODELPOOL_TEST_DEVICE=cuda: copies are under way while steps run.
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <stdlib.h>
#include <string.h>

#include "tests/unit/engine_rig.h"

#define FOLDER     SRCDIR "/tests/golden/families/"
#define VOCABULARY 272u
#define LENGTH     100u
#define OUTPUT     24u
#define CONTEXT    128u
#define SEQS       8u
#define NO_EOS     SAMPLING_IGNORE_EOS

/* --- places ----------------------------------------------------------------------------------- */

/* Places of several sizes, taken and given at random, never lie over each other, and all are there
 * again at the end. */
static void test_places(void **state)
{
    enum { UNITS = 200, HELD = 64 };
    struct device *d = device_create(1, PRECISION_EXACT, 16, 64, NULL);
    struct {
        uint8_t *at;
        uint64_t bytes;
    } held[HELD] = {{0}};
    uint8_t owner[UNITS] = {0};
    struct swap_space s;
    struct error err = {0};
    uint64_t random = 1;
    uint32_t full = 0;

    (void)state;
    assert_non_null(d);
    assert_int_equal(swap_space_open(&s, d, UNITS * SWAP_UNIT + 5, &err), 0);
    for (uint32_t round = 0; round < 20000; round++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint32_t i = (uint32_t)(random >> 40) % HELD;
        uint64_t units = held[i].bytes / SWAP_UNIT + (held[i].bytes % SWAP_UNIT != 0);
        if (held[i].at == NULL) {
            held[i].bytes = 1 + (random >> 20) % (9 * SWAP_UNIT);
            units = (held[i].bytes + SWAP_UNIT - 1) / SWAP_UNIT;
            held[i].at = swap_space_take(&s, held[i].bytes);
            full += held[i].at == NULL;
            uint64_t first = (uint64_t)(held[i].at - s.base) / SWAP_UNIT;
            for (uint64_t u = first; held[i].at != NULL && u < first + units; u++) {
                assert_true(u < UNITS && owner[u] == 0);
                owner[u] = 1;
            }
        } else {
            swap_space_give(&s, held[i].at, held[i].bytes);
            memset(owner + (uint64_t)(held[i].at - s.base) / SWAP_UNIT, 0, units);
            held[i].at = NULL;
        }
    }
    assert_true(full > 100);
    for (uint32_t i = 0; i < HELD; i++)
        if (held[i].at != NULL)
            swap_space_give(&s, held[i].at, held[i].bytes);
    assert_ptr_equal(swap_space_take(&s, UNITS * SWAP_UNIT), s.base);
    assert_null(swap_space_take(&s, 1));
    swap_space_close(&s);
    device_destroy(d);
}

/* --- sequences -------------------------------------------------------------------------------- */

static uint32_t alone[SEQS][OUTPUT];

static uint32_t model_of(uint32_t i)
{
    return 1 + i % 2;
}

static void ask(struct rig *r, uint32_t i)
{
    uint32_t prompt[LENGTH];

    for (uint32_t j = 0; j < LENGTH; j++)
        prompt[j] = (j * 31 + i * 57 + j * j * i) % VOCABULARY;
    rig_reset(r, i);
    rig_seq(r, i, model_of(i), prompt, LENGTH, 0, OUTPUT, NO_EOS);
}

/* Two models, the second with windows; a piece is a page. */
static void open_rig(struct rig *r)
{
    rig_open_swap(r, ORDER_EXACT, 24 * rig_handle(), 8 * rig_handle(), 2, 16);
    rig_model(r, 1, FOLDER "llama3", CONTEXT);
    assert_int_equal(r->model.ok, 1);
    rig_pages(r, ENGINE_PAGE_TOKENS, 0, 0);
    rig_model(r, 2, FOLDER "gemma3", CONTEXT);
    assert_int_equal(r->model.ok, 1);
    rig_pages(r, ENGINE_PAGE_TOKENS, 0, 0);
    r->e->swap.piece = r->swap_piece = 1;
}

static struct sequence *sequence(const struct rig *r, uint32_t i)
{
    return sequence_find(&r->e->sequences, i);
}

/* All go on to their ends, and are given what they are given alone. */
static void expect_all(struct rig *r)
{
    for (uint32_t i = 0; i < SEQS; i++)
        if (sequence(r, i) != NULL && sequence(r, i)->place != SEQUENCE_HERE)
            rig_ref(r, ORDER_SEQ_FETCH, 0, i);
    while (r->e->sequences.count > 0)
        for (uint32_t m = 1; m <= 2; m++)
            rig_turn(r, m, 0);
    for (uint32_t i = 0; i < SEQS; i++) {
        if (r->seqs[i].count == 0)
            continue; /* closed on its way */
        assert_string_equal(r->seqs[i].fault, "");
        assert_int_equal(r->seqs[i].count, OUTPUT);
        if (rig_device() != RIG_CUDA_FAST)
            assert_memory_equal(r->seqs[i].tokens, alone[i], sizeof(alone[i]));
    }
    assert_int_equal(r->e->swap.used, 0);
    assert_int_equal(r->e->swap.moving, 0);
}

static int setup(void **state)
{
    struct rig r;

    (void)state;
    open_rig(&r);
    for (uint32_t i = 0; i < SEQS; i++) {
        ask(&r, i);
        rig_turn(&r, model_of(i), 0);
        memcpy(alone[i], r.seqs[i].tokens, sizeof(alone[i]));
    }
    rig_close(&r);
    return 0;
}

/* One model's sequences leave and come while the other one's decode. */
static void test_beside_steps(void **state)
{
    struct rig r;

    (void)state;
    open_rig(&r);
    for (uint32_t i = 0; i < SEQS; i++)
        ask(&r, i);
    rig_turn(&r, 1, 4);
    rig_turn(&r, 2, 4);
    for (uint32_t i = 0; i < SEQS; i += 2)
        rig_ref(&r, ORDER_SEQ_SPILL, 0, i);
    assert_int_equal(r.e->swap.moving, SEQS / 2);
    rig_turn(&r, 2, 6);
    while (r.e->swap.moving > 0 && swap_wait_leaving(&r.e->swap))
        ;
    rig_events(&r);
    assert_int_equal(r.spilled, SEQS / 2);
    assert_int_equal(r.moved.ok, 1);
    assert_true(r.moved.bytes > 0);
    for (uint32_t i = 0; i < SEQS; i += 2) {
        assert_int_equal(sequence(&r, i)->place, SEQUENCE_AWAY);
        assert_int_equal(sequence(&r, i)->caches[0].count, sequence(&r, i)->caches[0].gone);
        rig_ref(&r, ORDER_SEQ_FETCH, 0, i);
    }
    rig_turn(&r, 2, 3);
    expect_all(&r);
    rig_close(&r);
}

/* Closed, called back and sent away again while pages are under way. */
static void test_on_the_way(void **state)
{
    struct rig r;

    (void)state;
    open_rig(&r);
    for (uint32_t i = 0; i < SEQS; i++)
        ask(&r, i);
    rig_turn(&r, 1, 3);
    rig_turn(&r, 2, 3);
    for (uint32_t i = 0; i < SEQS; i++)
        rig_ref(&r, ORDER_SEQ_SPILL, 0, i);
    swap_advance(&r.e->swap, 3);
    rig_reset(&r, 0);
    rig_ref(&r, ORDER_SEQ_CLOSE, 0, 0); /* some of it has gone */
    rig_ref(&r, ORDER_SEQ_FETCH, 0, 1); /* before it has left */
    rig_ref(&r, ORDER_SEQ_SPILL, 0, 1); /* before it has come */
    rig_ref(&r, ORDER_SEQ_SPILL, 0, 2); /* twice */
    rig_ref(&r, ORDER_SEQ_FETCH, 0, 3);
    swap_advance(&r.e->swap, 2);
    rig_ref(&r, ORDER_SEQ_FETCH, 0, 3);
    rig_reset(&r, 4);
    rig_ref(&r, ORDER_SEQ_FETCH, 0, 4);
    swap_advance(&r.e->swap, 1);
    rig_ref(&r, ORDER_SEQ_CLOSE, 0, 4); /* some of it has come */
    expect_all(&r);
    rig_close(&r);
}

/* A turn that has nothing to run waits for the first of its own, and for nobody else's. */
static void test_a_turn_waits_for_its_own(void **state)
{
    struct rig r;

    (void)state;
    open_rig(&r);
    for (uint32_t i = 0; i < SEQS; i++)
        ask(&r, i);
    rig_turn(&r, 1, 3);
    rig_turn(&r, 2, 3);
    for (uint32_t i = 0; i < SEQS; i++)
        rig_ref(&r, ORDER_SEQ_SPILL, 0, i);
    while (swap_wait_leaving(&r.e->swap))
        ;
    for (uint32_t i = 0; i < SEQS; i++)
        rig_ref(&r, ORDER_SEQ_FETCH, 0, i);
    assert_int_equal(swap_wait_coming(&r.e->swap, r.e->residency.models[1]), 1);
    assert_int_equal(sequence(&r, 1)->place, SEQUENCE_HERE);
    for (uint32_t i = 0; i < SEQS; i++)
        if (i != 1)
            assert_int_equal(sequence(&r, i)->place, SEQUENCE_COMING);
    rig_turn(&r, 2, 2);
    assert_int_equal(r.turn_end.steps, 2);
    expect_all(&r);
    rig_close(&r);
}

/* Where host memory is short some are dropped, and computed again. */
static void test_short_of_host_memory(void **state)
{
    struct rig r;

    (void)state;
    open_rig(&r);
    for (uint32_t i = 0; i < SEQS; i++)
        ask(&r, i);
    rig_turn(&r, 1, 3);
    rig_turn(&r, 2, 3);
    rig_ref(&r, ORDER_SEQ_SPILL, 0, 0);
    r.e->swap.budget = r.e->swap.used + 1;
    rig_ref(&r, ORDER_SEQ_SPILL, 0, 2);
    assert_int_equal(r.moved.ok, 0);
    assert_int_equal(sequence(&r, 2)->place, SEQUENCE_AWAY);
    assert_int_equal(sequence(&r, 2)->computed, 0);
    expect_all(&r);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_beside_steps),
        cmocka_unit_test(test_on_the_way),
        cmocka_unit_test(test_a_turn_waits_for_its_own),
        cmocka_unit_test(test_short_of_host_memory),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
