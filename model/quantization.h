/*
 * quantization.h - what quantization_config in a checkpoint's config.json says, as far as it is
 * known
 *
 * Weights of FP8 (e4m3) with scales are known: method "fp8" as transformers, vLLM and DeepSeek
 * write it (scales of blocks: NAME.weight_scale_inv; of a tensor or of its rows:
 * NAME.weight_scale), and method "compressed-tensors" with 8-bit float weights.  A weight is its
 * code times its scale; how activations are to be rounded (activation_scheme, input_activations,
 * NAME.input_scale) is not followed: they stay as precise as they are.  All else is UNSUPPORTED by
 * its name.  Sources: the configuration classes and loaders of transformers and of
 * compressed-tensors.
 */
#ifndef MP_MODEL_QUANTIZATION_H
#define MP_MODEL_QUANTIZATION_H

#include "model/source_internal.h"

struct quantization {
    const char *method;      /* "fp8", "compressed-tensors"; NULL: the weights are plain */
    const json_t *plain;     /* names of modules whose weights are plain, or NULL */
    uint64_t rows, cols;     /* of the tile that shares a scale; 0: no tiles */
    int by_tensor, by_row;   /* a scale may be the whole tensor's, or a row's */
    const char *suffixes[2]; /* of a scale's name, behind that of the weight; or NULL */
};

/* Read config.json of the source, whose tensors are not there yet. */
int quantization_read(struct quantization *q, const struct source *s, struct error *err);
/* Give each FP8 tensor of the (sorted) list its scales.  CORRUPT or UNSUPPORTED names the tensor
 * whose scales are missing or have another shape or type. */
int quantization_link(const struct quantization *q, struct source *s, struct error *err);

#endif
