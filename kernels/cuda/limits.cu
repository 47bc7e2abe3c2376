/*
 * limits.cu - device memory and the host's wires
 */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/limits.cuh"

/* A hash of the index (Steele's and Vigna's SplitMix64). */
static __global__ void fill_kernel(uint32_t *to, uint64_t words, uint32_t mask, uint32_t bits)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (; i < words; i += (uint64_t)gridDim.x * blockDim.x) {
        uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        to[i] = ((uint32_t)(z >> 32) & mask) | bits;
    }
}

void probe_fill(struct probe *p, void *to, uint64_t bytes, uint32_t mask, uint32_t bits)
{
    fill_kernel<<<8 * p->sms, 256, 0, p->stream>>>((uint32_t *)to, bytes / 4, mask, bits);
}

/* ---- device memory -----------------------------------------------------------------------------
 */

#define READ_THREADS 512u
#define READ_AHEAD   4u

/* Each thread reads 16 bytes at a time, READ_AHEAD in flight; n is a multiple of their product. */
static __global__ void __launch_bounds__(READ_THREADS)
    read_kernel(uint32_t *out, const uint4 *from, uint64_t n)
{
    uint64_t step = (uint64_t)gridDim.x * READ_THREADS * READ_AHEAD;
    uint64_t i = (uint64_t)blockIdx.x * READ_THREADS * READ_AHEAD + threadIdx.x;
    uint32_t sum = 0;

    for (; i < n; i += step) {
        uint4 v[READ_AHEAD];
#pragma unroll
        for (uint32_t j = 0; j < READ_AHEAD; j++)
            v[j] = __ldcs(from + i + j * READ_THREADS);
#pragma unroll
        for (uint32_t j = 0; j < READ_AHEAD; j++)
            sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    /* So that the loads are needed. */
    if (sum == 0x12345678u)
        *out = sum;
}

static int probe_hbm(struct probe *p, struct error *err)
{
    int rv = -1;
    uint64_t unit = 16ull * READ_THREADS * READ_AHEAD, bytes = 8ull << 30;
    void *buffer = NULL;
    struct limit l = {};
    char params[64];

    if (bytes > p->memory_free / 2)
        bytes = p->memory_free / 2;
    bytes = bytes / unit * unit;
    snprintf(params, sizeof(params), "%.1f GiB", (double)bytes / (1 << 30));
    l.name = "hbm read";
    l.params = params;
    l.unit = "GB/s";
    l.bytes = (double)bytes;
    TRY(cudaMalloc(&buffer, bytes), "no GPU memory to read");
    probe_fill(p, buffer, bytes, 0xffffffff, 0);
    rv = probe_sample(
        p, &l,
        [&] {
            read_kernel<<<p->sms * 4, READ_THREADS, 0, p->stream>>>(
                (uint32_t *)buffer, (const uint4 *)buffer, bytes / 16);
        },
        [&](double ms) { return (double)bytes / 1e6 / ms; }, err);
out:
    cudaFree(buffer);
    return rv;
}

/* ---- pinned host memory ------------------------------------------------------------------------
 */

#define COPY_BYTES (256ull << 20) /* a sample moves each way */

static void copy_chunks(char *to, const char *from, uint64_t chunk, cudaStream_t stream)
{
    for (uint64_t at = 0; at < COPY_BYTES; at += chunk)
        cudaMemcpyAsync(to + at, from + at, chunk, cudaMemcpyDefault, stream);
}

static int copy_one_way(struct probe *p, const char *name, char *to, const char *from,
                        uint64_t chunk, struct error *err)
{
    struct limit l = {};
    char params[64];

    snprintf(params, sizeof(params), "%g MiB chunks", (double)chunk / (1 << 20));
    l.name = name;
    l.params = params;
    l.unit = "GB/s";
    l.bytes = (double)COPY_BYTES;
    return probe_sample(
        p, &l, [&] { copy_chunks(to, from, chunk, p->stream); },
        [&](double ms) { return (double)COPY_BYTES / 1e6 / ms; }, err);
}

static int copy_both_ways(struct probe *p, char *device[2], char *host[2], struct error *err)
{
    uint64_t chunk = 16 << 20;
    struct limit l = {};

    l.name = "copy both ways";
    l.params = "16 MiB chunks";
    l.unit = "GB/s";
    l.bytes = 2.0 * (double)COPY_BYTES;
    return probe_sample(
        p, &l,
        [&] {
            cudaStreamWaitEvent(p->other, p->begin, 0);
            copy_chunks(device[0], host[0], chunk, p->stream);
            copy_chunks(host[1], device[1], chunk, p->other);
            cudaEventRecord(p->mark, p->other);
            cudaStreamWaitEvent(p->stream, p->mark, 0);
        },
        [&](double ms) { return 2 * (double)COPY_BYTES / 1e6 / ms; }, err);
}

static int probe_copy(struct probe *p, struct error *err)
{
    static const uint64_t chunks[] = {64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20};
    int rv = -1;
    char *device[2] = {NULL, NULL}, *host[2] = {NULL, NULL};

    for (int i = 0; i < 2; i++) {
        TRY(cudaMalloc((void **)&device[i], COPY_BYTES), "no GPU memory to copy to");
        TRY(cudaHostAlloc((void **)&host[i], COPY_BYTES, cudaHostAllocPortable),
            "no pinned host memory to copy from");
        probe_fill(p, device[i], COPY_BYTES, 0xffffffff, 0);
        TRY(cudaMemcpyAsync(host[i], device[i], COPY_BYTES, cudaMemcpyDefault, p->stream),
            "cannot copy");
    }
    for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++)
        if (copy_one_way(p, "copy host to device", device[0], host[0], chunks[i], err) != 0)
            goto out;
    for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++)
        if (copy_one_way(p, "copy device to host", host[0], device[0], chunks[i], err) != 0)
            goto out;
    rv = copy_both_ways(p, device, host, err);
out:
    for (int i = 0; i < 2; i++) {
        cudaFree(device[i]);
        cudaFreeHost(host[i]);
    }
    return rv;
}

/* ---- all of them -------------------------------------------------------------------------------
 */

int limits_about(uint32_t gpu, struct limits_gpu *out, struct error *err)
{
    int rv = -1, count = 0, clock = 0, memory_clock = 0;
    struct cudaDeviceProp prop;

    memset(out, 0, sizeof(*out));
    TRY(cudaGetDeviceCount(&count), "no GPU can be used");
    if (gpu >= (uint32_t)count) {
        error_set(err, STATUS_UNAVAILABLE, "GPU %u is not there: %d visible", gpu, count);
        goto out;
    }
    TRY(cudaGetDeviceProperties(&prop, (int)gpu), "the GPU does not tell what it is");
    TRY(cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, (int)gpu), "no clock rate");
    TRY(cudaDeviceGetAttribute(&memory_clock, cudaDevAttrMemoryClockRate, (int)gpu),
        "no clock rate");
    TRY(cudaDriverGetVersion(&out->cuda_driver), "no driver version");
    TRY(cudaRuntimeGetVersion(&out->cuda_runtime), "no runtime version");
    snprintf(out->name, sizeof(out->name), "%.127s", prop.name);
    out->major = prop.major;
    out->minor = prop.minor;
    out->multiprocessors = (uint32_t)prop.multiProcessorCount;
    out->sm_clock_mhz = (uint32_t)clock / 1000;
    out->memory_clock_mhz = (uint32_t)memory_clock / 1000;
    out->memory_bytes = prop.totalGlobalMem;
    out->l2_bytes = (uint32_t)prop.l2CacheSize;
    rv = 0;
out:
    return rv;
}

static int probe_open(struct probe *p, struct error *err)
{
    int rv = -1;
    size_t left, all;

    TRY(cudaSetDevice(p->gpu), "no context on the GPU");
    TRY(cudaMemGetInfo(&left, &all), "cannot tell how much memory the GPU has");
    p->memory_free = left;
    TRY(cudaStreamCreateWithFlags(&p->stream, cudaStreamNonBlocking), "no stream");
    TRY(cudaStreamCreateWithFlags(&p->other, cudaStreamNonBlocking), "no stream");
    TRY(cudaEventCreate(&p->begin), "no event");
    TRY(cudaEventCreate(&p->end), "no event");
    TRY(cudaEventCreate(&p->mark), "no event");
    rv = 0;
out:
    return rv;
}

static void probe_close(struct probe *p)
{
    cudaStream_t streams[] = {p->stream, p->other};
    cudaEvent_t events[] = {p->begin, p->end, p->mark};

    for (cudaStream_t s : streams)
        if (s)
            cudaStreamDestroy(s);
    for (cudaEvent_t e : events)
        if (e)
            cudaEventDestroy(e);
}

int limits_measure(uint32_t gpu, unsigned what, limit_f *found, void *arg, struct error *err)
{
    static const struct {
        enum limits bit;
        int (*run)(struct probe *p, struct error *err);
    } probes[] = {
        {LIMITS_HBM, probe_hbm}, {LIMITS_COPY, probe_copy},     {LIMITS_GEMM, probe_gemm},
        {LIMITS_VMM, probe_vmm}, {LIMITS_MATMUL, probe_matmul}, {LIMITS_ATTENTION, probe_attention},
    };
    struct limits_gpu about;
    struct probe p = {};
    int rv = -1;

    if (limits_about(gpu, &about, err) != 0)
        return -1;
    p.gpu = (int)gpu;
    p.sms = about.multiprocessors;
    p.found = found;
    p.arg = arg;
    if (probe_open(&p, err) != 0)
        goto out;
    for (auto &probe : probes)
        if ((what & probe.bit) && probe.run(&p, err) != 0)
            goto out;
    rv = 0;
out:
    probe_close(&p);
    return rv;
}
