/*
 * cuda_compare.h - the GPU of the tests of kernels/cuda, and its memory
 *
 * Those tests skip, and say so, where there is no GPU; bench/results/ holds the output of a machine
 * with one.  With CUDA_TEST_SMALL=1 in the environment (compute-sanitizer is slow) the largest
 * shapes are left out, and what only repeats a branch.
 */
#ifndef MP_TESTS_UNIT_CUDA_COMPARE_H
#define MP_TESTS_UNIT_CUDA_COMPARE_H

#include "tests/unit/kernels_compare.h"

#define ROWS_MAX 256u
#define COLS_MAX 14336u

static struct device *gpu; /* of all tests; NULL: there is none */
static struct error why;

#define NEED_GPU(state)                                                                            \
    do {                                                                                           \
        (void)(state);                                                                             \
        if (!gpu) {                                                                                \
            print_message("%s: see the recorded run, bench/results/h200-*/"                        \
                          "cuda_*_test.txt\n",                                                     \
                          why.text);                                                               \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

static inline int small(void)
{
    return getenv("CUDA_TEST_SMALL") != NULL;
}

/* A type that is small()'s to leave out: what its kernels do others do between them. */
static inline int repeated(enum dtype dtype)
{
    return small() && (dtype == DTYPE_Q4_0 || dtype == DTYPE_Q5_1 || dtype == DTYPE_Q4_K);
}

/* ---- memory of the GPU -------------------------------------------------------------------------
 */

/* A copy of n bytes there; of NULL: bytes 0xff, which are NaN. */
static inline void *there(const void *from, size_t bytes)
{
    struct error err;
    void *p = device_alloc(gpu, bytes, &err);
    void *poison = NULL;

    if (!p)
        fail_msg("%s", err.text);
    if (!from) {
        poison = allocate(bytes);
        memset(poison, 0xff, bytes);
    }
    device_copy(gpu, p, from ? from : poison, bytes);
    device_sync(gpu);
    free(poison);
    return p;
}

static inline void fetch(void *to, const void *from, size_t bytes)
{
    struct error err;

    device_copy(gpu, to, from, bytes);
    if (device_check(gpu, &err) != 0)
        fail_msg("%s", err.text);
}

static inline void *fetched(const void *from, size_t bytes)
{
    void *p = allocate(bytes);

    fetch(p, from, bytes);
    return p;
}

#endif
