/* channel.c - datagrams in and out, each checked against its kind */
#include "engine/channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

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

static int check_bias(const struct order_bias *o, size_t len, struct error *err)
{
    if (len < sizeof(*o))
        return error_set(err, STATUS_CORRUPT, "bias order of %zu bytes is cut short", len);
    if (o->count == 0 || o->count > ORDER_BIAS_MAX)
        return error_set(err, STATUS_CORRUPT, "bias order of %u tokens: 1 to %u are allowed",
                         o->count, ORDER_BIAS_MAX);
    return check_length("bias", len, sizeof(*o) + (size_t)o->count * sizeof(struct token_bias),
                        err);
}

static int check_prefetch(const struct order_prefetch *o, size_t len, struct error *err)
{
    if (check_length("prefetch", len, sizeof(*o), err) != 0)
        return -1;
    if (o->evict_count > ORDER_EVICT_MAX)
        return error_set(err, STATUS_CORRUPT, "prefetch order evicts %u models: at most %u may go",
                         o->evict_count, ORDER_EVICT_MAX);
    return 0;
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
    case ORDER_SEQ_BIAS:
        return check_bias(data, len, err);
    case ORDER_SEQ_SPILL:
        return check_length("spill", len, sizeof(struct order_ref), err);
    case ORDER_SEQ_FETCH:
        return check_length("fetch", len, sizeof(struct order_ref), err);
    case ORDER_SEQ_CLOSE:
        return check_length("close", len, sizeof(struct order_ref), err);
    case ORDER_TURN:
        return check_length("turn", len, sizeof(struct order_turn), err);
    case ORDER_MASTER:
        return check_length("master", len, sizeof(struct order_master), err);
    case ORDER_PREFETCH:
        return check_prefetch(data, len, err);
    case ORDER_QUIT: /* nothing but its kind counts */
        return 0;
    default:
        return error_set(err, STATUS_CORRUPT, "order of the unknown kind %u", kind);
    }
}

/* Collect the descriptors that came. */
static void take_fds(struct msghdr *m, struct channel_files *files)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (files->count < ORDER_FILES_MAX)
                files->fds[files->count++] = fd;
            else
                close(fd);
        }
    }
}

void channel_files_close(struct channel_files *files)
{
    for (uint32_t i = 0; i < files->count; i++)
        close(files->fds[i]);
    files->count = 0;
}

/* A datagram is there: is it a whole order? */
static int check_received(const struct channel *ch, const struct msghdr *m, size_t len,
                          struct error *err)
{
    if ((m->msg_flags & MSG_TRUNC) != 0)
        return error_set(err, STATUS_CORRUPT, "order of more than %u bytes", ORDER_BYTES_MAX);
    if ((m->msg_flags & MSG_CTRUNC) != 0)
        return error_set(err, STATUS_CORRUPT,
                         "not all of an order's files came: at most %u may, and the engine must be "
                         "allowed to open them (LimitNOFILE=)",
                         ORDER_FILES_MAX);
    return channel_check(ch->buffer, len, err);
}

enum channel_result channel_receive(struct channel *ch, int wait, struct channel_files *files,
                                    struct error *err)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(ORDER_FILES_MAX * sizeof(int))];
    struct iovec iov = {.iov_base = ch->buffer, .iov_len = sizeof(ch->buffer)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    files->count = 0;
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
    take_fds(&m, files);
    if (n > 0 && check_received(ch, &m, (size_t)n, err) == 0)
        return CHANNEL_MESSAGE;
    channel_files_close(files);
    return n == 0 ? CHANNEL_CLOSED : CHANNEL_REFUSED; /* no order is empty */
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
