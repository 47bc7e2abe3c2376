/* source_test.c - checkpoint folders: what belongs together, and what is refused by name */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/source.h"
#include "tests/unit/checkpoint_folder.h"
#include "tests/unit/gguf_builder.h"

#define VECTOR(name) "{\"" name "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}"
#define INDEX_NAME   "model.safetensors.index.json"
#define SHARD_1      "model-00001-of-00002.safetensors"
#define SHARD_2      "model-00002-of-00002.safetensors"

static int start_folder(void **state)
{
    struct checkpoint *c = calloc(1, sizeof(*c));

    assert_non_null(c);
    checkpoint_start(c);
    checkpoint_text(c, "config.json", "{\"model_type\":\"llama\"}");
    *state = c;
    return 0;
}

static int end_folder(void **state)
{
    checkpoint_remove(*state);
    free(*state);
    return 0;
}

static struct source *open_good(const struct checkpoint *c)
{
    struct error err = {.text = ""};
    struct source *s = source_open(c->folder, &err);

    if (!s)
        fail_msg("%s", err.text);
    return s;
}

static void expect_refusal(const char *path, enum status status, const char *text)
{
    struct error err = {.text = ""};
    struct source *s = source_open(path, &err);

    if (s || err.status != status || !strstr(err.text, text))
        fail_msg("wanted \"%s\": %d %s", text, (int)err.status, err.text);
}

static void put_shards(const struct checkpoint *c)
{
    checkpoint_tensors(c, SHARD_1, VECTOR("one"), 8);
    checkpoint_tensors(c, SHARD_2, VECTOR("two"), 8);
    checkpoint_text(c, INDEX_NAME,
                    "{\"metadata\":{\"total_size\":16},\"weight_map\":{\"two\":\"" SHARD_2
                    "\",\"one\":\"" SHARD_1 "\"}}");
}

static void single_file(void **state)
{
    const struct checkpoint *c = *state;
    struct source *s;

    checkpoint_tensors(c, "model.safetensors", VECTOR("one"), 8);
    checkpoint_text(c, "generation_config.json", "{\"eos_token_id\":[7,9]}");
    s = open_good(c);
    assert_string_equal(source_name(s), c->folder);
    assert_null(source_gguf(s));
    assert_string_equal(
        json_string_value(json_object_get(source_json(s, SOURCE_CONFIG), "model_type")), "llama");
    assert_int_equal(
        json_array_size(json_object_get(source_json(s, SOURCE_GENERATION), "eos_token_id")), 2);
    assert_null(source_json(s, SOURCE_TOKENIZER));
    assert_null(source_json(s, SOURCE_TOKENIZER_CONFIG));
    assert_int_equal(source_tensor_count(s), 1);
    assert_string_equal(source_file_name(s, source_tensor(s, 0)->file), "model.safetensors");
    source_close(s);
    checkpoint_tensors(c, "model.safetensors", VECTOR("one"), 7);
    expect_refusal(c->folder, STATUS_CORRUPT, "model.safetensors: tensor one goes past the end");
}

static void shards(void **state)
{
    const struct checkpoint *c = *state;
    struct source *s;

    put_shards(c);
    s = open_good(c);
    assert_int_equal(source_tensor_count(s), 2);
    assert_string_equal(source_file_name(s, source_find_tensor(s, "one")->file), SHARD_1);
    assert_string_equal(source_file_name(s, source_find_tensor(s, "two")->file), SHARD_2);
    source_close(s);

    checkpoint_tensors(c, SHARD_2, VECTOR("three"), 8);
    expect_refusal(c->folder, STATUS_CORRUPT, "tensor two is missing in " SHARD_2);
    checkpoint_tensors(c, SHARD_2, VECTOR("one"), 8);
    expect_refusal(c->folder, STATUS_CORRUPT, "tensor one is there twice");
    checkpoint_tensors(c, SHARD_2,
                       "{\"two\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                       "\"extra\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
                       8);
    expect_refusal(c->folder, STATUS_CORRUPT, "tensor extra in " SHARD_2 " is not in");
    checkpoint_unlink(c, SHARD_2);
    expect_refusal(c->folder, STATUS_NOT_FOUND, SHARD_2 ": no such file");
}

static void bad_indexes(void **state)
{
    static const struct {
        const char *index, *text;
    } cases[] = {
        {"{}", "no weight_map"},
        {"{\"weight_map\":{}}", "no weight_map"},
        {"[1", "no JSON"},
        {"{\"weight_map\":{\"one\":3}}", "tensor one is not in a .safetensors file"},
        {"{\"weight_map\":{\"one\":\"../x.safetensors\"}}", "not in a .safetensors file"},
        {"{\"weight_map\":{\"one\":\"config.json\"}}", "not in a .safetensors file"},
    };
    const struct checkpoint *c = *state;
    char *many = malloc(1 << 16);
    size_t len;

    put_shards(c);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        checkpoint_text(c, INDEX_NAME, cases[i].index);
        expect_refusal(c->folder, STATUS_CORRUPT, cases[i].text);
    }
    /* More shards than descriptors go with one order. */
    assert_non_null(many);
    len = (size_t)sprintf(many, "{\"weight_map\":{");
    for (int i = 0; i < 64; i++) {
        char name[32];

        snprintf(name, sizeof(name), "%d.safetensors", i);
        checkpoint_tensors(c, name, "{}", 0);
        len += (size_t)sprintf(many + len, "%s\"t%d\":\"%s\"", i ? "," : "", i, name);
    }
    sprintf(many + len, "}}");
    checkpoint_text(c, INDEX_NAME, many);
    expect_refusal(c->folder, STATUS_UNSUPPORTED, "more than the 64 files");
    free(many);
}

static void absent_files(void **state)
{
    const struct checkpoint *c = *state;
    char path[128];

    expect_refusal("/nowhere/at/all", STATUS_NOT_FOUND, "/nowhere/at/all: No such file");
    expect_refusal(c->folder, STATUS_NOT_FOUND, "without model.safetensors; fetch");
    checkpoint_text(c, "pytorch_model.bin", "");
    expect_refusal(c->folder, STATUS_NOT_FOUND, "convert them to safetensors");
    checkpoint_unlink(c, "pytorch_model.bin");
    checkpoint_text(c, "x.gguf", "");
    expect_refusal(c->folder, STATUS_NOT_FOUND, "name that file itself");
    checkpoint_unlink(c, "config.json");
    expect_refusal(c->folder, STATUS_NOT_FOUND, "name that file itself");
    checkpoint_tensors(c, "model.safetensors", VECTOR("one"), 8);
    expect_refusal(c->folder, STATUS_NOT_FOUND, "without config.json");
    snprintf(path, sizeof(path), "%s/model.safetensors", c->folder);
    expect_refusal(path, STATUS_INVALID, "name its folder");
    expect_refusal("/etc/passwd", STATUS_UNSUPPORTED, "neither a GGUF file nor a checkpoint");
    expect_refusal("/dev/null", STATUS_UNSUPPORTED, "neither");
    checkpoint_text(c, "config.json", "[]");
    expect_refusal(c->folder, STATUS_CORRUPT, "config.json: its JSON is no object");
    checkpoint_text(c, "config.json", "{\"a\":");
    expect_refusal(c->folder, STATUS_CORRUPT, "config.json: no JSON: line 1");
}

static void quantized(void **state)
{
    static const char *const methods[] = {"awq",          "gptq",  "compressed-tensors",
                                          "bitsandbytes", "mxfp4", "new"};
    const struct checkpoint *c = *state;
    char config[256];

    checkpoint_tensors(c, "model.safetensors", VECTOR("one"), 8);
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        snprintf(config, sizeof(config),
                 "{\"quantization_config\":{\"quant_method\":\"%s\",\"weight_block_size\":[128,"
                 "128]}}",
                 methods[i]);
        checkpoint_text(c, "config.json", config);
        expect_refusal(c->folder, STATUS_UNSUPPORTED, methods[i]);
    }
    checkpoint_text(c, "config.json",
                    "{\"text_config\":{\"quantization_config\":{\"load_in_4bit\":true}}}");
    expect_refusal(c->folder, STATUS_UNSUPPORTED, "quantized");
    checkpoint_text(c, "config.json", "{\"quantization_config\":null}");
    source_close(open_good(c));
}

/* Python's integers have no end; other numbers stay what they are. */
static void wide_integers(void **state)
{
    const struct checkpoint *c = *state;
    const json_t *config;
    struct source *s;

    checkpoint_tensors(c, "model.safetensors", VECTOR("one"), 8);
    checkpoint_text(c, "tokenizer_config.json",
                    "{\"model_max_length\":1000000000000000019884624838656,\"id\":[151643,"
                    "{\"x\":-1}],\"f\":0.5}");
    s = open_good(c);
    config = source_json(s, SOURCE_TOKENIZER_CONFIG);
    assert_true(json_real_value(json_object_get(config, "model_max_length")) > 9e29);
    const json_t *id = json_object_get(config, "id");
    assert_true(json_is_integer(json_array_get(id, 0)));
    assert_int_equal(json_integer_value(json_array_get(id, 0)), 151643);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(id, 1), "x")), -1);
    assert_true(json_is_real(json_object_get(config, "f")));
    source_close(s);
}

static void expect_template(const struct checkpoint *c, int found, const char *wanted)
{
    struct source *s = open_good(c);
    struct error err = {.text = ""};
    const char *text = NULL;
    size_t len = 0;

    assert_int_equal(source_template(s, &text, &len, &err), found);
    if (wanted) {
        assert_int_equal(len, strlen(wanted));
        assert_memory_equal(text, wanted, len);
    }
    source_close(s);
}

static void templates(void **state)
{
    const struct checkpoint *c = *state;

    checkpoint_tensors(c, "model.safetensors", VECTOR("one"), 8);
    expect_template(c, 1, NULL);
    checkpoint_text(c, "tokenizer_config.json", "{\"chat_template\":null}");
    expect_template(c, 1, NULL);
    checkpoint_text(c, "tokenizer_config.json", "{\"chat_template\":\"{{ one }}\"}");
    expect_template(c, 0, "{{ one }}");
    checkpoint_text(c, "tokenizer_config.json",
                    "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"{{ two }}\"},"
                    "{\"name\":\"default\",\"template\":\"{{ three }}\"}]}");
    expect_template(c, 0, "{{ three }}");
    checkpoint_text(c, "tokenizer_config.json", "{\"chat_template\":3}");
    expect_template(c, -1, NULL);
    checkpoint_text(c, "chat_template.jinja", "{{ four }}\n");
    expect_template(c, 0, "{{ four }}\n");
}

static void one_gguf(void **state)
{
    struct error err = {.text = ""};
    const struct checkpoint *c = *state;
    char path[128];
    struct builder b;
    struct source *s;
    const char *text;
    size_t len;

    builder_start(&b, 3);
    pair_string(&b, "tokenizer.chat_template", "{{ x }}");
    put_tensor(&b, "z.matrix", 3, 64, 3, 0);
    put_tensor(&b, "a.vector", 0, 5, 0, 128);
    builder_finish(&b, 32, 128 + 20);
    checkpoint_write(c, "blob", b.data, b.len); /* as in the hub's cache: no extension */
    builder_free(&b);
    snprintf(path, sizeof(path), "%s/blob", c->folder);
    s = source_open(path, &err);
    if (!s)
        fail_msg("%s", err.text);
    assert_non_null(source_gguf(s));
    assert_null(source_json(s, SOURCE_CONFIG));
    assert_int_equal(source_tensor_count(s), 2);
    assert_string_equal(source_tensor(s, 0)->name, "a.vector");
    assert_int_equal(source_find_tensor(s, "z.matrix")->shape[1], 3);
    assert_int_equal(source_find_tensor(s, "z.matrix")->bytes, 120);
    assert_int_equal(source_template(s, &text, &len, &err), 0);
    assert_memory_equal(text, "{{ x }}", len);
    source_close(s);

    builder_start(&b, 3);
    pair_u32(&b, "split.count", 3);
    builder_finish(&b, 32, 0);
    checkpoint_write(c, "part.gguf", b.data, b.len);
    builder_free(&b);
    snprintf(path, sizeof(path), "%s/part.gguf", c->folder);
    expect_refusal(path, STATUS_UNSUPPORTED, "one of 3 parts");
}

/* Opening descriptors leaves none behind when it fails. */
static void no_descriptor_is_lost(void **state)
{
    const struct checkpoint *c = *state;
    int before, after;

    put_shards(c);
    checkpoint_unlink(c, SHARD_2);
    before = dup(0);
    close(before);
    expect_refusal(c->folder, STATUS_NOT_FOUND, SHARD_2);
    checkpoint_unlink(c, "config.json");
    expect_refusal(c->folder, STATUS_NOT_FOUND, "config.json");
    expect_refusal("/etc/passwd", STATUS_UNSUPPORTED, "neither");
    after = dup(0);
    close(after);
    assert_int_equal(before, after);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, start_folder, end_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(single_file),  TEST(shards),    TEST(bad_indexes),
        TEST(absent_files), TEST(quantized), TEST(wide_integers),
        TEST(templates),    TEST(one_gguf),  TEST(no_descriptor_is_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
