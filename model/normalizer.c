#include "model/normalizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/json_member.h"
#include "model/utf8.h"

#define STEPS_MAX 16
#define DEPTH_MAX 8

enum step_kind { STEP_UNICODE, STEP_PREPEND, STEP_REPLACE, STEP_STRIP };

struct step {
    enum step_kind kind;
    int options;   /* utf8proc's, of UNICODE */
    char *content; /* of PREPEND and REPLACE; owned */
    size_t content_len;
    struct regex *regex; /* of REPLACE; owned */
    int left, right;     /* of STRIP */
};

struct normalizer {
    struct step steps[STEPS_MAX];
    size_t count;
};

/* Creating */

struct normalizer *normalizer_create(struct error *err)
{
    struct normalizer *n = calloc(1, sizeof(*n));

    if (!n)
        error_set(err, STATUS_NOMEM, "no memory for a normalizer");
    return n;
}

static void free_step(struct step *s)
{
    free(s->content);
    regex_destroy(s->regex);
}

void normalizer_destroy(struct normalizer *n)
{
    if (!n)
        return;
    for (size_t i = 0; i < n->count; i++)
        free_step(&n->steps[i]);
    free(n);
}

/* Takes what the step owns, also on failure. */
static int add_step(struct normalizer *n, struct step *s, struct error *err)
{
    if (n->count == STEPS_MAX) {
        free_step(s);
        return error_set(err, STATUS_UNSUPPORTED, "a normalizer of more than %d steps", STEPS_MAX);
    }
    n->steps[n->count++] = *s;
    return 0;
}

static int add_unicode(struct normalizer *n, int options, struct error *err)
{
    struct step s = {.kind = STEP_UNICODE, .options = options | UTF8PROC_STABLE};

    return add_step(n, &s, err);
}

int normalizer_add_nfc(struct normalizer *n, struct error *err)
{
    return add_unicode(n, UTF8PROC_COMPOSE, err);
}

static int set_content(struct step *s, const char *content, size_t len, struct error *err)
{
    s->content = malloc(len + 1);
    if (!s->content)
        return error_set(err, STATUS_NOMEM, "no memory for a normalizer");
    memcpy(s->content, content, len + 1);
    s->content_len = len;
    return 0;
}

int normalizer_add_prepend(struct normalizer *n, const char *text, struct error *err)
{
    struct step s = {.kind = STEP_PREPEND};

    return set_content(&s, text, strlen(text), err) ? -1 : add_step(n, &s, err);
}

static int add_replace(struct normalizer *n, const char *pattern, size_t len, int literal,
                       const char *content, size_t content_len, struct error *err)
{
    struct step s = {.kind = STEP_REPLACE};

    s.regex = regex_create(pattern, len, literal, err);
    if (!s.regex || set_content(&s, content, content_len, err)) {
        regex_destroy(s.regex);
        return -1;
    }
    return add_step(n, &s, err);
}

int normalizer_add_replace(struct normalizer *n, const char *text, const char *content,
                           struct error *err)
{
    return add_replace(n, text, strlen(text), 1, content, strlen(content), err);
}

static int add_replace_json(struct normalizer *n, const json_t *json, struct error *err)
{
    const char *pattern, *content = member_string(json, "content", NULL, err);
    size_t len;
    int literal;

    if (!content || member_pattern(json, &pattern, &len, &literal, err))
        return -1;
    return add_replace(n, pattern, len, literal, content,
                       json_string_length(json_object_get(json, "content")), err);
}

static int add_strip_json(struct normalizer *n, const json_t *json, struct error *err)
{
    struct step s = {.kind = STEP_STRIP, .left = 1, .right = 1};

    if (member_bool(json, "strip_left", &s.left, err) ||
        member_bool(json, "strip_right", &s.right, err))
        return -1;
    return add_step(n, &s, err);
}

static int add_json(struct normalizer *n, const json_t *json, unsigned depth, struct error *err)
{
    static const struct {
        const char *type;
        int options;
    } forms[] = {{"NFC", UTF8PROC_COMPOSE},
                 {"NFD", UTF8PROC_DECOMPOSE},
                 {"NFKC", UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                 {"NFKD", UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
    const char *type = member_string(json, "type", NULL, err);
    const json_t *list, *one;
    size_t i;

    if (!type)
        return -1;
    for (i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
        if (strcmp(type, forms[i].type) == 0)
            return add_unicode(n, forms[i].options, err);
    if (strcmp(type, "Prepend") == 0) {
        const char *text = member_string(json, "prepend", NULL, err);

        return text ? normalizer_add_prepend(n, text, err) : -1;
    }
    if (strcmp(type, "Replace") == 0)
        return add_replace_json(n, json, err);
    if (strcmp(type, "Strip") == 0)
        return add_strip_json(n, json, err);
    if (strcmp(type, "Sequence") != 0 || depth == DEPTH_MAX)
        return refuse_type("normalizer", type, err);
    list = member_of(json, "normalizers");
    if (!json_is_array(list))
        return error_set(err, STATUS_INVALID, "\"normalizers\" is no list");
    json_array_foreach((json_t *)list, i, one) if (add_json(n, one, depth + 1, err)) return -1;
    return 0;
}

int normalizer_add_json(struct normalizer *n, const json_t *json, struct error *err)
{
    return add_json(n, json, 0, err);
}

/* Running */

static int is_ascii(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] >= 0x80)
            return 0;
    return 1;
}

/*
 * Hugging Face's normalization knows Unicode 9: what has got a combining class or a decomposition
 * since then stands in a text as it is, and nothing moves past it.  These are the characters that
 * the releases of utf8proc up to Unicode 17 treat otherwise.
 */
static const struct {
    uint32_t low, high;
} newer[] = {{0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
             {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
             {0x1abf, 0x1aff},   {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},
             {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x105c0, 0x105ff}, {0x10781, 0x10785},
             {0x10787, 0x107b0}, {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10d69, 0x10d6d},
             {0x10eab, 0x10eac}, {0x10efa, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
             {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x11380, 0x113ff}, {0x1145e, 0x1145e},
             {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e},
             {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
             {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
             {0x11f41, 0x11f42}, {0x16100, 0x1613f}, {0x16d40, 0x16d7f}, {0x16ff0, 0x16ff1},
             {0x1ccd6, 0x1ccf9}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
             {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef},
             {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}};

static int is_newer(uint32_t code)
{
    size_t low = 0, high = sizeof(newer) / sizeof(newer[0]);

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (code < newer[middle].low)
            high = middle;
        else if (code > newer[middle].high)
            low = middle + 1;
        else
            return 1;
    }
    return 0;
}

static int run_form(const struct step *s, const char *text, size_t len, struct bytes *out,
                    struct error *err)
{
    utf8proc_uint8_t *form = NULL;
    utf8proc_ssize_t got;
    int rv;

    if (is_ascii(text, len)) /* in every form already */
        return bytes_append(out, text, len, err);
    got = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &form,
                       (utf8proc_option_t)s->options);
    if (got < 0)
        return error_set(err, got == UTF8PROC_ERROR_NOMEM ? STATUS_NOMEM : STATUS_INVALID,
                         "the text cannot be normalized: %s", utf8proc_errmsg(got));
    rv = bytes_append(out, (const char *)form, (size_t)got, err);
    free(form);
    return rv;
}

static int run_unicode(const struct step *s, const char *text, size_t len, struct bytes *out,
                       struct error *err)
{
    size_t at = 0, begin = 0; /* of what has not been written yet */

    while (at < len) {
        size_t n = (size_t)utf8_measure(text + at, len - at);

        if (n > 1 && is_newer(utf8_decode(text + at, (int)n))) {
            if (run_form(s, text + begin, at - begin, out, err) ||
                bytes_append(out, text + at, n, err))
                return -1;
            begin = at + n;
        }
        at += n;
    }
    return run_form(s, text + begin, len - begin, out, err);
}

static int run_replace(const struct step *s, struct regex_match *match, const char *text,
                       size_t len, struct bytes *out, struct error *err)
{
    size_t at = 0, begin, end;

    while (at < len) {
        int found = regex_find(s->regex, match, text, len, at, &begin, &end, err);

        if (found < 0)
            return -1;
        if (found == 0)
            break;
        if (bytes_append(out, text + at, begin - at, err) ||
            bytes_append(out, s->content, s->content_len, err))
            return -1;
        at = end;
    }
    return bytes_append(out, text + at, len - at, err);
}

static int run_strip(const struct step *s, const char *text, size_t len, struct bytes *out,
                     struct error *err)
{
    size_t begin = s->left ? utf8_space_at_start(text, len) : 0;

    return bytes_append(out, text + begin,
                        s->right ? utf8_space_at_end(text + begin, len - begin) : len - begin, err);
}

static int run_step(const struct step *s, struct regex_match *match, const char *text, size_t len,
                    struct bytes *out, struct error *err)
{
    switch (s->kind) {
    case STEP_UNICODE:
        return run_unicode(s, text, len, out, err);
    case STEP_PREPEND:
        return len > 0 && bytes_append(out, s->content, s->content_len, err)
                   ? -1
                   : bytes_append(out, text, len, err);
    case STEP_REPLACE:
        return run_replace(s, match, text, len, out, err);
    case STEP_STRIP:
        return run_strip(s, text, len, out, err);
    }
    return error_set(err, STATUS_INTERNAL, "an unknown normalizer");
}

int normalizer_run(const struct normalizer *n, struct regex_match *match, const char *text,
                   size_t len, struct bytes *buffer, const char **out, size_t *out_len,
                   struct error *err)
{
    struct bytes next = {NULL, 0, 0};
    int rv = -1;

    *out = text;
    *out_len = len;
    for (size_t i = 0; n && i < n->count; i++) {
        struct bytes swap = *buffer;

        next.len = 0;
        if (run_step(&n->steps[i], match, *out, *out_len, &next, err))
            goto out;
        *buffer = next;
        next = swap;
        *out = buffer->len ? buffer->data : "";
        *out_len = buffer->len;
    }
    rv = 0;
out:
    bytes_free(&next);
    return rv;
}
