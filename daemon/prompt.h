/* prompt.h - from a request's messages or text to the tokens that a model is given */
#ifndef MP_DAEMON_PROMPT_H
#define MP_DAEMON_PROMPT_H

#include "daemon/front.h"
#include "daemon/openai.h"

/*
 * Render (chat) and tokenize, and check the result against the model's context.  *tokens is
 * malloc'd, the caller's, 1..context-1 of them.  request->max_tokens becomes what may be generated
 * at most: as asked, or else the rest of the context (chat) or OpenAI's 16 (completion).
 */
int prompt_tokens(const struct front *f, uint32_t model, struct openai_request *request,
                  uint32_t **tokens, uint32_t *count, struct openai_error *e);

#endif
