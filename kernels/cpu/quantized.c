/*
 * quantized.c - matrix products by integer dots: which of them, and the jobs for the pool
 */
#include "kernels/cpu/quantized.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* Bytes of quantized x that are held at once, if a tile is not more. */
#define X_BYTES (16u << 20)
/* Elements of x that are worth a thread's while to quantize, and products, some microseconds. */
#define QUANTIZE_WORTH 16384u
#define PRODUCTS_WORTH (1u << 17)

#if defined(__x86_64__)
/* The compilers' checks include whether the kernel saves the wide registers; not all of them know
 * the newer names, so ask the CPU for those. */
static int has_avx2(void)
{
    unsigned a, b, c = 0, d;

    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}

static int has_avxvnni(void)
{
    unsigned a = 0, b, c, d;

    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4) != 0;
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

const struct quantized_isa *quantized_best(const char *name)
{
#if defined(__x86_64__)
    const struct {
        const struct quantized_isa *isa;
        int there;
    } all[] = {
        {&quantized_avx512, has_avx512()},
        {&quantized_avxvnni, has_avxvnni()},
        {&quantized_avx2, has_avx2()},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (all[i].there && (!name || strcmp(name, all[i].isa->name) == 0))
            return all[i].isa;
#else
    (void)name;
#endif
    return NULL;
}

static size_t x_row_bytes(uint32_t cols)
{
    return (size_t)cols / 32 * QUANT_BLOCK_BYTES;
}

int quantized_create(struct quantized *q, const struct quantized_isa *isa, uint32_t rows_max,
                     uint32_t cols_max, struct error *err)
{
    size_t tile = x_row_bytes(cols_max) * QUANT_TILE + 64, bytes = tile;

    memset(q, 0, sizeof(*q));
    if (!isa)
        return 0;
    while (bytes < X_BYTES && bytes / tile * QUANT_TILE < rows_max)
        bytes += tile;
    q->x = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    if (!q->x)
        return error_set(err, STATUS_NOMEM, "no memory for %zu bytes of activations", bytes);
    q->bytes = bytes;
    q->isa = isa;
    return 0;
}

void quantized_destroy(struct quantized *q)
{
    free(q->x);
    memset(q, 0, sizeof(*q));
}

int quantized_takes(const struct quantized *q, const struct weight *w)
{
    if (!q->isa || w->rows < q->isa->lanes)
        return 0;
    /* Offsets within a panel are 32-bit. */
    if (dtype_row_bytes(w->dtype, w->cols) > INT32_MAX / q->isa->lanes)
        return 0;
    switch (w->dtype) {
    case DTYPE_Q4_0:
    case DTYPE_Q4_1:
    case DTYPE_Q5_0:
    case DTYPE_Q5_1:
    case DTYPE_Q8_0:
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
    case DTYPE_Q6_K:
        return 1;
    default:
        return 0;
    }
}

/* What a stored quant of the format counts from. */
static int zero_of(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_Q4_0:
        return 8;
    case DTYPE_Q5_0:
        return 16;
    case DTYPE_Q8_0:
        return 128;
    case DTYPE_Q6_K:
        return 32;
    default:
        return 0;
    }
}

/* Items of `cost` each in a piece: worth the claim, and a few pieces for each thread. */
static uint32_t grain(const struct pool *pool, uint64_t worth, uint64_t cost, uint32_t items)
{
    uint64_t least = cost >= worth ? 1 : worth / cost;
    uint32_t even = items / (4 * pool_threads(pool));

    return even > least ? even : (uint32_t)least;
}

static void quantize(const struct quantized *q, struct pool *pool, const float *x,
                     const struct weight *w, uint32_t rows, uint32_t tile)
{
    struct quantize_job job = {
        .out = q->x,
        .x = x,
        .x_stride = w->cols,
        .rows = rows,
        .cols = w->cols,
        .tile = tile,
        .zero = zero_of(w->dtype),
        .halves = w->dtype == DTYPE_Q6_K,
    };
    uint32_t items = (rows + tile - 1) / tile;

    pool_run(pool, q->isa->quantize, &job, items,
             grain(pool, QUANTIZE_WORTH, (uint64_t)tile * w->cols, items));
}

/* Rows of x that fit at once, of whole tiles. */
static uint32_t rows_at_once(const struct quantized *q, uint32_t cols, uint32_t tile)
{
    return (uint32_t)(q->bytes / (x_row_bytes(cols) * tile)) * tile;
}

void quantized_matmul(const struct quantized *q, struct pool *pool, struct scratch scratch,
                      const struct matmul_out *out, const float *x, const struct weight *w,
                      uint32_t rows)
{
    uint32_t lanes = q->isa->lanes, at_once = rows_at_once(q, w->cols, QUANT_TILE);
    struct quantized_job job = {
        .out = *out,
        .x = q->x,
        .w = w,
        .row_bytes = dtype_row_bytes(w->dtype, w->cols),
        .panels = w->rows / lanes + (w->rows % lanes != 0),
        .scratch = scratch,
    };

    for (uint32_t r = 0; r < rows; r += job.rows) {
        job.rows = rows - r < at_once ? rows - r : at_once;
        job.out.data = out->data + r * out->stride;
        quantize(q, pool, x + (size_t)r * w->cols, w, job.rows, job.rows == 1 ? 1 : QUANT_TILE);
        pool_run(pool, q->isa->matmul, &job, job.panels,
                 grain(pool, PRODUCTS_WORTH, (uint64_t)lanes * w->cols * job.rows, job.panels));
    }
}

void quantized_expert(const struct quantized *q, struct pool *pool, float *out, const float *x,
                      const struct weight *w, const uint32_t *ids, uint32_t rows, uint32_t share)
{
    uint32_t lanes = q->isa->lanes, at_once = rows_at_once(q, w->cols, 1);
    struct quantized_job job = {
        .out = {.stride = w->rows},
        .x = q->x,
        .w = w,
        .row_bytes = dtype_row_bytes(w->dtype, w->cols),
        .panels = w->rows / lanes + (w->rows % lanes != 0),
        .share = share,
    };

    job.expert_bytes = job.row_bytes * w->rows;
    for (uint32_t r = 0, n; r < rows; r += n * share) {
        n = (rows - r + share - 1) / share; /* rows of x */
        n = n < at_once ? n : at_once;
        uint32_t these = rows - r < n * share ? rows - r : n * share;
        job.out.data = out + (size_t)r * w->rows;
        job.ids = ids + r;
        quantize(q, pool, x + (size_t)(r / share) * w->cols, w, n, 1);
        pool_run(pool, q->isa->expert, &job, these * job.panels,
                 grain(pool, PRODUCTS_WORTH, (uint64_t)lanes * w->cols, these * job.panels));
    }
}
