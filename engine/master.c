/* master.c - master copies that are lent; see master.h */
#include "engine/master.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/segment.h"
#include "engine/crew.h"
#include "engine/weights.h"
#include "engine/weights_copy.h"

_Static_assert(ORDER_KEY == SEGMENT_KEY, "keys and hashes travel as they are");

enum { PIECE_PINNED = 1, PIECE_LEFT = 2, PIECE_CHECKED = 4 }; /* LEFT: it cannot be pinned */

/* --- giving it up ----------------------------------------------------------------------------- */

void master_yard_open(struct master_yard *y)
{
    pthread_mutex_init(&y->lock, NULL);
    pthread_cond_init(&y->empty, NULL);
    y->count = 0;
}

void master_yard_close(struct master_yard *y)
{
    pthread_mutex_lock(&y->lock);
    while (y->count > 0)
        pthread_cond_wait(&y->empty, &y->lock);
    pthread_mutex_unlock(&y->lock);
    pthread_mutex_destroy(&y->lock);
    pthread_cond_destroy(&y->empty);
}

static void drop_map(struct master_map *map)
{
    for (uint64_t i = 0; map->pieces != NULL && i < segment_pieces(map->bytes); i++)
        if ((map->pieces[i] & PIECE_PINNED) != 0)
            device_host_unpin(map->device, map->data + i * SEGMENT_PIECE);
    free(map->pieces);
    munmap(map->base, map->bytes);
    pthread_mutex_destroy(&map->lock);
    free(map);
}

static void *drop_later(void *arg)
{
    struct master_map *map = arg;
    struct master_yard *y = map->yard;

    drop_map(map);
    pthread_mutex_lock(&y->lock);
    if (--y->count == 0)
        pthread_cond_broadcast(&y->empty);
    pthread_mutex_unlock(&y->lock);
    return NULL;
}

static int send_away(struct master_map *map)
{
    struct master_yard *y = map->yard;
    pthread_attr_t attr;
    pthread_t thread;
    int e;

    pthread_mutex_lock(&y->lock);
    y->count++;
    pthread_mutex_unlock(&y->lock);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    e = pthread_create(&thread, &attr, drop_later, map);
    pthread_attr_destroy(&attr);
    if (e == 0)
        return 0;
    pthread_mutex_lock(&y->lock);
    y->count--;
    pthread_mutex_unlock(&y->lock);
    return -1;
}

void master_drop(struct master *c)
{
    if (c->map != NULL && atomic_fetch_sub(&c->map->users, 1) == 1 &&
        (c->map->pieces == NULL || send_away(c->map) != 0))
        drop_map(c->map);
    if (c->use != MASTER_NONE)
        close(c->fd);
    *c = (struct master){.use = MASTER_NONE, .fd = -1};
}

/* --- taking it -------------------------------------------------------------------------------- */

/* The one place where a master copy comes into this process. */
static int map(struct master *c, int protection, struct error *err)
{
    struct master_map *map = calloc(1, sizeof(*map));
    struct stat st;
    void *base;

    if (map == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for a master copy's bookkeeping");
    base = mmap(NULL, c->file_bytes, protection, MAP_SHARED, c->fd, 0);
    if (base == MAP_FAILED || fstat(c->fd, &st) != 0) {
        error_errno(err, "cannot map a master copy of %" PRIu64 " bytes", c->file_bytes);
        free(map);
        return -1;
    }
    (void)madvise(base, c->file_bytes, MADV_HUGEPAGE); /* where shared memory may have them */
    map->users = 1;
    map->device_number = st.st_dev;
    map->inode = st.st_ino;
    map->base = base;
    map->bytes = c->file_bytes;
    pthread_mutex_init(&map->lock, NULL);
    c->map = map;
    return 0;
}

/* What another model has of the same file; NULL. */
static struct master_map *find_map(const struct model *m, struct model *const *others,
                                   uint32_t count, const struct stat *st)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct master *c = &others[i]->copy;
        if (others[i] != m && !others[i]->in_loader && c->use == MASTER_READ &&
            c->map->inode == st->st_ino && c->map->device_number == st->st_dev &&
            c->map->bytes == (uint64_t)st->st_size)
            return c->map;
    }
    return NULL;
}

/* A GPU's driver pins what may be written to, alone: the file is lent so.  Once it is pinned, this
 * process writes to it no more (master_ready()). */
static int reading(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && (flags & O_ACCMODE) == O_RDWR ? PROT_READ | PROT_WRITE : PROT_READ;
}

static int check_header(const struct model *m, const struct master *c, const struct order_master *o,
                        struct error *err)
{
    const struct segment_header *h = (const struct segment_header *)(const void *)c->map->base;

    if (segment_check(c->map->base, c->file_bytes, err) != 0)
        return -1;
    if (memcmp(h->key, o->key, sizeof(o->key)) != 0)
        return error_set(err, STATUS_CORRUPT, "it is another model's");
    if (h->device != (uint32_t)device_kind(arena_device(m->arena)) || h->layout != m->layout ||
        h->bytes != m->range_bytes)
        return error_set(err, STATUS_CORRUPT, "its weights lie otherwise than this engine's");
    return 0;
}

int master_take(struct model *m, const struct order_master *o, int fd, struct model *const *others,
                uint32_t count, struct error *err)
{
    struct master c = {.use = (enum master_use)o->use, .fd = -1};
    struct stat st;

    if (o->use == MASTER_NONE) {
        master_drop(&m->copy);
        return 0;
    }
    if (o->use > MASTER_READ || fd < 0)
        return error_set(err, STATUS_INVALID, "a master copy is lent without a file");
    if (fstat(fd, &st) != 0)
        return error_errno(err, "cannot look at a master copy");
    if (!S_ISREG(st.st_mode))
        return error_set(err, STATUS_CORRUPT, "it is no file");
    c.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (c.fd < 0)
        return error_errno(err, "cannot keep a master copy");
    c.file_bytes =
        o->use == MASTER_READ ? (uint64_t)st.st_size : segment_file_bytes(m->range_bytes);
    if (o->use == MASTER_READ) {
        if (c.file_bytes < SEGMENT_ALIGN) {
            error_set(err, STATUS_CORRUPT, "it has only %" PRIu64 " bytes", c.file_bytes);
            goto fail;
        }
        c.map = find_map(m, others, count, &st);
        if (c.map != NULL)
            c.map->users++;
        else if (map(&c, reading(c.fd), err) != 0)
            goto fail;
        if (check_header(m, &c, o, err) != 0)
            goto fail;
    }
    master_drop(&m->copy);
    m->copy = c;
    return 0;
fail:
    master_drop(&c);
    return -1;
}

uint8_t *master_data(const struct master *c)
{
    const struct segment_header *h;

    if (c->map == NULL)
        return NULL;
    h = (const struct segment_header *)(const void *)c->map->base;
    return c->map->base + h->data_offset;
}

int master_is_ready(const struct master *c)
{
    return c->map != NULL && atomic_load(&c->map->ready);
}

/* Tensors that are made in their place need it as memory; hugetlbfs knows no write(). */
static int may_be_written(const struct model *m)
{
    struct statfs fs;

    for (uint32_t i = 0; i < m->copy_count; i++)
        if (m->copies[i].f8.cols != 0)
            return 0;
    return fstatfs(m->copy.fd, &fs) == 0 && fs.f_type != HUGETLBFS_MAGIC;
}

/* 0, or an errno. */
static int take_memory(const struct master *c, uint64_t header)
{
    struct statfs fs;
    int e;

    if (c->writable && fstatfs(c->fd, &fs) == 0 && fs.f_blocks > 0 &&
        (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize < c->file_bytes)
        return ENOSPC;
    if (c->writable && ftruncate(c->fd, (off_t)c->file_bytes) != 0)
        return errno;
    do
        e = posix_fallocate(c->fd, 0, (off_t)(c->writable ? header : c->file_bytes));
    while (e == EINTR);
    return e;
}

int master_begin(struct model *m, struct error *err)
{
    struct master *c = &m->copy;
    int e;

    c->writable = may_be_written(m);
    e = take_memory(c, segment_data_offset(m->range_bytes));
    errno = e;
    if (e == ENOSPC || e == ENOMEM || e == EDQUOT)
        return error_set(err, STATUS_EXHAUSTED,
                         "no room for a master copy of %" PRIu64 " MiB: %s: lower HostCache=",
                         c->file_bytes >> 20, strerror(e));
    if (e != 0)
        return error_errno(err, "cannot allocate a master copy of %" PRIu64 " MiB",
                           c->file_bytes >> 20);
    if (map(c, PROT_READ | PROT_WRITE, err) != 0)
        return -1;
    segment_begin(c->map->base, (uint32_t)device_kind(arena_device(m->arena)), m->layout,
                  m->range_bytes);
    return 0;
}

void master_end(struct model *m, const uint8_t (*hashes)[ORDER_KEY], uint32_t files)
{
    struct master *c = &m->copy;
    uint8_t key[SEGMENT_KEY];

    segment_key(key, hashes, files, (uint32_t)device_kind(arena_device(m->arena)), m->layout);
    segment_complete(c->map->base, key);
    if (!m->by_lane)
        (void)mprotect(c->map->base, c->file_bytes, PROT_READ); /* nobody writes to it again */
    c->use = MASTER_READ;
    c->map->verified = 1;
}

int master_check_piece(const struct master *c, uint64_t piece, const uint8_t *copy,
                       struct error *err)
{
    const struct segment_header *h = (const struct segment_header *)(const void *)c->map->base;

    if (segment_piece_checksum(copy, segment_piece_bytes(h->bytes, piece)) ==
        segment_table(c->map->base)[piece])
        return 0;
    return error_set(err, STATUS_CORRUPT, "the checksum of its piece %" PRIu64 " is wrong", piece);
}

/* --- for a lane ------------------------------------------------------------------------------- */

struct readying {
    struct model *m;
    pthread_mutex_t lock; /* guards unpinned */
};

static int ready_piece(void *context, uint64_t piece, void *scratch, struct error *err)
{
    struct readying *r = context;
    struct master_map *map = r->m->copy.map;
    uint8_t *data = map->data + piece * SEGMENT_PIECE, *done = &map->pieces[piece];
    uint64_t bytes = segment_piece_bytes(r->m->range_bytes, piece);
    struct error why = {0};

    (void)scratch;
    if ((*done & (PIECE_PINNED | PIECE_LEFT)) == 0) {
        if (device_host_pin(map->device, data, bytes, &why) == 0) {
            *done |= PIECE_PINNED;
        } else {
            *done |= PIECE_LEFT;
            pthread_mutex_lock(&r->lock);
            map->unpinned = why;
            pthread_mutex_unlock(&r->lock);
        }
    }
    if (!map->verified && (*done & PIECE_CHECKED) == 0 &&
        master_check_piece(&r->m->copy, piece, data, err) != 0)
        return -1;
    *done |= PIECE_CHECKED;
    return 0;
}

static int ready_all(struct model *m, struct master_yard *yard, uint32_t threads,
                     atomic_int *cancel, struct error *err)
{
    struct readying r = {.m = m, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct master_map *map = m->copy.map;
    const struct crew crew = {.threads = threads,
                              .items = segment_pieces(m->range_bytes),
                              .work = ready_piece,
                              .context = &r,
                              .cancel = cancel};
    int rv;

    if (map->pieces == NULL) {
        /* drop_map() counts them by the file, which has a few more. */
        map->data = master_data(&m->copy);
        map->device = arena_device(m->arena);
        map->yard = yard;
        map->pieces = calloc(segment_pieces(map->bytes), sizeof(*map->pieces));
        if (map->pieces == NULL)
            return error_set(err, STATUS_NOMEM, "no memory for a master copy's pieces");
    }
    rv = crew_run(&crew, err);
    pthread_mutex_destroy(&r.lock);
    if (rv != 0)
        return -1;
    (void)mprotect(map->base, map->bytes, PROT_READ);
    map->verified = 1;
    map->ready = 1;
    return 0;
}

int master_ready(struct model *m, struct master_yard *yard, uint32_t threads, atomic_int *cancel,
                 struct error *err)
{
    struct master_map *map = m->copy.map;
    int rv = 0;

    pthread_mutex_lock(&map->lock);
    if (!map->ready)
        rv = ready_all(m, yard, threads, cancel, err);
    pthread_mutex_unlock(&map->lock);
    return rv;
}
