/*
 * gguf.h - reader of GGUF v2 and v3 files
 *
 * The file is mapped read-only; strings and arrays point into the map.  Every count and offset is
 * checked in 64 bits against the file's length before use; what does not fit is CORRUPT with the
 * key's or tensor's name.  Format: the GGUF specification of the ggml project (docs/gguf.md).
 */
#ifndef MP_MODEL_GGUF_H
#define MP_MODEL_GGUF_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct gguf;

struct gguf_string {
    const char *data; /* not NUL-terminated */
    uint64_t len;
};

struct gguf_tensor {
    struct gguf_string name;
    uint32_t dims;     /* 1..4 */
    uint64_t shape[4]; /* shape[0] is the contiguous one (columns); unused ones are 1 */
    uint32_t type;     /* ggml_type */
    uint64_t offset;   /* of the data from the start of the file */
    uint64_t bytes;
};

/* Map an open descriptor (it may be closed afterwards); name is for messages. */
struct gguf *gguf_open_fd(int fd, const char *name, struct error *err);
struct gguf *gguf_open(const char *path, struct error *err);
void gguf_close(struct gguf *g);

const char *gguf_name(const struct gguf *g); /* for messages */
const void *gguf_base(const struct gguf *g); /* of the map */
uint64_t gguf_file_bytes(const struct gguf *g);
size_t gguf_tensor_count(const struct gguf *g);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name);

/* The keys, in order of their bytes: for a reader that must know them all. */
size_t gguf_key_count(const struct gguf *g);
const struct gguf_string *gguf_key(const struct gguf *g, size_t i);

/* Metadata.  0 found, 1 not there (out untouched), -1 there but of another type. Integer getters
 * accept any integer type that holds the value. */
int gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out, struct error *err);
int gguf_get_f64(const struct gguf *g, const char *key, double *out, struct error *err);
int gguf_get_bool(const struct gguf *g, const char *key, int *out, struct error *err);
int gguf_get_string(const struct gguf *g, const char *key, struct gguf_string *out,
                    struct error *err);
/* Arrays: length, then elements.  An element of a string array is found by walking there: for all
 * of them use gguf_get_strings. */
int gguf_get_array(const struct gguf *g, const char *key, uint64_t *count, struct error *err);
int gguf_array_string(const struct gguf *g, const char *key, uint64_t i, struct gguf_string *out,
                      struct error *err);
/* Decode a whole string array at once: *out is malloc'd, the caller frees it. */
int gguf_get_strings(const struct gguf *g, const char *key, struct gguf_string **out,
                     uint64_t *count, struct error *err);
/* The same for an array of any integer type, widened. */
int gguf_get_i64s(const struct gguf *g, const char *key, int64_t **out, uint64_t *count,
                  struct error *err);
int gguf_get_f32s(const struct gguf *g, const char *key, float **out, uint64_t *count,
                  struct error *err);

#endif
