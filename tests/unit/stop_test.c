/* stop_test.c - stop strings, whatever the pieces that the text comes in */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/stop.h"

static void add(struct stop *s, const char *string)
{
    struct error err;
    assert_int_equal(stop_add(s, string, strlen(string), &err), 0);
}

/* Push text in pieces of the given sizes (the last one repeats); what comes out goes to out. */
static int run(const char *const *strings, const char *text, const size_t *sizes, size_t count,
               char *out)
{
    struct stop s = {0};
    size_t at = 0, len = strlen(text), out_len = 0;
    int stopped = 0;

    for (size_t i = 0; strings[i]; i++)
        add(&s, strings[i]);
    for (size_t i = 0; at < len && !stopped; i++) {
        size_t n = sizes[i < count ? i : count - 1];
        const char *p;
        size_t p_len;
        if (n > len - at)
            n = len - at;
        stopped = stop_push(&s, text + at, n, &p, &p_len, NULL);
        assert_true(stopped >= 0);
        memcpy(out + out_len, p, p_len);
        out_len += p_len;
        at += n;
    }
    if (!stopped) {
        const char *p;
        size_t p_len;
        stop_flush(&s, &p, &p_len);
        memcpy(out + out_len, p, p_len);
        out_len += p_len;
        assert_int_equal(stop_held(&s), 0);
    }
    out[out_len] = '\0';
    stop_fini(&s);
    return stopped;
}

static void test_no_strings_holds_nothing(void **state)
{
    struct stop s = {0};
    const char *out;
    size_t len;

    (void)state;
    assert_int_equal(stop_push(&s, "abc", 3, &out, &len, NULL), 0);
    assert_int_equal(len, 3);
    assert_memory_equal(out, "abc", 3);
    assert_int_equal(stop_held(&s), 0);
    stop_fini(&s);
}

static void test_holds_back_what_could_begin_a_stop(void **state)
{
    struct stop s = {0};
    const char *out;
    size_t len;

    (void)state;
    add(&s, "\n\nQ:");
    assert_int_equal(stop_push(&s, "yes\n", 4, &out, &len, NULL), 0);
    assert_int_equal(len, 3);
    assert_int_equal(stop_held(&s), 1);
    assert_int_equal(stop_push(&s, "\n", 1, &out, &len, NULL), 0);
    assert_int_equal(len, 0);
    assert_int_equal(stop_push(&s, "\n", 1, &out, &len, NULL), 0);
    assert_int_equal(len, 1); /* three newlines: the first cannot be of the stop string */
    assert_int_equal(stop_push(&s, "Q", 1, &out, &len, NULL), 0);
    assert_int_equal(len, 0);
    assert_int_equal(stop_push(&s, ": more", 6, &out, &len, NULL), 1);
    assert_int_equal(len, 0);
    stop_fini(&s);
}

static void test_first_complete_wins(void **state)
{
    static const char *const strings[] = {"abcd", "bc", NULL};
    static const size_t whole[] = {100};
    char out[64];

    (void)state;
    assert_int_equal(run(strings, "xabcdx", whole, 1, out), 1);
    assert_string_equal(out, "xa");
}

static void test_same_end_longest_wins(void **state)
{
    static const char *const strings[] = {"c", "abc", NULL};
    static const size_t whole[] = {100};
    char out[64];

    (void)state;
    assert_int_equal(run(strings, "xabcx", whole, 1, out), 1);
    assert_string_equal(out, "x");
}

static void test_flush_gives_the_rest(void **state)
{
    static const char *const strings[] = {"STOP", NULL};
    static const size_t one[] = {1};
    char out[64];

    (void)state;
    assert_int_equal(run(strings, "go STO", one, 1, out), 0);
    assert_string_equal(out, "go STO");
}

/* The outcome is that of the whole text at once, for every cutting of it. */
static void test_pieces_do_not_matter(void **state)
{
    static const char *const sets[][5] = {
        {"aba", "bb", NULL},
        {"aab", "b", "abab", NULL},
        {"abba", "baab", "aaaa", NULL},
        {"bab", "abbb", NULL},
    };
    uint32_t r = 12345;

    (void)state;
    for (int round = 0; round < 4000; round++) {
        const char *const *strings = sets[round % 4];
        char text[33], want[64], got[64];
        size_t sizes[32];
        static const size_t one[] = {1};
        for (size_t i = 0; i < 32; i++) {
            r = r * 1664525u + 1013904223u;
            text[i] = (r >> 24) & 1 ? 'a' : (r >> 25) & 3 ? 'c' : 'b';
            sizes[i] = 1 + (r >> 28);
        }
        text[32] = '\0';
        int stopped = run(strings, text, one, 1, want);
        assert_int_equal(run(strings, text, sizes, 32, got), stopped);
        assert_string_equal(got, want);
    }
}

static void test_limits(void **state)
{
    struct stop s = {0};
    struct error err;
    char big[STOP_BYTES_MAX + 1];

    (void)state;
    memset(big, 'x', sizeof big);
    assert_int_equal(stop_add(&s, "", 0, &err), -1);
    assert_int_equal(err.status, STATUS_INVALID);
    assert_int_equal(stop_add(&s, big, sizeof big, &err), -1);
    for (int i = 0; i < STOP_STRINGS_MAX; i++)
        assert_int_equal(stop_add(&s, big, STOP_BYTES_MAX, &err), 0);
    assert_int_equal(stop_add(&s, "a", 1, &err), -1);
    assert_int_equal(s.count, STOP_STRINGS_MAX);
    stop_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_strings_holds_nothing),
        cmocka_unit_test(test_holds_back_what_could_begin_a_stop),
        cmocka_unit_test(test_first_complete_wins),
        cmocka_unit_test(test_same_end_longest_wins),
        cmocka_unit_test(test_flush_gives_the_rest),
        cmocka_unit_test(test_pieces_do_not_matter),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
