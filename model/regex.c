#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/regex.h"

#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "model/bytes.h"

/* Unicode's White_Space, for inside of brackets. */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"

/* What Unicode 15 and 16 added to the general categories, for inside of brackets. */
#define NEW_LU "\\x{1c89}\\x{a7cb}-\\x{a7cc}\\x{a7da}\\x{a7dc}\\x{10d50}-\\x{10d65}"
#define NEW_LL "\\x{1c8a}\\x{a7cd}\\x{a7db}\\x{10d70}-\\x{10d85}\\x{1df25}-\\x{1df2a}"
#define NEW_LM                                                                                     \
    "\\x{10d4e}\\x{10d6f}\\x{16d40}-\\x{16d42}\\x{16d6b}-\\x{16d6c}\\x{1e030}-\\x{1e06d}"          \
    "\\x{1e4eb}"
#define NEW_LO                                                                                     \
    "\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d4d}\\x{10d4f}\\x{10ec2}-\\x{10ec4}"                    \
    "\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}"          \
    "\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}"           \
    "\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}"                    \
    "\\x{16100}-\\x{1611d}\\x{16d43}-\\x{16d6a}\\x{18cff}\\x{1b132}\\x{1b155}"                     \
    "\\x{1e4d0}-\\x{1e4ea}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}"          \
    "\\x{31350}-\\x{323af}"
#define NEW_M                                                                                      \
    "\\x{897}\\x{cf3}\\x{ece}\\x{10d69}-\\x{10d6d}\\x{10efc}-\\x{10eff}\\x{11241}"                 \
    "\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}\\x{113c7}-\\x{113ca}\\x{113cc}-\\x{113d0}"          \
    "\\x{113d2}\\x{113e1}-\\x{113e2}\\x{11f00}-\\x{11f01}\\x{11f03}\\x{11f34}-\\x{11f3a}"          \
    "\\x{11f3e}-\\x{11f42}\\x{11f5a}\\x{13440}\\x{13447}-\\x{13455}\\x{1611e}-\\x{1612f}"          \
    "\\x{1e08f}\\x{1e4ec}-\\x{1e4ef}\\x{1e5ee}-\\x{1e5ef}"
#define NEW_ND                                                                                     \
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"         \
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1e4f0}-\\x{1e4f9}"         \
    "\\x{1e5f1}-\\x{1e5fa}"
#define NEW_NO "\\x{1d2c0}-\\x{1d2d3}"
#define NEW_P                                                                                      \
    "\\x{1b4e}-\\x{1b4f}\\x{1b7f}\\x{10d6e}\\x{113d4}-\\x{113d5}\\x{113d7}-\\x{113d8}"             \
    "\\x{11b00}-\\x{11b09}\\x{11be1}\\x{11f43}-\\x{11f4f}\\x{16d6d}-\\x{16d6f}\\x{1e5ff}"
#define NEW_S                                                                                      \
    "\\x{2427}-\\x{2429}\\x{2ffc}-\\x{2fff}\\x{31e4}-\\x{31e5}\\x{31ef}\\x{10d8e}-\\x{10d8f}"      \
    "\\x{1cc00}-\\x{1ccef}\\x{1cd00}-\\x{1ceb3}\\x{1f6dc}\\x{1f774}-\\x{1f776}"                    \
    "\\x{1f77b}-\\x{1f77f}\\x{1f7d9}\\x{1f8b2}-\\x{1f8bb}\\x{1f8c0}-\\x{1f8c1}"                    \
    "\\x{1fa75}-\\x{1fa77}\\x{1fa87}-\\x{1fa89}\\x{1fa8f}\\x{1faad}-\\x{1faaf}"                    \
    "\\x{1fabb}-\\x{1fabf}\\x{1fac6}\\x{1face}-\\x{1facf}\\x{1fada}-\\x{1fadc}\\x{1fadf}"          \
    "\\x{1fae8}-\\x{1fae9}\\x{1faf7}-\\x{1faf8}\\x{1fbcb}-\\x{1fbef}"
#define NEW_HAN "\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"

static const struct category {
    const char *name, *set; /* for inside of brackets */
} categories[] = {
    {"L", "\\p{L}" NEW_LU NEW_LL NEW_LM NEW_LO},
    {"Lu", "\\p{Lu}" NEW_LU},
    {"Ll", "\\p{Ll}" NEW_LL},
    {"Lt", "\\p{Lt}"},
    {"Lm", "\\p{Lm}" NEW_LM},
    {"Lo", "\\p{Lo}" NEW_LO},
    {"M", "\\p{M}" NEW_M},
    {"N", "\\p{N}" NEW_ND NEW_NO},
    {"Nd", "\\p{Nd}" NEW_ND},
    {"P", "\\p{P}" NEW_P},
    {"S", "\\p{S}" NEW_S},
    {"Z", "\\p{Z}"},
    {"Han", "\\p{sc:Han}" NEW_HAN}, /* the script, not the scripts that share a character */
};

struct translator {
    const char *pattern;
    size_t len, at;
    int in_class;
    struct bytes out;
};

static int put(struct translator *t, const char *text, struct error *err)
{
    return bytes_append(&t->out, text, strlen(text), err);
}

static int refuse(const struct translator *t, const char *what, struct error *err)
{
    size_t left = t->len - t->at;

    return error_set(err, STATUS_UNSUPPORTED, "a pattern has %s at \"%.*s\": that is not supported",
                     what, (int)(left < 24 ? left : 24), t->pattern + t->at);
}

/* A set of characters, in brackets of its own where there are none yet. */
static int put_set(struct translator *t, const char *set, int negated, struct error *err)
{
    if (t->in_class)
        return negated ? refuse(t, "a negated class inside of brackets", err) : put(t, set, err);
    return put(t, negated ? "[^" : "[", err) || put(t, set, err) || put(t, "]", err) ? -1 : 0;
}

/* \p{Name}; at is on its backslash. */
static int translate_property(struct translator *t, struct error *err)
{
    const char *name = t->pattern + t->at + 3;
    size_t left = t->len - t->at;
    const char *close = left > 3 && name[-1] == '{' ? memchr(name, '}', left - 3) : NULL;

    for (size_t i = 0; close && i < sizeof(categories) / sizeof(categories[0]); i++) {
        const struct category *c = &categories[i];

        if (strlen(c->name) != (size_t)(close - name) ||
            memcmp(c->name, name, strlen(c->name)) != 0)
            continue;
        if (put_set(t, c->set, name[-2] == 'P', err))
            return -1;
        t->at = (size_t)(close - t->pattern) + 1;
        return 0;
    }
    return refuse(t, "a property", err);
}

/* \uHHHH and \xHH */
static int translate_code(struct translator *t, size_t digits, struct error *err)
{
    char code[16];
    const char *hex = t->pattern + t->at + 2;

    for (size_t i = 0; i < digits; i++)
        if (t->len - t->at < 2 + digits || !isxdigit((unsigned char)hex[i]))
            return refuse(t, "an escape", err);
    code[0] = '\\';
    code[1] = 'x';
    code[2] = '{';
    memcpy(code + 3, hex, digits);
    code[3 + digits] = '}';
    t->at += 2 + digits;
    return bytes_append(&t->out, code, digits + 4, err);
}

static int translate_escape(struct translator *t, struct error *err)
{
    char c = t->at + 1 < t->len ? t->pattern[t->at + 1] : 'a';
    int rv;

    switch (c) {
    case 'p':
    case 'P':
        return translate_property(t, err);
    case 'u':
        return translate_code(t, 4, err);
    case 'x':
        if (t->at + 2 >= t->len || t->pattern[t->at + 2] != '{')
            return translate_code(t, 2, err);
        rv = put(t, "\\x", err);
        break;
    case 's':
    case 'S':
        rv = put_set(t, SPACE, c == 'S', err);
        break;
    case 'd':
    case 'D':
        rv = put_set(t, "\\p{Nd}" NEW_ND, c == 'D', err);
        break;
    default:
        if ((c >= 'a' && c <= 'z' && !strchr("fnrt", c)) || (c >= 'A' && c <= 'Z') ||
            (c >= '0' && c <= '9') || (unsigned char)c >= 0x80)
            return refuse(t, "an escape", err);
        rv = bytes_append(&t->out, t->pattern + t->at, 2, err);
    }
    t->at += 2;
    return rv;
}

static int starts(const struct translator *t, const char *text)
{
    return t->len - t->at >= strlen(text) && memcmp(t->pattern + t->at, text, strlen(text)) == 0;
}

/* What means something else in brackets to the two, or nothing to one of them. */
static int translate_in_class(struct translator *t, struct error *err)
{
    if (t->pattern[t->at] == '[' || starts(t, "&&"))
        return refuse(t, "a class inside of brackets", err);
    t->in_class = t->pattern[t->at] != ']';
    return bytes_append(&t->out, t->pattern + t->at++, 1, err);
}

static int translate_group(struct translator *t, struct error *err)
{
    static const char *const groups[] = {"(?:", "(?i:", "(?!", "(?=", "(?<!", "(?<=", "(?>"};

    if (!starts(t, "(?") && !starts(t, "(*")) {
        t->at++;
        return put(t, "(", err);
    }
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
        if (starts(t, groups[i])) {
            t->at += strlen(groups[i]);
            return put(t, groups[i], err);
        }
    return refuse(t, "a group", err);
}

static int translate_one(struct translator *t, struct error *err)
{
    char c = t->pattern[t->at];

    if (c == '\\')
        return translate_escape(t, err);
    if (t->in_class)
        return translate_in_class(t, err);
    if (c == '(')
        return translate_group(t, err);
    if (starts(t, "{,") || starts(t, "}+") || starts(t, "}?"))
        return refuse(t, "an interval", err); /* the two do not agree on it */
    t->at++;
    if (c == '^' || c == '$')
        return put(t, c == '^' ? "(?m:^)" : "(?m:$)", err);
    if (c == '[') {
        size_t skip = t->at < t->len && t->pattern[t->at] == '^';

        t->in_class = 1;
        if (t->at + skip < t->len && t->pattern[t->at + skip] == ']')
            return refuse(t, "empty brackets", err);
        t->at += skip;
        return put(t, skip ? "[^" : "[", err);
    }
    return bytes_append(&t->out, &c, 1, err);
}

/* One pattern is one thread's at creation, then everybody's; a match is one thread's. */
struct regex {
    pcre2_code *code;
};

struct regex_match {
    pcre2_match_data *data;
};

static pcre2_code *compile(const char *pattern, size_t len, uint32_t options, struct error *err)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int code = 0;
    size_t offset = 0;
    pcre2_code *re = NULL;

    if (!context) {
        error_set(err, STATUS_NOMEM, "no memory for a pattern");
        return NULL;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 50);
    re = pcre2_compile((PCRE2_SPTR)pattern, len, options, &code, &offset, context);
    if (!re)
        error_set(err, STATUS_INVALID, "the pattern \"%.*s\" is wrong: PCRE2 error %d at byte %zu",
                  (int)(len < 80 ? len : 80), pattern, code, offset);
    pcre2_compile_context_free(context);
    return re;
}

struct regex *regex_create(const char *pattern, size_t len, int literal, struct error *err)
{
    struct translator t = {.pattern = pattern, .len = len};
    struct regex *r = calloc(1, sizeof(*r));

    if (!r) {
        error_set(err, STATUS_NOMEM, "no memory for a pattern");
        return NULL;
    }
    if (len == 0 || len > 65536) {
        error_set(err, STATUS_INVALID, "a pattern of %zu bytes: must be 1..65536", len);
        goto out;
    }
    while (!literal && t.at < len)
        if (translate_one(&t, err))
            goto out;
    r->code = literal ? compile(pattern, len, PCRE2_UTF | PCRE2_LITERAL, err)
                      : compile(t.out.data, t.out.len,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, err);
    /* Where no executable memory is to be had, the interpreter does the same, slower. */
    if (r->code)
        pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
out:
    bytes_free(&t.out);
    if (r->code)
        return r;
    free(r);
    return NULL;
}

void regex_destroy(struct regex *r)
{
    if (!r)
        return;
    pcre2_code_free(r->code);
    free(r);
}

struct regex_match *regex_match_create(struct error *err)
{
    struct regex_match *m = calloc(1, sizeof(*m));

    if (m)
        m->data = pcre2_match_data_create(1, NULL);
    if (m && m->data)
        return m;
    free(m);
    error_set(err, STATUS_NOMEM, "no memory to split a text");
    return NULL;
}

void regex_match_destroy(struct regex_match *m)
{
    if (!m)
        return;
    pcre2_match_data_free(m->data);
    free(m);
}

int regex_find(const struct regex *r, struct regex_match *m, const char *text, size_t len,
               size_t from, size_t *begin, size_t *end, struct error *err)
{
    const size_t *range;
    int found =
        pcre2_match(r->code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK, m->data, NULL);

    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(r->code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            m->data, NULL);
    if (found == PCRE2_ERROR_NOMATCH)
        return 0;
    if (found < 0)
        return error_set(err, STATUS_INVALID, "the text cannot be split: PCRE2 error %d", found);
    range = pcre2_get_ovector_pointer(m->data);
    if (range[1] <= range[0])
        return error_set(err, STATUS_UNSUPPORTED, "a pattern of the tokenizer matches nothing");
    *begin = range[0];
    *end = range[1];
    return 1;
}
