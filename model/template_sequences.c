/*
 * template_sequences.c - filters of sequences
 *
 * What is a generator in Jinja is an iterator here: it can be walked once and is always true, but
 * it is made at once, so that an error in it shows where it is made.
 */
#include "model/template_internal.h"

#include <math.h>
#include <string.h>

#define ARGS                                                                                       \
    struct tpl_render *r, const struct tpl_value *in, struct tpl_call *call, struct tpl_value *out

/* --- members -------------------------------------------------------------------------------- */

/* item.a.b or item[0]: an attribute as filters take it, a dotted string or a number. */
static int get_path(struct tpl_render *r, const struct tpl_value *item,
                    const struct tpl_value *path, struct tpl_value *out)
{
    *out = *item;
    if (tpl_is_integral(path))
        return tpl_subscript(r, item, path, out);
    if (path->type != TPL_STRING)
        return tpl_fail(r, STATUS_INVALID, "an attribute is a string or a number, not '%s'",
                        tpl_type_name(path));
    struct tpl_string rest = path->string;
    if (tpl_find(rest, tpl_literal(",")) >= 0)
        return tpl_fail(r, STATUS_UNSUPPORTED, "several attributes at once are not supported");
    for (;;) {
        int64_t dot = tpl_find(rest, tpl_literal("."));
        struct tpl_string part = {rest.data, dot < 0 ? rest.len : (size_t)dot};
        struct tpl_value key = tpl_string_value(part), from = *out;
        size_t digits = 0;
        int64_t number = 0;
        while (digits < part.len && part.data[digits] >= '0' && part.data[digits] <= '9')
            number = digits < 18 ? number * 10 + (part.data[digits++] - '0') : (digits++, number);
        if (part.len && digits == part.len)
            key = tpl_int(number);
        if (tpl_subscript(r, &from, &key, out) != 0)
            return -1;
        if (dot < 0)
            return 0;
        rest = (struct tpl_string){rest.data + dot + 1, rest.len - (size_t)dot - 1};
    }
}

/* What a member is compared by: its attribute, in lower case unless case counts. */
static int get_key(struct tpl_render *r, const struct tpl_value *item,
                   const struct tpl_value *attribute, int case_sensitive, struct tpl_value *out)
{
    *out = *item;
    if (attribute->type != TPL_MISSING && attribute->type != TPL_NONE &&
        get_path(r, item, attribute, out) != 0)
        return -1;
    if (case_sensitive || out->type != TPL_STRING)
        return 0;
    struct tpl_string s = out->string;
    return tpl_change_case(r, s, TPL_LOWER, out);
}

static int filter_length(ARGS)
{
    size_t length;
    (void)call;
    if (tpl_length(r, in, &length) != 0)
        return -1;
    *out = tpl_int((int64_t)length);
    return 0;
}

static int filter_first(ARGS)
{
    const struct tpl_value *items;
    size_t count;
    (void)call;
    if (tpl_iterate(r, in, &items, &count) != 0)
        return -1;
    *out = count ? items[0] : tpl_undefined(TPL_NO_ELEMENT, tpl_literal("empty"));
    return 0;
}

static int filter_last(ARGS)
{
    const struct tpl_value *items;
    size_t count;
    (void)call;
    if (in->type == TPL_SEQUENCE && in->sequence->kind == TPL_ITERATOR)
        return tpl_fail(r, STATUS_INVALID, "a generator has no last member: use 'list' before");
    if (tpl_iterate(r, in, &items, &count) != 0)
        return -1;
    *out = count ? items[count - 1] : tpl_undefined(TPL_NO_ELEMENT, tpl_literal("empty"));
    return 0;
}

static int filter_list(ARGS)
{
    const struct tpl_value *items;
    size_t count;
    (void)call;
    if (tpl_iterate(r, in, &items, &count) != 0)
        return -1;
    return tpl_sequence_value(r, TPL_LIST, items, count, out);
}

static int filter_join(ARGS)
{
    const struct tpl_value *items;
    size_t count;
    struct tpl_text text = {NULL, 0, 0};
    if (tpl_iterate(r, in, &items, &count) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        struct tpl_value item;
        if (i > 0 && call->bound[0].type != TPL_MISSING &&
            tpl_append_value(r, &text, &call->bound[0]) != 0)
            return -1;
        if (get_key(r, &items[i], &call->bound[1], 1, &item) != 0 ||
            tpl_append_value(r, &text, &item) != 0)
            return -1;
    }
    *out = tpl_text_value(text.data, text.len);
    return 0;
}

static int reverse_string(struct tpl_render *r, struct tpl_string s, struct tpl_value *out)
{
    char *data = tpl_alloc(r, s.len, 1);
    size_t at = 0, len = s.len;
    if (!data || tpl_scan(r, s.len) != 0)
        return -1;
    while (s.len) {
        size_t before = s.len;
        tpl_last_char(&s);
        memcpy(data + at, s.data + s.len, before - s.len);
        at += before - s.len;
    }
    *out = tpl_text_value(data, len);
    return 0;
}

static int filter_reverse(ARGS)
{
    const struct tpl_value *items;
    size_t count;
    (void)call;
    if (in->type == TPL_STRING)
        return reverse_string(r, in->string, out);
    if (tpl_iterate(r, in, &items, &count) != 0)
        return -1;
    struct tpl_value *reversed = tpl_alloc(r, count, sizeof *reversed);
    if (!reversed)
        return -1;
    for (size_t i = 0; i < count; i++)
        reversed[i] = items[count - 1 - i];
    return tpl_sequence_value(r, TPL_ITERATOR, reversed, count, out);
}

static int filter_items(ARGS)
{
    struct tpl_value method, view;
    if (in->type == TPL_UNDEFINED)
        return tpl_sequence_value(r, TPL_ITERATOR, NULL, 0, out);
    if (in->type != TPL_DICT)
        return tpl_fail(r, STATUS_INVALID, "'items' needs a dict, not '%s'", tpl_type_name(in));
    if (tpl_attribute(r, in, tpl_literal("items"), &method) != 0 ||
        tpl_call_value(r, &method, call, &view) != 0)
        return -1;
    return tpl_sequence_value(r, TPL_ITERATOR, view.sequence->items, view.sequence->count, out);
}

/* --- order ---------------------------------------------------------------------------------- */

struct keyed {
    struct tpl_value key, item;
};

static int keyed_items(struct tpl_render *r, const struct tpl_value *in,
                       const struct tpl_value *attribute, int case_sensitive, struct keyed **out,
                       size_t *count)
{
    const struct tpl_value *items;
    if (tpl_iterate(r, in, &items, count) != 0)
        return -1;
    *out = tpl_alloc(r, *count, sizeof **out);
    if (!*out)
        return -1;
    for (size_t i = 0; i < *count; i++) {
        (*out)[i].item = items[i];
        if (get_key(r, &items[i], attribute, case_sensitive, &(*out)[i].key) != 0)
            return -1;
    }
    return 0;
}

/* a before b; equal ones are not, whatever they are. */
static int before(struct tpl_render *r, const struct keyed *a, const struct keyed *b, int *result)
{
    if (tpl_equal(r, &a->key, &b->key, result) != 0)
        return -1;
    if (*result) {
        *result = 0;
        return 0;
    }
    return tpl_less(r, &a->key, &b->key, result);
}

/* Stable bottom-up merge sort; in reverse equal members keep their order, too, as in Python. */
static int sort_keyed(struct tpl_render *r, struct keyed **items, size_t count, int reverse)
{
    struct keyed *from = *items, *to = tpl_alloc(r, count, sizeof *to);
    if (!to)
        return -1;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t start = 0; start < count; start += 2 * width) {
            size_t middle = start + width < count ? start + width : count;
            size_t end = start + 2 * width < count ? start + 2 * width : count;
            size_t a = start, b = middle;
            for (size_t i = start; i < end; i++) {
                int second = a == middle;
                if (a < middle && b < end &&
                    (reverse ? before(r, &from[a], &from[b], &second)
                             : before(r, &from[b], &from[a], &second)) != 0)
                    return -1;
                to[i] = second ? from[b++] : from[a++];
            }
        }
        struct keyed *swap = from;
        from = to;
        to = swap;
    }
    *items = from;
    return 0;
}

static int list_of(struct tpl_render *r, const struct keyed *keyed, size_t count,
                   enum tpl_sequence_kind kind, struct tpl_value *out)
{
    struct tpl_value *items = tpl_alloc(r, count, sizeof *items);
    if (!items)
        return -1;
    for (size_t i = 0; i < count; i++)
        items[i] = keyed[i].item;
    return tpl_sequence_value(r, kind, items, count, out);
}

static int filter_sort(ARGS)
{
    struct keyed *keyed;
    size_t count;
    if (keyed_items(r, in, &call->bound[2], tpl_bound_true(call, 1, 0), &keyed, &count) != 0 ||
        sort_keyed(r, &keyed, count, tpl_bound_true(call, 0, 0)) != 0)
        return -1;
    return list_of(r, keyed, count, TPL_LIST, out);
}

static int filter_dictsort(ARGS)
{
    struct tpl_value items, by;
    struct tpl_string name;
    struct keyed *keyed;
    struct tpl_call none = {.what = "items"};
    size_t count;
    if (tpl_bound_string(r, call, 1, tpl_literal("key"), &name) != 0)
        return -1;
    if (!tpl_string_is(name, "key") && !tpl_string_is(name, "value"))
        return tpl_fail(r, STATUS_INVALID, "'dictsort' sorts by 'key' or 'value'");
    if (in->type != TPL_DICT)
        return in->type == TPL_UNDEFINED
                   ? tpl_fail_undefined(r, in)
                   : tpl_fail(r, STATUS_INVALID, "'dictsort' needs a dict, not '%s'",
                              tpl_type_name(in));
    by = tpl_int(tpl_string_is(name, "value"));
    if (filter_items(r, in, &none, &items) != 0 ||
        keyed_items(r, &items, &by, tpl_bound_true(call, 0, 0), &keyed, &count) != 0 ||
        sort_keyed(r, &keyed, count, tpl_bound_true(call, 2, 0)) != 0)
        return -1;
    return list_of(r, keyed, count, TPL_LIST, out);
}

static int filter_unique(ARGS)
{
    struct keyed *keyed;
    size_t count, kept = 0;
    if (keyed_items(r, in, &call->bound[1], tpl_bound_true(call, 0, 0), &keyed, &count) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        int seen = 0;
        for (size_t k = 0; k < kept && !seen; k++)
            if (tpl_equal(r, &keyed[k].key, &keyed[i].key, &seen) != 0)
                return -1;
        if (!seen)
            keyed[kept++] = keyed[i];
    }
    return list_of(r, keyed, kept, TPL_ITERATOR, out);
}

/* The first of the least, or of the greatest. */
static int extreme(struct tpl_render *r, const struct tpl_value *in, struct tpl_call *call,
                   int greatest, struct tpl_value *out)
{
    struct keyed *keyed;
    size_t count, best = 0;
    if (keyed_items(r, in, &call->bound[1], tpl_bound_true(call, 0, 0), &keyed, &count) != 0)
        return -1;
    for (size_t i = 1; i < count; i++) {
        int better;
        if ((greatest ? tpl_less(r, &keyed[best].key, &keyed[i].key, &better)
                      : tpl_less(r, &keyed[i].key, &keyed[best].key, &better)) != 0)
            return -1;
        if (better)
            best = i;
    }
    *out = count ? keyed[best].item : tpl_undefined(TPL_NO_ELEMENT, tpl_literal("empty"));
    return 0;
}

static int filter_min(ARGS)
{
    return extreme(r, in, call, 0, out);
}

static int filter_max(ARGS)
{
    return extreme(r, in, call, 1, out);
}

static int filter_sum(ARGS)
{
    const struct tpl_value *items;
    size_t count;
    struct tpl_value total = call->bound[1].type == TPL_MISSING ? tpl_int(0) : call->bound[1];
    if (tpl_iterate(r, in, &items, &count) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        struct tpl_value item, before_it = total;
        if (get_key(r, &items[i], &call->bound[0], 1, &item) != 0 ||
            tpl_arithmetic(r, TPL_ADD, &before_it, &item, &total) != 0)
            return -1;
    }
    *out = total;
    return 0;
}

/* --- map, select, reject -------------------------------------------------------------------- */

/* The call without its first `skip` positional arguments. */
static struct tpl_call rest_of(const struct tpl_call *call, size_t skip)
{
    struct tpl_call rest = *call;
    if (skip > 0)
        rest.args += skip;
    rest.count -= skip;
    return rest;
}

static int map_attribute(struct tpl_render *r, const struct tpl_value *items, size_t count,
                         struct tpl_call *call, struct tpl_value *mapped)
{
    static const char *const parameters[TPL_PARAMETERS_MAX] = {"attribute", "default"};
    if (tpl_bind(r, call, parameters, 1) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        if (get_path(r, &items[i], &call->bound[0], &mapped[i]) != 0)
            return -1;
        if (mapped[i].type == TPL_UNDEFINED && call->bound[1].type > TPL_NONE)
            mapped[i] = call->bound[1];
    }
    return 0;
}

static int map_filter(struct tpl_render *r, const struct tpl_value *items, size_t count,
                      const struct tpl_call *call, struct tpl_value *mapped)
{
    if (call->count == 0 || call->args[0].type != TPL_STRING)
        return tpl_fail(r, STATUS_INVALID, "'map' needs an attribute or a filter's name");
    struct tpl_string name = call->args[0].string;
    const struct tpl_filter *filter = tpl_filter_find(name);
    if (!filter)
        return tpl_fail(r, STATUS_UNSUPPORTED, "no filter named '%.*s'", (int)name.len, name.data);
    for (size_t i = 0; i < count; i++) {
        struct tpl_call rest = rest_of(call, 1);
        if (tpl_filter_apply(r, filter, &items[i], &rest, &mapped[i]) != 0)
            return -1;
    }
    return 0;
}

static int filter_map(ARGS)
{
    const struct tpl_value *items = NULL;
    size_t count = 0;
    if (tpl_truth(in) && tpl_iterate(r, in, &items, &count) != 0)
        return -1;
    struct tpl_value *mapped = tpl_alloc(r, count, sizeof *mapped);
    int by_attribute = call->count == 0 && call->named_count > 0 &&
                       (tpl_string_is(call->names[0], "attribute") ||
                        (call->named_count > 1 && tpl_string_is(call->names[1], "attribute")));
    if (!mapped || (by_attribute ? map_attribute(r, items, count, call, mapped)
                                 : map_filter(r, items, count, call, mapped)) != 0)
        return -1;
    return tpl_sequence_value(r, TPL_ITERATOR, mapped, count, out);
}

/* Keep the members for which (test of the attribute, if any) == wanted. */
static int choose(struct tpl_render *r, const struct tpl_value *in, const struct tpl_call *call,
                  int attribute, int wanted, struct tpl_value *out)
{
    const struct tpl_value *items = NULL;
    const struct tpl_test *test = NULL;
    size_t count = 0, kept = 0, used = attribute ? 1 : 0;
    if (call->count < used)
        return tpl_fail(r, STATUS_INVALID, "'%s' needs an attribute", call->what);
    if (call->count > used) {
        const struct tpl_value *name = &call->args[used];
        if (name->type == TPL_STRING)
            test = tpl_test_find(name->string);
        if (!test)
            return tpl_fail(r, STATUS_UNSUPPORTED, "'%s': no such test", call->what);
        used++;
    }
    if (tpl_truth(in) && tpl_iterate(r, in, &items, &count) != 0)
        return -1;
    struct tpl_call rest = rest_of(call, used);
    struct tpl_value *chosen = tpl_alloc(r, count, sizeof *chosen), value;
    if (!chosen)
        return -1;
    for (size_t i = 0; i < count; i++) {
        int result;
        value = items[i];
        if (attribute && get_path(r, &items[i], &call->args[0], &value) != 0)
            return -1;
        if (!test)
            result = tpl_truth(&value);
        else if (tpl_test_apply(r, test, &value, &rest, &result) != 0)
            return -1;
        if ((result != 0) == wanted)
            chosen[kept++] = items[i];
    }
    return tpl_sequence_value(r, TPL_ITERATOR, chosen, kept, out);
}

static int filter_select(ARGS)
{
    return choose(r, in, call, 0, 1, out);
}

static int filter_reject(ARGS)
{
    return choose(r, in, call, 0, 0, out);
}

static int filter_selectattr(ARGS)
{
    return choose(r, in, call, 1, 1, out);
}

static int filter_rejectattr(ARGS)
{
    return choose(r, in, call, 1, 0, out);
}

const struct tpl_filter tpl_sequence_filters[] = {
    {"count", {NULL}, 0, 0, filter_length},
    {"dictsort", {"case_sensitive", "by", "reverse"}, 0, 0, filter_dictsort},
    {"first", {NULL}, 0, 0, filter_first},
    {"items", {NULL}, 0, 0, filter_items},
    {"join", {"d", "attribute"}, 0, 0, filter_join},
    {"last", {NULL}, 0, 0, filter_last},
    {"length", {NULL}, 0, 0, filter_length},
    {"list", {NULL}, 0, 0, filter_list},
    {"map", {NULL}, 0, 1, filter_map},
    {"max", {"case_sensitive", "attribute"}, 0, 0, filter_max},
    {"min", {"case_sensitive", "attribute"}, 0, 0, filter_min},
    {"reject", {NULL}, 0, 1, filter_reject},
    {"rejectattr", {NULL}, 0, 1, filter_rejectattr},
    {"reverse", {NULL}, 0, 0, filter_reverse},
    {"select", {NULL}, 0, 1, filter_select},
    {"selectattr", {NULL}, 0, 1, filter_selectattr},
    {"sort", {"reverse", "case_sensitive", "attribute"}, 0, 0, filter_sort},
    {"sum", {"attribute", "start"}, 0, 0, filter_sum},
    {"unique", {"case_sensitive", "attribute"}, 0, 0, filter_unique},
    {.name = NULL},
};
