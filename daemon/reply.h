/* reply.h - whole HTTP answers: JSON with the headers that every answer has */
#ifndef MP_DAEMON_REPLY_H
#define MP_DAEMON_REPLY_H

#include <event2/http.h>
#include <jansson.h>

#include "daemon/openai.h"

/* The headers of every answer: x-request-id, and no caching. */
void reply_headers(struct evhttp_request *req, const char *id, const char *content_type);
/* Answer with a JSON body; steals the reference (NULL: there was no memory for it: 500). */
void reply_json(struct evhttp_request *req, const char *id, int http, json_t *body);
/* Answer with {"error":...}, and Retry-After or WWW-Authenticate where they belong. */
void reply_error(struct evhttp_request *req, const char *id, const struct openai_error *e);

#endif
