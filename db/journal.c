#include "db/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x314c4e524a504d6dull /* "mMPJRNL1" in memory order of a little-endian host */

struct slot {
    _Atomic int64_t row; /* 0: free */
    _Atomic uint32_t delivered;
    uint32_t reserved;
};

struct layout {
    uint64_t magic;
    uint32_t slots;
    uint32_t slot_bytes;
    struct slot slot[JOURNAL_SLOTS];
};

struct journal {
    struct layout *map;
    pthread_mutex_t lock; /* guards next and the taking of slots */
    uint32_t next;        /* where the search for a free slot begins */
};

static int check_layout(struct layout *map, int is_new, const char *path, struct error *err)
{
    /* A magic of zero is a file whose making was cut short: nothing was ever in it. */
    if (is_new || map->magic == 0) {
        map->slots = JOURNAL_SLOTS;
        map->slot_bytes = sizeof(struct slot);
        map->magic = MAGIC;
    } else if (map->magic != MAGIC || map->slots != JOURNAL_SLOTS ||
               map->slot_bytes != sizeof(struct slot)) {
        return error_set(err, STATUS_CORRUPT,
                         "%s is no journal of this release: move it away; requests that were open "
                         "are then closed without their last tokens",
                         path);
    }
    return 0;
}

/* The file at its full length, with blocks behind every page: a full disk must show here as an
 * error, and not later as a SIGBUS. */
static int open_file(const char *path, int *is_new, struct error *err)
{
    struct stat st;
    int rc, fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_errno(err, "cannot open %s", path);
    if (fstat(fd, &st)) {
        error_errno(err, "%s", path);
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        error_set(err, STATUS_CORRUPT, "%s is no plain file: move it away", path);
        goto fail;
    }
    *is_new = st.st_size == 0;
    if (!*is_new && st.st_size != (off_t)sizeof(struct layout)) {
        error_set(err, STATUS_CORRUPT, "%s has %lld bytes, a journal has %zu: move it away", path,
                  (long long)st.st_size, sizeof(struct layout));
        goto fail;
    }
    if ((rc = posix_fallocate(fd, 0, (off_t)sizeof(struct layout)))) {
        errno = rc;
        error_errno(err, "cannot reserve %zu bytes for %s", sizeof(struct layout), path);
        if (*is_new)
            unlink(path);
        goto fail;
    }
    return fd;
fail:
    close(fd);
    return -1;
}

struct journal *journal_open(const char *path, struct error *err)
{
    int is_new = 0, fd = open_file(path, &is_new, err);
    if (fd < 0)
        return NULL;
    struct journal *j = calloc(1, sizeof *j);
    void *map = mmap(NULL, sizeof(struct layout), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!j || map == MAP_FAILED)
        error_errno(err, "cannot map %s", path);
    close(fd);
    if (!j || map == MAP_FAILED || check_layout(map, is_new, path, err)) {
        if (map != MAP_FAILED)
            munmap(map, sizeof(struct layout));
        free(j);
        return NULL;
    }
    j->map = map;
    pthread_mutex_init(&j->lock, NULL);
    return j;
}

void journal_close(struct journal *j)
{
    if (!j)
        return;
    munmap(j->map, sizeof(struct layout));
    pthread_mutex_destroy(&j->lock);
    free(j);
}

int journal_take(struct journal *j, int64_t row, struct error *err)
{
    int taken = -1;
    if (row <= 0)
        return error_set(err, STATUS_INVALID, "%lld is no ledger row", (long long)row);
    pthread_mutex_lock(&j->lock);
    for (uint32_t i = 0; i < JOURNAL_SLOTS && taken < 0; i++) {
        uint32_t at = (j->next + i) % JOURNAL_SLOTS;
        struct slot *s = &j->map->slot[at];
        if (atomic_load(&s->row) == 0) {
            /* Count before row: a slot that has a row has its own count. */
            atomic_store(&s->delivered, 0);
            atomic_store(&s->row, row);
            j->next = (at + 1) % JOURNAL_SLOTS;
            taken = (int)at;
        }
    }
    pthread_mutex_unlock(&j->lock);
    if (taken < 0)
        return error_set(err, STATUS_EXHAUSTED, "%u requests are open, more are not accepted",
                         JOURNAL_SLOTS);
    return taken;
}

void journal_set(struct journal *j, int slot, uint32_t delivered)
{
    atomic_store_explicit(&j->map->slot[slot].delivered, delivered, memory_order_release);
}

void journal_release(struct journal *j, int slot)
{
    atomic_store(&j->map->slot[slot].row, 0);
}

int64_t journal_find(const struct journal *j, int64_t row)
{
    for (uint32_t i = 0; i < JOURNAL_SLOTS && row > 0; i++)
        if (atomic_load(&j->map->slot[i].row) == row)
            return atomic_load(&j->map->slot[i].delivered);
    return -1;
}

void journal_clear(struct journal *j)
{
    for (uint32_t i = 0; i < JOURNAL_SLOTS; i++)
        atomic_store(&j->map->slot[i].row, 0);
}

int journal_sync(struct journal *j, struct error *err)
{
    if (msync(j->map, sizeof(struct layout), MS_SYNC))
        return error_errno(err, "cannot sync the journal");
    return 0;
}
