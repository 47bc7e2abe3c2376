/* engine_host_tier_test.c - a GPU's master copies: one for all names of the same file, least
 * recently used first; here on a CPU's device, which allocates host memory as well */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "engine/random_model.h"
#include "engine/residency.h"
#include "model/source.h"

#define MODELS 3u

struct bench {
    struct device *device;
    struct arena *arena;
    struct residency r;
};

static int make_file(void)
{
    struct error err = {0};
    uint64_t bytes;
    int fd;

    if (random_model_create(random_shape_find("tiny-a"), DTYPE_Q8_0, &fd, &bytes, &err) != 0)
        fail_msg("%s", err.text);
    return fd;
}

/* Models 0 and 1 are of one file, 2 of another with the same contents. */
static int setup(void **state)
{
    static struct bench b;
    const int files[MODELS] = {make_file(), -1, make_file()};
    struct error err = {0};

    memset(&b, 0, sizeof(b));
    *state = &b;
    b.device = device_create(1, PRECISION_FAST, 1, ENGINE_COLS_MAX, &err);
    assert_non_null(b.device);
    b.arena = arena_create(b.device, (uint64_t)64 << 20, &err);
    assert_non_null(b.arena);
    assert_int_equal(residency_open(&b.r, b.arena, &err), 0);
    for (uint32_t i = 0; i < MODELS; i++) {
        struct channel_files with = {.count = 1, .fds = {files[i] >= 0 ? files[i] : files[0]}};
        struct order_model order = {.kind = ORDER_MODEL, .model = i, .files = 1, .name = "m"};

        order.kinds[0] = SOURCE_GGUF;
        b.r.models[i] = model_open(&with, &order, b.arena, ARENA_WEIGHTS + i, &err);
        if (b.r.models[i] == NULL)
            fail_msg("%s", err.text);
        b.r.count++;
    }
    close(files[0]);
    close(files[2]);
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;

    residency_close(&b->r);
    assert_true(b->r.host.used == 0); /* all were freed, once each */
    arena_destroy(b->arena);
    device_destroy(b->device);
    return 0;
}

static void hold(struct bench *b, uint32_t model)
{
    struct error err = {0};

    b->r.models[model]->used = ++b->r.stamp;
    if (host_tier_hold(&b->r.host, &b->r, b->r.models[model], &err) != 0)
        fail_msg("%s", err.text);
}

static void names_of_a_file_share_a_copy(void **state)
{
    struct bench *b = *state;
    struct host_tier *t = &b->r.host;
    struct model **m = b->r.models;

    t->budget = 3 * m[0]->range_bytes;
    hold(b, 0);
    hold(b, 1);
    hold(b, 2);
    assert_non_null(m[0]->master);
    assert_ptr_equal(m[1]->master, m[0]->master);
    assert_non_null(m[2]->master);
    assert_ptr_not_equal(m[2]->master, m[0]->master);
    assert_memory_equal(m[2]->master, m[0]->master, m[0]->range_bytes);
    assert_true(t->used == 2 * m[0]->range_bytes && t->read == 2 * m[0]->weight_bytes);
    host_tier_drop(t, &b->r, m[0]);
    assert_null(m[0]->master);
    assert_non_null(m[1]->master);
    assert_true(t->used == 2 * m[0]->range_bytes);
    hold(b, 0); /* again, and nothing is read for it */
    assert_ptr_equal(m[1]->master, m[0]->master);
    assert_true(t->read == 2 * m[0]->weight_bytes);
}

/* A copy goes under all of its names, and is as recently used as the last of them. */
static void the_oldest_copy_goes(void **state)
{
    struct bench *b = *state;
    struct host_tier *t = &b->r.host;
    struct model **m = b->r.models;

    t->budget = m[0]->range_bytes;
    hold(b, 0);
    hold(b, 1);
    hold(b, 2);
    assert_true(m[0]->master == NULL && m[1]->master == NULL && m[2]->master != NULL);
    assert_true(t->used == m[0]->range_bytes);
    hold(b, 1);
    assert_true(m[0]->master == NULL && m[1]->master != NULL && m[2]->master == NULL);
    t->budget = m[0]->range_bytes - 1; /* too large for what there is: read from its file */
    hold(b, 2);
    assert_null(m[2]->master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names_of_a_file_share_a_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(the_oldest_copy_goes, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
