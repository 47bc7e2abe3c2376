/*
 * pool_test.c - every item once, by any number of threads, and no CPU when idle
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those four before it. */
#include <cmocka.h>

#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cpu/pool.h"

#define ITEMS_MAX 1000u

struct counts {
    atomic_uint items[ITEMS_MAX];
    atomic_uint wrong_worker;
    uint32_t threads;
};

static void count(const void *job, uint32_t worker, uint32_t begin, uint32_t end)
{
    struct counts *c = *(struct counts *const *)job;

    if (worker >= c->threads)
        atomic_fetch_add(&c->wrong_worker, 1);
    for (uint32_t i = begin; i < end; i++)
        atomic_fetch_add(&c->items[i], 1);
}

static void check_run(struct pool *p, struct counts *c, uint32_t items, uint32_t grain)
{
    memset(c, 0, sizeof(*c));
    c->threads = pool_threads(p);
    pool_run(p, count, &c, items, grain);
    for (uint32_t i = 0; i < ITEMS_MAX; i++)
        assert_int_equal(atomic_load(&c->items[i]), i < items);
    assert_int_equal(atomic_load(&c->wrong_worker), 0);
}

static void test_every_item_once(void **state)
{
    static const uint32_t threads[] = {1, 2, 5};
    static struct counts c;

    (void)state;
    for (size_t t = 0; t < 3; t++) {
        struct pool *p = pool_create(threads[t], NULL);
        assert_non_null(p);
        assert_int_equal(pool_threads(p), threads[t]);
        for (uint32_t items = 0; items <= ITEMS_MAX; items += items < 10 ? 1 : 330)
            for (uint32_t grain = 0; grain < 4; grain++)
                check_run(p, &c, items, grain);
        pool_destroy(p);
    }
}

/* Loops that follow each other at once, and ones after the threads have gone to sleep. */
static void test_many_loops(void **state)
{
    static struct counts c;
    struct pool *p = pool_create(3, NULL);

    (void)state;
    assert_non_null(p);
    for (int i = 0; i < 3000; i++)
        check_run(p, &c, 20, 1);
    for (int i = 0; i < 20; i++) {
        usleep(2000);
        check_run(p, &c, 20, 1);
    }
    pool_destroy(p);
}

static double cpu_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void test_idle_uses_no_cpu(void **state)
{
    static struct counts c;
    struct pool *p = pool_create(4, NULL);

    (void)state;
    assert_non_null(p);
    check_run(p, &c, 100, 1);
    usleep(50000);
    double before = cpu_seconds();
    usleep(300000);
    assert_true(cpu_seconds() - before < 0.01);
    pool_destroy(p);
}

static void test_default_is_the_mask(void **state)
{
    struct pool *p = pool_create(0, NULL);
    cpu_set_t set;

    (void)state;
    assert_non_null(p);
    assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
    assert_in_range(pool_threads(p), 1, (unsigned)CPU_COUNT(&set));
    pool_destroy(p);

    cpu_set_t one;
    CPU_ZERO(&one);
    for (size_t i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &set))
            CPU_SET(i, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    p = pool_create(0, NULL);
    assert_non_null(p);
    assert_int_equal(pool_threads(p), 1);
    pool_destroy(p);
    assert_int_equal(sched_setaffinity(0, sizeof(set), &set), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_once),
        cmocka_unit_test(test_many_loops),
        cmocka_unit_test(test_idle_uses_no_cpu),
        cmocka_unit_test(test_default_is_the_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
