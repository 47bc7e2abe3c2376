/* loader.c - bringing weights in; see loader.h */
#include "engine/loader.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/segment.h"
#include "engine/crew.h"

int loader_open(struct loader *l, struct error *err)
{
    l->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return l->done_fd < 0 ? error_errno(err, "cannot make an event descriptor") : 0;
}

void loader_close(struct loader *l)
{
    if (l->done_fd > 0)
        close(l->done_fd);
    l->done_fd = -1;
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
    struct prepare p = {.m = m, .hash = 1, .cancel = &l->cancel, .done = &l->read};
    int64_t start = clock_monotonic_us();
    int rv;

    if (master_begin(m, err) != 0)
        return -1;
    p.to = master_data(&m->copy);
    rv = prepare_run(&p, err);
    if (rv != 0 || master_end(m, (const uint8_t(*)[ORDER_KEY])p.hashes, p.files, err) != 0) {
        l->file_bytes += p.file_bytes;
        return -1;
    }
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
    return m->copy.verified ? 0 : master_check_piece(&m->copy, piece, m->range + at, err);
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
    l->m->copy.verified = 1;
    return 0;
}

static int read_files(struct loader *l, struct error *err)
{
    struct prepare p = {.m = l->m, .to = l->m->range, .cancel = &l->cancel, .done = &l->read};
    int rv = prepare_run(&p, err);

    l->file_bytes += p.file_bytes;
    return rv;
}

static int read_one_part(void *context, uint64_t part, void *scratch, struct error *err)
{
    struct loader *l = context;

    (void)scratch;
    return model_read_part(l->m->parts[part], &l->cancel, &l->read, err);
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

static int to_memory(struct loader *l, struct error *err)
{
    struct model *m = l->m;
    struct error why = {0};

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
        atomic_store(&l->preparing, 1);
        if (prepare(l, &why) != 0)
            give_up(l, MASTER_FAILED, &why);
        atomic_store(&l->preparing, 0);
    }
    if (!l->to_memory)
        return 0;
    if (atomic_load(&l->cancel))
        return error_set(&l->err, STATUS_UNAVAILABLE, "model %s: its load was called off", m->name);
    /* Preparing takes as long as the files do, and is not a switch's own. */
    start = clock_monotonic_us();
    if (to_memory(l, &l->err) != 0)
        return -1;
    l->us = (uint64_t)(clock_monotonic_us() - start);
    return 0;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void *loader_main(void *arg)
{
    struct loader *l = arg;
    const uint64_t one = 1;

    l->rv = work(l);
    atomic_store(&l->done, 1);
    while (write(l->done_fd, &one, sizeof(one)) < 0) /* it cannot be full */
        ;
    return NULL;
}

void loader_begin(struct loader *l, struct model *m, int to_mem, int behind)
{
    int fd = l->done_fd;

    memset(l, 0, sizeof(*l));
    l->done_fd = fd;
    l->m = m;
    l->to_memory = to_mem;
    l->behind = behind;
    l->event.kind = EVENT_MASTER;
    l->event.model = m->id;
    l->total = prepare_total(m);
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

void loader_join(struct loader *l)
{
    uint64_t count;

    if (l->has_thread)
        pthread_join(l->thread, NULL);
    l->has_thread = 0;
    (void)!read(l->done_fd, &count, sizeof(count));
}
