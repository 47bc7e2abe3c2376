/* serve_options.c - the command line of modelpool bench serve */
#include <stdlib.h>
#include <string.h>

#include "cli/serve.h"
#include "common/config.h"

#define USAGE "modelpool bench serve [OPTIONS] [TRACE.csv]"
#define HELP                                                                                       \
    "Replay a trace, or one that is made up, against the running pool over HTTP, and report\n"     \
    "what `modelpool sim` reports of a simulated one.  Load and fleet are described by the\n"      \
    "options of `modelpool sim`; models are the pool's, or, as kinds, those of --costs.\n\n"       \
    "      --predict         simulate the same arrivals, beside each figure\n"                     \
    "      --costs=FILE      what models cost; default: what the daemon has measured; models\n"    \
    "                        that it has not are loaded before the trace\n"                        \
    "      --write-costs=FILE  write what was measured\n"                                          \
    "      --warmup=TIME     requests that arrive before are sent and not counted\n"               \
    "      --json --trace=FILE --plot=FILE.svg\n"                                                  \
    "  a pool of its own, with random weights, which ends with the run:\n"                         \
    "      --shapes=NAME:COUNT,...  models; COUNT names share one file\n"                          \
    "      --memory=SIZE     of an instance, for weights and KV\n"                                 \
    "      --host-cache=SIZE of copies of weights in host memory\n"                                \
    "      --scheduler=NAME --turn=TIME --gpus=N (instances; default: slack, 0.25s, 1)\n"          \
    "      --admit           refuse what cannot be promised; default: all are taken\n"             \
    "      --device=cpu|cuda --dtype=TYPE --threads=N --max-batch=N\n"                             \
    "      --folder=DIR      make the models there, and find them there again\n"

#define OWN(o)    ((o) >= OWN_FIRST)
#define LONGS_MAX 96

enum own_option {
    OWN_FIRST = 1024,
    OWN_DEVICE = OWN_FIRST,
    OWN_DTYPE,
    OWN_FOLDER,
    OWN_HOST_CACHE,
    OWN_MAX_BATCH,
    OWN_MEMORY,
    OWN_PREDICT,
    OWN_SHAPES,
    OWN_THREADS,
    OWN_WARMUP,
    OWN_WRITE_COSTS
};

static const struct option own_options[] = {
    {"device", required_argument, NULL, OWN_DEVICE},
    {"dtype", required_argument, NULL, OWN_DTYPE},
    {"folder", required_argument, NULL, OWN_FOLDER},
    {"host-cache", required_argument, NULL, OWN_HOST_CACHE},
    {"max-batch", required_argument, NULL, OWN_MAX_BATCH},
    {"memory", required_argument, NULL, OWN_MEMORY},
    {"predict", no_argument, NULL, OWN_PREDICT},
    {"shapes", required_argument, NULL, OWN_SHAPES},
    {"threads", required_argument, NULL, OWN_THREADS},
    {"warmup", required_argument, NULL, OWN_WARMUP},
    {"write-costs", required_argument, NULL, OWN_WRITE_COSTS},
};

/* --- options ------------------------------------------------------------------------------------
 */

/* The simulator's options that mean something here, and our own. */
static void make_longs(struct option longs[LONGS_MAX])
{
    size_t n = 0;

    for (const struct option *o = sim_long_options; o->name != NULL; o++)
        if (o->val != OPT_ROLES && o->val != OPT_PAPER && o->val != OPT_ONLY &&
            o->val != OPT_SEEDS && n < LONGS_MAX - 1)
            longs[n++] = *o;
    for (size_t i = 0; i < sizeof own_options / sizeof own_options[0] && n < LONGS_MAX - 1; i++)
        longs[n++] = own_options[i];
    longs[n] = (struct option){NULL, 0, NULL, 0};
}

static int is_count(const char *text)
{
    return *text >= '1' && *text <= '9' && strspn(text, "0123456789") == strlen(text) &&
           strlen(text) < 6;
}

static int set_shapes(struct serve_options *o, const char *value)
{
    const char *list = value;
    char name[64];
    uint32_t count;
    int more;

    while ((more = serve_shape_next(&list, name, &count)) == 1)
        ;
    if (more < 0 || *value == '\0')
        return cli_usage(USAGE, "bench serve: --shapes=%s: give NAME:COUNT,...", value);
    o->private.shapes = value;
    return 0;
}

static int set_private(struct serve_options *o, int c, const char *value)
{
    struct serve_private *p = &o->private;
    uint64_t bytes;

    switch (c) {
    case OWN_DEVICE:
        p->device = value;
        if (strcmp(value, "cpu") != 0 && strcmp(value, "cuda") != 0)
            return cli_usage(USAGE, "bench serve: --device=%s: cpu or cuda", value);
        return 0;
    case OWN_DTYPE:
        p->dtype = value;
        return strcspn(value, "/ ") == strlen(value)
                   ? 0
                   : cli_usage(USAGE, "bench serve: --dtype=%s: no type of weights", value);
    case OWN_FOLDER:
        p->folder = value;
        return value[0] == '/' && strlen(value) < 256 && strpbrk(value, "\"\n") == NULL
                   ? 0
                   : cli_usage(USAGE, "bench serve: --folder=%s: an absolute path", value);
    case OWN_HOST_CACHE:
    case OWN_MEMORY:
        *(c == OWN_MEMORY ? &p->memory : &p->host_cache) = value;
        return config_parse_size(value, &bytes, NULL) == 0
                   ? 0
                   : cli_usage(USAGE, "bench serve: \"%s\": a size, as 4G", value);
    case OWN_MAX_BATCH:
    case OWN_THREADS:
        *(c == OWN_THREADS ? &p->threads : &p->max_batch) = value;
        return is_count(value) ? 0 : cli_usage(USAGE, "bench serve: \"%s\" is no count", value);
    default:
        return set_shapes(o, value);
    }
}

static int set_own(struct serve_options *o, int c, const char *value)
{
    int64_t us;

    switch (c) {
    case OWN_PREDICT:
        o->predict = 1;
        return 0;
    case OWN_WARMUP:
        if (config_parse_time(value, &us, NULL) != 0 || us < 0)
            return cli_usage(USAGE, "bench serve: --warmup=%s: a time, as 10s", value);
        o->warmup = (double)us / 1e6;
        return 0;
    case OWN_WRITE_COSTS:
        o->write_costs = value;
        return 0;
    default:
        if (c != OWN_SHAPES)
            o->private_only = "--device=, --dtype=, --folder=, --host-cache=, --max-batch=, "
                              "--memory= and --threads=";
        return set_private(o, c, value);
    }
}

static int set_option(struct serve_options *o, int c, const char *value)
{
    struct error err;

    if (OWN(c))
        return set_own(o, c, value);
    switch (c) {
    case OPT_COSTS:
        o->costs = value;
        return 0;
    case OPT_JSON:
        o->json = 1;
        return 0;
    case OPT_PLOT:
        o->plot = value;
        return 0;
    case OPT_TRACE:
        o->trace_out = value;
        return 0;
    case OPT_ADMIT:
    case OPT_GPUS:
    case OPT_SCHEDULER:
    case OPT_TURN:
        o->private_only = "--admit, --gpus=, --scheduler= and --turn=";
        break;
    case OPT_DURATION:
        o->duration_given = 1;
        break;
    case OPT_MODELS:
        o->models_given = 1;
        break;
    case OPT_PREFETCH:
        o->prefetch_given = 1;
        break;
    default:
        break;
    }
    return sim_set_option(&o->setup, c, value, &err) == 0
               ? 0
               : cli_usage(USAGE, "bench serve: %s", err.text);
}

static int check(struct serve_options *o)
{
    struct serve_private *p = &o->private;

    if (p->shapes == NULL && o->private_only != NULL)
        return cli_usage(USAGE,
                         "bench serve: %s describe a pool of its own (--shapes=); the running "
                         "pool has its own",
                         o->private_only);
    if (p->shapes != NULL && p->memory == NULL)
        return cli_usage(USAGE, "bench serve: --shapes= wants --memory=, of an instance");
    if (p->shapes != NULL && o->models_given)
        return cli_usage(USAGE, "bench serve: --shapes= says how many models there are");
    if (p->dtype == NULL)
        p->dtype = strcmp(p->device, "cuda") == 0 ? "bf16" : "q8_0";
    p->scheduler = o->setup.fleet.scheduler;
    p->admit = o->setup.fleet.admit;
    p->instances = o->setup.fleet.devices;
    p->turn = o->setup.fleet.turn;
    return 0;
}

int serve_options(struct serve_options *o, int argc, char **argv, int *over)
{
    struct option longs[LONGS_MAX];
    int c, code;

    *o = (struct serve_options){.private = {.device = "cpu"}};
    sim_defaults(&o->setup);
    o->setup.fleet.devices = 1;
    o->setup.fleet.turn = 0.25;
    make_longs(longs);
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        if (c == 'h') {
            *over = 1;
            return cli_help(USAGE, HELP);
        }
        if (c == '?')
            return cli_usage(USAGE, NULL);
        if ((code = set_option(o, c, optarg)) != 0)
            return code;
    }
    if (argc - optind > 1)
        return cli_usage(USAGE, "bench serve: one trace, or none");
    o->trace_in = argc > optind ? argv[optind] : NULL;
    return check(o);
}
