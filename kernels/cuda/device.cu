/*
 * device.cu - a GPU as a device: its context, stream and memory
 */
#include <cuda_bf16.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/group.cuh"

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

    if (c->stream)
        cudaStreamSynchronize(c->stream);
    cuda_attention_close(c);
    cuda_chosen_close(c);
    cuda_fused_close(c);
    cuda_tune_close(c);
    cuda_memory_close(c);
    cuda_marks_close(c);
    cuda_moves_close(c);
    if (c->stream)
        cudaStreamDestroy(c->stream);
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

static void deterministic(struct device *d)
{
    ((struct cuda_device *)d)->deterministic = true;
}

static int no_tune(struct device *d, const struct weight *w, struct error *err)
{
    (void)d;
    (void)w;
    (void)err;
    return 0;
}

template <typename T>
static const struct device_ops ops = {
    .kind = DEVICE_CUDA,
    .operand = sizeof(T) == 2 ? DTYPE_BF16 : DTYPE_F32,
    .deterministic = sizeof(T) == 2 ? deterministic : NULL,
    .destroy = destroy,
    .sync = sync,
    .mark = cuda_mark,
    .wait = cuda_wait,
    .failed = cuda_has_failed,
    .check = check,
    .memory = cuda_memory,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .host_alloc = cuda_host_alloc,
    .host_free = cuda_host_free,
    .copy = cuda_copy,
    .copy_now = cuda_copy_now,
    .move_begin = cuda_move_begin,
    .move_copy = cuda_move_copy,
    .move_end = cuda_move_end,
    .move_done = cuda_move_done,
    .move_after = cuda_move_after,
    .move_join = cuda_move_join,
    .host_pin = cuda_host_pin,
    .host_unpin = cuda_host_unpin,
    .lane_open = cuda_lane_open,
    .lane_close = cuda_lane_close,
    .lane_follow = cuda_lane_follow,
    .lane_copy = cuda_lane_copy,
    .lane_mark = cuda_lane_mark,
    .lane_wait = cuda_lane_wait,
    .lane_await = cuda_lane_await,
    .handle_bytes = CUDA_HANDLE_BYTES,
    .pool = cuda_pool,
    .reserve = cuda_reserve,
    .release = cuda_release,
    .map = cuda_map,
    .unmap = cuda_unmap,
    .remap = cuda_remap,
    .tune = sizeof(T) == 2 ? cuda_tune : no_tune,
    .record = cuda_record,
    .recorded = cuda_recorded,
    .replay = cuda_replay,
    .graph_free = cuda_graph_free,
    .embed = cuda_embed,
    .norm = cuda_norm<T>,
    .matmul = cuda_matmul<T>,
    .matmul_f32 = cuda_matmul_f32<T>,
    .matmul_add = cuda_matmul_add<T>,
    .matmul_add_norm = sizeof(T) == 2 ? cuda_matmul_add_norm : NULL,
    .matmul_glu = sizeof(T) == 2 ? cuda_matmul_glu : NULL,
    .matmul_rope_kv = sizeof(T) == 2 ? cuda_matmul_rope_kv : NULL,
    .rope_kv = cuda_rope_kv<T>,
    .attention = cuda_attention<T>,
    .glu = cuda_glu<T>,
    .scale = cuda_scale,
    .feed = cuda_feed,
    .sample = cuda_sample,
    .route = cuda_route,
    .matmul_expert = cuda_matmul_expert<T>,
    .combine = cuda_combine<T>,
    .embed_part = cuda_embed_part,
    .squares = cuda_squares<T>,
};

static __global__ void empty_kernel(void)
{
}

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
    snprintf(c->device.name, sizeof(c->device.name),
             "cuda %u, %.64s, sm_%d%d, %u multiprocessors, %s", gpu, p.name, p.major, p.minor,
             c->sms, c->device.ops->operand == DTYPE_BF16 ? "bfloat16" : "float32");
    return 0;
}

/* Kernels that begin before the one ahead of them has ended: where the code that runs is built for
 * GPUs that know it. */
static cudaError_t open_stream(struct cuda_device *c)
{
    struct cudaFuncAttributes built;
    cudaError_t e = cudaSetDevice(c->gpu);

    if (e == cudaSuccess)
        e = cudaFuncGetAttributes(&built, empty_kernel);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = cuda_marks_open(c);
    if (e == cudaSuccess)
        e = cuda_moves_open(c);
    if (e == cudaSuccess)
        c->overlap = built.ptxVersion >= 90;
    return e;
}

struct device *device_create_cuda(uint32_t gpu, enum precision precision, uint32_t rows_max,
                                  uint32_t cols_max, struct error *err)
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
    c->device.ops = precision == PRECISION_FAST ? &ops<__nv_bfloat16> : &ops<float>;
    c->rows_max = rows_max;
    c->cols_max = cols_max;
    if (probe(c, gpu, err) != 0) {
        free(c);
        return NULL;
    }
    e = open_stream(c);
    if (e != cudaSuccess) {
        cuda_failed(err, e, "no context on the GPU");
        goto fail;
    }
    if (cuda_memory_open(c, err) != 0 || cuda_attention_open(c, err) != 0)
        goto fail;
    if (precision == PRECISION_FAST &&
        (cuda_tune_open(c, err) != 0 || cuda_chosen_open(c, err) != 0 ||
         cuda_fused_open(c, err) != 0))
        goto fail;
    return &c->device;
fail:
    destroy(&c->device);
    return NULL;
}
