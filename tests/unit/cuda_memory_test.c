/*
 * cuda_memory_test.c - handles, ranges, recorded operations and moves on a GPU
 */
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/cuda_compare.h"

#define HANDLES 5u

static void test_pool(void **state)
{
    static const uint32_t first[] = {3, 1}, second[] = {0, 1, 4}, wrong[] = {2, HANDLES};
    struct error err;

    NEED_GPU(state);
    uint64_t bytes = device_handle_bytes(gpu);
    assert_true(bytes > 0 && bytes % (2 << 20) == 0);
    assert_int_equal(device_pool(gpu, HANDLES, &err), 0);
    assert_int_equal(device_pool(gpu, HANDLES, &err), -1);
    assert_null(device_reserve(gpu, bytes + 1, &err));
    char *a = device_reserve(gpu, 2 * bytes, &err), *b = device_reserve(gpu, 4 * bytes, &err);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(device_map(gpu, a, wrong, 2, &err), -1);
    assert_int_equal(device_map(gpu, a, first, 2, &err), 0);
    assert_int_equal(device_map(gpu, b + bytes, second, 3, &err), 0);
    /* Handle 1 is the second of both: one memory. */
    uint32_t word = 4711, seen = 0;
    device_copy(gpu, a + 2 * bytes - 4, &word, sizeof(word));
    fetch(&seen, b + 3 * bytes - 4, sizeof(seen));
    assert_int_equal(seen, word);
    device_unmap(gpu, a, 2);
    /* What was refused left nothing behind: the range can be mapped, otherwise now. */
    assert_int_equal(device_map(gpu, a, second, 2, &err), 0);
    fetch(&seen, a + 2 * bytes - 4, sizeof(seen));
    assert_int_equal(seen, word);
    device_unmap(gpu, a, 2);
    device_unmap(gpu, b + bytes, 3);
    device_release(gpu, a, 2 * bytes);
    device_release(gpu, b, 4 * bytes);
    assert_int_equal(device_check(gpu, &err), 0);
}

static void test_pool_too_large(void **state)
{
    struct error err;
    uint64_t left, total;

    NEED_GPU(state);
    struct device *other = device_create_cuda(0, PRECISION_EXACT, 1, 64, &err);
    assert_non_null(other);
    assert_int_equal(device_memory(other, &left, &total, &err), 0);
    uint32_t handles = (uint32_t)(total / device_handle_bytes(other)) + 1;
    assert_int_equal(device_pool(other, handles, &err), -1);
    assert_int_equal(err.status, STATUS_EXHAUSTED);
    /* All were given back. */
    assert_int_equal(device_pool(other, 3, &err), 0);
    device_destroy(other);
}

/* The same operations replayed over other contents, and over other memory at the same addresses. */
static void test_graph(void **state)
{
    static const uint32_t handles[] = {0, 2};
    enum { COLS = 577 };
    struct error err;
    float x[COLS], want[COLS], got[COLS], poison[COLS];

    NEED_GPU(state);
    uint64_t bytes = device_handle_bytes(gpu);
    float *at = device_reserve(gpu, bytes, &err), *out = there(NULL, sizeof(x));
    assert_non_null(at);
    assert_int_equal(device_map(gpu, at, &handles[0], 1, &err), 0);
    assert_int_equal(device_record(gpu, &err), 0);
    k_scale(gpu, at, 1, COLS, 2, 0);
    k_scale(gpu, at, 1, COLS, 3, 0);
    k_norm(gpu, at + COLS, at, NULL, 0, NULL, NULL, 1, COLS, 1e-5f);
    device_copy(gpu, out, at + COLS, sizeof(x));
    struct graph *g = device_recorded(gpu, &err);
    assert_non_null(g);
    for (uint32_t turn = 0; turn < 4; turn++) {
        if (turn == 2) {
            device_unmap(gpu, at, 1);
            assert_int_equal(device_map(gpu, at, &handles[1], 1, &err), 0);
        }
        for (uint32_t i = 0; i < COLS; i++) {
            poison[i] = NAN;
            x[i] = (float)(i + turn);
            want[i] = 6 * x[i];
        }
        device_copy(gpu, at, x, sizeof(x));
        device_copy(gpu, at + COLS, poison, sizeof(poison));
        device_replay(gpu, g);
        fetch(got, out, sizeof(x));
        assert_same_bits(got, want, COLS, "replayed");
    }
    device_graph_free(gpu, g);
    device_unmap(gpu, at, 1);
    device_release(gpu, at, bytes);
    device_free(gpu, out);
    assert_int_equal(device_check(gpu, &err), 0);
}

/* Pieces of both ways, behind operations and ahead of others: many more than may be under way. */
static void test_moves(void **state)
{
    enum { PIECES = 50, PAGES = 3, WORDS = 70001, COUNT = PIECES * PAGES * WORDS };
    const uint64_t page = WORDS * sizeof(uint32_t), bytes = PIECES * PAGES * page;
    struct error err;
    uint64_t us = 0, sum = 0;

    NEED_GPU(state);
    uint32_t *host = device_host_alloc(gpu, bytes, &err), *first = allocate(bytes);
    char *from = there(NULL, bytes), *to = there(NULL, bytes);
    assert_non_null(host);
    for (uint32_t i = 0; i < COUNT; i++)
        first[i] = i * 2654435761u;
    for (int way = DEVICE_OUT; way <= DEVICE_IN; way++) {
        if (way == DEVICE_OUT)
            device_copy(gpu, from, first, bytes);
        device_move_after(gpu, (enum device_way)way);
        for (uint32_t p = 0; p < PIECES + DEVICE_MOVES; p++) {
            if (p >= DEVICE_MOVES) {
                assert_int_equal(
                    device_move_done(gpu, (enum device_way)way, p % DEVICE_MOVES, 1, &us), 1);
                assert_int_equal(
                    device_move_done(gpu, (enum device_way)way, p % DEVICE_MOVES, 0, &us), 1);
                sum += us;
            }
            if (p >= PIECES)
                continue;
            device_move_begin(gpu, (enum device_way)way, p % DEVICE_MOVES);
            for (uint32_t i = 0; i < PAGES; i++) {
                uint64_t at = (uint64_t)(p * PAGES + i) * page;
                if (way == DEVICE_OUT)
                    device_move_copy(gpu, DEVICE_OUT, (char *)host + at, from + at, page);
                else
                    device_move_copy(gpu, DEVICE_IN, to + at, (char *)host + at, page);
            }
            device_move_end(gpu, (enum device_way)way, p % DEVICE_MOVES);
        }
        if (way == DEVICE_OUT)
            assert_memory_equal(host, first, bytes);
    }
    device_move_join(gpu);
    uint32_t *got = fetched(to, bytes);
    assert_memory_equal(got, first, bytes);
    assert_true(sum > 0 && sum < 60000000);
    free(got);
    free(first);
    device_host_free(gpu, host);
    device_free(gpu, from);
    device_free(gpu, to);
}

/* An operation that is asked for behind a join reads what was moved in, however long that takes. */
static void test_join(void **state)
{
    const uint64_t bytes = (uint64_t)256 << 20;
    struct error err;
    uint64_t us;

    NEED_GPU(state);
    uint8_t *host = device_host_alloc(gpu, bytes, &err), *at = there(NULL, 64), seen[64];
    char *to = device_alloc(gpu, bytes, &err);
    assert_non_null(host);
    assert_non_null(to);
    for (uint8_t turn = 1; turn < 6; turn++) {
        memset(host, turn, bytes);
        device_move_after(gpu, DEVICE_IN);
        device_move_begin(gpu, DEVICE_IN, 0);
        device_move_copy(gpu, DEVICE_IN, to, host, bytes);
        device_move_end(gpu, DEVICE_IN, 0);
        if (!small())
            assert_int_equal(device_move_done(gpu, DEVICE_IN, 0, 0, &us), 0); /* some 5 ms */
        device_move_join(gpu);
        device_copy(gpu, at, to + bytes - 64, 64);
        fetch(seen, at, 64);
        assert_int_equal(seen[0], turn);
        assert_int_equal(seen[63], turn);
        assert_int_equal(device_move_done(gpu, DEVICE_IN, 0, 0, &us), 1);
    }
    device_host_free(gpu, host);
    device_free(gpu, at);
    device_free(gpu, to);
}

/* Small copies, whatever their alignment, do not wait for moves. */
static void test_copy_now(void **state)
{
    static const uint32_t counts[] = {1, 3, 4, 1000, 12345, 131072, 400000};
    const uint64_t moved = (uint64_t)512 << 20;
    struct error err;
    uint64_t us;

    NEED_GPU(state);
    uint32_t most = counts[6] + 1;
    uint32_t *host = device_host_alloc(gpu, 2 * most * sizeof(*host), &err), *back = host + most;
    uint32_t *at = there(NULL, most * sizeof(*at));
    char *other = device_host_alloc(gpu, moved, &err), *to = device_alloc(gpu, moved, &err);
    assert_non_null(host);
    assert_non_null(other);
    assert_non_null(to);
    for (int warm = 1; warm >= 0; warm--) {
        device_move_begin(gpu, DEVICE_IN, 0);
        device_move_copy(gpu, DEVICE_IN, to, other, moved);
        device_move_end(gpu, DEVICE_IN, 0);
        device_copy_now(gpu, at, host, 4096);
        device_copy_now(gpu, back, at, 4096);
        device_sync(gpu);
        if (!warm && !small()) /* some 10 ms */
            assert_int_equal(device_move_done(gpu, DEVICE_IN, 0, 0, &us), 0);
        assert_int_equal(device_move_done(gpu, DEVICE_IN, 0, 1, &us), 1);
    }
    for (uint32_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        for (uint32_t j = 0; j < most; j++)
            host[j] = j * (i + 3);
        memset(back, 0, most * sizeof(*back));
        device_copy_now(gpu, at + i % 2, host + i % 2, counts[i] * sizeof(*host));
        device_copy_now(gpu, back, at + i % 2, counts[i] * sizeof(*host));
        device_sync(gpu);
        assert_memory_equal(back, host + i % 2, counts[i] * sizeof(*host));
        assert_int_equal(back[counts[i]], 0);
    }
    assert_int_equal(device_check(gpu, &err), 0);
    device_host_free(gpu, host);
    device_host_free(gpu, other);
    device_free(gpu, at);
    device_free(gpu, to);
}

/* Copies of a lane, from a mapped file that is pinned, are met by what waits for them; a place is
 * mapped anew while another one is copied to. */
static void test_lane(void **state)
{
    static const uint32_t handles[] = {0, 1};
    enum { WORDS = 1 << 20, PARTS = 4 };
    struct error err;
    float got[8];

    NEED_GPU(state);
    uint64_t bytes = device_handle_bytes(gpu);
    struct device_lane *lane = device_lane_open(gpu, &err);
    assert_non_null(lane);
    int fd = memfd_create("lane", MFD_CLOEXEC);
    uint64_t size = (uint64_t)WORDS * PARTS * sizeof(float);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    float *host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(host != MAP_FAILED);
    for (uint32_t i = 0; i < WORDS * PARTS; i++)
        host[i] = (float)(i / WORDS + 1);
    for (uint32_t i = 0; i < PARTS; i++)
        if (device_host_pin(gpu, host + i * WORDS, WORDS * sizeof(float), &err) != 0)
            fail_msg("%s", err.text);
    assert_int_equal(mprotect(host, size, PROT_READ), 0);
    assert_int_equal(device_host_pin(gpu, NULL, 4096, &err), -1);
    float *at = device_reserve(gpu, 2 * bytes, &err), *out = there(NULL, sizeof(got));
    assert_non_null(at);
    for (uint32_t turn = 0; turn < 6; turn++) {
        assert_int_equal(device_remap(gpu, at, turn > 0, handles[turn % 2], &err), 0);
        assert_int_equal(
            device_remap(gpu, (char *)at + bytes, turn > 0, handles[(turn + 1) % 2], &err), 0);
        device_lane_follow(lane);
        for (uint32_t i = 0; i < PARTS; i++) {
            device_lane_copy(lane, at + i * WORDS, host + i * WORDS, WORDS * sizeof(float));
            device_lane_mark(lane, i);
        }
        for (uint32_t i = 0; i < PARTS; i++) {
            device_await(lane, i);
            k_scale(gpu, at + (i + 1) * WORDS - 1, 1, 1, (float)(turn + 2), 0);
            device_copy(gpu, out + i, at + (i + 1) * WORDS - 1, sizeof(float));
        }
        fetch(got, out, PARTS * sizeof(float));
        for (uint32_t i = 0; i < PARTS; i++)
            assert_true(got[i] == (float)((i + 1) * (turn + 2)));
        assert_int_equal(device_lane_wait(lane, PARTS - 1, &err), 0);
    }
    device_unmap(gpu, at, 2);
    device_release(gpu, at, 2 * bytes);
    device_free(gpu, out);
    for (uint32_t i = 0; i < PARTS; i++)
        device_host_unpin(gpu, host + i * WORDS);
    munmap(host, size);
    close(fd);
    device_lane_close(lane);
    assert_int_equal(device_check(gpu, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool),  cmocka_unit_test(test_pool_too_large),
        cmocka_unit_test(test_graph), cmocka_unit_test(test_moves),
        cmocka_unit_test(test_join),  cmocka_unit_test(test_copy_now),
        cmocka_unit_test(test_lane),
    };
    gpu = device_create_cuda(0, PRECISION_EXACT, ROWS_MAX, COLS_MAX, &why);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (gpu)
        device_destroy(gpu);
    return failed;
}
