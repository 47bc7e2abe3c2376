/*
 * sim_paper.c - the published case: 16 H800, models at 0.1 requests/s, and how many of them each
 * policy holds with 90 % of all tokens on time
 *
 * Switches both ways: as the artifact estimates them (1.5, 1.7, 2.5 s) without prefetch, and as the
 * paper reports them, 0.8 s with half of them prefetched; then ours, bytes over the link.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/sim_command.h"

#define GOAL       0.9
#define MODELS_MAX 480u
#define SEEDS_MAX  100u

struct variant {
    const char *name, *scheduler, *switches;
    uint32_t prefill, decode;
    enum sim_prefetch prefetch;
    int link;
    double seconds;
};

static const struct variant variants[] = {
    {"fcfs, estimated switch", "fcfs", "1.5-2.5 s", 0, 0, SIM_NONE, 0, 0},
    {"fcfs, published switch", "fcfs", "0.8 s, half", 0, 0, SIM_HALF, 0, 0.8},
    {"aegaeon, estimated switch", "aegaeon", "1.5-2.5 s", 6, 10, SIM_NONE, 0, 0},
    {"aegaeon, published switch", "aegaeon", "0.8 s, half", 6, 10, SIM_HALF, 0, 0.8},
    {"aegaeon, our switch", "aegaeon", "bytes/link", 6, 10, SIM_BEHIND, 1, 0},
    {"slack, estimated switch", "slack", "1.5-2.5 s", 0, 0, SIM_BEHIND, 0, 0},
    {"slack, published switch", "slack", "0.8 s", 0, 0, SIM_BEHIND, 0, 0.8},
    {"slack, our switch", "slack", "bytes/link", 0, 0, SIM_BEHIND, 1, 0},
};
#define VARIANTS  (sizeof variants / sizeof variants[0])
#define PUBLISHED 3 /* aegaeon's, in variants[] */

struct paper_case {
    const char *name, *text;
    double duration, rate, input, output, slo;
};

static const struct paper_case cases[] = {
    {"base", "as published: 60 s of arrivals at 0.1 requests/s a model", 60, 0.1, 1, 1, 1},
    {"long", "300 s of arrivals", 300, 0.1, 1, 1, 1},
    {"rate0.5", "0.5 requests/s a model", 60, 0.5, 1, 1, 1},
    {"ix2", "inputs doubled", 60, 0.1, 2, 1, 1},
    {"ox2", "outputs doubled", 60, 0.1, 1, 2, 1},
    {"slo0.5", "TTFT and TBT at 0.5", 60, 0.1, 1, 1, 0.5},
    {"slo0.3", "TTFT and TBT at 0.3", 60, 0.1, 1, 1, 0.3},
};
#define CASES (sizeof cases / sizeof cases[0])

enum measure { BY_TOKENS, BY_PUBLISHED };

static double measured(const struct sim_report *r, enum measure m)
{
    return m == BY_TOKENS ? r->token_attainment : r->published_attainment;
}

/* --- one run ---------------------------------------------------------------------------------- */

static int run(struct sim_setup *u, const struct paper_case *c, const struct variant *v,
               uint32_t models, uint64_t seed, struct sim_report *report, struct error *err)
{
    struct sim_workload w = u->workload;
    struct sim_fleet fleet = u->fleet;
    struct sim_class slo = {.ttft = (int64_t)(1e10 * c->slo), .tbt = (int64_t)(1e8 * c->slo)};
    struct sim_trace trace;
    int rv;

    w.models = models;
    w.seed = fleet.seed = seed;
    w.duration = c->duration;
    w.rate = c->rate;
    w.input_scale = c->input;
    w.output_scale = c->output;
    fleet.scheduler = v->scheduler;
    fleet.prefill = v->prefill;
    fleet.decode = v->decode;
    fleet.prefetch = v->prefetch;
    fleet.devices = 16;
    u->switch_link = v->link;
    u->switch_seconds = v->seconds;
    sim_setup_switches(u);
    if (sim_synthesize(&trace, &w, &u->costs, &slo, err) != 0)
        return -1;
    rv = sim_run(&trace, &fleet, &u->costs, report, err);
    sim_trace_clear(&trace);
    return rv;
}

/* The most models with GOAL kept, by bisection; attainment falls with models. */
static int most_models(struct sim_setup *u, const struct paper_case *c, const struct variant *v,
                       uint64_t seed, enum measure m, uint32_t *models, struct error *err)
{
    uint32_t low = 1, high = MODELS_MAX;

    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        struct sim_report report;

        if (run(u, c, v, mid, seed, &report, err) != 0)
            return -1;
        if (measured(&report, m) >= GOAL)
            low = mid;
        else
            high = mid;
        sim_report_clear(&report);
    }
    *models = low;
    return 0;
}

struct crossing { /* models */
    uint32_t seed[SEEDS_MAX], least, most;
    double mean;
};

static int cross(struct sim_setup *u, const struct paper_case *c, const struct variant *v,
                 uint32_t seeds, enum measure m, struct crossing *x, struct error *err)
{
    *x = (struct crossing){.least = UINT32_MAX};
    for (uint32_t i = 0; i < seeds; i++) {
        if (most_models(u, c, v, i + 1, m, &x->seed[i], err) != 0)
            return -1;
        x->mean += (double)x->seed[i] / seeds;
        x->least = x->seed[i] < x->least ? x->seed[i] : x->least;
        x->most = x->seed[i] > x->most ? x->seed[i] : x->most;
    }
    return 0;
}

/* --- a case ----------------------------------------------------------------------------------- */

struct result {
    struct crossing tokens, published;
};

static json_t *crossing_json(const struct crossing *x, uint32_t seeds)
{
    json_t *all = json_array();

    for (uint32_t i = 0; i < seeds; i++)
        json_array_append_new(all, json_integer(x->seed[i]));
    return json_pack("{s:f,s:o}", "mean", x->mean, "seeds", all);
}

static void print_case(const struct paper_case *c, const struct result *r)
{
    double base = r[PUBLISHED].tokens.mean;

    printf("\n%s (%s)\n", c->text, c->name);
    printf("  %-10s %-12s %-16s %-9s %s\n", "scheduler", "switch", "tokens on time", "against",
           "service time");
    for (size_t v = 0; v < VARIANTS; v++) {
        char range[32];

        snprintf(range, sizeof range, "%.1f (%u-%u)", r[v].tokens.mean, r[v].tokens.least,
                 r[v].tokens.most);
        printf("  %-10s %-12s %-16s x%-8.2f %.1f\n", variants[v].scheduler, variants[v].switches,
               range, base > 0 ? r[v].tokens.mean / base : 0, r[v].published.mean);
    }
    fflush(stdout);
}

static int run_case(struct sim_setup *u, const struct paper_case *c, uint32_t seeds, json_t *out,
                    struct error *err)
{
    struct result r[VARIANTS];
    json_t *rows = json_array();

    for (size_t v = 0; v < VARIANTS; v++) {
        if (cross(u, c, &variants[v], seeds, BY_TOKENS, &r[v].tokens, err) != 0 ||
            cross(u, c, &variants[v], seeds, BY_PUBLISHED, &r[v].published, err) != 0) {
            json_decref(rows);
            return -1;
        }
        json_array_append_new(rows,
                              json_pack("{s:s,s:s,s:o,s:o}", "scheduler", variants[v].scheduler,
                                        "switch", variants[v].switches, "tokens_on_time",
                                        crossing_json(&r[v].tokens, seeds), "service_time",
                                        crossing_json(&r[v].published, seeds)));
    }
    if (out == NULL) {
        print_case(c, r);
        json_decref(rows);
        return 0;
    }
    json_array_append_new(
        out, json_pack("{s:s,s:s,s:o}", "case", c->name, "text", c->text, "models", rows));
    return 0;
}

/* --- the curve -------------------------------------------------------------------------------- */

static int curve(struct sim_setup *u, const struct variant *v, uint32_t seeds,
                 struct sim_curve *out, struct error *err)
{
    out->count = 0;
    snprintf(out->name, sizeof out->name, "%s", v->name);
    for (uint32_t models = 16; models <= 240; models += 8) {
        double sum = 0, low = 1, high = 0;

        for (uint32_t i = 0; i < seeds; i++) {
            struct sim_report r;

            if (run(u, &cases[0], v, models, i + 1, &r, err) != 0)
                return -1;
            sum += r.token_attainment / seeds;
            low = r.token_attainment < low ? r.token_attainment : low;
            high = r.token_attainment > high ? r.token_attainment : high;
            sim_report_clear(&r);
        }
        out->x[out->count] = models;
        out->y[out->count] = 100 * sum;
        out->low[out->count] = 100 * low;
        out->high[out->count++] = 100 * high;
        if (sum < 0.3)
            break;
    }
    return 0;
}

static int draw(struct sim_setup *u, uint32_t seeds, const char *path, struct error *err)
{
    struct sim_curve *curves = calloc(VARIANTS, sizeof *curves);
    int rv = -1;

    if (curves == NULL)
        return error_set(err, STATUS_NOMEM, "sim: out of memory");
    for (size_t v = 0; v < VARIANTS; v++) {
        if (curve(u, &variants[v], seeds, &curves[v], err) != 0)
            goto out;
    }
    rv = sim_plot_curves(path, "16 H800, 0.1 requests/s a model, TTFT 10 s, TBT 0.1 s", curves,
                         VARIANTS, err);
out:
    free(curves);
    return rv;
}

/* --- all of it -------------------------------------------------------------------------------- */

static int is_case(const char *name)
{
    for (size_t i = 0; i < CASES; i++) {
        if (strcmp(cases[i].name, name) == 0)
            return 1;
    }
    return 0;
}

static double seconds_of(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int sim_paper(struct sim_setup *u, uint32_t seeds, const char *only, int json, const char *plot)
{
    json_t *all = json ? json_array() : NULL;
    double began = seconds_of(CLOCK_MONOTONIC);
    struct error err;
    int code = EXIT_OK;

    if (only != NULL && !is_case(only))
        return cli_usage("modelpool sim --paper",
                         "sim: --only=%s: there are base, long, rate0.5, "
                         "ix2, ox2, slo0.5, slo0.3",
                         only);
    if (!json)
        printf(
            "Models on 16 H800 with 90 %% kept, by tokens on time and by the share of service "
            "time\n"
            "within deadlines that the artifact plots: mean over %u seeds (least-most), 3 but for\n"
            "the first case.  aegaeon is 6p10d, the others are mixed; \"against\" is aegaeon with\n"
            "the published switch.\n",
            seeds);
    for (size_t i = 0; i < CASES && code == EXIT_OK; i++) {
        if (only != NULL && strcmp(only, cases[i].name) != 0)
            continue;
        if (run_case(u, &cases[i], i == 0 || seeds < 3 ? seeds : 3, all, &err) != 0)
            code = cli_fail(EXIT_REFUSED, "%s", err.text);
    }
    if (code == EXIT_OK && plot != NULL && draw(u, seeds, plot, &err) != 0)
        code = cli_fail(EXIT_REFUSED, "%s", err.text);
    if (json && code == EXIT_OK) {
        json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        putchar('\n');
    }
    if (!json && code == EXIT_OK)
        printf("\nThis took %.1f s, %.1f s of CPU time.\n", seconds_of(CLOCK_MONOTONIC) - began,
               seconds_of(CLOCK_PROCESS_CPUTIME_ID));
    json_decref(all);
    return code;
}
