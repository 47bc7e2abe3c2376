/* quantization.c - quantization_config of config.json, and the scales of FP8 weights */
#include "model/quantization.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "model/ggml_type.h"

/* Scales are kept for every so many columns: tiles are as wide, or a multiple of it. */
#define SCALE_COLUMNS 128u
#define TILE_MAX      (1u << 20)

/* The configuration while it is read. */
struct reader {
    struct quantization *q;
    const char *where; /* the model's name */
    struct error *err;
};

/* --- values ----------------------------------------------------------------------------------- */

/* null, false, 0, "", [] and {}: what keys say where they ask for nothing. */
static int asks_nothing(const json_t *v)
{
    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_NULL:
    case JSON_FALSE:
        return 1;
    case JSON_INTEGER:
        return json_integer_value(v) == 0;
    case JSON_STRING:
        return json_string_length(v) == 0;
    case JSON_ARRAY:
        return json_array_size(v) == 0;
    case JSON_OBJECT:
        return json_object_size(v) == 0;
    default:
        return 0;
    }
}

/* UNSUPPORTED: this key, with what it says. */
static int refuse(const struct reader *r, const char *key, const json_t *value)
{
    char shown[GGUF_SHOWN_MAX], named[GGUF_SHOWN_MAX], number[32] = "(not a word)";

    if (json_is_integer(value))
        snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    return error_set(
        r->err, STATUS_UNSUPPORTED,
        "%s: quantization_config in config.json: %.60s: %.60s is not supported (%s); use the "
        "checkpoint in BF16, or a GGUF file",
        r->where, source_show(key, named),
        json_is_string(value) ? source_show(json_string_value(value), shown) : number,
        r->q->method);
}

static int is_word(const json_t *v, const char *word)
{
    return json_is_string(v) && strcmp(json_string_value(v), word) == 0;
}

/* Every key of the object is in the list (NULL ends it), or asks for nothing. */
static int check_keys(const struct reader *r, const json_t *object, const char *const *known)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        size_t i = 0;

        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (!known[i] && !asks_nothing(value))
            return refuse(r, key, value);
    }
    return 0;
}

/* [rows, columns] of the tile that shares a scale. */
static int read_tile(const struct reader *r, const char *key, const json_t *v)
{
    json_int_t rows = json_integer_value(json_array_get(v, 0));
    json_int_t cols = json_integer_value(json_array_get(v, 1));

    if (json_array_size(v) != 2 || rows < 1 || cols < 1 || rows > TILE_MAX || cols > TILE_MAX)
        return error_set(r->err, STATUS_UNSUPPORTED,
                         "%s: quantization_config in config.json: %s must be two integers (%s)",
                         r->where, key, r->q->method);
    if (cols % SCALE_COLUMNS != 0)
        return error_set(r->err, STATUS_UNSUPPORTED,
                         "%s: quantization_config in config.json: %s: blocks of %" PRId64
                         " columns are not supported, only multiples of %u (%s)",
                         r->where, key, (int64_t)cols, SCALE_COLUMNS, r->q->method);
    r->q->rows = (uint64_t)rows;
    r->q->cols = (uint64_t)cols;
    return 0;
}

static int read_plain(const struct reader *r, const char *key, const json_t *list)
{
    size_t i;
    json_t *name;

    if (json_is_null(list))
        return 0;
    if (list && !json_is_array(list))
        return refuse(r, key, list);
    json_array_foreach(list, i, name)
    {
        if (!json_is_string(name))
            return refuse(r, key, name);
    }
    if (list)
        r->q->plain = list;
    return 0;
}

/* --- method fp8 ------------------------------------------------------------------------------- */

static int read_fp8(const struct reader *r, const json_t *c)
{
    static const char *const known[] = {"activation_scheme",
                                        "dequantize",
                                        "expert_dtype",
                                        "fmt",
                                        "ignored_layers",
                                        "quant_method",
                                        "scale_fmt",
                                        "modules_to_convert",
                                        "weight_block_size",
                                        "modules_to_not_convert",
                                        NULL};
    static const struct {
        const char *key, *words[2];
    } choices[] = {{"activation_scheme", {"dynamic", "static"}},
                   {"expert_dtype", {"fp8", "fp8"}},
                   {"fmt", {"e4m3", "float8_e4m3fn"}},
                   {"scale_fmt", {"float", "ue8m0"}}};
    const char *const lists[] = {"modules_to_not_convert", "ignored_layers"};
    const json_t *tile = json_object_get(c, "weight_block_size");

    if (check_keys(r, c, known))
        return -1;
    for (size_t i = 0; i < sizeof(choices) / sizeof(choices[0]); i++) {
        const json_t *v = json_object_get(c, choices[i].key);

        if (!asks_nothing(v) && !is_word(v, choices[i].words[0]) &&
            !is_word(v, choices[i].words[1]))
            return refuse(r, choices[i].key, v);
    }
    for (size_t i = 0; i < 2; i++)
        if (read_plain(r, lists[i], json_object_get(c, lists[i])))
            return -1;
    r->q->suffixes[0] = "_scale_inv";
    r->q->suffixes[1] = "_scale";
    r->q->by_tensor = r->q->by_row = asks_nothing(tile);
    return asks_nothing(tile) ? 0 : read_tile(r, "weight_block_size", tile);
}

/* --- method compressed-tensors ---------------------------------------------------------------- */

static int check_format(const struct reader *r, const json_t *format)
{
    /* An older name of the same storage. */
    if (asks_nothing(format) || is_word(format, "float-quantized") ||
        is_word(format, "naive-quantized"))
        return 0;
    return refuse(r, "format", format);
}

/* A group's weights: codes of e4m3, without zero points, by one of the strategies. */
static int read_weights(const struct reader *r, const json_t *w)
{
    static const char *const known[] = {"block_structure",
                                        "dynamic",
                                        "num_bits",
                                        "observer",
                                        "observer_kwargs",
                                        "scale_dtype",
                                        "strategy",
                                        "symmetric",
                                        "type",
                                        "zp_dtype",
                                        NULL};
    const json_t *strategy = json_object_get(w, "strategy");
    const json_t *bits = json_object_get(w, "num_bits");

    if (!json_is_object(w))
        return refuse(r, "weights", w);
    if (!is_word(json_object_get(w, "type"), "float"))
        return refuse(r, "weights: type", json_object_get(w, "type"));
    if (json_integer_value(bits) != 8)
        return refuse(r, "weights: num_bits", bits);
    if (!json_is_true(json_object_get(w, "symmetric")))
        return refuse(r, "weights: symmetric", json_object_get(w, "symmetric"));
    if (!asks_nothing(json_object_get(w, "dynamic")))
        return refuse(r, "weights: dynamic", json_object_get(w, "dynamic"));
    if (check_keys(r, w, known))
        return -1;
    if (is_word(strategy, "block"))
        return read_tile(r, "block_structure", json_object_get(w, "block_structure"));
    r->q->by_tensor = is_word(strategy, "tensor");
    r->q->by_row = is_word(strategy, "channel");
    return r->q->by_tensor || r->q->by_row ? 0 : refuse(r, "weights: strategy", strategy);
}

static int read_group(const struct reader *r, const json_t *group)
{
    static const char *const known[] = {"format",  "input_activations", "output_activations",
                                        "targets", "weights",           NULL};

    if (check_keys(r, group, known) || check_format(r, json_object_get(group, "format")))
        return -1;
    return read_weights(r, json_object_get(group, "weights"));
}

static int read_compressed(const struct reader *r, const json_t *c)
{
    static const char *const known[] = {
        "config_groups",   "format",       "global_compression_ratio",
        "ignore",          "quant_method", "quantization_status",
        "sparsity_config", "version",      NULL};
    const json_t *sparsity = json_object_get(c, "sparsity_config");
    const json_t *groups = json_object_get(c, "config_groups");
    struct quantization first = {0};
    const char *name;
    json_t *group;

    if (check_keys(r, c, known) || check_format(r, json_object_get(c, "format")) ||
        read_plain(r, "ignore", json_object_get(c, "ignore")))
        return -1;
    if (!asks_nothing(sparsity) && !is_word(json_object_get(sparsity, "format"), "dense"))
        return refuse(r, "sparsity_config", json_object_get(sparsity, "format"));
    if (json_object_size(groups) == 0)
        return refuse(r, "config_groups", groups);
    json_object_foreach((json_t *)(uintptr_t)groups, name, group)
    {
        struct quantization *q = r->q;

        q->by_tensor = q->by_row = 0;
        q->rows = q->cols = 0;
        if (read_group(r, group))
            return -1;
        if (!first.method)
            first = *q;
        if (first.by_tensor != q->by_tensor || first.by_row != q->by_row || first.rows != q->rows ||
            first.cols != q->cols)
            return refuse(r, "config_groups of different strategies", json_null());
    }
    r->q->suffixes[0] = "_scale";
    return 0;
}

/* --- both ------------------------------------------------------------------------------------- */

/* Where a checkpoint says that its weights are no plain numbers; NULL: nowhere. */
static const json_t *find(const struct source *s, const char **key, int *own)
{
    static const char *const keys[] = {"quantization_config", "compression_config"};
    const json_t *config = s->json[SOURCE_CONFIG];
    const json_t *holders[2] = {config, json_object_get(config, "text_config")};

    for (size_t h = 0; h < 2; h++)
        for (size_t k = 0; k < 2; k++) {
            const json_t *q = json_object_get(holders[h], keys[k]);

            if (!q || json_is_null(q))
                continue;
            *key = keys[k];
            *own = h == 0 && k == 0;
            return q;
        }
    return NULL;
}

int quantization_read(struct quantization *q, const struct source *s, struct error *err)
{
    struct reader r = {.q = q, .where = s->name, .err = err};
    const char *key = NULL, *method;
    char shown[GGUF_SHOWN_MAX];
    const json_t *c;
    int own = 0;

    memset(q, 0, sizeof(*q));
    c = find(s, &key, &own);
    if (!c)
        return 0;
    method = json_string_value(json_object_get(c, "quant_method"));
    q->method = method;
    if (own && method && strcmp(method, "fp8") == 0)
        return read_fp8(&r, c);
    if (own && method && strcmp(method, "compressed-tensors") == 0) {
        const json_t *kv = json_object_get(c, "kv_cache_scheme");

        if (!asks_nothing(kv))
            return error_set(err, STATUS_UNSUPPORTED,
                             "%s: quantization_config in config.json: kv_cache_scheme: keys and "
                             "values of FP8 are not supported",
                             s->name);
        return read_compressed(&r, c);
    }
    return error_set(err, STATUS_UNSUPPORTED,
                     "%s: its weights are quantized (%s: %s in config.json), which is "
                     "not supported; use the checkpoint in BF16, or a GGUF file",
                     s->name, key, source_show(method, shown));
}

/* --- scales ----------------------------------------------------------------------------------- */

/* Does the list of plain modules name the module of this weight, or one that it is in? */
static int is_plain(const struct quantization *q, const char *weight)
{
    const char *dot = strrchr(weight, '.');
    size_t len = dot ? (size_t)(dot - weight) : strlen(weight), i;
    json_t *entry;

    json_array_foreach(q->plain, i, entry)
    {
        const char *name = json_string_value(entry);
        size_t n = strlen(name);

        if (n == 0 || n > len)
            continue;
        if (memcmp(weight, name, n) == 0 && (n == len || weight[n] == '.'))
            return 1;
        if (memcmp(weight + len - n, name, n) == 0 && weight[len - n - 1] == '.')
            return 1;
    }
    return 0;
}

static const struct source_tensor *find_scale(const struct quantization *q, const struct source *s,
                                              const struct source_tensor *t)
{
    char name[320];

    for (size_t i = 0; i < 2 && q->suffixes[i]; i++) {
        const struct source_tensor *scale;

        snprintf(name, sizeof(name), "%s%s", t->name, q->suffixes[i]);
        scale = source_find_tensor(s, name);
        if (scale)
            return scale;
    }
    return NULL;
}

static uint64_t tiles(uint64_t extent, uint64_t tile)
{
    return extent / tile + (extent % tile != 0);
}

/* By its shape, the tile of a scale: *rows and *cols.  -1: no shape that the method allows. */
static int tile_of(const struct quantization *q, const struct source_tensor *t,
                   const struct source_tensor *scale, uint64_t *rows, uint64_t *cols)
{
    uint64_t all = scale->shape[0] * scale->shape[1]; /* of what lies in a file */

    if (scale->dims > 2)
        return -1;
    *rows = q->rows;
    *cols = q->cols;
    if (q->rows)
        return scale->dims == 2 && scale->shape[0] == tiles(t->shape[0], q->cols) &&
                       scale->shape[1] == tiles(t->shape[1], q->rows)
                   ? 0
                   : -1;
    *rows = t->shape[1];
    *cols = t->shape[0];
    if (q->by_tensor && all == 1)
        return 0;
    *rows = 1;
    return q->by_row && all == t->shape[1] && (scale->dims == 1 || scale->shape[0] == 1) ? 0 : -1;
}

static int link_tensor(const struct quantization *q, const struct source *s,
                       struct source_tensor *t, struct error *err)
{
    const struct source_tensor *scale;

    if (!q->method)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: tensor %.200s is stored as F8_E4M3, and config.json has no "
                         "quantization_config that tells its scales",
                         s->name, t->name);
    if (is_plain(q, t->name))
        return error_set(err, STATUS_CORRUPT,
                         "%s: tensor %.200s is stored as F8_E4M3, but config.json lists its module "
                         "among those that are not quantized",
                         s->name, t->name);
    if (t->dims != 2)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: tensor %.200s of F8_E4M3 has %" PRIu32
                         " dimensions; only matrices are supported",
                         s->name, t->name, t->dims);
    scale = find_scale(q, s, t);
    if (!scale)
        return error_set(err, STATUS_CORRUPT,
                         "%s: tensor %.200s%s is missing: the scales of %.200s", s->name, t->name,
                         q->suffixes[0], t->name);
    if (scale->type != GGML_TYPE_F32 && scale->type != GGML_TYPE_F16 &&
        scale->type != GGML_TYPE_BF16)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: tensor %.200s is stored as %s; scales are F32, F16 or BF16", s->name,
                         scale->name, ggml_type_get(scale->type)->name);
    if (tile_of(q, t, scale, &t->scale_rows, &t->scale_cols))
        return error_set(err, STATUS_CORRUPT,
                         "%s: tensor %.200s of %" PRIu64 "x%" PRIu64 " scales does not fit a "
                         "weight of %" PRIu64 " rows and %" PRIu64 " columns (%s)",
                         s->name, scale->name, scale->shape[1], scale->shape[0], t->shape[1],
                         t->shape[0], q->method);
    t->scale = scale;
    return 0;
}

int quantization_link(const struct quantization *q, struct source *s, struct error *err)
{
    for (size_t i = 0; i < s->tensor_count; i++)
        if (s->tensors[i].type == GGML_TYPE_F8 && link_tensor(q, s, &s->tensors[i], err))
            return -1;
    return 0;
}

int source_is_activation_scale(const struct source *s, const struct source_tensor *t)
{
    static const char *const suffixes[] = {".input_scale", ".activation_scale"};
    const char *dot = strrchr(t->name, '.');
    const struct source_tensor *weight;
    char name[320];

    for (size_t i = 0; dot && i < 2; i++)
        if (strcmp(dot, suffixes[i]) == 0) {
            snprintf(name, sizeof(name), "%.*s.weight", (int)(dot - t->name), t->name);
            weight = source_find_tensor(s, name);
            return weight && weight->type == GGML_TYPE_F8;
        }
    return 0;
}
