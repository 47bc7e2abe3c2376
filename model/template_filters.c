/*
 * template_filters.c - filters of one value: text, numbers, JSON
 *
 * Those of sequences are in template_sequences.c.
 */
#include "model/template_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGS                                                                                       \
    struct tpl_render *r, const struct tpl_value *in, struct tpl_call *call, struct tpl_value *out

/* --- text ----------------------------------------------------------------------------------- */

static int change_case(struct tpl_render *r, const struct tpl_value *in, enum tpl_case how,
                       struct tpl_value *out)
{
    struct tpl_string s;
    return tpl_to_string(r, in, &s) == 0 ? tpl_change_case(r, s, how, out) : -1;
}

static int filter_upper(ARGS)
{
    (void)call;
    return change_case(r, in, TPL_UPPER, out);
}

static int filter_lower(ARGS)
{
    (void)call;
    return change_case(r, in, TPL_LOWER, out);
}

static int filter_title(ARGS)
{
    (void)call;
    return change_case(r, in, TPL_TITLE_FILTER, out);
}

static int filter_capitalize(ARGS)
{
    (void)call;
    return change_case(r, in, TPL_CAPITALIZE, out);
}

static int filter_trim(ARGS)
{
    struct tpl_string s, chars;
    if (call->bound[0].type == TPL_NONE)
        call->bound[0].type = TPL_MISSING;
    if (tpl_to_string(r, in, &s) != 0 ||
        tpl_bound_string(r, call, 0, (struct tpl_string){NULL, 0}, &chars) != 0 ||
        tpl_scan(r, s.len * (chars.len / 8 + 1)) != 0)
        return -1;
    int nothing = call->bound[0].type == TPL_STRING && chars.len == 0;
    *out = tpl_string_value(nothing ? s : tpl_strip(s, chars, 1, 1));
    return 0;
}

static int filter_string(ARGS)
{
    struct tpl_string s;
    (void)call;
    if (tpl_to_string(r, in, &s) != 0)
        return -1;
    *out = in->type == TPL_STRING ? *in : tpl_string_value(s);
    return 0;
}

static int filter_safe(ARGS)
{
    if (filter_string(r, in, call, out) != 0)
        return -1;
    out->markup = 1;
    return 0;
}

static int filter_escape(ARGS)
{
    (void)call;
    return tpl_escape(r, in, out);
}

static int filter_replace(ARGS)
{
    struct tpl_string s, from, to;
    int64_t limit;
    if (call->bound[2].type == TPL_NONE)
        call->bound[2].type = TPL_MISSING;
    if (tpl_to_string(r, in, &s) != 0 || tpl_to_string(r, &call->bound[0], &from) != 0 ||
        tpl_to_string(r, &call->bound[1], &to) != 0 || tpl_bound_int(r, call, 2, -1, &limit) != 0)
        return -1;
    return tpl_replace(r, s, from, to, limit, out);
}

/* The indentation that a width names: itself if it is a string, else so many blanks. */
static int make_indent(struct tpl_render *r, const struct tpl_value *width, struct tpl_string *out)
{
    struct tpl_value blank = tpl_text_value(" ", 1), made;
    if (width->type == TPL_STRING) {
        *out = width->string;
        return 0;
    }
    if (!tpl_is_integral(width))
        return tpl_fail(r, STATUS_INVALID, "an indentation is a number or a string, not '%s'",
                        tpl_type_name(width));
    if (tpl_arithmetic(r, TPL_MULTIPLY, &blank, width, &made) != 0)
        return -1;
    *out = made.string;
    return 0;
}

static int filter_indent(ARGS)
{
    struct tpl_value width = call->bound[0].type == TPL_MISSING ? tpl_int(4) : call->bound[0];
    struct tpl_string s, indent;
    struct tpl_value lines;
    struct tpl_text text = {NULL, 0, 0};
    int first = tpl_bound_true(call, 1, 0), blank = tpl_bound_true(call, 2, 0);
    if (in->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, in);
    if (in->type != TPL_STRING)
        return tpl_fail(r, STATUS_INVALID, "'indent' needs a string, not '%s'", tpl_type_name(in));
    s = in->string;
    if (make_indent(r, &width, &indent) != 0)
        return -1;
    /* Jinja adds a newline before it splits, so that a last empty line stays one */
    if (tpl_append_string(r, &text, s) != 0 || tpl_append(r, &text, "\n", 1) != 0 ||
        tpl_split_lines(r, (struct tpl_string){text.data, text.len}, 0, &lines) != 0)
        return -1;
    text = (struct tpl_text){NULL, 0, 0};
    for (size_t i = 0; i < lines.sequence->count; i++) {
        struct tpl_string line = lines.sequence->items[i].string;
        int indented = i == 0 ? first : blank || line.len > 0;
        if ((i > 0 && tpl_append(r, &text, "\n", 1) != 0) ||
            (indented && tpl_append_string(r, &text, indent) != 0) ||
            tpl_append_string(r, &text, line) != 0)
            return -1;
    }
    *out = tpl_text_value(text.data, text.len);
    return 0;
}

static int filter_default(ARGS)
{
    int use = in->type == TPL_UNDEFINED || (tpl_bound_true(call, 1, 0) && !tpl_truth(in));
    (void)r;
    if (!use)
        *out = *in;
    else
        *out = call->bound[0].type == TPL_MISSING ? tpl_text_value("", 0) : call->bound[0];
    return 0;
}

/* --- numbers -------------------------------------------------------------------------------- */

/* Text as strtoll and strtod want it: stripped, without digit-separating underscores. */
static int number_text(struct tpl_string s, char *text, size_t size)
{
    size_t n = 0;
    s = tpl_strip(s, (struct tpl_string){NULL, 0}, 1, 1);
    for (size_t i = 0; i < s.len; i++) {
        int between = i > 0 && i + 1 < s.len && s.data[i - 1] != '_' && s.data[i + 1] != '_';
        if (s.data[i] == '\0' || (s.data[i] == '_' && !between) || n + 1 == size)
            return -1;
        if (s.data[i] != '_')
            text[n++] = s.data[i];
    }
    text[n] = '\0';
    return n > 0 ? 0 : -1;
}

/* float(s): -1 if it is not one.  Hexadecimal, which strtod takes, is none of Python's. */
static int parse_float(struct tpl_string s, double *v)
{
    char text[400], *end;
    if (number_text(s, text, sizeof text) != 0 || strpbrk(text, "xXpP") || strchr(text, '('))
        return -1;
    *v = strtod(text, &end);
    return *end == '\0' && end > text ? 0 : -1;
}

static int parse_int(struct tpl_string s, int base, int64_t *v)
{
    char text[100], *end;
    if (number_text(s, text, sizeof text) != 0)
        return -1;
    const char *digits = text + (*text == '-' || *text == '+');
    char prefix = base == 2 ? 'b' : base == 8 ? 'o' : base == 16 ? 'x' : '\0';
    if (digits[0] == '0' && prefix && (digits[1] | 32) == prefix)
        digits += 2;
    if (*digits == '-' || *digits == '+' || *digits == ' ')
        return -1;
    errno = 0;
    unsigned long long magnitude = strtoull(digits, &end, base);
    if (*end != '\0' || end == digits || errno != 0 || magnitude > INT64_MAX)
        return -1;
    *v = *text == '-' ? -(int64_t)magnitude : (int64_t)magnitude;
    return 0;
}

static int filter_int(ARGS)
{
    int64_t base, v;
    double d;
    *out = call->bound[0].type == TPL_MISSING ? tpl_int(0) : call->bound[0];
    if (tpl_bound_int(r, call, 1, 10, &base) != 0)
        return -1;
    if (base < 2 || base > 36)
        return tpl_fail(r, STATUS_INVALID, "base of 'int' must be 2 to 36");
    if (in->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, in);
    if (tpl_is_integral(in)) {
        *out = tpl_int(tpl_as_int(in));
        return 0;
    }
    if (in->type == TPL_STRING && parse_int(in->string, (int)base, &v) == 0) {
        *out = tpl_int(v);
        return 0;
    }
    if (in->type == TPL_FLOAT)
        d = in->real;
    else if (in->type != TPL_STRING || parse_float(in->string, &d) != 0)
        return 0;
    if (isfinite(d) && !(d >= -0x1p63 && d < 0x1p63))
        return tpl_fail(r, STATUS_UNSUPPORTED, "integer beyond 64 bits");
    if (isfinite(d))
        *out = tpl_int((int64_t)d);
    return 0;
}

static int filter_float(ARGS)
{
    double v;
    if (in->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, in);
    if (tpl_is_number(in))
        *out = tpl_float(tpl_as_float(in));
    else if (in->type == TPL_STRING && parse_float(in->string, &v) == 0)
        *out = tpl_float(v);
    else
        *out = call->bound[0].type == TPL_MISSING ? tpl_float(0) : call->bound[0];
    return 0;
}

static int filter_abs(ARGS)
{
    (void)call;
    if (in->type == TPL_FLOAT) {
        *out = tpl_float(fabs(in->real));
        return 0;
    }
    if (tpl_is_integral(in) && tpl_as_int(in) >= 0) {
        *out = tpl_int(tpl_as_int(in));
        return 0;
    }
    return tpl_negate(r, in, out);
}

/* round(): to even at ties, by the exact binary value, which is what printf does. */
static int filter_round(ARGS)
{
    struct tpl_string method;
    int64_t precision;
    char text[400];
    if (tpl_bound_int(r, call, 0, 0, &precision) != 0 ||
        tpl_bound_string(r, call, 1, tpl_literal("common"), &method) != 0)
        return -1;
    if (in->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, in);
    if (!tpl_is_number(in))
        return tpl_fail(r, STATUS_INVALID, "'%s' cannot be rounded", tpl_type_name(in));
    if (precision < 0 || precision > 22)
        return tpl_fail(r, STATUS_UNSUPPORTED, "'round' to a precision other than 0 to 22");
    double v = tpl_as_float(in), scale = pow(10, (double)precision);
    if (tpl_string_is(method, "ceil")) {
        v = ceil(v * scale) / scale;
    } else if (tpl_string_is(method, "floor")) {
        v = floor(v * scale) / scale;
    } else if (!tpl_string_is(method, "common")) {
        return tpl_fail(r, STATUS_INVALID, "the method of 'round' is common, ceil or floor");
    } else if (tpl_is_integral(in)) {
        *out = tpl_int(tpl_as_int(in));
        return 0;
    } else {
        snprintf(text, sizeof text, "%.*f", (int)precision, v);
        v = strtod(text, NULL);
    }
    *out = tpl_float(v);
    return 0;
}

/* --- JSON ----------------------------------------------------------------------------------- */

/* separators=(item, key) */
static int json_separators(struct tpl_render *r, const struct tpl_value *v,
                           struct tpl_json_style *style)
{
    const struct tpl_value *items;
    size_t count;
    if (v->type == TPL_MISSING || v->type == TPL_NONE)
        return 0;
    if (tpl_iterate(r, v, &items, &count) != 0)
        return -1;
    if (count != 2 || items[0].type != TPL_STRING || items[1].type != TPL_STRING)
        return tpl_fail(r, STATUS_INVALID, "separators of 'tojson' are two strings");
    style->item_separator = items[0].string;
    style->key_separator = items[1].string;
    return 0;
}

static int filter_tojson(ARGS)
{
    struct tpl_json_style style = {
        .ensure_ascii = tpl_bound_true(call, 0, 0),
        .sort_keys = tpl_bound_true(call, 3, 0),
        .pretty = call->bound[1].type != TPL_MISSING && call->bound[1].type != TPL_NONE,
        .key_separator = {": ", 2},
    };
    struct tpl_text text = {NULL, 0, 0};
    style.item_separator = style.pretty ? tpl_literal(",") : tpl_literal(", ");
    if (style.pretty && make_indent(r, &call->bound[1], &style.indent) != 0)
        return -1;
    if (json_separators(r, &call->bound[2], &style) != 0 ||
        tpl_append_json(r, &text, &style, in, 0) != 0)
        return -1;
    *out = tpl_text_value(text.data, text.len);
    return 0;
}

static const struct tpl_filter filters[] = {
    {"abs", {NULL}, 0, 0, filter_abs},
    {"capitalize", {NULL}, 0, 0, filter_capitalize},
    {"d", {"default_value", "boolean"}, 0, 0, filter_default},
    {"default", {"default_value", "boolean"}, 0, 0, filter_default},
    {"e", {NULL}, 0, 0, filter_escape},
    {"escape", {NULL}, 0, 0, filter_escape},
    {"float", {"default"}, 0, 0, filter_float},
    {"indent", {"width", "first", "blank"}, 0, 0, filter_indent},
    {"int", {"default", "base"}, 0, 0, filter_int},
    {"lower", {NULL}, 0, 0, filter_lower},
    {"replace", {"old", "new", "count"}, 2, 0, filter_replace},
    {"round", {"precision", "method"}, 0, 0, filter_round},
    {"safe", {NULL}, 0, 0, filter_safe},
    {"string", {NULL}, 0, 0, filter_string},
    {"title", {NULL}, 0, 0, filter_title},
    {"tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0, 0, filter_tojson},
    {"trim", {"chars"}, 0, 0, filter_trim},
    {"upper", {NULL}, 0, 0, filter_upper},
};

const struct tpl_filter *tpl_filter_find(struct tpl_string name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (tpl_string_is(name, filters[i].name))
            return &filters[i];
    for (const struct tpl_filter *f = tpl_sequence_filters; f->name; f++)
        if (tpl_string_is(name, f->name))
            return f;
    return NULL;
}

int tpl_filter_apply(struct tpl_render *r, const struct tpl_filter *filter,
                     const struct tpl_value *in, struct tpl_call *call, struct tpl_value *out)
{
    call->what = filter->name;
    if (!filter->raw && tpl_bind(r, call, filter->parameters, filter->required) != 0)
        return -1;
    return filter->apply(r, in, call, out);
}
