/*
 * template_text.c - text: growing strings, str() and repr() as Python prints, JSON as json.dumps
 */
#include "model/template_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

int tpl_append(struct tpl_render *r, struct tpl_text *t, const char *data, size_t len)
{
    if (len > TPL_OUTPUT_MAX - t->len)
        return tpl_fail(r, STATUS_EXHAUSTED, "text of more than %u bytes", TPL_OUTPUT_MAX);
    if (len > t->capacity - t->len) {
        size_t capacity = t->capacity ? t->capacity : 32;
        while (capacity - t->len < len)
            capacity *= 2;
        char *grown = tpl_alloc(r, capacity, 1);
        if (!grown)
            return -1;
        if (t->len)
            memcpy(grown, t->data, t->len);
        t->data = grown;
        t->capacity = capacity;
    }
    if (len)
        memcpy(t->data + t->len, data, len);
    t->len += len;
    return tpl_scan(r, len);
}

int tpl_append_string(struct tpl_render *r, struct tpl_text *t, struct tpl_string s)
{
    return tpl_append(r, t, s.data, s.len);
}

static int append_literal(struct tpl_render *r, struct tpl_text *t, const char *text)
{
    return tpl_append(r, t, text, strlen(text));
}

/* --- numbers -------------------------------------------------------------------------------- */

static int append_int(struct tpl_render *r, struct tpl_text *t, int64_t v)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)v);
    return append_literal(r, t, text);
}

/* The shortest digits that read back as v, in Python's layout: 1e-05, 0.0001, 1e+16, 123.0. */
static int append_float(struct tpl_render *r, struct tpl_text *t, double v)
{
    char text[40], digits[24];
    if (isnan(v))
        return append_literal(r, t, "nan");
    if (isinf(v))
        return append_literal(r, t, v < 0 ? "-inf" : "inf");
    int precision = 0;
    do
        snprintf(text, sizeof text, "%.*e", precision, v);
    while (strtod(text, NULL) != v && ++precision < 17);
    const char *e = strchr(text, 'e');
    int exponent = atoi(e + 1), n = 0;
    for (const char *c = text; c < e; c++)
        if (*c >= '0' && *c <= '9')
            digits[n++] = *c;
    if (exponent < -4 || exponent >= 16) {
        snprintf(text, sizeof text, "%s%c%s%.*se%c%02d", signbit(v) ? "-" : "", digits[0],
                 n > 1 ? "." : "", n - 1, digits + 1, exponent < 0 ? '-' : '+', abs(exponent));
        return append_literal(r, t, text);
    }
    int decimals = n - 1 - exponent;
    snprintf(text, sizeof text, "%.*f", decimals < 1 ? 1 : decimals, v);
    return append_literal(r, t, text);
}

/* --- repr() --------------------------------------------------------------------------------- */

static int is_printable(uint32_t c)
{
    if (c == ' ')
        return 1;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return 0;
    default:
        return 1;
    }
}

static int append_quoted_char(struct tpl_render *r, struct tpl_text *t, uint32_t c, char quote)
{
    char text[16];
    if (c == (unsigned char)quote || c == '\\')
        snprintf(text, sizeof text, "\\%c", (char)c);
    else if (c == '\n' || c == '\r' || c == '\t')
        snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (is_printable(c))
        return tpl_append(r, t, text, tpl_encode_char(c, text));
    else
        snprintf(text, sizeof text,
                 c < 0x100     ? "\\x%02x"
                 : c < 0x10000 ? "\\u%04x"
                               : "\\U%08x",
                 (unsigned)c);
    return append_literal(r, t, text);
}

static int append_quoted(struct tpl_render *r, struct tpl_text *t, struct tpl_string s)
{
    int single = s.len && memchr(s.data, '\'', s.len), twice = s.len && memchr(s.data, '"', s.len);
    char quote = single && !twice ? '"' : '\'';
    if (tpl_append(r, t, &quote, 1) != 0)
        return -1;
    while (s.len)
        if (append_quoted_char(r, t, tpl_next_char(&s), quote) != 0)
            return -1;
    return tpl_append(r, t, &quote, 1);
}

static int append_range(struct tpl_render *r, struct tpl_text *t, const struct tpl_sequence *s)
{
    char text[96];
    int n =
        snprintf(text, sizeof text, "range(%lld, %lld", (long long)s->start, (long long)s->stop);
    if (s->step != 1)
        n += snprintf(text + n, sizeof text - (size_t)n, ", %lld", (long long)s->step);
    snprintf(text + n, sizeof text - (size_t)n, ")");
    return append_literal(r, t, text);
}

static int append_members(struct tpl_render *r, struct tpl_text *t, const struct tpl_sequence *s,
                          int depth)
{
    static const char *const opening[] = {"[",           "(", "", "dict_keys([", "dict_values([",
                                          "dict_items(["};
    static const char *const closing[] = {"]", ")", "", "])", "])", "])"};
    if (s->kind == TPL_RANGE)
        return append_range(r, t, s);
    if (s->kind == TPL_ITERATOR)
        return tpl_fail(r, STATUS_UNSUPPORTED,
                        "a generator is printed: use the filter 'list' "
                        "or 'join'");
    if (append_literal(r, t, opening[s->kind]) != 0)
        return -1;
    for (size_t i = 0; i < s->count; i++)
        if ((i > 0 && append_literal(r, t, ", ") != 0) ||
            tpl_append_repr(r, t, &s->items[i], depth + 1) != 0)
            return -1;
    if (s->kind == TPL_TUPLE && s->count == 1 && append_literal(r, t, ",") != 0)
        return -1;
    return append_literal(r, t, closing[s->kind]);
}

static int append_pairs(struct tpl_render *r, struct tpl_text *t, const struct tpl_dict *d,
                        int depth)
{
    if (append_literal(r, t, "{") != 0)
        return -1;
    for (size_t i = 0; i < d->count; i++)
        if ((i > 0 && append_literal(r, t, ", ") != 0) ||
            tpl_append_repr(r, t, &d->pairs[i].key, depth + 1) != 0 ||
            append_literal(r, t, ": ") != 0 ||
            tpl_append_repr(r, t, &d->pairs[i].value, depth + 1) != 0)
            return -1;
    return append_literal(r, t, "}");
}

int tpl_append_repr(struct tpl_render *r, struct tpl_text *t, const struct tpl_value *v, int depth)
{
    if (depth > TPL_VALUE_MAX)
        return tpl_fail(r, STATUS_EXHAUSTED, "values are nested deeper than %d", TPL_VALUE_MAX);
    switch (v->type) {
    case TPL_MISSING:
    case TPL_UNDEFINED:
        return append_literal(r, t, "Undefined");
    case TPL_NONE:
        return append_literal(r, t, "None");
    case TPL_BOOL:
        return append_literal(r, t, v->boolean ? "True" : "False");
    case TPL_INT:
        return append_int(r, t, v->integer);
    case TPL_FLOAT:
        return append_float(r, t, v->real);
    case TPL_STRING:
        return append_quoted(r, t, v->string);
    case TPL_SEQUENCE:
        return append_members(r, t, v->sequence, depth);
    case TPL_DICT:
        return append_pairs(r, t, v->dict, depth);
    default:
        return tpl_fail(r, STATUS_UNSUPPORTED, "a %s cannot be printed", tpl_type_name(v));
    }
}

int tpl_append_value(struct tpl_render *r, struct tpl_text *t, const struct tpl_value *v)
{
    if (v->type == TPL_STRING)
        return tpl_append_string(r, t, v->string);
    if (v->type == TPL_UNDEFINED)
        return 0;
    return tpl_append_repr(r, t, v, 0);
}

int tpl_to_string(struct tpl_render *r, const struct tpl_value *v, struct tpl_string *out)
{
    struct tpl_text text = {NULL, 0, 0};
    if (v->type == TPL_STRING) {
        *out = v->string;
        return 0;
    }
    if (tpl_append_value(r, &text, v) != 0)
        return -1;
    *out = tpl_text_value(text.data, text.len).string;
    return 0;
}

/* --- JSON ----------------------------------------------------------------------------------- */

static int append_json_char(struct tpl_render *r, struct tpl_text *t, uint32_t c, int ascii)
{
    static const char letters[] = "\"\\\n\r\t\b\f", escapes[] = "\"\\nrtbf";
    char text[16];
    const char *found = c && c < 0x80 ? strchr(letters, (int)c) : NULL;
    if (found)
        snprintf(text, sizeof text, "\\%c", escapes[found - letters]);
    else if (c < 0x20 || (ascii && c >= 0x7f && c < 0x10000))
        snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
    else if (ascii && c >= 0x10000)
        snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xd800 + ((c - 0x10000) >> 10)),
                 (unsigned)(0xdc00 + ((c - 0x10000) & 0x3ff)));
    else
        return tpl_append(r, t, text, tpl_encode_char(c, text));
    return append_literal(r, t, text);
}

static int append_json_string(struct tpl_render *r, struct tpl_text *t, struct tpl_string s,
                              int ascii)
{
    if (append_literal(r, t, "\"") != 0)
        return -1;
    while (s.len)
        if (append_json_char(r, t, tpl_next_char(&s), ascii) != 0)
            return -1;
    return append_literal(r, t, "\"");
}

static int append_json_float(struct tpl_render *r, struct tpl_text *t, double v)
{
    if (isnan(v))
        return append_literal(r, t, "NaN");
    if (isinf(v))
        return append_literal(r, t, v < 0 ? "-Infinity" : "Infinity");
    return append_float(r, t, v);
}

/* A newline and the indentation of a pretty layout; nothing in a flat one. */
static int append_json_line(struct tpl_render *r, struct tpl_text *t,
                            const struct tpl_json_style *style, int depth)
{
    if (!style->pretty)
        return 0;
    if (append_literal(r, t, "\n") != 0)
        return -1;
    for (int i = 0; i < depth; i++)
        if (tpl_append_string(r, t, style->indent) != 0)
            return -1;
    return 0;
}

static int append_json_list(struct tpl_render *r, struct tpl_text *t,
                            const struct tpl_json_style *style, const struct tpl_sequence *s,
                            int depth)
{
    if (s->count == 0)
        return append_literal(r, t, "[]");
    if (append_literal(r, t, "[") != 0)
        return -1;
    for (size_t i = 0; i < s->count; i++)
        if ((i > 0 && tpl_append_string(r, t, style->item_separator) != 0) ||
            append_json_line(r, t, style, depth + 1) != 0 ||
            tpl_append_json(r, t, style, &s->items[i], depth + 1) != 0)
            return -1;
    return append_json_line(r, t, style, depth) != 0 ? -1 : append_literal(r, t, "]");
}

/* Keys are strings in JSON: numbers, booleans and none become theirs. */
static int append_json_key(struct tpl_render *r, struct tpl_text *t,
                           const struct tpl_json_style *style, const struct tpl_value *key,
                           int depth)
{
    if (key->type == TPL_STRING)
        return append_json_string(r, t, key->string, style->ensure_ascii);
    if (!tpl_is_number(key) && key->type != TPL_NONE)
        return tpl_fail(r, STATUS_INVALID, "keys of JSON cannot be '%s'", tpl_type_name(key));
    if (append_literal(r, t, "\"") != 0 || tpl_append_json(r, t, style, key, depth) != 0)
        return -1;
    return append_literal(r, t, "\"");
}

/* The pairs by key, stable; only strings are ordered among each other. */
static int sorted_pairs(struct tpl_render *r, const struct tpl_dict *d, const struct tpl_pair **out)
{
    struct tpl_pair *pairs = tpl_alloc(r, d->count, sizeof *pairs);
    if (!pairs || tpl_step(r, d->count * d->count / 4) != 0)
        return -1;
    for (size_t i = 0; i < d->count; i++) {
        size_t at = i;
        for (; at > 0; at--) {
            int less;
            if (tpl_less(r, &d->pairs[i].key, &pairs[at - 1].key, &less) != 0)
                return -1;
            if (!less)
                break;
            pairs[at] = pairs[at - 1];
        }
        pairs[at] = d->pairs[i];
    }
    *out = pairs;
    return 0;
}

static int append_json_dict(struct tpl_render *r, struct tpl_text *t,
                            const struct tpl_json_style *style, const struct tpl_dict *d, int depth)
{
    const struct tpl_pair *pairs = d->pairs;
    if (d->count == 0)
        return append_literal(r, t, "{}");
    if (style->sort_keys && sorted_pairs(r, d, &pairs) != 0)
        return -1;
    if (append_literal(r, t, "{") != 0)
        return -1;
    for (size_t i = 0; i < d->count; i++)
        if ((i > 0 && tpl_append_string(r, t, style->item_separator) != 0) ||
            append_json_line(r, t, style, depth + 1) != 0 ||
            append_json_key(r, t, style, &pairs[i].key, depth + 1) != 0 ||
            tpl_append_string(r, t, style->key_separator) != 0 ||
            tpl_append_json(r, t, style, &pairs[i].value, depth + 1) != 0)
            return -1;
    return append_json_line(r, t, style, depth) != 0 ? -1 : append_literal(r, t, "}");
}

int tpl_append_json(struct tpl_render *r, struct tpl_text *t, const struct tpl_json_style *style,
                    const struct tpl_value *v, int depth)
{
    if (depth > TPL_VALUE_MAX)
        return tpl_fail(r, STATUS_EXHAUSTED, "values are nested deeper than %d", TPL_VALUE_MAX);
    if (tpl_step(r, 1) != 0)
        return -1;
    switch (v->type) {
    case TPL_NONE:
        return append_literal(r, t, "null");
    case TPL_BOOL:
        return append_literal(r, t, v->boolean ? "true" : "false");
    case TPL_INT:
        return append_int(r, t, v->integer);
    case TPL_FLOAT:
        return append_json_float(r, t, v->real);
    case TPL_STRING:
        return append_json_string(r, t, v->string, style->ensure_ascii);
    case TPL_DICT:
        return append_json_dict(r, t, style, v->dict, depth);
    case TPL_SEQUENCE:
        if (v->sequence->kind <= TPL_TUPLE)
            return append_json_list(r, t, style, v->sequence, depth);
        break;
    case TPL_UNDEFINED:
        return tpl_fail_undefined(r, v);
    default:
        break;
    }
    return tpl_fail(r, STATUS_INVALID, "object of type '%s' has no JSON", tpl_type_name(v));
}

int tpl_escape(struct tpl_render *r, const struct tpl_value *v, struct tpl_value *out)
{
    struct tpl_string s;
    struct tpl_text text = {NULL, 0, 0};

    if (v->type == TPL_STRING && v->markup) {
        *out = *v;
        return 0;
    }
    if (tpl_to_string(r, v, &s) != 0)
        return -1;
    for (size_t i = 0; i < s.len; i++) {
        static const char special[] = "&<>'\"";
        static const char *const entities[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
        const char *found = s.data[i] ? strchr(special, s.data[i]) : NULL;
        int rv = found ? tpl_append_string(r, &text, tpl_literal(entities[found - special]))
                       : tpl_append(r, &text, &s.data[i], 1);
        if (rv != 0)
            return -1;
    }
    *out = tpl_text_value(text.data, text.len);
    out->markup = 1;
    return 0;
}
