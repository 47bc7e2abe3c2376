/* client.h - the other end of the control socket: used by the plugin and the command line. */
#ifndef MP_COMMON_CLIENT_H
#define MP_COMMON_CLIENT_H

#include "common/wire.h"

/*
 * Connect to the Unix socket and exchange HELLO.  The fd is close-on-exec.  The deadline holds for
 * all of it, also when the daemon is stopped.  *hello (may be NULL) gets the daemon's answer.
 * Returns the fd, or -1: UNAVAILABLE names the socket and says how to start the daemon.
 */
int client_connect(const char *path, const char *program, int64_t deadline_us, struct wire *hello,
                   struct error *err);
/* Send and await one answer into the same w.  An "error" answer becomes -1 with its text. */
int client_call(int fd, struct wire *w, int64_t deadline_us, struct error *err);

#endif
