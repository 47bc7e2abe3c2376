/*
 * engine_turn_test.c - turns and residency on tiny models, and everything that is refused by name
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/engine_rig.h"
#include "tests/unit/tiny_gguf.h"

#define HANDLE rig_handle()
#define NO_EOS SAMPLING_IGNORE_EOS

static char path[64];
static const uint32_t prompt[] = {72, 101, 108, 108, 111, 256, 32, 119, 111, 114};
#define PROMPT (uint32_t)(sizeof(prompt) / sizeof(prompt[0]))

#define assert_says(text, part)                                                                    \
    do {                                                                                           \
        if (strstr((text), (part)) == NULL)                                                        \
            fail_msg("\"%s\" does not say \"%s\"", (text), (part));                                \
    } while (0)

static void write_model(const struct tiny_options *options)
{
    assert_int_equal(tiny_gguf_write(path, options), 0);
}

/* An engine with models 1..count of one file, one thread. */
static void open_models(struct rig *r, uint64_t memory, uint32_t count)
{
    write_model(NULL);
    rig_open(r, memory, 1, 8);
    for (uint32_t id = 1; id <= count; id++) {
        rig_model(r, id, path, 0);
        if (!r->model.ok)
            fail_msg("%s", r->model.text);
    }
}

static void ask(struct rig *r, uint64_t seq, uint32_t model, uint32_t max_tokens)
{
    rig_reset(r, seq);
    rig_seq(r, seq, model, prompt, PROMPT, 0, max_tokens, NO_EOS);
}

/* --- turns ---------------------------------------------------------------------------------- */

static void test_model_event(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 8 * HANDLE + 12345, 1);
    assert_int_equal(r.ready.memory_bytes, 8 * HANDLE);
    assert_int_equal(r.ready.handle_bytes, HANDLE);
    assert_int_equal(strncmp(r.ready.device, "cpu ", 4), 0);
    assert_int_equal(r.model.vocabulary, TINY_VOCABULARY);
    assert_int_equal(r.model.max_context, 4096);
    assert_int_equal(r.model.page_tokens, 16);
    assert_int_equal(r.model.weight_bytes, HANDLE);
    assert_int_equal(r.model.kv_token_bytes, 2 * 2 * 2 * 16 * sizeof(float));
    rig_model(&r, 2, path, 100);
    assert_int_equal(r.model.max_context, 100);
    rig_close(&r);
}

static void test_quotas(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 4 * HANDLE, 2);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.turn_end.reason, TURN_IDLE);
    assert_int_equal(r.turn_end.steps, 0);
    assert_int_equal(r.came, 0); /* nothing to do: nothing loaded */

    ask(&r, 1, 1, 40);
    ask(&r, 2, 2, 10);
    rig_turn(&r, 1, 3);
    assert_int_equal(r.turn_end.reason, TURN_QUOTA);
    assert_int_equal(r.turn_end.steps, 3);
    assert_int_equal(r.seqs[1].count, 3);
    assert_true(r.turn_end.step_us > 0 && r.turn_end.switch_us > 0 && r.turn_end.switch_bytes > 0);
    assert_int_equal(r.turn_end.kv_pages_used, 1);

    rig_queue(&r, 1, 0, 1); /* a microsecond: one step all the same */
    rig_run(&r);
    assert_int_equal(r.turn_end.reason, TURN_QUOTA);
    assert_int_equal(r.turn_end.steps, 1);
    assert_int_equal(r.turn_end.switch_bytes, 0);

    rig_queue(&r, 1, 0, 0); /* no quota: yields to the next one, which has the last word */
    rig_queue(&r, 2, 0, 0);
    rig_queue(&r, 1, 0, 0); /* a third is refused */
    assert_int_equal(r.turn_end.reason, TURN_FAULT);
    assert_int_equal(r.turn_end.turn, r.turn);
    rig_run(&r);
    assert_int_equal(r.turn_end.reason, TURN_NEXT);
    assert_int_equal(r.turn_end.model, 1);
    assert_int_equal(r.turn_end.steps, 1);
    rig_run(&r);
    assert_int_equal(r.turn_end.reason, TURN_IDLE);
    assert_int_equal(r.turn_end.model, 2);
    assert_int_equal(r.seqs[2].finish, FINISH_LENGTH);
    assert_int_equal(r.seqs[1].count, 5);

    rig_turn(&r, 9, 0);
    assert_int_equal(r.turn_end.reason, TURN_FAULT);
    assert_says(r.turn_end.text, "no such model");
    rig_close(&r);
}

/* Prompts and decoding rows in turns of their own, as many prompts as are allowed. */
static void test_phases(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 8 * HANDLE, 1);
    for (uint64_t seq = 1; seq <= 3; seq++)
        ask(&r, seq, 1, 5);
    rig_queue_order(&r, (struct order_turn){.model = 1, .phases = ORDER_DECODE});
    rig_run(&r);
    assert_int_equal(r.turn_end.reason, TURN_IDLE);
    assert_int_equal(r.turn_end.steps, 0); /* none has a token yet */
    rig_queue_order(&r, (struct order_turn){.model = 1, .phases = ORDER_PREFILL, .fresh_max = 2});
    rig_queue_order(&r, (struct order_turn){.model = 1, .phases = ORDER_DECODE, .quota_steps = 2});
    rig_run(&r);
    assert_int_equal(r.turn_end.reason, TURN_IDLE); /* not NEXT: they are done first */
    for (uint64_t seq = 1; seq <= 3; seq++)
        assert_int_equal(r.seqs[seq].count, seq <= 2);
    rig_run(&r);
    assert_int_equal(r.turn_end.reason, TURN_QUOTA);
    for (uint64_t seq = 1; seq <= 3; seq++)
        assert_int_equal(r.seqs[seq].count, seq <= 2 ? 3 : 0);
    /* One that is given anew with output decodes, though its KV is computed again. */
    rig_ref(&r, ORDER_SEQ_CLOSE, 1, 2);
    rig_seq(&r, 2, 1, prompt, PROMPT, 3, 5, NO_EOS);
    rig_queue_order(&r, (struct order_turn){.model = 1, .phases = ORDER_DECODE});
    rig_run(&r);
    assert_int_equal(r.seqs[1].finish, FINISH_LENGTH);
    assert_int_equal(r.seqs[2].finish, FINISH_LENGTH);
    assert_int_equal(r.seqs[3].count, 0);
    rig_queue_order(&r, (struct order_turn){.model = 1, .phases = ORDER_PHASES});
    rig_run(&r);
    assert_int_equal(r.seqs[3].finish, FINISH_LENGTH);
    assert_memory_equal(r.seqs[1].tokens, r.seqs[3].tokens, 5 * sizeof(uint32_t));
    assert_memory_equal(r.seqs[2].tokens, r.seqs[3].tokens, 5 * sizeof(uint32_t));
    rig_close(&r);
}

/* One with an SLO does not wait for a place behind those without. */
static void test_urgent(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 8 * HANDLE, 1); /* a batch of 8 */
    for (uint64_t seq = 1; seq <= 8; seq++)
        ask(&r, seq, 1, 6);
    rig_turn(&r, 1, 2);
    r.urgent = 1;
    ask(&r, 9, 1, 4);
    ask(&r, 10, 1, 4);
    r.urgent = 0;
    ask(&r, 11, 1, 2);
    rig_turn(&r, 1, 2);
    assert_int_equal(r.seqs[9].count, 2);
    assert_int_equal(r.seqs[10].count, 2);
    for (uint64_t seq = 1; seq <= 6; seq++)
        assert_int_equal(r.seqs[seq].count, 4);
    assert_int_equal(r.seqs[7].count, 2); /* the newest two sit out */
    assert_int_equal(r.seqs[8].count, 2);
    rig_turn(&r, 1, 0);
    for (uint64_t seq = 1; seq <= 11; seq++)
        assert_int_equal(r.seqs[seq].finish, FINISH_LENGTH);
    assert_memory_equal(r.seqs[1].tokens, r.seqs[8].tokens, 6 * sizeof(uint32_t));
    assert_memory_equal(r.seqs[1].tokens, r.seqs[9].tokens, 4 * sizeof(uint32_t));
    rig_close(&r);
}

/* A prompt beside rows that decode goes in chunks; alone it goes as it fits. */
static void test_chunk(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 8 * HANDLE, 1);
    ask(&r, 1, 1, 9);
    rig_queue_order(&r, (struct order_turn){.model = 1, .quota_steps = 1, .chunk = 3});
    rig_run(&r);
    assert_int_equal(r.seqs[1].count, 1); /* whole: nothing waits beside it */
    ask(&r, 2, 1, 9);
    rig_queue_order(&r, (struct order_turn){.model = 1, .quota_steps = 3, .chunk = 3});
    rig_run(&r);
    assert_int_equal(r.seqs[1].count, 4);
    assert_int_equal(r.seqs[2].count, 0); /* 9 of its 10 */
    rig_queue_order(&r, (struct order_turn){.model = 1, .chunk = 3});
    rig_run(&r);
    assert_int_equal(r.seqs[2].finish, FINISH_LENGTH);
    assert_memory_equal(r.seqs[1].tokens, r.seqs[2].tokens, 9 * sizeof(uint32_t));
    rig_close(&r);
}

/* A sequence whose tokens have not all come does not run, nor does it hold others up. */
static void test_tokens_in_parts(void **state)
{
    struct order_seq open = {.kind = ORDER_SEQ_OPEN,
                             .model = 1,
                             .seq = 1,
                             .tokens = 3,
                             .max_tokens = 2,
                             .sampling = {.flags = NO_EOS, .top_p = 1, .repetition_penalty = 1}};
    struct rig r;

    (void)state;
    open_models(&r, 4 * HANDLE, 1);
    rig_order(&r, &open, -1);
    ask(&r, 2, 1, 2);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[1].count, 0);
    assert_int_equal(r.seqs[2].count, 2);
    rig_close(&r);
}

static void test_max_batch(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 4 * HANDLE, 1);
    for (uint64_t i = 0; i < 12; i++)
        ask(&r, i, 1, 4 + (uint32_t)i);
    rig_turn(&r, 1, 4);
    assert_int_equal(r.widest_batch, 8);
    assert_int_equal(r.seqs[7].count, 4);
    assert_int_equal(r.seqs[8].count, 0); /* the younger ones wait */
    rig_turn(&r, 1, 0);
    for (uint64_t i = 0; i < 12; i++)
        assert_int_equal(r.seqs[i].count, 4 + i);
    rig_close(&r);
}

static void test_finish(void **state)
{
    struct rig r;
    uint32_t stop, where;

    (void)state;
    open_models(&r, 4 * HANDLE, 1);
    ask(&r, 1, 1, 30);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[1].finish, FINISH_LENGTH);
    assert_int_equal(r.seqs[1].count, 30);
    /* Make one of these tokens end sequences: it does where it first occurs. */
    stop = r.seqs[1].tokens[20];
    for (where = 0; r.seqs[1].tokens[where] != stop; where++)
        ;
    r.e->residency.models[0]->arch.eos[0] = stop;
    r.e->residency.models[0]->arch.eos_count = 1;
    rig_seq(&r, 2, 1, prompt, PROMPT, 0, 30, 0);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[2].finish, FINISH_STOP);
    assert_int_equal(r.seqs[2].count, where + 1);
    assert_memory_equal(r.seqs[2].tokens, r.seqs[1].tokens, (where + 1) * sizeof(uint32_t));
    rig_assert_empty(&r);

    rig_model(&r, 2, path, PROMPT + 5); /* the context's end */
    ask(&r, 3, 2, 30);
    rig_turn(&r, 2, 0);
    assert_int_equal(r.seqs[3].finish, FINISH_LENGTH);
    assert_int_equal(r.seqs[3].count, 5);
    rig_close(&r);
}

/* --- residency ------------------------------------------------------------------------------ */

/* Three models, room for two: the least recently used goes. */
static void test_residency_lru(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 3 * HANDLE, 3); /* one handle of KV */
    struct model **m = r.e->residency.models;
    for (uint32_t id = 1; id <= 3; id++)
        ask(&r, id, id, 100);
    rig_turn(&r, 1, 1);
    rig_turn(&r, 2, 1);
    assert_int_equal(r.came, 2);
    assert_int_equal(r.went, 0);
    rig_turn(&r, 1, 1);
    assert_int_equal(r.turn_end.switch_bytes, 0); /* both were there */
    rig_turn(&r, 3, 1);
    assert_true(m[0]->resident && !m[1]->resident && m[2]->resident);
    rig_turn(&r, 2, 1);
    assert_true(!m[0]->resident && m[1]->resident && m[2]->resident);
    assert_int_equal(r.came, 4);
    assert_int_equal(r.went, 2);
    rig_close(&r);
}

static void test_load_and_unload(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 3 * HANDLE, 2);
    rig_ref(&r, ORDER_LOAD, 1, 0);
    assert_int_equal(r.came, 1);
    assert_int_equal(arena_held(r.e->arena, ARENA_FREE), 2);
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    assert_int_equal(r.went, 1);
    assert_int_equal(arena_held(r.e->arena, ARENA_FREE), 3);
    rig_ref(&r, ORDER_UNLOAD, 1, 0); /* answered again */
    assert_int_equal(r.went, 2);
    rig_ref(&r, ORDER_LOAD, 7, 0); /* unknown: ignored */

    /* Unloaded within a turn it comes back for the next step, and the KV has stayed. */
    ask(&r, 1, 1, 6);
    rig_turn(&r, 1, 2);
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    rig_turn(&r, 1, 0);
    assert_true(r.turn_end.switch_bytes > 0);
    assert_int_equal(r.seqs[1].count, 6);
    assert_int_equal(r.seqs[1].prefilled, PROMPT);
    rig_close(&r);
}

/* KV of live sequences is in the way of weights: the turn ends, and goes on once they are closed.
 */
static void test_no_room_for_weights(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 2 * HANDLE, 2);
    r.e->residency.models[0]->kv.page_bytes = HANDLE; /* a page fills the rest */
    r.e->residency.models[1]->kv.page_bytes = HANDLE / 2;
    ask(&r, 1, 1, 40);
    rig_turn(&r, 1, 1);
    assert_int_equal(r.turn_end.reason, TURN_QUOTA);
    ask(&r, 2, 2, 3);
    rig_turn(&r, 2, 0); /* its weights fit in place of model 1's, its page does not */
    assert_int_equal(r.turn_end.reason, TURN_KV_FULL);
    rig_ref(&r, ORDER_SEQ_CLOSE, 0, 1);
    rig_turn(&r, 2, 0);
    assert_int_equal(r.turn_end.reason, TURN_IDLE);
    assert_int_equal(r.seqs[2].count, 3);

    /* Both handles hold KV (model 1's weights went for it): no weights fit at all. */
    void *pages[2];
    for (int i = 0; i < 2; i++) {
        while ((pages[i] = pages_take(r.e->pages, HANDLE)) == NULL)
            assert_int_equal(residency_evict(&r.e->residency, NULL, NULL), 1);
    }
    ask(&r, 3, 1, 3);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.turn_end.reason, TURN_FAULT);
    assert_says(r.turn_end.text, "model-1 needs 2 MiB");
    assert_says(r.turn_end.text, "Memory=");
    rig_ref(&r, ORDER_LOAD, 1, 0); /* answered by "it is not there" */
    pages_give(r.e->pages, pages[0]);
    pages_give(r.e->pages, pages[1]);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[3].count, 3);
    rig_close(&r);
}

/* KV takes the place of weights that do not run. */
static void test_kv_evicts_idle_weights(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 2 * HANDLE, 2);
    rig_ref(&r, ORDER_LOAD, 2, 0);
    ask(&r, 1, 1, 3);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[1].count, 3);
    assert_int_equal(r.went, 1);
    rig_close(&r);
}

/* --- refusals ------------------------------------------------------------------------------- */

static void test_sequences_refused(void **state)
{
    static const uint32_t bad[] = {1, TINY_VOCABULARY, 2};
    struct rig r;

    (void)state;
    open_models(&r, 4 * HANDLE, 1);
    rig_model(&r, 2, path, 32);
    rig_seq(&r, 1, 9, prompt, PROMPT, 0, 5, 0);
    assert_says(r.seqs[1].fault, "no model 9");
    rig_seq(&r, 2, 1, bad, 3, 0, 5, 0);
    assert_says(r.seqs[2].fault, "token 266");
    rig_seq(&r, 3, 1, prompt, PROMPT, 5, 5, 0);
    assert_says(r.seqs[3].fault, "nothing is left");
    rig_seq(&r, 4, 1, prompt, PROMPT, 0, 0, 0);
    assert_says(r.seqs[4].fault, "nothing is left");
    uint32_t longer[32] = {0};
    rig_seq(&r, 5, 2, longer, 32, 0, 5, 0);
    assert_says(r.seqs[5].fault, "context of 32 tokens");
    rig_seq(&r, 6, 1, prompt, PROMPT, 0, 5, 0);
    rig_seq(&r, 6, 1, prompt, PROMPT, 0, 5, 0);
    assert_says(r.seqs[6].fault, "open already");
    assert_int_equal(r.e->sequences.count, 0); /* a doubled number ends both: whose is it? */
    rig_close(&r);
}

static void test_never_fits(void **state)
{
    uint32_t longer[600] = {0};
    struct rig r;

    (void)state;
    open_models(&r, 4 * HANDLE, 1);
    r.e->residency.models[0]->kv.page_bytes = HANDLE / 8; /* 24 pages of 16 tokens at most */
    rig_seq(&r, 1, 1, longer, 600, 0, 5, 0);
    assert_says(r.seqs[1].fault, "600 tokens");
    assert_says(r.seqs[1].fault, "Memory=");
    rig_seq(&r, 2, 1, longer, 350, 0, 600, NO_EOS); /* grows until it is alone with too much */
    ask(&r, 3, 1, 3);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.turn_end.reason, TURN_IDLE);
    assert_int_equal(r.seqs[2].count, 24 * 16 - 350 + 1);
    assert_says(r.seqs[2].fault, "385 tokens");
    assert_int_equal(r.seqs[3].finish, FINISH_LENGTH);
    rig_close(&r);
}

static void test_nan_is_named(void **state)
{
    struct tiny_options options = {.nan = 1};
    struct rig r;

    (void)state;
    write_model(&options);
    rig_open(&r, 4 * HANDLE, 1, 8);
    rig_model(&r, 1, path, 0);
    assert_int_equal(r.model.ok, 1);
    ask(&r, 1, 1, 5);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.turn_end.reason, TURN_IDLE);
    assert_int_equal(r.seqs[1].count, 0);
    assert_says(r.seqs[1].fault, "NaN");
    assert_says(r.seqs[1].fault, "model-1");
    rig_assert_empty(&r);
    rig_close(&r);
}

static void test_models_refused(void **state)
{
    struct tiny_options large = {.layers = 120};
    struct order_model order = {.kind = ORDER_MODEL, .model = 3, .name = "absent"};
    struct rig r;

    (void)state;
    open_models(&r, 2 * HANDLE, 1);
    rig_model(&r, 1, path, 0);
    assert_int_equal(r.model.ok, 0);
    assert_says(r.model.text, "taken");
    rig_order(&r, &order, -1);
    assert_int_equal(r.model.ok, 0);
    assert_says(r.model.text, "without its files");
    write_model(&large);
    rig_model(&r, 2, path, 0);
    assert_int_equal(r.model.ok, 0);
    assert_says(r.model.text, "model-2 needs");
    assert_says(r.model.text, "Memory=");
    assert_int_equal(r.e->residency.count, 1);
    rig_close(&r);
}

static void test_truncated_files(void **state)
{
    struct stat st;
    struct rig r;

    (void)state;
    /* Before it is opened. */
    write_model(NULL);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 5000), 0);
    rig_open(&r, 4 * HANDLE, 1, 8);
    rig_model(&r, 1, path, 0);
    assert_int_equal(r.model.ok, 0);
    assert_says(r.model.text, "blk.1.ffn_down.weight");
    rig_close(&r);

    /* Between opening and loading: the turn says which tensor, and all memory is free again. */
    open_models(&r, 4 * HANDLE, 1);
    ask(&r, 1, 1, 5);
    assert_int_equal(truncate(path, st.st_size - 5000), 0);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.turn_end.reason, TURN_FAULT);
    assert_says(r.turn_end.text, "blk.1.ffn_down.weight");
    assert_int_equal(arena_held(r.e->arena, ARENA_FREE), 4);
    write_model(NULL); /* the same file again: O_TRUNC keeps the inode */
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[1].count, 5);
    rig_close(&r);
}

static int setup(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/engine_turn_test.%d.gguf", (int)getpid());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_event),
        cmocka_unit_test(test_quotas),
        cmocka_unit_test(test_phases),
        cmocka_unit_test(test_chunk),
        cmocka_unit_test(test_urgent),
        cmocka_unit_test(test_tokens_in_parts),
        cmocka_unit_test(test_max_batch),
        cmocka_unit_test(test_finish),
        cmocka_unit_test(test_residency_lru),
        cmocka_unit_test(test_load_and_unload),
        cmocka_unit_test(test_no_room_for_weights),
        cmocka_unit_test(test_kv_evicts_idle_weights),
        cmocka_unit_test(test_sequences_refused),
        cmocka_unit_test(test_never_fits),
        cmocka_unit_test(test_nan_is_named),
        cmocka_unit_test(test_models_refused),
        cmocka_unit_test(test_truncated_files),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
