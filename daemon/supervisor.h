/*
 * supervisor.h - the process of one engine: start, reap, back-off
 *
 * An engine is known dead by its channel, which only it holds; so there is no SIGCHLD handler, and
 * nobody else may wait for these processes.
 */
#ifndef MP_DAEMON_SUPERVISOR_H
#define MP_DAEMON_SUPERVISOR_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

struct supervisor_limits {
    int64_t delay_min_us, delay_max_us; /* between death and restart: doubling from min to max */
    int64_t reset_us;                   /* a life this long brings the delay back to min */
};

struct supervisor {
    pid_t pid;          /* 0: none */
    int64_t started_us; /* monotonic */
    int64_t delay_us;   /* before the last restart; 0: none yet */
};

/*
 * Fork and exec program with the other end of *fd (SOCK_SEQPACKET, close-on-exec) as its descriptor
 * ORDER_FD, /dev/null as standard input, our standard error as output and error, nothing else; all
 * signals at their defaults, no_new_privs set.  The caller owns *fd.
 */
int supervisor_start(struct supervisor *s, const char *program, int64_t now_us, int *fd,
                     struct error *err);
/* 1: the process has ended and is reaped, text says how.  0: not yet. */
int supervisor_reap(struct supervisor *s, char *text, size_t size);
void supervisor_kill(const struct supervisor *s);
/* It has ended at now_us: how long to wait before the next start. */
int64_t supervisor_delay(struct supervisor *s, const struct supervisor_limits *limits,
                         int64_t now_us);

#endif
