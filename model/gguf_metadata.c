#include "model/gguf_metadata.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read as it lies in memory");

#define KEY_BYTES_MAX 65535u /* the specification's */
/* The shortest pair: a length, a key of one byte, a type, a value of one byte. */
#define PAIR_BYTES_MIN (8u + 1u + 4u + 1u)

static const struct {
    const char *name;
    uint32_t bytes; /* 0: not of a fixed size */
} kinds[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = {"u8", 1},          [GGUF_I8] = {"i8", 1},     [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},        [GGUF_U32] = {"u32", 4},   [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},        [GGUF_BOOL] = {"bool", 1}, [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"an array", 0}, [GGUF_U64] = {"u64", 8},   [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

/* Cursor */

int take_bytes(struct cursor *c, uint64_t bytes, const unsigned char **out)
{
    if (bytes > c->left)
        return -1;
    *out = c->at;
    c->at += bytes;
    c->left -= bytes;
    return 0;
}

int take_u32(struct cursor *c, uint32_t *out)
{
    const unsigned char *p;

    if (take_bytes(c, sizeof(*out), &p))
        return -1;
    memcpy(out, p, sizeof(*out));
    return 0;
}

int take_u64(struct cursor *c, uint64_t *out)
{
    const unsigned char *p;

    if (take_bytes(c, sizeof(*out), &p))
        return -1;
    memcpy(out, p, sizeof(*out));
    return 0;
}

int take_string(struct cursor *c, struct gguf_string *out)
{
    const unsigned char *p;
    uint64_t len;

    if (take_u64(c, &len) || take_bytes(c, len, &p))
        return -1;
    out->data = (const char *)p;
    out->len = len;
    return 0;
}

/* Names */

int gguf_string_compare(const struct gguf_string *a, const struct gguf_string *b)
{
    uint64_t len = a->len < b->len ? a->len : b->len;
    int order = memcmp(a->data, b->data, len);

    return order ? order : (a->len > b->len) - (a->len < b->len);
}

const char *gguf_show(const struct gguf_string *s, char shown[GGUF_SHOWN_MAX])
{
    size_t n = s->len < GGUF_SHOWN_MAX - 4 ? (size_t)s->len : GGUF_SHOWN_MAX - 4;

    for (size_t i = 0; i < n; i++)
        shown[i] = s->data[i] >= ' ' && s->data[i] <= '~' ? s->data[i] : '?';
    memcpy(shown + n, n < s->len ? "..." : "", n < s->len ? 4 : 1);
    return shown;
}

/* Reading the pairs */

static int read_elements(const struct gguf *g, struct cursor *c, struct gguf_value *v,
                         struct error *err)
{
    char shown[GGUF_SHOWN_MAX];
    const unsigned char *p;
    struct gguf_string s;

    if (v->elements == GGUF_ARRAY)
        return error_set(err, STATUS_UNSUPPORTED, "%s: key %s is an array of arrays", g->name,
                         gguf_show(&v->key, shown));
    if (v->elements >= GGUF_TYPE_COUNT)
        return error_set(err, STATUS_CORRUPT, "%s: key %s is an array of unknown type %" PRIu32,
                         g->name, gguf_show(&v->key, shown), v->elements);
    if (v->elements == GGUF_STRING) {
        if (v->count > c->left / 8)
            goto truncated;
        for (uint64_t i = 0; i < v->count; i++)
            if (take_string(c, &s))
                goto truncated;
        return 0;
    }
    if (v->count > c->left / kinds[v->elements].bytes ||
        take_bytes(c, v->count * kinds[v->elements].bytes, &p))
        goto truncated;
    return 0;
truncated:
    return error_set(err, STATUS_CORRUPT,
                     "%s: the array of key %s (%" PRIu64 " elements) goes past the end of the file",
                     g->name, gguf_show(&v->key, shown), v->count);
}

static int read_value(const struct gguf *g, struct cursor *c, struct gguf_value *v,
                      struct error *err)
{
    char shown[GGUF_SHOWN_MAX];
    const unsigned char *p;
    struct gguf_string s;
    struct cursor start;

    v->count = 1;
    if (v->type >= GGUF_TYPE_COUNT)
        return error_set(err, STATUS_CORRUPT, "%s: key %s is of unknown type %" PRIu32, g->name,
                         gguf_show(&v->key, shown), v->type);
    if (v->type == GGUF_ARRAY && (take_u32(c, &v->elements) || take_u64(c, &v->count)))
        goto truncated;
    start = *c;
    if (v->type == GGUF_ARRAY) {
        if (read_elements(g, c, v, err))
            return -1;
    } else if (v->type == GGUF_STRING) {
        if (take_string(c, &s))
            goto truncated;
    } else if (take_bytes(c, kinds[v->type].bytes, &p)) {
        goto truncated;
    }
    if (v->type == GGUF_BOOL && *start.at > 1)
        return error_set(err, STATUS_CORRUPT, "%s: key %s is a bool of value %u", g->name,
                         gguf_show(&v->key, shown), *start.at);
    v->data.at = start.at;
    v->data.left = start.left - c->left;
    return 0;
truncated:
    return error_set(err, STATUS_CORRUPT, "%s: the value of key %s goes past the end of the file",
                     g->name, gguf_show(&v->key, shown));
}

static int compare_values(const void *a, const void *b)
{
    const struct gguf_value *left = a, *right = b;

    return gguf_string_compare(&left->key, &right->key);
}

int gguf_read_metadata(struct gguf *g, struct cursor *c, uint64_t count, struct error *err)
{
    char shown[GGUF_SHOWN_MAX];

    if (count > c->left / PAIR_BYTES_MIN)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu64 " metadata keys do not fit in the file", g->name, count);
    g->values = calloc(count ? count : 1, sizeof(*g->values));
    if (!g->values)
        return error_set(err, STATUS_NOMEM, "%s: no memory for %" PRIu64 " metadata keys", g->name,
                         count);
    for (uint64_t i = 0; i < count; i++) {
        struct gguf_value *v = &g->values[i];

        if (take_string(c, &v->key) || take_u32(c, &v->type))
            return error_set(err, STATUS_CORRUPT,
                             "%s: metadata key %" PRIu64 " goes past the end of the file", g->name,
                             i);
        if (v->key.len == 0 || v->key.len > KEY_BYTES_MAX)
            return error_set(err, STATUS_CORRUPT,
                             "%s: metadata key %" PRIu64 " is %" PRIu64 " bytes long", g->name, i,
                             v->key.len);
        if (read_value(g, c, v, err))
            return -1;
    }
    g->value_count = count;
    qsort(g->values, count, sizeof(*g->values), compare_values);
    for (uint64_t i = 1; i < count; i++)
        if (compare_values(&g->values[i - 1], &g->values[i]) == 0)
            return error_set(err, STATUS_CORRUPT, "%s: key %s is there twice", g->name,
                             gguf_show(&g->values[i].key, shown));
    return 0;
}

/* Looking them up */

size_t gguf_key_count(const struct gguf *g)
{
    return g->value_count;
}

const struct gguf_string *gguf_key(const struct gguf *g, size_t i)
{
    return &g->values[i].key;
}

static const struct gguf_value *find(const struct gguf *g, const char *key)
{
    struct gguf_value probe = {.key = {key, strlen(key)}};

    return bsearch(&probe, g->values, g->value_count, sizeof(*g->values), compare_values);
}

static int wrong_type(const struct gguf *g, const char *key, const struct gguf_value *v,
                      const char *wanted, struct error *err)
{
    return error_set(err, STATUS_CORRUPT, "%s: key %s is %s%s, not %s", g->name, key,
                     v->type == GGUF_ARRAY ? "an array of " : "",
                     kinds[v->type == GGUF_ARRAY ? v->elements : v->type].name, wanted);
}

/* An integer of any type; the sign of U64 values past INT64_MAX is lost, so they are refused. */
static int decode_integer(const unsigned char *p, uint32_t type, int64_t *out)
{
    union {
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
    } v;

    if (type >= GGUF_TYPE_COUNT || kinds[type].bytes == 0)
        return -1;
    memcpy(&v, p, kinds[type].bytes);
    switch (type) {
    case GGUF_U8:
        *out = *p;
        return 0;
    case GGUF_I8:
        *out = v.i8;
        return 0;
    case GGUF_U16:
        *out = v.u16;
        return 0;
    case GGUF_I16:
        *out = v.i16;
        return 0;
    case GGUF_U32:
        *out = v.u32;
        return 0;
    case GGUF_I32:
        *out = v.i32;
        return 0;
    case GGUF_U64:
    case GGUF_I64:
        *out = (int64_t)v.u64;
        return type == GGUF_U64 && v.u64 > INT64_MAX ? -1 : 0;
    default:
        return -1;
    }
}

int gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out, struct error *err)
{
    const struct gguf_value *v = find(g, key);
    int64_t value;

    if (!v)
        return 1;
    if (v->type == GGUF_U64) {
        memcpy(out, v->data.at, sizeof(*out));
        return 0;
    }
    if (decode_integer(v->data.at, v->type, &value))
        return wrong_type(g, key, v, "an integer", err);
    if (value < 0)
        return error_set(err, STATUS_CORRUPT, "%s: key %s is negative (%" PRId64 ")", g->name, key,
                         value);
    *out = (uint64_t)value;
    return 0;
}

int gguf_get_f64(const struct gguf *g, const char *key, double *out, struct error *err)
{
    const struct gguf_value *v = find(g, key);
    float narrow;

    if (!v)
        return 1;
    if (v->type == GGUF_F64) {
        memcpy(out, v->data.at, sizeof(*out));
        return 0;
    }
    if (v->type != GGUF_F32)
        return wrong_type(g, key, v, "a floating-point number", err);
    memcpy(&narrow, v->data.at, sizeof(narrow));
    *out = (double)narrow;
    return 0;
}

int gguf_get_bool(const struct gguf *g, const char *key, int *out, struct error *err)
{
    const struct gguf_value *v = find(g, key);

    if (!v)
        return 1;
    if (v->type != GGUF_BOOL)
        return wrong_type(g, key, v, "a bool", err);
    *out = *v->data.at != 0;
    return 0;
}

int gguf_get_string(const struct gguf *g, const char *key, struct gguf_string *out,
                    struct error *err)
{
    const struct gguf_value *v = find(g, key);
    struct cursor c;

    if (!v)
        return 1;
    c = v->data;
    if (v->type != GGUF_STRING || take_string(&c, out))
        return wrong_type(g, key, v, "a string", err);
    return 0;
}

int gguf_get_array(const struct gguf *g, const char *key, uint64_t *count, struct error *err)
{
    const struct gguf_value *v = find(g, key);

    if (!v)
        return 1;
    if (v->type != GGUF_ARRAY)
        return wrong_type(g, key, v, "an array", err);
    *count = v->count;
    return 0;
}

int gguf_array_string(const struct gguf *g, const char *key, uint64_t i, struct gguf_string *out,
                      struct error *err)
{
    const struct gguf_value *v = find(g, key);
    struct gguf_string s = {NULL, 0};
    struct cursor c;

    if (!v)
        return 1;
    if (v->type != GGUF_ARRAY || v->elements != GGUF_STRING)
        return wrong_type(g, key, v, "an array of strings", err);
    if (i >= v->count)
        return error_set(err, STATUS_NOT_FOUND,
                         "%s: key %s has %" PRIu64 " elements, no number %" PRIu64, g->name, key,
                         v->count, i);
    c = v->data;
    for (uint64_t k = 0; k <= i; k++)
        if (take_string(&c, &s))
            return error_set(err, STATUS_CORRUPT, "%s: key %s has changed on disk", g->name, key);
    *out = s;
    return 0;
}

/* The array of a key and room for its elements, `width` bytes each.  The format bounds the count by
 * the file's size, so the product cannot overflow. */
static int array_room(const struct gguf *g, const char *key, size_t width,
                      const struct gguf_value **v, void **room, struct error *err)
{
    *v = find(g, key);
    if (!*v)
        return 1;
    if ((*v)->type != GGUF_ARRAY)
        return wrong_type(g, key, *v, "an array", err);
    *room = calloc((*v)->count ? (*v)->count : 1, width);
    if (!*room)
        return error_set(err, STATUS_NOMEM, "%s: no memory for key %s", g->name, key);
    return 0;
}

int gguf_get_strings(const struct gguf *g, const char *key, struct gguf_string **out,
                     uint64_t *count, struct error *err)
{
    const struct gguf_value *v;
    void *room = NULL;
    struct cursor c;
    int rv = array_room(g, key, sizeof(**out), &v, &room, err);

    if (rv)
        return rv;
    c = v->data;
    for (uint64_t i = 0; i < v->count; i++)
        if (v->elements != GGUF_STRING || take_string(&c, (struct gguf_string *)room + i)) {
            free(room);
            return wrong_type(g, key, v, "an array of strings", err);
        }
    *out = room;
    *count = v->count;
    return 0;
}

int gguf_get_i64s(const struct gguf *g, const char *key, int64_t **out, uint64_t *count,
                  struct error *err)
{
    const struct gguf_value *v;
    void *room = NULL;
    int rv = array_room(g, key, sizeof(**out), &v, &room, err);

    if (rv)
        return rv;
    for (uint64_t i = 0; i < v->count; i++)
        if (decode_integer(v->data.at + i * kinds[v->elements].bytes, v->elements,
                           (int64_t *)room + i)) {
            free(room);
            return wrong_type(g, key, v, "an array of integers", err);
        }
    *out = room;
    *count = v->count;
    return 0;
}

int gguf_get_f32s(const struct gguf *g, const char *key, float **out, uint64_t *count,
                  struct error *err)
{
    const struct gguf_value *v;
    void *room = NULL;
    int rv = array_room(g, key, sizeof(**out), &v, &room, err);

    if (rv)
        return rv;
    if (v->elements != GGUF_F32) {
        free(room);
        return wrong_type(g, key, v, "an array of f32", err);
    }
    memcpy(room, v->data.at, v->count * sizeof(**out));
    *out = room;
    *count = v->count;
    return 0;
}
