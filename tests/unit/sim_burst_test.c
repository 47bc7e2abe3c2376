/*
 * sim_burst_test.c - the simulator under bursts, with a host memory that has bounds, and against
 * its own figures: nothing is stuck, nobody waits beyond the stated bound, and the bills add up
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/sim_command.h"

static const struct sim_class slo = {.ttft = 10000000000, .tbt = 100000000};

static struct cost_table h800(void)
{
    static char text[65536];
    FILE *file = fopen(SRCDIR "/etc/costs/h800.conf", "re");
    struct cost_table t;
    struct error err;

    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    if (cost_table_parse(&t, text, "h800.conf", &err) != 0)
        fail_msg("%s", err.text);
    return t;
}

static struct sim_workload workload(uint32_t models, double duration)
{
    return (struct sim_workload){.models = models,
                                 .tenants = 1,
                                 .rate = 0.1,
                                 .duration = duration,
                                 .day = 86400,
                                 .input = "lognormal:6.30,0.735",
                                 .output = "quantile:9,267,770,1400",
                                 .input_scale = 1,
                                 .output_scale = 1,
                                 .seed = 1};
}

static struct sim_fleet fleet(const char *scheduler, uint32_t devices)
{
    return (struct sim_fleet){.scheduler = scheduler,
                              .devices = devices,
                              .node_devices = 8,
                              .hop = 0.002,
                              .turn = 0.5,
                              .starve = 60,
                              .seed = 1};
}

static const char *const policies[] = {"rr", "fcfs", "sjf", "aegaeon", "slack"};

/* Who had the steps and the switches: everybody's seconds are all there were. */
static void check_bills(const struct sim_report *r)
{
    double seconds = 0, switches = 0;

    for (uint32_t i = 0; i < r->tenant_count; i++) {
        assert_true(r->tenants[i].switch_seconds <= r->tenants[i].seconds + 1e-9);
        seconds += r->tenants[i].seconds;
        switches += r->tenants[i].switch_seconds;
    }
    /* turns are told in whole microseconds */
    assert_true(fabs(seconds - r->step_seconds - r->switch_seconds) < 1e-6 * (double)r->turns * 2);
    assert_true(fabs(switches - r->switch_seconds) < 1e-6 * (double)r->turns * 2);
}

static struct sim_report run(const struct sim_trace *t, const struct sim_fleet *f,
                             const struct cost_table *costs)
{
    struct sim_report r;
    struct error err;

    if (sim_run(t, f, costs, &r, &err) != 0) /* so it says, too, if nothing happens any more */
        fail_msg("%s: %s", f->scheduler, err.text);
    assert_int_equal(r.requests, t->count);
    assert_true(r.overcommitted <= 0);
    if (strcmp(f->scheduler, "slack") == 0)
        assert_true(r.longest_wait <= sim_wait_bound(&r, f));
    check_bills(&r);
    return r;
}

static struct sim_trace burst_on(const struct sim_workload *w, const char *names,
                                 const struct cost_table *costs)
{
    struct sim_trace t;
    struct error err;

    assert_int_equal(sim_synthesize(&t, w, costs, &slo, &err), 0);
    if (sim_burst(&t, names, w, costs, &err) != 0)
        fail_msg("%s", err.text);
    for (size_t i = 1; i < t.count; i++)
        assert_true(t.requests[i - 1].arrival <= t.requests[i].arrival);
    return t;
}

/* --- bursts on the published load ------------------------------------------------------------- */

/* With 70 models on 16 devices, and bytes over the link for a switch. */
static struct sim_report burst(const char *name, const char *scheduler)
{
    struct cost_table costs = h800();
    struct sim_workload w = workload(70, 60);
    struct sim_trace t;
    struct sim_fleet f = fleet(scheduler, 16);
    struct sim_report r;

    for (size_t i = 0; i < costs.model_count; i++)
        costs.models[i].cost.load = costs.models[i].weight_bytes / costs.link;
    t = burst_on(&w, name, &costs);
    r = run(&t, &f, &costs);
    assert_int_equal(r.tenant_count, 2);
    assert_string_equal(t.tenants[1], name);
    sim_trace_clear(&t);
    cost_table_clear(&costs);
    return r;
}

static void all_models_at_once(void **state)
{
    struct sim_report r = burst("models", "slack");

    (void)state;
    assert_int_equal(r.tenants[1].requests, 70);
    assert_true(r.token_attainment > 0.999);
    assert_true(r.ttft[2] < 5);
    assert_true(r.tenants[1].seconds > 30);
    sim_report_clear(&r);
}

/* 10,000 requests to a tenth of the models use all devices, and who floods pays most. */
static void one_tenant_floods(void **state)
{
    struct sim_report r = burst("flood", "slack");

    (void)state;
    assert_int_equal(r.tenants[1].requests, 10000);
    assert_true(r.makespan < 600); /* one device for each of the seven took an hour */
    assert_true(r.tenants[1].seconds > 2 * r.tenants[0].seconds);
    assert_true(r.tenants[1].switch_seconds > r.tenants[0].switch_seconds);
    assert_true(r.tenants[0].attainment > 0.8);
    assert_true(r.tenants[1].attainment < r.tenants[0].attainment);
    sim_report_clear(&r);
}

static void long_prompts_come(void **state)
{
    struct sim_report r = burst("prompts", "slack");

    (void)state;
    assert_int_equal(r.tenants[1].requests, 10);
    assert_int_equal(r.tenants[1].tokens, 2000);
    assert_true(r.tenants[1].ttft_p99 < 10);
    assert_true(r.token_attainment > 0.999);
    assert_true(r.tenants[1].seconds > 10 * 0.9); /* each prompt alone takes 0.92 s */
    sim_report_clear(&r);
}

static void a_model_fills_the_card(void **state)
{
    struct sim_report r = burst("kv", "slack");

    (void)state;
    assert_int_equal(r.tenants[1].requests, 28); /* of 3.4 GB, beside 26 GB of 72 */
    assert_true(r.spills > 0);
    assert_true(r.tenants[1].switch_seconds > r.tenants[0].switch_seconds); /* its KV's way */
    assert_true(r.tenants[0].attainment > 0.9);
    sim_report_clear(&r);
}

static void no_policy_is_stuck(void **state)
{
    static const char *const names[] = {"models", "flood", "prompts", "kv"};

    (void)state;
    for (int p = 0; p < 5; p++) {
        for (int b = 0; b < 4; b++) {
            struct sim_report r = burst(names[b], policies[p]);

            sim_report_clear(&r);
        }
    }
}

static void prefill_devices_have_bills_too(void **state)
{
    struct cost_table costs = h800();
    struct sim_workload w = workload(40, 30);
    struct sim_trace t = burst_on(&w, "models,prompts", &costs);
    struct sim_fleet f = fleet("aegaeon", 16);
    struct sim_report r;

    (void)state;
    f.prefill = 6;
    f.decode = 10;
    f.prefetch = SIM_HALF;
    r = run(&t, &f, &costs);
    sim_report_clear(&r);
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

static void bursts_are_known_by_name(void **state)
{
    struct cost_table costs = h800();
    struct sim_workload w = workload(2, 10);
    struct sim_trace t;
    struct error err;

    (void)state;
    assert_int_equal(sim_burst_check("models,flood,prompts,kv", &err), 0);
    assert_int_equal(sim_burst_check("models,hail", &err), -1);
    assert_non_null(strstr(err.text, "\"hail\"; there are models, flood, prompts, kv"));
    for (size_t i = 0; i < costs.model_count; i++)
        costs.models[i].context = 4096;
    assert_int_equal(sim_synthesize(&t, &w, &costs, &slo, &err), 0);
    assert_int_equal(sim_burst(&t, "prompts", &w, &costs, &err), -1);
    assert_non_null(strstr(err.text, "no model has a Context= above 26000"));
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

/* --- the bound, over random loads on tight devices -------------------------------------------- */

static uint32_t draw(struct sim_random *r, uint32_t below)
{
    return (uint32_t)(sim_uniform(r) * below);
}

static void nobody_waits_beyond_the_bound(void **state)
{
    static const char *const names[] = {"models", "prompts", "kv", "models,kv"};
    struct sim_random r = sim_random_stream(5, 5);

    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct cost_table costs = h800();
        struct sim_workload w = workload(5 + draw(&r, 80), 20 + draw(&r, 20));
        struct sim_fleet f = fleet("slack", 1 + draw(&r, 8));
        struct sim_trace t;
        struct sim_report report;

        w.seed = seed;
        w.tenants = 1 + draw(&r, 3);
        f.starve = 3 + draw(&r, 20);
        f.prefetch = draw(&r, 3) > 0 ? SIM_BEHIND : SIM_NONE;
        f.host_memory = draw(&r, 2) ? 0 : 60e9 + 1e11 * draw(&r, 10);
        t = burst_on(&w, names[draw(&r, 4)], &costs);
        report = run(&t, &f, &costs);
        if (f.host_memory > 0)
            assert_int_equal(report.host_hits + report.host_waits + report.disk_loads,
                             report.loads);
        else
            assert_int_equal(report.disk_loads, 0);
        sim_report_clear(&report);
        sim_trace_clear(&t);
        cost_table_clear(&costs);
    }
}

/* --- the host tier, by hand ------------------------------------------------------------------- */

/* A load of 2 s from the host, of 5 s from disk before that; a device has room for one model. */
#define TIERS                                                                                      \
    "Device=d Memory=12e9 Link=5e9 Disk=2e9\n"                                                     \
    "Model=a Weights=10e9 KvToken=1e5 Context=4000 Prefill=0,1e-4,0 Decode=1e-2,0,0\n"             \
    "Model=b Weights=10e9 KvToken=1e5 Context=4000 Prefill=0,1e-4,0 Decode=1e-2,0,0\n"             \
    "Model=c Weights=10e9 KvToken=1e5 Context=4000 Prefill=0,1e-4,0 Decode=1e-2,0,0\n"
#define HEAD "arrival,model,tenant,input,output,class\n"

static struct sim_report run_tiers(const char *text, uint32_t devices, uint32_t node, double host)
{
    FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
    struct sim_fleet f = fleet("rr", devices);
    struct cost_table costs;
    struct sim_trace t;
    struct sim_report r;

    assert_int_equal(cost_table_parse(&costs, TIERS, "test", NULL), 0);
    assert_non_null(file);
    assert_int_equal(sim_trace_read(&t, file, "test", &costs, &slo, NULL), 0);
    fclose(file);
    f.hop = 0;
    f.node_devices = node;
    f.host_memory = host;
    r = run(&t, &f, &costs);
    sim_trace_clear(&t);
    cost_table_clear(&costs);
    return r;
}

static int near(double a, double b)
{
    return fabs(a - b) < 1e-6;
}

static void models_come_from_disk_by_way_of_the_host(void **state)
{
    static const char turns[] = HEAD "0,a,x,1000,101,\n20,b,y,1000,101,\n40,a,z,1000,101,\n";
    static const double hosts[] = {0, 20e9, 10e9, 5e9};
    static const double ttft[][3] = {
        {2.1, 2.1, 2.1}, {7.1, 7.1, 2.1}, {7.1, 7.1, 7.1}, {7.1, 7.1, 7.1}};
    static const uint64_t disk[] = {0, 2, 3, 3}, hits[] = {0, 1, 0, 0}, gone[] = {0, 0, 2, 0};

    (void)state;
    for (int h = 0; h < 4; h++) {
        struct sim_report r = run_tiers(turns, 1, 1, hosts[h]);

        for (int i = 0; i < 3; i++) {
            assert_true(near(r.tenants[i].ttft_p99, ttft[h][i]));
            assert_true(near(r.tenants[i].switch_seconds, ttft[h][i] - 0.1)); /* who caused it */
        }
        assert_int_equal(r.loads, 3);
        assert_int_equal(r.disk_loads, disk[h]);
        assert_int_equal(r.host_hits, hits[h]);
        assert_int_equal(r.host_evictions, gone[h]);
        assert_true(near(r.disk_bytes, 10e9 * (double)disk[h]));
        sim_report_clear(&r);
    }
}

/* Room for two: c takes the place of b, not of a, which was loaded first, and again since. */
static void the_least_recently_used_goes(void **state)
{
    static const char turns[] =
        HEAD "0,a,x,1000,101,\n20,b,x,1000,101,\n40,a,x,1000,101,\n60,c,x,1000,101,\n"
             "80,a,y,1000,101,\n100,b,z,1000,101,\n";
    struct sim_report r = run_tiers(turns, 1, 1, 20e9);

    (void)state;
    assert_int_equal(r.disk_loads, 4);
    assert_int_equal(r.host_hits, 2);
    assert_int_equal(r.host_evictions, 2);
    assert_true(near(r.tenants[1].ttft_p99, 2.1));
    assert_true(near(r.tenants[2].ttft_p99, 7.1));
    sim_report_clear(&r);
}

/* Room for one, and two come at once: the first is being read, so the second passes through. */
static void what_is_being_read_stays(void **state)
{
    struct sim_report r = run_tiers(HEAD "0,a,x,1000,101,\n0,b,y,1000,101,\n", 2, 2, 10e9);

    (void)state;
    assert_int_equal(r.disk_loads, 2);
    assert_int_equal(r.host_evictions, 0);
    sim_report_clear(&r);
}

static void a_node_has_one_disk(void **state)
{
    static const char both[] = HEAD "0,a,x,1000,101,\n0,b,y,1000,101,\n";
    struct sim_report one = run_tiers(both, 2, 2, 40e9), two = run_tiers(both, 2, 1, 40e9);

    (void)state;
    assert_true(near(one.tenants[0].ttft_p99, 7.1));
    assert_true(near(one.tenants[1].ttft_p99, 12.1)); /* read behind the other */
    assert_true(near(two.tenants[0].ttft_p99, 7.1));
    assert_true(near(two.tenants[1].ttft_p99, 7.1));
    sim_report_clear(&one);
    sim_report_clear(&two);
}

/* b was read for device 0; the next request to it, when both devices are idle, goes to a device of
 * that node, although another one has had less to do. */
static void arrivals_go_where_the_host_has_the_model(void **state)
{
    static const char back[] =
        HEAD "0,b,x,1000,101,\n20,a,x,1000,101,\n20.001,a,x,1000,101,\n40,b,y,1000,101,\n";
    struct sim_report r = run_tiers(back, 2, 1, 20e9);

    (void)state;
    assert_true(near(r.tenants[1].ttft_p99, 0.1) || near(r.tenants[1].ttft_p99, 2.1));
    assert_int_equal(r.disk_loads, 2);
    sim_report_clear(&r);
}

static void a_host_memory_needs_a_disk(void **state)
{
    struct cost_table costs = h800();
    struct sim_workload w = workload(2, 30);
    struct sim_fleet f = fleet("slack", 1);
    struct sim_trace t;
    struct sim_report r;
    struct error err;

    (void)state;
    assert_int_equal(sim_synthesize(&t, &w, &costs, &slo, &err), 0);
    costs.disk = 0;
    f.host_memory = 1e11;
    assert_int_equal(sim_run(&t, &f, &costs, &r, &err), -1);
    assert_non_null(strstr(err.text, "have no Disk=BYTES_PER_S"));
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

/* --- figures that must not move --------------------------------------------------------------- */

/* A short case of the published load.  Lengths come through libm, hence the tolerances. */
static void figures_are_as_they_were(void **state)
{
    static const struct {
        const char *scheduler;
        uint32_t models;
        double attainment, turns, loads, steps;
    } was[] = {
        {"rr", 70, 0.792276954, 2101, 481, 897.06},
        {"fcfs", 70, 0.632065151, 337, 333, 1271.02},
        {"aegaeon", 70, 0.67306582, 1131, 436, 834.78},
        {"slack", 70, 1, 3104, 143, 1039.26},
        {"slack", 180, 0.891781939, 4423, 983, 1785.89},
    };
    struct cost_table costs = h800();

    (void)state;
    for (size_t i = 0; i < sizeof was / sizeof was[0]; i++) {
        struct sim_workload w = workload(was[i].models, 60);
        struct sim_fleet f = fleet(was[i].scheduler, 16);
        struct sim_trace t;
        struct sim_report r;

        w.tenants = 2;
        assert_int_equal(sim_synthesize(&t, &w, &costs, &slo, NULL), 0);
        r = run(&t, &f, &costs);
        assert_true(fabs(r.token_attainment - was[i].attainment) < 0.005);
        assert_true(fabs((double)r.turns / was[i].turns - 1) < 0.02);
        assert_true(fabs((double)r.loads / was[i].loads - 1) < 0.02);
        assert_true(fabs(r.step_seconds / was[i].steps - 1) < 0.02);
        sim_report_clear(&r);
        sim_trace_clear(&t);
    }
    cost_table_clear(&costs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_models_at_once),
        cmocka_unit_test(one_tenant_floods),
        cmocka_unit_test(long_prompts_come),
        cmocka_unit_test(a_model_fills_the_card),
        cmocka_unit_test(no_policy_is_stuck),
        cmocka_unit_test(prefill_devices_have_bills_too),
        cmocka_unit_test(bursts_are_known_by_name),
        cmocka_unit_test(nobody_waits_beyond_the_bound),
        cmocka_unit_test(models_come_from_disk_by_way_of_the_host),
        cmocka_unit_test(the_least_recently_used_goes),
        cmocka_unit_test(what_is_being_read_stays),
        cmocka_unit_test(a_node_has_one_disk),
        cmocka_unit_test(arrivals_go_where_the_host_has_the_model),
        cmocka_unit_test(a_host_memory_needs_a_disk),
        cmocka_unit_test(figures_are_as_they_were),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
