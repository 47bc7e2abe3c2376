/*
 * prepare.h - a model's files into its layout, as fast as they can be read
 *
 * The files are read in blocks from their beginnings to their ends, by several threads, each block
 * once: it is hashed, and the parts of tensors in it are copied to their places.  Reads are direct
 * (past the page cache, which would hold a third copy) where the file system lets them, unless most
 * of the file is in the cache already.
 */
#ifndef MP_ENGINE_PREPARE_H
#define MP_ENGINE_PREPARE_H

#include <stdatomic.h>
#include <stdint.h>

#include "engine/weights.h"

#define PREPARE_BLOCK   ((uint64_t)4 << 20)
#define PREPARE_THREADS 8u

struct prepare {
    /* In: */
    const struct model *m;
    uint8_t *to; /* room for m->range_bytes */
    /* -1: it is memory.  Else a file that is mapped there, from this offset on, and still empty:
     * what is stored as it lies in memory is written to it, which zeroes no page before. */
    int to_fd;
    uint64_t to_offset;
    uint64_t *sums; /* checksums of the pieces there (segment.h), made as they are full; or NULL */
    int hash;       /* all of each file, else what holds tensors alone */
    int never_direct;
    atomic_int *cancel;
    atomic_uint_fast64_t *done; /* counts bytes read while it goes on */
    /* Out: */
    int direct; /* it read past the page cache */
    uint64_t file_bytes;
    uint32_t files; /* with weights: those of m->fds that are not -1, in order */
    uint8_t hashes[ORDER_FILES_MAX][ORDER_KEY];
};

/* Bytes that it will read at most, for progress. */
uint64_t prepare_total(const struct model *m);
/* CORRUPT or IO names the tensor; UNAVAILABLE: called off; EXHAUSTED: to_fd has no room. */
int prepare_run(struct prepare *p, struct error *err);

#endif
