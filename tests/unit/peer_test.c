/* peer_test.c - the kernel names the owner of the other end of a connection */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/peer.h"

#define OTHER_UID 12345

/* A connection over 127.0.0.1, or ::1: *client and the accepted *server. -1: no such family here.
 */
static int connect_pair(int family, int *client, int *server)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a = {0};
    socklen_t len = family == AF_INET ? sizeof a.v4 : sizeof a.v6;
    int l = socket(family, SOCK_STREAM, 0);

    if (family == AF_INET) {
        a.v4.sin_family = AF_INET;
        a.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else {
        a.v6.sin6_family = AF_INET6;
        a.v6.sin6_addr = in6addr_loopback;
    }
    if (l < 0 || bind(l, &a.any, len)) {
        if (l >= 0)
            close(l);
        return -1;
    }
    assert_int_equal(listen(l, 1), 0);
    assert_int_equal(getsockname(l, &a.any, &len), 0);
    *client = socket(family, SOCK_STREAM, 0);
    assert_int_equal(connect(*client, &a.any, len), 0);
    *server = accept(l, NULL, NULL);
    assert_true(*server >= 0);
    close(l);
    return 0;
}

static void test_own_tcp(void **state)
{
    int client, server;
    uid_t uid;
    struct error err = {0};

    (void)state;
    assert_int_equal(connect_pair(AF_INET, &client, &server), 0);
    uid = OTHER_UID;
    assert_int_equal(peer_uid(server, &uid, &err), 0);
    assert_int_equal(uid, getuid());
    uid = OTHER_UID;
    assert_int_equal(peer_uid_proc(server, &uid, &err), 0);
    assert_int_equal(uid, getuid());
    uid = OTHER_UID;
    if (peer_uid_netlink(server, &uid, &err) == 0)
        assert_int_equal(uid, getuid());
    else if (err.status == STATUS_UNAUTHENTICATED)
        fail_msg("netlink: %s", err.text);
    else
        print_message("          netlink is not there: %s\n", err.text);
    close(client);
    close(server);
}

static void test_own_tcp6(void **state)
{
    int client, server;
    uid_t uid = OTHER_UID;
    struct error err = {0};

    (void)state;
    if (connect_pair(AF_INET6, &client, &server)) {
        print_message("          no IPv6 loopback here\n");
        skip();
    }
    assert_int_equal(peer_uid(server, &uid, &err), 0);
    assert_int_equal(uid, getuid());
    uid = OTHER_UID;
    assert_int_equal(peer_uid_proc(server, &uid, &err), 0);
    assert_int_equal(uid, getuid());
    close(client);
    close(server);
}

/* A client that has hung up is nobody; above all it is not root. */
static void test_closed_is_nobody(void **state)
{
    int client, server;
    uid_t uid = OTHER_UID;
    struct error err = {0};

    (void)state;
    assert_int_equal(connect_pair(AF_INET, &client, &server), 0);
    close(client);
    assert_int_equal(peer_uid(server, &uid, &err), -1);
    assert_int_equal(err.status, STATUS_UNAUTHENTICATED);
    assert_int_equal(peer_uid_proc(server, &uid, &err), -1);
    assert_int_equal(err.status, STATUS_UNAUTHENTICATED);
    assert_int_equal(uid, OTHER_UID);
    close(server);
}

/* Another user's connection is told apart. */
static void test_other_uid(void **state)
{
    int pipes[2], client, server;
    uid_t uid = 0;
    struct error err = {0};
    char go = 0;

    (void)state;
    if (getuid() != 0) {
        print_message("          needs root\n");
        skip();
    }
    int l = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    assert_int_equal(bind(l, (struct sockaddr *)&a, len), 0);
    assert_int_equal(listen(l, 1), 0);
    assert_int_equal(getsockname(l, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(pipes[1]);
        int ok = setuid(OTHER_UID) == 0 && (client = socket(AF_INET, SOCK_STREAM, 0)) >= 0 &&
                 connect(client, (struct sockaddr *)&a, sizeof a) == 0;
        ok = ok && read(pipes[0], &go, 1) == 0; /* hold it until the parent has asked */
        _exit(ok ? 0 : 1);
    }
    close(pipes[0]);
    server = accept(l, NULL, NULL);
    assert_int_equal(peer_uid(server, &uid, &err), 0);
    assert_int_equal(uid, OTHER_UID);
    assert_int_equal(peer_uid_proc(server, &uid, &err), 0);
    assert_int_equal(uid, OTHER_UID);
    close(pipes[1]);
    int status = 0;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    close(server);
    close(l);
}

static void test_unix(void **state)
{
    int pair[2];
    uid_t uid = OTHER_UID;
    struct error err = {0};

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(peer_uid(pair[0], &uid, &err), 0);
    assert_int_equal(uid, getuid());
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_tcp),
        cmocka_unit_test(test_own_tcp6),
        cmocka_unit_test(test_closed_is_nobody),
        cmocka_unit_test(test_other_uid),
        cmocka_unit_test(test_unix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
