/* main.c - modelpool-engine: the process that owns an instance's device */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "common/log.h"
#include "common/order.h"
#include "engine/engine.h"

static const char usage[] =
    "usage: modelpool-engine [--help] [--version]\n"
    "\n"
    "Runs the models of one instance.  modelpoold starts it, with a socket as descriptor 3\n"
    "on which it takes orders; it is of no use by hand.\n";

static int parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "hV", options, NULL)) != -1) {
        if (c == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (c == 'V') {
            puts("modelpool-engine " MODELPOOL_RELEASE);
            return 0;
        }
        return 2; /* getopt has said what is wrong */
    }
    if (optind < argc) {
        fprintf(stderr, "modelpool-engine: unexpected argument '%s'\n", argv[optind]);
        return 2;
    }
    return -1;
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
    int code = parse(argc, argv);

    if (code >= 0)
        return code;
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
