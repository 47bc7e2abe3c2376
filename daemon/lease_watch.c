/*
 * lease_watch.c - the controller's word: which job a lease belongs to, and whether it still runs
 *
 * One question at a time.  Every SWEEP_US it is about all leases of jobs; when a step opens a grant
 * on a lease that had none, about that one at once.  No answer ends nothing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/lease_set.h"

#define SWEEP_US  3000000
#define ANSWER_US 5000000

/* --- what an answer means --------------------------------------------------------------------- */

static void identify(struct leases *l, struct lease *lease, const struct slurm_job *job)
{
    struct db_lease *row = &lease->row;

    row->job_start = job->start;
    row->array_job = job->array_job;
    row->array_task = job->array_task;
    row->het_job = job->het_job;
    row->het_offset = job->het_offset;
    snprintf(row->account, sizeof(row->account), "%s", job->account);
    snprintf(row->partition, sizeof(row->partition), "%s", job->partition);
    lease->identified = 1;
    leases_identified(l, lease);
    log_debug("job %" PRId64 ": account %s, started at %" PRId64, row->job, row->account,
              row->job_start);
}

/* The job was requeued and runs again: the steps that are here now belong to the new run. */
static void begin_new_run(struct leases *l, struct lease *old, const struct slurm_job *job)
{
    struct error err;
    int64_t budget = -1;
    struct lease *lease = leases_add_lease(l, &err);

    if (!lease) {
        log_error("job %" PRId64 ": %s", old->row.job, err.text);
        return; /* the next sweep comes here again */
    }
    lease->row = old->row;
    lease->row.id = leases_new_id(l);
    lease->row.created_us = clock_wall_us();
    identify(l, lease, job);
    for (size_t i = 0; i < l->grant_count; i++) {
        struct grant *g = l->grant[i];
        if (g->lease != old || g->ended || !g->holders)
            continue; /* one that nobody holds was restored from before: it ends with its run */
        if (g->asked_tokens >= 0 && (budget < 0 || g->asked_tokens < budget))
            budget = g->asked_tokens;
        g->lease = lease;
        g->row.lease = lease->row.id;
        old->grants--;
        lease->grants++;
    }
    lease->row.budget = budget;
    leases_store(l, lease, NULL, 0);
    for (size_t i = 0; i < l->grant_count; i++)
        if (l->grant[i]->lease == lease)
            leases_store(l, NULL, l->grant[i], 0);
    leases_end_lease(l, old, "the job was requeued and has started again");
}

void leases_apply(struct leases *l, struct lease *lease, const struct slurm_job *job)
{
    char why[160];

    if (!job) {
        if (!lease->identified)
            log_warn("job %" PRId64 ": Slurm's controller does not know it; under PrivateData=jobs "
                     "the daemon's user must be an operator",
                     lease->row.job);
        leases_end_lease(l, lease, "the controller does not know the job any more");
    } else if (job->uid != lease->row.uid) {
        snprintf(why, sizeof(why), "the controller says that the job is of uid %" PRId64, job->uid);
        leases_end_lease(l, lease, why);
    } else if (job->ended) {
        snprintf(why, sizeof(why), "the job is %s", job->state);
        leases_end_lease(l, lease, why);
    } else if (!lease->identified) {
        identify(l, lease, job);
        leases_store(l, lease, NULL, 1);
    } else if (job->start && job->start != lease->row.job_start) {
        begin_new_run(l, lease, job);
    }
}

/* --- asking ----------------------------------------------------------------------------------- */

static void not_answered(struct leases *l, const char *text)
{
    if (!l->silent)
        log_warn("Slurm's controller does not answer, leases go on as they are: %s", text);
    l->silent = 1;
    /* The next sweep asks about all of them. */
    for (size_t i = 0; i < l->lease_count; i++)
        l->lease[i]->asking = 0;
}

static void on_answer(void *arg, int answered, const struct slurm_job *jobs, size_t count,
                      const char *text)
{
    struct leases *l = arg;

    l->question = NULL;
    if (!answered) {
        not_answered(l, text);
        return;
    }
    if (l->silent)
        log_info("Slurm's controller answers again");
    l->silent = 0;
    for (size_t i = 0; i < l->asked_count; i++) {
        struct lease *lease = leases_find_lease(l, l->asked[i]);
        const struct slurm_job *job = NULL;
        if (!lease)
            continue;
        for (size_t j = 0; j < count && !job; j++)
            if (jobs[j].job == lease->row.job)
                job = &jobs[j];
        leases_apply(l, lease, job);
    }
    leases_reap(l);
    leases_ask(l);
}

void leases_ask(struct leases *l)
{
    int64_t jobs[SLURM_JOBS_MAX];
    struct error err;

    if (l->question)
        return;
    l->asked_count = 0;
    for (size_t i = 0; i < l->lease_count && l->asked_count < SLURM_JOBS_MAX; i++) {
        struct lease *lease = l->lease[i];
        if (!lease->asking || lease->ended)
            continue;
        lease->asking = 0;
        jobs[l->asked_count] = lease->row.job;
        l->asked[l->asked_count++] = lease->row.id;
    }
    if (l->asked_count == 0)
        return;
    l->question = slurm_ask(l->f->base, l->f->config->slurm_bin, jobs, l->asked_count, ANSWER_US,
                            on_answer, l, &err);
    if (!l->question)
        not_answered(l, err.text);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    struct leases *l = arg;

    (void)fd;
    (void)what;
    for (size_t i = 0; i < l->lease_count; i++)
        if (l->lease[i]->row.job && !l->lease[i]->ended)
            l->lease[i]->asking = 1;
    leases_ask(l);
}

int leases_watch_create(struct leases *l, struct error *err)
{
    const struct timeval period = {.tv_sec = SWEEP_US / 1000000, .tv_usec = SWEEP_US % 1000000};

    if (l->f->config->identity == IDENTITY_NONE)
        return 0;
    l->sweep = event_new(l->f->base, -1, EV_PERSIST, on_sweep, l);
    if (!l->sweep || event_add(l->sweep, &period) < 0)
        return error_set(err, STATUS_NOMEM, "no memory for a timer");
    on_sweep(-1, 0, l);
    return 0;
}

void leases_watch_destroy(struct leases *l)
{
    slurm_cancel(l->question);
    if (l->sweep)
        event_free(l->sweep);
    l->question = NULL;
    l->sweep = NULL;
}
