/*
 * device.c - the CPU as a device: its instruction set, threads and scratch memory
 */
#include "kernels/cpu/device.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define COLS_MAX (1u << 20) /* no architecture has wider activations; bounds the scratch */

/* The best one for this CPU; of that name, if it is not NULL.  NULL: none. */
static const struct isa *best_isa(const char *name)
{
#if defined(__x86_64__)
    unsigned a, b, c = 0, d;
    /* The compilers' checks include whether the kernel saves the wide registers; clang 14 does not
     * know "f16c", so ask the CPU. */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C)) {
        int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        if (wide && (!name || strcmp(name, isa_avx512.name) == 0))
            return &isa_avx512;
        if (!name || strcmp(name, isa_avx2.name) == 0)
            return &isa_avx2;
    }
#endif
    return !name || strcmp(name, isa_portable.name) == 0 ? &isa_portable : NULL;
}

static struct device *create(const struct isa *isa, const struct quantized_isa *quantized,
                             uint32_t threads, uint32_t rows_max, uint32_t cols_max,
                             struct error *err)
{
    struct cpu_device *d = NULL;
    struct device *rv = NULL;
    size_t bytes;

    if (cols_max == 0 || cols_max > COLS_MAX) {
        error_set(err, STATUS_INVALID, "activations of %u columns: 1 to %u", cols_max, COLS_MAX);
        goto out;
    }
    d = calloc(1, sizeof(*d));
    if (!d) {
        error_set(err, STATUS_NOMEM, "no memory for a device");
        goto out;
    }
    d->device.ops = &cpu_ops;
    d->isa = isa;
    d->cols_max = cols_max;
    d->memory = -1;
    d->pool = pool_create(threads, err);
    if (!d->pool)
        goto out;
    threads = pool_threads(d->pool);
    d->scratch.stride = SCRATCH_FLOATS(cols_max);
    bytes = d->scratch.stride * sizeof(float) * threads;
    d->scratch.data = aligned_alloc(64, bytes);
    d->frequencies = malloc((cols_max / 2 + 1) * sizeof(*d->frequencies));
    if (!d->scratch.data || !d->frequencies) {
        error_set(err, STATUS_NOMEM, "no memory for %zu bytes of scratch: %u threads", bytes,
                  threads);
        goto out;
    }
    if (quantized_create(&d->quantized, quantized, rows_max, cols_max, err) != 0)
        goto out;
    snprintf(d->device.name, sizeof(d->device.name), "cpu %s %s, %u thread%s",
             quantized ? quantized->name : isa->name, quantized ? "fast" : "exact", threads,
             threads == 1 ? "" : "s");
    rv = &d->device;
    d = NULL;
out:
    if (d)
        cpu_destroy(&d->device);
    return rv;
}

struct device *device_create(uint32_t threads, enum precision precision, uint32_t rows_max,
                             uint32_t cols_max, struct error *err)
{
    const struct quantized_isa *quantized =
        precision == PRECISION_FAST ? quantized_best(NULL) : NULL;

    return create(best_isa(NULL), quantized, threads, rows_max, cols_max, err);
}

struct device *device_create_isa(const char *isa, const char *quantized, uint32_t threads,
                                 uint32_t rows_max, uint32_t cols_max, struct error *err)
{
    const struct isa *found = best_isa(isa);
    const struct quantized_isa *best = quantized ? quantized_best(quantized) : NULL;

    if (found && (best || !quantized))
        return create(found, best, threads, rows_max, cols_max, err);
    error_set(err, STATUS_UNSUPPORTED, "this CPU has no %s", found ? quantized : isa);
    return NULL;
}

uint32_t device_threads(void)
{
    return pool_default_threads();
}

void cpu_destroy(struct device *d)
{
    struct cpu_device *c = (struct cpu_device *)d;

    if (c->memory >= 0)
        close(c->memory);
    quantized_destroy(&c->quantized);
    pool_destroy(c->pool);
    free(c->scratch.data);
    free(c->frequencies);
    free(c);
}

void cpu_sync(struct device *d)
{
    /* Every operation here returns when it is done. */
    (void)d;
}

void cpu_mark(struct device *d, uint32_t number)
{
    (void)d;
    (void)number;
}

int cpu_check(struct device *d, struct error *err)
{
    /* And none can fail later. */
    (void)d;
    (void)err;
    return 0;
}

int cpu_tune(struct device *d, const struct weight *w, struct error *err)
{
    /* There is one way only. */
    (void)d;
    (void)w;
    (void)err;
    return 0;
}

int cpu_record(struct device *d, struct error *err)
{
    (void)d;
    return error_set(err, STATUS_UNSUPPORTED, "a CPU records no graphs");
}

int cpu_memory(struct device *d, uint64_t *free_bytes, uint64_t *total, struct error *err)
{
    long page = sysconf(_SC_PAGESIZE), all = sysconf(_SC_PHYS_PAGES);
    long left = sysconf(_SC_AVPHYS_PAGES);

    (void)d;
    if (page < 0 || all < 0 || left < 0)
        return error_errno(err, "cannot tell how much memory there is");
    *free_bytes = (uint64_t)left * (uint64_t)page;
    *total = (uint64_t)all * (uint64_t)page;
    return 0;
}

void *cpu_alloc(struct device *d, uint64_t bytes, struct error *err)
{
    void *p = bytes <= SIZE_MAX - 63 ? aligned_alloc(64, (bytes + 63) & ~63ull) : NULL;

    (void)d;
    if (!p)
        error_set(err, STATUS_NOMEM, "no memory for %" PRIu64 " bytes", bytes);
    return p;
}

void cpu_free(struct device *d, void *p)
{
    (void)d;
    free(p);
}

void cpu_copy(struct device *d, void *to, const void *from, uint64_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
}
