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
    "       modelpool-engine "
    "--bench=limits|matmul|attention|engine|switch|swap|soak|prepare|make-model\n"
    "                        [--gpu=N] [--json] [--model=FILE] [--out=FILE.gguf]\n"
    "                        [--machine=NAME] [--commit=NAME] [--device=cpu|cuda]\n"
    "                        [--shape=NAME] [--dtype=TYPE] [--precision=exact|fast]\n"
    "                        [--batch=N] [--context=N] [--prompt=N] [--memory=MIB]\n"
    "                        [--host=MIB] [--threads=N] [--steps=N] [--models=N] [--ranks=N]\n"
    "                        [--names=N] [--samples=N] [--deterministic]\n"
    "\n"
    "Runs the models of one instance.  modelpoold starts it, with a socket as descriptor 3\n"
    "on which it takes orders.  By hand, it only measures: what a GPU can do (limits), how near\n"
    "its own products and attention come to that (matmul, attention), and how fast it decodes and "
    "reads prompts\n"
    "with random weights of a known shape (engine), or goes from one model to another\n"
    "(switch; --memory must hold three of them, --host two, and three of 7 to 9B for the\n"
    "rotation of --names models), whether its memory stays as it is\n"
    "over --steps of --models models with sequences that come and go (soak), or how a model's\n"
    "file (--model) becomes a master copy in shared memory (prepare).  make-model writes a model "
    "of the shape to\n"
    "a file that modelpoold serves.\n";

/* A number of an option; -1 and a message if it is none. */
static int number(const char *option, const char *text, uint64_t max, uint64_t *n)
{
    char *end;

    *n = strtoull(text, &end, 10);
    if (*text >= '0' && *text <= '9' && *end == '\0' && strlen(text) <= 9 && *n <= max)
        return 0;
    fprintf(stderr, "modelpool-engine: --%s=%s: a number up to %llu\n", option, text,
            (unsigned long long)max);
    return -1;
}

/* A word of an option: its place in the list; -1 and a message. */
static int word(const char *option, const char *text, const char *a, const char *b)
{
    if (strcmp(text, a) == 0)
        return 0;
    if (strcmp(text, b) == 0)
        return 1;
    fprintf(stderr, "modelpool-engine: --%s=%s: %s or %s\n", option, text, a, b);
    return -1;
}

/* Options of --bench=engine.  -1: a message was printed. */
static int parse_engine(const char *option, const char *text, struct bench_engine *e)
{
    uint64_t n = 0;
    int i = 0;

    if (strcmp(option, "shape") == 0) {
        e->shape = text;
    } else if (strcmp(option, "model") == 0) {
        e->model = text;
    } else if (strcmp(option, "dtype") == 0) {
        e->dtype = text;
    } else if (strcmp(option, "device") == 0) {
        i = word(option, text, "cpu", "cuda");
        e->device = i == 1 ? ORDER_DEVICE_CUDA : ORDER_DEVICE_CPU;
    } else if (strcmp(option, "precision") == 0) {
        i = word(option, text, "exact", "fast");
        e->precision = i == 1 ? PRECISION_FAST : PRECISION_EXACT;
    } else if (strcmp(option, "memory") == 0) {
        i = number(option, text, 1u << 24, &n);
        e->memory_bytes = n << 20;
    } else if (strcmp(option, "host") == 0) {
        i = number(option, text, 1u << 24, &n);
        e->host_bytes = n << 20;
    } else {
        i = number(option, text, strcmp(option, "steps") == 0 ? 100000000u : 1u << 17, &n);
        if (strcmp(option, "steps") == 0)
            e->steps = (uint32_t)n;
        else if (strcmp(option, "models") == 0)
            e->models = (uint32_t)n;
        else if (strcmp(option, "names") == 0)
            e->names = (uint32_t)n;
        else if (strcmp(option, "samples") == 0)
            e->samples = (uint32_t)n;
        else if (strcmp(option, "batch") == 0)
            e->batch_max = (uint32_t)n;
        else if (strcmp(option, "context") == 0)
            e->context = (uint32_t)n;
        else if (strcmp(option, "prompt") == 0)
            e->prompt_max = (uint32_t)n;
        else if (strcmp(option, "ranks") == 0)
            e->ranks = (uint32_t)n;
        else
            e->threads = (uint32_t)n;
    }
    return i < 0 ? -1 : 0;
}

/* -1: serve. */
static int parse(int argc, char **argv, struct bench *bench)
{
    static const struct option options[] = {
        {"bench", required_argument, NULL, 'b'},   {"commit", required_argument, NULL, 'c'},
        {"gpu", required_argument, NULL, 'g'},     {"help", no_argument, NULL, 'h'},
        {"json", no_argument, NULL, 'j'},          {"machine", required_argument, NULL, 'm'},
        {"version", no_argument, NULL, 'V'},       {"shape", required_argument, NULL, 'e'},
        {"dtype", required_argument, NULL, 'e'},   {"device", required_argument, NULL, 'e'},
        {"memory", required_argument, NULL, 'e'},  {"precision", required_argument, NULL, 'e'},
        {"batch", required_argument, NULL, 'e'},   {"context", required_argument, NULL, 'e'},
        {"prompt", required_argument, NULL, 'e'},  {"threads", required_argument, NULL, 'e'},
        {"host", required_argument, NULL, 'e'},    {"model", required_argument, NULL, 'e'},
        {"models", required_argument, NULL, 'e'},  {"steps", required_argument, NULL, 'e'},
        {"out", required_argument, NULL, 'o'},     {"ranks", required_argument, NULL, 'e'},
        {"names", required_argument, NULL, 'e'},   {"samples", required_argument, NULL, 'e'},
        {"deterministic", no_argument, NULL, 'd'}, {NULL, 0, NULL, 0}};
    char *end;
    int c, at;

    while ((c = getopt_long(argc, argv, "hV", options, &at)) != -1) {
        switch (c) {
        case 'e':
            if (parse_engine(options[at].name, optarg, &bench->engine) != 0)
                return 2;
            break;
        case 'b':
            bench->name = optarg;
            break;
        case 'c':
            bench->commit = optarg;
            break;
        case 'd':
            bench->engine.deterministic = 1;
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
        case 'o':
            bench->out = optarg;
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
    struct bench bench = {.engine = {.shape = "llama3-8b",
                                     .dtype = "bf16",
                                     .device = ORDER_DEVICE_CUDA,
                                     .precision = PRECISION_FAST,
                                     .memory_bytes = (uint64_t)64 << 30,
                                     .batch_max = STEP_BATCH_MAX,
                                     .context = 512,
                                     .prompt_max = 8192,
                                     .steps = 200000,
                                     .models = 1}};
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
