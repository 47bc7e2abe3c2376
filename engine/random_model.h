/*
 * random_model.h - a model of a known shape with random weights, as a GGUF file in memory
 *
 * For benches: what a step costs does not depend on what the weights say, as long as they are no
 * zeros.  The file in memory has no tokenizer, which engines do not read.
 */
#ifndef MP_ENGINE_RANDOM_MODEL_H
#define MP_ENGINE_RANDOM_MODEL_H

#include "kernels/kernels.h"

struct random_shape {
    const char *name;         /* "llama3-8b" */
    const char *architecture; /* as GGUF calls it */
    uint32_t layers, width, heads, kv_heads, head_dim, ffn, vocabulary, context;
    float theta;
    int tied;     /* the head is the embedding */
    int qkv_bias; /* as in Qwen2 */
};

/* NULL if there is none of that name. */
const struct random_shape *random_shape_find(const char *name);
/* The i-th one, or NULL. */
const struct random_shape *random_shape_at(uint32_t i);
/* Of the weights: "bf16", "f16", "f32", "q8_0", "q4_1", "q4_k", "q6_k", ..., "f8", which no GGUF
 * file has (random_checkpoint.h).  -1: not known. */
int random_dtype(const char *name, enum dtype *dtype);

/* The file, as an open descriptor that the caller closes; *bytes is its size.  All vectors are F32,
 * all matrices of the type; INVALID if a row is no multiple of its blocks, or F8. */
int random_model_create(const struct random_shape *shape, enum dtype dtype, int *fd,
                        uint64_t *bytes, struct error *err);

/* The same as a file on a disk, with a byte-level vocabulary of the shape's size, so that a daemon
 * serves it.  EXHAUSTED names the bytes that the disk lacks; on failure the path is as it was. */
int random_model_write(const struct random_shape *shape, enum dtype dtype, const char *path,
                       uint64_t *bytes, struct error *err);

#endif
