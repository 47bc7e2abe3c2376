#include "db/internal.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUSY_TIMEOUT_MS 5000

/*
 * Version n is reached from n-1 by migrations[n-1].  A released entry is never changed; a change of
 * the schema is a new entry.
 */
static const char *const migrations[] = {
    "CREATE TABLE model ("
    "  name TEXT PRIMARY KEY, path TEXT NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE placement ("
    "  model TEXT NOT NULL, tier TEXT NOT NULL CHECK (tier IN ('disk', 'host', 'gpu')),"
    "  place TEXT NOT NULL, state TEXT NOT NULL, bytes INTEGER NOT NULL,"
    "  changed_us INTEGER NOT NULL, PRIMARY KEY (model, tier, place)) WITHOUT ROWID;"
    "CREATE TABLE lease ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT, cluster TEXT NOT NULL, job INTEGER NOT NULL,"
    "  job_start INTEGER NOT NULL, array_job INTEGER NOT NULL, array_task INTEGER NOT NULL,"
    "  het_job INTEGER NOT NULL, het_offset INTEGER NOT NULL, uid INTEGER NOT NULL,"
    "  account TEXT NOT NULL, partition TEXT NOT NULL, budget INTEGER NOT NULL,"
    "  created_us INTEGER NOT NULL, ended_us INTEGER NOT NULL);"
    "CREATE INDEX lease_live ON lease (id) WHERE ended_us = 0;"
    "CREATE TABLE grant_ ("
    "  id INTEGER PRIMARY KEY, lease INTEGER NOT NULL REFERENCES lease (id),"
    "  step INTEGER NOT NULL, step_name TEXT NOT NULL, models TEXT NOT NULL, slo TEXT NOT NULL,"
    "  wait_us INTEGER NOT NULL, created_us INTEGER NOT NULL, ended_us INTEGER NOT NULL);"
    "CREATE INDEX grant_live ON grant_ (id) WHERE ended_us = 0;"
    "CREATE TABLE usage ("
    "  row INTEGER PRIMARY KEY AUTOINCREMENT, cluster TEXT NOT NULL, node TEXT NOT NULL,"
    "  lease INTEGER NOT NULL REFERENCES lease (id), job INTEGER NOT NULL,"
    "  array_job INTEGER NOT NULL, array_task INTEGER NOT NULL, het_job INTEGER NOT NULL,"
    "  het_offset INTEGER NOT NULL, step_name TEXT NOT NULL, uid INTEGER NOT NULL,"
    "  account TEXT NOT NULL, partition TEXT NOT NULL, request TEXT NOT NULL UNIQUE,"
    "  model TEXT NOT NULL, slo TEXT NOT NULL,"
    "  state TEXT NOT NULL CHECK (state IN ('open', 'done', 'cancelled', 'failed', 'interrupted')),"
    "  finish TEXT NOT NULL, prompt_tokens INTEGER NOT NULL CHECK (prompt_tokens >= 0),"
    "  cached_tokens INTEGER NOT NULL CHECK (cached_tokens >= 0),"
    "  completion_tokens INTEGER NOT NULL CHECK (completion_tokens >= 0),"
    "  engine_us INTEGER NOT NULL,"
    "  switches INTEGER NOT NULL, preemptions INTEGER NOT NULL, ttft_us INTEGER NOT NULL,"
    "  start_us INTEGER NOT NULL, end_us INTEGER NOT NULL);"
    "CREATE INDEX usage_lease ON usage (lease);"
    "CREATE INDEX usage_job ON usage (job);"
    "CREATE INDEX usage_open ON usage (row) WHERE state = 'open';"
    "CREATE INDEX usage_start ON usage (start_us);",
    /* What models' work costs on devices. */
    "CREATE TABLE cost ("
    "  model TEXT NOT NULL, device TEXT NOT NULL, weight_bytes INTEGER NOT NULL,"
    "  prefill REAL NOT NULL, prefill_token REAL NOT NULL, prefill_square REAL NOT NULL,"
    "  decode REAL NOT NULL, decode_context REAL NOT NULL, decode_row REAL NOT NULL,"
    "  load REAL NOT NULL, kv_token REAL NOT NULL,"
    "  step_samples INTEGER NOT NULL, prefill_samples INTEGER NOT NULL,"
    "  load_samples INTEGER NOT NULL, step_error REAL NOT NULL, prefill_error REAL NOT NULL,"
    "  load_error REAL NOT NULL, updated_us INTEGER NOT NULL,"
    "  PRIMARY KEY (model, device)) WITHOUT ROWID;",
    /* Master copies of weights in host memory, and what is known of the files they came from. */
    "CREATE TABLE segment ("
    "  key TEXT PRIMARY KEY, place TEXT NOT NULL, model TEXT NOT NULL, bytes INTEGER NOT NULL,"
    "  prepare_us INTEGER NOT NULL, used_us INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE source ("
    "  device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,"
    "  mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, hash TEXT NOT NULL,"
    "  PRIMARY KEY (device, inode)) WITHOUT ROWID;",
};
#define VERSION ((int)(sizeof migrations / sizeof *migrations))

static const char *const transaction_sql[] = {
    [STATEMENT_BEGIN] = "BEGIN IMMEDIATE",
    [STATEMENT_COMMIT] = "COMMIT",
    [STATEMENT_ROLLBACK] = "ROLLBACK",
};

/* --- errors --------------------------------------------------------------------------------------
 */

static enum status status_of(int code)
{
    switch (code & 0xff) {
    case SQLITE_FULL:
        return STATUS_EXHAUSTED;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return STATUS_CORRUPT;
    case SQLITE_NOMEM:
        return STATUS_NOMEM;
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
        return STATUS_INVALID;
    default: /* read-only file systems and missing directories, too */
        return STATUS_IO;
    }
}

int db_fail(struct db *db, const char *doing, struct error *err)
{
    int code = db->handle ? sqlite3_extended_errcode(db->handle) : SQLITE_NOMEM;
    return error_set(err, status_of(code), "%s: cannot %s: %s", db->path, doing,
                     db->handle ? sqlite3_errmsg(db->handle) : "out of memory");
}

/* --- statements ----------------------------------------------------------------------------------
 */

sqlite3_stmt *db_statement(struct db *db, enum statement which)
{
    sqlite3_stmt *st = db->statement[which];
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return st;
}

int db_bind(struct db *db, sqlite3_stmt *st, struct error *err, const char *types, ...)
{
    int rc = SQLITE_OK;
    va_list ap;
    va_start(ap, types);
    for (int i = 0; types[i] && rc == SQLITE_OK; i++) {
        if (types[i] == 's') {
            rc = sqlite3_bind_text(st, i + 1, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
        } else if (types[i] == 'u') {
            uint64_t value = va_arg(ap, uint64_t);
            if (value > INT64_MAX) {
                va_end(ap);
                return error_set(err, STATUS_INVALID, "%s: %llu does not fit a column", db->path,
                                 (unsigned long long)value);
            }
            rc = sqlite3_bind_int64(st, i + 1, (int64_t)value);
        } else if (types[i] == 'd') {
            rc = sqlite3_bind_double(st, i + 1, va_arg(ap, double));
        } else {
            rc = sqlite3_bind_int64(st, i + 1, va_arg(ap, int64_t));
        }
    }
    va_end(ap);
    return rc == SQLITE_OK ? 0 : db_fail(db, "bind a value", err);
}

/*
 * A full disk makes SQLite roll the whole transaction back by itself.  What would follow in the
 * group would then be committed alone, so it is refused until db_commit has said what happened.
 */
static int group_is_lost(const struct db *db)
{
    return db->grouped && sqlite3_get_autocommit(db->handle);
}

int db_run(struct db *db, sqlite3_stmt *st, struct error *err)
{
    int rc;
    if (group_is_lost(db))
        return error_set(err, STATUS_EXHAUSTED,
                         "%s: an earlier write of this group failed and all of it was undone: is "
                         "the disk full?",
                         db->path);
    do
        rc = sqlite3_step(st);
    while (rc == SQLITE_ROW);
    if (rc != SQLITE_DONE) {
        db_fail(db, "write", err);
        sqlite3_reset(st);
        return -1;
    }
    sqlite3_reset(st);
    return 0;
}

void db_text(sqlite3_stmt *st, int column, char *to, size_t room)
{
    const unsigned char *text = sqlite3_column_text(st, column);
    size_t len = text ? strlen((const char *)text) : 0;
    if (len >= room)
        len = room - 1;
    if (len)
        memcpy(to, text, len);
    to[len] = '\0';
}

static int prepare_all(struct db *db, const char *const *sql, enum statement first,
                       enum statement last, struct error *err)
{
    for (int i = (int)first; i <= (int)last; i++)
        if (sqlite3_prepare_v3(db->handle, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &db->statement[i],
                               NULL) != SQLITE_OK)
            return db_fail(db, "prepare a statement", err);
    return 0;
}

/* --- opening -------------------------------------------------------------------------------------
 */

static int execute(struct db *db, const char *sql, const char *doing, struct error *err)
{
    return sqlite3_exec(db->handle, sql, NULL, NULL, NULL) == SQLITE_OK ? 0
                                                                        : db_fail(db, doing, err);
}

static int read_version(struct db *db, int *version, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int rv = -1;
    if (sqlite3_prepare_v2(db->handle, "PRAGMA user_version", -1, &st, NULL) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW) {
        *version = sqlite3_column_int(st, 0);
        rv = 0;
    } else {
        db_fail(db, "read the schema's version", err);
    }
    sqlite3_finalize(st);
    return rv;
}

static int migrate(struct db *db, struct error *err)
{
    int version;
    if (read_version(db, &version, err))
        return -1;
    if (version > VERSION)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s has schema version %d, and this release knows %d: run the newer "
                         "modelpoold, or move the file away",
                         db->path, version, VERSION);
    for (; version < VERSION; version++) {
        char *sql = sqlite3_mprintf("BEGIN IMMEDIATE; %s PRAGMA user_version = %d; COMMIT;",
                                    migrations[version], version + 1);
        int failed = !sql || execute(db, sql, "migrate", err);
        sqlite3_free(sql);
        if (failed) {
            sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
            return -1;
        }
    }
    return 0;
}

/* The file and with it those that SQLite puts beside it: nobody else reads who used what. */
static int create_file(const char *path, struct error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_errno(err, "%s: cannot open the database", path);
    close(fd);
    return 0;
}

struct db *db_open(const char *path, struct error *err)
{
    struct db *db = calloc(1, sizeof *db);
    if (!db || !(db->path = strdup(path))) {
        error_errno(err, "out of memory");
        goto fail;
    }
    if (create_file(path, err))
        goto fail;
    if (sqlite3_open_v2(path, &db->handle,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                            SQLITE_OPEN_EXRESCODE,
                        NULL) != SQLITE_OK) {
        db_fail(db, "open the database", err);
        goto fail;
    }
    sqlite3_busy_timeout(db->handle, BUSY_TIMEOUT_MS);
    if (execute(db,
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
                "PRAGMA trusted_schema = OFF;",
                "set up the database", err) ||
        migrate(db, err) ||
        prepare_all(db, transaction_sql, STATEMENT_BEGIN, STATEMENT_ROLLBACK, err) ||
        prepare_all(db, db_placement_sql, STATEMENT_PUT_MODEL, STATEMENT_EACH_SOURCE, err) ||
        prepare_all(db, db_cost_sql, STATEMENT_PUT_COST, STATEMENT_EACH_COST, err) ||
        prepare_all(db, db_lease_sql, STATEMENT_PUT_LEASE, STATEMENT_LEASE_USED, err) ||
        prepare_all(db, db_usage_sql, STATEMENT_OPEN_USAGE, STATEMENT_EACH_ACCOUNT, err))
        goto fail;
    return db;
fail:
    db_close(db);
    return NULL;
}

void db_close(struct db *db)
{
    if (!db)
        return;
    for (int i = 0; i < STATEMENT_COUNT; i++)
        sqlite3_finalize(db->statement[i]);
    sqlite3_close(db->handle);
    free(db->path);
    free(db);
}

int db_begin(struct db *db, struct error *err)
{
    if (db_run(db, db_statement(db, STATEMENT_BEGIN), err))
        return -1;
    db->grouped = 1;
    return 0;
}

int db_commit(struct db *db, struct error *err)
{
    int rv = db_run(db, db_statement(db, STATEMENT_COMMIT), err);
    db->grouped = 0;
    if (rv != 0)
        db_rollback(db);
    return rv;
}

void db_rollback(struct db *db)
{
    db->grouped = 0;
    if (!sqlite3_get_autocommit(db->handle))
        db_run(db, db_statement(db, STATEMENT_ROLLBACK), NULL);
}
