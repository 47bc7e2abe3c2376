/* template_test.c - the chat template engine against jinja2's output, and its limits. */
#include "model/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define GOLDEN SRCDIR "/tests/golden/template/"

static char *read_file(const char *name, size_t *len)
{
    char path[1024];
    snprintf(path, sizeof path, GOLDEN "templates/%s", name);
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s: cannot be opened", path);
    char *data = malloc(1u << 20);
    assert_non_null(data);
    *len = fread(data, 1, 1u << 20, file);
    fclose(file);
    return data;
}

/* Create and render; NULL with the error set, else malloc'd text. */
static char *render(const char *source, size_t source_len, const json_t *variables, size_t *len,
                    struct error *err)
{
    char *out = NULL;
    struct template *t = template_create(source, source_len, err);
    if (t && template_render(t, variables, &out, len, err) != 0)
        out = NULL;
    template_destroy(t);
    return out;
}

static char *render_text(const char *source, struct error *err)
{
    size_t len;
    json_t *none = json_object();
    char *out = render(source, strlen(source), none, &len, err);
    json_decref(none);
    return out;
}

/* --- golden --------------------------------------------------------------------------------- */

/* 1 if the case came out as jinja2 has it; says what differs if not. */
static int check_case(const json_t *all, const json_t *item)
{
    const char *file = json_string_value(json_object_get(item, "template"));
    const char *name = json_string_value(json_object_get(item, "conversation"));
    const json_t *source = json_object_get(item, "source");
    const json_t *variables = file ? json_object_get(json_object_get(all, "conversations"), name)
                                   : json_object_get(all, "data");
    const json_t *expected = json_object_get(item, "output");
    size_t source_len = file ? 0 : json_string_length(source), len = 0;
    char *from_file = file ? read_file(file, &source_len) : NULL;
    const char *label = file ? file : json_string_value(source);
    struct error err = {STATUS_OK, ""};
    char *out = render(from_file ? from_file : json_string_value(source), source_len, variables,
                       &len, &err);
    int same = out && expected && len == json_string_length(expected) &&
               memcmp(out, json_string_value(expected), len) == 0;
    int ok = expected ? same : out == NULL;
    if (!ok)
        print_error("%s %s\n  wanted: %s\n     got: %s\n", label, name ? name : "",
                    expected ? json_string_value(expected) : "an error", out ? out : err.text);
    if (!out && (err.status == STATUS_OK || err.status == STATUS_INTERNAL || !err.text[0])) {
        print_error("%s %s: error without status or text: %s\n", label, name ? name : "", err.text);
        ok = 0;
    }
    free(from_file);
    free(out);
    return ok;
}

static void test_golden(void **state)
{
    json_error_t error;
    size_t i, wrong = 0, errors = 0;
    json_t *item, *all = json_load_file(GOLDEN "cases.json", JSON_ALLOW_NUL, &error);
    (void)state;
    if (!all)
        fail_msg("cases.json:%d: %s", error.line, error.text);
    json_t *cases = json_object_get(all, "cases");
    assert_true(json_array_size(cases) > 300);
    json_array_foreach(cases, i, item)
    {
        errors += json_object_get(item, "error") != NULL;
        wrong += !check_case(all, item);
    }
    assert_true(errors > 80);
    json_decref(all);
    assert_int_equal(wrong, 0);
}

/* --- errors --------------------------------------------------------------------------------- */

static void assert_error(const char *source, enum status status, const char *text)
{
    struct error err = {STATUS_OK, ""};
    char *out = render_text(source, &err);
    if (out)
        fail_msg("'%s' gave '%s' and no error", source, out);
    if (err.status != status || !strstr(err.text, text))
        fail_msg("'%s': %s: %s", source, status_word(err.status), err.text);
}

static void test_errors_name_line_and_thing(void **state)
{
    (void)state;
    assert_error("a\nb\n{{ message.role }}", STATUS_INVALID, "line 3: 'message' is undefined");
    assert_error("{% set m = {} %}\n{{ m.role.x }}", STATUS_INVALID,
                 "line 2: 'dict object' has no attribute 'role'");
    assert_error("\n\n{{ x|nosuch }}", STATUS_UNSUPPORTED, "line 3: no filter named 'nosuch'");
    assert_error("{{ x is nosuch }}", STATUS_UNSUPPORTED, "line 1: no test named 'nosuch'");
    assert_error("\n{% include 'x' %}", STATUS_UNSUPPORTED, "line 2: tag 'include'");
    assert_error("{% for a in b recursive %}{% endfor %}", STATUS_UNSUPPORTED, "recursive");
    assert_error("{% if x %}\n\n", STATUS_INVALID, "missing");
    assert_error("\n{{ 'a'.center(3) }}", STATUS_UNSUPPORTED, "line 2: method 'center' of 'str'");
    assert_error("{{ [].append(1) }}", STATUS_UNSUPPORTED, "method 'append'");
    assert_error("{{ 9223372036854775807 + 1 }}", STATUS_UNSUPPORTED, "64 bits");
    assert_error("{{ 99999999999999999999 }}", STATUS_UNSUPPORTED, "64 bits");
    assert_error("{{ '%d' % 3 }}", STATUS_UNSUPPORTED, "formatting");
    assert_error("{{ f(*a) }}", STATUS_UNSUPPORTED, "*");
    assert_error("\xff", STATUS_INVALID, "UTF-8");
}

static void test_raise_exception_text_is_bare(void **state)
{
    struct error err = {STATUS_OK, ""};
    (void)state;
    assert_null(render_text("\n{{ raise_exception('Roles must alternate: ' ~ 5) }}", &err));
    assert_int_equal(err.status, STATUS_INVALID);
    assert_string_equal(err.text, "Roles must alternate: 5");
    assert_null(render_text("{{ raise_exception('x') }}", NULL)); /* nobody wants the text */
}

static void test_variables_must_be_object(void **state)
{
    struct error err = {STATUS_OK, ""};
    json_t *list = json_array();
    size_t len;
    (void)state;
    assert_null(render("x", 1, list, &len, &err));
    assert_int_equal(err.status, STATUS_INVALID);
    json_decref(list);
}

/* --- limits --------------------------------------------------------------------------------- */

static void test_hostile_templates_end(void **state)
{
    (void)state;
    assert_error("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                 STATUS_EXHAUSTED, "steps");
    assert_error("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", STATUS_EXHAUSTED, "deeper");
    assert_error("{% set ns = namespace(s='x') %}{% for i in range(60) %}"
                 "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                 STATUS_EXHAUSTED, "bytes");
    assert_error("{% set ns = namespace(l=[1]) %}{% for i in range(60) %}"
                 "{% set ns.l = ns.l + ns.l %}{% endfor %}",
                 STATUS_EXHAUSTED, "bytes");
    assert_error("{{ 'abc' * 999999999999 }}", STATUS_EXHAUSTED, "bytes");
    assert_error("{{ [0] * 999999999 }}", STATUS_EXHAUSTED, "bytes");
    assert_error("{{ range(10000000) }}", STATUS_EXHAUSTED, "range");
    assert_error("{% set ns = namespace(l=[]) %}{% for i in range(9999) %}"
                 "{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
                 STATUS_EXHAUSTED, "nested");
    assert_error("{% set a = 'ab' * 1000000 %}{% for i in range(99999) %}{% if 'bb' in a %}"
                 "{% endif %}{% endfor %}",
                 STATUS_EXHAUSTED, "steps");
    assert_error("{{ 'x'|indent(99999999) }}", STATUS_EXHAUSTED, "bytes");
}

/* N times a piece, between a head and a tail. */
static char *repeat(const char *head, const char *piece, size_t n, const char *tail)
{
    size_t len = strlen(piece);
    char *text = malloc(strlen(head) + n * len + strlen(tail) + 1), *at = text;
    assert_non_null(text);
    at = stpcpy(at, head);
    for (size_t i = 0; i < n; i++)
        at = stpcpy(at, piece);
    strcpy(at, tail);
    return text;
}

static void assert_refused(char *source)
{
    struct error err = {STATUS_OK, ""};
    assert_null(render_text(source, &err));
    assert_int_not_equal(err.status, STATUS_OK);
    free(source);
}

static void test_deep_sources_are_refused(void **state)
{
    (void)state;
    assert_refused(repeat("{{ ", "(", 100000, "1 }}"));
    assert_refused(repeat("{{ ", "[", 100000, ""));
    assert_refused(repeat("{{ ", "-", 100000, "1 }}"));
    assert_refused(repeat("{{ ", "not ", 100000, "1 }}"));
    assert_refused(repeat("{{ 1", "+1", 100000, " }}"));
    assert_refused(repeat("{{ x", ".a", 100000, " }}"));
    assert_refused(repeat("{{ x", "|e", 100000, " }}"));
    assert_refused(repeat("{{ 1", " if 1 else 1", 80000, " }}"));
    assert_refused(repeat("", "{% if 1 %}", 50000, ""));
    assert_refused(repeat("", "{% macro f() %}", 50000, ""));
    assert_refused(repeat("{% for ", "(", 100000, "a in b %}"));
    assert_refused(repeat("{% set x", "|e", 100000, "%}{% endset %}"));
    assert_refused(repeat("", "a", 2000000, ""));
}

static void test_long_sources_work(void **state)
{
    struct error err = {STATUS_OK, ""};
    char *source = repeat("{% if 0 %}", "{% elif 0 %}", 20000, "{% else %}end{% endif %}");
    char *out = render_text(source, &err);
    (void)state;
    if (!out)
        fail_msg("%s", err.text);
    assert_string_equal(out, "end");
    free(out);
    free(source);
    source = repeat("{{ 1", "~1", 20000, " }}");
    out = render_text(source, &err);
    assert_non_null(out);
    assert_int_equal(strlen(out), 20001);
    free(out);
    free(source);
}

static void test_deep_variables_are_refused(void **state)
{
    struct error err = {STATUS_OK, ""};
    size_t len;
    json_t *inner = json_array(), *root = json_object();
    (void)state;
    for (int i = 0; i < 1000; i++) {
        json_t *outer = json_array();
        json_array_append_new(outer, inner);
        inner = outer;
    }
    json_object_set_new(root, "x", inner);
    assert_null(render("{{ x }}", 7, root, &len, &err));
    assert_int_equal(err.status, STATUS_INVALID);
    json_decref(root);
}

/* --- the clock ------------------------------------------------------------------------------ */

static void test_strftime_now(void **state)
{
    char wanted[2][64];
    struct error err = {STATUS_OK, ""};
    (void)state;
    time_t now = time(NULL);
    struct tm local;
    localtime_r(&now, &local);
    strftime(wanted[0], sizeof wanted[0], "%d %b %Y", &local);
    char *out = render_text("{{ strftime_now('%d %b %Y') }}", &err);
    now = time(NULL);
    localtime_r(&now, &local);
    strftime(wanted[1], sizeof wanted[1], "%d %b %Y", &local); /* midnight may pass in between */
    assert_non_null(out);
    assert_true(strcmp(out, wanted[0]) == 0 || strcmp(out, wanted[1]) == 0);
    free(out);
    assert_error("{{ strftime_now('%999d') }}", STATUS_INVALID, "time format");
}

/* A template is used again and again and never changes. */
static void test_renders_alike_twice(void **state)
{
    const char *source = "{% set ns = namespace(n=x) %}{% for i in [1, 2] %}"
                         "{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}";
    struct error err = {STATUS_OK, ""};
    struct template *t = template_create(source, strlen(source), &err);
    (void)state;
    assert_non_null(t);
    for (int i = 0; i < 3; i++) {
        char *out = NULL;
        size_t len;
        json_t *variables = json_pack("{s:i}", "x", i);
        assert_int_equal(template_render(t, variables, &out, &len, &err), 0);
        assert_int_equal(atoi(out), i + 3);
        json_decref(variables);
        free(out);
    }
    template_destroy(t);
    template_destroy(NULL);
}

/* What a template reads decides what a request may have. */
static void test_words_of_a_source(void **state)
{
    const char *source = "tools {# tools #}{{ m.tools }}{{ 'a tool' }}{% if m['role'] == 'tool' %}"
                         "{{ m.tool_calls }}{{ documents|length }}{% endif %}";
    struct error err = {STATUS_OK, ""};
    struct template *t = template_create(source, strlen(source), &err);
    (void)state;
    assert_non_null(t);
    assert_false(template_reads(t, "tools"));
    assert_false(template_reads(t, "tool_calls"));
    assert_true(template_reads(t, "documents") && template_reads(t, "m"));
    assert_true(template_mentions(t, "tools") && template_mentions(t, "tool_calls"));
    assert_true(template_mentions(t, "tool"));
    assert_false(template_mentions(t, "a"));
    template_destroy(t);
    t = template_create("{%- if not tools is defined %}{% endif %}", 41, &err);
    assert_non_null(t);
    assert_true(template_reads(t, "tools"));
    template_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_errors_name_line_and_thing),
        cmocka_unit_test(test_raise_exception_text_is_bare),
        cmocka_unit_test(test_variables_must_be_object),
        cmocka_unit_test(test_hostile_templates_end),
        cmocka_unit_test(test_deep_sources_are_refused),
        cmocka_unit_test(test_long_sources_work),
        cmocka_unit_test(test_deep_variables_are_refused),
        cmocka_unit_test(test_strftime_now),
        cmocka_unit_test(test_renders_alike_twice),
        cmocka_unit_test(test_words_of_a_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
