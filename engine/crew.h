/*
 * crew.h - numbered pieces of work, done by several threads
 *
 * For what is bound by memory or a disk rather than by arithmetic: reading files, copying and
 * checking master copies.  The device's own threads stay with the steps.
 */
#ifndef MP_ENGINE_CREW_H
#define MP_ENGINE_CREW_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define CREW_THREADS_MAX 16u

struct crew {
    uint32_t threads;     /* that work, the caller's included; at least 1 */
    uint64_t items;       /* numbered from 0 */
    size_t scratch_bytes; /* of each thread, at a multiple of 4096; 0: none */
    /* One item; -1 ends all of them. */
    int (*work)(void *context, uint64_t item, void *scratch, struct error *err);
    void *context;
    atomic_int *cancel; /* becomes 1: no further item begins.  NULL: never */
};

/* All items, or -1 with the first error.  Called off: UNAVAILABLE.  A thread that cannot be had is
 * done without. */
int crew_run(const struct crew *c, struct error *err);
/* Threads for copies: as many as there are cores, at most four, which a memory seldom outruns. */
uint32_t crew_copy_threads(void);
/* For work that a load waits for and that takes a processor, too: at most twelve. */
uint32_t crew_urgent_threads(void);

#endif
