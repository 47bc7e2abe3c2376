/* logprobs.c - log probabilities of tokens; see logprobs.h */
#include "engine/logprobs.h"

#include <math.h>

/* The log of the sum of e^logit is *most, the largest logit, and what this returns: the log of 1
 * and the others' share of it, so that a token which is all but certain keeps its digits. */
static double log_sum(const float *logits, uint32_t n, double *most)
{
    uint32_t at = 0;
    double others = 0;

    for (uint32_t i = 1; i < n; i++)
        at = logits[i] > logits[at] ? i : at;
    *most = (double)logits[at];
    for (uint32_t i = 0; i < n; i++)
        if (i != at)
            others += exp((double)logits[i] - *most);
    return log1p(others);
}

/* The `room` tokens with the largest logits, in order; how many there are. */
static uint32_t likeliest(const float *logits, uint32_t n, uint32_t *tokens, uint32_t room)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < n && room > 0; i++) {
        if (count == room && !(logits[i] > logits[tokens[count - 1]]))
            continue;
        uint32_t at = count < room ? count++ : count - 1;
        for (; at > 0 && logits[i] > logits[tokens[at - 1]]; at--)
            tokens[at] = tokens[at - 1];
        tokens[at] = i;
    }
    return count;
}

void logprobs_fill(struct event_logprobs *out, const float *logits, uint32_t vocabulary,
                   uint32_t token, uint32_t top)
{
    double most, rest = log_sum(logits, vocabulary, &most);
    uint32_t tokens[ORDER_TOP_MAX];

    out->picked =
        (struct token_logprob){.logprob = (double)logits[token] - most - rest, .token = token};
    out->count = likeliest(logits, vocabulary, tokens, top);
    for (uint32_t i = 0; i < out->count; i++)
        out->top[i] = (struct token_logprob){.logprob = (double)logits[tokens[i]] - most - rest,
                                             .token = tokens[i]};
}
