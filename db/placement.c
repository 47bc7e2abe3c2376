#include "db/internal.h"

const char *const db_placement_sql[] = {
    [STATEMENT_PUT_MODEL] = "INSERT INTO model (name, path, bytes) VALUES (?1, ?2, ?3) "
                            "ON CONFLICT (name) DO UPDATE SET path = ?2, bytes = ?3",
    [STATEMENT_PUT_PLACEMENT] =
        "INSERT INTO placement (model, tier, place, state, bytes, changed_us) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6) "
        "ON CONFLICT (model, tier, place) DO UPDATE SET state = ?4, bytes = ?5, changed_us = ?6",
};

int db_put_model(struct db *db, const char *name, const char *path, uint64_t bytes,
                 struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_PUT_MODEL);
    return db_bind(db, st, err, "ssu", name, path, bytes) ? -1 : db_run(db, st, err);
}

int db_put_placement(struct db *db, const struct db_placement *p, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_PUT_PLACEMENT);
    return db_bind(db, st, err, "ssssui", p->model, p->tier, p->place, p->state, p->bytes,
                   p->changed_us)
               ? -1
               : db_run(db, st, err);
}
