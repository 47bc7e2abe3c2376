/*
 * fake_engine.h - what tests know of the simulated engine: its tokens and its ways to fail
 *
 * A token is a function of the model and of all tokens before it, so that a sequence which was
 * given anew with one token lost, doubled or changed goes on differently.
 */
#ifndef MP_TESTS_TOOLS_FAKE_ENGINE_H
#define MP_TESTS_TOOLS_FAKE_ENGINE_H

#include <stdint.h>

#define FAKE_CONTEXT     4096u
#define FAKE_PAGE_TOKENS 16u
#define FAKE_PAGE_BYTES  1024u /* KV and weights (the file's size) share the instance's memory */
#define FAKE_CHUNK       64u   /* prompt tokens of a sequence in a step */
#define FAKE_VOCABULARY  30000u
#define FAKE_EOS_EVERY   97u    /* a multiple of it ends a sequence, unless EOS is ignored */
#define FAKE_POISON      60001u /* as first token: the engine kills itself when it computes it */
#define FAKE_BROKEN      60002u /* as first token: EVENT_SEQ_FAULT */
#define FAKE_TWICE       60003u /* as first token: each of its tokens is sent twice */

/* Environment of the engine:
 * FAKE_MODE      "mute": reads orders, never ready; "exit": ends at once; "silent": ends no turn
 * FAKE_STEP_US   that a step takes; default 500
 * FAKE_COST_NS   "BASE,CONTEXT,ROW,PROMPT,TOKEN" in place of it: a step takes BASE, CONTEXT for
 *                each token that its rows look back at and ROW for each row; without rows that
 *                decode PROMPT; and TOKEN for each of a prompt
 * FAKE_BAD_MODEL name of a model that it cannot run
 * FAKE_DIE_FILE, FAKE_DIE_STEP: the engine that removes the file dies at its step of that number */

/* The log probability that it gives a token, and the nth alternative's token. */
static inline double fake_logprob(uint32_t token)
{
    return -(double)(token % 1000) / 8;
}

static inline uint32_t fake_alternative(uint32_t token, uint32_t n)
{
    return (token + n) % FAKE_VOCABULARY;
}

static inline uint32_t fake_token(uint32_t model, const uint32_t *tokens, uint32_t count)
{
    uint64_t h = 1469598103934665603u + model; /* FNV-1a */

    for (uint32_t i = 0; i < count; i++)
        h = (h ^ tokens[i]) * 1099511628211u;
    return (uint32_t)((h >> 20) % FAKE_VOCABULARY);
}

#endif
