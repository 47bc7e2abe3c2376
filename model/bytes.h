/* bytes.h - a string of bytes that grows; starts zeroed */
#ifndef MP_MODEL_BYTES_H
#define MP_MODEL_BYTES_H

#include <stddef.h>

#include "common/error.h"

struct bytes {
    char *data;
    size_t len, room;
};

int bytes_append(struct bytes *b, const char *data, size_t len, struct error *err);
void bytes_free(struct bytes *b);

#endif
