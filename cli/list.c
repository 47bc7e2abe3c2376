/* list.c - modelpool list: models, where they are and whether they can run */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/table.h"
#include "cli/time.h"

#define USAGE "modelpool list [--cache] [-p|-P|--json] [-n]"

static const struct table_column columns[] = {
    {"MODEL", 0, 1}, {"INSTANCE", 0, 1}, {"TIER", 0, 1},  {"STATE", 0, 1},
    {"SIZE", 0, 0},  {"CONTEXT", 0, 0},  {"TEXT", -1, 1},
};

static const struct table_column cache_columns[] = {
    {"MODEL", 0, 1},  {"TIER", 0, 1},     {"STATE", 0, 1},  {"SIZE", 0, 0},
    {"PINNED", 0, 1}, {"LASTUSED", 0, 1}, {"PLACE", -1, 1},
};

static void put_size(char *size, size_t room, const struct wire *w,
                     const struct table_format *format)
{
    const char *bytes = wire_get(w, "bytes");

    size[0] = '\0';
    if (bytes && format->parsable)
        snprintf(size, room, "%s", bytes);
    else if (bytes)
        table_bytes(size, room, strtoull(bytes, NULL, 10));
}

/* "preparing 42%" for people. */
static const char *put_state(char *state, size_t room, const struct wire *w,
                             const struct table_format *format)
{
    const char *percent = wire_get(w, "percent");

    if (!percent || format->parsable || !isatty(STDOUT_FILENO))
        return wire_get(w, "state");
    snprintf(state, room, "%s %s%%", wire_get(w, "state"), percent);
    return state;
}

static int print_cache(struct table *t, const struct wire *w, const struct table_format *format)
{
    char size[32], used[32] = "", state[64];
    const char *seconds = wire_get(w, "used");

    put_size(size, sizeof(size), w, format);
    if (seconds)
        time_print(used, sizeof(used), strtoll(seconds, NULL, 10));
    const char *cells[] = {wire_get(w, "model"),
                           wire_get(w, "tier"),
                           put_state(state, sizeof(state), w, format),
                           size,
                           wire_get(w, "pinned"),
                           used,
                           wire_get(w, "place")};
    return table_row(t, cells);
}

static int print_row(struct table *t, const struct wire *w, const struct table_format *format)
{
    char size[32], state[64];

    put_size(size, sizeof(size), w, format);
    const char *cells[] = {wire_get(w, "model"),
                           wire_get(w, "instance"),
                           wire_get(w, "tier"),
                           put_state(state, sizeof(state), w, format),
                           size,
                           wire_get(w, "context"),
                           wire_get(w, "text")};
    return table_row(t, cells);
}

static int receive(int fd, const struct table_format *format, int cache)
{
    int rv = EXIT_REFUSED, more;
    struct wire w;
    json_t *models = json_array();
    struct table *t =
        cache ? table_create(cache_columns, sizeof(cache_columns) / sizeof(*cache_columns), format,
                             stdout)
              : table_create(columns, sizeof(columns) / sizeof(*columns), format, stdout);

    if (!models || !t) {
        cli_fail(EXIT_REFUSED, "out of memory");
        goto out;
    }
    while ((more = cli_receive(fd, &w)) > 0)
        if (format->json ? json_array_append_new(models, table_json(&w)) < 0
                         : (cache ? print_cache : print_row)(t, &w, format) < 0) {
            cli_fail(EXIT_REFUSED, "out of memory");
            goto out;
        }
    rv = -more;
    if (rv == EXIT_OK && format->json) {
        json_t *all = json_pack("{s:O}", cache ? "caches" : "models", models);
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(all);
    } else if (rv == EXIT_OK) {
        table_end(t);
        t = NULL;
    }
out:
    json_decref(models);
    table_free(t);
    return rv;
}

int cmd_list(const struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'},
                                            {"cache", no_argument, NULL, 'c'},
                                            TABLE_OPTIONS,
                                            {NULL, 0, NULL, 0}};
    struct table_format format = {0};
    struct wire w;
    int c, fd, cache = 0;

    while ((c = getopt_long(argc, argv, "h" TABLE_SHORT, options, NULL)) != -1) {
        if (c == 'h')
            return cli_help(
                USAGE, "      --cache        where weights lie: disk, host, memory\n" TABLE_HELP);
        if (c == 'c')
            cache = 1;
        else if (!table_option(&format, c, optarg))
            return cli_usage(USAGE, NULL);
    }
    if (optind < argc)
        return cli_usage(USAGE, "list takes no \"%s\"", argv[optind]);
    int code = cli_connect(cli, &fd);
    if (code)
        return code;
    wire_start(&w, "list");
    if (cache)
        wire_put(&w, "cache", "1");
    code = cli_send(fd, &w);
    if (code == EXIT_OK)
        code = receive(fd, &format, cache);
    close(fd);
    return code;
}
