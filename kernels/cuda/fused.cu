/*
 * fused.cu - products that do what stands behind them
 *
 * By stream.cu alone.  What k_matmul_add_norm() leaves is unscaled (product.cuh), and who reads it
 * next scales: another product of stream.cu by itself, everybody else after scale_rows().
 */
#include <stdlib.h>

#include "kernels/cuda/product.cuh"

struct unscaled_room {
    struct unscaled last;
    float *squares;
};

int cuda_fused_open(struct cuda_device *c, struct error *err)
{
    uint64_t floats = (uint64_t)(c->cols_max / SQUARES + 2) * FUSED_ROWS_MAX;

    c->unscaled = (struct unscaled_room *)calloc(1, sizeof(*c->unscaled));
    if (!c->unscaled)
        return error_set(err, STATUS_NOMEM, "no memory for norms of products");
    cudaError_t e = cudaMalloc((void **)&c->unscaled->squares, floats * sizeof(float));
    if (e == cudaSuccess)
        return 0;
    cudaGetLastError();
    return cuda_failed(err, e, "no GPU memory for norms of products");
}

void cuda_fused_close(struct cuda_device *c)
{
    if (!c->unscaled)
        return;
    cudaFree(c->unscaled->squares);
    free(c->unscaled);
    c->unscaled = NULL;
}

static __global__ void scale_rows_kernel(__nv_bfloat16 *x, const struct unscaled from,
                                         uint32_t cols)
{
    __shared__ float scale;
    uint32_t row = blockIdx.x;

    await_kernels();
    if (threadIdx.x < WARP) {
        float sum = 0;
        for (uint32_t i = threadIdx.x; i < from.parts; i += WARP)
            sum += from.squares[(size_t)row * from.parts + i];
        for (int lanes = 1; lanes < 32; lanes *= 2)
            sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
        if (threadIdx.x == 0)
            scale = 1 / sqrtf(sum / (float)cols + from.eps);
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < cols; i += blockDim.x) {
        __nv_bfloat16 *at = x + (size_t)row * cols + i;
        operand_store(at, operand_load(at) * scale);
    }
}

struct unscaled unscaled_take(struct cuda_device *c, const void *x)
{
    if (c->unscaled_of == NULL || c->unscaled_of != x)
        return {};
    return c->unscaled->last;
}

void scale_rows(struct cuda_device *c, const void *x, uint32_t cols)
{
    struct unscaled from = unscaled_take(c, x);

    if (!from.x)
        return;
    cuda_launch(c, scale_rows_kernel, from.rows, 256, 0, (__nv_bfloat16 *)from.x, from, cols);
    c->unscaled_of = NULL;
}

bool cuda_matmul_add_norm(struct device *d, void *normed, const float *norm, float eps, float *x,
                          float scale, const void *in, const struct weight *w, uint32_t rows)
{
    struct cuda_device *c = cuda_enter(d);
    struct product p = product_of(x, SINK_NORM, w->rows, in, w, rows);

    if (rows == 0 || rows > FUSED_ROWS_MAX || w->rows == 0 || w->rows % SQUARES != 0 ||
        w->rows > c->cols_max || normed == in)
        return false;
    p.to.scale = scale;
    p.to.norm = norm;
    p.to.normed = (__nv_bfloat16 *)normed;
    p.to.squares = c->unscaled->squares;
    p.from = unscaled_take(c, in);
    if (!product_fused(c, &p))
        return false;
    c->unscaled->last = {normed, c->unscaled->squares, w->rows / SQUARES, rows, eps};
    c->unscaled_of = normed;
    return true;
}

bool cuda_matmul_glu(struct device *d, void *out, const void *x, const struct weight *w,
                     uint32_t rows, enum activation activation)
{
    struct cuda_device *c = cuda_enter(d);
    struct product p = product_of(out, SINK_GLU, w->rows / 2, x, w, rows);

    if (rows == 0 || rows > FUSED_ROWS_MAX || w->rows == 0 || w->rows % 16 != 0 || w->rows == 16)
        return false;
    p.to.activation = activation;
    p.from = unscaled_take(c, x);
    return product_fused(c, &p);
}

bool cuda_matmul_rope_kv(struct device *d, void *qkv, const void *x, const struct weight *w,
                         const float *bias, uint32_t q_heads, const struct rope *rope,
                         const struct kv_layout *kv, uint32_t layer, const struct attn_step *step)
{
    struct cuda_device *c = cuda_enter(d);
    struct product p = product_of(qkv, SINK_ROPE, w->rows, x, w, step->rows);
    struct rope_sink to = {};

    if (step->longest != 1 || step->rows == 0 || step->rows > FUSED_ROWS_MAX ||
        step->seq_count > FUSED_ROWS_MAX || kv->head_dim % 16 != 0 ||
        kv->head_dim > 2 * ROPE_PAIRS || (rope->dims != 0 && rope->dims != kv->head_dim) ||
        w->rows != (q_heads + 2 * kv->kv_heads) * kv->head_dim)
        return false;
    to.seqs = step->seqs;
    to.pages = step->pages;
    to.layer_at = layer * kv->layer_bytes;
    to.seq_count = step->seq_count;
    to.q_heads = q_heads;
    to.kv_heads = kv->kv_heads;
    to.dim = kv->head_dim;
    to.page_tokens = kv->page_tokens;
    to.turned = rope->dims != 0;
    to.interleaved = rope->interleaved;
    to.scale = rope->scale;
    rope_turns(to.turns, rope);
    p.to.rope = &to;
    p.to.bias = bias;
    p.from = unscaled_take(c, x);
    return product_fused(c, &p);
}
