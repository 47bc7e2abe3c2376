/* openai_tokens.c - what a request asks of single tokens: logit_bias, logprobs; see openai.h */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/openai.h"

/* A token's number as a key: digits alone. */
static int parse_key(const char *key, uint32_t *token)
{
    char *end;

    errno = 0;
    unsigned long v = isdigit((unsigned char)key[0]) ? strtoul(key, &end, 10) : 0;
    if (!isdigit((unsigned char)key[0]) || *end || errno || v > UINT32_MAX)
        return -1;
    *token = (uint32_t)v;
    return 0;
}

static int parse_biases(json_t *biases, struct openai_request *r, struct openai_error *e)
{
    const char *key;
    json_t *v;

    if (!json_is_object(biases))
        return openai_invalid(e, "logit_bias",
                              "logit_bias must be an object: token ids to numbers");
    if (json_object_size(biases) > ORDER_BIAS_MAX)
        return openai_invalid(e, "logit_bias", "logit_bias holds %zu tokens; at most %u are taken",
                              json_object_size(biases), ORDER_BIAS_MAX);
    r->biases = calloc(json_object_size(biases) + 1, sizeof *r->biases);
    if (!r->biases)
        return openai_fail(e, 500, "server_error", NULL, "out of memory");
    json_object_foreach(biases, key, v)
    {
        struct token_bias *b = &r->biases[r->bias_count];
        double bias = json_is_number(v) ? json_number_value(v) : 1e9;
        if (parse_key(key, &b->token))
            return openai_invalid(e, "logit_bias", "logit_bias: \"%s\" is no token id", key);
        if (!(bias >= -100 && bias <= 100))
            return openai_invalid(e, "logit_bias",
                                  "logit_bias: the bias of token %u must be a number from -100 to "
                                  "100",
                                  b->token);
        b->bias = (float)bias;
        for (uint32_t i = 0; i < r->bias_count; i++) /* "7" and "07" */
            if (r->biases[i].token == b->token)
                return openai_invalid(e, "logit_bias", "logit_bias has token %u twice", b->token);
        r->bias_count++;
    }
    return 0;
}

/* An integer in [0, most]; -1 if it is none. */
static int64_t small(const json_t *v, int64_t most)
{
    int64_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    return n <= most ? n : -1;
}

static int parse_chat_logprobs(const json_t *body, struct openai_request *r, struct openai_error *e)
{
    const json_t *wanted = openai_field(body, "logprobs"),
                 *top = openai_field(body, "top_logprobs");
    int64_t n = top ? small(top, OPENAI_TOP_CHAT) : 0;

    if (wanted && !json_is_boolean(wanted))
        return openai_invalid(e, "logprobs", "logprobs must be true or false");
    if (n < 0)
        return openai_invalid(e, "top_logprobs", "top_logprobs must be an integer from 0 to %d",
                              OPENAI_TOP_CHAT);
    if (n > 0 && !json_is_true(wanted))
        return openai_invalid(e, "top_logprobs", "top_logprobs needs logprobs: true");
    r->logprobs = json_is_true(wanted) ? 1 + (uint32_t)n : 0;
    return 0;
}

static int parse_completion_logprobs(const json_t *body, struct openai_request *r,
                                     struct openai_error *e)
{
    const json_t *wanted = openai_field(body, "logprobs");
    int64_t n = wanted ? small(wanted, OPENAI_TOP_COMPLETION) : 0;

    if (!wanted || json_is_false(wanted))
        return 0;
    if (n < 0)
        return openai_invalid(e, "logprobs", "logprobs must be an integer from 0 to %d",
                              OPENAI_TOP_COMPLETION);
    r->logprobs = 1 + (uint32_t)n;
    return 0;
}

int openai_parse_tokens(const json_t *body, struct openai_request *r, struct openai_error *e)
{
    json_t *biases = openai_field(body, "logit_bias");

    if (biases && parse_biases(biases, r, e))
        return -1;
    return r->kind == OPENAI_CHAT ? parse_chat_logprobs(body, r, e)
                                  : parse_completion_logprobs(body, r, e);
}
