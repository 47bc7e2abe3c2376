/*
 * row.cu - operations on rows of activations: norms, gates, scales
 */
#include <math.h>

#include "kernels/cuda/product.cuh"

#define NORM_WARPS_MAX 32u
#define NORM_KEPT      2u /* vectors of a row that a thread keeps in registers */

/* Sum over the block, the same in every thread: lanes pairwise, then the warps in their order. */
static __device__ float block_sum(float v)
{
    __shared__ float warps[NORM_WARPS_MAX];
    float sum = 0;

    for (int i = 16; i > 0; i /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, i);
    __syncthreads(); /* the sum before this one was read */
    if (threadIdx.x % WARP == 0)
        warps[threadIdx.x / WARP] = v;
    __syncthreads();
    for (uint32_t i = 0; i < blockDim.x / WARP; i++)
        sum += warps[i];
    return sum;
}

/* N consecutive elements: 4 where rows are aligned, or 1. */
template <int N> struct span {
    float v[N];
};

template <int N, typename T> FN span<N> span_load(const T *p)
{
    span<N> s;

    if constexpr (N == 4) {
        float4 v = operand_load4(p);
        s = {{v.x, v.y, v.z, v.w}};
    } else {
        s.v[0] = operand_load(p);
    }
    return s;
}

template <int N, typename T> FN void span_store(T *p, const span<N> &s)
{
    if constexpr (N == 4)
        operand_store4(p, {s.v[0], s.v[1], s.v[2], s.v[3]});
    else
        operand_store(p, s.v[0]);
}

template <int N> FN float add_squares(float sum, const span<N> &s)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        sum = fmaf(s.v[i], s.v[i], sum);
    return sum;
}

template <typename T> struct norm_args {
    T *out;
    float *x;
    const T *y;
    float y_scale;
    const float *y_norm, *w;
    uint32_t cols;
    float eps;
};

/* x + y_scale * (y_norm ? y * scale * n : y) of one span; without y: x. */
template <int N, typename T>
FN span<N> summed(const norm_args<T> &a, size_t row, uint32_t i, const span<N> &y, const span<N> &n,
                  float scale)
{
    span<N> s = span_load<N>(a.x + row + i);

#pragma unroll
    for (int k = 0; k < N; k++)
        if (a.y)
            s.v[k] += a.y_scale * (a.y_norm ? y.v[k] * scale * n.v[k] : y.v[k]);
    if (a.y)
        span_store<N>(a.x + row + i, s);
    return s;
}

/* out = s * scale * w, or s. */
template <int N, typename T>
FN void finished(const norm_args<T> &a, size_t row, uint32_t i, span<N> s, const span<N> &w,
                 float scale)
{
    if (a.w) {
#pragma unroll
        for (int k = 0; k < N; k++)
            s.v[k] = s.v[k] * scale * w.v[k];
    }
    span_store<N>(a.out + row + i, s);
}

/* Weights of a norm, where there is one. */
template <int N> FN span<N> weights(const float *w, uint32_t i, uint32_t cols)
{
    return w && i < cols ? span_load<N>(w + i) : span<N>{};
}

/* A block a row.  The first spans of each thread stay in registers, their weights are read ahead of
 * the kernels before; further ones are read again.  A thread reads and writes its own columns
 * alone, so out may be x or y. */
template <int N, typename T> static __global__ void norm_kernel(const norm_args<T> a)
{
    size_t row = (size_t)blockIdx.x * a.cols;
    uint32_t step = blockDim.x * N, begin = threadIdx.x * N, rest = begin + NORM_KEPT * step;
    float squares = 0, scale = 0;
    span<N> y[NORM_KEPT] = {}, s[NORM_KEPT] = {}, n[NORM_KEPT], w[NORM_KEPT];

#pragma unroll
    for (uint32_t k = 0; k < NORM_KEPT; k++) {
        n[k] = weights<N>(a.y_norm, begin + k * step, a.cols);
        w[k] = weights<N>(a.w, begin + k * step, a.cols);
    }
    await_kernels();
    if (a.y) {
#pragma unroll
        for (uint32_t k = 0; k < NORM_KEPT; k++)
            if (begin + k * step < a.cols)
                y[k] = span_load<N>(a.y + row + begin + k * step);
    }
    if (a.y && a.y_norm) {
#pragma unroll
        for (uint32_t k = 0; k < NORM_KEPT; k++)
            squares = add_squares<N>(squares, y[k]);
        for (uint32_t i = rest; i < a.cols; i += step)
            squares = add_squares<N>(squares, span_load<N>(a.y + row + i));
        scale = 1 / sqrtf(block_sum(squares) / (float)a.cols + a.eps);
        squares = 0;
    }
#pragma unroll
    for (uint32_t k = 0; k < NORM_KEPT; k++) {
        if (begin + k * step < a.cols)
            s[k] = summed<N, T>(a, row, begin + k * step, y[k], n[k], scale);
        squares = add_squares<N>(squares, s[k]);
    }
    for (uint32_t i = rest; i < a.cols; i += step) {
        span<N> more = a.y ? span_load<N>(a.y + row + i) : span<N>{};
        squares = add_squares<N>(
            squares, summed<N, T>(a, row, i, more, weights<N>(a.y_norm, i, a.cols), scale));
    }
    if (!a.out)
        return;
    if (a.w)
        scale = 1 / sqrtf(block_sum(squares) / (float)a.cols + a.eps);
#pragma unroll
    for (uint32_t k = 0; k < NORM_KEPT; k++)
        if (begin + k * step < a.cols)
            finished<N, T>(a, row, begin + k * step, s[k], w[k], scale);
    for (uint32_t i = rest; i < a.cols; i += step)
        finished<N, T>(a, row, i, span_load<N>(a.x + row + i), weights<N>(a.w, i, a.cols), scale);
}

template <typename T>
void cuda_norm(struct device *d, void *out, float *x, const void *y, float y_scale,
               const float *y_norm, const float *w, uint32_t rows, uint32_t cols, float eps)
{
    struct cuda_device *c = cuda_enter(d);
    norm_args<T> a = {(T *)out, x, (const T *)y, y_scale, y_norm, w, cols, eps};
    bool by4 = operand_by4(a.out, cols) && operand_by4(a.y, cols) && operand_by4(x, cols) &&
               operand_by4(y_norm, cols) && operand_by4(w, cols);
    uint32_t kept = (by4 ? 4 : 1) * NORM_KEPT,
             threads = ((cols + kept - 1) / kept + WARP - 1) / WARP * WARP;

    if (rows == 0 || cols == 0)
        return;
    c->unscaled_of = NULL; /* norms write where it lies */
    /* No more than keep a row: the kernels around it have their threads there, too. */
    threads = threads < NORM_WARPS_MAX * WARP ? threads : NORM_WARPS_MAX * WARP;
    cuda_launch(c, by4 ? norm_kernel<4, T> : norm_kernel<1, T>, rows, threads, 0, a);
}

template void cuda_norm<float>(struct device *d, void *out, float *x, const void *y, float y_scale,
                               const float *y_norm, const float *w, uint32_t rows, uint32_t cols,
                               float eps);
template void cuda_norm<__nv_bfloat16>(struct device *d, void *out, float *x, const void *y,
                                       float y_scale, const float *y_norm, const float *w,
                                       uint32_t rows, uint32_t cols, float eps);

/* ---- gates and scales --------------------------------------------------------------------------
 */

#define SPAN_THREADS 128u

/* Spans of a row that is `cols` wide, a thread each. */
static dim3 span_grid(uint32_t rows, uint32_t cols, uint32_t n)
{
    return dim3(rows, (cols / n + SPAN_THREADS - 1) / SPAN_THREADS);
}

template <int N, typename T>
static __global__ void glu_kernel(T *out, const T *gate_up, uint32_t cols,
                                  enum activation activation)
{
    const T *gate = gate_up + (size_t)blockIdx.x * 2 * cols, *up = gate + cols;
    uint32_t i = (blockIdx.y * SPAN_THREADS + threadIdx.x) * N;

    await_kernels();
    if (i >= cols)
        return;
    span<N> g = span_load<N>(gate + i), u = span_load<N>(up + i);
#pragma unroll
    for (int k = 0; k < N; k++)
        g.v[k] = activate(g.v[k], activation) * u.v[k];
    span_store<N>(out + (size_t)blockIdx.x * cols + i, g);
}

template <typename T>
void cuda_glu(struct device *d, void *out, const void *gate_up, uint32_t rows, uint32_t cols,
              enum activation activation)
{
    struct cuda_device *c = cuda_enter(d);
    T *to = (T *)out;
    const T *from = (const T *)gate_up;
    bool by4 = operand_by4(to, cols) && operand_by4(from, cols);

    if (rows == 0 || cols == 0)
        return;
    cuda_launch(c, by4 ? glu_kernel<4, T> : glu_kernel<1, T>, span_grid(rows, cols, by4 ? 4 : 1),
                SPAN_THREADS, 0, to, from, cols, activation);
}

template void cuda_glu<float>(struct device *d, void *out, const void *gate_up, uint32_t rows,
                              uint32_t cols, enum activation activation);
template void cuda_glu<__nv_bfloat16>(struct device *d, void *out, const void *gate_up,
                                      uint32_t rows, uint32_t cols, enum activation activation);

template <int N>
static __global__ void scale_kernel(float *x, uint32_t cols, float scale, float softcap)
{
    uint32_t i = (blockIdx.y * SPAN_THREADS + threadIdx.x) * N;
    float *at = x + (size_t)blockIdx.x * cols + i;

    await_kernels();
    if (i >= cols)
        return;
    span<N> s = span_load<N>(at);
#pragma unroll
    for (int k = 0; k < N; k++) {
        float a = s.v[k] * scale;
        s.v[k] = softcap > 0 ? softcap * tanhf(a / softcap) : a;
    }
    span_store<N>(at, s);
}

void cuda_scale(struct device *d, float *x, uint32_t rows, uint32_t cols, float scale,
                float softcap)
{
    struct cuda_device *c = cuda_enter(d);
    bool by4 = operand_by4(x, cols);

    if (rows == 0 || cols == 0)
        return;
    cuda_launch(c, by4 ? scale_kernel<4> : scale_kernel<1>, span_grid(rows, cols, by4 ? 4 : 1),
                SPAN_THREADS, 0, x, cols, scale, softcap);
}
