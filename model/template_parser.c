/*
 * template_parser.c - the statements of the template language
 */
#include "model/template_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* --- what the expression parser shares ------------------------------------------------------ */

int tpl_parse_fail(struct tpl_parser *p, enum status status, const char *fmt, ...)
{
    char text[ERROR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return error_set(p->err, status, "line %d: %s", p->token->line, text);
}

struct tpl_node *tpl_node_new(struct tpl_parser *p, enum tpl_node_type type)
{
    struct tpl_node *node = tpl_arena_alloc(p->arena, sizeof *node);
    if (!node) {
        tpl_parse_fail(p, STATUS_NOMEM, "template is too large");
        return NULL;
    }
    memset(node, 0, sizeof *node);
    node->type = type;
    node->line = p->token->line;
    return node;
}

int tpl_nest(struct tpl_parser *p)
{
    /* an expression takes up to three levels: itself, its sign, its primary */
    if (p->nesting >= 3 * TPL_NESTING_MAX)
        return tpl_parse_fail(p, STATUS_UNSUPPORTED, "nested too deeply");
    p->nesting++;
    return 0;
}

int tpl_at_operator(const struct tpl_parser *p, const char *op)
{
    return p->token->type == TPL_TOKEN_OPERATOR && tpl_string_is(p->token->text, op);
}

int tpl_at_name(const struct tpl_parser *p, const char *name)
{
    return p->token->type == TPL_TOKEN_NAME && tpl_string_is(p->token->text, name);
}

int tpl_skip_operator(struct tpl_parser *p, const char *op)
{
    int there = tpl_at_operator(p, op);
    p->token += there;
    return there;
}

int tpl_skip_name(struct tpl_parser *p, const char *name)
{
    int there = tpl_at_name(p, name);
    p->token += there;
    return there;
}

const char *tpl_token_describe(const struct tpl_token *token)
{
    static const char *const words[] = {"text",
                                        "'{{'",
                                        "'}}'",
                                        "'{%'",
                                        "'%}'",
                                        "a name",
                                        "a string",
                                        "a number",
                                        "a number",
                                        "an operator",
                                        "the end of the template"};
    static const char *const operators[] = {
        "+", "-",  "*",  "/", "//", "**", "%",  "~", "(", ")", "[", "]", "{",
        "}", "==", "!=", "<", "<=", ">",  ">=", "=", ".", ":", "|", ",", ";"};
    if (token->type == TPL_TOKEN_OPERATOR)
        for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
            if (tpl_string_is(token->text, operators[i]))
                return operators[i];
    return words[token->type];
}

int tpl_expect_operator(struct tpl_parser *p, const char *op)
{
    if (tpl_skip_operator(p, op))
        return 0;
    return tpl_parse_fail(p, STATUS_INVALID, "expected '%s', got %s", op,
                          tpl_token_describe(p->token));
}

int tpl_expect_name(struct tpl_parser *p, struct tpl_string *name)
{
    if (p->token->type != TPL_TOKEN_NAME)
        return tpl_parse_fail(p, STATUS_INVALID, "expected a name, got %s",
                              tpl_token_describe(p->token));
    *name = p->token->text;
    p->token++;
    return 0;
}

/* --- tuples and targets --------------------------------------------------------------------- */

static int at_tuple_end(const struct tpl_parser *p, const char *end)
{
    return p->token->type == TPL_TOKEN_PRINT_END || p->token->type == TPL_TOKEN_BLOCK_END ||
           tpl_at_operator(p, ")") || (end && tpl_at_name(p, end));
}

/* One name, namespace attribute, or tuple of them in parentheses. */
static struct tpl_node *parse_one_target(struct tpl_parser *p, int namespaces)
{
    static const char *const reserved[] = {"true", "True", "false", "False", "none", "None"};
    if (tpl_skip_operator(p, "(")) {
        if (tpl_nest(p) != 0)
            return NULL;
        struct tpl_node *node = tpl_parse_target(p, NULL, namespaces);
        p->nesting--;
        return node && tpl_expect_operator(p, ")") == 0 ? node : NULL;
    }
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++) {
        if (tpl_at_name(p, reserved[i])) {
            tpl_parse_fail(p, STATUS_INVALID, "cannot assign to '%s'", reserved[i]);
            return NULL;
        }
    }
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_NAME);
    if (!node || tpl_expect_name(p, &node->name) != 0)
        return NULL;
    if (namespaces && tpl_skip_operator(p, ".")) {
        node->type = TPL_NODE_ATTRIBUTE;
        if (tpl_expect_name(p, &node->name2) != 0)
            return NULL;
    }
    return node;
}

/* Members with commas: the node itself if there is one without a comma, else a tuple. */
static struct tpl_node *parse_members(struct tpl_parser *p, const char *end, int target, int flag)
{
    struct tpl_node *first = NULL, **tail = &first;
    int tuple = 0;
    while (!at_tuple_end(p, end)) {
        struct tpl_node *item = target ? parse_one_target(p, flag) : tpl_parse_expression(p, flag);
        if (!item)
            return NULL;
        *tail = item;
        tail = &item->next;
        if (!tpl_skip_operator(p, ","))
            break;
        tuple = 1;
    }
    if (first && !tuple)
        return first;
    if (!first) {
        tpl_parse_fail(p, STATUS_INVALID, "expected an expression, got %s",
                       tpl_token_describe(p->token));
        return NULL;
    }
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_TUPLE);
    if (node)
        node->left = first;
    return node;
}

struct tpl_node *tpl_parse_tuple(struct tpl_parser *p, int condition, const char *end)
{
    return parse_members(p, end, 0, condition);
}

struct tpl_node *tpl_parse_target(struct tpl_parser *p, const char *end, int namespaces)
{
    return parse_members(p, end, 1, namespaces);
}

/* --- statements ----------------------------------------------------------------------------- */

static int expect_block_end(struct tpl_parser *p)
{
    if (p->token->type == TPL_TOKEN_BLOCK_END) {
        p->token++;
        return 0;
    }
    return tpl_parse_fail(p, STATUS_INVALID, "expected '%%}', got %s",
                          tpl_token_describe(p->token));
}

static int parse_body(struct tpl_parser *p, const char *const *ends, struct tpl_node **body);

/* Body up to `{% END %}`, which is stepped over. */
static int parse_until(struct tpl_parser *p, const char *end, struct tpl_node **body)
{
    const char *const ends[] = {end, NULL};
    if (parse_body(p, ends, body) != 0)
        return -1;
    p->token++;
    return expect_block_end(p);
}

/* if and elif; each elif is an if in its predecessor's else. */
static struct tpl_node *parse_if(struct tpl_parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct tpl_node *first = NULL, **link = &first;
    for (;;) {
        struct tpl_node *node = tpl_node_new(p, TPL_NODE_IF);
        if (!node)
            return NULL;
        *link = node;
        link = &node->orelse;
        node->left = tpl_parse_tuple(p, 0, NULL);
        if (!node->left || expect_block_end(p) != 0 || parse_body(p, ends, &node->body) != 0)
            return NULL;
        if (tpl_skip_name(p, "elif"))
            continue;
        if (tpl_skip_name(p, "else"))
            return expect_block_end(p) == 0 && parse_until(p, "endif", link) == 0 ? first : NULL;
        p->token++;
        return expect_block_end(p) == 0 ? first : NULL;
    }
}

static struct tpl_node *parse_for(struct tpl_parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_FOR);
    if (!node || !(node->left = tpl_parse_target(p, "in", 0)))
        return NULL;
    if (!tpl_skip_name(p, "in")) {
        tpl_parse_fail(p, STATUS_INVALID, "expected 'in', got %s", tpl_token_describe(p->token));
        return NULL;
    }
    if (!(node->right = tpl_parse_tuple(p, 0, "recursive")))
        return NULL;
    if (tpl_skip_name(p, "if") && !(node->third = tpl_parse_expression(p, 1)))
        return NULL;
    if (tpl_at_name(p, "recursive")) {
        tpl_parse_fail(p, STATUS_UNSUPPORTED, "recursive loops are not supported");
        return NULL;
    }
    p->loops++;
    int rv = expect_block_end(p) == 0 ? parse_body(p, ends, &node->body) : -1;
    p->loops--;
    if (rv != 0)
        return NULL;
    if (tpl_skip_name(p, "else"))
        return expect_block_end(p) == 0 && parse_until(p, "endfor", &node->orelse) == 0 ? node
                                                                                        : NULL;
    p->token++;
    return expect_block_end(p) == 0 ? node : NULL;
}

static struct tpl_node *parse_set(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_SET);
    if (!node || !(node->left = tpl_parse_target(p, NULL, 1)))
        return NULL;
    if (tpl_skip_operator(p, "=")) {
        node->right = tpl_parse_tuple(p, 1, NULL);
        return node->right && expect_block_end(p) == 0 ? node : NULL;
    }
    node->type = TPL_NODE_SET_BLOCK;
    if (tpl_skip_operator(p, "|") && !(node->right = tpl_parse_filters(p, NULL)))
        return NULL;
    if (expect_block_end(p) != 0 || parse_until(p, "endset", &node->body) != 0)
        return NULL;
    return node;
}

static int parse_parameters(struct tpl_parser *p, struct tpl_node **list)
{
    struct tpl_node **tail = list;
    int defaults = 0;
    if (tpl_expect_operator(p, "(") != 0)
        return -1;
    while (!tpl_at_operator(p, ")")) {
        if (*list && tpl_expect_operator(p, ",") != 0)
            return -1;
        struct tpl_node *node = tpl_node_new(p, TPL_NODE_PARAMETER);
        if (!node || tpl_expect_name(p, &node->name) != 0)
            return -1;
        if (tpl_skip_operator(p, "=")) {
            defaults = 1;
            if (!(node->left = tpl_parse_expression(p, 1)))
                return -1;
        } else if (defaults) {
            return tpl_parse_fail(p, STATUS_INVALID,
                                  "parameter without a default behind one that has it");
        }
        *tail = node;
        tail = &node->next;
    }
    return tpl_expect_operator(p, ")");
}

static struct tpl_node *parse_macro(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_MACRO);
    int loops = p->loops;
    if (!node || tpl_expect_name(p, &node->name) != 0 || parse_parameters(p, &node->right) != 0)
        return NULL;
    p->loops = 0;
    int rv = expect_block_end(p) == 0 ? parse_until(p, "endmacro", &node->body) : -1;
    p->loops = loops;
    return rv == 0 ? node : NULL;
}

/* with NAME = EXPRESSION, ...: and generation, which only marks what the model wrote. */
static struct tpl_node *parse_with(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_SCOPE);
    if (!node)
        return NULL;
    struct tpl_node **tail = &node->right;
    while (p->token->type != TPL_TOKEN_BLOCK_END) {
        if (node->right && tpl_expect_operator(p, ",") != 0)
            return NULL;
        struct tpl_node *set = tpl_node_new(p, TPL_NODE_SET);
        struct tpl_node *target = set ? tpl_node_new(p, TPL_NODE_NAME) : NULL;
        if (!target || tpl_expect_name(p, &target->name) != 0 || tpl_expect_operator(p, "=") != 0)
            return NULL;
        set->left = target;
        if (!(set->right = tpl_parse_expression(p, 1)))
            return NULL;
        *tail = set;
        tail = &set->next;
    }
    return expect_block_end(p) == 0 && parse_until(p, "endwith", &node->body) == 0 ? node : NULL;
}

static struct tpl_node *parse_generation(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_SCOPE);
    int loops = p->loops;
    if (!node || expect_block_end(p) != 0)
        return NULL;
    p->loops = 0;
    int rv = parse_until(p, "endgeneration", &node->body);
    p->loops = loops;
    return rv == 0 ? node : NULL;
}

static struct tpl_node *parse_filter_block(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_FILTERED);
    if (!node || !(node->right = tpl_parse_filters(p, NULL)) || expect_block_end(p) != 0 ||
        parse_until(p, "endfilter", &node->body) != 0)
        return NULL;
    return node;
}

static struct tpl_node *parse_jump(struct tpl_parser *p, enum tpl_node_type type)
{
    struct tpl_node *node = tpl_node_new(p, type);
    if (!node)
        return NULL;
    if (p->loops == 0) {
        tpl_parse_fail(p, STATUS_INVALID, "'%s' outside a loop",
                       type == TPL_NODE_BREAK ? "break" : "continue");
        return NULL;
    }
    return expect_block_end(p) == 0 ? node : NULL;
}

static struct tpl_node *parse_break(struct tpl_parser *p)
{
    return parse_jump(p, TPL_NODE_BREAK);
}

static struct tpl_node *parse_continue(struct tpl_parser *p)
{
    return parse_jump(p, TPL_NODE_CONTINUE);
}

static struct tpl_node *parse_statement(struct tpl_parser *p)
{
    static const struct {
        const char *name;
        struct tpl_node *(*parse)(struct tpl_parser *);
    } statements[] = {{"break", parse_break},
                      {"continue", parse_continue},
                      {"filter", parse_filter_block},
                      {"for", parse_for},
                      {"generation", parse_generation},
                      {"if", parse_if},
                      {"macro", parse_macro},
                      {"set", parse_set},
                      {"with", parse_with}};
    if (p->token->type != TPL_TOKEN_NAME) {
        tpl_parse_fail(p, STATUS_INVALID, "expected a tag's name, got %s",
                       tpl_token_describe(p->token));
        return NULL;
    }
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
        if (tpl_skip_name(p, statements[i].name))
            return statements[i].parse(p);
    struct tpl_string name = p->token->text;
    int end = name.len > 3 && memcmp(name.data, "end", 3) == 0;
    tpl_parse_fail(p, end ? STATUS_INVALID : STATUS_UNSUPPORTED,
                   end ? "unexpected tag '%.*s'" : "tag '%.*s' is not supported", (int)name.len,
                   name.data);
    return NULL;
}

static int at_any(const struct tpl_parser *p, const char *const *names)
{
    for (; names && *names; names++)
        if (tpl_at_name(p, *names))
            return 1;
    return 0;
}

static struct tpl_node *parse_print(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_PRINT);
    p->token++;
    if (!node || !(node->left = tpl_parse_tuple(p, 1, NULL)))
        return NULL;
    if (p->token->type != TPL_TOKEN_PRINT_END) {
        tpl_parse_fail(p, STATUS_INVALID, "expected '}}', got %s", tpl_token_describe(p->token));
        return NULL;
    }
    p->token++;
    return node;
}

static struct tpl_node *parse_text(struct tpl_parser *p)
{
    struct tpl_node *node = tpl_node_new(p, TPL_NODE_TEXT);
    if (node)
        node->value = tpl_string_value(p->token->text);
    p->token++;
    return node;
}

/* Statements up to one of the tags `ends`, with the token at that name; or to the end. */
static int parse_body(struct tpl_parser *p, const char *const *ends, struct tpl_node **body)
{
    struct tpl_node **tail = body;
    if (tpl_nest(p) != 0)
        return -1;
    while (p->token->type != TPL_TOKEN_END) {
        struct tpl_node *node;
        if (p->token->type == TPL_TOKEN_TEXT) {
            node = parse_text(p);
        } else if (p->token->type == TPL_TOKEN_PRINT) {
            node = parse_print(p);
        } else {
            p->token++; /* {% */
            if (at_any(p, ends)) {
                p->nesting--;
                return 0;
            }
            node = parse_statement(p);
        }
        if (!node)
            return -1;
        *tail = node;
        tail = &node->next;
    }
    p->nesting--;
    if (ends)
        return tpl_parse_fail(p, STATUS_INVALID, "template ends where '%s' is missing", ends[0]);
    return 0;
}

int tpl_parse(struct tpl_parser *p, const struct tpl_node **body)
{
    struct tpl_node *first = NULL;
    if (parse_body(p, NULL, &first) != 0)
        return -1;
    *body = first;
    return 0;
}
