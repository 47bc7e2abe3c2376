/* gguf_builder.h - crafted GGUF files in memory, right or wrong in any way that a test wants */
#ifndef MP_TESTS_GGUF_BUILDER_H
#define MP_TESTS_GGUF_BUILDER_H

#include "model/source.h"

struct builder {
    unsigned char *data;
    size_t len, room;
    uint64_t pairs, tensors; /* written so far; builder_finish puts them in the head */
};

/* Starts with the head; out of memory aborts the test. */
void builder_start(struct builder *b, uint32_t version);
void builder_free(struct builder *b);

void put_bytes(struct builder *b, const void *bytes, size_t len);
void put_u32(struct builder *b, uint32_t value);
void put_u64(struct builder *b, uint64_t value);
void put_string(struct builder *b, const char *s, size_t len);

/* Pairs; of an array, the elements are put behind it by hand. */
void pair_raw(struct builder *b, const char *key, uint32_t type);
void pair_u32(struct builder *b, const char *key, uint32_t value);
void pair_f32(struct builder *b, const char *key, float value);
void pair_bool(struct builder *b, const char *key, unsigned char value);
void pair_string(struct builder *b, const char *key, const char *value);
void pair_array(struct builder *b, const char *key, uint32_t elements, uint64_t count);

/* A tensor's entry; rows 0: one dimension. */
void put_tensor(struct builder *b, const char *name, uint32_t type, uint64_t columns, uint64_t rows,
                uint64_t offset);
/* Counts into the head, then zeros to `alignment` and `bytes` of data. */
void builder_finish(struct builder *b, uint64_t alignment, size_t bytes);

/* Open the first len bytes of data as a file. */
struct gguf *open_bytes(const void *data, size_t len, struct error *err);
struct source *open_source(const void *data, size_t len, struct error *err);

#endif
