/*
 * template_real_test.c - the chat templates of released models, byte for byte as jinja2
 *
 * tests/golden/template-real/ has digests of jinja2's output for many conversations (remake.py) and
 * gets the templates themselves, which are their authors' (fetch).  MODELPOOL_TEST_TEMPLATES names
 * the folder that they are in.
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/template.h"

#define GOLDEN       SRCDIR "/tests/golden/template-real/"
#define NOW          1700000000
#define SOURCE_MAX   (1u << 20)
#define DIGEST_CHARS 64u

/* The clock of strftime_now(), as in remake.py. */
time_t time(time_t *at)
{
    if (at)
        *at = NOW;
    return NOW;
}

struct test {
    json_t *conversations[2]; /* of template/cases.json and of our own */
    const char *folder;
    char name[128]; /* of the template */
    struct template *template;
    struct error err; /* why there is none */
    unsigned templates, cases, rendered, wrong;
};

static void hex_digest(const char *data, size_t len, char out[DIGEST_CHARS + 1])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned count = 0;

    assert_int_equal(EVP_Digest(data, len, digest, &count, EVP_sha256(), NULL), 1);
    for (unsigned i = 0; i < count; i++)
        snprintf(out + (size_t)2 * i, 3, "%02x", digest[i]);
}

/* The template of a line "template SHA256 NAME". */
static void open_template(struct test *t, const char *want)
{
    char path[1024], digest[DIGEST_CHARS + 1];
    char *source = malloc(SOURCE_MAX);

    snprintf(path, sizeof(path), "%s/%s", t->folder, t->name);
    FILE *file = fopen(path, "rb");
    assert_non_null(source);
    if (!file)
        fail_msg("%s cannot be opened: run tests/golden/template-real/fetch", path);
    size_t len = fread(source, 1, SOURCE_MAX, file);
    fclose(file);
    hex_digest(source, len, digest);
    if (strcmp(digest, want) != 0)
        fail_msg("%s is another file than the golden values are of", path);
    template_destroy(t->template);
    t->template = template_create(source, len, &t->err);
    t->templates++;
    free(source);
}

static void check_case(struct test *t, const char *conversation, const char *want)
{
    const json_t *variables = json_object_get(t->conversations[0], conversation);
    struct error err = t->err;
    char *out = NULL, digest[DIGEST_CHARS + 1], got[64];
    size_t len = 0;

    if (!variables)
        variables = json_object_get(t->conversations[1], conversation);
    assert_non_null(variables);
    t->cases++;
    if (!t->template || template_render(t->template, variables, &out, &len, &err) != 0) {
        snprintf(got, sizeof(got), "error");
    } else {
        hex_digest(out, len, digest);
        snprintf(got, sizeof(got), "%zu %.16s", len, digest);
        t->rendered++;
    }
    if (strcmp(got, want) != 0) {
        print_error("%s, %s: wanted %s, got %s: %s\n", t->name, conversation, want, got,
                    out ? out : err.text);
        t->wrong++;
    }
    free(out);
}

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *value = json_load_file(path, JSON_ALLOW_NUL, &error);

    if (!value)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return value;
}

static void check_lines(struct test *t, FILE *file)
{
    char line[256], name[64], want[DIGEST_CHARS + 8], digest[DIGEST_CHARS + 1];

    while (fgets(line, sizeof(line), file)) {
        if (line[0] == '#')
            continue;
        if (sscanf(line, "template %64s %127s", digest, t->name) == 2) {
            open_template(t, digest);
            continue;
        }
        assert_int_equal(sscanf(line, "%63s %71[^\n]", name, want), 2);
        check_case(t, name, want);
    }
}

static void test_real_templates(void **state)
{
    struct test t = {.folder = getenv("MODELPOOL_TEST_TEMPLATES")};

    (void)state;
    if (!t.folder) {
        print_message("MODELPOOL_TEST_TEMPLATES is unset: no templates of released models\n");
        skip();
    }
    json_t *cases = load(SRCDIR "/tests/golden/template/cases.json");
    t.conversations[0] = json_object_get(cases, "conversations");
    t.conversations[1] = load(GOLDEN "conversations.json");
    FILE *file = fopen(GOLDEN "cases.txt", "re");
    assert_non_null(file);
    check_lines(&t, file);
    fclose(file);
    template_destroy(t.template);
    json_decref(cases);
    json_decref(t.conversations[1]);
    print_message("%u templates, %u conversations rendered and %u refused as jinja2 does\n",
                  t.templates, t.rendered, t.cases - t.rendered);
    assert_int_equal(t.wrong, 0);
    assert_true(t.templates >= 20 && t.rendered >= 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_real_templates)};

    setenv("TZ", "UTC", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
