/* stream.c - the connection of one generation; see stream.h */
#include "daemon/stream.h"

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/reply.h"

#define UNSOLICITED_MAX 65536u /* bytes that a client may send before its answer is complete */

static struct bufferevent *bufferevent_of(const struct stream *s)
{
    return evhttp_connection_get_bufferevent(evhttp_request_get_connection(s->req));
}

static void on_output(struct evbuffer *buf, const struct evbuffer_cb_info *info, void *arg)
{
    struct stream *s = arg;

    (void)buf;
    s->queued += info->n_added;
    s->written += info->n_deleted;
    while (s->count && s->marks[s->first].end <= s->written) {
        uint32_t tokens = s->marks[s->first].tokens;
        s->first++;
        s->count--;
        s->delivered(s->arg, tokens);
    }
}

/* Stop watching; the request is no longer ours. */
static void let_go(struct stream *s)
{
    struct evhttp_connection *c = evhttp_request_get_connection(s->req);

    if (c) {
        evhttp_connection_set_closecb(c, NULL, NULL);
        evbuffer_remove_cb_entry(bufferevent_get_output(evhttp_connection_get_bufferevent(c)),
                                 s->watch);
    }
    s->watch = NULL;
    s->req = NULL;
}

/* The connection is being freed.  A request that was waiting for its answer has been taken off it
 * before (evhttp then leaves it to us), unless it is we who free the connection. */
static void on_close(struct evhttp_connection *c, void *arg)
{
    struct stream *s = arg;
    struct evhttp_request *req = s->req;

    evbuffer_remove_cb_entry(bufferevent_get_output(evhttp_connection_get_bufferevent(c)),
                             s->watch);
    s->watch = NULL;
    s->req = NULL;
    if (!evhttp_request_get_connection(req))
        evhttp_request_free(req);
    s->gone(s->arg);
}

/* The answer is out: the connection waits for the next request again. */
static void on_complete(struct evhttp_request *req, void *arg)
{
    struct timeval idle = {.tv_sec = STREAM_IDLE_S};
    struct evhttp_connection *c = evhttp_request_get_connection(req);

    (void)arg;
    if (!c)
        return;
    bufferevent_set_timeouts(evhttp_connection_get_bufferevent(c), &idle, &idle);
    bufferevent_setwatermark(evhttp_connection_get_bufferevent(c), EV_READ, 0, 0);
}

void stream_open(struct stream *s, struct evhttp_request *req, const char *id,
                 void (*gone)(void *arg), void (*delivered)(void *arg, uint32_t tokens), void *arg)
{
    struct evhttp_connection *c = evhttp_request_get_connection(req);
    struct bufferevent *bev = evhttp_connection_get_bufferevent(c);
    struct timeval idle = {.tv_sec = STREAM_IDLE_S};
    bufferevent_data_cb on_read, on_write;
    bufferevent_event_cb on_event;
    void *evhttp_arg;

    *s = (struct stream){.req = req, .id = id, .gone = gone, .delivered = delivered, .arg = arg};
    s->queued = evbuffer_get_length(bufferevent_get_output(bev));
    s->watch = evbuffer_add_cb(bufferevent_get_output(bev), on_output, s);
    evhttp_connection_set_closecb(c, on_close, s);
    evhttp_request_set_on_complete_cb(req, on_complete, NULL);

    /* As evhttp itself does while it writes: read on, to learn of the end, without a read callback;
     * it sets its own callbacks again for the next request. */
    bufferevent_getcb(bev, &on_read, &on_write, &on_event, &evhttp_arg);
    bufferevent_setcb(bev, NULL, on_write, on_event, evhttp_arg);
    bufferevent_setwatermark(bev, EV_READ, 0, UNSOLICITED_MAX);
    bufferevent_set_timeouts(bev, NULL, &idle);
    bufferevent_enable(bev, EV_READ);
}

void stream_close(struct stream *s)
{
    if (s->req) {
        struct evhttp_connection *c = evhttp_request_get_connection(s->req);
        let_go(s);
        evhttp_connection_free(c); /* and the request with it */
    }
    free(s->marks);
    s->marks = NULL;
    s->count = s->room = 0;
}

/* --- events -------------------------------------------------------------------------------------
 */

static int add_mark(struct stream *s, uint32_t tokens, struct error *err)
{
    if (s->first && s->first + s->count == s->room) {
        memmove(s->marks, s->marks + s->first, s->count * sizeof *s->marks);
        s->first = 0;
    }
    if (s->first + s->count == s->room) {
        size_t room = s->room ? s->room * 2 : 16;
        struct stream_mark *marks = realloc(s->marks, room * sizeof *marks);
        if (!marks)
            return error_set(err, STATUS_NOMEM, "no memory for a stream");
        s->marks = marks;
        s->room = room;
    }
    s->marks[s->first + s->count++] = (struct stream_mark){s->queued, tokens};
    return 0;
}

static void start(struct stream *s)
{
    if (s->started)
        return;
    s->started = 1;
    reply_headers(s->req, s->id, "text/event-stream; charset=utf-8");
    evhttp_send_reply_start(s->req, 200, "OK");
}

static int send_chunk(struct stream *s, const char *data, struct error *err)
{
    struct evbuffer *buf = evbuffer_new();

    if (!buf || evbuffer_add_printf(buf, "data: %s\n\n", data) < 0) {
        if (buf)
            evbuffer_free(buf);
        return error_set(err, STATUS_NOMEM, "no memory for an event");
    }
    start(s);
    evhttp_send_reply_chunk(s->req, buf);
    evbuffer_free(buf);
    return 0;
}

int stream_event(struct stream *s, json_t *event, uint32_t tokens, struct error *err)
{
    char *text = event ? json_dumps(event, JSON_COMPACT) : NULL;

    json_decref(event);
    if (!text)
        return error_set(err, STATUS_NOMEM, "no memory for an event");
    int rv = send_chunk(s, text, err);
    free(text);
    if (rv == 0 && tokens)
        rv = add_mark(s, tokens, err);
    if (rv == 0 &&
        evbuffer_get_length(bufferevent_get_output(bufferevent_of(s))) > STREAM_UNREAD_MAX)
        return error_set(err, STATUS_EXHAUSTED, "the client has left more than %u bytes unread",
                         STREAM_UNREAD_MAX);
    return rv;
}

void stream_end(struct stream *s)
{
    struct evhttp_request *req = s->req;

    send_chunk(s, "[DONE]", NULL);
    let_go(s);
    evhttp_send_reply_end(req);
}

struct evhttp_request *stream_take(struct stream *s)
{
    struct evhttp_request *req = s->req;

    let_go(s);
    return req;
}
