/* main.c - modelpool: the table of subcommands */
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "common/log.h"

#define USAGE "modelpool [--socket=PATH] COMMAND [OPTIONS]"

struct command {
    const char *name;
    command_f *run;
    const char *summary;
};

static const struct command commands[] = {
    {"list", cmd_list, "models, where they are and whether they can run"},
    {"status", cmd_status, "the daemon, its instances, models and leases"},
    {"run", cmd_run, "ask a model, and print its answer as it comes"},
    {"load", cmd_load, "make a model resident"},
    {"unload", cmd_unload, "take a model out of memory"},
    {"drain", cmd_drain, "give an instance no new requests, wait until it has none"},
    {"resume", cmd_resume, "use a drained instance again"},
    {"acct", cmd_acct, "the ledger: who used which model, and how much"},
    {"bench", cmd_bench, "what this node's GPU can do"},
    {"sim", cmd_sim, "what a scheduler would make of a load, by simulation"},
    {"inspect", cmd_inspect, "what a model's files hold, and whether it will run here"},
    {"config", cmd_config, "check a configuration file and the models it names"},
};
#define COMMANDS (sizeof(commands) / sizeof(*commands))

/* --- messages --------------------------------------------------------------------------------- */

int cli_fail(int code, const char *fmt, ...)
{
    va_list ap;

    fflush(stdout);
    fputs("modelpool: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return code;
}

int cli_usage(const char *usage, const char *fmt, ...)
{
    va_list ap;

    if (fmt) {
        fputs("modelpool: ", stderr);
        va_start(ap, fmt);
        vfprintf(stderr, fmt, ap);
        va_end(ap);
        fputc('\n', stderr);
    }
    fprintf(stderr, "usage: %s\n", usage);
    return EXIT_USAGE;
}

int cli_help(const char *usage, const char *text)
{
    printf("usage: %s\n%s", usage, text);
    return EXIT_OK;
}

static int help(void)
{
    printf("usage: %s\n\n", USAGE);
    for (size_t i = 0; i < COMMANDS; i++)
        printf("  %-8s %s\n", commands[i].name, commands[i].summary);
    printf("\n`modelpool COMMAND --help` shows a command's options; see modelpool(1).\n");
    return EXIT_OK;
}

/* --- the program ------------------------------------------------------------------------------ */

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static void read_environment(struct cli *cli)
{
    const char *socket = getenv("MODELPOOL_CONTROL");
    const char *url = getenv("OPENAI_BASE_URL"), *key = getenv("OPENAI_API_KEY");
    const char *tmp = getenv("TMPDIR");

    cli->socket = socket && *socket ? socket : RUNSTATEDIR "/modelpool/control.sock";
    cli->base_url = url && *url ? url : NULL;
    cli->api_key = key && *key ? key : NULL;
    cli->tmp = tmp && *tmp ? tmp : NULL;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'},
        {"socket", required_argument, NULL, 's'},
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    struct cli cli;
    int c;

    log_init("modelpool", LOG_LEVEL_WARN);
    read_environment(&cli);
    while ((c = getopt_long(argc, argv, "+hs:V", options, NULL)) != -1) {
        switch (c) {
        case 'h':
            return help();
        case 's':
            cli.socket = optarg;
            break;
        case 'V':
            puts("modelpool " MODELPOOL_RELEASE);
            return EXIT_OK;
        default:
            return cli_usage(USAGE, NULL);
        }
    }
    if (optind == argc)
        return cli_usage(USAGE, "which command? `modelpool --help` lists them");
    const struct command *command = find_command(argv[optind]);
    if (!command)
        return cli_usage(USAGE, "no command \"%s\": `modelpool --help` lists them", argv[optind]);
    argc -= optind;
    argv += optind;
    optind = 0; /* glibc: begin anew */
    int code = command->run(&cli, argc, argv);
    if (fflush(stdout) != 0 && code == EXIT_OK)
        return cli_fail(EXIT_REFUSED, "standard output: cannot be written");
    return code;
}
