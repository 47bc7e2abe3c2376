/*
 * limits.cuh - what the probes of limits.h share
 */
#ifndef MP_KERNELS_CUDA_LIMITS_CUH
#define MP_KERNELS_CUDA_LIMITS_CUH

#include "kernels/cuda/cuda.cuh"

extern "C" {
#include "kernels/cuda/limits.h"
}

#define SAMPLES 15u /* of a figure */

struct probe {
    int gpu;
    uint32_t sms;
    uint64_t memory_free;
    cudaStream_t stream, other;
    cudaEvent_t begin, end, mark;
    limit_f *found;
    void *arg;
};

/* Every call of CUDA's is looked at: `return cuda_failed()` names the line's doing. */
#define TRY(call, doing)                                                                           \
    do {                                                                                           \
        cudaError_t try_error = (call);                                                            \
        if (try_error != cudaSuccess) {                                                            \
            cuda_failed(err, try_error, doing);                                                    \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

/* Fill with random bits, kept where `mask` is set, plus `bits`. */
void probe_fill(struct probe *p, void *to, uint64_t bytes, uint32_t mask, uint32_t bits);

/* Milliseconds of what `work` puts on p->stream, once. */
template <class F> int probe_time(struct probe *p, double *ms, F work, struct error *err)
{
    int rv = -1;
    float passed;

    TRY(cudaEventRecord(p->begin, p->stream), "cannot time");
    work();
    TRY(cudaGetLastError(), "a probe cannot be started");
    TRY(cudaEventRecord(p->end, p->stream), "cannot time");
    TRY(cudaEventSynchronize(p->end), "a probe failed");
    TRY(cudaEventElapsedTime(&passed, p->begin, p->end), "cannot time");
    *ms = (double)passed;
    rv = 0;
out:
    return rv;
}

/* A warm-up, then SAMPLES times; value: from milliseconds to the limit's unit. */
template <class F, class V>
int probe_sample(struct probe *p, struct limit *l, F work, V value, struct error *err)
{
    double ms;

    if (probe_time(p, &ms, work, err) != 0)
        return -1;
    for (l->count = 0; l->count < SAMPLES; l->count++) {
        if (probe_time(p, &ms, work, err) != 0)
            return -1;
        l->samples[l->count] = value(ms);
    }
    p->found(p->arg, l);
    return 0;
}

int probe_gemm(struct probe *p, struct error *err);
int probe_vmm(struct probe *p, struct error *err);
int probe_matmul(struct probe *p, struct error *err);
int probe_attention(struct probe *p, struct error *err);

#endif
