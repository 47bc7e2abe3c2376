/* prepare.c - files into the layout, in parallel; see prepare.h */
#include "engine/prepare.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/checksum.h"
#include "common/segment.h"
#include "engine/crew.h"
#include "engine/weights_copy.h"

#define PAGE          4096u
#define CACHE_SAMPLES 64u /* of a file, by which it is said to be in the page cache */
#define CACHE_SHARE   56u /* of those, that must be */

struct source_part { /* a file */
    uint64_t size;
    uint64_t first;  /* block, among those of all files */
    uint32_t copies; /* where its copies begin in order[] */
};

struct reading {
    struct prepare *p;
    struct source_part parts[ORDER_FILES_MAX + 1]; /* one more: the end */
    uint32_t *order;                               /* copies by file and place in it */
    uint64_t *stored_at; /* [copies]: where in `stored` the bytes wait that are converted */
    uint8_t *stored;
    atomic_uint_fast64_t *missing; /* [copies]: bytes of its file, of one that is not stored as it
                                      lies in memory */
    atomic_uint_fast64_t *lacking; /* [pieces]: bytes of tensors that are not there yet */
    int overlapping;               /* some bytes belong to several tensors */
    uint64_t *sums;                /* of each block */
    atomic_uint_fast64_t bytes;
    atomic_int direct;
};

/* --- what is where ---------------------------------------------------------------------------- */

static int before(const void *a, const void *b, void *arg)
{
    const struct tensor_copy *copies = arg;
    const struct tensor_copy *x = &copies[*(const uint32_t *)a], *y = &copies[*(const uint32_t *)b];

    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    return 0;
}

static uint64_t stored_bytes(const struct tensor_copy *c)
{
    if (c->f8.cols != 0)
        return f8_stored_bytes(c);
    return c->convert ? copy_stored_bytes(c) : c->bytes;
}

/* All of each tensor must be there. */
static int check_order(struct reading *r, struct error *err)
{
    const struct model *m = r->p->m;

    for (uint32_t i = 0; i < m->copy_count; i++) {
        const struct tensor_copy *c = &m->copies[r->order[i]];
        const struct tensor_copy *next = i + 1 < m->copy_count ? &m->copies[r->order[i + 1]] : NULL;
        uint64_t size = r->parts[c->file].size;

        if (c->from > size || stored_bytes(c) > size - c->from)
            return error_set(
                err, STATUS_CORRUPT,
                "model %s: its file ends within tensor %s: it was changed or cut short "
                "after it was opened",
                m->name, c->name);
        if (next != NULL && next->file == c->file && next->from < c->from + stored_bytes(c))
            r->overlapping = 1;
    }
    return 0;
}

static int is_stored(const struct tensor_copy *c)
{
    return !c->convert && c->f8.cols == 0;
}

/* What each piece waits for, and each tensor that is made of what is stored. */
static int count_bytes(struct reading *r)
{
    const struct model *m = r->p->m;

    r->missing = calloc(m->copy_count, sizeof(*r->missing));
    r->lacking = calloc(segment_pieces(m->range_bytes), sizeof(*r->lacking));
    if (r->missing == NULL || r->lacking == NULL)
        return -1;
    for (uint32_t i = 0; i < m->copy_count; i++) {
        const struct tensor_copy *c = &m->copies[i];
        r->missing[i] = stored_bytes(c);
        for (uint64_t at = c->to, n; at < c->to + c->bytes; at += n) {
            n = SEGMENT_PIECE - at % SEGMENT_PIECE;
            if (n > c->to + c->bytes - at)
                n = c->to + c->bytes - at;
            r->lacking[at / SEGMENT_PIECE] += n;
        }
    }
    return 0;
}

static int describe(struct reading *r, struct error *err)
{
    const struct model *m = r->p->m;
    uint64_t blocks = 0, waiting = 0;
    struct stat st;

    for (uint32_t f = 0; f < m->fd_count; f++) {
        struct source_part *part = &r->parts[f];
        part->first = blocks;
        if (m->fds[f] < 0)
            continue;
        if (fstat(m->fds[f], &st) != 0)
            return error_errno(err, "model %s: a file of it", m->name);
        part->size = (uint64_t)st.st_size;
        blocks += (part->size + PREPARE_BLOCK - 1) / PREPARE_BLOCK;
    }
    r->parts[m->fd_count].first = blocks;
    r->order = calloc(m->copy_count, sizeof(*r->order));
    r->stored_at = calloc(m->copy_count, sizeof(*r->stored_at));
    r->sums = calloc(blocks + 1, sizeof(*r->sums));
    if (r->order == NULL || r->stored_at == NULL || r->sums == NULL || count_bytes(r) != 0)
        goto nomem;
    for (uint32_t i = 0; i < m->copy_count; i++) {
        r->order[i] = i;
        r->stored_at[i] = waiting;
        waiting += m->copies[i].convert ? stored_bytes(&m->copies[i]) : 0;
    }
    r->stored = malloc(waiting + 1);
    if (r->stored == NULL)
        goto nomem;
    qsort_r(r->order, m->copy_count, sizeof(*r->order), before, m->copies);
    for (uint32_t i = m->copy_count; i-- > 0;)
        r->parts[m->copies[r->order[i]].file].copies = i;
    return check_order(r, err);
nomem:
    return error_set(err, STATUS_NOMEM, "no memory to read model %s", m->name);
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Is most of the file in the page cache?  Asked by reads that do not wait. */
static int is_cached(int fd, uint64_t size)
{
    char page[PAGE];
    struct iovec iov = {.iov_base = page, .iov_len = sizeof(page)};
    uint32_t there = 0;

    for (uint32_t i = 0; i < CACHE_SAMPLES; i++)
        there += preadv2(fd, &iov, 1, (off_t)(size / CACHE_SAMPLES * i), RWF_NOWAIT) > 0;
    return there >= CACHE_SHARE;
}

/* On the open file, for all who share it; 0: the file system does not. */
static int set_direct(int fd, int direct)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0)
        return 0;
    return fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

static void choose_direct(struct reading *r)
{
    const struct model *m = r->p->m;

    if (r->p->never_direct)
        return;
    for (uint32_t f = 0; f < m->fd_count; f++)
        if (m->fds[f] >= 0 && !is_cached(m->fds[f], r->parts[f].size) && set_direct(m->fds[f], 1))
            r->direct = r->p->direct = 1;
}

static void end_direct(struct reading *r)
{
    const struct model *m = r->p->m;

    for (uint32_t f = 0; r->direct && f < m->fd_count; f++)
        if (m->fds[f] >= 0)
            set_direct(m->fds[f], 0);
}

/* A block of a file, all of it. */
static int read_block(struct reading *r, uint32_t file, uint64_t from, uint64_t bytes, uint8_t *to,
                      struct error *err)
{
    const struct model *m = r->p->m;
    uint64_t done = 0;

    while (done < bytes) {
        /* Direct reads want whole pages; the last one comes back as short as the file is. */
        uint64_t ask = (bytes - done + PAGE - 1) / PAGE * PAGE;
        ssize_t n = pread(m->fds[file], to + done, ask, (off_t)(from + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EINVAL && atomic_exchange(&r->direct, 0)) {
            for (uint32_t f = 0; f < m->fd_count; f++)
                if (m->fds[f] >= 0)
                    set_direct(m->fds[f], 0);
            continue;
        }
        if (n < 0)
            return error_errno(err, "model %s: cannot read its file", m->name);
        if (n == 0)
            return error_set(err, STATUS_CORRUPT,
                             "model %s: its file ends too early: it was changed or cut short after "
                             "it was opened",
                             m->name);
        done += (uint64_t)n;
    }
    r->bytes += bytes;
    if (r->p->done != NULL)
        *r->p->done += bytes;
    return 0;
}

/* The first of the file's copies that ends behind `from`, as an index into order[].  Where some lie
 * over one another, their ends are in no order: then the file's first. */
static uint32_t first_copy(const struct reading *r, uint32_t file, uint64_t from, uint32_t end)
{
    const struct tensor_copy *copies = r->p->m->copies;
    uint32_t low = r->parts[file].copies, high = end;

    while (low < high && !r->overlapping) {
        uint32_t middle = low + (high - low) / 2;
        const struct tensor_copy *c = &copies[r->order[middle]];
        if (c->from + stored_bytes(c) <= from)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static uint32_t last_copy(const struct reading *r, uint32_t file)
{
    const struct model *m = r->p->m;
    uint32_t end = r->parts[file].copies;

    while (end < m->copy_count && m->copies[r->order[end]].file == file)
        end++;
    return end;
}

/* Where a tensor's bytes go: FP8's to the end of their place, for f8_spread(). */
static uint8_t *place_of(const struct reading *r, uint32_t i)
{
    const struct tensor_copy *c = &r->p->m->copies[i];

    if (c->f8.cols != 0)
        return r->p->to + c->to + c->bytes - f8_stored_bytes(c);
    return c->convert ? r->stored + r->stored_at[i] : r->p->to + c->to;
}

/* Bytes of tensors are there: pieces that are full now have their checksums. */
static void arrive(struct reading *r, uint64_t at, uint64_t bytes)
{
    const struct prepare *p = r->p;

    for (uint64_t end = at + bytes, n; at < end; at += n) {
        uint64_t piece = at / SEGMENT_PIECE;
        n = (piece + 1) * SEGMENT_PIECE - at;
        if (n > end - at)
            n = end - at;
        if (atomic_fetch_sub(&r->lacking[piece], n) == n && p->sums != NULL)
            p->sums[piece] = segment_piece_checksum(p->to + piece * SEGMENT_PIECE,
                                                    segment_piece_bytes(p->m->range_bytes, piece));
    }
}

/* To their place in the range. */
static int put(struct reading *r, uint64_t at, const void *bytes, uint64_t count, struct error *err)
{
    const struct prepare *p = r->p;

    for (uint64_t done = 0; p->to_fd >= 0 && done < count;) {
        ssize_t n = pwrite(p->to_fd, (const uint8_t *)bytes + done, count - done,
                           (off_t)(p->to_offset + at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return error_set(err, errno == EIO ? STATUS_IO : STATUS_EXHAUSTED,
                             "no room for a master copy of %" PRIu64 " MiB: %s: lower HostCache=",
                             p->m->range_bytes >> 20, strerror(errno));
        done += (uint64_t)n;
    }
    if (p->to_fd < 0)
        memcpy(p->to + at, bytes, count);
    arrive(r, at, count);
    return 0;
}

/* What is not stored as it lies in memory: all of it is here now. */
static int make(struct reading *r, uint32_t i, struct error *err)
{
    const struct model *m = r->p->m;
    const struct tensor_copy *c = &m->copies[i];
    float *made;
    int rv;

    if (c->f8.cols != 0) { /* in its place */
        if (f8_spread(m, c, r->p->to + c->to, 0, c->bytes / dtype_row_bytes(DTYPE_F8, c->f8.cols),
                      err) != 0)
            return -1;
        arrive(r, c->to, c->bytes);
        return 0;
    }
    made = malloc(c->bytes);
    if (made == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for tensor %s", c->name);
    copy_convert(c, r->stored + r->stored_at[i], made);
    rv = put(r, c->to, made, c->bytes, err);
    free(made);
    return rv;
}

/* A part of a tensor, from its place `at` in it. */
static int place_part(struct reading *r, uint32_t i, uint64_t at, const uint8_t *bytes,
                      uint64_t count, struct error *err)
{
    const struct tensor_copy *c = &r->p->m->copies[i];

    if (is_stored(c))
        return put(r, c->to + at, bytes, count, err);
    memcpy(place_of(r, i) + at, bytes, count);
    if (atomic_fetch_sub(&r->missing[i], count) != count || c->f8.cols != 0)
        return 0;
    return make(r, i, err);
}

/* Copy what the block has of tensors to their places.  1: it has some; 0: none (and block may be
 * NULL). */
static int scatter(struct reading *r, uint32_t file, uint64_t from, uint64_t bytes,
                   const uint8_t *block, struct error *err)
{
    const struct model *m = r->p->m;
    uint32_t end = last_copy(r, file), i = first_copy(r, file, from, end);
    int some = 0;

    for (; i < end && m->copies[r->order[i]].from < from + bytes; i++) {
        const struct tensor_copy *c = &m->copies[r->order[i]];
        uint64_t a = c->from > from ? c->from : from, z = c->from + stored_bytes(c);

        if (z > from + bytes)
            z = from + bytes;
        some |= z > a;
        if (block != NULL && z > a &&
            place_part(r, r->order[i], a - c->from, block + (a - from), z - a, err) != 0)
            return -1;
    }
    return some;
}

static int take_block(void *context, uint64_t item, void *scratch, struct error *err)
{
    struct reading *r = context;
    uint32_t file = 0;
    uint64_t from, bytes;

    while (r->parts[file + 1].first <= item)
        file++;
    from = (item - r->parts[file].first) * PREPARE_BLOCK;
    bytes = r->parts[file].size - from;
    if (bytes > PREPARE_BLOCK)
        bytes = PREPARE_BLOCK;
    if (!r->p->hash && !scatter(r, file, from, bytes, NULL, err))
        return 0;
    if (read_block(r, file, from, bytes, scratch, err) != 0)
        return -1;
    if (r->p->hash)
        r->sums[item] = checksum64(scratch, bytes, from);
    return scatter(r, file, from, bytes, scratch, err) < 0 ? -1 : 0;
}

/* --- all of it -------------------------------------------------------------------------------- */

/* A file's hash is that of its blocks' and its size. */
static void hash_files(struct reading *r)
{
    struct prepare *p = r->p;

    p->files = 0;
    for (uint32_t f = 0; f < p->m->fd_count; f++) {
        const uint64_t *sums = r->sums + r->parts[f].first;
        uint64_t count = r->parts[f + 1].first - r->parts[f].first, halves[2];
        if (p->m->fds[f] < 0)
            continue;
        for (uint64_t i = 0; i < 2; i++)
            halves[i] = checksum64(sums, count * sizeof(*sums),
                                   checksum64(&r->parts[f].size, sizeof(uint64_t), i));
        memcpy(p->hashes[p->files++], halves, ORDER_KEY);
    }
}

uint64_t prepare_total(const struct model *m)
{
    uint64_t total = 0;
    struct stat st;

    for (uint32_t f = 0; f < m->fd_count; f++)
        if (m->fds[f] >= 0 && fstat(m->fds[f], &st) == 0)
            total += (uint64_t)st.st_size;
    return total;
}

int prepare_run(struct prepare *p, struct error *err)
{
    const struct model *m = p->m;
    struct reading r = {.p = p};
    struct crew crew = {.threads = PREPARE_THREADS,
                        .scratch_bytes = PREPARE_BLOCK,
                        .work = take_block,
                        .context = &r,
                        .cancel = p->cancel};
    int rv = -1;

    p->direct = 0;
    if (describe(&r, err) != 0)
        goto out;
    crew.items = r.parts[m->fd_count].first;
    choose_direct(&r);
    rv = crew_run(&crew, err);
    end_direct(&r);
    p->file_bytes = r.bytes;
    /* FP8's scales are read besides, which a direct read could not. */
    for (uint32_t i = 0; rv == 0 && i < m->copy_count; i++)
        if (m->copies[i].f8.cols != 0)
            rv = make(&r, i, err);
    if (rv == 0 && p->hash)
        hash_files(&r);
out:
    free(r.order);
    free(r.stored_at);
    free(r.stored);
    free(r.missing);
    free(r.lacking);
    free(r.sums);
    return rv;
}
