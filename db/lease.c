#include "db/internal.h"

#define LEASE_COLUMNS                                                                              \
    "id, cluster, job, job_start, array_job, array_task, het_job, het_offset, uid, account, "      \
    "partition, budget, created_us, ended_us"
#define GRANT_COLUMNS "id, lease, step, step_name, models, slo, wait_us, created_us, ended_us"

const char *const db_lease_sql[] = {
    [STATEMENT_PUT_LEASE] =
        "INSERT INTO lease (" LEASE_COLUMNS ") "
        "VALUES (nullif(?1, 0), ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) "
        "ON CONFLICT (id) DO UPDATE SET job_start = ?4, array_job = ?5, array_task = ?6, "
        "het_job = ?7, het_offset = ?8, account = ?10, partition = ?11, budget = ?12, "
        "ended_us = ?14",
    [STATEMENT_PUT_GRANT] = "INSERT INTO grant_ (" GRANT_COLUMNS ") "
                            "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) "
                            "ON CONFLICT (id) DO UPDATE SET lease = ?2, ended_us = ?9",
    [STATEMENT_LIVE_LEASES] = "SELECT " LEASE_COLUMNS " FROM lease WHERE ended_us = 0 ORDER BY id",
    [STATEMENT_LIVE_GRANTS] = "SELECT " GRANT_COLUMNS " FROM grant_ WHERE ended_us = 0 ORDER BY id",
    [STATEMENT_LEASE_USED] =
        "SELECT coalesce(sum(prompt_tokens + completion_tokens), 0) FROM usage WHERE lease = ?1",
};

int db_put_lease(struct db *db, struct db_lease *l, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_PUT_LEASE);
    if (db_bind(db, st, err, "isiiiiiiissiii", l->id, l->cluster, l->job, l->job_start,
                l->array_job, l->array_task, l->het_job, l->het_offset, l->uid, l->account,
                l->partition, l->budget, l->created_us, l->ended_us) ||
        db_run(db, st, err))
        return -1;
    if (l->id == 0)
        l->id = sqlite3_last_insert_rowid(db->handle);
    return 0;
}

int db_put_grant(struct db *db, const struct db_grant *g, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_PUT_GRANT);
    return db_bind(db, st, err, "iiisssiii", g->id, g->lease, g->step, g->step_name, g->models,
                   g->slo, g->wait_us, g->created_us, g->ended_us)
               ? -1
               : db_run(db, st, err);
}

int db_each_live_lease(struct db *db, int (*each)(const struct db_lease *, void *), void *arg,
                       struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_LIVE_LEASES);
    int rc, stop = 0;
    while (!stop && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct db_lease l = {
            .id = sqlite3_column_int64(st, 0),
            .job = sqlite3_column_int64(st, 2),
            .job_start = sqlite3_column_int64(st, 3),
            .array_job = sqlite3_column_int64(st, 4),
            .array_task = sqlite3_column_int64(st, 5),
            .het_job = sqlite3_column_int64(st, 6),
            .het_offset = sqlite3_column_int64(st, 7),
            .uid = sqlite3_column_int64(st, 8),
            .budget = sqlite3_column_int64(st, 11),
            .created_us = sqlite3_column_int64(st, 12),
            .ended_us = sqlite3_column_int64(st, 13),
        };
        db_text(st, 1, l.cluster, sizeof l.cluster);
        db_text(st, 9, l.account, sizeof l.account);
        db_text(st, 10, l.partition, sizeof l.partition);
        stop = each(&l, arg);
    }
    int rv = stop || rc == SQLITE_DONE ? 0 : db_fail(db, "read leases", err);
    sqlite3_reset(st);
    return rv;
}

int db_each_live_grant(struct db *db, int (*each)(const struct db_grant *, void *), void *arg,
                       struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_LIVE_GRANTS);
    int rc, stop = 0;
    while (!stop && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct db_grant g = {
            .id = sqlite3_column_int64(st, 0),
            .lease = sqlite3_column_int64(st, 1),
            .step = sqlite3_column_int64(st, 2),
            .wait_us = sqlite3_column_int64(st, 6),
            .created_us = sqlite3_column_int64(st, 7),
            .ended_us = sqlite3_column_int64(st, 8),
        };
        db_text(st, 3, g.step_name, sizeof g.step_name);
        db_text(st, 4, g.models, sizeof g.models);
        db_text(st, 5, g.slo, sizeof g.slo);
        stop = each(&g, arg);
    }
    int rv = stop || rc == SQLITE_DONE ? 0 : db_fail(db, "read grants", err);
    sqlite3_reset(st);
    return rv;
}

int db_lease_used(struct db *db, int64_t lease, uint64_t *tokens, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_LEASE_USED);
    int rv = -1;
    if (db_bind(db, st, err, "i", lease))
        return -1;
    if (sqlite3_step(st) == SQLITE_ROW) {
        int64_t sum = sqlite3_column_int64(st, 0);
        *tokens = sum > 0 ? (uint64_t)sum : 0;
        rv = 0;
    } else {
        db_fail(db, "sum a lease's tokens", err);
    }
    sqlite3_reset(st);
    return rv;
}
