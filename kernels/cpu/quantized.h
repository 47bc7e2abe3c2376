/*
 * quantized.h - matrix products by integer dots ("fast")
 *
 * A row of x is cut into blocks of 32 columns; each becomes 32 signed bytes and a scale (its
 * largest magnitude over 127, rounded to nearest even), so an error of at most 1/254 of the largest
 * element of its block.  Weights stay as they are stored.  Products of quants are summed in
 * integers, which is exact; then, of each output element,
 *
 *     sum = fma(w_scale * x_scale, dot, sum), and sum = fma(w_min, x_scale * x_sum, sum) where the
 *     format has a minimum,
 *
 * block after block, in ascending order.  That is the same arithmetic in every path below, for one
 * row of x and for many, and on every instruction set: quantized_*.c give the same bits.
 *
 * A panel is `lanes` output rows; lane i of a vector is its i-th row.
 */
#ifndef MP_KERNELS_CPU_QUANTIZED_H
#define MP_KERNELS_CPU_QUANTIZED_H

#include "kernels/cpu/isa.h"

/* Rows of x that lie together in a tile. */
#define QUANT_TILE 8u
/*
 * A tile of T rows (QUANT_TILE, or 1 where a row is alone), for each block of 32 columns in turn:
 * quants [8][T][4], then scales [T], scale * sum of quants [T], and what integer dots start from
 * [2][T]: -zero * sum of quants, for stored weights that count from `zero`, of the whole block or
 * of its halves.
 */
#define QUANT_BLOCK_BYTES 48u /* of one row */

struct quantize_job { /* items: tiles */
    uint8_t *out;
    const float *x;
    size_t x_stride;
    uint32_t rows, cols;
    uint32_t tile; /* QUANT_TILE or 1 */
    int zero;      /* of the weights' format, */
    int halves;    /* and whether it has a scale for each half of a block */
};

struct quantized_job { /* items: panels, of each row of out in turn where ids is there */
    struct matmul_out out;
    const uint8_t *x; /* tiles */
    const struct weight *w;
    uint64_t row_bytes;
    uint32_t rows;   /* of x; 1: its tile has one row */
    uint32_t panels; /* of w */
    struct scratch scratch;
    /* Products by chosen experts, or ids NULL: rows of x lie in tiles of one. */
    const uint32_t *ids;
    uint64_t expert_bytes;
    uint32_t share;
};

struct quantized_isa {
    const char *name;
    uint32_t lanes;
    pool_fn *quantize, *matmul, *expert;
};

#if defined(__x86_64__)
extern const struct quantized_isa quantized_avx2, quantized_avxvnni, quantized_avx512;
#endif

/* The best one for this CPU; of that name, if it is not NULL.  NULL: none. */
const struct quantized_isa *quantized_best(const char *name);

/* Where k_matmul's x goes as it is quantized. */
struct quantized {
    const struct quantized_isa *isa; /* NULL: exact */
    uint8_t *x;
    size_t bytes;
};

/* isa NULL: exact, and nothing is allocated. */
int quantized_create(struct quantized *q, const struct quantized_isa *isa, uint32_t rows_max,
                     uint32_t cols_max, struct error *err);
void quantized_destroy(struct quantized *q);

/* Whether products with w go this way. */
int quantized_takes(const struct quantized *q, const struct weight *w);
/* The products with such a w, and k_matmul_expert. */
void quantized_matmul(const struct quantized *q, struct pool *pool, struct scratch scratch,
                      const struct matmul_out *out, const float *x, const struct weight *w,
                      uint32_t rows);
void quantized_expert(const struct quantized *q, struct pool *pool, float *out, const float *x,
                      const struct weight *w, const uint32_t *ids, uint32_t rows, uint32_t share);

#endif
