/*
 * nccl.cu - ranks that are GPUs of one host: NCCL, in order with each device's stream
 *
 * One communicator a rank, each used by its rank's own thread.  NCCL sums in an order that follows
 * from the number of ranks, the size and the links, and gives all ranks the same bits.  The library
 * is opened at run time, so that programs start where there is none.
 */
#include <dlfcn.h>
#include <stdlib.h>

#include "kernels/cuda/cuda.cuh"

extern "C" {
#include "kernels/collective_parts.h"
}

#ifdef HAVE_NCCL
#include <nccl.h>

#define NCCL_FUNCTIONS(X)                                                                          \
    X(CommInitAll)                                                                                 \
    X(CommDestroy)                                                                                 \
    X(CommAbort)                                                                                   \
    X(AllReduce)                                                                                   \
    X(Broadcast)                                                                                   \
    X(Send)                                                                                        \
    X(Recv)                                                                                        \
    X(GroupStart)                                                                                  \
    X(GroupEnd)                                                                                    \
    X(GetErrorString)

struct gpus {
    struct collective collective; /* first: the pointers are the same */
    void *library;
    struct device *devices[COLLECTIVE_RANKS_MAX];
    ncclComm_t comms[COLLECTIVE_RANKS_MAX];
#define X(name) decltype(&nccl##name) name;
    NCCL_FUNCTIONS(X)
#undef X
};

static int load(struct gpus *g, struct error *err)
{
    g->library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!g->library)
        return error_set(err, STATUS_UNSUPPORTED, "NCCL cannot be opened: %s", dlerror());
#define X(name)                                                                                    \
    g->name = (decltype(g->name))dlsym(g->library, "nccl" #name);                                  \
    if (!g->name)                                                                                  \
        return error_set(err, STATUS_UNSUPPORTED, "NCCL: %s", dlerror());
    NCCL_FUNCTIONS(X)
#undef X
    return 0;
}

/* A call that failed fails the group. */
static void note(struct gpus *g, uint32_t rank, ncclResult_t r)
{
    struct error why = {};

    if (r == ncclSuccess)
        return;
    error_set(&why, STATUS_INTERNAL, "NCCL: %s", g->GetErrorString(r));
    collective_fail(&g->collective, rank, &why);
}

static void sum(struct collective *c, uint32_t rank, void *x, uint64_t count, enum dtype dtype)
{
    struct gpus *g = (struct gpus *)c;
    struct cuda_device *d = cuda_enter(g->devices[rank]);

    note(g, rank,
         g->AllReduce(x, x, count, dtype == DTYPE_BF16 ? ncclBfloat16 : ncclFloat32, ncclSum,
                      g->comms[rank], d->stream));
}

static void broadcast(struct collective *c, uint32_t rank, void *x, uint64_t bytes)
{
    struct gpus *g = (struct gpus *)c;
    struct cuda_device *d = cuda_enter(g->devices[rank]);

    note(g, rank, g->Broadcast(x, x, bytes, ncclUint8, 0, g->comms[rank], d->stream));
}

/* The others' parts come behind rank 0's, one after the other, and are put side by side there. */
static void gather(struct collective *c, uint32_t rank, float *to, float *part, uint32_t rows,
                   const uint32_t *firsts)
{
    struct gpus *g = (struct gpus *)c;
    struct cuda_device *d = cuda_enter(g->devices[rank]);
    size_t stride = firsts[c->ranks];

    if (rank != 0) {
        size_t cols = firsts[rank + 1] - firsts[rank];
        note(g, rank, g->Send(part, rows * cols, ncclFloat32, 0, g->comms[rank], d->stream));
        return;
    }
    note(g, 0, g->GroupStart());
    for (uint32_t i = 1; i < c->ranks; i++)
        note(g, 0,
             g->Recv(part + (size_t)rows * firsts[i], (size_t)rows * (firsts[i + 1] - firsts[i]),
                     ncclFloat32, (int)i, g->comms[0], d->stream));
    note(g, 0, g->GroupEnd());
    for (uint32_t i = 0; i < c->ranks; i++) {
        size_t bytes = (firsts[i + 1] - firsts[i]) * sizeof(float);
        cuda_note(d, cudaMemcpy2DAsync(to + firsts[i], stride * sizeof(float),
                                       part + (size_t)rows * firsts[i], bytes, bytes, rows,
                                       cudaMemcpyDeviceToDevice, d->stream));
    }
}

static void failing(struct collective *c)
{
    (void)c;
}

static void destroy(struct collective *c)
{
    struct gpus *g = (struct gpus *)c;

    for (uint32_t i = 0; i < c->ranks; i++) {
        if (!g->comms[i])
            continue;
        cuda_enter(g->devices[i]);
        if (collective_has_failed(c))
            g->CommAbort(g->comms[i]);
        else
            g->CommDestroy(g->comms[i]);
    }
    if (g->library)
        dlclose(g->library);
    collective_clear(c);
    free(g);
}

struct collective *collective_create_cuda(struct device *const *devices, uint32_t ranks,
                                          struct error *err)
{
    static const struct collective_ops ops = {
        .destroy = destroy,
        .sum = sum,
        .gather = gather,
        .broadcast = broadcast,
        .failing = failing,
    };
    struct gpus *g = (struct gpus *)calloc(1, sizeof(*g));
    int gpus[COLLECTIVE_RANKS_MAX];
    ncclResult_t r;

    if (!g) {
        error_set(err, STATUS_NOMEM, "no memory for a group of ranks");
        return NULL;
    }
    if (collective_init(&g->collective, &ops, ranks, err) != 0) {
        free(g);
        return NULL;
    }
    for (uint32_t i = 0; i < ranks; i++) {
        g->devices[i] = devices[i];
        gpus[i] = ((struct cuda_device *)devices[i])->gpu;
    }
    if (load(g, err) != 0)
        goto fail;
    r = g->CommInitAll(g->comms, (int)ranks, gpus);
    if (r == ncclSuccess)
        return &g->collective;
    for (uint32_t i = 0; i < ranks; i++)
        g->comms[i] = NULL;
    error_set(err, STATUS_UNAVAILABLE, "NCCL cannot connect the instance's GPUs: %s",
              g->GetErrorString(r));
fail:
    destroy(&g->collective);
    return NULL;
}

#else

struct collective *collective_create_cuda(struct device *const *devices, uint32_t ranks,
                                          struct error *err)
{
    (void)devices;
    (void)ranks;
    error_set(err, STATUS_UNSUPPORTED,
              "modelpool was built without NCCL, which GPUs that run one model need");
    return NULL;
}

#endif
