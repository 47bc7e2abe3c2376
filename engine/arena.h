/*
 * arena.h - the memory of an instance, cut once into handles that are all alike
 *
 * The device's physical memory.  All of it is mapped for ever as the KV window; a model's weights
 * map handles a second time in a virtual range that belongs to the model for ever, so that its
 * pointers stay valid across switches.  Who holds a handle is bookkeeping: there is no border
 * between weights and KV.  On a CPU memory is touched, and so taken from the host, at a handle's
 * first use.
 */
#ifndef MP_ENGINE_ARENA_H
#define MP_ENGINE_ARENA_H

#include <stdint.h>

#include "common/error.h"
#include "kernels/kernels.h"

/* Holders of a handle.  Weights of model slot i are ARENA_WEIGHTS + i. */
#define ARENA_FREE    0u
#define ARENA_KV      1u
#define ARENA_WEIGHTS 2u

struct arena;

/*
 * An instance of several ranks has as many devices, whose memories are cut alike: a handle is then
 * one on each of them, a page lies at the same place in each one's window, and the bookkeeping here
 * is for all.  Addresses are rank 0's where nothing else is said.
 */

/* Of the device, which outlives it and has one arena at most.  bytes is rounded down to whole
 * handles, at least one: INVALID otherwise. */
struct arena *arena_create(struct device *d, uint64_t bytes, struct error *err);
void arena_destroy(struct arena *a);

/* One more rank, whose device outlives the arena, too. */
int arena_add_rank(struct arena *a, struct device *d, struct error *err);
uint32_t arena_ranks(const struct arena *a);
struct device *arena_rank_device(const struct arena *a, uint32_t rank);
/* Where a page of the window lies on that rank; of NULL: NULL. */
void *arena_rank_page(const struct arena *a, uint32_t rank, void *page);
/* Bytes of so many handles, on all ranks. */
uint64_t arena_bytes(const struct arena *a, uint64_t handles);
/* device_copy() between places of the window, on all ranks. */
void arena_copy(struct arena *a, void *to, const void *from, uint64_t bytes);

struct device *arena_device(const struct arena *a);
uint64_t arena_handle_bytes(const struct arena *a);
uint32_t arena_handles(const struct arena *a);
/* Handles that `owner` holds; ARENA_FREE: that nobody holds. */
uint32_t arena_held(const struct arena *a, uint32_t owner);
/* Start of the window; handle h lies at window + h * handle bytes. */
uint8_t *arena_window(const struct arena *a);

/* Take `count` handles, lowest numbers first.  -1, and none taken, if fewer are free. */
int arena_take(struct arena *a, uint32_t owner, uint32_t *handles, uint32_t count);
/* The same, but where handle i of those given is free, it stays handle i. */
int arena_take_again(struct arena *a, uint32_t owner, uint32_t *handles, uint32_t count);
/* Take `count` consecutive handles, highest first (apart from weights, so that runs last).  -1 if
 * there is no such run. */
int arena_take_run(struct arena *a, uint32_t owner, uint32_t count, uint32_t *first);
/* Give back a handle that `owner` holds. */
void arena_give(struct arena *a, uint32_t owner, uint32_t handle);

/* The bookkeeping agrees with itself: INTERNAL names the handle or count that does not. */
int arena_check(const struct arena *a, struct error *err);

#endif
