/* openai.c - requests of the OpenAI API, checked field by field; see openai.h */
#include "daemon/openai.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *openai_field(const json_t *object, const char *name)
{
    json_t *v = json_object_get(object, name);
    return json_is_null(v) ? NULL : v;
}

/* --- what is known and not done -----------------------------------------------------------------
 */

static const struct {
    const char *name;
    int chat, completion; /* the API has it there */
} unsupported[] = {
    {"allowed_token_ids", 1, 1},
    {"audio", 1, 0},
    {"bad_words", 1, 1},
    {"continue_final_message", 1, 0},
    {"echo", 1, 1},
    {"function_call", 1, 0},
    {"functions", 1, 0},
    {"guided_choice", 1, 1},
    {"guided_grammar", 1, 1},
    {"guided_json", 1, 1},
    {"guided_regex", 1, 1},
    {"min_tokens", 1, 1},
    {"moderation", 1, 0},
    {"prediction", 1, 0},
    {"prompt_embeds", 1, 1},
    {"prompt_logprobs", 1, 1},
    {"reasoning_effort", 1, 0},
    {"stop_token_ids", 1, 1},
    {"store", 1, 0},
    {"structured_outputs", 1, 1},
    {"suffix", 0, 1},
    {"use_beam_search", 1, 1},
    {"verbosity", 1, 0},
    {"web_search_options", 1, 0},
};

/* Words that ask for what is done anyway. */
static const struct {
    const char *name, *word;
} defaults[] = {
    {"function_call", "auto"},    {"function_call", "none"}, {"reasoning_effort", "medium"},
    {"reasoning_effort", "none"}, {"verbosity", "medium"},
};

static int is_default(const char *name, const char *word)
{
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (strcmp(name, defaults[i].name) == 0 && strcmp(word, defaults[i].word) == 0)
            return 1;
    return word[0] == '\0';
}

/* A value that asks for nothing: false, an empty list, object or text, and for a few fields the
 * word or number that means "off". */
static int asks_nothing(const char *name, const json_t *v)
{
    if (json_is_false(v) || (json_is_array(v) && json_array_size(v) == 0) ||
        (json_is_object(v) && json_object_size(v) == 0))
        return 1;
    if (json_is_string(v))
        return is_default(name, json_string_value(v));
    return strcmp(name, "min_tokens") == 0 && json_is_integer(v) && json_integer_value(v) == 0;
}

static int check_unsupported(enum openai_kind kind, const json_t *body, struct openai_error *e)
{
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        if (!(kind == OPENAI_CHAT ? unsupported[i].chat : unsupported[i].completion))
            continue;
        const char *name = unsupported[i].name;
        const json_t *v = openai_field(body, name);
        if (v && !asks_nothing(name, v))
            return openai_invalid(e, name, "%s is not supported by this server", name);
    }
    const json_t *best = openai_field(body, "best_of");
    if (best && !(json_is_integer(best) && json_integer_value(best) == 1))
        return openai_invalid(e, "best_of", "best_of must be 1: every answer is given, see n");
    const json_t *format = openai_field(body, "response_format");
    const json_t *type = json_object_get(format, "type");
    if (format && !(json_is_string(type) && strcmp(json_string_value(type), "text") == 0))
        return openai_invalid(e, "response_format",
                              "response_format %s%s%sis not supported by this server, except "
                              "{\"type\": \"text\"}",
                              json_is_string(type) ? "{\"type\": \"" : "",
                              json_is_string(type) ? json_string_value(type) : "",
                              json_is_string(type) ? "\"} " : "");
    const json_t *modalities = openai_field(body, "modalities");
    const json_t *first = json_array_get(modalities, 0);
    if (modalities && !(json_array_size(modalities) == 1 && json_is_string(first) &&
                        strcmp(json_string_value(first), "text") == 0))
        return openai_invalid(e, "modalities", "modalities must be [\"text\"]");
    return 0;
}

/* --- scalars ------------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    size_t offset;
    double least, most;
    int open; /* `least` itself is out */
} numbers[] = {
    {"temperature", offsetof(struct order_sampling, temperature), 0, 2, 0},
    {"top_p", offsetof(struct order_sampling, top_p), 0, 1, 1},
    {"min_p", offsetof(struct order_sampling, min_p), 0, 1, 0},
    {"frequency_penalty", offsetof(struct order_sampling, frequency_penalty), -2, 2, 0},
    {"presence_penalty", offsetof(struct order_sampling, presence_penalty), -2, 2, 0},
    {"repetition_penalty", offsetof(struct order_sampling, repetition_penalty), 0, 10, 1},
};

static int parse_numbers(const json_t *body, struct order_sampling *s, struct openai_error *e)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const json_t *v = openai_field(body, numbers[i].name);
        if (!v)
            continue;
        double x = json_is_number(v) ? json_number_value(v) : NAN;
        float narrow = (float)x; /* a tiny value may become 0, which is out where `open` */
        if (!(x >= numbers[i].least && x <= numbers[i].most) ||
            (numbers[i].open && !((double)narrow > numbers[i].least)))
            return openai_invalid(e, numbers[i].name, "%s must be a number %s %g and at most %g",
                                  numbers[i].name, numbers[i].open ? "above" : "of at least",
                                  numbers[i].least, numbers[i].most);
        memcpy((char *)s + numbers[i].offset, &narrow, sizeof narrow);
    }
    return 0;
}

static int parse_bool(const json_t *body, const char *name, int *out, struct openai_error *e)
{
    const json_t *v = openai_field(body, name);
    if (v && !json_is_boolean(v))
        return openai_invalid(e, name, "%s must be true or false", name);
    if (v)
        *out = json_is_true(v);
    return 0;
}

/* Integer in [least, most]; *given tells whether it is there. */
static int parse_integer(const json_t *body, const char *name, int64_t least, int64_t most,
                         int64_t *out, int *given, struct openai_error *e)
{
    const json_t *v = openai_field(body, name);

    *given = v != NULL;
    if (!v)
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < least || json_integer_value(v) > most)
        return openai_invalid(e, name, "%s must be an integer from %lld to %lld", name,
                              (long long)least, (long long)most);
    *out = json_integer_value(v);
    return 0;
}

static int parse_limits(const json_t *body, struct openai_request *r, struct openai_error *e)
{
    static const char *const names[] = {"max_tokens", "max_completion_tokens"};
    int64_t n = 0;
    int given;

    for (size_t i = 0; i < (r->kind == OPENAI_CHAT ? 2u : 1u); i++) {
        if (parse_integer(body, names[i], 1, INT32_MAX, &n, &given, e))
            return -1;
        if (given) /* the second is the newer name and wins */
            r->max_tokens = (uint32_t)n;
    }
    return 0;
}

static int parse_sampling(const json_t *body, struct openai_request *r, struct openai_error *e)
{
    int64_t n = 0;
    int given, ignore_eos = 0;

    r->sampling = (struct order_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    if (parse_numbers(body, &r->sampling, e))
        return -1;
    if (parse_integer(body, "top_k", -1, INT32_MAX, &n, &given, e))
        return -1;
    if (given && n > 0) /* -1 and 0 mean off */
        r->sampling.top_k = (uint32_t)n;
    if (parse_integer(body, "seed", INT64_MIN, INT64_MAX, &n, &r->seeded, e))
        return -1;
    if (r->seeded)
        r->sampling.seed = (uint64_t)n;
    if (parse_bool(body, "ignore_eos", &ignore_eos, e))
        return -1;
    n = 1;
    if (parse_integer(body, "n", 1, OPENAI_CHOICES_MAX, &n, &given, e))
        return -1;
    r->n = (uint32_t)n;
    if (ignore_eos)
        r->sampling.flags |= SAMPLING_IGNORE_EOS;
    return 0;
}

static int parse_stream(const json_t *body, struct openai_request *r, struct openai_error *e)
{
    if (parse_bool(body, "stream", &r->stream, e))
        return -1;
    const json_t *options = openai_field(body, "stream_options");
    if (!options)
        return 0;
    if (!json_is_object(options))
        return openai_invalid(e, "stream_options", "stream_options must be an object");
    if (!r->stream)
        return openai_invalid(e, "stream_options", "stream_options needs stream: true");
    const json_t *v = openai_field(options, "include_usage");
    if (v && !json_is_boolean(v))
        return openai_invalid(e, "stream_options.include_usage",
                              "stream_options.include_usage must be true or false");
    r->include_usage = json_is_true(v);
    v = openai_field(options, "continuous_usage_stats"); /* as vLLM has it */
    if (v && !json_is_boolean(v))
        return openai_invalid(e, "stream_options.continuous_usage_stats",
                              "stream_options.continuous_usage_stats must be true or false");
    r->continuous_usage = r->include_usage && json_is_true(v);
    return 0;
}

static int parse_stop(const json_t *body, struct openai_request *r, struct openai_error *e)
{
    json_t *v = openai_field(body, "stop");
    size_t count = json_is_array(v) ? json_array_size(v) : 1;

    if (!v)
        return 0;
    if (!json_is_array(v) && !json_is_string(v))
        return openai_invalid(e, "stop", "stop must be a string or an array of strings");
    if (count > STOP_STRINGS_MAX)
        return openai_invalid(e, "stop", "stop holds %zu strings; at most %d are taken", count,
                              STOP_STRINGS_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_is_array(v) ? json_array_get(v, i) : v;
        struct error err = {0};
        if (!json_is_string(one))
            return openai_invalid(e, "stop", "stop must be a string or an array of strings");
        if (stop_add(&r->stop, json_string_value(one), json_string_length(one), &err)) {
            if (err.status != STATUS_INVALID)
                return openai_refuse(e, &err);
            return openai_invalid(e, "stop", "stop: %s", err.text);
        }
    }
    return 0;
}

/* --- completion prompt --------------------------------------------------------------------------
 */

static int parse_token_ids(const json_t *list, struct openai_request *r, struct openai_error *e)
{
    size_t i;
    json_t *v;

    r->tokens = malloc(json_array_size(list) * sizeof *r->tokens);
    if (!r->tokens)
        return openai_fail(e, 500, "server_error", NULL, "out of memory");
    json_array_foreach(list, i, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
            return openai_invalid(e, "prompt", "prompt[%zu] is no token id", i);
        r->tokens[i] = (uint32_t)json_integer_value(v);
    }
    r->token_count = json_array_size(list);
    return 0;
}

static int parse_prompt(const json_t *body, struct openai_request *r, struct openai_error *e)
{
    const json_t *v = openai_field(body, "prompt");
    const json_t *first = json_array_get(v, 0);

    if (json_is_string(first) || json_is_array(first)) { /* a batch; one prompt is fine */
        if (json_array_size(v) > 1)
            return openai_invalid(e, "prompt", "prompt holds %zu prompts; send one a request",
                                  json_array_size(v));
        v = first;
        first = json_array_get(v, 0);
    }
    if (json_is_array(v) && json_is_integer(first))
        return parse_token_ids(v, r, e);
    if (!json_is_string(v))
        return openai_invalid(e, "prompt", "prompt must be a string or an array of token ids");
    if (json_string_length(v) == 0)
        return openai_invalid(e, "prompt", "prompt is empty");
    r->prompt_len = json_string_length(v);
    r->prompt = malloc(r->prompt_len + 1);
    if (!r->prompt)
        return openai_fail(e, 500, "server_error", NULL, "out of memory");
    memcpy(r->prompt, json_string_value(v), r->prompt_len + 1);
    return 0;
}

/* --- the whole ----------------------------------------------------------------------------------
 */

static int parse_fields(const json_t *body, const char *default_model, struct openai_request *r,
                        struct openai_error *e)
{
    const json_t *model = openai_field(body, "model");

    if (model && !json_is_string(model))
        return openai_invalid(e, "model", "model must be a string");
    if (model) {
        r->model = strdup(json_string_value(model));
        if (!r->model)
            return openai_fail(e, 500, "server_error", NULL, "out of memory");
        if (r->model[0])
            default_model = r->model;
    }
    if (check_unsupported(r->kind, body, e) || parse_sampling(body, r, e) ||
        parse_limits(body, r, e) || openai_parse_tokens(body, r, e) || parse_stream(body, r, e) ||
        parse_stop(body, r, e))
        return -1;
    if (r->kind == OPENAI_CHAT)
        return openai_parse_chat(body, default_model, r, e);
    return parse_prompt(body, r, e);
}

int openai_parse(enum openai_kind kind, const char *body, size_t len, const char *default_model,
                 struct openai_request *r, struct openai_error *e)
{
    json_error_t where;

    memset(r, 0, sizeof *r);
    r->kind = kind;
    if (len > OPENAI_BODY_MAX)
        return openai_fail(e, 413, "invalid_request_error", "request_too_large",
                           "the body has %zu bytes; at most %u are taken", len, OPENAI_BODY_MAX);
    json_t *root = json_loadb(body, len, 0, &where);
    if (!root)
        return openai_invalid(e, "", "the body is no valid JSON: %s (line %d, column %d)",
                              where.text, where.line, where.column);
    int rv = -1;
    if (!json_is_object(root))
        openai_invalid(e, "", "the body must be a JSON object");
    else
        rv = parse_fields(root, default_model, r, e);
    json_decref(root);
    if (rv)
        openai_request_fini(r);
    return rv;
}

void openai_request_fini(struct openai_request *r)
{
    free(r->model);
    free(r->prompt);
    free(r->tokens);
    free(r->biases);
    json_decref(r->messages);
    json_decref(r->tools);
    json_decref(r->template_variables);
    stop_fini(&r->stop);
    memset(r, 0, sizeof *r);
}
