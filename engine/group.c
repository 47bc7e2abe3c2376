/* group.c - ranks and their threads; see group.h */
#include "engine/group.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/futex.h"
#include "engine/step.h"

/* What a rank that did not keep up gets to come back when the group has failed. */
#define GRACE_US ((int64_t)5 * 1000000)

struct rank {
    struct group *group;
    uint32_t number;
    struct device *device;
    pthread_t thread;
    int has_thread;
    struct workspace workspace; /* of others than rank 0, whose is the engine's */
    /* A step's plan with this rank's addresses: as written, one for each step in flight, and where
     * the device reads it (on a CPU the first of those); and the picks of the step before. */
    uint8_t *host[STEP_FLIGHT_MAX], *there;
    uint32_t *picked;
};

struct group {
    uint32_t ranks;
    int64_t timeout_us;
    struct collective *collective;
    struct rank rank[COLLECTIVE_RANKS_MAX];
    uint64_t plan_bytes; /* that each plan has room for */
    /* Written by rank 0 before it posts, while nobody else is at work. */
    group_fn *fn;
    void *context;
    int stop;
    struct futex posted, done; /* counts of calls, of ranks that are back from them */
};

static void *rank_main(void *arg)
{
    struct rank *r = arg;
    struct group *g = r->group;
    uint32_t seen = 0;

    for (;;) {
        (void)futex_await(&g->posted, seen, -1);
        seen++; /* each call is waited for before the next one */
        if (g->stop)
            return NULL;
        g->fn(g->context, r->number);
        atomic_fetch_add(&g->done.word, 1);
        futex_wake(&g->done);
    }
}

/* A rank's thread; signals are for the program's own threads. */
static int start(struct rank *r, struct error *err)
{
    sigset_t all, before;
    int failed;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&r->thread, NULL, rank_main, r);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    r->has_thread = failed == 0;
    return failed == 0
               ? 0
               : error_set(err, STATUS_EXHAUSTED,
                           "cannot start the thread of rank %" PRIu32 "; lower TensorParallel=",
                           r->number);
}

struct group *group_create(struct device *const *devices, uint32_t ranks, uint32_t rows_max,
                           uint32_t heads_max, int64_t timeout_us, struct error *err)
{
    struct group *g = NULL;
    struct collective *c = device_kind(devices[0]) == DEVICE_CPU
                               ? collective_create(ranks, timeout_us, err)
                               : collective_create_cuda(devices, ranks, err);

    if (c == NULL)
        goto fail;
    g = calloc(1, sizeof(*g));
    if (g == NULL) {
        error_set(err, STATUS_NOMEM, "no memory for a group of ranks");
        collective_destroy(c);
        goto fail;
    }
    g->ranks = ranks;
    g->timeout_us = timeout_us;
    g->collective = c;
    for (uint32_t i = 0; i < ranks; i++) {
        struct rank *r = &g->rank[i];
        *r = (struct rank){.group = g, .number = i, .device = devices[i]};
        workspace_init(&r->workspace, devices[i], rows_max, heads_max);
        r->workspace.collective = c;
        r->workspace.rank = i;
    }
    for (uint32_t i = 1; i < ranks; i++) {
        if (start(&g->rank[i], err) == 0)
            continue;
        (void)group_stop(g);
        group_destroy(g);
        return NULL;
    }
    return g;
fail:
    for (uint32_t i = 1; i < ranks; i++)
        device_destroy(devices[i]);
    return NULL;
}

/* Until so many returns from calls have been counted. */
static int await_done(struct group *g, uint32_t count, int64_t timeout_us)
{
    uint32_t seen;

    while ((seen = atomic_load(&g->done.word)) != count)
        if (futex_await(&g->done, seen, timeout_us) != 0)
            return -1;
    return 0;
}

int group_stop(struct group *g)
{
    struct error ignored = {0};

    if (await_done(g, atomic_load(&g->posted.word) * (g->ranks - 1), GRACE_US) != 0)
        return -1;
    g->stop = 1;
    atomic_fetch_add(&g->posted.word, 1);
    futex_wake(&g->posted);
    for (uint32_t i = 1; i < g->ranks; i++) {
        if (g->rank[i].has_thread)
            pthread_join(g->rank[i].thread, NULL);
        g->rank[i].has_thread = 0;
    }
    if (device_kind(g->rank[0].device) != DEVICE_CPU &&
        collective_failed(g->collective, &ignored) != 0)
        return -1;
    return 0;
}

static void close_plans(struct rank *r)
{
    if (r->there != r->host[0])
        device_free(r->device, r->there);
    for (uint32_t i = 0; i < STEP_FLIGHT_MAX; i++) {
        device_host_free(r->device, r->host[i]);
        r->host[i] = NULL;
    }
    r->there = NULL;
}

void group_destroy(struct group *g)
{
    if (g == NULL)
        return;
    collective_destroy(g->collective);
    for (uint32_t i = 1; i < g->ranks; i++) {
        struct rank *r = &g->rank[i];
        close_plans(r);
        device_free(r->device, r->picked);
        workspace_clear(&r->workspace);
        device_destroy(r->device);
    }
    free(g);
}

struct device *group_device(const struct group *g, uint32_t rank)
{
    return g->rank[rank].device;
}

struct collective *group_collective(const struct group *g)
{
    return g->collective;
}

int group_failed(struct group *g, struct error *err)
{
    if (collective_failed(g->collective, err) != 0)
        return -1;
    for (uint32_t i = 1; i < g->ranks; i++)
        if (device_failed(g->rank[i].device, err) != 0)
            return error_wrap(err, "rank %" PRIu32, i);
    return 0;
}

/* --- calls ------------------------------------------------------------------------------------ */

void group_run(struct group *g, group_fn *fn, void *context)
{
    uint32_t count = atomic_load(&g->done.word) + g->ranks - 1;
    struct error why = {0};

    if (collective_failed(g->collective, &why) != 0)
        return;
    g->fn = fn;
    g->context = context;
    atomic_fetch_add(&g->posted.word, 1);
    futex_wake(&g->posted);
    fn(context, 0);
    if (await_done(g, count,
                   collective_failed(g->collective, &why) != 0 ? GRACE_US : g->timeout_us) == 0)
        return;
    error_set(&why, STATUS_TIMEOUT, "the others did not end a step within %" PRId64 " ms",
              g->timeout_us / 1000);
    collective_fail(g->collective, 0, &why);
}

static int fit_plans(struct rank *r, uint64_t bytes, struct error *err)
{
    int cpu = device_kind(r->device) == DEVICE_CPU;

    close_plans(r);
    for (uint32_t i = 0; i < (cpu ? 1 : STEP_FLIGHT_MAX); i++) {
        r->host[i] = device_host_alloc(r->device, bytes, err);
        if (r->host[i] == NULL)
            return -1;
    }
    r->there = cpu ? r->host[0] : device_alloc(r->device, bytes, err);
    if (r->there == NULL)
        return -1;
    if (!cpu && r->picked == NULL)
        r->picked = device_alloc(r->device, STEP_BATCH_MAX * sizeof(*r->picked), err);
    return cpu || r->picked != NULL ? 0 : -1;
}

int group_fit(struct group *g, const struct model *m, uint64_t plan_bytes, struct error *err)
{
    for (uint32_t i = 1; i < g->ranks; i++) {
        struct rank *r = &g->rank[i];
        if (workspace_fit(&r->workspace, m->parts[i], err) != 0)
            return error_wrap(err, "rank %" PRIu32, i);
        /* One that has failed to grow has none. */
        if ((plan_bytes > g->plan_bytes || r->there == NULL) && fit_plans(r, plan_bytes, err) != 0)
            return error_wrap(err, "rank %" PRIu32, i);
    }
    if (g->plan_bytes < plan_bytes)
        g->plan_bytes = plan_bytes;
    return 0;
}

struct group_step {
    struct group *group;
    const struct model *m;
    struct workspace *w;
    const struct forward_input *in;
};

/* The step's plan with this rank's addresses, sent to its device. */
static void take_plan(struct rank *r, const struct arena *a, struct forward_input *in)
{
    uint8_t *host = r->host[in->slot];
    const uint8_t *before = (const uint8_t *)in->tokens; /* where rank 0's device has it */
    void **table = (void **)(void *)(host + in->table_at);

    device_wait(r->device, in->slot); /* what was copied from there before has been */
    memcpy(host, in->plan, in->plan_bytes);
    for (uint64_t i = 0; i < (in->plan_bytes - in->table_at) / sizeof(*table); i++)
        table[i] = arena_rank_page(a, r->number, table[i]);
    if (r->there != host)
        device_copy(r->device, r->there, host, in->plan_bytes);
#define MOVED(p) ((const void *)(r->there + ((const uint8_t *)(p)-before)))
    in->all.seqs = MOVED(in->all.seqs);
    in->local.seqs = MOVED(in->local.seqs);
    in->all.pages = in->local.pages = MOVED(in->all.pages);
    in->tokens = MOVED(in->tokens);
#undef MOVED
}

/* Rank 0's part of a step: also what is picked. */
static void step_first(const struct group_step *s, struct rank *r)
{
    const struct forward_input *in = s->in;

    forward_rank(s->m, s->w, in);
    if (in->picked == NULL || in->head_count == 0)
        return;
    k_sample(r->device, in->picked, s->w->logits, in->samples, in->head_count,
             s->m->arch.vocabulary);
    collective_broadcast(s->group->collective, 0, in->picked, in->head_count * sizeof(*in->picked));
}

static void step_rank(void *context, uint32_t rank)
{
    const struct group_step *s = context;
    struct rank *r = &s->group->rank[rank];
    struct forward_input in = *s->in;

    if (rank == 0) {
        step_first(s, r);
        return;
    }
    take_plan(r, s->m->arena, &in);
    if (in.fed)
        k_feed(r->device, (uint32_t *)(void *)r->there, r->picked, in.rows);
    forward_rank(s->m->parts[rank], &r->workspace, &in);
    if (in.picked != NULL && in.head_count > 0)
        collective_broadcast(s->group->collective, rank, r->picked,
                             in.head_count * sizeof(*r->picked));
    device_mark(r->device, in.slot);
}

void group_forward(struct group *g, const struct model *m, struct workspace *w,
                   const struct forward_input *in)
{
    struct group_step s = {.group = g, .m = m, .w = w, .in = in};

    group_run(g, step_rank, &s);
}
