/*
 * template_expression.c - the expressions of the template language
 *
 * Recursive descent by Jinja's precedences, loosest first: conditional, or, and, not, comparison,
 * + -, ~, * / // %, **, unary sign, then filters, tests, calls and subscripts.  Unlike Python's, **
 * groups to the left and a sign binds closer than **.
 */
#include "model/template_internal.h"

#include <string.h>

/* Left-deep chains recurse in the evaluator, so their length is bounded. */
static struct tpl_node *chain(struct tpl_parser *p, enum tpl_node_type type, struct tpl_node *left)
{
    struct tpl_node *node = tpl_node_new(p, type);
    if (!node)
        return NULL;
    node->left = left;
    node->chain = left ? left->chain + 1 : 1;
    if (node->chain > TPL_CHAIN_MAX) {
        tpl_parse_fail(p, STATUS_UNSUPPORTED, "more than %d operators in a row", TPL_CHAIN_MAX);
        return NULL;
    }
    return node;
}

/* Link a node behind a list's last one. */
static void append(struct tpl_node ***tail, struct tpl_node *node)
{
    **tail = node;
    *tail = &node->next;
}

/* --- arguments ------------------------------------------------------------------------------ */

static struct tpl_node *parse_argument(struct tpl_parser *p)
{
    if (tpl_at_operator(p, "*") || tpl_at_operator(p, "**")) {
        tpl_parse_fail(p, STATUS_UNSUPPORTED, "* and ** in a call's arguments are not supported");
        return NULL;
    }
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_ARGUMENT);
    if (!node)
        return NULL;
    const struct tpl_token *next = p->token + 1;
    if (p->token->type == TPL_TOKEN_NAME && next->type == TPL_TOKEN_OPERATOR &&
        tpl_string_is(next->text, "=")) {
        node->name = p->token->text;
        p->token += 2;
    }
    node->left = tpl_parse_expression(p, 1);
    return node->left ? node : NULL;
}

/* ( ARGUMENT {, ARGUMENT} [,] ): the list goes to *list, which may stay NULL. */
static int parse_arguments(struct tpl_parser *p, struct tpl_node **list)
{
    struct tpl_node **tail = list;
    int keywords = 0;
    *list = NULL;
    if (tpl_expect_operator(p, "(") != 0)
        return -1;
    while (!tpl_at_operator(p, ")")) {
        if (*list && tpl_expect_operator(p, ",") != 0)
            return -1;
        if (*list && tpl_at_operator(p, ")"))
            break;
        struct tpl_node *node = parse_argument(p);
        if (!node)
            return -1;
        if (keywords && !node->name.data)
            return tpl_parse_fail(p, STATUS_INVALID, "positional argument behind a keyword one");
        keywords |= node->name.data != NULL;
        append(&tail, node);
    }
    return tpl_expect_operator(p, ")");
}

static struct tpl_node *parse_call(struct tpl_parser *p, struct tpl_node *callee)
{
    struct tpl_node *node = chain(p, TPL_NODE_CALL, callee);
    return node && parse_arguments(p, &node->right) == 0 ? node : NULL;
}

/* --- literals ------------------------------------------------------------------------------- */

static struct tpl_node *constant(struct tpl_parser *p, struct tpl_value value)
{
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_CONSTANT);
    if (node)
        node->value = value;
    return node;
}

static struct tpl_node *parse_name(struct tpl_parser *p)
{
    static const struct {
        const char *name;
        int value; /* -1: none */
    } words[] = {{"true", 1}, {"True", 1}, {"false", 0}, {"False", 0}, {"none", -1}, {"None", -1}};
    struct tpl_node *node;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!tpl_at_name(p, words[i].name))
            continue;
        node = constant(p, words[i].value < 0 ? tpl_none() : tpl_bool(words[i].value));
        p->token++;
        return node;
    }
    node = tpl_node_new(p, TPL_NODE_NAME);
    if (node)
        node->name = p->token->text;
    p->token++;
    return node;
}

/* Adjacent strings are one. */
static struct tpl_node *parse_strings(struct tpl_parser *p)
{
    size_t len = 0, n = 0;
    while (p->token[n].type == TPL_TOKEN_STRING)
        len += p->token[n++].text.len;
    struct tpl_node *node = constant(p, tpl_string_value(p->token->text));
    if (node && n > 1) {
        char *data = tpl_arena_alloc(p->arena, len + 1), *at = data;
        if (!data) {
            tpl_parse_fail(p, STATUS_NOMEM, "template is too large");
            return NULL;
        }
        for (size_t i = 0; i < n; i++) {
            memcpy(at, p->token[i].text.data, p->token[i].text.len);
            at += p->token[i].text.len;
        }
        node->value = tpl_text_value(data, len);
    }
    p->token += n;
    return node;
}

static struct tpl_node *parse_list(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_LIST);
    if (!node)
        return NULL;
    struct tpl_node **tail = &node->left;
    while (!tpl_at_operator(p, "]")) {
        if (node->left && tpl_expect_operator(p, ",") != 0)
            return NULL;
        if (node->left && tpl_at_operator(p, "]"))
            break;
        struct tpl_node *item = tpl_parse_expression(p, 1);
        if (!item)
            return NULL;
        append(&tail, item);
    }
    return tpl_expect_operator(p, "]") == 0 ? node : NULL;
}

static struct tpl_node *parse_dict(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_DICT);
    if (!node)
        return NULL;
    struct tpl_node **tail = &node->left;
    while (!tpl_at_operator(p, "}")) {
        if (node->left && tpl_expect_operator(p, ",") != 0)
            return NULL;
        if (node->left && tpl_at_operator(p, "}"))
            break;
        struct tpl_node *key = tpl_parse_expression(p, 1);
        if (!key || tpl_expect_operator(p, ":") != 0)
            return NULL;
        append(&tail, key);
        struct tpl_node *value = tpl_parse_expression(p, 1);
        if (!value)
            return NULL;
        append(&tail, value);
    }
    return tpl_expect_operator(p, "}") == 0 ? node : NULL;
}

/* ( ... ): an expression, or a tuple, which may be empty. */
static struct tpl_node *parse_parentheses(struct tpl_parser *p)
{
    struct tpl_node *node =
        tpl_at_operator(p, ")") ? tpl_node_new(p, TPL_NODE_TUPLE) : tpl_parse_tuple(p, 1, NULL);
    return node && tpl_expect_operator(p, ")") == 0 ? node : NULL;
}

static struct tpl_node *parse_primary_inner(struct tpl_parser *p)
{
    struct tpl_node *node;
    switch (p->token->type) {
    case TPL_TOKEN_NAME:
        return parse_name(p);
    case TPL_TOKEN_STRING:
        return parse_strings(p);
    case TPL_TOKEN_INT:
        node = constant(p, tpl_int(p->token->integer));
        p->token++;
        return node;
    case TPL_TOKEN_FLOAT:
        node = constant(p, tpl_float(p->token->real));
        p->token++;
        return node;
    default:
        break;
    }
    if (tpl_skip_operator(p, "("))
        return parse_parentheses(p);
    if (tpl_skip_operator(p, "["))
        return parse_list(p);
    if (tpl_skip_operator(p, "{"))
        return parse_dict(p);
    tpl_parse_fail(p, STATUS_INVALID, "expected an expression, got %s",
                   tpl_token_describe(p->token));
    return NULL;
}

static struct tpl_node *parse_primary(struct tpl_parser *p)
{
    if (tpl_nest(p) != 0)
        return NULL;
    struct tpl_node *node = parse_primary_inner(p);
    p->nesting--;
    return node;
}

/* --- what may follow a primary -------------------------------------------------------------- */

/* One bound of a slice: an expression, or nothing. */
static int parse_bound(struct tpl_parser *p, struct tpl_node **bound)
{
    *bound = NULL;
    if (tpl_at_operator(p, ":") || tpl_at_operator(p, "]") || tpl_at_operator(p, ","))
        return 0;
    *bound = tpl_parse_expression(p, 1);
    return *bound ? 0 : -1;
}

static struct tpl_node *parse_brackets(struct tpl_parser *p, struct tpl_node *left)
{
    struct tpl_node *node = chain(p, TPL_NODE_SUBSCRIPT, left);
    if (!node || parse_bound(p, &node->right) != 0)
        return NULL;
    if (tpl_skip_operator(p, ":")) {
        node->type = TPL_NODE_SLICE;
        if (parse_bound(p, &node->third) != 0)
            return NULL;
        if (tpl_skip_operator(p, ":") && parse_bound(p, &node->body) != 0)
            return NULL;
    } else if (!node->right) {
        tpl_parse_fail(p, STATUS_INVALID, "expected a subscript, got %s",
                       tpl_token_describe(p->token));
        return NULL;
    }
    if (tpl_at_operator(p, ",")) {
        tpl_parse_fail(p, STATUS_UNSUPPORTED, "subscripts with commas are not supported");
        return NULL;
    }
    return tpl_expect_operator(p, "]") == 0 ? node : NULL;
}

static struct tpl_node *parse_dot(struct tpl_parser *p, struct tpl_node *left)
{
    struct tpl_node *node = chain(p, TPL_NODE_ATTRIBUTE, left);
    if (!node)
        return NULL;
    if (p->token->type == TPL_TOKEN_INT) {
        node->type = TPL_NODE_SUBSCRIPT;
        node->right = constant(p, tpl_int(p->token->integer));
        p->token++;
        return node->right ? node : NULL;
    }
    return tpl_expect_name(p, &node->name) == 0 ? node : NULL;
}

/* Subscripts, attributes and calls behind a primary. */
static struct tpl_node *parse_postfix(struct tpl_parser *p, struct tpl_node *node)
{
    while (node) {
        if (tpl_skip_operator(p, "."))
            node = parse_dot(p, node);
        else if (tpl_skip_operator(p, "["))
            node = parse_brackets(p, node);
        else if (tpl_at_operator(p, "("))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

static struct tpl_node *parse_filter(struct tpl_parser *p, struct tpl_node *left)
{
    struct tpl_node *node = chain(p, TPL_NODE_FILTER, left);
    if (!node || tpl_expect_name(p, &node->name) != 0)
        return NULL;
    node->filter = tpl_filter_find(node->name);
    if (!node->filter) {
        tpl_parse_fail(p, STATUS_UNSUPPORTED, "no filter named '%.*s'", (int)node->name.len,
                       node->name.data);
        return NULL;
    }
    if (tpl_at_operator(p, "(") && parse_arguments(p, &node->right) != 0)
        return NULL;
    return node;
}

struct tpl_node *tpl_parse_filters(struct tpl_parser *p, struct tpl_node *left)
{
    struct tpl_node *node = parse_filter(p, left);
    while (node && tpl_skip_operator(p, "|"))
        node = parse_filter(p, node);
    return node;
}

/* Whether a test's single argument follows without parentheses. */
static int at_test_argument(const struct tpl_parser *p)
{
    switch (p->token->type) {
    case TPL_TOKEN_NAME:
        return !tpl_at_name(p, "else") && !tpl_at_name(p, "or") && !tpl_at_name(p, "and");
    case TPL_TOKEN_STRING:
    case TPL_TOKEN_INT:
    case TPL_TOKEN_FLOAT:
        return 1;
    default:
        return tpl_at_operator(p, "[") || tpl_at_operator(p, "{");
    }
}

static int parse_test_argument(struct tpl_parser *p, struct tpl_node *node)
{
    if (tpl_at_operator(p, "("))
        return parse_arguments(p, &node->right);
    if (!at_test_argument(p))
        return 0;
    if (tpl_at_name(p, "is"))
        return tpl_parse_fail(p, STATUS_INVALID, "tests cannot be chained with 'is'");
    node->right = tpl_node_new(p, TPL_NODE_ARGUMENT);
    if (!node->right)
        return -1;
    node->right->left = parse_postfix(p, parse_primary(p));
    return node->right->left ? 0 : -1;
}

static struct tpl_node *parse_test(struct tpl_parser *p, struct tpl_node *left)
{
    int negated = tpl_skip_name(p, "not");
    struct tpl_node *node = chain(p, TPL_NODE_TEST, left);
    if (!node || tpl_expect_name(p, &node->name) != 0)
        return NULL;
    node->test = tpl_test_find(node->name);
    if (!node->test) {
        tpl_parse_fail(p, STATUS_UNSUPPORTED, "no test named '%.*s'", (int)node->name.len,
                       node->name.data);
        return NULL;
    }
    if (parse_test_argument(p, node) != 0)
        return NULL;
    return negated ? chain(p, TPL_NODE_NOT, node) : node;
}

/* [+-] primary with all that follows it; filters and tests take the signed value. */
static struct tpl_node *parse_unary(struct tpl_parser *p, int filters)
{
    struct tpl_node *node = NULL;
    enum tpl_node_type sign = tpl_at_operator(p, "-") ? TPL_NODE_NEGATE : TPL_NODE_POSITIVE;
    if (tpl_nest(p) != 0)
        return NULL;
    if (tpl_skip_operator(p, "-") || tpl_skip_operator(p, "+")) {
        struct tpl_node *value = parse_unary(p, 0);
        node = value ? chain(p, sign, value) : NULL;
    } else {
        node = parse_primary(p);
    }
    node = parse_postfix(p, node);
    while (node && filters) {
        if (tpl_skip_operator(p, "|"))
            node = parse_filter(p, node);
        else if (tpl_skip_name(p, "is"))
            node = parse_test(p, node);
        else if (tpl_at_operator(p, "("))
            node = parse_call(p, node);
        else
            break;
    }
    p->nesting--;
    return node;
}

/* --- operators ------------------------------------------------------------------------------ */

struct binary {
    const char *text;
    enum tpl_operator op;
};
static const struct binary sums[] = {{"+", TPL_ADD}, {"-", TPL_SUBTRACT}, {NULL, 0}};
static const struct binary products[] = {
    {"*", TPL_MULTIPLY}, {"/", TPL_DIVIDE}, {"//", TPL_FLOOR_DIVIDE}, {"%", TPL_MODULO}, {NULL, 0}};
static const struct binary powers[] = {{"**", TPL_POWER}, {NULL, 0}};
static const struct binary comparisons[] = {
    {"==", TPL_EQUAL},  {"!=", TPL_NOT_EQUAL},     {"<", TPL_LESS}, {"<=", TPL_LESS_EQUAL},
    {">", TPL_GREATER}, {">=", TPL_GREATER_EQUAL}, {NULL, 0}};

/* The operator of a table that stands here, stepped over; NULL if there is none. */
static const struct binary *skip_binary(struct tpl_parser *p, const struct binary *table)
{
    for (; table->text; table++)
        if (tpl_skip_operator(p, table->text))
            return table;
    return NULL;
}

static struct tpl_node *parse_power(struct tpl_parser *p);
static struct tpl_node *parse_product(struct tpl_parser *p);
static struct tpl_node *parse_concat(struct tpl_parser *p);

/* OPERAND {OP OPERAND}, grouped to the left. */
static struct tpl_node *parse_binary(struct tpl_parser *p, const struct binary *table,
                                     struct tpl_node *(*operand)(struct tpl_parser *))
{
    struct tpl_node *left = operand(p);
    const struct binary *found;
    while (left && (found = skip_binary(p, table))) {
        struct tpl_node *node = chain(p, TPL_NODE_BINARY, left);
        if (!node)
            return NULL;
        node->op = found->op;
        node->right = operand(p);
        left = node->right ? node : NULL;
    }
    return left;
}

static struct tpl_node *parse_signed(struct tpl_parser *p)
{
    return parse_unary(p, 1);
}

static struct tpl_node *parse_power(struct tpl_parser *p)
{
    return parse_binary(p, powers, parse_signed);
}

static struct tpl_node *parse_product(struct tpl_parser *p)
{
    return parse_binary(p, products, parse_power);
}

static struct tpl_node *parse_concat(struct tpl_parser *p)
{
    struct tpl_node *first = parse_product(p);
    if (!first || !tpl_at_operator(p, "~"))
        return first;
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_CONCAT);
    if (!node)
        return NULL;
    struct tpl_node **tail = &node->left;
    append(&tail, first);
    while (tpl_skip_operator(p, "~")) {
        struct tpl_node *next = parse_product(p);
        if (!next)
            return NULL;
        append(&tail, next);
    }
    return node;
}

static int skip_comparison(struct tpl_parser *p, enum tpl_operator *op)
{
    const struct binary *found = skip_binary(p, comparisons);
    if (found) {
        *op = found->op;
        return 1;
    }
    *op = TPL_IN;
    if (tpl_skip_name(p, "in"))
        return 1;
    *op = TPL_NOT_IN;
    if (!tpl_at_name(p, "not") || p->token[1].type != TPL_TOKEN_NAME ||
        !tpl_string_is(p->token[1].text, "in"))
        return 0;
    p->token += 2;
    return 1;
}

static struct tpl_node *parse_comparison(struct tpl_parser *p)
{
    struct tpl_node *first = parse_binary(p, sums, parse_concat);
    enum tpl_operator op;
    if (!first || !skip_comparison(p, &op))
        return first;
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_COMPARE);
    if (!node)
        return NULL;
    node->left = first;
    struct tpl_node **tail = &node->right;
    do {
        struct tpl_node *operand = tpl_node_new(p, TPL_NODE_OPERAND);
        if (!operand)
            return NULL;
        operand->op = op;
        operand->left = parse_binary(p, sums, parse_concat);
        if (!operand->left)
            return NULL;
        append(&tail, operand);
    } while (skip_comparison(p, &op));
    return node;
}

static struct tpl_node *parse_not(struct tpl_parser *p)
{
    int negations = 0;
    while (tpl_skip_name(p, "not"))
        negations++;
    struct tpl_node *node = parse_comparison(p);
    for (; node && negations > 0; negations--)
        node = chain(p, TPL_NODE_NOT, node);
    return node;
}

static struct tpl_node *parse_logical(struct tpl_parser *p, const char *word,
                                      enum tpl_node_type type,
                                      struct tpl_node *(*operand)(struct tpl_parser *))
{
    struct tpl_node *left = operand(p);
    while (left && tpl_skip_name(p, word)) {
        struct tpl_node *node = chain(p, type, left);
        if (!node)
            return NULL;
        node->right = operand(p);
        left = node->right ? node : NULL;
    }
    return left;
}

static struct tpl_node *parse_and(struct tpl_parser *p)
{
    return parse_logical(p, "and", TPL_NODE_AND, parse_not);
}

static struct tpl_node *parse_or(struct tpl_parser *p)
{
    return parse_logical(p, "or", TPL_NODE_OR, parse_and);
}

static struct tpl_node *parse_condition(struct tpl_parser *p)
{
    struct tpl_node *left = parse_or(p);
    while (left && tpl_skip_name(p, "if")) {
        struct tpl_node *node = chain(p, TPL_NODE_CONDITION, left);
        if (!node)
            return NULL;
        node->right = parse_or(p);
        if (!node->right)
            return NULL;
        if (tpl_skip_name(p, "else")) {
            node->third = tpl_parse_expression(p, 1);
            if (!node->third)
                return NULL;
        }
        left = node;
    }
    return left;
}

struct tpl_node *tpl_parse_expression(struct tpl_parser *p, int condition)
{
    if (tpl_nest(p) != 0)
        return NULL;
    struct tpl_node *node = condition ? parse_condition(p) : parse_or(p);
    p->nesting--;
    return node;
}
