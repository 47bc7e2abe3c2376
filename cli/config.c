/* config.c - modelpool config check: the file, and the models that it names */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/model_report.h"
#include "cli/table.h"
#include "common/config.h"

#define USAGE "modelpool config check [FILE]"
#define HELP                                                                                       \
    "Read FILE (" SYSCONFDIR                                                                       \
    "/modelpool/modelpool.conf if none is given) as the daemon would, and\n"                       \
    "open every model: its files, architecture, tokenizer and chat template.  Exit 1 if "          \
    "something "                                                                                   \
    "is\n"                                                                                         \
    "wrong, with a line for each.\n"

/* What the largest instance has; 0: there is none. */
static uint64_t most_memory(const struct config *c)
{
    uint64_t most = 0;

    for (size_t i = 0; i < c->instance_count; i++)
        if (c->instances[i].memory_bytes > most)
            most = c->instances[i].memory_bytes;
    return most;
}

static int check_model(const struct config *c, const struct config_model *m, struct error *err)
{
    int rv = -1;
    struct model_report *r = calloc(1, sizeof(*r));
    char size[32];

    if (!r)
        return error_set(err, STATUS_NOMEM, "out of memory");
    if (model_report_read(r, m->path, most_memory(c), err) < 0)
        goto out;
    if (r->refused) {
        *err = r->refusal;
        goto out;
    }
    if (m->max_context > r->arch.context) {
        error_set(err, STATUS_INVALID, "MaxContext=%" PRIu32 ": the model has %" PRIu32 " tokens",
                  m->max_context, r->arch.context);
        goto out;
    }
    table_bytes(size, sizeof(size), r->memory_bytes);
    printf("Model=%s: %s, %" PRIu32 " layers, %" PRIu32 " tokens of context, %s\n", m->name,
           r->arch.family, r->arch.layers, m->max_context ? m->max_context : r->arch.context, size);
    rv = 0;
out:
    model_report_free(r);
    free(r);
    return rv;
}

static int check(const char *path)
{
    struct error err;
    size_t wrong = 0;
    struct config *c = config_read(path, NULL, &err);

    if (!c)
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    for (size_t i = 0; i < c->model_count; i++)
        if (check_model(c, &c->models[i], &err) < 0) {
            cli_fail(EXIT_REFUSED, "%s: Model=%s: %s", path, c->models[i].name, err.text);
            wrong++;
        }
    if (c->model_count == 0)
        wrong += (size_t)cli_fail(1, "%s: there is no Model= line", path);
    if (c->instance_count == 0)
        wrong += (size_t)cli_fail(1, "%s: there is no Instance= line", path);
    if (!wrong)
        printf("%s: %zu models, %zu instances, no errors\n", path, c->model_count,
               c->instance_count);
    config_destroy(c);
    return wrong ? EXIT_REFUSED : EXIT_OK;
}

int cmd_config(const struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int c;

    (void)cli;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1)
        return c == 'h' ? cli_help(USAGE, HELP) : cli_usage(USAGE, NULL);
    if (optind == argc || strcmp(argv[optind], "check") != 0)
        return cli_usage(USAGE, "config: what is built is `config check`");
    if (argc - optind > 2)
        return cli_usage(USAGE, "config check: one file");
    return check(argc - optind == 2 ? argv[optind + 1] : SYSCONFDIR "/modelpool/modelpool.conf");
}
