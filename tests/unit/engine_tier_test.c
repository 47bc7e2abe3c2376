/*
 * engine_tier_test.c - master copies in an engine: prepared, lent, damaged, and with each call that
 * can fail failing once; and loads behind the steps
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/segment.h"
#include "engine/turn.h"
#include "tests/unit/engine_rig.h"
#include "tests/unit/fault.h"
#include "tests/unit/lane_rig.h"
#include "tests/unit/tiny_gguf.h"

#define HANDLE rig_handle()
#define DEVICE (uint32_t)(rig_device() == RIG_CPU ? DEVICE_CPU : DEVICE_CUDA)
#define PIECE  4096u /* of a lane, so that a tiny model has many */
#define TOKENS 24u
#define MODELS 3u /* 1 and 2 of one file, 3 of another */

static char folder[64], paths[2][96], complete[96];
static uint8_t complete_key[SEGMENT_KEY];
static struct rig_seq golden[2];
static const uint32_t prompt[] = {72, 101, 108, 108, 111, 256, 32, 119, 111, 114};
#define PROMPT (uint32_t)(sizeof(prompt) / sizeof(prompt[0]))

/* --- helpers ---------------------------------------------------------------------------------- */

static int by_lane; /* the engine loads as a GPU's does */

static void open_engine(struct rig *r, uint64_t memory)
{
    struct residency *y;
    struct error err;

    rig_open(r, memory, 1, 8);
    y = &r->e->residency;
    if (by_lane && rig_device() == RIG_CPU && residency_open_lanes(y, &err) != 0)
        fail_msg("%s", err.text);
    if (rig_device() == RIG_CPU)
        y->now.lane_piece = y->behind.lane_piece = PIECE;
}

static void open_models(struct rig *r, uint64_t memory)
{
    open_engine(r, memory);
    for (uint32_t id = 1; id <= MODELS; id++) {
        rig_model(r, id, paths[id == 3], 0);
        if (!r->model.ok)
            fail_msg("%s", r->model.text);
    }
}

static int open_file(const char *name, int flags)
{
    char path[160];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, flags | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

static void lend(struct rig *r, uint32_t model, enum master_use use, int fd)
{
    struct order_master order = {.kind = ORDER_MASTER, .model = model, .use = use};

    memcpy(order.key, complete_key, sizeof(order.key));
    rig_order(r, &order, fd);
    if (fd >= 0)
        close(fd);
}

static void lend_empty(struct rig *r, uint32_t model)
{
    char path[160];

    /* The one before may still be read from. */
    snprintf(path, sizeof(path), "%s/fresh", folder);
    (void)unlink(path);
    lend(r, model, MASTER_FILL, open_file("fresh", O_RDWR | O_CREAT | O_TRUNC));
}

static void lend_complete(struct rig *r, uint32_t model)
{
    int fd = open(complete, (rig_device() == RIG_CPU ? O_RDONLY : O_RDWR) | O_CLOEXEC);

    assert_true(fd >= 0);
    lend(r, model, MASTER_READ, fd);
}

/* Until nothing is on its way behind the steps. */
static void wait_behind(struct rig *r)
{
    while (residency_busy(&r->e->residency) >= 0) {
        usleep(200);
        residency_poll(&r->e->residency);
    }
    rig_events(r);
}

static void prefetch(struct rig *r, uint32_t model, uint32_t evict)
{
    struct order_prefetch order = {
        .kind = ORDER_PREFETCH, .model = model, .evict_count = evict != 0, .evict = {evict}};

    rig_order(r, &order, -1);
}

/* The model says what it always says. */
static void check_answer(struct rig *r, uint32_t model)
{
    const struct rig_seq *want = &golden[model == 3];

    rig_reset(r, 1);
    rig_seq(r, 1, model, prompt, PROMPT, 0, TOKENS, SAMPLING_IGNORE_EOS);
    rig_turn(r, model, 0);
    assert_int_equal(r->turn_end.reason, TURN_IDLE);
    assert_int_equal(r->seqs[1].count, TOKENS);
    assert_memory_equal(r->seqs[1].tokens, want->tokens, TOKENS * sizeof(uint32_t));
}

/* --- what a master copy is for ---------------------------------------------------------------- */

static void test_prepare_and_read(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 8 * HANDLE);
    lend_empty(&r, 1);
    assert_int_equal(r.masters[MASTER_COMPLETE], 0);
    check_answer(&r, 1);
    assert_int_equal(r.masters[MASTER_COMPLETE], 1);
    assert_int_equal(r.master.files, 1);
    assert_true(r.master.file_bytes > 0);
    assert_int_equal(r.residency.file_bytes, 0);
    /* From then on nothing is read. */
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    check_answer(&r, 1);
    assert_int_equal(r.residency.file_bytes, 0);
    assert_int_equal(r.masters[MASTER_COMPLETE], 1);
    /* Another name takes the same file, read-only. */
    segment_key(complete_key, (const uint8_t(*)[SEGMENT_KEY])r.master.hashes, 1, DEVICE,
                r.e->residency.models[0]->layout);
    lend(&r, 2, MASTER_READ, open_file("fresh", O_RDONLY));
    check_answer(&r, 2);
    assert_int_equal(r.residency.model, 2);
    assert_int_equal(r.residency.file_bytes, 0);
    /* What was lent is given up: the file is read again. */
    lend(&r, 1, MASTER_NONE, -1);
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    check_answer(&r, 1);
    assert_true(r.residency.file_bytes > 0);
    assert_int_equal(r.masters[MASTER_CORRUPT] + r.masters[MASTER_FAILED], 0);
    rig_close(&r);
}

static void test_prepared_at_once(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 8 * HANDLE);
    for (uint32_t id = 1; id <= MODELS; id++) {
        char name[16];
        snprintf(name, sizeof(name), "now-%u", id);
        lend(&r, id, MASTER_PREPARE, open_file(name, O_RDWR | O_CREAT | O_TRUNC));
    }
    while (r.masters[MASTER_COMPLETE] < MODELS) {
        residency_poll(&r.e->residency);
        rig_events(&r);
    }
    assert_int_equal(r.came, 0);
    for (uint32_t id = 1; id <= MODELS; id++) {
        check_answer(&r, id);
        assert_int_equal(r.residency.file_bytes, 0);
    }
    rig_close(&r);
}

/* --- damage ----------------------------------------------------------------------------------- */

/* The complete one's bytes, changed. */
static int damaged(void (*change)(int fd))
{
    char command[300];

    snprintf(command, sizeof(command), "cp %s %s/damaged && chmod 600 %s/damaged", complete, folder,
             folder);
    assert_int_equal(system(command), 0);
    int fd = open_file("damaged", O_RDWR);
    change(fd);
    close(fd);
    return open_file("damaged", O_RDONLY);
}

static void write_at(int fd, off_t at, unsigned char xor)
{
    unsigned char byte;

    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= xor;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static void change_data(int fd)
{
    write_at(fd, (off_t)segment_data_offset(1) + 1000, 16);
}
static void change_header(int fd)
{
    write_at(fd, offsetof(struct segment_header, bytes), 1);
}
static void change_mark(int fd)
{
    write_at(fd, offsetof(struct segment_header, complete), 1);
}
static void change_table(int fd)
{
    write_at(fd, sizeof(struct segment_header), 1);
}
static void change_pieces(int fd)
{
    write_at(fd, offsetof(struct segment_header, pieces) + 6, 1);
}
static void cut_data(int fd)
{
    assert_int_equal(ftruncate(fd, (off_t)segment_data_offset(1) + 4096), 0);
}
static void cut_header(int fd)
{
    assert_int_equal(ftruncate(fd, 50), 0);
}
static void cut_all(int fd)
{
    assert_int_equal(ftruncate(fd, 0), 0);
}
static void grow(int fd)
{
    assert_int_equal(ftruncate(fd, (off_t)1 << 40), 0);
}

static void test_damage_is_found(void **state)
{
    static void (*const changes[])(int) = {change_data,  change_header, change_mark,
                                           change_table, change_pieces, cut_data,
                                           cut_header,   cut_all,       grow};
    struct rig r;

    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
        open_models(&r, 8 * HANDLE);
        lend(&r, 1, MASTER_READ, damaged(changes[i]));
        check_answer(&r, 1); /* from its file */
        assert_int_equal(r.masters[MASTER_CORRUPT], 1);
        assert_true(r.master.text[0] != '\0');
        assert_true(r.residency.file_bytes > 0);
        lend_complete(&r, 1);
        rig_ref(&r, ORDER_UNLOAD, 1, 0);
        check_answer(&r, 1);
        assert_int_equal(r.residency.file_bytes, 0);
        assert_int_equal(r.masters[MASTER_CORRUPT], 1);
        rig_close(&r);
    }
}

static void test_foreign_ones_are_refused(void **state)
{
    struct rig r;
    uint8_t key[SEGMENT_KEY];

    (void)state;
    open_models(&r, 8 * HANDLE);
    lend_complete(&r, 3); /* of other weights in the same layout: the key is as ordered */
    memcpy(key, complete_key, sizeof(key));
    complete_key[0] ^= 1;
    lend_complete(&r, 1);
    memcpy(complete_key, key, sizeof(key));
    assert_int_equal(r.masters[MASTER_CORRUPT], 1);
    lend(&r, 1, MASTER_READ, open_file(".", O_RDONLY | O_DIRECTORY));
    assert_int_equal(r.masters[MASTER_CORRUPT], 2);
    lend(&r, 1, MASTER_READ, open("/dev/zero", O_RDONLY | O_CLOEXEC));
    assert_int_equal(r.masters[MASTER_CORRUPT], 3);
    lend(&r, 1, MASTER_READ, -1);
    lend(&r, 1, 99, -1);
    assert_int_equal(r.masters[MASTER_CORRUPT] + r.masters[MASTER_FAILED], 5);
    /* One that cannot be written to. */
    lend(&r, 1, MASTER_FILL, open("/dev/null", O_RDONLY | O_CLOEXEC));
    check_answer(&r, 1);
    rig_close(&r);
}

/* --- each call fails once --------------------------------------------------------------------- */

static void load_with(struct rig *r, int how)
{
    if (how == 1)
        lend_complete(r, 1);
    else if (how != 3)
        lend_empty(r, 1);
    if (how == 2)
        prefetch(r, 1, 0);
    else
        rig_ref(r, ORDER_LOAD, 1, 0);
    wait_behind(r);
}

/* how: 0 prepare and load, 1 load a complete one, 2 prepare behind the steps, 3 load the file. */
static void fail_each(int how)
{
    uint32_t calls, number = 0, failed = 0;
    struct rig r;

    do {
        open_models(&r, 8 * HANDLE);
        fault_arm(++number);
        load_with(&r, how);
        calls = fault_disarm();
        failed += !r.e->residency.models[0]->resident;
        if (!r.e->residency.models[0]->resident)
            assert_int_equal(arena_held(r.e->arena, ARENA_FREE), arena_handles(r.e->arena));
        check_answer(&r, 1);
        rig_ref(&r, ORDER_UNLOAD, 1, 0);
        load_with(&r, how);
        assert_true(r.e->residency.models[0]->resident);
        check_answer(&r, 1);
        rig_close(&r);
    } while (calls >= number);
    print_message("%u calls were made to fail, %u loads did\n", number - 1, failed);
    assert_true(number > (how == 1 ? 3u : 5u)); /* a complete one is mapped, and that is all */
}

static void test_faults(void **state)
{
    (void)state;
    if (rig_device() != RIG_CPU)
        skip(); /* they would fail in the middle of CUDA's own, too */
    for (int how = 0; how < 4; how++)
        fail_each(how);
}

/* --- behind the steps ------------------------------------------------------------------------- */

static void test_prefetch_behind_a_turn(void **state)
{
    struct rig r;
    uint32_t steps;

    (void)state;
    open_models(&r, 8 * HANDLE);
    lend_complete(&r, 1);
    check_answer(&r, 3);
    rig_reset(&r, 2);
    rig_seq(&r, 2, 3, prompt, PROMPT, 0, 2000, SAMPLING_IGNORE_EOS);
    rig_queue(&r, 3, 0, 0);
    prefetch(&r, 1, 0);
    assert_int_equal(r.came, 1);
    for (steps = r.steps; r.came == 1;) {
        turn_advance(r.e);
        rig_events(&r);
    }
    assert_int_equal(r.turns_ended, 1); /* model 3 runs on */
    assert_true(r.steps > steps);
    assert_int_equal(r.residency.model, 1);
    assert_int_equal(r.residency.file_bytes, 0);
    rig_ref(&r, ORDER_SEQ_CLOSE, 0, 2);
    rig_run(&r);
    check_answer(&r, 1);
    assert_int_equal(r.turn_end.switch_bytes, 0);
    rig_close(&r);
}

static void test_turn_waits_for_its_prefetch(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 8 * HANDLE);
    lend_empty(&r, 1);
    prefetch(&r, 1, 0);
    check_answer(&r, 1);
    assert_int_equal(r.came, 1);
    assert_int_equal(r.masters[MASTER_COMPLETE], 1);
    assert_int_equal(r.turn_end.switch_bytes, 0);
    rig_close(&r);
}

static void test_unload_calls_off(void **state)
{
    struct rig r;

    (void)state;
    for (int i = 0; i < (rig_device() == RIG_CPU ? 20 : 4); i++) {
        open_models(&r, 8 * HANDLE);
        lend_empty(&r, 1);
        prefetch(&r, 1, 0);
        usleep((useconds_t)i * 100);
        rig_ref(&r, ORDER_UNLOAD, 1, 0);
        assert_int_equal(r.went, 1);
        assert_false(r.e->residency.models[0]->resident);
        assert_int_equal(arena_held(r.e->arena, ARENA_FREE), arena_handles(r.e->arena));
        check_answer(&r, 1);
        rig_close(&r);
    }
}

/* What the order names goes, and nothing else; without room it is refused. */
static void test_prefetch_evicts_what_it_may(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 3 * HANDLE); /* two models and KV */
    check_answer(&r, 1);
    check_answer(&r, 2);
    rig_reset(&r, 2);
    rig_seq(&r, 2, 2, prompt, PROMPT, 0, 100, SAMPLING_IGNORE_EOS);
    rig_queue(&r, 2, 1, 0);
    rig_run(&r);
    prefetch(&r, 3, 0);
    assert_int_equal(r.residency.model, 3);
    assert_int_equal(r.residency.resident, 0);
    assert_true(r.e->residency.models[0]->resident && r.e->residency.models[1]->resident);
    prefetch(&r, 3, 1);
    wait_behind(&r);
    assert_false(r.e->residency.models[0]->resident);
    assert_true(r.e->residency.models[1]->resident && r.e->residency.models[2]->resident);
    /* The one that runs stays, unless its turn has nothing left to do. */
    rig_queue(&r, 2, 5, 0);
    prefetch(&r, 1, 2);
    assert_int_equal(r.residency.model, 1);
    assert_int_equal(r.residency.resident, 0);
    assert_true(r.e->residency.models[1]->resident);
    rig_ref(&r, ORDER_SEQ_CLOSE, 0, 2);
    prefetch(&r, 1, 2);
    wait_behind(&r);
    assert_true(r.e->residency.models[0]->resident);
    assert_false(r.e->residency.models[1]->resident);
    rig_run(&r);
    assert_int_equal(r.turn_end.reason, TURN_IDLE);
    check_answer(&r, 3);
    rig_close(&r);
}

/* KV that needs its room takes it. */
static void test_prefetch_gives_way_to_kv(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 3 * HANDLE);
    check_answer(&r, 3);
    prefetch(&r, 1, 0);
    wait_behind(&r);
    prefetch(&r, 2, 1);
    for (uint64_t seq = 2; seq < 10; seq++) { /* 512 B a token: a handle has 4096 of them */
        rig_reset(&r, seq);
        rig_seq(&r, seq, 3, prompt, PROMPT, 0, 900, SAMPLING_IGNORE_EOS);
    }
    rig_turn(&r, 3, 0);
    assert_int_equal(r.turn_end.reason, TURN_IDLE);
    for (uint64_t seq = 2; seq < 10; seq++)
        assert_int_equal(r.seqs[seq].count, 900);
    wait_behind(&r);
    rig_close(&r);
}

static void test_pinned_stays(void **state)
{
    struct rig r;

    (void)state;
    open_engine(&r, 3 * HANDLE);
    r.flags = MODEL_PINNED;
    rig_model(&r, 1, paths[0], 0);
    r.flags = 0;
    rig_model(&r, 2, paths[0], 0);
    rig_model(&r, 3, paths[1], 0);
    for (int i = 0; i < 3; i++) {
        for (uint32_t id = 1; id <= MODELS; id++)
            check_answer(&r, id);
        assert_true(r.e->residency.models[0]->resident);
    }
    prefetch(&r, 2, 1);
    wait_behind(&r);
    assert_true(r.e->residency.models[0]->resident);
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    assert_false(r.e->residency.models[0]->resident);
    rig_close(&r);
}

/* --- by a lane -------------------------------------------------------------------------------- */

/* Steps begin while copies wait, and use nothing that they have not waited for. */
static void test_steps_behind_a_load(void **state)
{
    struct rig r;

    (void)state;
    if (!by_lane || rig_device() != RIG_CPU)
        skip();
    open_models(&r, 8 * HANDLE);
    lend_complete(&r, 1);
    residency_poll(&r.e->residency);
    wait_behind(&r); /* it is pinned */
    assert_int_equal(lane_rig.pins, 1);
    lane_rig.slow = 1;
    lane_rig.end_ms = 50;
    for (int i = 0; i < 3; i++) {
        rig_ref(&r, ORDER_UNLOAD, 1, 0);
        lane_rig.awaits = 0;
        check_answer(&r, 1);
        assert_true(lane_rig.awaits >= 4); /* embedding, two layers, head */
        assert_true(r.turn_end.switch_us >= 50000);
        assert_true(r.turn_end.step_us > 0);
        assert_int_equal(r.turn_end.switch_bytes, r.residency.bytes);
        assert_int_equal(r.residency.file_bytes, 0);
    }
    /* A turn comes while it is on its way behind the steps. */
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    prefetch(&r, 1, 0);
    lane_rig.awaits = 0;
    check_answer(&r, 1);
    assert_true(lane_rig.awaits > 0);
    assert_int_equal(r.turn_end.switch_bytes, 0);
    /* So does the end of the model. */
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    rig_ref(&r, ORDER_LOAD, 1, 0);
    assert_non_null(r.e->residency.models[0]->arriving);
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    assert_int_equal(arena_held(r.e->arena, ARENA_FREE), arena_handles(r.e->arena));
    rig_ref(&r, ORDER_LOAD, 1, 0);
    lend(&r, 1, MASTER_NONE, -1); /* it is given up behind the copies */
    check_answer(&r, 1);
    rig_close(&r);
    assert_int_equal(lane_rig.unpins, 1);
}

/* Two names of one file: it is pinned once, until both have given it up. */
static void test_names_share_memory(void **state)
{
    struct rig r;

    (void)state;
    if (!by_lane || rig_device() != RIG_CPU)
        skip();
    open_models(&r, 8 * HANDLE);
    lend_complete(&r, 1);
    lend_complete(&r, 2);
    for (int i = 0; i < 3; i++) {
        check_answer(&r, 1);
        check_answer(&r, 2);
        rig_ref(&r, ORDER_UNLOAD, 1, 0);
        rig_ref(&r, ORDER_UNLOAD, 2, 0);
    }
    assert_int_equal(lane_rig.pins, 1);
    lend(&r, 1, MASTER_NONE, -1);
    check_answer(&r, 2);
    assert_int_equal(r.residency.file_bytes, 0);
    assert_int_equal(lane_rig.unpins, 0);
    check_answer(&r, 1);
    assert_true(r.residency.file_bytes > 0);
    rig_close(&r);
    assert_int_equal(lane_rig.unpins, 1);
}

/* Handles that others have had meanwhile. */
static void test_places_change(void **state)
{
    struct rig r;

    (void)state;
    open_models(&r, 3 * HANDLE); /* two models and KV */
    for (int i = 0; i < 12; i++)
        check_answer(&r, (uint32_t)("123213312132"[i] - '0'));
    rig_close(&r);
}

static void test_pin_fails(void **state)
{
    struct rig r;

    (void)state;
    if (!by_lane || rig_device() != RIG_CPU)
        skip();
    lane_rig.fail_pin = 1;
    open_models(&r, 8 * HANDLE);
    lend_complete(&r, 1);
    check_answer(&r, 1);
    assert_int_equal(r.residency.file_bytes, 0);
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    check_answer(&r, 1);
    rig_close(&r);
    assert_int_equal(lane_rig.pins, 1); /* it is not tried again */
    assert_int_equal(lane_rig.unpins, 0);
}

static void test_copy_fails(void **state)
{
    struct rig r;

    (void)state;
    if (!by_lane || rig_device() != RIG_CPU)
        skip();
    open_models(&r, 8 * HANDLE);
    lend_complete(&r, 1);
    wait_behind(&r);
    /* Behind the steps: nobody has used it. */
    lane_rig.waits = 0;
    lane_rig.fail_wait = 3;
    prefetch(&r, 1, 0);
    wait_behind(&r);
    assert_int_equal(r.residency.resident, 0);
    assert_false(r.e->residency.models[0]->resident);
    assert_int_equal(arena_held(r.e->arena, ARENA_FREE), arena_handles(r.e->arena));
    check_answer(&r, 1);
    /* Under a step: what it has computed is worth nothing, and the engine ends. */
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    lane_rig.waits = 0;
    lane_rig.fail_wait = 1;
    lane_rig.end_ms = 50;
    rig_reset(&r, 1);
    rig_seq(&r, 1, 1, prompt, PROMPT, 0, TOKENS, SAMPLING_IGNORE_EOS);
    rig_queue(&r, 1, 0, 0);
    turn_advance(r.e);
    assert_true(r.e->gone);
    rig_events(&r);
    assert_int_equal(r.seqs[1].count, 0);
    rig_close(&r);
}

/* At any moment of it. */
static void test_prefetch_called_off(void **state)
{
    struct rig r;

    (void)state;
    if (!by_lane || rig_device() != RIG_CPU)
        skip();
    open_models(&r, 8 * HANDLE);
    lend_complete(&r, 1);
    wait_behind(&r);
    lane_rig.slow = 1;
    for (int i = 0; i < 30; i++) {
        uint32_t went = r.went;
        prefetch(&r, 1, 0);
        usleep((useconds_t)i * 20);
        rig_ref(&r, ORDER_UNLOAD, 1, 0);
        assert_int_equal(r.went, went + 1);
        assert_false(r.e->residency.models[0]->resident);
        assert_int_equal(arena_held(r.e->arena, ARENA_FREE), arena_handles(r.e->arena));
    }
    check_answer(&r, 1);
    rig_close(&r);
}

static int begin(void **state)
{
    (void)state;
    memset(&lane_rig, 0, sizeof(lane_rig));
    return 0;
}

/* --- all of it -------------------------------------------------------------------------------- */

static int make_golden(void **state)
{
    const struct tiny_options other = {.seed = 99};
    struct rig r;

    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/engine_tier_test.%d", (int)getpid());
    snprintf(paths[0], sizeof(paths[0]), "%s/a.gguf", folder);
    snprintf(paths[1], sizeof(paths[1]), "%s/b.gguf", folder);
    snprintf(complete, sizeof(complete), "%s/complete", folder);
    if (mkdir(folder, 0700) != 0 || tiny_gguf_write(paths[0], NULL) != 0 ||
        tiny_gguf_write(paths[1], &other) != 0)
        return -1;
    open_models(&r, 8 * HANDLE);
    for (uint32_t i = 0; i < 2; i++) {
        rig_reset(&r, 1);
        rig_seq(&r, 1, i == 0 ? 1 : 3, prompt, PROMPT, 0, TOKENS, SAMPLING_IGNORE_EOS);
        rig_turn(&r, i == 0 ? 1 : 3, 0);
        golden[i] = r.seqs[1];
    }
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    lend(&r, 1, MASTER_FILL, open_file("complete", O_RDWR | O_CREAT));
    check_answer(&r, 1);
    segment_key(complete_key, (const uint8_t(*)[SEGMENT_KEY])r.master.hashes, 1, DEVICE,
                r.e->residency.models[0]->layout);
    rig_close(&r);
    return memcmp(golden[0].tokens, golden[1].tokens, TOKENS * sizeof(uint32_t)) == 0 ? -1 : 0;
}

static int clean(void **state)
{
    char command[100];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command) == 0 ? 0 : -1;
}

#define TEST(f) cmocka_unit_test_setup(f, begin)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_prepare_and_read),
        TEST(test_prepared_at_once),
        TEST(test_damage_is_found),
        TEST(test_foreign_ones_are_refused),
        TEST(test_faults),
        TEST(test_prefetch_behind_a_turn),
        TEST(test_turn_waits_for_its_prefetch),
        TEST(test_unload_calls_off),
        TEST(test_prefetch_evicts_what_it_may),
        TEST(test_prefetch_gives_way_to_kv),
        TEST(test_pinned_stays),
        TEST(test_steps_behind_a_load),
        TEST(test_names_share_memory),
        TEST(test_places_change),
        TEST(test_pin_fails),
        TEST(test_copy_fails),
        TEST(test_prefetch_called_off),
    };
    int failed = 0;

    for (by_lane = rig_device() != RIG_CPU; by_lane < 2; by_lane++) {
        print_message("loads %s\n", by_lane ? "by a lane, as a GPU's" : "as a CPU's");
        failed += cmocka_run_group_tests(tests, make_golden, clean);
    }
    return failed;
}
