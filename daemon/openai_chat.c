/* openai_chat.c - messages and tools of a chat request; see openai.h */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/openai.h"

static int out_of_memory(struct openai_error *e)
{
    return openai_fail(e, 500, "server_error", NULL, "out of memory");
}

/* --- content ------------------------------------------------------------------------------------
 */

/* Content given as parts: the texts one after the other.  A new reference, or NULL with *e set. */
static json_t *join_parts(const json_t *parts, const char *param, const char *model,
                          struct openai_error *e)
{
    size_t total = 0, i;
    json_t *part;

    json_array_foreach(parts, i, part)
    {
        const json_t *type = json_object_get(part, "type");
        const char *word = json_string_value(type);
        if (word && strcmp(word, "image_url") == 0)
            return openai_invalid(e, param, "images are not supported by %s", model), NULL;
        if (word && (strcmp(word, "input_audio") == 0 || strcmp(word, "audio_url") == 0))
            return openai_invalid(e, param, "audio is not supported by %s", model), NULL;
        if (!word || strcmp(word, "text") != 0 || !json_is_string(json_object_get(part, "text")))
            return openai_invalid(e, param,
                                  "%s must be a string or an array of "
                                  "{\"type\": \"text\", \"text\": ...}",
                                  param),
                   NULL;
        total += json_string_length(json_object_get(part, "text"));
    }
    char *text = malloc(total + 1);
    size_t at = 0;
    if (!text)
        return out_of_memory(e), NULL;
    json_array_foreach(parts, i, part)
    {
        const json_t *t = json_object_get(part, "text");
        memcpy(text + at, json_string_value(t), json_string_length(t));
        at += json_string_length(t);
    }
    json_t *joined = json_stringn(text, total);
    free(text);
    if (!joined)
        out_of_memory(e);
    return joined;
}

/* A message's content as a string.  A new reference, or NULL with *e set. */
static json_t *parse_content(const json_t *m, size_t i, const char *role, const char *model,
                             struct openai_error *e)
{
    char param[48];
    json_t *content = openai_field(m, "content");

    snprintf(param, sizeof param, "messages[%zu].content", i);
    if (json_is_string(content))
        return json_incref(content);
    if (json_is_array(content) && json_array_size(content) > 0)
        return join_parts(content, param, model, e);
    if (content || strcmp(role, "assistant") != 0) {
        openai_invalid(e, param, "%s must be a string or an array of text parts", param);
        return NULL;
    }
    json_t *empty = json_string("");
    if (!empty)
        out_of_memory(e);
    return empty;
}

/* --- tools --------------------------------------------------------------------------------------
 */

static int is_function(const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *name = json_object_get(json_object_get(v, "function"), "name");

    return type && strcmp(type, "function") == 0 && json_string_length(name) > 0;
}

/* Definitions go to the template as they are. */
static int parse_tools(const json_t *body, struct openai_request *r, struct openai_error *e)
{
    json_t *tools = openai_field(body, "tools"), *choice = openai_field(body, "tool_choice"), *one;
    const char *word = json_string_value(choice);
    char param[48];
    size_t i;

    if (choice && (!word || (strcmp(word, "none") != 0 && strcmp(word, "auto") != 0)))
        return openai_invalid(e, "tool_choice",
                              "tool_choice is not supported by this server, except \"auto\" and "
                              "\"none\"");
    if (tools && !json_is_array(tools))
        return openai_invalid(e, "tools", "tools must be an array");
    json_array_foreach(tools, i, one)
    {
        snprintf(param, sizeof param, "tools[%zu]", i);
        if (!is_function(one))
            return openai_invalid(
                e, param, "%s must be {\"type\": \"function\", \"function\": {\"name\": ...}}",
                param);
    }
    /* With "none" none may be called: the model is shown none. */
    if (json_array_size(tools) > 0 && !(word && strcmp(word, "none") == 0))
        r->tools = json_incref(tools);
    return 0;
}

/* One call of an assistant's message, checked: its arguments are the text of a JSON object. */
static int check_call(const json_t *call, const char *param, struct openai_error *e)
{
    const json_t *text = json_object_get(json_object_get(call, "function"), "arguments");

    if (!is_function(call))
        return openai_invalid(e, param,
                              "%s must be {\"type\": \"function\", \"function\": {\"name\": ..., "
                              "\"arguments\": ...}}",
                              param);
    json_t *arguments = json_is_string(text)
                            ? json_loadb(json_string_value(text), json_string_length(text), 0, NULL)
                            : NULL;
    int ok = json_is_object(arguments);
    json_decref(arguments);
    if (!ok)
        return openai_invalid(
            e, param, "%s.function.arguments must be a string that holds a JSON object", param);
    return 0;
}

/* The calls of an assistant's message and the id of a tool's result, into `out`. */
static int copy_tool_fields(const json_t *m, size_t i, const char *role, struct openai_request *r,
                            json_t *out, struct openai_error *e)
{
    json_t *calls = openai_field(m, "tool_calls"), *one;
    json_t *id = openai_field(m, "tool_call_id"), *name = openai_field(m, "name");
    char param[64];
    size_t k;

    snprintf(param, sizeof param, "messages[%zu]", i);
    if (openai_field(m, "function_call"))
        return openai_invalid(e, param, "%s: function_call is not supported: send tool_calls",
                              param);
    if (calls &&
        (!json_is_array(calls) || (json_array_size(calls) > 0 && strcmp(role, "assistant") != 0)))
        return openai_invalid(e, param, "%s: tool_calls is an array of an assistant's message",
                              param);
    json_array_foreach(calls, k, one)
    {
        snprintf(param, sizeof param, "messages[%zu].tool_calls[%zu]", i, k);
        if (check_call(one, param, e))
            return -1;
    }
    if (json_array_size(calls) > 0) {
        r->tool_calls = 1;
        if (json_object_set(out, "tool_calls", calls))
            return out_of_memory(e);
    }
    if (strcmp(role, "tool") != 0)
        return 0;
    r->tool_results = 1;
    snprintf(param, sizeof param, "messages[%zu].tool_call_id", i);
    if (!json_is_string(id))
        return openai_invalid(e, param, "%s must be the id of the call that this answers", param);
    if (json_object_set(out, "tool_call_id", id) ||
        (json_is_string(name) && json_object_set(out, "name", name)))
        return out_of_memory(e);
    return 0;
}

/* --- messages -----------------------------------------------------------------------------------
 */

/* The role as templates know it; NULL for one that is not served. */
static const char *role_word(const json_t *v)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    const char *role = json_string_value(v);

    for (size_t i = 0; role && i < sizeof roles / sizeof *roles; i++)
        if (strcmp(role, roles[i]) == 0)
            return roles[i];
    /* OpenAI's newer name for the system's role, which no template has */
    return role && strcmp(role, "developer") == 0 ? "system" : NULL;
}

/* One message as templates know it.  A new reference, or NULL with *e set. */
static json_t *parse_message(const json_t *m, size_t i, const char *model, struct openai_request *r,
                             struct openai_error *e)
{
    char param[48];

    snprintf(param, sizeof param, "messages[%zu]", i);
    if (!json_is_object(m))
        return openai_invalid(e, param, "%s must be an object", param), NULL;
    snprintf(param, sizeof param, "messages[%zu].role", i);
    const char *role = role_word(json_object_get(m, "role"));
    if (!role)
        return openai_invalid(e, param,
                              "%s must be \"system\", \"developer\", \"user\", \"assistant\" or "
                              "\"tool\"",
                              param),
               NULL;
    json_t *text = parse_content(m, i, role, model, e);
    if (!text)
        return NULL;
    json_t *out = json_pack("{ss so}", "role", role, "content", text);
    if (!out)
        return out_of_memory(e), NULL;
    if (copy_tool_fields(m, i, role, r, out, e)) {
        json_decref(out);
        return NULL;
    }
    return out;
}

int openai_parse_chat(const json_t *body, const char *model, struct openai_request *r,
                      struct openai_error *e)
{
    const json_t *list = openai_field(body, "messages");
    size_t i;
    json_t *m;

    if (parse_tools(body, r, e))
        return -1;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return openai_invalid(e, "messages", "messages must be an array of at least one message");
    if (json_array_size(list) > OPENAI_MESSAGES_MAX)
        return openai_invalid(e, "messages", "messages holds %zu messages; at most %u are taken",
                              json_array_size(list), OPENAI_MESSAGES_MAX);
    r->messages = json_array();
    json_array_foreach(list, i, m)
    {
        json_t *one = parse_message(m, i, model, r, e);
        if (!one)
            return -1;
        if (json_array_append_new(r->messages, one))
            return out_of_memory(e);
    }
    json_t *variables = openai_field(body, "chat_template_kwargs");
    if (variables && !json_is_object(variables))
        return openai_invalid(e, "chat_template_kwargs", "chat_template_kwargs must be an object");
    r->template_variables = json_incref(variables);
    return 0;
}
