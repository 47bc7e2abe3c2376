/* serve_test.c - bench serve: events, deadlines, sums, fits, and requests to a scripted server */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/serve.h"

#define S 1000000000ll

/* main.c has these; the parts tested here print nothing. */
int cli_fail(int code, const char *fmt, ...)
{
    (void)fmt;
    return code;
}

int cli_usage(const char *usage, const char *fmt, ...)
{
    (void)usage;
    (void)fmt;
    return EXIT_USAGE;
}

int cli_help(const char *usage, const char *text)
{
    (void)usage;
    (void)text;
    return EXIT_OK;
}

/* --- events -------------------------------------------------------------------------------------
 */

static void events_say_how_many_tokens_there_are(void **state)
{
    struct serve_chunk c;

    (void)state;
    serve_chunk_parse("{\"choices\":[{\"text\":\"ab\",\"finish_reason\":null}],"
                      "\"usage\":{\"completion_tokens\":7}}",
                      &c);
    assert_int_equal(c.tokens, 7);
    assert_true(c.text && !c.finished && c.error[0] == '\0');
    serve_chunk_parse("{\"choices\":[{\"text\":\"\\u0000\",\"finish_reason\":\"length\"}],"
                      "\"usage\":null}",
                      &c);
    assert_int_equal(c.tokens, -1);
    assert_true(c.text && c.finished);
    serve_chunk_parse("{\"choices\":[],\"usage\":{\"completion_tokens\":-3}}", &c);
    assert_int_equal(c.tokens, -1);
    assert_false(c.text || c.finished);
    serve_chunk_parse("{\"error\":{\"message\":\"out of\\nluck\"}}", &c);
    assert_string_equal(c.error, "out of luck");
    serve_chunk_parse("{\"error\":\"x\"}", &c);
    assert_string_equal(c.error, "the server reports an error");
    serve_chunk_parse("{\"choices\":", &c);
    assert_non_null(strstr(c.error, "no JSON"));
}

/* --- deadlines ----------------------------------------------------------------------------------
 */

static void a_token_is_due_at_arrival_ttft_and_i_tbt(void **state)
{
    const struct sim_class class = {.ttft = S, .tbt = S / 10}, free_class = {.ttft = 0};
    struct sim_outcome o = {.first = 0};

    (void)state;
    serve_take_tokens(&o, 5 * S, &class, 1, 6 * S); /* due just then */
    assert_int_equal(o.on_time, 1);
    serve_take_tokens(&o, 5 * S, &class, 1, 7 * S); /* nothing new */
    assert_int_equal(o.last, 6 * S);
    /* three at once, due 6.1, 6.2, 6.3 */
    serve_take_tokens(&o, 5 * S, &class, 4, 6 * S + S / 5);
    assert_int_equal(o.produced, 4);
    assert_int_equal(o.on_time, 3);
    serve_take_tokens(&o, 5 * S, &class, 5, 6 * S + 4 * S / 10 + 1); /* a nanosecond late */
    assert_int_equal(o.on_time, 3);
    assert_int_equal(o.first, 6 * S);
    assert_int_equal(o.last, 6 * S + 4 * S / 10 + 1);

    o = (struct sim_outcome){.first = 0};
    serve_take_tokens(&o, 0, &free_class, 9, 100 * S); /* best effort is never late */
    assert_int_equal(o.on_time, 9);
}

/* The same answer as one of the simulator's segments. */
static void tokens_count_as_a_segment_s_do(void **state)
{
    const struct sim_class class = {.ttft = S, .tbt = S / 20};
    struct sim_segment g = {.start = S / 2, .base = 3e7, .slope = 1e6, .steps = 60};
    struct sim_outcome o = {.first = 0};
    struct sim_qos qos = {.target = S};

    (void)state;
    for (uint32_t k = 1; k <= g.steps; k++)
        serve_take_tokens(&o, 0, &class, k, sim_segment_end(&g, k));
    assert_int_equal(o.on_time, sim_segment_on_time(&g, S, class.tbt));
    assert_true(o.on_time > 0 && o.on_time < 60);
    sim_qos_add(&qos, &g, class.tbt);
    assert_true(fabs(sim_qos_share(&qos, o.last) - sim_qos_share(&o.qos, o.last)) < 1e-9);
}

/* --- sums ---------------------------------------------------------------------------------------
 */

static void sums_know_refusals_failures_and_the_warmup(void **state)
{
    struct sim_request q[4] = {{.arrival = S, .input = 1, .output = 4},
                               {.arrival = 2 * S, .input = 1, .output = 4},
                               {.arrival = 3 * S, .input = 1, .output = 4},
                               {.arrival = 4 * S, .input = 1, .output = 4}};
    struct sim_trace t = {.requests = q, .count = 4, .tenant_count = 1, .class_count = 1};
    struct sim_outcome o[4] = {{.first = 0}};
    struct sim_report r = {.requests = 0};
    struct error err;

    (void)state;
    t.classes[0] = (struct sim_class){.ttft = S, .tbt = S};
    for (int i = 0; i < 3; i++) /* the first is the warmup's, the third breaks off after a token */
        serve_take_tokens(&o[i], q[i].arrival, &t.classes[0], i < 2 ? 4 : 1, q[i].arrival + S / 2);
    o[2].failed = 1;
    o[3].refused = 1;
    assert_int_equal(sim_sum_up(&t, o, 2 * S, &r, &err), 0);
    assert_int_equal(r.requests, 3);
    assert_int_equal(r.refused, 1);
    assert_int_equal(r.tokens, 8);
    assert_int_equal(r.on_time, 5);
    assert_true(fabs(r.token_attainment - 5.0 / 8) < 1e-12);
    assert_true(fabs(r.request_attainment - 0.5) < 1e-12);
    assert_true(fabs(r.ttft[0] - 0.5) < 1e-9);
    assert_int_equal(r.tenants[0].requests, 2);
    assert_true(fabs(r.makespan - 3.5) < 1e-9);
    sim_report_clear(&r);
}

static void percentiles_are_samples(void **state)
{
    double v[100], p[3];

    (void)state;
    for (int i = 0; i < 100; i++)
        v[i] = 100 - i;
    sim_percentiles(v, 100, p);
    assert_true(p[0] > 50 && p[0] < 52 && p[1] > 94 && p[1] < 96 && p[2] > 98 && p[2] < 100);
    sim_percentiles(v, 1, p);
    assert_true(p[0] > 0.99 && p[0] < 1.01 && p[2] > 0.99 && p[2] < 1.01);
    sim_percentiles(NULL, 0, p);
    assert_true(fabs(p[0]) < 1e-12 && fabs(p[2]) < 1e-12);
}

static void shapes_are_names_and_counts(void **state)
{
    const char *list = "tiny-a:3,tiny-b";
    char name[64];
    uint32_t count;

    (void)state;
    assert_int_equal(serve_shape_next(&list, name, &count), 1);
    assert_string_equal(name, "tiny-a");
    assert_int_equal(count, 3);
    assert_int_equal(serve_shape_next(&list, name, &count), 1);
    assert_string_equal(name, "tiny-b");
    assert_int_equal(count, 1);
    assert_int_equal(serve_shape_next(&list, name, &count), 0);
    static const char *const wrong[] = {":3", "a:0", "a:x", "a:3x,b", "a:99999", "a/b:1", ",a"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        list = wrong[i];
        assert_int_equal(serve_shape_next(&list, name, &count), -1);
    }
}

/* --- a scripted server --------------------------------------------------------------------------
 */

#define OK_HEAD                                                                                    \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"                  \
    "Transfer-Encoding: chunked\r\n\r\n"
#define EVENT(text, n)                                                                             \
    "data: {\"choices\":[{\"text\":\"" text "\",\"finish_reason\":null}],"                         \
    "\"usage\":{\"completion_tokens\":" #n "}}\n\n"
#define PLAIN "data: {\"choices\":[{\"text\":\"x\",\"finish_reason\":null}]}\n\n"
#define DONE  "data: [DONE]\n\n"

struct script {
    const char *head;
    const char *body; /* NULL: none */
    size_t piece;     /* bytes of a chunk */
    int cut;          /* the connection is closed without the last chunk */
};

struct server {
    int fd, port;
    const struct script *scripts;
    size_t count;
    pthread_t thread;
};

static void write_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

        if (n <= 0)
            return;
        text += n;
        len -= (size_t)n;
    }
}

/* The request, to the end of its body; only its shape is looked at. */
static void read_request(int fd)
{
    char text[65536];
    size_t len = 0;
    ssize_t n;

    while (len < sizeof text - 1 && (n = recv(fd, text + len, sizeof text - 1 - len, 0)) > 0) {
        len += (size_t)n;
        text[len] = '\0';
        const char *body = strstr(text, "\r\n\r\n"), *length = strstr(text, "Content-Length: ");
        if (body != NULL && length != NULL &&
            len >= (size_t)(body + 4 - text) + strtoul(length + 16, NULL, 10))
            return;
    }
}

static void play(int fd, const struct script *s)
{
    char size[16];

    write_all(fd, s->head, strlen(s->head));
    for (size_t at = 0; s->body != NULL && at < strlen(s->body); at += s->piece) {
        size_t n = strlen(s->body) - at < s->piece ? strlen(s->body) - at : s->piece;

        write_all(fd, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", n));
        write_all(fd, s->body + at, n);
        write_all(fd, "\r\n", 2);
        usleep(300);
    }
    if (s->body != NULL && !s->cut)
        write_all(fd, "0\r\n\r\n", 5);
}

static void *serve_scripts(void *arg)
{
    const struct server *s = arg;

    for (size_t i = 0; i < s->count; i++) { /* one after the other, as they come */
        int fd = accept(s->fd, NULL, NULL);

        if (fd < 0)
            return NULL;
        read_request(fd);
        play(fd, &s->scripts[i]);
        close(fd);
    }
    return NULL;
}

static void server_start(struct server *s)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;

    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(s->fd >= 0 && bind(s->fd, (struct sockaddr *)&a, sizeof a) == 0 &&
                listen(s->fd, 16) == 0 && getsockname(s->fd, (struct sockaddr *)&a, &len) == 0);
    s->port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&s->thread, NULL, serve_scripts, s), 0);
}

#define ASKED 4u

/* Each script answers one request for four tokens, 20 ms apart, so that their order is kept. */
static void exchange(const struct script *scripts, size_t count, struct sim_outcome *outcomes,
                     struct serve_fate *fates)
{
    static const struct sim_class class = {.ttft = 10 * S, .tbt = S};
    struct server server = {.scripts = scripts, .count = count};
    struct serve_grant grant = {.fd = -1, .key = "k"};
    struct serve_ask asks[16];
    struct serve_run run = {.asks = asks, .count = count, .outcomes = outcomes, .fates = fates};
    struct error err;

    server_start(&server);
    snprintf(grant.base_url, sizeof grant.base_url, "http://127.0.0.1:%d/v1", server.port);
    for (size_t i = 0; i < count; i++)
        asks[i] = (struct serve_ask){.grant = &grant,
                                     .model = "m",
                                     .class = &class,
                                     .at = (int64_t)i * S / 50,
                                     .input = 3,
                                     .output = ASKED,
                                     .seed = i};
    assert_int_equal(serve_run(&run, &err), 0);
    pthread_join(server.thread, NULL);
    close(server.fd);
    for (size_t i = 0; i < count; i++) {
        assert_true(fates[i].over);
        assert_true(fates[i].sent >= asks[i].at);
    }
}

static void answers_are_counted_however_they_are_cut(void **state)
{
    static const char each[] = EVENT("a", 1) EVENT("", 2) EVENT("b", 3) EVENT("c", 4) DONE;
    static const char together[] = EVENT("abc", 3) EVENT("d", 4) DONE;
    static const char uncounted[] = PLAIN PLAIN PLAIN PLAIN DONE;
    const struct script scripts[] = {{OK_HEAD, each, 1, 0},
                                     {OK_HEAD, each, 7, 0},
                                     {OK_HEAD, each, 100000, 0},
                                     {OK_HEAD, together, 13, 0},
                                     {OK_HEAD, uncounted, 5, 0}};
    struct sim_outcome o[5] = {{.first = 0}};
    struct serve_fate f[5] = {{.sent = 0}};

    (void)state;
    exchange(scripts, 5, o, f);
    for (int i = 0; i < 5; i++) {
        assert_string_equal(f[i].reason, "");
        assert_int_equal(f[i].tokens, ASKED);
        assert_int_equal(o[i].produced, ASKED);
        assert_int_equal(o[i].on_time, ASKED);
        assert_true(o[i].first > f[i].sent && o[i].last >= o[i].first);
        assert_false(o[i].failed || o[i].refused);
    }
    assert_true(o[0].last > o[0].first); /* the first did not wait for the last */
}

static void what_goes_wrong_is_told(void **state)
{
    static const char broken[] = EVENT("a", 1) "data: {\"error\":{\"message\":\"the engine fell\"}}"
                                               "\n\n" DONE;
    static const char few[] = EVENT("a", 2) DONE, many[] = EVENT("a", 9) DONE;
    static const char refusal[] =
        "HTTP/1.1 429 Too Many\r\nContent-Length: 37\r\nConnection: close\r\n\r\n"
        "{\"error\":{\"message\":\"the budget is\"}}\n";
    static const char bare[] = "HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const struct script scripts[] = {{OK_HEAD, broken, 11, 0}, {OK_HEAD, few, 100, 0},
                                     {OK_HEAD, few, 9, 1},     {OK_HEAD, many, 100, 0},
                                     {refusal, NULL, 1, 0},    {bare, NULL, 1, 0},
                                     {"", NULL, 1, 0}};
    struct sim_outcome o[7] = {{.first = 0}};
    struct serve_fate f[7] = {{.sent = 0}};
    const char *const told[] = {
        "the engine fell",  "ended after fewer tokens", "",
        "more tokens came", "HTTP 429: the budget is",  "HTTP 503: the server does not say why",
        "does not answer"};

    (void)state;
    exchange(scripts, 7, o, f);
    for (int i = 0; i < 7; i++) {
        assert_true(f[i].reason[0] != '\0');
        assert_non_null(strstr(f[i].reason, told[i]));
        assert_int_equal(o[i].refused, i == 4);
        assert_int_equal(o[i].failed, i != 4);
    }
    assert_int_equal(f[0].tokens, 1);
    assert_int_equal(f[2].tokens, 2);
    assert_int_equal(f[3].tokens, ASKED);
}

static void nobody_there_is_a_failure_of_each(void **state)
{
    static const struct sim_class class = {.ttft = 0};
    struct serve_grant grant = {.fd = -1, .base_url = "http://127.0.0.1:1/v1", .key = "k"};
    struct serve_ask asks[3];
    struct sim_outcome o[3] = {{.first = 0}};
    struct serve_fate f[3] = {{.sent = 0}};
    struct serve_run run = {.asks = asks, .count = 3, .outcomes = o, .fates = f};
    struct error err;

    (void)state;
    for (int i = 0; i < 3; i++)
        asks[i] = (struct serve_ask){
            .grant = &grant, .model = "m", .class = &class, .input = 1, .output = 1};
    assert_int_equal(serve_run(&run, &err), 0);
    for (int i = 0; i < 3; i++)
        assert_non_null(strstr(f[i].reason, "does not answer"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_say_how_many_tokens_there_are),
        cmocka_unit_test(a_token_is_due_at_arrival_ttft_and_i_tbt),
        cmocka_unit_test(tokens_count_as_a_segment_s_do),
        cmocka_unit_test(sums_know_refusals_failures_and_the_warmup),
        cmocka_unit_test(percentiles_are_samples),
        cmocka_unit_test(shapes_are_names_and_counts),
        cmocka_unit_test(answers_are_counted_however_they_are_cut),
        cmocka_unit_test(what_goes_wrong_is_told),
        cmocka_unit_test(nobody_there_is_a_failure_of_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
