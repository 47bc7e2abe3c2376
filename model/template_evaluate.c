/*
 * template_evaluate.c - the expressions of a template, evaluated
 */
#include "model/template_eval.h"

#include <string.h>

int tpl_lookup(struct tpl_render *r, struct tpl_string name, struct tpl_value *out)
{
    size_t seen = 0;
    for (const struct tpl_scope *scope = r->scope; scope; scope = scope->parent) {
        for (const struct tpl_variable *v = scope->first; v; v = v->next, seen++) {
            if (!tpl_string_equal(v->name, name))
                continue;
            *out = v->value;
            return tpl_step(r, seen / 8);
        }
        seen++;
    }
    const struct tpl_function *function = tpl_function_find(name);
    *out = function ? (struct tpl_value){.type = TPL_FUNCTION, .function = function}
                    : tpl_undefined(TPL_NO_VARIABLE, name);
    return tpl_step(r, seen / 8);
}

/* --- literals ------------------------------------------------------------------------------- */

static int evaluate_members(struct tpl_render *r, const struct tpl_node *first,
                            struct tpl_value **items, size_t *count)
{
    size_t n = 0;
    for (const struct tpl_node *node = first; node; node = node->next)
        n++;
    *items = tpl_alloc(r, n, sizeof **items);
    *count = 0;
    if (!*items)
        return -1;
    for (const struct tpl_node *node = first; node; node = node->next)
        if (tpl_evaluate(r, node, &(*items)[(*count)++]) != 0)
            return -1;
    return 0;
}

static int evaluate_list(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    struct tpl_value *items;
    size_t count;
    if (evaluate_members(r, node->left, &items, &count) != 0)
        return -1;
    return tpl_sequence_value(r, node->type == TPL_NODE_LIST ? TPL_LIST : TPL_TUPLE, items, count,
                              out);
}

static int evaluate_dict(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    struct tpl_value *items;
    size_t count;
    if (evaluate_members(r, node->left, &items, &count) != 0)
        return -1;
    struct tpl_pair *pairs = tpl_alloc(r, count / 2, sizeof *pairs);
    struct tpl_dict dict = {0, pairs};
    if (!pairs)
        return -1;
    for (size_t i = 0; i < count; i += 2) {
        const struct tpl_value *old;
        if (items[i].type == TPL_DICT ||
            (items[i].type == TPL_SEQUENCE && items[i].sequence->kind == TPL_LIST))
            return tpl_fail(r, STATUS_INVALID, "'%s' cannot be a key", tpl_type_name(&items[i]));
        if (tpl_dict_get(r, &dict, &items[i], &old) != 0)
            return -1;
        size_t at = dict.count;
        if (old)
            at = (size_t)((const struct tpl_pair *)((const char *)old -
                                                    offsetof(struct tpl_pair, value)) -
                          pairs);
        else
            pairs[dict.count++].key = items[i];
        pairs[at].value = items[i + 1];
    }
    return tpl_dict_value(r, pairs, dict.count, out);
}

/* --- operators ------------------------------------------------------------------------------ */

static int evaluate_concat(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    struct tpl_text text = {NULL, 0, 0};
    for (const struct tpl_node *part = node->left; part; part = part->next) {
        struct tpl_value value;
        if (tpl_evaluate(r, part, &value) != 0 || tpl_append_value(r, &text, &value) != 0)
            return -1;
    }
    *out = tpl_text_value(text.data, text.len);
    return 0;
}

/* a < b < c holds if a < b and b < c; what comes after a failure is not evaluated. */
static int evaluate_compare(struct tpl_render *r, const struct tpl_node *node,
                            struct tpl_value *out)
{
    struct tpl_value left, right;
    int result = 1;
    if (tpl_evaluate(r, node->left, &left) != 0)
        return -1;
    for (const struct tpl_node *operand = node->right; operand && result; operand = operand->next) {
        if (tpl_evaluate(r, operand->left, &right) != 0 ||
            tpl_compare(r, operand->op, &left, &right, &result) != 0)
            return -1;
        left = right;
    }
    *out = tpl_bool(result);
    return 0;
}

static int evaluate_binary(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    struct tpl_value left, right;
    if (tpl_evaluate(r, node->left, &left) != 0 || tpl_evaluate(r, node->right, &right) != 0)
        return -1;
    return tpl_arithmetic(r, node->op, &left, &right, out);
}

/* and, or: the operand that decides is the value. */
static int evaluate_logical(struct tpl_render *r, const struct tpl_node *node,
                            struct tpl_value *out)
{
    if (tpl_evaluate(r, node->left, out) != 0)
        return -1;
    return tpl_truth(out) == (node->type == TPL_NODE_AND) ? tpl_evaluate(r, node->right, out) : 0;
}

static int evaluate_unary(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    struct tpl_value value;
    if (tpl_evaluate(r, node->left, &value) != 0)
        return -1;
    if (node->type == TPL_NODE_NOT) {
        *out = tpl_bool(!tpl_truth(&value));
        return 0;
    }
    if (node->type == TPL_NODE_NEGATE)
        return tpl_negate(r, &value, out);
    if (tpl_negate(r, &value, out) != 0) /* + asks for a number, too */
        return -1;
    *out = value.type == TPL_BOOL ? tpl_int(value.boolean) : value;
    return 0;
}

static int evaluate_condition(struct tpl_render *r, const struct tpl_node *node,
                              struct tpl_value *out)
{
    struct tpl_value test;
    if (tpl_evaluate(r, node->right, &test) != 0)
        return -1;
    if (tpl_truth(&test))
        return tpl_evaluate(r, node->left, out);
    if (node->third)
        return tpl_evaluate(r, node->third, out);
    *out = tpl_undefined(TPL_NO_ELSE, tpl_literal(""));
    return 0;
}

/* --- members -------------------------------------------------------------------------------- */

static int evaluate_subscript(struct tpl_render *r, const struct tpl_node *node,
                              struct tpl_value *out)
{
    struct tpl_value left, key;
    if (tpl_evaluate(r, node->left, &left) != 0 || tpl_evaluate(r, node->right, &key) != 0)
        return -1;
    return tpl_subscript(r, &left, &key, out);
}

static int evaluate_slice(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    const struct tpl_node *nodes[3] = {node->right, node->third, node->body};
    struct tpl_value left, bounds[3] = {tpl_none(), tpl_none(), tpl_none()};
    if (tpl_evaluate(r, node->left, &left) != 0)
        return -1;
    for (int i = 0; i < 3; i++)
        if (nodes[i] && tpl_evaluate(r, nodes[i], &bounds[i]) != 0)
            return -1;
    return tpl_slice(r, &left, bounds, out);
}

static int evaluate_attribute(struct tpl_render *r, const struct tpl_node *node,
                              struct tpl_value *out)
{
    struct tpl_value left;
    if (tpl_evaluate(r, node->left, &left) != 0)
        return -1;
    return tpl_attribute(r, &left, node->name, out);
}

/* --- calls ---------------------------------------------------------------------------------- */

static int evaluate_arguments(struct tpl_render *r, const struct tpl_node *first,
                              struct tpl_call *call)
{
    size_t n = 0;
    memset(call, 0, sizeof *call);
    for (const struct tpl_node *node = first; node; node = node->next)
        n++;
    if (n == 0)
        return 0;
    struct tpl_value *values = tpl_alloc(r, n, sizeof *values);
    struct tpl_string *names = tpl_alloc(r, n, sizeof *names);
    if (!values || !names)
        return -1;
    for (const struct tpl_node *node = first; node; node = node->next) {
        size_t i = call->count + call->named_count;
        if (tpl_evaluate(r, node->left, &values[i]) != 0)
            return -1;
        if (!node->name.data) {
            call->count++;
            continue;
        }
        for (size_t k = 0; k < call->named_count; k++)
            if (tpl_string_equal(names[k], node->name))
                return tpl_fail(r, STATUS_INVALID, "keyword argument '%.*s' is given twice",
                                (int)node->name.len, node->name.data);
        names[call->named_count++] = node->name;
    }
    call->args = values;
    call->named = values + call->count;
    call->names = names;
    return 0;
}

static int evaluate_call(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    struct tpl_value callee;
    struct tpl_call call;
    if (tpl_evaluate(r, node->left, &callee) != 0 || evaluate_arguments(r, node->right, &call) != 0)
        return -1;
    return tpl_call_value(r, &callee, &call, out);
}

int tpl_evaluate_filter(struct tpl_render *r, const struct tpl_node *node,
                        const struct tpl_value *in, struct tpl_value *out)
{
    struct tpl_call call;
    if (evaluate_arguments(r, node->right, &call) != 0)
        return -1;
    return tpl_filter_apply(r, node->filter, in, &call, out);
}

static int evaluate_filter(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    struct tpl_value in;
    if (tpl_evaluate(r, node->left, &in) != 0)
        return -1;
    return tpl_evaluate_filter(r, node, &in, out);
}

static int evaluate_test(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    struct tpl_value in;
    struct tpl_call call;
    int result;
    if (tpl_evaluate(r, node->left, &in) != 0 || evaluate_arguments(r, node->right, &call) != 0 ||
        tpl_test_apply(r, node->test, &in, &call, &result) != 0)
        return -1;
    *out = tpl_bool(result);
    return 0;
}

/* --- all of them ---------------------------------------------------------------------------- */

static int evaluate(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    switch (node->type) {
    case TPL_NODE_CONSTANT:
        *out = node->value;
        return 0;
    case TPL_NODE_NAME:
        return tpl_lookup(r, node->name, out);
    case TPL_NODE_LIST:
    case TPL_NODE_TUPLE:
        return evaluate_list(r, node, out);
    case TPL_NODE_DICT:
        return evaluate_dict(r, node, out);
    case TPL_NODE_ATTRIBUTE:
        return evaluate_attribute(r, node, out);
    case TPL_NODE_SUBSCRIPT:
        return evaluate_subscript(r, node, out);
    case TPL_NODE_SLICE:
        return evaluate_slice(r, node, out);
    case TPL_NODE_CALL:
        return evaluate_call(r, node, out);
    case TPL_NODE_FILTER:
        return evaluate_filter(r, node, out);
    case TPL_NODE_TEST:
        return evaluate_test(r, node, out);
    case TPL_NODE_NOT:
    case TPL_NODE_NEGATE:
    case TPL_NODE_POSITIVE:
        return evaluate_unary(r, node, out);
    case TPL_NODE_AND:
    case TPL_NODE_OR:
        return evaluate_logical(r, node, out);
    case TPL_NODE_BINARY:
        return evaluate_binary(r, node, out);
    case TPL_NODE_CONCAT:
        return evaluate_concat(r, node, out);
    case TPL_NODE_COMPARE:
        return evaluate_compare(r, node, out);
    case TPL_NODE_CONDITION:
        return evaluate_condition(r, node, out);
    default:
        return tpl_fail(r, STATUS_INTERNAL, "statement where an expression is expected");
    }
}

int tpl_evaluate(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out)
{
    int line = r->line;
    if (tpl_step(r, 1) != 0)
        return -1;
    if (r->depth >= TPL_DEPTH_MAX)
        return tpl_fail(r, STATUS_EXHAUSTED, "template nests deeper than %d calls", TPL_DEPTH_MAX);
    r->depth++;
    r->line = node->line;
    int rv = evaluate(r, node, out);
    r->depth--;
    if (rv == 0)
        r->line = line;
    return rv;
}
