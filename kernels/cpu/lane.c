/*
 * lane.c - a CPU's lane: copies are done at once, by the thread that asks for them
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/device.h"

int cpu_host_pin(struct device *d, void *p, uint64_t bytes, struct error *err)
{
    (void)d, (void)p, (void)bytes, (void)err;
    return 0;
}

void cpu_host_unpin(struct device *d, void *p)
{
    (void)d, (void)p;
}

struct device_lane *cpu_lane_open(struct device *d, struct error *err)
{
    struct device_lane *l = calloc(1, sizeof(*l));

    if (l == NULL)
        error_set(err, STATUS_NOMEM, "no memory for a lane of copies");
    else
        l->device = d;
    return l;
}

void cpu_lane_close(struct device_lane *l)
{
    free(l);
}

void cpu_lane_follow(struct device_lane *l)
{
    (void)l;
}

void cpu_lane_copy(struct device_lane *l, void *to, const void *from, uint64_t bytes)
{
    (void)l;
    memcpy(to, from, bytes);
}

void cpu_lane_mark(struct device_lane *l, uint32_t number)
{
    (void)l, (void)number;
}

int cpu_lane_wait(struct device_lane *l, uint32_t number, struct error *err)
{
    (void)l, (void)number, (void)err;
    return 0;
}
