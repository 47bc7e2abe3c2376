/*
 * memory.cu - memory of the device, of the host, and handles mapped into ranges of addresses
 *
 * The driver's functions are looked up at run time, so that the program starts where there is none.
 */
#include <cuda.h>
#include <cudaTypedefs.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/cuda.cuh"

struct vmm {
    PFN_cuMemCreate_v10020 create;
    PFN_cuMemRelease_v10020 release;
    PFN_cuMemAddressReserve_v10020 reserve;
    PFN_cuMemAddressFree_v10020 unreserve;
    PFN_cuMemMap_v10020 map;
    PFN_cuMemUnmap_v10020 unmap;
    PFN_cuMemSetAccess_v10020 access;
    CUmemAllocationProp prop;
    CUmemGenericAllocationHandle *handles;
    uint32_t count;
};

static int driver_failed(struct error *err, CUresult r, enum status status, const char *doing)
{
    return error_set(err, status, "%s: CUDA driver error %d", doing, (int)r);
}

/* ---- plain memory ------------------------------------------------------------------------------
 */

int cuda_memory(struct device *d, uint64_t *free_bytes, uint64_t *total, struct error *err)
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

void *cuda_alloc(struct device *d, uint64_t bytes, struct error *err)
{
    void *p = NULL;

    cuda_enter(d);
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    return allocated(p, e, bytes, "GPU", err);
}

void cuda_free(struct device *d, void *p)
{
    cuda_note(cuda_enter(d), cudaFree(p));
}

void *cuda_host_alloc(struct device *d, uint64_t bytes, struct error *err)
{
    void *p = NULL;

    cuda_enter(d);
    cudaError_t e = cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocPortable);
    return allocated(p, e, bytes, "pinned host", err);
}

void cuda_host_free(struct device *d, void *p)
{
    cuda_note(cuda_enter(d), cudaFreeHost(p));
}

void cuda_copy(struct device *d, void *to, const void *from, uint64_t bytes)
{
    struct cuda_device *c = cuda_enter(d);

    cuda_note(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, c->stream));
}

/* ---- handles -----------------------------------------------------------------------------------
 */

static int functions(struct vmm *v, struct error *err)
{
    const struct {
        const char *name;
        void **to;
    } all[] = {
        {"cuMemCreate", (void **)&v->create},
        {"cuMemRelease", (void **)&v->release},
        {"cuMemAddressReserve", (void **)&v->reserve},
        {"cuMemAddressFree", (void **)&v->unreserve},
        {"cuMemMap", (void **)&v->map},
        {"cuMemUnmap", (void **)&v->unmap},
        {"cuMemSetAccess", (void **)&v->access},
    };

    for (auto &f : all) {
        cudaDriverEntryPointQueryResult found;
        cudaError_t e =
            cudaGetDriverEntryPointByVersion(f.name, f.to, 10020, cudaEnableDefault, &found);
        if (e != cudaSuccess)
            return cuda_failed(err, e, f.name);
        if (found != cudaDriverEntryPointSuccess)
            return error_set(err, STATUS_UNSUPPORTED, "the driver has no %s", f.name);
    }
    return 0;
}

int cuda_memory_open(struct cuda_device *c, struct error *err)
{
    struct vmm *v = (struct vmm *)calloc(1, sizeof(*v));

    if (!v)
        return error_set(err, STATUS_NOMEM, "no memory for a device's handles");
    v->prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    v->prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    v->prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    v->prop.location.id = c->gpu;
    if (functions(v, err) != 0) {
        free(v);
        return -1;
    }
    c->vmm = v;
    return 0;
}

static void drop_handles(struct vmm *v)
{
    for (uint32_t i = 0; i < v->count; i++)
        v->release(v->handles[i]);
    free(v->handles);
    v->handles = NULL;
    v->count = 0;
}

void cuda_memory_close(struct cuda_device *c)
{
    if (c->vmm)
        drop_handles(c->vmm);
    free(c->vmm);
    c->vmm = NULL;
}

int cuda_pool(struct device *d, uint32_t count, struct error *err)
{
    struct cuda_device *c = cuda_enter(d);
    struct vmm *v = c->vmm;

    if (v->count > 0)
        return error_set(err, STATUS_EXISTS, "%s: its handles were taken before", c->device.name);
    v->handles = (CUmemGenericAllocationHandle *)calloc(count ? count : 1, sizeof(*v->handles));
    if (!v->handles)
        return error_set(err, STATUS_NOMEM, "no memory for %u handles", count);
    for (; v->count < count; v->count++) {
        CUresult r = v->create(&v->handles[v->count], CUDA_HANDLE_BYTES, &v->prop, 0);
        if (r == CUDA_SUCCESS)
            continue;
        enum status status = r == CUDA_ERROR_OUT_OF_MEMORY ? STATUS_EXHAUSTED : STATUS_INTERNAL;
        error_set(err, status, "%s: handle %u of %u, of %llu MiB each: CUDA driver error %d",
                  c->device.name, v->count + 1, count, CUDA_HANDLE_BYTES >> 20, (int)r);
        drop_handles(v);
        return -1;
    }
    return 0;
}

void *cuda_reserve(struct device *d, uint64_t bytes, struct error *err)
{
    struct cuda_device *c = cuda_enter(d);
    CUdeviceptr range = 0;

    if (bytes == 0 || bytes % CUDA_HANDLE_BYTES != 0) {
        error_set(err, STATUS_INVALID, "%" PRIu64 " bytes of addresses are no whole handles",
                  bytes);
        return NULL;
    }
    CUresult r = c->vmm->reserve(&range, bytes, CUDA_HANDLE_BYTES, 0, 0);
    if (r != CUDA_SUCCESS) {
        driver_failed(err, r, STATUS_NOMEM, "no addresses on the GPU");
        return NULL;
    }
    return (void *)range;
}

void cuda_release(struct device *d, void *range, uint64_t bytes)
{
    struct cuda_device *c = cuda_enter(d);

    if (c->vmm->unreserve((CUdeviceptr)range, bytes) != CUDA_SUCCESS)
        cuda_note(c, cudaErrorInvalidValue);
}

static bool unmapped(struct vmm *v, CUdeviceptr range, uint32_t count)
{
    bool all = true;

    for (uint32_t i = 0; i < count; i++)
        all &= v->unmap(range + i * CUDA_HANDLE_BYTES, CUDA_HANDLE_BYTES) == CUDA_SUCCESS;
    return all;
}

int cuda_map(struct device *d, void *range, const uint32_t *handles, uint32_t count,
             struct error *err)
{
    struct cuda_device *c = cuda_enter(d);
    struct vmm *v = c->vmm;
    CUmemAccessDesc access = {v->prop.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUdeviceptr at = (CUdeviceptr)range;
    CUresult r = CUDA_SUCCESS;
    uint32_t done = 0;

    for (uint32_t i = 0; i < count; i++)
        if (handles[i] >= v->count)
            return error_set(err, STATUS_INVALID, "handle %u: there are %u", handles[i], v->count);
    if (count == 0)
        return 0;
    for (; done < count && r == CUDA_SUCCESS; done += r == CUDA_SUCCESS)
        r = v->map(at + done * CUDA_HANDLE_BYTES, CUDA_HANDLE_BYTES, 0, v->handles[handles[done]],
                   0);
    if (r == CUDA_SUCCESS)
        r = v->access(at, count * CUDA_HANDLE_BYTES, &access, 1);
    if (r == CUDA_SUCCESS)
        return 0;
    unmapped(v, at, done);
    return driver_failed(err, r, STATUS_INTERNAL, "cannot map handles");
}

void cuda_unmap(struct device *d, void *range, uint32_t count)
{
    struct cuda_device *c = cuda_enter(d);

    cuda_note(c, cudaStreamSynchronize(c->stream));
    if (!unmapped(c->vmm, (CUdeviceptr)range, count))
        cuda_note(c, cudaErrorInvalidValue);
}

int cuda_remap(struct device *d, void *at, int mapped, uint32_t handle, struct error *err)
{
    struct cuda_device *c = (struct cuda_device *)d;
    struct vmm *v = c->vmm;
    CUmemAccessDesc access = {v->prop.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUdeviceptr place = (CUdeviceptr)at;
    CUresult r = CUDA_SUCCESS;

    if (cudaSetDevice(c->gpu) != cudaSuccess || handle >= v->count)
        return error_set(err, STATUS_INVALID, "handle %u: there are %u", handle, v->count);
    if (mapped)
        r = v->unmap(place, CUDA_HANDLE_BYTES);
    if (r == CUDA_SUCCESS)
        r = v->map(place, CUDA_HANDLE_BYTES, 0, v->handles[handle], 0);
    if (r == CUDA_SUCCESS) {
        r = v->access(place, CUDA_HANDLE_BYTES, &access, 1);
        if (r != CUDA_SUCCESS)
            v->unmap(place, CUDA_HANDLE_BYTES);
    }
    return r == CUDA_SUCCESS ? 0 : driver_failed(err, r, STATUS_INTERNAL, "cannot map a handle");
}
