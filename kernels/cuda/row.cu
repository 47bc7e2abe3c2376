/*
 * row.cu - operations on rows of activations: norms, gates, rotary embedding
 */
#include <math.h>
#include <string.h>

#include "kernels/cuda/cuda.cuh"

#define NORM_THREADS 256u
#define NORM_WARPS   (NORM_THREADS / WARP)
#define ROPE_THREADS 256u
#define ROPE_PAIRS   512u /* of a head, at most */

/* Sum over the block, the same in every thread: lanes pairwise, then the warps in their order. */
static __device__ float block_sum(float v)
{
    __shared__ float warps[NORM_WARPS];
    float sum = 0;

    for (int i = 16; i > 0; i /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, i);
    if (threadIdx.x % WARP == 0)
        warps[threadIdx.x / WARP] = v;
    __syncthreads();
    for (uint32_t i = 0; i < NORM_WARPS; i++)
        sum += warps[i];
    return sum;
}

/* A block a row.  y NULL: a plain norm; else sum = x + y_scale * y is stored and normalised, or
 * with w NULL stored alone.  A thread writes only the columns that it alone reads, so out and sum
 * may be x. */
static __global__ void norm_kernel(float *out, float *sum, const float *x, const float *y,
                                   float y_scale, const float *w, uint32_t cols, float eps)
{
    size_t row = (size_t)blockIdx.x * cols;
    const float *a = y ? sum : x;
    float squares = 0;

    for (uint32_t i = threadIdx.x; i < cols; i += NORM_THREADS) {
        float v = x[row + i];
        if (y) {
            v += y_scale * y[row + i];
            sum[row + i] = v;
        }
        squares = fmaf(v, v, squares);
    }
    if (!w)
        return;
    float scale = 1 / sqrtf(block_sum(squares) / (float)cols + eps);
    for (uint32_t i = threadIdx.x; i < cols; i += NORM_THREADS)
        out[row + i] = a[row + i] * scale * w[i];
}

void cuda_rmsnorm(struct device *d, float *out, const float *x, const float *w, uint32_t rows,
                  uint32_t cols, float eps)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0)
        return;
    norm_kernel<<<rows, NORM_THREADS, 0, c->stream>>>(out, NULL, x, NULL, 0, w, cols, eps);
    cuda_note(c, cudaGetLastError());
}

void cuda_add_rmsnorm(struct device *d, float *out, float *x, const float *y, float y_scale,
                      const float *w, uint32_t rows, uint32_t cols, float eps)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0)
        return;
    norm_kernel<<<rows, NORM_THREADS, 0, c->stream>>>(out, x, x, y, y_scale, w, cols, eps);
    cuda_note(c, cudaGetLastError());
}

/* ---- gates and scales --------------------------------------------------------------------------
 */

/* gelu: x/2 (1 + tanh z) = x / (1 + e^-2z), z = sqrt(2/pi) (x + 0.044715 x^3). */
static __device__ float activate(float g, enum activation activation)
{
    if (activation == ACTIVATION_GELU_TANH) {
        float z = g * fmaf(g * g, 0.044715f, 1) * 0.7978845608f;
        return g / (1 + expf(-2 * z));
    }
    return g / (1 + expf(-g));
}

static __global__ void glu_kernel(float *out, const float *gate_up, uint32_t cols,
                                  enum activation activation)
{
    const float *gate = gate_up + (size_t)blockIdx.x * 2 * cols, *up = gate + cols;
    uint32_t i = blockIdx.y * blockDim.x + threadIdx.x;

    if (i < cols)
        out[(size_t)blockIdx.x * cols + i] = activate(gate[i], activation) * up[i];
}

void cuda_glu(struct device *d, float *out, const float *gate_up, uint32_t rows, uint32_t cols,
              enum activation activation)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0 || cols == 0)
        return;
    glu_kernel<<<dim3(rows, (cols + 255) / 256), 256, 0, c->stream>>>(out, gate_up, cols,
                                                                      activation);
    cuda_note(c, cudaGetLastError());
}

static __global__ void scale_kernel(float *x, uint32_t cols, float scale, float softcap)
{
    uint32_t i = blockIdx.y * blockDim.x + threadIdx.x;

    if (i < cols) {
        float *at = x + (size_t)blockIdx.x * cols + i, a = *at * scale;
        *at = softcap > 0 ? softcap * tanhf(a / softcap) : a;
    }
}

void cuda_scale(struct device *d, float *x, uint32_t rows, uint32_t cols, float scale,
                float softcap)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0 || cols == 0)
        return;
    scale_kernel<<<dim3(rows, (cols + 255) / 256), 256, 0, c->stream>>>(x, cols, scale, softcap);
    cuda_note(c, cudaGetLastError());
}

/* ---- rotary embedding --------------------------------------------------------------------------
 */

struct rope_args {
    float *q, *k;
    const float *v;
    uint32_t q_heads, layer, seq_count;
    struct rope rope;
    struct kv_layout kv;
    const struct attn_row *seqs;
    void *const *pages;
    int divided;               /* by factors[] */
    float factors[ROPE_PAIRS]; /* a launch's arguments may have 4 KiB */
};

/* A token's cosines and sines.  In double: an angle of float32 is off by 1e-3 at position 10,000.
 */
static __device__ void angles(float *cosines, float *sines, const rope_args &a, uint32_t pos)
{
    for (uint32_t i = threadIdx.x; i < a.rope.dims / 2; i += ROPE_THREADS) {
        double angle = pow((double)a.rope.theta, -2.0 * i / a.rope.dims), s, c;
        if (a.divided)
            angle /= a.factors[i];
        sincos(pos * angle, &s, &c);
        cosines[i] = (float)c * a.rope.scale;
        sines[i] = (float)s * a.rope.scale;
    }
}

/* n heads that lie one after the other. */
static __device__ void rotate(float *x, uint32_t n, uint32_t head_dim, const struct rope *rope,
                              const float *cosines, const float *sines)
{
    uint32_t half = rope->dims / 2;

    for (uint32_t i = threadIdx.x; i < n * half; i += ROPE_THREADS) {
        uint32_t pair = i % half;
        float *head = x + i / half * head_dim;
        float *pa = head + (rope->interleaved ? 2 * pair : pair);
        float *pb = pa + (rope->interleaved ? 1 : half);
        float a = *pa, b = *pb;
        *pa = a * cosines[pair] - b * sines[pair];
        *pb = a * sines[pair] + b * cosines[pair];
    }
}

/* Blocks go through the step's tokens, so that a launch does not depend on how many there are. */
static __global__ void rope_kernel(const __grid_constant__ rope_args a)
{
    __shared__ float cosines[ROPE_PAIRS], sines[ROPE_PAIRS];
    uint32_t dim = a.kv.head_dim, width = a.kv.kv_heads * dim;
    uint32_t item = blockIdx.x, seq = 0;

    for (;; item += gridDim.x) {
        while (seq < a.seq_count && item >= a.seqs[seq].count)
            item -= a.seqs[seq++].count;
        if (seq == a.seq_count)
            return;
        uint32_t pos = a.seqs[seq].first_pos + item, slot = pos % a.kv.page_tokens;
        size_t row = a.seqs[seq].first_row + item;
        float *k = a.k + row * width;
        char *page = (char *)a.pages[a.seqs[seq].table + pos / a.kv.page_tokens];
        float *base = (float *)(page + a.layer * a.kv.layer_bytes);
        __syncthreads();
        angles(cosines, sines, a, pos);
        __syncthreads();
        rotate(a.q + row * a.q_heads * dim, a.q_heads, dim, &a.rope, cosines, sines);
        rotate(k, a.kv.kv_heads, dim, &a.rope, cosines, sines);
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < width; i += ROPE_THREADS) {
            size_t head = i / dim, at = (head * a.kv.page_tokens + slot) * dim + i % dim;
            base[at] = k[i];
            base[at + (size_t)a.kv.page_tokens * width] = a.v[row * width + i];
        }
    }
}

void cuda_rope_kv(struct device *d, float *q, float *k, const float *v, uint32_t q_heads,
                  const struct rope *rope, const struct kv_layout *kv, uint32_t layer,
                  const struct attn_row *seqs, uint32_t seq_count, void *const *pages)
{
    struct cuda_device *c = cuda_enter(d);
    struct rope_args a = {q, k, v, q_heads, layer, seq_count, *rope, *kv, seqs, pages, 0, {}};
    uint32_t blocks = c->rows_max < 4 * c->sms ? c->rows_max : 4 * c->sms;

    if (rope->dims / 2 > ROPE_PAIRS || rope->dims > kv->head_dim) {
        cuda_note(c, cudaErrorInvalidValue);
        return;
    }
    a.rope.factors = NULL;
    a.divided = rope->factors != NULL;
    if (a.divided)
        memcpy(a.factors, rope->factors, rope->dims / 2 * sizeof(*a.factors));
    rope_kernel<<<blocks, ROPE_THREADS, 0, c->stream>>>(a);
    cuda_note(c, cudaGetLastError());
}
