/*
 * cuda_memory_test.c - handles, ranges and recorded operations on a GPU
 */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_pool_too_large),
        cmocka_unit_test(test_graph),
    };
    gpu = device_create_cuda(0, PRECISION_EXACT, ROWS_MAX, COLS_MAX, &why);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (gpu)
        device_destroy(gpu);
    return failed;
}
