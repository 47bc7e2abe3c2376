/* channel.c - datagrams in and out, each checked against its kind */
#include "engine/channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHANNEL_FDS_MAX 8

static int check_length(const char *what, size_t len, size_t want, struct error *err)
{
    if (len != want)
        return error_set(err, STATUS_CORRUPT, "%s order of %zu bytes instead of %zu", what, len,
                         want);
    return 0;
}

static int check_text(const char *what, const char *text, size_t room, struct error *err)
{
    if (memchr(text, '\0', room) == NULL)
        return error_set(err, STATUS_CORRUPT, "%s order: its name is not terminated", what);
    return 0;
}

static int check_tokens(const struct order_tokens *o, size_t len, struct error *err)
{
    if (len < sizeof(*o))
        return error_set(err, STATUS_CORRUPT, "tokens order of %zu bytes is cut short", len);
    if (o->count == 0 || o->count > ORDER_TOKENS_MAX)
        return error_set(err, STATUS_CORRUPT, "tokens order of %u tokens: 1 to %u are allowed",
                         o->count, ORDER_TOKENS_MAX);
    return check_length("tokens", len, sizeof(*o) + (size_t)o->count * sizeof(uint32_t), err);
}

_Static_assert(sizeof(struct order_tokens) == offsetof(struct order_tokens, tokens),
               "senders count a message by its structure and its tokens");

int channel_check(const void *data, size_t len, struct error *err)
{
    uint32_t kind;

    if (len < sizeof(kind))
        return error_set(err, STATUS_CORRUPT, "order of %zu bytes has no kind", len);
    memcpy(&kind, data, sizeof(kind));
    switch (kind) {
    case ORDER_HELLO:
        if (check_length("hello", len, sizeof(struct order_hello), err) != 0)
            return -1;
        return check_text("hello", ((const struct order_hello *)data)->instance,
                          sizeof(((const struct order_hello *)data)->instance), err);
    case ORDER_MODEL:
        if (check_length("model", len, sizeof(struct order_model), err) != 0)
            return -1;
        return check_text("model", ((const struct order_model *)data)->name,
                          sizeof(((const struct order_model *)data)->name), err);
    case ORDER_LOAD:
        return check_length("load", len, sizeof(struct order_ref), err);
    case ORDER_UNLOAD:
        return check_length("unload", len, sizeof(struct order_ref), err);
    case ORDER_SEQ_OPEN:
        return check_length("open", len, sizeof(struct order_seq), err);
    case ORDER_SEQ_TOKENS:
        return check_tokens(data, len, err);
    case ORDER_SEQ_CLOSE:
        return check_length("close", len, sizeof(struct order_ref), err);
    case ORDER_TURN:
        return check_length("turn", len, sizeof(struct order_turn), err);
    case ORDER_QUIT: /* nothing but its kind counts */
        return 0;
    default:
        return error_set(err, STATUS_CORRUPT, "order of the unknown kind %u", kind);
    }
}

/* Keep the first descriptor that came, close the others. */
static int take_fds(struct msghdr *m)
{
    int kept = -1;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (kept < 0)
                kept = fd;
            else
                close(fd);
        }
    }
    return kept;
}

enum channel_result channel_receive(struct channel *ch, int wait, int *fd, struct error *err)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(CHANNEL_FDS_MAX * sizeof(int))];
    struct iovec iov = {.iov_base = ch->buffer, .iov_len = sizeof(ch->buffer)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    *fd = -1;
    do {
        m.msg_control = control;
        m.msg_controllen = sizeof(control);
        n = recvmsg(ch->fd, &m, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
        if (n < 0 && wait && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd p = {.fd = ch->fd, .events = POLLIN};
            poll(&p, 1, -1);
            errno = EINTR;
        }
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? CHANNEL_NONE : CHANNEL_CLOSED;
    *fd = take_fds(&m);
    if (n == 0)
        goto closed; /* no order is empty */
    if ((m.msg_flags & MSG_TRUNC) != 0) {
        error_set(err, STATUS_CORRUPT, "order of more than %u bytes", ORDER_BYTES_MAX);
        goto refused;
    }
    if (channel_check(ch->buffer, (size_t)n, err) != 0)
        goto refused;
    return CHANNEL_MESSAGE;
refused:
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return CHANNEL_REFUSED;
closed:
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return CHANNEL_CLOSED;
}

int channel_send(struct channel *ch, const void *event, size_t len)
{
    for (;;) {
        ssize_t n = send(ch->fd, event, len, MSG_NOSIGNAL);
        if (n == (ssize_t)len)
            return 0;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd p = {.fd = ch->fd, .events = POLLOUT};
            poll(&p, 1, -1);
        } else if (n >= 0 || errno != EINTR) {
            return -1;
        }
    }
}
