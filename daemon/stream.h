/*
 * stream.h - the connection of one generation: close detection, server-sent events, delivered
 * counts
 *
 * While a request waits for its answer, libevent's HTTP code reads nothing and so would not see the
 * client leave; stream_open() keeps the socket readable without handing the bytes on.  What is
 * written is counted as it leaves for the kernel: `delivered` hears of a mark when all bytes before
 * it have been taken by the socket; a SIGKILL between the two loses the mark, so that the count may
 * be short of that one write and is never beyond.  Event format: HTML standard, "Server-sent
 * events".
 */
#ifndef MP_DAEMON_STREAM_H
#define MP_DAEMON_STREAM_H

#include <event2/buffer.h>
#include <event2/http.h>
#include <jansson.h>
#include <stdint.h>

#include "common/error.h"

#define STREAM_UNREAD_MAX (4u << 20) /* bytes that a slow reader may leave before it is cut off */
#define STREAM_IDLE_S     120 /* a connection without a request, a reader that takes nothing */

struct stream_mark {
    uint64_t end; /* byte that the mark stands behind */
    uint32_t tokens;
};

struct stream {
    struct evhttp_request *req; /* NULL: the client has gone, or the answer is complete */
    const char *id;
    struct evbuffer_cb_entry *watch;
    int started;               /* the headers of an event stream are out */
    uint64_t queued, written;  /* bytes */
    struct stream_mark *marks; /* FIFO: [first, first + count) */
    size_t first, count, room;
    void (*gone)(void *arg); /* the client has left before the answer was complete */
    void (*delivered)(void *arg, uint32_t tokens);
    void *arg;
};

/* Watch a request; id is borrowed.  The callbacks may come from the loop from now on. */
void stream_open(struct stream *s, struct evhttp_request *req, const char *id,
                 void (*gone)(void *arg), void (*delivered)(void *arg, uint32_t tokens), void *arg);
/* Forget the connection; a stream that is still open is cut off. */
void stream_close(struct stream *s);

/* One event; steals the reference.  tokens: the mark behind it, or 0.  -1: EXHAUSTED, the reader is
 * too slow; NOMEM. */
int stream_event(struct stream *s, json_t *event, uint32_t tokens, struct error *err);
/* "[DONE]" and the end. */
void stream_end(struct stream *s);
/* A whole answer instead of events: hands the request over, to be answered at once. */
struct evhttp_request *stream_take(struct stream *s);

#endif
