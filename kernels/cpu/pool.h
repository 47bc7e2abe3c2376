/*
 * pool.h - a fixed set of threads that share out the items of one loop at a time
 *
 * The caller of pool_run() is worker 0 and works too.  A thread that is not scheduled in time
 * simply takes no part: the caller waits only for threads that have claimed items, so a busy
 * machine slows a loop down but never stalls it.  Threads spin briefly between loops and then
 * sleep, so that an idle pool uses no CPU.
 */
#ifndef MP_KERNELS_CPU_POOL_H
#define MP_KERNELS_CPU_POOL_H

#include <stdint.h>

#include "common/error.h"

struct pool;

/* Work on items [begin, end) as worker `worker` (below the pool's threads). */
typedef void pool_fn(const void *job, uint32_t worker, uint32_t begin, uint32_t end);

/* threads 0: one per core in the caller's affinity mask.  Threads are bound to one core each if
 * there are exactly as many as cores and hwloc is built in; the caller's own binding is left alone.
 */
struct pool *pool_create(uint32_t threads, struct error *err);
void pool_destroy(struct pool *p);
/* Those of pool_create(0). */
uint32_t pool_default_threads(void);
uint32_t pool_threads(const struct pool *p);

/* Call fn over [0, items) in pieces of `grain` items and return when all are done; a loop that one
 * thread does alone is one piece.  One caller at a time. */
void pool_run(struct pool *p, pool_fn *fn, const void *job, uint32_t items, uint32_t grain);

#endif
