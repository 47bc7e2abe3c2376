/* sim.c - modelpool sim: what a scheduler would make of a load, on devices that are only costs */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/sim_command.h"
#include "common/config.h"

#define USAGE "modelpool sim [OPTIONS] [TRACE.csv] | sim --paper [--seeds=N] [--only=NAME] [--json]"
#define HELP                                                                                       \
    "Replay a trace, or one that is made up, with a scheduler, on devices that are only costs.\n"  \
    "Nothing is asked of the daemon.\n\n"                                                          \
    "      --scheduler=NAME  rr, fcfs, sjf, aegaeon or slack; default: slack\n"                    \
    "      --gpus=N          devices; default: 16\n"                                               \
    "      --roles=NpMd      N for prefill, M for decoding; default: all mixed\n"                  \
    "      --costs=FILE      of models on a device, or h800, h100, a10; default: h800\n"           \
    "      --switch=HOW      file (Switch= of the costs), link (bytes over the link), or "         \
    "seconds\n"                                                                                    \
    "      --prefetch=HOW    behind (the running turn), none, half (by chance); default: behind\n" \
    "      --host-memory=SIZE  of a node, for weights; others come from disk; default: all fit\n"  \
    "      --node-gpus=N     GPUs of a node; default: 8\n"                                         \
    "      --turn=TIME       the longest turn while others wait; default: 0.5s\n"                  \
    "      --starve=TIME     who has waited so long is next; default: 60s\n"                       \
    "      --slo=TTFT:TBT    default: 10s:100ms\n"                                                 \
    "      --admit           refuse what cannot be promised\n"                                     \
    "  made up:\n"                                                                                 \
    "      --models=N --rate=R --duration=TIME --seed=N --tenants=N\n"                             \
    "                        models, requests/s of each, ...; default: 70, 0.1, 300s, 1, 1\n"      \
    "      --cv=X            Gamma arrivals of this coefficient of variation; default: Poisson\n"  \
    "      --zipf=X          popularity of models falls by this exponent; default: all alike\n"    \
    "      --diurnal=X --day=TIME  the rate's swing about its mean, 0 to 1\n"                      \
    "      --input=LAW --output=LAW --input-scale=X --output-scale=X\n"                            \
    "                        lognormal:MU,SIGMA exponential:MEAN fixed:N "                         \
    "quantile:P0,P50,P95,P100\n"                                                                   \
    "      --burst=NAMES     at a quarter of the time, on top: models, flood, prompts, kv\n"       \
    "  results:\n"                                                                                 \
    "      --json            JSON\n"                                                               \
    "      --trace=FILE      write the trace\n"                                                    \
    "      --plot=FILE.svg   draw the turns (--paper: attainment over models); needs gnuplot\n"    \
    "      --paper           the published case: models at 90 % attainment, by policy\n"           \
    "      --growth          what a decision and a simulation cost as they grow; CSV\n"

/* The lengths of the published workload. */
#define PAPER_INPUT  "lognormal:6.30,0.735"
#define PAPER_OUTPUT "quantile:9,267,770,1400"

enum more_options { OPT_BURST = 512, OPT_GROWTH, OPT_HOST_MEMORY, OPT_NODE_GPUS };

struct options {
    struct sim_setup setup;
    const char *costs, *trace_out, *plot, *only;
    uint32_t seeds;
    int json, paper, growth;
};

/* --- costs ------------------------------------------------------------------------------------ */

int sim_read_costs(struct cost_table *t, const char *path, struct error *err)
{
    char full[1024], *text = NULL;
    size_t room = 1u << 20, got;
    FILE *file;
    int rv = -1;

    if (strpbrk(path, "/.") == NULL)
        snprintf(full, sizeof full, "%s/%s.conf", COSTSDIR, path);
    else
        snprintf(full, sizeof full, "%s", path);
    file = fopen(full, "re");
    if (file == NULL)
        return error_errno(err, "%s", full);
    text = malloc(room + 1);
    if (text == NULL) {
        error_set(err, STATUS_NOMEM, "sim: out of memory");
        goto out;
    }
    got = fread(text, 1, room, file);
    if (ferror(file)) {
        error_errno(err, "%s", full);
        goto out;
    }
    text[got] = '\0';
    if (got == room || memchr(text, '\0', got) != NULL) {
        error_set(err, STATUS_INVALID, "%s: is no file of costs", full);
        goto out;
    }
    rv = cost_table_parse(t, text, full, err);
out:
    free(text);
    fclose(file);
    return rv;
}

void sim_setup_switches(struct sim_setup *u)
{
    for (size_t i = 0; i < u->costs.model_count; i++) {
        struct cost_entry *m = &u->costs.models[i];

        if (u->switch_seconds > 0)
            m->cost.load = u->switch_seconds;
        else if (u->switch_link || m->published_switch <= 0)
            m->cost.load = m->weight_bytes / u->costs.link;
        else
            m->cost.load = m->published_switch;
    }
}

/* --- options ---------------------------------------------------------------------------------- */

const struct option sim_long_options[] = {
    {"admit", no_argument, NULL, OPT_ADMIT},
    {"burst", required_argument, NULL, OPT_BURST},
    {"costs", required_argument, NULL, OPT_COSTS},
    {"cv", required_argument, NULL, OPT_CV},
    {"day", required_argument, NULL, OPT_DAY},
    {"diurnal", required_argument, NULL, OPT_DIURNAL},
    {"duration", required_argument, NULL, OPT_DURATION},
    {"gpus", required_argument, NULL, OPT_GPUS},
    {"growth", no_argument, NULL, OPT_GROWTH},
    {"help", no_argument, NULL, 'h'},
    {"host-memory", required_argument, NULL, OPT_HOST_MEMORY},
    {"input", required_argument, NULL, OPT_INPUT},
    {"input-scale", required_argument, NULL, OPT_INPUT_SCALE},
    {"json", no_argument, NULL, OPT_JSON},
    {"models", required_argument, NULL, OPT_MODELS},
    {"node-gpus", required_argument, NULL, OPT_NODE_GPUS},
    {"only", required_argument, NULL, OPT_ONLY},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"output-scale", required_argument, NULL, OPT_OUTPUT_SCALE},
    {"paper", no_argument, NULL, OPT_PAPER},
    {"plot", required_argument, NULL, OPT_PLOT},
    {"prefetch", required_argument, NULL, OPT_PREFETCH},
    {"rate", required_argument, NULL, OPT_RATE},
    {"roles", required_argument, NULL, OPT_ROLES},
    {"scheduler", required_argument, NULL, OPT_SCHEDULER},
    {"seed", required_argument, NULL, OPT_SEED},
    {"seeds", required_argument, NULL, OPT_SEEDS},
    {"slo", required_argument, NULL, OPT_SLO},
    {"starve", required_argument, NULL, OPT_STARVE},
    {"switch", required_argument, NULL, OPT_SWITCH},
    {"tenants", required_argument, NULL, OPT_TENANTS},
    {"trace", required_argument, NULL, OPT_TRACE},
    {"turn", required_argument, NULL, OPT_TURN},
    {"zipf", required_argument, NULL, OPT_ZIPF},
    {NULL, 0, NULL, 0},
};

static int bad(struct error *err, const char *what, const char *value)
{
    return error_set(err, STATUS_INVALID, "%s: \"%s\"", what, value);
}

/* A number within bounds. */
static int number(struct error *err, const char *what, const char *text, double least, double most,
                  double *out)
{
    char *end;

    *out = strtod(text, &end);
    if (end == text || *end != '\0' || !(*out >= least) || !(*out <= most))
        return error_set(err, STATUS_INVALID, "%s\"%s\" is no number from %g to %.15g", what, text,
                         least, most);
    return 0;
}

static int whole(struct error *err, const char *what, const char *text, double least, double most,
                 uint32_t *out)
{
    double v;

    if (number(err, what, text, least, most, &v) != 0)
        return -1;
    if (v != floor(v))
        return error_set(err, STATUS_INVALID, "%s\"%s\" is no whole number", what, text);
    *out = (uint32_t)v;
    return 0;
}

static int span(struct error *err, const char *what, const char *text, double *seconds)
{
    int64_t us;

    if (config_parse_time(text, &us, NULL) != 0 || us <= 0)
        return error_set(err, STATUS_INVALID, "%s\"%s\" is no time above 0, as 90s or 500ms", what,
                         text);
    *seconds = (double)us / 1e6;
    return 0;
}

static int set_roles(struct sim_fleet *f, const char *text, struct error *err)
{
    char p, d, rest;

    if (sscanf(text, "%4u%c%4u%c%c", &f->prefill, &p, &f->decode, &d, &rest) != 4 || p != 'p' ||
        d != 'd' || f->prefill == 0 || f->decode == 0)
        return bad(err, "--roles=: as 6p10d", text);
    return 0;
}

static int set_slo(struct sim_class *c, const char *text, struct error *err)
{
    char first[32];
    const char *colon = strchr(text, ':');
    double ttft = 0, tbt = 0;

    if (colon == NULL || colon - text >= (ptrdiff_t)sizeof first)
        return bad(err, "--slo=: as 10s:100ms", text);
    snprintf(first, sizeof first, "%.*s", (int)(colon - text), text);
    if (span(err, "--slo=", first, &ttft) != 0 || span(err, "--slo=", colon + 1, &tbt) != 0)
        return -1;
    c->ttft = (int64_t)(ttft * 1e9);
    c->tbt = (int64_t)(tbt * 1e9);
    return 0;
}

static int set_switch(struct sim_setup *u, const char *text, struct error *err)
{
    u->switch_link = strcmp(text, "link") == 0;
    u->switch_seconds = 0;
    if (u->switch_link || strcmp(text, "file") == 0)
        return 0;
    return number(err, "--switch= takes file, link or seconds: ", text, 1e-6, 1e4,
                  &u->switch_seconds);
}

static int set_prefetch(struct sim_fleet *f, const char *text, struct error *err)
{
    static const char *const words[] = {"behind", "none", "half"};

    for (int i = 0; i < 3; i++) {
        if (strcmp(text, words[i]) == 0) {
            f->prefetch = (enum sim_prefetch)i;
            return 0;
        }
    }
    return bad(err, "--prefetch=: behind, none or half", text);
}

static int set_law(char out[96], const char *text, struct error *err)
{
    if (sim_law_check(text, err) != 0)
        return -1;
    if (strlen(text) >= 96)
        return bad(err, "a law of lengths has less than 96 bytes", text);
    snprintf(out, 96, "%s", text);
    return 0;
}

static int set_host_memory(struct sim_fleet *f, const char *text, struct error *err)
{
    uint64_t bytes;

    if (config_parse_size(text, &bytes, NULL) != 0 || bytes == 0)
        return bad(err, "--host-memory=: a size as 512G", text);
    f->host_memory = (double)bytes;
    return 0;
}

static int set_workload(struct sim_workload *w, int c, const char *value, struct error *err)
{
    double seed;

    switch (c) {
    case OPT_CV:
        w->arrivals = SIM_GAMMA;
        return number(err, "--cv=", value, 0.01, 100, &w->cv);
    case OPT_DAY:
        return span(err, "--day=", value, &w->day);
    case OPT_DIURNAL:
        return number(err, "--diurnal=", value, 0, 1, &w->diurnal);
    case OPT_DURATION:
        return span(err, "--duration=", value, &w->duration);
    case OPT_INPUT:
        return set_law(w->input, value, err);
    case OPT_INPUT_SCALE:
        return number(err, "--input-scale=", value, 1e-3, 1e3, &w->input_scale);
    case OPT_OUTPUT:
        return set_law(w->output, value, err);
    case OPT_OUTPUT_SCALE:
        return number(err, "--output-scale=", value, 1e-3, 1e3, &w->output_scale);
    case OPT_MODELS:
        return whole(err, "--models=", value, 1, 60000, &w->models);
    case OPT_RATE:
        return number(err, "--rate=", value, 1e-9, 1e6, &w->rate);
    case OPT_SEED:
        if (number(err, "--seed=", value, 0, 9e15, &seed) != 0)
            return -1;
        w->seed = (uint64_t)seed;
        return 0;
    case OPT_TENANTS:
        return whole(err, "--tenants=", value, 1, 60000, &w->tenants);
    case OPT_ZIPF:
        return number(err, "--zipf=", value, 0, 10, &w->zipf);
    default:
        return error_set(err, STATUS_INVALID, "this option has no meaning here");
    }
}

int sim_set_option(struct sim_setup *u, int c, const char *value, struct error *err)
{
    switch (c) {
    case OPT_ADMIT:
        u->fleet.admit = 1;
        return 0;
    case OPT_GPUS:
        return whole(err, "--gpus=", value, 1, 60000, &u->fleet.devices);
    case OPT_HOST_MEMORY:
        return set_host_memory(&u->fleet, value, err);
    case OPT_NODE_GPUS:
        return whole(err, "--node-gpus=", value, 1, 60000, &u->fleet.node_devices);
    case OPT_PREFETCH:
        return set_prefetch(&u->fleet, value, err);
    case OPT_ROLES:
        return set_roles(&u->fleet, value, err);
    case OPT_SCHEDULER:
        u->fleet.scheduler = value;
        return 0;
    case OPT_SLO:
        return set_slo(&u->slo, value, err);
    case OPT_STARVE:
        return span(err, "--starve=", value, &u->fleet.starve);
    case OPT_SWITCH:
        return set_switch(u, value, err);
    case OPT_TURN:
        return span(err, "--turn=", value, &u->fleet.turn);
    default:
        return set_workload(&u->workload, c, value, err);
    }
}

static int set_burst(struct options *o, const char *value)
{
    struct error err;

    if (sim_burst_check(value, &err) != 0)
        return cli_usage(USAGE, "sim: --burst=: %s", err.text);
    o->setup.burst = value;
    return 0;
}

static int set_option(struct options *o, int c, const char *value)
{
    struct error err;
    int rv = 0;

    switch (c) {
    case OPT_BURST:
        return set_burst(o, value);
    case OPT_COSTS:
        o->costs = value;
        return 0;
    case OPT_GROWTH:
        o->growth = 1;
        return 0;
    case OPT_JSON:
        o->json = 1;
        return 0;
    case OPT_ONLY:
        o->only = value;
        return 0;
    case OPT_PAPER:
        o->paper = 1;
        return 0;
    case OPT_PLOT:
        o->plot = value;
        return 0;
    case OPT_SEEDS:
        rv = whole(&err, "--seeds=", value, 1, 100, &o->seeds);
        break;
    case OPT_TRACE:
        o->trace_out = value;
        return 0;
    default:
        rv = sim_set_option(&o->setup, c, value, &err);
    }
    return rv == 0 ? 0 : cli_usage(USAGE, "sim: %s", err.text);
}

/* --- the run ---------------------------------------------------------------------------------- */

int sim_get_trace(const struct sim_setup *u, const char *path, struct sim_trace *t,
                  struct error *err)
{
    FILE *file;
    int rv;

    if (path == NULL) {
        if (sim_synthesize(t, &u->workload, &u->costs, &u->slo, err) != 0)
            return -1;
        return u->burst != NULL ? sim_burst(t, u->burst, &u->workload, &u->costs, err) : 0;
    }
    file = fopen(path, "re");
    if (file == NULL)
        return error_errno(err, "%s", path);
    rv = sim_trace_read(t, file, path, &u->costs, &u->slo, err);
    fclose(file);
    return rv;
}

int sim_put_trace(const char *path, const struct sim_trace *t, struct error *err)
{
    FILE *file = fopen(path, "we");
    int failed;

    if (file == NULL)
        return error_errno(err, "%s", path);
    failed = sim_trace_write(t, file);
    if (fclose(file) != 0 || failed)
        return error_errno(err, "%s", path);
    return 0;
}

static int run_plotted(struct options *o, const struct sim_trace *t, struct sim_report *report,
                       struct error *err)
{
    char turns[] = "/tmp/modelpool-sim-XXXXXX", title[128];
    double span_s = 60;
    int fd, rv = -1;

    if (o->plot == NULL)
        return sim_run(t, &o->setup.fleet, &o->setup.costs, report, err);
    fd = mkstemp(turns);
    if (fd < 0)
        return error_errno(err, "%s", turns);
    o->setup.fleet.timeline = fdopen(fd, "w");
    if (o->setup.fleet.timeline == NULL) {
        error_errno(err, "%s", turns);
        close(fd);
        goto out;
    }
    rv = sim_run(t, &o->setup.fleet, &o->setup.costs, report, err);
    if (fclose(o->setup.fleet.timeline) != 0 && rv == 0)
        rv = error_errno(err, "%s", turns);
    if (rv != 0)
        goto out;
    if (report->makespan < 2 * span_s)
        span_s = report->makespan / 2;
    snprintf(title, sizeof title, "Turns under %s: %u models, %.1f %% of tokens on time",
             o->setup.fleet.scheduler, t->model_count, 100 * report->token_attainment);
    rv = sim_plot_timeline(o->plot, title, turns, o->setup.fleet.devices, span_s, 2 * span_s, err);
out:
    unlink(turns);
    return rv;
}

static int simulate(struct options *o, const char *path)
{
    struct sim_trace trace = {.count = 0};
    struct sim_report report = {.requests = 0};
    struct error err;
    int code = EXIT_REFUSED;

    if (sim_get_trace(&o->setup, path, &trace, &err) != 0 ||
        (o->trace_out != NULL && sim_put_trace(o->trace_out, &trace, &err) != 0))
        goto out;
    if (trace.count == 0) {
        error_set(&err, STATUS_INVALID, "sim: nothing arrives; raise --rate= or --duration=");
        goto out;
    }
    if (run_plotted(o, &trace, &report, &err) != 0)
        goto out;
    code = EXIT_OK;
    if (!o->json)
        sim_print(&report, &o->setup, &trace);
    else if (sim_print_json(&report, &o->setup, &trace) != 0)
        code = cli_fail(EXIT_REFUSED, "sim: out of memory");
    sim_report_clear(&report);
    sim_trace_clear(&trace);
    return code;
out:
    sim_report_clear(&report);
    sim_trace_clear(&trace);
    return cli_fail(code, "%s", err.text);
}

void sim_defaults(struct sim_setup *u)
{
    *u = (struct sim_setup){.slo = {.ttft = 10000000000, .tbt = 100000000}};
    u->fleet = (struct sim_fleet){
        .scheduler = "slack", .devices = 16, .hop = 0.002, .turn = 0.5, .starve = 60};
    u->workload = (struct sim_workload){.models = 70,
                                        .tenants = 1,
                                        .rate = 0.1,
                                        .duration = 300,
                                        .day = 86400,
                                        .input = PAPER_INPUT,
                                        .output = PAPER_OUTPUT,
                                        .input_scale = 1,
                                        .output_scale = 1,
                                        .seed = 1};
}

static int check_fleet(const struct options *o)
{
    const struct sim_fleet *f = &o->setup.fleet;

    if (f->prefill + f->decode > 0 && f->prefill + f->decode != f->devices)
        return cli_usage(USAGE, "sim: --roles=%up%ud is not --gpus=%u", f->prefill, f->decode,
                         f->devices);
    return 0;
}

int cmd_sim(const struct cli *cli, int argc, char **argv)
{
    struct options o = {.costs = "h800", .seeds = 5};
    struct error err;
    int c, code;

    (void)cli;
    sim_defaults(&o.setup);
    while ((c = getopt_long(argc, argv, "h", sim_long_options, NULL)) != -1) {
        if (c == 'h')
            return cli_help(USAGE, HELP);
        if ((code = set_option(&o, c, optarg)) != 0)
            return code;
    }
    if (argc - optind > 1 || ((o.paper || o.growth) && argc > optind))
        return cli_usage(USAGE, "sim: one trace, or none");
    if (o.paper && o.growth)
        return cli_usage(USAGE, "sim: --paper or --growth");
    if (o.setup.burst != NULL && (o.paper || o.growth || argc > optind))
        return cli_usage(USAGE, "sim: --burst= goes with a load that is made up");
    if ((code = check_fleet(&o)) != 0)
        return code;
    if (o.plot != NULL && sim_plot_check(&err) != 0)
        return cli_fail(EXIT_REFUSED, "sim: %s", err.text);
    if (sim_read_costs(&o.setup.costs, o.costs, &err) != 0)
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    o.setup.fleet.seed = o.setup.workload.seed;
    sim_setup_switches(&o.setup);
    if (o.paper)
        code = sim_paper(&o.setup, o.seeds, o.only, o.json, o.plot);
    else if (o.growth)
        code = sim_growth(&o.setup, o.json, o.plot);
    else
        code = simulate(&o, argc > optind ? argv[optind] : NULL);
    cost_table_clear(&o.setup.costs);
    return code;
}
