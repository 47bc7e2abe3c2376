/* openai_test.c - requests of the OpenAI API: what is taken, and how what is not is refused */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/openai.h"

#define MSG "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

#define CALL(arguments)                                                                            \
    "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\","                \
    "\"function\":{\"name\":\"f\",\"arguments\":\"" arguments "\"}}]}"
#define TOOLS "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"

struct bad {
    const char *body;
    const char *param;
    const char *text; /* a part of the message */
};

static const struct bad bad_chats[] = {
    {"", "", "JSON"},
    {"{", "", "JSON"},
    {"[]", "", "object"},
    {"{}", "messages", "messages"},
    {"{\"messages\":[]}", "messages", "at least one"},
    {"{\"messages\":\"hi\"}", "messages", "array"},
    {"{\"messages\":[1]}", "messages[0]", "object"},
    {"{\"messages\":[{\"content\":\"a\"}]}", "messages[0].role", "role"},
    {"{\"messages\":[{\"role\":\"ipython\",\"content\":\"a\"}]}", "messages[0].role", "role"},
    {"{\"messages\":[{\"role\":\"tool\",\"content\":\"a\"}]}", "messages[0].tool_call_id", "id"},
    {"{\"messages\":[{\"role\":\"tool\",\"tool_call_id\":\"a\"}]}", "messages[0].content",
     "string"},
    {"{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "string"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":7}]}", "messages[0].content", "string"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "messages[0].content", "string"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
     "messages[0].content", "images are not supported by tiny"},
    {"{\"model\":\"big\",\"messages\":[{\"role\":\"user\",\"content\":"
     "[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
     "messages[0].content", "images are not supported by big"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}",
     "messages[0].content", "text"},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{}]}]}",
     "messages[0].tool_calls[0]", "function"},
    {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":{}}]}", "messages[0]", "array"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[{}]}]}", "messages[0]",
     "assistant"},
    {"{\"messages\":[{\"role\":\"assistant\",\"function_call\":{}}]}", "messages[0]", "tool_calls"},
    {"{\"messages\":[" CALL("{\\\"a\\\":1") "]}", "messages[0].tool_calls[0]", "JSON object"},
    {"{\"messages\":[" CALL("[]") "]}", "messages[0].tool_calls[0]", "JSON object"},
    {"{" MSG ",\"functions\":[{}]}", "functions", "not supported"},
    {"{" MSG ",\"tools\":{}}", "tools", "array"},
    {"{" MSG ",\"tools\":[{\"type\":\"function\"}]}", "tools[0]", "function"},
    {"{" MSG ",\"tools\":[{\"type\":\"retrieval\",\"function\":{\"name\":\"f\"}}]}", "tools[0]",
     "function"},
    {"{" MSG ",\"model\":5}", "model", "string"},
    {"{" MSG ",\"n\":17}", "n", "n must be an integer from 1 to 16"},
    {"{" MSG ",\"n\":0}", "n", "n must be an integer from 1 to 16"},
    {"{" MSG ",\"n\":\"1\"}", "n", "n must be an integer from 1 to 16"},
    {"{" MSG ",\"temperature\":2.5}", "temperature", "temperature"},
    {"{" MSG ",\"temperature\":-0.1}", "temperature", "temperature"},
    {"{" MSG ",\"temperature\":\"hot\"}", "temperature", "number"},
    {"{" MSG ",\"temperature\":true}", "temperature", "number"},
    {"{" MSG ",\"top_p\":0}", "top_p", "above 0"},
    {"{" MSG ",\"top_p\":1e-60}", "top_p", "above 0"},
    {"{" MSG ",\"top_p\":1.01}", "top_p", "at most 1"},
    {"{" MSG ",\"min_p\":1.5}", "min_p", "min_p"},
    {"{" MSG ",\"top_k\":-2}", "top_k", "top_k"},
    {"{" MSG ",\"top_k\":1.5}", "top_k", "integer"},
    {"{" MSG ",\"frequency_penalty\":3}", "frequency_penalty", "frequency_penalty"},
    {"{" MSG ",\"presence_penalty\":-3}", "presence_penalty", "presence_penalty"},
    {"{" MSG ",\"repetition_penalty\":0}", "repetition_penalty", "above 0"},
    {"{" MSG ",\"seed\":1.5}", "seed", "integer"},
    {"{" MSG ",\"seed\":\"a\"}", "seed", "integer"},
    {"{" MSG ",\"max_tokens\":0}", "max_tokens", "max_tokens"},
    {"{" MSG ",\"max_tokens\":99999999999}", "max_tokens", "max_tokens"},
    {"{" MSG ",\"max_completion_tokens\":-1}", "max_completion_tokens", "integer"},
    {"{" MSG ",\"stream\":1}", "stream", "true or false"},
    {"{" MSG ",\"stream_options\":{\"include_usage\":true}}", "stream_options", "stream"},
    {"{" MSG ",\"stream\":true,\"stream_options\":[]}", "stream_options", "object"},
    {"{" MSG ",\"stream\":true,\"stream_options\":{\"include_usage\":1}}",
     "stream_options.include_usage", "true or false"},
    {"{" MSG ",\"stream\":true,\"stream_options\":{\"continuous_usage_stats\":1}}",
     "stream_options.continuous_usage_stats", "true or false"},
    {"{" MSG ",\"stop\":1}", "stop", "string"},
    {"{" MSG ",\"stop\":[1]}", "stop", "string"},
    {"{" MSG ",\"stop\":\"\"}", "stop", "bytes"},
    {"{" MSG
     ",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\","
     "\"13\",\"14\",\"15\",\"16\",\"17\"]}",
     "stop", "at most 16"},
    {"{" MSG ",\"ignore_eos\":\"yes\"}", "ignore_eos", "true or false"},
    {"{" MSG ",\"logprobs\":1}", "logprobs", "true or false"},
    {"{" MSG ",\"top_logprobs\":3}", "top_logprobs", "needs logprobs: true"},
    {"{" MSG ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs", "from 0 to 20"},
    {"{" MSG ",\"logprobs\":true,\"top_logprobs\":-1}", "top_logprobs", "from 0 to 20"},
    {"{" MSG ",\"logprobs\":true,\"top_logprobs\":1.5}", "top_logprobs", "from 0 to 20"},
    {"{" MSG ",\"tool_choice\":{\"type\":\"function\"}}", "tool_choice", "not supported"},
    {"{" MSG ",\"tool_choice\":\"required\"}", "tool_choice", "not supported"},
    {"{" MSG ",\"functions\":[{}]}", "functions", "not supported"},
    {"{" MSG ",\"response_format\":{\"type\":\"json_object\"}}", "response_format",
     "response_format {\"type\": \"json_object\"} is not supported"},
    {"{" MSG ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}",
     "response_format", "response_format {\"type\": \"json_schema\"} is not supported"},
    {"{" MSG ",\"response_format\":\"text\"}", "response_format", "not supported"},
    {"{" MSG ",\"logit_bias\":[1]}", "logit_bias", "object"},
    {"{" MSG ",\"logit_bias\":{\"1\":101}}", "logit_bias", "token 1 must be a number from -100"},
    {"{" MSG ",\"logit_bias\":{\"1\":\"2\"}}", "logit_bias", "must be a number"},
    {"{" MSG ",\"logit_bias\":{\"1\":true}}", "logit_bias", "must be a number"},
    {"{" MSG ",\"logit_bias\":{\"a\":1}}", "logit_bias", "\"a\" is no token id"},
    {"{" MSG ",\"logit_bias\":{\"-1\":1}}", "logit_bias", "\"-1\" is no token id"},
    {"{" MSG ",\"logit_bias\":{\"\":1}}", "logit_bias", "is no token id"},
    {"{" MSG ",\"logit_bias\":{\" 1\":1}}", "logit_bias", "is no token id"},
    {"{" MSG ",\"logit_bias\":{\"4294967296\":1}}", "logit_bias", "is no token id"},
    {"{" MSG ",\"logit_bias\":{\"7\":1,\"07\":2}}", "logit_bias", "token 7 twice"},
    {"{" MSG ",\"store\":true}", "store", "not supported"},
    {"{" MSG ",\"reasoning_effort\":\"high\"}", "reasoning_effort", "not supported"},
    {"{" MSG ",\"verbosity\":\"low\"}", "verbosity", "not supported"},
    {"{" MSG ",\"moderation\":{\"model\":\"m\"}}", "moderation", "not supported"},
    {"{" MSG ",\"modalities\":[\"text\",\"audio\"]}", "modalities", "text"},
    {"{" MSG ",\"chat_template_kwargs\":1}", "chat_template_kwargs", "object"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"\\u0000\"}]}", "", "JSON"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", "", "JSON"},
};

static const struct bad bad_completions[] = {
    {"{}", "prompt", "prompt must be"},
    {"{\"prompt\":\"\"}", "prompt", "empty"},
    {"{\"prompt\":[]}", "prompt", "prompt must be"},
    {"{\"prompt\":7}", "prompt", "prompt must be"},
    {"{\"prompt\":[\"a\",\"b\"]}", "prompt", "2 prompts"},
    {"{\"prompt\":[[1],[2],[3]]}", "prompt", "3 prompts"},
    {"{\"prompt\":[1,-2]}", "prompt", "prompt[1]"},
    {"{\"prompt\":[1,\"a\"]}", "prompt", "prompt[1]"},
    {"{\"prompt\":[1,4294967296]}", "prompt", "prompt[1]"},
    {"{\"prompt\":\"a\",\"echo\":true}", "echo", "not supported"},
    {"{\"prompt\":\"a\",\"suffix\":\"b\"}", "suffix", "not supported"},
    {"{\"prompt\":\"a\",\"best_of\":2}", "best_of", "must be 1"},
    {"{\"prompt\":\"a\",\"logprobs\":6}", "logprobs", "from 0 to 5"},
    {"{\"prompt\":\"a\",\"logprobs\":true}", "logprobs", "from 0 to 5"},
    {"{\"prompt\":\"a\",\"n\":2,\"best_of\":2}", "best_of", "must be 1"},
    {"{\"prompt\":\"a\",\"n\":0}", "n", "from 1 to 16"},
};

static void check_bad(enum openai_kind kind, const struct bad *bad, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct openai_request r;
        struct openai_error e = {0};
        if (openai_parse(kind, bad[i].body, strlen(bad[i].body), "tiny", &r, &e) != -1)
            fail_msg("taken: %s", bad[i].body);
        assert_int_equal(e.http, 400);
        assert_string_equal(e.type, "invalid_request_error");
        if (strcmp(e.param, bad[i].param) != 0 || !strstr(e.text, bad[i].text))
            fail_msg("%s: param \"%s\", message \"%s\"", bad[i].body, e.param, e.text);
        json_t *json = openai_error_json(&e);
        assert_non_null(json);
        json_decref(json);
    }
}

static void test_bad_chats(void **state)
{
    (void)state;
    check_bad(OPENAI_CHAT, bad_chats, sizeof bad_chats / sizeof *bad_chats);
}

static void test_bad_completions(void **state)
{
    (void)state;
    check_bad(OPENAI_COMPLETION, bad_completions, sizeof bad_completions / sizeof *bad_completions);
}

static void parse(enum openai_kind kind, const char *body, struct openai_request *r)
{
    struct openai_error e = {0};
    if (openai_parse(kind, body, strlen(body), "tiny", r, &e))
        fail_msg("%s: %s", body, e.text);
}

static void test_defaults(void **state)
{
    struct openai_request r;

    (void)state;
    parse(OPENAI_CHAT, "{" MSG "}", &r);
    assert_null(r.model);
    assert_true(r.sampling.temperature == 1.0f && r.sampling.top_p == 1.0f);
    assert_true(r.sampling.repetition_penalty == 1.0f && r.sampling.min_p == 0.0f);
    assert_int_equal(r.sampling.top_k, 0);
    assert_int_equal(r.sampling.flags, 0);
    assert_int_equal(r.max_tokens, 0);
    assert_false(r.seeded || r.stream || r.include_usage);
    assert_int_equal(r.stop.count, 0);
    assert_true(r.n == 1 && r.logprobs == 0 && r.bias_count == 0);
    openai_request_fini(&r);
}

static void test_all_fields(void **state)
{
    struct openai_request r;

    (void)state;
    parse(OPENAI_CHAT,
          "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"be brief\"},"
          "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
          "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":null}],"
          "\"temperature\":0,\"top_p\":0.5,\"top_k\":40,\"min_p\":0.1,\"seed\":-5,"
          "\"max_tokens\":3,\"max_completion_tokens\":7,\"stop\":[\"x\",\"yz\"],"
          "\"frequency_penalty\":1,\"presence_penalty\":-1,\"repetition_penalty\":1.25,"
          "\"ignore_eos\":true,\"stream\":true,\"stream_options\":{\"include_usage\":true,"
          "\"continuous_usage_stats\":true},"
          "\"user\":\"u\",\"n\":1,\"logprobs\":false,\"top_logprobs\":0,\"metadata\":{\"a\":\"b\"},"
          "\"store\":false,\"service_tier\":\"flex\",\"parallel_tool_calls\":true,"
          "\"safety_identifier\":\"s\",\"prompt_cache_key\":\"k\",\"verbosity\":\"medium\","
          "\"reasoning_effort\":\"none\",\"tools\":[],\"tool_choice\":\"auto\","
          "\"response_format\":{\"type\":\"text\"},\"logit_bias\":null,\"no_such_field\":{}}",
          &r);
    assert_string_equal(r.model, "m");
    assert_int_equal(json_array_size(r.messages), 3);
    json_t *m = json_array_get(r.messages, 0);
    assert_string_equal(json_string_value(json_object_get(m, "role")), "system");
    m = json_array_get(r.messages, 1);
    assert_string_equal(json_string_value(json_object_get(m, "content")), "ab");
    m = json_array_get(r.messages, 2);
    assert_string_equal(json_string_value(json_object_get(m, "content")), "");
    assert_true(r.sampling.temperature == 0.0f && r.sampling.top_p == 0.5f);
    assert_int_equal(r.sampling.top_k, 40);
    assert_true(r.seeded && r.sampling.seed == (uint64_t)-5);
    assert_int_equal(r.max_tokens, 7);
    assert_int_equal(r.stop.count, 2);
    assert_true(r.sampling.frequency_penalty == 1.0f && r.sampling.presence_penalty == -1.0f);
    assert_true(r.sampling.repetition_penalty == 1.25f);
    assert_int_equal(r.sampling.flags, SAMPLING_IGNORE_EOS);
    assert_true(r.stream && r.include_usage && r.continuous_usage);
    openai_request_fini(&r);
}

static void test_tokens(void **state)
{
    struct openai_request r;

    (void)state;
    parse(OPENAI_CHAT,
          "{" MSG ",\"n\":16,\"logprobs\":true,\"top_logprobs\":20,"
          "\"logit_bias\":{\"7\":-100,\"4294967295\":0.5}}",
          &r);
    assert_int_equal(r.n, 16);
    assert_int_equal(r.logprobs, 21);
    assert_int_equal(r.bias_count, 2);
    assert_true(r.biases[0].token == 7 && r.biases[0].bias == -100.0f);
    assert_true(r.biases[1].token == UINT32_MAX && r.biases[1].bias == 0.5f);
    openai_request_fini(&r);
    parse(OPENAI_CHAT, "{" MSG ",\"logprobs\":true,\"logit_bias\":{}}", &r);
    assert_true(r.logprobs == 1 && r.bias_count == 0);
    openai_request_fini(&r);
    parse(OPENAI_COMPLETION, "{\"prompt\":\"a\",\"logprobs\":0}", &r);
    assert_int_equal(r.logprobs, 1);
    openai_request_fini(&r);
    parse(OPENAI_COMPLETION, "{\"prompt\":\"a\",\"logprobs\":5,\"n\":3}", &r);
    assert_true(r.logprobs == 6 && r.n == 3);
    openai_request_fini(&r);
}

/* As many as are taken, and one more. */
static void test_many_biases(void **state)
{
    char body[8192] = "{\"prompt\":\"a\",\"logit_bias\":{";
    struct openai_request r;
    struct openai_error e = {0};
    size_t at = strlen(body);

    (void)state;
    for (int i = 0; i < 300; i++)
        at += (size_t)sprintf(body + at, "\"%d\":1,", i);
    snprintf(body + at - 1, 16, "}}");
    parse(OPENAI_COMPLETION, body, &r);
    assert_int_equal(r.bias_count, 300);
    openai_request_fini(&r);
    snprintf(body + at - 1, 16, ",\"300\":1}}");
    assert_int_equal(openai_parse(OPENAI_COMPLETION, body, strlen(body), "tiny", &r, &e), -1);
    assert_non_null(strstr(e.text, "301 tokens; at most 300"));
}

static void test_tools(void **state)
{
    struct openai_request r;

    (void)state;
    parse(OPENAI_CHAT,
          "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}," CALL(
              "{\\\"a\\\": 1}") ",{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"name\":\"f\","
                                "\"content\":[{\"type\":\"text\",\"text\":\"7\"}]}]," TOOLS
                                ",\"tool_choice\":\"auto\"}",
          &r);
    assert_int_equal(json_array_size(r.tools), 1);
    assert_true(r.tool_calls && r.tool_results);
    json_t *m = json_array_get(r.messages, 1);
    assert_string_equal(json_string_value(json_object_get(m, "content")), "");
    m = json_object_get(json_array_get(json_object_get(m, "tool_calls"), 0), "function");
    assert_string_equal(json_string_value(json_object_get(m, "arguments")), "{\"a\": 1}");
    m = json_array_get(r.messages, 2);
    assert_string_equal(json_string_value(json_object_get(m, "role")), "tool");
    assert_string_equal(json_string_value(json_object_get(m, "content")), "7");
    assert_string_equal(json_string_value(json_object_get(m, "tool_call_id")), "c1");
    assert_string_equal(json_string_value(json_object_get(m, "name")), "f");
    openai_request_fini(&r);
    parse(OPENAI_CHAT, "{" MSG "," TOOLS ",\"tool_choice\":\"none\"}", &r);
    assert_null(r.tools);
    assert_false(r.tool_calls || r.tool_results);
    openai_request_fini(&r);
    parse(OPENAI_CHAT, "{" MSG "," TOOLS ",\"tool_choice\":null}", &r);
    assert_non_null(r.tools);
    openai_request_fini(&r);
}

static void test_prompts(void **state)
{
    struct openai_request r;

    (void)state;
    parse(OPENAI_COMPLETION, "{\"prompt\":\"once\"}", &r);
    assert_string_equal(r.prompt, "once");
    openai_request_fini(&r);
    parse(OPENAI_COMPLETION, "{\"prompt\":[\"once\"],\"echo\":false,\"best_of\":1}", &r);
    assert_string_equal(r.prompt, "once");
    openai_request_fini(&r);
    parse(OPENAI_COMPLETION, "{\"prompt\":[1,2,4294967295]}", &r);
    assert_null(r.prompt);
    assert_int_equal(r.token_count, 3);
    assert_int_equal(r.tokens[2], UINT32_MAX);
    openai_request_fini(&r);
    parse(OPENAI_COMPLETION, "{\"prompt\":[[5,6]]}", &r);
    assert_int_equal(r.token_count, 2);
    openai_request_fini(&r);
}

static void test_too_large(void **state)
{
    struct openai_request r;
    struct openai_error e = {0};
    char *body = calloc(1, OPENAI_BODY_MAX + 1);

    (void)state;
    assert_int_equal(openai_parse(OPENAI_CHAT, body, OPENAI_BODY_MAX + 1, "tiny", &r, &e), -1);
    assert_int_equal(e.http, 413);
    free(body);
}

static void test_statuses(void **state)
{
    static const struct {
        enum status status;
        int http;
        const char *code;
    } cases[] = {
        {STATUS_INVALID, 400, NULL},
        {STATUS_UNAUTHENTICATED, 401, "invalid_api_key"},
        {STATUS_DENIED, 403, "model_not_allowed"},
        {STATUS_NOT_FOUND, 404, "model_not_found"},
        {STATUS_EXHAUSTED, 429, "insufficient_quota"},
        {STATUS_UNAVAILABLE, 503, "engine_unavailable"},
        {STATUS_UNSUPPORTED, 503, "model_unavailable"},
        {STATUS_INTERNAL, 500, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct openai_error e;
        struct error err = {cases[i].status, "why"};
        assert_int_equal(openai_refuse(&e, &err), -1);
        assert_int_equal(e.http, cases[i].http);
        assert_true((e.code == NULL) == (cases[i].code == NULL));
        if (e.code)
            assert_string_equal(e.code, cases[i].code);
        assert_string_equal(e.text, "why");
        assert_true((e.retry_after > 0) == (cases[i].status == STATUS_UNAVAILABLE));
    }
}

/* A message that quotes the client and was cut inside a character is still JSON. */
static void test_cut_message(void **state)
{
    struct openai_error e;
    struct error err = {STATUS_NOT_FOUND, "no model \xc3"};

    (void)state;
    openai_refuse(&e, &err);
    json_t *json = openai_error_json(&e);
    assert_non_null(json);
    const json_t *message = json_object_get(json_object_get(json, "error"), "message");
    assert_string_equal(json_string_value(message), "no model ?");
    json_decref(json);
}

static void check_json(json_t *json, const char *want)
{
    assert_non_null(json);
    char *got = json_dumps(json, JSON_COMPACT);
    assert_string_equal(got, want);
    free(got);
    json_decref(json);
}

static void test_answers(void **state)
{
    const struct openai_answer chat = {OPENAI_CHAT, "chatcmpl-1", "m", 7, 0};
    const struct openai_answer text = {OPENAI_COMPLETION, "cmpl-1", "m", 7, 2};
    const struct openai_usage usage = {3, 2, 1};

    (void)state;
    check_json(
        openai_answer_json(&chat, &(struct openai_choice){"a\"b", 3, "stop", NULL}, 1, &usage),
        "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":7,\"model\":\"m\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"a\\\"b\","
        "\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,"
        "\"prompt_tokens_details\":{\"cached_tokens\":1}}}");
    const struct openai_choice both[] = {{"a", 1, "length", NULL},
                                         {"bc", 2, "stop", json_pack("{s[]}", "tokens")}};
    check_json(openai_answer_json(&text, both, 2, &usage),
               "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":7,\"model\":\"m\","
               "\"choices\":[{\"index\":0,\"text\":\"a\",\"logprobs\":null,"
               "\"finish_reason\":\"length\"},{\"index\":1,\"text\":\"bc\","
               "\"logprobs\":{\"tokens\":[]},\"finish_reason\":\"stop\"}],"
               "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,"
               "\"prompt_tokens_details\":{\"cached_tokens\":1}}}");
    check_json(openai_role_chunk(&chat, 0),
               "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":7,"
               "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
               "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}");
    check_json(openai_text_chunk(&text, "x", 1, json_pack("{s[]}", "tokens"), 0),
               "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":7,\"model\":\"m\","
               "\"choices\":[{\"index\":2,\"text\":\"x\",\"logprobs\":{\"tokens\":[]},"
               "\"finish_reason\":null}]}");
    check_json(openai_text_chunk(&chat, "x", 1, NULL, 1),
               "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":7,"
               "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},"
               "\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}");
    check_json(openai_finish_chunk(&chat, "stop", 0),
               "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":7,"
               "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
               "\"finish_reason\":\"stop\"}]}");
    check_json(openai_usage_chunk(&text, &usage),
               "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":7,\"model\":\"m\","
               "\"choices\":[],"
               "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,"
               "\"prompt_tokens_details\":{\"cached_tokens\":1}}}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_chats),   cmocka_unit_test(test_bad_completions),
        cmocka_unit_test(test_defaults),    cmocka_unit_test(test_all_fields),
        cmocka_unit_test(test_tools),       cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_tokens),      cmocka_unit_test(test_many_biases),
        cmocka_unit_test(test_too_large),   cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_cut_message), cmocka_unit_test(test_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
