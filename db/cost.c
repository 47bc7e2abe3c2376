#include "db/internal.h"

#define COST_COLUMNS                                                                               \
    "model, device, weight_bytes, prefill, prefill_token, prefill_square, decode, "                \
    "decode_context, decode_row, load, kv_token, step_samples, prefill_samples, load_samples, "    \
    "step_error, prefill_error, load_error, updated_us"

const char *const db_cost_sql[] = {
    [STATEMENT_PUT_COST] = "INSERT OR REPLACE INTO cost (" COST_COLUMNS ") VALUES (?1, ?2, ?3, ?4, "
                           "?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    [STATEMENT_EACH_COST] = "SELECT " COST_COLUMNS " FROM cost ORDER BY model, device",
};

int db_put_cost(struct db *db, const struct db_cost *c, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_PUT_COST);

    return db_bind(db, st, err, "ssudddddddduuudddi", c->model, c->device, c->weight_bytes,
                   c->prefill, c->prefill_token, c->prefill_square, c->decode, c->decode_context,
                   c->decode_row, c->load, c->kv_token, c->step_samples, c->prefill_samples,
                   c->load_samples, c->step_error, c->prefill_error, c->load_error, c->updated_us)
               ? -1
               : db_run(db, st, err);
}

static uint64_t count(sqlite3_stmt *st, int column)
{
    int64_t n = sqlite3_column_int64(st, column);

    return n > 0 ? (uint64_t)n : 0;
}

static void read_cost(sqlite3_stmt *st, struct db_cost *c)
{
    *c = (struct db_cost){
        .weight_bytes = count(st, 2),
        .prefill = sqlite3_column_double(st, 3),
        .prefill_token = sqlite3_column_double(st, 4),
        .prefill_square = sqlite3_column_double(st, 5),
        .decode = sqlite3_column_double(st, 6),
        .decode_context = sqlite3_column_double(st, 7),
        .decode_row = sqlite3_column_double(st, 8),
        .load = sqlite3_column_double(st, 9),
        .kv_token = sqlite3_column_double(st, 10),
        .step_samples = count(st, 11),
        .prefill_samples = count(st, 12),
        .load_samples = count(st, 13),
        .step_error = sqlite3_column_double(st, 14),
        .prefill_error = sqlite3_column_double(st, 15),
        .load_error = sqlite3_column_double(st, 16),
        .updated_us = sqlite3_column_int64(st, 17),
    };
    db_text(st, 0, c->model, sizeof c->model);
    db_text(st, 1, c->device, sizeof c->device);
}

int db_each_cost(struct db *db, int (*each)(const struct db_cost *, void *), void *arg,
                 struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_EACH_COST);
    int rc = SQLITE_DONE, stop = 0, rv;

    while (!stop && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct db_cost c;

        read_cost(st, &c);
        stop = each(&c, arg);
    }
    rv = stop || rc == SQLITE_DONE ? 0 : db_fail(db, "read costs", err);
    sqlite3_reset(st);
    return rv;
}
