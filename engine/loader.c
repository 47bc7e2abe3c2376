/* loader.c - bringing weights in; see loader.h */
#include "engine/loader.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/segment.h"
#include "engine/crew.h"

#define AHEAD 2u /* marks that a load behind the steps is ahead of the lane */

int loader_open(struct loader *l, struct error *err)
{
    pthread_condattr_t monotonic;

    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&l->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    l->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return l->done_fd < 0 ? error_errno(err, "cannot make an event descriptor") : 0;
}

int loader_open_lane(struct loader *l, struct device *d, struct master_yard *yard,
                     struct error *err)
{
    l->yard = yard;
    l->lane_piece = SEGMENT_PIECE;
    if (staging_open(&l->staging, d, err) != 0)
        return -1;
    l->lane = device_lane_open(d, err);
    return l->lane == NULL ? -1 : 0;
}

void loader_close(struct loader *l)
{
    if (l->done_fd > 0) {
        close(l->done_fd);
        pthread_mutex_destroy(&l->lock);
        pthread_cond_destroy(&l->changed);
    }
    l->done_fd = -1;
    device_lane_close(l->lane);
    l->lane = NULL;
    staging_close(&l->staging);
}

static void tell(struct loader *l, atomic_int *flag)
{
    pthread_mutex_lock(&l->lock);
    atomic_store(flag, 1);
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

/* --- the master copy -------------------------------------------------------------------------- */

/* It is of no use: say so, and give it up. */
static void give_up(struct loader *l, enum master_state state, const struct error *err)
{
    l->has_event = 1;
    l->event.state = state;
    l->event.no_space = err->status == STATUS_EXHAUSTED;
    snprintf(l->event.text, sizeof(l->event.text), "%.*s", ORDER_TEXT_MAX - 1, err->text);
    master_drop(&l->m->copy);
}

/* The files into the empty master copy. */
static int prepare(struct loader *l, struct error *err)
{
    struct model *m = l->m;
    struct prepare p = {.m = m, .hash = 1, .to_fd = -1, .cancel = &l->cancel, .done = &l->read};
    int64_t start = clock_monotonic_us();
    int rv;

    if (master_begin(m, err) != 0)
        return -1;
    p.to = master_data(&m->copy);
    p.sums = segment_table(m->copy.map->base);
    if (m->copy.writable) {
        p.to_fd = m->copy.fd;
        p.to_offset = segment_data_offset(m->range_bytes);
    }
    rv = prepare_run(&p, err);
    if (rv != 0) {
        l->file_bytes += p.file_bytes;
        return -1;
    }
    master_end(m, (const uint8_t(*)[ORDER_KEY])p.hashes, p.files);
    l->has_event = 1;
    l->event.state = MASTER_COMPLETE;
    l->event.done = l->event.total = p.file_bytes;
    l->event.file_bytes = p.file_bytes;
    l->event.us = (uint64_t)(clock_monotonic_us() - start);
    l->event.files = p.files;
    memcpy(l->event.hashes, p.hashes, sizeof(p.hashes));
    return 0;
}

/* --- to memory -------------------------------------------------------------------------------- */

static int copy_piece(void *context, uint64_t piece, void *scratch, struct error *err)
{
    const struct model *m = context;
    uint64_t at = piece * SEGMENT_PIECE;

    (void)scratch;
    memcpy(m->range + at, master_data(&m->copy) + at, segment_piece_bytes(m->range_bytes, piece));
    return m->copy.map->verified ? 0 : master_check_piece(&m->copy, piece, m->range + at, err);
}

static int copy_master(struct loader *l, struct error *err)
{
    const struct crew crew = {.threads = l->behind ? 1 : crew_copy_threads(),
                              .items = segment_pieces(l->m->range_bytes),
                              .work = copy_piece,
                              .context = l->m,
                              .cancel = &l->cancel};

    if (crew_run(&crew, err) != 0)
        return -1;
    l->m->copy.map->verified = 1;
    return 0;
}

static int read_files(struct loader *l, struct error *err)
{
    struct prepare p = {
        .m = l->m, .to = l->m->range, .to_fd = -1, .cancel = &l->cancel, .done = &l->read};
    int rv = prepare_run(&p, err);

    l->file_bytes += p.file_bytes;
    return rv;
}

/* A GPU's part, by a lane that is there for this load alone. */
static int stage_part(struct loader *l, const struct model *part, struct error *err)
{
    struct device *d = model_device(part);
    struct staging staging = {0};
    struct device_lane *lane = NULL;
    uint64_t bytes = 0;
    int rv = -1;

    if (staging_open(&staging, d, err) != 0)
        goto out;
    lane = device_lane_open(d, err);
    if (lane == NULL)
        goto out;
    device_lane_follow(lane); /* steps in flight may still use what the handles held */
    if (model_stage(part, &staging, lane, &l->cancel, &bytes, err) != 0)
        goto out;
    device_lane_mark(lane, DEVICE_LANE_MARKS - 1);
    if (device_lane_wait(lane, DEVICE_LANE_MARKS - 1, err) != 0)
        goto out;
    atomic_fetch_add(&l->read, bytes);
    rv = 0;
out:
    device_lane_close(lane);
    staging_close(&staging);
    return rv;
}

static int read_one_part(void *context, uint64_t part, void *scratch, struct error *err)
{
    struct loader *l = context;
    const struct model *m = l->m->parts[part];

    (void)scratch;
    return device_kind(model_device(m)) == DEVICE_CPU
               ? model_read_part(m, &l->cancel, &l->read, err)
               : stage_part(l, m, err);
}

/* Each rank's part of the files, by a thread of its own. */
static int read_parts(struct loader *l, struct error *err)
{
    const struct crew crew = {.threads = l->m->part_count,
                              .items = l->m->part_count,
                              .work = read_one_part,
                              .context = l,
                              .cancel = &l->cancel};
    int rv = crew_run(&crew, err);

    l->file_bytes += atomic_load(&l->read);
    return rv;
}

/* --- by a lane -------------------------------------------------------------------------------- */

/* All pieces in order, with a mark behind every few.  Behind the steps never far ahead of the lane,
 * so that it can be called off. */
static int ask_copies(struct loader *l, struct error *err)
{
    struct model *m = l->m;
    uint64_t marks = l->arrival.mark_bytes;

    for (uint64_t at = 0, n; at < m->range_bytes; at += n) {
        uint32_t mark = (uint32_t)(at / marks);
        n = m->range_bytes - at < l->lane_piece ? m->range_bytes - at : l->lane_piece;
        if (atomic_load(&l->cancel))
            return error_set(err, STATUS_UNAVAILABLE, "model %s: its load was called off", m->name);
        if (model_place(m, at, at + n, err) != 0)
            return -1;
        device_lane_copy(l->lane, m->range + at, master_data(&m->copy) + at, n);
        l->copied += n;
        if ((at + n) % marks != 0 && at + n < m->range_bytes)
            continue;
        device_lane_mark(l->lane, mark);
        if (l->behind && !atomic_load(&l->hurry) && mark >= AHEAD &&
            device_lane_wait(l->lane, mark - AHEAD, err) != 0)
            return -1;
    }
    return 0;
}

/* All that was asked of the lane has been done when this returns, also after a failure. */
static int copy_by_lane(struct loader *l, struct error *err)
{
    struct error why = {0};
    int rv;

    if (l->m->copy.use == MASTER_READ && master_is_ready(&l->m->copy)) {
        rv = ask_copies(l, err);
        if (rv == 0)
            tell(l, &l->issued);
    } else {
        rv = model_place(l->m, 0, l->m->range_bytes, err) != 0
                 ? -1
                 : model_stage(l->m, &l->staging, l->lane, &l->cancel, &l->file_bytes, err);
    }
    device_lane_mark(l->lane, DEVICE_LANE_MARKS - 1);
    if (device_lane_wait(l->lane, DEVICE_LANE_MARKS - 1, &why) != 0 && rv == 0)
        rv = error_set(err, why.status, "model %s: %s", l->m->name, why.text);
    return rv;
}

/* Its master copy, pinned and checked; given up if it is damaged. */
static void make_ready(struct loader *l)
{
    struct model *m = l->m;
    struct error why = {0};

    if (master_is_ready(&m->copy))
        return;
    if (master_ready(m, l->yard, l->behind && !atomic_load(&l->hurry) ? 1 : crew_urgent_threads(),
                     &l->cancel, &why) == 0) {
        l->unpinned = m->copy.map->unpinned;
        m->copy.map->unpinned = (struct error){0};
    } else if (why.status == STATUS_CORRUPT) {
        give_up(l, MASTER_CORRUPT, &why);
    }
}

static int to_memory(struct loader *l, struct error *err)
{
    struct model *m = l->m;
    struct error why = {0};

    if (l->lane != NULL)
        return copy_by_lane(l, err);
    if (model_map(m, err) != 0)
        return -1;
    l->mapped = 1;
    if (m->part_count > 1)
        return read_parts(l, err);
    if (m->copy.use == MASTER_READ) {
        if (copy_master(l, &why) == 0)
            return 0;
        if (why.status != STATUS_CORRUPT)
            return error_set(err, why.status, "model %s: %s", m->name, why.text);
        give_up(l, MASTER_CORRUPT, &why); /* and do without it */
    }
    return read_files(l, err);
}

static int work(struct loader *l)
{
    struct model *m = l->m;
    struct error why = {0};
    int64_t start;

    if (m->copy.use == MASTER_FILL || m->copy.use == MASTER_PREPARE) {
        start = clock_monotonic_us();
        atomic_store(&l->preparing, 1);
        if (prepare(l, &why) != 0)
            give_up(l, MASTER_FAILED, &why);
        else
            l->disk_us = (uint64_t)(clock_monotonic_us() - start);
        atomic_store(&l->preparing, 0);
    }
    if (l->lane != NULL && m->copy.use == MASTER_READ)
        make_ready(l);
    if (!l->to_memory)
        return 0;
    if (atomic_load(&l->cancel))
        return error_set(&l->err, STATUS_UNAVAILABLE, "model %s: its load was called off", m->name);
    /* Preparing takes as long as the files do, and is not a switch's own. */
    start = clock_monotonic_us();
    if (to_memory(l, &l->err) != 0)
        return -1;
    l->done_us = clock_monotonic_us();
    l->us = (uint64_t)(l->done_us - start);
    return 0;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void *loader_main(void *arg)
{
    struct loader *l = arg;
    const uint64_t one = 1;

    l->rv = work(l);
    tell(l, &l->done);
    while (write(l->done_fd, &one, sizeof(one)) < 0) /* it cannot be full */
        ;
    return NULL;
}

void loader_begin(struct loader *l, struct model *m, int to_mem, int behind)
{
    uint64_t piece = l->lane != NULL ? l->lane_piece : SEGMENT_PIECE;
    uint64_t pieces = (m->range_bytes + piece - 1) / piece;
    uint64_t marks = DEVICE_LANE_MARKS - 1; /* the last one is for the end */

    l->m = m;
    l->to_memory = to_mem;
    l->readies = !to_mem && m->copy.use == MASTER_READ;
    m->in_loader = 1;
    l->behind = behind;
    l->cancel = l->preparing = l->done = l->issued = l->hurry = 0;
    l->read = 0;
    l->total = prepare_total(m);
    l->arrival = (struct arrival){l->lane, (pieces + marks - 1) / marks * piece};
    l->rv = l->mapped = l->has_event = 0;
    l->err = l->unpinned = (struct error){0};
    l->file_bytes = l->us = l->disk_us = l->copied = 0;
    l->done_us = 0;
    l->event = (struct event_master){.kind = EVENT_MASTER, .model = m->id};
    l->has_thread = pthread_create(&l->thread, NULL, loader_main, l) == 0;
    if (!l->has_thread)
        loader_main(l);
}

int loader_wait(struct loader *l, int ms)
{
    struct pollfd p = {.fd = l->done_fd, .events = POLLIN};

    if (!atomic_load(&l->done))
        (void)poll(&p, 1, ms);
    return atomic_load(&l->done);
}

int loader_wait_issued(struct loader *l, int ms)
{
    struct timespec until;
    int is, e = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&l->lock);
    while (!(is = atomic_load(&l->issued) || atomic_load(&l->done)) && e == 0)
        e = pthread_cond_timedwait(&l->changed, &l->lock, &until);
    pthread_mutex_unlock(&l->lock);
    return is;
}

void loader_join(struct loader *l)
{
    uint64_t count;

    if (l->has_thread)
        pthread_join(l->thread, NULL);
    l->has_thread = 0;
    (void)!read(l->done_fd, &count, sizeof(count));
}
