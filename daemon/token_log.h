/*
 * token_log.h - log probabilities of an answer's tokens, until their text goes out
 *
 * A token's text may be held back: half a character, or the beginning of a stop string, which may
 * never go out.  So each token is kept with where its text begins, and taken when that has gone.
 */
#ifndef MP_DAEMON_TOKEN_LOG_H
#define MP_DAEMON_TOKEN_LOG_H

#include <jansson.h>
#include <stdint.h>

#include "common/error.h"
#include "common/order.h"
#include "daemon/openai.h"
#include "model/tokenizer.h"

struct token_log_entry {
    uint64_t begin;      /* byte of the answer's text */
    uint64_t characters; /* before it */
    uint32_t count;      /* of alternatives */
};

struct token_log { /* of one answer; zeroed: empty */
    uint32_t top;  /* alternatives that a token has room for; set before the first push */
    size_t count, room;
    struct token_log_entry *entries;
    struct token_logprob *probs; /* [room][1 + top]: the token, then its alternatives */
};

void token_log_fini(struct token_log *l);
int token_log_push(struct token_log *l, const struct event_logprobs *ev, uint64_t begin,
                   uint64_t characters, struct error *err);
/* Tokens whose text begins before byte `end`. */
size_t token_log_ready(const struct token_log *l, uint64_t end);
/*
 * They leave: an answer's or a chunk's `logprobs` as the API has it.  Chat: {"content": [{"token",
 * "logprob", "bytes", "top_logprobs"}], "refusal": null}; completion: {"tokens", "token_logprobs",
 * "top_logprobs", "text_offset"}, offsets in characters of the choice's text.  A token that is no
 * text by itself is shown as OpenAI does: "\xe2\x80", in completions with "bytes:" before it.
 * NULL without memory.
 */
json_t *token_log_take(struct token_log *l, enum openai_kind kind, const struct tokenizer *t,
                       uint64_t end);

#endif
