/* stream_test.c - a generation's connection: events, delivered counts, clients that leave or stall
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/reply.h"
#include "daemon/stream.h"

static const char request[] = "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";

struct rig {
    struct event_base *base;
    struct evhttp *server;
    int client;
    struct stream stream;
    int requests, gone;
    uint32_t delivered;
};

static void on_gone(void *arg)
{
    ((struct rig *)arg)->gone++;
}

static void on_delivered(void *arg, uint32_t tokens)
{
    struct rig *r = arg;
    assert_true(tokens > r->delivered);
    r->delivered = tokens;
}

static void on_request(struct evhttp_request *req, void *arg)
{
    struct rig *r = arg;
    r->requests++;
    stream_close(&r->stream); /* of the request before, if there was one */
    stream_open(&r->stream, req, "id-1", on_gone, on_delivered, r);
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int small = 4096;

    r->base = event_base_new();
    r->server = evhttp_new(r->base);
    evhttp_set_gencb(r->server, on_request, r);
    struct evhttp_bound_socket *b = evhttp_bind_socket_with_handle(r->server, "127.0.0.1", 0);
    assert_non_null(b);
    assert_int_equal(getsockname(evhttp_bound_socket_get_fd(b), (struct sockaddr *)&a, &len), 0);
    r->client = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(r->client, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    assert_int_equal(connect(r->client, (struct sockaddr *)&a, sizeof a), 0);
    fcntl(r->client, F_SETFL, O_NONBLOCK);
    assert_int_equal(send(r->client, request, strlen(request), 0), (ssize_t)strlen(request));
    for (int i = 0; i < 1000 && !r->requests; i++)
        event_base_loop(r->base, EVLOOP_ONCE);
    assert_int_equal(r->requests, 1);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    stream_close(&r->stream);
    if (r->client >= 0)
        close(r->client);
    evhttp_free(r->server);
    event_base_free(r->base);
    free(r);
    return 0;
}

/* Turn the loop and read at the client until `text` has come, or nothing comes any more. */
static char *read_until(struct rig *r, const char *text)
{
    size_t len = 0, room = 1 << 16;
    char *got = calloc(1, room);

    for (int i = 0; i < 2000 && (!len || !strstr(got, text)); i++) {
        event_base_loop(r->base, EVLOOP_NONBLOCK);
        ssize_t n = recv(r->client, got + len, room - len - 1, 0);
        if (n > 0)
            len += (size_t)n;
        else if (n == 0)
            break;
        else
            usleep(1000);
    }
    return got;
}

static void turn(struct rig *r, const int *until)
{
    for (int i = 0; i < 2000 && !*until; i++) {
        event_base_loop(r->base, EVLOOP_NONBLOCK);
        usleep(1000);
    }
}

static void test_events_and_end(void **state)
{
    struct rig *r = *state;

    assert_int_equal(stream_event(&r->stream, json_pack("{si}", "n", 1), 1, NULL), 0);
    assert_int_equal(r->delivered, 0); /* not before the socket has it */
    char *got = read_until(r, "{\"n\":1}");
    assert_non_null(strstr(got, "200 OK"));
    assert_non_null(strstr(got, "text/event-stream"));
    assert_non_null(strstr(got, "x-request-id: id-1"));
    assert_non_null(strstr(got, "data: {\"n\":1}\n\n"));
    free(got);
    assert_int_equal(r->delivered, 1);
    assert_int_equal(stream_event(&r->stream, json_pack("{si}", "n", 2), 4, NULL), 0);
    stream_end(&r->stream);
    got = read_until(r, "0\r\n\r\n");
    assert_non_null(strstr(got, "data: {\"n\":2}\n\n"));
    assert_non_null(strstr(got, "data: [DONE]\n\n"));
    free(got);
    assert_int_equal(r->gone, 0);

    /* the connection serves another request */
    assert_int_equal(send(r->client, request, strlen(request), 0), (ssize_t)strlen(request));
    for (int i = 0; i < 1000 && r->requests < 2; i++)
        event_base_loop(r->base, EVLOOP_ONCE);
    assert_int_equal(r->requests, 2);
}

/* A client that leaves before the first byte of its answer is noticed. */
static void test_leaves_while_waiting(void **state)
{
    struct rig *r = *state;

    close(r->client);
    r->client = -1;
    turn(r, &r->gone);
    assert_int_equal(r->gone, 1);
    assert_null(r->stream.req);
}

static void test_leaves_between_events(void **state)
{
    struct rig *r = *state;

    assert_int_equal(stream_event(&r->stream, json_pack("{si}", "n", 1), 1, NULL), 0);
    free(read_until(r, "\"n\""));
    close(r->client);
    r->client = -1;
    turn(r, &r->gone);
    assert_int_equal(r->gone, 1);
    assert_int_equal(r->delivered, 1);
}

/* What the client sends before its answer is complete neither disturbs nor piles up. */
static void test_unsolicited_bytes(void **state)
{
    struct rig *r = *state;
    char junk[65536];
    size_t sent = 0;

    memset(junk, 'x', sizeof junk);
    for (int i = 0; i < 200; i++) {
        ssize_t n = send(r->client, junk, sizeof junk, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        event_base_loop(r->base, EVLOOP_NONBLOCK);
    }
    assert_true(sent < 200 * sizeof junk); /* the kernel's buffers are full, and not our memory */
    assert_int_equal(r->gone, 0);
    assert_int_equal(stream_event(&r->stream, json_pack("{si}", "n", 1), 1, NULL), 0);
    char *got = read_until(r, "{\"n\":1}");
    assert_non_null(strstr(got, "{\"n\":1}"));
    free(got);
}

static void test_slow_reader(void **state)
{
    struct rig *r = *state;
    char *text = malloc(100001);
    struct error err = {0};
    int rv = 0, i;

    memset(text, 'a', 100000);
    text[100000] = '\0';
    for (i = 1; i < 1000 && rv == 0; i++) {
        rv = stream_event(&r->stream, json_pack("{ss}", "t", text), (uint32_t)i, &err);
        event_base_loop(r->base, EVLOOP_NONBLOCK);
    }
    free(text);
    assert_int_equal(rv, -1);
    assert_int_equal(err.status, STATUS_EXHAUSTED);
    assert_true(i < 1000);
    assert_true(r->delivered > 0 && r->delivered < (uint32_t)i);
    assert_int_equal(r->gone, 0); /* cutting off is the caller's */
    stream_close(&r->stream);
    assert_null(r->stream.req);
}

static void test_whole_answer(void **state)
{
    struct rig *r = *state;

    struct evhttp_request *req = stream_take(&r->stream);
    reply_json(req, "id-1", 429, json_pack("{ss}", "why", "later"));
    char *got = read_until(r, "later");
    assert_non_null(strstr(got, "429 Too Many Requests"));
    assert_non_null(strstr(got, "Content-Type: application/json"));
    free(got);
    close(r->client);
    r->client = -1;
    for (int i = 0; i < 20; i++) {
        event_base_loop(r->base, EVLOOP_NONBLOCK);
        usleep(1000);
    }
    assert_int_equal(r->gone, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_events_and_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leaves_while_waiting, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leaves_between_events, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unsolicited_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whole_answer, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
