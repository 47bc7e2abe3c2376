/* master.c - master copies that are lent; see master.h */
#include "engine/master.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/segment.h"
#include "engine/crew.h"
#include "engine/weights.h"

_Static_assert(ORDER_KEY == SEGMENT_KEY, "keys and hashes travel as they are");

void master_drop(struct master *c)
{
    if (c->base != NULL)
        munmap(c->base, c->file_bytes);
    if (c->use != MASTER_NONE)
        close(c->fd);
    *c = (struct master){.use = MASTER_NONE, .fd = -1};
}

/* The one place where a master copy comes into this process; here a GPU's engine would pin it. */
static int map(struct master *c, int protection, struct error *err)
{
    void *base = mmap(NULL, c->file_bytes, protection, MAP_SHARED, c->fd, 0);

    if (base == MAP_FAILED)
        return error_errno(err, "cannot map a master copy of %" PRIu64 " bytes", c->file_bytes);
    (void)madvise(base, c->file_bytes, MADV_HUGEPAGE); /* where shared memory may have them */
    c->base = base;
    return 0;
}

static int check_header(const struct model *m, const struct master *c, const struct order_master *o,
                        struct error *err)
{
    const struct segment_header *h = (const struct segment_header *)(const void *)c->base;

    if (segment_check(c->base, c->file_bytes, err) != 0)
        return -1;
    if (memcmp(h->key, o->key, sizeof(o->key)) != 0)
        return error_set(err, STATUS_CORRUPT, "it is another model's");
    if (h->device != (uint32_t)device_kind(arena_device(m->arena)) || h->layout != m->layout ||
        h->bytes != m->range_bytes)
        return error_set(err, STATUS_CORRUPT, "its weights lie otherwise than this engine's");
    return 0;
}

int master_take(struct model *m, const struct order_master *o, int fd, struct error *err)
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
        if (map(&c, PROT_READ, err) != 0 || check_header(m, &c, o, err) != 0)
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
    const struct segment_header *h = (const struct segment_header *)(const void *)c->base;

    return c->base == NULL ? NULL : c->base + h->data_offset;
}

int master_begin(struct model *m, struct error *err)
{
    struct master *c = &m->copy;
    int e;

    do
        e = posix_fallocate(c->fd, 0, (off_t)c->file_bytes);
    while (e == EINTR);
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
    segment_begin(c->base, (uint32_t)device_kind(arena_device(m->arena)), m->layout,
                  m->range_bytes);
    return 0;
}

static int sum_piece(void *context, uint64_t piece, void *scratch, struct error *err)
{
    const struct model *m = context;
    const uint8_t *data = master_data(&m->copy) + piece * SEGMENT_PIECE;

    (void)scratch, (void)err;
    segment_table(m->copy.base)[piece] =
        segment_piece_checksum(data, segment_piece_bytes(m->range_bytes, piece));
    return 0;
}

int master_end(struct model *m, const uint8_t (*hashes)[ORDER_KEY], uint32_t files,
               struct error *err)
{
    struct master *c = &m->copy;
    const struct crew crew = {.threads = crew_copy_threads(),
                              .items = segment_pieces(m->range_bytes),
                              .work = sum_piece,
                              .context = m};
    uint8_t key[SEGMENT_KEY];

    if (crew_run(&crew, err) != 0)
        return -1;
    segment_key(key, hashes, files, (uint32_t)device_kind(arena_device(m->arena)), m->layout);
    segment_complete(c->base, key);
    (void)mprotect(c->base, c->file_bytes, PROT_READ); /* nobody writes to it again */
    c->use = MASTER_READ;
    c->verified = 1;
    return 0;
}

int master_check_piece(const struct master *c, uint64_t piece, const uint8_t *copy,
                       struct error *err)
{
    const struct segment_header *h = (const struct segment_header *)(const void *)c->base;

    if (segment_piece_checksum(copy, segment_piece_bytes(h->bytes, piece)) ==
        segment_table(c->base)[piece])
        return 0;
    return error_set(err, STATUS_CORRUPT, "the checksum of its piece %" PRIu64 " is wrong", piece);
}
