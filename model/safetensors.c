#include "model/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/ggml_type.h"

#define LENGTH_BYTES   8u
#define NAME_BYTES_MAX 255u

/* One file while it is read. */
struct reader {
    struct source *s;
    uint32_t file;
    char where[SOURCE_WHERE_MAX]; /* for messages */
    uint64_t data, data_bytes;    /* where the data begins, and how much of it there is */
    struct error *err;
};

static const struct dtype_name {
    const char *name;
    uint32_t type; /* ggml's */
} dtypes[] = {{"F32", GGML_TYPE_F32},
              {"F16", GGML_TYPE_F16},
              {"BF16", GGML_TYPE_BF16},
              {"F8_E4M3", GGML_TYPE_F8}};

static int read_dtype(const struct reader *r, const char *name, const json_t *entry, uint32_t *type)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    char shown[GGUF_SHOWN_MAX];

    if (!dtype)
        return error_set(r->err, STATUS_CORRUPT, "%s: tensor %s has no dtype", r->where, name);
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        if (strcmp(dtype, dtypes[i].name) == 0) {
            *type = dtypes[i].type;
            return 0;
        }
    return error_set(r->err, STATUS_UNSUPPORTED,
                     "%s: tensor %s is stored as %s; F32, F16, BF16 and F8_E4M3 are supported",
                     r->where, name, source_show(dtype, shown));
}

/* A dimension or an offset. */
static int read_count(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return -1;
    *out = (uint64_t)json_integer_value(value);
    return 0;
}

/* The file has the slowest dimension first; ours begin with the contiguous one. */
static int read_shape(const struct reader *r, const json_t *entry, struct source_tensor *t)
{
    const json_t *shape = json_object_get(entry, "shape");
    size_t dims = json_array_size(shape);

    if (!json_is_array(shape))
        return error_set(r->err, STATUS_CORRUPT, "%s: tensor %s has no shape", r->where, t->name);
    if (dims > 4)
        return error_set(r->err, STATUS_UNSUPPORTED,
                         "%s: tensor %s has %zu dimensions; at most 4 are supported", r->where,
                         t->name, dims);
    t->dims = dims ? (uint32_t)dims : 1; /* a scalar is a vector of one */
    t->bytes = ggml_type_get(t->type)->block_bytes;
    for (size_t i = 0; i < dims; i++) {
        uint64_t *extent = &t->shape[dims - 1 - i];

        if (read_count(json_array_get(shape, i), extent) || *extent == 0 ||
            __builtin_mul_overflow(t->bytes, *extent, &t->bytes))
            return error_set(r->err, STATUS_CORRUPT,
                             "%s: tensor %s has an impossible dimension %zu", r->where, t->name, i);
    }
    return 0;
}

static int read_range(const struct reader *r, const json_t *entry, struct source_tensor *t)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    uint64_t begin, end;

    if (json_array_size(offsets) != 2 || read_count(json_array_get(offsets, 0), &begin) ||
        read_count(json_array_get(offsets, 1), &end) || begin > end)
        return error_set(r->err, STATUS_CORRUPT, "%s: tensor %s has no data_offsets", r->where,
                         t->name);
    if (end > r->data_bytes)
        return error_set(r->err, STATUS_CORRUPT,
                         "%s: tensor %s goes past the end of the file; is it complete?", r->where,
                         t->name);
    if (end - begin != t->bytes)
        return error_set(r->err, STATUS_CORRUPT,
                         "%s: tensor %s has %" PRIu64 " bytes, its dtype and shape need %" PRIu64,
                         r->where, t->name, end - begin, t->bytes);
    t->offset = r->data + begin;
    return 0;
}

static int read_tensor(const struct reader *r, const char *name, const json_t *entry)
{
    char shown[GGUF_SHOWN_MAX];
    struct source_tensor *t;
    size_t len = strlen(name);

    if (len == 0 || len > NAME_BYTES_MAX)
        return error_set(r->err, STATUS_CORRUPT, "%s: a tensor's name is %zu bytes long", r->where,
                         len);
    for (size_t i = 0; i < len; i++)
        if (name[i] <= ' ' || name[i] > '~')
            return error_set(r->err, STATUS_CORRUPT,
                             "%s: the name of a tensor is not printable ASCII: %s", r->where,
                             source_show(name, shown));
    t = source_add_tensor(r->s, name, len);
    if (!t)
        return error_set(r->err, STATUS_NOMEM, "%s: no memory for its tensors", r->where);
    t->file = r->file;
    if (read_dtype(r, name, entry, &t->type) || read_shape(r, entry, t))
        return -1;
    return read_range(r, entry, t);
}

static int compare_offsets(const void *a, const void *b)
{
    const struct source_tensor *left = a, *right = b;

    return (left->offset > right->offset) - (left->offset < right->offset);
}

/* The file's tensors, from `first` on in the list, lie behind each other from end to end. */
static int check_cover(const struct reader *r, size_t first)
{
    size_t count = r->s->tensor_count - first;
    struct source_tensor *t = count ? r->s->tensors + first : NULL;
    uint64_t end = r->data;

    if (count)
        qsort(t, count, sizeof(*t), compare_offsets);
    for (size_t i = 0; i < count; i++) {
        if (t[i].offset != end)
            return error_set(r->err, STATUS_CORRUPT, "%s: tensor %s %s", r->where, t[i].name,
                             t[i].offset < end ? "overlaps another" : "comes behind a hole");
        end += t[i].bytes;
    }
    if (end - r->data != r->data_bytes)
        return error_set(r->err, STATUS_CORRUPT,
                         "%s: %" PRIu64 " bytes of data behind the last tensor", r->where,
                         r->data_bytes - (end - r->data));
    return 0;
}

static int read_header(struct reader *r, const char *text, size_t len)
{
    size_t first = r->s->tensor_count;
    const char *name;
    json_t *entry, *header;
    int rv = -1;

    header = source_parse_json(text, len, r->where, r->err);
    if (!header)
        return -1;
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") != 0 && read_tensor(r, name, entry))
            goto out;
    }
    rv = check_cover(r, first);
out:
    json_decref(header);
    return rv;
}

/* pread() of all of it; a file that ends before is CORRUPT. */
static int read_exactly(const struct reader *r, int fd, void *to, uint64_t bytes, uint64_t offset)
{
    uint64_t done = 0;

    while (done < bytes) {
        ssize_t n = pread(fd, (char *)to + done, (size_t)(bytes - done), (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(r->err, "%s", r->where);
        if (n == 0)
            return error_set(r->err, STATUS_CORRUPT, "%s: the file ends within its header",
                             r->where);
        done += (uint64_t)n;
    }
    return 0;
}

int safetensors_read(struct source *s, uint32_t file, int fd, struct error *err)
{
    struct reader r = {.s = s, .file = file, .err = err};
    unsigned char head[LENGTH_BYTES];
    uint64_t len = 0;
    struct stat st;
    char *text;
    int rv = -1;

    source_where(s, file, r.where);
    if (fstat(fd, &st))
        return error_errno(err, "%s", r.where);
    if (!S_ISREG(st.st_mode))
        return error_set(err, STATUS_CORRUPT, "%s: not a regular file", r.where);
    if (read_exactly(&r, fd, head, LENGTH_BYTES, 0))
        return -1;
    for (uint32_t i = 0; i < LENGTH_BYTES; i++)
        len |= (uint64_t)head[i] << (8 * i);
    if (len < 2 || len > SAFETENSORS_HEADER_MAX)
        return error_set(err, STATUS_CORRUPT,
                         "%s: not a safetensors file: a header of %" PRIu64 " bytes", r.where, len);
    if ((uint64_t)st.st_size < LENGTH_BYTES + len)
        return error_set(err, STATUS_CORRUPT,
                         "%s: the file ends within its header; is it complete?", r.where);
    r.data = LENGTH_BYTES + len;
    r.data_bytes = (uint64_t)st.st_size - r.data;
    text = malloc((size_t)len);
    if (!text)
        return error_set(err, STATUS_NOMEM, "%s: no memory for a header of %" PRIu64 " bytes",
                         r.where, len);
    if (read_exactly(&r, fd, text, len, LENGTH_BYTES) == 0)
        rv = read_header(&r, text, (size_t)len);
    free(text);
    return rv;
}
