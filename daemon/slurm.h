/*
 * slurm.h - questions to Slurm's controller
 *
 * One child process (squeue) per question, for one job or a thousand; its output is read by the
 * caller's event loop, which never blocks.  A question that is not answered within its time limit
 * is killed and counts as not answered: nothing may be concluded from it.
 */
#ifndef MP_DAEMON_SLURM_H
#define MP_DAEMON_SLURM_H

#include <event2/event.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "db/db.h"

#define SLURM_JOBS_MAX                                                                             \
    1024u /* in one question: keeps its argument list far from the kernel's limit */

struct slurm_job {
    int64_t job;                                        /* unique, also for array and het members */
    int64_t array_job, array_task, het_job, het_offset; /* -1: none */
    int64_t uid;
    int64_t start;             /* Unix seconds; 0: has not started */
    char account[DB_NAME_MAX]; /* "none" if the cluster keeps no accounts */
    char partition[DB_NAME_MAX];
    char state[24]; /* "RUNNING" */
    int ended;      /* not running any more, or (after a requeue) not yet again */
};

/* The lines of wanted jobs (ascending) in squeue's output; others, its errors among them, are
 * skipped. Returns how many. */
size_t slurm_parse(const char *text, const int64_t *wanted, size_t wanted_count,
                   struct slurm_job *jobs, size_t room);

struct slurm_question;

/*
 * answered: 1, and a job that is not among jobs[0..count) is unknown to the controller; 0, and text
 * says why there was no answer.  jobs and text are valid during the call alone.
 */
typedef void (*slurm_answer_f)(void *arg, int answered, const struct slurm_job *jobs, size_t count,
                               const char *text);

/* Ask about jobs[0..count), 1..SLURM_JOBS_MAX of them, by `bin`/squeue.  The answer comes from the
 * loop, exactly once, unless cancelled; the question is freed after it.  NULL: the child could not
 * be started. */
struct slurm_question *slurm_ask(struct event_base *base, const char *bin, const int64_t *jobs,
                                 size_t count, int64_t limit_us, slurm_answer_f answer, void *arg,
                                 struct error *err);
/* Kill and forget. */
void slurm_cancel(struct slurm_question *q);

#endif
