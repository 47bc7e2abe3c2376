/*
 * dtype.c - sizes and names of the stored types
 *
 * Block layouts: the GGUF specification and ggml's block structures, as facts; F8_E4M3 is ours.
 */
#include "kernels/kernels.h"

struct dtype_info {
    const char *name;
    uint32_t elements, bytes; /* of a block */
};

static const struct dtype_info *find(uint32_t dtype)
{
    static const struct dtype_info infos[] = {
        [DTYPE_F32] = {"F32", 1, 4},       [DTYPE_F16] = {"F16", 1, 2},
        [DTYPE_BF16] = {"BF16", 1, 2},     [DTYPE_Q4_0] = {"Q4_0", 32, 18},
        [DTYPE_Q4_1] = {"Q4_1", 32, 20},   [DTYPE_Q5_0] = {"Q5_0", 32, 22},
        [DTYPE_Q5_1] = {"Q5_1", 32, 24},   [DTYPE_Q8_0] = {"Q8_0", 32, 34},
        [DTYPE_Q2_K] = {"Q2_K", 256, 84},  [DTYPE_Q3_K] = {"Q3_K", 256, 110},
        [DTYPE_Q4_K] = {"Q4_K", 256, 144}, [DTYPE_Q5_K] = {"Q5_K", 256, 176},
        [DTYPE_Q6_K] = {"Q6_K", 256, 210}, [DTYPE_F8] = {"F8_E4M3", 1, 1},
    };
    if (dtype >= sizeof(infos) / sizeof(infos[0]) || !infos[dtype].name)
        return NULL;
    return &infos[dtype];
}

uint32_t dtype_block_elements(uint32_t dtype)
{
    const struct dtype_info *info = find(dtype);
    return info ? info->elements : 0;
}

uint32_t dtype_block_bytes(uint32_t dtype)
{
    const struct dtype_info *info = find(dtype);
    return info ? info->bytes : 0;
}

const char *dtype_name(uint32_t dtype)
{
    const struct dtype_info *info = find(dtype);
    return info ? info->name : "unknown";
}

static uint64_t f8_align(uint64_t bytes)
{
    return (bytes + F8_ALIGN - 1) / F8_ALIGN * F8_ALIGN;
}

uint64_t f8_scales_at(uint64_t cols)
{
    return f8_align(cols);
}

uint64_t dtype_row_bytes(uint32_t dtype, uint64_t cols)
{
    const struct dtype_info *info = find(dtype);
    if (dtype == DTYPE_F8)
        return cols > UINT64_MAX / 2
                   ? 0
                   : f8_align(cols) + f8_align((cols + F8_BLOCK - 1) / F8_BLOCK * sizeof(float));
    if (!info || cols % info->elements != 0)
        return 0;
    uint64_t blocks = cols / info->elements;
    return blocks > UINT64_MAX / info->bytes ? 0 : blocks * info->bytes;
}
