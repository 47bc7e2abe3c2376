/*
 * product.cuh - matrix products: what their kernels take and where their sums go
 */
#ifndef MP_KERNELS_CUDA_PRODUCT_CUH
#define MP_KERNELS_CUDA_PRODUCT_CUH

#include "kernels/cuda/operand.cuh"

enum sink {
    SINK_OPERAND, /* k_matmul */
    SINK_F32,     /* k_matmul_f32 */
    SINK_ADD,     /* k_matmul_add */
    SINK_NORM,    /* k_matmul_add_norm */
    SINK_GLU,     /* k_matmul_glu: rows j of gate and of up together */
    SINK_ROPE,    /* k_matmul_rope_kv: rows of a pair together */
};

/*
 * A row that is to be normed and multiplied: x / rms(x) * w, times a matrix, is 1 / rms(x) times
 * the product of x * w.  So who makes x leaves x * w, and the sums of its squares by SQUARES
 * columns; who multiplies scales what comes out.
 */
#define SQUARES        8u
#define FUSED_ROWS_MAX 32u

struct unscaled {
    const void *x;  /* NULL: none; else rows of x * w */
    float *squares; /* [rows][parts] */
    uint32_t parts, rows;
    float eps;
};

/* Where the sums of a product go: row r, column j at r * stride + j. */
/* Of SINK_ROPE: what k_rope_kv() is told, of a step in which every sequence decodes. */
struct rope_sink {
    const struct attn_row *seqs;
    void *const *pages;
    uint64_t layer_at, half_bytes; /* of a page; from keys to values */
    uint32_t seq_count, q_heads, kv_heads, dim, page_tokens;
    int turned, interleaved;
    float scale;
    double turns[ROPE_PAIRS];
};

struct product_out {
    void *out;
    const float *bias; /* NULL: none */
    uint32_t stride;
    float scale; /* of SINK_ADD, SINK_NORM */
    enum sink sink;
    enum activation activation; /* of SINK_GLU */
    /* Of SINK_NORM. */
    const float *norm;
    __nv_bfloat16 *normed;
    float *squares;
    const struct rope_sink *rope; /* of SINK_ROPE; in host memory */
};

struct product {
    struct product_out to;
    const void *x; /* [rows][w.cols] operands */
    struct weight w;
    uint32_t rows;
    struct unscaled from; /* x is it; x NULL: x is as it is */
};

/* x w^T as sink says, with no bias and no scale. */
static inline struct product product_of(void *out, enum sink sink, uint32_t stride, const void *x,
                                        const struct weight *w, uint32_t rows)
{
    struct product p = {};

    p.to.out = out;
    p.to.stride = stride;
    p.to.scale = 1;
    p.to.sink = sink;
    p.x = x;
    p.w = *w;
    p.rows = rows;
    return p;
}

template <typename T>
FN void product_store(const struct product_out &to, size_t r, uint32_t j, float sum)
{
    size_t at = r * to.stride + j;

    if (to.bias)
        sum += to.bias[j];
    if (to.sink == SINK_OPERAND)
        operand_store((T *)to.out + at, sum);
    else if (to.sink == SINK_F32)
        ((float *)to.out)[at] = sum;
    else
        ((float *)to.out)[at] += to.scale * sum;
}

/* By any shape, alignment and type, in registers: matmul_f32.cu, matmul_bf16.cu. */
template <typename T> void product_plain(struct cuda_device *c, const struct product *p);
/* out[i] of p's first expert and those behind it, as k_matmul_expert() says; p->rows of out. */
template <typename T>
void product_plain_expert(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                          uint32_t share);

/* Chosen rows of one expert, and all of them: groups of a size, and the rows that they point into;
 * in device memory. */
#define GROUP_ROWS 16u /* of a group of stream.cu's */
struct expert_group {
    uint32_t expert, begin, count;
};

struct expert_groups {
    uint32_t count;
    uint32_t *rows;
    struct expert_group *groups;
};

/* By the tensor cores, best for few rows: stream.cu.  False, and nothing was asked for: a type or
 * an alignment that it does not know. */
bool product_stream(struct cuda_device *c, const struct product *p);
/* By experts: with ids each row its own, with `by` in groups; the other is NULL. */
bool product_stream_expert(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                           const struct expert_groups *by, uint32_t share);
/* Both of a deterministic device, alike.cu: the same bits for any number of rows; and, for many,
 * the same again by large tiles.  The latter is false, too, where shared memory is short. */
bool product_alike(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                   const struct expert_groups *by, uint32_t share);
bool product_wide(struct cuda_device *c, const struct product *p);
/* Of one row, or of rows each with its expert: lone.cu.  False as above; rows are aligned. */
bool product_lone(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                  uint32_t share);
/* Of some rows with quantized weights: tiled.cu.  As above. */
bool product_tiled(struct cuda_device *c, const struct product *p);
/* How large groups of an expert's rows should be, at least GROUP_ROWS, and products by such. */
uint32_t tiled_group_rows(const struct cuda_device *c, const struct product *p);
bool product_tiled_expert(struct cuda_device *c, const struct product *p,
                          const struct expert_groups *by, uint32_t size, uint32_t share);
/* Weights as bfloat16: rows [first, first + count) of w. */
void product_expand(struct cuda_device *c, __nv_bfloat16 *to, const struct weight *w,
                    uint32_t first, uint32_t count);

/* The fastest known way for bfloat16 operands: tune.cu.  false, and nothing was asked for: not one
 * that knows p's sink or where it comes from. */
bool product_fused(struct cuda_device *c, const struct product *p);
void product_fast(struct cuda_device *c, const struct product *p);
void product_fast_expert(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                         uint32_t share);

/* fused.cu: how the rows of x are to be scaled, x NULL: they are as they should be; and doing it.
 */
struct unscaled unscaled_take(struct cuda_device *c, const void *x);
void scale_rows(struct cuda_device *c, const void *x, uint32_t cols);

/* gelu: x/2 (1 + tanh z) = x / (1 + e^-2z), z = sqrt(2/pi) (x + 0.044715 x^3). */
FN float activate(float g, enum activation activation)
{
    if (activation == ACTIVATION_GELU_TANH) {
        float z = g * fmaf(g * g, 0.044715f, 1) * 0.7978845608f;
        return g / (1 + expf(-2 * z));
    }
    return g / (1 + expf(-g));
}

/* Rows that each begin at a multiple of 16 bytes. */
static inline bool aligned16(const void *p, uint64_t row_bytes)
{
    return (((uintptr_t)p | row_bytes) & 15) == 0;
}

#endif
