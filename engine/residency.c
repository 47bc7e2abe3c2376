/* residency.c - which models' weights are in the arena */
#include "engine/residency.h"

#include <inttypes.h>
#include <poll.h>

#include "common/clock.h"
#include "common/log.h"

#define TOLD_EVERY_US 200000 /* progress */
#define TOLD_EVERY_MS (TOLD_EVERY_US / 1000)

struct model *residency_find(const struct residency *r, uint32_t id)
{
    for (uint32_t i = 0; i < r->count; i++)
        if (r->models[i]->id == id)
            return r->models[i];
    return NULL;
}

static void tell(struct residency *r, const struct event_residency *ev)
{
    if (r->notify != NULL)
        r->notify(r->context, ev);
}

static void tell_gone(struct residency *r, const struct model *m, uint64_t bytes)
{
    const struct event_residency ev = {.kind = EVENT_RESIDENCY, .model = m->id, .bytes = bytes};

    tell(r, &ev);
}

static void tell_master(struct residency *r, const struct event_master *ev)
{
    if (r->master != NULL)
        r->master(r->context, ev);
}

/* --- loaders ---------------------------------------------------------------------------------- */

static void tell_progress(struct residency *r, struct loader *l)
{
    const struct event_master ev = {.kind = EVENT_MASTER,
                                    .model = l->m->id,
                                    .state = MASTER_PROGRESS,
                                    .done = atomic_load(&l->read),
                                    .total = l->total};

    tell_master(r, &ev);
}

/* The loader is done: into the books. */
static int book(struct residency *r, struct loader *l, struct error *err)
{
    struct model *m = l->m;

    loader_join(l);
    l->m = NULL;
    m->in_loader = 0;
    m->arriving = NULL;
    r->copied += l->copied;
    if (l->has_event)
        tell_master(r, &l->event);
    if (l->unpinned.status != STATUS_OK)
        log_warn("model %s: not all of its master copy is pinned, loads are slower: %s", m->name,
                 l->unpinned.text);
    if (!l->to_memory)
        return 0;
    if (l->rv != 0) {
        m->resident = 0;
        model_give(m, l->mapped);
        if (l->behind)
            tell_gone(r, m, 0);
        return error_set(err, l->err.status, "%s", l->err.text);
    }
    m->resident = 1;
    m->used = ++r->stamp;
    m->arrived_us = l->done_us;
    if (r->by_lane && !l->behind)
        m->load_us += l->us;
    const struct event_residency ev = {.kind = EVENT_RESIDENCY,
                                       .model = m->id,
                                       .resident = 1,
                                       .bytes = m->weight_bytes,
                                       .us = l->us,
                                       .file_bytes = l->file_bytes,
                                       .disk_us = l->disk_us};
    tell(r, &ev);
    return 0;
}

static int hung_up(const struct residency *r)
{
    struct pollfd p = {.fd = r->channel};

    return r->channel > 0 && poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

/* Wait to its end, while the daemon hears how far it is. */
static int finish(struct residency *r, struct loader *l, struct error *err)
{
    while (!loader_wait(l, TOLD_EVERY_MS)) {
        if (hung_up(r))
            atomic_store(&l->cancel, 1);
        if (atomic_load(&l->preparing))
            tell_progress(r, l);
    }
    return book(r, l, err);
}

static void call_off(struct residency *r, struct loader *l)
{
    struct error ignored = {0};

    atomic_store(&l->cancel, 1);
    finish(r, l, &ignored);
}

int residency_busy(const struct residency *r)
{
    if (r->behind.m != NULL)
        return r->behind.done_fd;
    return r->now.m != NULL ? r->now.done_fd : -1;
}

/* May be pinned now, so that its first load need not. */
static int may_be_readied(const struct residency *r, const struct model *m)
{
    return r->by_lane && m->copy.use == MASTER_READ && !master_is_ready(&m->copy) && r->now.m != m;
}

/* The first master copy that is to be prepared, else the one last used that is not ready. */
static void begin_next(struct residency *r)
{
    struct model *next = NULL;

    for (uint32_t i = 0; i < r->count; i++) {
        struct model *m = r->models[i];
        if (m->copy.use == MASTER_PREPARE) {
            next = m;
            break;
        }
        if (may_be_readied(r, m) && (next == NULL || m->used > next->used))
            next = m;
    }
    if (next != NULL)
        loader_begin(&r->behind, next, 0, 1);
}

/* It only pins and checks: what it has done stays done, and it can go on later. */
static void stop_readying(struct residency *r)
{
    if (r->behind.m != NULL && r->behind.readies)
        call_off(r, &r->behind);
}

void residency_poll(struct residency *r)
{
    struct error ignored = {0};
    int64_t now;

    if (r->now.m != NULL && atomic_load(&r->now.done) && book(r, &r->now, &ignored) != 0)
        r->failed = ignored;
    if (r->behind.m == NULL)
        begin_next(r);
    if (r->behind.m == NULL)
        return;
    if (atomic_load(&r->behind.done)) {
        book(r, &r->behind, &ignored);
        return;
    }
    now = clock_monotonic_us();
    if (atomic_load(&r->behind.preparing) && now - r->told_us >= TOLD_EVERY_US) {
        r->told_us = now;
        tell_progress(r, &r->behind);
    }
}

void residency_settle(struct residency *r, const struct model *m)
{
    struct error ignored = {0};

    if (r->behind.m != NULL && (m == NULL || r->behind.m == m)) {
        stop_readying(r);
        if (r->behind.m != NULL)
            finish(r, &r->behind, &ignored);
    }
    if (r->now.m != NULL && (m == NULL || r->now.m == m) && finish(r, &r->now, &ignored) != 0)
        r->failed = ignored;
}

int residency_lend(struct residency *r, struct model *m, const struct order_master *o, int fd,
                   struct error *err)
{
    stop_readying(r); /* so that others' master copies can be looked at */
    residency_settle(r, m);
    return master_take(m, o, fd, r->models, r->count, err);
}

int residency_open_lanes(struct residency *r, struct error *err)
{
    struct device *d = arena_device(r->arena);

    r->by_lane = 1;
    return loader_open_lane(&r->now, d, &r->yard, err) != 0 ||
                   loader_open_lane(&r->behind, d, &r->yard, err) != 0
               ? -1
               : 0;
}

int residency_open(struct residency *r, struct arena *a, struct error *err)
{
    r->arena = a;
    master_yard_open(&r->yard);
    r->now.done_fd = r->behind.done_fd = -1;
    if (loader_open(&r->now, err) != 0 || loader_open(&r->behind, err) != 0)
        return -1;
    /* Of several GPUs each part has a lane of its own, while it is loaded (loader.c). */
    return device_kind(arena_device(a)) == DEVICE_CPU || arena_ranks(a) > 1
               ? 0
               : residency_open_lanes(r, err);
}

void residency_close(struct residency *r)
{
    r->notify = NULL;
    r->master = NULL;
    if (r->behind.m != NULL)
        call_off(r, &r->behind);
    if (r->now.m != NULL)
        call_off(r, &r->now);
    for (uint32_t i = 0; i < r->count; i++) {
        model_unload(r->models[i]);
        model_close(r->models[i]);
    }
    r->count = 0;
    master_yard_close(&r->yard);
    loader_close(&r->now);
    loader_close(&r->behind);
}

/* --- evicting --------------------------------------------------------------------------------- */

void residency_unload(struct residency *r, struct model *m)
{
    if (m->arriving != NULL)
        residency_settle(r, m);
    if (r->behind.m == m && r->behind.to_memory) {
        call_off(r, &r->behind);
        if (!m->resident) /* else it was faster */
            return;
    }
    if (!m->resident)
        return;
    model_unload(m);
    tell_gone(r, m, m->weight_bytes);
}

static int may_go(const struct model *m, const struct model *keep)
{
    return m->resident && !m->pinned && m != keep;
}

int residency_evict(struct residency *r, const struct model *keep, const struct model *also)
{
    struct model *oldest = NULL, *coming = r->behind.m;

    for (uint32_t i = 0; i < r->count; i++) {
        struct model *m = r->models[i];
        if (may_go(m, keep) && m != also && (oldest == NULL || m->used < oldest->used))
            oldest = m;
    }
    if (oldest == NULL && coming != NULL && r->behind.to_memory && coming != keep && coming != also)
        oldest = coming;
    if (oldest == NULL)
        return 0;
    residency_unload(r, oldest);
    return 1;
}

/* Evict until m fits, if that can be. */
static int make_room(struct residency *r, struct model *m, const struct model *keep,
                     struct error *err)
{
    uint64_t room = arena_held(r->arena, ARENA_FREE), size = arena_bytes(r->arena, 1);

    for (uint32_t i = 0; i < r->count; i++)
        if (may_go(r->models[i], keep) ||
            (r->behind.m == r->models[i] && r->behind.to_memory && r->models[i] != keep))
            room += r->models[i]->handle_count;
    if (r->spare != NULL && arena_held(r->arena, ARENA_FREE) < m->handle_count)
        room += r->spare(r->context);
    if (room < m->handle_count)
        return error_set(
            err, STATUS_EXHAUSTED,
            "model %s needs %" PRIu64 " MiB for its weights; of Memory= (%" PRIu64 " MiB), %" PRIu64
            " MiB hold the KV of live sequences%s: close sequences, or raise it",
            m->name, m->handle_count * size >> 20, arena_handles(r->arena) * size >> 20,
            arena_held(r->arena, ARENA_KV) * size >> 20,
            keep != NULL && keep->resident ? " and another model runs" : "");
    if (r->reclaim != NULL)
        r->reclaim(r->context, m->handle_count);
    while (arena_held(r->arena, ARENA_FREE) < m->handle_count)
        if (!residency_evict(r, m, keep))
            return error_set(err, STATUS_INTERNAL, "model %s: the arena's count is wrong", m->name);
    return 0;
}

/* --- loading ---------------------------------------------------------------------------------- */

static int load_cpu(struct residency *r, struct model *m, uint64_t *us, struct error *err)
{
    if (model_take(m, err) != 0)
        return -1;
    loader_begin(&r->now, m, 1, 0);
    if (finish(r, &r->now, err) != 0)
        return -1;
    *us = r->now.us;
    return 0;
}

/* A loader's model may be stepped through as soon as all its copies are asked for. */
static int wait_issued(struct residency *r, struct loader *l, struct error *err)
{
    while (!loader_wait_issued(l, TOLD_EVERY_MS)) {
        if (hung_up(r))
            atomic_store(&l->cancel, 1);
        if (atomic_load(&l->preparing))
            tell_progress(r, l);
    }
    if (!atomic_load(&l->issued) || atomic_load(&l->done))
        return finish(r, l, err);
    l->m->resident = 1;
    l->m->arriving = &l->arrival;
    return 0;
}

static int load_by_lane(struct residency *r, struct model *m, struct error *err)
{
    if (model_take(m, err) != 0)
        return -1;
    device_lane_follow(r->now.lane);
    loader_begin(&r->now, m, 1, 0);
    return wait_issued(r, &r->now, err);
}

int residency_arrive(struct residency *r, struct model *m, struct error *err)
{
    if (m->arriving != NULL)
        residency_settle(r, m);
    return r->failed.status == STATUS_OK ? 0
                                         : error_set(err, r->failed.status, "%s", r->failed.text);
}

int residency_arrive_all(struct residency *r, struct error *err)
{
    int rv = 0;

    for (uint32_t i = 0; i < r->count; i++)
        if (r->models[i]->arriving != NULL && residency_arrive(r, r->models[i], err) != 0)
            rv = -1;
    return rv;
}

int residency_load(struct residency *r, struct model *m, const struct model *keep, uint64_t *bytes,
                   uint64_t *us, struct error *err)
{
    int rv;

    *bytes = *us = 0;
    m->used = ++r->stamp;
    if (m->resident)
        return 0;
    if (r->by_lane && r->behind.m == m && r->behind.to_memory) {
        atomic_store(&r->behind.hurry, 1);
        if (wait_issued(r, &r->behind, err) == 0)
            return 0;
    }
    residency_settle(r, m); /* it is on its way, or its master copy is */
    if (m->resident)
        return 0;
    if (r->now.m != NULL)
        residency_settle(r, r->now.m);
    if (r->behind.m != NULL && r->behind.readies && r->behind.m->copy.map == m->copy.map)
        stop_readying(r); /* of the same memory: this load does it, and faster */
    if (make_room(r, m, keep, err) != 0)
        return -1;
    rv = r->by_lane ? load_by_lane(r, m, err) : load_cpu(r, m, us, err);
    if (rv == 0)
        *bytes = m->weight_bytes;
    return rv;
}

/* --- behind the steps ------------------------------------------------------------------------- */

int residency_prefetch(struct residency *r, struct model *m, const struct order_prefetch *o,
                       const struct model *running, struct error *err)
{
    stop_readying(r);
    if (r->behind.m != NULL)
        return error_set(err, STATUS_EXHAUSTED, "model %s: another one is on its way", m->name);
    for (uint32_t i = 0; i < o->evict_count; i++) {
        struct model *out = residency_find(r, o->evict[i]);
        if (out != NULL && out != m && out != running && !out->pinned)
            residency_unload(r, out);
    }
    m->used = ++r->stamp;
    if (r->reclaim != NULL)
        r->reclaim(r->context, m->handle_count);
    if (model_take(m, err) != 0)
        return -1;
    if (r->by_lane)
        device_lane_follow(r->behind.lane);
    loader_begin(&r->behind, m, 1, 1);
    return 0;
}
