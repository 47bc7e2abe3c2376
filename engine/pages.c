/* pages.c - KV pages in slabs of the arena */
#include "engine/pages.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The smallest page that is cut: bounds the bitmap of a slab. */
#define PAGE_BYTES_MIN 1024u
#define NO_SLAB        UINT32_MAX
/* Sizes of pages that pages_spare() tells apart: slabs of further ones count as they lie. */
#define SIZES_MAX 64u

struct slab {
    uint64_t bytes;    /* of a page; 0: this handle starts no slab */
    uint32_t capacity; /* pages */
    uint32_t used, idle;
    uint64_t *map;  /* a bit a page, set: live; then as many, set: idle; allocated once, kept */
    void **forward; /* [capacity]: where its pages are now, from their move to pages_settle() */
    uint64_t moved_bytes; /* of such a page */
};

struct pages {
    struct arena *arena;
    struct slab *slabs; /* by first handle */
    uint32_t *slab_of;  /* first handle of the slab that each handle is in; NO_SLAB */
    uint32_t *left;     /* the same of the slab that pages have left; NO_SLAB */
    uint32_t handles;
    uint64_t handle_bytes;
    uint64_t live, idle;
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
    p->left = malloc(p->handles * sizeof(*p->left));
    if (p->slabs == NULL || p->slab_of == NULL || p->left == NULL)
        goto nomem;
    for (uint32_t h = 0; h < p->handles; h++)
        p->slab_of[h] = p->left[h] = NO_SLAB;
    return p;
nomem:
    error_set(err, STATUS_NOMEM, "no memory for the bookkeeping of KV pages");
    pages_destroy(p);
    return NULL;
}

struct arena *pages_arena(const struct pages *p)
{
    return p->arena;
}

static uint32_t slab_handles(uint64_t handle_bytes, uint64_t bytes)
{
    return (uint32_t)((bytes + handle_bytes - 1) / handle_bytes);
}

static uint32_t slab_capacity(uint64_t handle_bytes, uint64_t bytes)
{
    return (uint32_t)(slab_handles(handle_bytes, bytes) * handle_bytes / bytes);
}

/* Words of a slab's map of live pages: of the smallest pages there may be most. */
static uint64_t map_words(const struct pages *p)
{
    return (p->handle_bytes / PAGE_BYTES_MIN + 63) / 64;
}

static uint64_t map_bit(uint64_t page)
{
    return (uint64_t)1 << page % 64;
}

/* The word of the map that says whether a page is idle. */
static uint64_t *idle_word(const struct pages *p, const struct slab *s, uint64_t page)
{
    return &s->map[map_words(p) + page / 64];
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
        free(p->slabs[h].forward);
    }
    free(p->slabs);
    free(p->slab_of);
    free(p->left);
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
        s->map = malloc(2 * map_words(p) * sizeof(*s->map));
    if (s->map == NULL) {
        for (uint32_t h = first; h < first + handles; h++)
            arena_give(p->arena, ARENA_KV, h);
        return NULL;
    }
    memset(s->map, 0, 2 * map_words(p) * sizeof(*s->map));
    s->bytes = bytes;
    s->capacity = slab_capacity(p->handle_bytes, bytes);
    s->used = s->idle = 0;
    for (uint32_t h = first; h < first + handles; h++)
        p->slab_of[h] = first;
    return s;
}

/* The fullest slab of a size that has room, and is another than `but`. */
static struct slab *fullest(const struct pages *p, uint64_t bytes, const struct slab *but)
{
    struct slab *best = NULL;

    for (uint32_t h = 0; h < p->handles; h++) {
        struct slab *s = &p->slabs[h];
        if (s->bytes == bytes && s->used < s->capacity && s != but &&
            (best == NULL || s->used > best->used))
            best = s;
    }
    return best;
}

static uint8_t *page_at(const struct pages *p, const struct slab *s, uint64_t i)
{
    return arena_window(p->arena) + (uint64_t)(s - p->slabs) * p->handle_bytes + i * s->bytes;
}

/* The first free page of a slab that has one. */
static uint8_t *take_from(struct pages *p, struct slab *s)
{
    uint32_t i = 0;

    while (s->map[i / 64] == UINT64_MAX)
        i += 64;
    i += (uint32_t)__builtin_ctzll(~s->map[i / 64]);
    s->map[i / 64] |= map_bit(i);
    s->used++;
    p->live++;
    return page_at(p, s, i);
}

void *pages_take(struct pages *p, uint64_t bytes)
{
    struct slab *s;

    if (bytes < PAGE_BYTES_MIN)
        bytes = PAGE_BYTES_MIN;
    s = fullest(p, bytes, NULL);
    if (s == NULL)
        s = slab_take(p, bytes);
    return s == NULL ? NULL : take_from(p, s);
}

/* The slab of a live page, and its number there. */
static struct slab *slab_of(const struct pages *p, const void *page, uint64_t *i)
{
    uint64_t offset = (uint64_t)((const uint8_t *)page - arena_window(p->arena));
    uint32_t first = p->slab_of[offset / p->handle_bytes];

    *i = (offset - first * p->handle_bytes) / p->slabs[first].bytes;
    return &p->slabs[first];
}

void pages_set_idle(struct pages *p, const void *page, int idle)
{
    uint64_t i;
    struct slab *s = slab_of(p, page, &i);
    uint64_t *word = idle_word(p, s, i);

    if (((*word & map_bit(i)) != 0) == (idle != 0))
        return;
    *word ^= map_bit(i);
    s->idle = idle ? s->idle + 1 : s->idle - 1;
    p->idle = idle ? p->idle + 1 : p->idle - 1;
}

void pages_give(struct pages *p, void *page)
{
    uint64_t i;
    struct slab *s = slab_of(p, page, &i);

    pages_set_idle(p, page, 0);
    s->map[i / 64] &= ~map_bit(i);
    s->used--;
    p->live--;
    if (s->used == 0)
        slab_give(p, (uint32_t)(s - p->slabs));
}

uint64_t pages_handles(uint64_t handle_bytes, uint64_t bytes, uint64_t count)
{
    uint64_t capacity;

    if (bytes < PAGE_BYTES_MIN)
        bytes = PAGE_BYTES_MIN;
    capacity = slab_capacity(handle_bytes, bytes);
    return (count + capacity - 1) / capacity * slab_handles(handle_bytes, bytes);
}

/* Handles that one slab's going would give: all of its pages are idle. */
static uint32_t idle_handles(const struct pages *p, const struct slab *s)
{
    return s->bytes != 0 && s->used == s->idle ? slab_handles(p->handle_bytes, s->bytes) : 0;
}

void pages_count(const struct pages *p, uint64_t bytes, uint32_t *used, uint32_t *total)
{
    uint64_t room = 0;
    uint32_t free = arena_held(p->arena, ARENA_FREE);

    if (bytes < PAGE_BYTES_MIN)
        bytes = PAGE_BYTES_MIN;
    *used = 0;
    for (uint32_t h = 0; h < p->handles; h++) {
        const struct slab *s = &p->slabs[h];
        if (s->bytes != bytes) {
            free += idle_handles(p, s);
            continue;
        }
        *used += s->used - s->idle;
        room += s->capacity;
    }
    room += (uint64_t)(free / slab_handles(p->handle_bytes, bytes)) *
            slab_capacity(p->handle_bytes, bytes);
    *total = room > UINT32_MAX ? UINT32_MAX : (uint32_t)room;
}

uint64_t pages_live(const struct pages *p)
{
    return p->live;
}

uint64_t pages_idle(const struct pages *p)
{
    return p->idle;
}

uint32_t pages_spare(const struct pages *p)
{
    struct {
        uint64_t bytes, used, slabs;
    } sizes[SIZES_MAX];
    uint32_t count = 0, spare = 0;

    for (uint32_t h = 0; h < p->handles; h++) {
        const struct slab *s = &p->slabs[h];
        uint32_t i = 0;
        while (i < count && sizes[i].bytes != s->bytes)
            i++;
        if (s->bytes == 0)
            continue;
        if (i == SIZES_MAX) {
            spare += idle_handles(p, s);
            continue;
        }
        if (i == count)
            memset(&sizes[count++], 0, sizeof(sizes[0]));
        sizes[i].bytes = s->bytes;
        sizes[i].used += s->used - s->idle;
        sizes[i].slabs++;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint64_t capacity = slab_capacity(p->handle_bytes, sizes[i].bytes);
        uint64_t slabs = sizes[i].slabs - (sizes[i].used + capacity - 1) / capacity;
        spare += (uint32_t)slabs * slab_handles(p->handle_bytes, sizes[i].bytes);
    }
    return spare;
}

/* --- moving pages together -------------------------------------------------------------------- */

/* The other slabs of its size have room for all of its pages. */
static int can_leave(const struct pages *p, const struct slab *s)
{
    uint64_t room = 0;

    for (uint32_t h = 0; h < p->handles && room < s->used; h++)
        if (p->slabs[h].bytes == s->bytes && &p->slabs[h] != s)
            room += p->slabs[h].capacity - p->slabs[h].used;
    return room >= s->used;
}

/* The slab whose pages are the fewest bytes to copy; NULL: none can go. */
static struct slab *sparsest(const struct pages *p)
{
    struct slab *best = NULL;

    for (uint32_t h = 0; h < p->handles; h++) {
        struct slab *s = &p->slabs[h];
        if (s->bytes != 0 && s->used < s->capacity &&
            (best == NULL || s->used * s->bytes < best->used * best->bytes) && can_leave(p, s))
            best = s;
    }
    return best;
}

/* Its pages go to the fullest others, and its handles to the arena.  -1: no memory. */
static int leave(struct pages *p, struct slab *s)
{
    uint32_t first = (uint32_t)(s - p->slabs), handles = slab_handles(p->handle_bytes, s->bytes);

    s->forward = calloc(s->capacity, sizeof(*s->forward));
    if (s->forward == NULL)
        return -1;
    for (uint64_t i = 0; i < s->capacity; i++) {
        if ((s->map[i / 64] & map_bit(i)) == 0)
            continue;
        int idle = (*idle_word(p, s, i) & map_bit(i)) != 0;
        s->forward[i] = take_from(p, fullest(p, s->bytes, s));
        arena_copy(p->arena, s->forward[i], page_at(p, s, i), s->bytes);
        pages_set_idle(p, s->forward[i], idle);
    }
    p->live -= s->used;
    p->idle -= s->idle;
    for (uint32_t h = first; h < first + handles; h++)
        p->left[h] = first;
    s->moved_bytes = s->bytes;
    slab_give(p, first);
    return 0;
}

uint32_t pages_squeeze(struct pages *p, uint32_t handles)
{
    uint32_t moved = 0;

    while (arena_held(p->arena, ARENA_FREE) < handles) {
        struct slab *s = sparsest(p);
        uint32_t used = s == NULL ? 0 : s->used;
        if (s == NULL || leave(p, s) != 0)
            break;
        moved += used;
    }
    return moved;
}

void *pages_forward(const struct pages *p, void *page)
{
    for (;;) {
        uint64_t offset = (uint64_t)((uint8_t *)page - arena_window(p->arena));
        uint32_t first = p->left[offset / p->handle_bytes];
        if (first == NO_SLAB)
            return page;
        const struct slab *s = &p->slabs[first];
        page = s->forward[(offset - first * p->handle_bytes) / s->moved_bytes];
    }
}

void pages_settle(struct pages *p)
{
    for (uint32_t h = 0; h < p->handles; h++) {
        p->left[h] = NO_SLAB;
        free(p->slabs[h].forward);
        p->slabs[h].forward = NULL;
    }
}

/* --- checking --------------------------------------------------------------------------------- */

int pages_check(const struct pages *p, struct error *err)
{
    uint64_t live = 0, idle = 0;
    uint32_t held = 0;

    for (uint32_t h = 0; h < p->handles; h++) {
        const struct slab *s = &p->slabs[h];
        uint32_t used = 0, unused = 0;
        held += p->slab_of[h] != NO_SLAB;
        if (s->bytes == 0)
            continue;
        for (uint64_t w = 0; w < map_words(p); w++) {
            used += (uint32_t)__builtin_popcountll(s->map[w]);
            unused += (uint32_t)__builtin_popcountll(s->map[w] & s->map[map_words(p) + w]);
        }
        if (s->used == 0 || used != s->used || unused != s->idle)
            return error_set(err, STATUS_INTERNAL,
                             "slab %" PRIu32 " counts %" PRIu32 " pages, %" PRIu32
                             " of them idle, and has %" PRIu32 " and %" PRIu32,
                             h, s->used, s->idle, used, unused);
        live += used;
        idle += unused;
    }
    if (live != p->live || idle != p->idle || held != arena_held(p->arena, ARENA_KV))
        return error_set(err, STATUS_INTERNAL,
                         "%" PRIu64 " pages and %" PRIu64 " idle ones are counted, %" PRIu64
                         " and %" PRIu64 " are there, in %" PRIu32 " of %" PRIu32 " handles",
                         p->live, p->idle, live, idle, held, arena_held(p->arena, ARENA_KV));
    return arena_check(p->arena, err);
}
