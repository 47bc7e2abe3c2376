/*
 * pages.h - KV pages: slabs of the arena cut into pages of one shape
 *
 * A slab is one handle, or as many consecutive ones as a page needs, cut into pages of one size.
 * Pages of a model hold page_tokens tokens of all layers (kernels.h, struct kv_layout); models of
 * the same page size share slabs.  A new page comes from the fullest slab that has room, so that
 * slabs drain; an empty slab's handles go back to the arena at once.  Where slabs are sparse, their
 * pages move together and give handles back (pages_squeeze).
 *
 * A page that no sequence uses now, but whose contents may be wanted again, is idle: it is live,
 * but it counts as room.
 */
#ifndef MP_ENGINE_PAGES_H
#define MP_ENGINE_PAGES_H

#include <stdint.h>

#include "engine/arena.h"

struct pages;

struct pages *pages_create(struct arena *a, struct error *err);
/* Gives every slab back, also those with live pages. */
void pages_destroy(struct pages *p);

struct arena *pages_arena(const struct pages *p);

/* A page of `bytes` (a multiple of 64); NULL if neither a slab nor the arena has room. */
void *pages_take(struct pages *p, uint64_t bytes);
void pages_give(struct pages *p, void *page);

/* Handles of handle_bytes that `count` pages of `bytes` take when no slab exists yet. */
uint64_t pages_handles(uint64_t handle_bytes, uint64_t bytes, uint64_t count);
/* Live pages of a size without the idle ones, and how many there could be: live, free in slabs, and
 * what the arena's free handles, and those of slabs that are idle as a whole, would give. */
void pages_count(const struct pages *p, uint64_t bytes, uint32_t *used, uint32_t *total);
/* Live pages of all sizes; the idle ones among them. */
uint64_t pages_live(const struct pages *p);
uint64_t pages_idle(const struct pages *p);
/* A live page becomes idle, or is in use again. */
void pages_set_idle(struct pages *p, const void *page, int idle);

/* Handles that would come free if all idle pages were given back and the others moved together. */
uint32_t pages_spare(const struct pages *p);
/*
 * Move pages out of the sparsest slabs, by device_copy(), until so many of the arena's handles are
 * free or nothing more is to be had.  Returns how many pages moved.  If any did, everybody who has
 * a page's address asks pages_forward() for the new one; then comes pages_settle().
 */
uint32_t pages_squeeze(struct pages *p, uint32_t handles);
void *pages_forward(const struct pages *p, void *page);
void pages_settle(struct pages *p);

/* The bookkeeping agrees with itself and the arena's: INTERNAL says what does not. */
int pages_check(const struct pages *p, struct error *err);

#endif
