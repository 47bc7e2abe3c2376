/*
 * prefix_test.c - shared prefixes: what is found changes no bit, and nothing is found that is not
 * the same; what is kept gives way at once
 *
 * On the tiny checkpoints of tests/golden/families: full attention, windows in all layers, windows
 * in some, experts.  A GPU's pages are cut as small as a CPU's.  With bfloat16 operands sums depend
 * on how many rows a step has: there logits are near, and tokens mostly the same.
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/room.h"
#include "engine/share.h"
#include "tests/unit/engine_rig.h"

#define FOLDER     SRCDIR "/tests/golden/families/"
#define VOCABULARY 272u
#define LENGTH     100u /* of the longest prompt */
#define CONTEXT    128u
#define OUTPUT     12u
#define MEMORY     (32 * rig_handle())
#define BLOCK      16u
#define NO_EOS     SAMPLING_IGNORE_EOS
#define FAST_LIMIT 0.02 /* as families_test has it */

static const char *const families[] = {"llama3",  "gemma3",      "gemma2",
                                       "mistral", "phi3-window", "qwen3moe-mixed"};
#define FAMILIES (sizeof(families) / sizeof(families[0]))

struct outcome {
    float logits[LENGTH][VOCABULARY];
};

/* The same numbers for the same seed; another seed differs from the first on. */
static void make_prompt(uint32_t *tokens, uint32_t count, uint32_t seed)
{
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (uint32_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        tokens[i] = (uint32_t)(state >> 33) % VOCABULARY;
    }
}

static void open_family(struct rig *r, const char *name, uint64_t memory)
{
    char path[512];

    snprintf(path, sizeof(path), FOLDER "%s", name);
    rig_open(r, memory, 2, STEP_BATCH_MAX);
    rig_model(r, 1, path, CONTEXT);
    if (!r->model.ok)
        fail_msg("%s: %s", name, r->model.text);
    rig_pages(r, BLOCK, 0, 0);
    rig_ref(r, ORDER_LOAD, 1, 0);
}

/* A prompt, at most `chunk` tokens a step: all logits from the first computed position on, which is
 * returned. */
static uint32_t run(struct rig *r, const uint32_t *prompt, uint32_t length, uint32_t chunk,
                    struct outcome *out)
{
    uint32_t first = UINT32_MAX;
    struct sequence *s;
    const float *logits;
    struct step *st;

    rig_seq(r, 0, 1, prompt, length, 0, OUTPUT, NO_EOS);
    s = sequence_find(&r->e->sequences, 0);
    while (s->computed < length && (st = rig_step(r->e, chunk, 1, &logits)) != NULL) {
        const struct attn_row *rows = &st->plan.runs[0];
        first = first == UINT32_MAX ? rows->first_pos : first;
        memcpy(out->logits[rows->first_pos], logits, rows->count * sizeof(out->logits[0]));
        s->computed += rows->count;
        share_publish(&r->e->sequences, s);
    }
    assert_int_equal(s->cached, first);
    sequence_close(&r->e->sequences, s);
    return first;
}

static void assert_tail(const char *name, const struct outcome *a, const struct outcome *b,
                        uint32_t first, uint32_t length)
{
    double off = 0, all = 0;

    for (uint32_t i = first; rig_device() == RIG_CUDA_FAST && i < length; i++) {
        for (uint32_t t = 0; t < VOCABULARY; t++) {
            double diff = (double)a->logits[i][t] - (double)b->logits[i][t];
            off += diff * diff;
            all += (double)b->logits[i][t] * (double)b->logits[i][t];
        }
    }
    if (rig_device() == RIG_CUDA_FAST) {
        if (!(sqrt(off) <= FAST_LIMIT * sqrt(all)))
            fail_msg("%s: %u of %u tokens found: logits are off by %g", name, first, length,
                     sqrt(off / all));
        return;
    }
    if (memcmp(a->logits[first], b->logits[first], (length - first) * sizeof(a->logits[0])) != 0)
        fail_msg("%s: %u of %u tokens found gives other bits", name, first, length);
}

/* Prompts of all lengths around a block's border, which share all or a part of what is there. */
static void check_family(const char *name)
{
    static const uint32_t lengths[] = {1, 15, 16, 17, 31, 32, 33, 64, 65, LENGTH};
    struct outcome *alone = calloc(1, sizeof(*alone)), *got = calloc(1, sizeof(*got));
    uint32_t prompt[LENGTH], other[LENGTH];
    struct rig r;

    assert_non_null(alone);
    assert_non_null(got);
    make_prompt(prompt, LENGTH, 1);
    make_prompt(other, LENGTH, 2);
    open_family(&r, name, MEMORY);
    uint32_t block = prefix_block_tokens(r.e->residency.models[0]);
    assert_int_equal(run(&r, prompt, LENGTH, 7, alone), 0);
    rig_assert_empty(&r);
    r.sharing = 1;
    assert_int_equal(run(&r, prompt, LENGTH, 33, got), 0);
    assert_tail(name, got, alone, 0, LENGTH);
    assert_true(pages_live(r.e->pages) > 0);
    assert_int_equal(pages_live(r.e->pages), pages_idle(r.e->pages));
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        uint32_t n = lengths[i];
        /* A prefix of it: all but the block of the last token is there. */
        assert_int_equal(run(&r, prompt, n, 1 + n % 5, got), (n - 1) / block * block);
        assert_tail(name, got, alone, (n - 1) / block * block, n);
        /* The first n tokens of it, and others. */
        memcpy(other, prompt, n * sizeof(*other));
        r.sharing = 0;
        assert_int_equal(run(&r, other, LENGTH, 64, alone), 0);
        r.sharing = 1;
        uint32_t first = run(&r, other, LENGTH, 64, got);
        assert_true(first >= (n < LENGTH ? n : n - 1) / block * block);
        assert_tail(name, got, alone, first, LENGTH);
        r.sharing = 0;
        run(&r, prompt, LENGTH, 64, alone);
        r.sharing = 1;
    }
    rig_close(&r);
    free(alone);
    free(got);
}

static void test_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < FAMILIES; i++)
        check_family(families[i]);
}

/* --- through turns ---------------------------------------------------------------------------- */

static void ask(struct rig *r, uint64_t seq, const uint32_t *prompt, uint32_t length)
{
    rig_reset(r, seq);
    rig_seq(r, seq, 1, prompt, length, 0, OUTPUT, NO_EOS);
}

static void assert_given(const struct rig *r, uint64_t seq, const uint32_t *tokens)
{
    assert_string_equal(r->seqs[seq].fault, "");
    assert_int_equal(r->seqs[seq].count, OUTPUT);
    if (rig_device() != RIG_CUDA_FAST)
        assert_memory_equal(r->seqs[seq].tokens, tokens, OUTPUT * sizeof(*tokens));
}

/* A conversation: each turn's prompt is the last one's prompt and answer and something new. Answers
 * are found, too.  Others at the same time, of the same beginning, and preempted. */
static void check_turns(const char *name)
{
    uint32_t prompt[LENGTH], alone[4][OUTPUT], found = 0;
    const uint32_t lengths[4] = {40, 70, 70, LENGTH};
    struct rig r;

    make_prompt(prompt, LENGTH, 3);
    open_family(&r, name, MEMORY);
    for (uint32_t i = 0; i < 4; i++) {
        ask(&r, i, prompt, lengths[i]);
        rig_turn(&r, 1, 0);
        memcpy(alone[i], r.seqs[i].tokens, sizeof(alone[i]));
        assert_int_equal(r.seqs[i].cached, 0);
        assert_int_equal(r.seqs[i].prefilled, lengths[i]);
        if (i == 0) /* the answer is a part of the next prompt */
            memcpy(prompt + lengths[0], alone[0], sizeof(alone[0]));
    }
    r.sharing = 9;
    r.e->rows_max = 24;
    for (uint32_t i = 0; i < 4; i++)
        ask(&r, i, prompt, lengths[i]);
    for (uint32_t i = 0; r.e->sequences.count > 0; i++) {
        rig_turn(&r, 1, 3);
        uint32_t n = i % 4; /* preempt one after each three steps */
        if (i > 9 || sequence_find(&r.e->sequences, n) == NULL)
            continue;
        rig_ref(&r, ORDER_SEQ_CLOSE, 0, n);
        rig_seq(&r, n, 1, prompt, lengths[n], r.seqs[n].count, OUTPUT, NO_EOS);
    }
    for (uint32_t i = 0; i < 4; i++) {
        assert_given(&r, i, alone[i]);
        found += r.seqs[i].cached;
    }
    assert_true(found > 0);
    ask(&r, 3, prompt, lengths[3]);
    rig_turn(&r, 1, 0);
    assert_given(&r, 3, alone[3]);
    uint32_t block = prefix_block_tokens(r.e->residency.models[0]);
    assert_int_equal(r.seqs[3].cached, (lengths[3] - 1) / block * block);
    assert_int_equal(r.seqs[3].prefilled, lengths[3] - r.seqs[3].cached);
    rig_close(&r);
}

static void test_turns(void **state)
{
    (void)state;
    for (size_t i = 0; i < FAMILIES; i++)
        check_turns(families[i]);
}

/* Sequences that run at the same time use the same pages. */
static void test_pages_are_shared(void **state)
{
    uint32_t prompt[LENGTH], used;
    struct rig r;

    (void)state;
    make_prompt(prompt, LENGTH, 4);
    open_family(&r, "llama3", MEMORY);
    uint32_t block = prefix_block_tokens(r.e->residency.models[0]);
    r.sharing = 1;
    ask(&r, 0, prompt, LENGTH);
    rig_turn(&r, 1, 1);
    used = (uint32_t)pages_live(r.e->pages);
    for (uint32_t i = 1; i < 8; i++)
        ask(&r, i, prompt, LENGTH);
    rig_turn(&r, 1, 1);
    assert_int_equal(pages_idle(r.e->pages), 0);
    assert_true(pages_live(r.e->pages) <= used + 7 * ((block + LENGTH % block) / block + 1));
    assert_true(pages_live(r.e->pages) < 3 * used);
    rig_turn(&r, 1, 0);
    for (uint32_t i = 1; i < 8; i++)
        assert_given(&r, i, r.seqs[0].tokens);
    rig_close(&r);
}

/* Of those that begin at the same time one computes what all need, whatever the chunks. */
static void test_one_computes_for_all(void **state)
{
    static const uint32_t chunks[] = {256, 40, 17, 5};
    uint32_t prompt[LENGTH], alone[OUTPUT], sum;
    struct rig r;

    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        open_family(&r, families[f], MEMORY);
        for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
            make_prompt(prompt, LENGTH, 10 + (uint32_t)c);
            r.sharing = 0;
            ask(&r, 0, prompt, LENGTH);
            rig_turn(&r, 1, 0);
            memcpy(alone, r.seqs[0].tokens, sizeof(alone));
            r.sharing = 1;
            r.e->rows_max = chunks[c];
            for (uint32_t i = 0; i < 6; i++)
                ask(&r, i, prompt, LENGTH);
            rig_turn(&r, 1, 0);
            sum = 0;
            for (uint32_t i = 0; i < 6; i++) {
                assert_given(&r, i, alone);
                assert_int_equal(r.seqs[i].prefilled + r.seqs[i].cached, LENGTH);
                sum += r.seqs[i].prefilled;
            }
            if (chunks[c] >= BLOCK)
                assert_int_equal(sum, LENGTH + 5 * (LENGTH % BLOCK));
            r.e->rows_max = STEP_BATCH_MAX;
        }
        rig_close(&r);
    }
}

/* Other numbers, other models, and tokens that only have the same hash find nothing. */
static void test_nothing_is_found(void **state)
{
    uint32_t prompt[LENGTH];
    struct prefix_block *b;
    struct rig r;

    (void)state;
    make_prompt(prompt, LENGTH, 5);
    open_family(&r, "llama3", MEMORY);
    rig_model(&r, 2, FOLDER "llama3", CONTEXT);
    uint32_t block = prefix_block_tokens(r.e->residency.models[0]);
    r.sharing = 1;
    ask(&r, 0, prompt, LENGTH);
    rig_turn(&r, 1, 0);
    r.sharing = 2;
    ask(&r, 1, prompt, LENGTH);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[1].cached, 0);
    r.sharing = 0;
    ask(&r, 1, prompt, LENGTH);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[1].cached, 0);
    r.sharing = 1;
    rig_reset(&r, 2);
    rig_seq(&r, 2, 2, prompt, LENGTH, 0, OUTPUT, NO_EOS);
    rig_turn(&r, 2, 0);
    assert_int_equal(r.seqs[2].cached, 0);
    assert_given(&r, 2, r.seqs[0].tokens);
    /* A block whose hash lies: other tokens than those that it was filed under. */
    TAILQ_FOREACH(b, &r.e->prefixes->blocks, link)
    if (b->token_count == block && b->tokens[0] == prompt[block])
        b->tokens[3] ^= 1;
    ask(&r, 3, prompt, LENGTH);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[3].cached, block);
    assert_given(&r, 3, r.seqs[0].tokens);
    rig_close(&r);
}

/* Parents of the same hash are told apart, and what nothing needs is forgotten. */
static void test_tree(void **state)
{
    uint32_t tokens[2][BLOCK] = {{1, 2, 3}, {4, 5, 6}}, block;
    struct prefix_block *root, *a, *b, *below;
    struct rig r;

    (void)state;
    open_family(&r, "llama3", MEMORY);
    const struct model *m = r.e->residency.models[0];
    block = prefix_block_tokens(m);
    if (block != BLOCK)
        skip();
    root = prefix_root(r.e->prefixes, m, 1);
    a = prefix_make(r.e->prefixes, root, m, tokens[0]);
    b = prefix_make(r.e->prefixes, root, m, tokens[1]);
    assert_ptr_equal(prefix_make(r.e->prefixes, root, m, tokens[1]), b);
    prefix_let_go(r.e->prefixes, b);
    below = prefix_make(r.e->prefixes, a, m, tokens[1]);
    assert_ptr_equal(prefix_find(r.e->prefixes, a, tokens[1], block), below);
    uint64_t key = b->key;
    b->key = a->key;
    assert_null(prefix_find(r.e->prefixes, b, tokens[1], block));
    b->key = key;
    assert_int_equal(r.e->prefixes->count, 4);
    prefix_let_go(r.e->prefixes, a); /* it has one below */
    prefix_let_go(r.e->prefixes, root);
    assert_int_equal(r.e->prefixes->count, 4);
    prefix_let_go(r.e->prefixes, below);
    assert_int_equal(r.e->prefixes->count, 2);
    prefix_let_go(r.e->prefixes, b);
    assert_int_equal(r.e->prefixes->count, 0);
    rig_close(&r);
}

/* --- giving way ------------------------------------------------------------------------------- */

/* Pages as large as a quarter of a handle, so that few of them fill the memory. */
static void open_tight(struct rig *r, uint32_t kv_handles)
{
    open_family(r, "llama3", MEMORY);
    uint32_t handles = r->e->residency.models[0]->handle_count;
    rig_close(r);
    open_family(r, "llama3", (handles + kv_handles) * rig_handle());
    rig_pages(r, BLOCK, rig_handle() / 4, 0);
}

/* What is kept goes, the oldest first, as soon as a sequence needs its pages. */
static void test_kept_pages_give_way(void **state)
{
    uint32_t prompt[LENGTH], again[OUTPUT], used, total;
    struct rig r;

    (void)state;
    open_tight(&r, 3); /* 12 pages; a prompt and its answer take 7 */
    r.sharing = 1;
    for (uint32_t i = 0; i < 6; i++) {
        make_prompt(prompt, LENGTH, i);
        ask(&r, i, prompt, LENGTH);
        rig_turn(&r, 1, 0);
        assert_int_equal(r.turn_end.reason, TURN_IDLE);
        assert_int_equal(r.seqs[i].cached, 0);
        assert_true(pages_idle(r.e->pages) >= 6);
        pages_count(r.e->pages, rig_handle() / 4, &used, &total);
        assert_int_equal(used, 0); /* what is kept is no load */
        assert_int_equal(total, 12);
        memcpy(again, r.seqs[i].tokens, sizeof(again));
        ask(&r, i, prompt, LENGTH);
        rig_turn(&r, 1, 0);
        assert_given(&r, i, again);
        assert_int_equal(r.seqs[i].cached, LENGTH / BLOCK * BLOCK);
    }
    rig_close(&r);
}

/* Weights take the place of what is kept, and never of what is used. */
static void test_weights_come_first(void **state)
{
    uint32_t prompt[LENGTH], alone[OUTPUT];
    struct rig r;

    (void)state;
    open_tight(&r, 3);
    rig_model(&r, 2, FOLDER "llama3", CONTEXT);
    assert_int_equal(r.model.ok, 1);
    uint32_t handles = r.e->residency.models[0]->handle_count;
    assert_true(handles <= 3);
    r.sharing = 1;
    make_prompt(prompt, LENGTH, 1);
    ask(&r, 0, prompt, LENGTH);
    rig_turn(&r, 1, 0);
    memcpy(alone, r.seqs[0].tokens, sizeof(alone));
    make_prompt(prompt, 60, 2);
    ask(&r, 1, prompt, 60);
    rig_turn(&r, 1, 0); /* 11 pages of 12 are kept */
    assert_true(arena_held(r.e->arena, ARENA_FREE) < handles);
    rig_ref(&r, ORDER_LOAD, 2, 0);
    assert_true(r.e->residency.models[0]->resident && r.e->residency.models[1]->resident);
    make_prompt(prompt, LENGTH, 1);
    ask(&r, 0, prompt, LENGTH);
    rig_turn(&r, 1, 0);
    assert_given(&r, 0, alone);
    rig_close(&r);
}

/* Live pages lie scattered in all slabs: they move together, and the weights have room. */
static void test_slabs_are_squeezed(void **state)
{
    uint32_t prompt[LENGTH], alone[OUTPUT];
    struct rig r;

    (void)state;
    open_tight(&r, 3);
    rig_model(&r, 2, FOLDER "llama3", CONTEXT);
    uint32_t handles = r.e->residency.models[0]->handle_count;
    make_prompt(prompt, LENGTH, 6);
    ask(&r, 0, prompt, 17);
    rig_turn(&r, 1, 0);
    memcpy(alone, r.seqs[0].tokens, sizeof(alone));
    /* Two pages each, in three slabs; 1 and 2 share one, which moves for both, or does not. */
    for (uint32_t i = 0; i < 6; i++) {
        r.sharing = i == 1 || i == 2;
        ask(&r, i, prompt, 17);
        rig_turn(&r, 1, 1);
    }
    assert_int_equal(arena_held(r.e->arena, ARENA_FREE), 0);
    rig_ref(&r, ORDER_SEQ_CLOSE, 0, 0);
    rig_ref(&r, ORDER_SEQ_CLOSE, 0, 3);
    rig_ref(&r, ORDER_SEQ_CLOSE, 0, 5);
    assert_int_equal(pages_live(r.e->pages), 5);
    assert_true(arena_held(r.e->arena, ARENA_FREE) < handles);
    rig_ref(&r, ORDER_LOAD, 2, 0);
    assert_int_equal(r.e->residency.models[0]->resident, 1);
    assert_int_equal(r.e->residency.models[1]->resident, 1);
    rig_turn(&r, 1, 0);
    assert_given(&r, 1, alone);
    assert_given(&r, 2, alone);
    assert_given(&r, 4, alone);
    rig_close(&r);
}

/* A tree that is full keeps nothing new, and works on. */
static void test_tree_is_bounded(void **state)
{
    uint32_t prompt[LENGTH], alone[OUTPUT];
    struct rig r;

    (void)state;
    make_prompt(prompt, LENGTH, 7);
    open_family(&r, "gemma3", MEMORY);
    ask(&r, 0, prompt, LENGTH);
    rig_turn(&r, 1, 0);
    memcpy(alone, r.seqs[0].tokens, sizeof(alone));
    r.e->prefixes->count_max = 3;
    r.sharing = 1;
    for (uint32_t i = 1; i < 4; i++) {
        ask(&r, i, prompt, LENGTH);
        rig_turn(&r, 1, 0);
        assert_given(&r, i, alone);
        assert_int_equal(r.e->prefixes->count, 3);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_pages_are_shared),
        cmocka_unit_test(test_one_computes_for_all),
        cmocka_unit_test(test_nothing_is_found),
        cmocka_unit_test(test_tree),
        cmocka_unit_test(test_kept_pages_give_way),
        cmocka_unit_test(test_weights_come_first),
        cmocka_unit_test(test_slabs_are_squeezed),
        cmocka_unit_test(test_tree_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
