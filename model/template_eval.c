/*
 * template_eval.c - the statements of a template, executed
 *
 * Scopes as Jinja's: a loop's body, a macro, a block set, with and generation have one of their
 * own, each round of a loop a new one; if has none.  What is set inside is gone outside: templates
 * carry values out by namespaces.
 */
#include "model/template_eval.h"

#include <string.h>

enum flow { FLOW_ERROR = -1, FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static enum flow execute(struct tpl_render *r, const struct tpl_node *body);

static struct tpl_scope *push_scope(struct tpl_render *r, struct tpl_scope *parent)
{
    struct tpl_scope *scope = tpl_alloc(r, 1, sizeof *scope);
    if (scope)
        *scope = (struct tpl_scope){parent, NULL};
    return scope;
}

/* Execute with another scope; the old one comes back. */
static enum flow execute_in(struct tpl_render *r, const struct tpl_node *body,
                            struct tpl_scope *scope)
{
    struct tpl_scope *outer = r->scope;
    r->scope = scope;
    enum flow flow = execute(r, body);
    r->scope = outer;
    return flow;
}

/* The output of a body in a scope, as a string. */
static int capture(struct tpl_render *r, const struct tpl_node *body, struct tpl_scope *scope,
                   struct tpl_value *out)
{
    struct tpl_text text = {NULL, 0, 0}, *outer = r->out;
    r->out = &text;
    enum flow flow = execute_in(r, body, scope);
    r->out = outer;
    if (flow == FLOW_ERROR)
        return -1;
    *out = tpl_text_value(text.data, text.len);
    return 0;
}

/* --- assignment ----------------------------------------------------------------------------- */

static int assign_attribute(struct tpl_render *r, const struct tpl_node *target,
                            const struct tpl_value *value)
{
    struct tpl_value space;
    if (tpl_lookup(r, target->name, &space) != 0)
        return -1;
    if (space.type != TPL_NAMESPACE)
        return tpl_fail(r, STATUS_INVALID, "cannot set '%.*s' of a %s: '%.*s' is not a namespace",
                        (int)target->name2.len, target->name2.data, tpl_type_name(&space),
                        (int)target->name.len, target->name.data);
    return tpl_set_variable(r, &space.space->first, target->name2, value);
}

static int assign(struct tpl_render *r, const struct tpl_node *target,
                  const struct tpl_value *value)
{
    const struct tpl_value *items;
    size_t count, i = 0;
    if (target->type == TPL_NODE_NAME)
        return tpl_set_variable(r, &r->scope->first, target->name, value);
    if (target->type == TPL_NODE_ATTRIBUTE)
        return assign_attribute(r, target, value);
    if (value->type == TPL_UNDEFINED)
        return tpl_fail_undefined(r, value);
    if (tpl_iterate(r, value, &items, &count) != 0)
        return -1;
    for (const struct tpl_node *t = target->left; t; t = t->next, i++) {
        if (i == count)
            return tpl_fail(r, STATUS_INVALID, "not enough values to unpack: got %zu", count);
        if (assign(r, t, &items[i]) != 0)
            return -1;
    }
    return i == count ? 0
                      : tpl_fail(r, STATUS_INVALID, "too many values to unpack: expected %zu", i);
}

static enum flow execute_set(struct tpl_render *r, const struct tpl_node *node)
{
    struct tpl_value value;
    if (tpl_evaluate(r, node->right, &value) != 0 || assign(r, node->left, &value) != 0)
        return FLOW_ERROR;
    return FLOW_NEXT;
}

/* What a block's filters make of its output; the first one's input is the block. */
static int filter_block(struct tpl_render *r, const struct tpl_node *filters,
                        struct tpl_value *value)
{
    if (filters->left && filter_block(r, filters->left, value) != 0)
        return -1;
    struct tpl_value in = *value;
    return tpl_evaluate_filter(r, filters, &in, value);
}

static enum flow execute_captured(struct tpl_render *r, const struct tpl_node *node)
{
    struct tpl_value value;
    struct tpl_scope *scope = push_scope(r, r->scope);
    if (!scope || capture(r, node->body, scope, &value) != 0)
        return FLOW_ERROR;
    if (node->right && filter_block(r, node->right, &value) != 0)
        return FLOW_ERROR;
    int rv = node->type == TPL_NODE_SET_BLOCK ? assign(r, node->left, &value)
                                              : tpl_append_value(r, r->out, &value);
    return rv == 0 ? FLOW_NEXT : FLOW_ERROR;
}

static enum flow execute_scope(struct tpl_render *r, const struct tpl_node *node)
{
    struct tpl_scope *scope = push_scope(r, r->scope);
    if (!scope)
        return FLOW_ERROR;
    for (const struct tpl_node *set = node->right; set; set = set->next) {
        struct tpl_value value;
        if (tpl_evaluate(r, set->right, &value) != 0 ||
            tpl_set_variable(r, &scope->first, set->left->name, &value) != 0)
            return FLOW_ERROR;
    }
    return execute_in(r, node->body, scope);
}

/* --- loops ---------------------------------------------------------------------------------- */

/* Keep the items for which the loop's condition holds. */
static int filter_items(struct tpl_render *r, const struct tpl_node *node,
                        const struct tpl_value **items, size_t *count)
{
    struct tpl_scope *outer = r->scope;
    struct tpl_value *kept = tpl_alloc(r, *count, sizeof *kept), keep;
    size_t n = 0;
    int rv = kept ? 0 : -1;
    for (size_t i = 0; i < *count && rv == 0; i++) {
        struct tpl_scope *scope = push_scope(r, outer);
        rv = -1;
        if (!scope)
            break;
        r->scope = scope;
        if (assign(r, node->left, &(*items)[i]) == 0 && tpl_evaluate(r, node->third, &keep) == 0) {
            rv = 0;
            if (tpl_truth(&keep))
                kept[n++] = (*items)[i];
        }
        r->scope = outer;
    }
    *items = kept;
    *count = n;
    return rv;
}

static enum flow execute_round(struct tpl_render *r, const struct tpl_node *node,
                               struct tpl_loop *loop)
{
    static const struct tpl_string loop_name = {"loop", 4};
    struct tpl_value value = {.type = TPL_LOOP, .loop = loop};
    struct tpl_scope *outer = r->scope, *scope = push_scope(r, outer);
    enum flow flow = FLOW_ERROR;
    if (!scope)
        return FLOW_ERROR;
    r->scope = scope;
    if (tpl_set_variable(r, &scope->first, loop_name, &value) == 0 &&
        assign(r, node->left, &loop->items[loop->index]) == 0)
        flow = execute(r, node->body);
    r->scope = outer;
    return flow;
}

static enum flow execute_for(struct tpl_render *r, const struct tpl_node *node)
{
    struct tpl_value over;
    struct tpl_loop *loop = tpl_alloc(r, 1, sizeof *loop);
    enum flow flow = FLOW_NEXT;
    int finished = 0; /* a round came to its end: only then Jinja leaves out the else */
    if (!loop || tpl_evaluate(r, node->right, &over) != 0)
        return FLOW_ERROR;
    memset(loop, 0, sizeof *loop);
    if (tpl_iterate(r, &over, &loop->items, &loop->count) != 0)
        return FLOW_ERROR;
    if (node->third && filter_items(r, node, &loop->items, &loop->count) != 0)
        return FLOW_ERROR;
    loop->depth = ++r->loop_depth;
    for (; loop->index < loop->count && flow != FLOW_BREAK; loop->index++) {
        flow = execute_round(r, node, loop);
        if (flow == FLOW_ERROR)
            return FLOW_ERROR;
        finished |= flow == FLOW_NEXT;
    }
    r->loop_depth--;
    if (finished || !node->orelse)
        return FLOW_NEXT;
    struct tpl_scope *scope = push_scope(r, r->scope);
    return scope ? execute_in(r, node->orelse, scope) : FLOW_ERROR;
}

/* --- macros --------------------------------------------------------------------------------- */

static enum flow define_macro(struct tpl_render *r, const struct tpl_node *node)
{
    struct tpl_macro *macro = tpl_alloc(r, 1, sizeof *macro);
    if (!macro)
        return FLOW_ERROR;
    *macro = (struct tpl_macro){node, r->scope};
    struct tpl_value value = {.type = TPL_MACRO, .macro = macro};
    return tpl_set_variable(r, &r->scope->first, node->name, &value) == 0 ? FLOW_NEXT : FLOW_ERROR;
}

/* The argument for a parameter: by position, by name, or NULL. */
static const struct tpl_value *find_argument(const struct tpl_call *call, size_t position,
                                             struct tpl_string name, size_t *named_used)
{
    if (position < call->count)
        return &call->args[position];
    for (size_t i = 0; i < call->named_count; i++) {
        if (tpl_string_equal(call->names[i], name)) {
            ++*named_used;
            return &call->named[i];
        }
    }
    return NULL;
}

/* Parameters into the macro's scope; defaults see those before them. */
static int bind_parameters(struct tpl_render *r, const struct tpl_node *node,
                           const struct tpl_call *call)
{
    size_t position = 0, named_used = 0;
    for (const struct tpl_node *p = node->right; p; p = p->next, position++) {
        struct tpl_value value = tpl_undefined(TPL_NO_VARIABLE, p->name);
        const struct tpl_value *given = find_argument(call, position, p->name, &named_used);
        if (given)
            value = *given;
        else if (p->left && tpl_evaluate(r, p->left, &value) != 0)
            return -1;
        if (tpl_set_variable(r, &r->scope->first, p->name, &value) != 0)
            return -1;
    }
    if (call->count > position)
        return tpl_fail(r, STATUS_INVALID, "macro '%.*s' takes %zu arguments, got %zu",
                        (int)node->name.len, node->name.data, position, call->count);
    if (named_used < call->named_count)
        return tpl_fail(r, STATUS_INVALID,
                        "macro '%.*s': a keyword argument is not its parameter, or given twice",
                        (int)node->name.len, node->name.data);
    return 0;
}

int tpl_call_macro(struct tpl_render *r, const struct tpl_macro *macro, const struct tpl_call *call,
                   struct tpl_value *out)
{
    struct tpl_scope *caller = r->scope, *scope = push_scope(r, macro->scope);
    size_t loops = r->loop_depth;
    if (!scope)
        return -1;
    r->scope = scope;
    r->loop_depth = 0;
    int rv = bind_parameters(r, macro->node, call);
    if (rv == 0)
        rv = capture(r, macro->node->body, scope, out);
    r->scope = caller;
    r->loop_depth = loops;
    return rv;
}

/* --- statements ----------------------------------------------------------------------------- */

static enum flow execute_if(struct tpl_render *r, const struct tpl_node *node)
{
    for (;;) {
        struct tpl_value value;
        if (tpl_evaluate(r, node->left, &value) != 0)
            return FLOW_ERROR;
        if (tpl_truth(&value))
            return execute(r, node->body);
        if (!node->orelse || node->orelse->type != TPL_NODE_IF || node->orelse->next)
            return execute(r, node->orelse);
        node = node->orelse; /* elif: no deeper for a long chain */
    }
}

static enum flow execute_print(struct tpl_render *r, const struct tpl_node *node)
{
    struct tpl_value value;
    if (tpl_evaluate(r, node->left, &value) != 0)
        return FLOW_ERROR;
    return tpl_append_value(r, r->out, &value) == 0 ? FLOW_NEXT : FLOW_ERROR;
}

static enum flow execute_one(struct tpl_render *r, const struct tpl_node *node)
{
    switch (node->type) {
    case TPL_NODE_TEXT:
        return tpl_append_string(r, r->out, node->value.string) == 0 ? FLOW_NEXT : FLOW_ERROR;
    case TPL_NODE_PRINT:
        return execute_print(r, node);
    case TPL_NODE_IF:
        return execute_if(r, node);
    case TPL_NODE_FOR:
        return execute_for(r, node);
    case TPL_NODE_SET:
        return execute_set(r, node);
    case TPL_NODE_SET_BLOCK:
    case TPL_NODE_FILTERED:
        return execute_captured(r, node);
    case TPL_NODE_MACRO:
        return define_macro(r, node);
    case TPL_NODE_SCOPE:
        return execute_scope(r, node);
    case TPL_NODE_BREAK:
        return FLOW_BREAK;
    case TPL_NODE_CONTINUE:
        return FLOW_CONTINUE;
    default:
        tpl_fail(r, STATUS_INTERNAL, "expression where a statement is expected");
        return FLOW_ERROR;
    }
}

static enum flow execute(struct tpl_render *r, const struct tpl_node *body)
{
    enum flow flow = FLOW_NEXT;
    if (r->depth >= TPL_DEPTH_MAX) {
        tpl_fail(r, STATUS_EXHAUSTED, "template nests deeper than %d calls", TPL_DEPTH_MAX);
        return FLOW_ERROR;
    }
    r->depth++;
    for (; body && flow == FLOW_NEXT; body = body->next) {
        r->line = body->line;
        flow = tpl_step(r, 1) == 0 ? execute_one(r, body) : FLOW_ERROR;
    }
    r->depth--;
    return flow;
}

int tpl_execute(struct tpl_render *r, const struct tpl_node *body)
{
    return execute(r, body) == FLOW_ERROR ? -1 : 0;
}
