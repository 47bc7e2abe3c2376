/*
 * serve.h - modelpool bench serve: a trace against a running pool, over HTTP
 *
 * The trace, its laws and its report are the simulator's (cli/sim.h); what differs is where tokens
 * come from.  One thread: a libevent loop that sends each request at its arrival, whatever became
 * of the ones before it, and notes when each token came.  Time is in ns from the beginning of the
 * run.
 */
#ifndef MP_CLI_SERVE_H
#define MP_CLI_SERVE_H

#include "cli/sim_command.h"

#define SERVE_MODELS_MAX 1024u
#define SERVE_GRANTS_MAX 60u /* the daemon gives a user 64 connections */
#define SERVE_REASON_MAX 160

/* Runs `modelpool bench serve`; the exit code. */
int bench_serve(const struct cli *cli, int argc, char **argv);

/* --- serve_token.c: what an answer's events say -------------------------------------------------
 */

struct serve_chunk {              /* a server-sent event of /v1/completions */
    int64_t tokens;               /* of output so far, as its usage says; -1: it does not */
    int text;                     /* it brings some */
    int finished;                 /* it has a finish_reason */
    char error[SERVE_REASON_MAX]; /* "": none */
};
void serve_chunk_parse(const char *data, struct serve_chunk *c);

/* Tokens produced to by_now have come at `now` (ns): token i is due at arrival + TTFT + i TBT. */
void serve_take_tokens(struct sim_outcome *o, int64_t arrival, const struct sim_class *class,
                       uint32_t by_now, int64_t now);

/* --- serve_client.c: requests over HTTP ---------------------------------------------------------
 */

struct serve_grant {
    int fd;        /* of the control connection that holds it; -1: the job's */
    int64_t lease; /* in the ledger; 0: not known */
    char base_url[256], key[128];
};

struct serve_ask {
    const struct serve_grant *grant;
    const char *model; /* as the pool calls it */
    const struct sim_class *class;
    int64_t at; /* ns */
    uint32_t input, output;
    uint64_t seed; /* of the prompt */
};

struct serve_fate {
    int64_t sent;                  /* ns */
    uint32_t tokens;               /* that came */
    int over;                      /* it has ended, well or not */
    char reason[SERVE_REASON_MAX]; /* why it failed; "": it did not */
};

struct serve_run {
    const struct serve_ask *asks; /* in the order of `at` */
    size_t count;
    struct sim_outcome *outcomes; /* [count], zeroed */
    struct serve_fate *fates;     /* [count], zeroed */
    int progress;                 /* a line on stderr that goes on */
    int64_t mark_at;              /* ns: mark() is called then; 0: never */
    void (*mark)(void *arg);
    void *arg;
    int interrupted; /* out: by SIGINT or SIGTERM; the rest was not sent */
};

/* Send them all and wait for their ends.  Requests that fail are no error of the run. */
int serve_run(struct serve_run *run, struct error *err);

/* --- serve_pool.c: the pool by its control socket -----------------------------------------------
 */

struct serve_model {
    char name[64], state[32], text[256];
    uint64_t weight_bytes, kv_token_bytes;
    uint32_t context;
    struct cost cost; /* as the daemon predicts by; zeroes: it has measured nothing */
    int measured;     /* off traffic, or long enough in it */
    uint64_t loads;   /* that cost.load was learnt from */
};

struct serve_counters { /* of all instances together */
    uint64_t turns, steps, switches, switch_bytes, preemptions, tokens;
    double step_seconds, switch_seconds;
};

struct serve_pool {
    char scheduler[32], device[64];
    double turn; /* s */
    uint32_t instances;
    uint64_t memory_bytes; /* of the smallest instance, */
    uint32_t max_batch;    /* its rows of a step */
    int loads_behind, admission;
    struct serve_counters now;
    struct serve_model *models;
    uint32_t model_count;
};

/* All of these: 0, or the exit code after the error was printed. */
int serve_pool_read(const struct cli *cli, struct serve_pool *pool);
void serve_pool_clear(struct serve_pool *pool);
const struct serve_model *serve_pool_find(const struct serve_pool *pool, const char *name);
/* The counters when nothing runs any more. */
int serve_pool_settle(const struct cli *cli, struct serve_counters *now);
/* Until these models are known to the engines; `names` NULL: all. */
int serve_pool_wait(const struct cli *cli, const char *const *names, size_t count);
/* A lease on up to 16 models with these deadlines; class NULL: best effort. */
int serve_lease(const struct cli *cli, const char *const *models, size_t count,
                const struct sim_class *class, struct serve_grant *grant);

struct serve_bill { /* of one lease */
    int64_t lease;
    uint64_t rows, prompt_tokens, completion_tokens;
    double engine_seconds;
};
/* What the ledger has of these leases from a moment on (Unix µs). */
int serve_ledger(const struct cli *cli, int64_t from_us, struct serve_bill *bills, size_t count);

/* --- serve_costs.c: what work costs on this pool ------------------------------------------------
 */

/*
 * A file of costs of these models, as the daemon has them; with `measure` what it has not measured
 * is loaded before, which measures it.  kinds[i] is the name in the file of the pool's model
 * names[i], and shares[i] its part of the mix.  malloc'd text; NULL: the exit code is in *code.
 */
char *serve_costs(const struct cli *cli, const struct serve_pool *pool, const char *const *kinds,
                  const char *const *names, const double *shares, size_t count, int measure,
                  int *code);

/* --- serve_private.c: a pool of its own ---------------------------------------------------------
 */

struct serve_names { /* of the models of a made-up pool */
    uint32_t count;
    char (*name)[64], (*kind)[64]; /* "tiny-a-0" in the pool, "tiny-a" in the costs */
};

struct serve_private {
    const char *shapes; /* NAME:COUNT,... */
    const char *folder; /* where models are made; NULL: a temporary one */
    const char *dtype, *device, *memory, *threads, *max_batch, *scheduler, *host_cache;
    double turn; /* s */
    int admit;   /* requests with an SLO are promised it, or refused */
    uint32_t instances;
    /* what it has made */
    char dir[80], socket[108], daemon[300], engine[300];
    int pid;                 /* of the daemon; 0: none */
    int watcher, to_watcher; /* its pid, and a pipe to it */
};

/* Make the models that lack, start the daemon, wait for its socket; 0, or the exit code.  Stop is
 * called either way. */
int serve_private_start(struct serve_private *p, const char *tmp, struct serve_names *names);
/* End it and remove what it made. */
void serve_private_stop(struct serve_private *p);
/* The i-th shape of the list: 1, and its name and count; 0: there are no more; -1: it is none. */
int serve_shape_next(const char **list, char name[64], uint32_t *count);

/* --- serve_options.c ----------------------------------------------------------------------------
 */

struct serve_options {
    struct sim_setup setup;
    struct serve_private private;
    const char *costs, *write_costs, *trace_in, *trace_out, *plot;
    const char *private_only; /* an option that stood there and needs --shapes */
    double warmup;            /* s */
    int json, predict, models_given, duration_given, prefetch_given;
};

/* The command line; 0, or the exit code after the error was printed.  *over: it asked for help. */
int serve_options(struct serve_options *o, int argc, char **argv, int *over);

/* --- serve_report.c -----------------------------------------------------------------------------
 */

struct serve_result {
    const struct sim_trace *trace;
    const struct sim_setup *setup; /* scheduler and devices of the pool */
    const char *device;            /* of the pool */
    struct sim_report served, predicted;
    int has_prediction, has_ledger;
    double late[3], late_most;              /* sends after their arrival: p50, p95, p99, most; s */
    uint64_t failed, received, preemptions; /* requests; tokens with the warmup's */
    struct serve_bill ledger;
    const struct serve_fate *fates;
    const struct sim_outcome *outcomes;
    double warmup; /* s */
};

void serve_print(const struct serve_result *r);
int serve_print_json(const struct serve_result *r);
/* Requests over time, a line a model: waiting, then tokens. */
int serve_plot(const char *path, const struct serve_result *r, struct error *err);

#endif
