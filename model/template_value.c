/*
 * template_value.c - values of the template language: made, walked, indexed
 */
#include "model/template_internal.h"

#include <string.h>

/* --- constructors --------------------------------------------------------------------------- */

struct tpl_value tpl_none(void)
{
    return (struct tpl_value){.type = TPL_NONE};
}

struct tpl_value tpl_bool(int v)
{
    return (struct tpl_value){.type = TPL_BOOL, .boolean = v != 0};
}

struct tpl_value tpl_int(int64_t v)
{
    return (struct tpl_value){.type = TPL_INT, .integer = v};
}

struct tpl_value tpl_float(double v)
{
    return (struct tpl_value){.type = TPL_FLOAT, .real = v};
}

struct tpl_value tpl_text_value(const char *data, size_t len)
{
    /* never NULL: an empty string is walked and offset like any other */
    return (struct tpl_value){.type = TPL_STRING, .string = {data ? data : "", len}};
}

struct tpl_value tpl_string_value(struct tpl_string s)
{
    return tpl_text_value(s.data, s.len);
}

struct tpl_value tpl_undefined(enum tpl_undefined_kind kind, struct tpl_string hint)
{
    return (struct tpl_value){.type = TPL_UNDEFINED, .undefined = kind, .string = hint};
}

struct tpl_string tpl_literal(const char *text)
{
    return (struct tpl_string){text, strlen(text)};
}

int tpl_string_equal(struct tpl_string a, struct tpl_string b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

int tpl_string_is(struct tpl_string a, const char *text)
{
    return tpl_string_equal(a, tpl_literal(text));
}

int tpl_sequence_value(struct tpl_render *r, enum tpl_sequence_kind kind,
                       const struct tpl_value *items, size_t count, struct tpl_value *out)
{
    struct tpl_sequence *sequence = tpl_alloc(r, 1, sizeof *sequence);
    if (!sequence)
        return -1;
    *sequence = (struct tpl_sequence){.kind = kind, .count = count, .items = items};
    *out = (struct tpl_value){.type = TPL_SEQUENCE, .sequence = sequence};
    return 0;
}

int tpl_dict_value(struct tpl_render *r, const struct tpl_pair *pairs, size_t count,
                   struct tpl_value *out)
{
    struct tpl_dict *dict = tpl_alloc(r, 1, sizeof *dict);
    if (!dict)
        return -1;
    *dict = (struct tpl_dict){count, pairs};
    *out = (struct tpl_value){.type = TPL_DICT, .dict = dict};
    return 0;
}

/* --- from JSON ------------------------------------------------------------------------------ */

static int from_array(struct tpl_render *r, const json_t *json, int depth, struct tpl_value *out)
{
    size_t count = json_array_size(json);
    struct tpl_value *items = tpl_alloc(r, count, sizeof *items);
    if (!items)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (tpl_from_json(r, json_array_get(json, i), depth + 1, &items[i]) != 0)
            return -1;
    return tpl_sequence_value(r, TPL_LIST, items, count, out);
}

static int from_object(struct tpl_render *r, const json_t *json, int depth, struct tpl_value *out)
{
    size_t count = json_object_size(json), n = 0;
    struct tpl_pair *pairs = tpl_alloc(r, count, sizeof *pairs);
    if (!pairs)
        return -1;
    /* jansson iterates in order of insertion; its iterators take a json_t that is not const */
    json_t *object = (json_t *)(uintptr_t)json;
    for (void *i = json_object_iter(object); i && n < count; i = json_object_iter_next(object, i)) {
        pairs[n].key = tpl_string_value(tpl_literal(json_object_iter_key(i)));
        if (tpl_from_json(r, json_object_iter_value(i), depth + 1, &pairs[n].value) != 0)
            return -1;
        n++;
    }
    return tpl_dict_value(r, pairs, n, out);
}

int tpl_from_json(struct tpl_render *r, const json_t *json, int depth, struct tpl_value *out)
{
    if (depth > TPL_VALUE_MAX)
        return tpl_fail(r, STATUS_INVALID, "variables are nested deeper than %d", TPL_VALUE_MAX);
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return from_object(r, json, depth, out);
    case JSON_ARRAY:
        return from_array(r, json, depth, out);
    case JSON_STRING:
        *out = tpl_text_value(json_string_value(json), json_string_length(json));
        return 0;
    case JSON_INTEGER:
        *out = tpl_int(json_integer_value(json));
        return 0;
    case JSON_REAL:
        *out = tpl_float(json_real_value(json));
        return 0;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = tpl_bool(json_is_true(json));
        return 0;
    case JSON_NULL:
        break;
    }
    *out = tpl_none();
    return 0;
}

/* --- questions ------------------------------------------------------------------------------ */

const char *tpl_type_name(const struct tpl_value *v)
{
    static const char *const sequences[] = {"list",        "tuple",      "range",    "dict_keys",
                                            "dict_values", "dict_items", "generator"};
    switch (v->type) {
    case TPL_MISSING:
    case TPL_UNDEFINED:
        return "Undefined";
    case TPL_NONE:
        return "None";
    case TPL_BOOL:
        return "bool";
    case TPL_INT:
        return "int";
    case TPL_FLOAT:
        return "float";
    case TPL_STRING:
        return "str";
    case TPL_SEQUENCE:
        return sequences[v->sequence->kind];
    case TPL_DICT:
        return "dict";
    case TPL_NAMESPACE:
        return "namespace";
    case TPL_MACRO:
        return "macro";
    case TPL_FUNCTION:
    case TPL_METHOD:
        return "function";
    case TPL_LOOP:
        break;
    }
    return "loop";
}

int tpl_is_integral(const struct tpl_value *v)
{
    return v->type == TPL_BOOL || v->type == TPL_INT;
}

int tpl_is_number(const struct tpl_value *v)
{
    return tpl_is_integral(v) || v->type == TPL_FLOAT;
}

int64_t tpl_as_int(const struct tpl_value *v)
{
    return v->type == TPL_BOOL ? v->boolean : v->integer;
}

double tpl_as_float(const struct tpl_value *v)
{
    return v->type == TPL_FLOAT ? v->real : (double)tpl_as_int(v);
}

int tpl_truth(const struct tpl_value *v)
{
    switch (v->type) {
    case TPL_MISSING:
    case TPL_UNDEFINED:
    case TPL_NONE:
        return 0;
    case TPL_BOOL:
        return v->boolean;
    case TPL_INT:
        return v->integer != 0;
    case TPL_FLOAT:
        return v->real != 0;
    case TPL_STRING:
        return v->string.len != 0;
    case TPL_SEQUENCE:
        return v->sequence->kind == TPL_ITERATOR || v->sequence->count != 0;
    case TPL_DICT:
        return v->dict->count != 0;
    default:
        return 1;
    }
}

int tpl_length(struct tpl_render *r, const struct tpl_value *v, size_t *length)
{
    switch (v->type) {
    case TPL_UNDEFINED:
        *length = 0;
        return 0;
    case TPL_STRING:
        *length = tpl_char_count(v->string);
        return tpl_scan(r, v->string.len);
    case TPL_DICT:
        *length = v->dict->count;
        return 0;
    case TPL_LOOP:
        *length = v->loop->count;
        return 0;
    case TPL_SEQUENCE:
        if (v->sequence->kind != TPL_ITERATOR) {
            *length = v->sequence->count;
            return 0;
        }
        break;
    default:
        break;
    }
    return tpl_fail(r, STATUS_INVALID, "object of type '%s' has no length", tpl_type_name(v));
}

static int characters(struct tpl_render *r, struct tpl_string s, const struct tpl_value **items,
                      size_t *count)
{
    size_t n = tpl_char_count(s);
    struct tpl_value *chars = tpl_alloc(r, n, sizeof *chars);
    if (!chars || tpl_step(r, n) != 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        const char *from = s.data;
        tpl_next_char(&s);
        chars[i] = tpl_text_value(from, (size_t)(s.data - from));
    }
    *items = chars;
    *count = n;
    return 0;
}

int tpl_iterate(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value **items,
                size_t *count)
{
    *items = NULL;
    *count = 0;
    if (v->type == TPL_UNDEFINED)
        return 0;
    if (v->type == TPL_STRING)
        return characters(r, v->string, items, count);
    if (v->type == TPL_SEQUENCE) {
        *items = v->sequence->items;
        *count = v->sequence->count;
        if (v->sequence->kind == TPL_ITERATOR)
            v->sequence->count = 0;
        return tpl_step(r, *count);
    }
    if (v->type == TPL_DICT) {
        struct tpl_value *keys = tpl_alloc(r, v->dict->count, sizeof *keys);
        if (!keys || tpl_step(r, v->dict->count) != 0)
            return -1;
        for (size_t i = 0; i < v->dict->count; i++)
            keys[i] = v->dict->pairs[i].key;
        *items = keys;
        *count = v->dict->count;
        return 0;
    }
    return tpl_fail(r, STATUS_INVALID, "'%s' object is not iterable", tpl_type_name(v));
}

/* --- members -------------------------------------------------------------------------------- */

int tpl_dict_get(struct tpl_render *r, const struct tpl_dict *dict, const struct tpl_value *key,
                 const struct tpl_value **value)
{
    *value = NULL;
    if (tpl_step(r, dict->count / 8) != 0)
        return -1;
    for (size_t i = 0; i < dict->count; i++) {
        const struct tpl_value *k = &dict->pairs[i].key;
        int equal;
        if (k->type == TPL_STRING && key->type == TPL_STRING)
            equal = tpl_string_equal(k->string, key->string);
        else if (tpl_equal(r, k, key, &equal) != 0)
            return -1;
        if (equal) {
            *value = &dict->pairs[i].value;
            return 0;
        }
    }
    return 0;
}

const struct tpl_value *tpl_find_variable(const struct tpl_variable *list, struct tpl_string name)
{
    for (; list; list = list->next)
        if (tpl_string_equal(list->name, name))
            return &list->value;
    return NULL;
}

int tpl_set_variable(struct tpl_render *r, struct tpl_variable **list, struct tpl_string name,
                     const struct tpl_value *value)
{
    for (; *list; list = &(*list)->next) {
        if (tpl_step(r, 1) != 0)
            return -1;
        if (tpl_string_equal((*list)->name, name)) {
            (*list)->value = *value;
            return 0;
        }
    }
    *list = tpl_alloc(r, 1, sizeof **list);
    if (!*list)
        return -1;
    **list = (struct tpl_variable){NULL, name, *value};
    return 0;
}

static int loop_attribute(const struct tpl_loop *loop, struct tpl_string name,
                          struct tpl_value *out)
{
    int64_t index = (int64_t)loop->index, count = (int64_t)loop->count;
    const struct {
        const char *name;
        struct tpl_value value;
    } members[] = {
        {"index", tpl_int(index + 1)},
        {"index0", tpl_int(index)},
        {"revindex", tpl_int(count - index)},
        {"revindex0", tpl_int(count - index - 1)},
        {"first", tpl_bool(index == 0)},
        {"last", tpl_bool(index + 1 == count)},
        {"length", tpl_int(count)},
        {"depth", tpl_int((int64_t)loop->depth)},
        {"depth0", tpl_int((int64_t)loop->depth - 1)},
    };
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (tpl_string_is(name, members[i].name)) {
            *out = members[i].value;
            return 1;
        }
    }
    if (tpl_string_is(name, "previtem") && index > 0)
        *out = loop->items[index - 1];
    else if (tpl_string_is(name, "nextitem") && index + 1 < count)
        *out = loop->items[index + 1];
    else
        return 0;
    return 1;
}

/* What Python finds as an attribute; 1 found, 0 not, -1 error. */
static int own_attribute(struct tpl_render *r, const struct tpl_value *v, struct tpl_string name,
                         struct tpl_value *out)
{
    if (v->type == TPL_LOOP && loop_attribute(v->loop, name, out))
        return 1;
    if (v->type == TPL_NAMESPACE) {
        const struct tpl_value *found = tpl_find_variable(v->space->first, name);
        if (found)
            *out = *found;
        return found != NULL;
    }
    const struct tpl_method_def *def = tpl_method_find(v, name);
    if (!def)
        return 0;
    struct tpl_method *method = tpl_alloc(r, 1, sizeof *method);
    if (!method)
        return -1;
    *method = (struct tpl_method){def, *v};
    *out = (struct tpl_value){.type = TPL_METHOD, .method = method};
    return 1;
}

/* The hint of a missing attribute: "'dict object' has no attribute 'x'". */
static int no_attribute(struct tpl_render *r, const struct tpl_value *v, struct tpl_string name,
                        struct tpl_value *out)
{
    struct tpl_text text = {NULL, 0, 0};
    const char *object = v->type == TPL_NONE ? "" : " object";
    if (tpl_append(r, &text, "'", 1) != 0 ||
        tpl_append_string(r, &text, tpl_literal(tpl_type_name(v))) != 0 ||
        tpl_append_string(r, &text, tpl_literal(object)) != 0 ||
        tpl_append_string(r, &text, tpl_literal("' has no attribute '")) != 0 ||
        tpl_append(r, &text, name.data, name.len < 100 ? name.len : 100) != 0 ||
        tpl_append(r, &text, "'", 1) != 0)
        return -1;
    *out = tpl_undefined(TPL_NO_ATTRIBUTE, (struct tpl_string){text.data, text.len});
    return 0;
}

int tpl_attribute(struct tpl_render *r, const struct tpl_value *v, struct tpl_string name,
                  struct tpl_value *out)
{
    if (v->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, v);
    int found = own_attribute(r, v, name, out);
    if (found != 0)
        return found < 0 ? -1 : 0;
    if (v->type == TPL_DICT) {
        struct tpl_value key = tpl_string_value(name);
        const struct tpl_value *value;
        if (tpl_dict_get(r, v->dict, &key, &value) != 0)
            return -1;
        if (value) {
            *out = *value;
            return 0;
        }
    }
    return no_attribute(r, v, name, out);
}

/* Index i of n, counted from the end if negative: 1 and *at, or 0. */
static int resolve_index(int64_t i, size_t n, size_t *at)
{
    if (i < 0)
        i += (int64_t)n;
    if (i < 0 || i >= (int64_t)n)
        return 0;
    *at = (size_t)i;
    return 1;
}

static int index_string(struct tpl_render *r, struct tpl_string s, int64_t i, struct tpl_value *out)
{
    size_t at;
    if (tpl_scan(r, s.len) != 0)
        return -1;
    if (!resolve_index(i, tpl_char_count(s), &at))
        return 0;
    size_t from = tpl_char_offset(s, at);
    struct tpl_string rest = {s.data + from, s.len - from};
    tpl_next_char(&rest);
    *out = tpl_text_value(s.data + from, s.len - from - rest.len);
    return 1;
}

/* v[i]: 1 found, 0 not, -1 error. */
static int index_value(struct tpl_render *r, const struct tpl_value *v, int64_t i,
                       struct tpl_value *out)
{
    size_t at;
    if (v->type == TPL_STRING)
        return index_string(r, v->string, i, out);
    if (v->type != TPL_SEQUENCE || v->sequence->kind > TPL_RANGE ||
        !resolve_index(i, v->sequence->count, &at))
        return 0;
    *out = v->sequence->items[at];
    return 1;
}

int tpl_subscript(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value *key,
                  struct tpl_value *out)
{
    int found = 0;
    if (v->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, v);
    if (v->type == TPL_DICT) {
        const struct tpl_value *value;
        if (tpl_dict_get(r, v->dict, key, &value) != 0)
            return -1;
        found = value != NULL;
        if (found)
            *out = *value;
    } else if (tpl_is_integral(key)) {
        found = index_value(r, v, tpl_as_int(key), out);
    }
    if (!found && key->type == TPL_STRING)
        found = own_attribute(r, v, key->string, out);
    if (found != 0)
        return found < 0 ? -1 : 0;
    if (key->type == TPL_STRING)
        return no_attribute(r, v, key->string, out);
    *out = tpl_undefined(TPL_NO_ELEMENT, tpl_literal(tpl_type_name(v)));
    return 0;
}

/* --- slices --------------------------------------------------------------------------------- */

/* A bound clamped as Python does it: into [low, high]. */
static int64_t clamp_bound(int64_t v, int64_t n, int64_t low, int64_t high)
{
    if (v < 0)
        v += n;
    return v < low ? low : v > high ? high : v;
}

static int slice_bounds(struct tpl_render *r, const struct tpl_value bounds[3], size_t n,
                        int64_t *start, int64_t *stop, int64_t *step)
{
    for (int i = 0; i < 3; i++)
        if (bounds[i].type != TPL_NONE && !tpl_is_integral(&bounds[i]))
            return tpl_fail(r, STATUS_INVALID, "slice bounds must be integers or none, not '%s'",
                            tpl_type_name(&bounds[i]));
    int64_t count = (int64_t)n;
    *step = bounds[2].type == TPL_NONE ? 1 : tpl_as_int(&bounds[2]);
    if (*step == 0)
        return tpl_fail(r, STATUS_INVALID, "slice step cannot be zero");
    if (*step < -count - 1)
        *step = -count - 1; /* one step leaves the sequence either way */
    if (*step > count + 1)
        *step = count + 1;
    int64_t low = *step > 0 ? 0 : -1, high = *step > 0 ? count : count - 1;
    *start = bounds[0].type == TPL_NONE ? (*step > 0 ? low : high)
                                        : clamp_bound(tpl_as_int(&bounds[0]), count, low, high);
    *stop = bounds[1].type == TPL_NONE ? (*step > 0 ? high : low)
                                       : clamp_bound(tpl_as_int(&bounds[1]), count, low, high);
    return 0;
}

static int slice_string(struct tpl_render *r, struct tpl_string s, const struct tpl_value bounds[3],
                        struct tpl_value *out)
{
    int64_t start, stop, step;
    size_t n = tpl_char_count(s);
    if (tpl_scan(r, s.len) != 0 || slice_bounds(r, bounds, n, &start, &stop, &step) != 0)
        return -1;
    if (step == 1) {
        size_t from = tpl_char_offset(s, (size_t)start);
        size_t to = start < stop ? tpl_char_offset(s, (size_t)stop) : from;
        *out = tpl_text_value(s.data + from, to - from);
        return 0;
    }
    const struct tpl_value *chars;
    struct tpl_text text = {NULL, 0, 0};
    if (characters(r, s, &chars, &n) != 0)
        return -1;
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step)
        if (tpl_append_string(r, &text, chars[i].string) != 0)
            return -1;
    *out = tpl_text_value(text.data, text.len);
    return 0;
}

/* Every step-th member from start to before stop. */
static int stride(struct tpl_render *r, const struct tpl_sequence *s, int64_t start, int64_t stop,
                  int64_t step, const struct tpl_value **part, size_t *count)
{
    struct tpl_value *items = tpl_alloc(r, s->count, sizeof *items);
    size_t n = 0;
    if (!items || tpl_step(r, s->count) != 0)
        return -1;
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step)
        items[n++] = s->items[i];
    *part = items;
    *count = n;
    return 0;
}

int tpl_slice(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value bounds[3],
              struct tpl_value *out)
{
    if (v->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, v);
    if (v->type == TPL_STRING)
        return slice_string(r, v->string, bounds, out);
    if (v->type != TPL_SEQUENCE || v->sequence->kind > TPL_RANGE)
        return tpl_fail(r, STATUS_INVALID, "'%s' object cannot be sliced", tpl_type_name(v));
    int64_t start, stop, step;
    const struct tpl_sequence *s = v->sequence;
    if (slice_bounds(r, bounds, s->count, &start, &stop, &step) != 0)
        return -1;
    const struct tpl_value *part = s->count ? s->items + start : s->items;
    size_t count = start < stop ? (size_t)(stop - start) : 0;
    if (step != 1 && stride(r, s, start, stop, step, &part, &count) != 0)
        return -1;
    if (tpl_sequence_value(r, s->kind, part, count, out) != 0)
        return -1;
    if (s->kind == TPL_RANGE) { /* members of a range lie within 64 bits, and 100000 at most */
        out->sequence->start = s->start + start * s->step;
        out->sequence->stop = s->start + stop * s->step;
        out->sequence->step = s->step * step;
    }
    return 0;
}
