/* weights_copy.h - between a model's layout (weights.c) and its loading (weights_load.c) */
#ifndef MP_ENGINE_WEIGHTS_COPY_H
#define MP_ENGINE_WEIGHTS_COPY_H

#include <stdint.h>

#define COPY_NAME 64

struct tensor_copy {
    char name[COPY_NAME]; /* for messages */
    uint32_t file;
    uint32_t type;  /* as stored; other than F32: a vector that becomes float32 */
    int convert;    /* copy element by element, with `add` */
    float add;      /* to each element */
    uint64_t from;  /* in the file */
    uint64_t to;    /* in the range */
    uint64_t bytes; /* in the range */
};

/* Of one with `convert`: bytes in the file, and what becomes of them. */
uint64_t copy_stored_bytes(const struct tensor_copy *c);
void copy_convert(const struct tensor_copy *c, const unsigned char *stored, float *to);

#endif
