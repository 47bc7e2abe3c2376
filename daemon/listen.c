/* listen.c - the daemon's sockets; see listen.h */
#include "daemon/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 512

static int make_run_dir(const char *path, uid_t uid, gid_t gid, struct error *err)
{
    struct stat st;

    if (mkdir(path, 0755) && errno != EEXIST)
        return error_errno(err, "RunDir=%s", path);
    if (lstat(path, &st))
        return error_errno(err, "RunDir=%s", path);
    if (!S_ISDIR(st.st_mode))
        return error_set(err, STATUS_INVALID, "RunDir=%s is not a directory", path);
    if (st.st_uid == geteuid() && chmod(path, 0755))
        return error_errno(err, "RunDir=%s", path);
    if (geteuid() == 0 && lchown(path, uid, gid))
        return error_errno(err, "RunDir=%s", path);
    return 0;
}

static int listen_tcp(const char *address, struct error *err)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    char host[64];
    const char *colon = strrchr(address, ':');
    int on = 1, fd = -1;

    snprintf(host, sizeof host, "%.*s", colon ? (int)(colon - address) : 0, address);
    if (!colon || inet_pton(AF_INET, host, &a.sin_addr) != 1 ||
        ntohl(a.sin_addr.s_addr) >> 24 != 127)
        return error_set(err, STATUS_INVALID, "Listen=%s is no loopback address", address);
    a.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_errno(err, "Listen=%s", address);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    error_errno(err, "Listen=%s", address);
    if (errno == EADDRINUSE)
        error_set(err, STATUS_EXISTS,
                  "Listen=%s: the port is taken; is another modelpoold running?", address);
    if (errno == EACCES)
        error_set(err, STATUS_DENIED,
                  "Listen=%s: ports below 1024 need root: start modelpoold as root (it drops to "
                  "User=) or choose a higher port",
                  address);
    close(fd);
    return -1;
}

/* Whether somebody accepts connections there. */
static int answers(const struct sockaddr_un *a)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rv = fd >= 0 && (connect(fd, (const struct sockaddr *)a, sizeof *a) == 0 ||
                         errno == EAGAIN); /* its backlog is full */
    if (fd >= 0)
        close(fd);
    return rv;
}

static int listen_unix(const char *dir, const char *name, struct error *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int n = snprintf(a.sun_path, sizeof a.sun_path, "%s/%s", dir, name);

    if (n < 0 || (size_t)n >= sizeof a.sun_path)
        return error_set(err, STATUS_INVALID, "RunDir=%s: too long for a socket's path (%zu bytes)",
                         dir, sizeof a.sun_path - 1);
    if (answers(&a))
        return error_set(
            err, STATUS_EXISTS,
            "another daemon answers on %s: stop it, or give this one its own RunDir=", a.sun_path);
    if (unlink(a.sun_path) && errno != ENOENT)
        return error_errno(err, "%s", a.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_errno(err, "%s", a.sun_path);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && chmod(a.sun_path, 0666) == 0 &&
        listen(fd, BACKLOG) == 0)
        return fd;
    error_errno(err, "%s", a.sun_path);
    close(fd);
    return -1;
}

int listen_open(struct front_listeners *l, const struct config *config, uid_t uid, gid_t gid,
                struct error *err)
{
    *l = (struct front_listeners){-1, -1, -1};
    if (make_run_dir(config->run_dir, uid, gid, err))
        return -1;
    l->http_tcp = listen_tcp(config->listen, err);
    if (l->http_tcp >= 0)
        l->http_unix = listen_unix(config->run_dir, "http.sock", err);
    if (l->http_unix >= 0)
        l->control = listen_unix(config->run_dir, "control.sock", err);
    if (l->control >= 0)
        return 0;
    listen_close(l);
    return -1;
}

void listen_close(struct front_listeners *l)
{
    int *const fds[] = {&l->http_tcp, &l->http_unix, &l->control};

    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

void listen_unlink(const struct config *config)
{
    static const char *const names[] = {"http.sock", "control.sock"};
    char path[512];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int n = snprintf(path, sizeof path, "%s/%s", config->run_dir, names[i]);
        if (n > 0 && (size_t)n < sizeof path)
            unlink(path);
    }
}
