/*
 * quantized_body.h - matrix products by integer dots, of one instruction set
 *
 * Included by quantized_avx2.c, quantized_avxvnni.c and quantized_avx512.c behind their vectors.
 * quantized.h says what is computed.
 */
#ifndef MP_KERNELS_CPU_QUANTIZED_BODY_H
#define MP_KERNELS_CPU_QUANTIZED_BODY_H

#include "kernels/cpu/quantized_block.h"

/* ---- one row of x -------------------------------------------------------------------------- */

/* Row sums of four vectors of partial sums: lane 4j + r is the sum of part j of a[r]. */
VEC_FN vi sum_quarters(const vi a[4])
{
    vi b01 = i_add(i_low32(a[0], a[1]), i_high32(a[0], a[1]));
    vi b23 = i_add(i_low32(a[2], a[3]), i_high32(a[2], a[3]));
    return i_add(i_low64(b01, b23), i_high64(b01, b23));
}

/* Dots of 16 columns of every row. */
VEC_FN vi dot_half(const vi bytes[4], vi x, const int wide)
{
    vi sums[4];

    UNROLL
    for (int r = 0; r < 4; r++)
        sums[r] = i_dot(i_zero(), bytes[r], x, wide);
    return sum_quarters(sums);
}

VEC_FN vi dot_whole(const vi bytes[8], vi x0, vi x1, const int wide)
{
    vi sums[4];

    UNROLL
    for (int r = 0; r < 4; r++)
        sums[r] = i_dot(i_dot(i_zero(), bytes[r], x0, wide), bytes[4 + r], x1, wide);
    return sum_quarters(sums);
}

/* sum += block b's products; x: the block in a tile of one row. */
VEC_FN vf add_block(vf sum, const struct quant_block *q, const uint8_t *x, const enum dtype dtype)
{
    const int wide = dtype == DTYPE_Q8_0;
    vi x0 = i_repeat16(x), x1 = i_repeat16(x + 16);
    vi head = i_repeat4(x + 32); /* the scale's bits */
    vf scale;

    memcpy(&scale, &head, sizeof(scale));
    switch (quant_kind(dtype)) {
    case QUANT_ZERO:
        return f_fma(f_mul(q->scale[0], scale),
                     f_int(i_add(i_repeat4(x + 40), dot_whole(q->bytes, x0, x1, wide))), sum);
    case QUANT_MIN:
        head = i_repeat4(x + 36);
        sum = f_fma(f_mul(q->scale[0], scale), f_int(dot_whole(q->bytes, x0, x1, wide)), sum);
        memcpy(&scale, &head, sizeof(scale));
        return f_fma(q->min, scale, sum);
    case QUANT_HALVES:
        sum = f_fma(f_mul(q->scale[0], scale),
                    f_int(i_add(i_repeat4(x + 40), dot_half(q->bytes, x0, wide))), sum);
        sum = f_fma(f_mul(q->scale[1], scale),
                    f_int(i_add(i_repeat4(x + 44), dot_half(q->bytes + 4, x1, wide))), sum);
    }
    return sum;
}

/* Into the second cache, which has room for more misses at a time than the first. */
VEC_FN void fetch(const uint8_t *from, const uint8_t *to)
{
    for (; from < to; from += 64)
        __builtin_prefetch(from, 0, 2);
}

/* Rows are short and memory is far: while a panel's block i is worked on, the same part of the next
 * panel is fetched, if it is this worker's. */
VEC_FN void fetch_ahead(const struct quant_rows *rows, uint32_t blocks, size_t i)
{
    size_t step = LANES * rows->stride / blocks;
    const uint8_t *ahead = rows->data + LANES * rows->stride + i * step;

    if (ahead < rows->end)
        fetch(ahead, ahead + step);
}

/* The panel's outputs of one row of x. */
VEC_FN vf panel_vector(const struct quant_rows *rows, const uint8_t *x, uint32_t blocks,
                       const enum dtype dtype)
{
    const uint32_t period = quant_period(dtype);
    struct quant_super super = {0};
    vf sum = f_set(0);

    for (size_t b = 0; b < blocks; b += period) {
        load_super(&super, dtype, rows, b / period);
        for (size_t i = b; i < b + period; i++) {
            struct quant_block q;
            fetch_ahead(rows, blocks, i);
            load_block(&q, dtype, &super, rows, i);
            sum = add_block(sum, &q, x + i * QUANT_BLOCK_BYTES, dtype);
        }
    }
    return sum;
}

/* ---- many rows of x ------------------------------------------------------------------------ */

/* A panel unpacked into a worker's scratch: for each block eight vectors of quants, vector k with
 * columns 4k to 4k + 3 of every row, and two of scale and minimum, or of both scales. */
#define PANEL_BLOCK_BYTES (10 * sizeof(vi))

VEC_FN void panel_unpack(uint8_t *to, const struct quant_rows *rows, uint32_t blocks,
                         const enum dtype dtype)
{
    const uint32_t period = quant_period(dtype);
    struct quant_super super = {0};

    for (size_t b = 0; b < blocks; b += period) {
        load_super(&super, dtype, rows, b / period);
        for (size_t i = b; i < b + period; i++, to += PANEL_BLOCK_BYTES) {
            struct quant_block q;
            fetch_ahead(rows, blocks, i);
            load_block(&q, dtype, &super, rows, i);
            UNROLL
            for (size_t h = 0; h < 2; h++) {
                const vi *a = q.bytes + 4 * h;
                vi low01 = i_low32(a[0], a[1]), low23 = i_low32(a[2], a[3]);
                vi high01 = i_high32(a[0], a[1]), high23 = i_high32(a[2], a[3]);
                i_store(to + (4 * h + 0) * sizeof(vi), i_low64(low01, low23));
                i_store(to + (4 * h + 1) * sizeof(vi), i_high64(low01, low23));
                i_store(to + (4 * h + 2) * sizeof(vi), i_low64(high01, high23));
                i_store(to + (4 * h + 3) * sizeof(vi), i_high64(high01, high23));
            }
            f_store((float *)(void *)(to + 8 * sizeof(vi)), q.scale[0]);
            f_store((float *)(void *)(to + 9 * sizeof(vi)),
                    quant_kind(dtype) == QUANT_MIN ? q.min : q.scale[1]);
        }
    }
}

/* sums[r] = panel * row r of the tile, r < n. */
VEC_FN void tile_sums(vf sums[QUANT_TILE], const uint8_t *panel, const uint8_t *x, uint32_t blocks,
                      const uint32_t n, const enum quant_kind kind, const int wide)
{
    UNROLL
    for (uint32_t r = 0; r < n; r++)
        sums[r] = f_set(0);
    for (uint32_t b = 0; b < blocks; b++) {
        const float *scales = (const float *)(const void *)(x + 32 * QUANT_TILE);
        const uint8_t *starts = x + 40 * QUANT_TILE;
        vf first = f_load((const float *)(const void *)(panel + 8 * sizeof(vi)));
        vf second = f_load((const float *)(const void *)(panel + 9 * sizeof(vi)));
        vi dots[QUANT_TILE];
        UNROLL
        for (uint32_t r = 0; r < n; r++)
            dots[r] = kind == QUANT_MIN ? i_zero() : i_repeat4(starts + 4 * r);
        UNROLL
        for (uint32_t k = 0; k < 8; k++) {
            vi w = i_load(panel + k * sizeof(vi));
            if (k == 4 && kind == QUANT_HALVES) {
                UNROLL
                for (uint32_t r = 0; r < n; r++) {
                    sums[r] = f_fma(f_mul(first, f_set(scales[r])), f_int(dots[r]), sums[r]);
                    dots[r] = i_repeat4(starts + 4 * (QUANT_TILE + r));
                }
                first = second;
            }
            UNROLL
            for (uint32_t r = 0; r < n; r++)
                dots[r] = i_dot(dots[r], w, i_repeat4(x + 4 * (k * QUANT_TILE + r)), wide);
        }
        UNROLL
        for (uint32_t r = 0; r < n; r++) {
            sums[r] = f_fma(f_mul(first, f_set(scales[r])), f_int(dots[r]), sums[r]);
            if (kind == QUANT_MIN)
                sums[r] = f_fma(second, f_set(scales[QUANT_TILE + r]), sums[r]);
        }
        panel += PANEL_BLOCK_BYTES;
        x += QUANT_BLOCK_BYTES * QUANT_TILE;
    }
}

#define TILE_CASE(n, kind, wide)                                                                   \
    case n:                                                                                        \
        tile_sums(sums, panel, x, blocks, n, kind, wide);                                          \
        break;
#define TILE_FN(name, kind, wide)                                                                  \
    static void tile_##name(vf sums[QUANT_TILE], const uint8_t *panel, const uint8_t *x,           \
                            uint32_t blocks, uint32_t n)                                           \
    {                                                                                              \
        switch (n) {                                                                               \
            TILE_CASE(1, kind, wide)                                                               \
            TILE_CASE(2, kind, wide)                                                               \
            TILE_CASE(3, kind, wide)                                                               \
            TILE_CASE(4, kind, wide)                                                               \
            TILE_CASE(5, kind, wide)                                                               \
            TILE_CASE(6, kind, wide)                                                               \
            TILE_CASE(7, kind, wide)                                                               \
        default:                                                                                   \
            tile_sums(sums, panel, x, blocks, 8, kind, wide);                                      \
            break;                                                                                 \
        }                                                                                          \
    }

TILE_FN(zero, QUANT_ZERO, 0)
TILE_FN(zero_wide, QUANT_ZERO, 1)
TILE_FN(min, QUANT_MIN, 0)
TILE_FN(halves, QUANT_HALVES, 0)

/* ---- by format ----------------------------------------------------------------------------- */

struct quant_codec {
    vf (*vector)(const struct quant_rows *rows, const uint8_t *x, uint32_t blocks);
    void (*unpack)(uint8_t *to, const struct quant_rows *rows, uint32_t blocks);
    void (*tile)(vf sums[QUANT_TILE], const uint8_t *panel, const uint8_t *x, uint32_t blocks,
                 uint32_t n);
};

#define QUANT_CODEC(name, dtype)                                                                   \
    static vf vector_##name(const struct quant_rows *rows, const uint8_t *x, uint32_t blocks)      \
    {                                                                                              \
        return panel_vector(rows, x, blocks, dtype);                                               \
    }                                                                                              \
    static void unpack_##name(uint8_t *to, const struct quant_rows *rows, uint32_t blocks)         \
    {                                                                                              \
        panel_unpack(to, rows, blocks, dtype);                                                     \
    }

QUANT_CODEC(q4_0, DTYPE_Q4_0)
QUANT_CODEC(q4_1, DTYPE_Q4_1)
QUANT_CODEC(q5_0, DTYPE_Q5_0)
QUANT_CODEC(q5_1, DTYPE_Q5_1)
QUANT_CODEC(q8_0, DTYPE_Q8_0)
QUANT_CODEC(q4_k, DTYPE_Q4_K)
QUANT_CODEC(q5_k, DTYPE_Q5_K)
QUANT_CODEC(q6_k, DTYPE_Q6_K)

static const struct quant_codec *quant_codec(enum dtype dtype)
{
#define ENTRY(name, tile)                                                                          \
    {                                                                                              \
        vector_##name, unpack_##name, tile_##tile                                                  \
    }
    static const struct quant_codec codecs[] = {
        [DTYPE_Q4_0] = ENTRY(q4_0, zero),      [DTYPE_Q4_1] = ENTRY(q4_1, min),
        [DTYPE_Q5_0] = ENTRY(q5_0, zero),      [DTYPE_Q5_1] = ENTRY(q5_1, min),
        [DTYPE_Q8_0] = ENTRY(q8_0, zero_wide), [DTYPE_Q4_K] = ENTRY(q4_k, min),
        [DTYPE_Q5_K] = ENTRY(q5_k, min),       [DTYPE_Q6_K] = ENTRY(q6_k, halves),
    };
#undef ENTRY
    return &codecs[dtype];
}

/* Panel i of the matrix at data, of a worker that goes on up to panel `last`: the matrix's last one
 * may begin early, and then has `skip` rows that the one before it had. */
VEC_FN struct quant_rows panel_rows(const uint8_t *data, uint32_t i, uint32_t rows, uint32_t last,
                                    uint64_t row_bytes, uint32_t *first, uint32_t *skip)
{
    uint32_t begin = i * LANES;
    size_t end = (size_t)last * LANES < rows ? (size_t)last * LANES : rows;

    *first = begin + LANES <= rows ? begin : rows - LANES;
    *skip = begin - *first;
    return (struct quant_rows){.data = data + *first * row_bytes,
                               .end = data + end * row_bytes,
                               .stride = row_bytes,
                               .offsets = i_row_offsets(row_bytes)};
}

/* The sums of output rows `first` on, of row r; the first `skip` of them are there already. */
static void store_sums(const struct matmul_out *out, size_t r, size_t first, vf sums, uint32_t skip)
{
    float *to = out->data + r * out->stride + first, lanes[LANES];

    if (out->add)
        sums = f_add(f_load(to), f_mul(sums, f_set(out->scale)));
    else if (out->bias)
        sums = f_add(sums, f_load(out->bias + first));
    if (skip == 0) {
        f_store(to, sums);
        return;
    }
    f_store(lanes, sums);
    memcpy(to + skip, lanes + skip, (LANES - skip) * sizeof(float));
}

static void quantized_matmul_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct quantized_job *job = arg;
    const struct weight *w = job->w;
    const struct quant_codec *codec = quant_codec(w->dtype);
    uint8_t *panel = (uint8_t *)(job->scratch.data + worker * job->scratch.stride);
    uint32_t blocks = w->cols / 32, first, skip;
    vf sums[QUANT_TILE];

    for (uint32_t p = begin; p < end; p++) {
        struct quant_rows rows =
            panel_rows(w->data, p, w->rows, end, job->row_bytes, &first, &skip);
        if (p == begin)
            fetch(rows.data, rows.data + LANES * rows.stride);
        if (job->rows == 1) {
            store_sums(&job->out, 0, first, codec->vector(&rows, job->x, blocks), skip);
            continue;
        }
        codec->unpack(panel, &rows, blocks);
        for (size_t r = 0; r < job->rows; r += QUANT_TILE) {
            uint32_t n = (uint32_t)(job->rows - r < QUANT_TILE ? job->rows - r : QUANT_TILE);
            codec->tile(sums, panel, job->x + r * blocks * QUANT_BLOCK_BYTES, blocks, n);
            for (size_t i = 0; i < n; i++)
                store_sums(&job->out, r + i, first, sums[i], skip);
        }
    }
}

static void quantized_expert_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct quantized_job *job = arg;
    const struct weight *w = job->w;
    const struct quant_codec *codec = quant_codec(w->dtype);
    size_t x_bytes = w->cols / 32 * QUANT_BLOCK_BYTES;
    uint32_t first, skip;

    (void)worker;
    for (uint32_t item = begin; item < end; item++) {
        size_t r = item / job->panels;
        const uint8_t *data = (const uint8_t *)w->data + job->ids[r] * job->expert_bytes;
        struct quant_rows rows =
            panel_rows(data, item % job->panels, w->rows, item % job->panels + end - item,
                       job->row_bytes, &first, &skip);
        vf sums = codec->vector(&rows, job->x + r / job->share * x_bytes, w->cols / 32);
        store_sums(&job->out, r, first, sums, skip);
    }
}

/* ---- x ------------------------------------------------------------------------------------- */

/* A block of one row, at its place in the tile's block.  Magnitudes are compared as integers: so a
 * NaN is the largest of all, and it or an infinity makes the scale a NaN and the quants 0.  What is
 * too small for a scale is 0. */
VEC_FN void quantize_block(const struct quantize_job *job, uint8_t *to, const float *x, uint32_t r)
{
    const vi magnitude = i_set(0x7fffffff);
    vi most = i_zero();
    const uint32_t tile = job->tile;
    int8_t bytes[32];
    int32_t sums[2];
    float amax, scale, inverse, scaled;
    uint32_t bits;

    UNROLL
    for (int i = 0; i < 32; i += LANES)
        most = i_max_unsigned(most, i_and(i_bits(f_load(x + i)), magnitude));
    bits = i_largest(most);
    memcpy(&amax, &bits, sizeof(amax));
    int finite = bits < 0x7f800000, large = amax >= 1e-30f;
    scale = !finite ? __builtin_nanf("") : large ? amax / 127 : 0;
    inverse = finite && large ? 127 / amax : 0;
    UNROLL
    for (int h = 0; h < 2; h++) {
        vi total = i_zero();
        UNROLL
        for (int i = 16 * h; i < 16 * h + 16; i += LANES) {
            vi q = finite ? i_round(f_mul(f_load(x + i), f_set(inverse))) : i_zero();
            total = i_add(total, q);
            i_store_bytes(bytes + i, q);
        }
        sums[h] = i_sum(total);
    }
    scaled = scale * (float)(sums[0] + sums[1]);
    for (uint32_t k = 0; k < 8; k++)
        memcpy(to + 4 * (k * tile + r), bytes + 4 * k, 4);
    memcpy(to + 32 * tile + 4 * r, &scale, 4);
    memcpy(to + 36 * tile + 4 * r, &scaled, 4);
    sums[0] += job->halves ? 0 : sums[1];
    for (uint32_t h = 0; h < 2; h++) {
        sums[h] *= -job->zero;
        memcpy(to + 40 * tile + 4 * (h * tile + r), &sums[h], 4);
    }
}

static void quantize_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct quantize_job *job = arg;
    uint32_t blocks = job->cols / 32, tile = job->tile;

    (void)worker;
    for (size_t t = begin; t < end; t++) {
        uint8_t *to = job->out + t * blocks * tile * QUANT_BLOCK_BYTES;
        for (uint32_t r = 0; r < tile && t * tile + r < job->rows; r++) {
            const float *x = job->x + (t * tile + r) * job->x_stride;
            for (size_t b = 0; b < blocks; b++)
                quantize_block(job, to + b * tile * QUANT_BLOCK_BYTES, x + 32 * b, r);
        }
    }
}

#define QUANTIZED_FUNCTIONS                                                                        \
    .lanes = LANES, .quantize = quantize_range, .matmul = quantized_matmul_range,                  \
    .expert = quantized_expert_range

#endif
