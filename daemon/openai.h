/*
 * openai.h - OpenAI's chat and text completion API: requests in, JSON out
 *
 * Pure: text and JSON to structs and back, no connection and no state.  What the API knows and we
 * do not do is refused by the field's name; fields that nobody knows are ignored.
 */
#ifndef MP_DAEMON_OPENAI_H
#define MP_DAEMON_OPENAI_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/order.h"
#include "daemon/stop.h"

#define OPENAI_BODY_MAX         (4u << 20) /* bytes of a request's body */
#define OPENAI_MESSAGES_MAX     4096u
#define OPENAI_COMPLETION_LIMIT 16u /* max_tokens of /v1/completions where none is given */
#define OPENAI_CHOICES_MAX      16u /* n; a power of two */
#define OPENAI_TOP_CHAT         20  /* top_logprobs */
#define OPENAI_TOP_COMPLETION   5   /* logprobs of /v1/completions */

struct openai_error {
    int http; /* status code */
    const char *type;
    const char *code;     /* NULL: null */
    char param[64];       /* the field; "": null */
    uint32_t retry_after; /* seconds; 0: no such header */
    char text[ERROR_TEXT_MAX];
};

/* Set the error of a bad field: 400 invalid_request_error.  param "" for the body as a whole.
 * Always -1. */
int openai_invalid(struct openai_error *e, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* An error of another room as the API says it (DESIGN: 401, 403, 404, 429, 503 ...).  Always -1. */
int openai_refuse(struct openai_error *e, const struct error *err);
/* Any other. Always -1. */
int openai_fail(struct openai_error *e, int http, const char *type, const char *code,
                const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* {"error":{...}}; NULL without memory. */
json_t *openai_error_json(const struct openai_error *e);

enum openai_kind { OPENAI_CHAT, OPENAI_COMPLETION };

struct openai_request {
    enum openai_kind kind;
    char *model;      /* NULL: none given */
    json_t *messages; /* chat: [{"role","content"}], contents are strings; an assistant's
                       * may have "tool_calls", a tool's has "tool_call_id" */
    json_t *tools;    /* chat: definitions that the model is shown, or NULL */
    int tool_calls, tool_results; /* chat: some message has, or is one */
    json_t *template_variables;   /* chat: chat_template_kwargs, or NULL */
    char *prompt;                 /* completion: text, or */
    size_t prompt_len;
    uint32_t *tokens; /* token ids (prompt is NULL then) */
    size_t token_count;
    int stream, include_usage;
    int continuous_usage; /* each chunk says how many tokens there are by then */
    uint32_t max_tokens;  /* 0: none given */
    int seeded;           /* sampling.seed was given */
    struct order_sampling sampling;
    uint32_t n;        /* answers wanted, each with the seed of the one before and 1 */
    uint32_t logprobs; /* 0: none; 1 + alternatives a token */
    struct token_bias *biases;
    uint32_t bias_count;
    struct stop stop;
};

/*
 * Check a body and fill *r, which openai_request_fini() frees.  default_model names the model where
 * the request does not, for messages.  On failure *r is empty and *e says what is wrong.
 */
int openai_parse(enum openai_kind kind, const char *body, size_t len, const char *default_model,
                 struct openai_request *r, struct openai_error *e);
void openai_request_fini(struct openai_request *r);

/* Parts of openai_parse(), in openai_chat.c: messages, tools and chat_template_kwargs. */
int openai_parse_chat(const json_t *body, const char *model, struct openai_request *r,
                      struct openai_error *e);
/* In openai_tokens.c: logit_bias, logprobs, top_logprobs. */
int openai_parse_tokens(const json_t *body, struct openai_request *r, struct openai_error *e);
/* A member; NULL also where it is null, which clients send for "not given". */
json_t *openai_field(const json_t *object, const char *name);

/* --- answers ------------------------------------------------------------------------------------
 */

struct openai_answer { /* what every object of one answer has in common */
    enum openai_kind kind;
    const char *id;
    const char *model;
    int64_t created; /* Unix seconds */
    uint32_t index;  /* of a chunk's choice */
};
struct openai_choice { /* of a whole answer */
    const char *text;
    size_t len;
    const char *finish; /* "stop" or "length" */
    json_t *logprobs;   /* a reference that is taken; NULL: null */
};
struct openai_usage {
    uint64_t prompt, completion;
    uint64_t cached; /* of prompt: found computed already */
};

/* Whole answer: [count] choices, in order. */
json_t *openai_answer_json(const struct openai_answer *a, const struct openai_choice *choices,
                           uint32_t count, const struct openai_usage *usage);
/* Chunks of a stream.  with_usage: the stream has a usage chunk, so the others say null. */
json_t *openai_role_chunk(const struct openai_answer *a, int with_usage);
/* logprobs: a reference that is taken; NULL: null. */
json_t *openai_text_chunk(const struct openai_answer *a, const char *text, size_t len,
                          json_t *logprobs, int with_usage);
json_t *openai_finish_chunk(const struct openai_answer *a, const char *finish, int with_usage);
json_t *openai_usage_chunk(const struct openai_answer *a, const struct openai_usage *usage);
/* The chunk with the usage by then; takes it, and NULL gives NULL. */
json_t *openai_chunk_with_usage(json_t *chunk, const struct openai_usage *usage);
/* An entry of /v1/models. */
json_t *openai_model_json(const char *name, int64_t created, uint32_t context);

#endif
