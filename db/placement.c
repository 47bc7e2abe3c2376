#include "db/internal.h"

const char *const db_placement_sql[] = {
    [STATEMENT_PUT_MODEL] = "INSERT INTO model (name, path, bytes) VALUES (?1, ?2, ?3) "
                            "ON CONFLICT (name) DO UPDATE SET path = ?2, bytes = ?3",
    [STATEMENT_PUT_PLACEMENT] =
        "INSERT INTO placement (model, tier, place, state, bytes, changed_us) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6) "
        "ON CONFLICT (model, tier, place) DO UPDATE SET state = ?4, bytes = ?5, changed_us = ?6",
    [STATEMENT_PUT_SEGMENT] = "INSERT INTO segment (key, place, model, bytes, prepare_us, used_us) "
                              "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (key) DO UPDATE SET "
                              "place = ?2, model = ?3, bytes = ?4, prepare_us = ?5, used_us = ?6",
    [STATEMENT_DROP_SEGMENT] = "DELETE FROM segment WHERE key = ?1",
    [STATEMENT_EACH_SEGMENT] =
        "SELECT key, place, model, bytes, prepare_us, used_us FROM segment ORDER BY key",
    [STATEMENT_PUT_SOURCE] = "INSERT INTO source (device, inode, size, mtime_ns, ctime_ns, hash) "
                             "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (device, inode) DO "
                             "UPDATE SET size = ?3, mtime_ns = ?4, ctime_ns = ?5, hash = ?6",
    [STATEMENT_EACH_SOURCE] =
        "SELECT device, inode, size, mtime_ns, ctime_ns, hash FROM source ORDER BY device, inode",
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

int db_put_segment(struct db *db, const struct db_segment *s, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_PUT_SEGMENT);
    return db_bind(db, st, err, "sssuii", s->key, s->place, s->model, s->bytes, s->prepare_us,
                   s->used_us)
               ? -1
               : db_run(db, st, err);
}

int db_drop_segment(struct db *db, const char *key, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_DROP_SEGMENT);
    return db_bind(db, st, err, "s", key) ? -1 : db_run(db, st, err);
}

int db_each_segment(struct db *db, int (*each)(const struct db_segment *, void *), void *arg,
                    struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_EACH_SEGMENT);
    int rc;

    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct db_segment s = {.bytes = (uint64_t)sqlite3_column_int64(st, 3),
                               .prepare_us = sqlite3_column_int64(st, 4),
                               .used_us = sqlite3_column_int64(st, 5)};
        db_text(st, 0, s.key, sizeof s.key);
        db_text(st, 1, s.place, sizeof s.place);
        db_text(st, 2, s.model, sizeof s.model);
        if (each(&s, arg))
            break;
    }
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        db_fail(db, "read the master copies", err);
    sqlite3_reset(st);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : -1;
}

int db_put_source(struct db *db, const struct db_source *s, struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_PUT_SOURCE);
    return db_bind(db, st, err, "iiiiis", s->device, s->inode, s->size, s->mtime_ns, s->ctime_ns,
                   s->hash)
               ? -1
               : db_run(db, st, err);
}

int db_each_source(struct db *db, int (*each)(const struct db_source *, void *), void *arg,
                   struct error *err)
{
    sqlite3_stmt *st = db_statement(db, STATEMENT_EACH_SOURCE);
    int rc;

    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct db_source s = {.device = sqlite3_column_int64(st, 0),
                              .inode = sqlite3_column_int64(st, 1),
                              .size = sqlite3_column_int64(st, 2),
                              .mtime_ns = sqlite3_column_int64(st, 3),
                              .ctime_ns = sqlite3_column_int64(st, 4)};
        db_text(st, 5, s.hash, sizeof s.hash);
        if (each(&s, arg))
            break;
    }
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        db_fail(db, "read the source files", err);
    sqlite3_reset(st);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : -1;
}
