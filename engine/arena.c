/* arena.c - the memory of an instance, cut into handles */
#include "engine/arena.h"

#include <inttypes.h>
#include <stdlib.h>

struct arena {
    struct device *device;
    uint64_t handle_bytes;
    uint32_t handles;
    uint32_t free;
    uint8_t *window;
    uint32_t *owner; /* of each handle */
};

/* Everything, mapped in order. */
static int map_window(struct arena *a, struct error *err)
{
    uint32_t *all = malloc(a->handles * sizeof(*all));
    int rv = -1;

    if (all == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for the arena's bookkeeping");
    for (uint32_t h = 0; h < a->handles; h++)
        all[h] = h;
    a->window = device_reserve(a->device, a->handles * a->handle_bytes, err);
    if (a->window == NULL)
        goto out;
    if (device_map(a->device, a->window, all, a->handles, err) != 0) {
        device_release(a->device, a->window, a->handles * a->handle_bytes);
        a->window = NULL;
        goto out;
    }
    rv = 0;
out:
    free(all);
    return rv;
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
    if (device_pool(d, a->handles, err) != 0 || map_window(a, err) != 0)
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
    if (a->window != NULL) {
        device_unmap(a->device, a->window, a->handles);
        device_release(a->device, a->window, a->handles * a->handle_bytes);
    }
    free(a->owner);
    free(a);
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
