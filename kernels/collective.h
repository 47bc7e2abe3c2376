/*
 * collective.h - what the devices of a tensor-parallel group compute together
 *
 * A group has `ranks` devices, each driven by a thread of its own.  Every rank makes the same calls
 * in the same order, with the same sizes; a call returns when the rank's buffer holds the result
 * (of a device that works behind its caller: when it will, in order with what is asked of it
 * next).  Sums depend on no timing, and all ranks hold the same bits: threads sum in the order of
 * the ranks, NCCL in one that follows from their number, the size and the links.  Of two ranks
 * there is only one.
 *
 * A rank that does not come in time, or says that it cannot go on, fails the group: from then on
 * every call returns at once, and what the buffers hold is void.
 */
#ifndef MP_KERNELS_COLLECTIVE_H
#define MP_KERNELS_COLLECTIVE_H

#include <stdint.h>

#include "kernels/kernels.h"

#define COLLECTIVE_RANKS_MAX 8u

struct collective;

/* Of CPUs, which outlive it; ranks 2..COLLECTIVE_RANKS_MAX.  A rank that waits longer than
 * timeout_us for the others fails the group. */
struct collective *collective_create(uint32_t ranks, int64_t timeout_us, struct error *err);
/* Of GPUs of one host, by NCCL, whose library is opened here.  UNSUPPORTED: built without it, or it
 * is not there.  Nobody is timed: a rank that does not come holds the others' streams up. */
struct collective *collective_create_cuda(struct device *const *devices, uint32_t ranks,
                                          struct error *err);
void collective_destroy(struct collective *c);
uint32_t collective_ranks(const struct collective *c);

/* x [count] = the sum of all ranks' x, float32 or operands as `dtype` says. */
void collective_sum(struct collective *c, uint32_t rank, void *x, uint64_t count, enum dtype dtype);
/*
 * Columns of all ranks, side by side, at rank 0: row r of its `to` [rows][firsts[ranks]] has in
 * columns firsts[i]..firsts[i + 1] the row r of rank i's `part` [rows][firsts[i + 1] - firsts[i]].
 * Rank 0's `part` has room for rows * firsts[ranks]; `to` of other ranks is not looked at.
 */
void collective_gather(struct collective *c, uint32_t rank, float *to, float *part, uint32_t rows,
                       const uint32_t *firsts);
/* x of all ranks = rank 0's. */
void collective_broadcast(struct collective *c, uint32_t rank, void *x, uint64_t bytes);

/* The rank cannot go on; the first reason stays. */
void collective_fail(struct collective *c, uint32_t rank, const struct error *why);
/* -1, and why, if the group has failed. */
int collective_failed(struct collective *c, struct error *err);

#endif
