/*
 * gguf_metadata.h - inside of the GGUF reader: the cursor over the map and the key/value part
 *
 * For gguf.c, gguf_metadata.c and, for its messages, the rest of model/; other rooms use gguf.h.
 */
#ifndef MP_MODEL_GGUF_METADATA_H
#define MP_MODEL_GGUF_METADATA_H

#include "model/gguf.h"

/* Numbers of the format's gguf_metadata_value_type. */
enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
};

/* What is left of the file.  Each take_* moves on and returns 0, or -1 if too little is left. */
struct cursor {
    const unsigned char *at;
    uint64_t left;
};

int take_bytes(struct cursor *c, uint64_t bytes, const unsigned char **out);
int take_u32(struct cursor *c, uint32_t *out);
int take_u64(struct cursor *c, uint64_t *out);
int take_string(struct cursor *c, struct gguf_string *out);

struct gguf_value {
    struct gguf_string key;
    uint32_t type;      /* enum gguf_type */
    uint32_t elements;  /* of an array: their type */
    uint64_t count;     /* of an array; else 1 */
    struct cursor data; /* the value's bytes, of an array its elements */
};

struct gguf {
    char *name; /* for messages */
    const unsigned char *base;
    uint64_t bytes;
    struct gguf_value *values; /* sorted by key */
    size_t value_count;
    struct gguf_tensor *tensors; /* as in the file */
    uint32_t *by_name;           /* indices of tensors, sorted by name */
    size_t tensor_count;
};

/* Read `count` pairs into g->values (the caller frees them also on failure), sort them, refuse
 * duplicates. */
int gguf_read_metadata(struct gguf *g, struct cursor *c, uint64_t count, struct error *err);

int gguf_string_compare(const struct gguf_string *a, const struct gguf_string *b);

/* A name from a file as it may stand in a message: printable, cut to fit. */
#define GGUF_SHOWN_MAX 80
const char *gguf_show(const struct gguf_string *s, char shown[GGUF_SHOWN_MAX]);

#endif
