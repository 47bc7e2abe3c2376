/*
 * control_acct.c - request "acct": rows of the usage ledger
 *
 * The database is the writer's, so rows come in pages, each by one job of its queue; the next page
 * is asked for when the client has read the last one.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/control.h"

#define PAGE_ROWS 256

enum { JOBS, USERS, ACCOUNTS, MODELS, STATES, LISTS };
static const char *const list_keys[LISTS] = {"jobs", "users", "accounts", "models", "states"};

struct acct_walk {
    char *list[LISTS]; /* NULL: no condition */
    int64_t uid, from_us, to_us, after_row;
    int more;  /* the last page was full */
    int asked; /* a page is being read */
};

struct acct_page {
    struct front_job job; /* first */
    uint64_t conn;
    char *list[LISTS]; /* copies: the walk may be gone before the writer comes to it */
    struct db_filter filter;
    size_t count;
    struct db_usage rows[PAGE_ROWS];
};

void control_acct_free(struct acct_walk *walk)
{
    if (!walk)
        return;
    for (int i = 0; i < LISTS; i++)
        free(walk->list[i]);
    free(walk);
}

/* --- in the writer's thread ------------------------------------------------------------------- */

static int take_row(const struct db_usage *row, void *arg)
{
    struct acct_page *page = arg;

    page->rows[page->count++] = *row;
    return page->count == PAGE_ROWS;
}

static int read_page(struct db *db, struct writer_job *job, struct error *err)
{
    struct acct_page *page = (struct acct_page *)job;

    page->count = 0;
    return db_each_usage(db, &page->filter, take_row, page, err);
}

/* --- in the loop ------------------------------------------------------------------------------ */

static void send_row(struct conn *conn, const struct db_usage *u)
{
    struct wire w;

    wire_start(&w, "row");
    wire_put_i64(&w, "row", u->row);
    wire_put(&w, "cluster", u->cluster);
    wire_put(&w, "node", u->node);
    wire_put_i64(&w, "lease", u->lease);
    wire_put_i64(&w, "job", u->job);
    wire_put_i64(&w, "array_job", u->array_job);
    wire_put_i64(&w, "array_task", u->array_task);
    wire_put_i64(&w, "het_job", u->het_job);
    wire_put_i64(&w, "het_offset", u->het_offset);
    wire_put(&w, "step_name", u->step_name);
    wire_put_i64(&w, "uid", u->uid);
    wire_put(&w, "account", u->account);
    wire_put(&w, "partition", u->partition);
    wire_put(&w, "request", u->request);
    wire_put(&w, "model", u->model);
    wire_put(&w, "slo", u->slo);
    wire_put(&w, "state", u->state);
    wire_put(&w, "finish", u->finish);
    wire_put_i64(&w, "prompt_tokens", u->prompt_tokens);
    wire_put_i64(&w, "cached_tokens", u->cached_tokens);
    wire_put_i64(&w, "completion_tokens", u->completion_tokens);
    wire_put_i64(&w, "engine_us", u->engine_us);
    wire_put_i64(&w, "switches", u->switches);
    wire_put_i64(&w, "preemptions", u->preemptions);
    wire_put_i64(&w, "ttft_us", u->ttft_us);
    wire_put_i64(&w, "start_us", u->start_us);
    wire_put_i64(&w, "end_us", u->end_us);
    conn_send(conn, &w);
}

static void walk_over(struct conn *conn)
{
    control_acct_free(conn->walk);
    conn->walk = NULL;
}

static void page_done(struct front *f, struct front_job *job)
{
    struct acct_page *page = (struct acct_page *)job;
    struct conn *conn = f->control ? control_find(f->control, page->conn) : NULL;

    for (int i = 0; i < LISTS; i++)
        free(page->list[i]);
    if (!conn || !conn->walk)
        return;
    conn->walk->asked = 0;
    if (job->job.error.status != STATUS_OK) {
        walk_over(conn);
        conn_refuse(conn, &job->job.error);
        return;
    }
    for (size_t i = 0; i < page->count; i++)
        send_row(conn, &page->rows[i]);
    if (page->count == PAGE_ROWS) {
        conn->walk->more = 1;
        conn->walk->after_row = page->rows[page->count - 1].row;
        return; /* control_acct_continue, when these have been sent */
    }
    walk_over(conn);
    conn_end(conn);
}

static int ask_page(struct conn *conn, struct error *err)
{
    struct acct_walk *walk = conn->walk;
    struct acct_page *page = calloc(1, sizeof(*page));

    if (!page)
        return error_set(err, STATUS_NOMEM, "no memory for a page of rows");
    for (int i = 0; i < LISTS; i++) {
        page->list[i] = walk->list[i] ? strdup(walk->list[i]) : NULL;
        if (walk->list[i] && !page->list[i])
            goto fail;
    }
    page->conn = conn->id;
    page->filter = (struct db_filter){.jobs = page->list[JOBS],
                                      .users = page->list[USERS],
                                      .accounts = page->list[ACCOUNTS],
                                      .models = page->list[MODELS],
                                      .states = page->list[STATES],
                                      .uid = walk->uid,
                                      .from_us = walk->from_us,
                                      .to_us = walk->to_us,
                                      .after_row = walk->after_row};
    walk->more = 0;
    walk->asked = 1;
    front_write(conn->control->f, &page->job, read_page, page_done);
    return 0;
fail:
    for (int i = 0; i < LISTS; i++)
        free(page->list[i]);
    free(page);
    return error_set(err, STATUS_NOMEM, "no memory for a page of rows");
}

void control_acct_continue(struct conn *conn)
{
    struct error err;

    if (!conn->walk->more || conn->walk->asked)
        return;
    if (ask_page(conn, &err) < 0) {
        walk_over(conn);
        conn_refuse(conn, &err);
    }
}

/* Unix seconds; missing: open. */
static int get_time(const struct wire *w, const char *key, int64_t *us, struct error *err)
{
    int64_t seconds;

    *us = 0;
    if (!wire_get(w, key))
        return 0;
    if (wire_get_i64(w, key, &seconds, err) < 0)
        return -1;
    if (seconds < 0 || seconds > INT64_MAX / 1000000)
        return error_set(err, STATUS_INVALID, "%s is out of range", key);
    *us = seconds * 1000000;
    return 0;
}

int control_acct(struct conn *conn, const struct wire *request, struct error *err)
{
    struct acct_walk *walk = calloc(1, sizeof(*walk));

    if (!walk)
        return error_set(err, STATUS_NOMEM, "no memory for acct");
    walk->uid = conn_check_admin(conn, "acct", NULL) == 0 ? -1 : (int64_t)conn->uid;
    for (int i = 0; i < LISTS; i++) {
        const char *list = wire_get(request, list_keys[i]);
        walk->list[i] = list && *list ? strdup(list) : NULL;
        if (list && *list && !walk->list[i]) {
            error_set(err, STATUS_NOMEM, "no memory for acct");
            goto fail;
        }
    }
    if (get_time(request, "from", &walk->from_us, err) < 0 ||
        get_time(request, "to", &walk->to_us, err) < 0)
        goto fail;
    conn->walk = walk;
    if (ask_page(conn, err) == 0)
        return 0;
    conn->walk = NULL;
fail:
    control_acct_free(walk);
    return -1;
}
