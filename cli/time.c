/* time.c - sacct's time formats */
#include "cli/time.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* What a text says; -1: not said. */
struct parts {
    int year, month, day, hour, minute, second;
};

/* Exactly `digits` of them, else up to that many if `exact` is 0.  Moves on; -1 if there is none.
 */
static int number(const char **at, int digits, int exact)
{
    int value = 0, n = 0;

    while (n < digits && isdigit((unsigned char)(*at)[n]))
        value = value * 10 + ((*at)[n++] - '0');
    if (n == 0 || (exact && n != digits))
        return -1;
    *at += n;
    return value;
}

/* HH:MM[:SS] [AM|PM]; moves on. */
static int clock_time(const char **at, struct parts *p)
{
    p->hour = number(at, 2, 0);
    if (p->hour < 0 || *(*at)++ != ':')
        return -1;
    p->minute = number(at, 2, 1);
    p->second = 0;
    if (p->minute < 0)
        return -1;
    if (**at == ':') {
        ++*at;
        p->second = number(at, 2, 1);
        if (p->second < 0)
            return -1;
    }
    while (**at == ' ')
        ++*at;
    int pm = strncasecmp(*at, "pm", 2) == 0;
    if (pm || strncasecmp(*at, "am", 2) == 0) {
        *at += 2;
        if (p->hour < 1 || p->hour > 12)
            return -1;
        p->hour = p->hour % 12 + (pm ? 12 : 0);
    }
    return p->hour < 24 && p->minute < 60 && p->second < 60 ? 0 : -1;
}

/* A date, and the time that may follow it. */
static int date(const char *text, struct parts *p)
{
    const char *at = text;
    size_t digits = strspn(text, "0123456789");
    char mark = text[digits], joint = '-';

    if (digits == 4 && mark == '-') { /* YYYY-MM-DD */
        joint = 'T';
        p->year = number(&at, 4, 1);
        at++;
        p->month = number(&at, 2, 0);
        if (*at++ != '-')
            return -1;
        p->day = number(&at, 2, 0);
    } else if ((digits == 1 || digits == 2) && (mark == '/' || mark == '.')) { /* MM/DD[/YY] */
        p->month = number(&at, 2, 0);
        at++;
        p->day = number(&at, 2, 0);
        if (*at == mark) {
            at++;
            p->year = number(&at, 2, 1);
            if (p->year < 0)
                return -1;
            p->year += 2000;
        }
    } else if (digits == 4 || digits == 6) { /* MMDD[YY] */
        p->month = number(&at, 2, 1);
        p->day = number(&at, 2, 1);
        if (digits == 6)
            p->year = 2000 + number(&at, 2, 1);
    } else {
        return -1;
    }
    if (*at == joint) {
        at++;
        if (clock_time(&at, p) < 0)
            return -1;
    }
    return *at == '\0' ? 0 : -1;
}

/* now, now+2hours, now-3days */
static int relative(const char *at, int64_t now, int64_t *seconds)
{
    static const struct {
        const char *name;
        int64_t seconds;
    } units[] = {
        {"seconds", 1}, {"minutes", 60}, {"hours", 3600}, {"days", 86400}, {"weeks", 604800}};
    char *end;

    if (!*at) {
        *seconds = now;
        return 0;
    }
    if ((*at != '+' && *at != '-') || !isdigit((unsigned char)at[1]))
        return -1;
    int64_t sign = *at == '-' ? -1 : 1, count = strtoll(at + 1, &end, 10);
    if (count > INT32_MAX)
        return -1;
    size_t len = strlen(end);
    for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
        if (strncasecmp(end, units[i].name, len) == 0) { /* shortened as one likes; none: seconds */
            *seconds = now + sign * count * units[i].seconds;
            return *seconds >= 0 ? 0 : -1;
        }
    return -1;
}

static int keyword(const char *text, struct parts *p, int *days)
{
    static const struct {
        const char *word;
        int hour, days;
    } words[] = {{"today", 0, 0}, {"midnight", 0, 0}, {"noon", 12, 0},
                 {"fika", 15, 0}, {"teatime", 16, 0}, {"tomorrow", 0, 1}};

    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
        if (strcasecmp(text, words[i].word) == 0) {
            p->hour = words[i].hour;
            *days = words[i].days;
            return 0;
        }
    return -1;
}

/* Parts to seconds, in the local zone; -1 for a day that the calendar lacks. */
static int compose(const struct parts *p, int days, int64_t now, int64_t *seconds)
{
    time_t t = (time_t)now;
    struct tm tm, check;

    if (!localtime_r(&t, &tm))
        return -1;
    if (p->month >= 0) {
        tm.tm_mon = p->month - 1;
        tm.tm_mday = p->day;
    }
    if (p->year >= 0)
        tm.tm_year = p->year - 1900;
    tm.tm_hour = p->hour < 0 ? 0 : p->hour;
    tm.tm_min = p->minute < 0 ? 0 : p->minute;
    tm.tm_sec = p->second < 0 ? 0 : p->second;
    tm.tm_isdst = -1;
    if (tm.tm_mon < 0 || tm.tm_mon > 11 || tm.tm_mday < 1)
        return -1;
    check = tm;
    check.tm_hour = 12; /* no zone changes its clock at noon */
    if (mktime(&check) == (time_t)-1 || check.tm_mon != tm.tm_mon || check.tm_mday != tm.tm_mday)
        return -1;
    tm.tm_mday += days;
    t = mktime(&tm);
    if (t == (time_t)-1 || t < 0)
        return -1;
    *seconds = t;
    return 0;
}

int time_parse(const char *text, int64_t now, int64_t *seconds, struct error *err)
{
    struct parts p = {-1, -1, -1, -1, -1, -1};
    const char *at = text;
    int days = 0;

    if (strncasecmp(text, "now", 3) == 0) {
        if (relative(text + 3, now, seconds) == 0)
            return 0;
    } else if (keyword(text, &p, &days) == 0 || date(text, &p) == 0) {
        if (compose(&p, days, now, seconds) == 0)
            return 0;
    } else {
        p = (struct parts){-1, -1, -1, -1, -1, -1};
        if (clock_time(&at, &p) == 0 && *at == '\0' && compose(&p, 0, now, seconds) == 0)
            return 0;
    }
    return error_set(
        err, STATUS_INVALID,
        "\"%.60s\" is no time: give YYYY-MM-DD[THH:MM[:SS]], MMDD, MM/DD, HH:MM, today, "
        "noon or now-2hours",
        text);
}

void time_print(char *out, size_t room, int64_t seconds)
{
    time_t t = (time_t)seconds;
    struct tm tm;

    if (seconds <= 0 || !localtime_r(&t, &tm) || !strftime(out, room, "%Y-%m-%dT%H:%M:%S", &tm))
        snprintf(out, room, "Unknown");
}

void time_print_elapsed(char *out, size_t room, int64_t seconds)
{
    if (seconds < 0)
        seconds = 0;
    int64_t days = seconds / 86400;
    if (days)
        snprintf(out, room, "%" PRId64 "-%02d:%02d:%02d", days, (int)(seconds / 3600 % 24),
                 (int)(seconds / 60 % 60), (int)(seconds % 60));
    else
        snprintf(out, room, "%02d:%02d:%02d", (int)(seconds / 3600), (int)(seconds / 60 % 60),
                 (int)(seconds % 60));
}
