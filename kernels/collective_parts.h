/*
 * collective_parts.h - what every implementation of collective.h has
 *
 * Inside kernels/ alone.  An implementation's own structure begins with struct collective.
 */
#ifndef MP_KERNELS_COLLECTIVE_PARTS_H
#define MP_KERNELS_COLLECTIVE_PARTS_H

#include <pthread.h>

#include "kernels/collective.h"

/* Each as collective.h describes the call of its name; called while the group has not failed. */
struct collective_ops {
    void (*destroy)(struct collective *c);
    void (*sum)(struct collective *c, uint32_t rank, void *x, uint64_t count, enum dtype dtype);
    void (*gather)(struct collective *c, uint32_t rank, float *to, float *part, uint32_t rows,
                   const uint32_t *firsts);
    void (*broadcast)(struct collective *c, uint32_t rank, void *x, uint64_t bytes);
    void (*failing)(struct collective *c); /* let those go who wait */
};

struct collective {
    const struct collective_ops *ops;
    uint32_t ranks;
    int failed;           /* atomic */
    pthread_mutex_t lock; /* guards why */
    struct error why;
};

/* -1: INVALID, and nothing was initialised. */
int collective_init(struct collective *c, const struct collective_ops *ops, uint32_t ranks,
                    struct error *err);
void collective_clear(struct collective *c);
int collective_has_failed(const struct collective *c);

#endif
