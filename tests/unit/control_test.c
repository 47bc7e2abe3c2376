/* control_test.c - the control socket, over a real one */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "daemon/control.h"
#include "tests/unit/lease_rig.h"

#define UID 1000

/* --- helpers ---------------------------------------------------------------------------------- */

static struct sockaddr_un address;

static int set_up(void **state)
{
    struct error err;

    if (rig_set_up(state) < 0)
        return -1;
    address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/control.sock", rig->dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || chmod(rig->dir, 0755) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        chmod(address.sun_path, 0666) < 0 || listen(fd, 128) < 0)
        return -1;
    rig->f.control = control_create(&rig->f, fd, &err);
    return rig->f.control ? 0 : -1;
}

static int tear_down(void **state)
{
    rig_loop(1);
    control_destroy(rig->f.control);
    rig->f.control = NULL;
    return rig_tear_down(state);
}

static int connect_raw(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* 1 if a whole frame, or the end of the stream, can be read without waiting. */
static int frame_ready(int fd)
{
    unsigned char head[WIRE_HEAD];
    int there = 0;
    ssize_t n = recv(fd, head, sizeof(head), MSG_PEEK | MSG_DONTWAIT);

    if (n == 0)
        return 1;
    if (n < (ssize_t)sizeof(head) || ioctl(fd, FIONREAD, &there) < 0)
        return 0;
    size_t body = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
    return (size_t)there >= sizeof(head) + body;
}

/* The next message; the daemon, which is this same thread, runs until it is there. */
static void receive(int fd, struct wire *w)
{
    struct error err;

    for (int i = 0; i < 2000 && !frame_ready(fd); i++)
        rig_loop(1);
    if (wire_recv(fd, w, clock_monotonic_us() + 1000000, &err) < 0)
        fail_msg("%s", err.text);
}

static void talk(int fd, struct wire *w)
{
    struct error err;

    assert_int_equal(wire_send(fd, w, clock_monotonic_us() + 1000000, &err), 0);
    receive(fd, w);
}

static void start_hello(struct wire *w)
{
    wire_start(w, "hello");
    wire_put_u64(w, "version", WIRE_VERSION);
    wire_put(w, "program", "test");
}

static int connect_hello(void)
{
    int fd = connect_raw();
    struct wire w;

    start_hello(&w);
    talk(fd, &w);
    assert_string_equal(wire_type(&w), "hello");
    assert_string_equal(wire_get(&w, "node"), "n1");
    return fd;
}

/* As a user that is not root: the kernel notes the effective uid of connect(2). */
static int connect_user(uid_t uid)
{
    if (geteuid() != 0)
        skip();
    assert_int_equal(seteuid(uid), 0);
    int fd = connect_raw();
    assert_int_equal(seteuid(0), 0);
    struct wire w;
    start_hello(&w);
    talk(fd, &w);
    assert_string_equal(wire_type(&w), "hello");
    return fd;
}

static void need_root(void)
{
    if (geteuid() != 0)
        skip();
}

static void assert_error(const struct wire *w, enum status status, const char *text)
{
    struct error err;

    if (wire_error(w, &err) == 0)
        fail_msg("no error, but \"%s\"", wire_type(w));
    assert_int_equal(err.status, status);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void assert_closed(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char byte;

    for (int i = 0; i < 1000 && poll(&p, 1, 0) == 0; i++)
        rig_loop(1);
    assert_int_equal(read(fd, &byte, 1), 0);
    close(fd);
}

static void start_grant(struct wire *w, uint64_t job, uint64_t step)
{
    wire_start(w, "grant");
    wire_put_u64(w, "job", job);
    wire_put_u64(w, "step", step);
    wire_put(w, "step_name", "0");
    wire_put_u64(w, "uid", UID);
    wire_put_u64(w, "gid", UID);
    wire_put(w, "models", "gamma,alpha");
}

/* --- the protocol ----------------------------------------------------------------------------- */

static void hello_comes_first(void **state)
{
    struct wire w;

    (void)state;
    int fd = connect_raw();
    wire_start(&w, "list");
    talk(fd, &w);
    assert_error(&w, STATUS_INVALID, "hello");
    assert_closed(fd);
}

static void another_version_is_refused(void **state)
{
    struct wire w;

    (void)state;
    int fd = connect_raw();
    wire_start(&w, "hello");
    wire_put_u64(&w, "version", WIRE_VERSION + 1);
    talk(fd, &w);
    assert_error(&w, STATUS_UNSUPPORTED, "version 2");
    assert_closed(fd);
}

static void no_frame_at_all(void **state)
{
    struct wire w;

    (void)state;
    int fd = connect_raw();
    assert_int_equal(write(fd, "GET / HTTP/1.1\r\n\r\n", 18), 18);
    receive(fd, &w);
    assert_error(&w, STATUS_CORRUPT, "");
    assert_closed(fd);
}

static void frames_in_pieces(void **state)
{
    unsigned char frame[512];
    struct wire w;

    (void)state;
    int fd = connect_raw();
    start_hello(&w);
    assert_int_equal(wire_head(&w, frame, NULL), 0);
    memcpy(frame + WIRE_HEAD, w.body, w.len);
    for (size_t i = 0; i < WIRE_HEAD + w.len; i++) {
        assert_int_equal(write(fd, frame + i, 1), 1);
        rig_loop(1);
    }
    receive(fd, &w);
    assert_string_equal(wire_type(&w), "hello");
    close(fd);
}

static void requests_sent_ahead_are_answered_in_order(void **state)
{
    struct error err;
    struct wire w;

    (void)state;
    int fd = connect_hello();
    start_grant(&w, 12, 0);
    assert_int_equal(wire_send(fd, &w, clock_monotonic_us() + 1000000, &err), 0);
    wire_start(&w, "dance");
    assert_int_equal(wire_send(fd, &w, clock_monotonic_us() + 1000000, &err), 0);
    receive(fd, &w);
    assert_string_equal(wire_type(&w), geteuid() == 0 ? "granted" : "error");
    receive(fd, &w);
    assert_error(&w, STATUS_UNSUPPORTED, "dance");
    close(fd);
}

/* --- grants ----------------------------------------------------------------------------------- */

static void a_step_is_granted_and_ends_with_its_connection(void **state)
{
    char key[LEASE_KEY_MAX];
    struct error err;
    struct wire w;

    (void)state;
    need_root();
    int fd = connect_hello();
    start_grant(&w, 12, 4294967291u); /* a batch step's number */
    talk(fd, &w);
    assert_string_equal(wire_type(&w), "granted");
    assert_string_equal(wire_get(&w, "model"), "gamma");
    assert_string_equal(wire_get(&w, "state"), "live");
    assert_string_equal(wire_get(&w, "base_url"), "http://127.0.0.1:811/v1");
    assert_string_equal(wire_get(&w, "http_socket"), "/run/http.sock");
    assert_non_null(wire_get(&w, "lease"));
    snprintf(key, sizeof(key), "%s", wire_get(&w, "key"));
    assert_memory_equal(key + 4, wire_get(&w, "grant"), 16);
    assert_non_null(leases_authenticate(rig->f.leases, key, UID, &err));

    start_grant(&w, 12, 1);
    talk(fd, &w);
    assert_error(&w, STATUS_EXISTS, "already");
    assert_non_null(leases_authenticate(rig->f.leases, key, UID, &err));
    close(fd);
    rig_loop_until(&rig->grants_ended, 1000);
    assert_int_equal(rig->grants_ended, 1);
    assert_null(leases_authenticate(rig->f.leases, key, UID, &err));
}

static void a_client_that_leaves_at_once_leaves_nothing(void **state)
{
    struct error err;
    struct wire w;
    uint32_t leases, grants;

    (void)state;
    need_root();
    int fd = connect_hello();
    start_grant(&w, 12, 0);
    assert_int_equal(wire_send(fd, &w, clock_monotonic_us() + 1000000, &err), 0);
    close(fd);
    rig_loop(50);
    leases_counts(rig->f.leases, &leases, &grants);
    assert_int_equal(grants, 0);
}

static void users_get_no_grants_but_leases(void **state)
{
    char key[LEASE_KEY_MAX];
    struct error err;
    struct wire w;

    (void)state;
    int fd = connect_user(UID);
    start_grant(&w, 12, 0);
    talk(fd, &w);
    assert_error(&w, STATUS_DENIED, "slurmstepd");
    wire_start(&w, "lease");
    wire_put(&w, "models", "nosuch");
    talk(fd, &w);
    assert_error(&w, STATUS_NOT_FOUND, "alpha, beta, gamma");
    wire_start(&w, "lease");
    wire_put(&w, "models", "alpha");
    wire_put(&w, "tokens", "500");
    talk(fd, &w);
    assert_string_equal(wire_type(&w), "granted");
    snprintf(key, sizeof(key), "%s", wire_get(&w, "key"));
    struct grant *g = leases_authenticate(rig->f.leases, key, UID, &err);
    assert_non_null(g);
    assert_int_equal(leases_left(g), 500);
    assert_null(leases_authenticate(rig->f.leases, key, 0, &err));
    close(fd);
    rig_loop_until(&rig->grants_ended, 1000);
    assert_null(leases_authenticate(rig->f.leases, key, UID, &err));
}

static void local_users_can_be_kept_out(void **state)
{
    struct wire w;

    (void)state;
    rig->config.local_users = 0;
    int fd = connect_hello();
    wire_start(&w, "lease");
    wire_put(&w, "models", "alpha");
    talk(fd, &w);
    assert_error(&w, STATUS_DENIED, "LocalUsers=no");
    close(fd);
}

static void wrong_numbers_are_refused(void **state)
{
    static const char *const bad[][2] = {{"job", "0"},      {"job", "-3"},
                                         {"job", "x"},      {"step", "-1"},
                                         {"uid", "-1"},     {"uid", "4294967295"},
                                         {"wait", "-1"},    {"tokens", "-5"},
                                         {"tokens", "1e3"}, {"wait", "9223372036854775807"}};
    static const char *const keys[] = {"job",    "step", "step_name", "uid",
                                       "models", "wait", "tokens"};
    static const char *const good[] = {"12", "0", "0", "1000", "alpha", "0", "5"};
    struct wire w;

    (void)state;
    need_root();
    int fd = connect_hello();
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        wire_start(&w, "grant");
        for (int k = 0; k < 7; k++)
            wire_put(&w, keys[k], strcmp(keys[k], bad[i][0]) == 0 ? bad[i][1] : good[k]);
        talk(fd, &w);
        assert_error(&w, STATUS_INVALID, "");
    }
    close(fd);
}

/* --- what there is ---------------------------------------------------------------------------- */

static void list_has_a_row_per_model(void **state)
{
    struct wire w;

    (void)state;
    rig->ok[GAMMA] = 0;
    int fd = connect_hello();
    wire_start(&w, "list");
    talk(fd, &w);
    assert_string_equal(wire_type(&w), "row");
    assert_string_equal(wire_get(&w, "model"), "alpha");
    assert_string_equal(wire_get(&w, "instance"), "cpu");
    assert_string_equal(wire_get(&w, "tier"), "memory");
    assert_string_equal(wire_get(&w, "state"), "resident");
    receive(fd, &w);
    assert_string_equal(wire_get(&w, "model"), "beta");
    assert_string_equal(wire_get(&w, "tier"), "host");
    assert_string_equal(wire_get(&w, "state"), "ready");
    assert_null(wire_get(&w, "percent"));
    receive(fd, &w);
    assert_string_equal(wire_get(&w, "tier"), "disk");
    assert_string_equal(wire_get(&w, "state"), "unusable");
    assert_string_equal(wire_get(&w, "text"), "needs more memory");
    receive(fd, &w);
    assert_string_equal(wire_type(&w), "end");
    close(fd);
}

static void list_tells_how_far_preparing_is(void **state)
{
    struct wire w;

    (void)state;
    rig->preparing = 1;
    int fd = connect_hello();
    wire_start(&w, "list");
    talk(fd, &w);
    assert_null(wire_get(&w, "percent"));
    receive(fd, &w);
    assert_string_equal(wire_get(&w, "model"), "beta");
    assert_string_equal(wire_get(&w, "state"), "preparing");
    assert_string_equal(wire_get(&w, "percent"), "42");
    assert_string_equal(wire_get(&w, "tier"), "disk");
    close(fd);
}

/* Each place of each model, and what an earlier configuration has left. */
static void list_of_caches(void **state)
{
    static const char *const rows[][3] = {
        {"alpha", "disk", ""}, {"alpha", "memory", "cpu"},
        {"beta", "disk", ""},  {"beta", "host", "/shm/pool/new-1"},
        {"gamma", "disk", ""}, {"former", "host", "/shm/pool/0123"}};
    struct wire w;

    (void)state;
    rig->preparing = 1;
    int fd = connect_hello();
    wire_start(&w, "list");
    wire_put(&w, "cache", "1");
    talk(fd, &w);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        if (i > 0)
            receive(fd, &w);
        assert_string_equal(wire_type(&w), "row");
        assert_string_equal(wire_get(&w, "model"), rows[i][0]);
        assert_string_equal(wire_get(&w, "tier"), rows[i][1]);
        if (*rows[i][2])
            assert_string_equal(wire_get(&w, "place"), rows[i][2]);
        if (i == 3) {
            assert_string_equal(wire_get(&w, "state"), "preparing");
            assert_string_equal(wire_get(&w, "percent"), "42");
            assert_string_equal(wire_get(&w, "pinned"), "host");
            assert_string_equal(wire_get(&w, "used"), "7");
        }
    }
    receive(fd, &w);
    assert_string_equal(wire_type(&w), "end");
    close(fd);
}

/* Types of the rows of a status answer, one letter each. */
static void status_types(int fd, char *types, size_t room)
{
    struct wire w;
    size_t n = 0;

    wire_start(&w, "status");
    for (talk(fd, &w); n + 1 < room; receive(fd, &w)) {
        types[n++] = wire_type(&w)[0];
        if (strcmp(wire_type(&w), "daemon") == 0) {
            assert_string_equal(wire_get(&w, "running"), "3");
            assert_string_equal(wire_get(&w, "held"), "2");
        }
        if (strcmp(wire_type(&w), "end") == 0)
            break;
    }
    types[n] = '\0';
}

static void status_shows_leases_to_their_owner(void **state)
{
    char types[32];
    struct error err;
    struct wire w;

    (void)state;
    need_root();
    int root = connect_hello();
    start_grant(&w, 12, 0);
    talk(root, &w);
    assert_string_equal(wire_type(&w), "granted");
    rig->waiting = leases_authenticate(rig->f.leases, wire_get(&w, "key"), UID, &err);
    assert_non_null(rig->waiting);
    status_types(root, types, sizeof(types));
    assert_string_equal(types, "dimmmtlwe"); /* a tenant that is not known yet, and who waits */
    int owner = connect_user(UID), other = connect_user(UID + 1);
    status_types(owner, types, sizeof(types));
    assert_string_equal(types, "dimmmlwe");
    status_types(other, types, sizeof(types));
    assert_string_equal(types, "dimmme");
    /* A lease of UID's with an account, whose tenant it sees, and the other does not. */
    rig->waiting = NULL;
    int mine = connect_user(UID);
    wire_start(&w, "lease");
    wire_put(&w, "models", "alpha");
    talk(mine, &w);
    assert_string_equal(wire_type(&w), "granted");
    status_types(owner, types, sizeof(types));
    assert_string_equal(types, "dimmmtlle");
    status_types(other, types, sizeof(types));
    assert_string_equal(types, "dimmme");
    close(mine);
    close(root);
    close(owner);
    close(other);
}

/* --- orders ----------------------------------------------------------------------------------- */

static void reply(enum status status, const char *text)
{
    struct policy_event ev = {.status = status, .tag = rig->tag};

    snprintf(ev.text, sizeof(ev.text), "%s", text);
    control_policy_reply(rig->f.control, &ev);
}

static void orders_are_answered_when_done(void **state)
{
    struct error err;
    struct wire w;

    (void)state;
    int fd = connect_hello();
    wire_start(&w, "load");
    wire_put(&w, "model", "gamma");
    assert_int_equal(wire_send(fd, &w, clock_monotonic_us() + 1000000, &err), 0);
    rig_loop_until(&rig->commands, 1000);
    assert_int_equal(rig->command, POLICY_LOAD);
    assert_int_equal(rig->target, GAMMA);
    reply(STATUS_OK, "gamma is resident on cpu");
    receive(fd, &w);
    assert_string_equal(wire_type(&w), "ok");
    assert_string_equal(wire_get(&w, "text"), "gamma is resident on cpu");

    rig->commands = 0;
    wire_start(&w, "drain");
    wire_put(&w, "instance", "cpu");
    assert_int_equal(wire_send(fd, &w, clock_monotonic_us() + 1000000, &err), 0);
    rig_loop_until(&rig->commands, 1000);
    assert_int_equal(rig->command, POLICY_DRAIN);
    reply(STATUS_UNAVAILABLE, "the engine is down");
    receive(fd, &w);
    assert_error(&w, STATUS_UNAVAILABLE, "the engine is down");

    wire_start(&w, "drain");
    wire_put(&w, "instance", "gpu9");
    talk(fd, &w);
    assert_error(&w, STATUS_NOT_FOUND, "there are cpu");
    wire_start(&w, "unload");
    wire_put(&w, "model", "delta");
    talk(fd, &w);
    assert_error(&w, STATUS_NOT_FOUND, "delta");
    wire_start(&w, "unload");
    talk(fd, &w);
    assert_error(&w, STATUS_INVALID, "model");
    close(fd);
    rig_loop(10);
    reply(STATUS_OK, "nobody waits for this one");
}

static void orders_are_for_root(void **state)
{
    static const char *const orders[] = {"load", "unload", "drain", "resume"};
    struct wire w;

    (void)state;
    int fd = connect_user(UID);
    for (int i = 0; i < 4; i++) {
        wire_start(&w, orders[i]);
        wire_put(&w, "model", "alpha");
        wire_put(&w, "instance", "cpu");
        talk(fd, &w);
        assert_error(&w, STATUS_DENIED, orders[i]);
    }
    assert_int_equal(rig->commands, 0);
    close(fd);
}

/* --- acct ------------------------------------------------------------------------------------- */

#define ROWS 3000

static void fill_ledger(void)
{
    struct db_lease lease = {.job = 12, .uid = UID};
    struct error err;

    assert_int_equal(db_begin(rig->db, &err), 0);
    assert_int_equal(db_put_lease(rig->db, &lease, &err), 0);
    for (int i = 0; i < ROWS; i++) {
        struct db_usage u = {.lease = lease.id,
                             .job = 12 + i % 3,
                             .uid = UID + i % 2,
                             .start_us = (1000 + i) * INT64_C(1000000),
                             .end_us = (1000 + i) * INT64_C(1000000)};
        strcpy(u.model, i % 2 ? "alpha" : "beta");
        strcpy(u.state, "done");
        snprintf(u.request, sizeof(u.request), "chatcmpl-0123456789abcdef0123456789ab%04d", i);
        if (db_open_usage(rig->db, &u, &err) < 0)
            fail_msg("%s", err.text);
    }
    assert_int_equal(db_commit(rig->db, &err), 0);
}

/* Ask, and count the rows; each must have a higher number than the one before. */
static int count_rows(int fd, struct wire *w)
{
    int64_t last = 0, row;
    int count = 0;

    for (talk(fd, w); strcmp(wire_type(w), "row") == 0; receive(fd, w)) {
        assert_int_equal(wire_get_i64(w, "row", &row, NULL), 0);
        assert_true(row > last);
        last = row;
        count++;
    }
    assert_string_equal(wire_type(w), "end");
    return count;
}

static void acct_sends_all_rows_in_pages(void **state)
{
    struct wire w;

    (void)state;
    fill_ledger();
    int fd = connect_hello();
    wire_start(&w, "acct");
    assert_int_equal(count_rows(fd, &w), ROWS);
    wire_start(&w, "acct");
    wire_put(&w, "jobs", "12,13");
    assert_int_equal(count_rows(fd, &w), ROWS * 2 / 3);
    wire_start(&w, "acct");
    wire_put(&w, "from", "1500");
    wire_put(&w, "to", "1600");
    assert_int_equal(count_rows(fd, &w), 100);
    wire_start(&w, "acct");
    wire_put(&w, "jobs", "99");
    assert_int_equal(count_rows(fd, &w), 0);
    wire_start(&w, "acct");
    wire_put(&w, "from", "-5");
    talk(fd, &w);
    assert_error(&w, STATUS_INVALID, "from");
    close(fd);
}

static void users_see_their_own_rows(void **state)
{
    struct wire w;

    (void)state;
    fill_ledger();
    int fd = connect_user(UID);
    wire_start(&w, "acct");
    assert_int_equal(count_rows(fd, &w), ROWS / 2);
    wire_start(&w, "acct");
    wire_put(&w, "users", "1001");
    assert_int_equal(count_rows(fd, &w), 0);
    close(fd);
}

static void a_client_that_does_not_read_is_not_fed(void **state)
{
    struct error err;
    struct wire w;
    int count = 0, small = 4096;

    (void)state;
    fill_ledger();
    int fd = connect_hello();
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    wire_start(&w, "acct");
    assert_int_equal(wire_send(fd, &w, clock_monotonic_us() + 1000000, &err), 0);
    rig_loop(300);
    const struct conn *conn = rig->f.control->conns;
    assert_non_null(conn->walk); /* still pages to go */
    int other = connect_hello(); /* nobody else waits for it */
    close(other);
    for (receive(fd, &w); strcmp(wire_type(&w), "row") == 0; receive(fd, &w))
        count++;
    assert_int_equal(count, ROWS);
    close(fd);
}

/* --- limits ----------------------------------------------------------------------------------- */

static void a_user_has_so_many_connections(void **state)
{
    int fds[CONTROL_CONNS_UID];
    struct wire w;

    (void)state;
    for (unsigned i = 0; i < CONTROL_CONNS_UID; i++)
        fds[i] = connect_user(UID);
    assert_int_equal(seteuid(UID), 0);
    int fd = connect_raw();
    assert_int_equal(seteuid(0), 0);
    receive(fd, &w);
    assert_error(&w, STATUS_UNAVAILABLE, "64 connections");
    assert_closed(fd);
    close(connect_user(UID + 1));
    close(connect_hello());
    for (unsigned i = 0; i < CONTROL_CONNS_UID; i++)
        close(fds[i]);
    rig_loop(50);
    close(connect_user(UID));
}

static void the_daemon_goes_with_clients_connected(void **state)
{
    struct wire w;

    (void)state;
    need_root();
    int fd = connect_hello();
    start_grant(&w, 12, 0);
    talk(fd, &w);
    rig_loop(5);
    control_destroy(rig->f.control);
    rig->f.control = NULL;
    assert_closed(fd);
    assert_int_equal(rig->grants_ended, 0); /* the step lives on, and so does its grant */
    rig_restart();
    uint32_t leases, grants;
    leases_counts(rig->f.leases, &leases, &grants);
    assert_int_equal(grants, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(hello_comes_first),
        TEST(another_version_is_refused),
        TEST(no_frame_at_all),
        TEST(frames_in_pieces),
        TEST(requests_sent_ahead_are_answered_in_order),
        TEST(a_step_is_granted_and_ends_with_its_connection),
        TEST(a_client_that_leaves_at_once_leaves_nothing),
        TEST(users_get_no_grants_but_leases),
        TEST(local_users_can_be_kept_out),
        TEST(wrong_numbers_are_refused),
        TEST(list_has_a_row_per_model),
        TEST(list_tells_how_far_preparing_is),
        TEST(list_of_caches),
        TEST(status_shows_leases_to_their_owner),
        TEST(orders_are_answered_when_done),
        TEST(orders_are_for_root),
        TEST(acct_sends_all_rows_in_pages),
        TEST(users_see_their_own_rows),
        TEST(a_client_that_does_not_read_is_not_fed),
        TEST(a_user_has_so_many_connections),
        TEST(the_daemon_goes_with_clients_connected),
    };

    signal(SIGPIPE, SIG_IGN); /* as modelpoold does */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
