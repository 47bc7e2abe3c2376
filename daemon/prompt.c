/* prompt.c - from a request's messages or text to tokens; see prompt.h */
#include "daemon/prompt.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct target { /* the model that a prompt is for */
    const struct front_model *fm;
    const char *name;
    uint32_t context;
};

static const char *param_of(const struct openai_request *r)
{
    return r->kind == OPENAI_CHAT ? "messages" : "prompt";
}

/* over: "more than " where the prompt was not counted to its end, else "" */
static int too_long(struct openai_error *e, const struct openai_request *r, const struct target *t,
                    const char *over, uint64_t prompt)
{
    openai_fail(e, 400, "invalid_request_error", "context_length_exceeded",
                "%s takes %u tokens at most, prompt and answer together; the prompt alone has "
                "%s%" PRIu64,
                t->name, t->context, over, prompt);
    snprintf(e->param, sizeof e->param, "%s", param_of(r));
    return -1;
}

/* A variable that the request did not set.  Takes value, which may be NULL. */
static int set_absent(json_t *v, const char *key, json_t *value)
{
    if (json_object_get(v, key)) {
        json_decref(value);
        return 0;
    }
    return json_object_set_new(v, key, value);
}

/* What transformers passes: messages, tools and documents (none where there are none),
 * add_generation_prompt, chat_template_kwargs, and the special tokens that the tokenizer has. */
static json_t *template_variables(const struct target *t, const struct openai_request *r,
                                  json_t *messages)
{
    const struct tokenizer *tokenizer = t->fm->tokenizer;
    const struct {
        const char *key;
        int64_t token;
    } special[] = {{"bos_token", tokenizer_bos(tokenizer)},
                   {"eos_token", tokenizer_eos(tokenizer)},
                   {"unk_token", tokenizer_unk(tokenizer)},
                   {"pad_token", tokenizer_pad(tokenizer)}};
    json_t *v = r->template_variables ? json_copy(r->template_variables) : json_object();
    int failed = !v || json_object_set(v, "messages", messages) ||
                 json_object_set_new(v, "add_generation_prompt", json_true()) ||
                 (r->tools && json_object_set(v, "tools", r->tools)) ||
                 set_absent(v, "tools", json_null()) || set_absent(v, "documents", json_null());

    for (size_t i = 0; !failed && i < sizeof special / sizeof special[0]; i++)
        if (special[i].token >= 0)
            failed = set_absent(v, special[i].key,
                                json_string(tokenizer_text(tokenizer, (uint32_t)special[i].token)));
    if (!failed)
        return v;
    json_decref(v);
    return NULL;
}

/* What the request has of tools must be in the template, or the model would not see it. */
static int check_tools(const struct target *t, const struct openai_request *r,
                       struct openai_error *e)
{
    static const char refusal[] = "%s knows no tools: its chat template does not use %s";

    if (r->tools && !template_reads(t->fm->template, "tools"))
        return openai_invalid(e, "tools", refusal, t->name, "tools");
    if (r->tool_calls && !template_mentions(t->fm->template, "tool_calls"))
        return openai_invalid(e, "messages", refusal, t->name, "tool_calls");
    if (r->tool_results && !template_mentions(t->fm->template, "tool"))
        return openai_invalid(e, "messages", refusal, t->name, "the role \"tool\"");
    return 0;
}

/* The messages with the arguments of calls as objects, which most templates want. */
static json_t *with_object_arguments(const json_t *messages)
{
    json_t *copy = json_deep_copy(messages), *m, *call;
    size_t i, k;

    json_array_foreach(copy, i, m) json_array_foreach(json_object_get(m, "tool_calls"), k, call)
    {
        json_t *function = json_object_get(call, "function");
        const json_t *text = json_object_get(function, "arguments");
        json_t *arguments = json_loadb(json_string_value(text), json_string_length(text), 0, NULL);
        if (json_object_set_new(function, "arguments", arguments)) {
            json_decref(copy);
            return NULL;
        }
    }
    return copy;
}

/* -1 with *err, which is NOMEM or the template's. */
static int render_messages(const struct target *t, const struct openai_request *r, json_t *messages,
                           char **text, size_t *len, struct error *err)
{
    json_t *variables = messages ? template_variables(t, r, messages) : NULL;
    if (!variables)
        return error_set(err, STATUS_NOMEM, "out of memory");
    int rv = template_render(t->fm->template, variables, text, len, err);
    json_decref(variables);
    return rv;
}

static int render(const struct target *t, const struct openai_request *r, char **text, size_t *len,
                  struct openai_error *e)
{
    struct error err = {0}, ignored;

    if (!t->fm->template)
        return openai_invalid(e, "messages", "%s cannot chat: %s; /v1/completions takes plain text",
                              t->name, t->fm->text);
    if (check_tools(t, r, e))
        return -1;
    json_t *messages =
        r->tool_calls ? with_object_arguments(r->messages) : json_incref(r->messages);
    int rv = render_messages(t, r, messages, text, len, &err);
    json_decref(messages);
    /* Some templates put the text itself into the prompt, and fail on an object. */
    if (rv && r->tool_calls)
        rv = render_messages(t, r, r->messages, text, len, &ignored);
    if (rv == 0)
        return 0;
    if (err.status == STATUS_NOMEM)
        return openai_refuse(e, &err);
    return openai_invalid(e, "messages", "%s's chat template: %s", t->name, err.text);
}

/* Text to tokens; what is too long for the context by its bytes alone is not tokenized. */
static int encode(const struct target *t, const struct openai_request *r, const char *text,
                  size_t len, unsigned flags, struct token_list *list, struct openai_error *e)
{
    struct error err = {0};
    uint64_t least = len / (tokenizer_bytes_max(t->fm->tokenizer) + 1);

    if (least > t->context)
        return too_long(e, r, t, "more than ", least);
    if (tokenizer_encode(t->fm->tokenizer, text, len, flags, list, &err) == 0)
        return 0;
    if (err.status != STATUS_INVALID)
        return openai_refuse(e, &err);
    return openai_invalid(e, param_of(r), "%s", err.text);
}

static int check_ids(const struct target *t, const struct openai_request *r, struct openai_error *e)
{
    for (size_t i = 0; i < r->token_count; i++)
        if (r->tokens[i] >= tokenizer_vocabulary(t->fm->tokenizer))
            return openai_invalid(e, "prompt", "prompt[%zu]: %s has no token %u", i, t->name,
                                  r->tokens[i]);
    return 0;
}

static int check_biases(const struct target *t, const struct openai_request *r,
                        struct openai_error *e)
{
    for (uint32_t i = 0; i < r->bias_count; i++)
        if (r->biases[i].token >= tokenizer_vocabulary(t->fm->tokenizer))
            return openai_invalid(e, "logit_bias", "logit_bias: %s has no token %u", t->name,
                                  r->biases[i].token);
    return 0;
}

static int check_context(const struct target *t, struct openai_request *r, size_t count,
                         struct openai_error *e)
{
    if (count == 0)
        return openai_invalid(e, param_of(r), "the prompt has no tokens");
    if (count >= t->context)
        return too_long(e, r, t, "", count);
    uint32_t rest = t->context - (uint32_t)count;
    if (r->max_tokens == 0)
        r->max_tokens = r->kind == OPENAI_COMPLETION && rest > OPENAI_COMPLETION_LIMIT
                            ? OPENAI_COMPLETION_LIMIT
                            : rest;
    if (r->max_tokens > rest) {
        openai_fail(e, 400, "invalid_request_error", "context_length_exceeded",
                    "%s takes %u tokens at most, prompt and answer together; the request has %zu "
                    "of prompt and asks for %u",
                    t->name, t->context, count, r->max_tokens);
        snprintf(e->param, sizeof e->param, "max_tokens");
        return -1;
    }
    return 0;
}

int prompt_tokens(const struct front *f, uint32_t model, struct openai_request *request,
                  uint32_t **tokens, uint32_t *count, struct openai_error *e)
{
    const struct target t = {&f->models[model], f->config->models[model].name,
                             front_context(f, model)};
    int rv = -1;
    char *text = NULL;
    size_t len = 0;
    struct token_list list = {0};

    if (check_biases(&t, request, e))
        goto out;
    if (request->kind == OPENAI_CHAT) {
        if (render(&t, request, &text, &len, e) ||
            encode(&t, request, text, len, TOKENIZER_PARSE_SPECIAL, &list, e))
            goto out;
    } else if (request->prompt) {
        if (encode(&t, request, request->prompt, request->prompt_len,
                   TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS, &list, e))
            goto out;
    } else {
        if (check_ids(&t, request, e))
            goto out;
        list = (struct token_list){request->tokens, request->token_count, request->token_count};
        request->tokens = NULL;
    }
    if (check_context(&t, request, list.count, e))
        goto out;
    *tokens = list.tokens;
    *count = (uint32_t)list.count;
    list.tokens = NULL;
    rv = 0;
out:
    free(text);
    free(list.tokens);
    return rv;
}
