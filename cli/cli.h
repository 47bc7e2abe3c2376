/*
 * cli.h - what the subcommands of modelpool share
 *
 * Each subcommand is a file of its own with one function of type command_f; main.c has the table.
 * It returns the exit code of the program and has printed its error, one line, to stderr.
 */
#ifndef MP_CLI_CLI_H
#define MP_CLI_CLI_H

#include <stdint.h>

#include "common/error.h"
#include "common/wire.h"

enum exit_code {
    EXIT_OK = 0,
    EXIT_REFUSED = 1,      /* the daemon or the server said no, or something of ours failed */
    EXIT_USAGE = 2,        /* the command line is wrong */
    EXIT_UNREACHABLE = 3,  /* no daemon answers */
    EXIT_INTERRUPTED = 130 /* Ctrl-C */
};

struct cli { /* from the environment and the options before the subcommand; read by main alone */
    const char *socket;   /* of the daemon: --socket, MODELPOOL_CONTROL, or the default */
    const char *base_url; /* OPENAI_BASE_URL; NULL: not set */
    const char *api_key;  /* OPENAI_API_KEY; NULL: not set */
    const char *tmp;      /* TMPDIR; NULL: /tmp */
};

/* argv[0] is the subcommand's name; optind is 1 and opterr on. */
typedef int command_f(const struct cli *cli, int argc, char **argv);

command_f cmd_acct, cmd_bench, cmd_config, cmd_drain, cmd_inspect, cmd_list, cmd_load, cmd_resume,
    cmd_run, cmd_sim, cmd_status, cmd_unload;

/* "modelpool: TEXT" to stderr; returns the code, so that `return cli_fail(...)` works. */
int cli_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A wrong command line: the text and the usage line; EXIT_USAGE.  fmt NULL: getopt has said what.
 */
int cli_usage(const char *usage, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* 1 if argv has --help (or -h where that is no other option): the usage was printed to stdout. */
int cli_help(const char *usage, const char *text);

/* --- connect.c --- */
/* Connect and say hello.  0 with *fd, or the exit code after the error was printed. */
int cli_connect(const struct cli *cli, int *fd);
/* Send a request.  0, or the exit code as above. */
int cli_send(int fd, const struct wire *w);
/* The next message of the answer, waited for as long as it takes: 1 a row, 0 the end ("end", or the
 * one message that answers), negative: minus the exit code, the error was printed. */
int cli_receive(int fd, struct wire *w);
/* Returns when the connection has something to read. */
typedef void cli_wait(const struct cli *cli, int fd, const char *value);
/* A request that is answered by one line of text: sends, prints it, returns the exit code.  wait:
 * what to do until then, or NULL. */
int cli_order(const struct cli *cli, const char *type, const char *key, const char *value,
              cli_wait *wait);

#endif
