/* bench_start.c - from an engine's start to a model in its memory, the host tier being warm */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "engine/bench_subject.h"

#define ROUNDS      3u
#define WAIT_MS     60000
#define LIMIT       3e6                  /* microseconds */
#define START_BYTES ((uint64_t)24 << 30) /* of a GPU: beside the engine that is there */

struct other { /* engine, as a daemon starts it */
    pid_t pid;
    int fd;
    int64_t start;
    int64_t ready_us, model_us, resident_us; /* since then */
};

static int spawn(struct other *o, struct error *err)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return error_errno(err, "socketpair");
    o->start = clock_monotonic_us();
    o->pid = fork();
    if (o->pid == 0) {
        char *argv[] = {"modelpool-engine", NULL};
        if (dup2(pair[1], ORDER_FD) == ORDER_FD)
            execv("/proc/self/exe", argv);
        _exit(127);
    }
    close(pair[1]);
    o->fd = pair[0];
    return o->pid < 0 ? error_errno(err, "fork") : 0;
}

static int send_order(const struct other *o, const void *order, size_t len, int file,
                      struct error *err)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)order, .iov_len = len};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (file >= 0) {
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &file, sizeof(int));
    }
    return sendmsg(o->fd, &msg, MSG_NOSIGNAL) == (ssize_t)len
               ? 0
               : error_errno(err, "the engine takes no orders");
}

/* Wait for an event of that kind. */
static int await_event(const struct other *o, uint32_t kind, void *event, size_t len,
                       struct error *err)
{
    _Alignas(8) static unsigned char buffer[ORDER_BYTES_MAX];
    struct pollfd p = {.fd = o->fd, .events = POLLIN};

    while (poll(&p, 1, WAIT_MS) > 0) {
        ssize_t n = recv(o->fd, buffer, sizeof(buffer), 0);
        if (n <= 0)
            break;
        if (memcmp(buffer, &kind, sizeof(kind)) == 0 && (size_t)n == len) {
            memcpy(event, buffer, len);
            return 0;
        }
    }
    return error_set(err, STATUS_UNAVAILABLE, "the engine that was started ended, or hangs");
}

static int start_one(const struct subject *s, struct other *o, struct error *err)
{
    const struct subject_model *m = &s->models[1];
    struct order_hello hello = {.kind = ORDER_HELLO,
                                .version = ORDER_VERSION,
                                .memory_bytes = START_BYTES,
                                .max_batch = STEP_BATCH_MAX,
                                .device = s->how.device,
                                .gpu = s->how.gpu,
                                .precision = s->how.precision,
                                .instance = "start"};
    struct order_model order = m->order;
    struct order_master master = {.kind = ORDER_MASTER, .model = 1, .use = MASTER_READ};
    const struct order_ref load = {.kind = ORDER_LOAD, .model = 1};
    struct event_ready ready;
    struct event_model model;
    struct event_residency resident;

    memcpy(master.key, m->key, sizeof(master.key));
    order.flags = MODEL_PINNED;
    if (send_order(o, &hello, sizeof(hello), -1, err) != 0 ||
        send_order(o, &order, sizeof(order), m->files[0], err) != 0 ||
        send_order(o, &master, sizeof(master), m->master, err) != 0 ||
        send_order(o, &load, sizeof(load), -1, err) != 0 ||
        await_event(o, EVENT_READY, &ready, sizeof(ready), err) != 0)
        return -1;
    o->ready_us = clock_monotonic_us() - o->start;
    if (await_event(o, EVENT_MODEL, &model, sizeof(model), err) != 0)
        return -1;
    if (!model.ok)
        return error_set(err, STATUS_UNSUPPORTED, "the engine that was started: %s", model.text);
    o->model_us = clock_monotonic_us() - o->start;
    if (await_event(o, EVENT_RESIDENCY, &resident, sizeof(resident), err) != 0)
        return -1;
    o->resident_us = clock_monotonic_us() - o->start;
    if (!resident.resident || resident.file_bytes != 0)
        return error_set(err, STATUS_INTERNAL, "the engine that was started read the files");
    return 0;
}

int bench_start(struct subject *s)
{
    char params[96];
    struct limit l[] = {{.name = "start: engine ready"},
                        {.name = "start: model known"},
                        {.name = "start: model in memory"}};
    int rv = 0;

    snprintf(params, sizeof(params), "%s %s, its copy in host memory", s->how.shape, s->how.dtype);
    l[2].bound = LIMIT_MOST;
    l[2].limit = LIMIT;
    for (uint32_t i = 0; i < ROUNDS && rv == 0; i++) {
        struct other o = {.pid = -1, .fd = -1};
        rv = spawn(&o, s->err);
        if (rv == 0)
            rv = start_one(s, &o, s->err);
        if (o.fd >= 0)
            close(o.fd); /* it exits */
        if (o.pid > 0 && rv != 0)
            kill(o.pid, SIGKILL);
        if (o.pid > 0)
            waitpid(o.pid, NULL, 0);
        const int64_t us[] = {o.ready_us, o.model_us, o.resident_us};
        log_info("started: ready %.3f s, model %.3f s, in memory %.3f s", (double)us[0] / 1e6,
                 (double)us[1] / 1e6, (double)us[2] / 1e6);
        for (uint32_t j = 0; j < 3; j++)
            l[j].samples[l[j].count++] = (double)us[j];
    }
    for (uint32_t j = 0; j < 3 && rv == 0; j++) {
        l[j].params = params;
        l[j].unit = "us";
        s->found(s->arg, &l[j]);
    }
    return rv;
}
