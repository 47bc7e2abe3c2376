/* generation_admit.c - what a request needs before it runs: quotas, an engine, a promise */
#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/generation_state.h"
#include "daemon/usage.h"

/* --- tokens -------------------------------------------------------------------------------------
 */

/* The lease may be another one by now, if the controller has said that the job is another run. */
void generation_refund(struct generation *g, uint64_t tokens)
{
    struct lease *lease = g->grant->lease;
    lease->used -= tokens < lease->used ? tokens : lease->used;
    leases_count_tokens(g->all->f->leases, lease, g->day, -(int64_t)tokens);
}

int generation_charge(struct generation *g, uint64_t tokens, struct error *err)
{
    struct leases *l = g->all->f->leases;
    struct lease *lease = g->grant->lease;

    if (leases_day_left(l, lease, g->day) < tokens)
        return leases_day_refusal(l, lease, tokens, err);
    if (leases_charge(l, g->grant, tokens, err))
        return -1;
    leases_count_tokens(l, lease, g->day, (int64_t)tokens);
    return 0;
}

/* --- quotas and admission -----------------------------------------------------------------------
 */

/* 429 for quotas that time gives back. */
static int refuse_for_now(struct openai_error *e, uint32_t retry_after, const char *text)
{
    openai_fail(e, 429, "rate_limit_error", "rate_limit_exceeded", "%s", text);
    e->retry_after = retry_after;
    return -1;
}

int generation_check_requests(struct generations *all, const struct grant *grant,
                              struct openai_error *e)
{
    struct error err = {0};

    if (leases_check_requests(all->f->leases, grant->lease, &err) == 0)
        return 0;
    metrics_refuse(all->metrics, METRICS_MAX_REQUESTS);
    return refuse_for_now(e, 1, err.text);
}

static int refuse_today(struct generation *g, struct openai_error *e)
{
    struct error err = {0};
    int64_t ends_us;

    leases_today(&ends_us);
    leases_day_refusal(g->all->f->leases, g->grant->lease, g->prompt_count, &err);
    metrics_refuse(g->all->metrics, METRICS_TOKENS_PER_DAY);
    return refuse_for_now(e, (uint32_t)((ends_us - clock_wall_us()) / 1000000) + 1, err.text);
}

/* Reserve the prompt, cut max_tokens to what budget and quota leave behind it, open the ledger row.
 */
static int admit(struct generation *g, struct openai_error *e)
{
    struct error err = {0};
    struct front *f = g->all->f;
    uint64_t left = leases_left(g->grant);
    uint64_t today = leases_day_left(f->leases, g->grant->lease, g->day);

    if (left <= g->prompt_count) {
        metrics_refuse(g->all->metrics, METRICS_BUDGET);
        return openai_fail(e, 429, "insufficient_quota", "insufficient_quota",
                           "the budget of %lld tokens (--model-tokens) has %llu left, and the "
                           "prompt alone takes %u",
                           (long long)g->grant->lease->row.budget, (unsigned long long)left,
                           g->prompt_count);
    }
    if (today <= g->prompt_count)
        return refuse_today(g, e);
    if (generation_charge(g, g->prompt_count, &err))
        return openai_refuse(e, &err);
    if (left > today)
        left = today;
    if (g->request.max_tokens > left - g->prompt_count)
        g->request.max_tokens = (uint32_t)(left - g->prompt_count);
    usage_fill(&g->row, f, g->grant, g->model, g->id, g->prompt_count);
    if (usage_open(f, &g->row, g->seq, generation_on_opened, g->all, &err)) {
        generation_refund(g, g->prompt_count);
        return openai_refuse(e, &err);
    }
    generation_set_state(g, OPENING);
    return 0;
}

/* Ask the policy to promise the SLO, before anything is billed. */
static int ask_promise(struct generation *g, struct openai_error *e)
{
    struct policy_ask *a = calloc(1, sizeof *a);
    int64_t waited_us = clock_monotonic_us() - g->arrived_us, wait_us = g->grant->row.wait_us;

    if (!a)
        return openai_fail(e, 500, "server_error", NULL, "out of memory");
    *a = (struct policy_ask){
        .seq = g->seq,
        .model = g->model,
        .tenant = g->grant->lease->tenant,
        .tokens = g->prompt_count,
        .max_tokens = g->request.max_tokens,
        .ttft_us = g->grant->ttft_us,
        .tbt_us = g->grant->tbt_us,
        .wait_us = wait_us > waited_us ? wait_us - waited_us : 0,
    };
    g->why[0] = '\0';
    generation_set_state(g, ASKING);
    policy_admit(g->all->f->policy, a);
    return 0;
}

int generation_try_admit(struct generation *g, struct openai_error *e)
{
    struct error err = {0};
    int ready = leases_ready(g->all->f->leases, g->grant, g->model, &err);
    int strict = g->grant->ttft_us > 0 && g->grant->tbt_us > 0;

    if (ready > 0)
        return (strict ? ask_promise(g, e) : admit(g, e)) ? -1 : 1;
    if (ready == 0) {
        snprintf(g->why, sizeof g->why, "%.*s", (int)sizeof g->why - 1, err.text);
        return 0;
    }
    openai_refuse(e, &err);
    if (err.status == STATUS_EXHAUSTED) { /* --model-wait has run out */
        metrics_refuse(g->all->metrics, METRICS_WAIT);
        return refuse_for_now(e, 30, err.text);
    }
    return -1;
}

/* --- what the policy says of a promise ----------------------------------------------------------
 */

static void on_refused(struct generation *g, const struct policy_event *ev)
{
    struct error err = {0};
    struct openai_error e;
    int waited = g->why[0] != '\0';

    error_set(&err, ev->status, "%s", ev->text);
    openai_refuse(&e, &err);
    if (ev->status == STATUS_EXHAUSTED || ev->status == STATUS_UNSUPPORTED) {
        metrics_refuse(g->all->metrics, METRICS_ADMISSION);
        refuse_for_now(&e, waited ? 30 : 5, ev->text);
    }
    log_debug("%s: %s", g->id, ev->text);
    generation_end_early(g, FAILED, &e);
}

void generation_on_promise(struct generations *all, const struct policy_event *ev)
{
    struct generation *g = generation_find(all, ev->seq);
    struct openai_error e;

    if (!g || g->state != ASKING)
        return;
    switch ((enum policy_event_kind)ev->mail.kind) {
    case POLICY_ADMITTED:
        if (admit(g, &e))
            generation_end_early(g, FAILED, &e);
        break;
    case POLICY_WAITING:
        snprintf(g->why, sizeof g->why, "%s", ev->text);
        break;
    default:
        on_refused(g, ev);
    }
}
