/* lease_test.c - leases and grants, over a real database and a scripted squeue */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "daemon/lease_set.h"
#include "tests/unit/lease_rig.h"

#define UID 1000

/* --- helpers ---------------------------------------------------------------------------------- */

struct opened {
    int count, failed;
    uint64_t tag;
};

static void on_opened(void *arg, uint64_t tag, const struct error *err)
{
    struct opened *o = arg;

    o->count++;
    o->failed = err != NULL;
    o->tag = tag;
}

static struct lease_ask step(int64_t job, int64_t number, const char *models)
{
    return (struct lease_ask){.job = job,
                              .step = number,
                              .step_name = "0",
                              .uid = UID,
                              .models = models,
                              .tokens = -1,
                              .array_job = -1,
                              .array_task = -1,
                              .het_job = -1,
                              .het_offset = -1};
}

/* Open and wait until it is durable. */
static struct grant *open_ask(const struct lease_ask *ask)
{
    struct opened o = {0};
    struct error err;
    struct grant *g = leases_open(rig->f.leases, ask, on_opened, &o, 77, &err);

    if (!g)
        fail_msg("%s", err.text);
    assert_int_equal(o.count, 0); /* not from within */
    rig_loop_until(&o.count, 1000);
    assert_int_equal(o.count, 1);
    assert_int_equal(o.failed, 0);
    assert_int_equal(o.tag, 77);
    return g;
}

static struct grant *open_step(int64_t job, int64_t number, const char *models)
{
    struct lease_ask ask = step(job, number, models);

    return open_ask(&ask);
}

static void refuse(const struct lease_ask *ask, enum status status, const char *text)
{
    struct error err;

    assert_null(leases_open(rig->f.leases, ask, on_opened, NULL, 0, &err));
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    assert_int_equal(err.status, status);
}

static void get_key(const struct grant *g, char key[LEASE_KEY_MAX])
{
    assert_int_equal(leases_key(rig->f.leases, g, key, NULL), 0);
}

static void counts(uint32_t leases, uint32_t grants)
{
    uint32_t l, g;

    leases_counts(rig->f.leases, &l, &g);
    assert_int_equal(l, leases);
    assert_int_equal(g, grants);
}

static struct slurm_job running(int64_t job, int64_t start, const char *account)
{
    struct slurm_job j = {.job = job,
                          .uid = UID,
                          .start = start,
                          .array_job = -1,
                          .array_task = -1,
                          .het_job = -1,
                          .het_offset = -1};

    snprintf(j.account, sizeof(j.account), "%s", account);
    strcpy(j.partition, "debug");
    strcpy(j.state, "RUNNING");
    return j;
}

/* --- keys ------------------------------------------------------------------------------------- */

static void a_key_opens_its_grant(void **state)
{
    char key[LEASE_KEY_MAX];
    struct error err;

    (void)state;
    struct grant *g = open_step(12, 0, "alpha");
    get_key(g, key);
    assert_ptr_equal(leases_authenticate(rig->f.leases, key, UID, &err), g);
    assert_null(leases_authenticate(rig->f.leases, key, UID + 1, &err));
    assert_int_equal(err.status, STATUS_UNAUTHENTICATED);
    assert_null(leases_authenticate(rig->f.leases, key, 0, &err)); /* not even root's */
    key[strlen(key) - 1] ^= 1;
    assert_null(leases_authenticate(rig->f.leases, key, UID, &err));
    assert_int_equal(err.status, STATUS_UNAUTHENTICATED);
    assert_null(strstr(err.text, key));
    leases_close(rig->f.leases, g);
    key[strlen(key) - 1] ^= 1;
    assert_null(leases_authenticate(rig->f.leases, key, UID, &err));
}

static void without_a_key_the_grant_must_be_the_only_one(void **state)
{
    struct error err;

    (void)state;
    assert_null(leases_authenticate(rig->f.leases, NULL, UID, &err));
    assert_int_equal(err.status, STATUS_UNAUTHENTICATED);
    struct grant *g = open_step(12, 0, "alpha");
    assert_ptr_equal(leases_authenticate(rig->f.leases, NULL, UID, &err), g);
    assert_null(leases_authenticate(rig->f.leases, NULL, UID + 1, &err));
    struct grant *other = open_step(12, 1, "alpha");
    assert_null(leases_authenticate(rig->f.leases, NULL, UID, &err));
    assert_non_null(strstr(err.text, "2 grants"));
    leases_close(rig->f.leases, other);
    assert_ptr_equal(leases_authenticate(rig->f.leases, NULL, UID, &err), g);
}

static void the_same_step_gets_the_same_key(void **state)
{
    char first[LEASE_KEY_MAX], second[LEASE_KEY_MAX];

    (void)state;
    struct grant *g = open_step(12, 0, "alpha"), *again = open_step(12, 0, "alpha");
    assert_ptr_equal(g, again);
    get_key(g, first);
    get_key(again, second);
    assert_string_equal(first, second);
    struct grant *other = open_step(12, 1, "alpha");
    get_key(other, second);
    assert_string_not_equal(first, second);
    assert_ptr_equal(other->lease, g->lease);
    counts(1, 2);
    leases_close(rig->f.leases, g); /* one of two connections */
    counts(1, 2);
    leases_close(rig->f.leases, again);
    counts(1, 1);
    assert_int_equal(rig->grants_ended, 1);
}

/* --- refusals --------------------------------------------------------------------------------- */

static void wrong_asks_are_refused(void **state)
{
    (void)state;
    struct lease_ask ask = step(12, 0, "delta");
    refuse(&ask, STATUS_NOT_FOUND, "alpha, beta, gamma");
    ask.models = NULL;
    refuse(&ask, STATUS_INVALID, "alpha, beta, gamma");
    ask.models = "alpha,alpha";
    refuse(&ask, STATUS_INVALID, "twice");
    ask.models = "alpha";
    ask.slo = "fast";
    refuse(&ask, STATUS_NOT_FOUND, "strict, relaxed");
    ask.slo = "ttft:1";
    refuse(&ask, STATUS_INVALID, "ttft");
    ask.slo = NULL;
    ask.wait_us = rig->config.wait_max_us + 1;
    refuse(&ask, STATUS_INVALID, "WaitMax");
    ask.wait_us = 0;
    ask.step_name = "a name that is far too long";
    refuse(&ask, STATUS_INVALID, "no such");
    counts(0, 0);
}

static void what_can_never_run_is_refused_at_once(void **state)
{
    (void)state;
    rig->ok[GAMMA] = 0;
    struct lease_ask ask = step(12, 0, "alpha,gamma");
    ask.wait_us = 60000000;
    refuse(&ask, STATUS_UNSUPPORTED, "needs more memory");
    counts(0, 0);
}

static void slo_classes_and_times(void **state)
{
    (void)state;
    struct lease_ask ask = step(12, 0, "alpha");
    ask.slo = "strict";
    struct grant *g = open_ask(&ask);
    assert_int_equal(g->ttft_us, 500000);
    assert_int_equal(g->tbt_us, 50000);
    ask.step = 1;
    ask.slo = "ttft:2,tbt:0.1";
    g = open_ask(&ask);
    assert_int_equal(g->ttft_us, 2000000);
    assert_int_equal(g->tbt_us, 100000);
    ask.step = 2;
    ask.slo = NULL;
    g = open_ask(&ask);
    assert_int_equal(g->ttft_us, 0);
    assert_int_equal(g->tbt_us, 0);
}

static void models_of_a_request(void **state)
{
    struct error err;
    uint32_t model = 99;

    (void)state;
    struct grant *g = open_step(12, 0, "gamma,alpha");
    assert_int_equal(leases_model(rig->f.leases, g, NULL, &model, &err), 0);
    assert_int_equal(model, GAMMA);
    assert_int_equal(leases_model(rig->f.leases, g, "alpha", &model, &err), 0);
    assert_int_equal(model, ALPHA);
    model = 99;
    assert_int_equal(leases_model(rig->f.leases, g, "beta", &model, &err), -1);
    assert_int_equal(err.status, STATUS_DENIED);
    assert_int_equal(leases_model(rig->f.leases, g, "gpt-4", &model, &err), -1);
    assert_int_equal(err.status, STATUS_NOT_FOUND);
    assert_int_equal(model, 99);
}

static void a_failed_write_is_reported(void **state)
{
    struct opened o = {0};
    struct error err;
    struct lease_ask ask = step(12, 0, "alpha");

    (void)state;
    rig->write_fails = 1;
    struct grant *g = leases_open(rig->f.leases, &ask, on_opened, &o, 1, &err);
    assert_non_null(g);
    rig_loop_until(&o.count, 1000);
    assert_int_equal(o.failed, 1);
    leases_close(rig->f.leases, g);
    counts(1, 0);
    rig->write_fails = 0;
}

/* --- waiting ---------------------------------------------------------------------------------- */

static void waiting_for_an_instance(void **state)
{
    struct error err;
    struct lease_ask ask = step(12, 0, "alpha");

    (void)state;
    strcpy(rig->instance_state, "starting");
    rig->known[ALPHA] = 0;
    struct grant *hasty = open_ask(&ask);
    assert_string_equal(leases_state(rig->f.leases, hasty), "live");
    assert_int_equal(leases_ready(rig->f.leases, hasty, ALPHA, &err), -1);
    assert_int_equal(err.status, STATUS_UNAVAILABLE);

    ask.step = 1;
    ask.wait_us = 300000;
    struct grant *patient = open_ask(&ask);
    assert_string_equal(leases_state(rig->f.leases, patient), "waiting");
    assert_int_equal(leases_ready(rig->f.leases, patient, ALPHA, &err), 0);
    assert_true(patient->wait_deadline_us > clock_wall_us());
    while (clock_wall_us() < patient->wait_deadline_us)
        rig_loop(10);
    assert_int_equal(leases_ready(rig->f.leases, patient, ALPHA, &err), -1);
    assert_int_equal(err.status, STATUS_EXHAUSTED);
    assert_non_null(strstr(err.text, "starting"));

    strcpy(rig->instance_state, "running");
    rig->known[ALPHA] = 1;
    assert_int_equal(leases_ready(rig->f.leases, patient, ALPHA, &err), 1);
    assert_int_equal(leases_ready(rig->f.leases, hasty, ALPHA, &err), 1);
    assert_string_equal(leases_state(rig->f.leases, patient), "live");
    strcpy(rig->instance_state, "drained");
    assert_int_equal(leases_ready(rig->f.leases, hasty, ALPHA, &err), -1);
    assert_non_null(strstr(err.text, "drained"));
    rig->ok[ALPHA] = 0;
    assert_int_equal(leases_ready(rig->f.leases, hasty, ALPHA, &err), -1);
    assert_int_equal(err.status, STATUS_UNSUPPORTED);
}

/* --- budgets ---------------------------------------------------------------------------------- */

static void the_first_budget_holds_and_can_only_fall(void **state)
{
    struct error err;
    struct lease_ask ask = step(12, 0, "alpha");

    (void)state;
    ask.tokens = 100;
    struct grant *g = open_ask(&ask);
    assert_int_equal(leases_left(g), 100);
    assert_int_equal(leases_charge(rig->f.leases, g, 60, &err), 0);
    assert_int_equal(leases_charge(rig->f.leases, g, 41, &err), -1);
    assert_int_equal(err.status, STATUS_EXHAUSTED);
    assert_non_null(strstr(err.text, "100"));
    assert_int_equal(leases_left(g), 40); /* a refused charge takes nothing */
    ask.step = 1;
    ask.tokens = 500;
    struct grant *more = open_ask(&ask);
    assert_int_equal(leases_left(more), 40);
    ask.step = 2;
    ask.tokens = 70;
    struct grant *less = open_ask(&ask);
    assert_int_equal(leases_left(less), 10);
    assert_int_equal(leases_left(g), 10);
    ask.step = 3;
    ask.tokens = 20; /* below what is used */
    assert_int_equal(leases_left(open_ask(&ask)), 0);
    assert_int_equal(leases_charge(rig->f.leases, g, UINT64_MAX, &err), -1);

    struct grant *free_one = open_step(13, 0, "alpha");
    assert_true(leases_left(free_one) == UINT64_MAX);
    assert_int_equal(leases_charge(rig->f.leases, free_one, 1000, &err), 0);
    assert_int_equal(leases_charge(rig->f.leases, free_one, UINT64_MAX, &err), -1);
}

/* --- tenants ---------------------------------------------------------------------------------- */

static void set_tenants(void)
{
    rig->tenants[0] = (struct config_tenant){
        .name = "bio", .share = 2.5, .tokens_per_day = 1000, .max_requests = 2};
    rig->tenants[1] = (struct config_tenant){.name = TENANT_DEFAULT, .share = 0.5};
    rig->config.tenants = rig->tenants;
    rig->config.tenant_count = 2;
    rig->f.policy = (struct policy *)rig; /* not looked into: there is one */
    leases_reload_tenants(rig->f.leases);
}

static void identify_as_bio(struct grant *g)
{
    rig_squeue("[ \"$4\" = 12 ] && echo 'mp|12|0|0|N/A|1000|bio|debug|1700000000|RUNNING'");
    rig_loop_until(&g->lease->identified, 5000);
    assert_string_equal(g->lease->row.account, "bio");
}

static void an_account_has_quotas_once_it_is_known(void **state)
{
    struct error err;
    int64_t ends, today = leases_today(&ends);

    (void)state;
    set_tenants();
    assert_true(rig->shares[0] > 0.4 && rig->shares[0] < 0.6);
    assert_true(today <= clock_wall_us() && clock_wall_us() < ends);
    assert_in_range((ends - today) / 3600000000, 22, 26);
    struct grant *g = open_step(12, 0, "alpha");
    /* Not known yet: no limits, but it counts. */
    assert_true(leases_day_left(rig->f.leases, g->lease, today) == UINT64_MAX);
    leases_count_tokens(rig->f.leases, g->lease, today, 700);
    leases_count_tokens(rig->f.leases, g->lease, today, -100);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(leases_check_requests(rig->f.leases, g->lease, &err), 0);
        leases_hold(g);
    }
    assert_int_equal(rig->f.leases->tenant[0]->tokens, 600);
    identify_as_bio(g);
    assert_int_equal(rig->f.leases->tenant[0]->tokens, 0);
    assert_int_equal(rig->identified, 1); /* http was told */
    assert_true(rig->shares[g->lease->tenant] > 2.4 && rig->shares[g->lease->tenant] < 2.6);
    assert_int_equal(leases_day_left(rig->f.leases, g->lease, today), 400);
    assert_int_equal(leases_check_requests(rig->f.leases, g->lease, &err), -1);
    assert_int_equal(err.status, STATUS_EXHAUSTED);
    assert_non_null(strstr(err.text, "\"bio\" has 2 requests"));
    leases_release(rig->f.leases, g);
    leases_release(rig->f.leases, g);
    assert_int_equal(leases_check_requests(rig->f.leases, g->lease, &err), 0);
    leases_release(rig->f.leases, g);

    leases_count_tokens(rig->f.leases, g->lease, today, 500); /* what runs may overshoot */
    assert_int_equal(leases_day_left(rig->f.leases, g->lease, today), 0);
    assert_int_equal(leases_day_refusal(rig->f.leases, g->lease, 5, &err), -1);
    assert_non_null(strstr(err.text, "1100 of its 1000 tokens of today"));
    /* Another day begins anew; what began on the day before is not of it. */
    assert_int_equal(leases_day_left(rig->f.leases, g->lease, ends), 1000);
    leases_count_tokens(rig->f.leases, g->lease, ends, 10);
    leases_count_tokens(rig->f.leases, g->lease, today, 300);
    assert_int_equal(leases_day_left(rig->f.leases, g->lease, ends), 990);
    assert_true(leases_day_left(rig->f.leases, g->lease, today) == UINT64_MAX);
    leases_count_tokens(rig->f.leases, g->lease, ends, -500); /* never below none */
    assert_int_equal(leases_day_left(rig->f.leases, g->lease, ends), 1000);

    rig->tenants[0].tokens_per_day = 0; /* SIGHUP */
    rig->tenants[0].share = 7;
    leases_reload_tenants(rig->f.leases);
    assert_true(leases_day_left(rig->f.leases, g->lease, ends) == UINT64_MAX);
    assert_true(rig->shares[g->lease->tenant] > 6.9);
}

static void todays_tokens_outlive_the_daemon(void **state)
{
    struct db_usage u = {.state = "open", .account = "bio", .cluster = "testing", .node = "n1"};
    struct error err;
    int64_t today = leases_today(NULL);

    (void)state;
    set_tenants();
    struct grant *g = open_step(12, 0, "alpha");
    identify_as_bio(g);
    u.lease = g->lease->row.id;
    for (int i = 0; i < 3; i++) {
        snprintf(u.request, sizeof(u.request), "r%d", i);
        u.prompt_tokens = 100;
        u.completion_tokens = i;
        u.start_us = i == 0 ? today - 1 : clock_wall_us(); /* the first: yesterday */
        assert_int_equal(db_open_usage(rig->db, &u, &err), 0);
    }
    int64_t id = g->row.id;
    rig_restart();
    set_tenants();
    struct grant *again = NULL;
    for (size_t i = 0; i < rig->f.leases->grant_count; i++)
        if (rig->f.leases->grant[i]->row.id == id)
            again = rig->f.leases->grant[i];
    assert_non_null(again);
    assert_int_equal(leases_day_left(rig->f.leases, again->lease, today), 1000 - 203);
}

static void a_down_engine_says_why(void **state)
{
    struct error err;

    (void)state;
    struct grant *g = open_step(12, 0, "alpha");
    strcpy(rig->instance_state, "down");
    strcpy(rig->failure, "killed by signal 9");
    assert_int_equal(leases_ready(rig->f.leases, g, ALPHA, &err), -1);
    assert_int_equal(err.status, STATUS_UNAVAILABLE);
    assert_non_null(strstr(err.text, "cpu is down (its engine: killed by signal 9)"));
}

/* --- the controller --------------------------------------------------------------------------- */

static void the_controller_identifies_a_lease(void **state)
{
    struct error err;
    uint32_t model;

    (void)state;
    rig_squeue("[ \"$4\" = 12 ] && echo 'mp|12|10|2|10_2|1000|bio|debug|1700000000|RUNNING'");
    struct grant *g = open_step(12, 0, "beta");
    assert_int_equal(leases_model(rig->f.leases, g, NULL, &model, &err), 0); /* not known: serves */
    rig_loop_until(&g->lease->identified, 3000);
    assert_int_equal(g->lease->identified, 1);
    assert_string_equal(g->lease->row.account, "bio");
    assert_string_equal(g->lease->row.partition, "debug");
    assert_int_equal(g->lease->row.job_start, 1700000000);
    assert_int_equal(g->lease->row.array_job, 10);
    assert_int_equal(g->lease->row.array_task, 2);
    assert_int_not_equal(g->lease->tenant, 0);
    assert_int_equal(leases_model(rig->f.leases, g, NULL, &model, &err), 0);
}

static void a_denied_account_is_named(void **state)
{
    struct error err;
    uint32_t model;
    struct slurm_job job = running(12, 100, "physics");

    (void)state;
    struct grant *g = open_step(12, 0, "beta,alpha");
    leases_apply(rig->f.leases, g->lease, &job);
    assert_int_equal(leases_model(rig->f.leases, g, NULL, &model, &err), -1);
    assert_int_equal(err.status, STATUS_DENIED);
    assert_non_null(strstr(err.text, "physics"));
    assert_int_equal(leases_model(rig->f.leases, g, "alpha", &model, &err), 0);
    struct lease_ask ask = step(12, 1, "beta");
    refuse(&ask, STATUS_DENIED, "physics");
    counts(1, 1);
}

static int copy(const struct db_usage *row, void *arg)
{
    *(struct db_usage *)arg = *row;
    return 0;
}

static void the_ledger_is_identified_later(void **state)
{
    struct slurm_job job = running(12, 100, "bio");
    struct db_usage u = {
        .job = 12, .uid = UID, .array_job = -1, .array_task = -1, .het_job = -1, .het_offset = -1};
    struct db_filter filter = {.uid = -1, .accounts = "bio"};
    struct error err;
    uint64_t used = 0;

    (void)state;
    struct grant *g = open_step(12, 0, "alpha");
    u.lease = g->lease->row.id;
    strcpy(u.state, "done");
    u.prompt_tokens = 7;
    u.completion_tokens = 5;
    u.start_us = u.end_us = 1000;
    assert_int_equal(db_open_usage(rig->db, &u, &err), 0);
    leases_apply(rig->f.leases, g->lease, &job);
    rig_loop(5);
    struct db_usage found = {0};
    assert_int_equal(db_each_usage(rig->db, &filter, copy, &found, &err), 0);
    assert_int_equal(found.row, u.row);
    assert_string_equal(found.partition, "debug");
    assert_int_equal(db_lease_used(rig->db, u.lease, &used, &err), 0);
    assert_int_equal(used, 12);
}

static void a_silent_controller_ends_nothing(void **state)
{
    (void)state;
    struct grant *g = open_step(12, 0, "alpha");
    rig_loop(500); /* squeue fails */
    counts(1, 1);
    assert_int_equal(g->lease->identified, 0);
    rig_squeue("echo 'mp|12|12|N/A|12|1000|bio|debug|1700000000|RUNNING'");
    rig_loop_until(&g->lease->identified, 6000); /* the next sweep */
    assert_string_equal(g->lease->row.account, "bio");
}

static void the_sweep_ends_leases_of_jobs_that_are_over(void **state)
{
    char key[LEASE_KEY_MAX];
    struct error err;

    (void)state;
    rig_squeue("echo 'mp|12|12|N/A|12|1000|bio|debug|100|RUNNING'\n"
               "echo 'mp|13|13|N/A|13|1000|bio|debug|100|RUNNING'\n"
               "echo 'mp|14|14|N/A|14|1000|bio|debug|100|RUNNING'");
    struct grant *over = open_step(12, 0, "alpha"), *gone = open_step(13, 0, "alpha"),
                 *stays = open_step(14, 0, "alpha");
    get_key(over, key);
    leases_hold(over); /* a request is in flight */
    rig_loop_until(&stays->lease->identified, 6000);
    rig_loop_until(&gone->lease->identified, 6000);
    assert_int_equal(stays->lease->identified, 1);
    counts(3, 3);
    rig_squeue("echo 'mp|12|12|N/A|12|1000|bio|debug|100|COMPLETED'\n"
               "echo 'mp|14|14|N/A|14|1000|bio|debug|100|RUNNING'");
    rig_loop_until(&over->ended, 6000);
    rig_loop(50);
    counts(1, 1);
    assert_int_equal(rig->grants_ended, 2);
    assert_null(leases_authenticate(rig->f.leases, key, UID, &err));
    assert_int_equal(err.status, STATUS_UNAUTHENTICATED);
    leases_release(rig->f.leases, over);
    leases_close(rig->f.leases, over); /* its connections close later than it ended */
    leases_close(rig->f.leases, gone);
    assert_false(stays->ended);
}

static void a_requeued_job_has_a_new_lease(void **state)
{
    struct slurm_job job = running(12, 100, "bio");
    struct lease_ask ask = step(12, 0, "alpha");
    struct error err;

    (void)state;
    ask.tokens = 50;
    struct grant *g = open_ask(&ask);
    leases_apply(rig->f.leases, g->lease, &job);
    assert_int_equal(leases_charge(rig->f.leases, g, 50, &err), 0);
    int64_t first = g->lease->row.id;
    leases_close(rig->f.leases, g);
    ask.tokens = 80;
    g = open_ask(&ask); /* the daemon cannot know yet */
    assert_int_equal(g->lease->row.id, first);
    job.start = 200;
    leases_apply(rig->f.leases, g->lease, &job);
    leases_reap(rig->f.leases);
    assert_int_not_equal(g->lease->row.id, first);
    assert_int_equal(g->lease->row.job_start, 200);
    assert_int_equal(leases_left(g), 80); /* the old run's tokens do not count */
    assert_false(g->ended);
    counts(1, 1);
    rig_restart();
    counts(1, 1);
}

static void a_pending_job_has_been_requeued(void **state)
{
    struct slurm_job job = running(12, 100, "bio");

    (void)state;
    struct grant *g = open_step(12, 0, "alpha");
    leases_apply(rig->f.leases, g->lease, &job);
    strcpy(job.state, "PENDING");
    job.ended = 1;
    leases_apply(rig->f.leases, g->lease, &job);
    assert_true(g->ended);
    counts(0, 0);
    leases_close(rig->f.leases, g);
}

static void another_uid_of_the_controller_ends_it(void **state)
{
    struct slurm_job job = running(12, 100, "bio");

    (void)state;
    struct grant *g = open_step(12, 0, "alpha");
    job.uid = UID + 1;
    leases_apply(rig->f.leases, g->lease, &job);
    assert_true(g->ended);
    counts(0, 0);
}

static void a_number_used_again_by_another_user(void **state)
{
    (void)state;
    struct grant *g = open_step(12, 0, "alpha");
    struct lease_ask ask = step(12, 0, "alpha");
    ask.uid = UID + 1;
    struct grant *other = open_ask(&ask);
    assert_true(g->ended);
    assert_ptr_not_equal(g, other);
    counts(1, 1);
}

/* --- restarts --------------------------------------------------------------------------------- */

static void grants_outlive_the_daemon(void **state)
{
    char key[LEASE_KEY_MAX];
    struct error err;
    struct slurm_job job = running(12, 100, "bio");
    struct lease_ask ask = step(12, 4, "gamma,alpha");
    uint32_t model;

    (void)state;
    ask.tokens = 1000;
    ask.slo = "strict";
    ask.wait_us = 5000000;
    struct grant *g = open_ask(&ask);
    leases_apply(rig->f.leases, g->lease, &job);
    struct db_usage u = {.lease = g->lease->row.id,
                         .job = 12,
                         .uid = UID,
                         .prompt_tokens = 30,
                         .completion_tokens = 12};
    strcpy(u.state, "done");
    rig_loop(5);
    assert_int_equal(db_open_usage(rig->db, &u, &err), 0);
    get_key(g, key);
    int64_t deadline = g->wait_deadline_us;

    rig_restart();
    counts(1, 1);
    g = leases_authenticate(rig->f.leases, key, UID, &err);
    assert_non_null(g);
    assert_int_equal(leases_left(g), 1000 - 42);
    assert_int_equal(g->ttft_us, 500000);
    assert_int_equal(g->wait_deadline_us, deadline);
    assert_int_equal(g->lease->identified, 1);
    assert_int_equal(leases_model(rig->f.leases, g, NULL, &model, &err), 0);
    assert_int_equal(model, GAMMA);

    /* The step's new connection finds it, and ends it when it closes. */
    struct grant *again = open_ask(&ask);
    assert_ptr_equal(again, g);
    leases_close(rig->f.leases, again);
    counts(1, 0);
    rig_restart();
    counts(1, 0);
    assert_null(leases_authenticate(rig->f.leases, key, UID, &err));
}

static void a_model_that_is_gone_ends_its_grant(void **state)
{
    (void)state;
    open_step(12, 0, "gamma");
    open_step(12, 1, "alpha");
    rig->config.model_count = 2;
    rig_restart();
    counts(1, 1);
}

static void local_leases_end_with_their_connection(void **state)
{
    char key[LEASE_KEY_MAX];
    struct error err;
    struct lease_ask ask = step(0, -1, "alpha");

    (void)state;
    ask.step_name = "local";
    struct grant *g = open_ask(&ask), *other = open_ask(&ask);
    assert_ptr_not_equal(g, other);
    assert_ptr_not_equal(g->lease, other->lease);
    assert_string_equal(g->lease->row.account, "local");
    assert_int_equal(g->lease->identified, 1);
    get_key(other, key);
    leases_close(rig->f.leases, g);
    counts(1, 1);
    rig_restart(); /* which breaks the other's connection */
    counts(0, 0);
    assert_null(leases_authenticate(rig->f.leases, key, UID, &err));
    ask.models = "beta"; /* account local is not on its list */
    refuse(&ask, STATUS_DENIED, "local");
    counts(0, 0);
}

static void without_a_controller(void **state)
{
    (void)state;
    rig->config.identity = IDENTITY_NONE;
    rig_restart();
    rig_squeue("echo 'mp|12|12|N/A|12|1000|bio|debug|100|COMPLETED'");
    struct grant *g = open_step(12, 0, "alpha"), *other = open_step(12, 1, "alpha");
    rig_loop(300);
    assert_string_equal(g->lease->row.account, "unknown");
    assert_int_equal(g->lease->identified, 1);
    leases_close(rig->f.leases, g);
    counts(1, 1);
    leases_close(rig->f.leases, other);
    counts(0, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_set_up, rig_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_key_opens_its_grant),
        TEST(without_a_key_the_grant_must_be_the_only_one),
        TEST(the_same_step_gets_the_same_key),
        TEST(wrong_asks_are_refused),
        TEST(what_can_never_run_is_refused_at_once),
        TEST(slo_classes_and_times),
        TEST(models_of_a_request),
        TEST(a_failed_write_is_reported),
        TEST(waiting_for_an_instance),
        TEST(the_first_budget_holds_and_can_only_fall),
        TEST(an_account_has_quotas_once_it_is_known),
        TEST(todays_tokens_outlive_the_daemon),
        TEST(a_down_engine_says_why),
        TEST(the_controller_identifies_a_lease),
        TEST(a_denied_account_is_named),
        TEST(the_ledger_is_identified_later),
        TEST(a_silent_controller_ends_nothing),
        TEST(the_sweep_ends_leases_of_jobs_that_are_over),
        TEST(a_requeued_job_has_a_new_lease),
        TEST(a_pending_job_has_been_requeued),
        TEST(another_uid_of_the_controller_ends_it),
        TEST(a_number_used_again_by_another_user),
        TEST(grants_outlive_the_daemon),
        TEST(a_model_that_is_gone_ends_its_grant),
        TEST(local_leases_end_with_their_connection),
        TEST(without_a_controller),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
