/*
 * stop.h - stop strings over text that comes in pieces
 *
 * Text is passed on as soon as no stop string can begin in it: a suffix that could is held back.
 * The string that is complete first wins, and of those that end at the same byte the longest; so
 * the outcome does not depend on how the text was cut into pieces.
 */
#ifndef MP_DAEMON_STOP_H
#define MP_DAEMON_STOP_H

#include <stddef.h>

#include "common/error.h"

#define STOP_STRINGS_MAX 16
#define STOP_BYTES_MAX   256u /* of one string */

struct stop {
    size_t count;
    char *string[STOP_STRINGS_MAX]; /* owned */
    size_t len[STOP_STRINGS_MAX];
    char *text; /* what was passed on by the last call, then what is held back */
    size_t passed, text_len, room;
};

/* Add a copy of a string of 1..STOP_BYTES_MAX bytes.  INVALID beyond the limits. */
int stop_add(struct stop *s, const char *string, size_t len, struct error *err);
/* The strings of one that has seen no text, into an empty one; on failure it stays empty. */
int stop_copy(struct stop *to, const struct stop *from, struct error *err);
void stop_fini(struct stop *s); /* a zeroed struct is a valid empty one */

/*
 * Append text.  *out, *out_len: what can be passed on now; valid until the next call.  Returns 1 if
 * a stop string was found (*out ends before it; nothing may be pushed any more), 0 if not, -1
 * (NOMEM).
 */
int stop_push(struct stop *s, const char *text, size_t len, const char **out, size_t *out_len,
              struct error *err);
/* No more text will come: what was held back. */
void stop_flush(struct stop *s, const char **out, size_t *out_len);
/* Bytes held back. */
size_t stop_held(const struct stop *s);

#endif
