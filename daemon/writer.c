/*
 * writer.c - the database thread: all that is queued in one commit
 *
 * Order: BEGIN, each job's run, COMMIT, then the answers.  A job whose run fails has its own error
 * and leaves the others alone; if the commit fails, every job of the group has that error.
 */
#include "daemon/writer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"

#define SYNC_US 1000000

struct writer {
    struct db *db;
    struct journal *journal; /* NULL: there is none */
    struct mailbox *queue;
    struct mail stop; /* posted last, by writer_destroy */
    pthread_t thread;
    int64_t synced_us;
};

static void answer(struct writer_job *job)
{
    if (job->reply != NULL) {
        mailbox_post(job->reply, &job->mail);
        return;
    }
    if (job->error.status != STATUS_OK)
        log_error("database: %s", job->error.text);
    free(job);
}

static void run_job(struct writer *w, struct writer_job *job)
{
    job->error = (struct error){.status = STATUS_OK};
    if (job->run(w->db, job, &job->error) != 0 && job->error.status == STATUS_OK)
        error_set(&job->error, STATUS_INTERNAL, "a database job failed and did not say why");
}

/* One group: the list of jobs, in order of posting. */
static void run_group(struct writer *w, struct mail *list)
{
    struct error err = {.status = STATUS_OK};
    int failed = db_begin(w->db, &err) != 0;

    for (struct mail *m = list; m != NULL && !failed; m = m->next)
        run_job(w, (struct writer_job *)m);
    if (!failed)
        failed = db_commit(w->db, &err) != 0;
    for (struct mail *m = list, *next; m != NULL; m = next) {
        struct writer_job *job = (struct writer_job *)m;

        next = m->next; /* the job is gone after its answer */
        if (failed)
            job->error = err;
        answer(job);
    }
}

/* The kernel knows which of its pages are dirty: syncing clean ones writes nothing. */
static void sync_journal(struct writer *w)
{
    struct error err;

    w->synced_us = clock_monotonic_us();
    if (w->journal != NULL && journal_sync(w->journal, &err) != 0)
        log_error("%s", err.text);
}

static void wait_for_mail(struct writer *w)
{
    struct pollfd pfd = {.fd = mailbox_fd(w->queue), .events = POLLIN};
    int64_t left = w->synced_us + SYNC_US - clock_monotonic_us();

    if (left > 0 && poll(&pfd, 1, (int)(left / 1000) + 1) < 0 && errno != EINTR)
        log_error("database: poll: %s", strerror(errno));
    if (clock_monotonic_us() - w->synced_us >= SYNC_US)
        sync_journal(w);
}

/* Cut the stop mail, which is the last one, off the list: 1 if it was there. */
static int cut_stop(struct writer *w, struct mail **list)
{
    while (*list != NULL && *list != &w->stop)
        list = &(*list)->next;
    if (*list == NULL)
        return 0;
    *list = NULL;
    return 1;
}

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    int stopping = 0;

    while (!stopping) {
        struct mail *list;

        wait_for_mail(w);
        list = mailbox_take(w->queue);
        stopping = cut_stop(w, &list);
        if (list != NULL)
            run_group(w, list);
    }
    sync_journal(w);
    return NULL;
}

struct writer *writer_create(struct db *db, struct journal *journal, struct error *err)
{
    struct writer *w = calloc(1, sizeof *w);
    sigset_t all, old;
    int e;

    if (w == NULL) {
        error_set(err, STATUS_NOMEM, "database thread: out of memory");
        return NULL;
    }
    w->db = db;
    w->journal = journal;
    w->synced_us = clock_monotonic_us();
    w->queue = mailbox_create(err);
    if (w->queue == NULL) {
        free(w);
        return NULL;
    }
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    e = pthread_create(&w->thread, NULL, writer_main, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e != 0) {
        errno = e;
        error_errno(err, "database thread");
        mailbox_destroy(w->queue);
        free(w);
        return NULL;
    }
    return w;
}

void writer_destroy(struct writer *w)
{
    if (w == NULL)
        return;
    mailbox_post(w->queue, &w->stop);
    pthread_join(w->thread, NULL);
    mailbox_destroy(w->queue);
    free(w);
}

void writer_post(struct writer *w, struct writer_job *job)
{
    mailbox_post(w->queue, &job->mail);
}
