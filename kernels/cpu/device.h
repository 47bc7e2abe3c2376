/*
 * device.h - the CPU as a device
 */
#ifndef MP_KERNELS_CPU_DEVICE_H
#define MP_KERNELS_CPU_DEVICE_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/quantized.h"
#include "kernels/device.h"

struct cpu_device {
    struct device device; /* first: the pointers are the same */
    const struct isa *isa;
    struct pool *pool;
    struct scratch scratch;
    struct quantized quantized;
    double *frequencies; /* [cols_max / 2 + 1]: of the rotary embedding in hand */
    uint32_t cols_max;
    int memory; /* a memfd of `handles`; -1: there is no pool */
    uint32_t handles;
    int64_t moves[2][DEVICE_MOVES]; /* when each began, or how long it took */
};

/* One huge page. */
#define CPU_HANDLE_BYTES ((uint64_t)2 << 20)

extern const struct device_ops cpu_ops;

/* device.c's entries of the table. */
void cpu_destroy(struct device *d);
void cpu_sync(struct device *d);
void cpu_mark(struct device *d, uint32_t number);
int cpu_check(struct device *d, struct error *err);
int cpu_memory(struct device *d, uint64_t *free_bytes, uint64_t *total, struct error *err);
void *cpu_alloc(struct device *d, uint64_t bytes, struct error *err);
void cpu_free(struct device *d, void *p);
void cpu_copy(struct device *d, void *to, const void *from, uint64_t bytes);

/* memory.c's. */
int cpu_pool(struct device *d, uint32_t count, struct error *err);
void *cpu_reserve(struct device *d, uint64_t bytes, struct error *err);
void cpu_release(struct device *d, void *range, uint64_t bytes);
int cpu_map(struct device *d, void *range, const uint32_t *handles, uint32_t count,
            struct error *err);
void cpu_unmap(struct device *d, void *range, uint32_t count);
int cpu_remap(struct device *d, void *at, int mapped, uint32_t handle, struct error *err);

/* lane.c's. */
int cpu_host_pin(struct device *d, void *p, uint64_t bytes, struct error *err);
void cpu_host_unpin(struct device *d, void *p);
struct device_lane *cpu_lane_open(struct device *d, struct error *err);
void cpu_lane_close(struct device_lane *l);
void cpu_lane_follow(struct device_lane *l);
void cpu_lane_copy(struct device_lane *l, void *to, const void *from, uint64_t bytes);
void cpu_lane_mark(struct device_lane *l, uint32_t number);
int cpu_lane_wait(struct device_lane *l, uint32_t number, struct error *err);

/* move.c's. */
void cpu_move_begin(struct device *d, enum device_way way, uint32_t number);
void cpu_move_copy(struct device *d, enum device_way way, void *to, const void *from,
                   uint64_t bytes);
void cpu_move_end(struct device *d, enum device_way way, uint32_t number);
int cpu_move_done(struct device *d, enum device_way way, uint32_t number, int wait, uint64_t *us);
void cpu_move_after(struct device *d, enum device_way way);
void cpu_move_join(struct device *d);

int cpu_tune(struct device *d, const struct weight *w, struct error *err);
int cpu_record(struct device *d, struct error *err);

/* device_create() with the instruction sets chosen by name, for tests: "portable", "avx2" or
 * "avx512"; and for quantized products "avx2", "avx-vnni" or "avx512-vnni", NULL: exact.
 * UNSUPPORTED where this CPU lacks one. */
struct device *device_create_isa(const char *isa, const char *quantized, uint32_t threads,
                                 uint32_t rows_max, uint32_t cols_max, struct error *err);

#endif
