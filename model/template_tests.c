/*
 * template_tests.c - what may stand behind `is`
 */
#include "model/template_internal.h"

#include <string.h>
#include <utf8proc.h>

#define TEST(NAME, CONDITION)                                                                      \
    static int test_##NAME(struct tpl_render *r, const struct tpl_value *v,                        \
                           const struct tpl_value *arg, int *result)                               \
    {                                                                                              \
        (void)r;                                                                                   \
        (void)arg;                                                                                 \
        *result = (CONDITION);                                                                     \
        return 0;                                                                                  \
    }

/* As Python's abstract classes see it: what has a length and can be indexed; Undefined has both. */
static int is_sequence(const struct tpl_value *v)
{
    return v->type == TPL_STRING || v->type == TPL_DICT || v->type == TPL_UNDEFINED ||
           (v->type == TPL_SEQUENCE && v->sequence->kind <= TPL_RANGE);
}

static int is_iterable(const struct tpl_value *v)
{
    return v->type == TPL_STRING || v->type == TPL_DICT || v->type == TPL_UNDEFINED ||
           v->type == TPL_SEQUENCE || v->type == TPL_LOOP;
}

TEST(boolean, v->type == TPL_BOOL)
TEST(callable, v->type == TPL_FUNCTION || v->type == TPL_METHOD || v->type == TPL_MACRO)
TEST(defined, v->type != TPL_UNDEFINED)
TEST(escaped, v->type == TPL_STRING && v->markup)
TEST(false, v->type == TPL_BOOL && !v->boolean)
TEST(float, v->type == TPL_FLOAT)
TEST(integer, v->type == TPL_INT)
TEST(iterable, is_iterable(v))
TEST(mapping, v->type == TPL_DICT)
TEST(none, v->type == TPL_NONE)
TEST(number, tpl_is_number(v))
TEST(sequence, is_sequence(v))
TEST(string, v->type == TPL_STRING)
TEST(true, v->type == TPL_BOOL && v->boolean)
TEST(undefined, v->type == TPL_UNDEFINED)

#define COMPARISON(NAME, OPERATOR)                                                                 \
    static int test_##NAME(struct tpl_render *r, const struct tpl_value *v,                        \
                           const struct tpl_value *arg, int *result)                               \
    {                                                                                              \
        return tpl_compare(r, OPERATOR, v, arg, result);                                           \
    }

COMPARISON(eq, TPL_EQUAL)
COMPARISON(ge, TPL_GREATER_EQUAL)
COMPARISON(gt, TPL_GREATER)
COMPARISON(in, TPL_IN)
COMPARISON(le, TPL_LESS_EQUAL)
COMPARISON(lt, TPL_LESS)
COMPARISON(ne, TPL_NOT_EQUAL)

static int test_divisibleby(struct tpl_render *r, const struct tpl_value *v,
                            const struct tpl_value *arg, int *result)
{
    struct tpl_value rest;
    if (v->type == TPL_STRING || tpl_arithmetic(r, TPL_MODULO, v, arg, &rest) != 0)
        return v->type == TPL_STRING
                   ? tpl_fail(r, STATUS_INVALID, "'divisibleby' is asked of a string")
                   : -1;
    *result = !tpl_truth(&rest);
    return 0;
}

static int remainder_is(struct tpl_render *r, const struct tpl_value *v, int64_t wanted,
                        int *result)
{
    struct tpl_value two = tpl_int(2), rest, value = tpl_int(wanted);
    if (v->type == TPL_STRING)
        return tpl_fail(r, STATUS_INVALID, "'even' or 'odd' is asked of a string");
    if (tpl_arithmetic(r, TPL_MODULO, v, &two, &rest) != 0)
        return -1;
    return tpl_equal(r, &rest, &value, result);
}

static int test_even(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value *arg,
                     int *result)
{
    (void)arg;
    return remainder_is(r, v, 0, result);
}

static int test_odd(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value *arg,
                    int *result)
{
    (void)arg;
    return remainder_is(r, v, 1, result);
}

/* The same object: for what has no identity here, the same type and value. */
static int test_sameas(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value *arg,
                       int *result)
{
    *result = 0;
    if (v->type != arg->type)
        return 0;
    if (v->type == TPL_SEQUENCE || v->type == TPL_DICT) {
        *result = v->dict == arg->dict;
        return 0;
    }
    return tpl_equal(r, v, arg, result);
}

/* str.islower and str.isupper: a cased character is there, and none of the other case. */
static int all_cased(struct tpl_render *r, const struct tpl_value *v, utf8proc_category_t wanted,
                     int *result)
{
    struct tpl_string s;
    *result = 0;
    if (tpl_to_string(r, v, &s) != 0 || tpl_scan(r, s.len) != 0)
        return -1;
    while (s.len) {
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)tpl_next_char(&s));
        if (category == wanted) {
            *result = 1;
        } else if (category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
                   category == UTF8PROC_CATEGORY_LT) {
            *result = 0;
            return 0;
        }
    }
    return 0;
}

static int test_lower(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value *arg,
                      int *result)
{
    (void)arg;
    return all_cased(r, v, UTF8PROC_CATEGORY_LL, result);
}

static int test_upper(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value *arg,
                      int *result)
{
    (void)arg;
    return all_cased(r, v, UTF8PROC_CATEGORY_LU, result);
}

static int test_filter(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value *arg,
                       int *result)
{
    (void)r;
    (void)arg;
    *result = v->type == TPL_STRING && tpl_filter_find(v->string) != NULL;
    return 0;
}

static int test_test(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value *arg,
                     int *result)
{
    (void)r;
    (void)arg;
    *result = v->type == TPL_STRING && tpl_test_find(v->string) != NULL;
    return 0;
}

static const struct tpl_test tests[] = {
    {"!=", 1, test_ne},
    {"<", 1, test_lt},
    {"<=", 1, test_le},
    {"==", 1, test_eq},
    {">", 1, test_gt},
    {">=", 1, test_ge},
    {"boolean", 0, test_boolean},
    {"callable", 0, test_callable},
    {"defined", 0, test_defined},
    {"divisibleby", 1, test_divisibleby},
    {"eq", 1, test_eq},
    {"equalto", 1, test_eq},
    {"escaped", 0, test_escaped},
    {"even", 0, test_even},
    {"false", 0, test_false},
    {"filter", 0, test_filter},
    {"float", 0, test_float},
    {"ge", 1, test_ge},
    {"greaterthan", 1, test_gt},
    {"gt", 1, test_gt},
    {"in", 1, test_in},
    {"integer", 0, test_integer},
    {"iterable", 0, test_iterable},
    {"le", 1, test_le},
    {"lessthan", 1, test_lt},
    {"lower", 0, test_lower},
    {"lt", 1, test_lt},
    {"mapping", 0, test_mapping},
    {"ne", 1, test_ne},
    {"none", 0, test_none},
    {"number", 0, test_number},
    {"odd", 0, test_odd},
    {"sameas", 1, test_sameas},
    {"sequence", 0, test_sequence},
    {"string", 0, test_string},
    {"test", 0, test_test},
    {"true", 0, test_true},
    {"undefined", 0, test_undefined},
    {"upper", 0, test_upper},
};

const struct tpl_test *tpl_test_find(struct tpl_string name)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (tpl_string_is(name, tests[i].name))
            return &tests[i];
    return NULL;
}

int tpl_test_apply(struct tpl_render *r, const struct tpl_test *test, const struct tpl_value *in,
                   const struct tpl_call *call, int *result)
{
    if (call->named_count > 0 || call->count != test->arguments)
        return tpl_fail(r, STATUS_INVALID, "test '%s' takes %zu arguments, got %zu", test->name,
                        test->arguments, call->count + call->named_count);
    return test->apply(r, in, call->args, result);
}
