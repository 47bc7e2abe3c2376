/*
 * collective.c - ranks that are threads of one process and share its memory
 *
 * Two barriers a call: behind the first one everybody's buffer is known and complete, behind the
 * second one everybody is done with it.  Of a sum each rank makes a part, and writes it to all.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/futex.h"
#include "kernels/collective_parts.h"

#define LINE  16u  /* floats of a cache line: a rank's part of a sum is whole ones */
#define CHUNK 256u /* floats that are summed at once */

struct threads {
    struct collective collective; /* first: the pointers are the same */
    int64_t timeout_us;
    struct futex generation;  /* of barriers */
    _Atomic uint32_t arrived; /* at the barrier of this generation */
    /* Each rank's, written before the first barrier of a call and read before its second one. */
    float *buffers[COLLECTIVE_RANKS_MAX];
};

/* --- the barrier ------------------------------------------------------------------------------ */

/* All ranks have come here: 0.  -1: the group has failed. */
static int barrier(struct threads *c, uint32_t rank)
{
    uint32_t generation = atomic_load(&c->generation.word), ranks = c->collective.ranks;
    struct error why = {0};

    if (collective_has_failed(&c->collective))
        return -1;
    if (atomic_fetch_add(&c->arrived, 1) + 1 == ranks) {
        /* Nobody else looks at it before the generation is another. */
        atomic_store(&c->arrived, 0);
        atomic_fetch_add(&c->generation.word, 1);
        futex_wake(&c->generation);
    } else if (futex_await(&c->generation, generation, c->timeout_us) != 0) {
        error_set(&why, STATUS_TIMEOUT,
                  "the others did not come within %" PRId64 " ms (%" PRIu32 " of %" PRIu32
                  " ranks did)",
                  c->timeout_us / 1000, atomic_load(&c->arrived), ranks);
        collective_fail(&c->collective, rank, &why);
    }
    return collective_has_failed(&c->collective) ? -1 : 0;
}

/* Who waits at a barrier goes on, and sees it. */
static void failing(struct collective *collective)
{
    struct threads *c = (struct threads *)collective;

    atomic_fetch_add(&c->generation.word, 1);
    futex_wake(&c->generation);
}

/* --- operations ------------------------------------------------------------------------------- */

/* Elements [begin, end) of everybody's buffer become their sum. */
static void sum_part(const struct threads *c, uint64_t begin, uint64_t end)
{
    uint32_t ranks = c->collective.ranks;
    float sums[CHUNK];

    for (uint64_t at = begin, n; at < end; at += n) {
        n = end - at < CHUNK ? end - at : CHUNK;
        memcpy(sums, c->buffers[0] + at, n * sizeof(*sums));
        for (uint32_t r = 1; r < ranks; r++)
            for (uint64_t i = 0; i < n; i++)
                sums[i] += c->buffers[r][at + i];
        for (uint32_t r = 0; r < ranks; r++)
            memcpy(c->buffers[r] + at, sums, n * sizeof(*sums));
    }
}

static void sum(struct collective *collective, uint32_t rank, void *x, uint64_t count,
                enum dtype dtype)
{
    struct threads *c = (struct threads *)collective;
    uint64_t lines = (count + LINE - 1) / LINE, begin, end;

    (void)dtype; /* of a CPU's operands, too: float32 */
    c->buffers[rank] = x;
    if (barrier(c, rank) != 0)
        return;
    begin = lines * rank / collective->ranks * LINE;
    end = lines * (rank + 1) / collective->ranks * LINE;
    if (begin < count)
        sum_part(c, begin, end < count ? end : count);
    (void)barrier(c, rank);
}

static void gather(struct collective *collective, uint32_t rank, float *to, float *part,
                   uint32_t rows, const uint32_t *firsts)
{
    struct threads *c = (struct threads *)collective;
    uint64_t stride = firsts[collective->ranks], cols = firsts[rank + 1] - firsts[rank];

    if (rank == 0)
        c->buffers[0] = to;
    if (barrier(c, rank) != 0)
        return;
    for (uint64_t r = 0; r < rows; r++)
        memcpy(c->buffers[0] + r * stride + firsts[rank], part + r * cols, cols * sizeof(*part));
    (void)barrier(c, rank);
}

static void broadcast(struct collective *collective, uint32_t rank, void *x, uint64_t bytes)
{
    struct threads *c = (struct threads *)collective;

    if (rank == 0)
        c->buffers[0] = x;
    if (barrier(c, rank) != 0)
        return;
    if (rank != 0)
        memcpy(x, c->buffers[0], bytes);
    (void)barrier(c, rank);
}

static void destroy(struct collective *collective)
{
    collective_clear(collective);
    free(collective);
}

struct collective *collective_create(uint32_t ranks, int64_t timeout_us, struct error *err)
{
    static const struct collective_ops ops = {.destroy = destroy,
                                              .sum = sum,
                                              .gather = gather,
                                              .broadcast = broadcast,
                                              .failing = failing};
    struct threads *c = calloc(1, sizeof(*c));

    if (c == NULL) {
        error_set(err, STATUS_NOMEM, "no memory for a group of ranks");
        return NULL;
    }
    if (collective_init(&c->collective, &ops, ranks, err) != 0) {
        free(c);
        return NULL;
    }
    c->timeout_us = timeout_us;
    return &c->collective;
}
