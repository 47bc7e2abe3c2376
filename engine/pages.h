/*
 * pages.h - KV pages: slabs of the arena cut into pages of one shape
 *
 * A slab is one handle, or as many consecutive ones as a page needs, cut into pages of one size.
 * Pages of a model hold page_tokens tokens of all layers (kernels.h, struct kv_layout); models of
 * the same page size share slabs.  A new page comes from the fullest slab that has room, so that
 * slabs drain; an empty slab's handles go back to the arena at once.
 */
#ifndef MP_ENGINE_PAGES_H
#define MP_ENGINE_PAGES_H

#include <stdint.h>

#include "engine/arena.h"

struct pages;

struct pages *pages_create(struct arena *a, struct error *err);
/* Gives every slab back, also those with live pages. */
void pages_destroy(struct pages *p);

/* A page of `bytes` (a multiple of 64); NULL if neither a slab nor the arena has room. */
void *pages_take(struct pages *p, uint64_t bytes);
void pages_give(struct pages *p, void *page);

/* Handles of handle_bytes that `count` pages of `bytes` take when no slab exists yet. */
uint64_t pages_handles(uint64_t handle_bytes, uint64_t bytes, uint64_t count);
/* Live pages of a size, and how many there could be: live, free in slabs, and what the arena's free
 * handles would give. */
void pages_count(const struct pages *p, uint64_t bytes, uint32_t *used, uint32_t *total);
/* Live pages of all sizes. */
uint64_t pages_live(const struct pages *p);

#endif
