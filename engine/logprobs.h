/*
 * logprobs.h - log probabilities of tokens, from the logits of a step
 *
 * They are of the model's own distribution, before biases, penalties, temperature and filters:
 * log softmax of the logits, in double with the largest logit taken off first, so that nothing
 * overflows and what is far below the largest keeps its digits.
 */
#ifndef MP_ENGINE_LOGPROBS_H
#define MP_ENGINE_LOGPROBS_H

#include "common/order.h"

/* Fill picked and top[] of an event that is otherwise ready; logits [vocabulary] are finite, token
 * is one of them, top at most ORDER_TOP_MAX. */
void logprobs_fill(struct event_logprobs *out, const float *logits, uint32_t vocabulary,
                   uint32_t token, uint32_t top);

#endif
