/*
 * template_internal.h - what the files of the template engine share
 *
 * template_lexer.c      source -> tokens (newlines, trim_blocks and lstrip_blocks are settled here)
 * template_parser.c     statements, tuples -> syntax tree;  template_expression.c: expressions
 * template_eval.c       statements are executed;  template_evaluate.c: expressions are evaluated
 * template_operators.c  arithmetic, comparison;  template_string.c: what Python's str does
 * template_value.c      values, attributes, subscripts; template_text.c: UTF-8, str(), repr(), JSON
 * template_filters.c, template_sequences.c, template_tests.c, template_methods.c,
 * template_call.c       the named things of the language, one table each
 *
 * The tree lives in an arena that the template owns and never changes.  Everything that a rendering
 * makes lives in an arena of its own, freed at the end, so no value is ever freed by itself. Values
 * are immutable, namespaces and the cursors of iterators excepted.
 *
 * Facts: Jinja 3.1 "Template Designer Documentation"; transformers renders with trim_blocks and
 * lstrip_blocks on, autoescape off, in an immutable sandbox (no method changes its object).
 */
#ifndef MP_MODEL_TEMPLATE_INTERNAL_H
#define MP_MODEL_TEMPLATE_INTERNAL_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Limits: far beyond what chat templates need, and what a hostile one ends at. */
#define TPL_SOURCE_MAX    (1u << 20)   /* bytes of source */
#define TPL_TREE_MAX      (256u << 20) /* bytes of syntax tree */
#define TPL_NESTING_MAX   100          /* nested expressions and blocks in the source */
#define TPL_CHAIN_MAX     300          /* operators, filters and subscripts in a row */
#define TPL_DEPTH_MAX     600          /* nested evaluations, macros included */
#define TPL_VALUE_MAX     100          /* nesting of lists and dicts when walked */
#define TPL_STEPS_MAX     5000000u     /* evaluations of a rendering; long scans count more */
#define TPL_MEMORY_MAX    (256u << 20) /* bytes that a rendering may allocate */
#define TPL_OUTPUT_MAX    (16u << 20)  /* bytes of one string or of the output */
#define TPL_RANGE_MAX     100000       /* members of a range, as in Jinja's sandbox */
#define TPL_SCAN_PER_STEP 32u          /* bytes scanned for the price of one step */

/* --- arena ---------------------------------------------------------------------------------- */

struct tpl_chunk;
struct tpl_arena {
    struct tpl_chunk *head;
    size_t used, limit;
};
/* 16-byte aligned, not cleared; NULL if memory or the limit is used up. */
void *tpl_arena_alloc(struct tpl_arena *arena, size_t bytes);
void tpl_arena_free(struct tpl_arena *arena);

/* --- values --------------------------------------------------------------------------------- */

enum tpl_type {
    TPL_MISSING, /* an argument that was not given; never a template's value */
    TPL_UNDEFINED,
    TPL_NONE,
    TPL_BOOL,
    TPL_INT,
    TPL_FLOAT,
    TPL_STRING,
    TPL_SEQUENCE,
    TPL_DICT,
    TPL_NAMESPACE,
    TPL_MACRO,
    TPL_FUNCTION,
    TPL_METHOD,
    TPL_LOOP
};

/* A stretch of UTF-8, not NUL-terminated. */
struct tpl_string {
    const char *data;
    size_t len;
};

/* How an undefined value came about; with its hint, the name, this makes the error's text. */
enum tpl_undefined_kind { TPL_NO_VARIABLE, TPL_NO_ATTRIBUTE, TPL_NO_ELEMENT, TPL_NO_ELSE };

struct tpl_value {
    enum tpl_type type;
    union {
        int boolean;
        int markup; /* of a string: the result of escape or safe */
        enum tpl_undefined_kind undefined;
    };
    union {
        int64_t integer;
        double real;
        struct tpl_string string; /* also the hint of an undefined value */
        struct tpl_sequence *sequence;
        const struct tpl_dict *dict;
        struct tpl_namespace *space;
        const struct tpl_macro *macro;
        const struct tpl_function *function;
        const struct tpl_method *method;
        const struct tpl_loop *loop;
    };
};

enum tpl_sequence_kind {
    TPL_LIST,
    TPL_TUPLE,
    TPL_RANGE,
    TPL_KEYS, /* views of a dict: iterable, with a length, not indexable */
    TPL_VALUES,
    TPL_ITEMS,
    TPL_ITERATOR /* what a generator is to a template: iterable once, no length, always true */
};

struct tpl_sequence {
    enum tpl_sequence_kind kind;
    size_t count;
    const struct tpl_value *items;
    int64_t start, stop, step; /* of a range, for its repr */
};

struct tpl_pair {
    struct tpl_value key, value;
};

struct tpl_dict { /* in order of insertion, keys distinct */
    size_t count;
    const struct tpl_pair *pairs;
};

struct tpl_variable {
    struct tpl_variable *next;
    struct tpl_string name;
    struct tpl_value value;
};

struct tpl_namespace {
    struct tpl_variable *first;
};

struct tpl_scope {
    struct tpl_scope *parent;
    struct tpl_variable *first;
};

struct tpl_macro {
    const struct tpl_node *node;
    struct tpl_scope *scope; /* where it was defined: its free names are looked up there */
};

struct tpl_loop {
    size_t index, count, depth; /* index from 0, depth from 1 */
    const struct tpl_value *items;
};

/* --- a rendering in progress ---------------------------------------------------------------- */

struct tpl_text { /* grows in the rendering's arena */
    char *data;
    size_t len, capacity;
};

struct tpl_render {
    struct tpl_arena arena;
    uint64_t steps;
    int depth;
    int line; /* of the node being evaluated, for errors */
    size_t loop_depth;
    struct tpl_scope *scope;
    struct tpl_text *out;
    struct error *err;
};

/* Error with "line N: " before it.  Always -1. */
int tpl_fail(struct tpl_render *r, enum status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The error of using an undefined value.  Always -1. */
int tpl_fail_undefined(struct tpl_render *r, const struct tpl_value *v);
/* -1 once the steps are used up. */
int tpl_step(struct tpl_render *r, size_t steps);
int tpl_scan(struct tpl_render *r, size_t bytes); /* the same for a scan of that many bytes */
/* NULL with the error set. */
void *tpl_alloc(struct tpl_render *r, size_t count, size_t size);

/* --- calls ---------------------------------------------------------------------------------- */

#define TPL_PARAMETERS_MAX 5

struct tpl_call {
    const char *what; /* the callee's name, for errors */
    size_t count;     /* positional arguments */
    const struct tpl_value *args;
    size_t named_count;
    const struct tpl_string *names;
    const struct tpl_value *named;
    struct tpl_value bound[TPL_PARAMETERS_MAX]; /* by parameter; TPL_MISSING if not given */
};
/* Fill bound[] by the parameters' names; at least `required` of them must be given. */
int tpl_bind(struct tpl_render *r, struct tpl_call *call, const char *const *parameters,
             size_t required);
/* Bound arguments as what they have to be; the fallback if they were not given. */
int tpl_bound_string(struct tpl_render *r, const struct tpl_call *call, size_t i,
                     struct tpl_string fallback, struct tpl_string *out);
int tpl_bound_int(struct tpl_render *r, const struct tpl_call *call, size_t i, int64_t fallback,
                  int64_t *out);
int tpl_bound_true(const struct tpl_call *call, size_t i, int fallback);

struct tpl_filter {
    const char *name;
    const char *parameters[TPL_PARAMETERS_MAX]; /* up to the first NULL */
    size_t required;
    int raw; /* takes arguments as they come: nothing is bound */
    int (*apply)(struct tpl_render *r, const struct tpl_value *in, struct tpl_call *call,
                 struct tpl_value *out);
};
const struct tpl_filter *tpl_filter_find(struct tpl_string name);
int tpl_filter_apply(struct tpl_render *r, const struct tpl_filter *filter,
                     const struct tpl_value *in, struct tpl_call *call, struct tpl_value *out);
extern const struct tpl_filter tpl_sequence_filters[]; /* second table, ends with a NULL name */

struct tpl_test {
    const char *name;
    size_t arguments;
    int (*apply)(struct tpl_render *r, const struct tpl_value *in, const struct tpl_value *arg,
                 int *result);
};
const struct tpl_test *tpl_test_find(struct tpl_string name);
int tpl_test_apply(struct tpl_render *r, const struct tpl_test *test, const struct tpl_value *in,
                   const struct tpl_call *call, int *result);

/* How a method takes its arguments: Python's own mostly refuse names. */
enum tpl_arguments { TPL_POSITIONAL, TPL_BY_NAME, TPL_RAW };
struct tpl_method_def {
    const char *name;
    const char *parameters[TPL_PARAMETERS_MAX];
    size_t required;
    enum tpl_arguments arguments;
    /* NULL: Python has it, we refuse it by name when it is called. */
    int (*apply)(struct tpl_render *r, const struct tpl_value *self, struct tpl_call *call,
                 struct tpl_value *out);
};
struct tpl_method {
    const struct tpl_method_def *def;
    struct tpl_value self;
};
const struct tpl_method_def *tpl_method_find(const struct tpl_value *self, struct tpl_string name);

struct tpl_function {
    const char *name;
    int (*apply)(struct tpl_render *r, struct tpl_call *call, struct tpl_value *out);
};
const struct tpl_function *tpl_function_find(struct tpl_string name);

int tpl_call_value(struct tpl_render *r, const struct tpl_value *callee, struct tpl_call *call,
                   struct tpl_value *out);
int tpl_call_macro(struct tpl_render *r, const struct tpl_macro *macro, const struct tpl_call *call,
                   struct tpl_value *out);

/* --- values: template_value.c --------------------------------------------------------------- */

struct tpl_value tpl_none(void);
struct tpl_value tpl_bool(int v);
struct tpl_value tpl_int(int64_t v);
struct tpl_value tpl_float(double v);
struct tpl_value tpl_text_value(const char *data, size_t len);
struct tpl_value tpl_string_value(struct tpl_string s);
struct tpl_value tpl_undefined(enum tpl_undefined_kind kind, struct tpl_string hint);

struct tpl_string tpl_literal(const char *text); /* of a C string */
int tpl_string_equal(struct tpl_string a, struct tpl_string b);
int tpl_string_is(struct tpl_string a, const char *text);

/* items are the arena's and not copied. */
int tpl_sequence_value(struct tpl_render *r, enum tpl_sequence_kind kind,
                       const struct tpl_value *items, size_t count, struct tpl_value *out);
int tpl_dict_value(struct tpl_render *r, const struct tpl_pair *pairs, size_t count,
                   struct tpl_value *out);
int tpl_from_json(struct tpl_render *r, const json_t *json, int depth, struct tpl_value *out);

/* As Python names the type in its errors: "int", "str", "list". */
const char *tpl_type_name(const struct tpl_value *v);
int tpl_is_number(const struct tpl_value *v);   /* bool, int or float */
int tpl_is_integral(const struct tpl_value *v); /* bool or int */
int64_t tpl_as_int(const struct tpl_value *v);
double tpl_as_float(const struct tpl_value *v);
int tpl_truth(const struct tpl_value *v);
int tpl_length(struct tpl_render *r, const struct tpl_value *v, size_t *length);
/* Members to walk over; an iterator is used up.  Strings give their characters, dicts their keys.
 */
int tpl_iterate(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value **items,
                size_t *count);
/* A dict's value, or NULL. -1 only for steps. */
int tpl_dict_get(struct tpl_render *r, const struct tpl_dict *dict, const struct tpl_value *key,
                 const struct tpl_value **value);
/* v.name and v[key]: undefined if there is none; an error on an undefined v. */
int tpl_attribute(struct tpl_render *r, const struct tpl_value *v, struct tpl_string name,
                  struct tpl_value *out);
int tpl_subscript(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value *key,
                  struct tpl_value *out);
/* v[start:stop:step], each TPL_NONE or an integer. */
int tpl_slice(struct tpl_render *r, const struct tpl_value *v, const struct tpl_value bounds[3],
              struct tpl_value *out);
int tpl_set_variable(struct tpl_render *r, struct tpl_variable **list, struct tpl_string name,
                     const struct tpl_value *value);
const struct tpl_value *tpl_find_variable(const struct tpl_variable *list, struct tpl_string name);

/* --- operators: template_operators.c -------------------------------------------------------- */

enum tpl_operator {
    TPL_ADD,
    TPL_SUBTRACT,
    TPL_MULTIPLY,
    TPL_DIVIDE,
    TPL_FLOOR_DIVIDE,
    TPL_MODULO,
    TPL_POWER,
    TPL_EQUAL,
    TPL_NOT_EQUAL,
    TPL_LESS,
    TPL_LESS_EQUAL,
    TPL_GREATER,
    TPL_GREATER_EQUAL,
    TPL_IN,
    TPL_NOT_IN
};
int tpl_arithmetic(struct tpl_render *r, enum tpl_operator op, const struct tpl_value *a,
                   const struct tpl_value *b, struct tpl_value *out);
int tpl_negate(struct tpl_render *r, const struct tpl_value *v, struct tpl_value *out);
int tpl_equal(struct tpl_render *r, const struct tpl_value *a, const struct tpl_value *b,
              int *result);
/* a < b as Python orders them; an error if it does not. */
int tpl_less(struct tpl_render *r, const struct tpl_value *a, const struct tpl_value *b,
             int *result);
int tpl_contains(struct tpl_render *r, const struct tpl_value *container,
                 const struct tpl_value *item, int *result);
int tpl_compare(struct tpl_render *r, enum tpl_operator op, const struct tpl_value *a,
                const struct tpl_value *b, int *result);

/* --- text: template_text.c ------------------------------------------------------------------ */

int tpl_append(struct tpl_render *r, struct tpl_text *t, const char *data, size_t len);
int tpl_append_string(struct tpl_render *r, struct tpl_text *t, struct tpl_string s);
int tpl_append_value(struct tpl_render *r, struct tpl_text *t, const struct tpl_value *v);
int tpl_append_repr(struct tpl_render *r, struct tpl_text *t, const struct tpl_value *v, int depth);
/* str(v); a string stays what it is. */
int tpl_to_string(struct tpl_render *r, const struct tpl_value *v, struct tpl_string *out);
/* str(v) with HTML's special characters as entities; what is markup stays what it is. */
int tpl_escape(struct tpl_render *r, const struct tpl_value *v, struct tpl_value *out);

struct tpl_json_style {
    int ensure_ascii, sort_keys, pretty;
    struct tpl_string indent, item_separator, key_separator;
};
int tpl_append_json(struct tpl_render *r, struct tpl_text *t, const struct tpl_json_style *style,
                    const struct tpl_value *v, int depth);

/* UTF-8; the strings are valid.  Decode one character and step over it; s must not be empty. */
uint32_t tpl_next_char(struct tpl_string *s);
uint32_t tpl_last_char(struct tpl_string *s); /* the same from its end */
size_t tpl_char_count(struct tpl_string s);
size_t tpl_char_offset(struct tpl_string s, size_t index); /* byte of a character, at most len */
size_t tpl_encode_char(uint32_t c, char out[4]);
int tpl_is_space(uint32_t c); /* as Python's str.isspace */
int tpl_utf8_valid(const char *data, size_t len);
/* Without the characters of `chars` (white space if data is NULL) at the left, the right. */
struct tpl_string tpl_strip(struct tpl_string s, struct tpl_string chars, int left, int right);
/* Byte offset of the first occurrence, or -1. */
int64_t tpl_find(struct tpl_string s, struct tpl_string needle);

enum tpl_case { TPL_UPPER, TPL_LOWER, TPL_CAPITALIZE, TPL_TITLE, TPL_TITLE_FILTER };
int tpl_change_case(struct tpl_render *r, struct tpl_string s, enum tpl_case how,
                    struct tpl_value *out);
int tpl_replace(struct tpl_render *r, struct tpl_string s, struct tpl_string from,
                struct tpl_string to, int64_t limit, struct tpl_value *out);
/* The lines of s as strings, with their ends if keep. */
int tpl_split_lines(struct tpl_render *r, struct tpl_string s, int keep, struct tpl_value *out);

/* --- source to tree ------------------------------------------------------------------------- */

enum tpl_token_type {
    TPL_TOKEN_TEXT,
    TPL_TOKEN_PRINT,     /* {{ */
    TPL_TOKEN_PRINT_END, /* }} */
    TPL_TOKEN_BLOCK,     /* {% */
    TPL_TOKEN_BLOCK_END, /* %} */
    TPL_TOKEN_NAME,
    TPL_TOKEN_STRING,
    TPL_TOKEN_INT,
    TPL_TOKEN_FLOAT,
    TPL_TOKEN_OPERATOR,
    TPL_TOKEN_END
};

struct tpl_token {
    enum tpl_token_type type;
    int line;
    struct tpl_string text; /* a string's is decoded */
    union {
        int64_t integer;
        double real;
    };
};

/* Tokens of a source, ending with TPL_TOKEN_END, all in the arena.  NULL with the error set. */
const struct tpl_token *tpl_lex(struct tpl_arena *arena, const char *source, size_t len,
                                struct error *err);

enum tpl_node_type { /* left, right, third, body, orelse; lists go by next */
                     /* expressions */
                     TPL_NODE_CONSTANT,  /* value */
                     TPL_NODE_NAME,      /* name */
                     TPL_NODE_LIST,      /* left: members */
                     TPL_NODE_TUPLE,     /* left: members; also an assignment's targets */
                     TPL_NODE_DICT,      /* left: key, value, key, value ... */
                     TPL_NODE_ATTRIBUTE, /* left . name; as a target: name `name2` of namespace
                                            `name` */
                     TPL_NODE_SUBSCRIPT, /* left [ right ] */
                     TPL_NODE_SLICE,     /* left [ right : third : body ], each may be NULL */
                     TPL_NODE_CALL,      /* left ( right: arguments ) */
                     TPL_NODE_ARGUMENT,  /* left; name if it is a keyword argument */
                     TPL_NODE_FILTER, /* left | filter ( right: arguments ); left NULL: of a block
                                       */
                     TPL_NODE_TEST,   /* left is test ( right: arguments ) */
                     TPL_NODE_NOT,
                     TPL_NODE_NEGATE,
                     TPL_NODE_POSITIVE,
                     TPL_NODE_AND,
                     TPL_NODE_OR,
                     TPL_NODE_BINARY,    /* left op right */
                     TPL_NODE_CONCAT,    /* left: members */
                     TPL_NODE_COMPARE,   /* left, right: operands */
                     TPL_NODE_OPERAND,   /* op left */
                     TPL_NODE_CONDITION, /* left if right else third (may be NULL) */
                     /* statements */
                     TPL_NODE_TEXT,      /* value */
                     TPL_NODE_PRINT,     /* left */
                     TPL_NODE_IF,        /* left, body, orelse */
                     TPL_NODE_FOR,       /* for left in right if third: body, orelse */
                     TPL_NODE_SET,       /* left = right */
                     TPL_NODE_SET_BLOCK, /* left = body, through the filters of right */
                     TPL_NODE_MACRO,     /* name, right: parameters, body */
                     TPL_NODE_PARAMETER, /* name, left: default */
                     TPL_NODE_SCOPE,     /* right: NODE_SETs, body */
                     TPL_NODE_FILTERED,  /* right: filters, body */
                     TPL_NODE_BREAK,
                     TPL_NODE_CONTINUE
};

struct tpl_node {
    enum tpl_node_type type;
    int line;
    int chain; /* operators in a row that end here: bounds the recursion of the evaluator */
    enum tpl_operator op;
    struct tpl_string name;
    struct tpl_node *next, *left, *right, *third, *body, *orelse;
    union {
        struct tpl_value value;
        const struct tpl_filter *filter;
        const struct tpl_test *test;
        struct tpl_string name2;
    };
};

struct template
{
    struct tpl_arena arena;
    const struct tpl_token *tokens;
    const struct tpl_node *body;
};

struct tpl_parser {
    struct tpl_arena *arena;
    const struct tpl_token *token;
    int nesting;
    int loops; /* around the statement, inside its macro */
    struct error *err;
};

/* Error with the current token's line.  Always -1. */
int tpl_parse_fail(struct tpl_parser *p, enum status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
struct tpl_node *tpl_node_new(struct tpl_parser *p, enum tpl_node_type type);
int tpl_at_operator(const struct tpl_parser *p, const char *op);
int tpl_at_name(const struct tpl_parser *p, const char *name);
int tpl_skip_operator(struct tpl_parser *p, const char *op); /* 1 if it was there */
int tpl_skip_name(struct tpl_parser *p, const char *name);
int tpl_expect_operator(struct tpl_parser *p, const char *op);
int tpl_expect_name(struct tpl_parser *p, struct tpl_string *name);
const char *tpl_token_describe(const struct tpl_token *token);
int tpl_nest(struct tpl_parser *p); /* one level deeper, or -1 */

/* NULL with the error set.  condition: whether `a if b else c` may stand there. */
struct tpl_node *tpl_parse_expression(struct tpl_parser *p, int condition);
/* One expression, or several with commas: a tuple.  end: a name that ends it, or NULL. */
struct tpl_node *tpl_parse_tuple(struct tpl_parser *p, int condition, const char *end);
struct tpl_node *tpl_parse_target(struct tpl_parser *p, const char *end, int namespaces);
/* FILTER {| FILTER}: applied to left, which may be NULL. */
struct tpl_node *tpl_parse_filters(struct tpl_parser *p, struct tpl_node *left);
/* Statements up to the end of the source. */
int tpl_parse(struct tpl_parser *p, const struct tpl_node **body);

int tpl_execute(struct tpl_render *r, const struct tpl_node *body);

#endif
