/* tier.c - the host tier's files; see tier.h */
#include "daemon/tier.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/tier_state.h"

#define FRESH      "new-"   /* a file before it has its key; nobody attaches it again */
#define RETRY_US   60000000 /* after the memory was full */
#define TOLD_EVERY 60000000 /* microseconds between rows that say no more than "used" */

/* --- files ------------------------------------------------------------------------------------ */

static void *close_later(void *arg)
{
    close((int)(intptr_t)arg);
    return NULL;
}

/* Giving gigabytes of memory back takes a while: the last close does it, in a thread of its own. */
static void remove_file(struct tier *t, const char *name)
{
    int fd = openat(t->dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    pthread_attr_t attr;
    pthread_t thread;

    if (unlinkat(t->dir, name, 0) != 0 && errno != ENOENT)
        log_warn("%s/%s: cannot be removed: %s", t->place, name, strerror(errno));
    if (fd < 0)
        return;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attr, close_later, (void *)(intptr_t)fd) != 0)
        close(fd);
    pthread_attr_destroy(&attr);
}

/* A complete file of that key and size, open; -1 and why not.  For reading: but a GPU's driver pins
 * memory that may be written to, alone. */
static int open_complete(const struct tier *t, const struct tier_master *m, struct error *err)
{
    struct segment_header h;
    struct stat st;
    int mode = m->device == ORDER_DEVICE_CUDA ? O_RDWR : O_RDONLY;
    int fd = openat(t->dir, m->name, mode | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return error_errno(err, "it cannot be opened");
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid()) {
        error_set(err, STATUS_CORRUPT, "it is no file of ours");
        goto fail;
    }
    if (pread(fd, &h, sizeof h, 0) != (ssize_t)sizeof h) {
        error_set(err, STATUS_CORRUPT, "it was cut short");
        goto fail;
    }
    if (segment_check_header(&h, (uint64_t)st.st_size, err) != 0)
        goto fail;
    if (memcmp(h.key, m->key, SEGMENT_KEY) != 0 || (uint64_t)st.st_size != m->bytes) {
        error_set(err, STATUS_CORRUPT, "it is another one's");
        goto fail;
    }
    return fd;
fail:
    close(fd);
    return -1;
}

/* --- rows ------------------------------------------------------------------------------------- */

static void put_row(struct tier *t, struct tier_master *m)
{
    struct db_segment row = {.bytes = m->bytes, .prepare_us = m->prepare_us, .used_us = m->used_us};

    m->told_us = m->used_us;
    if (t->store.put == NULL)
        return;
    snprintf(row.key, sizeof row.key, "%s", m->name);
    snprintf(row.place, sizeof row.place, "%s", t->place);
    snprintf(row.model, sizeof row.model, "%s", m->model);
    t->store.put(t->store.context, &row);
}

static void drop_row(struct tier *t, const char *name)
{
    if (t->store.drop != NULL)
        t->store.drop(t->store.context, name);
}

/* --- life of a master copy -------------------------------------------------------------------- */

static struct tier_master *add(struct tier *t, const char *model)
{
    struct tier_master *m = calloc(1, sizeof *m);

    if (m == NULL)
        return NULL;
    snprintf(m->model, sizeof m->model, "%s", model);
    TAILQ_INSERT_TAIL(&t->masters, m, link);
    return m;
}

static void forget(struct tier *t, struct tier_master *m)
{
    TAILQ_REMOVE(&t->masters, m, link);
    free(m->files);
    free(m);
}

void tier_discard(struct tier *t, struct tier_master *m, int full)
{
    if (m->state == TIER_ABSENT)
        return;
    if (m->state == TIER_COMPLETE)
        drop_row(t, m->name);
    remove_file(t, m->name);
    m->name[0] = '\0';
    m->state = TIER_ABSENT;
    m->done = m->total = 0;
    t->used -= m->bytes;
    if (full)
        m->retry_us = clock_monotonic_us() + RETRY_US;
}

static void evict(struct tier *t, struct tier_master *m)
{
    log_info("model %s: its master copy of %" PRIu64 " MiB gives way", m->model, m->bytes >> 20);
    if (t->evict != NULL)
        t->evict(t->evict_context, m);
    tier_discard(t, m, 0);
    if (m->files == NULL)
        forget(t, m);
}

/* Seconds of preparing that a byte of it saves, over how long it was not used: the least goes. */
static double worth(const struct tier_master *m, int64_t now)
{
    double age = (double)(now > m->used_us ? now - m->used_us : 0) + 1e6;

    if (m->files == NULL)
        return -age; /* no model of this run has asked for it */
    return (double)(m->prepare_us + 1) / (double)(m->bytes + 1) / age;
}

static int may_go(const struct tier_master *m, const struct tier_master *keep)
{
    return m->state == TIER_COMPLETE && !m->pinned && m != keep;
}

/* Evict until so many bytes are free; 0, and none is evicted, if that cannot be. */
static int make_room(struct tier *t, uint64_t bytes, const struct tier_master *keep)
{
    uint64_t room = t->budget > t->used ? t->budget - t->used : 0;
    int64_t now = clock_wall_us();
    struct tier_master *m;

    TAILQ_FOREACH(m, &t->masters, link)
    room += may_go(m, keep) ? m->bytes : 0;
    if (room < bytes)
        return 0;
    while (t->used > t->budget || t->budget - t->used < bytes) {
        struct tier_master *least = NULL;

        TAILQ_FOREACH(m, &t->masters, link)
        {
            if (may_go(m, keep) && (least == NULL || worth(m, now) < worth(least, now)))
                least = m;
        }
        if (least == NULL)
            return 0;
        evict(t, least);
    }
    return 1;
}

/* --- lending ---------------------------------------------------------------------------------- */

/* A file of our own for it, empty. */
static int make_file(struct tier *t, struct tier_master *m)
{
    int fd;

    if (clock_monotonic_us() < m->retry_us || !make_room(t, m->bytes, m))
        return -1;
    snprintf(m->name, sizeof m->name, FRESH "%" PRIu64, ++t->made);
    fd = openat(t->dir, m->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        log_warn("%s/%s: cannot be made: %s", t->place, m->name, strerror(errno));
        m->retry_us = clock_monotonic_us() + RETRY_US;
        m->name[0] = '\0';
        return -1;
    }
    m->state = TIER_FILLING;
    m->done = m->total = 0;
    t->used += m->bytes;
    return fd;
}

enum master_use tier_lend(struct tier *t, struct tier_master *m, int *fd)
{
    struct error err;

    *fd = -1;
    if (m->state == TIER_FILLING)
        return MASTER_NONE;
    if (m->state == TIER_COMPLETE) {
        *fd = open_complete(t, m, &err);
        if (*fd >= 0)
            return MASTER_READ;
        log_warn("model %s: its master copy %s is prepared again: %s", m->model, m->name, err.text);
        tier_discard(t, m, 0);
    }
    *fd = make_file(t, m);
    return *fd >= 0 ? MASTER_FILL : MASTER_NONE;
}

void tier_touch(struct tier *t, struct tier_master *m)
{
    m->used_us = clock_wall_us();
    if (m->state == TIER_COMPLETE && m->used_us - m->told_us >= TOLD_EVERY)
        put_row(t, m);
}

/* --- finding ---------------------------------------------------------------------------------- */

static int same_source(const struct tier_master *m, const struct tier_file *files, uint32_t count)
{
    if (m->file_count != count)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!tier_same_file(&m->files[i], &files[i]))
            return 0;
    }
    return 1;
}

/* A complete one before others. */
static struct tier_master *find_key(const struct tier *t, const uint8_t key[SEGMENT_KEY],
                                    const struct tier_master *but)
{
    struct tier_master *m, *found = NULL;

    TAILQ_FOREACH(m, &t->masters, link)
    {
        if (m != but && m->has_key && memcmp(m->key, key, SEGMENT_KEY) == 0 &&
            (found == NULL || m->state == TIER_COMPLETE))
            found = m;
    }
    return found;
}

/* By its contents if they are known, else by its files. */
static struct tier_master *find(const struct tier *t, const struct tier_file *files, uint32_t count,
                                uint32_t device, uint64_t layout)
{
    uint8_t key[SEGMENT_KEY];
    struct tier_master *m = NULL;

    if (tier_known_key(t, files, count, device, layout, key))
        m = find_key(t, key, NULL);
    if (m != NULL)
        return m;
    TAILQ_FOREACH(m, &t->masters, link)
    {
        if (m->files != NULL && m->device == device && m->layout == layout &&
            same_source(m, files, count))
            break;
    }
    return m;
}

struct tier_master *tier_find(struct tier *t, const char *model, const struct tier_file *files,
                              uint32_t count, uint32_t device, uint64_t layout, uint64_t bytes)
{
    struct tier_master *m;

    if (count == 0 || count > ORDER_FILES_MAX || bytes == 0 || bytes > SEGMENT_MAX)
        return NULL;
    m = find(t, files, count, device, layout);
    if (m != NULL && m->files != NULL)
        return m;
    struct tier_file *copy = malloc(count * sizeof *copy);
    if (copy == NULL)
        return NULL;
    if (m == NULL)
        m = add(t, model);
    if (m == NULL) {
        free(copy);
        return NULL;
    }
    memcpy(copy, files, count * sizeof *copy);
    m->files = copy;
    m->file_count = count;
    m->device = device;
    m->layout = layout;
    if (m->state == TIER_ABSENT)
        m->bytes = segment_file_bytes(bytes);
    m->has_key = m->has_key || tier_known_key(t, files, count, device, layout, m->key);
    return m;
}

/* --- preparing is done ------------------------------------------------------------------------ */

/* Its file under its own name.  -1: it stays as it was. */
static int take_name(struct tier *t, struct tier_master *m, struct error *err)
{
    char fresh[sizeof m->name];
    int fd;

    memcpy(fresh, m->name, sizeof fresh);
    segment_name(m->name, m->key);
    if (renameat(t->dir, fresh, t->dir, m->name) != 0) {
        error_errno(err, "%s/%s", t->place, fresh);
        memcpy(m->name, fresh, sizeof fresh);
        return -1;
    }
    fd = open_complete(t, m, err);
    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

struct tier_master *tier_completed(struct tier *t, struct tier_master *m,
                                   const struct event_master *ev)
{
    struct tier_master *same;
    struct error err = {0};

    if (m->state != TIER_FILLING)
        return m;
    if (ev->files != m->file_count) {
        log_error("model %s: an engine has read %" PRIu32 " files instead of %" PRIu32, m->model,
                  ev->files, m->file_count);
        tier_discard(t, m, 0);
        return m;
    }
    for (uint32_t i = 0; i < m->file_count; i++)
        tier_store_source(t, &m->files[i], ev->hashes[i]);
    segment_key(m->key, ev->hashes, ev->files, m->device, m->layout);
    m->has_key = 1;
    m->prepare_us = (int64_t)ev->us;
    m->used_us = clock_wall_us();
    same = find_key(t, m->key, m);
    if (same != NULL && same->state == TIER_COMPLETE) {
        tier_discard(t, m, 0);
        same->pinned |= m->pinned;
        forget(t, m);
        return same;
    }
    if (take_name(t, m, &err) != 0) {
        log_warn("model %s: its master copy is thrown away: %s", m->model, err.text);
        tier_discard(t, m, 0);
        return m;
    }
    m->state = TIER_COMPLETE;
    m->done = m->total;
    put_row(t, m);
    log_info("model %s: master copy of %" PRIu64 " MiB prepared in %.2f s", m->model,
             m->bytes >> 20, (double)ev->us / 1e6);
    return m;
}

/* --- start and end ---------------------------------------------------------------------------- */

struct tier *tier_create(const char *place, uint64_t budget, const struct tier_store *store,
                         struct error *err)
{
    struct tier *t = calloc(1, sizeof *t);
    struct stat st;

    if (t == NULL) {
        error_set(err, STATUS_NOMEM, "no memory for the host tier");
        return NULL;
    }
    t->dir = -1;
    t->budget = budget;
    if (store != NULL)
        t->store = *store;
    TAILQ_INIT(&t->masters);
    snprintf(t->place, sizeof t->place, "%s", place);
    if (mkdir(place, 0700) != 0 && errno != EEXIST) {
        error_errno(err, "the host tier's folder %s", place);
        goto fail;
    }
    t->dir = open(place, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (t->dir < 0 || fstat(t->dir, &st) != 0) {
        error_errno(err, "the host tier's folder %s", place);
        goto fail;
    }
    if (st.st_uid != geteuid()) {
        error_set(err, STATUS_DENIED,
                  "the host tier's folder %s belongs to uid %u: remove it, or set HostCacheDir=",
                  place, (unsigned)st.st_uid);
        goto fail;
    }
    if (fchmod(t->dir, 0700) != 0) {
        error_errno(err, "the host tier's folder %s", place);
        goto fail;
    }
    return t;
fail:
    tier_destroy(t);
    return NULL;
}

void tier_attach(struct tier *t, const struct db_segment *row)
{
    struct error err = {0};
    struct tier_master *m = NULL;
    uint8_t key[SEGMENT_KEY];
    int fd;

    if (segment_parse_name(key, row->key) != 0 || strcmp(row->place, t->place) != 0) {
        error_set(&err, STATUS_NOT_FOUND, "it is in the folder %s", row->place);
    } else if ((m = add(t, row->model)) == NULL) {
        error_set(&err, STATUS_NOMEM, "no memory");
    } else {
        memcpy(m->key, key, sizeof key);
        m->has_key = 1;
        segment_name(m->name, key);
        m->bytes = row->bytes;
        m->prepare_us = row->prepare_us;
        m->used_us = m->told_us = row->used_us;
        fd = open_complete(t, m, &err);
        if (fd >= 0) {
            close(fd);
            m->state = TIER_COMPLETE;
            t->used += m->bytes;
            return;
        }
    }
    log_warn("model %s: its master copy %s is not attached again: %s", row->model, row->key,
             err.text);
    if (m != NULL)
        forget(t, m);
    drop_row(t, row->key);
}

static int is_named(const struct tier *t, const char *name)
{
    const struct tier_master *m;

    TAILQ_FOREACH(m, &t->masters, link)
    {
        if (m->state != TIER_ABSENT && strcmp(m->name, name) == 0)
            return 1;
    }
    return 0;
}

void tier_sweep(struct tier *t)
{
    uint8_t key[SEGMENT_KEY];
    int fd = openat(t->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    uint32_t count = 0, removed = 0;
    struct tier_master *m;

    if (dir == NULL && fd >= 0)
        close(fd);
    for (struct dirent *e = dir ? readdir(dir) : NULL; e != NULL; e = readdir(dir)) {
        if ((strncmp(e->d_name, FRESH, strlen(FRESH)) == 0 ||
             segment_parse_name(key, e->d_name) == 0) &&
            !is_named(t, e->d_name)) {
            remove_file(t, e->d_name);
            removed++;
        }
    }
    if (dir != NULL)
        closedir(dir);
    (void)make_room(t, 0, NULL);
    TAILQ_FOREACH(m, &t->masters, link)
    count++;
    log_info("host tier %s: %" PRIu32 " master copies, %" PRIu64 " of %" PRIu64 " MiB; %" PRIu32
             " files without a row are removed",
             t->place, count, t->used >> 20, t->budget >> 20, removed);
}

void tier_destroy(struct tier *t)
{
    if (t == NULL)
        return;
    while (!TAILQ_EMPTY(&t->masters))
        forget(t, TAILQ_FIRST(&t->masters));
    free(t->known);
    if (t->dir >= 0)
        close(t->dir);
    free(t);
}

void tier_on_evict(struct tier *t, void (*evicted)(void *context, struct tier_master *m),
                   void *context)
{
    t->evict = evicted;
    t->evict_context = context;
}

const struct tier_masters *tier_all(const struct tier *t)
{
    return &t->masters;
}

const char *tier_folder(const struct tier *t)
{
    return t->place;
}

uint64_t tier_used(const struct tier *t)
{
    return t->used;
}
