/*
 * stream.h - one request to an OpenAI server, its answer printed as it comes
 */
#ifndef MP_CLI_STREAM_H
#define MP_CLI_STREAM_H

#include <stddef.h>
#include <stdio.h>

/*
 * POST body to base_url + path with the key, and write the text of each server-sent event to out.
 * Only http:// URLs.  Returns the program's exit code; errors have been printed.  Ctrl-C closes the
 * connection, which cancels the request.
 */
int stream_request(const char *base_url, const char *path, const char *key, const char *body,
                   FILE *out);

/* --- the parts, for tests --- */

#define SSE_LINE_MAX (1u << 20) /* of one event: longer ones are an error */

/* Server-sent events out of bytes that come in any pieces.  A zeroed struct is a valid empty one.
 */
struct sse {
    char *line;
    size_t len, room;
};
/* Take bytes; `event` gets the data of each event (NUL-terminated) and stops the walk by non-zero,
 * which is returned.  -1: a line is too long, or there is no memory. */
int sse_push(struct sse *s, const char *bytes, size_t len, int (*event)(char *data, void *arg),
             void *arg);
void sse_free(struct sse *s);

/* The text in a chunk of /v1/chat/completions or /v1/completions: *len bytes, NUL among them if the
 * model said so, malloc'd; NULL if it has none.  If the chunk is an error, *error is its message
 * (malloc'd). */
char *stream_chunk_text(const char *data, size_t *len, char **error);

#endif
