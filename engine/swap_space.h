/*
 * swap_space.h - the host memory that KV pages wait in
 *
 * A GPU copies at full speed from and to pinned memory alone, and pinning takes its time: so it is
 * all taken when the engine starts, and cut into places of whole units as pages come.  A CPU's
 * pages go wherever malloc() finds room.
 */
#ifndef MP_ENGINE_SWAP_SPACE_H
#define MP_ENGINE_SWAP_SPACE_H

#include <stdint.h>

#include "kernels/kernels.h"

#define SWAP_UNIT ((uint64_t)64 << 10)

struct swap_space {
    struct device *device;
    uint8_t *base; /* NULL: there is none */
    uint64_t *map; /* a bit a unit, set: taken */
    uint64_t units;
    uint64_t low; /* all units below are taken */
};

/* `bytes` of the device's host memory, rounded down to units.  NOMEM: the host has not so much. */
int swap_space_open(struct swap_space *s, struct device *d, uint64_t bytes, struct error *err);
/* Also after a failed or no open(). */
void swap_space_close(struct swap_space *s);
/* The first place of so many bytes.  NULL: none is left. */
void *swap_space_take(struct swap_space *s, uint64_t bytes);
void swap_space_give(struct swap_space *s, void *place, uint64_t bytes);

#endif
