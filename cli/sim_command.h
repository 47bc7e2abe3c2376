/*
 * sim_command.h - what the files of the command `modelpool sim` share, and `bench serve` with them
 */
#ifndef MP_CLI_SIM_COMMAND_H
#define MP_CLI_SIM_COMMAND_H

#include <getopt.h>
#include <jansson.h>

#include "cli/cli.h"
#include "cli/sim.h"

struct sim_setup {
    struct sim_fleet fleet;
    struct sim_workload workload;
    struct sim_class slo;
    struct cost_table costs;
    int switch_link;       /* loads take weights over link, whatever Switch= says */
    double switch_seconds; /* above 0: all loads take so long */
    const char *burst;     /* on top of a load made up; NULL: none */
};

/* The costs' loads as the setup says. */
void sim_setup_switches(struct sim_setup *u);
/* Read a file of costs.  A bare name is one of those that are installed. */
int sim_read_costs(struct cost_table *t, const char *path, struct error *err);

/* --- sim.c: what `modelpool bench serve` takes, too --- */
enum sim_option {
    OPT_ADMIT = 256,
    OPT_COSTS,
    OPT_CV,
    OPT_DAY,
    OPT_DIURNAL,
    OPT_DURATION,
    OPT_GPUS,
    OPT_INPUT,
    OPT_INPUT_SCALE,
    OPT_JSON,
    OPT_MODELS,
    OPT_ONLY,
    OPT_OUTPUT,
    OPT_OUTPUT_SCALE,
    OPT_PAPER,
    OPT_PLOT,
    OPT_PREFETCH,
    OPT_RATE,
    OPT_ROLES,
    OPT_SCHEDULER,
    OPT_SEED,
    OPT_SEEDS,
    OPT_SLO,
    OPT_STARVE,
    OPT_SWITCH,
    OPT_TENANTS,
    OPT_TRACE,
    OPT_TURN,
    OPT_ZIPF
};

extern const struct option sim_long_options[];
void sim_defaults(struct sim_setup *u);
/* An option of load and fleet; strings stay the caller's. */
int sim_set_option(struct sim_setup *u, int c, const char *value, struct error *err);
/* The trace in that file, or, path NULL, the one that the setup describes. */
int sim_get_trace(const struct sim_setup *u, const char *path, struct sim_trace *t,
                  struct error *err);
int sim_put_trace(const char *path, const struct sim_trace *t, struct error *err);

/* --- sim_report.c --- */
void sim_print(const struct sim_report *r, const struct sim_setup *u, const struct sim_trace *t);
int sim_print_json(const struct sim_report *r, const struct sim_setup *u,
                   const struct sim_trace *t);

/* What sim_print_json() prints; NULL without memory. */
json_t *sim_report_json(const struct sim_report *r, const struct sim_setup *u,
                        const struct sim_trace *t);

/* --- sim_paper.c: the published case --- */
/* Exit code.  quick: fewer seeds and points. */
int sim_paper(struct sim_setup *u, uint32_t seeds, const char *only, int json, const char *plot);

/* --- sim_plot.c: by gnuplot --- */
/* A figure of that size ("960,540") is begun; commands are written to the stream.  NULL: *err. */
FILE *sim_plot_begin(const char *path, const char *title, const char *size, struct error *err);
int sim_plot_end(FILE *to, const char *path, struct error *err);
struct sim_curve {
    char name[64];
    uint32_t count;
    double x[64], y[64], low[64], high[64];
};
int sim_plot_curves(const char *path, const char *title, const struct sim_curve *curves,
                    uint32_t count, struct error *err);
int sim_plot_timeline(const char *path, const char *title, const char *turns, uint32_t devices,
                      double from, double until, struct error *err);

/* Is gnuplot there? */
int sim_plot_check(struct error *err);

/* --- sim_burst.c --- */
/* Names parted by commas: models (a request to each), flood (10,000 of one tenant), prompts (of
 * 26,000 tokens), kv (twice a device's room for KV, to one model). */
int sim_burst_check(const char *names, struct error *err);
/* Add them at a quarter of the load's duration, each with a tenant of its name.  On failure the
 * trace is the caller's to clear. */
int sim_burst(struct sim_trace *t, const char *names, const struct sim_workload *w,
              const struct cost_table *costs, struct error *err);

/* --- sim_growth.c --- */
/* Measure and print; simulations up to the fleet's devices, and the workload's models and duration.
 * Exit code. */
int sim_growth(const struct sim_setup *u, int json, const char *plot);

#endif
