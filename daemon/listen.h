/* listen.h - the daemon's sockets, bound before privileges are dropped */
#ifndef MP_DAEMON_LISTEN_H
#define MP_DAEMON_LISTEN_H

#include <sys/types.h>

#include "common/config.h"
#include "daemon/front.h"

/*
 * Make RunDir (0755, owned by uid and gid if we are root) and listen on Listen=, RunDir/http.sock
 * and RunDir/control.sock (both 0666: who may do what is decided by the peer's uid).  A socket file
 * that nobody answers on is replaced; EXISTS if somebody does.  The text names the setting to
 * change.
 */
int listen_open(struct front_listeners *l, const struct config *config, uid_t uid, gid_t gid,
                struct error *err);
void listen_close(struct front_listeners *l); /* those that are open */
/* At a clean end: the socket files go. */
void listen_unlink(const struct config *config);

#endif
