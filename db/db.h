/*
 * db.h - what outlives the daemon: models, placement, leases, grants and the usage ledger
 *
 * One SQLite file in WAL mode with synchronous=FULL, schema versioned by PRAGMA user_version, each
 * version reached from the one before by one migration.  A connection belongs to one thread (the
 * daemon's writer).  All SQL stands as named constants at the top of its file; statements are
 * prepared once.  Times are wall microseconds.  db_begin/db_commit group calls into one durable
 * commit; without them each call commits by itself.
 */
#ifndef MP_DB_DB_H
#define MP_DB_DB_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define DB_NAME_MAX 64
#define DB_PATH_MAX 1024

struct db;

/* Create or migrate.  A file of a newer version is refused (UNSUPPORTED), a damaged one CORRUPT. */
struct db *db_open(const char *path, struct error *err);
void db_close(struct db *db);
int db_begin(struct db *db, struct error *err);
int db_commit(struct db *db, struct error *err); /* on failure everything since begin is undone */

/* --- placement ------------------------------------------------------------------------------ */

struct db_placement {
    char model[DB_NAME_MAX];
    char tier[8]; /* "disk", "host", "gpu" (the instance's own memory, also on the CPU) */
    char place[DB_NAME_MAX]; /* instance, or path on disk */
    char state[16];          /* "resident", "loading", "absent" */
    uint64_t bytes;
    int64_t changed_us;
};
int db_put_model(struct db *db, const char *name, const char *path, uint64_t bytes,
                 struct error *err);
/* Insert or replace by (model, tier, place). */
int db_put_placement(struct db *db, const struct db_placement *p, struct error *err);

struct db_segment {          /* a master copy in host memory */
    char key[DB_NAME_MAX];   /* its file's name */
    char place[DB_PATH_MAX]; /* the folder that the file is in */
    char model[DB_NAME_MAX]; /* that it was prepared for */
    uint64_t bytes;          /* of the file */
    int64_t prepare_us;      /* that it took */
    int64_t used_us;         /* wall */
};
int db_put_segment(struct db *db, const struct db_segment *s, struct error *err); /* by key */
int db_drop_segment(struct db *db, const char *key, struct error *err);
int db_each_segment(struct db *db, int (*each)(const struct db_segment *, void *), void *arg,
                    struct error *err);

struct db_source { /* a file that was read, as it was then; numbers of 64 bits as they are stored */
    int64_t device, inode, size, mtime_ns, ctime_ns;
    char hash[DB_NAME_MAX]; /* of its contents */
};
int db_put_source(struct db *db, const struct db_source *s, struct error *err); /* by inode */
int db_each_source(struct db *db, int (*each)(const struct db_source *, void *), void *arg,
                   struct error *err);
/* --- costs: what a model's work was measured to take on a device ------------------------------ */

struct db_cost {
    char model[DB_NAME_MAX], device[DB_NAME_MAX];
    uint64_t weight_bytes; /* other weights under the name have other costs */
    /* Coefficients of sched/cost.h, seconds. */
    double prefill, prefill_token, prefill_square, decode, decode_context, decode_row, load,
        kv_token;
    /* Measurements, and the median of |measured - predicted| / measured. */
    uint64_t step_samples, prefill_samples, load_samples;
    double step_error, prefill_error, load_error;
    int64_t updated_us;
};
/* Insert or replace by (model, device). */
int db_put_cost(struct db *db, const struct db_cost *c, struct error *err);
int db_each_cost(struct db *db, int (*each)(const struct db_cost *, void *), void *arg,
                 struct error *err);

/* --- leases and grants ---------------------------------------------------------------------- */

struct db_lease {
    int64_t id; /* chosen by the caller, as a grant's; 0 in db_put_lease: a new one, set
                 * on return */
    char cluster[DB_NAME_MAX];
    int64_t job;       /* 0: a local lease */
    int64_t job_start; /* Unix seconds as the controller gives it; 0: not known yet */
    int64_t array_job, array_task, het_job, het_offset; /* -1: none */
    int64_t uid;
    char account[DB_NAME_MAX]; /* "" until the controller has answered; "local" */
    char partition[DB_NAME_MAX];
    int64_t budget;               /* tokens, prompt and completion; -1: no limit */
    int64_t created_us, ended_us; /* ended 0: live */
};
struct db_grant {
    int64_t id; /* chosen by the caller: random, unguessable is not needed */
    int64_t lease;
    int64_t step;       /* Slurm step id; -1: local */
    char step_name[16]; /* "0", "batch", "interactive", "local" */
    char models[512];   /* comma-separated; the first is the default */
    char slo[DB_NAME_MAX];
    int64_t wait_us;
    int64_t created_us, ended_us;
};
int db_put_lease(struct db *db, struct db_lease *lease, struct error *err); /* by id, new or not */
int db_put_grant(struct db *db, const struct db_grant *grant, struct error *err);
/* All that are live, for the daemon's start.  each: non-zero stops the walk. */
int db_each_live_lease(struct db *db, int (*each)(const struct db_lease *, void *), void *arg,
                       struct error *err);
int db_each_live_grant(struct db *db, int (*each)(const struct db_grant *, void *), void *arg,
                       struct error *err);
/* prompt + completion tokens of all its rows. */
int db_lease_used(struct db *db, int64_t lease, uint64_t *tokens, struct error *err);

/* --- the usage ledger: one row a request ----------------------------------------------------- */

struct db_usage {
    int64_t row; /* set by db_open_usage; unique on this node for ever */
    char cluster[DB_NAME_MAX], node[DB_NAME_MAX];
    int64_t lease, job, array_job, array_task, het_job, het_offset;
    char step_name[16];
    int64_t uid;
    char account[DB_NAME_MAX], partition[DB_NAME_MAX];
    char request[DB_NAME_MAX]; /* "chatcmpl-..." */
    char model[DB_NAME_MAX], slo[DB_NAME_MAX];
    char state[16];  /* "open", "done", "cancelled", "failed", "interrupted" */
    char finish[16]; /* "stop", "length", "cancel", "error", "" */
    int64_t prompt_tokens, cached_tokens, completion_tokens;
    int64_t engine_us; /* its share of the steps it was in */
    int64_t switches;  /* of models that it waited for */
    int64_t preemptions;
    int64_t ttft_us; /* -1: no token yet */
    int64_t start_us, end_us;
};
/* Opened at admission; its prompt tokens are billed from then on. */
int db_open_usage(struct db *db, struct db_usage *u, struct error *err);
/* Everything but identity (state, tokens, times): by row. */
int db_close_usage(struct db *db, const struct db_usage *u, struct error *err);
/* The controller has answered: fill account, partition, array and het ids of a lease's rows. */
int db_identify_usage(struct db *db, const struct db_lease *lease, struct error *err);
/* Rows still "open" from an earlier life: `delivered` gives a row's count from the journal (-1:
 * unknown, leave completion 0); each becomes "interrupted".  *closed: how many. */
int db_recover_usage(struct db *db, int64_t (*delivered)(int64_t row, void *), void *arg,
                     int64_t now_us, uint64_t *closed, struct error *err);

/* Tokens (prompt and completion) of each account's rows that began at from_us or later. */
int db_each_account(struct db *db, int64_t from_us,
                    int (*each)(const char *account, uint64_t tokens, void *), void *arg,
                    struct error *err);

struct db_filter { /* all conditions hold; empty ones (NULL, -1, 0) do not limit */
    /* Comma-separated; users are uids, jobs also match array and het numbers. */
    const char *jobs, *users, *accounts, *models, *states;
    int64_t uid;            /* only this uid's rows; -1: all */
    int64_t from_us, to_us; /* rows that ran at some time in [from, to); 0: open */
    int64_t after_row;      /* for paging: only rows beyond this one */
};
int db_each_usage(struct db *db, const struct db_filter *f,
                  int (*each)(const struct db_usage *, void *), void *arg, struct error *err);

#endif
