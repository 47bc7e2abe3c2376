/* acct.c - modelpool acct: the ledger, asked as one asks sacct */
#include "cli/acct.h"

#include <ctype.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/time.h"

#define USAGE                                                                                      \
    "modelpool acct [-j JOBS] [-u USERS] [-A ACCOUNTS] [-M MODELS] [-s STATES] [-S TIME] "         \
    "[-E TIME] [-o FIELDS] [-X] [-n] [-p|-P|--json]"
#define HELP                                                                                       \
    "  -j, --jobs=N,...      these jobs (arrays and het jobs by their number)\n"                   \
    "  -u, --user=U,...      these users (names or uids)\n"                                        \
    "  -A, --accounts=A,...  these accounts\n"                                                     \
    "  -M, --models=M,...    these models\n"                                                       \
    "  -s, --state=S,...     open, done, cancelled, failed, interrupted\n"                         \
    "  -S, --starttime=TIME  what ran at or after (default: today 00:00, with -j: ever)\n"         \
    "  -E, --endtime=TIME    what ran before (default: now)\n"                                     \
    "  -X, --allocations     one line a job: its sums\n"                                           \
    "  -o, --format=FIELDS   NAME[%WIDTH],...\n"                                                   \
    "  -e, --helpformat      list the fields\n"
#define FIELDS "JobID,User,Account,Model,State,PromptTokens,OutputTokens,EngineTime,Start,Elapsed"
#define FIELDS_SUM                                                                                 \
    "JobID,User,Account,Model,State,Requests,PromptTokens,OutputTokens,EngineTime,Start"
#define LIST_MAX 4096

struct request {
    char jobs[LIST_MAX], users[LIST_MAX]; /* checked and as numbers */
    const char *accounts, *models, *states;
    const char *start, *end; /* NULL: the default */
    int64_t from, to;        /* Unix seconds; 0: open */
    const char *fields;      /* NULL: the default */
    int sum;
    struct table_format format;
};

/* --- options ---------------------------------------------------------------------------------- */

/* "12,13": numbers only. */
static int parse_jobs(const char *text, char *out, struct error *err)
{
    if (strlen(text) >= LIST_MAX)
        return error_set(err, STATUS_INVALID, "-j: the list is too long");
    if (!*text || strspn(text, "0123456789,") != strlen(text))
        return error_set(err, STATUS_INVALID, "-j %.60s: give job numbers, with commas", text);
    strcpy(out, text);
    return 0;
}

/* Names or uids, to uids. */
static int parse_users(const char *text, char *out, struct error *err)
{
    size_t len = 0;

    for (const char *at = text; *at;) {
        char name[64];
        size_t n = strcspn(at, ",");
        if (n == 0 || n >= sizeof(name))
            return error_set(err, STATUS_INVALID, "-u %.60s: give user names, with commas", text);
        snprintf(name, sizeof(name), "%.*s", (int)n, at);
        int numeric = strspn(name, "0123456789") == n;
        const struct passwd *pw = numeric ? NULL : getpwnam(name);
        if (!numeric && !pw)
            return error_set(err, STATUS_NOT_FOUND, "-u: no user \"%s\"", name);
        int put = numeric ? snprintf(out + len, LIST_MAX - len, "%s%s", len ? "," : "", name)
                          : snprintf(out + len, LIST_MAX - len, "%s%lu", len ? "," : "",
                                     (unsigned long)pw->pw_uid);
        if (put < 0 || (size_t)put >= LIST_MAX - len)
            return error_set(err, STATUS_INVALID, "-u: the list is too long");
        len += (size_t)put;
        at += n + (at[n] == ',');
    }
    return len ? 0 : error_set(err, STATUS_INVALID, "-u: no user is named");
}

static int check_states(const char *text, struct error *err)
{
    static const char *const states[] = {"open", "done", "cancelled", "failed", "interrupted"};

    for (const char *at = text; *at;) {
        size_t n = strcspn(at, ","), i = 0;
        while (i < 5 && (strncmp(states[i], at, n) != 0 || states[i][n]))
            i++;
        if (i == 5)
            return error_set(err, STATUS_INVALID,
                             "-s: no state \"%.*s\": there are open, done, cancelled, failed and "
                             "interrupted",
                             (int)(n > 60 ? 60 : n), at);
        at += n + (at[n] == ',');
    }
    return 0;
}

/* sacct's window: today until now; of named jobs, everything. */
static int set_window(struct request *r, struct error *err)
{
    int64_t now = time(NULL);

    if (r->start) {
        if (time_parse(r->start, now, &r->from, err) < 0)
            return error_wrap(err, "-S");
    } else if (!r->jobs[0] && time_parse("today", now, &r->from, err) < 0) {
        return -1;
    }
    if (r->end && time_parse(r->end, now, &r->to, err) < 0)
        return error_wrap(err, "-E");
    if (r->to && r->to < r->from)
        return error_set(err, STATUS_INVALID, "-E %s lies before the start of the window", r->end);
    return 0;
}

static int list_fields(void)
{
    for (size_t i = 0; i < acct_field_count; i++)
        printf("%-18s%s", acct_fields[i].name, i % 4 == 3 || i + 1 == acct_field_count ? "\n" : "");
    return EXIT_OK;
}

/* One option; -1 for a wrong value. */
static int take_option(struct request *r, int c, const char *argument, struct error *err)
{
    switch (c) {
    case 'j':
        return parse_jobs(argument, r->jobs, err);
    case 'u':
        return parse_users(argument, r->users, err);
    case 'A':
        r->accounts = argument;
        return 0;
    case 'M':
        r->models = argument;
        return 0;
    case 's':
        r->states = argument;
        return check_states(argument, err);
    case 'S':
        r->start = argument;
        return 0;
    case 'E':
        r->end = argument;
        return 0;
    case 'o':
        r->fields = argument;
        return 0;
    default: /* 'X' */
        r->sum = 1;
        return 0;
    }
}

/* --- output ----------------------------------------------------------------------------------- */

struct output {
    const struct request *request;
    struct acct_layout layout;
    struct table *table;
    json_t *rows;          /* --json */
    struct acct_row *sums; /* -X */
    size_t sum_count, sum_room;
};

static int print_row(struct output *o, const struct acct_row *row)
{
    char cells[ACCT_FIELDS_MAX][ACCT_CELL_MAX];
    const char *pointers[ACCT_FIELDS_MAX];

    for (size_t i = 0; i < o->layout.count; i++) {
        o->layout.field[i]->print(cells[i], row);
        pointers[i] = cells[i];
    }
    return table_row(o->table, pointers);
}

/* Add a name to a list with commas, unless it is there. */
static void add_name(char *list, size_t room, const char *name)
{
    size_t len = strlen(name), have = strlen(list);

    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ",");
        if (n == len && strncmp(at, name, n) == 0)
            return;
        at += n + (at[n] == ',');
    }
    snprintf(list + have, room - have, "%s%s", have ? "," : "", name);
}

/* A job's run is one lease on each node; local leases stand for themselves. */
static int same_job(const struct acct_row *a, const struct acct_row *b)
{
    return a->job == b->job && a->uid == b->uid && strcmp(a->cluster, b->cluster) == 0 &&
           (a->job != 0 || a->lease == b->lease);
}

static int add_sum(struct output *o, const struct acct_row *row)
{
    size_t i = o->sum_count; /* rows of a job lie close together: from the end */

    while (i > 0 && !same_job(&o->sums[i - 1], row))
        i--;
    if (i == 0) {
        if (o->sum_count == o->sum_room) {
            size_t more = o->sum_room ? o->sum_room * 2 : 64;
            struct acct_row *bigger = reallocarray(o->sums, more, sizeof(*bigger));
            if (!bigger)
                return -1;
            o->sums = bigger;
            o->sum_room = more;
        }
        o->sums[o->sum_count] = *row;
        o->sums[o->sum_count++].sum = 1;
        return 0;
    }
    struct acct_row *s = &o->sums[i - 1];
    s->requests++;
    s->prompt_tokens += row->prompt_tokens;
    s->cached_tokens += row->cached_tokens;
    s->completion_tokens += row->completion_tokens;
    s->engine_us += row->engine_us;
    s->switches += row->switches;
    s->preemptions += row->preemptions;
    if (row->start_us < s->start_us)
        s->start_us = row->start_us;
    if (row->end_us == 0 || (s->end_us && row->end_us > s->end_us))
        s->end_us = row->end_us; /* one that is still open has no end */
    add_name(s->model, sizeof(s->model), row->model);
    if (strcmp(s->state, row->state) != 0)
        snprintf(s->state, sizeof(s->state), "mixed");
    if (strcmp(s->finish, row->finish) != 0)
        snprintf(s->finish, sizeof(s->finish), "mixed");
    if (strcmp(s->slo, row->slo) != 0)
        snprintf(s->slo, sizeof(s->slo), "mixed");
    return 0;
}

static json_t *sum_json(const struct acct_row *s)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:s, s:I, s:I, s:I, "
                     "s:I, s:I, s:I, s:I, s:I, s:I}",
                     "cluster", s->cluster, "node", s->node, "job", (json_int_t)s->job, "array_job",
                     (json_int_t)s->array_job, "array_task", (json_int_t)s->array_task, "het_job",
                     (json_int_t)s->het_job, "het_offset", (json_int_t)s->het_offset, "uid",
                     (json_int_t)s->uid, "account", s->account, "partition", s->partition, "models",
                     s->model, "state", s->state, "requests", (json_int_t)s->requests,
                     "prompt_tokens", (json_int_t)s->prompt_tokens, "cached_tokens",
                     (json_int_t)s->cached_tokens, "completion_tokens",
                     (json_int_t)s->completion_tokens, "engine_us", (json_int_t)s->engine_us,
                     "switches", (json_int_t)s->switches, "preemptions", (json_int_t)s->preemptions,
                     "start_us", (json_int_t)s->start_us, "end_us", (json_int_t)s->end_us);
}

static int take_row(struct output *o, const struct wire *w)
{
    struct acct_row row;

    if (o->request->format.json && !o->request->sum)
        return json_array_append_new(o->rows, table_json(w));
    acct_read_row(&row, w);
    return o->request->sum ? add_sum(o, &row) : print_row(o, &row);
}

static int finish(struct output *o)
{
    int json = o->request->format.json;

    for (size_t i = 0; i < o->sum_count; i++)
        if (json ? json_array_append_new(o->rows, sum_json(&o->sums[i])) < 0
                 : print_row(o, &o->sums[i]) < 0)
            return -1;
    if (json) {
        json_t *all = json_pack("{s:O}", o->request->sum ? "jobs" : "requests", o->rows);
        if (!all)
            return -1;
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(all);
    } else {
        table_end(o->table);
        o->table = NULL;
    }
    return 0;
}

/* --- the command ------------------------------------------------------------------------------ */

static int ask(const struct cli *cli, const struct request *r, struct output *o)
{
    struct wire w;
    int fd, more = 0, failed = 0, code = cli_connect(cli, &fd);

    if (code)
        return code;
    wire_start(&w, "acct");
    wire_put(&w, "jobs", r->jobs[0] ? r->jobs : NULL);
    wire_put(&w, "users", r->users[0] ? r->users : NULL);
    wire_put(&w, "accounts", r->accounts);
    wire_put(&w, "models", r->models);
    wire_put(&w, "states", r->states);
    if (r->from)
        wire_put_i64(&w, "from", r->from);
    if (r->to)
        wire_put_i64(&w, "to", r->to);
    code = cli_send(fd, &w);
    while (code == EXIT_OK && !failed && (more = cli_receive(fd, &w)) > 0)
        failed = take_row(o, &w) < 0;
    if (code == EXIT_OK && !failed && more == 0)
        failed = finish(o) < 0;
    if (failed)
        code = cli_fail(EXIT_REFUSED, "out of memory");
    else if (more < 0)
        code = -more;
    close(fd);
    return code;
}

static const struct option options[] = {{"accounts", required_argument, NULL, 'A'},
                                        {"allocations", no_argument, NULL, 'X'},
                                        {"endtime", required_argument, NULL, 'E'},
                                        {"format", required_argument, NULL, 'o'},
                                        {"help", no_argument, NULL, 'h'},
                                        {"helpformat", no_argument, NULL, 'e'},
                                        {"jobs", required_argument, NULL, 'j'},
                                        {"models", required_argument, NULL, 'M'},
                                        {"starttime", required_argument, NULL, 'S'},
                                        {"state", required_argument, NULL, 's'},
                                        {"user", required_argument, NULL, 'u'},
                                        TABLE_OPTIONS,
                                        {NULL, 0, NULL, 0}};

int cmd_acct(const struct cli *cli, int argc, char **argv)
{
    struct request r = {.from = 0};
    struct output o = {.request = &r};
    struct error err;
    int c;

    while ((c = getopt_long(argc, argv, "hej:u:A:M:s:S:E:o:X" TABLE_SHORT, options, NULL)) != -1) {
        if (c == 'h')
            return cli_help(USAGE, HELP TABLE_HELP);
        if (c == 'e')
            return list_fields();
        if (c == '?')
            return cli_usage(USAGE, NULL);
        if (!table_option(&r.format, c, optarg) && take_option(&r, c, optarg, &err) < 0)
            return cli_usage(USAGE, "%s", err.text);
    }
    if (optind < argc)
        return cli_usage(USAGE, "acct takes no \"%s\"", argv[optind]);
    if (!r.fields)
        r.fields = r.sum ? FIELDS_SUM : FIELDS;
    if (acct_parse_layout(r.fields, &o.layout, &err) < 0 || set_window(&r, &err) < 0)
        return cli_usage(USAGE, "%s", err.text);
    o.rows = json_array();
    o.table = table_create(o.layout.column, o.layout.count, &r.format, stdout);
    int code = o.rows && o.table ? ask(cli, &r, &o) : cli_fail(EXIT_REFUSED, "out of memory");
    table_free(o.table);
    json_decref(o.rows);
    free(o.sums);
    return code;
}
