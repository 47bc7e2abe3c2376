/*
 * wire.h - messages of the control socket
 *
 * A frame is a 32-bit little-endian body length and the body: `key NUL value NUL` pairs of UTF-8
 * text.  The first pair's key is "type".  Unknown keys are ignored, a missing key is the handler's
 * error.  Nothing nests: an answer of many rows is many frames and a last one of type "end".
 * HACKING.md ("Control protocol") lists the types.  No allocation; a message is a fixed buffer.
 */
#ifndef MP_COMMON_WIRE_H
#define MP_COMMON_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define WIRE_VERSION  1
#define WIRE_BODY_MAX 16384u
#define WIRE_HEAD     4u

struct wire {
    uint32_t len; /* of body, bytes */
    int overflow; /* a put did not fit: wire_send and wire_frame refuse it */
    char body[WIRE_BODY_MAX];
};

/* Empty the message and put its type. */
void wire_start(struct wire *w, const char *type);
/* Append a pair.  NULL value: nothing.  What does not fit sets overflow. */
void wire_put(struct wire *w, const char *key, const char *value);
void wire_putf(struct wire *w, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void wire_put_u64(struct wire *w, const char *key, uint64_t value);
void wire_put_i64(struct wire *w, const char *key, int64_t value);
/* A reply of type "error" with the error's status word and text. */
void wire_put_error(struct wire *w, const struct error *err);

const char *wire_type(const struct wire *w);
/* NULL if the key is not there.  Points into w. */
const char *wire_get(const struct wire *w, const char *key);
/* STATUS_INVALID if missing or no decimal number in range; the text names the key. */
int wire_get_u64(const struct wire *w, const char *key, uint64_t *value, struct error *err);
int wire_get_i64(const struct wire *w, const char *key, int64_t *value, struct error *err);
/* Walk the pairs: *at starts at 0; 0 when there are no more. */
int wire_next(const struct wire *w, uint32_t *at, const char **key, const char **value);
/* If w is an "error" message, copy it into err and return -1; else 0. */
int wire_error(const struct wire *w, struct error *err);

/*
 * Take one frame from the front of buf.  Returns its whole size in bytes with w filled, 0 if more
 * bytes are needed, -1 (CORRUPT) if it can never be a frame.
 */
long wire_decode(struct wire *w, const void *buf, size_t len, struct error *err);
/* The head of w's frame; the frame is head then w->body[0..len). */
int wire_head(const struct wire *w, unsigned char head[WIRE_HEAD], struct error *err);

/* Whole frames over a stream socket, by clock_monotonic_us deadline.  TIMEOUT, UNAVAILABLE (the
 * other side closed), IO, CORRUPT. */
int wire_send(int fd, const struct wire *w, int64_t deadline_us, struct error *err);
int wire_recv(int fd, struct wire *w, int64_t deadline_us, struct error *err);

#endif
