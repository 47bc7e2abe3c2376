/*
 * matmul.cu - kernels.h's products: which way each is done
 */
#include "kernels/cuda/product.cuh"

/* float32 operands are always done the plain way; bfloat16 ones by tune.cu's choice. */
static void run(struct cuda_device *c, const struct product *p, float)
{
    product_plain<float>(c, p);
}

static void run(struct cuda_device *c, const struct product *p, __nv_bfloat16)
{
    product_fast(c, p);
}

template <typename T>
void cuda_matmul(struct device *d, void *out, uint32_t stride, const void *x,
                 const struct weight *w, const float *bias, uint32_t rows)
{
    struct product p = product_of(out, SINK_OPERAND, stride, x, w, rows);

    p.to.bias = bias;
    if (rows > 0 && w->rows > 0)
        run(cuda_enter(d), &p, T());
}

template <typename T>
void cuda_matmul_f32(struct device *d, float *out, const void *x, const struct weight *w,
                     uint32_t rows)
{
    struct product p = product_of(out, SINK_F32, w->rows, x, w, rows);

    if (rows > 0 && w->rows > 0)
        run(cuda_enter(d), &p, T());
}

template <typename T>
void cuda_matmul_add(struct device *d, float *out, float scale, const void *x,
                     const struct weight *w, uint32_t rows)
{
    struct product p = product_of(out, SINK_ADD, w->rows, x, w, rows);

    p.to.scale = scale;
    if (rows > 0 && w->rows > 0)
        run(cuda_enter(d), &p, T());
}

static void run_expert(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                       uint32_t share, float)
{
    product_plain_expert<float>(c, p, ids, share);
}

static void run_expert(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                       uint32_t share, __nv_bfloat16)
{
    product_fast_expert(c, p, ids, share);
}

template <typename T>
void cuda_matmul_expert(struct device *d, void *out, const void *x, const struct weight *w,
                        const uint32_t *expert_ids, uint32_t rows, uint32_t share)
{
    struct product p = product_of(out, SINK_OPERAND, w->rows, x, w, rows);

    if (rows > 0 && w->rows > 0)
        run_expert(cuda_enter(d), &p, expert_ids, share, T());
}

#define INSTANCES(T)                                                                               \
    template void cuda_matmul<T>(struct device * d, void *out, uint32_t stride, const void *x,     \
                                 const struct weight *w, const float *bias, uint32_t rows);        \
    template void cuda_matmul_f32<T>(struct device * d, float *out, const void *x,                 \
                                     const struct weight *w, uint32_t rows);                       \
    template void cuda_matmul_add<T>(struct device * d, float *out, float scale, const void *x,    \
                                     const struct weight *w, uint32_t rows);                       \
    template void cuda_matmul_expert<T>(struct device * d, void *out, const void *x,               \
                                        const struct weight *w, const uint32_t *expert_ids,        \
                                        uint32_t rows, uint32_t share);
INSTANCES(float)
INSTANCES(__nv_bfloat16)
