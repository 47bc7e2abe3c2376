/* serve_client.c - an open loop of streaming requests on one libevent loop */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>

#include "cli/serve.h"
#include "cli/stream.h"
#include "common/clock.h"

#define PATIENCE_S 600   /* without a byte */
#define BODY_MAX   4096u /* of an error */
#define TOKEN_FIRST                                                                                \
    300u /* prompts are of tokens that every vocabulary has, and that say nothing                  \
          */
#define TOKEN_COUNT 1024u

struct client;

struct call { /* a request that is on its way */
    struct client *client;
    size_t number;
    struct evhttp_connection *connection;
    struct sse sse;
    int done; /* [DONE], or an error has come */
    char *body;
    size_t body_len;
    struct call *next; /* among those to be freed */
};

struct client {
    struct serve_run *run;
    struct event_base *base;
    struct event *arrival, *tick, *mark, *reaper, *interrupt, *end;
    struct call *dead, **calls; /* [count]: those on their way */
    int64_t began_us;
    size_t next, over, failed;
    uint64_t tokens;
    struct error *err;
};

static int64_t now_ns(const struct client *c)
{
    return (clock_monotonic_us() - c->began_us) * 1000;
}

/* --- the end of a request -----------------------------------------------------------------------
 */

static void fail(struct call *call, const char *reason)
{
    struct serve_fate *fate = &call->client->run->fates[call->number];

    if (fate->reason[0] == '\0')
        snprintf(fate->reason, sizeof fate->reason, "%s", reason);
}

static void finish(struct call *call)
{
    struct client *c = call->client;
    struct serve_fate *fate = &c->run->fates[call->number];
    struct sim_outcome *o = &c->run->outcomes[call->number];
    const struct serve_ask *ask = &c->run->asks[call->number];
    char text[80];

    if (fate->reason[0] == '\0' && fate->tokens != ask->output) {
        snprintf(text, sizeof text, "ended after fewer tokens than asked for%s",
                 call->done ? "" : ": the stream broke off");
        fail(call, text);
    }
    fate->over = 1;
    o->refused = strncmp(fate->reason, "HTTP 429", 8) == 0;
    o->failed = fate->reason[0] != '\0' && !o->refused;
    c->over++;
    c->failed += fate->reason[0] != '\0';
    c->calls[call->number] = NULL;
    call->next = c->dead; /* not freed in its own callback */
    c->dead = call;
    event_active(c->reaper, EV_TIMEOUT, 0);
    if (c->over == c->run->count)
        event_base_loopexit(c->base, NULL);
}

static void free_call(struct call *call)
{
    if (call->connection != NULL)
        evhttp_connection_free(call->connection);
    sse_free(&call->sse);
    free(call->body);
    free(call);
}

static void on_reap(evutil_socket_t fd, short what, void *arg)
{
    struct client *c = arg;

    (void)fd;
    (void)what;
    while (c->dead != NULL) {
        struct call *call = c->dead;
        c->dead = call->next;
        free_call(call);
    }
}

/* --- what comes ---------------------------------------------------------------------------------
 */

static int on_event(char *data, void *arg)
{
    struct call *call = arg;
    struct client *c = call->client;
    const struct serve_ask *ask = &c->run->asks[call->number];
    struct serve_fate *fate = &c->run->fates[call->number];
    struct serve_chunk chunk;

    if (strcmp(data, "[DONE]") == 0) {
        call->done = 1;
        return 1;
    }
    serve_chunk_parse(data, &chunk);
    if (chunk.error[0] != '\0') {
        fail(call, chunk.error);
        call->done = 1;
        return 1;
    }
    /* A server that does not count says a token in a chunk. */
    uint64_t by_now = chunk.tokens >= 0 ? (uint64_t)chunk.tokens : fate->tokens + (chunk.text != 0);
    if (by_now > ask->output) {
        fail(call, "more tokens came than were asked for");
        by_now = ask->output;
    }
    if (by_now > fate->tokens) {
        c->tokens += by_now - fate->tokens;
        fate->tokens = (uint32_t)by_now;
        serve_take_tokens(&c->run->outcomes[call->number], ask->at, ask->class, fate->tokens,
                          now_ns(c));
    }
    return 0;
}

static void take_body(struct call *call, struct evbuffer *in)
{
    size_t len = evbuffer_get_length(in);
    char *bigger;

    if (len > BODY_MAX - call->body_len)
        len = BODY_MAX - call->body_len;
    bigger = realloc(call->body, call->body_len + len + 1);
    if (bigger != NULL) {
        call->body = bigger;
        evbuffer_remove(in, bigger + call->body_len, len);
        call->body_len += len;
        bigger[call->body_len] = '\0';
    }
    evbuffer_drain(in, evbuffer_get_length(in));
}

static void on_chunk(struct evhttp_request *request, void *arg)
{
    struct call *call = arg;
    struct evbuffer *in = evhttp_request_get_input_buffer(request);
    char piece[4096];
    int n;

    if (evhttp_request_get_response_code(request) != HTTP_OK) {
        take_body(call, in);
        return;
    }
    while ((n = evbuffer_remove(in, piece, sizeof piece)) > 0)
        if (!call->done && sse_push(&call->sse, piece, (size_t)n, on_event, call) < 0) {
            fail(call, "an event is too long");
            call->done = 1;
        }
}

/* "HTTP 429: the message" */
static void refused(struct call *call, int status)
{
    struct serve_chunk said = {.error = ""};
    char text[SERVE_REASON_MAX];

    if (call->body_len > 0 && call->body[0] == '{')
        serve_chunk_parse(call->body, &said);
    snprintf(text, sizeof text, "HTTP %d: %.*s", status, SERVE_REASON_MAX - 20,
             said.error[0] != '\0' ? said.error : "the server does not say why");
    fail(call, text);
}

static void on_done(struct evhttp_request *request, void *arg)
{
    struct call *call = arg;
    int status = request != NULL ? evhttp_request_get_response_code(request) : 0;

    if (status != 0)
        on_chunk(request, call);
    if (status == 0)
        fail(call, call->client->run->fates[call->number].tokens > 0
                       ? "the connection broke"
                       : "the server does not answer, or closed the connection");
    else if (status != HTTP_OK)
        refused(call, status);
    finish(call);
}

/* --- sending ------------------------------------------------------------------------------------
 */

/* JSON with a prompt of random tokens, another one for each seed. */
static int write_body(struct evbuffer *to, const struct serve_ask *ask)
{
    struct sim_random random = sim_random_stream(ask->seed, 7);
    int failed = evbuffer_add_printf(to, "{\"model\":\"%s\",\"prompt\":[", ask->model) < 0;

    for (uint32_t i = 0; i < ask->input; i++)
        failed |=
            evbuffer_add_printf(to, "%s%u", i > 0 ? "," : "",
                                TOKEN_FIRST + (unsigned)(sim_uniform(&random) * TOKEN_COUNT)) < 0;
    failed |= evbuffer_add_printf(to,
                                  "],\"max_tokens\":%" PRIu32 ",\"ignore_eos\":true,"
                                  "\"temperature\":0,\"stream\":true,\"stream_options\":"
                                  "{\"include_usage\":true,\"continuous_usage_stats\":true}}",
                                  ask->output) < 0;
    return failed ? -1 : 0;
}

static int add_headers(struct evhttp_request *request, const struct serve_grant *grant,
                       const char *host)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(request);
    char text[192];
    int failed = evhttp_add_header(headers, "Host", host);

    failed |= evhttp_add_header(headers, "Content-Type", "application/json");
    failed |= evhttp_add_header(headers, "Accept", "text/event-stream");
    failed |= evhttp_add_header(headers, "Connection", "close");
    snprintf(text, sizeof text, "Bearer %s", grant->key);
    failed |= evhttp_add_header(headers, "Authorization", text);
    explicit_bzero(text, sizeof text);
    return failed ? -1 : 0;
}

static int post(struct call *call, const struct serve_ask *ask, const struct evhttp_uri *uri)
{
    const char *host = evhttp_uri_get_host(uri), *prefix = evhttp_uri_get_path(uri);
    int port = evhttp_uri_get_port(uri);
    struct evhttp_request *request = NULL;
    size_t len = prefix != NULL ? strlen(prefix) : 0;
    char target[512], name[300];

    while (len > 0 && prefix[len - 1] == '/')
        len--;
    snprintf(target, sizeof target, "%.*s/completions", (int)len, prefix != NULL ? prefix : "");
    snprintf(name, sizeof name, port > 0 ? "%s:%d" : "%s", host, port);
    call->connection = evhttp_connection_base_new(call->client->base, NULL, host,
                                                  (unsigned short)(port > 0 ? port : 80));
    request = evhttp_request_new(on_done, call);
    if (call->connection == NULL || request == NULL ||
        add_headers(request, ask->grant, name) != 0 ||
        write_body(evhttp_request_get_output_buffer(request), ask) != 0) {
        if (request != NULL)
            evhttp_request_free(request);
        return -1;
    }
    evhttp_request_set_chunked_cb(request, on_chunk);
    evhttp_connection_set_timeout(call->connection, PATIENCE_S);
    /* On failure the request is libevent's already. */
    return evhttp_make_request(call->connection, request, EVHTTP_REQ_POST, target);
}

/* A request that cannot even be made fails by itself, the others go on. */
static void send_ask(struct client *c, size_t number)
{
    const struct serve_ask *ask = &c->run->asks[number];
    struct evhttp_uri *uri = evhttp_uri_parse(ask->grant->base_url);
    struct call *call = calloc(1, sizeof *call);

    if (call == NULL || uri == NULL || evhttp_uri_get_host(uri) == NULL) {
        error_set(c->err, call == NULL ? STATUS_NOMEM : STATUS_INVALID,
                  call == NULL ? "out of memory" : "the pool's address is no http:// URL");
        free(call);
        event_base_loopbreak(c->base);
        goto out;
    }
    *call = (struct call){.client = c, .number = number};
    c->calls[number] = call;
    c->run->fates[number].sent = now_ns(c);
    if (post(call, ask, uri) != 0) {
        fail(call, "the request could not be sent");
        finish(call);
    }
out:
    if (uri != NULL)
        evhttp_uri_free(uri);
}

static void after(struct event *timer, int64_t ns)
{
    struct timeval tv = {.tv_sec = 0};

    if (ns > 0)
        tv = (struct timeval){.tv_sec = ns / 1000000000, .tv_usec = ns % 1000000000 / 1000};
    event_add(timer, &tv);
}

static void on_arrival(evutil_socket_t fd, short what, void *arg)
{
    struct client *c = arg;

    (void)fd;
    (void)what;
    while (c->next < c->run->count && c->run->asks[c->next].at <= now_ns(c))
        send_ask(c, c->next++);
    if (c->next < c->run->count)
        after(c->arrival, c->run->asks[c->next].at - now_ns(c));
}

/* --- the loop -----------------------------------------------------------------------------------
 */

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct client *c = arg;

    (void)fd;
    (void)what;
    fprintf(stderr, "\r%5.0f s: %zu of %zu sent, %zu running, %zu failed, %" PRIu64 " tokens ",
            (double)now_ns(c) / 1e9, c->next, c->run->count, c->next - c->over, c->failed,
            c->tokens);
    fflush(stderr);
}

static void on_mark(evutil_socket_t fd, short what, void *arg)
{
    struct client *c = arg;

    (void)fd;
    (void)what;
    c->run->mark(c->run->arg);
}

static void on_interrupt(evutil_socket_t fd, short what, void *arg)
{
    struct client *c = arg;

    (void)fd;
    (void)what;
    c->run->interrupted = 1;
    event_base_loopbreak(c->base);
}

static int make_events(struct client *c)
{
    struct timeval second = {.tv_sec = 1};
    struct event_config *config = event_config_new();

    c->calls = calloc(c->run->count + 1, sizeof *c->calls);
    if (config != NULL && event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER) == 0)
        c->base = event_base_new_with_config(config);
    if (config != NULL)
        event_config_free(config);
    if (c->base == NULL || c->calls == NULL)
        return -1;
    c->arrival = evtimer_new(c->base, on_arrival, c);
    c->tick = event_new(c->base, -1, EV_PERSIST, on_tick, c);
    c->mark = evtimer_new(c->base, on_mark, c);
    c->reaper = evtimer_new(c->base, on_reap, c);
    c->interrupt = evsignal_new(c->base, SIGINT, on_interrupt, c);
    c->end = evsignal_new(c->base, SIGTERM, on_interrupt, c);
    if (c->arrival == NULL || c->tick == NULL || c->mark == NULL || c->reaper == NULL ||
        c->interrupt == NULL || c->end == NULL || event_add(c->interrupt, NULL) != 0 ||
        event_add(c->end, NULL) != 0 || (c->run->progress && event_add(c->tick, &second) != 0))
        return -1;
    return 0;
}

static void free_events(struct client *c)
{
    struct event *all[] = {c->arrival, c->tick, c->mark, c->reaper, c->interrupt, c->end};

    for (size_t i = 0; c->calls != NULL && i < c->run->count; i++)
        if (c->calls[i] != NULL) /* interrupted: closing the connection cancels the request */
            free_call(c->calls[i]);
    free(c->calls);
    on_reap(-1, 0, c);
    if (c->base == NULL)
        return;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i] != NULL)
            event_free(all[i]);
    event_base_free(c->base);
}

/* As many streams as we may hold. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int serve_run(struct serve_run *run, struct error *err)
{
    struct client c = {.run = run, .err = err};
    int rv = -1;

    err->text[0] = '\0';
    raise_descriptor_limit();
    signal(SIGPIPE, SIG_IGN);
    if (make_events(&c) != 0) {
        error_set(err, STATUS_NOMEM, "out of memory");
        goto out;
    }
    c.began_us = clock_monotonic_us();
    after(c.arrival, run->count > 0 ? run->asks[0].at : 0);
    if (run->mark_at > 0)
        after(c.mark, run->mark_at);
    if (run->count > 0)
        event_base_dispatch(c.base);
    rv = err->text[0] == '\0' ? 0 : -1;
    if (run->progress)
        fputs("\r\033[K", stderr);
out:
    free_events(&c);
    return rv;
}
