/*
 * quantized_block.h - a block of 32 columns of a panel's rows as bytes and scales, for every
 * quantized type
 *
 * Included by quantized_body.h behind the vectors of an instruction set.  Block layouts are
 * explained in dequantize.c.
 */
#ifndef MP_KERNELS_CPU_QUANTIZED_BLOCK_H
#define MP_KERNELS_CPU_QUANTIZED_BLOCK_H

/* How a format's weights come out of their quants. */
enum quant_kind {
    QUANT_ZERO,   /* scale * (q - zero) */
    QUANT_MIN,    /* scale * q + min */
    QUANT_HALVES, /* scale * (q - zero), a scale for each 16 columns */
};

/* A panel's rows as they are stored; `end` is behind all that this worker goes on to. */
struct quant_rows {
    const uint8_t *data, *end;
    size_t stride;
    vi offsets;
};

/* What a superblock of the K formats says once for its eight blocks. */
struct quant_super {
    vf d, dmin;
    vi scales[3];
};

/* One block of a panel: quants by row, bytes[4 * half + r] holding 16 columns of rows r, r + 4 and
 * so on; by the second scale only QUANT_HALVES' second half is scaled. */
struct quant_block {
    vi bytes[8];
    vf scale[2], min;
};

VEC_FN enum quant_kind quant_kind(const enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_Q4_1:
    case DTYPE_Q5_1:
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        return QUANT_MIN;
    case DTYPE_Q6_K:
        return QUANT_HALVES;
    default:
        return QUANT_ZERO;
    }
}

/* Blocks that share a struct quant_super. */
VEC_FN uint32_t quant_period(const enum dtype dtype)
{
    return dtype == DTYPE_Q4_K || dtype == DTYPE_Q5_K || dtype == DTYPE_Q6_K ? 8 : 1;
}

VEC_FN void load_rows16(vi to[4], const struct quant_rows *rows, size_t at)
{
    UNROLL
    for (size_t r = 0; r < 4; r++)
        to[r] = i_rows16(rows->data + at + r * rows->stride, rows->stride);
}

VEC_FN vi load_rows4(const struct quant_rows *rows, size_t at)
{
    return i_rows4(rows->data + at, rows->offsets);
}

VEC_FN vi low_bits(vi a, int shift, int mask)
{
    return i_and(i_right(a, shift), i_bytes(mask));
}

/* Sixteen bytes of nibbles: the low ones are the first half. */
VEC_FN void load_nibbles(vi bytes[8], const struct quant_rows *rows, size_t at)
{
    vi both[4];

    load_rows16(both, rows, at);
    UNROLL
    for (int r = 0; r < 4; r++) {
        bytes[r] = i_and(both[r], i_bytes(15));
        bytes[4 + r] = low_bits(both[r], 4, 15);
    }
}

/* The fifth bits, 32 to a row at `at`. */
VEC_FN void add_fifths(vi bytes[8], const struct quant_rows *rows, size_t at)
{
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    static const uint8_t low[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    static const uint8_t high[16] = {2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3};
    vi bits = load_rows4(rows, at), spread[4];

    spread[0] = I_SPREAD(bits, 0);
    spread[1] = I_SPREAD(bits, 1);
    spread[2] = I_SPREAD(bits, 2);
    spread[3] = I_SPREAD(bits, 3);
    UNROLL
    for (int r = 0; r < 4; r++) {
        bytes[r] = i_or(bytes[r], i_where(i_choose(spread[r], low), bit, 16));
        bytes[4 + r] = i_or(bytes[4 + r], i_where(i_choose(spread[r], high), bit, 16));
    }
}

/* `count` 16-byte pieces of each row, shifted and masked, as bytes[8]. */
VEC_FN void load_shifted(vi bytes[8], const struct quant_rows *rows, size_t at, int shift, int mask)
{
    UNROLL
    for (size_t h = 0; h < 2; h++) {
        load_rows16(bytes + 4 * h, rows, at + 16 * h);
        UNROLL
        for (size_t r = 0; r < 4; r++)
            bytes[4 * h + r] = low_bits(bytes[4 * h + r], shift, mask);
    }
}

/* bytes |= four-bit-shifted bits of another place */
VEC_FN void add_shifted(vi bytes[8], const struct quant_rows *rows, size_t at, int shift, int mask)
{
    vi more[8];

    load_shifted(more, rows, at, shift, mask);
    UNROLL
    for (int i = 0; i < 8; i++)
        bytes[i] = i_or(bytes[i], i_left(more[i], 4));
}

VEC_FN void load_super(struct quant_super *s, const enum dtype dtype, const struct quant_rows *rows,
                       size_t super)
{
    if (dtype == DTYPE_Q6_K) {
        s->d = f_halves(i_right(load_rows4(rows, 210 * super + 206), 16));
    } else if (dtype == DTYPE_Q4_K || dtype == DTYPE_Q5_K) {
        size_t at = super * (dtype == DTYPE_Q4_K ? 144 : 176);
        vi both = load_rows4(rows, at);
        s->d = f_halves(both);
        s->dmin = f_halves(i_right(both, 16));
        UNROLL
        for (size_t i = 0; i < 3; i++)
            s->scales[i] = load_rows4(rows, at + 4 + 4 * i);
    }
}

/* Scale and minimum of block b of a superblock, 6 bits each; dequantize.c says how they lie. */
VEC_FN void scale_k(struct quant_block *q, const struct quant_super *s, int b)
{
    vi scale, min;

    if (b < 4) {
        scale = i_and(i_right(s->scales[0], 8 * b), i_set(63));
        min = i_and(i_right(s->scales[1], 8 * b), i_set(63));
    } else {
        int at = 8 * (b - 4);
        vi low = i_right(s->scales[2], at);
        scale = i_or(i_and(low, i_set(15)), i_and(i_right(s->scales[0], at + 2), i_set(48)));
        min = i_or(i_and(i_right(low, 4), i_set(15)),
                   i_and(i_right(s->scales[1], at + 2), i_set(48)));
    }
    q->scale[0] = f_mul(s->d, f_int(scale));
    q->min = f_mul(s->dmin, f_int(i_add(i_xor(min, i_set(-1)), i_set(1))));
}

VEC_FN void load_q6_k(struct quant_block *q, const struct quant_super *s,
                      const struct quant_rows *rows, size_t at, int b)
{
    size_t half = (size_t)b / 4, part = (size_t)b % 4, scale = 8 * half + 2 * part;
    vi four = load_rows4(rows, at + 192 + scale / 4 * 4);
    int skip = (int)(scale % 4) * 8;

    load_shifted(q->bytes, rows, at + 64 * half + part % 2 * 32, (int)part / 2 * 4, 15);
    add_shifted(q->bytes, rows, at + 128 + 32 * half, (int)part * 2, 3);
    q->scale[0] = f_mul(s->d, f_int(i_right_signed(i_left(four, 24 - skip), 24)));
    q->scale[1] = f_mul(s->d, f_int(i_right_signed(i_left(four, 16 - skip), 24)));
}

/* Block b of the panel's rows; of the K formats, in the superblock that s is of. */
VEC_FN void load_block(struct quant_block *q, const enum dtype dtype, const struct quant_super *s,
                       const struct quant_rows *rows, size_t b)
{
    size_t super = b / 8;
    int sub = (int)(b % 8);
    vi both;

    q->scale[1] = q->min = f_set(0);
    switch (dtype) {
    case DTYPE_Q4_0:
        q->scale[0] = f_halves(load_rows4(rows, 18 * b));
        load_nibbles(q->bytes, rows, 18 * b + 2);
        break;
    case DTYPE_Q5_0:
        q->scale[0] = f_halves(load_rows4(rows, 22 * b));
        load_nibbles(q->bytes, rows, 22 * b + 6);
        add_fifths(q->bytes, rows, 22 * b + 2);
        break;
    case DTYPE_Q8_0:
        q->scale[0] = f_halves(load_rows4(rows, 34 * b));
        load_rows16(q->bytes, rows, 34 * b + 2);
        load_rows16(q->bytes + 4, rows, 34 * b + 18);
        UNROLL
        for (int i = 0; i < 8; i++)
            q->bytes[i] = i_xor(q->bytes[i], i_bytes(128));
        break;
    case DTYPE_Q4_1:
    case DTYPE_Q5_1:
        both = load_rows4(rows, (dtype == DTYPE_Q4_1 ? 20 : 24) * b);
        q->scale[0] = f_halves(both);
        q->min = f_halves(i_right(both, 16));
        if (dtype == DTYPE_Q4_1) {
            load_nibbles(q->bytes, rows, 20 * b + 4);
        } else {
            load_nibbles(q->bytes, rows, 24 * b + 8);
            add_fifths(q->bytes, rows, 24 * b + 4);
        }
        break;
    case DTYPE_Q4_K:
        scale_k(q, s, sub);
        load_shifted(q->bytes, rows, 144 * super + 16 + (size_t)sub / 2 * 32, sub % 2 * 4, 15);
        break;
    case DTYPE_Q5_K:
        scale_k(q, s, sub);
        load_shifted(q->bytes, rows, 176 * super + 48 + (size_t)sub / 2 * 32, sub % 2 * 4, 15);
        add_shifted(q->bytes, rows, 176 * super + 16, sub, 1);
        break;
    default:
        load_q6_k(q, s, rows, 210 * super, sub);
        break;
    }
}

#endif
