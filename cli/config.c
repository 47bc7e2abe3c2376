/* config.c - modelpool config check: the file, and the models that it names */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"
#include "common/config.h"
#include "model/arch.h"
#include "model/template.h"
#include "model/tokenizer.h"

#define USAGE "modelpool config check [FILE]"
#define HELP                                                                                       \
    "Read FILE (" SYSCONFDIR                                                                       \
    "/modelpool/modelpool.conf if none is given) as the daemon would, and\n"                       \
    "open every model: its file, architecture, tokenizer and chat template.  Exit 1 if something " \
    "is\n"                                                                                         \
    "wrong, with a line for each.\n"

/* A model without a template serves completions, but no chat. */
static int check_template(const struct gguf *g, struct error *err)
{
    struct gguf_string source;
    int found = gguf_get_string(g, "tokenizer.chat_template", &source, err);

    if (found != 0)
        return found < 0 ? -1 : 0;
    struct template *t = template_create(source.data, (size_t)source.len, err);
    if (!t)
        return error_wrap(err, "chat template");
    template_destroy(t);
    return 0;
}

/* Some instance must have room for the weights. */
static int check_memory(const struct config *c, uint64_t bytes, struct error *err)
{
    uint64_t most = 0;

    for (size_t i = 0; i < c->instance_count; i++)
        if (c->instances[i].memory_bytes > most)
            most = c->instances[i].memory_bytes;
    if (c->instance_count && bytes > most)
        return error_set(err, STATUS_EXHAUSTED,
                         "%" PRIu64
                         " bytes of weights fit into no instance: the largest has Memory= "
                         "%" PRIu64,
                         bytes, most);
    return 0;
}

static int check_model(const struct config *c, const struct config_model *m, struct error *err)
{
    int rv = -1;
    struct arch arch;
    struct tokenizer *tokenizer = NULL;
    struct gguf *g = gguf_open(m->path, err);
    char size[32];

    if (!g)
        return -1;
    if (arch_read(&arch, g, err) < 0 || check_memory(c, gguf_file_bytes(g), err) < 0)
        goto out;
    tokenizer = tokenizer_create(g, err);
    if (!tokenizer) {
        error_wrap(err, "tokenizer");
        goto out;
    }
    if (check_template(g, err) < 0)
        goto out;
    if (m->max_context > arch.context) {
        error_set(err, STATUS_INVALID, "MaxContext=%" PRIu32 ": the model has %" PRIu32 " tokens",
                  m->max_context, arch.context);
        goto out;
    }
    table_bytes(size, sizeof(size), gguf_file_bytes(g));
    printf("Model=%s: %s, %" PRIu32 " layers, %" PRIu32 " tokens of context, %s\n", m->name,
           arch.family, arch.layers, m->max_context ? m->max_context : arch.context, size);
    rv = 0;
out:
    tokenizer_destroy(tokenizer);
    gguf_close(g);
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
