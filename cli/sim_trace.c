/* sim_trace.c - traces as CSV */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/sim.h"
#include "common/config.h"

#define LINE_MAX_BYTES 512
#define FIELDS         6
#define NAMES_MAX      65536u

static const char header[] = "arrival,model,tenant,input,output,class";

void sim_trace_clear(struct sim_trace *t)
{
    free(t->requests);
    free(t->models);
    free(t->tenants);
    *t = (struct sim_trace){0};
}

int sim_trace_add(struct sim_trace *t, const struct sim_request *r, struct error *err)
{
    if (t->count == t->room) {
        size_t room = t->room > 0 ? t->room * 2 : 1024;
        struct sim_request *more = realloc(t->requests, room * sizeof *more);

        if (more == NULL)
            return error_set(err, STATUS_NOMEM, "sim: out of memory");
        t->requests = more;
        t->room = room;
    }
    t->requests[t->count++] = *r;
    return 0;
}

/* --- reading ---------------------------------------------------------------------------------- */

struct reader {
    struct sim_trace *trace;
    const struct cost_table *costs;
    const char *path;
    unsigned line;
    struct error *err;
};

static int bad(const struct reader *r, const char *what, const char *value)
{
    return error_set(r->err, STATUS_INVALID, "%s:%u: %s \"%s\"", r->path, r->line, what, value);
}

/* Its number in the trace; the kind is what stands before a '#'. */
static int model_number(const struct reader *r, const char *name, uint32_t *number)
{
    struct sim_trace *t = r->trace;
    char kind[COST_NAME_MAX];
    struct sim_model *more;
    const struct cost_entry *found = NULL;
    size_t len = strcspn(name, "#");

    for (uint32_t i = t->model_count; i-- > 0;) {
        if (strcmp(t->models[i].name, name) == 0) {
            *number = i;
            return 0;
        }
    }
    if (len < sizeof kind) {
        memcpy(kind, name, len);
        kind[len] = '\0';
        found = cost_table_find(r->costs, kind);
    }
    if (found == NULL || strlen(name) >= sizeof more->name || t->model_count == NAMES_MAX)
        return bad(r, "the costs have no model", name);
    more = realloc(t->models, (t->model_count + 1) * sizeof *more);
    if (more == NULL)
        return error_set(r->err, STATUS_NOMEM, "sim: out of memory");
    t->models = more;
    *number = t->model_count++;
    more[*number].kind = found;
    snprintf(more[*number].name, sizeof more[*number].name, "%s", name);
    return 0;
}

static int tenant_number(const struct reader *r, const char *name, uint32_t *number)
{
    struct sim_trace *t = r->trace;
    char(*more)[64];

    for (uint32_t i = t->tenant_count; i-- > 0;) {
        if (strcmp(t->tenants[i], name) == 0) {
            *number = i;
            return 0;
        }
    }
    if (strlen(name) >= sizeof *more || t->tenant_count == NAMES_MAX)
        return bad(r, "too long, or one too many: tenant", name);
    more = realloc(t->tenants, (t->tenant_count + 1) * sizeof *more);
    if (more == NULL)
        return error_set(r->err, STATUS_NOMEM, "sim: out of memory");
    t->tenants = more;
    *number = t->tenant_count++;
    snprintf(more[*number], sizeof more[*number], "%s", name);
    return 0;
}

/* "", "best-effort", or TTFT:TBT in the configuration's units. */
static int parse_class(const struct reader *r, const char *text, struct sim_class *c)
{
    char first[32];
    const char *colon = strchr(text, ':');
    int64_t ttft, tbt;

    if (strlen(text) >= sizeof c->name)
        return bad(r, "no class TTFT:TBT or best-effort:", text);
    memcpy(c->name, text, strlen(text) + 1);
    if (strcmp(text, "best-effort") == 0)
        return 0;
    if (colon == NULL)
        return bad(r, "no class TTFT:TBT or best-effort:", text);
    snprintf(first, sizeof first, "%.*s", (int)(colon - text), text);
    if (config_parse_time(first, &ttft, NULL) != 0 || config_parse_time(colon + 1, &tbt, NULL) != 0)
        return bad(r, "no class TTFT:TBT or best-effort:", text);
    c->ttft = ttft * 1000;
    c->tbt = tbt * 1000;
    return 0;
}

static int class_number(const struct reader *r, const char *text, uint32_t *number)
{
    struct sim_trace *t = r->trace;
    struct sim_class c = {.ttft = 0};

    *number = 0;
    if (*text == '\0')
        return 0;
    for (*number = 1; *number < t->class_count; ++*number) {
        if (strcmp(t->classes[*number].name, text) == 0)
            return 0;
    }
    if (t->class_count == SIM_CLASSES_MAX)
        return bad(r, "more than 15 classes, with", text);
    if (parse_class(r, text, &c) != 0)
        return -1;
    t->classes[t->class_count++] = c;
    return 0;
}

static int parse_number(const struct reader *r, const char *what, const char *text, double least,
                        double most, double *v)
{
    char *end;

    *v = strtod(text, &end);
    if (end == text || *end != '\0' || !(*v >= least) || !(*v <= most))
        return bad(r, what, text);
    return 0;
}

/* Fields are parted by commas; there is no quoting. */
static int split(char *line, char *fields[FIELDS])
{
    int n = 0;

    line[strcspn(line, "\r\n")] = '\0';
    for (int i = 0; i < FIELDS; i++)
        fields[i] = line;
    for (char *at = line; at != NULL && n <= FIELDS; n++) {
        char *comma = strchr(at, ',');

        if (n < FIELDS)
            fields[n] = at;
        at = comma != NULL ? comma + 1 : NULL;
        if (comma != NULL)
            *comma = '\0';
    }
    return n;
}

static int read_line(const struct reader *r, char *line)
{
    char *field[FIELDS];
    double arrival, input, output;
    struct sim_request q;
    uint32_t context;

    if (split(line, field) != FIELDS)
        return bad(r, "not the six fields", header);
    if (parse_number(r, "arrival is no number of seconds:", field[0], 0, 1e9, &arrival) != 0 ||
        parse_number(r, "input is no number of tokens:", field[3], 1, 1e8, &input) != 0 ||
        parse_number(r, "output is no number of tokens:", field[4], 1, 1e8, &output) != 0 ||
        model_number(r, field[1], &q.model) != 0 || tenant_number(r, field[2], &q.tenant) != 0 ||
        class_number(r, field[5], &q.class) != 0)
        return -1;
    context = r->trace->models[q.model].kind->context;
    q.arrival = (int64_t)(arrival * 1e9);
    q.input = input < context - 1 ? (uint32_t)input : context - 1;
    q.output = output < context - q.input ? (uint32_t)output : context - q.input;
    if (r->trace->count > 0 && q.arrival < r->trace->requests[r->trace->count - 1].arrival)
        return bad(r, "arrivals must not go back:", field[0]);
    return sim_trace_add(r->trace, &q, r->err);
}

int sim_trace_read(struct sim_trace *t, FILE *file, const char *path,
                   const struct cost_table *costs, const struct sim_class *usual, struct error *err)
{
    struct reader r = {.trace = t, .costs = costs, .path = path, .err = err};
    char line[LINE_MAX_BYTES];

    *t = (struct sim_trace){.class_count = 1};
    t->classes[0] = *usual;
    while (fgets(line, sizeof line, file) != NULL) {
        r.line++;
        if (strchr(line, '\n') == NULL && !feof(file)) {
            bad(&r, "too long:", "the line");
            goto fail;
        }
        if (r.line == 1 && strncmp(line, header, strlen(header)) != 0) {
            bad(&r, "the first line must be", header);
            goto fail;
        }
        if (r.line > 1 && read_line(&r, line) != 0)
            goto fail;
    }
    if (ferror(file)) {
        error_errno(err, "%s", path);
        goto fail;
    }
    if (t->count == 0) {
        error_set(err, STATUS_INVALID, "%s: has no requests", path);
        goto fail;
    }
    return 0;
fail:
    sim_trace_clear(t);
    return -1;
}

int sim_trace_write(const struct sim_trace *t, FILE *file)
{
    fprintf(file, "%s\n", header);
    for (size_t i = 0; i < t->count; i++) {
        const struct sim_request *r = &t->requests[i];

        fprintf(file, "%.9f,%s,%s,%u,%u,%s\n", (double)r->arrival / 1e9, t->models[r->model].name,
                t->tenants[r->tenant], r->input, r->output,
                r->class > 0 ? t->classes[r->class].name : "");
    }
    return ferror(file) ? -1 : 0;
}
