/* serve_report.c - what was served, beside what the simulator predicted: for people, as JSON, drawn
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli/serve.h"

#define REASONS_MAX 32

/* --- failures -----------------------------------------------------------------------------------
 */

struct reason {
    const char *text;
    uint64_t count;
};

static size_t count_reasons(const struct serve_result *r, struct reason out[REASONS_MAX])
{
    size_t n = 0;

    for (size_t i = 0; i < r->trace->count; i++) {
        const char *text = r->fates[i].reason;
        size_t k = 0;

        if (text[0] == '\0')
            continue;
        while (k < n && strcmp(out[k].text, text) != 0)
            k++;
        if (k == n && n == REASONS_MAX)
            k = n - 1; /* counted with the last one */
        else if (k == n)
            out[n++] = (struct reason){text, 0};
        out[k].count++;
    }
    return n;
}

/* --- for people ---------------------------------------------------------------------------------
 */

static void line(const struct serve_result *r, const char *what, const char *fmt, double served,
                 double predicted)
{
    char text[32];

    snprintf(text, sizeof text, fmt, served);
    printf("%-22s %14s", what, text);
    if (r->has_prediction) {
        snprintf(text, sizeof text, fmt, predicted);
        printf(" %14s", text);
    }
    putchar('\n');
}

static void lines3(const struct serve_result *r, const char *what, const char *fmt, double factor,
                   const double served[3], const double predicted[3])
{
    static const char *const names[] = {"p50", "p95", "p99"};
    char label[40];

    for (int i = 0; i < 3; i++) {
        snprintf(label, sizeof label, "%s %s", what, names[i]);
        line(r, label, fmt, factor * served[i], factor * predicted[i]);
    }
}

static void print_figures(const struct serve_result *r)
{
    const struct sim_report *a = &r->served, *b = &r->predicted;

    printf("%-22s %14s%s\n", "", "served", r->has_prediction ? "      predicted" : "");
    line(r, "tokens on time", "%.2f %%", 100 * a->token_attainment, 100 * b->token_attainment);
    line(r, "requests kept", "%.2f %%", 100 * a->request_attainment, 100 * b->request_attainment);
    line(r, "service time", "%.2f %%", 100 * a->published_attainment,
         100 * b->published_attainment);
    lines3(r, "TTFT", "%.3f s", 1, a->ttft, b->ttft);
    lines3(r, "TBT (mean)", "%.1f ms", 1e3, a->tbt, b->tbt);
    line(r, "done after", "%.1f s", a->makespan, b->makespan);
    line(r, "in steps", "%.1f s", a->step_seconds, b->step_seconds);
    line(r, "in switches", "%.1f s", a->switch_seconds, b->switch_seconds);
    line(r, "turns", "%.0f", (double)a->turns, (double)b->turns);
    line(r, "switches", "%.0f", (double)a->loads, (double)b->loads);
    line(r, "weights moved", "%.2f GB", a->bytes / 1e9, b->bytes / 1e9);
    for (uint32_t i = 0; i < a->tenant_count && a->tenant_count <= 64; i++) {
        char label[128];

        snprintf(label, sizeof label, "%.40s on time", r->trace->tenants[i]);
        line(r, label, "%.2f %%", 100 * a->tenants[i].attainment,
             r->has_prediction ? 100 * b->tenants[i].attainment : 0);
        snprintf(label, sizeof label, "%.40s seconds", r->trace->tenants[i]);
        if (r->has_ledger)
            line(r, label, "%.1f s", a->tenants[i].seconds,
                 r->has_prediction ? b->tenants[i].seconds : 0);
    }
}

void serve_print(const struct serve_result *r)
{
    struct reason reasons[REASONS_MAX];
    size_t n = count_reasons(r, reasons);
    const struct sim_report *a = &r->served;

    printf("pool           %s on %u %s\n", r->setup->fleet.scheduler, r->setup->fleet.devices,
           r->device);
    printf("load           %" PRIu64 " requests to %u models, %" PRIu64 " tokens\n", a->requests,
           r->trace->model_count, a->tokens);
    if (r->warmup > 0)
        printf("warmup         what arrived in the first %g s is not counted\n", r->warmup);
    printf("sent late by   p50 %.1f ms, p99 %.1f ms, %.1f ms at most\n", 1e3 * r->late[0],
           1e3 * r->late[2], 1e3 * r->late_most);
    for (size_t i = 0; i < n; i++)
        printf("failed         %" PRIu64 ": %s\n", reasons[i].count, reasons[i].text);
    if (r->has_ledger)
        printf("ledger         %" PRIu64 " requests, %" PRIu64 " tokens of prompt and %" PRIu64
               " of output; %" PRIu64 " came\n",
               r->ledger.rows, r->ledger.prompt_tokens, r->ledger.completion_tokens, r->received);
    print_figures(r);
}

/* --- JSON ---------------------------------------------------------------------------------------
 */

/* What only the simulator counts. */
static void take_out(json_t *all)
{
    static const char *const keys[] = {
        "unified",   "roles",         "resident_hits", "prefetch_hits", "prefetch_waits",
        "kv_spills", "kv_recomputes", "kv_bytes",      "fairness_gap",  "switches"};

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        json_object_del(all, keys[i]);
}

static json_t *failures_json(const struct serve_result *r)
{
    struct reason reasons[REASONS_MAX];
    size_t n = count_reasons(r, reasons);
    json_t *all = json_object();

    for (size_t i = 0; i < n; i++)
        json_object_set_new(all, reasons[i].text, json_integer((json_int_t)reasons[i].count));
    return all;
}

static json_t *ledger_json(const struct serve_result *r)
{
    const struct serve_bill *b = &r->ledger;

    if (!r->has_ledger)
        return json_null();
    return json_pack("{s:I,s:I,s:I,s:f}", "requests", (json_int_t)b->rows, "prompt_tokens",
                     (json_int_t)b->prompt_tokens, "completion_tokens",
                     (json_int_t)b->completion_tokens, "engine_seconds", b->engine_seconds);
}

int serve_print_json(const struct serve_result *r)
{
    json_t *all = sim_report_json(&r->served, r->setup, r->trace);
    json_t *more = json_pack("{s:f,s:{s:f,s:f,s:f,s:f},s:I,s:o,s:I,s:I,s:o}", "warmup", r->warmup,
                             "sent_late", "p50", r->late[0], "p95", r->late[1], "p99", r->late[2],
                             "most", r->late_most, "failed", (json_int_t)r->failed, "failures",
                             failures_json(r), "received_tokens", (json_int_t)r->received,
                             "preemptions", (json_int_t)r->preemptions, "ledger", ledger_json(r));
    json_t *predicted =
        r->has_prediction ? sim_report_json(&r->predicted, r->setup, r->trace) : json_null();
    int rv = -1;

    if (all == NULL || more == NULL || predicted == NULL)
        goto out;
    take_out(all);
    json_object_set_new(all, "device", json_string(r->device));
    if (json_object_update(all, more) != 0 || json_object_set(all, "predicted", predicted) != 0)
        goto out;
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    putchar('\n');
    rv = 0;
out:
    json_decref(all);
    json_decref(more);
    json_decref(predicted);
    return rv;
}

/* --- the figure ---------------------------------------------------------------------------------
 */

static void plot_boxes(FILE *to, const struct serve_result *r)
{
    fputs("$requests << EOD\n0 0 0 0 0\n", to);
    for (size_t i = 0; i < r->trace->count; i++) {
        const struct sim_request *q = &r->trace->requests[i];
        const struct sim_outcome *o = &r->outcomes[i];

        if (o->first > 0)
            fprintf(to, "%u %.4f %.4f %.4f %.4f\n", q->model, (double)q->arrival / 1e9,
                    (double)o->first / 1e9, (double)o->last / 1e9,
                    100.0 * o->on_time / (double)q->output);
    }
    fputs("EOD\n", to);
}

int serve_plot(const char *path, const struct serve_result *r, struct error *err)
{
    uint32_t models = r->trace->model_count;
    char title[160];
    FILE *to;

    snprintf(title, sizeof title, "Requests under %s: %u models, %.1f %% of tokens on time",
             r->setup->fleet.scheduler, models, 100 * r->served.token_attainment);
    to = sim_plot_begin(path, title, "1280,600", err);
    if (to == NULL)
        return -1;
    plot_boxes(to, r);
    fprintf(to,
            "set xlabel 'seconds'\nset ylabel 'model'\nset xrange [0:%g]\nset yrange [-0.6:%g]\n"
            "set style fill transparent solid 0.5 noborder\nset cblabel 'tokens on time, %%'\n"
            "set cbrange [0:100]\nset palette defined (0 '#d55e00', 50 '#f0e442', 100 '#0072b2')\n"
            "set key below\nplot $requests using 2:1:2:3:($1-0.05):($1+0.05) with boxxyerror "
            "lc rgb '#000000' title 'from arrival to the first token', "
            "$requests using 3:1:3:4:($1-0.4):($1+0.4):5 with boxxyerror lc palette "
            "title 'from the first token to the last'\n",
            r->served.makespan > 0 ? r->served.makespan : 1, models - 0.4);
    return sim_plot_end(to, path, err);
}
