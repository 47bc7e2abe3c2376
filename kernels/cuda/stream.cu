/*
 * stream.cu - stream.cuh's kernel for each type and number of rows
 */
#include "kernels/cuda/stream_quant.cuh"

/* A lone row has STAGES of them to itself; more rows take their room. */
template <class C, uint32_t STAGES>
static void by_rows(struct cuda_device *c, const struct product *p,
                    const struct stream_experts &experts)
{
    constexpr uint32_t FEWER = C::COLS > 64 ? 2 : STAGES;

    if (experts.by)
        stream_launch<C, 2, FEWER, 1, ROWS_GROUPED>(c, p, experts);
    else if (experts.ids || p->rows == 1)
        stream_launch<C, 1, STAGES, 2>(c, p, experts);
    else if (p->rows <= 8)
        stream_launch<C, 1, FEWER, 2>(c, p, experts);
    else
        stream_launch<C, 2, FEWER, 1>(c, p, experts);
}

static bool by_type(struct cuda_device *c, const struct product *p,
                    const struct stream_experts &experts)
{
    if (c->deterministic)
        return product_alike(c, p, experts.ids, experts.by, experts.share);
    uint64_t row_bytes = dtype_row_bytes(p->w.dtype, p->w.cols);

    /* All rows begin at 16 bytes. */
    if (!aligned16(p->w.data, row_bytes) || !aligned16(p->x, 2 * (uint64_t)p->w.cols))
        return false;
    /* Other ends are not worth its slower way. */
    if (p->w.dtype != DTYPE_BF16 && p->to.sink > SINK_GLU)
        return false;
    if (!experts.by && (experts.ids || p->rows == 1) &&
        product_lone(c, p, experts.ids, experts.share))
        return true;
    if (!experts.by && !experts.ids && product_tiled(c, p))
        return true;
    switch (p->w.dtype) {
    case DTYPE_BF16:
        by_rows<bf16_stream<128>, 3>(c, p, experts);
        return true;
    case DTYPE_F16:
        by_rows<f16_stream, 4>(c, p, experts);
        return true;
    case DTYPE_Q4_0:
        by_rows<nibble_stream<false, false>, 3>(c, p, experts);
        return true;
    case DTYPE_Q4_1:
        by_rows<nibble_stream<true, false>, 3>(c, p, experts);
        return true;
    case DTYPE_Q5_0:
        by_rows<nibble_stream<false, true>, 3>(c, p, experts);
        return true;
    case DTYPE_Q5_1:
        by_rows<nibble_stream<true, true>, 3>(c, p, experts);
        return true;
    case DTYPE_Q8_0:
        by_rows<q8_0_stream, 2>(c, p, experts);
        return true;
    case DTYPE_Q4_K:
        by_rows<k_stream<false>, 3>(c, p, experts);
        return true;
    case DTYPE_Q5_K:
        by_rows<k_stream<true>, 3>(c, p, experts);
        return true;
    case DTYPE_Q6_K:
        by_rows<q6_k_stream, 2>(c, p, experts);
        return true;
    case DTYPE_F8:
        by_rows<f8_stream, 4>(c, p, experts);
        return true;
    default:
        return false;
    }
}

bool product_stream(struct cuda_device *c, const struct product *p)
{
    return by_type(c, p, {NULL, NULL, 1});
}

bool product_stream_expert(struct cuda_device *c, const struct product *p, const uint32_t *ids,
                           const struct expert_groups *by, uint32_t share)
{
    return by_type(c, p, {ids, by, share});
}
