/*
 * peer.h - who is at the other end of a local connection
 *
 * A loopback TCP connection carries no credentials, but the kernel knows the owner of the client's
 * socket: sock_diag(7) is asked for exactly that socket (its address and port as source, ours as
 * destination), /proc/net/tcp where netlink is not there.  A socket that its program has closed is
 * reported with uid 0, so the answer counts only for one that is established and has an inode: a
 * key is never accepted from, or charged to, root because somebody hung up early.
 */
#ifndef MP_DAEMON_PEER_H
#define MP_DAEMON_PEER_H

#include <sys/types.h>

#include "common/error.h"

/*
 * The uid of the peer of a connected Unix or loopback TCP socket.  UNAUTHENTICATED: the peer is not
 * on this host or has gone; IO: the kernel did not answer.
 */
int peer_uid(int fd, uid_t *uid, struct error *err);

/* The two ways to ask for a TCP peer, for tests. */
int peer_uid_netlink(int fd, uid_t *uid, struct error *err);
int peer_uid_proc(int fd, uid_t *uid, struct error *err);

#endif
