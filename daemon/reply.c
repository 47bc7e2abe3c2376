/* reply.c - whole HTTP answers; see reply.h */
#include "daemon/reply.h"

#include <event2/buffer.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *reason(int http)
{
    static const struct {
        int http;
        const char *words;
    } reasons[] = {
        {200, "OK"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {413, "Content Too Large"},
        {429, "Too Many Requests"},
        {500, "Internal Server Error"},
        {503, "Service Unavailable"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].http == http)
            return reasons[i].words;
    return "Error";
}

void reply_headers(struct evhttp_request *req, const char *id, const char *content_type)
{
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);

    evhttp_add_header(h, "Content-Type", content_type);
    evhttp_add_header(h, "Cache-Control", "no-store");
    evhttp_add_header(h, "x-request-id", id);
}

void reply_json(struct evhttp_request *req, const char *id, int http, json_t *body)
{
    static const char no_memory[] = "{\"error\":{\"message\":\"out of memory\",\"type\":"
                                    "\"server_error\",\"param\":null,\"code\":null}}";
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct evbuffer *buf = evbuffer_new();

    json_decref(body);
    reply_headers(req, id, "application/json");
    if (!text)
        http = 500;
    if (buf)
        evbuffer_add_printf(buf, "%s\n", text ? text : no_memory);
    evhttp_send_reply(req, http, reason(http), buf);
    if (buf)
        evbuffer_free(buf);
    free(text);
}

void reply_error(struct evhttp_request *req, const char *id, const struct openai_error *e)
{
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);

    if (e->retry_after) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%u", e->retry_after);
        evhttp_add_header(h, "Retry-After", seconds);
    }
    if (e->http == 401)
        evhttp_add_header(h, "WWW-Authenticate", "Bearer");
    reply_json(req, id, e->http, openai_error_json(e));
}
