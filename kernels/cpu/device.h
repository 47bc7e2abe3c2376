/*
 * device.h - the CPU as a device
 */
#ifndef MP_KERNELS_CPU_DEVICE_H
#define MP_KERNELS_CPU_DEVICE_H

#include "kernels/cpu/isa.h"

struct device {
    const struct isa *isa;
    struct pool *pool;
    struct scratch scratch;
    double *frequencies; /* [cols_max / 2 + 1]: of the rotary embedding in hand */
    uint32_t cols_max;
    char name[64];
};

/* device_create() with the instruction set chosen by name, for tests: "portable" or "avx2".
 * UNSUPPORTED where this CPU lacks it. */
struct device *device_create_isa(const char *isa, uint32_t threads, uint32_t cols_max,
                                 struct error *err);

#endif
