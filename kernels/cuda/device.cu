/*
 * device.cu - a GPU as a device: its context, stream and memory
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/cuda.cuh"

#define ROWS_MAX (1u << 16) /* no step is larger */
#define COLS_MAX (1u << 20)

struct cuda_device *cuda_enter(struct device *d)
{
    struct cuda_device *c = (struct cuda_device *)d;

    cuda_note(c, cudaSetDevice(c->gpu));
    return c;
}

void cuda_note(struct cuda_device *c, cudaError_t e)
{
    if (c->failed == cudaSuccess)
        c->failed = e;
}

int cuda_failed(struct error *err, cudaError_t e, const char *doing)
{
    enum status status = STATUS_INTERNAL;

    if (e == cudaErrorMemoryAllocation)
        status = STATUS_NOMEM;
    else if (e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver ||
             e == cudaErrorInvalidDevice || e == cudaErrorDevicesUnavailable)
        status = STATUS_UNAVAILABLE;
    return error_set(err, status, "%s: %s (%s)", doing, cudaGetErrorString(e), cudaGetErrorName(e));
}

static void destroy(struct device *d)
{
    struct cuda_device *c = cuda_enter(d);

    if (c->stream) {
        cudaStreamSynchronize(c->stream);
        cudaStreamDestroy(c->stream);
    }
    free(c);
}

static void sync(struct device *d)
{
    struct cuda_device *c = cuda_enter(d);

    cuda_note(c, cudaStreamSynchronize(c->stream));
}

static int check(struct device *d, struct error *err)
{
    struct cuda_device *c = (struct cuda_device *)d;

    sync(d);
    if (c->failed != cudaSuccess)
        return cuda_failed(err, c->failed, c->device.name);
    return 0;
}

static int memory(struct device *d, uint64_t *free_bytes, uint64_t *total, struct error *err)
{
    size_t left, all;

    cuda_enter(d);
    cudaError_t e = cudaMemGetInfo(&left, &all);
    if (e != cudaSuccess)
        return cuda_failed(err, e, "cannot tell how much memory the GPU has");
    *free_bytes = left;
    *total = all;
    return 0;
}

/* A failed call must not be met again as the last error of the next launch. */
static void *allocated(void *p, cudaError_t e, uint64_t bytes, const char *where, struct error *err)
{
    char doing[96];

    if (e == cudaSuccess)
        return p;
    cudaGetLastError();
    snprintf(doing, sizeof(doing), "no %" PRIu64 " bytes of %s memory", bytes, where);
    cuda_failed(err, e, doing);
    return NULL;
}

static void *alloc(struct device *d, uint64_t bytes, struct error *err)
{
    void *p = NULL;

    cuda_enter(d);
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    return allocated(p, e, bytes, "GPU", err);
}

static void release(struct device *d, void *p)
{
    cuda_note(cuda_enter(d), cudaFree(p));
}

static void *host_alloc(struct device *d, uint64_t bytes, struct error *err)
{
    void *p = NULL;

    cuda_enter(d);
    cudaError_t e = cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocPortable);
    return allocated(p, e, bytes, "pinned host", err);
}

static void host_free(struct device *d, void *p)
{
    cuda_note(cuda_enter(d), cudaFreeHost(p));
}

static void copy(struct device *d, void *to, const void *from, uint64_t bytes)
{
    struct cuda_device *c = cuda_enter(d);

    cuda_note(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, c->stream));
}

static const struct device_ops cuda_ops = {
    .kind = DEVICE_CUDA,
    .destroy = destroy,
    .sync = sync,
    .check = check,
    .memory = memory,
    .alloc = alloc,
    .free = release,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .copy = copy,
    .embed = cuda_embed,
    .rmsnorm = cuda_rmsnorm,
    .add_rmsnorm = cuda_add_rmsnorm,
    .matmul = cuda_matmul,
    .rope_kv = cuda_rope_kv,
    .attention = cuda_attention,
    .glu = cuda_glu,
    .scale = cuda_scale,
    .route = cuda_route,
    .matmul_expert = cuda_matmul_expert,
    .combine = cuda_combine,
};

/* Its properties into c; refuses what the kernels were not built for. */
static int probe(struct cuda_device *c, uint32_t gpu, struct error *err)
{
    struct cudaDeviceProp p;
    int count = 0;
    cudaError_t e = cudaGetDeviceCount(&count);

    if (e != cudaSuccess)
        return cuda_failed(err, e, "no GPU can be used");
    if (gpu >= (uint32_t)count)
        return error_set(err, STATUS_UNAVAILABLE, "GPU %u is not there: %d visible", gpu, count);
    c->gpu = (int)gpu;
    e = cudaGetDeviceProperties(&p, c->gpu);
    if (e != cudaSuccess)
        return cuda_failed(err, e, "the GPU does not tell what it is");
    if (p.major < 8)
        return error_set(err, STATUS_UNSUPPORTED,
                         "GPU %u is a %s of compute capability %d.%d: 8.0 is needed", gpu, p.name,
                         p.major, p.minor);
    c->sms = (uint32_t)p.multiProcessorCount;
    snprintf(c->device.name, sizeof(c->device.name), "cuda %u, %.64s, sm_%d%d, %u multiprocessors",
             gpu, p.name, p.major, p.minor, c->sms);
    return 0;
}

struct device *device_create_cuda(uint32_t gpu, uint32_t rows_max, uint32_t cols_max,
                                  struct error *err)
{
    struct cuda_device *c = NULL;
    cudaError_t e;

    if (cols_max == 0 || cols_max > COLS_MAX || rows_max == 0 || rows_max > ROWS_MAX) {
        error_set(err, STATUS_INVALID, "activations of %u rows and %u columns: 1 to %u and %u",
                  rows_max, cols_max, ROWS_MAX, COLS_MAX);
        return NULL;
    }
    c = (struct cuda_device *)calloc(1, sizeof(*c));
    if (!c) {
        error_set(err, STATUS_NOMEM, "no memory for a device");
        return NULL;
    }
    c->device.ops = &cuda_ops;
    c->rows_max = rows_max;
    c->cols_max = cols_max;
    if (probe(c, gpu, err) != 0)
        goto fail;
    e = cudaSetDevice(c->gpu);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    if (e != cudaSuccess) {
        cuda_failed(err, e, "no context on the GPU");
        goto fail;
    }
    return &c->device;
fail:
    free(c);
    return NULL;
}
