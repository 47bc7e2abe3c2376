/*
 * ggml_type.h - the stored types that a GGUF tensor may have
 *
 * Numbers, block sizes and names are those of the ggml project's ggml_type.  A reader needs the
 * sizes of all of them to check a file's bounds; `weight` marks those that a forward pass can read,
 * which are kernels.h's enum dtype.
 */
#ifndef MP_MODEL_GGML_TYPE_H
#define MP_MODEL_GGML_TYPE_H

#include <stdint.h>

#define GGML_TYPE_F32  0u
#define GGML_TYPE_F16  1u
#define GGML_TYPE_BF16 30u
#define GGML_TYPE_F8   63u /* no number of ggml's: F8_E4M3 of a safetensors file */

struct ggml_type {
    const char *name;
    uint32_t block_elements;
    uint32_t block_bytes;
    int weight; /* a matrix of this type can be multiplied with */
};

/* NULL for a number that names no type (or one that the format gave up). */
const struct ggml_type *ggml_type_get(uint32_t type);

#endif
