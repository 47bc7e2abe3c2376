/* bench.c - modelpool bench: what this node can do; modelpool-engine measures it */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/serve.h"

#define USAGE                                                                                      \
    "modelpool bench limits|matmul|attention|engine|switch|swap|soak|prepare|make-model|serve "    \
    "[OPTION...]"
#define HELP                                                                                       \
    "What this node can do, measured by modelpool-engine; the daemon is not asked, and nothing\n"  \
    "else should run on the device meanwhile.\n\n"                                                 \
    "  limits       how fast the GPU reads its memory, copies, multiplies and maps memory\n"       \
    "  matmul, attention  how near the engine's own come to that\n"                                \
    "  engine       how fast it decodes and reads prompts, with random weights of a shape\n"       \
    "  switch       how fast it goes from one model to another\n"                                  \
    "  swap         how fast KV goes to host memory and back\n"                                    \
    "  soak         whether memory stays flat\n"                                                   \
    "  prepare      a model's file (--model=) to a master copy in shared memory; on any node\n"    \
    "  make-model   write a model of a shape with random weights (--out=FILE.gguf)\n"              \
    "  serve        a trace against a pool: `modelpool bench serve --help`\n\n"                    \
    "A table of medians; --json prints every sample, with machine and driver.\n"                   \
    "  --gpu=N --json --device=cpu|cuda --precision=exact|fast --shape=NAME --dtype=TYPE\n"        \
    "  --batch=N --context=N --prompt=N --memory=MIB --host=MIB --threads=N --model=FILE\n"        \
    "  --steps=N --models=N --names=N --samples=N --deterministic\n"
#define ENGINE        LIBEXECDIR "/modelpool-engine"
#define ARG_MAX_COUNT 32

/* Whether the engine has such an option; it checks the value by itself. */
static int known(const char *option)
{
    static const char *const names[] = {
        "--gpu=",   "--json",          "--device=",  "--precision=", "--shape=",
        "--dtype=", "--batch=",        "--context=", "--prompt=",    "--memory=",
        "--host=",  "--threads=",      "--steps=",   "--models=",    "--model=",
        "--out=",   "--deterministic", "--names=",   "--samples="};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t len = strlen(names[i]);
        if (names[i][len - 1] == '=' ? strncmp(option, names[i], len) == 0
                                     : strcmp(option, names[i]) == 0)
            return 1;
    }
    return 0;
}

/* The bench's name may stand before or behind its options, which the engine checks. */
int cmd_bench(const struct cli *cli, int argc, char **argv)
{
    static const char *const names[] = {"limits", "matmul", "attention", "engine",    "switch",
                                        "swap",   "soak",   "prepare",   "make-model"};
    char what[64] = "";
    char *engine[ARG_MAX_COUNT + 2] = {"modelpool-engine", what};
    int count = 2;

    if (argc > 1 && strcmp(argv[1], "serve") == 0)
        return bench_serve(cli, argc - 1, argv + 1);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return cli_help(USAGE, HELP);
        if (argv[i][0] == '-') {
            if (!known(argv[i]))
                return cli_usage(USAGE, "bench: no option %s, or its value is missing", argv[i]);
            if (strncmp(argv[i], "--gpu=", 6) == 0 &&
                (argv[i][6] == '\0' || argv[i][6 + strspn(argv[i] + 6, "0123456789")] != '\0'))
                return cli_usage(USAGE, "bench: %s: the number of a GPU", argv[i]);
            if (count > ARG_MAX_COUNT)
                return cli_usage(USAGE, "bench: too many options");
            engine[count++] = argv[i];
            continue;
        }
        if (what[0] != '\0')
            return cli_usage(USAGE, "bench: one at a time: %s is one too many", argv[i]);
        for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
            if (strcmp(argv[i], names[n]) == 0)
                snprintf(what, sizeof(what), "--bench=%s", names[n]);
        if (what[0] == '\0')
            return cli_usage(USAGE,
                             "bench: no bench %s: there are limits, matmul, attention, engine, "
                             "switch, swap, soak, prepare, make-model and serve",
                             argv[i]);
    }
    if (what[0] == '\0')
        return cli_usage(USAGE, "bench: which one? There are limits, matmul, attention, engine, "
                                "switch, swap, soak, prepare, make-model and serve");
    execv(ENGINE, engine);
    return cli_fail(EXIT_REFUSED, ENGINE ": %s", strerror(errno));
}
