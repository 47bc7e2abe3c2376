/* engine_link_test.c - orders with descriptors arrive whole and in order, also those that had to
 * wait for room, and no descriptor is lost */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/order.h"
#include "daemon/engine_link.h"

#define ORDERS 200u
#define FILES  7u

struct message {
    uint32_t kind, number;
    unsigned char filling[3001]; /* no multiple of a descriptor's size */
};

static void on_event(void *arg, const void *msg)
{
    (void)arg;
    (void)msg;
}

static void on_closed(void *arg, const char *why)
{
    (void)arg;
    fail_msg("%s", why);
}

static void on_drained(void *arg)
{
    ++*(int *)arg;
}

/* How many are open. */
static uint32_t open_descriptors(void)
{
    uint32_t count = 0;

    for (int fd = 0; fd < 4096; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void send_order(struct engine_link *link, uint32_t number, uint32_t files)
{
    struct message m = {.kind = ORDER_MODEL, .number = number};
    int fds[ORDER_FILES_MAX];

    memset(m.filling, (int)number, sizeof(m.filling));
    for (uint32_t i = 0; i < files; i++)
        fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (files > 0)
        engine_link_send_files(link, &m, sizeof(m), fds, files);
    else
        engine_link_send(link, &m, sizeof(m));
}

/* Take one order and close what came with it: how many that were, or UINT32_MAX for no order. */
static uint32_t take_order(int fd, uint32_t number)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(ORDER_FILES_MAX * sizeof(int))];
    struct message m;
    struct iovec iov = {.iov_base = &m, .iov_len = sizeof(m)};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = control,
                        .msg_controllen = sizeof(control)};
    uint32_t count = 0;
    ssize_t n = recvmsg(fd, &mh, MSG_DONTWAIT);

    if (n < 0)
        return UINT32_MAX;
    assert_int_equal(n, sizeof(m));
    assert_int_equal(mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC), 0);
    assert_int_equal(m.number, number);
    assert_int_equal(m.filling[sizeof(m.filling) - 1], (unsigned char)number);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
        count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (uint32_t i = 0; i < count; i++) {
            int got;
            memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
            assert_int_equal(close(got), 0);
        }
    }
    return count;
}

static uint32_t files_of(uint32_t number)
{
    return number == 3 ? ORDER_FILES_MAX : number % (FILES + 1);
}

static void files_arrive(void **state)
{
    static const struct engine_link_calls calls = {on_event, on_closed, on_drained};
    uint32_t before = open_descriptors(), taken = 0, got;
    struct event_base *base = event_base_new();
    struct engine_link *link;
    int fds[2], drained = 0;

    (void)state;
    assert_non_null(base);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    link = engine_link_create(base, fds[0], &calls, &drained, NULL);
    assert_non_null(link);
    for (uint32_t i = 0; i < ORDERS; i++)
        send_order(link, i, files_of(i));
    assert_true(engine_link_queued(link) > 0); /* the socket did not take all of them */
    for (int idle = 0; taken < ORDERS && idle < 1000;) {
        event_base_loop(base, EVLOOP_NONBLOCK);
        got = take_order(fds[1], taken);
        if (got == UINT32_MAX) {
            idle++;
            continue;
        }
        assert_int_equal(got, files_of(taken));
        taken++;
    }
    assert_int_equal(taken, ORDERS);
    assert_int_equal(engine_link_queued(link), 0);
    assert_int_equal(drained, 1);
    engine_link_destroy(link);
    close(fds[1]);
    event_base_free(base);
    assert_int_equal(open_descriptors(), before);
}

/* A link that goes takes what waits with it. */
static void waiting_files_are_closed(void **state)
{
    static const struct engine_link_calls calls = {on_event, on_closed, on_drained};
    uint32_t before = open_descriptors();
    struct event_base *base = event_base_new();
    struct engine_link *link;
    int fds[2], drained = 0;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    link = engine_link_create(base, fds[0], &calls, &drained, NULL);
    assert_non_null(link);
    for (uint32_t i = 0; i < ORDERS; i++)
        send_order(link, i, 2);
    assert_true(engine_link_queued(link) > 0);
    engine_link_break(link, "it is over");
    send_order(link, 0, 3); /* dropped */
    engine_link_destroy(link);
    close(fds[1]);
    event_base_free(base);
    assert_int_equal(open_descriptors(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_arrive),
        cmocka_unit_test(waiting_files_are_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
