/* token_log_test.c - log probabilities until their text goes out, and as the API shows them */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those four before it. */
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/token_log.h"
#include "tests/unit/tiny_gguf.h"

static struct tokenizer *tokenizer; /* token b is byte b */

static void push(struct token_log *l, uint32_t token, uint32_t other, uint64_t begin,
                 uint64_t characters)
{
    struct event_logprobs ev = {.count = 2,
                                .picked = {.logprob = -0.5, .token = token},
                                .top = {{-0.25, other, 0}, {-0.5, token, 0}}};

    assert_int_equal(token_log_push(l, &ev, begin, characters, NULL), 0);
}

static void check_taken(struct token_log *l, enum openai_kind kind, uint64_t end, const char *want)
{
    json_t *json = token_log_take(l, kind, tokenizer, end);

    assert_non_null(json);
    char *got = json_dumps(json, JSON_COMPACT | JSON_ENSURE_ASCII);
    assert_string_equal(got, want);
    free(got);
    json_decref(json);
}

static void test_chat(void **state)
{
    struct token_log l = {.top = 2};

    (void)state;
    push(&l, 'a', TINY_IM_END, 0, 0);
    check_taken(&l, OPENAI_CHAT, 1,
                "{\"content\":[{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],\"top_logprobs\":["
                "{\"token\":\"<|im_end|>\",\"logprob\":-0.25,\"bytes\":null},"
                "{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97]}]}],\"refusal\":null}");
    assert_int_equal(l.count, 0);
    /* Beyond the vocabulary, which a model's logits may be larger than. */
    push(&l, 0xc3, TINY_VOCABULARY + 5, 1, 1);
    check_taken(&l, OPENAI_CHAT, 2,
                "{\"content\":[{\"token\":\"\\\\xc3\",\"logprob\":-0.5,\"bytes\":[195],"
                "\"top_logprobs\":[{\"token\":\"\",\"logprob\":-0.25,\"bytes\":[]},"
                "{\"token\":\"\\\\xc3\",\"logprob\":-0.5,\"bytes\":[195]}]}],\"refusal\":null}");
    check_taken(&l, OPENAI_CHAT, UINT64_MAX, "{\"content\":[],\"refusal\":null}");
    token_log_fini(&l);
}

/* The dictionary has the picked token whether or not it is among the likeliest. */
static void test_completion(void **state)
{
    struct token_log l = {.top = 1};

    (void)state;
    push(&l, 'a', 'b', 0, 0);
    push(&l, 0xc3, 'b', 1, 1);
    push(&l, 'c', 'c', 3, 2);
    check_taken(&l, OPENAI_COMPLETION, 4,
                "{\"tokens\":[\"a\",\"bytes:\\\\xc3\",\"c\"],\"token_logprobs\":[-0.5,-0.5,-0.5],"
                "\"top_logprobs\":[{\"b\":-0.25,\"a\":-0.5},{\"b\":-0.25,\"bytes:\\\\xc3\":-0.5},"
                "{\"c\":-0.25}],\"text_offset\":[0,1,2]}");
    l.top = 0;
    token_log_fini(&l);
    push(&l, 0, 'b', 0, 0);
    check_taken(&l, OPENAI_COMPLETION, 1,
                "{\"tokens\":[\"bytes:\\\\x00\"],\"token_logprobs\":[-0.5],"
                "\"top_logprobs\":[{\"bytes:\\\\x00\":-0.5}],\"text_offset\":[0]}");
    token_log_fini(&l);
}

/* What begins in text that is held back stays; many go out in order. */
static void test_held(void **state)
{
    struct token_log l = {.top = 2};
    uint32_t next = 0;

    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        push(&l, 'a' + i % 26, 'b', i, i);
    assert_int_equal(token_log_ready(&l, 0), 0);
    assert_int_equal(token_log_ready(&l, 1), 1);
    assert_int_equal(token_log_ready(&l, 1000), 100);
    for (uint64_t end = 7; next < 100; end += 7) {
        json_t *json = token_log_take(&l, OPENAI_COMPLETION, tokenizer, end), *at;
        const json_t *tokens = json_object_get(json, "tokens");
        size_t i;
        json_array_foreach(json_object_get(json, "text_offset"), i, at)
        {
            const char *text = json_string_value(json_array_get(tokens, i));
            assert_int_equal(json_integer_value(at), next);
            assert_int_equal(text[0], 'a' + next % 26);
            next++;
        }
        assert_int_equal(next, end < 100 ? end : 100);
        json_decref(json);
    }
    token_log_fini(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_completion),
        cmocka_unit_test(test_held),
    };
    char path[64];
    struct error err;

    snprintf(path, sizeof path, "/tmp/token_log.%ld.gguf", (long)getpid());
    struct source *source = tiny_gguf_write(path, NULL) == 0 ? source_open(path, &err) : NULL;
    tokenizer = source ? tokenizer_create(source, &err) : NULL;
    source_close(source);
    unlink(path);
    int failed = tokenizer ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
    tokenizer_destroy(tokenizer);
    return failed;
}
