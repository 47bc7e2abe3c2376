/*
 * supervisor.c - processes of engines
 */
#include "daemon/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/order.h"

#define EXEC_FAILED 127 /* exit status, as a shell's */

/* Between fork and exec in a process of many threads: async-signal-safe calls alone. */
static _Noreturn void child(const char *program, int fd)
{
    char *const argv[] = {(char *)(uintptr_t)program, NULL};
    const unsigned long dfl[8] = {0}; /* the kernel's struct sigaction: SIG_DFL and no flags */
    sigset_t none;
    int null;

    /* The system call, since sigaction() refuses the C library's own signals, and whoever started
     * us may have had them ignored.  SIGKILL and SIGSTOP refuse. */
    for (int sig = 1; sig < NSIG; sig++)
        (void)syscall(SYS_rt_sigaction, sig, dfl, NULL, (size_t)(NSIG / 8));
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        _exit(EXEC_FAILED);
    /* dup2 clears close-on-exec, but not if both are the same; fd may also be 0, 1 or 2. */
    fd = fcntl(fd, F_DUPFD, ORDER_FD + 1);
    if (fd < 0 || dup2(fd, ORDER_FD) < 0)
        _exit(EXEC_FAILED);
    null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0 || dup2(null, 0) < 0 || dup2(2, 1) < 0)
        _exit(EXEC_FAILED);
    if (close_range(ORDER_FD + 1, UINT_MAX, 0) != 0)
        _exit(EXEC_FAILED);
    execv(program, argv);
    _exit(EXEC_FAILED);
}

int supervisor_start(struct supervisor *s, const char *program, int64_t now_us, int *fd,
                     struct error *err)
{
    int pair[2];
    pid_t pid;

    if (access(program, X_OK) != 0)
        return error_errno(err, "engine %s (Engine=) cannot be started", program);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return error_errno(err, "engine %s: socketpair", program);
    pid = fork();
    if (pid == 0)
        child(program, pair[1]);
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return error_errno(err, "engine %s: fork", program);
    }
    s->pid = pid;
    s->started_us = now_us;
    *fd = pair[0];
    return 0;
}

int supervisor_reap(struct supervisor *s, char *text, size_t size)
{
    int status = 0;
    pid_t pid;

    if (s->pid == 0) {
        snprintf(text, size, "not started");
        return 1;
    }
    do
        pid = waitpid(s->pid, &status, WNOHANG);
    while (pid < 0 && errno == EINTR);
    if (pid == 0)
        return 0;
    if (pid < 0)
        snprintf(text, size, "pid %d: waitpid: %s", (int)s->pid, strerror(errno));
    else if (WIFSIGNALED(status))
        snprintf(text, size, "pid %d: killed by signal %d (%s)", (int)s->pid, WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) == EXEC_FAILED)
        snprintf(text, size, "pid %d: the program could not be executed", (int)s->pid);
    else
        snprintf(text, size, "pid %d: exit status %d", (int)s->pid, WEXITSTATUS(status));
    s->pid = 0;
    return 1;
}

void supervisor_kill(const struct supervisor *s)
{
    if (s->pid > 0)
        (void)kill(s->pid, SIGKILL);
}

int64_t supervisor_delay(struct supervisor *s, const struct supervisor_limits *limits,
                         int64_t now_us)
{
    if (s->delay_us == 0 || now_us - s->started_us >= limits->reset_us)
        s->delay_us = limits->delay_min_us;
    else if (s->delay_us < limits->delay_max_us / 2)
        s->delay_us *= 2;
    else
        s->delay_us = limits->delay_max_us;
    return s->delay_us;
}
