/* table.c - listings */
#include "cli/table.h"

#include <stdlib.h>
#include <string.h>

struct table {
    const struct table_column *columns;
    size_t count;
    const struct table_format *format;
    FILE *out;
    int streaming;
    int header_done;
    char **cells; /* rows * count */
    size_t rows, room;
};

int table_option(struct table_format *f, int c, const char *argument)
{
    switch (c) {
    case 'p':
        f->parsable = 1;
        return 1;
    case 'P':
        f->parsable = 2;
        return 1;
    case 'n':
        f->no_header = 1;
        return 1;
    case 'J':
        f->json = 1;
        return 1;
    case 'D':
        f->delimiter = argument;
        if (!f->parsable)
            f->parsable = 2;
        return 1;
    default:
        return 0;
    }
}

struct table *table_create(const struct table_column *columns, size_t count,
                           const struct table_format *format, FILE *out)
{
    struct table *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->columns = columns;
    t->count = count;
    t->format = format;
    t->out = out;
    t->streaming = 1;
    for (size_t i = 0; i < count && !format->parsable; i++)
        if (columns[i].width <= 0)
            t->streaming = 0;
    return t;
}

/* --- printing --------------------------------------------------------------------------------- */

/* Characters, not bytes: UTF-8 continuation bytes take no room. */
static int text_width(const char *text)
{
    int width = 0;

    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

/* The bytes of the first `width` characters. */
static size_t text_bytes(const char *text, int width)
{
    size_t bytes = 0;

    while (text[bytes] && (width > 0 || ((unsigned char)text[bytes] & 0xc0) == 0x80)) {
        width -= ((unsigned char)text[bytes] & 0xc0) != 0x80;
        if (width < 0)
            break;
        bytes++;
    }
    return bytes;
}

static void put_aligned(struct table *t, size_t i, const char *cell, int width)
{
    int have = text_width(cell), pad = width > have ? width - have : 0;

    if (width < 0) {
        fputs(cell, t->out);
    } else if (have > width) {
        fwrite(cell, 1, text_bytes(cell, width - 1), t->out);
        fputc('+', t->out);
    } else if (t->columns[i].left) {
        fprintf(t->out, "%s%*s", cell, i + 1 < t->count ? pad : 0, "");
    } else {
        fprintf(t->out, "%*s%s", pad, "", cell);
    }
    if (i + 1 < t->count)
        fputc(' ', t->out);
}

static void put_row(struct table *t, const char *const *cells, const int *widths)
{
    const char *delimiter = t->format->delimiter ? t->format->delimiter : "|";

    for (size_t i = 0; i < t->count; i++) {
        const char *cell = cells[i] ? cells[i] : "";
        if (!t->format->parsable)
            put_aligned(t, i, cell, widths ? widths[i] : t->columns[i].width);
        else
            fprintf(t->out, "%s%s", cell,
                    t->format->parsable == 1 || i + 1 < t->count ? delimiter : "");
    }
    fputc('\n', t->out);
}

static void put_header(struct table *t, const int *widths)
{
    if (t->header_done)
        return;
    t->header_done = 1;
    if (t->format->no_header)
        return;
    const char **titles = calloc(t->count, sizeof(*titles));
    if (!titles)
        return;
    for (size_t i = 0; i < t->count; i++)
        titles[i] = t->columns[i].title;
    put_row(t, titles, widths);
    free(titles);
}

int table_row(struct table *t, const char *const *cells)
{
    if (t->streaming) {
        put_header(t, NULL);
        put_row(t, cells, NULL);
        return 0;
    }
    if (t->rows == t->room) {
        size_t more = t->room ? t->room * 2 : 32;
        char **bigger = reallocarray(t->cells, more * t->count, sizeof(*bigger));
        if (!bigger)
            return -1;
        t->cells = bigger;
        t->room = more;
    }
    char **row = t->cells + t->rows * t->count;
    for (size_t i = 0; i < t->count; i++) {
        row[i] = strdup(cells[i] ? cells[i] : "");
        if (!row[i]) {
            while (i > 0)
                free(row[--i]);
            return -1;
        }
    }
    t->rows++;
    return 0;
}

static void print_buffered(struct table *t)
{
    int *widths = calloc(t->count, sizeof(*widths));

    if (!widths)
        return;
    for (size_t i = 0; i < t->count; i++) {
        widths[i] = t->columns[i].width;
        if (widths[i] != 0)
            continue;
        widths[i] = t->format->no_header ? 0 : text_width(t->columns[i].title);
        for (size_t r = 0; r < t->rows; r++) {
            int width = text_width(t->cells[r * t->count + i]);
            if (width > widths[i])
                widths[i] = width;
        }
    }
    put_header(t, widths);
    for (size_t r = 0; r < t->rows; r++)
        put_row(t, (const char *const *)(t->cells + r * t->count), widths);
    free(widths);
}

void table_hold(struct table *t)
{
    t->streaming = 0;
}

void table_end(struct table *t)
{
    if (t->streaming)
        put_header(t, NULL);
    else
        print_buffered(t);
    table_free(t);
}

void table_free(struct table *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->rows * t->count; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t);
}

void table_bytes(char *out, size_t room, unsigned long long bytes)
{
    static const char units[] = "KMGTP";
    double value = (double)bytes;
    int unit = -1;

    while (value >= 1024.0 && unit < 4) {
        value /= 1024.0;
        unit++;
    }
    if (unit < 0)
        snprintf(out, room, "%llu", bytes);
    else
        snprintf(out, room, value < 100.0 ? "%.1f%c" : "%.0f%c", value, units[unit]);
}

/* --- JSON ------------------------------------------------------------------------------------- */

static int is_number(const char *key)
{
    static const char *const numbers[] = {
        "array_job",     "array_task",
        "budget",        "bytes",
        "cached_tokens", "completion_tokens",
        "context",       "created",
        "end_us",        "engine_us",
        "file_bytes",    "percent",
        "prefetches",    "prefetch_hits",
        "grants",        "held",
        "het_job",       "het_offset",
        "job",           "kv_pages_total",
        "kv_pages_used", "kv_token_bytes",
        "lease",         "leases",
        "memory",        "pid",
        "preemptions",   "prompt_tokens",
        "requests",      "restarts",
        "row",           "running",
        "spills",        "start_us",
        "step_us",       "steps",
        "switch_bytes",  "switch_us",
        "switches",      "tokens",
        "ttft_us",       "turns",
        "uid",           "uptime",
        "used",          "waiting",
        "weight_bytes",
    };

    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        if (strcmp(numbers[i], key) == 0)
            return 1;
    return 0;
}

json_t *table_json(const struct wire *w)
{
    json_t *object = json_object();
    const char *key, *value;

    for (uint32_t at = 0; object && wire_next(w, &at, &key, &value);) {
        if (strcmp(key, "type") == 0)
            continue;
        json_t *v = is_number(key) ? json_integer(strtoll(value, NULL, 10)) : json_string(value);
        if (json_object_set_new(object, key, v ? v : json_null()) < 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}
