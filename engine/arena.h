/*
 * arena.h - the memory of an instance, cut once into handles that are all alike
 *
 * One memfd of fixed size.  All of it is mapped for ever as the KV window; a model's weights map
 * handles a second time in a virtual range that belongs to the model for ever, so that its pointers
 * stay valid across switches.  Who holds a handle is bookkeeping: there is no border between
 * weights and KV.  Memory is touched, and so taken from the host, at a handle's first use.
 */
#ifndef MP_ENGINE_ARENA_H
#define MP_ENGINE_ARENA_H

#include <stdint.h>

#include "common/error.h"

#define ARENA_HANDLE_BYTES ((uint64_t)2 << 20)

/* Holders of a handle.  Weights of model slot i are ARENA_WEIGHTS + i. */
#define ARENA_FREE    0u
#define ARENA_KV      1u
#define ARENA_WEIGHTS 2u

struct arena;

/* bytes is rounded down to whole handles, at least one: INVALID otherwise. */
struct arena *arena_create(uint64_t bytes, struct error *err);
void arena_destroy(struct arena *a);

uint32_t arena_handles(const struct arena *a);
/* Handles that `owner` holds; ARENA_FREE: that nobody holds. */
uint32_t arena_held(const struct arena *a, uint32_t owner);
/* Start of the window; handle h lies at window + h * ARENA_HANDLE_BYTES. */
uint8_t *arena_window(const struct arena *a);

/* Take `count` handles, lowest numbers first.  -1, and none taken, if fewer are free. */
int arena_take(struct arena *a, uint32_t owner, uint32_t *handles, uint32_t count);
/* Take `count` consecutive handles, highest first (apart from weights, so that runs last).  -1 if
 * there is no such run. */
int arena_take_run(struct arena *a, uint32_t owner, uint32_t count, uint32_t *first);
/* Give back a handle that `owner` holds. */
void arena_give(struct arena *a, uint32_t owner, uint32_t handle);

/* Reserve `bytes` of address space that nothing can be read from; NULL on failure. */
void *arena_reserve(uint64_t bytes, struct error *err);
void arena_release(void *range, uint64_t bytes);
/* Map handles one after the other from the range's start, readable and writable.  On failure
 * the range is unreadable again. */
int arena_map(const struct arena *a, void *range, const uint32_t *handles, uint32_t count,
              struct error *err);
void arena_unmap(void *range, uint32_t count);

/* The bookkeeping agrees with itself: INTERNAL names the handle or count that does not. */
int arena_check(const struct arena *a, struct error *err);

#endif
