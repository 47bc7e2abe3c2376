/*
 * sampler.h - from logits to a token
 *
 * Order: biases of tokens are added, then repetition penalty (tokens of prompt and output: a
 * positive logit is divided, a negative one multiplied), frequency and presence penalties (output
 * alone), then temperature, top-k, top-p, min-p, each over what the one before left, as in vLLM and
 * Hugging Face transformers.  Temperature 0 takes the largest logit.  Ties go to the lower token
 * everywhere, so top-k keeps exactly k.
 *
 * A pick is a pure function of its input: the random number is Philox4x32-10 of (seed, position),
 * and the inverse of the cumulative distribution is taken over the kept tokens in ascending order.
 */
#ifndef MP_ENGINE_SAMPLER_H
#define MP_ENGINE_SAMPLER_H

#include <stdint.h>

#include "common/error.h"
#include "common/order.h"

struct sampler;

struct sampler_input {
    const float *logits; /* [vocabulary] */
    uint32_t vocabulary;
    const struct order_sampling *sampling;
    uint32_t position;               /* of the token that is picked, in its sequence */
    const uint32_t *tokens;          /* [count]: prompt, then output */
    uint32_t count, prompt;          /* the first `prompt` of them are the prompt */
    const struct token_bias *biases; /* [bias_count]; of tokens beyond the vocabulary: ignored */
    uint32_t bias_count;
};

struct sampler *sampler_create(struct error *err);
void sampler_destroy(struct sampler *s);
/* Make room for vocabularies of this size; it never shrinks.  NOMEM leaves the sampler as it was.
 */
int sampler_fit(struct sampler *s, uint32_t vocabulary, struct error *err);

/* The token, or -1 if a logit is NaN or infinite, before or after the penalties, or the vocabulary
 * is larger than the sampler was fitted for.  Allocates nothing. */
int64_t sampler_pick(struct sampler *s, const struct sampler_input *in);

/* Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011). */
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
