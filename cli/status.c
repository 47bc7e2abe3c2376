/* status.c - modelpool status: the daemon, its instances, models, work, tenants and leases */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/table.h"

#define USAGE "modelpool status [-p|-P|--json] [-n]"

enum { INSTANCES, MODELS, WORK, COSTS, TENANTS, LEASES, WAITS, KINDS };

#define COLUMNS_MAX 13

/* A table of the answer: rows of one type, each column a key. */
struct listing {
    const char *type, *name; /* of the row; of the JSON array */
    const char *keys[COLUMNS_MAX];
    struct table_column columns[COLUMNS_MAX];
    size_t count;
};

static const struct listing listings[KINDS] = {
    {"instance",
     "instances",
     {"instance", "state", "model", "next", "memory", "turns", "switches", "steps", "tokens",
      "preemptions", "restarts", "promised", "device"},
     {{"INSTANCE", 0, 1},
      {"STATE", 0, 1},
      {"RUNNING", 0, 1},
      {"NEXT", 0, 1},
      {"MEMORY", 0, 0},
      {"TURNS", 0, 0},
      {"SWITCHES", 0, 0},
      {"STEPS", 0, 0},
      {"TOKENS", 0, 0},
      {"PREEMPTED", 0, 0},
      {"RESTARTS", 0, 0},
      {"PROMISED", 0, 0},
      {"DEVICE", -1, 1}},
     13},
    {"model",
     "models",
     {"model", "instance", "state", "weight_bytes", "context", "running", "waiting",
      "kv_pages_used", "kv_pages_total", "switches", "tokens", "text"},
     {{"MODEL", 0, 1},
      {"INSTANCE", 0, 1},
      {"STATE", 0, 1},
      {"WEIGHTS", 0, 0},
      {"CONTEXT", 0, 0},
      {"RUNNING", 0, 0},
      {"WAITING", 0, 0},
      {"KVUSED", 0, 0},
      {"KVPAGES", 0, 0},
      {"SWITCHES", 0, 0},
      {"TOKENS", 0, 0},
      {"TEXT", -1, 1}},
     12},
    {"work",
     "work",
     {"instance", "model", "turn", "running", "waiting", "wait", "slack", "need"},
     {{"WORK", 0, 1},
      {"MODEL", 0, 1},
      {"TURN", 0, 1},
      {"RUNNING", 0, 0},
      {"WAITING", 0, 0},
      {"WAIT", 0, 0},
      {"SLACK", 0, 0},
      {"NEED", 0, 0}},
     8},
    {"cost",
     "costs",
     {"model", "instance", "step", "row", "prompt_token", "load", "steps", "prefills", "loads",
      "step_error", "prefill_error", "load_error"},
     {{"COST", 0, 1},
      {"INSTANCE", 0, 1},
      {"STEP", 0, 0},
      {"ROW", 0, 0},
      {"PROMPTTOKEN", 0, 0},
      {"LOAD", 0, 0},
      {"STEPS", 0, 0},
      {"PROMPTS", 0, 0},
      {"LOADS", 0, 0},
      {"STEPERR", 0, 0},
      {"PROMPTERR", 0, 0},
      {"LOADERR", 0, 0}},
     12},
    {"tenant",
     "tenants",
     {"account", "share", "gpu_seconds", "requests", "max_requests", "tokens_today",
      "tokens_per_day"},
     {{"TENANT", 0, 1},
      {"SHARE", 0, 0},
      {"GPUTIME", 0, 0},
      {"REQUESTS", 0, 0},
      {"MAX", 0, 0},
      {"TODAY", 0, 0},
      {"PERDAY", 0, 0}},
     7},
    {"lease",
     "leases",
     {"job", "uid", "account", "state", "models", "slo", "grants", "requests", "used", "budget",
      "lease"},
     {{"JOB", 0, 0},
      {"UID", 0, 0},
      {"ACCOUNT", 0, 1},
      {"STATE", 0, 1},
      {"MODELS", 0, 1},
      {"SLO", 0, 1},
      {"GRANTS", 0, 0},
      {"REQUESTS", 0, 0},
      {"USED", 0, 0},
      {"BUDGET", 0, 0},
      {"LEASE", 0, 0}},
     11},
    {"wait",
     "waits",
     {"model", "job", "uid", "account", "slo", "wait", "text"},
     {{"WAITS", 0, 1},
      {"JOB", 0, 0},
      {"UID", 0, 0},
      {"ACCOUNT", 0, 1},
      {"SLO", 0, 1},
      {"WAIT", 0, 0},
      {"WHY", -1, 1}},
     7},
};

/* Keys whose values are read as something else than they are sent. */
enum reading { BYTES, SECONDS, PERCENT, LIMIT };

static const struct {
    const char *key;
    enum reading as;
} readings[] = {
    {"memory", BYTES},          {"weight_bytes", BYTES}, {"step", SECONDS},
    {"row", SECONDS},           {"load", SECONDS},       {"prompt_token", SECONDS},
    {"wait", SECONDS},          {"slack", SECONDS},      {"gpu_seconds", SECONDS},
    {"promised", PERCENT},      {"need", PERCENT},       {"step_error", PERCENT},
    {"prefill_error", PERCENT}, {"load_error", PERCENT}, {"max_requests", LIMIT},
    {"tokens_per_day", LIMIT},
};

static const char *read_as(enum reading as, const char *value, char *buf, size_t room)
{
    double number = strtod(value, NULL), size = number < 0 ? -number : number;

    switch (as) {
    case BYTES:
        table_bytes(buf, room, strtoull(value, NULL, 10));
        break;
    case SECONDS:
        if (size >= 0.1 || size < 1e-12)
            snprintf(buf, room, "%.1fs", number);
        else if (size >= 1e-4)
            snprintf(buf, room, "%.1fms", number * 1e3);
        else
            snprintf(buf, room, "%.1fus", number * 1e6);
        break;
    case PERCENT:
        snprintf(buf, room, "%.0f%%", number * 100);
        break;
    case LIMIT:
        return strcmp(value, "0") == 0 ? "none" : value;
    }
    return buf;
}

/* A cell as people read it; parsable output has the value as it came. */
static const char *cell(const struct wire *w, const char *key, int parsable, char *buf, size_t room)
{
    const char *value = wire_get(w, key);

    if (!value || parsable)
        return value;
    for (size_t i = 0; *value && i < sizeof(readings) / sizeof(*readings); i++)
        if (strcmp(key, readings[i].key) == 0)
            return read_as(readings[i].as, value, buf, room);
    if (strcmp(key, "budget") == 0 && strcmp(value, "-1") == 0)
        return "none";
    if (strcmp(key, "job") == 0 && strcmp(value, "0") == 0)
        return "local";
    if (strcmp(key, "account") == 0 && !*value)
        return "(unknown)";
    return *value ? value : "-";
}

static int add_row(struct table *t, const struct listing *l, const struct wire *w, int parsable)
{
    const char *cells[COLUMNS_MAX];
    char bufs[COLUMNS_MAX][32];

    for (size_t i = 0; i < l->count; i++)
        cells[i] = cell(w, l->keys[i], parsable, bufs[i], sizeof(bufs[i]));
    return table_row(t, cells);
}

static void print_daemon(const struct wire *w)
{
    const char *text = wire_get(w, "uptime");
    long long up = text ? strtoll(text, NULL, 10) : 0;

    printf("modelpoold %s on %s (cluster %s), up %lldd %02lld:%02lld:%02lld\n",
           wire_get(w, "release"), wire_get(w, "node"), wire_get(w, "cluster"), up / 86400,
           up / 3600 % 24, up / 60 % 60, up % 60);
    printf("%s requests running, %s held; %s leases, %s grants; %s\n", wire_get(w, "running"),
           wire_get(w, "held"), wire_get(w, "leases"), wire_get(w, "grants"),
           wire_get(w, "base_url"));
    if (wire_get(w, "scheduler")) /* a daemon of 0.1 does not say */
        printf("scheduler %s%s; admission: %s\n", wire_get(w, "scheduler"),
               strcmp(wire_get(w, "scheduler"), "aegaeon") == 0 ? " (unified)" : "",
               wire_get(w, "admission"));
}

/* Everything of the answer. */
struct answer {
    const struct table_format *format;
    struct table *tables[KINDS];
    size_t rows[KINDS];
    json_t *all; /* {"daemon": {}, "instances": [], ...} */
};

static int take_row(struct answer *a, const struct wire *w)
{
    const char *type = wire_type(w);

    if (strcmp(type, "daemon") == 0) {
        if (a->format->json)
            return json_object_set_new(a->all, "daemon", table_json(w));
        if (!a->format->parsable)
            print_daemon(w);
        return 0;
    }
    for (int k = 0; k < KINDS; k++) {
        if (strcmp(type, listings[k].type) != 0)
            continue;
        a->rows[k]++;
        if (a->format->json)
            return json_array_append_new(json_object_get(a->all, listings[k].name), table_json(w));
        return add_row(a->tables[k], &listings[k], w, a->format->parsable);
    }
    return 0; /* a newer daemon's */
}

static void print_all(struct answer *a)
{
    if (a->format->json) {
        json_dumpf(a->all, stdout, JSON_INDENT(2));
        putchar('\n');
        return;
    }
    for (int k = 0; k < KINDS; k++) {
        if (a->rows[k]) {
            if (k || !a->format->parsable)
                putchar('\n');
            table_end(a->tables[k]);
        } else {
            table_free(a->tables[k]);
        }
        a->tables[k] = NULL;
    }
}

static int receive(int fd, const struct table_format *format)
{
    /* Parsable rows of several kinds would mix if they were not held back: all are printed at the
     * end. */
    struct answer a = {.format = format, .all = json_object()};
    struct wire w;
    int more = 0, failed = !a.all;

    for (int k = 0; k < KINDS && !failed; k++) {
        a.tables[k] = table_create(listings[k].columns, listings[k].count, format, stdout);
        failed = !a.tables[k] || json_object_set_new(a.all, listings[k].name, json_array()) < 0;
        if (!failed)
            table_hold(a.tables[k]);
    }
    while (!failed && (more = cli_receive(fd, &w)) > 0)
        failed = take_row(&a, &w) < 0;
    if (failed)
        more = -cli_fail(EXIT_REFUSED, "out of memory");
    if (more == 0)
        print_all(&a);
    for (int k = 0; k < KINDS; k++)
        table_free(a.tables[k]);
    json_decref(a.all);
    return -more;
}

int cmd_status(const struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'}, TABLE_OPTIONS, {NULL, 0, NULL, 0}};
    struct table_format format = {0};
    struct wire w;
    int c, fd;

    while ((c = getopt_long(argc, argv, "h" TABLE_SHORT, options, NULL)) != -1) {
        if (c == 'h')
            return cli_help(
                USAGE,
                "Leases, tenants, waiting requests: root sees all, others their own.\n" TABLE_HELP);
        if (!table_option(&format, c, optarg))
            return cli_usage(USAGE, NULL);
    }
    if (optind < argc)
        return cli_usage(USAGE, "status takes no \"%s\"", argv[optind]);
    int code = cli_connect(cli, &fd);
    if (code)
        return code;
    wire_start(&w, "status");
    code = cli_send(fd, &w);
    if (code == EXIT_OK)
        code = receive(fd, &format);
    close(fd);
    return code;
}
