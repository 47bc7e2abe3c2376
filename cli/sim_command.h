/*
 * sim_command.h - what the files of the command `modelpool sim` share
 */
#ifndef MP_CLI_SIM_COMMAND_H
#define MP_CLI_SIM_COMMAND_H

#include "cli/cli.h"
#include "cli/sim.h"

struct sim_setup {
    struct sim_fleet fleet;
    struct sim_workload workload;
    struct sim_class slo;
    struct cost_table costs;
    int switch_link;       /* loads take weights over link, whatever Switch= says */
    double switch_seconds; /* above 0: all loads take so long */
};

/* The costs' loads as the setup says. */
void sim_setup_switches(struct sim_setup *u);
/* Read a file of costs.  A bare name is one of those that are installed. */
int sim_read_costs(struct cost_table *t, const char *path, struct error *err);

/* --- sim_report.c --- */
void sim_print(const struct sim_report *r, const struct sim_setup *u, const struct sim_trace *t);
int sim_print_json(const struct sim_report *r, const struct sim_setup *u,
                   const struct sim_trace *t);

/* --- sim_paper.c: the published case --- */
/* Exit code.  quick: fewer seeds and points. */
int sim_paper(struct sim_setup *u, uint32_t seeds, const char *only, int json, const char *plot);

/* --- sim_plot.c: by gnuplot --- */
struct sim_curve {
    char name[64];
    uint32_t count;
    double x[64], y[64], low[64], high[64];
};
int sim_plot_curves(const char *path, const char *title, const struct sim_curve *curves,
                    uint32_t count, struct error *err);
int sim_plot_timeline(const char *path, const char *title, const char *turns, uint32_t devices,
                      double from, double until, struct error *err);

#endif
