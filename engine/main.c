/* main.c - modelpool-engine: the process that owns an instance's device */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "common/log.h"
#include "common/order.h"
#include "engine/bench.h"
#include "engine/engine.h"

static const char usage[] =
    "usage: modelpool-engine [--help] [--version]\n"
    "       modelpool-engine --bench=limits|matmul [--gpu=N] [--json] [--machine=NAME]\n"
    "                        [--commit=NAME]\n"
    "\n"
    "Runs the models of one instance.  modelpoold starts it, with a socket as descriptor 3\n"
    "on which it takes orders.  By hand, it only measures what a GPU can do (limits) and how\n"
    "near its own matrix products come to that (matmul).\n";

/* -1: serve. */
static int parse(int argc, char **argv, struct bench *bench)
{
    static const struct option options[] = {
        {"bench", required_argument, NULL, 'b'}, {"commit", required_argument, NULL, 'c'},
        {"gpu", required_argument, NULL, 'g'},   {"help", no_argument, NULL, 'h'},
        {"json", no_argument, NULL, 'j'},        {"machine", required_argument, NULL, 'm'},
        {"version", no_argument, NULL, 'V'},     {NULL, 0, NULL, 0}};
    char *end;
    int c;

    while ((c = getopt_long(argc, argv, "hV", options, NULL)) != -1) {
        switch (c) {
        case 'b':
            bench->name = optarg;
            break;
        case 'c':
            bench->commit = optarg;
            break;
        case 'g':
            bench->gpu = (uint32_t)strtoul(optarg, &end, 10);
            if (*optarg < '0' || *optarg > '9' || *end || strlen(optarg) > 4) {
                fprintf(stderr, "modelpool-engine: --gpu=%s: the number of a GPU\n", optarg);
                return 2;
            }
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        case 'j':
            bench->json = 1;
            break;
        case 'm':
            bench->machine = optarg;
            break;
        case 'V':
            puts("modelpool-engine " MODELPOOL_RELEASE);
            return 0;
        default:
            return 2; /* getopt has said what is wrong */
        }
    }
    if (optind < argc) {
        fprintf(stderr, "modelpool-engine: unexpected argument '%s'\n", argv[optind]);
        return 2;
    }
    return -1;
}

/* The command line, for the record. */
static void command_line(char *to, size_t size, int argc, char **argv)
{
    size_t at = 0;

    to[0] = '\0';
    for (int i = 0; i < argc && at < size; i++)
        at += (size_t)snprintf(to + at, size - at, "%s%s", i ? " " : "",
                               i ? argv[i] : "modelpool-engine");
}

static int run_bench(struct bench *bench, int argc, char **argv)
{
    struct error err = {0};
    char command[512];

    command_line(command, sizeof(command), argc, argv);
    bench->command = command;
    if (bench_run(bench, stdout, &err) == 0)
        return EXIT_SUCCESS;
    fprintf(stderr, "modelpool-engine: %s\n", err.text);
    return err.status == STATUS_INVALID ? 2 : EXIT_FAILURE;
}

static int is_channel(int fd)
{
    int type = 0;
    socklen_t len = sizeof(type);

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
}

int main(int argc, char **argv)
{
    struct error err = {0};
    struct bench bench = {0};
    int code = parse(argc, argv, &bench);

    if (code >= 0)
        return code;
    if (bench.name)
        return run_bench(&bench, argc, argv);
    if (!is_channel(ORDER_FD)) {
        fputs("modelpool-engine: descriptor 3 is no channel: modelpoold starts this program, it "
              "does not run by hand\n",
              stderr);
        return 2;
    }
    log_init("modelpool-engine", LOG_LEVEL_INFO);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        log_error("cannot give up gaining privileges");
        return EXIT_FAILURE;
    }
    if (engine_serve(ORDER_FD, &err) != 0) {
        log_error("%s", err.text);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
