/*
 * safetensors.h - reader of safetensors files
 *
 * A file is: the header's length (8 bytes, little-endian), the header (a JSON object of
 * "name": {"dtype", "shape", "data_offsets": [begin, end]}), the data.  Format: the README of the
 * safetensors project.  Only the header is read here.  Every number is checked in 64 bits: tensors
 * lie inside of the file, cover its data without overlap or hole, and are as long as dtype and
 * shape say.  What does not fit is CORRUPT with the tensor's name; a dtype without kernels is
 * UNSUPPORTED.
 */
#ifndef MP_MODEL_SAFETENSORS_H
#define MP_MODEL_SAFETENSORS_H

#include "model/source_internal.h"

/* Longer headers are refused, as other readers do. */
#define SAFETENSORS_HEADER_MAX 100000000u

/* Append the tensors of the source's file number `file` to its list. */
int safetensors_read(struct source *s, uint32_t file, int fd, struct error *err);

#endif
