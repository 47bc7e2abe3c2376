/* arena.c - the memory of an instance, cut into handles */
#include "engine/arena.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct arena {
    int fd;
    uint32_t handles;
    uint32_t free;
    uint8_t *window;
    uint32_t *owner; /* of each handle */
};

static int arena_memory(struct arena *a, struct error *err)
{
    uint64_t bytes = (uint64_t)a->handles * ARENA_HANDLE_BYTES;

    a->fd = memfd_create("modelpool-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (a->fd < 0)
        return error_errno(err, "cannot create the arena");
    if (ftruncate(a->fd, (off_t)bytes) != 0)
        return error_errno(err, "cannot size the arena to %" PRIu64 " bytes", bytes);
    if (fcntl(a->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return error_errno(err, "cannot seal the arena");
    void *window = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, a->fd, 0);
    if (window == MAP_FAILED)
        return error_errno(err, "cannot map the arena of %" PRIu64 " bytes", bytes);
    a->window = window;
    return 0;
}

struct arena *arena_create(uint64_t bytes, struct error *err)
{
    struct arena *a = NULL;
    uint64_t handles = bytes / ARENA_HANDLE_BYTES;

    if (handles == 0 || handles >= UINT32_MAX) {
        error_set(err, STATUS_INVALID,
                  "Memory= of %" PRIu64 " bytes is no size for an instance: at least one handle of "
                  "%" PRIu64 " bytes is needed",
                  bytes, ARENA_HANDLE_BYTES);
        return NULL;
    }
    a = calloc(1, sizeof(*a));
    if (a == NULL)
        goto nomem;
    a->fd = -1;
    a->handles = a->free = (uint32_t)handles;
    a->owner = calloc(handles, sizeof(*a->owner));
    if (a->owner == NULL)
        goto nomem;
    if (arena_memory(a, err) != 0)
        goto fail;
    return a;
nomem:
    error_set(err, STATUS_NOMEM, "no memory for the arena's bookkeeping");
fail:
    arena_destroy(a);
    return NULL;
}

void arena_destroy(struct arena *a)
{
    if (a == NULL)
        return;
    if (a->window != NULL)
        munmap(a->window, (uint64_t)a->handles * ARENA_HANDLE_BYTES);
    if (a->fd >= 0)
        close(a->fd);
    free(a->owner);
    free(a);
}

uint32_t arena_handles(const struct arena *a)
{
    return a->handles;
}

uint32_t arena_held(const struct arena *a, uint32_t owner)
{
    uint32_t held = 0;

    if (owner == ARENA_FREE)
        return a->free;
    for (uint32_t h = 0; h < a->handles; h++)
        held += a->owner[h] == owner;
    return held;
}

uint8_t *arena_window(const struct arena *a)
{
    return a->window;
}

int arena_take(struct arena *a, uint32_t owner, uint32_t *handles, uint32_t count)
{
    uint32_t got = 0;

    if (count > a->free)
        return -1;
    for (uint32_t h = 0; got < count && h < a->handles; h++) {
        if (a->owner[h] != ARENA_FREE)
            continue;
        a->owner[h] = owner;
        handles[got++] = h;
    }
    a->free -= count;
    return 0;
}

int arena_take_run(struct arena *a, uint32_t owner, uint32_t count, uint32_t *first)
{
    uint32_t run = 0;

    if (count == 0 || count > a->free)
        return -1;
    for (uint32_t h = a->handles; h-- > 0;) {
        run = a->owner[h] == ARENA_FREE ? run + 1 : 0;
        if (run < count)
            continue;
        for (uint32_t i = 0; i < count; i++)
            a->owner[h + i] = owner;
        a->free -= count;
        *first = h;
        return 0;
    }
    return -1;
}

void arena_give(struct arena *a, uint32_t owner, uint32_t handle)
{
    if (handle >= a->handles || owner == ARENA_FREE || a->owner[handle] != owner)
        return;
    a->owner[handle] = ARENA_FREE;
    a->free++;
}

void *arena_reserve(uint64_t bytes, struct error *err)
{
    void *range = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (range == MAP_FAILED) {
        error_errno(err, "cannot reserve %" PRIu64 " bytes of address space", bytes);
        return NULL;
    }
    return range;
}

void arena_release(void *range, uint64_t bytes)
{
    if (range != NULL)
        munmap(range, bytes);
}

int arena_map(const struct arena *a, void *range, const uint32_t *handles, uint32_t count,
              struct error *err)
{
    /* Consecutive handles go in one call.  MAP_POPULATE fills the page tables at once instead of
     * by a fault for each 4 KiB while the weights are copied. */
    for (uint32_t i = 0, n; i < count; i += n) {
        for (n = 1; i + n < count && handles[i + n] == handles[i] + n; n++)
            ;
        void *place = (uint8_t *)range + i * ARENA_HANDLE_BYTES;
        void *got = mmap(place, n * ARENA_HANDLE_BYTES, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_FIXED | MAP_POPULATE, a->fd,
                         (off_t)(handles[i] * ARENA_HANDLE_BYTES));
        if (got == MAP_FAILED) {
            error_errno(err, "cannot map %" PRIu32 " handles", n);
            arena_unmap(range, count);
            return -1;
        }
    }
    return 0;
}

void arena_unmap(void *range, uint32_t count)
{
    /* Mapping something else in the same place is atomic: the range never leaves our hands. */
    mmap(range, count * ARENA_HANDLE_BYTES, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

int arena_check(const struct arena *a, struct error *err)
{
    uint32_t free = 0;

    for (uint32_t h = 0; h < a->handles; h++)
        free += a->owner[h] == ARENA_FREE;
    if (free != a->free)
        return error_set(err, STATUS_INTERNAL,
                         "arena counts %" PRIu32 " free handles and has %" PRIu32, a->free, free);
    return 0;
}
