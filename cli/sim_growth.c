/*
 * sim_growth.c - how the cost of a decision grows with models, sequences and instances, and that of
 * a simulation with GPUs, models and time
 *
 * A decision is what the end of a turn asks for: sched_turn_ended, sched_load and sched_next; an
 * arrival is sched_arrive of a model that is nowhere yet.  Wall time of each call, of which the
 * median and the 99th percentile are told, so that other work on the machine hardly counts.
 * Simulations are children of their own, for the sake of their memory.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/sim_command.h"

#define ROUNDS     4000u
#define ARRIVALS   2000u
#define POINTS_MAX 64u
#define GB         1e9

struct point {
    const char *of, *along; /* "decision" or "simulation"; what grows */
    uint32_t models, sequences, instances;
    double seconds;                         /* simulated */
    double decision, decision_p99, arrival; /* us */
    double cpu_seconds, memory_mib;         /* of a simulation */
};

struct growth {
    struct point points[POINTS_MAX];
    uint32_t count;
};

/* --- decisions -------------------------------------------------------------------------------- */

struct bed {
    struct sched *s;
    const struct point *p;
    uint64_t seq;
    int64_t now;
    double *took; /* us */
    uint32_t *where;
    struct error *err;
};

static double stamp(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double quantile(double *v, uint32_t n, double at)
{
    if (n == 0)
        return 0;
    qsort(v, n, sizeof *v, ascending);
    return v[(size_t)(at * (n - 1) + 0.5)];
}

static int set_up(struct bed *b)
{
    struct sched_params params = {.turn_us = 500000};
    struct cost cost = {.prefill = 1e-3,
                        .prefill_token = 2e-5,
                        .decode = 0.01,
                        .decode_row = 6e-5,
                        .load = 0.3,
                        .kv_token = 1e-6};
    const struct point *p = b->p;

    b->s = sched_create("slack", &params, b->err);
    if (b->s == NULL)
        return -1;
    for (uint32_t i = p->instances; i-- > 0;) {
        /* 40 % of the models that fall to an instance fit into it */
        double share = 0.4 * p->models / p->instances + 2;

        if (sched_add_instance(b->s, i, (uint64_t)(share * GB), b->err) != 0)
            return -1;
        sched_set_role(b->s, i, SCHED_MIXED, 1);
    }
    for (uint32_t m = 0; m <= p->models; m++) { /* the last has no sequences */
        if (sched_add_model(b->s, SCHED_ALL, m, (uint64_t)GB, 1000, b->err) != 0 ||
            sched_set_cost(b->s, SCHED_ALL, m, &cost, b->err) != 0)
            return -1;
    }
    return 0;
}

static int arrive(struct bed *b, uint32_t model)
{
    struct sched_seq q = {.seq = ++b->seq,
                          .model = model,
                          .tokens = 100,
                          .max_tokens = 100,
                          .ttft_us = 10000000,
                          .tbt_us = 100000};

    return sched_arrive(b->s, b->now, &q, &b->where[(b->seq - 1) % b->p->sequences], b->err);
}

/* What the turn yielded: a token for each sequence of its model there. */
static void progress(struct bed *b, uint32_t instance, uint32_t model, uint32_t produced)
{
    for (uint32_t i = model; i < b->p->sequences; i += b->p->models) {
        if (b->where[i] == instance)
            sched_progress(b->s, b->now, i + 1, 100 + produced, produced);
    }
}

static uint32_t run_turns(struct bed *b)
{
    uint32_t measured = 0;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t in = i % b->p->instances;
        struct sched_turn turn;
        struct sched_load load;
        double began = stamp();
        int loads, runs;

        b->now += 10000;
        loads = sched_load(b->s, b->now, in, &load);
        runs = sched_next(b->s, b->now, in, &turn);
        if (runs)
            sched_turn_ended(b->s, b->now, in, turn.model, 5, 10000, 0);
        if (runs)
            b->took[measured++] = stamp() - began;
        if (loads)
            sched_set_resident(b->s, in, load.model, 1);
        if (runs)
            progress(b, in, turn.model, i / b->p->models + 1);
    }
    return measured;
}

static int measure_decisions(struct bed *b, struct point *out)
{
    const struct point *p = b->p;
    uint32_t n;

    for (uint32_t i = 0; i < p->sequences; i++) {
        if (arrive(b, i % p->models) != 0)
            return -1;
    }
    run_turns(b); /* a beginning, until the memories are full */
    n = run_turns(b);
    out->decision = quantile(b->took, n, 0.5);
    out->decision_p99 = quantile(b->took, n, 0.99);
    for (n = 0; n < ARRIVALS; n++) { /* of a model that is nowhere */
        double began;

        b->seq = p->sequences;
        b->now += 1000;
        began = stamp();
        if (arrive(b, p->models) != 0)
            return -1;
        b->took[n] = stamp() - began;
        sched_finish(b->s, b->now, b->seq);
    }
    out->arrival = quantile(b->took, n, 0.5);
    return 0;
}

static int decide(struct growth *g, const char *along, uint32_t models, uint32_t sequences,
                  uint32_t instances, struct error *err)
{
    struct point *p = &g->points[g->count];
    struct bed b = {.p = p, .err = err};
    int rv = -1;

    *p = (struct point){.of = "decision",
                        .along = along,
                        .models = models,
                        .sequences = sequences,
                        .instances = instances};
    b.took = malloc(ROUNDS * sizeof *b.took);
    b.where = calloc(sequences, sizeof *b.where);
    if (b.took == NULL || b.where == NULL)
        error_set(err, STATUS_NOMEM, "sim: out of memory");
    else if (set_up(&b) == 0 && measure_decisions(&b, p) == 0)
        rv = 0;
    g->count += rv == 0;
    sched_destroy(b.s);
    free(b.took);
    free(b.where);
    return rv;
}

static int decisions(struct growth *g, struct error *err)
{
    static const uint32_t models[] = {10, 20, 50, 100, 200, 500, 1000};
    static const uint32_t sequences[] = {10, 100, 1000, 10000, 100000};
    static const uint32_t instances[] = {1, 3, 10, 30, 100, 300, 1000};

    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        if (decide(g, "models", models[i], 1000, 1, err) != 0)
            return -1;
    }
    for (size_t i = 0; i < sizeof sequences / sizeof sequences[0]; i++) {
        if (decide(g, "sequences", 100, sequences[i], 1, err) != 0)
            return -1;
    }
    for (size_t i = 0; i < sizeof instances / sizeof instances[0]; i++) {
        if (decide(g, "instances", 1000, 10000, instances[i], err) != 0)
            return -1;
    }
    return 0;
}

/* --- simulations ------------------------------------------------------------------------------ */

static int child(const struct sim_setup *u)
{
    struct sim_trace trace;
    struct sim_report report;
    struct error err;
    int rv;

    if (sim_synthesize(&trace, &u->workload, &u->costs, &u->slo, &err) != 0)
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    rv = trace.count > 0 ? sim_run(&trace, &u->fleet, &u->costs, &report, &err) : 0;
    if (rv != 0)
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    return EXIT_OK; /* its memory goes with it */
}

static int simulate(struct growth *g, const char *along, const struct sim_setup *u, uint32_t gpus,
                    uint32_t models, double seconds, struct error *err)
{
    struct sim_setup own = *u;
    struct rusage used;
    int status;
    pid_t pid;

    own.fleet.devices = gpus > 0 ? gpus : 1;
    own.workload.models = models > 0 ? models : 1;
    own.workload.duration = seconds;
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        _exit(child(&own));
    if (pid < 0 || wait4(pid, &status, 0, &used) != pid)
        return error_errno(err, "sim: a simulation's process");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_OK)
        return error_set(err, STATUS_INTERNAL,
                         "sim: the simulation of %u GPUs and %u models failed", own.fleet.devices,
                         own.workload.models);
    g->points[g->count++] =
        (struct point){.of = "simulation",
                       .along = along,
                       .models = own.workload.models,
                       .instances = own.fleet.devices,
                       .seconds = seconds,
                       .cpu_seconds = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                                      (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
                       .memory_mib = (double)used.ru_maxrss / 1024};
    return 0;
}

static int simulations(struct growth *g, const struct sim_setup *u, struct error *err)
{
    static const double parts[] = {0.05, 0.1, 0.2, 0.5, 1};
    static const double decades[] = {0.01, 0.03, 0.1, 0.3, 1};
    uint32_t gpus = u->fleet.devices, models = u->workload.models;
    double seconds = u->workload.duration;

    for (int i = 0; i < 5; i++) {
        if (simulate(g, "gpus", u, (uint32_t)(gpus * parts[i]), models / 10, seconds, err) != 0)
            return -1;
    }
    for (int i = 0; i < 5; i++) {
        if (simulate(g, "models", u, gpus, (uint32_t)(models * decades[i]), seconds, err) != 0)
            return -1;
    }
    for (int i = 0; i < 5; i++) {
        if (simulate(g, "seconds", u, gpus, models, seconds * parts[i], err) != 0)
            return -1;
    }
    return 0;
}

/* --- results ---------------------------------------------------------------------------------- */

static void print_csv(const struct growth *g)
{
    puts("of,along,models,sequences,instances,seconds,decision_us,decision_p99_us,arrival_us,"
         "cpu_seconds,memory_mib");
    for (uint32_t i = 0; i < g->count; i++) {
        const struct point *p = &g->points[i];

        if (strcmp(p->of, "decision") == 0)
            printf("%s,%s,%u,%u,%u,,%.2f,%.2f,%.2f,,\n", p->of, p->along, p->models, p->sequences,
                   p->instances, p->decision, p->decision_p99, p->arrival);
        else
            printf("%s,%s,%u,,%u,%g,,,,%.3f,%.1f\n", p->of, p->along, p->models, p->instances,
                   p->seconds, p->cpu_seconds, p->memory_mib);
    }
}

static int print_json(const struct growth *g)
{
    json_t *all = json_array();

    for (uint32_t i = 0; i < g->count; i++) {
        const struct point *p = &g->points[i];

        if (strcmp(p->of, "decision") == 0)
            json_array_append_new(
                all, json_pack("{s:s,s:s,s:i,s:i,s:i,s:f,s:f,s:f}", "of", p->of, "along", p->along,
                               "models", (int)p->models, "sequences", (int)p->sequences,
                               "instances", (int)p->instances, "decision_us", p->decision,
                               "decision_p99_us", p->decision_p99, "arrival_us", p->arrival));
        else
            json_array_append_new(all,
                                  json_pack("{s:s,s:s,s:i,s:i,s:f,s:f,s:f}", "of", p->of, "along",
                                            p->along, "models", (int)p->models, "instances",
                                            (int)p->instances, "seconds", p->seconds, "cpu_seconds",
                                            p->cpu_seconds, "memory_mib", p->memory_mib));
    }
    if (all == NULL)
        return -1;
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(all);
    return 0;
}

static double grown(const struct point *p)
{
    if (strcmp(p->along, "models") == 0)
        return p->models;
    if (strcmp(p->along, "sequences") == 0)
        return p->sequences;
    return strcmp(p->along, "seconds") == 0 ? p->seconds : p->instances;
}

static void panel(FILE *to, const struct growth *g, const char *of, const char *along,
                  const char *label)
{
    int decision = strcmp(of, "decision") == 0;

    fputs("$d << EOD\n", to);
    for (uint32_t i = 0; i < g->count; i++) {
        const struct point *p = &g->points[i];

        if (strcmp(p->of, of) == 0 && strcmp(p->along, along) == 0)
            fprintf(to, "%g %g %g\n", grown(p), decision ? p->decision : p->cpu_seconds,
                    decision ? p->arrival : p->memory_mib);
    }
    fprintf(to,
            "EOD\nset xlabel '%s'\nset ylabel '%s'\n"
            "plot $d using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb '#0072b2' title '%s', "
            "$d using 1:3 with linespoints lw 2 pt 7 ps 0.5 lc rgb '#d55e00' title '%s'\n",
            label, decision ? "us, median" : "", decision ? "a decision" : "CPU seconds",
            decision ? "an arrival" : "MiB");
}

static int draw(const struct growth *g, const struct sim_setup *u, const char *path,
                struct error *err)
{
    char gpus[96], models[96], seconds[96];
    FILE *to = sim_plot_begin(path, "", "1280,760", err);

    if (to == NULL)
        return -1;
    snprintf(gpus, sizeof gpus, "GPUs (%u models, %g s)", u->workload.models / 10,
             u->workload.duration);
    snprintf(models, sizeof models, "models (%u GPUs, %g s)", u->fleet.devices,
             u->workload.duration);
    snprintf(seconds, sizeof seconds, "simulated seconds (%u GPUs, %u models)", u->fleet.devices,
             u->workload.models);
    fputs("set multiplot layout 2,3 title 'The scheduler slack (above) and the simulator (below)'\n"
          "set logscale xy\nset key top left\nunset title\n",
          to);
    panel(to, g, "decision", "models", "models (1,000 sequences, 1 instance)");
    panel(to, g, "decision", "sequences", "sequences (100 models, 1 instance)");
    panel(to, g, "decision", "instances", "instances (1,000 models, 10,000 sequences)");
    panel(to, g, "simulation", "gpus", gpus);
    panel(to, g, "simulation", "models", models);
    panel(to, g, "simulation", "seconds", seconds);
    fputs("unset multiplot\n", to);
    return sim_plot_end(to, path, err);
}

int sim_growth(const struct sim_setup *u, int json, const char *plot)
{
    struct growth *g = calloc(1, sizeof *g);
    struct error err;
    int code = EXIT_REFUSED;

    if (g == NULL)
        return cli_fail(code, "sim: out of memory");
    if (decisions(g, &err) != 0 || simulations(g, u, &err) != 0 ||
        (plot != NULL && draw(g, u, plot, &err) != 0)) {
        cli_fail(code, "%s", err.text);
        goto out;
    }
    code = EXIT_OK;
    if (!json)
        print_csv(g);
    else if (print_json(g) != 0)
        code = cli_fail(EXIT_REFUSED, "sim: out of memory");
out:
    free(g);
    return code;
}
