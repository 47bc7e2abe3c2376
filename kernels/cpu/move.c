/* move.c - moves: a CPU does each at once */
#include <string.h>

#include "common/clock.h"
#include "kernels/cpu/device.h"

void cpu_move_begin(struct device *d, enum device_way way, uint32_t number)
{
    ((struct cpu_device *)d)->moves[way][number] = clock_monotonic_us();
}

void cpu_move_copy(struct device *d, enum device_way way, void *to, const void *from,
                   uint64_t bytes)
{
    (void)d;
    (void)way;
    memcpy(to, from, bytes);
}

void cpu_move_end(struct device *d, enum device_way way, uint32_t number)
{
    int64_t *us = &((struct cpu_device *)d)->moves[way][number];

    *us = clock_monotonic_us() - *us;
}

int cpu_move_done(struct device *d, enum device_way way, uint32_t number, int wait, uint64_t *us)
{
    (void)wait;
    *us = (uint64_t)((struct cpu_device *)d)->moves[way][number];
    return 1;
}

void cpu_move_after(struct device *d, enum device_way way)
{
    (void)d;
    (void)way;
}

void cpu_move_join(struct device *d)
{
    (void)d;
}
