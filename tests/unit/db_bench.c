/* db_bench.c - fixture of the database's tests */
#include "tests/unit/db_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct db *open_db(const char *path)
{
    struct error err = {STATUS_OK, ""};
    struct db *db = db_open(path, &err);
    if (!db)
        fail_msg("%s", err.text);
    return db;
}

int make_bench(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return -1;
    *state = b;
    snprintf(b->folder, sizeof b->folder, "/tmp/db_test.XXXXXX");
    if (!mkdtemp(b->folder))
        return -1;
    snprintf(b->path, sizeof b->path, "%s/modelpool.db", b->folder);
    b->db = open_db(b->path);
    return 0;
}

int remove_bench(void **state)
{
    struct bench *b = *state;
    char path[160];
    db_close(b->db);
    unlink(b->path);
    snprintf(path, sizeof path, "%s-wal", b->path);
    unlink(path);
    snprintf(path, sizeof path, "%s-shm", b->path);
    unlink(path);
    int rv = rmdir(b->folder);
    free(b);
    return rv;
}

void reopen(struct bench *b)
{
    db_close(b->db);
    b->db = open_db(b->path);
}

struct db_lease sample_lease(int64_t job)
{
    struct db_lease l = {
        .cluster = "c1",
        .job = job,
        .array_job = -1,
        .array_task = -1,
        .het_job = -1,
        .het_offset = -1,
        .uid = 1000,
        .budget = -1,
        .created_us = 5000000,
    };
    return l;
}

int64_t new_lease(struct db *db, int64_t job)
{
    struct db_lease l = sample_lease(job);
    OK(db_put_lease(db, &l, &err));
    assert_true(l.id > 0);
    return l.id;
}
