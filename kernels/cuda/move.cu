/*
 * move.cu - moves: copies over the bus beside the operations, a stream for each way
 *
 * The GPU's copy engines work in order, whatever the stream: a step's own copies would wait for all
 * that is under way.  So a kernel does these, which reads and writes the host's memory by itself.
 *
 * The streams have the lowest priority.  Events are with times: what a piece took is the device's
 * own word, however late somebody asks.
 */
#include <stdlib.h>

#include "kernels/cuda/cuda.cuh"

#define WAYS        2
#define NOW_THREADS 256u
#define NOW_BLOCKS  32u

struct mover {
    cudaStream_t streams[WAYS];
    cudaEvent_t begun[WAYS][DEVICE_MOVES], ended[WAYS][DEVICE_MOVES];
    cudaEvent_t place[WAYS]; /* in one stream, which another one waits for */
};

static cudaError_t open_way(struct mover *m, int way, int priority)
{
    cudaError_t e = cudaStreamCreateWithPriority(&m->streams[way], cudaStreamNonBlocking, priority);

    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&m->place[way], cudaEventDisableTiming);
    for (uint32_t i = 0; i < DEVICE_MOVES && e == cudaSuccess; i++) {
        e = cudaEventCreate(&m->begun[way][i]);
        if (e == cudaSuccess)
            e = cudaEventCreate(&m->ended[way][i]);
    }
    return e;
}

cudaError_t cuda_moves_open(struct cuda_device *c)
{
    int least = 0, greatest = 0;
    cudaError_t e = cudaDeviceGetStreamPriorityRange(&least, &greatest);

    c->mover = (struct mover *)calloc(1, sizeof(*c->mover));
    if (!c->mover)
        return cudaErrorMemoryAllocation;
    for (int way = 0; way < WAYS && e == cudaSuccess; way++)
        e = open_way(c->mover, way, least);
    return e;
}

static void close_event(cudaEvent_t event)
{
    if (event)
        cudaEventDestroy(event);
}

void cuda_moves_close(struct cuda_device *c)
{
    struct mover *m = c->mover;

    for (int way = 0; m && way < WAYS; way++) {
        if (m->streams[way]) {
            cudaStreamSynchronize(m->streams[way]);
            cudaStreamDestroy(m->streams[way]);
        }
        close_event(m->place[way]);
        for (uint32_t i = 0; i < DEVICE_MOVES; i++) {
            close_event(m->begun[way][i]);
            close_event(m->ended[way][i]);
        }
    }
    free(m);
    c->mover = NULL;
}

/* Started without overlap: what follows may read all of it once it is done. */
template <typename W> static __global__ void copy_kernel(W *to, const W *from, uint64_t count)
{
    uint64_t stride = (uint64_t)gridDim.x * NOW_THREADS;

    for (uint64_t i = (uint64_t)blockIdx.x * NOW_THREADS + threadIdx.x; i < count; i += stride)
        to[i] = from[i];
}

template <typename W>
static void copy_words(struct cuda_device *c, void *to, const void *from, uint64_t count)
{
    uint64_t blocks = (count + NOW_THREADS - 1) / NOW_THREADS;

    if (count == 0)
        return;
    copy_kernel<<<(uint32_t)(blocks < NOW_BLOCKS ? blocks : NOW_BLOCKS), NOW_THREADS, 0,
                  c->stream>>>((W *)to, (const W *)from, count);
    cuda_note(c, cudaGetLastError());
}

void cuda_copy_now(struct device *d, void *to, const void *from, uint64_t bytes)
{
    struct cuda_device *c = cuda_enter(d);

    if (((uintptr_t)to | (uintptr_t)from | bytes) % sizeof(uint4) == 0)
        copy_words<uint4>(c, to, from, bytes / sizeof(uint4));
    else
        copy_words<uint32_t>(c, to, from, bytes / sizeof(uint32_t));
}

void cuda_move_begin(struct device *d, enum device_way way, uint32_t number)
{
    struct cuda_device *c = cuda_enter(d);

    cuda_note(c, cudaEventRecord(c->mover->begun[way][number], c->mover->streams[way]));
}

void cuda_move_copy(struct device *d, enum device_way way, void *to, const void *from,
                    uint64_t bytes)
{
    struct cuda_device *c = (struct cuda_device *)d;

    cuda_note(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, c->mover->streams[way]));
}

void cuda_move_end(struct device *d, enum device_way way, uint32_t number)
{
    struct cuda_device *c = (struct cuda_device *)d;

    cuda_note(c, cudaEventRecord(c->mover->ended[way][number], c->mover->streams[way]));
}

int cuda_move_done(struct device *d, enum device_way way, uint32_t number, int wait, uint64_t *us)
{
    struct cuda_device *c = cuda_enter(d);
    struct mover *m = c->mover;
    cudaError_t e =
        wait ? cudaEventSynchronize(m->ended[way][number]) : cudaEventQuery(m->ended[way][number]);
    float ms = 0;

    if (e == cudaErrorNotReady) {
        cudaGetLastError();
        return 0;
    }
    if (e == cudaSuccess)
        e = cudaEventElapsedTime(&ms, m->begun[way][number], m->ended[way][number]);
    cuda_note(c, e);
    *us = e == cudaSuccess ? (uint64_t)(ms * 1e3f) : 0;
    return 1;
}

void cuda_move_after(struct device *d, enum device_way way)
{
    struct cuda_device *c = cuda_enter(d);

    cuda_note(c, cudaEventRecord(c->mover->place[way], c->stream));
    cuda_note(c, cudaStreamWaitEvent(c->mover->streams[way], c->mover->place[way]));
}

void cuda_move_join(struct device *d)
{
    struct cuda_device *c = cuda_enter(d);

    for (int way = 0; way < WAYS; way++) {
        cuda_note(c, cudaEventRecord(c->mover->place[way], c->mover->streams[way]));
        cuda_note(c, cudaStreamWaitEvent(c->stream, c->mover->place[way]));
    }
}
