/* acct_field.c - fields of modelpool acct */
#include <inttypes.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/acct.h"
#include "cli/time.h"

/* --- cells ------------------------------------------------------------------------------------ */

#define TEXT_CELL(name, member)                                                                    \
    static void print_##name(char out[ACCT_CELL_MAX], const struct acct_row *r)                    \
    {                                                                                              \
        snprintf(out, ACCT_CELL_MAX, "%s", r->member);                                             \
    }
#define NUMBER_CELL(name, value)                                                                   \
    static void print_##name(char out[ACCT_CELL_MAX], const struct acct_row *r)                    \
    {                                                                                              \
        snprintf(out, ACCT_CELL_MAX, "%" PRId64, value);                                           \
    }

TEXT_CELL(account, account)
TEXT_CELL(cluster, cluster)
TEXT_CELL(finish, finish)
TEXT_CELL(model, model)
TEXT_CELL(node, node)
TEXT_CELL(partition, partition)
TEXT_CELL(request, request)
TEXT_CELL(slo, slo)
TEXT_CELL(state, state)
TEXT_CELL(step, step)
NUMBER_CELL(cached, r->cached_tokens)
NUMBER_CELL(lease, r->lease)
NUMBER_CELL(output, r->completion_tokens)
NUMBER_CELL(preemptions, r->preemptions)
NUMBER_CELL(prompt, r->prompt_tokens)
NUMBER_CELL(raw_job, r->job)
NUMBER_CELL(requests, r->requests)
NUMBER_CELL(switches, r->switches)
NUMBER_CELL(total, r->prompt_tokens + r->completion_tokens)
NUMBER_CELL(uid, r->uid)

static void print_row(char out[ACCT_CELL_MAX], const struct acct_row *r)
{
    if (r->sum)
        *out = '\0';
    else
        snprintf(out, ACCT_CELL_MAX, "%" PRId64, r->row);
}

/* As sacct: ARRAY_TASK.STEP, LEADER+OFFSET.STEP, JOB.STEP; a local lease has no number. */
static void print_job(char out[ACCT_CELL_MAX], const struct acct_row *r)
{
    int n;

    if (r->job == 0) {
        snprintf(out, ACCT_CELL_MAX, "local");
        return;
    }
    if (r->array_job >= 0 && r->array_task >= 0)
        n = snprintf(out, ACCT_CELL_MAX, "%" PRId64 "_%" PRId64, r->array_job, r->array_task);
    else if (r->het_job >= 0 && r->het_offset >= 0)
        n = snprintf(out, ACCT_CELL_MAX, "%" PRId64 "+%" PRId64, r->het_job, r->het_offset);
    else
        n = snprintf(out, ACCT_CELL_MAX, "%" PRId64, r->job);
    if (!r->sum && *r->step)
        snprintf(out + n, ACCT_CELL_MAX - (size_t)n, ".%s", r->step);
}

static void print_user(char out[ACCT_CELL_MAX], const struct acct_row *r)
{
    const struct passwd *pw = getpwuid((uid_t)r->uid);

    if (pw)
        snprintf(out, ACCT_CELL_MAX, "%s", pw->pw_name);
    else
        print_uid(out, r);
}

static void print_start(char out[ACCT_CELL_MAX], const struct acct_row *r)
{
    time_print(out, ACCT_CELL_MAX, r->start_us / 1000000);
}

static void print_end(char out[ACCT_CELL_MAX], const struct acct_row *r)
{
    time_print(out, ACCT_CELL_MAX, r->end_us / 1000000);
}

static void print_elapsed(char out[ACCT_CELL_MAX], const struct acct_row *r)
{
    if (r->end_us <= 0)
        snprintf(out, ACCT_CELL_MAX, "Unknown");
    else
        time_print_elapsed(out, ACCT_CELL_MAX, (r->end_us - r->start_us) / 1000000);
}

static void print_engine(char out[ACCT_CELL_MAX], const struct acct_row *r)
{
    snprintf(out, ACCT_CELL_MAX, "%.3f", (double)r->engine_us / 1e6);
}

static void print_ttft(char out[ACCT_CELL_MAX], const struct acct_row *r)
{
    if (r->sum || r->ttft_us < 0)
        *out = '\0';
    else
        snprintf(out, ACCT_CELL_MAX, "%.3f", (double)r->ttft_us / 1e6);
}

const struct acct_field acct_fields[] = {
    {"Account", 10, print_account},
    {"CachedTokens", 12, print_cached},
    {"Cluster", 10, print_cluster},
    {"Elapsed", 10, print_elapsed},
    {"End", 19, print_end},
    {"EngineTime", 10, print_engine},
    {"Finish", 9, print_finish},
    {"JobID", 14, print_job},
    {"JobIDRaw", 10, print_raw_job},
    {"Lease", 17, print_lease},
    {"Model", 20, print_model},
    {"NodeName", 10, print_node},
    {"OutputTokens", 12, print_output},
    {"Partition", 10, print_partition},
    {"Preemptions", 11, print_preemptions},
    {"PromptTokens", 12, print_prompt},
    {"Request", 34, print_request},
    {"Requests", 8, print_requests},
    {"Row", 8, print_row},
    {"Slo", 12, print_slo},
    {"Start", 19, print_start},
    {"State", 11, print_state},
    {"Step", 11, print_step},
    {"Switches", 8, print_switches},
    {"TTFT", 8, print_ttft},
    {"TotalTokens", 11, print_total},
    {"UID", 6, print_uid},
    {"User", 9, print_user},
};
const size_t acct_field_count = sizeof(acct_fields) / sizeof(*acct_fields);

/* --- the layout ------------------------------------------------------------------------------- */

/* A whole name, or the beginning of one alone. */
static const struct acct_field *find_field(const char *name, size_t len)
{
    const struct acct_field *found = NULL;
    int count = 0;

    for (size_t i = 0; i < acct_field_count; i++) {
        if (strncasecmp(acct_fields[i].name, name, len) != 0)
            continue;
        if (strlen(acct_fields[i].name) == len)
            return &acct_fields[i];
        found = &acct_fields[i];
        count++;
    }
    return count == 1 ? found : NULL;
}

int acct_parse_layout(const char *text, struct acct_layout *layout, struct error *err)
{
    layout->count = 0;
    for (const char *at = text; *at;) {
        size_t len = strcspn(at, ","), name = strcspn(at, ",%");
        if (layout->count == ACCT_FIELDS_MAX)
            return error_set(err, STATUS_INVALID, "-o: more than %d fields", ACCT_FIELDS_MAX);
        const struct acct_field *f = name ? find_field(at, name) : NULL;
        if (!f)
            return error_set(err, STATUS_INVALID,
                             "no field \"%.*s\", or more than one: `modelpool acct -e` lists them",
                             (int)(len > 60 ? 60 : len), at);
        struct table_column *c = &layout->column[layout->count];
        *c = (struct table_column){.title = f->name, .width = f->width};
        if (name < len) {
            char *end;
            long width = strtol(at + name + 1, &end, 10);
            if (end != at + len || width == 0 || width < -ACCT_CELL_MAX || width > ACCT_CELL_MAX)
                return error_set(err, STATUS_INVALID, "\"%.*s\": after %% stands a width",
                                 (int)(len > 60 ? 60 : len), at);
            c->left = width < 0;
            c->width = (int)(width < 0 ? -width : width);
        }
        layout->field[layout->count++] = f;
        at += len + (at[len] == ',');
    }
    if (layout->count == 0)
        return error_set(err, STATUS_INVALID, "-o: no field is named");
    return 0;
}

/* --- rows ------------------------------------------------------------------------------------- */

static int64_t number(const struct wire *w, const char *key, int64_t missing)
{
    int64_t value;

    return wire_get_i64(w, key, &value, NULL) == 0 ? value : missing;
}

static void text(char *out, size_t room, const struct wire *w, const char *key)
{
    const char *value = wire_get(w, key);

    snprintf(out, room, "%s", value ? value : "");
}

void acct_read_row(struct acct_row *r, const struct wire *w)
{
    memset(r, 0, sizeof(*r));
    r->row = number(w, "row", 0);
    r->lease = number(w, "lease", 0);
    r->job = number(w, "job", 0);
    r->array_job = number(w, "array_job", -1);
    r->array_task = number(w, "array_task", -1);
    r->het_job = number(w, "het_job", -1);
    r->het_offset = number(w, "het_offset", -1);
    r->uid = number(w, "uid", -1);
    r->prompt_tokens = number(w, "prompt_tokens", 0);
    r->cached_tokens = number(w, "cached_tokens", 0);
    r->completion_tokens = number(w, "completion_tokens", 0);
    r->engine_us = number(w, "engine_us", 0);
    r->switches = number(w, "switches", 0);
    r->preemptions = number(w, "preemptions", 0);
    r->ttft_us = number(w, "ttft_us", -1);
    r->start_us = number(w, "start_us", 0);
    r->end_us = number(w, "end_us", 0);
    r->requests = 1;
    text(r->cluster, sizeof(r->cluster), w, "cluster");
    text(r->node, sizeof(r->node), w, "node");
    text(r->step, sizeof(r->step), w, "step_name");
    text(r->account, sizeof(r->account), w, "account");
    text(r->partition, sizeof(r->partition), w, "partition");
    text(r->request, sizeof(r->request), w, "request");
    text(r->model, sizeof(r->model), w, "model");
    text(r->slo, sizeof(r->slo), w, "slo");
    text(r->state, sizeof(r->state), w, "state");
    text(r->finish, sizeof(r->finish), w, "finish");
}
