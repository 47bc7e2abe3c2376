/*
 * step.cu - steps in flight: places in the stream to wait for, and tokens that the GPU alone knows
 */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/operand.cuh"

#define THREADS 256u

cudaError_t cuda_marks_open(struct cuda_device *c)
{
    cudaError_t e = cudaSuccess;

    for (uint32_t i = 0; i < DEVICE_MARKS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&c->marks[i], cudaEventDisableTiming);
    return e;
}

void cuda_marks_close(struct cuda_device *c)
{
    for (uint32_t i = 0; i < DEVICE_MARKS; i++)
        if (c->marks[i])
            cudaEventDestroy(c->marks[i]);
}

void cuda_mark(struct device *d, uint32_t number)
{
    struct cuda_device *c = cuda_enter(d);

    cuda_note(c, cudaEventRecord(c->marks[number], c->stream));
}

void cuda_wait(struct device *d, uint32_t number)
{
    struct cuda_device *c = cuda_enter(d);

    cuda_note(c, cudaEventSynchronize(c->marks[number]));
}

int cuda_has_failed(struct device *d, struct error *err)
{
    struct cuda_device *c = (struct cuda_device *)d;

    return c->failed == cudaSuccess ? 0 : cuda_failed(err, c->failed, c->device.name);
}

static __global__ void feed_kernel(uint32_t *tokens, const uint32_t *picked, uint32_t rows)
{
    await_kernels();
    for (uint32_t i = threadIdx.x; i < rows; i += THREADS) {
        uint32_t token = tokens[i];
        if (token < SAMPLE_FED)
            continue;
        token = picked[token - SAMPLE_FED];
        /* Of logits that are no numbers nothing was picked: the sequence ends, but not here. */
        tokens[i] = token == SAMPLE_NONE ? 0 : token;
    }
}

void cuda_feed(struct device *d, uint32_t *tokens, const uint32_t *picked, uint32_t rows)
{
    cuda_launch(cuda_enter(d), feed_kernel, dim3(1), THREADS, 0, tokens, picked, rows);
}
