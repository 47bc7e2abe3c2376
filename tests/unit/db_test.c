/* db_test.c - migration, groups of writes, leases, the ledger's life and what a full disk does. */
#include "tests/unit/db_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int64_t number(struct bench *b, const char *sql)
{
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_prepare_v2(b->db->handle, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int64_t v = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return v;
}

static void execute(const char *path, const char *sql)
{
    sqlite3 *handle;
    assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(handle);
}

/* --- samples -------------------------------------------------------------------------------- */

static struct db_usage sample_usage(int64_t lease, int64_t n)
{
    struct db_usage u = {
        .cluster = "c1",
        .node = "n1",
        .lease = lease,
        .job = 100 + n,
        .array_job = -1,
        .array_task = -1,
        .het_job = -1,
        .het_offset = -1,
        .step_name = "0",
        .uid = 1000 + n % 2,
        .account = "physics",
        .partition = "debug",
        .model = "smol",
        .slo = "chat",
        .state = "open",
        .prompt_tokens = 10,
        .cached_tokens = 2,
        .ttft_us = -1,
        .start_us = n * 1000,
    };
    snprintf(u.request, sizeof u.request, "chatcmpl-%lld", (long long)n);
    return u;
}

static struct db_usage open_usage(struct db *db, int64_t lease, int64_t n)
{
    struct db_usage u = sample_usage(lease, n);
    OK(db_open_usage(db, &u, &err));
    assert_true(u.row > 0);
    return u;
}

static struct db_filter everything(void)
{
    return (struct db_filter){.uid = -1};
}

struct found {
    size_t count, stop_at; /* 0: at the end */
    struct db_usage first, last;
};

static int collect(const struct db_usage *u, void *arg)
{
    struct found *found = arg;
    if (found->count == 0)
        found->first = *u;
    else
        assert_true(u->row > found->last.row);
    found->last = *u;
    found->count++;
    return found->count == found->stop_at;
}

static struct found find(struct db *db, struct db_filter filter, size_t stop_at)
{
    struct found found = {.stop_at = stop_at};
    OK(db_each_usage(db, &filter, collect, &found, &err));
    return found;
}

/* --- opening -------------------------------------------------------------------------------- */

static void test_migrates_an_empty_file(void **state)
{
    struct bench *b = *state;
    struct stat st;
    assert_true(number(b, "PRAGMA user_version") >= 1);
    assert_int_equal(number(b, "PRAGMA synchronous"), 2); /* FULL */
    assert_int_equal(number(b, "PRAGMA foreign_keys"), 1);
    assert_int_equal(number(b, "SELECT (SELECT journal_mode FROM pragma_journal_mode) = 'wal'"), 1);
    assert_int_equal(stat(b->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    new_lease(b->db, 1);
    int64_t version = number(b, "PRAGMA user_version");
    reopen(b); /* nothing left to migrate, nothing lost */
    assert_int_equal(number(b, "PRAGMA user_version"), version);
    assert_int_equal(number(b, "SELECT count(*) FROM lease"), 1);
    db_close(b->db);
    unlink(b->path);
    int fd = open(b->path, O_CREAT | O_WRONLY, 0600); /* there, and empty */
    assert_true(fd >= 0);
    close(fd);
    b->db = open_db(b->path);
    assert_int_equal(number(b, "PRAGMA user_version"), version);
}

static void assert_not_opened(const char *path, enum status status, const char *text)
{
    struct error err = {STATUS_OK, ""};
    assert_null(db_open(path, &err));
    if (err.status != status || !strstr(err.text, text) || !strstr(err.text, path))
        fail_msg("%s: %s", status_word(err.status), err.text);
}

static void test_refuses_newer_damaged_and_missing(void **state)
{
    struct bench *b = *state;
    char restore[64];
    snprintf(restore, sizeof restore, "PRAGMA user_version = %d",
             (int)number(b, "PRAGMA user_version"));
    db_close(b->db);
    execute(b->path, "PRAGMA user_version = 9999");
    assert_not_opened(b->path, STATUS_UNSUPPORTED, "version 9999");
    execute(b->path, restore);
    db_close(open_db(b->path)); /* the refusal changed nothing */
    FILE *file = fopen(b->path, "wb");
    assert_non_null(file);
    for (int i = 0; i < 1000; i++)
        fputs("this is no database. ", file);
    fclose(file);
    assert_not_opened(b->path, STATUS_CORRUPT, "not a database");
    unlink(b->path);
    assert_not_opened("/nonexistent/modelpool.db", STATUS_NOT_FOUND, "database");
    b->db = open_db(b->path);
}

/* A file of version 1 has no costs, and no master copies. */
static void test_version_1_gets_costs(void **state)
{
    struct bench *b = *state;
    struct db_cost c = {.model = "m", .device = "cpu", .decode = 0.5};
    new_lease(b->db, 1);
    db_close(b->db);
    execute(b->path, "DROP TABLE cost; DROP TABLE segment; DROP TABLE source");
    execute(b->path, "PRAGMA user_version = 1");
    b->db = open_db(b->path);
    assert_true(number(b, "PRAGMA user_version") >= 3);
    assert_int_equal(number(b, "SELECT count(*) FROM lease"), 1);
    OK(db_put_cost(b->db, &c, &err));
}

/* A migration that fails half way leaves the file as it was. */
static void test_failed_migration_changes_nothing(void **state)
{
    struct bench *b = *state;
    db_close(b->db);
    unlink(b->path);
    execute(b->path, "CREATE TABLE usage (mine INTEGER)"); /* in the way of version 1 */
    assert_not_opened(b->path, STATUS_IO, "migrate");
    sqlite3 *handle;
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_open(b->path, &handle), SQLITE_OK);
    sqlite3_prepare_v2(handle, "SELECT count(*) FROM sqlite_schema", -1, &st, NULL);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int64(st, 0), 1);
    sqlite3_finalize(st);
    sqlite3_close(handle);
    unlink(b->path);
    b->db = open_db(b->path);
}

/* --- placement, leases, grants -------------------------------------------------------------- */

static void test_placement_replaces(void **state)
{
    struct bench *b = *state;
    struct db_placement p = {.model = "smol",
                             .tier = "gpu",
                             .place = "cpu0",
                             .state = "loading",
                             .bytes = 7,
                             .changed_us = 1};
    OK(db_put_model(b->db, "smol", "/m.gguf", 5, &err));
    OK(db_put_model(b->db, "smol", "/n.gguf", 6, &err));
    assert_int_equal(number(b, "SELECT count(*) FROM model WHERE path = '/n.gguf' AND bytes = 6"),
                     1);
    OK(db_put_placement(b->db, &p, &err));
    snprintf(p.state, sizeof p.state, "resident");
    OK(db_put_placement(b->db, &p, &err));
    snprintf(p.place, sizeof p.place, "cpu1");
    OK(db_put_placement(b->db, &p, &err));
    assert_int_equal(number(b, "SELECT count(*) FROM placement WHERE state = 'resident'"), 2);
    snprintf(p.tier, sizeof p.tier, "cloud");
    FAILS(STATUS_INVALID, b->path, db_put_placement(b->db, &p, &err));
    FAILS(STATUS_INVALID, "does not fit", db_put_model(b->db, "x", "/x", UINT64_MAX, &err));
    assert_int_equal(number(b, "SELECT count(*) FROM model"), 1);
}

struct leases {
    struct db_lease list[4];
    struct db_grant grants[4];
    size_t count;
};

static int take_lease(const struct db_lease *l, void *arg)
{
    struct leases *all = arg;
    assert_true(all->count < 4);
    all->list[all->count++] = *l;
    return 0;
}

static int take_grant(const struct db_grant *g, void *arg)
{
    struct leases *all = arg;
    assert_true(all->count < 4);
    all->grants[all->count++] = *g;
    return all->count == 2; /* and no further */
}

static void test_leases_come_back(void **state)
{
    struct bench *b = *state;
    struct db_lease l = sample_lease(7), given = sample_lease(8);
    struct leases all = {.count = 0};
    int64_t ended = new_lease(b->db, 6);
    OK(db_put_lease(b->db, &l, &err));
    given.id = 4611686018427387904; /* chosen by the caller */
    OK(db_put_lease(b->db, &given, &err));
    assert_int_equal(given.id, 4611686018427387904);
    snprintf(l.account, sizeof l.account, "physics"); /* the controller has answered */
    snprintf(l.partition, sizeof l.partition, "debug");
    l.job_start = 1700000000;
    l.array_job = 5;
    l.array_task = 3;
    l.budget = 900;
    OK(db_put_lease(b->db, &l, &err));
    struct db_lease over = sample_lease(6);
    over.id = ended;
    over.ended_us = 9;
    OK(db_put_lease(b->db, &over, &err));
    reopen(b);
    OK(db_each_live_lease(b->db, take_lease, &all, &err));
    assert_int_equal(all.count, 2);
    assert_int_equal(all.list[0].id, l.id);
    assert_memory_equal(&all.list[0], &l, sizeof l);
    assert_int_equal(all.list[1].id, given.id);
}

static void test_grants_come_back(void **state)
{
    struct bench *b = *state;
    struct leases all = {.count = 0};
    struct db_grant g = {.id = 11,
                         .step = -1,
                         .step_name = "local",
                         .models = "a,b",
                         .slo = "chat",
                         .wait_us = 3,
                         .created_us = 4};
    g.lease = 12345;
    FAILS(STATUS_INVALID, "FOREIGN KEY", db_put_grant(b->db, &g, &err));
    g.lease = new_lease(b->db, 1);
    OK(db_put_grant(b->db, &g, &err));
    for (int64_t id = 12; id <= 14; id++) {
        struct db_grant more = g;
        more.id = id;
        OK(db_put_grant(b->db, &more, &err));
    }
    struct db_grant over = g;
    over.id = 12;
    over.ended_us = 9;
    OK(db_put_grant(b->db, &over, &err));
    reopen(b);
    OK(db_each_live_grant(b->db, take_grant, &all, &err));
    assert_int_equal(all.count, 2);
    assert_memory_equal(&all.grants[0], &g, sizeof g);
    assert_int_equal(all.grants[1].id, 13);
}

/* --- the ledger ----------------------------------------------------------------------------- */

static void test_row_opens_and_closes(void **state)
{
    struct bench *b = *state;
    int64_t lease = new_lease(b->db, 1);
    uint64_t used = 99;
    OK(db_lease_used(b->db, lease, &used, &err));
    assert_int_equal(used, 0);
    struct db_usage u = open_usage(b->db, lease, 1), other = open_usage(b->db, lease, 2);
    assert_true(other.row > u.row);
    OK(db_lease_used(b->db, lease, &used, &err));
    assert_int_equal(used, 20); /* prompts count from admission */
    snprintf(u.state, sizeof u.state, "done");
    snprintf(u.finish, sizeof u.finish, "stop");
    u.completion_tokens = 33;
    u.engine_us = 44;
    u.switches = 1;
    u.preemptions = 2;
    u.ttft_us = 55;
    u.end_us = 66;
    OK(db_close_usage(b->db, &u, &err));
    OK(db_lease_used(b->db, lease, &used, &err));
    assert_int_equal(used, 53);
    struct found found = find(b->db, everything(), 0);
    assert_int_equal(found.count, 2);
    assert_memory_equal(&found.first, &u, sizeof u);
    assert_memory_equal(&found.last, &other, sizeof other);
    u.row = 777;
    FAILS(STATUS_NOT_FOUND, "777", db_close_usage(b->db, &u, &err));
}

static void test_bad_rows_are_refused(void **state)
{
    struct bench *b = *state;
    int64_t lease = new_lease(b->db, 1);
    struct db_usage u = open_usage(b->db, lease, 1), again = sample_usage(lease, 1);
    FAILS(STATUS_INVALID, "UNIQUE", db_open_usage(b->db, &again, &err)); /* billed once */
    struct db_usage stray = sample_usage(lease + 1, 2);
    FAILS(STATUS_INVALID, "FOREIGN KEY", db_open_usage(b->db, &stray, &err));
    struct db_usage state_ = sample_usage(lease, 3);
    snprintf(state_.state, sizeof state_.state, "odd");
    FAILS(STATUS_INVALID, "CHECK", db_open_usage(b->db, &state_, &err));
    u.completion_tokens = -1;
    FAILS(STATUS_INVALID, "CHECK", db_close_usage(b->db, &u, &err));
    assert_int_equal(find(b->db, everything(), 0).count, 1);
}

static void test_identity_comes_later(void **state)
{
    struct bench *b = *state;
    struct db_lease l = sample_lease(1);
    OK(db_put_lease(b->db, &l, &err));
    int64_t other = new_lease(b->db, 2);
    open_usage(b->db, l.id, 1);
    open_usage(b->db, other, 2);
    snprintf(l.account, sizeof l.account, "biology");
    snprintf(l.partition, sizeof l.partition, "long");
    l.array_job = 40;
    l.array_task = 4;
    l.het_job = 50;
    l.het_offset = 1;
    OK(db_identify_usage(b->db, &l, &err));
    struct found found = find(b->db, everything(), 0);
    assert_string_equal(found.first.account, "biology");
    assert_string_equal(found.first.partition, "long");
    assert_int_equal(found.first.array_job, 40);
    assert_int_equal(found.first.array_task, 4);
    assert_int_equal(found.first.het_job, 50);
    assert_int_equal(found.first.het_offset, 1);
    assert_string_equal(found.last.account, "physics");
}

/* Twelve rows that differ in what filters look at; row n starts at n ms and ends 5 ms later. */
static void fill_for_filters(struct db *db)
{
    static const char *const accounts[] = {"physics", "phys", "bio"};
    int64_t lease = new_lease(db, 1);
    for (int64_t n = 1; n <= 12; n++) {
        struct db_usage u = sample_usage(lease, n);
        snprintf(u.account, sizeof u.account, "%s", accounts[n % 3]);
        snprintf(u.model, sizeof u.model, "m%lld", (long long)(n % 4));
        if (n == 12)
            u.array_job = 500;
        if (n == 11)
            u.het_job = 600;
        OK(db_open_usage(db, &u, &err));
        if (n > 10)
            continue; /* these two stay open */
        snprintf(u.state, sizeof u.state, n % 2 ? "done" : "failed");
        u.end_us = u.start_us + 5000;
        OK(db_close_usage(db, &u, &err));
    }
}

static void test_filters(void **state)
{
    struct bench *b = *state;
    fill_for_filters(b->db);
    const struct {
        struct db_filter filter;
        size_t count;
    } cases[] = {
        {{.uid = -1}, 12},
        {{.uid = -1, .jobs = ""}, 12},
        {{.uid = 1001}, 6},
        {{.uid = 4}, 0},
        {{.uid = -1, .jobs = "101, 103,999"}, 2},
        {{.uid = -1, .jobs = "10"}, 0}, /* no part of a number */
        {{.uid = -1, .jobs = "500"}, 1},
        {{.uid = -1, .jobs = "600,101"}, 2},
        {{.uid = -1, .users = "1000"}, 6},
        {{.uid = -1, .users = "1000,1001"}, 12},
        {{.uid = 1000, .users = "1001"}, 0}, /* both conditions hold */
        {{.uid = -1, .accounts = "phys"}, 4},
        {{.uid = -1, .accounts = "phys,bio"}, 8},
        {{.uid = -1, .accounts = "%"}, 0},
        {{.uid = -1, .models = "m0"}, 3},
        {{.uid = -1, .states = "done"}, 5},
        {{.uid = -1, .states = "open,failed"}, 7},
        {{.uid = -1, .from_us = 15001}, 2},               /* those that are still open */
        {{.uid = -1, .from_us = 15000}, 3},               /* and the one that ended just then */
        {{.uid = -1, .to_us = 3000}, 2},                  /* the end is not in it */
        {{.uid = -1, .from_us = 8000, .to_us = 9000}, 6}, /* began before, ended in it or later */
        {{.uid = -1, .accounts = "bio", .states = "failed", .models = "m0"}, 1},
        {{.uid = -1, .after_row = 9}, 3},
        {{.uid = -1, .jobs = "101' OR 1=1 --"}, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t count = find(b->db, cases[i].filter, 0).count;
        if (count != cases[i].count)
            fail_msg("filter %zu gives %zu rows and not %zu", i, count, cases[i].count);
    }
}

static void test_pages_of_many_rows(void **state)
{
    struct bench *b = *state;
    int64_t lease = new_lease(b->db, 1);
    struct db_filter filter = everything();
    size_t seen = 0, pages = 0;
    OK(db_begin(b->db, &err));
    for (int64_t n = 0; n < 10000; n++)
        open_usage(b->db, lease, n);
    OK(db_commit(b->db, &err));
    filter.users = "1001";
    for (;;) {
        struct found found = find(b->db, filter, 256);
        if (found.count == 0)
            break;
        assert_true(found.first.row > filter.after_row);
        filter.after_row = found.last.row;
        seen += found.count;
        pages++;
    }
    assert_int_equal(seen, 5000);
    assert_int_equal(pages, 20);
    uint64_t used;
    OK(db_lease_used(b->db, lease, &used, &err));
    assert_int_equal(used, 100000);
}

/* --- death ---------------------------------------------------------------------------------- */

static int64_t from_row(int64_t row, void *arg)
{
    int64_t *asked = arg;
    ++*asked;
    return row % 3 == 0 ? -1 : row * 10; /* the journal knows two in three */
}

/* A child opens rows and dies by kill -9 with more of them in a group that it never committed. */
static void die_with_open_rows(const char *path, int64_t lease, int64_t rows)
{
    struct db *db = db_open(path, NULL);
    if (!db)
        _exit(1);
    for (int64_t n = 1; n <= rows; n++) {
        struct db_usage u = sample_usage(lease, n);
        if (db_open_usage(db, &u, NULL) != 0)
            _exit(2);
    }
    struct db_usage lost = sample_usage(lease, rows + 1);
    if (db_begin(db, NULL) != 0 || db_open_usage(db, &lost, NULL) != 0)
        _exit(3);
    kill(getpid(), SIGKILL);
}

static void test_recovers_after_kill_9(void **state)
{
    struct bench *b = *state;
    int64_t lease = new_lease(b->db, 1), asked = 0;
    int status;
    uint64_t closed = 99;
    db_close(b->db);
    b->db = NULL;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        die_with_open_rows(b->path, lease, 100);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    b->db = open_db(b->path);
    assert_int_equal(find(b->db, everything(), 0).count, 100);
    struct db_usage done = open_usage(b->db, lease, 500);
    snprintf(done.state, sizeof done.state, "done");
    done.completion_tokens = 1;
    OK(db_close_usage(b->db, &done, &err));
    OK(db_recover_usage(b->db, from_row, &asked, 123456, &closed, &err));
    assert_int_equal(closed, 100);
    assert_int_equal(asked, 100);
    assert_int_equal(number(b, "SELECT count(*) FROM usage WHERE state = 'open'"), 0);
    assert_int_equal(number(b, "SELECT count(*) FROM usage WHERE state = 'interrupted' AND "
                               "end_us = 123456 AND completion_tokens = "
                               "CASE WHEN row % 3 = 0 THEN 0 ELSE row * 10 END"),
                     100);
    assert_int_equal(number(b, "SELECT completion_tokens FROM usage WHERE state = 'done'"), 1);
    OK(db_recover_usage(b->db, from_row, &asked, 99, &closed, &err)); /* nothing is left to do */
    assert_int_equal(closed, 0);
    assert_int_equal(asked, 100);
    assert_true(open_usage(b->db, lease, 600).row > 100); /* no row number comes again */
}

static void test_group_is_all_or_nothing(void **state)
{
    struct bench *b = *state;
    int64_t lease = new_lease(b->db, 1);
    OK(db_begin(b->db, &err));
    open_usage(b->db, lease, 1);
    struct db_usage again = sample_usage(lease, 1);
    FAILS(STATUS_INVALID, "UNIQUE", db_open_usage(b->db, &again, &err)); /* costs that one alone */
    open_usage(b->db, lease, 2);
    OK(db_commit(b->db, &err));
    OK(db_begin(b->db, &err));
    open_usage(b->db, lease, 3);
    FAILS(STATUS_IO, "within a transaction", db_begin(b->db, &err));
    open_usage(b->db, lease, 4);
    reopen(b); /* never committed */
    assert_int_equal(find(b->db, everything(), 0).count, 2);
    FAILS(STATUS_IO, "no transaction", db_commit(b->db, &err));
}

/* --- disks ---------------------------------------------------------------------------------- */

static void limit_pages(struct bench *b, int64_t more)
{
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA max_page_count = %lld",
             (long long)(more < 0 ? 1000000 : number(b, "PRAGMA page_count") + more));
    assert_int_equal(sqlite3_exec(b->db->handle, sql, NULL, NULL, NULL), SQLITE_OK);
}

static void test_full_disk_undoes_the_group(void **state)
{
    struct bench *b = *state;
    int64_t lease = new_lease(b->db, 1), n = 1;
    struct error err = {STATUS_OK, ""};
    open_usage(b->db, lease, n++);
    limit_pages(b, 3);
    assert_int_equal(db_begin(b->db, &err), 0);
    for (; n < 10000; n++) {
        struct db_usage u = sample_usage(lease, n);
        if (db_open_usage(b->db, &u, &err) != 0)
            break;
    }
    assert_true(n < 10000);
    assert_int_equal(err.status, STATUS_EXHAUSTED);
    assert_non_null(strstr(err.text, b->path));
    limit_pages(b, -1); /* even if there is room again: what follows in the group is not kept */
    struct db_usage late = sample_usage(lease, 20000);
    int rv = db_open_usage(b->db, &late, &err);
    int committed = db_commit(b->db, &err) == 0;
    /* SQLite undoes one statement or all: the group must be whole, or nothing of it be there */
    size_t rows = find(b->db, everything(), 0).count;
    assert_int_equal(rows, committed ? (size_t)n - (rv != 0) : 1);
    open_usage(b->db, lease, 30000); /* and life goes on */
    assert_int_equal(find(b->db, everything(), 0).count, rows + 1);
}

/* As above with SQLite's own rollback made certain. */
static void test_lost_group_takes_no_more(void **state)
{
    struct bench *b = *state;
    int64_t lease = new_lease(b->db, 1);
    OK(db_begin(b->db, &err));
    open_usage(b->db, lease, 1);
    assert_int_equal(sqlite3_exec(b->db->handle, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    struct db_usage u = sample_usage(lease, 2);
    FAILS(STATUS_EXHAUSTED, b->path, db_open_usage(b->db, &u, &err));
    FAILS(STATUS_EXHAUSTED, "undone", db_commit(b->db, &err));
    assert_int_equal(find(b->db, everything(), 0).count, 0);
    OK(db_begin(b->db, &err));
    open_usage(b->db, lease, 2);
    OK(db_commit(b->db, &err));
    assert_int_equal(find(b->db, everything(), 0).count, 1);
}

static void test_read_only_is_an_error(void **state)
{
    struct bench *b = *state;
    int64_t lease = new_lease(b->db, 1);
    struct db_usage u = sample_usage(lease, 1);
    assert_int_equal(sqlite3_exec(b->db->handle, "PRAGMA query_only = ON", NULL, NULL, NULL),
                     SQLITE_OK);
    FAILS(STATUS_IO, b->path, db_open_usage(b->db, &u, &err));
    assert_int_equal(sqlite3_exec(b->db->handle, "PRAGMA query_only = OFF", NULL, NULL, NULL),
                     SQLITE_OK);
    OK(db_open_usage(b->db, &u, &err));
}

/* Somebody else's write lock is waited for, and then an error that names the file. */
static void test_locked_elsewhere(void **state)
{
    struct bench *b = *state;
    sqlite3 *other;
    struct db_lease l = sample_lease(1);
    assert_int_equal(sqlite3_open(b->path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_busy_timeout(b->db->handle, 50);
    FAILS(STATUS_IO, b->path, db_put_lease(b->db, &l, &err));
    assert_int_equal(l.id, 0);
    assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    OK(db_put_lease(b->db, &l, &err));
    sqlite3_close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_migrates_an_empty_file),
        TEST(test_refuses_newer_damaged_and_missing),
        TEST(test_version_1_gets_costs),
        TEST(test_failed_migration_changes_nothing),
        TEST(test_placement_replaces),
        TEST(test_leases_come_back),
        TEST(test_grants_come_back),
        TEST(test_row_opens_and_closes),
        TEST(test_bad_rows_are_refused),
        TEST(test_identity_comes_later),
        TEST(test_filters),
        TEST(test_pages_of_many_rows),
        TEST(test_recovers_after_kill_9),
        TEST(test_group_is_all_or_nothing),
        TEST(test_full_disk_undoes_the_group),
        TEST(test_lost_group_takes_no_more),
        TEST(test_read_only_is_an_error),
        TEST(test_locked_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
