/* peer.c - who is at the other end of a local connection; see peer.h */
#include "daemon/peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_storage storage;
};

struct ends { /* of a TCP connection, as the client's socket has them */
    int family;
    union address source, destination;
};

static int gone(struct error *err)
{
    return error_set(err, STATUS_UNAUTHENTICATED,
                     "the connection's owner cannot be told: its "
                     "socket is closed or not on this host");
}

static int is_loopback(const union address *a)
{
    if (a->any.sa_family == AF_INET)
        return (ntohl(a->v4.sin_addr.s_addr) >> 24) == 127;
    return a->any.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
}

static int read_ends(int fd, struct ends *e, struct error *err)
{
    socklen_t source = sizeof e->source, destination = sizeof e->destination;

    memset(e, 0, sizeof *e);
    if (getpeername(fd, &e->source.any, &source))
        return errno == ENOTCONN ? gone(err) : error_errno(err, "getpeername");
    if (getsockname(fd, &e->destination.any, &destination))
        return error_errno(err, "getsockname");
    e->family = e->source.any.sa_family;
    if (!is_loopback(&e->source) || e->destination.any.sa_family != e->family)
        return error_set(err, STATUS_UNAUTHENTICATED,
                         "only connections over the loopback interface are served");
    return 0;
}

/* --- sock_diag ----------------------------------------------------------------------------------
 */

struct question {
    struct nlmsghdr head;
    struct inet_diag_req_v2 body;
};

static void fill_question(const struct ends *e, struct question *q)
{
    memset(q, 0, sizeof *q);
    q->head.nlmsg_len = sizeof *q;
    q->head.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    q->head.nlmsg_flags = NLM_F_REQUEST;
    q->head.nlmsg_seq = 1;
    q->body.sdiag_family = (uint8_t)e->family;
    q->body.sdiag_protocol = IPPROTO_TCP;
    q->body.idiag_states = UINT32_MAX;
    q->body.id.idiag_cookie[0] = INET_DIAG_NOCOOKIE;
    q->body.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    if (e->family == AF_INET) {
        q->body.id.idiag_sport = e->source.v4.sin_port;
        q->body.id.idiag_dport = e->destination.v4.sin_port;
        memcpy(q->body.id.idiag_src, &e->source.v4.sin_addr, 4);
        memcpy(q->body.id.idiag_dst, &e->destination.v4.sin_addr, 4);
    } else {
        q->body.id.idiag_sport = e->source.v6.sin6_port;
        q->body.id.idiag_dport = e->destination.v6.sin6_port;
        memcpy(q->body.id.idiag_src, &e->source.v6.sin6_addr, 16);
        memcpy(q->body.id.idiag_dst, &e->destination.v6.sin6_addr, 16);
    }
}

/* The kernel may answer with another socket (a listener) when there is no such connection. */
static int is_answer(const struct question *q, const struct inet_diag_msg *m)
{
    return m->idiag_family == q->body.sdiag_family && m->id.idiag_sport == q->body.id.idiag_sport &&
           m->id.idiag_dport == q->body.id.idiag_dport &&
           memcmp(m->id.idiag_src, q->body.id.idiag_src, sizeof m->id.idiag_src) == 0 &&
           memcmp(m->id.idiag_dst, q->body.id.idiag_dst, sizeof m->id.idiag_dst) == 0;
}

static int read_answer(const struct question *q, const char *data, size_t len, uid_t *uid,
                       struct error *err)
{
    struct nlmsghdr head;

    if (len < sizeof head)
        return error_set(err, STATUS_IO, "sock_diag: a short answer");
    memcpy(&head, data, sizeof head);
    if (head.nlmsg_type == NLMSG_ERROR) {
        struct nlmsgerr e;
        if (len < NLMSG_HDRLEN + sizeof e)
            return error_set(err, STATUS_IO, "sock_diag: a short answer");
        memcpy(&e, data + NLMSG_HDRLEN, sizeof e);
        if (e.error == -ENOENT)
            return gone(err);
        errno = -e.error;
        return error_errno(err, "sock_diag");
    }
    struct inet_diag_msg m;
    if (head.nlmsg_type != SOCK_DIAG_BY_FAMILY || len < NLMSG_HDRLEN + sizeof m)
        return error_set(err, STATUS_IO, "sock_diag: an answer of type %u", head.nlmsg_type);
    memcpy(&m, data + NLMSG_HDRLEN, sizeof m);
    if (!is_answer(q, &m) || m.idiag_state != TCP_ESTABLISHED || m.idiag_inode == 0)
        return gone(err);
    *uid = m.idiag_uid;
    return 0;
}

int peer_uid_netlink(int fd, uid_t *uid, struct error *err)
{
    int rv = -1;
    int s = -1;
    struct ends e;
    struct question q;
    char answer[4096];
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct timeval second = {.tv_sec = 1};

    if (read_ends(fd, &e, err))
        goto out;
    fill_question(&e, &q);
    s = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (s < 0) {
        error_errno(err, "sock_diag socket");
        goto out;
    }
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
    if (sendto(s, &q, sizeof q, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0) {
        error_errno(err, "sock_diag question");
        goto out;
    }
    ssize_t n = recv(s, answer, sizeof answer, 0);
    if (n < 0) {
        error_errno(err, "sock_diag answer");
        goto out;
    }
    rv = read_answer(&q, answer, (size_t)n, uid, err);
out:
    if (s >= 0)
        close(s);
    return rv;
}

/* --- /proc/net/tcp ------------------------------------------------------------------------------
 */

/* ADDRESS:PORT as the kernel prints it: 32-bit words of the address in host order, in hex. */
static void format_end(const union address *a, char *text, size_t room)
{
    uint32_t w[4];

    if (a->any.sa_family == AF_INET) {
        memcpy(w, &a->v4.sin_addr, 4);
        snprintf(text, room, "%08" PRIX32 ":%04X", w[0], ntohs(a->v4.sin_port));
    } else {
        memcpy(w, &a->v6.sin6_addr, 16);
        snprintf(text, room, "%08" PRIX32 "%08" PRIX32 "%08" PRIX32 "%08" PRIX32 ":%04X", w[0],
                 w[1], w[2], w[3], ntohs(a->v6.sin6_port));
    }
}

int peer_uid_proc(int fd, uid_t *uid, struct error *err)
{
    struct ends e;
    char source[48], destination[48], line[512];

    if (read_ends(fd, &e, err))
        return -1;
    format_end(&e.source, source, sizeof source);
    format_end(&e.destination, destination, sizeof destination);
    const char *path = e.family == AF_INET ? "/proc/net/tcp" : "/proc/net/tcp6";
    FILE *f = fopen(path, "re");
    if (!f)
        return error_errno(err, "%s", path);
    int found = 0;
    while (!found && fgets(line, sizeof line, f)) {
        char local[48], remote[48];
        unsigned state, owner;
        unsigned long inode;
        int n = sscanf(line, " %*[0-9]: %47s %47s %x %*s %*s %*s %u %*s %lu", local, remote, &state,
                       &owner, &inode);
        if (n == 5 && strcmp(local, source) == 0 && strcmp(remote, destination) == 0 &&
            state == TCP_ESTABLISHED && inode != 0) {
            *uid = owner;
            found = 1;
        }
    }
    fclose(f);
    return found ? 0 : gone(err);
}

/* --- both ---------------------------------------------------------------------------------------
 */

int peer_uid(int fd, uid_t *uid, struct error *err)
{
    int domain = 0;
    socklen_t len = sizeof domain;

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len))
        return error_errno(err, "the connection's address family");
    if (domain == AF_UNIX) {
        struct ucred c = {0};
        len = sizeof c;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &len))
            return error_errno(err, "the connection's credentials");
        *uid = c.uid;
        return 0;
    }
    struct error netlink = {0};
    if (peer_uid_netlink(fd, uid, &netlink) == 0)
        return 0;
    if (netlink.status == STATUS_UNAUTHENTICATED)
        return error_set(err, netlink.status, "%s", netlink.text);
    return peer_uid_proc(fd, uid, err);
}
