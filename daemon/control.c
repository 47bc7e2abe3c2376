/* control.c - the control socket: connections, frames, who may ask */
#include "daemon/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/buffer.h>

#include "common/log.h"

#define FRAME_MAX    (WIRE_HEAD + WIRE_BODY_MAX)
#define GREETING_S   10     /* to say hello in */
#define OUTPUT_S     30     /* a client that reads nothing for so long is dropped */
#define ACCEPT_AGAIN 100000 /* us, after descriptors ran out */

struct request {
    const char *type;
    int (*handle)(struct conn *conn, const struct wire *request, struct error *err);
};

static const struct request requests[] = {
    {"acct", control_acct},     {"drain", control_drain},   {"grant", control_grant},
    {"lease", control_lease},   {"list", control_list},     {"load", control_load},
    {"resume", control_resume}, {"status", control_status}, {"unload", control_unload},
};

/* --- connections ------------------------------------------------------------------------------ */

struct conn *control_find(const struct control *c, uint64_t id)
{
    for (struct conn *conn = c->conns; conn; conn = conn->next)
        if (conn->id == id)
            return conn;
    return NULL;
}

static void conn_free(struct conn *conn)
{
    *conn->link = conn->next;
    if (conn->next)
        conn->next->link = conn->link;
    conn->control->count--;
    control_acct_free(conn->walk);
    bufferevent_free(conn->bev);
    free(conn);
}

/* The peer has gone, or we want it gone: the grant that it held ends. */
static void conn_close(struct conn *conn)
{
    struct leases *l = conn->control->f->leases;
    struct grant *g = conn->grant;

    conn_free(conn);
    if (g)
        leases_close(l, g);
}

/* Send what is queued, then close. */
static void conn_finish(struct conn *conn)
{
    conn->closing = 1;
    bufferevent_disable(conn->bev, EV_READ);
    bufferevent_trigger(conn->bev, EV_WRITE, BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
}

void conn_send(struct conn *conn, const struct wire *w)
{
    unsigned char head[WIRE_HEAD];
    struct error err;

    if (wire_head(w, head, &err) < 0) {
        log_error("control: a message of type %s: %s", wire_type(w), err.text);
        conn_finish(conn);
        return;
    }
    if (bufferevent_write(conn->bev, head, sizeof(head)) < 0 ||
        bufferevent_write(conn->bev, w->body, w->len) < 0)
        conn_finish(conn);
}

static void on_read(struct bufferevent *bev, void *arg);

/* Ready for the next request, which may have come already: it is looked at from the loop. */
static void conn_next(struct conn *conn)
{
    conn->busy = 0;
    bufferevent_trigger(conn->bev, EV_READ, BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
}

void conn_answer(struct conn *conn, const struct wire *w)
{
    conn_send(conn, w);
    conn_next(conn);
}

void conn_refuse(struct conn *conn, const struct error *err)
{
    struct wire w;

    wire_start(&w, "");
    wire_put_error(&w, err);
    conn_answer(conn, &w);
}

void conn_end(struct conn *conn)
{
    struct wire w;

    wire_start(&w, "end");
    conn_answer(conn, &w);
}

int conn_check_admin(const struct conn *conn, const char *what, struct error *err)
{
    if (conn->uid == 0 || conn->uid == geteuid())
        return 0;
    return error_set(err, STATUS_DENIED, "%s is for root and the daemon's user, not for uid %ld",
                     what, (long)conn->uid);
}

/* --- requests --------------------------------------------------------------------------------- */

static int greet(struct conn *conn, const struct wire *request, struct error *err)
{
    const struct front *f = conn->control->f;
    struct wire w;
    uint64_t version;

    if (strcmp(wire_type(request), "hello") != 0)
        return error_set(err, STATUS_INVALID, "the first message must be \"hello\", not \"%.40s\"",
                         wire_type(request));
    if (wire_get_u64(request, "version", &version, err) < 0)
        return -1;
    if (version == 0 || version > WIRE_VERSION)
        return error_set(err, STATUS_UNSUPPORTED,
                         "protocol version %llu: this modelpoold (%s) speaks %d; install programs "
                         "of one release",
                         (unsigned long long)version, MODELPOOL_RELEASE, WIRE_VERSION);
    wire_start(&w, "hello");
    wire_put_u64(&w, "version", WIRE_VERSION);
    wire_put(&w, "release", MODELPOOL_RELEASE);
    wire_put(&w, "cluster", f->config->cluster);
    wire_put(&w, "node", f->config->node);
    wire_put(&w, "base_url", f->base_url);
    wire_put(&w, "http_socket", f->http_socket);
    wire_put_i64(&w, "pid", getpid());
    conn->greeted = 1;
    const struct timeval output = {.tv_sec = OUTPUT_S};
    bufferevent_set_timeouts(conn->bev, NULL, &output);
    conn_answer(conn, &w);
    return 0;
}

static void dispatch(struct conn *conn, const struct wire *request)
{
    const char *type = wire_type(request);
    struct error err = {.status = STATUS_OK};
    size_t i = 0, count = sizeof(requests) / sizeof(*requests);

    conn->busy = 1;
    if (!conn->greeted) {
        if (greet(conn, request, &err) < 0) {
            conn_refuse(conn, &err);
            conn_finish(conn);
        }
        return;
    }
    while (i < count && strcmp(requests[i].type, type) != 0)
        i++;
    if (i == count) {
        error_set(&err, STATUS_UNSUPPORTED, "modelpoold %s knows no request \"%.40s\"",
                  MODELPOOL_RELEASE, type);
        conn_refuse(conn, &err);
    } else if (requests[i].handle(conn, request, &err) < 0) {
        conn_refuse(conn, &err);
    }
}

static void on_read(struct bufferevent *bev, void *arg)
{
    struct conn *conn = arg;
    struct evbuffer *in = bufferevent_get_input(bev);
    struct wire request;
    struct error err;

    while (!conn->busy && !conn->closing &&
           evbuffer_get_length(bufferevent_get_output(bev)) < CONTROL_OUTPUT_HIGH) {
        size_t len = evbuffer_get_length(in);
        if (len > FRAME_MAX)
            len = FRAME_MAX;
        if (len == 0)
            return;
        long used = wire_decode(&request, evbuffer_pullup(in, (ev_ssize_t)len), len, &err);
        if (used == 0)
            return;
        if (used < 0) {
            conn_refuse(conn, &err);
            conn_finish(conn);
            return;
        }
        evbuffer_drain(in, (size_t)used);
        dispatch(conn, &request);
    }
}

static void on_written(struct bufferevent *bev, void *arg)
{
    struct conn *conn = arg;

    if (evbuffer_get_length(bufferevent_get_output(bev)) > 0)
        return;
    if (conn->closing)
        conn_close(conn);
    else if (conn->walk)
        control_acct_continue(conn);
    else if (!conn->busy)
        on_read(bev, conn);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    (void)bev;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR | BEV_EVENT_TIMEOUT))
        conn_close(arg);
}

/* --- accepting -------------------------------------------------------------------------------- */

/* Too many connections: UNAVAILABLE. */
static int check_limits(const struct control *c, uid_t uid, struct error *err)
{
    size_t same = 0, most = uid ? CONTROL_CONNS_MAX - CONTROL_CONNS_ROOT : CONTROL_CONNS_MAX;

    for (const struct conn *conn = c->conns; conn; conn = conn->next)
        if (conn->uid == uid)
            same++;
    if (uid && same >= CONTROL_CONNS_UID)
        return error_set(err, STATUS_UNAVAILABLE,
                         "uid %ld has %u connections to modelpoold already", (long)uid,
                         CONTROL_CONNS_UID);
    if (c->count >= most)
        return error_set(err, STATUS_UNAVAILABLE, "modelpoold has %zu connections already",
                         c->count);
    return 0;
}

static struct conn *conn_create(struct control *c, int fd, uid_t uid)
{
    struct conn *conn = calloc(1, sizeof(*conn));
    struct bufferevent *bev =
        conn ? bufferevent_socket_new(c->f->base, fd, BEV_OPT_CLOSE_ON_FREE) : NULL;
    const struct timeval greeting = {.tv_sec = GREETING_S}, output = {.tv_sec = OUTPUT_S};

    if (!bev) {
        free(conn);
        close(fd);
        return NULL;
    }
    conn->control = c;
    conn->bev = bev;
    conn->id = ++c->last_id;
    conn->uid = uid;
    conn->next = c->conns;
    conn->link = &c->conns;
    if (conn->next)
        conn->next->link = &conn->next;
    c->conns = conn;
    c->count++;
    bufferevent_setcb(bev, on_read, on_written, on_event, conn);
    bufferevent_setwatermark(bev, EV_READ, 0, FRAME_MAX);
    bufferevent_set_timeouts(bev, &greeting, &output);
    bufferevent_enable(bev, EV_READ | EV_WRITE);
    return conn;
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address,
                      int len, void *arg)
{
    struct control *c = arg;
    struct ucred peer;
    socklen_t size = sizeof(peer);
    struct error err;

    (void)listener;
    (void)address;
    (void)len;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
        log_warn("control: SO_PEERCRED: %s", strerror(errno));
        close(fd);
        return;
    }
    int full = check_limits(c, peer.uid, &err);
    struct conn *conn = conn_create(c, fd, peer.uid);
    if (conn && full < 0) {
        conn_refuse(conn, &err);
        conn_finish(conn);
    }
}

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
    struct control *c = arg;

    (void)fd;
    (void)what;
    evconnlistener_enable(c->listener);
}

/* Out of descriptors or memory: the listener would spin, so it rests. */
static void on_accept_error(struct evconnlistener *listener, void *arg)
{
    struct control *c = arg;
    const struct timeval rest = {.tv_usec = ACCEPT_AGAIN};

    log_warn("control: accept: %s", strerror(errno));
    evconnlistener_disable(listener);
    event_add(c->again, &rest);
}

struct control *control_create(struct front *f, int listen_fd, struct error *err)
{
    struct control *c = calloc(1, sizeof(*c));

    if (!c) {
        error_set(err, STATUS_NOMEM, "no memory for the control socket");
        return NULL;
    }
    c->f = f;
    evutil_make_socket_nonblocking(listen_fd);
    c->again = evtimer_new(f->base, on_accept_again, c);
    c->listener = evconnlistener_new(f->base, on_accept, c,
                                     LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_CLOSE_ON_FREE, 0, listen_fd);
    if (!c->again || !c->listener) {
        error_set(err, STATUS_IO, "the control socket cannot be watched");
        control_destroy(c);
        return NULL;
    }
    evconnlistener_set_error_cb(c->listener, on_accept_error);
    return c;
}

/* Grants of steps outlive us: they are not closed, and the next daemon reads them back. */
void control_destroy(struct control *c)
{
    if (!c)
        return;
    while (c->conns)
        conn_free(c->conns);
    if (c->listener)
        evconnlistener_free(c->listener);
    if (c->again)
        event_free(c->again);
    free(c);
}
