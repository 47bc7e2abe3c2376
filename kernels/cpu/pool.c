/*
 * pool.c - threads for loops
 *
 * `state` carries a loop's whole life: generation, an open bit, and how many threads are inside. A
 * thread enters an open generation by compare-and-swap, so none can enter after the caller has
 * closed it, and the loop's fields are only written while it is closed and empty.
 */
#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#ifdef HAVE_HWLOC
#include <hwloc.h>
#endif

#define STATE_INSIDE     0xffffull /* mask: threads inside */
#define STATE_OPEN       0x10000ull
#define STATE_GENERATION 0x20000ull /* one more generation */
#define THREADS_MAX      1024u      /* below STATE_INSIDE */

/* About 50 us of pauses on current x86: longer than the gaps between the kernels of a step, shorter
 * than anybody would notice on an idle machine. */
#define SPINS 1000

struct worker {
    struct pool *pool;
    uint32_t index;
    pthread_t thread;
};

struct pool {
    _Atomic uint64_t state;
    _Atomic uint64_t next; /* first item that nobody has claimed */
    pool_fn *fn;           /* this and the next three: the open loop */
    const void *job;
    uint32_t items, grain;

    pthread_mutex_t lock; /* guards sleeping: a sleeper checks `state` under it */
    pthread_cond_t wake;
    atomic_uint sleepers;
    atomic_bool stop;

    uint32_t threads; /* the caller included */
    uint32_t started; /* workers[0..started) run */
    struct worker *workers;
};

/* ---- cores --------------------------------------------------------------------------------- */

#ifdef HAVE_HWLOC
/* Load the machine as our affinity mask lets us see it; NULL if hwloc cannot. */
static hwloc_topology_t topology_allowed(void)
{
    hwloc_topology_t topology = NULL;
    hwloc_bitmap_t mask = hwloc_bitmap_alloc();

    if (!mask || hwloc_topology_init(&topology) != 0) {
        hwloc_bitmap_free(mask);
        return NULL;
    }
    if (hwloc_topology_load(topology) != 0 ||
        hwloc_get_cpubind(topology, mask, HWLOC_CPUBIND_THREAD) != 0 ||
        hwloc_topology_restrict(topology, mask, 0) != 0) {
        hwloc_topology_destroy(topology);
        topology = NULL;
    }
    hwloc_bitmap_free(mask);
    return topology;
}

static uint32_t cores_allowed(void)
{
    hwloc_topology_t topology = topology_allowed();
    int cores = 0;

    if (topology) {
        cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
        if (cores <= 0)
            cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU);
        hwloc_topology_destroy(topology);
    }
    return cores > 0 ? (uint32_t)cores : 0;
}

/* Best effort: an unbound thread computes the same. */
static void bind_workers(struct pool *p)
{
    hwloc_topology_t topology = topology_allowed();

    for (uint32_t i = 0; topology && i < p->started; i++) {
        hwloc_obj_t core =
            hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, (unsigned)p->workers[i].index);
        if (core)
            hwloc_set_thread_cpubind(topology, p->workers[i].thread, core->cpuset, 0);
    }
    if (topology)
        hwloc_topology_destroy(topology);
}
#else
static uint32_t cores_allowed(void)
{
    return 0;
}

static void bind_workers(struct pool *p)
{
    (void)p;
}
#endif

static uint32_t cores_or_cpus(void)
{
    uint32_t cores = cores_allowed();
    cpu_set_t set;

    if (cores == 0 && sched_getaffinity(0, sizeof(set), &set) == 0)
        cores = (uint32_t)CPU_COUNT(&set);
    return cores > 0 ? cores : 1;
}

/* ---- workers ------------------------------------------------------------------------------- */

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(struct pool *p, uint32_t worker)
{
    for (;;) {
        uint64_t begin = atomic_fetch_add_explicit(&p->next, p->grain, memory_order_relaxed);
        if (begin >= p->items)
            return;
        uint64_t end = begin + p->grain;
        p->fn(p->job, worker, (uint32_t)begin, end < p->items ? (uint32_t)end : p->items);
    }
}

/* The state if it is an open generation other than `seen`, else 0. */
static uint64_t fresh(struct pool *p, uint64_t seen)
{
    uint64_t s = atomic_load(&p->state);
    return (s & STATE_OPEN) && s / STATE_GENERATION != seen ? s : 0;
}

/* Wait for a generation other than `seen`; 0 when the pool stops. */
static uint64_t await(struct pool *p, uint64_t seen)
{
    uint64_t s;

    for (int i = 0; i < SPINS; i++) {
        if ((s = fresh(p, seen)))
            return s;
        pause_cpu();
    }
    pthread_mutex_lock(&p->lock);
    /* Announced before the last look at `state`; pool_run looks the other way round. */
    atomic_fetch_add(&p->sleepers, 1);
    while (!(s = fresh(p, seen)) && !atomic_load(&p->stop))
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
    return s;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    uint64_t seen = 0, s;

    while ((s = await(p, seen))) {
        if (!atomic_compare_exchange_strong(&p->state, &s, s + 1))
            continue;
        seen = s / STATE_GENERATION;
        work(p, w->index);
        atomic_fetch_sub(&p->state, 1);
    }
    return NULL;
}

static int start(struct pool *p, struct error *err)
{
    sigset_t all, before;
    int rv = 0;

    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (rv == 0 && p->started + 1 < p->threads) {
        struct worker *w = &p->workers[p->started];
        w->pool = p;
        w->index = p->started + 1;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
            rv =
                error_set(err, STATUS_EXHAUSTED,
                          "cannot start thread %u of %u; lower Threads=", w->index + 1, p->threads);
        else
            p->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rv;
}

/* ---- public -------------------------------------------------------------------------------- */

uint32_t pool_default_threads(void)
{
    return cores_or_cpus();
}

struct pool *pool_create(uint32_t threads, struct error *err)
{
    uint32_t cores = cores_or_cpus();
    struct pool *p;

    if (threads == 0)
        threads = cores;
    if (threads > THREADS_MAX) {
        error_set(err, STATUS_INVALID, "%u threads: at most %u", threads, THREADS_MAX);
        return NULL;
    }
    p = calloc(1, sizeof(*p));
    if (!p || !(p->workers = calloc(threads, sizeof(*p->workers)))) {
        free(p);
        error_set(err, STATUS_NOMEM, "no memory for %u threads", threads);
        return NULL;
    }
    p->threads = threads;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    if (start(p, err) != 0) {
        pool_destroy(p);
        return NULL;
    }
    if (threads == cores)
        bind_workers(p);
    return p;
}

void pool_destroy(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->started; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

uint32_t pool_threads(const struct pool *p)
{
    return p->threads;
}

void pool_run(struct pool *p, pool_fn *fn, const void *job, uint32_t items, uint32_t grain)
{
    if (items == 0)
        return;
    if (grain == 0)
        grain = 1;
    if (items <= grain || p->started == 0) {
        fn(job, 0, 0, items);
        return;
    }
    p->fn = fn;
    p->job = job;
    p->items = items;
    p->grain = grain;
    atomic_store(&p->next, 0);
    atomic_fetch_add(&p->state, STATE_GENERATION + STATE_OPEN);
    if (atomic_load(&p->sleepers) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    work(p, 0);
    atomic_fetch_and(&p->state, ~STATE_OPEN);
    /* On a busy machine a thread inside may have lost its core: give it ours. */
    for (int i = 0; atomic_load(&p->state) & STATE_INSIDE; i++) {
        if (i < SPINS)
            pause_cpu();
        else
            sched_yield();
    }
}
