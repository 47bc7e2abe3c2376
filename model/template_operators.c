/*
 * template_operators.c - arithmetic and comparison as Python defines them, in 64 bits
 */
#include "model/template_internal.h"

#include <math.h>
#include <string.h>

static const char *const operator_text[] = {
    "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};

static int fail_types(struct tpl_render *r, enum tpl_operator op, const struct tpl_value *a,
                      const struct tpl_value *b)
{
    if (a->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, a);
    if (b->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, b);
    return tpl_fail(r, STATUS_INVALID, "'%s' between '%s' and '%s' is not possible",
                    operator_text[op], tpl_type_name(a), tpl_type_name(b));
}

static int fail_range(struct tpl_render *r)
{
    return tpl_fail(r, STATUS_UNSUPPORTED, "integer beyond 64 bits");
}

static int fail_zero(struct tpl_render *r)
{
    return tpl_fail(r, STATUS_INVALID, "division by zero");
}

/* --- numbers -------------------------------------------------------------------------------- */

/* Floor division and its remainder, which has the divisor's sign. */
static void divide_floor(int64_t a, int64_t b, int64_t *quotient, int64_t *rest)
{
    *quotient = a / b;
    *rest = a % b;
    if (*rest != 0 && (*rest < 0) != (b < 0)) {
        *rest += b;
        --*quotient;
    }
}

static int power_int(struct tpl_render *r, int64_t base, int64_t exponent, struct tpl_value *out)
{
    int64_t v = 1;
    if (exponent < 0) {
        if (base == 0)
            return fail_zero(r);
        *out = tpl_float(pow((double)base, (double)exponent));
        return 0;
    }
    if (base == 1 || base == 0 || base == -1) {
        *out = tpl_int(exponent == 0 ? 1 : base == -1 && exponent % 2 == 0 ? 1 : base);
        return 0;
    }
    for (; exponent > 0; exponent--) /* at most 63 rounds until it overflows */
        if (__builtin_mul_overflow(v, base, &v))
            return fail_range(r);
    *out = tpl_int(v);
    return 0;
}

static int arithmetic_int(struct tpl_render *r, enum tpl_operator op, int64_t a, int64_t b,
                          struct tpl_value *out)
{
    int64_t v = 0, rest;
    int overflow = 0;
    switch (op) {
    case TPL_ADD:
        overflow = __builtin_add_overflow(a, b, &v);
        break;
    case TPL_SUBTRACT:
        overflow = __builtin_sub_overflow(a, b, &v);
        break;
    case TPL_MULTIPLY:
        overflow = __builtin_mul_overflow(a, b, &v);
        break;
    case TPL_POWER:
        return power_int(r, a, b, out);
    default:
        if (b == 0)
            return fail_zero(r);
        if (op == TPL_DIVIDE) {
            *out = tpl_float((double)a / (double)b);
            return 0;
        }
        if (a == INT64_MIN && b == -1)
            return op == TPL_MODULO ? (*out = tpl_int(0), 0) : fail_range(r);
        divide_floor(a, b, &v, &rest);
        if (op == TPL_MODULO)
            v = rest;
    }
    if (overflow)
        return fail_range(r);
    *out = tpl_int(v);
    return 0;
}

static int power_float(struct tpl_render *r, double a, double b, double *v)
{
    if (a == 0 && b < 0)
        return fail_zero(r);
    *v = pow(a, b);
    if (isnan(*v) && !isnan(a) && !isnan(b))
        return tpl_fail(r, STATUS_UNSUPPORTED, "complex numbers are not supported");
    if (isinf(*v) && !isinf(a) && !isinf(b))
        return tpl_fail(r, STATUS_INVALID, "result of '**' is too large");
    return 0;
}

/* The remainder has the divisor's sign. */
static double modulo_float(double a, double b)
{
    double rest = fmod(a, b);
    if (rest == 0)
        return copysign(0, b);
    return (rest < 0) != (b < 0) ? rest + b : rest;
}

/* (a - remainder) / b is nearly an integer: take the nearest. */
static double floor_divide_float(double a, double b)
{
    double rest = fmod(a, b), quotient = (a - rest) / b;
    if (rest != 0 && (rest < 0) != (b < 0))
        quotient -= 1;
    if (quotient == 0)
        return copysign(0, a / b);
    return quotient - floor(quotient) > 0.5 ? floor(quotient) + 1 : floor(quotient);
}

static int arithmetic_float(struct tpl_render *r, enum tpl_operator op, double a, double b,
                            struct tpl_value *out)
{
    double v = 0;
    if (b == 0 && (op == TPL_DIVIDE || op == TPL_FLOOR_DIVIDE || op == TPL_MODULO))
        return fail_zero(r);
    switch (op) {
    case TPL_ADD:
        v = a + b;
        break;
    case TPL_SUBTRACT:
        v = a - b;
        break;
    case TPL_MULTIPLY:
        v = a * b;
        break;
    case TPL_DIVIDE:
        v = a / b;
        break;
    case TPL_POWER:
        if (power_float(r, a, b, &v) != 0)
            return -1;
        break;
    default:
        v = op == TPL_MODULO ? modulo_float(a, b) : floor_divide_float(a, b);
    }
    *out = tpl_float(v);
    return 0;
}

/* --- strings and lists ---------------------------------------------------------------------- */

/* As Python's MarkupSafe does it: beside markup, what is none is escaped. */
static int concat_strings(struct tpl_render *r, const struct tpl_value *a,
                          const struct tpl_value *b, struct tpl_value *out)
{
    struct tpl_text text = {NULL, 0, 0};
    struct tpl_value first = *a, second = *b;
    int markup = a->markup || b->markup;
    if (markup && (tpl_escape(r, a, &first) != 0 || tpl_escape(r, b, &second) != 0))
        return -1;
    if (tpl_append_string(r, &text, first.string) != 0 ||
        tpl_append_string(r, &text, second.string) != 0)
        return -1;
    *out = tpl_text_value(text.data, text.len);
    out->markup = markup;
    return 0;
}

static int is_list(const struct tpl_value *v)
{
    return v->type == TPL_SEQUENCE &&
           (v->sequence->kind == TPL_LIST || v->sequence->kind == TPL_TUPLE);
}

static int repeat_count(struct tpl_render *r, const struct tpl_value *times, size_t each,
                        size_t *count)
{
    int64_t n = tpl_as_int(times);
    *count = n > 0 && each > 0 ? (size_t)n : 0;
    if (*count > TPL_OUTPUT_MAX / (each ? each : 1))
        return tpl_fail(r, STATUS_EXHAUSTED, "'*' makes more than %u bytes", TPL_OUTPUT_MAX);
    return tpl_scan(r, *count * each);
}

static int repeat_string(struct tpl_render *r, const struct tpl_value *v,
                         const struct tpl_value *times, struct tpl_value *out)
{
    struct tpl_string s = v->string;
    size_t n;
    if (repeat_count(r, times, s.len, &n) != 0)
        return -1;
    char *data = tpl_alloc(r, n, s.len);
    if (!data)
        return -1;
    for (size_t i = 0; i < n; i++)
        memcpy(data + i * s.len, s.data, s.len);
    *out = tpl_text_value(data, n * s.len);
    out->markup = v->markup;
    return 0;
}

static int repeat_list(struct tpl_render *r, const struct tpl_sequence *s,
                       const struct tpl_value *times, struct tpl_value *out)
{
    size_t n;
    if (repeat_count(r, times, s->count * sizeof *s->items, &n) != 0)
        return -1;
    struct tpl_value *items = tpl_alloc(r, n * s->count, sizeof *items);
    if (!items)
        return -1;
    for (size_t i = 0; i < n * s->count; i++)
        items[i] = s->items[i % s->count];
    return tpl_sequence_value(r, s->kind, items, n * s->count, out);
}

static int concat_lists(struct tpl_render *r, const struct tpl_sequence *a,
                        const struct tpl_sequence *b, struct tpl_value *out)
{
    struct tpl_value *items = tpl_alloc(r, a->count + b->count, sizeof *items);
    if (!items || tpl_step(r, (a->count + b->count) / 8) != 0)
        return -1;
    if (a->count)
        memcpy(items, a->items, a->count * sizeof *items);
    if (b->count)
        memcpy(items + a->count, b->items, b->count * sizeof *items);
    return tpl_sequence_value(r, a->kind, items, a->count + b->count, out);
}

static int multiply(struct tpl_render *r, const struct tpl_value *a, const struct tpl_value *b,
                    struct tpl_value *out)
{
    if (tpl_is_integral(a)) {
        const struct tpl_value *swap = a;
        a = b;
        b = swap;
    }
    if (tpl_is_integral(b) && a->type == TPL_STRING)
        return repeat_string(r, a, b, out);
    if (tpl_is_integral(b) && is_list(a))
        return repeat_list(r, a->sequence, b, out);
    return fail_types(r, TPL_MULTIPLY, a, b);
}

int tpl_arithmetic(struct tpl_render *r, enum tpl_operator op, const struct tpl_value *a,
                   const struct tpl_value *b, struct tpl_value *out)
{
    if (tpl_is_integral(a) && tpl_is_integral(b))
        return arithmetic_int(r, op, tpl_as_int(a), tpl_as_int(b), out);
    if (tpl_is_number(a) && tpl_is_number(b))
        return arithmetic_float(r, op, tpl_as_float(a), tpl_as_float(b), out);
    if (op == TPL_ADD && a->type == TPL_STRING && b->type == TPL_STRING)
        return concat_strings(r, a, b, out);
    if (op == TPL_ADD && is_list(a) && is_list(b) && a->sequence->kind == b->sequence->kind)
        return concat_lists(r, a->sequence, b->sequence, out);
    if (op == TPL_MULTIPLY)
        return multiply(r, a, b, out);
    if (op == TPL_MODULO && a->type == TPL_STRING)
        return tpl_fail(r, STATUS_UNSUPPORTED,
                        "'%%' formatting of strings is not supported: "
                        "join the parts with ~");
    return fail_types(r, op, a, b);
}

int tpl_negate(struct tpl_render *r, const struct tpl_value *v, struct tpl_value *out)
{
    if (v->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, v);
    if (!tpl_is_number(v))
        return tpl_fail(r, STATUS_INVALID, "'%s' object has no sign", tpl_type_name(v));
    if (v->type == TPL_FLOAT)
        *out = tpl_float(-v->real);
    else if (tpl_as_int(v) == INT64_MIN)
        return fail_range(r);
    else
        *out = tpl_int(-tpl_as_int(v));
    return 0;
}

/* --- comparison ----------------------------------------------------------------------------- */

static int equal_at(struct tpl_render *r, const struct tpl_value *a, const struct tpl_value *b,
                    int depth, int *result);

static int equal_lists(struct tpl_render *r, const struct tpl_sequence *a,
                       const struct tpl_sequence *b, int depth, int *result)
{
    *result = a->kind == b->kind && a->count == b->count &&
              (a->kind <= TPL_RANGE || a->items == b->items);
    for (size_t i = 0; *result && i < a->count; i++)
        if (equal_at(r, &a->items[i], &b->items[i], depth + 1, result) != 0)
            return -1;
    return 0;
}

static int equal_dicts(struct tpl_render *r, const struct tpl_dict *a, const struct tpl_dict *b,
                       int depth, int *result)
{
    *result = a->count == b->count;
    for (size_t i = 0; *result && i < a->count; i++) {
        const struct tpl_value *other;
        if (tpl_dict_get(r, b, &a->pairs[i].key, &other) != 0)
            return -1;
        *result = other != NULL;
        if (other && equal_at(r, &a->pairs[i].value, other, depth + 1, result) != 0)
            return -1;
    }
    return 0;
}

/* Integers against floats exactly: a conversion of either may round. */
static int equal_mixed(int64_t i, double d)
{
    return d >= -0x1p63 && d < 0x1p63 && (double)(int64_t)d == d && (int64_t)d == i;
}

static int equal_numbers(const struct tpl_value *a, const struct tpl_value *b)
{
    if (tpl_is_integral(a) && tpl_is_integral(b))
        return tpl_as_int(a) == tpl_as_int(b);
    if (tpl_is_integral(a))
        return equal_mixed(tpl_as_int(a), b->real);
    if (tpl_is_integral(b))
        return equal_mixed(tpl_as_int(b), a->real);
    return a->real == b->real;
}

static int equal_at(struct tpl_render *r, const struct tpl_value *a, const struct tpl_value *b,
                    int depth, int *result)
{
    *result = 0;
    if (depth > TPL_VALUE_MAX)
        return tpl_fail(r, STATUS_EXHAUSTED, "values are nested deeper than %d", TPL_VALUE_MAX);
    if (tpl_step(r, 1) != 0)
        return -1;
    if (tpl_is_number(a) && tpl_is_number(b)) {
        *result = equal_numbers(a, b);
        return 0;
    }
    if (a->type != b->type)
        return 0;
    switch (a->type) {
    case TPL_STRING:
        *result = tpl_string_equal(a->string, b->string);
        return *result ? tpl_scan(r, a->string.len) : 0;
    case TPL_SEQUENCE:
        return equal_lists(r, a->sequence, b->sequence, depth, result);
    case TPL_DICT:
        return equal_dicts(r, a->dict, b->dict, depth, result);
    case TPL_UNDEFINED:
    case TPL_NONE:
        *result = 1;
        return 0;
    default: /* the rest are equal if they are the same object */
        *result = a->dict == (const void *)b->dict;
        return 0;
    }
}

int tpl_equal(struct tpl_render *r, const struct tpl_value *a, const struct tpl_value *b,
              int *result)
{
    return equal_at(r, a, b, 0, result);
}

static int less_at(struct tpl_render *r, const struct tpl_value *a, const struct tpl_value *b,
                   int depth, int *result);

/* By the first members that differ, else by length. */
static int less_lists(struct tpl_render *r, const struct tpl_sequence *a,
                      const struct tpl_sequence *b, int depth, int *result)
{
    for (size_t i = 0; i < a->count && i < b->count; i++) {
        int equal;
        if (equal_at(r, &a->items[i], &b->items[i], depth + 1, &equal) != 0)
            return -1;
        if (!equal)
            return less_at(r, &a->items[i], &b->items[i], depth + 1, result);
    }
    *result = a->count < b->count;
    return 0;
}

static int less_strings(struct tpl_render *r, struct tpl_string a, struct tpl_string b, int *result)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int order = n ? memcmp(a.data, b.data, n) : 0; /* UTF-8 keeps the order of code points */
    *result = order ? order < 0 : a.len < b.len;
    return tpl_scan(r, n);
}

static int less_at(struct tpl_render *r, const struct tpl_value *a, const struct tpl_value *b,
                   int depth, int *result)
{
    *result = 0;
    if (depth > TPL_VALUE_MAX)
        return tpl_fail(r, STATUS_EXHAUSTED, "values are nested deeper than %d", TPL_VALUE_MAX);
    if (tpl_is_number(a) && tpl_is_number(b)) {
        *result = tpl_is_integral(a) && tpl_is_integral(b) ? tpl_as_int(a) < tpl_as_int(b)
                                                           : tpl_as_float(a) < tpl_as_float(b);
        return 0;
    }
    if (a->type == TPL_STRING && b->type == TPL_STRING)
        return less_strings(r, a->string, b->string, result);
    if (is_list(a) && is_list(b) && a->sequence->kind == b->sequence->kind)
        return less_lists(r, a->sequence, b->sequence, depth, result);
    return fail_types(r, TPL_LESS, a, b);
}

int tpl_less(struct tpl_render *r, const struct tpl_value *a, const struct tpl_value *b,
             int *result)
{
    return less_at(r, a, b, 0, result);
}

int tpl_contains(struct tpl_render *r, const struct tpl_value *container,
                 const struct tpl_value *item, int *result)
{
    const struct tpl_value *items;
    size_t count;
    *result = 0;
    if (container->type == TPL_STRING) {
        if (item->type == TPL_UNDEFINED)
            return tpl_fail_undefined(r, item);
        if (item->type != TPL_STRING)
            return fail_types(r, TPL_IN, item, container);
        *result = tpl_find(container->string, item->string) >= 0;
        return tpl_scan(r, container->string.len);
    }
    if (container->type == TPL_DICT) {
        const struct tpl_value *value;
        if (tpl_dict_get(r, container->dict, item, &value) != 0)
            return -1;
        *result = value != NULL;
        return 0;
    }
    if (tpl_iterate(r, container, &items, &count) != 0)
        return -1;
    for (size_t i = 0; i < count && !*result; i++)
        if (tpl_equal(r, &items[i], item, result) != 0)
            return -1;
    return 0;
}

int tpl_compare(struct tpl_render *r, enum tpl_operator op, const struct tpl_value *a,
                const struct tpl_value *b, int *result)
{
    int rv, equal = 0;
    switch (op) {
    case TPL_EQUAL:
    case TPL_NOT_EQUAL:
        rv = tpl_equal(r, a, b, result);
        break;
    case TPL_IN:
    case TPL_NOT_IN:
        rv = tpl_contains(r, b, a, result);
        break;
    case TPL_LESS:
        return tpl_less(r, a, b, result);
    case TPL_GREATER:
        return tpl_less(r, b, a, result);
    default: /* <= and >=: NaN is neither less nor equal */
        rv = op == TPL_LESS_EQUAL ? tpl_less(r, a, b, result) : tpl_less(r, b, a, result);
        if (rv == 0 && !*result) {
            rv = tpl_equal(r, a, b, &equal);
            *result = equal;
        }
        return rv;
    }
    if (op == TPL_NOT_EQUAL || op == TPL_NOT_IN)
        *result = !*result;
    return rv;
}
