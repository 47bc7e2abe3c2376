/* bench.c - modelpool bench: what this node's GPU can do; modelpool-engine measures it */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#define USAGE "modelpool bench [--gpu=N] [--json] limits|matmul|attention"
#define HELP                                                                                       \
    "limits: how fast this node's GPU reads its memory, copies to and from the host, multiplies\n" \
    "and maps memory.  matmul, attention: how near the engine's own products, and its "            \
    "attention,\n"                                                                                 \
    "come to that.  A table of medians; --json prints every sample, with the machine and the\n"    \
    "driver.  Nothing else should run on the GPU meanwhile.  The daemon is not asked.\n"
#define ENGINE LIBEXECDIR "/modelpool-engine"

int cmd_bench(const struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {{"gpu", required_argument, NULL, 'g'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"json", no_argument, NULL, 'j'},
                                            {NULL, 0, NULL, 0}};
    char what[64] = "--bench=", gpu[32] = "--gpu=0";
    char *engine[] = {"modelpool-engine", what, gpu, NULL, NULL};
    int c;

    (void)cli;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 'g':
            if (strlen(optarg) > 4 || strspn(optarg, "0123456789") != strlen(optarg) || !*optarg)
                return cli_usage(USAGE, "bench: --gpu=%s: the number of a GPU", optarg);
            snprintf(gpu, sizeof(gpu), "--gpu=%s", optarg);
            break;
        case 'h':
            return cli_help(USAGE, HELP);
        case 'j':
            engine[3] = "--json";
            break;
        default:
            return cli_usage(USAGE, NULL);
        }
    }
    if (argc - optind != 1 ||
        (strcmp(argv[optind], "limits") != 0 && strcmp(argv[optind], "matmul") != 0 &&
         strcmp(argv[optind], "attention") != 0))
        return cli_usage(USAGE, "bench: which one? There are limits, matmul and attention");
    snprintf(what, sizeof(what), "--bench=%s", argv[optind]);
    execv(ENGINE, engine);
    return cli_fail(EXIT_REFUSED, ENGINE ": %s", strerror(errno));
}
