#include "db/internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS                                                                                    \
    "row, cluster, node, lease, job, array_job, array_task, het_job, het_offset, step_name, uid, " \
    "account, partition, request, model, slo, state, finish, prompt_tokens, cached_tokens, "       \
    "completion_tokens, engine_us, switches, preemptions, ttft_us, start_us, end_us"

/* A list parameter is NULL (no limit) or ",a,b,c,": instr finds ",value," in it. */
#define IN_LIST(parameter, value)                                                                  \
    "(" parameter " IS NULL OR instr(" parameter ", ',' || " value " || ',') > 0)"

const char *const db_usage_sql[] = {
    [STATEMENT_OPEN_USAGE] =
        "INSERT INTO usage (" COLUMNS ") VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, "
        "?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26)",
    [STATEMENT_CLOSE_USAGE] =
        "UPDATE usage SET state = ?2, finish = ?3, prompt_tokens = ?4, cached_tokens = ?5, "
        "completion_tokens = ?6, engine_us = ?7, switches = ?8, preemptions = ?9, ttft_us = ?10, "
        "end_us = ?11 WHERE row = ?1",
    [STATEMENT_IDENTIFY_USAGE] =
        "UPDATE usage SET account = ?2, partition = ?3, array_job = ?4, array_task = ?5, "
        "het_job = ?6, het_offset = ?7 WHERE lease = ?1",
    [STATEMENT_OPEN_ROWS] = "SELECT row FROM usage WHERE state = 'open' ORDER BY row",
    [STATEMENT_INTERRUPT_USAGE] = "UPDATE usage SET state = 'interrupted', completion_tokens = ?2, "
                                  "end_us = ?3 WHERE row = ?1",
    /* clang-format off */
    [STATEMENT_EACH_USAGE] =
        "SELECT " COLUMNS " FROM usage WHERE row > ?1 AND (?2 = -1 OR uid = ?2) "
        "AND (?3 = 0 OR end_us = 0 OR end_us >= ?3) AND (?4 = 0 OR start_us < ?4) "
        "AND (" IN_LIST("?5", "job") " OR " IN_LIST("?5", "array_job")
        " OR " IN_LIST("?5", "het_job") ") "
        "AND " IN_LIST("?6", "uid") " "
        "AND " IN_LIST("?7", "account") " "
        "AND " IN_LIST("?8", "model") " "
        "AND " IN_LIST("?9", "state") " ORDER BY row",
    [STATEMENT_EACH_ACCOUNT] =
        "SELECT account, sum(prompt_tokens + completion_tokens) FROM usage "
        "WHERE start_us >= ?1 GROUP BY account ORDER BY account",
    /* clang-format on */
};

int db_open_usage(struct db *db, struct db_usage *u, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_OPEN_USAGE);
    if (db_bind(db, st, err, "ssiiiiiisisssssssiiiiiiiii", u->cluster, u->node, u->lease, u->job,
                u->array_job, u->array_task, u->het_job, u->het_offset, u->step_name, u->uid,
                u->account, u->partition, u->request, u->model, u->slo, u->state, u->finish,
                u->prompt_tokens, u->cached_tokens, u->completion_tokens, u->engine_us, u->switches,
                u->preemptions, u->ttft_us, u->start_us, u->end_us) ||
        db_run(db, st, err))
        return -1;
    u->row = sqlite3_last_insert_rowid(db->handle);
    return 0;
}

int db_close_usage(struct db *db, const struct db_usage *u, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_CLOSE_USAGE);
    if (db_bind(db, st, err, "issiiiiiiii", u->row, u->state, u->finish, u->prompt_tokens,
                u->cached_tokens, u->completion_tokens, u->engine_us, u->switches, u->preemptions,
                u->ttft_us, u->end_us) ||
        db_run(db, st, err))
        return -1;
    if (sqlite3_changes(db->handle) != 1)
        return error_set(err, STATUS_NOT_FOUND, "%s has no ledger row %lld", db->path,
                         (long long)u->row);
    return 0;
}

int db_identify_usage(struct db *db, const struct db_lease *l, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_IDENTIFY_USAGE);
    return db_bind(db, st, err, "issiiii", l->id, l->account, l->partition, l->array_job,
                   l->array_task, l->het_job, l->het_offset)
               ? -1
               : db_run(db, st, err);
}

int db_recover_usage(struct db *db, int64_t (*delivered)(int64_t row, void *), void *arg,
                     int64_t now_us, uint64_t *closed, struct error *err)
{
    sqlite3_stmt *open = db_statement(db, STATEMENT_OPEN_ROWS);
    int rc, rv = -1;
    uint64_t count = 0;
    if (db_begin(db, err))
        return -1;
    while ((rc = sqlite3_step(open)) == SQLITE_ROW) {
        int64_t row = sqlite3_column_int64(open, 0), tokens = delivered(row, arg);
        sqlite3_stmt *st = db_statement(db, STATEMENT_INTERRUPT_USAGE);
        if (db_bind(db, st, err, "iii", row, tokens > 0 ? tokens : (int64_t)0, now_us) ||
            db_run(db, st, err))
            goto out;
        count++;
    }
    if (rc != SQLITE_DONE) {
        db_fail(db, "read open rows", err);
        goto out;
    }
    rv = 0;
out:
    sqlite3_reset(open);
    if (rv) {
        db_rollback(db);
        return -1;
    }
    if (db_commit(db, err))
        return -1;
    *closed = count;
    return 0;
}

/* --- reading -------------------------------------------------------------------------------------
 */

static void read_row(sqlite3_stmt *st, struct db_usage *u)
{
    memset(u, 0, sizeof *u);
    u->row = sqlite3_column_int64(st, 0);
    db_text(st, 1, u->cluster, sizeof u->cluster);
    db_text(st, 2, u->node, sizeof u->node);
    u->lease = sqlite3_column_int64(st, 3);
    u->job = sqlite3_column_int64(st, 4);
    u->array_job = sqlite3_column_int64(st, 5);
    u->array_task = sqlite3_column_int64(st, 6);
    u->het_job = sqlite3_column_int64(st, 7);
    u->het_offset = sqlite3_column_int64(st, 8);
    db_text(st, 9, u->step_name, sizeof u->step_name);
    u->uid = sqlite3_column_int64(st, 10);
    db_text(st, 11, u->account, sizeof u->account);
    db_text(st, 12, u->partition, sizeof u->partition);
    db_text(st, 13, u->request, sizeof u->request);
    db_text(st, 14, u->model, sizeof u->model);
    db_text(st, 15, u->slo, sizeof u->slo);
    db_text(st, 16, u->state, sizeof u->state);
    db_text(st, 17, u->finish, sizeof u->finish);
    u->prompt_tokens = sqlite3_column_int64(st, 18);
    u->cached_tokens = sqlite3_column_int64(st, 19);
    u->completion_tokens = sqlite3_column_int64(st, 20);
    u->engine_us = sqlite3_column_int64(st, 21);
    u->switches = sqlite3_column_int64(st, 22);
    u->preemptions = sqlite3_column_int64(st, 23);
    u->ttft_us = sqlite3_column_int64(st, 24);
    u->start_us = sqlite3_column_int64(st, 25);
    u->end_us = sqlite3_column_int64(st, 26);
}

/* ",a,b," of "a,b", blanks taken out; NULL of NULL or "".  malloc'd. */
static char *fence(const char *list)
{
    if (!list || !*list)
        return NULL;
    char *out = malloc(strlen(list) + 3), *to = out;
    if (!out)
        return NULL;
    *to++ = ',';
    for (; *list; list++)
        if (!isspace((unsigned char)*list))
            *to++ = *list;
    *to++ = ',';
    *to = '\0';
    return out;
}

int db_each_usage(struct db *db, const struct db_filter *f,
                  int (*each)(const struct db_usage *, void *), void *arg, struct error *err)
{
    const char *const lists[] = {f->jobs, f->users, f->accounts, f->models, f->states};
    char *fenced[5] = {NULL};
    int rv = -1, rc, stop = 0;
    sqlite3_stmt *st = db_statement(db, STATEMENT_EACH_USAGE);
    for (int i = 0; i < 5; i++)
        if (lists[i] && *lists[i] && !(fenced[i] = fence(lists[i]))) {
            error_errno(err, "out of memory");
            goto out;
        }
    if (db_bind(db, st, err, "iiiisssss", f->after_row, f->uid, f->from_us, f->to_us, fenced[0],
                fenced[1], fenced[2], fenced[3], fenced[4]))
        goto out;
    while (!stop && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct db_usage u;
        read_row(st, &u);
        stop = each(&u, arg);
    }
    rv = stop || rc == SQLITE_DONE ? 0 : db_fail(db, "read the ledger", err);
out:
    sqlite3_reset(st);
    for (int i = 0; i < 5; i++)
        free(fenced[i]);
    return rv;
}

int db_each_account(struct db *db, int64_t from_us,
                    int (*each)(const char *account, uint64_t tokens, void *), void *arg,
                    struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_EACH_ACCOUNT);
    int rc = SQLITE_DONE, stop = 0, rv;

    if (db_bind(db, st, err, "i", from_us))
        return -1;
    while (!stop && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        char account[DB_NAME_MAX];
        int64_t tokens = sqlite3_column_int64(st, 1);

        db_text(st, 0, account, sizeof account);
        stop = each(account, tokens > 0 ? (uint64_t)tokens : 0, arg);
    }
    rv = stop || rc == SQLITE_DONE ? 0 : db_fail(db, "sum the accounts' tokens", err);
    sqlite3_reset(st);
    return rv;
}
