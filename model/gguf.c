#include "model/gguf.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/ggml_type.h"
#include "model/gguf_metadata.h"

#define MAGIC             0x46554747u /* "GGUF" */
#define ALIGNMENT_DEFAULT 32u
#define ALIGNMENT_MAX     (1u << 20)
/* The shortest tensor entry: a length, a name of one byte, dims, one of them, type, offset. */
#define TENSOR_BYTES_MIN (8u + 1u + 4u + 8u + 4u + 8u)
#define TENSORS_MAX      (1u << 20)
#define NAME_BYTES_MAX   255u

/* Reading */

static int read_head(const struct gguf *g, struct cursor *c, uint64_t *tensors, uint64_t *pairs,
                     struct error *err)
{
    uint32_t magic, version;

    if (take_u32(c, &magic) || magic != MAGIC)
        return error_set(err, STATUS_CORRUPT, "%s: not a GGUF file", g->name);
    if (take_u32(c, &version) || take_u64(c, tensors) || take_u64(c, pairs))
        return error_set(err, STATUS_CORRUPT, "%s: the file ends within its head", g->name);
    if (version != 0 && (version & 0xffffu) == 0)
        return error_set(err, STATUS_UNSUPPORTED, "%s: a big-endian GGUF file; convert it",
                         g->name);
    if (version != 2 && version != 3)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: GGUF version %" PRIu32 "; versions 2 and 3 are read", g->name,
                         version);
    return 0;
}

/* Shape and type to bytes, each product checked. */
static int measure_tensor(const struct gguf *g, struct gguf_tensor *t, struct error *err)
{
    const struct ggml_type *type = ggml_type_get(t->type);
    char shown[GGUF_SHOWN_MAX];
    uint64_t elements = 1;

    if (!type || t->type == GGML_TYPE_F8)
        return error_set(err, STATUS_UNSUPPORTED, "%s: tensor %s is of unknown type %" PRIu32,
                         g->name, gguf_show(&t->name, shown), t->type);
    for (uint32_t i = 0; i < t->dims; i++)
        if (t->shape[i] == 0 || __builtin_mul_overflow(elements, t->shape[i], &elements))
            return error_set(err, STATUS_CORRUPT,
                             "%s: tensor %s has an impossible dimension %" PRIu32 " of %" PRIu64,
                             g->name, gguf_show(&t->name, shown), i, t->shape[i]);
    if (t->shape[0] % type->block_elements)
        return error_set(err, STATUS_CORRUPT,
                         "%s: tensor %s has rows of %" PRIu64 " elements, no whole blocks of %s",
                         g->name, gguf_show(&t->name, shown), t->shape[0], type->name);
    if (__builtin_mul_overflow(elements / type->block_elements, (uint64_t)type->block_bytes,
                               &t->bytes))
        return error_set(err, STATUS_CORRUPT, "%s: tensor %s is larger than any file", g->name,
                         gguf_show(&t->name, shown));
    return 0;
}

static int read_tensor(const struct gguf *g, struct cursor *c, uint64_t i, struct gguf_tensor *t,
                       struct error *err)
{
    char shown[GGUF_SHOWN_MAX];

    if (take_string(c, &t->name) || take_u32(c, &t->dims))
        goto truncated;
    if (t->name.len == 0 || t->name.len > NAME_BYTES_MAX)
        return error_set(err, STATUS_CORRUPT,
                         "%s: the name of tensor %" PRIu64 " is %" PRIu64 " bytes long", g->name, i,
                         t->name.len);
    if (t->dims == 0 || t->dims > 4)
        return error_set(err, STATUS_CORRUPT, "%s: tensor %s has %" PRIu32 " dimensions", g->name,
                         gguf_show(&t->name, shown), t->dims);
    for (uint32_t d = 0; d < 4; d++)
        t->shape[d] = 1;
    for (uint32_t d = 0; d < t->dims; d++)
        if (take_u64(c, &t->shape[d]))
            goto truncated;
    if (take_u32(c, &t->type) || take_u64(c, &t->offset))
        goto truncated;
    return measure_tensor(g, t, err);
truncated:
    return error_set(err, STATUS_CORRUPT,
                     "%s: the entry of tensor %" PRIu64 " goes past the end of the file", g->name,
                     i);
}

static int read_tensors(struct gguf *g, struct cursor *c, uint64_t count, struct error *err)
{
    if (count > c->left / TENSOR_BYTES_MIN || count > TENSORS_MAX)
        return error_set(err, STATUS_CORRUPT, "%s: %" PRIu64 " tensors do not fit in the file",
                         g->name, count);
    g->tensors = calloc(count ? count : 1, sizeof(*g->tensors));
    g->by_name = calloc(count ? count : 1, sizeof(*g->by_name));
    if (!g->tensors || !g->by_name)
        return error_set(err, STATUS_NOMEM, "%s: no memory for %" PRIu64 " tensors", g->name,
                         count);
    for (uint64_t i = 0; i < count; i++)
        if (read_tensor(g, c, i, &g->tensors[i], err))
            return -1;
    g->tensor_count = count;
    return 0;
}

/* Offsets count from the first aligned byte behind the tensor entries; make them the file's. */
static int place_tensors(struct gguf *g, uint64_t entries_end, struct error *err)
{
    uint64_t alignment = ALIGNMENT_DEFAULT, start;
    char shown[GGUF_SHOWN_MAX];

    if (gguf_get_u64(g, "general.alignment", &alignment, err) < 0)
        return -1;
    if (alignment == 0 || alignment % 8 || alignment > ALIGNMENT_MAX)
        return error_set(err, STATUS_CORRUPT,
                         "%s: general.alignment is %" PRIu64 ", not a multiple of 8 up to %u",
                         g->name, alignment, ALIGNMENT_MAX);
    start = (entries_end + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < g->tensor_count; i++) {
        struct gguf_tensor *t = &g->tensors[i];

        if (t->offset % alignment)
            return error_set(err, STATUS_CORRUPT,
                             "%s: tensor %s is not aligned to %" PRIu64 " bytes", g->name,
                             gguf_show(&t->name, shown), alignment);
        if (start > g->bytes || t->offset > g->bytes - start ||
            t->bytes > g->bytes - start - t->offset)
            return error_set(err, STATUS_CORRUPT,
                             "%s: tensor %s goes past the end of the file; is it complete?",
                             g->name, gguf_show(&t->name, shown));
        t->offset += start;
    }
    return 0;
}

static int compare_names(const void *a, const void *b, void *tensors)
{
    const struct gguf_tensor *t = tensors;

    return gguf_string_compare(&t[*(const uint32_t *)a].name, &t[*(const uint32_t *)b].name);
}

static int compare_offsets(const void *a, const void *b, void *tensors)
{
    const struct gguf_tensor *t = tensors;
    uint64_t left = t[*(const uint32_t *)a].offset, right = t[*(const uint32_t *)b].offset;

    return (left > right) - (left < right);
}

/* No two tensors share bytes or a name.  Leaves by_name in order. */
static int index_tensors(struct gguf *g, struct error *err)
{
    char shown[GGUF_SHOWN_MAX];

    for (uint32_t i = 0; i < g->tensor_count; i++)
        g->by_name[i] = i;
    qsort_r(g->by_name, g->tensor_count, sizeof(*g->by_name), compare_offsets, g->tensors);
    for (size_t i = 1; i < g->tensor_count; i++) {
        const struct gguf_tensor *before = &g->tensors[g->by_name[i - 1]];
        const struct gguf_tensor *t = &g->tensors[g->by_name[i]];

        if (t->offset < before->offset + before->bytes)
            return error_set(err, STATUS_CORRUPT, "%s: tensor %s overlaps another", g->name,
                             gguf_show(&t->name, shown));
    }
    qsort_r(g->by_name, g->tensor_count, sizeof(*g->by_name), compare_names, g->tensors);
    for (size_t i = 1; i < g->tensor_count; i++)
        if (!compare_names(&g->by_name[i - 1], &g->by_name[i], g->tensors))
            return error_set(err, STATUS_CORRUPT, "%s: tensor %s is there twice", g->name,
                             gguf_show(&g->tensors[g->by_name[i]].name, shown));
    return 0;
}

static int read_file(struct gguf *g, struct error *err)
{
    struct cursor c = {g->base, g->bytes};
    uint64_t tensors, pairs;

    if (read_head(g, &c, &tensors, &pairs, err) || gguf_read_metadata(g, &c, pairs, err) ||
        read_tensors(g, &c, tensors, err) || place_tensors(g, g->bytes - c.left, err))
        return -1;
    return index_tensors(g, err);
}

/* Opening and closing */

struct gguf *gguf_open_fd(int fd, const char *name, struct error *err)
{
    struct gguf *g = calloc(1, sizeof(*g));
    struct stat st;
    void *map;

    if (!g || !(g->name = strdup(name))) {
        error_set(err, STATUS_NOMEM, "%s: no memory to open it", name);
        goto fail;
    }
    if (fstat(fd, &st)) {
        error_errno(err, "%s", name);
        goto fail;
    }
    if (!S_ISREG(st.st_mode) || st.st_size <= 0) {
        error_set(err, STATUS_CORRUPT, "%s: %s", name,
                  S_ISREG(st.st_mode) ? "an empty file" : "not a regular file");
        goto fail;
    }
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        error_errno(err, "%s: mapping %jd bytes", name, (intmax_t)st.st_size);
        goto fail;
    }
    g->base = map;
    g->bytes = (uint64_t)st.st_size;
    if (read_file(g, err))
        goto fail;
    return g;
fail:
    gguf_close(g);
    return NULL;
}

struct gguf *gguf_open(const char *path, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct gguf *g;

    if (fd < 0) {
        error_errno(err, "%s", path);
        return NULL;
    }
    g = gguf_open_fd(fd, path, err);
    close(fd);
    return g;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    if (g->base)
        munmap((void *)g->base, g->bytes);
    free(g->by_name);
    free(g->tensors);
    free(g->values);
    free(g->name);
    free(g);
}

/* Tensors */

const char *gguf_name(const struct gguf *g)
{
    return g->name;
}

const void *gguf_base(const struct gguf *g)
{
    return g->base;
}

uint64_t gguf_file_bytes(const struct gguf *g)
{
    return g->bytes;
}

size_t gguf_tensor_count(const struct gguf *g)
{
    return g->tensor_count;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, size_t i)
{
    return &g->tensors[i];
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
    struct gguf_string wanted = {name, strlen(name)};
    size_t low = 0, high = g->tensor_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct gguf_tensor *t = &g->tensors[g->by_name[middle]];
        int order = gguf_string_compare(&wanted, &t->name);

        if (order == 0)
            return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
