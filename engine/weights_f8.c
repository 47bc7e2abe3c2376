/* weights_f8.c - rows of FP8 weights with their scales, as kernels want them */
#include <inttypes.h>
#include <string.h>

#include "engine/weights.h"
#include "engine/weights_copy.h"

/* Of rows that are read at once. */
#define CHUNK_BYTES ((uint64_t)256 << 10)
/* Scales are read ahead by so much; a row of tiles has at most ENGINE_COLS_MAX / F8_BLOCK. */
#define WINDOW_BYTES ((size_t)8 << 10)

_Static_assert(ENGINE_COLS_MAX / F8_BLOCK * sizeof(float) <= WINDOW_BYTES, "a row of tiles fits");

/* Some rows of tiles, as stored. */
struct window {
    uint64_t first, count;
    unsigned char scales[WINDOW_BYTES];
};

/* Have that row of tiles in the window. */
static int move_window(const struct model *m, const struct tensor_copy *c, struct window *w,
                       uint64_t row, struct error *err)
{
    const struct f8_copy *f = &c->f8;
    uint64_t bytes = f->tiles * (f->type == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t));
    struct tensor_copy scales = *c;

    if (row >= w->first && row - w->first < w->count)
        return 0;
    w->first = row;
    w->count = WINDOW_BYTES / bytes;
    if (w->count > f->tile_rows - row)
        w->count = f->tile_rows - row;
    scales.file = f->file;
    return read_weights(m, &scales, w->scales, f->from + row * bytes, w->count * bytes, err);
}

/* The scales of a row of the stored tensor, one for each F8_BLOCK columns. */
static int put_scales(const struct model *m, const struct tensor_copy *c, struct window *w,
                      uint64_t row, uint8_t *to, struct error *err)
{
    const struct f8_copy *f = &c->f8;
    uint64_t size = f->type == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    uint64_t tile_row = row / f->scale_rows;

    if (move_window(m, c, w, tile_row, err) != 0)
        return -1;
    const unsigned char *stored = w->scales + (tile_row - w->first) * f->tiles * size;
    for (uint64_t b = 0; b * F8_BLOCK < f->cols; b++) {
        uint64_t tile = (f->first_col + b * F8_BLOCK) / f->scale_cols;
        float scale = stored_element(stored + tile * size, f->type);
        if (!(scale >= 0 && scale <= F8_SCALE_MAX))
            return error_set(err, STATUS_CORRUPT,
                             "model %s: tensor %s: the scale of row %" PRIu64 ", column %" PRIu64
                             " on is %g, no number in 0..%g",
                             m->name, c->name, row, b * F8_BLOCK, (double)scale,
                             (double)F8_SCALE_MAX);
        memcpy(to + b * sizeof(scale), &scale, sizeof(scale));
    }
    return 0;
}

/* Is there one among the codes that stands for no number: all ones but for the sign? */
static int has_nan(const uint8_t *codes, uint64_t count)
{
    const uint64_t low = 0x7f7f7f7f7f7f7f7fu, one = 0x0101010101010101u;
    uint64_t found = 0, i = 0, eight;

    for (; i + 8 <= count; i += 8) {
        memcpy(&eight, codes + i, 8);
        found |= ((eight & low) + one) & ~low;
    }
    for (; i < count; i++)
        found |= (codes[i] & 0x7fu) == 0x7fu;
    return found != 0;
}

uint64_t f8_stored_bytes(const struct tensor_copy *c)
{
    return c->bytes / dtype_row_bytes(DTYPE_F8, c->f8.cols) * c->f8.cols;
}

int f8_spread(const struct model *m, const struct tensor_copy *c, uint8_t *to, uint64_t first,
              uint64_t count, struct error *err)
{
    uint64_t cols = c->f8.cols, bytes = dtype_row_bytes(DTYPE_F8, cols);
    const uint8_t *stored = to + count * (bytes - cols);
    struct window w = {0};

    for (uint64_t i = 0; i < count; i++) {
        uint64_t row = c->f8.first_row + first + i;
        uint8_t *place = to + i * bytes; /* ends before the next row's stored codes begin */
        memmove(place, stored + i * cols, cols);
        memset(place + cols, 0, bytes - cols);
        if (has_nan(place, cols))
            return error_set(err, STATUS_CORRUPT,
                             "model %s: tensor %s: a weight of row %" PRIu64 " is NaN", m->name,
                             c->name, row);
        if (put_scales(m, c, &w, row, place + f8_scales_at(cols), err) != 0)
            return -1;
    }
    return 0;
}

int f8_read(const struct model *m, const struct tensor_copy *c, uint8_t *to, uint64_t first,
            uint64_t count, struct error *err)
{
    uint64_t cols = c->f8.cols, bytes = dtype_row_bytes(DTYPE_F8, cols), n;
    uint64_t chunk = bytes < CHUNK_BYTES ? CHUNK_BYTES / bytes : 1;

    for (uint64_t at = 0; at < count; at += n, to += n * bytes) {
        n = count - at < chunk ? count - at : chunk;
        if (read_rows(m, c, cols, to + n * (bytes - cols), first + at, n, err) != 0 ||
            f8_spread(m, c, to, first + at, n, err) != 0)
            return -1;
    }
    return 0;
}
