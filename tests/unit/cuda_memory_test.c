/*
 * cuda_memory_test.c - handles, ranges and recorded operations on a GPU
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
    float x[COLS], want[COLS], got[COLS];

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
            x[i] = (float)(i + turn);
            want[i] = 6 * x[i];
        }
        device_copy(gpu, at, x, sizeof(x));
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
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_pool_too_large),
        cmocka_unit_test(test_graph),
        cmocka_unit_test(test_lane),
    };
    gpu = device_create_cuda(0, PRECISION_EXACT, ROWS_MAX, COLS_MAX, &why);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (gpu)
        device_destroy(gpu);
    return failed;
}
