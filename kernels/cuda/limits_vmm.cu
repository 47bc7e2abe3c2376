/*
 * limits_vmm.cu - physical handles mapped into ranges of addresses, as the engine's arena does it
 *
 * The driver's functions are looked up at run time, so that the program starts where there is none.
 */
#include <cuda.h>
#include <cudaTypedefs.h>
#include <stdio.h>
#include <time.h>

#include "kernels/cuda/limits.cuh"

#define HANDLE_BYTES (64ull << 20)
#define HANDLES      64u

struct vmm {
    PFN_cuMemCreate_v10020 create;
    PFN_cuMemRelease_v10020 release;
    PFN_cuMemAddressReserve_v10020 reserve;
    PFN_cuMemAddressFree_v10020 unreserve;
    PFN_cuMemMap_v10020 map;
    PFN_cuMemUnmap_v10020 unmap;
    PFN_cuMemSetAccess_v10020 access;
    CUmemAllocationProp prop;
    CUmemGenericAllocationHandle handles[HANDLES];
    CUdeviceptr window, own; /* two ranges of HANDLES handles */
};

static int driver_failed(struct error *err, CUresult r, const char *doing)
{
    return error_set(err, STATUS_INTERNAL, "%s: CUDA driver error %d", doing, (int)r);
}

#define TRY_CU(call, doing)                                                                        \
    do {                                                                                           \
        CUresult try_result = (call);                                                              \
        if (try_result != CUDA_SUCCESS) {                                                          \
            driver_failed(err, try_result, doing);                                                 \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int vmm_functions(struct vmm *v, struct error *err)
{
    const struct {
        const char *name;
        void **to;
    } functions[] = {
        {"cuMemCreate", (void **)&v->create},
        {"cuMemRelease", (void **)&v->release},
        {"cuMemAddressReserve", (void **)&v->reserve},
        {"cuMemAddressFree", (void **)&v->unreserve},
        {"cuMemMap", (void **)&v->map},
        {"cuMemUnmap", (void **)&v->unmap},
        {"cuMemSetAccess", (void **)&v->access},
    };
    int rv = -1;

    for (auto &f : functions) {
        cudaDriverEntryPointQueryResult found;
        TRY(cudaGetDriverEntryPointByVersion(f.name, f.to, 10020, cudaEnableDefault, &found),
            f.name);
        if (found != cudaDriverEntryPointSuccess) {
            error_set(err, STATUS_UNSUPPORTED, "the driver has no %s", f.name);
            goto out;
        }
    }
    rv = 0;
out:
    return rv;
}

/* Handles [first, first + n) at their places from `handle` on. */
static int vmm_map(struct vmm *v, CUdeviceptr range, uint32_t handle, uint32_t n, struct error *err)
{
    int rv = -1;
    CUmemAccessDesc access = {v->prop.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};

    for (uint32_t i = 0; i < n; i++)
        TRY_CU(v->map(range + i * HANDLE_BYTES, HANDLE_BYTES, 0, v->handles[handle + i], 0),
               "cannot map a handle");
    TRY_CU(v->access(range, n * HANDLE_BYTES, &access, 1), "cannot allow access to a mapping");
    rv = 0;
out:
    return rv;
}

static int vmm_unmap(struct vmm *v, CUdeviceptr range, uint32_t n, struct error *err)
{
    int rv = -1;

    for (uint32_t i = 0; i < n; i++)
        TRY_CU(v->unmap(range + i * HANDLE_BYTES, HANDLE_BYTES), "cannot unmap a handle");
    rv = 0;
out:
    return rv;
}

static int vmm_open(struct vmm *v, struct probe *p, struct error *err)
{
    int rv = -1;

    v->prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    v->prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    v->prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    v->prop.location.id = p->gpu;
    if (vmm_functions(v, err) != 0)
        goto out;
    TRY_CU(v->reserve(&v->window, HANDLES * HANDLE_BYTES, 0, 0, 0), "cannot reserve addresses");
    TRY_CU(v->reserve(&v->own, HANDLES * HANDLE_BYTES, 0, 0, 0), "cannot reserve addresses");
    rv = 0;
out:
    return rv;
}

static void vmm_close(struct vmm *v)
{
    for (uint32_t i = 0; i < HANDLES; i++)
        if (v->handles[i])
            v->release(v->handles[i]);
    if (v->window)
        v->unreserve(v->window, HANDLES * HANDLE_BYTES);
    if (v->own)
        v->unreserve(v->own, HANDLES * HANDLE_BYTES);
}

/* Times of a handle, each sample over all of them. */
static int vmm_times(struct vmm *v, struct probe *p, struct error *err)
{
    static const char *const names[] = {"vmm create", "vmm map and access", "vmm unmap",
                                        "vmm release"};
    struct limit l[4] = {};
    int rv = -1;

    for (uint32_t s = 0; s < SAMPLES; s++) {
        double t[5] = {now_us()};
        for (uint32_t i = 0; i < HANDLES; i++)
            TRY_CU(v->create(&v->handles[i], HANDLE_BYTES, &v->prop, 0), "cannot create a handle");
        t[1] = now_us();
        if (vmm_map(v, v->own, 0, HANDLES, err) != 0)
            goto out;
        t[2] = now_us();
        if (vmm_unmap(v, v->own, HANDLES, err) != 0)
            goto out;
        t[3] = now_us();
        for (uint32_t i = 0; i < HANDLES; i++) {
            TRY_CU(v->release(v->handles[i]), "cannot release a handle");
            v->handles[i] = 0;
        }
        t[4] = now_us();
        for (int i = 0; i < 4; i++)
            l[i].samples[s] = (t[i + 1] - t[i]) / HANDLES;
    }
    for (int i = 0; i < 4; i++) {
        l[i].name = names[i];
        l[i].params = "a handle of 64 MiB, of 64";
        l[i].unit = "us";
        l[i].count = SAMPLES;
        p->found(p->arg, &l[i]);
    }
    rv = 0;
out:
    return rv;
}

/* ---- what the arena builds on ------------------------------------------------------------------
 */

static __global__ void put_kernel(uint32_t *to, uint32_t value)
{
    *to = value;
}

static __global__ void get_kernel(uint32_t *to, const uint32_t *from)
{
    *to = *from;
}

static void finding(struct probe *p, const char *name, int yes)
{
    struct limit l = {};

    l.name = name;
    l.params = "";
    l.unit = "yes";
    l.bytes = yes;
    p->found(p->arg, &l);
}

static int get(struct probe *p, uint32_t *value, uint32_t *host, const uint32_t *from,
               struct error *err)
{
    int rv = -1;

    get_kernel<<<1, 1, 0, p->stream>>>(host, from);
    TRY(cudaStreamSynchronize(p->stream), "cannot read a mapping");
    *value = *host;
    rv = 0;
out:
    return rv;
}

/* Handle 0 in both ranges at once: what is written through one is read through the other. */
static int vmm_twice(struct vmm *v, struct probe *p, uint32_t *host, struct error *err)
{
    uint32_t seen = 0;
    int rv = -1;

    put_kernel<<<1, 1, 0, p->stream>>>((uint32_t *)v->window, 4711);
    TRY(cudaStreamSynchronize(p->stream), "cannot write to a mapping");
    if (get(p, &seen, host, (const uint32_t *)v->own, err) != 0)
        goto out;
    finding(p, "vmm a handle mapped twice is one memory", seen == 4711);
    rv = 0;
out:
    return rv;
}

/* A captured graph reads its address after other memory was mapped there. */
static int vmm_graph(struct vmm *v, struct probe *p, uint32_t *host, struct error *err)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    uint32_t before = 0, after = 0;
    int rv = -1;

    put_kernel<<<1, 1, 0, p->stream>>>((uint32_t *)(v->window + HANDLE_BYTES), 815);
    TRY(cudaStreamBeginCapture(p->stream, cudaStreamCaptureModeThreadLocal), "cannot capture");
    get_kernel<<<1, 1, 0, p->stream>>>(host, (const uint32_t *)v->own);
    TRY(cudaStreamEndCapture(p->stream, &graph), "cannot capture");
    TRY(cudaGraphInstantiate(&exec, graph, 0), "no graph");
    TRY(cudaGraphLaunch(exec, p->stream), "cannot launch a graph");
    TRY(cudaStreamSynchronize(p->stream), "a graph failed");
    before = *host;
    if (vmm_unmap(v, v->own, 1, err) != 0 || vmm_map(v, v->own, 1, 1, err) != 0)
        goto out;
    TRY(cudaGraphLaunch(exec, p->stream), "cannot launch a graph");
    TRY(cudaStreamSynchronize(p->stream), "a graph failed behind another mapping");
    after = *host;
    finding(p, "vmm a captured graph sees what is mapped at its address later",
            before == 4711 && after == 815);
    rv = 0;
out:
    if (exec)
        cudaGraphExecDestroy(exec);
    if (graph)
        cudaGraphDestroy(graph);
    return rv;
}

/* Mapping and unmapping while copies are queued: they do not wait for one another. */
static int vmm_beside_copies(struct vmm *v, struct probe *p, char *host, struct error *err)
{
    CUdeviceptr far = v->own + (HANDLES - 1) * HANDLE_BYTES;
    struct limit l = {};
    int rv = -1, queued = 1;

    l.name = "vmm map, access and unmap beside queued copies";
    l.params = "one handle of 64 MiB, 3.2 GB of copies";
    l.unit = "us";
    for (l.count = 0; l.count < SAMPLES; l.count++) {
        for (int i = 0; i < 48; i++)
            TRY(cudaMemcpyAsync((void *)(v->window + 2 * HANDLE_BYTES), host, HANDLE_BYTES,
                                cudaMemcpyDefault, p->stream),
                "cannot copy into a mapping");
        double start = now_us();
        if (vmm_map(v, far, HANDLES - 1, 1, err) != 0 || vmm_unmap(v, far, 1, err) != 0)
            goto out;
        l.samples[l.count] = now_us() - start;
        queued = queued && cudaStreamQuery(p->stream) == cudaErrorNotReady;
        TRY(cudaStreamSynchronize(p->stream), "a copy into a mapping failed");
    }
    p->found(p->arg, &l);
    finding(p, "vmm copies were still queued when a mapping was done", queued);
    rv = 0;
out:
    return rv;
}

int probe_vmm(struct probe *p, struct error *err)
{
    struct vmm v = {};
    uint32_t *word = NULL, mapped = 0;
    char *host = NULL;
    int rv = -1;

    TRY(cudaHostAlloc((void **)&word, sizeof(*word), cudaHostAllocMapped), "no pinned host memory");
    TRY(cudaHostAlloc((void **)&host, HANDLE_BYTES, cudaHostAllocPortable),
        "no pinned host memory");
    if (vmm_open(&v, p, err) != 0 || vmm_times(&v, p, err) != 0)
        goto out;
    for (uint32_t i = 0; i < HANDLES; i++)
        TRY_CU(v.create(&v.handles[i], HANDLE_BYTES, &v.prop, 0), "cannot create a handle");
    if (vmm_map(&v, v.window, 0, HANDLES, err) != 0)
        goto out;
    mapped = HANDLES;
    if (vmm_map(&v, v.own, 0, 1, err) != 0 || vmm_twice(&v, p, word, err) != 0 ||
        vmm_graph(&v, p, word, err) != 0 || vmm_beside_copies(&v, p, host, err) != 0 ||
        vmm_unmap(&v, v.own, 1, err) != 0)
        goto out;
    mapped = 0;
    rv = vmm_unmap(&v, v.window, HANDLES, err);
out:
    /* After an error the context may be gone with all its mappings. */
    if (mapped)
        vmm_unmap(&v, v.window, mapped, NULL);
    vmm_close(&v);
    cudaFreeHost(word);
    cudaFreeHost(host);
    return rv;
}
