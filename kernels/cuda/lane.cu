/*
 * lane.cu - copies beside the operations: a stream of their own, and host memory that is pinned
 */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/cuda.cuh"

struct cuda_lane {
    struct device_lane lane; /* first: the pointers are the same */
    struct cuda_device *c;
    cudaStream_t stream;
    cudaEvent_t marks[DEVICE_LANE_MARKS];
    cudaEvent_t follow;
    cudaError_t failed; /* the first thing that went wrong in it */
};

/* ---- pinning -----------------------------------------------------------------------------------
 */

int cuda_host_pin(struct device *d, void *p, uint64_t bytes, struct error *err)
{
    struct cuda_device *c = (struct cuda_device *)d;
    cudaError_t e = cudaSetDevice(c->gpu);

    if (e == cudaSuccess)
        e = cudaHostRegister(p, bytes, cudaHostRegisterPortable);
    if (e == cudaSuccess)
        return 0;
    cudaGetLastError();
    return cuda_failed(err, e, "host memory cannot be pinned");
}

void cuda_host_unpin(struct device *d, void *p)
{
    struct cuda_device *c = (struct cuda_device *)d;

    if (cudaSetDevice(c->gpu) != cudaSuccess || cudaHostUnregister(p) != cudaSuccess)
        cudaGetLastError();
}

/* ---- the lane ----------------------------------------------------------------------------------
 */

static struct cuda_lane *enter(struct device_lane *lane)
{
    struct cuda_lane *l = (struct cuda_lane *)lane;
    cudaError_t e = cudaSetDevice(l->c->gpu);

    if (l->failed == cudaSuccess)
        l->failed = e;
    return l;
}

static void note(struct cuda_lane *l, cudaError_t e)
{
    if (l->failed == cudaSuccess)
        l->failed = e;
}

void cuda_lane_close(struct device_lane *lane)
{
    struct cuda_lane *l = enter(lane);

    if (l->stream) {
        cudaStreamSynchronize(l->stream);
        cudaStreamDestroy(l->stream);
    }
    for (uint32_t i = 0; i < DEVICE_LANE_MARKS; i++)
        if (l->marks[i])
            cudaEventDestroy(l->marks[i]);
    if (l->follow)
        cudaEventDestroy(l->follow);
    free(l);
}

struct device_lane *cuda_lane_open(struct device *d, struct error *err)
{
    struct cuda_device *c = cuda_enter(d);
    struct cuda_lane *l = (struct cuda_lane *)calloc(1, sizeof(*l));
    cudaError_t e;

    if (!l) {
        error_set(err, STATUS_NOMEM, "no memory for a lane of copies");
        return NULL;
    }
    l->lane.device = d;
    l->c = c;
    e = cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&l->follow, cudaEventDisableTiming);
    for (uint32_t i = 0; i < DEVICE_LANE_MARKS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&l->marks[i], cudaEventDisableTiming | cudaEventBlockingSync);
    if (e == cudaSuccess)
        return &l->lane;
    cudaGetLastError();
    cuda_failed(err, e, "no lane of copies");
    cuda_lane_close(&l->lane);
    return NULL;
}

void cuda_lane_follow(struct device_lane *lane)
{
    struct cuda_lane *l = enter(lane);

    note(l, cudaEventRecord(l->follow, l->c->stream));
    note(l, cudaStreamWaitEvent(l->stream, l->follow, 0));
}

void cuda_lane_copy(struct device_lane *lane, void *to, const void *from, uint64_t bytes)
{
    struct cuda_lane *l = enter(lane);

    note(l, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, l->stream));
}

void cuda_lane_mark(struct device_lane *lane, uint32_t number)
{
    struct cuda_lane *l = enter(lane);

    note(l, cudaEventRecord(l->marks[number], l->stream));
}

int cuda_lane_wait(struct device_lane *lane, uint32_t number, struct error *err)
{
    struct cuda_lane *l = enter(lane);

    note(l, cudaEventSynchronize(l->marks[number]));
    if (l->failed == cudaSuccess)
        return 0;
    cudaGetLastError();
    return cuda_failed(err, l->failed, "copies to the GPU");
}

/* The lane's thread may be at work: nothing of the lane but the mark is touched. */
void cuda_lane_await(struct device_lane *lane, uint32_t number)
{
    struct cuda_lane *l = (struct cuda_lane *)lane;
    struct cuda_device *c = cuda_enter(lane->device);

    cuda_note(c, cudaStreamWaitEvent(c->stream, l->marks[number], 0));
}
