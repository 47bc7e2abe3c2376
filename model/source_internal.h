/* source_internal.h - inside of a source: for source*.c and safetensors.c; others use source.h */
#ifndef MP_MODEL_SOURCE_INTERNAL_H
#define MP_MODEL_SOURCE_INTERNAL_H

#include "model/gguf_metadata.h"
#include "model/source.h"

struct source {
    char *name;
    struct gguf *gguf;
    int gguf_borrowed;
    json_t *json[SOURCE_KIND_COUNT];
    char *text; /* of chat_template.jinja */
    size_t text_len;
    char *vocabulary; /* of SOURCE_VOCABULARY */
    size_t vocabulary_len;
    uint32_t vocabulary_file;
    struct source_tensor *tensors; /* sorted by name */
    size_t tensor_count, tensor_room;
    char (*file_names)[SOURCE_NAME_MAX];
    uint32_t file_count;
};

/* Room for one more tensor, zeroed, whose name is a copy of the len bytes at name; NULL: no
 * memory. */
struct source_tensor *source_add_tensor(struct source *s, const char *name, size_t len);

/* Text from a file as it may stand in a message: printable, cut to fit.  NULL is "none". */
const char *source_show(const char *text, char shown[GGUF_SHOWN_MAX]);

/* A file's name in messages: "MODEL: NAME". */
#define SOURCE_WHERE_MAX 384
const char *source_where(const struct source *s, uint32_t file, char where[SOURCE_WHERE_MAX]);

/* The whole file as bytes, malloc'd and NUL-terminated; larger than most is CORRUPT. */
char *source_read_file(int fd, const char *where, uint64_t most, size_t *len, struct error *err);
/* Parse a JSON object.  UTF-8, no name twice; integers beyond 64 bits become reals. */
json_t *source_parse_json(const char *text, size_t len, const char *where, struct error *err);

#endif
