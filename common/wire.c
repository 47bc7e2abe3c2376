#include "common/wire.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"

/* --- building ----------------------------------------------------------------------------------
 */

void wire_start(struct wire *w, const char *type)
{
    w->len = 0;
    w->overflow = 0;
    wire_put(w, "type", type);
}

void wire_put(struct wire *w, const char *key, const char *value)
{
    if (!value)
        return;
    size_t k = strlen(key) + 1, v = strlen(value) + 1;
    if (k + v > WIRE_BODY_MAX - w->len) {
        w->overflow = 1;
        return;
    }
    memcpy(w->body + w->len, key, k);
    memcpy(w->body + w->len + k, value, v);
    w->len += (uint32_t)(k + v);
}

void wire_putf(struct wire *w, const char *key, const char *fmt, ...)
{
    char value[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(value, sizeof value, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof value)
        w->overflow = 1;
    else
        wire_put(w, key, value);
}

void wire_put_u64(struct wire *w, const char *key, uint64_t value)
{
    wire_putf(w, key, "%" PRIu64, value);
}

void wire_put_i64(struct wire *w, const char *key, int64_t value)
{
    wire_putf(w, key, "%" PRId64, value);
}

void wire_put_error(struct wire *w, const struct error *err)
{
    wire_start(w, "error");
    wire_put(w, "status", status_word(err->status));
    wire_put(w, "text", err->text);
}

/* --- reading -----------------------------------------------------------------------------------
 */

int wire_next(const struct wire *w, uint32_t *at, const char **key, const char **value)
{
    if (*at >= w->len)
        return 0;
    *key = w->body + *at;
    *value = *key + strlen(*key) + 1;
    *at = (uint32_t)(*value - w->body + (ptrdiff_t)strlen(*value) + 1);
    return 1;
}

const char *wire_get(const struct wire *w, const char *key)
{
    const char *k, *v;
    for (uint32_t at = 0; wire_next(w, &at, &k, &v);)
        if (strcmp(k, key) == 0)
            return v;
    return NULL;
}

const char *wire_type(const struct wire *w)
{
    const char *type = wire_get(w, "type");
    return type ? type : "";
}

int wire_get_u64(const struct wire *w, const char *key, uint64_t *value, struct error *err)
{
    const char *text = wire_get(w, key);
    if (!text)
        return error_set(err, STATUS_INVALID, "message lacks \"%s\"", key);
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno || *end || end == text || text[0] < '0' || text[0] > '9')
        return error_set(err, STATUS_INVALID, "%s=%.40s is no unsigned number", key, text);
    *value = n;
    return 0;
}

int wire_get_i64(const struct wire *w, const char *key, int64_t *value, struct error *err)
{
    const char *text = wire_get(w, key);
    if (!text)
        return error_set(err, STATUS_INVALID, "message lacks \"%s\"", key);
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || *end || end == text || ((text[0] < '0' || text[0] > '9') && text[0] != '-'))
        return error_set(err, STATUS_INVALID, "%s=%.40s is no number", key, text);
    *value = n;
    return 0;
}

int wire_error(const struct wire *w, struct error *err)
{
    if (strcmp(wire_type(w), "error") != 0)
        return 0;
    const char *text = wire_get(w, "text");
    return error_set(err, status_from_word(wire_get(w, "status")), "%s", text ? text : "no text");
}

/* --- frames ------------------------------------------------------------------------------------
 */

/* The body must be whole `key NUL value NUL` pairs: then every string function above stays inside.
 */
static int body_check(const struct wire *w, struct error *err)
{
    unsigned nuls = 0;
    for (uint32_t i = 0; i < w->len; i++)
        nuls += w->body[i] == '\0';
    if (w->len == 0 || w->body[w->len - 1] != '\0' || nuls % 2)
        return error_set(err, STATUS_CORRUPT, "control message is not made of key and value pairs");
    return 0;
}

static uint32_t head_read(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int head_check(uint32_t len, struct error *err)
{
    if (len > WIRE_BODY_MAX)
        return error_set(err, STATUS_CORRUPT, "control message of %" PRIu32 " bytes (at most %u)",
                         len, WIRE_BODY_MAX);
    return 0;
}

long wire_decode(struct wire *w, const void *buf, size_t len, struct error *err)
{
    if (len < WIRE_HEAD)
        return 0;
    uint32_t body = head_read(buf);
    if (head_check(body, err))
        return -1;
    if (len - WIRE_HEAD < body)
        return 0;
    w->len = body;
    w->overflow = 0;
    memcpy(w->body, (const char *)buf + WIRE_HEAD, body);
    return body_check(w, err) ? -1 : (long)(WIRE_HEAD + body);
}

int wire_head(const struct wire *w, unsigned char head[WIRE_HEAD], struct error *err)
{
    if (w->overflow)
        return error_set(err, STATUS_INVALID, "control message \"%s\" is over %u bytes",
                         wire_type(w), WIRE_BODY_MAX);
    for (unsigned i = 0; i < WIRE_HEAD; i++)
        head[i] = (unsigned char)(w->len >> (8 * i));
    return 0;
}

static int await(int fd, short events, int64_t deadline_us, struct error *err)
{
    for (;;) {
        int64_t left_us = deadline_us - clock_monotonic_us();
        if (left_us <= 0)
            return error_set(err, STATUS_TIMEOUT, "modelpoold did not answer in time");
        struct pollfd p = {.fd = fd, .events = events};
        int64_t left_ms = (left_us + 999) / 1000;
        int n = poll(&p, 1, left_ms > 60000 ? 60000 : (int)left_ms);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return error_errno(err, "poll on the control socket");
    }
}

/* Send or receive exactly len bytes, whether or not the fd is non-blocking. */
static int transfer(int fd, void *buf, size_t len, int sending, int64_t deadline_us,
                    struct error *err)
{
    for (size_t at = 0; at < len;) {
        if (await(fd, sending ? POLLOUT : POLLIN, deadline_us, err))
            return -1;
        ssize_t n = sending ? send(fd, (char *)buf + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT)
                            : recv(fd, (char *)buf + at, len - at, MSG_DONTWAIT);
        if (n > 0)
            at += (size_t)n;
        else if (n == 0 || errno == EPIPE || errno == ECONNRESET)
            return error_set(err, STATUS_UNAVAILABLE, "modelpoold closed the connection");
        else if (errno != EAGAIN && errno != EINTR)
            return error_errno(err, "control socket");
    }
    return 0;
}

int wire_send(int fd, const struct wire *w, int64_t deadline_us, struct error *err)
{
    unsigned char frame[WIRE_HEAD + WIRE_BODY_MAX];
    if (wire_head(w, frame, err))
        return -1;
    memcpy(frame + WIRE_HEAD, w->body, w->len);
    return transfer(fd, frame, WIRE_HEAD + w->len, 1, deadline_us, err);
}

int wire_recv(int fd, struct wire *w, int64_t deadline_us, struct error *err)
{
    unsigned char head[WIRE_HEAD];
    if (transfer(fd, head, sizeof head, 0, deadline_us, err))
        return -1;
    uint32_t len = head_read(head);
    if (head_check(len, err))
        return -1;
    w->len = 0;
    w->overflow = 0;
    if (transfer(fd, w->body, len, 0, deadline_us, err))
        return -1;
    w->len = len;
    return body_check(w, err);
}
