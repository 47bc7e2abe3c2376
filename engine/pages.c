/* pages.c - KV pages in slabs of the arena */
#include "engine/pages.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* The smallest page that is cut: bounds the bitmap of a slab. */
#define PAGE_BYTES_MIN 1024u
#define NO_SLAB        UINT32_MAX

struct slab {
    uint64_t bytes;    /* of a page; 0: this handle starts no slab */
    uint32_t capacity; /* pages */
    uint32_t used;
    uint64_t *map; /* a bit a page, set: live; allocated at the first use, kept */
};

struct pages {
    struct arena *arena;
    struct slab *slabs; /* by first handle */
    uint32_t *slab_of;  /* first handle of the slab that each handle is in; NO_SLAB */
    uint32_t handles;
    uint64_t handle_bytes;
    uint64_t live;
};

struct pages *pages_create(struct arena *a, struct error *err)
{
    struct pages *p = calloc(1, sizeof(*p));

    if (p == NULL)
        goto nomem;
    p->arena = a;
    p->handles = arena_handles(a);
    p->handle_bytes = arena_handle_bytes(a);
    p->slabs = calloc(p->handles, sizeof(*p->slabs));
    p->slab_of = malloc(p->handles * sizeof(*p->slab_of));
    if (p->slabs == NULL || p->slab_of == NULL)
        goto nomem;
    for (uint32_t h = 0; h < p->handles; h++)
        p->slab_of[h] = NO_SLAB;
    return p;
nomem:
    error_set(err, STATUS_NOMEM, "no memory for the bookkeeping of KV pages");
    pages_destroy(p);
    return NULL;
}

static uint32_t slab_handles(uint64_t handle_bytes, uint64_t bytes)
{
    return (uint32_t)((bytes + handle_bytes - 1) / handle_bytes);
}

static uint32_t slab_capacity(uint64_t handle_bytes, uint64_t bytes)
{
    return (uint32_t)(slab_handles(handle_bytes, bytes) * handle_bytes / bytes);
}

/* Bytes of a slab's map: of the smallest pages there may be most. */
static uint64_t map_bytes(const struct pages *p)
{
    return p->handle_bytes / PAGE_BYTES_MIN / CHAR_BIT;
}

static void slab_give(struct pages *p, uint32_t first)
{
    struct slab *s = &p->slabs[first];
    uint32_t handles = slab_handles(p->handle_bytes, s->bytes);

    for (uint32_t h = first; h < first + handles; h++) {
        p->slab_of[h] = NO_SLAB;
        arena_give(p->arena, ARENA_KV, h);
    }
    s->bytes = 0;
}

void pages_destroy(struct pages *p)
{
    if (p == NULL)
        return;
    for (uint32_t h = 0; p->slabs != NULL && p->slab_of != NULL && h < p->handles; h++) {
        if (p->slabs[h].bytes != 0)
            slab_give(p, h);
        free(p->slabs[h].map);
    }
    free(p->slabs);
    free(p->slab_of);
    free(p);
}

/* A new slab for pages of a size; NULL if the arena has no run of free handles for it. */
static struct slab *slab_take(struct pages *p, uint64_t bytes)
{
    uint32_t handles = slab_handles(p->handle_bytes, bytes);
    uint32_t first;

    if (arena_take_run(p->arena, ARENA_KV, handles, &first) != 0)
        return NULL;
    struct slab *s = &p->slabs[first];
    if (s->map == NULL)
        s->map = malloc(map_bytes(p));
    if (s->map == NULL) {
        for (uint32_t h = first; h < first + handles; h++)
            arena_give(p->arena, ARENA_KV, h);
        return NULL;
    }
    memset(s->map, 0, map_bytes(p));
    s->bytes = bytes;
    s->capacity = slab_capacity(p->handle_bytes, bytes);
    s->used = 0;
    for (uint32_t h = first; h < first + handles; h++)
        p->slab_of[h] = first;
    return s;
}

void *pages_take(struct pages *p, uint64_t bytes)
{
    struct slab *best = NULL;

    if (bytes < PAGE_BYTES_MIN)
        bytes = PAGE_BYTES_MIN;
    for (uint32_t h = 0; h < p->handles; h++) {
        struct slab *s = &p->slabs[h];
        if (s->bytes == bytes && s->used < s->capacity && (best == NULL || s->used > best->used))
            best = s;
    }
    if (best == NULL)
        best = slab_take(p, bytes);
    if (best == NULL)
        return NULL;
    uint32_t i = 0;
    while (best->map[i / 64] == UINT64_MAX)
        i += 64;
    i += (uint32_t)__builtin_ctzll(~best->map[i / 64]);
    best->map[i / 64] |= (uint64_t)1 << (i % 64);
    best->used++;
    p->live++;
    return arena_window(p->arena) + (uint64_t)(best - p->slabs) * p->handle_bytes + i * best->bytes;
}

void pages_give(struct pages *p, void *page)
{
    uint64_t offset = (uint64_t)((uint8_t *)page - arena_window(p->arena));
    uint32_t first = p->slab_of[offset / p->handle_bytes];
    struct slab *s = &p->slabs[first];
    uint64_t i = (offset - first * p->handle_bytes) / s->bytes;

    s->map[i / 64] &= ~((uint64_t)1 << (i % 64));
    s->used--;
    p->live--;
    if (s->used == 0)
        slab_give(p, first);
}

uint64_t pages_handles(uint64_t handle_bytes, uint64_t bytes, uint64_t count)
{
    uint64_t capacity;

    if (bytes < PAGE_BYTES_MIN)
        bytes = PAGE_BYTES_MIN;
    capacity = slab_capacity(handle_bytes, bytes);
    return (count + capacity - 1) / capacity * slab_handles(handle_bytes, bytes);
}

void pages_count(const struct pages *p, uint64_t bytes, uint32_t *used, uint32_t *total)
{
    uint64_t room;

    if (bytes < PAGE_BYTES_MIN)
        bytes = PAGE_BYTES_MIN;
    room = (uint64_t)(arena_held(p->arena, ARENA_FREE) / slab_handles(p->handle_bytes, bytes)) *
           slab_capacity(p->handle_bytes, bytes);
    *used = 0;
    for (uint32_t h = 0; h < p->handles; h++) {
        if (p->slabs[h].bytes != bytes)
            continue;
        *used += p->slabs[h].used;
        room += p->slabs[h].capacity;
    }
    *total = room > UINT32_MAX ? UINT32_MAX : (uint32_t)room;
}

uint64_t pages_live(const struct pages *p)
{
    return p->live;
}
