/* sim_report.c - what a simulated run came to: for people, and as JSON */
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "cli/sim_command.h"

static const char *roles_text(const struct sim_fleet *f, char text[32])
{
    if (f->prefill + f->decode == 0)
        snprintf(text, 32, "mixed");
    else
        snprintf(text, 32, "%up%ud", f->prefill, f->decode);
    return text;
}

/* Unified: prompts before decode turns on one device, not as published. */
static const char *variant(const struct sim_fleet *f)
{
    return strcmp(f->scheduler, "aegaeon") == 0 && f->prefill == 0 ? " (unified)" : "";
}

/* The host tier, and who waited longest. */
static void print_more(const struct sim_report *r, const struct sim_setup *u)
{
    if (u->fleet.host_memory > 0)
        printf("host memory    %" PRIu64 " loads found their model there, %" PRIu64
               " on its way; %" PRIu64 " from disk, %.1f GB; %" PRIu64 " evicted\n",
               r->host_hits, r->host_waits, r->disk_loads, r->disk_bytes / 1e9, r->host_evictions);
    printf("longest wait   %.1f s of a batch for a turn", r->longest_wait);
    if (strcmp(u->fleet.scheduler, "slack") == 0)
        printf(
            "; the bound is %.1f s: --starve=, and %u turns of at most %.1f s with loads of %.1f s",
            sim_wait_bound(r, &u->fleet), r->most_batches + 1, r->longest_turn, r->longest_load);
    putchar('\n');
}

void sim_print(const struct sim_report *r, const struct sim_setup *u, const struct sim_trace *t)
{
    char roles[32];

    printf("scheduler      %s%s on %u %s, %s\n", u->fleet.scheduler, variant(&u->fleet),
           u->fleet.devices, u->costs.device, roles_text(&u->fleet, roles));
    printf("load           %" PRIu64 " requests to %u models, %" PRIu64
           " tokens, done after %.1f s\n",
           r->requests, t->model_count, r->tokens, r->makespan);
    if (r->refused > 0)
        printf("refused        %" PRIu64 " requests\n", r->refused);
    printf("tokens on time %.2f %%\n", 100 * r->token_attainment);
    printf("requests       %.2f %% kept TTFT and mean TBT\n", 100 * r->request_attainment);
    printf("service time   %.2f %% within deadlines, as published\n",
           100 * r->published_attainment);
    printf("TTFT           p50 %.3f s, p95 %.3f s, p99 %.3f s\n", r->ttft[0], r->ttft[1],
           r->ttft[2]);
    printf("TBT (mean)     p50 %.1f ms, p95 %.1f ms, p99 %.1f ms\n", 1e3 * r->tbt[0],
           1e3 * r->tbt[1], 1e3 * r->tbt[2]);
    printf("GPU time       %.1f %% in steps, %.1f %% in switches\n",
           100 * r->step_seconds / r->gpu_seconds, 100 * r->switch_seconds / r->gpu_seconds);
    printf("turns          %" PRIu64 ", %" PRIu64 " to another model: %" PRIu64
           " resident, %" PRIu64 " prefetched, %" PRIu64 " waited for a prefetch\n",
           r->turns, r->switches, r->resident_hits, r->prefetch_hits, r->prefetch_waits);
    printf("moved          %" PRIu64 " loads, %.1f GB of weights, %.1f GB of KV; %" PRIu64
           " KV spills, %" PRIu64 " computed again\n",
           r->loads, r->bytes / 1e9, r->kv_bytes / 1e9, r->spills, r->recomputes);
    print_more(r, u);
    if (r->tenant_count < 2 || r->tenant_count > 64)
        return;
    printf("fairness gap   %.2f GPU s at most\n", r->fairness_gap);
    for (uint32_t i = 0; i < r->tenant_count; i++)
        printf("  %-12s %8.1f GPU s, %.1f of them in switches, %6.2f %% on time, TTFT p99 %.2f s, "
               "%" PRIu64 " requests\n",
               t->tenants[i], r->tenants[i].seconds, r->tenants[i].switch_seconds,
               100 * r->tenants[i].attainment, r->tenants[i].ttft_p99, r->tenants[i].requests);
}

static int add_more(json_t *all, const struct sim_report *r)
{
    json_t *more =
        json_pack("{s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:i}", "host_hits", (json_int_t)r->host_hits,
                  "host_waits", (json_int_t)r->host_waits, "disk_loads", (json_int_t)r->disk_loads,
                  "host_evictions", (json_int_t)r->host_evictions, "disk_bytes", r->disk_bytes,
                  "longest_wait", r->longest_wait, "longest_turn", r->longest_turn, "longest_load",
                  r->longest_load, "most_batches", (int)r->most_batches);
    int rv = more != NULL ? json_object_update(all, more) : -1;

    json_decref(more);
    return rv;
}

static json_t *three(const double v[3])
{
    return json_pack("{s:f,s:f,s:f}", "p50", v[0], "p95", v[1], "p99", v[2]);
}

static json_t *tenants_json(const struct sim_report *r, const struct sim_trace *t)
{
    json_t *all = json_array();

    for (uint32_t i = 0; i < r->tenant_count && i < 1024; i++)
        json_array_append_new(
            all, json_pack("{s:s,s:f,s:f,s:f,s:f,s:I,s:I}", "tenant", t->tenants[i], "gpu_seconds",
                           r->tenants[i].seconds, "switch_seconds", r->tenants[i].switch_seconds,
                           "token_attainment", r->tenants[i].attainment, "ttft_p99",
                           r->tenants[i].ttft_p99, "requests", (json_int_t)r->tenants[i].requests,
                           "tokens", (json_int_t)r->tenants[i].tokens));
    return all;
}

json_t *sim_report_json(const struct sim_report *r, const struct sim_setup *u,
                        const struct sim_trace *t)
{
    char roles[32];
    json_t *all = json_pack(
        "{s:s,s:b,s:s,s:i,s:s,s:i,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:o,s:o}", "scheduler",
        u->fleet.scheduler, "unified", *variant(&u->fleet) != '\0', "device", u->costs.device,
        "gpus", (int)u->fleet.devices, "roles", roles_text(&u->fleet, roles), "models",
        (int)t->model_count, "requests", (json_int_t)r->requests, "refused", (json_int_t)r->refused,
        "tokens", (json_int_t)r->tokens, "seconds", r->makespan, "token_attainment",
        r->token_attainment, "request_attainment", r->request_attainment, "published_attainment",
        r->published_attainment, "ttft", three(r->ttft), "tbt_mean", three(r->tbt));
    json_t *more =
        json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:f,s:f,s:o}", "turns",
                  (json_int_t)r->turns, "switches", (json_int_t)r->switches, "resident_hits",
                  (json_int_t)r->resident_hits, "prefetch_hits", (json_int_t)r->prefetch_hits,
                  "prefetch_waits", (json_int_t)r->prefetch_waits, "loads", (json_int_t)r->loads,
                  "kv_spills", (json_int_t)r->spills, "kv_recomputes", (json_int_t)r->recomputes,
                  "weight_bytes", r->bytes, "kv_bytes", r->kv_bytes, "step_seconds",
                  r->step_seconds, "switch_seconds", r->switch_seconds, "gpu_seconds",
                  r->gpu_seconds, "fairness_gap", r->fairness_gap, "tenants", tenants_json(r, t));

    if (all == NULL || more == NULL || json_object_update(all, more) != 0 ||
        add_more(all, r) != 0) {
        json_decref(all);
        all = NULL;
    }
    json_decref(more);
    return all;
}

int sim_print_json(const struct sim_report *r, const struct sim_setup *u, const struct sim_trace *t)
{
    json_t *all = sim_report_json(r, u, t);

    if (all == NULL)
        return -1;
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(all);
    return 0;
}
