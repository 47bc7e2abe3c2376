/* usage.c - the ledger row of a request; see usage.h */
#include "daemon/usage.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"

struct usage_job {
    struct front_job job; /* first: the writer and the front see no more */
    struct db_usage row;
    uint64_t seq;
    usage_done_f done;
    void *arg;
};

void usage_fill(struct db_usage *u, const struct front *f, const struct grant *g, uint32_t model,
                const char *request, uint64_t prompt_tokens)
{
    const struct db_lease *lease = &g->lease->row;

    *u = (struct db_usage){
        .lease = lease->id,
        .job = lease->job,
        .array_job = lease->array_job,
        .array_task = lease->array_task,
        .het_job = lease->het_job,
        .het_offset = lease->het_offset,
        .uid = lease->uid,
        .prompt_tokens = (int64_t)prompt_tokens,
        .ttft_us = -1,
        .start_us = clock_wall_us(),
    };
    snprintf(u->cluster, sizeof u->cluster, "%s", f->config->cluster);
    snprintf(u->node, sizeof u->node, "%s", f->config->node);
    snprintf(u->step_name, sizeof u->step_name, "%s", g->row.step_name);
    snprintf(u->account, sizeof u->account, "%s", lease->account);
    snprintf(u->partition, sizeof u->partition, "%s", lease->partition);
    snprintf(u->request, sizeof u->request, "%s", request);
    snprintf(u->model, sizeof u->model, "%s", f->config->models[model].name);
    snprintf(u->slo, sizeof u->slo, "%s", g->row.slo);
    snprintf(u->state, sizeof u->state, "open");
}

static int run_open(struct db *db, struct writer_job *job, struct error *err)
{
    return db_open_usage(db, &((struct usage_job *)job)->row, err);
}

static int run_close(struct db *db, struct writer_job *job, struct error *err)
{
    return db_close_usage(db, &((struct usage_job *)job)->row, err);
}

static void on_durable(struct front *f, struct front_job *job)
{
    struct usage_job *u = (struct usage_job *)job;
    const struct error *err = &u->job.job.error;

    (void)f;
    u->done(u->arg, u->seq, &u->row, err->status == STATUS_OK ? NULL : err);
}

static int post(struct front *f, const struct db_usage *row, uint64_t seq, usage_done_f done,
                void *arg, int (*run)(struct db *, struct writer_job *, struct error *),
                struct error *err)
{
    struct usage_job *u = calloc(1, sizeof *u);

    if (!u)
        return error_set(err, STATUS_NOMEM, "no memory for a ledger row");
    u->row = *row;
    u->seq = seq;
    u->done = done;
    u->arg = arg;
    front_write(f, &u->job, run, on_durable);
    return 0;
}

int usage_open(struct front *f, const struct db_usage *u, uint64_t seq, usage_done_f done,
               void *arg, struct error *err)
{
    return post(f, u, seq, done, arg, run_open, err);
}

int usage_close(struct front *f, const struct db_usage *u, uint64_t seq, usage_done_f done,
                void *arg, struct error *err)
{
    return post(f, u, seq, done, arg, run_close, err);
}
