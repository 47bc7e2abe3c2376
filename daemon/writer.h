/*
 * writer.h - the database thread
 *
 * Jobs run in order of posting, many in one commit (group commit: all that is queued, then one
 * fsync).  `done` mails come back to the poster's mailbox after the commit that holds the job is
 * durable.  A failed commit is reported by the status in each of its jobs.
 */
#ifndef MP_DAEMON_WRITER_H
#define MP_DAEMON_WRITER_H

#include "daemon/mailbox.h"
#include "db/db.h"
#include "db/journal.h"

struct writer;

struct writer_job {
    struct mail mail;      /* posted to `reply` when durable (kind is the poster's); */
    struct mailbox *reply; /* NULL: nobody waits, the writer frees the job */
    int (*run)(struct db *db, struct writer_job *job, struct error *err); /* in the writer */
    struct error error; /* status OK if run returned 0 and the commit succeeded */
};

struct writer *writer_create(struct db *db, struct journal *journal, struct error *err);
/* Runs what is queued, then joins. Does not close db or journal. */
void writer_destroy(struct writer *w);
void writer_post(struct writer *w, struct writer_job *job);

#endif
