#include "tests/unit/gguf_builder.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void put_bytes(struct builder *b, const void *bytes, size_t len)
{
    if (b->len + len > b->room) {
        b->room = (b->len + len) * 2;
        b->data = realloc(b->data, b->room);
        if (!b->data)
            abort();
    }
    if (len > 0)
        memcpy(b->data + b->len, bytes, len);
    b->len += len;
}

void put_u32(struct builder *b, uint32_t value)
{
    put_bytes(b, &value, sizeof(value));
}

void put_u64(struct builder *b, uint64_t value)
{
    put_bytes(b, &value, sizeof(value));
}

void put_string(struct builder *b, const char *s, size_t len)
{
    put_u64(b, len);
    put_bytes(b, s, len);
}

void builder_start(struct builder *b, uint32_t version)
{
    memset(b, 0, sizeof(*b));
    put_bytes(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, 0);
    put_u64(b, 0);
}

void builder_free(struct builder *b)
{
    free(b->data);
}

void pair_raw(struct builder *b, const char *key, uint32_t type)
{
    put_string(b, key, strlen(key));
    put_u32(b, type);
    b->pairs++;
}

void pair_u32(struct builder *b, const char *key, uint32_t value)
{
    pair_raw(b, key, 4);
    put_u32(b, value);
}

void pair_f32(struct builder *b, const char *key, float value)
{
    pair_raw(b, key, 6);
    put_bytes(b, &value, sizeof(value));
}

void pair_bool(struct builder *b, const char *key, unsigned char value)
{
    pair_raw(b, key, 7);
    put_bytes(b, &value, 1);
}

void pair_string(struct builder *b, const char *key, const char *value)
{
    pair_raw(b, key, 8);
    put_string(b, value, strlen(value));
}

void pair_array(struct builder *b, const char *key, uint32_t elements, uint64_t count)
{
    pair_raw(b, key, 9);
    put_u32(b, elements);
    put_u64(b, count);
}

void put_tensor(struct builder *b, const char *name, uint32_t type, uint64_t columns, uint64_t rows,
                uint64_t offset)
{
    put_string(b, name, strlen(name));
    put_u32(b, rows ? 2 : 1);
    put_u64(b, columns);
    if (rows)
        put_u64(b, rows);
    put_u32(b, type);
    put_u64(b, offset);
    b->tensors++;
}

void builder_finish(struct builder *b, uint64_t alignment, size_t bytes)
{
    static const unsigned char zeros[256];

    memcpy(b->data + 8, &b->tensors, sizeof(b->tensors));
    memcpy(b->data + 16, &b->pairs, sizeof(b->pairs));
    while (b->len % alignment)
        put_bytes(b, zeros, 1);
    for (; bytes > 0; bytes -= bytes < sizeof(zeros) ? bytes : sizeof(zeros))
        put_bytes(b, zeros, bytes < sizeof(zeros) ? bytes : sizeof(zeros));
}

struct gguf *open_bytes(const void *data, size_t len, struct error *err)
{
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    struct gguf *g = NULL;

    if (fd < 0 || write(fd, data, len) != (ssize_t)len)
        abort();
    g = gguf_open_fd(fd, "test.gguf", err);
    close(fd);
    return g;
}

struct source *open_source(const void *data, size_t len, struct error *err)
{
    struct source_files files = {.count = 1, .files = {{.kind = SOURCE_GGUF}}};
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    struct source *s;

    if (fd < 0 || write(fd, data, len) != (ssize_t)len)
        abort();
    files.files[0].fd = fd;
    s = source_open_files(&files, "test.gguf", err);
    close(fd);
    return s;
}
