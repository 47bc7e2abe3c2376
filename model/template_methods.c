/*
 * template_methods.c - the methods of strings, dicts, lists and loops
 *
 * Those of Python that are not here are listed without a function: they hide a dict's member of the
 * same name as they do in Python, and calling one is refused by its name.
 */
#include "model/template_internal.h"

#include <string.h>
#include <utf8proc.h>

static const struct tpl_string whitespace = {NULL, 0};

/* --- strings -------------------------------------------------------------------------------- */

static int strip(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                 int left, int right, struct tpl_value *out)
{
    struct tpl_string chars = whitespace;
    if (call->bound[0].type == TPL_NONE)
        call->bound[0].type = TPL_MISSING;
    if (tpl_bound_string(r, call, 0, whitespace, &chars) != 0 ||
        tpl_scan(r, self->string.len * (chars.len / 8 + 1)) != 0)
        return -1;
    if (call->bound[0].type == TPL_STRING && chars.len == 0)
        *out = *self; /* nothing to strip, which is not the same as white space */
    else
        *out = tpl_string_value(tpl_strip(self->string, chars, left, right));
    return 0;
}

static int str_strip(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                     struct tpl_value *out)
{
    return strip(r, self, call, 1, 1, out);
}

static int str_lstrip(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                      struct tpl_value *out)
{
    return strip(r, self, call, 1, 0, out);
}

static int str_rstrip(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                      struct tpl_value *out)
{
    return strip(r, self, call, 0, 1, out);
}

static int str_upper(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                     struct tpl_value *out)
{
    (void)call;
    return tpl_change_case(r, self->string, TPL_UPPER, out);
}

static int str_lower(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                     struct tpl_value *out)
{
    (void)call;
    return tpl_change_case(r, self->string, TPL_LOWER, out);
}

static int str_title(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                     struct tpl_value *out)
{
    (void)call;
    return tpl_change_case(r, self->string, TPL_TITLE, out);
}

static int str_capitalize(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                          struct tpl_value *out)
{
    (void)call;
    return tpl_change_case(r, self->string, TPL_CAPITALIZE, out);
}

/* Cut the next part off the front of *s, at white space or sep; 0 when *s is used up. */
static int cut_front(struct tpl_string *s, struct tpl_string sep, struct tpl_string *part)
{
    if (!sep.data) {
        struct tpl_string rest = tpl_strip(*s, whitespace, 1, 0);
        const char *start = rest.data;
        if (rest.len == 0)
            return 0;
        size_t len = 0;
        while (rest.len) {
            struct tpl_string next = rest;
            if (tpl_is_space(tpl_next_char(&next)))
                break;
            rest = next;
        }
        len = (size_t)(rest.data - start);
        *part = (struct tpl_string){start, len};
        *s = tpl_strip(rest, whitespace, 1, 0);
        return 1;
    }
    int64_t at = tpl_find(*s, sep);
    if (at < 0)
        return 0;
    *part = (struct tpl_string){s->data, (size_t)at};
    s->data += (size_t)at + sep.len;
    s->len -= (size_t)at + sep.len;
    return 1;
}

/* The same from the end. */
static int cut_back(struct tpl_string *s, struct tpl_string sep, struct tpl_string *part)
{
    if (!sep.data) {
        struct tpl_string rest = tpl_strip(*s, whitespace, 0, 1), all = rest;
        if (rest.len == 0)
            return 0;
        while (rest.len) {
            struct tpl_string next = rest;
            if (tpl_is_space(tpl_last_char(&next)))
                break;
            rest = next;
        }
        *part = (struct tpl_string){rest.data + rest.len, all.len - rest.len};
        *s = tpl_strip(rest, whitespace, 0, 1);
        return 1;
    }
    for (size_t end = s->len; end >= sep.len; end--) {
        if (memcmp(s->data + end - sep.len, sep.data, sep.len) != 0)
            continue;
        *part = (struct tpl_string){s->data + end, s->len - end};
        s->len = end - sep.len;
        return 1;
    }
    return 0;
}

struct parts {
    struct tpl_value *items;
    size_t count, capacity;
};

static int add_part(struct tpl_render *r, struct parts *p, struct tpl_string part)
{
    if (p->count == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 8;
        struct tpl_value *grown = tpl_alloc(r, capacity, sizeof *grown);
        if (!grown)
            return -1;
        if (p->count)
            memcpy(grown, p->items, p->count * sizeof *grown);
        p->items = grown;
        p->capacity = capacity;
    }
    p->items[p->count++] = tpl_string_value(part);
    return tpl_step(r, 1);
}

static int split(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                 int back, struct tpl_value *out)
{
    struct tpl_string rest = self->string, sep = whitespace, part;
    struct parts parts = {NULL, 0, 0};
    int64_t limit;
    if (call->bound[0].type == TPL_NONE)
        call->bound[0].type = TPL_MISSING;
    if (tpl_bound_string(r, call, 0, whitespace, &sep) != 0 ||
        tpl_bound_int(r, call, 1, -1, &limit) != 0 || tpl_scan(r, rest.len) != 0)
        return -1;
    if (call->bound[0].type == TPL_STRING && sep.len == 0)
        return tpl_fail(r, STATUS_INVALID, "'%s': empty separator", call->what);
    if (!sep.data && limit != 0)
        rest = tpl_strip(rest, whitespace, !back, back);
    for (; limit != 0; limit--) {
        if (!(back ? cut_back : cut_front)(&rest, sep, &part))
            break;
        if (add_part(r, &parts, part) != 0)
            return -1;
    }
    if (!sep.data)
        rest = tpl_strip(rest, whitespace, !back, back);
    if ((sep.data || rest.len) && add_part(r, &parts, rest) != 0)
        return -1;
    for (size_t i = 0; back && i < parts.count / 2; i++) {
        struct tpl_value swap = parts.items[i];
        parts.items[i] = parts.items[parts.count - 1 - i];
        parts.items[parts.count - 1 - i] = swap;
    }
    return tpl_sequence_value(r, TPL_LIST, parts.items, parts.count, out);
}

static int str_split(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                     struct tpl_value *out)
{
    return split(r, self, call, 0, out);
}

static int str_rsplit(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                      struct tpl_value *out)
{
    return split(r, self, call, 1, out);
}

static int str_splitlines(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                          struct tpl_value *out)
{
    return tpl_split_lines(r, self->string, tpl_bound_true(call, 0, 0), out);
}

/* partition(sep): before, sep, after; all of it and two empty strings without sep. */
static int str_partition(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                         struct tpl_value *out)
{
    struct tpl_string rest = self->string, sep, part;
    struct tpl_value *items = tpl_alloc(r, 3, sizeof *items);
    if (!items || tpl_bound_string(r, call, 0, whitespace, &sep) != 0 || tpl_scan(r, rest.len) != 0)
        return -1;
    if (sep.len == 0)
        return tpl_fail(r, STATUS_INVALID, "'partition': empty separator");
    int found = cut_front(&rest, sep, &part);
    items[0] = tpl_string_value(found ? part : rest);
    items[1] = tpl_string_value(found ? sep : tpl_literal(""));
    items[2] = tpl_string_value(found ? rest : tpl_literal(""));
    return tpl_sequence_value(r, TPL_TUPLE, items, 3, out);
}

static int begins(struct tpl_string s, struct tpl_string affix)
{
    return affix.len <= s.len && (affix.len == 0 || memcmp(s.data, affix.data, affix.len) == 0);
}

static int ends(struct tpl_string s, struct tpl_string affix)
{
    return affix.len <= s.len &&
           (affix.len == 0 || memcmp(s.data + s.len - affix.len, affix.data, affix.len) == 0);
}

/* startswith and endswith: a string, or a tuple of them. */
static int has_affix(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                     int (*has)(struct tpl_string, struct tpl_string), struct tpl_value *out)
{
    const struct tpl_value *affixes = &call->bound[0];
    size_t count = 1;
    int result = 0;
    if (affixes->type == TPL_SEQUENCE && affixes->sequence->kind == TPL_TUPLE) {
        count = affixes->sequence->count;
        affixes = affixes->sequence->items;
    }
    if (tpl_step(r, count) != 0)
        return -1;
    for (size_t i = 0; i < count && !result; i++) {
        if (affixes[i].type == TPL_UNDEFINED)
            return tpl_fail_undefined(r, &affixes[i]);
        if (affixes[i].type != TPL_STRING)
            return tpl_fail(r, STATUS_INVALID, "'%s' takes a string or a tuple of strings, not %s",
                            call->what, tpl_type_name(&affixes[i]));
        result = has(self->string, affixes[i].string);
    }
    *out = tpl_bool(result);
    return 0;
}

static int str_startswith(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                          struct tpl_value *out)
{
    return has_affix(r, self, call, begins, out);
}

static int str_endswith(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                        struct tpl_value *out)
{
    return has_affix(r, self, call, ends, out);
}

static int str_removeprefix(struct tpl_render *r, const struct tpl_value *self,
                            struct tpl_call *call, struct tpl_value *out)
{
    struct tpl_string s = self->string, affix;
    if (tpl_bound_string(r, call, 0, whitespace, &affix) != 0)
        return -1;
    size_t cut = begins(s, affix) ? affix.len : 0;
    *out = tpl_text_value(s.data + cut, s.len - cut);
    return 0;
}

static int str_removesuffix(struct tpl_render *r, const struct tpl_value *self,
                            struct tpl_call *call, struct tpl_value *out)
{
    struct tpl_string s = self->string, affix;
    if (tpl_bound_string(r, call, 0, whitespace, &affix) != 0)
        return -1;
    *out = tpl_text_value(s.data, s.len - (ends(s, affix) ? affix.len : 0));
    return 0;
}

static int str_replace(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                       struct tpl_value *out)
{
    struct tpl_string from, to;
    int64_t limit;
    if (tpl_bound_string(r, call, 0, whitespace, &from) != 0 ||
        tpl_bound_string(r, call, 1, whitespace, &to) != 0 ||
        tpl_bound_int(r, call, 2, -1, &limit) != 0)
        return -1;
    return tpl_replace(r, self->string, from, to, limit, out);
}

static int str_find(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                    struct tpl_value *out)
{
    struct tpl_string needle;
    if (tpl_bound_string(r, call, 0, whitespace, &needle) != 0 ||
        tpl_scan(r, self->string.len) != 0)
        return -1;
    int64_t at = tpl_find(self->string, needle);
    if (at > 0)
        at = (int64_t)tpl_char_count((struct tpl_string){self->string.data, (size_t)at});
    *out = tpl_int(at);
    return 0;
}

static int str_count(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                     struct tpl_value *out)
{
    struct tpl_string rest = self->string, needle, part;
    int64_t count = 0;
    if (tpl_bound_string(r, call, 0, whitespace, &needle) != 0 || tpl_scan(r, rest.len) != 0)
        return -1;
    if (needle.len == 0) {
        *out = tpl_int((int64_t)tpl_char_count(rest) + 1);
        return 0;
    }
    while (cut_front(&rest, needle, &part)) {
        count++;
        if (tpl_step(r, 1) != 0)
            return -1;
    }
    *out = tpl_int(count);
    return 0;
}

static int str_join(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                    struct tpl_value *out)
{
    const struct tpl_value *items;
    size_t count;
    struct tpl_text text = {NULL, 0, 0};
    if (tpl_iterate(r, &call->bound[0], &items, &count) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        if (items[i].type != TPL_STRING)
            return tpl_fail(r, STATUS_INVALID, "'join': member %zu is '%s', not a string", i,
                            tpl_type_name(&items[i]));
        if ((i > 0 && tpl_append_string(r, &text, self->string) != 0) ||
            tpl_append_string(r, &text, items[i].string) != 0)
            return -1;
    }
    *out = tpl_text_value(text.data, text.len);
    return 0;
}

/* Whether there is a character and all of them are of a kind. */
static int all_chars(struct tpl_render *r, struct tpl_string s, int (*is)(uint32_t),
                     struct tpl_value *out)
{
    int result = s.len > 0;
    if (tpl_scan(r, s.len) != 0)
        return -1;
    while (s.len && result)
        result = is(tpl_next_char(&s));
    *out = tpl_bool(result);
    return 0;
}

static int is_decimal(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_ND;
}

static int is_letter(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

static int str_isdigit(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                       struct tpl_value *out)
{
    (void)call;
    return all_chars(r, self->string, is_decimal, out);
}

static int str_isalpha(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                       struct tpl_value *out)
{
    (void)call;
    return all_chars(r, self->string, is_letter, out);
}

static int str_isspace(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                       struct tpl_value *out)
{
    (void)call;
    return all_chars(r, self->string, tpl_is_space, out);
}

/* --- dicts ---------------------------------------------------------------------------------- */

/* A view: of the keys, the values, or (key, value) tuples. */
static int make_view(struct tpl_render *r, const struct tpl_dict *d, enum tpl_sequence_kind kind,
                     struct tpl_value *out)
{
    struct tpl_value *items = tpl_alloc(r, d->count, sizeof *items);
    if (!items || tpl_step(r, d->count) != 0)
        return -1;
    for (size_t i = 0; i < d->count; i++) {
        const struct tpl_pair *pair = &d->pairs[i];
        items[i] = kind == TPL_KEYS ? pair->key : pair->value;
        if (kind != TPL_ITEMS)
            continue;
        struct tpl_value *both = tpl_alloc(r, 2, sizeof *both);
        if (!both)
            return -1;
        both[0] = pair->key;
        both[1] = pair->value;
        if (tpl_sequence_value(r, TPL_TUPLE, both, 2, &items[i]) != 0)
            return -1;
    }
    return tpl_sequence_value(r, kind, items, d->count, out);
}

static int dict_keys(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                     struct tpl_value *out)
{
    (void)call;
    return make_view(r, self->dict, TPL_KEYS, out);
}

static int dict_values(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                       struct tpl_value *out)
{
    (void)call;
    return make_view(r, self->dict, TPL_VALUES, out);
}

static int dict_items(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                      struct tpl_value *out)
{
    (void)call;
    return make_view(r, self->dict, TPL_ITEMS, out);
}

static int dict_get(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                    struct tpl_value *out)
{
    const struct tpl_value *value;
    if (tpl_dict_get(r, self->dict, &call->bound[0], &value) != 0)
        return -1;
    *out = value ? *value : call->bound[1].type == TPL_MISSING ? tpl_none() : call->bound[1];
    return 0;
}

static int copy_self(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                     struct tpl_value *out)
{
    (void)r;
    (void)call;
    *out = *self; /* nothing can change it */
    return 0;
}

/* --- lists and loops ------------------------------------------------------------------------ */

static int list_count(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                      struct tpl_value *out)
{
    int64_t count = 0;
    for (size_t i = 0; i < self->sequence->count; i++) {
        int equal;
        if (tpl_equal(r, &self->sequence->items[i], &call->bound[0], &equal) != 0)
            return -1;
        count += equal;
    }
    *out = tpl_int(count);
    return 0;
}

static int list_index(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                      struct tpl_value *out)
{
    for (size_t i = 0; i < self->sequence->count; i++) {
        int equal;
        if (tpl_equal(r, &self->sequence->items[i], &call->bound[0], &equal) != 0)
            return -1;
        if (equal) {
            *out = tpl_int((int64_t)i);
            return 0;
        }
    }
    return tpl_fail(r, STATUS_INVALID, "'index': the value is not in the list");
}

static int loop_cycle(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                      struct tpl_value *out)
{
    if (call->count == 0 || call->named_count > 0)
        return tpl_fail(r, STATUS_INVALID, "'cycle' takes the values to go through");
    *out = call->args[self->loop->index % call->count];
    return 0;
}

/* --- tables --------------------------------------------------------------------------------- */

static const struct tpl_method_def str_methods[] = {
    {"capitalize", {NULL}, 0, TPL_POSITIONAL, str_capitalize},
    {"count", {"sub"}, 1, TPL_POSITIONAL, str_count},
    {"endswith", {"suffix"}, 1, TPL_POSITIONAL, str_endswith},
    {"find", {"sub"}, 1, TPL_POSITIONAL, str_find},
    {"isalpha", {NULL}, 0, TPL_POSITIONAL, str_isalpha},
    {"isdigit", {NULL}, 0, TPL_POSITIONAL, str_isdigit},
    {"isspace", {NULL}, 0, TPL_POSITIONAL, str_isspace},
    {"join", {"iterable"}, 1, TPL_POSITIONAL, str_join},
    {"lower", {NULL}, 0, TPL_POSITIONAL, str_lower},
    {"lstrip", {"chars"}, 0, TPL_POSITIONAL, str_lstrip},
    {"partition", {"sep"}, 1, TPL_POSITIONAL, str_partition},
    {"removeprefix", {"prefix"}, 1, TPL_POSITIONAL, str_removeprefix},
    {"removesuffix", {"suffix"}, 1, TPL_POSITIONAL, str_removesuffix},
    {"replace", {"old", "new", "count"}, 2, TPL_POSITIONAL, str_replace},
    {"rsplit", {"sep", "maxsplit"}, 0, TPL_BY_NAME, str_rsplit},
    {"rstrip", {"chars"}, 0, TPL_POSITIONAL, str_rstrip},
    {"split", {"sep", "maxsplit"}, 0, TPL_BY_NAME, str_split},
    {"splitlines", {"keepends"}, 0, TPL_BY_NAME, str_splitlines},
    {"startswith", {"prefix"}, 1, TPL_POSITIONAL, str_startswith},
    {"strip", {"chars"}, 0, TPL_POSITIONAL, str_strip},
    {"title", {NULL}, 0, TPL_POSITIONAL, str_title},
    {"upper", {NULL}, 0, TPL_POSITIONAL, str_upper},
    {.name = "casefold"},
    {.name = "center"},
    {.name = "encode"},
    {.name = "expandtabs"},
    {.name = "format"},
    {.name = "format_map"},
    {.name = "index"},
    {.name = "isalnum"},
    {.name = "isascii"},
    {.name = "isdecimal"},
    {.name = "isidentifier"},
    {.name = "islower"},
    {.name = "isnumeric"},
    {.name = "isprintable"},
    {.name = "istitle"},
    {.name = "isupper"},
    {.name = "ljust"},
    {.name = "maketrans"},
    {.name = "rfind"},
    {.name = "rindex"},
    {.name = "rjust"},
    {.name = "rpartition"},
    {.name = "swapcase"},
    {.name = "translate"},
    {.name = "zfill"},
    {.name = NULL},
};

static const struct tpl_method_def dict_methods[] = {
    {"copy", {NULL}, 0, TPL_POSITIONAL, copy_self},
    {"get", {"key", "default"}, 1, TPL_POSITIONAL, dict_get},
    {"items", {NULL}, 0, TPL_POSITIONAL, dict_items},
    {"keys", {NULL}, 0, TPL_POSITIONAL, dict_keys},
    {"values", {NULL}, 0, TPL_POSITIONAL, dict_values},
    {.name = "clear"},
    {.name = "fromkeys"},
    {.name = "pop"},
    {.name = "popitem"},
    {.name = "setdefault"},
    {.name = "update"},
    {.name = NULL},
};

static const struct tpl_method_def list_methods[] = {
    {"copy", {NULL}, 0, TPL_POSITIONAL, copy_self},
    {"count", {"value"}, 1, TPL_POSITIONAL, list_count},
    {"index", {"value"}, 1, TPL_POSITIONAL, list_index},
    {.name = "append"},
    {.name = "clear"},
    {.name = "extend"},
    {.name = "insert"},
    {.name = "pop"},
    {.name = "remove"},
    {.name = "reverse"},
    {.name = "sort"},
    {.name = NULL},
};

static const struct tpl_method_def tuple_methods[] = {
    {"count", {"value"}, 1, TPL_POSITIONAL, list_count},
    {"index", {"value"}, 1, TPL_POSITIONAL, list_index},
    {.name = NULL},
};

static const struct tpl_method_def loop_methods[] = {
    {"cycle", {NULL}, 0, TPL_RAW, loop_cycle},
    {.name = "changed"},
    {.name = NULL},
};

const struct tpl_method_def *tpl_method_find(const struct tpl_value *self, struct tpl_string name)
{
    const struct tpl_method_def *def = NULL;
    if (self->type == TPL_STRING)
        def = str_methods;
    else if (self->type == TPL_DICT)
        def = dict_methods;
    else if (self->type == TPL_LOOP)
        def = loop_methods;
    else if (self->type == TPL_SEQUENCE && self->sequence->kind == TPL_LIST)
        def = list_methods;
    else if (self->type == TPL_SEQUENCE && self->sequence->kind <= TPL_RANGE)
        def = tuple_methods;
    for (; def && def->name; def++)
        if (tpl_string_is(name, def->name))
            return def;
    return NULL;
}
