/*
 * added.h - added tokens: texts that are cut out of a text before anything else is done to it
 *
 * Of several that begin at the same place the longest one holds; the search goes on behind it.
 */
#ifndef MP_MODEL_ADDED_H
#define MP_MODEL_ADDED_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define ADDED_SPECIAL     1u /* looked for only where the caller wants so */
#define ADDED_SINGLE_WORD 2u /* not inside of a word */
#define ADDED_LSTRIP      4u /* takes the white space before it */
#define ADDED_RSTRIP      8u /* and behind it */

struct added_text {
    char *text; /* owned, NUL-terminated */
    size_t len;
    uint32_t token;
    unsigned flags;
};

struct added {
    struct added_text *texts; /* sorted once complete */
    size_t count, room;
    unsigned char begins[256]; /* one begins with this byte */
};

/* An empty text is none; of two alike the first holds.  UNSUPPORTED beyond 256 bytes. */
int added_add(struct added *a, const char *text, size_t len, uint32_t token, unsigned flags,
              struct error *err);
void added_complete(struct added *a);
void added_free(struct added *a);

/* A walk over a text; starts with text, len and special set and the rest zeroed. */
struct added_walk {
    const char *text;
    size_t len;
    int special;         /* look for special ones as well */
    size_t search, done; /* where to search on; what is behind us */
    size_t begin, end;   /* of the match */
    uint32_t token;
};

/* To the next match: 1, and what lies between the last one and it is [previous end, begin); at the
 * end 0 with begin == end == len. */
int added_next(const struct added *a, struct added_walk *w);

#endif
