/* list.c - modelpool list: models, where they are and whether they can run */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/table.h"

#define USAGE "modelpool list [-p|-P|--json] [-n]"

static const struct table_column columns[] = {
    {"MODEL", 0, 1}, {"INSTANCE", 0, 1}, {"TIER", 0, 1},  {"STATE", 0, 1},
    {"SIZE", 0, 0},  {"CONTEXT", 0, 0},  {"TEXT", -1, 1},
};

static int print_row(struct table *t, const struct wire *w, const struct table_format *format)
{
    char size[32] = "";
    const char *bytes = wire_get(w, "bytes");

    if (bytes && format->parsable)
        snprintf(size, sizeof(size), "%s", bytes);
    else if (bytes)
        table_bytes(size, sizeof(size), strtoull(bytes, NULL, 10));
    const char *cells[] = {wire_get(w, "model"),
                           wire_get(w, "instance"),
                           wire_get(w, "tier"),
                           wire_get(w, "state"),
                           size,
                           wire_get(w, "context"),
                           wire_get(w, "text")};
    return table_row(t, cells);
}

static int receive(int fd, const struct table_format *format)
{
    int rv = EXIT_REFUSED, more;
    struct wire w;
    json_t *models = json_array();
    struct table *t = table_create(columns, sizeof(columns) / sizeof(*columns), format, stdout);

    if (!models || !t) {
        cli_fail(EXIT_REFUSED, "out of memory");
        goto out;
    }
    while ((more = cli_receive(fd, &w)) > 0)
        if (format->json ? json_array_append_new(models, table_json(&w)) < 0
                         : print_row(t, &w, format) < 0) {
            cli_fail(EXIT_REFUSED, "out of memory");
            goto out;
        }
    rv = -more;
    if (rv == EXIT_OK && format->json) {
        json_t *all = json_pack("{s:O}", "models", models);
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
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'}, TABLE_OPTIONS, {NULL, 0, NULL, 0}};
    struct table_format format = {0};
    struct wire w;
    int c, fd;

    while ((c = getopt_long(argc, argv, "h" TABLE_SHORT, options, NULL)) != -1) {
        if (c == 'h')
            return cli_help(USAGE, TABLE_HELP);
        if (!table_option(&format, c, optarg))
            return cli_usage(USAGE, NULL);
    }
    if (optind < argc)
        return cli_usage(USAGE, "list takes no \"%s\"", argv[optind]);
    int code = cli_connect(cli, &fd);
    if (code)
        return code;
    wire_start(&w, "list");
    code = cli_send(fd, &w);
    if (code == EXIT_OK)
        code = receive(fd, &format);
    close(fd);
    return code;
}
