/* Control wire: what goes in comes out, what is hostile is refused, deadlines hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/client.h"
#include "common/clock.h"

static void pairs_come_back(void **state)
{
    (void)state;
    struct wire w, got;
    struct error err = {0};
    unsigned char frame[WIRE_HEAD + WIRE_BODY_MAX];
    uint64_t n;
    int64_t i;
    wire_start(&w, "grant");
    wire_put(&w, "empty", "");
    wire_put(&w, "absent", NULL);
    wire_put(&w, "name", "smollm2 \xc3\xa9");
    wire_put_u64(&w, "big", UINT64_MAX);
    wire_put_i64(&w, "low", INT64_MIN);
    assert_int_equal(wire_head(&w, frame, &err), 0);
    memcpy(frame + WIRE_HEAD, w.body, w.len);
    assert_int_equal(wire_decode(&got, frame, WIRE_HEAD + w.len, &err), WIRE_HEAD + w.len);
    assert_string_equal(wire_type(&got), "grant");
    assert_string_equal(wire_get(&got, "empty"), "");
    assert_string_equal(wire_get(&got, "name"), "smollm2 \xc3\xa9");
    assert_null(wire_get(&got, "absent"));
    assert_int_equal(wire_get_u64(&got, "big", &n, &err), 0);
    assert_true(n == UINT64_MAX);
    assert_int_equal(wire_get_i64(&got, "low", &i, &err), 0);
    assert_true(i == INT64_MIN);
    assert_int_equal(wire_get_u64(&got, "low", &n, &err), -1);
    assert_int_equal(wire_get_u64(&got, "name", &n, &err), -1);
    assert_int_equal(wire_get_u64(&got, "absent", &n, &err), -1);
    assert_non_null(strstr(err.text, "absent"));
}

static void every_prefix_waits(void **state)
{
    (void)state;
    struct wire w, got;
    unsigned char frame[WIRE_HEAD + WIRE_BODY_MAX];
    wire_start(&w, "status");
    wire_put(&w, "k", "v");
    assert_int_equal(wire_head(&w, frame, NULL), 0);
    memcpy(frame + WIRE_HEAD, w.body, w.len);
    for (size_t len = 0; len < WIRE_HEAD + w.len; len++)
        assert_int_equal(wire_decode(&got, frame, len, NULL), 0);
}

static void hostile_frames_are_refused(void **state)
{
    (void)state;
    struct wire got;
    struct error err = {0};
    const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        {"\xff\xff\xff\xff", 4},    /* over the limit */
        {"\0\0\0\0", 4},            /* nothing in it */
        {"\4\0\0\0type", 8},        /* no NUL at the end */
        {"\5\0\0\0type\0", 9},      /* a key without a value */
        {"\6\0\0\0\0\0\0ab\0", 10}, /* an odd number of strings? four: see below */
    };
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(wire_decode(&got, bad[i].bytes, bad[i].len, &err), -1);
        assert_int_equal(err.status, STATUS_CORRUPT);
    }
    /* Odd bytes that still pair up are a message without a type. */
    assert_int_equal(wire_decode(&got, bad[4].bytes, bad[4].len, &err), 10);
    assert_string_equal(wire_type(&got), "");
}

static void overflow_is_not_sent(void **state)
{
    (void)state;
    struct wire w;
    struct error err = {0};
    unsigned char head[WIRE_HEAD];
    char value[2000];
    memset(value, 'x', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    wire_start(&w, "row");
    for (int i = 0; i < 20; i++)
        wire_put(&w, "k", value);
    assert_true(w.len <= WIRE_BODY_MAX);
    assert_int_equal(wire_head(&w, head, &err), -1);
    assert_int_equal(err.status, STATUS_INVALID);
}

static void errors_cross(void **state)
{
    (void)state;
    struct wire w;
    struct error err = {0}, in = {.status = STATUS_EXHAUSTED, .text = "budget of 100 tokens"};
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    wire_put_error(&w, &in);
    assert_int_equal(wire_send(fd[0], &w, clock_monotonic_us() + 1000000, &err), 0);
    memset(&w, 0, sizeof w);
    assert_int_equal(wire_recv(fd[1], &w, clock_monotonic_us() + 1000000, &err), 0);
    assert_int_equal(wire_error(&w, &err), -1);
    assert_int_equal(err.status, STATUS_EXHAUSTED);
    assert_string_equal(err.text, "budget of 100 tokens");
    close(fd[0]);
    assert_int_equal(wire_recv(fd[1], &w, clock_monotonic_us() + 1000000, &err), -1);
    assert_int_equal(err.status, STATUS_UNAVAILABLE);
    close(fd[1]);
}

/* A daemon that accepts nothing (stopped) must not hold a client beyond its deadline. */
static void a_silent_daemon_times_out(void **state)
{
    (void)state;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct error err = {0};
    char dir[] = "/tmp/wire-test-XXXXXX";
    assert_non_null(mkdtemp(dir));
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s/s", dir);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(listen(fd, 0), 0);
    for (int i = 0; i < 3; i++) { /* the later ones find the backlog full */
        int64_t start = clock_monotonic_us();
        assert_int_equal(client_connect(addr.sun_path, "test", start + 100000, NULL, &err), -1);
        assert_int_equal(err.status, STATUS_TIMEOUT);
        assert_true(clock_monotonic_us() - start < 1000000);
    }
    close(fd);
    assert_int_equal(
        client_connect(addr.sun_path, "test", clock_monotonic_us() + 100000, NULL, &err), -1);
    assert_int_equal(err.status, STATUS_UNAVAILABLE);
    assert_non_null(strstr(err.text, addr.sun_path));
    unlink(addr.sun_path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_come_back),
        cmocka_unit_test(every_prefix_waits),
        cmocka_unit_test(hostile_frames_are_refused),
        cmocka_unit_test(overflow_is_not_sent),
        cmocka_unit_test(errors_cross),
        cmocka_unit_test(a_silent_daemon_times_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
