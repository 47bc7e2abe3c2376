/* Text to values: sizes, times, names, SLOs.  Also linked into the plugin. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/config.h"

#define MODELS_MAX 16

int config_parse_size(const char *text, uint64_t *bytes, struct error *err)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    unsigned shift = 0;
    if (errno || end == text || !isdigit((unsigned char)text[0]))
        goto bad;
    switch (toupper((unsigned char)*end)) {
    case '\0':
        break;
    case 'K':
        shift = 10;
        break;
    case 'M':
        shift = 20;
        break;
    case 'G':
        shift = 30;
        break;
    case 'T':
        shift = 40;
        break;
    default:
        goto bad;
    }
    if ((*end && end[1]) || n > UINT64_MAX >> shift)
        goto bad;
    *bytes = (uint64_t)n << shift;
    return 0;
bad:
    return error_set(err, STATUS_INVALID, "\"%.60s\" is no size (a number with K, M, G or T)",
                     text);
}

int config_parse_time(const char *text, int64_t *us, struct error *err)
{
    static const struct {
        const char *unit;
        double us;
    } units[] = {{"", 1e6}, {"s", 1e6}, {"ms", 1e3}, {"m", 60e6}, {"h", 3600e6}};
    char *end;
    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        goto bad;
    double n = strtod(text, &end);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].unit) == 0) {
            double value = n * units[i].us;
            if (!(value >= 0 && value <= 366.0 * 86400e6)) /* a year is beyond any use here */
                goto bad;
            *us = (int64_t)value;
            return 0;
        }
bad:
    return error_set(err, STATUS_INVALID,
                     "\"%.60s\" is no time (seconds, or a number with ms, s, m or h)", text);
}

int config_check_name(const char *what, const char *name, struct error *err)
{
    size_t len = strlen(name);
    if (len == 0)
        return error_set(err, STATUS_INVALID, "%s: the name is empty", what);
    if (len >= NAME_MAX_BYTES)
        return error_set(err, STATUS_INVALID, "%s \"%.40s...\": a name has at most %d characters",
                         what, name, NAME_MAX_BYTES - 1);
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)name[i]) && (i == 0 || !strchr("._-", name[i])))
            return error_set(err, STATUS_INVALID,
                             "%s \"%.63s\": a name is made of letters, digits, '.', '_' and '-', "
                             "and begins with a letter or digit",
                             what, name);
    return 0;
}

/* Copy the item before the next comma; returns where the next one starts, NULL at the end. */
static const char *next_item(const char *text, char *item, size_t room, int *fits)
{
    const char *comma = strchr(text, ',');
    size_t len = comma ? (size_t)(comma - text) : strlen(text);
    *fits = len < room;
    snprintf(item, room, "%.*s", (int)(len < room ? len : room - 1), text);
    return comma ? comma + 1 : NULL;
}

int config_check_models(const char *text, struct error *err)
{
    char seen[MODELS_MAX][NAME_MAX_BYTES];
    int count = 0, fits;
    for (const char *at = text; at;) {
        char item[NAME_MAX_BYTES];
        at = next_item(at, item, sizeof item, &fits);
        if (!fits || config_check_name("model", item, err))
            return fits ? -1
                        : error_set(err, STATUS_INVALID, "model \"%.40s...\": the name is too long",
                                    item);
        for (int i = 0; i < count; i++)
            if (strcmp(seen[i], item) == 0)
                return error_set(err, STATUS_INVALID, "model \"%s\" is named twice", item);
        if (count == MODELS_MAX)
            return error_set(err, STATUS_INVALID, "at most %d models can be named", MODELS_MAX);
        strcpy(seen[count++], item);
    }
    return 0;
}

int config_parse_slo(const char *text, int64_t *ttft_us, int64_t *tbt_us, struct error *err)
{
    int64_t ttft = 0, tbt = 0;
    int fits;
    if (!strchr(text, ':')) {
        *ttft_us = *tbt_us = 0;
        return config_check_name("SLO", text, err);
    }
    for (const char *at = text; at;) {
        char item[40];
        at = next_item(at, item, sizeof item, &fits);
        int64_t *to = strncasecmp(item, "ttft:", 5) == 0  ? &ttft
                      : strncasecmp(item, "tbt:", 4) == 0 ? &tbt
                                                          : NULL;
        if (!fits || !to || *to)
            goto bad;
        if (config_parse_time(strchr(item, ':') + 1, to, err))
            return error_wrap(err, "SLO \"%.60s\"", text);
        if (*to <= 0)
            goto bad;
    }
    if (!ttft || !tbt)
        goto bad;
    *ttft_us = ttft;
    *tbt_us = tbt;
    return 0;
bad:
    return error_set(err, STATUS_INVALID,
                     "\"%.60s\" is no SLO: name a class, or give ttft:TIME,tbt:TIME", text);
}
