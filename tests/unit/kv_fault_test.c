/*
 * kv_fault_test.c - whatever allocation or mapping fails, nothing is lost and the engine serves on
 *
 * By -Wl,--wrap=malloc, calloc, device_map: the n-th call of a short scenario fails, for every n.
 * In it are shared prefixes, slabs that are squeezed for weights, spills, fetches and switches.  On
 * a GPU, where each try takes its time, every eleventh call fails.
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
#define LENGTH     40u
#define OUTPUT     12u
#define SEQS       6u
#define CALLS_MAX  2000u /* of the scenario */
#define NO_EOS     SAMPLING_IGNORE_EOS

/* --- the calls that fail ---------------------------------------------------------------------- */

static uint32_t calls, failing; /* 0: none fails */
static int armed;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
int __real_device_map(struct device *d, void *range, const uint32_t *handles, uint32_t count,
                      struct error *err);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
int __wrap_device_map(struct device *d, void *range, const uint32_t *handles, uint32_t count,
                      struct error *err);

static int fails(void)
{
    return armed && ++calls == failing;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

int __wrap_device_map(struct device *d, void *range, const uint32_t *handles, uint32_t count,
                      struct error *err)
{
    if (fails())
        return error_set(err, STATUS_NOMEM, "no mapping is left");
    return __real_device_map(d, range, handles, count, err);
}

/* --- the scenario ----------------------------------------------------------------------------- */

static uint32_t alone[SEQS][OUTPUT];

static uint32_t model_of(uint32_t i)
{
    return 1 + i % 2;
}

/* As rig_seq(), without an allocation of its own. */
static void ask(struct rig *r, uint32_t i)
{
    union {
        struct order_tokens order;
        unsigned char bytes[sizeof(struct order_tokens) + LENGTH * sizeof(uint32_t)];
    } u = {.order = {.kind = ORDER_SEQ_TOKENS, .count = LENGTH, .seq = i}};
    struct order_seq order = {
        .kind = ORDER_SEQ_OPEN,
        .model = model_of(i),
        .seq = i,
        .tokens = LENGTH,
        .max_tokens = OUTPUT,
        .sharing = r->sharing,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .flags = NO_EOS},
    };

    for (uint32_t j = 0; j < LENGTH; j++) {
        /* Pairs of sequences are the same up to their last tokens. */
        uint32_t token = (j * 31 + (j < 36 ? i / 4 : i) * 57) % VOCABULARY;
        memcpy(u.bytes + sizeof(u.order) + j * sizeof(token), &token, sizeof(token));
    }
    rig_reset(r, i);
    rig_order(r, &order, -1);
    rig_order(r, &u, -1);
}

/* Two models, of which the second has windows, in memory for one and a few pages. */
static void open_rig(struct rig *r)
{
    uint64_t weights;

    rig_open_swap(r, ORDER_EXACT, 5 * rig_handle(), 2 * rig_handle(), 1, 8);
    rig_model(r, 1, FOLDER "llama3", 96);
    assert_int_equal(r->model.ok, 1);
    weights = r->model.weight_bytes;
    rig_pages(r, ENGINE_PAGE_TOKENS, rig_handle() / 4, 0);
    rig_model(r, 2, FOLDER "gemma3", 96);
    assert_int_equal(r->model.ok, 1);
    assert_true(weights <= rig_handle() && r->model.weight_bytes <= rig_handle());
    rig_pages(r, ENGINE_PAGE_TOKENS, rig_handle() / 4, rig_handle() / 8);
    r->e->rows_max = 24;
}

static void scenario(struct rig *r)
{
    r->sharing = 1;
    for (uint32_t i = 0; i < 4; i++) {
        ask(r, i);
        rig_turn(r, model_of(i), 2);
    }
    rig_ref(r, ORDER_SEQ_SPILL, 0, 0);
    rig_ref(r, ORDER_SEQ_SPILL, 0, 1);
    rig_turn(r, 1, 2);
    rig_turn(r, 2, 2);
    rig_ref(r, ORDER_SEQ_CLOSE, 0, 2);
    ask(r, 4);
    ask(r, 5);
    rig_turn(r, 2, 3);
    rig_ref(r, ORDER_SEQ_FETCH, 0, 1);
    rig_turn(r, 1, 3);
    rig_ref(r, ORDER_SEQ_SPILL, 0, 3);
    rig_ref(r, ORDER_SEQ_FETCH, 0, 0);
    rig_ref(r, ORDER_UNLOAD, 1, 0);
    rig_turn(r, 2, 2);
    rig_turn(r, 1, 2);
    rig_ref(r, ORDER_SEQ_FETCH, 0, 3);
    for (uint32_t i = 0; i < 4; i++)
        rig_turn(r, 1 + i % 2, 4);
}

static void check_tokens(const struct rig *r, uint32_t i)
{
    const struct rig_seq *s = &r->seqs[i];

    if (s->fault[0] == '\0' && s->finish != FINISH_NONE)
        assert_int_equal(s->count, OUTPUT);
    if (rig_device() != RIG_CUDA_FAST)
        assert_memory_equal(s->tokens, alone[i], s->count * sizeof(*alone[i]));
}

/* All is as it should be, and new sequences are served. */
static void serve_on(struct rig *r)
{
    struct error err = {0};

    for (uint32_t i = 0; i < SEQS; i++)
        check_tokens(r, i);
    if (pages_check(r->e->pages, &err) != 0)
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < SEQS; i++)
        rig_ref(r, ORDER_SEQ_CLOSE, 0, i);
    assert_int_equal(r->e->swap.used, 0);
    assert_int_equal(r->e->swap.moving, 0);
    assert_int_equal(pages_live(r->e->pages), pages_idle(r->e->pages));
    for (uint32_t i = 3; i < SEQS; i++) {
        ask(r, i);
        rig_turn(r, model_of(i), 0);
        assert_int_equal(r->seqs[i].finish, FINISH_LENGTH);
        check_tokens(r, i);
    }
    rig_close(r);
}

static void test_every_call(void **state)
{
    const uint32_t stride = rig_device() == RIG_CPU ? 1 : 11;
    uint32_t faults = 0;
    struct rig r;

    (void)state;
    open_rig(&r);
    for (uint32_t i = 0; i < SEQS; i++) {
        ask(&r, i);
        rig_turn(&r, model_of(i), 0);
        assert_int_equal(r.seqs[i].count, OUTPUT);
        memcpy(alone[i], r.seqs[i].tokens, sizeof(alone[i]));
    }
    rig_close(&r);
    for (failing = 1; failing < CALLS_MAX; failing += stride) {
        open_rig(&r);
        calls = 0;
        armed = 1;
        scenario(&r);
        armed = 0;
        for (uint32_t i = 0; i < SEQS; i++)
            faults += r.seqs[i].fault[0] != '\0';
        serve_on(&r);
        if (calls < failing)
            break;
    }
    print_message("%u calls, %u sequences that they ended\n", calls, faults);
    assert_true(calls < failing && calls > 30);
    assert_true(faults > 5 / stride);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call),
    };

    log_init("kv_fault_test", LOG_LEVEL_ERROR); /* what fails is meant to */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
