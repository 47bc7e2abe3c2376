/* load.c - load, unload, drain, resume: one word of order, answered when it is done */
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#define LOOK_MS 300 /* between looks at how far a load is */

static int order(const struct cli *cli, int argc, char **argv, const char *key, const char *usage,
                 const char *text, cli_wait *wait)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1)
        return c == 'h' ? cli_help(usage, text) : cli_usage(usage, NULL);
    if (argc - optind != 1)
        return cli_usage(usage, "%s: name one %s", argv[0], key);
    return cli_order(cli, argv[0], key, argv[optind], wait);
}

/* --- load's progress, on a terminal ------------------------------------------------------------
 */

/* How far the model's master copy is prepared; -1: it is not, or nobody says. */
static int percent_of(const struct cli *cli, const char *model)
{
    int fd, percent = -1, more;
    struct wire w;

    if (cli_connect(cli, &fd) != EXIT_OK)
        return -1;
    wire_start(&w, "list");
    if (cli_send(fd, &w) == EXIT_OK) {
        while ((more = cli_receive(fd, &w)) > 0) {
            const char *name = wire_get(&w, "model"), *text = wire_get(&w, "percent");
            int n;

            if (name && text && strcmp(name, model) == 0 && sscanf(text, "%d", &n) == 1)
                percent = n;
        }
    }
    close(fd);
    return percent;
}

/* Until the answer is there. */
static void show_progress(const struct cli *cli, int fd, const char *model)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int shown = 0, percent;

    while (poll(&p, 1, LOOK_MS) == 0) {
        percent = percent_of(cli, model);
        if (percent < 0)
            continue;
        fprintf(stderr, "\rmodelpool: preparing %s: %d %%", model, percent);
        shown = 1;
    }
    if (shown)
        fprintf(stderr, "\r\033[K");
}

int cmd_load(const struct cli *cli, int argc, char **argv)
{
    return order(
        cli, argc, argv, "model", "modelpool load MODEL",
        "Make the model resident, evicting others if need be.  Root and the daemon's user.\n",
        isatty(STDERR_FILENO) ? show_progress : NULL);
}

int cmd_unload(const struct cli *cli, int argc, char **argv)
{
    return order(cli, argc, argv, "model", "modelpool unload MODEL",
                 "Take the model out of memory; a request brings it back.  Root and the daemon's "
                 "user.\n",
                 NULL);
}

int cmd_drain(const struct cli *cli, int argc, char **argv)
{
    return order(cli, argc, argv, "instance", "modelpool drain INSTANCE",
                 "Give the instance no new requests and wait until it has none.  Root and the "
                 "daemon's user.\n",
                 NULL);
}

int cmd_resume(const struct cli *cli, int argc, char **argv)
{
    return order(cli, argc, argv, "instance", "modelpool resume INSTANCE",
                 "Use a drained instance again.  Root and the daemon's user.\n", NULL);
}
