/* load.c - load, unload, drain, resume: one word of order, answered when it is done */
#include <getopt.h>
#include <stdio.h>

#include "cli/cli.h"

static int order(const struct cli *cli, int argc, char **argv, const char *key, const char *usage,
                 const char *text)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1)
        return c == 'h' ? cli_help(usage, text) : cli_usage(usage, NULL);
    if (argc - optind != 1)
        return cli_usage(usage, "%s: name one %s", argv[0], key);
    return cli_order(cli, argv[0], key, argv[optind]);
}

int cmd_load(const struct cli *cli, int argc, char **argv)
{
    return order(
        cli, argc, argv, "model", "modelpool load MODEL",
        "Make the model resident, evicting others if need be.  Root and the daemon's user.\n");
}

int cmd_unload(const struct cli *cli, int argc, char **argv)
{
    return order(cli, argc, argv, "model", "modelpool unload MODEL",
                 "Take the model out of memory; a request brings it back.  Root and the daemon's "
                 "user.\n");
}

int cmd_drain(const struct cli *cli, int argc, char **argv)
{
    return order(cli, argc, argv, "instance", "modelpool drain INSTANCE",
                 "Give the instance no new requests and wait until it has none.  Root and the "
                 "daemon's user.\n");
}

int cmd_resume(const struct cli *cli, int argc, char **argv)
{
    return order(cli, argc, argv, "instance", "modelpool resume INSTANCE",
                 "Use a drained instance again.  Root and the daemon's user.\n");
}
