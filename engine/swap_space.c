/* swap_space.c - the host memory that KV pages wait in */
#include "engine/swap_space.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int swap_space_open(struct swap_space *s, struct device *d, uint64_t bytes, struct error *err)
{
    memset(s, 0, sizeof(*s));
    s->device = d;
    s->units = bytes / SWAP_UNIT;
    s->map = calloc(s->units / 64 + 1, sizeof(*s->map));
    if (s->map == NULL) {
        s->units = 0;
        return error_set(err, STATUS_NOMEM, "no memory for the table of %" PRIu64 " MiB for KV",
                         bytes >> 20);
    }
    if (s->units > 0)
        s->base = device_host_alloc(d, s->units * SWAP_UNIT, err);
    if (s->base != NULL || s->units == 0)
        return 0;
    swap_space_close(s);
    return -1;
}

void swap_space_close(struct swap_space *s)
{
    if (s->base != NULL)
        device_host_free(s->device, s->base);
    free(s->map);
    memset(s, 0, sizeof(*s));
}

static uint64_t units_of(uint64_t bytes)
{
    return (bytes + SWAP_UNIT - 1) / SWAP_UNIT;
}

static int is_taken(const struct swap_space *s, uint64_t unit)
{
    return (int)(s->map[unit / 64] >> unit % 64 & 1);
}

static void set(struct swap_space *s, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++)
        s->map[i / 64] ^= (uint64_t)1 << i % 64;
}

void *swap_space_take(struct swap_space *s, uint64_t bytes)
{
    uint64_t want = units_of(bytes), run = 0, i = s->low;

    while (i < s->units && run < want) {
        if (run == 0 && i % 64 == 0 && s->map[i / 64] == UINT64_MAX) {
            i += 64;
            continue;
        }
        run = is_taken(s, i) ? 0 : run + 1;
        i++;
    }
    if (run < want || want == 0)
        return NULL;
    set(s, i - want, want);
    while (s->low < s->units && is_taken(s, s->low))
        s->low++;
    return s->base + (i - want) * SWAP_UNIT;
}

void swap_space_give(struct swap_space *s, void *place, uint64_t bytes)
{
    uint64_t first = (uint64_t)((uint8_t *)place - s->base) / SWAP_UNIT;

    set(s, first, units_of(bytes));
    if (first < s->low)
        s->low = first;
}
