/* arena.c - the memory of an instance, cut into handles */
#include "engine/arena.h"

#include <inttypes.h>
#include <stdlib.h>

#include "kernels/collective.h"

struct arena {
    struct device *device;
    struct device *devices[COLLECTIVE_RANKS_MAX]; /* of all ranks: the first is `device` */
    uint8_t *windows[COLLECTIVE_RANKS_MAX];
    uint32_t ranks;
    uint64_t handle_bytes;
    uint32_t handles;
    uint32_t free;
    uint8_t *window;
    uint32_t *owner; /* of each handle */
};

/* All of a rank's memory, mapped in order. */
static int map_window(struct arena *a, struct device *d, uint8_t **window, struct error *err)
{
    uint32_t *all = malloc(a->handles * sizeof(*all));
    int rv = -1;

    if (all == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for the arena's bookkeeping");
    for (uint32_t h = 0; h < a->handles; h++)
        all[h] = h;
    *window = device_reserve(d, a->handles * a->handle_bytes, err);
    if (*window == NULL)
        goto out;
    if (device_map(d, *window, all, a->handles, err) != 0) {
        device_release(d, *window, a->handles * a->handle_bytes);
        *window = NULL;
        goto out;
    }
    rv = 0;
out:
    free(all);
    return rv;
}

int arena_add_rank(struct arena *a, struct device *d, struct error *err)
{
    uint8_t *window = NULL;

    if (a->ranks == COLLECTIVE_RANKS_MAX || device_handle_bytes(d) != a->handle_bytes)
        return error_set(err, STATUS_INVALID, "%s cannot be rank %" PRIu32 " of this instance",
                         device_name(d), a->ranks);
    if (device_pool(d, a->handles, err) != 0 || map_window(a, d, &window, err) != 0)
        return -1;
    a->devices[a->ranks] = d;
    a->windows[a->ranks++] = window;
    return 0;
}

struct arena *arena_create(struct device *d, uint64_t bytes, struct error *err)
{
    uint64_t handle_bytes = device_handle_bytes(d), handles = bytes / handle_bytes;
    struct arena *a = NULL;

    if (handles == 0 || handles >= UINT32_MAX) {
        error_set(err, STATUS_INVALID,
                  "Memory= of %" PRIu64 " bytes is no size for an instance: at least one handle of "
                  "%" PRIu64 " bytes is needed",
                  bytes, handle_bytes);
        return NULL;
    }
    a = calloc(1, sizeof(*a));
    if (a == NULL)
        goto nomem;
    a->device = d;
    a->handle_bytes = handle_bytes;
    a->handles = a->free = (uint32_t)handles;
    a->owner = calloc(handles, sizeof(*a->owner));
    if (a->owner == NULL)
        goto nomem;
    if (arena_add_rank(a, d, err) != 0)
        goto fail;
    a->window = a->windows[0];
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
    for (uint32_t i = 0; i < a->ranks; i++) {
        device_unmap(a->devices[i], a->windows[i], a->handles);
        device_release(a->devices[i], a->windows[i], a->handles * a->handle_bytes);
    }
    free(a->owner);
    free(a);
}

uint32_t arena_ranks(const struct arena *a)
{
    return a->ranks;
}

struct device *arena_rank_device(const struct arena *a, uint32_t rank)
{
    return a->devices[rank];
}

void *arena_rank_page(const struct arena *a, uint32_t rank, void *page)
{
    return page == NULL ? NULL : a->windows[rank] + ((uint8_t *)page - a->window);
}

uint64_t arena_bytes(const struct arena *a, uint64_t handles)
{
    return handles * a->handle_bytes * a->ranks;
}

void arena_copy(struct arena *a, void *to, const void *from, uint64_t bytes)
{
    uint64_t at = (uint64_t)((uint8_t *)to - a->window);
    uint64_t source = (uint64_t)((const uint8_t *)from - a->window);

    for (uint32_t i = 0; i < a->ranks; i++)
        device_copy(a->devices[i], a->windows[i] + at, a->windows[i] + source, bytes);
}

struct device *arena_device(const struct arena *a)
{
    return a->device;
}

uint64_t arena_handle_bytes(const struct arena *a)
{
    return a->handle_bytes;
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

int arena_take_again(struct arena *a, uint32_t owner, uint32_t *handles, uint32_t count)
{
    if (count > a->free)
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        if (handles[i] < a->handles && a->owner[handles[i]] == ARENA_FREE)
            a->owner[handles[i]] = owner;
        else
            handles[i] = UINT32_MAX;
    }
    for (uint32_t i = 0, h = 0; i < count; i++) {
        if (handles[i] != UINT32_MAX)
            continue;
        while (a->owner[h] != ARENA_FREE)
            h++;
        a->owner[h] = owner;
        handles[i] = h;
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
