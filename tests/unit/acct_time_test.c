/* acct_time_test.c - sacct's time formats */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/time.h"

#define NOW 1784905445 /* 2026-07-24T15:04:05 UTC, a Friday */

static const struct {
    const char *text, *is; /* in UTC; NULL: refused */
} cases[] = {
    {"now", "2026-07-24T15:04:05"},
    {"NOW", "2026-07-24T15:04:05"},
    {"now-60", "2026-07-24T15:03:05"},
    {"now-90seconds", "2026-07-24T15:02:35"},
    {"now-5minutes", "2026-07-24T14:59:05"},
    {"now+2hours", "2026-07-24T17:04:05"},
    {"now-1day", "2026-07-23T15:04:05"},
    {"now-3days", "2026-07-21T15:04:05"},
    {"now-2weeks", "2026-07-10T15:04:05"},
    {"today", "2026-07-24T00:00:00"},
    {"Midnight", "2026-07-24T00:00:00"},
    {"noon", "2026-07-24T12:00:00"},
    {"fika", "2026-07-24T15:00:00"},
    {"teatime", "2026-07-24T16:00:00"},
    {"tomorrow", "2026-07-25T00:00:00"},
    {"8:30", "2026-07-24T08:30:00"},
    {"08:30:15", "2026-07-24T08:30:15"},
    {"8:30pm", "2026-07-24T20:30:00"},
    {"12:05 AM", "2026-07-24T00:05:00"},
    {"23:59:59", "2026-07-24T23:59:59"},
    {"0102", "2026-01-02T00:00:00"},
    {"010225", "2025-01-02T00:00:00"},
    {"01/02", "2026-01-02T00:00:00"},
    {"1/2/25", "2025-01-02T00:00:00"},
    {"01.02.24", "2024-01-02T00:00:00"},
    {"01/02-13:14", "2026-01-02T13:14:00"},
    {"2026-03-04", "2026-03-04T00:00:00"},
    {"2026-03-04T05:06", "2026-03-04T05:06:00"},
    {"2026-03-04T05:06:07", "2026-03-04T05:06:07"},
    {"2024-02-29", "2024-02-29T00:00:00"},
    {"2026-02-29", NULL},
    {"2026-13-01", NULL},
    {"2026-00-01", NULL},
    {"2026-03-04T24:00", NULL},
    {"2026-03-04T05:60", NULL},
    {"2026-03-04T05", NULL},
    {"2026-03-04 05:06", NULL},
    {"2026-03-04T05:06:07Z", NULL},
    {"13:14pm", NULL},
    {"0:30am", NULL},
    {"8:3", NULL},
    {"1332", NULL},
    {"01022", NULL},
    {"yesterday", NULL},
    {"now-", NULL},
    {"now-x", NULL},
    {"now-1fortnight", NULL},
    {"now-99999999999999999999", NULL},
    {"now+3minutesx", NULL},
    {"", NULL},
    {" ", NULL},
    {"-1", NULL},
};

static void all_forms(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error err = {.status = STATUS_OK};
        int64_t seconds = -1;
        char out[32];
        int rv = time_parse(cases[i].text, NOW, &seconds, &err);
        if (!cases[i].is) {
            if (rv == 0)
                fail_msg("\"%s\" was taken as %ld", cases[i].text, (long)seconds);
            assert_int_equal(err.status, STATUS_INVALID);
            assert_non_null(strstr(err.text, cases[i].text));
            continue;
        }
        if (rv != 0)
            fail_msg("%s", err.text);
        time_print(out, sizeof(out), seconds);
        if (strcmp(out, cases[i].is) != 0)
            fail_msg("\"%s\" is %s, not %s", cases[i].text, out, cases[i].is);
    }
}

static void elapsed_times(void **state)
{
    char out[32];

    (void)state;
    time_print_elapsed(out, sizeof(out), 0);
    assert_string_equal(out, "00:00:00");
    time_print_elapsed(out, sizeof(out), 3725);
    assert_string_equal(out, "01:02:05");
    time_print_elapsed(out, sizeof(out), 2 * 86400 + 59);
    assert_string_equal(out, "2-00:00:59");
    time_print_elapsed(out, sizeof(out), -5);
    assert_string_equal(out, "00:00:00");
    time_print(out, sizeof(out), 0);
    assert_string_equal(out, "Unknown");
}

/* Where clocks change, days are still days. */
static void zones_with_summer_time(void **state)
{
    struct error err;
    int64_t winter, summer;

    (void)state;
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    tzset();
    assert_int_equal(time_parse("2026-01-10T12:00", NOW, &winter, &err), 0);
    assert_int_equal(time_parse("2026-07-10T12:00", NOW, &summer, &err), 0);
    assert_int_equal(winter, 1768042800);
    assert_int_equal(summer, 1783677600);
    setenv("TZ", "UTC0", 1);
    tzset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_forms),
        cmocka_unit_test(elapsed_times),
        cmocka_unit_test(zones_with_summer_time),
    };

    setenv("TZ", "UTC0", 1);
    tzset();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
