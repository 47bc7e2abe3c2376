/*
 * engine_link.c - datagrams to and from an engine
 */
#include "daemon/engine_link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/order.h"

#define EVENTS_PER_CALL 64 /* then the loop's other work has its turn */

struct packet {
    struct packet *next;
    uint32_t fd_count;
    int *fds; /* behind the bytes */
    size_t len;
    _Alignas(int) char bytes[];
};

struct engine_link {
    int fd;
    const struct engine_link_calls *calls;
    void *arg;
    struct event *readable, *writable;
    struct packet *head, **tail;
    size_t queued;
    int broken;
    char why[160];
    _Alignas(16) char buf[ORDER_BYTES_MAX];
};

/* --- breaking --------------------------------------------------------------------------------- */

void engine_link_break(struct engine_link *link, const char *why)
{
    if (link->broken)
        return;
    link->broken = 1;
    snprintf(link->why, sizeof link->why, "%s", why);
    event_active(link->readable, EV_READ, 0);
}

static void break_errno(struct engine_link *link, const char *what)
{
    char why[128];

    snprintf(why, sizeof why, "%s: %s", what, strerror(errno));
    engine_link_break(link, why);
}

/* --- sending ---------------------------------------------------------------------------------- */

/* 1: sent, 0: the socket is full, -1: the channel is broken. */
static int send_now(struct engine_link *link, const void *msg, size_t len, const int *fds,
                    uint32_t count)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(ORDER_FILES_MAX * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)msg, .iov_len = len};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (count > 0) {
        memset(&control, 0, sizeof control);
        mh.msg_control = &control;
        mh.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
    }
    do
        n = sendmsg(link->fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return 1;
    if (errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS) /* the last: descriptors that
                                                                         it has not taken yet */
        return 0;
    break_errno(link, "orders cannot be sent");
    return -1;
}

static void close_all(const int *fds, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        close(fds[i]);
}

static void enqueue(struct engine_link *link, const void *msg, size_t len, const int *fds,
                    uint32_t count)
{
    size_t at = (len + sizeof(int) - 1) / sizeof(int) * sizeof(int); /* of the descriptors */
    struct packet *p;

    if (link->queued + len > ENGINE_LINK_QUEUE_MAX) {
        engine_link_break(link, "it does not read its orders");
    } else if ((p = malloc(sizeof *p + at + count * sizeof(int))) == NULL) {
        engine_link_break(link, "out of memory for its orders");
    } else {
        p->next = NULL;
        p->fd_count = count;
        p->fds = (int *)(void *)(p->bytes + at);
        if (count > 0)
            memcpy(p->fds, fds, count * sizeof(int));
        p->len = len;
        memcpy(p->bytes, msg, len);
        *link->tail = p;
        link->tail = &p->next;
        link->queued += len;
        event_add(link->writable, NULL);
        return;
    }
    close_all(fds, count);
}

void engine_link_send_files(struct engine_link *link, const void *msg, size_t len, const int *fds,
                            uint32_t count)
{
    if (!link->broken && (link->head != NULL || send_now(link, msg, len, fds, count) == 0))
        enqueue(link, msg, len, fds, count);
    else
        close_all(fds, count);
}

void engine_link_send(struct engine_link *link, const void *msg, size_t len)
{
    engine_link_send_files(link, msg, len, NULL, 0);
}

static void drop_head(struct engine_link *link)
{
    struct packet *p = link->head;

    link->head = p->next;
    if (link->head == NULL)
        link->tail = &link->head;
    link->queued -= p->len;
    close_all(p->fds, p->fd_count);
    free(p);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct engine_link *link = arg;
    int sent = 1;

    (void)fd;
    (void)what;
    while (link->head != NULL && !link->broken && sent == 1) {
        const struct packet *p = link->head;

        sent = send_now(link, p->bytes, p->len, p->fds, p->fd_count);
        if (sent == 1)
            drop_head(link);
    }
    if (link->head != NULL && !link->broken)
        event_add(link->writable, NULL);
    else if (!link->broken)
        link->calls->drained(link->arg);
}

size_t engine_link_queued(const struct engine_link *link)
{
    return link->queued;
}

/* --- receiving -------------------------------------------------------------------------------- */

static size_t fixed_size(uint32_t kind)
{
    switch (kind) {
    case EVENT_READY:
        return sizeof(struct event_ready);
    case EVENT_MODEL:
        return sizeof(struct event_model);
    case EVENT_RESIDENCY:
        return sizeof(struct event_residency);
    case EVENT_LOGPROBS:
        return sizeof(struct event_logprobs);
    case EVENT_SEQ_FAULT:
        return sizeof(struct event_seq_fault);
    case EVENT_SEQ_MOVED:
        return sizeof(struct event_seq_moved);
    case EVENT_TURN_END:
        return sizeof(struct event_turn_end);
    case EVENT_MASTER:
        return sizeof(struct event_master);
    default:
        return 0;
    }
}

static void terminate(char *text, size_t size)
{
    text[size - 1] = '\0';
}

/* The length must be what the kind says; texts are terminated.  -1 if the datagram is no event. */
static int check(void *msg, size_t len)
{
    uint32_t kind;

    if (len < sizeof kind)
        return -1;
    memcpy(&kind, msg, sizeof kind);
    if (kind == EVENT_STEP) {
        const struct event_step *step = msg;

        if (len < sizeof *step || step->count > ORDER_ROWS_MAX ||
            len != sizeof *step + step->count * sizeof step->rows[0])
            return -1;
        return 0;
    }
    if (fixed_size(kind) == 0 || len != fixed_size(kind))
        return -1;
    if (kind == EVENT_LOGPROBS)
        return ((struct event_logprobs *)msg)->count > ORDER_TOP_MAX ? -1 : 0;
    if (kind == EVENT_READY)
        terminate(((struct event_ready *)msg)->device, sizeof((struct event_ready *)msg)->device);
    else if (kind == EVENT_MODEL)
        terminate(((struct event_model *)msg)->text, ORDER_TEXT_MAX);
    else if (kind == EVENT_SEQ_FAULT)
        terminate(((struct event_seq_fault *)msg)->text, ORDER_TEXT_MAX);
    else if (kind == EVENT_TURN_END)
        terminate(((struct event_turn_end *)msg)->text, ORDER_TEXT_MAX);
    else if (kind == EVENT_MASTER)
        terminate(((struct event_master *)msg)->text, ORDER_TEXT_MAX);
    return 0;
}

/* One datagram: 1 if there was one, 0 if none is there now. */
static int receive(struct engine_link *link)
{
    struct iovec iov = {.iov_base = link->buf, .iov_len = sizeof link->buf};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    do
        n = recvmsg(link->fd, &mh, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n < 0 && errno == ECONNRESET)
        return 1; /* it died with orders unread; what it said before is still there, then the end */
    if (n < 0)
        break_errno(link, "events cannot be read");
    else if (n == 0)
        engine_link_break(link, "it closed its channel");
    else if ((mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || check(link->buf, (size_t)n) != 0)
        engine_link_break(link, "it sent an event that is none");
    else
        link->calls->event(link->arg, link->buf);
    return 1;
}

/* What came before a break is still heard: an engine's last tokens count. */
static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct engine_link *link = arg;
    int n = EVENTS_PER_CALL;

    (void)fd;
    (void)what;
    while (n > 0 && !link->broken && receive(link))
        n--;
    if (!link->broken)
        return;
    event_del(link->readable);
    event_del(link->writable);
    link->calls->closed(link->arg, link->why);
}

/* --- life ------------------------------------------------------------------------------------- */

struct engine_link *engine_link_create(struct event_base *base, int fd,
                                       const struct engine_link_calls *calls, void *arg,
                                       struct error *err)
{
    struct engine_link *link = calloc(1, sizeof *link);

    if (link == NULL) {
        error_set(err, STATUS_NOMEM, "engine channel: out of memory");
        return NULL;
    }
    link->fd = -1; /* the caller's until we are done */
    link->tail = &link->head;
    link->calls = calls;
    link->arg = arg;
    link->readable = event_new(base, fd, EV_READ | EV_PERSIST, on_readable, link);
    link->writable = event_new(base, fd, EV_WRITE, on_writable, link);
    if (evutil_make_socket_nonblocking(fd) != 0 || link->readable == NULL ||
        link->writable == NULL || event_add(link->readable, NULL) != 0) {
        error_set(err, STATUS_NOMEM, "engine channel: the event loop does not take it");
        engine_link_destroy(link);
        return NULL;
    }
    link->fd = fd;
    return link;
}

void engine_link_destroy(struct engine_link *link)
{
    if (link == NULL)
        return;
    if (link->readable != NULL)
        event_free(link->readable);
    if (link->writable != NULL)
        event_free(link->writable);
    while (link->head != NULL)
        drop_head(link);
    if (link->fd >= 0)
        close(link->fd);
    free(link);
}
