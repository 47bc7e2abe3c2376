#include "common/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"

/* A Unix socket's connect blocks only while the backlog is full; a stopped daemon can fill it, so
 * the socket is non-blocking and EAGAIN is tried again until the deadline. */
static int connect_by(int fd, const struct sockaddr_un *addr, int64_t deadline_us,
                      struct error *err)
{
    for (;;) {
        if (connect(fd, (const struct sockaddr *)addr, sizeof *addr) == 0)
            return 0;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN) {
            if (errno == ENOENT || errno == ECONNREFUSED)
                return error_set(err, STATUS_UNAVAILABLE,
                                 "no modelpoold answers at %s: is it running on this node? "
                                 "(systemctl status modelpoold)",
                                 addr->sun_path);
            return error_errno(err, "cannot connect to %s", addr->sun_path);
        }
        if (clock_monotonic_us() >= deadline_us)
            return error_set(err, STATUS_TIMEOUT, "modelpoold at %s does not accept connections",
                             addr->sun_path);
        poll(NULL, 0, 10);
    }
}

int client_connect(const char *path, const char *program, int64_t deadline_us, struct wire *hello,
                   struct error *err)
{
    int rv = -1;
    struct wire own, *w = hello ? hello : &own;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof addr.sun_path)
        return error_set(err, STATUS_INVALID, "socket path %s is longer than %zu bytes", path,
                         sizeof addr.sun_path - 1);
    strcpy(addr.sun_path, path);

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_errno(err, "socket");
    if (connect_by(fd, &addr, deadline_us, err))
        goto out;
    wire_start(w, "hello");
    wire_put_u64(w, "version", WIRE_VERSION);
    wire_put(w, "program", program);
    if (client_call(fd, w, deadline_us, err)) {
        error_wrap(err, "%s", path);
        goto out;
    }
    rv = fd;
out:
    if (rv < 0)
        close(fd);
    return rv;
}

int client_call(int fd, struct wire *w, int64_t deadline_us, struct error *err)
{
    if (wire_send(fd, w, deadline_us, err) || wire_recv(fd, w, deadline_us, err))
        return -1;
    return wire_error(w, err);
}
