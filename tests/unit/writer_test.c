/* writer_test.c - the database thread with a real database: order, groups, failures, the end */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "daemon/writer.h"

struct bench {
    char folder[64], db_path[128], journal_path[128];
    struct db *db;
    struct journal *journal;
    struct writer *writer;
    struct mailbox *replies;
};

struct test_job {
    struct writer_job job;
    int number;
    sem_t *wait;
};

static int setup(void **state)
{
    struct bench *b = calloc(1, sizeof *b);

    assert_non_null(b);
    snprintf(b->folder, sizeof b->folder, "/tmp/writer_test.XXXXXX");
    assert_non_null(mkdtemp(b->folder));
    snprintf(b->db_path, sizeof b->db_path, "%s/db", b->folder);
    snprintf(b->journal_path, sizeof b->journal_path, "%s/journal", b->folder);
    b->db = db_open(b->db_path, NULL);
    b->journal = journal_open(b->journal_path, NULL);
    b->replies = mailbox_create(NULL);
    assert_non_null(b->db);
    assert_non_null(b->journal);
    assert_non_null(b->replies);
    b->writer = writer_create(b->db, b->journal, NULL);
    assert_non_null(b->writer);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"db", "db-wal", "db-shm", "journal"};
    struct bench *b = *state;

    writer_destroy(b->writer);
    mailbox_destroy(b->replies);
    journal_close(b->journal);
    db_close(b->db);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[192];

        snprintf(path, sizeof path, "%s/%s", b->folder, names[i]);
        unlink(path);
    }
    rmdir(b->folder);
    free(b);
    return 0;
}

static int wait_for_sem(struct db *db, struct writer_job *job, struct error *err)
{
    (void)db;
    (void)err;
    sem_wait(((struct test_job *)job)->wait);
    return 0;
}

static int put_lease(struct db *db, struct writer_job *job, struct error *err)
{
    struct db_lease lease = {.job = ((struct test_job *)job)->number,
                             .array_job = -1,
                             .array_task = -1,
                             .het_job = -1,
                             .het_offset = -1,
                             .budget = -1,
                             .created_us = 1};

    snprintf(lease.cluster, sizeof lease.cluster, "test");
    return db_put_lease(db, &lease, err);
}

static int refuse(struct db *db, struct writer_job *job, struct error *err)
{
    (void)db;
    (void)job;
    return error_set(err, STATUS_DENIED, "refused for the test");
}

static int say_nothing(struct db *db, struct writer_job *job, struct error *err)
{
    (void)db;
    (void)job;
    (void)err;
    return -1;
}

/* Ends the group's transaction under the writer's feet: its commit fails. */
static int end_transaction(struct db *db, struct writer_job *job, struct error *err)
{
    (void)job;
    return db_commit(db, err);
}

static void post(struct bench *b, int number,
                 int (*run)(struct db *, struct writer_job *, struct error *),
                 struct mailbox *reply, sem_t *wait)
{
    struct test_job *j = calloc(1, sizeof *j);

    assert_non_null(j);
    j->job.run = run;
    j->job.reply = reply;
    j->number = number;
    j->wait = wait;
    writer_post(b->writer, &j->job);
}

/* Takes `count` answers, which must be numbered from `first`; their statuses. */
static void take(struct bench *b, int first, int count, enum status *statuses)
{
    int n = 0;

    while (n < count) {
        struct pollfd pfd = {.fd = mailbox_fd(b->replies), .events = POLLIN};

        assert_int_equal(poll(&pfd, 1, 10000), 1);
        for (struct mail *m = mailbox_take(b->replies), *next; m != NULL; m = next) {
            struct test_job *j = (struct test_job *)m;

            next = m->next;
            assert_true(n < count);
            assert_int_equal(j->number, first + n);
            statuses[n++] = j->job.error.status;
            free(j);
        }
    }
}

static int count_lease(const struct db_lease *lease, void *arg)
{
    (void)lease;
    ++*(int *)arg;
    return 0;
}

/* As another process would see it: what is durable. */
static int durable_leases(const struct bench *b)
{
    struct db *db = db_open(b->db_path, NULL);
    int n = 0;

    assert_non_null(db);
    assert_int_equal(db_each_live_lease(db, count_lease, &n, NULL), 0);
    db_close(db);
    return n;
}

static void jobs_are_durable_when_answered(void **state)
{
    struct bench *b = *state;
    enum status statuses[100];

    for (int i = 0; i < 100; i++)
        post(b, i, put_lease, b->replies, NULL);
    take(b, 0, 100, statuses);
    for (int i = 0; i < 100; i++)
        assert_int_equal(statuses[i], STATUS_OK);
    assert_int_equal(durable_leases(b), 100);
}

/* Jobs that pile up behind a slow one are one group: nothing of it shows before its last one ran.
 */
static void what_piles_up_is_one_commit(void **state)
{
    struct bench *b = *state;
    enum status statuses[4];
    sem_t first, second;

    sem_init(&first, 0, 0);
    sem_init(&second, 0, 0);
    post(b, 0, wait_for_sem, b->replies, &first);
    usleep(50000); /* it is taken alone */
    post(b, 1, put_lease, b->replies, NULL);
    post(b, 2, put_lease, b->replies, NULL);
    post(b, 3, wait_for_sem, b->replies, &second);
    sem_post(&first);
    take(b, 0, 1, statuses);
    usleep(50000);
    assert_int_equal(durable_leases(b), 0);
    assert_null(mailbox_take(b->replies));
    sem_post(&second);
    take(b, 1, 3, statuses);
    assert_int_equal(durable_leases(b), 2);
    sem_destroy(&first);
    sem_destroy(&second);
}

static void a_failed_job_fails_alone(void **state)
{
    struct bench *b = *state;
    enum status statuses[5];
    sem_t gate;

    sem_init(&gate, 0, 0);
    post(b, 0, wait_for_sem, b->replies, &gate);
    post(b, 1, put_lease, b->replies, NULL);
    post(b, 2, refuse, b->replies, NULL);
    post(b, 3, say_nothing, b->replies, NULL);
    post(b, 77, refuse, NULL, NULL); /* nobody waits: logged and freed */
    post(b, 4, put_lease, b->replies, NULL);
    sem_post(&gate);
    take(b, 0, 5, statuses);
    assert_int_equal(statuses[1], STATUS_OK);
    assert_int_equal(statuses[2], STATUS_DENIED);
    assert_int_equal(statuses[3], STATUS_INTERNAL);
    assert_int_equal(statuses[4], STATUS_OK);
    assert_int_equal(durable_leases(b), 2);
    sem_destroy(&gate);
}

static void a_failed_commit_fails_all(void **state)
{
    struct bench *b = *state;
    enum status statuses[4];
    sem_t gate;

    sem_init(&gate, 0, 0);
    post(b, 0, wait_for_sem, b->replies, &gate);
    usleep(50000);
    post(b, 1, refuse, b->replies, NULL);
    post(b, 2, end_transaction, b->replies, NULL);
    post(b, 3, say_nothing, b->replies, NULL);
    sem_post(&gate);
    take(b, 0, 4, statuses);
    assert_int_equal(statuses[0], STATUS_OK);
    for (int i = 1; i < 4; i++) {
        assert_int_not_equal(statuses[i], STATUS_OK);
        assert_int_equal(statuses[i], statuses[1]);
    }
    post(b, 0, put_lease, b->replies, NULL); /* the next group works */
    take(b, 0, 1, statuses);
    assert_int_equal(statuses[0], STATUS_OK);
    assert_int_equal(durable_leases(b), 1);
}

static void the_end_runs_what_is_queued(void **state)
{
    struct bench *b = *state;
    enum status statuses[50];
    int slot;

    slot = journal_take(b->journal, 7, NULL);
    assert_true(slot >= 0);
    journal_set(b->journal, slot, 42);
    usleep(1100000); /* a sync by the clock */
    for (int i = 0; i < 50; i++)
        post(b, i, put_lease, b->replies, NULL);
    post(b, 99, put_lease, NULL, NULL);
    writer_destroy(b->writer);
    b->writer = NULL;
    take(b, 0, 50, statuses);
    assert_int_equal(durable_leases(b), 51);
    assert_int_equal(journal_find(b->journal, 7), 42);
}

#define bench_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        bench_test(jobs_are_durable_when_answered), bench_test(what_piles_up_is_one_commit),
        bench_test(a_failed_job_fails_alone),       bench_test(a_failed_commit_fails_all),
        bench_test(the_end_runs_what_is_queued),
    };

    log_init("writer_test", LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
