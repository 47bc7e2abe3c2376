/* stream.c - a streaming request over HTTP/1.1 with libevent, and server-sent events */
#include "cli/stream.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <jansson.h>

#include "cli/cli.h"

#define PATIENCE_S (24 * 3600) /* without a byte: a request may be held by --model-wait */
#define BODY_MAX   65536u      /* of an error */

/* --- server-sent events ----------------------------------------------------------------------- */

static int sse_line(struct sse *s, int (*event)(char *data, void *arg), void *arg)
{
    if (s->len && s->line[s->len - 1] == '\r')
        s->len--;
    s->line[s->len] = '\0';
    size_t len = s->len;
    s->len = 0;
    if (len < 5 || strncmp(s->line, "data:", 5) != 0)
        return 0; /* a comment, or the blank line between events */
    return event(s->line + 5 + (s->line[5] == ' '), arg);
}

int sse_push(struct sse *s, const char *bytes, size_t len, int (*event)(char *data, void *arg),
             void *arg)
{
    for (size_t i = 0; i < len; i++) {
        if (s->len + 1 >= s->room) {
            size_t more = s->room ? s->room * 2 : 4096;
            char *bigger = more > SSE_LINE_MAX ? NULL : realloc(s->line, more);
            if (!bigger)
                return -1;
            s->line = bigger;
            s->room = more;
        }
        if (bytes[i] != '\n') {
            s->line[s->len++] = bytes[i];
            continue;
        }
        int rv = sse_line(s, event, arg);
        if (rv)
            return rv;
    }
    return 0;
}

void sse_free(struct sse *s)
{
    free(s->line);
    *s = (struct sse){0};
}

static char *message_of(const json_t *root)
{
    const json_t *error = json_object_get(root, "error");
    const char *text = json_is_string(error) ? json_string_value(error)
                                             : json_string_value(json_object_get(error, "message"));

    return text ? strdup(text) : error ? strdup("the server reports an error") : NULL;
}

char *stream_chunk_text(const char *data, size_t *len, char **error)
{
    /* A model may well say NUL, which jansson takes only when it is told to. */
    json_t *root = json_loads(data, JSON_ALLOW_NUL, NULL);
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    const json_t *text = json_object_get(json_object_get(choice, "delta"), "content");
    char *copy = NULL;

    if (!json_is_string(text))
        text = json_object_get(choice, "text");
    *error = root ? message_of(root) : strdup("the server sent an event that is no JSON");
    *len = json_string_length(text);
    if (*len > 0)
        copy = malloc(*len + 1);
    if (copy)
        memcpy(copy, json_string_value(text), *len + 1);
    json_decref(root);
    return copy;
}

/* --- the request ------------------------------------------------------------------------------ */

struct stream {
    struct event_base *base;
    struct evhttp_request *request;
    FILE *out;
    struct sse sse;
    char last;  /* character that was printed */
    int code;   /* exit code */
    int over;   /* [DONE] has come, or an error */
    char *body; /* of an answer that is not 200 */
    size_t body_len;
    const char *url;
};

static int on_sse(char *data, void *arg)
{
    struct stream *s = arg;
    char *error = NULL;

    if (strcmp(data, "[DONE]") == 0) {
        s->over = 1;
        return 1;
    }
    size_t len;
    char *text = stream_chunk_text(data, &len, &error);
    if (text) {
        s->last = text[len - 1];
        if (fwrite(text, 1, len, s->out) != len || fflush(s->out) != 0) {
            s->code = cli_fail(EXIT_REFUSED, "standard output: %s", strerror(errno));
            s->over = 1;
        }
    }
    if (error) {
        s->code = cli_fail(EXIT_REFUSED, "%s", error);
        s->over = 1;
    }
    free(text);
    free(error);
    return s->over;
}

static void take_error_body(struct stream *s, struct evbuffer *in)
{
    size_t len = evbuffer_get_length(in);

    if (s->body_len + len > BODY_MAX)
        len = BODY_MAX - s->body_len;
    char *bigger = realloc(s->body, s->body_len + len + 1);
    if (bigger) {
        s->body = bigger;
        evbuffer_remove(in, s->body + s->body_len, len);
        s->body_len += len;
        s->body[s->body_len] = '\0';
    }
    evbuffer_drain(in, evbuffer_get_length(in));
}

static void take(struct stream *s, struct evhttp_request *request)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(request);
    char piece[4096];
    int n;

    if (evhttp_request_get_response_code(request) != HTTP_OK) {
        take_error_body(s, in);
        return;
    }
    while (!s->over && (n = evbuffer_remove(in, piece, sizeof(piece))) > 0)
        if (sse_push(&s->sse, piece, (size_t)n, on_sse, s) < 0) {
            s->code = cli_fail(EXIT_REFUSED, "%s: an event is too long", s->url);
            s->over = 1;
        }
    if (s->over)
        event_base_loopbreak(s->base);
}

static void on_chunk(struct evhttp_request *request, void *arg)
{
    take(arg, request);
}

static void report_refusal(struct stream *s, int status)
{
    json_t *root = s->body ? json_loads(s->body, 0, NULL) : NULL;
    char *text = root ? message_of(root) : NULL;

    s->code = text ? cli_fail(EXIT_REFUSED, "%s", text)
                   : cli_fail(EXIT_REFUSED, "%s: HTTP status %d", s->url, status);
    free(text);
    json_decref(root);
}

static void on_done(struct evhttp_request *request, void *arg)
{
    struct stream *s = arg;
    int status = request ? evhttp_request_get_response_code(request) : 0;

    s->request = NULL; /* libevent's own after this */
    event_base_loopbreak(s->base);
    if (status == 0) {
        if (!s->over)
            s->code = s->last ? cli_fail(EXIT_REFUSED, "%s: the connection broke", s->url)
                              : cli_fail(EXIT_UNREACHABLE, "%s does not answer", s->url);
        s->over = 1;
        return;
    }
    take(s, request);
    if (status != HTTP_OK)
        report_refusal(s, status);
    else if (!s->over)
        s->code = cli_fail(EXIT_REFUSED, "%s: the answer ended before it was complete", s->url);
    s->over = 1;
}

static void on_interrupt(evutil_socket_t fd, short what, void *arg)
{
    struct stream *s = arg;

    (void)fd;
    (void)what;
    s->code = EXIT_INTERRUPTED;
    s->over = 1;
    event_base_loopbreak(s->base);
}

/* Headers, body, callbacks; -1 if out of memory. */
static int prepare(struct stream *s, const struct evhttp_uri *uri, const char *key,
                   const char *body)
{
    char text[512];
    s->request = evhttp_request_new(on_done, s);

    if (!s->request)
        return -1;
    evhttp_request_set_chunked_cb(s->request, on_chunk);
    struct evkeyvalq *headers = evhttp_request_get_output_headers(s->request);
    int port = evhttp_uri_get_port(uri);
    snprintf(text, sizeof(text), port > 0 ? "%s:%d" : "%s", evhttp_uri_get_host(uri), port);
    int failed = evhttp_add_header(headers, "Host", text);
    failed |= evhttp_add_header(headers, "Content-Type", "application/json");
    failed |= evhttp_add_header(headers, "Accept", "text/event-stream");
    if (key) {
        snprintf(text, sizeof(text), "Bearer %s", key);
        failed |= evhttp_add_header(headers, "Authorization", text);
        explicit_bzero(text, sizeof(text));
    }
    failed |= evbuffer_add(evhttp_request_get_output_buffer(s->request), body, strlen(body));
    return failed ? -1 : 0;
}

/* Run the request on a connection until it is over. */
static void converse(struct stream *s, const struct evhttp_uri *uri, const char *path,
                     const char *key, const char *body)
{
    char target[1024];
    const char *host = evhttp_uri_get_host(uri), *prefix = evhttp_uri_get_path(uri);
    int port = evhttp_uri_get_port(uri);
    size_t len = prefix ? strlen(prefix) : 0;

    while (len && prefix[len - 1] == '/')
        len--;
    int n = snprintf(target, sizeof(target), "%.*s%s", (int)len, prefix ? prefix : "", path);
    struct event *interrupt = evsignal_new(s->base, SIGINT, on_interrupt, s);
    struct evhttp_connection *connection =
        evhttp_connection_base_new(s->base, NULL, host, (unsigned short)(port > 0 ? port : 80));
    if (!interrupt || !connection || n < 0 || (size_t)n >= sizeof(target) ||
        event_add(interrupt, NULL) < 0 || prepare(s, uri, key, body) < 0) {
        s->code = cli_fail(EXIT_REFUSED, "out of memory");
        if (s->request)
            evhttp_request_free(s->request);
        goto out;
    }
    evhttp_connection_set_timeout(connection, PATIENCE_S);
    if (evhttp_make_request(connection, s->request, EVHTTP_REQ_POST, target) < 0)
        s->code = cli_fail(EXIT_UNREACHABLE, "%s cannot be asked", s->url);
    else
        event_base_dispatch(s->base);
out:
    if (connection)
        evhttp_connection_free(connection); /* and a request that is still on it */
    if (interrupt)
        event_free(interrupt);
}

int stream_request(const char *base_url, const char *path, const char *key, const char *body,
                   FILE *out)
{
    struct stream s = {.out = out, .url = base_url};
    struct evhttp_uri *uri = evhttp_uri_parse(base_url);
    const char *scheme = uri ? evhttp_uri_get_scheme(uri) : NULL;

    if (!scheme || strcmp(scheme, "http") != 0 || !evhttp_uri_get_host(uri)) {
        s.code = cli_fail(EXIT_USAGE, "\"%s\" is no http:// URL", base_url);
        goto out;
    }
    s.base = event_base_new();
    if (!s.base) {
        s.code = cli_fail(EXIT_REFUSED, "out of memory");
        goto out;
    }
    signal(SIGPIPE, SIG_IGN); /* a closed output is an error of write */
    converse(&s, uri, path, key, body);
    if (s.last && s.last != '\n')
        fputc('\n', out);
out:
    if (s.base)
        event_base_free(s.base);
    if (uri)
        evhttp_uri_free(uri);
    sse_free(&s.sse);
    free(s.body);
    return s.code;
}
