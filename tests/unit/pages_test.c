/*
 * pages_test.c - the arena's handles, and pages in slabs of them
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <string.h>

#include "engine/pages.h"

#define HANDLE ((uint64_t)2 << 20) /* of a CPU */

static struct device *cpu(void)
{
    struct error err = {0};
    struct device *d = device_create(1, PRECISION_EXACT, 1, 64, &err);

    assert_non_null(d);
    return d;
}

static void test_arena(void **state)
{
    struct error err = {0};
    uint32_t a[4], b[4], first;
    struct device *device = cpu();

    (void)state;
    assert_int_equal(device_handle_bytes(device), HANDLE);
    assert_null(arena_create(device, HANDLE - 1, &err));
    assert_non_null(strstr(err.text, "Memory="));
    struct arena *arena = arena_create(device, 6 * HANDLE, &err);
    assert_non_null(arena);
    assert_int_equal(arena_take(arena, 2, a, 4), 0);
    assert_int_equal(arena_take(arena, 3, b, 3), -1); /* and none taken */
    assert_int_equal(arena_held(arena, 3), 0);
    assert_int_equal(arena_take_run(arena, ARENA_KV, 3, &first), -1);
    assert_int_equal(arena_take_run(arena, ARENA_KV, 2, &first), 0);
    assert_int_equal(first, 4);
    arena_give(arena, 3, a[0]); /* not its holder */
    assert_int_equal(arena_held(arena, ARENA_FREE), 0);

    /* Mapped elsewhere, in another order, it is the same memory. */
    uint32_t shuffled[3] = {a[2], a[0], a[1]};
    uint8_t *range = device_reserve(device, 3 * HANDLE, &err);
    assert_non_null(range);
    assert_int_equal(device_map(device, range, shuffled, 3, &err), 0);
    range[0] = 1;
    range[HANDLE] = 2;
    range[3 * HANDLE - 1] = 3;
    assert_int_equal(arena_window(arena)[a[2] * HANDLE], 1);
    assert_int_equal(arena_window(arena)[a[0] * HANDLE], 2);
    assert_int_equal(arena_window(arena)[(a[1] + 1) * HANDLE - 1], 3);
    device_unmap(device, range, 3);
    device_release(device, range, 3 * HANDLE);
    for (int i = 0; i < 4; i++)
        arena_give(arena, 2, a[i]);
    assert_int_equal(arena_held(arena, ARENA_FREE), 4);
    assert_int_equal(arena_check(arena, &err), 0);
    assert_null(arena_create(device, HANDLE, &err)); /* its memory is given away once */
    assert_int_equal(err.status, STATUS_EXISTS);
    arena_destroy(arena);
    device_destroy(device);
}

/* Pages of several sizes taken and given back at random: none overlaps another, all returns. */
static void test_pages_random(void **state)
{
    static const uint64_t sizes[] = {8192, 700032, HANDLE, HANDLE * 5 / 4, 100};
    enum { LIVE = 200, HANDLES = 24 };
    struct {
        unsigned char *page;
        uint64_t bytes;
        unsigned char mark;
    } live[LIVE] = {0};
    struct error err = {0};
    struct device *device = cpu();
    struct arena *arena = arena_create(device, HANDLES * HANDLE, &err);
    struct pages *pages = pages_create(arena, &err);
    uint32_t state32 = 1, full = 0, taken = 0;

    (void)state;
    assert_non_null(pages);
    for (int round = 0; round < 20000; round++) {
        state32 = state32 * 1664525 + 1013904223;
        uint32_t i = (state32 >> 8) % LIVE;
        if (live[i].page != NULL) {
            assert_int_equal(live[i].page[0], live[i].mark);
            assert_int_equal(live[i].page[live[i].bytes - 1], live[i].mark);
            pages_give(pages, live[i].page);
            live[i].page = NULL;
            continue;
        }
        live[i].bytes = sizes[(state32 >> 24) % (sizeof(sizes) / sizeof(sizes[0]))];
        live[i].page = pages_take(pages, live[i].bytes);
        if (live[i].page == NULL) {
            full++;
            continue;
        }
        taken++;
        live[i].mark = (unsigned char)round;
        live[i].page[0] = live[i].page[live[i].bytes - 1] = live[i].mark;
    }
    assert_true(full > 100 && taken > 1000);
    for (int i = 0; i < LIVE; i++)
        if (live[i].page != NULL)
            pages_give(pages, live[i].page);
    assert_int_equal(pages_live(pages), 0);
    assert_int_equal(arena_held(arena, ARENA_FREE), HANDLES);
    assert_int_equal(arena_check(arena, &err), 0);
    pages_destroy(pages);
    arena_destroy(arena);
    device_destroy(device);
}

/* --- pages that move -------------------------------------------------------------------------- */

enum { MANY = 150 };

struct mover {
    struct pages *pages;
    struct {
        unsigned char *page;
        uint64_t bytes;
        unsigned char mark;
    } live[MANY];
    uint32_t random;
};

static void give_live(struct mover *m, uint32_t i)
{
    if (m->live[i].page != NULL)
        pages_give(m->pages, m->live[i].page);
    m->live[i].page = NULL;
}

/* Some go, others come; every ninth is idle. */
static void shuffle(struct mover *m, uint32_t round)
{
    static const uint64_t sizes[] = {HANDLE / 16, HANDLE / 7 / 64 * 64, HANDLE * 5 / 4};

    for (uint32_t i = 0; i < MANY; i++) {
        m->random = m->random * 1664525 + 1013904223;
        if (m->live[i].page != NULL && (m->random >> 28) < 8) {
            give_live(m, i);
        } else if (m->live[i].page == NULL && (m->random >> 28) < 12) {
            uint32_t size = (m->random >> 20) % 8;
            m->live[i].bytes = sizes[size == 0 ? 2 : size % 2];
            m->live[i].page = pages_take(m->pages, m->live[i].bytes);
            m->live[i].mark = (unsigned char)(round + i);
        }
        if (m->live[i].page == NULL)
            continue;
        m->live[i].page[0] = m->live[i].page[m->live[i].bytes - 1] = m->live[i].mark;
        pages_set_idle(m->pages, m->live[i].page, i % 9 == 0);
    }
}

static void check_live(const struct mover *m)
{
    struct error err = {0};

    if (pages_check(m->pages, &err) != 0)
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < MANY; i++) {
        if (m->live[i].page == NULL)
            continue;
        assert_int_equal(m->live[i].page[0], m->live[i].mark);
        assert_int_equal(m->live[i].page[m->live[i].bytes - 1], m->live[i].mark);
    }
}

/* Slabs of several sizes, each half empty at random: as many handles come free as were promised,
 * and each page has its bytes, and is idle or not, as before. */
static void test_pages_squeeze(void **state)
{
    enum { HANDLES = 40 };
    struct error err = {0};
    struct device *device = cpu();
    struct arena *arena = arena_create(device, HANDLES * HANDLE, &err);
    struct mover m = {.pages = pages_create(arena, &err), .random = 7};
    uint32_t moved = 0;

    (void)state;
    assert_non_null(m.pages);
    for (uint32_t round = 0; round < 60; round++) {
        int all = round % 2 == 0; /* the promise is of what is there without idle pages */
        shuffle(&m, round);
        for (uint32_t i = 0; all && i < MANY; i += 9)
            give_live(&m, i);
        uint32_t free = arena_held(arena, ARENA_FREE), spare = pages_spare(m.pages);
        uint64_t idle = pages_idle(m.pages);
        moved += pages_squeeze(m.pages, all ? HANDLES : free + 1);
        for (uint32_t i = 0; i < MANY; i++)
            if (m.live[i].page != NULL)
                m.live[i].page = pages_forward(m.pages, m.live[i].page);
        pages_settle(m.pages);
        if (all)
            assert_int_equal(arena_held(arena, ARENA_FREE), free + spare);
        assert_int_equal(pages_idle(m.pages), idle);
        check_live(&m);
    }
    assert_true(moved > 100);
    for (uint32_t i = 0; i < MANY; i++)
        give_live(&m, i);
    assert_int_equal(arena_held(arena, ARENA_FREE), HANDLES);
    pages_destroy(m.pages);
    arena_destroy(arena);
    device_destroy(device);
}

static void test_pages_count(void **state)
{
    struct error err = {0};
    struct device *device = cpu();
    struct arena *arena = arena_create(device, 4 * HANDLE, &err);
    struct pages *pages = pages_create(arena, &err);
    uint32_t used, total;

    (void)state;
    assert_non_null(pages);
    pages_count(pages, HANDLE / 2, &used, &total);
    assert_int_equal(used, 0);
    assert_int_equal(total, 8);
    void *page = pages_take(pages, HANDLE / 2);
    assert_non_null(pages_take(pages, HANDLE)); /* of another shape: a handle less */
    pages_count(pages, HANDLE / 2, &used, &total);
    assert_int_equal(used, 1);
    assert_int_equal(total, 6);
    pages_give(pages, page);
    assert_int_equal(pages_handles(HANDLE, HANDLE / 2, 3), 2);
    assert_int_equal(pages_handles(HANDLE, HANDLE * 3 / 2, 2), 4);
    pages_destroy(pages); /* with a live one */
    assert_int_equal(arena_held(arena, ARENA_FREE), 4);
    arena_destroy(arena);
    device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_pages_random),
        cmocka_unit_test(test_pages_squeeze),
        cmocka_unit_test(test_pages_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
