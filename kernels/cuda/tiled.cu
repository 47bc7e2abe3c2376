/*
 * tiled.cu - tiled.cuh's kernel for each type and number of rows
 */
#include "kernels/cuda/tiled.cuh"

struct groups {
    const struct expert_groups *by; /* NULL: of no experts */
    uint32_t size, share;
};

template <class C>
static bool by_rows(struct cuda_device *c, const struct product *p, const struct groups &g)
{
    if (g.by && g.size <= 16)
        return tiled_launch_groups<C, 2>(c, p, g.by, g.share);
    if (g.by && g.size <= 32)
        return tiled_launch_groups<C, 4>(c, p, g.by, g.share);
    if (g.by)
        return tiled_launch_groups<C, 8>(c, p, g.by, g.share);
    if (p->rows <= 8)
        return tiled_launch<C, 1>(c, p);
    if (p->rows <= 16)
        return tiled_launch<C, 2>(c, p);
    if (p->rows <= 32)
        return tiled_launch<C, 4>(c, p);
    return tiled_launch<C, 8>(c, p);
}

static bool by_type(struct cuda_device *c, const struct product *p, const struct groups &g)
{
    switch (p->w.dtype) {
    case DTYPE_BF16:
        /* Without experts stream.cu has its own way. */
        return g.by && by_rows<bf16_tiled>(c, p, g);
    case DTYPE_Q4_0:
        return by_rows<nibble_tiled<false, false>>(c, p, g);
    case DTYPE_Q4_1:
        return by_rows<nibble_tiled<true, false>>(c, p, g);
    case DTYPE_Q5_0:
        return by_rows<nibble_tiled<false, true>>(c, p, g);
    case DTYPE_Q5_1:
        return by_rows<nibble_tiled<true, true>>(c, p, g);
    case DTYPE_Q8_0:
        return by_rows<q8_0_tiled>(c, p, g);
    case DTYPE_Q4_K:
        return by_rows<k_tiled<false>>(c, p, g);
    case DTYPE_Q5_K:
        return by_rows<k_tiled<true>>(c, p, g);
    case DTYPE_Q6_K:
        return by_rows<q6_k_tiled>(c, p, g);
    case DTYPE_F8:
        return by_rows<f8_tiled>(c, p, g);
    default:
        return false;
    }
}

/* A small matrix takes longer this way than by stream.cu: where blocks are clusters for want of
 * tiles, with little for each of them to do. */
static bool small(const struct product *p)
{
    return p->w.dtype != DTYPE_F8 && p->w.rows <= 40 * TILED_ROWS && p->w.cols <= 40 * UNIT_COLS &&
           p->rows > 1;
}

bool product_tiled(struct cuda_device *c, const struct product *p)
{
    if (small(p))
        return false;
    return by_type(c, p, {NULL, 0, 1});
}

uint32_t tiled_group_rows(const struct cuda_device *c, const struct product *p)
{
    /* stream.cu has no larger groups. */
    if (p->w.dtype == DTYPE_F32 || p->w.dtype == DTYPE_F16 || p->rows < 2048 ||
        !shared_fits(c, TILED_SHARED_MAX))
        return GROUP_ROWS;
    return p->rows < 8192 ? 32 : 64;
}

bool product_tiled_expert(struct cuda_device *c, const struct product *p,
                          const struct expert_groups *by, uint32_t size, uint32_t share)
{
    return by_type(c, p, {by, size, share});
}
