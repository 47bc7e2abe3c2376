/* cli_text_test.c - tables, acct's layout, and server-sent events */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "cli/acct.h"
#include "cli/cli.h"
#include "cli/stream.h"
#include "cli/table.h"

/* main.c has it; the parts tested here do not call it. */
int cli_fail(int code, const char *fmt, ...)
{
    (void)fmt;
    return code;
}

int cli_usage(const char *usage, const char *fmt, ...)
{
    (void)usage;
    (void)fmt;
    return EXIT_USAGE;
}

int cli_help(const char *usage, const char *text)
{
    (void)usage;
    (void)text;
    return EXIT_OK;
}

/* --- tables ----------------------------------------------------------------------------------- */

static void print_table(const struct table_column *columns, const struct table_format *format,
                        const char *expect)
{
    static const char *const rows[2][3] = {{"alpha", "7", "résident"}, {"b", "1234", NULL}};
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    struct table *t = table_create(columns, 3, format, out);

    assert_non_null(t);
    for (int i = 0; i < 2; i++)
        assert_int_equal(table_row(t, rows[i]), 0);
    table_end(t);
    fclose(out);
    assert_string_equal(text, expect);
    free(text);
}

static void columns_are_as_wide_as_their_cells(void **state)
{
    static const struct table_column columns[] = {{"NAME", 0, 1}, {"N", 0, 0}, {"STATE", -1, 1}};
    struct table_format format = {0};

    (void)state;
    print_table(columns, &format,
                "NAME     N STATE\n"
                "alpha    7 résident\n"
                "b     1234 \n");
    format.no_header = 1;
    print_table(columns, &format,
                "alpha    7 résident\n"
                "b     1234 \n");
}

static void fixed_columns_are_cut(void **state)
{
    static const struct table_column columns[] = {{"NAME", 4, 0}, {"N", 3, 0}, {"STATE", 6, 1}};
    struct table_format format = {0};

    (void)state;
    print_table(columns, &format,
                "NAME   N STATE\n"
                "alp+   7 résid+\n"
                "   b 12+ \n");
}

static void parsable_lines(void **state)
{
    static const struct table_column columns[] = {{"NAME", 4, 0}, {"N", 3, 0}, {"STATE", 6, 1}};
    struct table_format format = {.parsable = 2};

    (void)state;
    print_table(columns, &format, "NAME|N|STATE\nalpha|7|résident\nb|1234|\n");
    format.parsable = 1;
    print_table(columns, &format, "NAME|N|STATE|\nalpha|7|résident|\nb|1234||\n");
    format = (struct table_format){.no_header = 1};
    assert_int_equal(table_option(&format, 'D', "; "), 1);
    print_table(columns, &format, "alpha; 7; résident\nb; 1234; \n");
}

static void bytes_for_people(void **state)
{
    char out[32];

    (void)state;
    table_bytes(out, sizeof(out), 1023);
    assert_string_equal(out, "1023");
    table_bytes(out, sizeof(out), 1536);
    assert_string_equal(out, "1.5K");
    table_bytes(out, sizeof(out), 200ull << 30);
    assert_string_equal(out, "200G");
}

static void rows_as_json(void **state)
{
    struct wire w;

    (void)state;
    wire_start(&w, "row");
    wire_put(&w, "model", "7");
    wire_put(&w, "bytes", "91234567890");
    json_t *object = table_json(&w);
    assert_int_equal(json_object_size(object), 2);
    assert_string_equal(json_string_value(json_object_get(object, "model")), "7");
    assert_int_equal(json_integer_value(json_object_get(object, "bytes")), 91234567890);
    json_decref(object);
}

/* --- acct's fields ---------------------------------------------------------------------------- */

static void layouts(void **state)
{
    struct acct_layout l;
    struct error err;

    (void)state;
    assert_int_equal(acct_parse_layout("jobid,MODEL%-5,prom%3", &l, &err), 0);
    assert_int_equal(l.count, 3);
    assert_string_equal(l.column[0].title, "JobID");
    assert_int_equal(l.column[1].width, 5);
    assert_int_equal(l.column[1].left, 1);
    assert_string_equal(l.column[2].title, "PromptTokens");
    assert_int_equal(l.column[2].width, 3);
    static const char *const bad[] = {"",        "Nothing", "J",           "Model%",
                                      "Model%x", "Model%0", "Model,,User", "Model%999"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        if (acct_parse_layout(bad[i], &l, &err) == 0)
            fail_msg("\"%s\" was taken", bad[i]);
}

static void cell(const struct acct_row *row, const char *field, const char *expect)
{
    char out[ACCT_CELL_MAX];
    struct acct_layout l;

    assert_int_equal(acct_parse_layout(field, &l, NULL), 0);
    l.field[0]->print(out, row);
    assert_string_equal(out, expect);
}

static void job_numbers_as_sacct_shows_them(void **state)
{
    struct acct_row row;
    struct wire w;

    (void)state;
    wire_start(&w, "row");
    wire_put(&w, "job", "57");
    wire_put(&w, "step_name", "batch");
    wire_put(&w, "prompt_tokens", "10");
    wire_put(&w, "completion_tokens", "32");
    wire_put(&w, "engine_us", "1234567");
    wire_put(&w, "ttft_us", "-1");
    acct_read_row(&row, &w);
    cell(&row, "JobID", "57.batch");
    cell(&row, "TotalTokens", "42");
    cell(&row, "EngineTime", "1.235");
    cell(&row, "TTFT", "");
    cell(&row, "End", "Unknown");
    row.array_job = 55;
    row.array_task = 3;
    cell(&row, "JobID", "55_3.batch");
    row.array_job = -1;
    row.het_job = 50;
    row.het_offset = 1;
    cell(&row, "JobID", "50+1.batch");
    row.sum = 1;
    cell(&row, "JobID", "50+1");
    row.job = 0;
    cell(&row, "JobID", "local");
}

/* --- server-sent events ----------------------------------------------------------------------- */

struct events {
    char text[256];
    int count, stop_at;
};

static int on_event(char *data, void *arg)
{
    struct events *e = arg;

    strncat(e->text, data, sizeof(e->text) - strlen(e->text) - 2);
    strcat(e->text, "/");
    return ++e->count == e->stop_at ? 7 : 0;
}

static void events_in_any_pieces(void **state)
{
    static const char stream[] =
        ": hello\n\ndata: one\r\n\r\ndata:two\n\nevent: x\ndata: [DONE]\n\n";

    (void)state;
    for (size_t piece = 1; piece <= sizeof(stream); piece++) {
        struct sse s = {0};
        struct events e = {.stop_at = 3};
        int rv = 0;
        for (size_t at = 0; at < sizeof(stream) - 1 && rv == 0; at += piece) {
            size_t left = sizeof(stream) - 1 - at;
            rv = sse_push(&s, stream + at, left < piece ? left : piece, on_event, &e);
        }
        assert_int_equal(rv, 7);
        assert_string_equal(e.text, "one/two/[DONE]/");
        sse_free(&s);
    }
}

static void a_line_has_a_bound(void **state)
{
    struct sse s = {0};
    struct events e = {0};
    char piece[4096];
    int rv = 0;

    (void)state;
    memset(piece, 'x', sizeof(piece));
    for (size_t i = 0; i <= SSE_LINE_MAX / sizeof(piece) && rv == 0; i++)
        rv = sse_push(&s, piece, sizeof(piece), on_event, &e);
    assert_int_equal(rv, -1);
    sse_free(&s);
}

static void text_of_chunks(void **state)
{
    static const struct {
        const char *data, *text, *error;
    } cases[] = {
        {"{\"choices\":[{\"delta\":{\"content\":\"hé\"}}]}", "hé", NULL},
        {"{\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}", NULL, NULL},
        {"{\"choices\":[{\"text\":\"raw\"}]}", "raw", NULL},
        {"{\"choices\":[]}", NULL, NULL},
        {"{\"error\":{\"message\":\"engine died\"}}", NULL, "engine died"},
        {"{\"error\":\"odd\"}", NULL, "odd"},
        {"{\"error\":{}}", NULL, "the server reports an error"},
        {"{not json", NULL, "the server sent an event that is no JSON"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        size_t len;
        char *error = NULL, *text = stream_chunk_text(cases[i].data, &len, &error);
        if (cases[i].text)
            assert_int_equal(len, strlen(cases[i].text));
        if (cases[i].text)
            assert_string_equal(text, cases[i].text);
        else
            assert_null(text);
        if (cases[i].error)
            assert_string_equal(error, cases[i].error);
        else
            assert_null(error);
        free(text);
        free(error);
    }
    size_t len;
    char *error, *nul = stream_chunk_text("{\"choices\":[{\"delta\":{\"content\":\"a\\u0000b\"}}]}",
                                          &len, &error);
    assert_null(error);
    assert_int_equal(len, 3);
    assert_memory_equal(nul, "a\0b", 4);
    free(nul);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_as_wide_as_their_cells),
        cmocka_unit_test(fixed_columns_are_cut),
        cmocka_unit_test(parsable_lines),
        cmocka_unit_test(bytes_for_people),
        cmocka_unit_test(rows_as_json),
        cmocka_unit_test(layouts),
        cmocka_unit_test(job_numbers_as_sacct_shows_them),
        cmocka_unit_test(events_in_any_pieces),
        cmocka_unit_test(a_line_has_a_bound),
        cmocka_unit_test(text_of_chunks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
