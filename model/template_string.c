/*
 * template_string.c - UTF-8 and what Python's str does with it
 */
#include "model/template_internal.h"

#include <string.h>
#include <utf8proc.h>

/* --- characters ----------------------------------------------------------------------------- */

uint32_t tpl_next_char(struct tpl_string *s)
{
    const unsigned char *p = (const unsigned char *)s->data;
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    if (n > s->len)
        n = s->len; /* cannot be in valid UTF-8; still never read beyond */
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (p[i] & 0x3f);
    s->data += n;
    s->len -= n;
    return c;
}

uint32_t tpl_last_char(struct tpl_string *s)
{
    size_t n = 1;
    while (n < s->len && n < 4 && ((unsigned char)s->data[s->len - n] & 0xc0) == 0x80)
        n++;
    struct tpl_string last = {s->data + s->len - n, n};
    s->len -= n;
    return tpl_next_char(&last);
}

size_t tpl_char_count(struct tpl_string s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++)
        n += ((unsigned char)s.data[i] & 0xc0) != 0x80;
    return n;
}

size_t tpl_char_offset(struct tpl_string s, size_t index)
{
    struct tpl_string rest = s;
    while (rest.len && index > 0) {
        tpl_next_char(&rest);
        index--;
    }
    return s.len - rest.len;
}

size_t tpl_encode_char(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (c & 0x3f));
        c >>= 6;
    }
    out[0] = (char)((0xf00u >> n & 0xf0) | c);
    return n;
}

int tpl_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

int tpl_utf8_valid(const char *data, size_t len)
{
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)data;
    while (len > 0) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate(p, (utf8proc_ssize_t)(len < 4 ? len : 4), &c);
        if (n <= 0)
            return 0;
        p += n;
        len -= (size_t)n;
    }
    return 1;
}

/* --- parts ---------------------------------------------------------------------------------- */

static int in_set(uint32_t c, struct tpl_string chars)
{
    if (!chars.data)
        return tpl_is_space(c);
    while (chars.len)
        if (tpl_next_char(&chars) == c)
            return 1;
    return 0;
}

struct tpl_string tpl_strip(struct tpl_string s, struct tpl_string chars, int left, int right)
{
    while (left && s.len) {
        struct tpl_string rest = s;
        if (!in_set(tpl_next_char(&rest), chars))
            break;
        s = rest;
    }
    while (right && s.len) {
        struct tpl_string rest = s;
        if (!in_set(tpl_last_char(&rest), chars))
            break;
        s = rest;
    }
    return s;
}

int64_t tpl_find(struct tpl_string s, struct tpl_string needle)
{
    if (needle.len == 0)
        return 0;
    if (s.len < needle.len)
        return -1;
    const char *found = memmem(s.data, s.len, needle.data, needle.len);
    return found ? found - s.data : -1;
}

static int is_line_end(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

int tpl_split_lines(struct tpl_render *r, struct tpl_string s, int keep, struct tpl_value *out)
{
    size_t count = 0, capacity = 1;
    struct tpl_string rest = s;
    while (rest.len)
        capacity += (size_t)is_line_end(tpl_next_char(&rest));
    struct tpl_value *lines = tpl_alloc(r, capacity, sizeof *lines);
    if (!lines || tpl_scan(r, s.len) != 0)
        return -1;
    while (s.len) {
        const char *start = s.data, *end = s.data;
        uint32_t c = 0;
        while (s.len && !is_line_end(c)) {
            end = s.data;
            c = tpl_next_char(&s);
        }
        if (!is_line_end(c))
            end = s.data;
        else if (c == '\r' && s.len && *s.data == '\n')
            tpl_next_char(&s);
        lines[count++] = tpl_text_value(start, (size_t)((keep ? s.data : end) - start));
    }
    return tpl_sequence_value(r, TPL_LIST, lines, count, out);
}

/* --- changes -------------------------------------------------------------------------------- */

static int is_cased(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
           category == UTF8PROC_CATEGORY_LT;
}

static uint32_t convert(uint32_t c, enum tpl_case how)
{
    utf8proc_int32_t v = (utf8proc_int32_t)c;
    return (uint32_t)(how == TPL_UPPER   ? utf8proc_toupper(v)
                      : how == TPL_LOWER ? utf8proc_tolower(v)
                                         : utf8proc_totitle(v));
}

/* What becomes of a character behind `before` (0: at the start). */
static enum tpl_case case_at(enum tpl_case how, uint32_t before)
{
    switch (how) {
    case TPL_CAPITALIZE:
        return before == 0 ? TPL_TITLE : TPL_LOWER;
    case TPL_TITLE:
        return is_cased(before) ? TPL_LOWER : TPL_TITLE;
    case TPL_TITLE_FILTER: /* Jinja's filter: words begin behind these and white space */
        return before == 0 || tpl_is_space(before) ||
                       (before < 0x80 && strchr("-({[<", (int)before))
                   ? TPL_UPPER
                   : TPL_LOWER;
    default:
        return how;
    }
}

int tpl_change_case(struct tpl_render *r, struct tpl_string s, enum tpl_case how,
                    struct tpl_value *out)
{
    struct tpl_text text = {NULL, 0, 0};
    uint32_t before = 0;
    while (s.len) {
        char bytes[8];
        size_t n;
        uint32_t c = tpl_next_char(&s);
        enum tpl_case to = case_at(how, before);
        if (c == 0xdf && to != TPL_LOWER) { /* the sharp s is the one with two letters above */
            memcpy(bytes, to == TPL_UPPER ? "SS" : "Ss", 2);
            n = 2;
        } else {
            n = tpl_encode_char(convert(c, to), bytes);
        }
        if (tpl_append(r, &text, bytes, n) != 0)
            return -1;
        before = c;
    }
    *out = tpl_text_value(text.data, text.len);
    return 0;
}

/* An empty `from` stands before every character and at the end. */
static int insert_between(struct tpl_render *r, struct tpl_string s, struct tpl_string to,
                          int64_t limit, struct tpl_value *out)
{
    struct tpl_text text = {NULL, 0, 0};
    for (; limit != 0; limit--) {
        const char *from = s.data;
        if (tpl_append_string(r, &text, to) != 0)
            return -1;
        if (s.len == 0)
            break;
        tpl_next_char(&s);
        if (tpl_append(r, &text, from, (size_t)(s.data - from)) != 0)
            return -1;
    }
    if (tpl_append_string(r, &text, s) != 0)
        return -1;
    *out = tpl_text_value(text.data, text.len);
    return 0;
}

int tpl_replace(struct tpl_render *r, struct tpl_string s, struct tpl_string from,
                struct tpl_string to, int64_t limit, struct tpl_value *out)
{
    struct tpl_text text = {NULL, 0, 0};
    if (from.len == 0)
        return insert_between(r, s, to, limit, out);
    for (; limit != 0; limit--) {
        int64_t at = tpl_find(s, from);
        if (at < 0)
            break;
        if (tpl_append(r, &text, s.data, (size_t)at) != 0 || tpl_append_string(r, &text, to) != 0 ||
            tpl_step(r, 1) != 0)
            return -1;
        s.data += (size_t)at + from.len;
        s.len -= (size_t)at + from.len;
    }
    if (tpl_append_string(r, &text, s) != 0)
        return -1;
    *out = tpl_text_value(text.data, text.len);
    return 0;
}
