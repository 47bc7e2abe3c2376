/*
 * template_lexer.c - a template's source to tokens
 *
 * Text between tags becomes one token each, already stripped: `-` takes the white space beside a
 * tag, lstrip_blocks the blanks between a line's start and a block or comment tag, trim_blocks the
 * newline after one, `+` switches lstrip_blocks and trim_blocks off.  Newlines are normalised and
 * one at the end of the source is dropped, as Jinja does by default.
 */
#include "model/template_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct lexer {
    struct tpl_arena *arena;
    const char *source;
    size_t len, pos;
    int line;
    int line_starting; /* the token before ended with a newline, or there was none */
    struct tpl_token *tokens;
    size_t count, capacity;
    struct error *err;
};

static int fail_memory(struct lexer *l)
{
    return error_set(l->err, STATUS_NOMEM, "line %d: template is too large", l->line);
}

/* Append a token at the current line; NULL with the error set. */
static struct tpl_token *push(struct lexer *l, enum tpl_token_type type, const char *data,
                              size_t len)
{
    if (l->count == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 64;
        struct tpl_token *grown = tpl_arena_alloc(l->arena, capacity * sizeof *grown);
        if (!grown) {
            fail_memory(l);
            return NULL;
        }
        if (l->count)
            memcpy(grown, l->tokens, l->count * sizeof *grown);
        l->tokens = grown;
        l->capacity = capacity;
    }
    struct tpl_token *token = &l->tokens[l->count++];
    memset(token, 0, sizeof *token);
    token->type = type;
    token->line = l->line;
    token->text = (struct tpl_string){data, len};
    return token;
}

static void advance(struct lexer *l, size_t to)
{
    for (size_t i = l->pos; i < to; i++)
        l->line += l->source[i] == '\n';
    l->line_starting = to > 0 && to > l->pos && l->source[to - 1] == '\n';
    l->pos = to;
}

static char at(const struct lexer *l, size_t pos)
{
    return pos < l->len ? l->source[pos] : '\0';
}

static size_t skip_space(const struct lexer *l, size_t pos)
{
    struct tpl_string rest = {l->source + pos, l->len - pos};
    while (rest.len) {
        struct tpl_string next = rest;
        if (!tpl_is_space(tpl_next_char(&next)))
            break;
        rest = next;
    }
    return l->len - rest.len;
}

/*
 * The end of a tag at pos: `-%}` with the white space after it, `+%}`, or `%}` with one newline
 * after it if trim.  Returns the position behind it, or 0.
 */
static size_t match_end(const struct lexer *l, size_t pos, const char *close, int plus, int trim)
{
    char sign = at(l, pos);
    size_t from = sign == '-' || (plus && sign == '+') ? pos + 1 : pos;
    if (from + 2 > l->len || memcmp(l->source + from, close, 2) != 0)
        return 0;
    if (from > pos)
        return sign == '-' ? skip_space(l, from + 2) : from + 2;
    return from + 2 + (trim && at(l, from + 2) == '\n');
}

/* Text up to `end`, where a tag with this sign begins. */
static int push_text(struct lexer *l, size_t end, char sign, int block)
{
    struct tpl_string text = {l->source + l->pos, end - l->pos};
    if (sign == '-') {
        text = tpl_strip(text, (struct tpl_string){NULL, 0}, 0, 1);
    } else if (sign != '+' && block) {
        size_t line = text.len;
        while (line > 0 && text.data[line - 1] != '\n')
            line--;
        struct tpl_string tail = {text.data + line, text.len - line};
        if ((line > 0 || l->line_starting) &&
            tpl_strip(tail, (struct tpl_string){NULL, 0}, 0, 1).len == 0)
            text.len = line;
    }
    if (text.len && !push(l, TPL_TOKEN_TEXT, text.data, text.len))
        return -1;
    advance(l, end);
    return 0;
}

/* `{% NAME %}` at pos, with signs; *sign_at gets the first one.  Position behind it, or 0. */
static size_t match_raw(const struct lexer *l, size_t pos, const char *name, int trim)
{
    if (at(l, pos) != '{' || at(l, pos + 1) != '%')
        return 0;
    pos += 2;
    if (at(l, pos) == '-' || at(l, pos) == '+')
        pos++;
    pos = skip_space(l, pos);
    size_t len = strlen(name);
    if (l->len - pos < len || memcmp(l->source + pos, name, len) != 0)
        return 0;
    return match_end(l, skip_space(l, pos + len), "%}", trim, trim);
}

static int lex_raw(struct lexer *l, size_t body)
{
    int line = l->line;
    advance(l, body);
    for (size_t i = body; i < l->len; i++) {
        size_t end = l->source[i] == '{' ? match_raw(l, i, "endraw", 1) : 0;
        if (!end)
            continue;
        if (push_text(l, i, at(l, i + 2), 1) != 0)
            return -1;
        advance(l, end);
        return 0;
    }
    return error_set(l->err, STATUS_INVALID, "line %d: {%% raw %%} without {%% endraw %%}", line);
}

static int lex_comment(struct lexer *l)
{
    size_t i = l->pos + 2;
    if (at(l, i) == '-' || at(l, i) == '+')
        i++;
    for (; i < l->len; i++) {
        size_t end = match_end(l, i, "#}", 1, 1);
        if (end) {
            advance(l, end);
            return 0;
        }
    }
    return error_set(l->err, STATUS_INVALID, "line %d: comment without its end '#}'", l->line);
}

/* --- inside a tag --------------------------------------------------------------------------- */

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

/* Digits with single underscores between them, from pos; position behind. */
static size_t skip_digits(const struct lexer *l, size_t pos)
{
    while (is_digit(at(l, pos)) ||
           (at(l, pos) == '_' && is_digit(at(l, pos + 1)) && pos > 0 && is_digit(at(l, pos - 1))))
        pos++;
    return pos;
}

/* The value of base-prefixed and decimal integers: strtoull of the digits without underscores. */
static int push_integer(struct lexer *l, const char *digits, int base)
{
    struct tpl_token *token = push(l, TPL_TOKEN_INT, l->source + l->pos, 0);
    if (!token)
        return -1;
    errno = 0;
    unsigned long long v = strtoull(digits, NULL, base);
    if (errno != 0 || v > INT64_MAX)
        return error_set(l->err, STATUS_UNSUPPORTED, "line %d: integer beyond 64 bits", l->line);
    token->integer = (int64_t)v;
    return 0;
}

static int is_base_digit(char c, int base)
{
    if (base == 16)
        return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    return c >= '0' && c < '0' + base;
}

/* 0x1F, 0o17, 0b11: position behind, or pos. */
static size_t skip_based(const struct lexer *l, size_t pos, int *base)
{
    char c = at(l, pos + 1);
    *base = c == 'x' || c == 'X' ? 16 : c == 'o' || c == 'O' ? 8 : c == 'b' || c == 'B' ? 2 : 0;
    if (at(l, pos) != '0' || *base == 0)
        return pos;
    size_t i = pos + 2;
    while (is_base_digit(at(l, i), *base) ||
           (at(l, i) == '_' && is_base_digit(at(l, i + 1), *base)))
        i++;
    return i == pos + 2 ? pos : i;
}

static int lex_number(struct lexer *l)
{
    char digits[80];
    size_t n = 0;
    int base = 10, real = 0;
    size_t end = skip_based(l, l->pos, &base), from = l->pos + 2;
    if (end == l->pos) {
        base = 10;
        from = l->pos;
        end = skip_digits(l, l->pos);
        /* after a dot these digits are a subscript: x.0.1 */
        int after_dot = l->pos > 0 && l->source[l->pos - 1] == '.';
        if (!after_dot && at(l, end) == '.' && is_digit(at(l, end + 1))) {
            end = skip_digits(l, end + 1);
            real = 1;
        }
        size_t e = end + 1 + (at(l, end + 1) == '+' || at(l, end + 1) == '-');
        if (!after_dot && (at(l, end) == 'e' || at(l, end) == 'E') && is_digit(at(l, e))) {
            end = skip_digits(l, e);
            real = 1;
        }
    }
    for (size_t i = from; i < end; i++) {
        if (n + 1 == sizeof digits)
            return error_set(l->err, STATUS_UNSUPPORTED, "line %d: number of more than %zu digits",
                             l->line, sizeof digits - 1);
        if (l->source[i] != '_')
            digits[n++] = l->source[i];
    }
    digits[n] = '\0';
    if (real) {
        struct tpl_token *token = push(l, TPL_TOKEN_FLOAT, l->source + l->pos, end - l->pos);
        if (!token)
            return -1;
        token->real = strtod(digits, NULL);
    } else if (push_integer(l, digits, base) != 0) {
        return -1;
    }
    advance(l, end);
    return 0;
}

/* Number of hexadecimal digits exactly, or -1. */
static int64_t parse_hex(struct tpl_string s, size_t digits)
{
    int64_t v = 0;
    if (s.len < digits)
        return -1;
    for (size_t i = 0; i < digits; i++) {
        char c = s.data[i];
        if (!is_base_digit(c, 16))
            return -1;
        v = v * 16 + (is_digit(c) ? c - '0' : (c | 32) - 'a' + 10);
    }
    return v;
}

/* One escape of s (behind the backslash): its bytes to out, at most 4.  Bytes used, 0 if wrong. */
static size_t decode_escape(struct tpl_string s, char *out, size_t *out_len)
{
    static const char letters[] = "\\'\"abfnrtv", bytes[] = "\\'\"\a\b\f\n\r\t\v";
    *out_len = 0;
    if (s.data[0] == '\n')
        return 1;
    const char *known = memchr(letters, s.data[0], sizeof letters - 1);
    if (known) {
        out[(*out_len)++] = bytes[known - letters];
        return 1;
    }
    size_t digits = s.data[0] == 'x' ? 2 : s.data[0] == 'u' ? 4 : s.data[0] == 'U' ? 8 : 0;
    if (digits) {
        int64_t c = parse_hex((struct tpl_string){s.data + 1, s.len - 1}, digits);
        if (c < 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
            return 0;
        *out_len = tpl_encode_char((uint32_t)c, out);
        return 1 + digits;
    }
    if (s.data[0] >= '0' && s.data[0] <= '7') {
        uint32_t c = 0;
        size_t i = 0;
        while (i < 3 && i < s.len && s.data[i] >= '0' && s.data[i] <= '7')
            c = c * 8 + (uint32_t)(s.data[i++] - '0');
        *out_len = tpl_encode_char(c, out);
        return i;
    }
    if (s.data[0] == 'N')
        return 0;
    out[(*out_len)++] = '\\'; /* unknown: the backslash stands for itself */
    return (size_t)-1;
}

static int decode_string(struct lexer *l, struct tpl_string s)
{
    /* no escape makes more bytes than it takes: \777 is 4 -> 2, \uffff 6 -> 3 */
    char *data = tpl_arena_alloc(l->arena, s.len + 1);
    size_t len = 0;
    if (!data)
        return fail_memory(l);
    for (size_t i = 0; i < s.len;) {
        if (s.data[i] != '\\') {
            data[len++] = s.data[i++];
            continue;
        }
        char bytes[4];
        size_t made;
        i++;
        size_t used = decode_escape((struct tpl_string){s.data + i, s.len - i}, bytes, &made);
        if (used == 0)
            return error_set(l->err, STATUS_INVALID,
                             "line %d: escape '\\%c...' in a string is not a character", l->line,
                             s.data[i]);
        memcpy(data + len, bytes, made);
        len += made;
        i += used == (size_t)-1 ? 0 : used;
    }
    return push(l, TPL_TOKEN_STRING, data, len) ? 0 : -1;
}

static int lex_string(struct lexer *l)
{
    char quote = l->source[l->pos];
    size_t i = l->pos + 1;
    while (i < l->len && l->source[i] != quote)
        i += l->source[i] == '\\' ? 2 : 1;
    if (i >= l->len)
        return error_set(l->err, STATUS_INVALID, "line %d: string without its closing %c", l->line,
                         quote);
    if (decode_string(l, (struct tpl_string){l->source + l->pos + 1, i - l->pos - 1}) != 0)
        return -1;
    advance(l, i + 1);
    return 0;
}

/* Operators are one or two bytes; open brackets are kept, so that }} may end a nested dict. */
static int lex_operator(struct lexer *l, char *open, size_t *depth)
{
    static const char *const twos[] = {"//", "**", "==", "!=", ">=", "<="};
    char c = l->source[l->pos];
    size_t len = 0;
    for (size_t i = 0; i < sizeof twos / sizeof *twos; i++)
        if (twos[i][0] == c && twos[i][1] == at(l, l->pos + 1))
            len = 2;
    if (len == 0 && c != '\0' && strchr("+-*/%~[](){}><=.:|,;", c))
        len = 1;
    if (len == 0)
        return error_set(l->err, STATUS_INVALID, "line %d: unexpected character '%c'", l->line,
                         c >= ' ' ? c : '?');
    if (c == '(' || c == '[' || c == '{') {
        if (*depth == TPL_NESTING_MAX)
            return error_set(l->err, STATUS_UNSUPPORTED, "line %d: brackets nested beyond %d",
                             l->line, TPL_NESTING_MAX);
        open[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (*depth == 0 || open[*depth - 1] != c)
            return error_set(l->err, STATUS_INVALID, "line %d: unexpected '%c'", l->line, c);
        (*depth)--;
    }
    if (!push(l, TPL_TOKEN_OPERATOR, l->source + l->pos, len))
        return -1;
    advance(l, l->pos + len);
    return 0;
}

static int lex_name(struct lexer *l)
{
    size_t end = l->pos;
    while (is_name_start(at(l, end)) || is_digit(at(l, end)))
        end++;
    if (!push(l, TPL_TOKEN_NAME, l->source + l->pos, end - l->pos))
        return -1;
    advance(l, end);
    return 0;
}

/* The tokens of one tag, with its begin and end. */
static int lex_tag(struct lexer *l, int print)
{
    char open[TPL_NESTING_MAX];
    size_t depth = 0;
    if (!push(l, print ? TPL_TOKEN_PRINT : TPL_TOKEN_BLOCK, l->source + l->pos, 2))
        return -1;
    size_t pos = l->pos + 2;
    advance(l, pos + (at(l, pos) == '-' || at(l, pos) == '+'));
    for (;;) {
        size_t end = 0;
        if (depth == 0)
            end = match_end(l, l->pos, print ? "}}" : "%}", !print, !print);
        if (end) {
            if (!push(l, print ? TPL_TOKEN_PRINT_END : TPL_TOKEN_BLOCK_END, l->source + l->pos, 2))
                return -1;
            advance(l, end);
            return 0;
        }
        size_t next = skip_space(l, l->pos);
        if (next > l->pos) {
            advance(l, next);
            continue;
        }
        if (l->pos == l->len)
            return 0; /* the parser names what is missing */
        char c = l->source[l->pos];
        int rv = is_digit(c)             ? lex_number(l)
                 : is_name_start(c)      ? lex_name(l)
                 : c == '\'' || c == '"' ? lex_string(l)
                                         : lex_operator(l, open, &depth);
        if (rv != 0)
            return -1;
    }
}

static int lex_all(struct lexer *l)
{
    while (l->pos < l->len) {
        size_t tag = l->pos;
        while (tag + 1 < l->len &&
               !(l->source[tag] == '{' && strchr("{%#", l->source[tag + 1]) && l->source[tag + 1]))
            tag++;
        if (tag + 1 >= l->len) {
            if (push_text(l, l->len, '+', 0) != 0)
                return -1;
            break;
        }
        char kind = l->source[tag + 1];
        if (push_text(l, tag, at(l, tag + 2), kind != '{') != 0)
            return -1;
        size_t raw = match_raw(l, tag, "raw", 0);
        int rv = raw ? lex_raw(l, raw) : kind == '#' ? lex_comment(l) : lex_tag(l, kind == '{');
        if (rv != 0)
            return -1;
    }
    return push(l, TPL_TOKEN_END, l->source + l->len, 0) ? 0 : -1;
}

/* \r\n and \r become \n; one newline at the end goes. */
static size_t normalise(char *out, const char *source, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (source[i] != '\r')
            out[n++] = source[i];
        else if (i + 1 == len || source[i + 1] != '\n')
            out[n++] = '\n';
    }
    return n > 0 && out[n - 1] == '\n' ? n - 1 : n;
}

const struct tpl_token *tpl_lex(struct tpl_arena *arena, const char *source, size_t len,
                                struct error *err)
{
    struct lexer l = {.arena = arena, .line = 1, .line_starting = 1, .err = err};
    char *copy = tpl_arena_alloc(arena, len + 1);
    if (!copy) {
        fail_memory(&l);
        return NULL;
    }
    l.len = normalise(copy, source, len);
    l.source = copy;
    return lex_all(&l) == 0 ? l.tokens : NULL;
}
