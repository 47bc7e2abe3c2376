/* openai_answer.c - answers and errors of the OpenAI API as JSON; see openai.h */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/openai.h"

static void set(struct openai_error *e, int http, const char *type, const char *code)
{
    memset(e, 0, sizeof *e);
    e->http = http;
    e->type = type;
    e->code = code;
}

int openai_invalid(struct openai_error *e, const char *param, const char *fmt, ...)
{
    va_list ap;

    set(e, 400, "invalid_request_error", NULL);
    snprintf(e->param, sizeof e->param, "%s", param);
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    return -1;
}

int openai_fail(struct openai_error *e, int http, const char *type, const char *code,
                const char *fmt, ...)
{
    va_list ap;

    set(e, http, type, code);
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    return -1;
}

int openai_refuse(struct openai_error *e, const struct error *err)
{
    switch (err->status) {
    case STATUS_INVALID:
        set(e, 400, "invalid_request_error", NULL);
        break;
    case STATUS_UNAUTHENTICATED:
        set(e, 401, "invalid_request_error", "invalid_api_key");
        break;
    case STATUS_DENIED:
        set(e, 403, "permission_error", "model_not_allowed");
        snprintf(e->param, sizeof e->param, "model");
        break;
    case STATUS_NOT_FOUND:
        set(e, 404, "invalid_request_error", "model_not_found");
        snprintf(e->param, sizeof e->param, "model");
        break;
    case STATUS_EXHAUSTED:
        set(e, 429, "insufficient_quota", "insufficient_quota");
        break;
    case STATUS_UNAVAILABLE:
    case STATUS_TIMEOUT:
        set(e, 503, "server_error", "engine_unavailable");
        e->retry_after = 5;
        break;
    case STATUS_UNSUPPORTED:
        set(e, 503, "server_error", "model_unavailable");
        break;
    default:
        set(e, 500, "server_error", NULL);
        break;
    }
    snprintf(e->text, sizeof e->text, "%s", err->text);
    return -1;
}

/* The message may quote the client and be cut inside a character: what is no UTF-8 becomes '?'. */
static json_t *message_json(const char *text)
{
    json_t *v = json_string(text);
    if (v)
        return v;
    char ascii[ERROR_TEXT_MAX];
    snprintf(ascii, sizeof ascii, "%s", text);
    for (char *c = ascii; *c; c++)
        if (*c & 0x80)
            *c = '?';
    return json_string(ascii);
}

json_t *openai_error_json(const struct openai_error *e)
{
    return json_pack("{s{so ss ss? ss?}}", "error", "message", message_json(e->text), "type",
                     e->type, "param", e->param[0] ? e->param : NULL, "code", e->code);
}

/* --- answers ------------------------------------------------------------------------------------
 */

static json_t *usage_json(const struct openai_usage *u)
{
    return json_pack("{sI sI sI s{sI}}", "prompt_tokens", (json_int_t)u->prompt,
                     "completion_tokens", (json_int_t)u->completion, "total_tokens",
                     (json_int_t)(u->prompt + u->completion), "prompt_tokens_details",
                     "cached_tokens", (json_int_t)u->cached);
}

/* An object of the answer with its choices; takes the references of choices and usage (which may
 * be NULL: left out). */
static json_t *object(const struct openai_answer *a, const char *kind, json_t *choices,
                      json_t *usage)
{
    json_t *o = json_pack("{ss ss sI ss so*}", "id", a->id, "object", kind, "created",
                          (json_int_t)a->created, "model", a->model, "choices", choices);
    if (o && usage && json_object_set(o, "usage", usage)) {
        json_decref(o);
        o = NULL;
    }
    json_decref(usage);
    return o;
}

static json_t *choice_json(const struct openai_answer *a, const struct openai_choice *c,
                           uint32_t index)
{
    if (a->kind == OPENAI_CHAT)
        return json_pack("{si s{ss ss% sn} so? ss}", "index", (int)index, "message", "role",
                         "assistant", "content", c->text, c->len, "refusal", "logprobs",
                         c->logprobs, "finish_reason", c->finish);
    return json_pack("{si ss% so? ss}", "index", (int)index, "text", c->text, c->len, "logprobs",
                     c->logprobs, "finish_reason", c->finish);
}

json_t *openai_answer_json(const struct openai_answer *a, const struct openai_choice *choices,
                           uint32_t count, const struct openai_usage *usage)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < count; i++)
        if (json_array_append_new(list, choice_json(a, &choices[i], i))) {
            json_decref(list);
            list = NULL;
        }
    return object(a, a->kind == OPENAI_CHAT ? "chat.completion" : "text_completion", list,
                  usage_json(usage));
}

static json_t *chunk(const struct openai_answer *a, json_t *choices, int with_usage)
{
    return object(a, a->kind == OPENAI_CHAT ? "chat.completion.chunk" : "text_completion", choices,
                  with_usage ? json_null() : NULL);
}

json_t *openai_role_chunk(const struct openai_answer *a, int with_usage)
{
    return chunk(a,
                 json_pack("[{si s{ss ss} sn sn}]", "index", (int)a->index, "delta", "role",
                           "assistant", "content", "", "logprobs", "finish_reason"),
                 with_usage);
}

json_t *openai_text_chunk(const struct openai_answer *a, const char *text, size_t len,
                          json_t *logprobs, int with_usage)
{
    if (a->kind == OPENAI_CHAT)
        return chunk(a,
                     json_pack("[{si s{ss%} so? sn}]", "index", (int)a->index, "delta", "content",
                               text, len, "logprobs", logprobs, "finish_reason"),
                     with_usage);
    return chunk(a,
                 json_pack("[{si ss% so? sn}]", "index", (int)a->index, "text", text, len,
                           "logprobs", logprobs, "finish_reason"),
                 with_usage);
}

json_t *openai_finish_chunk(const struct openai_answer *a, const char *finish, int with_usage)
{
    if (a->kind == OPENAI_CHAT)
        return chunk(a,
                     json_pack("[{si s{} sn ss}]", "index", (int)a->index, "delta", "logprobs",
                               "finish_reason", finish),
                     with_usage);
    return chunk(a,
                 json_pack("[{si ss sn ss}]", "index", (int)a->index, "text", "", "logprobs",
                           "finish_reason", finish),
                 with_usage);
}

json_t *openai_usage_chunk(const struct openai_answer *a, const struct openai_usage *usage)
{
    return object(a, a->kind == OPENAI_CHAT ? "chat.completion.chunk" : "text_completion",
                  json_array(), usage_json(usage));
}

json_t *openai_chunk_with_usage(json_t *o, const struct openai_usage *usage)
{
    if (o && json_object_set_new(o, "usage", usage_json(usage))) {
        json_decref(o);
        return NULL;
    }
    return o;
}

json_t *openai_model_json(const char *name, int64_t created, uint32_t context)
{
    return json_pack("{ss ss sI ss sI}", "id", name, "object", "model", "created",
                     (json_int_t)created, "owned_by", "modelpool", "max_model_len",
                     (json_int_t)context);
}
