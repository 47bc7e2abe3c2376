/*
 * kv_property_test.c - whatever happens to a sequence's KV, its tokens are those it has alone, and
 * nothing is lost
 *
 * 12 models of three sizes of pages in an arena that holds four of them, and 300 sequences: shared
 * prefixes, chunks of all sizes, closed and given anew, spilled and fetched, cancelled, behind
 * loads and unloads, after random steps.  A number on the command line is another seed.
 *
 * MODELPOOL_TEST_DEVICE=cuda: the same bits there.  cuda-fast: sums depend on how many rows a step
 * has, so a few sequences come to other tokens; most do not.
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

#include "common/log.h"
#include "tests/unit/engine_rig.h"

#define FOLDER     SRCDIR "/tests/golden/families/"
#define VOCABULARY 272u
#define MODELS     12u
#define RESIDENT   4u /* models that the arena holds beside the pages */
#define TIGHT      3u /* handles for pages */
#define ROOMY      24u
#define SEQUENCES  300u
#define LIVE       20u /* at a time */
#define PROMPT     64u /* the longest */
#define OUTPUT     16u
#define CONTEXT    96u
#define NO_EOS     SAMPLING_IGNORE_EOS

static const char *const families[MODELS] = {
    "llama3", "mistral", "qwen2", "qwen3",   "gemma2",   "gemma3",
    "phi3",   "smollm3", "olmo2", "granite", "qwen3moe", "phi3-window",
};

struct subject {
    uint32_t model; /* 1.. */
    uint32_t prompt[PROMPT], length, max;
    uint32_t alone[OUTPUT];
    uint32_t sharing;
};

enum state { FREE, OPEN, CLOSED, SPILLED };

struct test {
    uint64_t random;
    struct subject subjects[SEQUENCES];
    struct rig rig;
    uint32_t next;          /* subject that is opened next */
    uint32_t at[LIVE];      /* subject of each live sequence */
    enum state state[LIVE]; /* CLOSED: it is given anew later */
    uint32_t cancelled, full, faults, preempted, spills, fetches, refused, found, others;
};

static uint32_t draw(struct test *t, uint32_t below)
{
    t->random = t->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((t->random >> 33) % below);
}

/* Prompts that share beginnings: the first tokens of one of three, and others. */
static void make_subjects(struct test *t)
{
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        struct subject *s = &t->subjects[i];
        uint32_t common = draw(t, PROMPT), base = draw(t, 3);
        s->model = 1 + draw(t, MODELS);
        s->length = 1 + draw(t, PROMPT);
        s->max = 1 + draw(t, OUTPUT);
        s->sharing = draw(t, 4) == 0 ? 0 : 1;
        for (uint32_t j = 0; j < s->length; j++)
            s->prompt[j] = j < common ? (j * 37 + base * 101) % VOCABULARY : draw(t, VOCABULARY);
    }
}

/* Pages that are mostly waste, so that few fill the arena; whole multiples of nothing. */
static void open_models(struct rig *r)
{
    static const uint32_t parts[3] = {5, 4, 3};
    char path[512];

    for (uint32_t i = 0; i < MODELS; i++) {
        snprintf(path, sizeof(path), FOLDER "%s", families[i]);
        rig_model(r, 1 + i, path, CONTEXT);
        if (!r->model.ok)
            fail_msg("%s: %s", families[i], r->model.text);
        rig_pages(r, ENGINE_PAGE_TOKENS, rig_handle() / parts[i % 3] / 64 * 64,
                  rig_handle() / parts[(i + 1) % 3] / 64 * 64);
    }
}

static void run_alone(struct test *t)
{
    struct rig *r = &t->rig;

    rig_open(r, 64 * rig_handle(), 2, 16);
    open_models(r);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        struct subject *s = &t->subjects[i];
        rig_reset(r, 0);
        rig_seq(r, 0, s->model, s->prompt, s->length, 0, s->max, NO_EOS);
        rig_turn(r, s->model, 0);
        assert_int_equal(r->seqs[0].count, s->max);
        memcpy(s->alone, r->seqs[0].tokens, s->max * sizeof(*s->alone));
    }
    rig_close(r);
}

/* --- what may happen -------------------------------------------------------------------------- */

static void give(struct test *t, uint32_t i)
{
    const struct subject *s = &t->subjects[t->at[i]];

    t->rig.sharing = s->sharing;
    rig_seq(&t->rig, i, s->model, s->prompt, s->length, t->rig.seqs[i].count, s->max, NO_EOS);
    t->state[i] = OPEN;
}

static void open_next(struct test *t)
{
    for (uint32_t i = 0; i < LIVE && t->next < SEQUENCES; i++) {
        if (t->state[i] != FREE)
            continue;
        rig_reset(&t->rig, i);
        t->at[i] = t->next++;
        give(t, i);
        return;
    }
}

/* Closed, and some of its tokens perhaps lost on the way, as when an engine dies. */
static void close_one(struct test *t, uint32_t i)
{
    struct rig_seq *s = &t->rig.seqs[i];

    rig_ref(&t->rig, ORDER_SEQ_CLOSE, 0, i);
    s->count -= s->count > 0 && draw(t, 4) == 0;
    s->next_position = t->subjects[t->at[i]].length + s->count;
    t->state[i] = CLOSED;
    t->preempted++;
}

static void spill_one(struct test *t, uint32_t i)
{
    rig_ref(&t->rig, ORDER_SEQ_SPILL, 0, i);
    t->state[i] = SPILLED;
    t->spills++;
}

static void fetch_one(struct test *t, uint32_t i)
{
    uint32_t fetched = t->rig.fetched;

    rig_ref(&t->rig, ORDER_SEQ_FETCH, 0, i);
    /* It is refused at once, or comes. */
    if (t->rig.fetched > fetched && !t->rig.moved.ok) {
        t->refused++;
        return;
    }
    t->state[i] = OPEN;
    t->fetches++;
}

static void cancel_one(struct test *t, uint32_t i)
{
    rig_ref(&t->rig, ORDER_SEQ_CLOSE, 0, i);
    t->state[i] = FREE;
    t->cancelled++;
}

/* One that holds memory, another than `but` if there is one; LIVE: none. */
static uint32_t victim(struct test *t, uint32_t but)
{
    uint32_t start = draw(t, LIVE), own = LIVE;

    for (uint32_t j = 0; j < LIVE; j++) {
        uint32_t i = (start + j) % LIVE;
        if (t->state[i] == OPEN && i != but)
            return i;
        if (t->state[i] == OPEN)
            own = i;
    }
    return own;
}

static void make_room(struct test *t)
{
    uint32_t i = victim(t, LIVE), open = 0;

    for (uint32_t j = 0; j < LIVE; j++)
        open += t->state[j] == OPEN;
    assert_true(open > 1); /* one alone always fits */
    if (draw(t, 2) == 0)
        spill_one(t, i);
    else
        close_one(t, i);
}

/* Those that have ended were given what they are given alone. */
static void take_ended(struct test *t)
{
    for (uint32_t i = 0; i < LIVE; i++) {
        const struct rig_seq *got = &t->rig.seqs[i];
        const struct subject *s = &t->subjects[t->at[i]];
        if (t->state[i] == FREE)
            continue;
        assert_string_equal(got->fault, "");
        if (got->finish == FINISH_NONE)
            continue;
        assert_int_equal(got->count, s->max);
        int same = memcmp(got->tokens, s->alone, s->max * sizeof(*s->alone)) == 0;
        if (!same && rig_device() != RIG_CUDA_FAST)
            fail_msg("sequence %u of %s: other tokens than alone", t->at[i],
                     families[s->model - 1]);
        t->others += !same;
        t->found += got->cached;
        t->state[i] = FREE;
    }
}

static void run_turn(struct test *t, uint32_t i)
{
    static const uint32_t rows[] = {1, 3, 17, 64, 256};
    struct error err = {0};

    t->rig.e->rows_max = rows[draw(t, 5)];
    t->rig.swap_piece = draw(t, 2) == 0 ? 1 : SWAP_PIECE;
    rig_turn(&t->rig, t->subjects[t->at[i]].model, 1 + draw(t, 4));
    take_ended(t);
    if (t->rig.turn_end.reason == TURN_KV_FULL || t->rig.turn_end.reason == TURN_FAULT) {
        t->full += t->rig.turn_end.reason == TURN_KV_FULL;
        t->faults += t->rig.turn_end.reason == TURN_FAULT;
        make_room(t);
    }
    if (pages_check(t->rig.e->pages, &err) != 0)
        fail_msg("%s", err.text);
}

static void something(struct test *t, uint32_t i)
{
    uint32_t what = draw(t, 20), model = 1 + draw(t, MODELS);

    if (what == 0)
        rig_ref(&t->rig, ORDER_LOAD, model, 0);
    else if (what == 1)
        rig_ref(&t->rig, ORDER_UNLOAD, model, 0);
    else if (t->state[i] == CLOSED && what < 8)
        give(t, i);
    else if (t->state[i] == SPILLED && what < 8)
        fetch_one(t, i);
    else if (t->state[i] == OPEN && what == 2 && draw(t, 3) == 0)
        cancel_one(t, i);
    else if (t->state[i] == OPEN && what == 3)
        close_one(t, i);
    else if (t->state[i] == OPEN && what == 4)
        spill_one(t, i);
    else if (t->state[i] == SPILLED && what == 19)
        close_one(t, i);
    else if (t->state[i] == OPEN)
        run_turn(t, i);
    else
        open_next(t);
}

/* What is left goes on to its end. */
static int drain(struct test *t)
{
    for (uint32_t i = 0; i < LIVE; i++) {
        if (t->state[i] == OPEN) {
            run_turn(t, i);
            return 1;
        }
    }
    for (uint32_t i = 0; i < LIVE; i++) {
        if (t->state[i] == SPILLED)
            fetch_one(t, i);
        else if (t->state[i] == CLOSED)
            give(t, i);
        else
            continue;
        assert_int_equal(t->state[i], OPEN);
        return 1;
    }
    return 0;
}

static uint64_t seed = 1;

static void check(uint32_t kv_handles)
{
    struct test *t = calloc(1, sizeof(*t));
    uint64_t memory;

    assert_non_null(t);
    t->random = seed;
    make_subjects(t);
    run_alone(t);
    rig_open(&t->rig, 64 * rig_handle(), 2, 16);
    open_models(&t->rig);
    memory = RESIDENT * t->rig.e->residency.models[0]->handle_count + kv_handles;
    for (uint32_t i = 1; i < MODELS; i++)
        assert_int_equal(t->rig.e->residency.models[i]->handle_count,
                         t->rig.e->residency.models[0]->handle_count);
    rig_close(&t->rig);
    rig_open_swap(&t->rig, ORDER_EXACT, memory * rig_handle(), 8 * rig_handle(), 2, 16);
    open_models(&t->rig);
    while (t->next < SEQUENCES)
        something(t, draw(t, LIVE));
    while (drain(t))
        ;
    rig_events(&t->rig);
    print_message("preempted %u, spilled %u, fetched %u, refused %u, cancelled %u; KV full %u, "
                  "weights without room %u; %u loads; %u tokens found\n",
                  t->preempted, t->spills, t->fetches, t->refused, t->cancelled, t->full, t->faults,
                  t->rig.came, t->found);
    if (rig_device() == RIG_CUDA_FAST)
        print_message("%u of %u sequences have other tokens than alone\n", t->others, SEQUENCES);
    assert_true(t->others < SEQUENCES / 5);
    assert_true(t->preempted > 20 && t->spills > 20 && t->fetches > 20 && t->cancelled > 5);
    if (kv_handles == TIGHT)
        assert_true(t->full > 20 && t->faults > 5 && t->refused > 5 && t->rig.came > 50);
    else
        assert_true(t->found > 200 && t->rig.came > 50);
    rig_close(&t->rig);
    free(t);
}

/* Pages run out all the time. */
static void test_tight(void **state)
{
    (void)state;
    check(TIGHT);
}

/* There is room for prefixes that are kept. */
static void test_roomy(void **state)
{
    (void)state;
    check(ROOMY);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tight),
        cmocka_unit_test(test_roomy),
    };

    log_init("kv_property_test", LOG_LEVEL_ERROR); /* loads without room are meant */
    if (argc > 1)
        seed = strtoull(argv[1], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
