/*
 * embed.cu - stored rows, decoded: of the embedding table, and of weights for cuBLASLt
 */
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/group.cuh"
#include "kernels/cuda/product.cuh"

/* A warp decodes 256 columns of a row; tokens NULL: rows in their order.  The table has table_rows
 * rows from that of token `first` on: zeros for others. */
template <class C, typename T>
static __global__ void embed_kernel(T *out, const uint8_t *table, uint64_t row_bytes,
                                    const uint32_t *tokens, uint32_t first, uint32_t table_rows,
                                    uint32_t cols, float scale, bool aligned)
{
    uint32_t lane = threadIdx.x % WARP, col = blockIdx.y * STEP_COLS + C::first(lane);
    float w[8];

    /* Those behind it read what the step says before they wait: it is there then. */
    wait_kernels();
    launch_next();
    uint32_t at_row = tokens ? tokens[blockIdx.x] - first : blockIdx.x;
    bool here = at_row < table_rows;
    const uint8_t *row = table + (here ? at_row : 0) * row_bytes;
    C::decode(w, C::load(row, blockIdx.y, lane, cols, aligned, false), lane);
    out += (size_t)blockIdx.x * cols;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t at = col + i % 4 + i / 4 * C::GAP;
        if (at < cols)
            operand_store(out + at, here ? w[i] * scale : 0.0f);
    }
}

template <class C, typename T> struct embed {
    static void run(struct cuda_device *c, T *out, const struct weight *table,
                    const uint32_t *tokens, uint32_t first, uint32_t rows, float scale)
    {
        uint64_t row_bytes = dtype_row_bytes(table->dtype, table->cols);
        dim3 grid(rows, (table->cols + STEP_COLS - 1) / STEP_COLS);
        cuda_launch(c, embed_kernel<C, T>, grid, WARP, 0, out, (const uint8_t *)table->data,
                    row_bytes, tokens, first, table->rows, table->cols, scale,
                    aligned16(table->data, row_bytes));
    }
};

void cuda_embed(struct device *d, float *out, const struct weight *table, const uint32_t *tokens,
                uint32_t rows, float scale)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0)
        return;
    with_codec<embed, float>(table->dtype, c, out, table, tokens, 0u, rows, scale);
}

void cuda_embed_part(struct device *d, float *out, const struct weight *table, uint32_t first,
                     const uint32_t *tokens, uint32_t rows, float scale)
{
    struct cuda_device *c = cuda_enter(d);

    if (rows == 0)
        return;
    with_codec<embed, float>(table->dtype, c, out, table, tokens, first, rows, scale);
}

/* ---- weights for cuBLASLt ----------------------------------------------------------------------
 */

#define EXPAND_WARPS 8u
#define EXPAND_AHEAD 4u /* steps of 256 columns that a warp has under way */

/* Four columns of a row. */
FN void expand_quad(__nv_bfloat16 *row, uint32_t col, uint32_t cols, const float *w, bool by4)
{
    if (by4 && col + 4 <= cols) {
        operand_store4(row + col, {w[0], w[1], w[2], w[3]});
        return;
    }
    for (uint32_t i = 0; i < 4 && col + i < cols; i++)
        operand_store(row + col + i, w[i]);
}

template <class C>
static __global__ void __launch_bounds__(EXPAND_WARPS *WARP)
    expand_kernel(__nv_bfloat16 *out, const uint8_t *data, uint64_t row_bytes, uint32_t rows,
                  uint32_t cols, bool aligned, bool by4)
{
    uint32_t lane = threadIdx.x % WARP, steps = (cols + STEP_COLS - 1) / STEP_COLS;
    uint64_t all = (uint64_t)rows * steps, stride = (uint64_t)gridDim.x * EXPAND_WARPS;
    uint64_t i = (uint64_t)blockIdx.x * EXPAND_WARPS + threadIdx.x / WARP;

    await_kernels();
    for (; i < all; i += EXPAND_AHEAD * stride) {
        typename C::raw raw[EXPAND_AHEAD];
        uint32_t row[EXPAND_AHEAD], step[EXPAND_AHEAD];
#pragma unroll
        for (uint32_t k = 0; k < EXPAND_AHEAD; k++) {
            uint64_t at = i + k * stride;
            row[k] = (uint32_t)(at / steps);
            step[k] = (uint32_t)(at - (uint64_t)row[k] * steps);
            if (at < all)
                raw[k] = C::load(data + row[k] * row_bytes, step[k], lane, cols, aligned,
                                 (step[k] + 1) * STEP_COLS <= cols);
        }
#pragma unroll
        for (uint32_t k = 0; k < EXPAND_AHEAD; k++) {
            uint32_t col = step[k] * STEP_COLS + C::first(lane);
            float w[8];
            if (i + k * stride >= all)
                break;
            C::decode(w, raw[k], lane);
            expand_quad(out + (size_t)row[k] * cols, col, cols, w, by4);
            expand_quad(out + (size_t)row[k] * cols, col + C::GAP, cols, w + 4, by4);
        }
    }
}

template <class C, typename T> struct expand {
    static void run(struct cuda_device *c, T *to, const struct weight *w)
    {
        uint64_t row_bytes = dtype_row_bytes(w->dtype, w->cols);

        cuda_launch(c, expand_kernel<C>, 8 * c->sms, EXPAND_WARPS * WARP, 0, to,
                    (const uint8_t *)w->data, row_bytes, w->rows, w->cols,
                    aligned16(w->data, row_bytes), operand_by4(to, w->cols));
    }
};

void product_expand(struct cuda_device *c, __nv_bfloat16 *to, const struct weight *w,
                    uint32_t first, uint32_t count)
{
    struct weight part = *w;

    part.data = (const char *)w->data + first * dtype_row_bytes(w->dtype, w->cols);
    part.rows = count;
    with_codec<expand, __nv_bfloat16>(w->dtype, c, to, &part);
}
