/*
 * template_call.c - calls: arguments to parameters, and the language's functions
 */
#include "model/template_internal.h"

#include <string.h>
#include <time.h>

int tpl_bind(struct tpl_render *r, struct tpl_call *call, const char *const *parameters,
             size_t required)
{
    size_t count = 0;
    while (count < TPL_PARAMETERS_MAX && parameters[count])
        count++;
    for (size_t i = 0; i < TPL_PARAMETERS_MAX; i++)
        call->bound[i] = (struct tpl_value){.type = TPL_MISSING};
    if (call->count > count)
        return tpl_fail(r, STATUS_INVALID, "'%s' takes at most %zu arguments here, got %zu",
                        call->what, count, call->count);
    for (size_t i = 0; i < call->count; i++)
        call->bound[i] = call->args[i];
    for (size_t k = 0; k < call->named_count; k++) {
        size_t i = 0;
        while (i < count && !tpl_string_is(call->names[k], parameters[i]))
            i++;
        if (i == count)
            return tpl_fail(r, STATUS_INVALID, "'%s' has no parameter '%.*s'", call->what,
                            (int)call->names[k].len, call->names[k].data);
        if (call->bound[i].type != TPL_MISSING)
            return tpl_fail(r, STATUS_INVALID, "'%s': parameter '%s' is given twice", call->what,
                            parameters[i]);
        call->bound[i] = call->named[k];
    }
    for (size_t i = 0; i < required; i++)
        if (call->bound[i].type == TPL_MISSING)
            return tpl_fail(r, STATUS_INVALID, "'%s' lacks its argument '%s'", call->what,
                            parameters[i]);
    return 0;
}

int tpl_bound_string(struct tpl_render *r, const struct tpl_call *call, size_t i,
                     struct tpl_string fallback, struct tpl_string *out)
{
    const struct tpl_value *v = &call->bound[i];
    if (v->type == TPL_MISSING) {
        *out = fallback;
        return 0;
    }
    if (v->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, v);
    if (v->type != TPL_STRING)
        return tpl_fail(r, STATUS_INVALID, "'%s': argument %zu must be a string, not '%s'",
                        call->what, i + 1, tpl_type_name(v));
    *out = v->string;
    return 0;
}

int tpl_bound_int(struct tpl_render *r, const struct tpl_call *call, size_t i, int64_t fallback,
                  int64_t *out)
{
    const struct tpl_value *v = &call->bound[i];
    if (v->type == TPL_MISSING) {
        *out = fallback;
        return 0;
    }
    if (v->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, v);
    if (!tpl_is_integral(v))
        return tpl_fail(r, STATUS_INVALID, "'%s': argument %zu must be an integer, not '%s'",
                        call->what, i + 1, tpl_type_name(v));
    *out = tpl_as_int(v);
    return 0;
}

int tpl_bound_true(const struct tpl_call *call, size_t i, int fallback)
{
    return call->bound[i].type == TPL_MISSING ? fallback : tpl_truth(&call->bound[i]);
}

static int call_method(struct tpl_render *r, const struct tpl_method *method, struct tpl_call *call,
                       struct tpl_value *out)
{
    const struct tpl_method_def *def = method->def;
    call->what = def->name;
    if (!def->apply)
        return tpl_fail(r, STATUS_UNSUPPORTED, "method '%s' of '%s' is not supported", def->name,
                        tpl_type_name(&method->self));
    if (def->arguments == TPL_POSITIONAL && call->named_count > 0)
        return tpl_fail(r, STATUS_INVALID, "method '%s' takes no keyword arguments", def->name);
    if (def->arguments != TPL_RAW && tpl_bind(r, call, def->parameters, def->required) != 0)
        return -1;
    return def->apply(r, &method->self, call, out);
}

int tpl_call_value(struct tpl_render *r, const struct tpl_value *callee, struct tpl_call *call,
                   struct tpl_value *out)
{
    switch (callee->type) {
    case TPL_FUNCTION:
        call->what = callee->function->name;
        return callee->function->apply(r, call, out);
    case TPL_METHOD:
        return call_method(r, callee->method, call, out);
    case TPL_MACRO:
        return tpl_call_macro(r, callee->macro, call, out);
    case TPL_UNDEFINED:
        return tpl_fail_undefined(r, callee);
    default:
        return tpl_fail(r, STATUS_INVALID, "'%s' object cannot be called", tpl_type_name(callee));
    }
}

/* --- functions ------------------------------------------------------------------------------ */

/* Members of a range: ceil((stop - start) / step), in unsigned arithmetic that cannot overflow. */
static uint64_t range_count(int64_t start, int64_t stop, int64_t step)
{
    if (step > 0 ? start >= stop : start <= stop)
        return 0;
    uint64_t span = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    uint64_t stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    return (span - 1) / stride + 1;
}

static int call_range(struct tpl_render *r, struct tpl_call *call, struct tpl_value *out)
{
    static const char *const parameters[TPL_PARAMETERS_MAX] = {"start", "stop", "step"};
    int64_t start = 0, stop, step;
    if (call->named_count > 0)
        return tpl_fail(r, STATUS_INVALID, "'range' takes no keyword arguments");
    if (tpl_bind(r, call, parameters, 1) != 0 || tpl_bound_int(r, call, 0, 0, &stop) != 0)
        return -1;
    if (call->count > 1) {
        start = stop;
        if (tpl_bound_int(r, call, 1, 0, &stop) != 0)
            return -1;
    }
    if (tpl_bound_int(r, call, 2, 1, &step) != 0)
        return -1;
    if (step == 0)
        return tpl_fail(r, STATUS_INVALID, "the step of a range cannot be zero");
    uint64_t count = range_count(start, stop, step);
    if (count > TPL_RANGE_MAX)
        return tpl_fail(r, STATUS_EXHAUSTED, "range of more than %d members", TPL_RANGE_MAX);
    struct tpl_value *items = tpl_alloc(r, (size_t)count, sizeof *items);
    if (!items || tpl_step(r, (size_t)count) != 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        items[i] = tpl_int((int64_t)((uint64_t)start + i * (uint64_t)step));
    if (tpl_sequence_value(r, TPL_RANGE, items, (size_t)count, out) != 0)
        return -1;
    out->sequence->start = start;
    out->sequence->stop = stop;
    out->sequence->step = step;
    return 0;
}

/* The pairs of dict(...) and namespace(...): of one mapping, then of the keywords. */
static int collect_pairs(struct tpl_render *r, const struct tpl_call *call,
                         struct tpl_variable **list)
{
    if (call->count > 1 || (call->count == 1 && call->args[0].type != TPL_DICT))
        return tpl_fail(r, STATUS_INVALID, "'%s' takes one dict, and keyword arguments",
                        call->what);
    for (size_t i = 0; call->count && i < call->args[0].dict->count; i++) {
        const struct tpl_pair *pair = &call->args[0].dict->pairs[i];
        if (pair->key.type != TPL_STRING)
            return tpl_fail(r, STATUS_UNSUPPORTED, "'%s' of a dict with keys other than strings",
                            call->what);
        if (tpl_set_variable(r, list, pair->key.string, &pair->value) != 0)
            return -1;
    }
    for (size_t i = 0; i < call->named_count; i++)
        if (tpl_set_variable(r, list, call->names[i], &call->named[i]) != 0)
            return -1;
    return 0;
}

static int call_dict(struct tpl_render *r, struct tpl_call *call, struct tpl_value *out)
{
    struct tpl_variable *list = NULL;
    size_t count = 0, n = 0;
    if (collect_pairs(r, call, &list) != 0)
        return -1;
    for (const struct tpl_variable *v = list; v; v = v->next)
        count++;
    struct tpl_pair *pairs = tpl_alloc(r, count, sizeof *pairs);
    if (!pairs)
        return -1;
    for (const struct tpl_variable *v = list; v; v = v->next)
        pairs[n++] = (struct tpl_pair){tpl_string_value(v->name), v->value};
    return tpl_dict_value(r, pairs, n, out);
}

static int call_namespace(struct tpl_render *r, struct tpl_call *call, struct tpl_value *out)
{
    struct tpl_namespace *space = tpl_alloc(r, 1, sizeof *space);
    if (!space)
        return -1;
    space->first = NULL;
    *out = (struct tpl_value){.type = TPL_NAMESPACE, .space = space};
    return collect_pairs(r, call, &space->first);
}

/* The template's own refusal: its text as it is. */
static int call_raise(struct tpl_render *r, struct tpl_call *call, struct tpl_value *out)
{
    static const char *const parameters[TPL_PARAMETERS_MAX] = {"message"};
    struct tpl_string text;
    (void)out;
    if (tpl_bind(r, call, parameters, 1) != 0 || tpl_to_string(r, &call->bound[0], &text) != 0)
        return -1;
    int len = text.len < ERROR_TEXT_MAX ? (int)text.len : ERROR_TEXT_MAX - 1;
    return error_set(r->err, STATUS_INVALID, "%.*s", len, text.len ? text.data : "");
}

static int call_strftime(struct tpl_render *r, struct tpl_call *call, struct tpl_value *out)
{
    static const char *const parameters[TPL_PARAMETERS_MAX] = {"format"};
    struct tpl_string format;
    char text[128], made[512];
    time_t now = time(NULL);
    struct tm local;
    if (tpl_bind(r, call, parameters, 1) != 0 ||
        tpl_bound_string(r, call, 0, tpl_literal(""), &format) != 0)
        return -1;
    if (format.len >= sizeof text || (format.len && memchr(format.data, '\0', format.len)))
        return tpl_fail(r, STATUS_INVALID, "time format of more than %zu bytes", sizeof text - 1);
    if (format.len)
        memcpy(text, format.data, format.len);
    text[format.len] = '\0';
    if (!localtime_r(&now, &local))
        return tpl_fail(r, STATUS_IO, "the local time is not known");
    size_t len = strftime(made, sizeof made, text, &local);
    if (len == 0 && format.len)
        return tpl_fail(r, STATUS_INVALID, "time format '%s' gives no text", text);
    char *copy = tpl_alloc(r, len, 1);
    if (!copy)
        return -1;
    memcpy(copy, made, len);
    *out = tpl_text_value(copy, len);
    return 0;
}

const struct tpl_function *tpl_function_find(struct tpl_string name)
{
    static const struct tpl_function functions[] = {
        {"dict", call_dict},   {"namespace", call_namespace},   {"raise_exception", call_raise},
        {"range", call_range}, {"strftime_now", call_strftime},
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (tpl_string_is(name, functions[i].name))
            return &functions[i];
    return NULL;
}
