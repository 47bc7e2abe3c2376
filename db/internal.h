/* internal.h - the connection, shared by the files of this room */
#ifndef MP_DB_INTERNAL_H
#define MP_DB_INTERNAL_H

#include <sqlite3.h>

#include "db/db.h"

/* Every prepared statement of the room, with its text (placement.c, cost.c, lease.c, usage.c). */
enum statement {
    STATEMENT_BEGIN,
    STATEMENT_COMMIT,
    STATEMENT_ROLLBACK,
    STATEMENT_PUT_MODEL,
    STATEMENT_PUT_PLACEMENT,
    STATEMENT_PUT_SEGMENT,
    STATEMENT_DROP_SEGMENT,
    STATEMENT_EACH_SEGMENT,
    STATEMENT_PUT_SOURCE,
    STATEMENT_EACH_SOURCE,
    STATEMENT_PUT_COST,
    STATEMENT_EACH_COST,
    STATEMENT_PUT_LEASE,
    STATEMENT_PUT_GRANT,
    STATEMENT_LIVE_LEASES,
    STATEMENT_LIVE_GRANTS,
    STATEMENT_LEASE_USED,
    STATEMENT_OPEN_USAGE,
    STATEMENT_CLOSE_USAGE,
    STATEMENT_IDENTIFY_USAGE,
    STATEMENT_OPEN_ROWS,
    STATEMENT_INTERRUPT_USAGE,
    STATEMENT_EACH_USAGE,
    STATEMENT_EACH_ACCOUNT,
    STATEMENT_COUNT
};

struct db {
    sqlite3 *handle;
    char *path;
    int grouped; /* between db_begin and db_commit */
    sqlite3_stmt *statement[STATEMENT_COUNT];
};

extern const char *const db_placement_sql[], *const db_cost_sql[], *const db_lease_sql[],
                                                                       *const db_usage_sql[];

/* The statement, reset and with no values bound. */
sqlite3_stmt *db_statement(struct db *db, enum statement which);
/* Bind in order of the letters: i int64_t, u uint64_t, d double, s const char *.  NULL text binds
 * NULL. */
int db_bind(struct db *db, sqlite3_stmt *st, struct error *err, const char *types, ...);
/* Run to the end, ignoring rows; resets. */
int db_run(struct db *db, sqlite3_stmt *st, struct error *err);
/* Undo everything since db_begin, as far as SQLite has not done so by itself. */
void db_rollback(struct db *db);
/* Error of SQLite's last failure with the file's path. */
int db_fail(struct db *db, const char *doing, struct error *err);
/* Copy a text column into a fixed field; NULL becomes "". */
void db_text(sqlite3_stmt *st, int column, char *to, size_t room);

#endif
