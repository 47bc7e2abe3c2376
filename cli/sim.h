/*
 * sim.h - modelpool sim: the scheduler against a trace, on devices that are only costs
 *
 * Time is in nanoseconds from the trace's beginning.  Sequences decode in segments: runs of steps
 * of one batch, whose token times are in closed form, exact to the step (sim_segment.c).
 */
#ifndef MP_CLI_SIM_H
#define MP_CLI_SIM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"
#include "sched/sched.h"

#define SIM_CLASSES_MAX 16u

/* --- traces: sim_trace.c, sim_workload.c ------------------------------------------------------ */

struct sim_request {
    int64_t arrival; /* ns */
    uint32_t model, tenant, input, output;
    uint32_t class; /* into sim_trace.classes */
};

struct sim_class {
    char name[32];
    int64_t ttft, tbt; /* ns; 0: best effort */
};

struct sim_model {
    char name[64];
    const struct cost_entry *kind;
};

struct sim_trace {
    struct sim_request *requests; /* in order of arrival */
    size_t count, room;
    struct sim_model *models;
    uint32_t model_count;
    char (*tenants)[64];
    uint32_t tenant_count;
    struct sim_class classes[SIM_CLASSES_MAX];
    uint32_t class_count;
};

void sim_trace_clear(struct sim_trace *t);
int sim_trace_add(struct sim_trace *t, const struct sim_request *r, struct error *err);
/* CSV with a header line: arrival (s), model, tenant, input, output, class.  Models are named after
 * the kinds of the costs, with or without a suffix "#N"; class is "", best-effort or TTFT:TBT. */
int sim_trace_read(struct sim_trace *t, FILE *file, const char *path,
                   const struct cost_table *costs, const struct sim_class *usual,
                   struct error *err);
int sim_trace_write(const struct sim_trace *t, FILE *file);

enum sim_arrivals { SIM_POISSON, SIM_GAMMA };

struct sim_workload {
    uint32_t models, tenants;
    double rate;     /* requests/s of a model, in the mean */
    double duration; /* s */
    enum sim_arrivals arrivals;
    double cv;                        /* SIM_GAMMA: of the times between arrivals */
    double zipf;                      /* exponent of the models' popularity; 0: all alike */
    double diurnal;                   /* (max - mean) / mean of the rate over a day; 0: none */
    double day;                       /* s */
    char input[96], output[96];       /* laws of lengths */
    double input_scale, output_scale; /* lengths are multiplied by */
    uint64_t seed;
};
int sim_synthesize(struct sim_trace *t, const struct sim_workload *w,
                   const struct cost_table *costs, const struct sim_class *usual,
                   struct error *err);

/* --- sim_random.c: counter-based, so that each draw is a function of (seed, stream, number) --- */

struct sim_random {
    uint64_t key, counter;
};
struct sim_random sim_random_stream(uint64_t seed, uint64_t stream);
double sim_uniform(struct sim_random *r); /* in (0, 1) */
double sim_normal(struct sim_random *r);
double sim_exponential(struct sim_random *r);         /* mean 1 */
double sim_gamma(struct sim_random *r, double shape); /* scale 1 */
/* A length by its law: "lognormal:MU,SIGMA", "exponential:MEAN", "fixed:N" or "quantile:P0,P50,
 * P95,P100", log-linear between. */
int sim_law_check(const char *law, struct error *err);
double sim_length(struct sim_random *r, const char *law);

/* --- sim_segment.c ---------------------------------------------------------------------------- */

struct sim_segment { /* step k (from 1) ends at start + base k + slope k (k - 1) / 2 */
    int64_t start;
    double base, slope;
    uint32_t steps;
};
int64_t sim_segment_end(const struct sim_segment *g, uint32_t k);
/* The first step that ends at t or later; at most g->steps. */
uint32_t sim_segment_until(const struct sim_segment *g, int64_t t);
/* How many of its tokens are on time, token k being due at due + (k - 1) tbt. */
uint32_t sim_segment_on_time(const struct sim_segment *g, int64_t due, int64_t tbt);

/*
 * The measure that Aegaeon's artifact plots: the share of a request's service time within
 * deadlines, where a late token moves the clock's zero to itself while the deadline, TTFT + i TBT,
 * goes on growing.  Much milder than tokens on time.
 */
struct sim_qos {
    int64_t zero, target, kept, within; /* ns; kept: of the span since zero */
};
void sim_qos_add(struct sim_qos *q, const struct sim_segment *g, int64_t tbt);
/* `last`: the last token, since arrival. */
double sim_qos_share(const struct sim_qos *q, int64_t last);

/* --- sim_run.c -------------------------------------------------------------------------------- */

enum sim_prefetch { SIM_BEHIND, SIM_NONE, SIM_HALF };

struct sim_fleet {
    const char *scheduler;
    uint32_t devices, prefill, decode; /* prefill + decode = devices, or both 0: all mixed */
    uint32_t node_devices;             /* that share a host memory and a disk; 0: 8 */
    double host_memory; /* bytes of it for weights; 0: no bounds, and all models lie there */
    enum sim_prefetch prefetch;
    uint32_t rows_max; /* of a step; 0: 256 */
    double hop;        /* s: a turn of another model that is in memory already */
    double turn;       /* s */
    double starve;     /* s */
    int admit;
    int as_daemon; /* weights and KV stay as long as there is room, whatever the policy's traits,
                    * and an engine holds two turns */
    int64_t from;  /* ns: requests that arrive earlier are served, and not reported */
    uint64_t seed;
    FILE *timeline; /* turns as they end, for the plot; NULL: none */
};

struct sim_outcome {     /* of a request */
    int64_t first, last; /* ns; tokens */
    uint32_t on_time, produced;
    struct sim_qos qos; /* from the arrival */
    int refused;
    int failed; /* what has not come is late; only in sums, of what was served (bench serve) */
};

struct sim_tenant_report {
    double seconds, attainment, ttft_p99; /* GPU s, of which: */
    double switch_seconds;                /* up to 64 tenants */
    uint64_t tokens, requests;
};

struct sim_report {
    uint64_t requests, tokens, on_time, refused, unfinished;
    uint64_t requests_kept; /* TTFT and mean TBT both */
    double token_attainment, request_attainment, published_attainment;
    double ttft[3], tbt[3]; /* p50, p95, p99; s */
    double makespan;        /* s */
    uint64_t turns, switches, loads, resident_hits, prefetch_hits, prefetch_waits, spills,
        recomputes;
    double bytes, kv_bytes;
    uint64_t host_hits, host_waits, disk_loads, host_evictions; /* with fleet.host_memory */
    double disk_bytes;
    double overcommitted; /* bytes by which weights and KV ever went beyond a device's memory */
    double step_seconds, switch_seconds, gpu_seconds;
    double fairness_gap;   /* GPU s over share, at most, between two tenants that both had work */
    double longest_wait;   /* s: of a batch for a turn */
    double longest_turn;   /* s, with its switch */
    double longest_load;   /* s, behind a turn, from the decision on */
    uint32_t most_batches; /* models that had work on a device at a time */
    struct sim_tenant_report *tenants;
    uint32_t tenant_count;
    uint64_t decisions;
};

int sim_run(const struct sim_trace *t, const struct sim_fleet *fleet,
            const struct cost_table *costs, struct sim_report *report, struct error *err);
/* slack: what longest_wait is promised to be within, s. */
double sim_wait_bound(const struct sim_report *r, const struct sim_fleet *fleet);
void sim_report_clear(struct sim_report *r);

/* --- sim_sum.c: requests, tokens, times and tenants of a report, also of one that was served
 * ------ */

/* Counts, attainments and percentiles of the requests that arrive at `from` (ns) or later; tenants
 * without their seconds.  What it allocates is sim_report_clear()'s. */
int sim_sum_up(const struct sim_trace *t, const struct sim_outcome *outcomes, int64_t from,
               struct sim_report *report, struct error *err);
/* p50, p95, p99; sorts v. */
void sim_percentiles(double *v, size_t n, double out[3]);

#endif
