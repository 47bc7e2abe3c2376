/* stop.c - stop strings over text that comes in pieces; see stop.h */
#include "daemon/stop.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int stop_add(struct stop *s, const char *string, size_t len, struct error *err)
{
    if (s->count == STOP_STRINGS_MAX)
        return error_set(err, STATUS_INVALID, "more than %d stop strings", STOP_STRINGS_MAX);
    if (len == 0 || len > STOP_BYTES_MAX)
        return error_set(err, STATUS_INVALID, "a stop string must have 1 to %u bytes",
                         STOP_BYTES_MAX);
    char *copy = malloc(len);
    if (!copy)
        return error_set(err, STATUS_NOMEM, "no memory for a stop string");
    memcpy(copy, string, len);
    s->string[s->count] = copy;
    s->len[s->count++] = len;
    return 0;
}

int stop_copy(struct stop *to, const struct stop *from, struct error *err)
{
    for (size_t i = 0; i < from->count; i++)
        if (stop_add(to, from->string[i], from->len[i], err)) {
            stop_fini(to);
            return -1;
        }
    return 0;
}

void stop_fini(struct stop *s)
{
    for (size_t i = 0; i < s->count; i++)
        free(s->string[i]);
    free(s->text);
    *s = (struct stop){0};
}

/* Where the stop string begins that is complete first; SIZE_MAX if none is. */
static size_t first_match(const struct stop *s)
{
    size_t begin = SIZE_MAX, end = SIZE_MAX;

    for (size_t i = 0; i < s->count; i++) {
        const char *at = memmem(s->text, s->text_len, s->string[i], s->len[i]);
        if (!at)
            continue;
        size_t b = (size_t)(at - s->text);
        size_t e = b + s->len[i];
        if (e < end || (e == end && b < begin)) {
            begin = b;
            end = e;
        }
    }
    return begin;
}

/* Bytes at the end of the text that a stop string may begin with. */
static size_t open_suffix(const struct stop *s)
{
    size_t longest = 0;

    for (size_t i = 0; i < s->count; i++) {
        size_t n = s->len[i] - 1 < s->text_len ? s->len[i] - 1 : s->text_len;
        for (; n > longest; n--)
            if (memcmp(s->text + s->text_len - n, s->string[i], n) == 0)
                longest = n;
    }
    return longest;
}

/* Forget what the last call passed on, and make room for len more bytes. */
static int prepare(struct stop *s, size_t len, struct error *err)
{
    if (s->passed) {
        memmove(s->text, s->text + s->passed, s->text_len - s->passed);
        s->text_len -= s->passed;
        s->passed = 0;
    }
    if (s->room - s->text_len >= len && s->text)
        return 0;
    size_t room = (s->text_len + len) * 2 + 64;
    char *text = realloc(s->text, room);
    if (!text)
        return error_set(err, STATUS_NOMEM, "no memory for %zu bytes of text", room);
    s->text = text;
    s->room = room;
    return 0;
}

int stop_push(struct stop *s, const char *text, size_t len, const char **out, size_t *out_len,
              struct error *err)
{
    if (prepare(s, len, err))
        return -1;
    if (len)
        memcpy(s->text + s->text_len, text, len);
    s->text_len += len;

    size_t match = first_match(s);
    s->passed = match != SIZE_MAX ? match : s->text_len - open_suffix(s);
    *out = s->text;
    *out_len = s->passed;
    if (match == SIZE_MAX)
        return 0;
    s->text_len = s->passed; /* what follows is never passed on */
    return 1;
}

void stop_flush(struct stop *s, const char **out, size_t *out_len)
{
    *out = s->text ? s->text + s->passed : "";
    *out_len = s->text_len - s->passed;
    s->passed = s->text_len;
}

size_t stop_held(const struct stop *s)
{
    return s->text_len - s->passed;
}
