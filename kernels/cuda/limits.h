/*
 * limits.h - what a GPU's wires and units can do: the limits that figures are compared with
 *
 * Plain probes on random data.  Every figure is a set of samples; the reader takes the median.
 */
#ifndef MP_KERNELS_CUDA_LIMITS_H
#define MP_KERNELS_CUDA_LIMITS_H

#include "kernels/kernels.h"

#define LIMIT_SAMPLES_MAX 32u  /* that probes take */
#define LIMIT_ROOM        128u /* for those of benches that need more */

/* What to measure: bits. */
enum limits {
    LIMITS_HBM = 1 << 0,       /* reading device memory */
    LIMITS_COPY = 1 << 1,      /* pinned host memory to the device, back, both */
    LIMITS_GEMM = 1 << 2,      /* bf16 products by cuBLASLt */
    LIMITS_VMM = 1 << 3,       /* physical handles mapped into ranges */
    LIMITS_MATMUL = 1 << 4,    /* k_matmul of this library, beside cuBLASLt */
    LIMITS_ATTENTION = 1 << 5, /* its k_attention and k_sample */
    LIMITS_ALL = 63,
};

/* One figure.  Strings live as long as the call of limit_f. */
struct limit {
    const char *name;   /* "hbm read" */
    const char *params; /* "64 MiB chunks"; "" */
    const char *unit;   /* "GB/s", "TFLOP/s", "ms", "us" */
    double samples[LIMIT_ROOM];
    uint32_t count;
    double bytes; /* that one sample moves; 0: none are counted */
    double flops; /* that one sample computes; 0: none are counted */
    /* What the median must come to; LIMIT_NONE: nothing is asked. */
    enum limit_bound { LIMIT_NONE, LIMIT_MOST, LIMIT_LEAST } bound;
    double limit;
};

/* One figure is there; or (samples 0) one yes/no finding, with its answer in `bytes` as 1 or 0. */
typedef void limit_f(void *arg, const struct limit *l);

/* Measure what the bits say on that GPU; figures are given as they come.  The first error ends
 * it. UNSUPPORTED: built without CUDA.  UNAVAILABLE: no such GPU. */
int limits_measure(uint32_t gpu, unsigned what, limit_f *found, void *arg, struct error *err);

/* What the GPU is. */
struct limits_gpu {
    char name[128];
    int major, minor;
    uint32_t multiprocessors;
    uint32_t sm_clock_mhz, memory_clock_mhz; /* highest */
    uint64_t memory_bytes;
    uint32_t l2_bytes;
    int cuda_driver, cuda_runtime; /* 13000 is 13.0 */
};

int limits_about(uint32_t gpu, struct limits_gpu *out, struct error *err);

#endif
