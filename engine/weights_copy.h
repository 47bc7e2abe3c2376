/* weights_copy.h - between a model's layout (weights.c) and its loading (weights_load.c) */
#ifndef MP_ENGINE_WEIGHTS_COPY_H
#define MP_ENGINE_WEIGHTS_COPY_H

#include <stdint.h>

#include "common/error.h"

#define COPY_NAME 64

struct model;

/* Of a matrix of FP8: where its scales are; cols 0: it is none. */
struct f8_copy {
    uint64_t cols;
    uint64_t first_row;              /* of the stored tensor: the copy may be some of its rows */
    uint64_t first_col;              /* of the stored tensor: or of its columns, whole F8_BLOCKs */
    uint64_t scale_rows, scale_cols; /* that share a scale: a tile */
    uint64_t tile_rows, tiles;       /* rows of tiles, and tiles in each: the stored scales */
    uint32_t file, type;             /* of the scales: F32, F16 or BF16 */
    uint64_t from;
};

struct tensor_copy {
    char name[COPY_NAME]; /* for messages */
    uint32_t file;
    uint32_t type;  /* as stored; other than F32: a vector that becomes float32 */
    int convert;    /* copy element by element, with `add` */
    float add;      /* to each element */
    uint64_t from;  /* in the file */
    uint64_t to;    /* in the range */
    uint64_t bytes; /* in the range */
    /* Some columns of a matrix (shard.h): so many stored bytes of each row, of which one begins so
     * many bytes behind the last.  pitch 0: all columns, one piece. */
    uint64_t slice, pitch;
    struct f8_copy f8;
};

/* `bytes` bytes of the tensor's file into memory; IO or CORRUPT names the tensor. */
int read_weights(const struct model *m, const struct tensor_copy *c, void *to, uint64_t from,
                 uint64_t bytes, struct error *err);
/* What is stored of `count` of a matrix's rows, from row `first` on: of a slice, or of f8.cols
 * codes. */
int read_rows(const struct model *m, const struct tensor_copy *c, uint64_t row_bytes, void *to,
              uint64_t first, uint64_t count, struct error *err);
/* Bytes [at, at + bytes) of a tensor as it lies in the range: whole rows of FP8 and of slices,
 * whole vectors. */
int read_part(const struct model *m, const struct tensor_copy *c, uint8_t *to, uint64_t at,
              uint64_t bytes, struct error *err);
/* A stored F32, F16 or BF16. */
float stored_element(const unsigned char *at, uint32_t type);
/* Of a matrix of FP8: bytes of its codes in the file. */
uint64_t f8_stored_bytes(const struct tensor_copy *c);
/* Make DTYPE_F8 of `count` of its rows, from row `first` on, in place: their codes as stored end
 * where the rows' place `to` ends.  Reads scales.  CORRUPT names the tensor that has a NaN, or a
 * scale that is none. */
int f8_spread(const struct model *m, const struct tensor_copy *c, uint8_t *to, uint64_t first,
              uint64_t count, struct error *err);
/* Read them, and that. */
int f8_read(const struct model *m, const struct tensor_copy *c, uint8_t *to, uint64_t first,
            uint64_t count, struct error *err);
/* Of one with `convert`: bytes in the file, and what becomes of them. */
uint64_t copy_stored_bytes(const struct tensor_copy *c);
void copy_convert(const struct tensor_copy *c, const unsigned char *stored, float *to);

#endif
