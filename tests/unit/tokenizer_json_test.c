/* tokenizer_json_test.c - small tokenizer.json files: what is refused and how, settings, decoding
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"
#include "tests/unit/gguf_builder.h"

#define BYTES   "'pre_tokenizer':{'type':'ByteLevel','add_prefix_space':false}"
#define DECODER "'decoder':{'type':'ByteLevel'}"
#define MODEL   "'model':{'type':'BPE','vocab':{'a':0,'b':1,'ab':2},'merges':['a b']}"
#define ADDED   "'added_tokens':[{'id':3,'content':'<s>','special':true}]"

/* JSON with ' for ", which none of the texts here has. */
static json_t *parse(const char *text)
{
    char *copy = strdup(text);
    json_t *root;

    assert_non_null(copy);
    for (char *c = copy; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    root = json_loads(copy, 0, NULL);
    if (!root)
        fail_msg("%s is no JSON", text);
    free(copy);
    return root;
}

static struct tokenizer *create(const char *text, const char *config, struct error *err)
{
    json_t *root = parse(text), *settings = config ? parse(config) : NULL;
    struct tokenizer *t = tokenizer_create_json(root, settings, "small", err);

    json_decref(root);
    json_decref(settings);
    return t;
}

static void refused(void **state)
{
    static const struct {
        const char *text;
        enum status status;
        const char *says;
    } cases[] = {
        {"{}", STATUS_INVALID, "there is no \"model\""},
        {"{'model':{'type':'WordPiece','vocab':{}}}", STATUS_UNSUPPORTED, "model WordPiece"},
        {"{'model':{'type':'BPE','vocab':{'a':0},'merges':[]}}", STATUS_UNSUPPORTED,
         "without decoder"},
        {"{" BYTES "," DECODER ",'model':{'type':'BPE','vocab':{'a':0}}}", STATUS_INVALID,
         "\"merges\""},
        {"{" BYTES "," DECODER ",'model':{'type':'BPE','vocab':{'a':0},'merges':['a b']}}",
         STATUS_CORRUPT, "merge 0 (a b)"},
        {"{" BYTES "," DECODER ",'model':{'type':'BPE','vocab':{'a':0},'merges':['ab']}}",
         STATUS_INVALID, "merge 0 is no pair"},
        {"{" BYTES "," DECODER ",'model':{'type':'BPE','vocab':{'a':-1},'merges':[]}}",
         STATUS_CORRUPT, "token \"a\" has no number"},
        {"{" BYTES "," DECODER ",'model':{'type':'BPE','vocab':{'a':99999999},'merges':[]}}",
         STATUS_CORRUPT, "token \"a\" has no number"},
        {"{" BYTES "," DECODER ",'model':{'type':'BPE','vocab':{'a':70000},'merges':[]}}",
         STATUS_CORRUPT, "numbers up to 70000, and there are only 1"},
        {"{" BYTES "," DECODER ",'model':{'type':'BPE','vocab':{'a':0,'b':0},'merges':[]}}",
         STATUS_CORRUPT, "number 0 is that of two tokens"},
        {"{" BYTES "," DECODER ",'model':{'type':'BPE','vocab':{'a':0},'merges':[],"
         "'end_of_word_suffix':'</w>'}}",
         STATUS_UNSUPPORTED, "end_of_word_suffix"},
        {"{" BYTES "," DECODER ",'model':{'type':'BPE','vocab':{'a':0},'merges':[],"
         "'unk_token':'x'}}",
         STATUS_CORRUPT, "unk_token \"x\""},
        {"{" BYTES ",'decoder':{'type':'WordPiece'}," MODEL "}", STATUS_UNSUPPORTED,
         "decoder WordPiece"},
        {"{" BYTES ",'decoder':{'type':'Fuse'}," MODEL "}", STATUS_UNSUPPORTED,
         "does not undo the pre-tokenizer"},
        {"{" DECODER "," MODEL "}", STATUS_UNSUPPORTED, "does not undo the pre-tokenizer"},
        {"{'pre_tokenizer':{'type':'BertPreTokenizer'}," MODEL "}", STATUS_UNSUPPORTED,
         "pre-tokenizer BertPreTokenizer"},
        {"{'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'ByteLevel'},"
         "{'type':'Digits'}]}," MODEL "}",
         STATUS_UNSUPPORTED, "behind ByteLevel"},
        {"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'\\\\w+'},'behavior':'Isolated'},"
         "" MODEL "}",
         STATUS_UNSUPPORTED, "an escape at \"\\w+\""},
        {"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[a[b]]'},'behavior':'Isolated'},"
         "" MODEL "}",
         STATUS_UNSUPPORTED, "a class inside of brackets"},
        {"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a{1,3}+'},'behavior':'Isolated'},"
         "" MODEL "}",
         STATUS_UNSUPPORTED, "an interval"},
        {"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(?i)a'},'behavior':'Isolated'},"
         "" MODEL "}",
         STATUS_UNSUPPORTED, "a group"},
        {"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(a'},'behavior':'Isolated'},"
         "" MODEL "}",
         STATUS_INVALID, "is wrong: PCRE2 error"},
        {"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a'},'behavior':'Odd'}," MODEL "}",
         STATUS_UNSUPPORTED, "behavior Odd"},
        {"{'normalizer':{'type':'Precompiled'}," BYTES "," DECODER "," MODEL "}",
         STATUS_UNSUPPORTED, "normalizer Precompiled"},
        {"{'post_processor':{'type':'BertProcessing'}," BYTES "," DECODER "," MODEL "}",
         STATUS_UNSUPPORTED, "post-processor BertProcessing"},
        {"{'post_processor':{'type':'TemplateProcessing','single':[{'Sequence':{'id':'A'}},"
         "{'SpecialToken':{'id':'<s>'}}],'special_tokens':{'<s>':{'ids':[3]}}}," BYTES "," DECODER
         "," ADDED "," MODEL "}",
         STATUS_UNSUPPORTED, "tokens behind the text"},
        {"{'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<s>'}},"
         "{'Sequence':{'id':'A'}}],'special_tokens':{'<s>':{'ids':[9]}}}," BYTES "," DECODER
         "," ADDED "," MODEL "}",
         STATUS_CORRUPT, "a token that is none"},
        {"{'model':{'type':'Unigram','vocab':[['a']]}," DECODER "}", STATUS_INVALID,
         "token 0 has no score"},
        {"{'model':{'type':'Unigram','unk_id':7,'vocab':[['a',0.5]]}," DECODER "}", STATUS_CORRUPT,
         "\"unk_id\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct error err = {STATUS_OK, ""};
        struct tokenizer *t = create(cases[i].text, NULL, &err);

        if (t || err.status != cases[i].status || !strstr(err.text, cases[i].says) ||
            strncmp(err.text, "small: ", 7) != 0)
            fail_msg("%s: %s: %s", cases[i].text, status_word(err.status), err.text);
    }
}

static void settings(void **state)
{
    static const char text[] = "{" BYTES "," DECODER "," ADDED "," MODEL "}";
    struct token_list list = {NULL, 0, 0};
    struct error err = {STATUS_OK, ""};
    struct tokenizer *t = create(text,
                                 "{'bos_token':{'content':'<s>'},'eos_token':'b','pad_token':null,"
                                 "'unk_token':'ab','add_bos_token':true}",
                                 &err);

    (void)state;
    if (!t)
        fail_msg("%s", err.text);
    assert_int_equal(tokenizer_vocabulary(t), 4);
    assert_int_equal(tokenizer_bos(t), 3);
    assert_int_equal(tokenizer_eos(t), 1);
    assert_int_equal(tokenizer_unk(t), 2);
    assert_int_equal(tokenizer_pad(t), -1);
    assert_true(tokenizer_is_control(t, 3));
    assert_int_equal(tokenizer_encode(t, "abba", 4, TOKENIZER_ADD_BOS, &list, NULL), 0);
    assert_int_equal(list.count, 4);
    assert_int_equal(list.tokens[0], 3);
    assert_int_equal(list.tokens[1], 2);
    free(list.tokens);
    tokenizer_destroy(t);
    assert_null(create(text, "{'eos_token':'</s>'}", &err));
    assert_non_null(strstr(err.text, "eos_token \"</s>\" is not in the vocabulary"));
}

/* Tokens of a SentencePiece vocabulary as they come, and what came out after each. */
static void check_output(const struct tokenizer *t, int started, size_t count,
                         const uint32_t *tokens, const char *const *texts)
{
    struct detokenizer d = {.started = started};

    for (size_t i = 0; i < count; i++) {
        char out[64];
        size_t len = detokenizer_push(&d, t, tokens[i], out, sizeof(out));

        if (len != strlen(texts[i]) || memcmp(out, texts[i], len) != 0)
            fail_msg("token %zu became \"%.*s\", not \"%s\"", i, (int)len, out, texts[i]);
    }
}

static void leading_spaces(void **state)
{
    static const char model[] =
        "'model':{'type':'BPE','byte_fallback':true,'merges':[],'vocab':{'<s>':0,'\\u2581a':1,"
        "'\\u2581\\u2581':2,'<0xE3>':3,'<0x81>':4,'<0x82>':5,'\\u2581':6}},"
        "'added_tokens':[{'id':0,'content':'<s>','special':true}]";
    static const char undo[] = "{'type':'Replace','pattern':{'String':'\\u2581'},'content':' '},"
                               "{'type':'ByteFallback'},{'type':'Fuse'}";
    static const uint32_t words[] = {0, 1, 1, 0, 2}, spaces[] = {2, 1}, bytes[] = {3, 4, 5, 1};
    char text[1024];
    struct tokenizer *t;

    (void)state;
    snprintf(text, sizeof(text),
             "{%s,'decoder':{'type':'Sequence','decoders':[%s,"
             "{'type':'Strip','content':' ','start':1,'stop':0}]}}",
             model, undo);
    t = create(text, NULL, NULL);
    assert_non_null(t);
    check_output(t, 0, 5, words, (const char *const[]){"", "a", " a", "", "  "});
    check_output(t, 1, 2, words, (const char *const[]){"", " a"});
    check_output(t, 0, 2, spaces, (const char *const[]){" ", " a"});
    check_output(t, 0, 4, bytes, (const char *const[]){"", "", "\xe3\x81\x82", " a"});
    tokenizer_destroy(t);

    snprintf(text, sizeof(text), "{%s,'decoder':{'type':'Sequence','decoders':[%s]}}", model, undo);
    t = create(text, NULL, NULL);
    assert_non_null(t);
    check_output(t, 0, 2, words, (const char *const[]){"", " a"});
    tokenizer_destroy(t);
}

/* Phi-3's GGUF files do not say that its marks take the white space behind them. */
static void phi3_marks(void **state)
{
    static const char *const tokens[] = {"<unk>", "<s>", "<|end|>", "\xe2\x96\x81", "a", "\n"};
    static const uint32_t types[] = {2, 3, 3, 1, 1, 1};
    static const float scores[] = {0, 0, 0, -1, -2, -3};
    const char text[] = "<s> <|end|> \na";
    struct token_list list = {NULL, 0, 0};
    struct builder b;
    struct source *s;
    struct tokenizer *t;

    (void)state;
    builder_start(&b, 3);
    pair_string(&b, "general.architecture", "phi3");
    pair_string(&b, "tokenizer.ggml.model", "llama");
    pair_bool(&b, "tokenizer.ggml.add_space_prefix", 0);
    pair_array(&b, "tokenizer.ggml.tokens", 8, 6);
    for (size_t i = 0; i < 6; i++)
        put_string(&b, tokens[i], strlen(tokens[i]));
    pair_array(&b, "tokenizer.ggml.token_type", 5, 6);
    for (size_t i = 0; i < 6; i++)
        put_u32(&b, types[i]);
    pair_array(&b, "tokenizer.ggml.scores", 6, 6);
    put_bytes(&b, scores, sizeof(scores));
    builder_finish(&b, 1, 0);
    s = open_source(b.data, b.len, NULL);
    assert_non_null(s);
    t = tokenizer_create(s, NULL);
    assert_non_null(t);
    assert_int_equal(tokenizer_encode(t, text, strlen(text), TOKENIZER_PARSE_SPECIAL, &list, NULL),
                     0);
    assert_int_equal(list.count, 4);
    assert_int_equal(list.tokens[1], 3);
    assert_int_equal(list.tokens[2], 2);
    assert_int_equal(list.tokens[3], 4);
    free(list.tokens);
    tokenizer_destroy(t);
    source_close(s);
    builder_free(&b);
}

/* A megabyte without a place to split: far from quadratic time. */
static void long_words(void **state)
{
    static const char *const texts[] = {
        "{'model':{'type':'Unigram','unk_id':0,'vocab':[['?',0],['a',-1],['aa',-1.5],['aaaa',-2]]},"
        "'decoder':{'type':'Metaspace'}}",
        "{'model':{'type':'BPE','unk_token':'?','vocab':{'?':0,'a':1,'aa':2,'aaaa':3},"
        "'merges':['a a',['aa','aa']]},'decoder':{'type':'Metaspace'}}"};
    const size_t len = 1u << 20;
    char *text = malloc(len);

    (void)state;
    assert_non_null(text);
    memset(text, 'a', len);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct token_list list = {NULL, 0, 0};
        struct error err = {STATUS_OK, ""};
        struct tokenizer *t = create(texts[i], NULL, &err);

        if (!t)
            fail_msg("%s", err.text);
        assert_int_equal(tokenizer_encode(t, text, len, 0, &list, NULL), 0);
        assert_int_equal(list.count, len / 4);
        assert_int_equal(list.tokens[len / 4 - 1], 3);
        free(list.tokens);
        tokenizer_destroy(t);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused),        cmocka_unit_test(settings),
        cmocka_unit_test(leading_spaces), cmocka_unit_test(phi3_marks),
        cmocka_unit_test(long_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
