/*
 * sim_test.c - the simulator: closed forms against one step at a time, runs against figures worked
 * out by hand, bursts, traces
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/sim.h"

static const struct sim_class slo = {.ttft = 10000000000, .tbt = 100000000};

/* --- closed forms ----------------------------------------------------------------------------- */

static uint32_t draw(struct sim_random *r, uint32_t below)
{
    return (uint32_t)(sim_uniform(r) * below);
}

static struct sim_segment random_segment(struct sim_random *r)
{
    return (struct sim_segment){.start = draw(r, 2000000000),
                                .base = 1e6 + sim_uniform(r) * 2e8,
                                .slope = draw(r, 2) ? 0 : sim_uniform(r) * 1e6,
                                .steps = 1 + draw(r, 400)};
}

static void tokens_on_time_are_counted_exactly(void **state)
{
    struct sim_random r = sim_random_stream(7, 1);

    (void)state;
    for (int i = 0; i < 20000; i++) {
        struct sim_segment g = random_segment(&r);
        int64_t due = draw(&r, 2000000000) + (draw(&r, 3) ? 0 : -1000000000ll), tbt = 100000000;
        uint32_t count = 0;

        for (uint32_t k = 1; k <= g.steps; k++)
            count += sim_segment_end(&g, k) <= due + (int64_t)(k - 1) * tbt;
        assert_int_equal(sim_segment_on_time(&g, due, tbt), count);
    }
}

static void steps_end_where_they_end(void **state)
{
    struct sim_random r = sim_random_stream(7, 2);

    (void)state;
    for (int i = 0; i < 5000; i++) {
        struct sim_segment g = random_segment(&r);
        double t = (double)g.start;
        int64_t at = g.start + draw(&r, 2000000000);
        uint32_t k = 1;

        for (uint32_t step = 1; step <= g.steps; step++) {
            t += g.base + g.slope * (step - 1);
            assert_true(llabs(sim_segment_end(&g, step) - (int64_t)t) <= 2);
        }
        while (k < g.steps && sim_segment_end(&g, k) < at)
            k++;
        assert_int_equal(sim_segment_until(&g, at), k);
    }
}

/* The published measure, a token at a time. */
static double qos_by_token(const int64_t *times, size_t n, int64_t ttft, int64_t tbt)
{
    int64_t within = 0, zero = 0, last_kept = 0, target = ttft;

    for (size_t i = 0; i < n; i++, target += tbt) {
        if (times[i] - zero <= target) {
            last_kept = target;
        } else {
            within += last_kept;
            zero = times[i];
            last_kept = 0;
        }
    }
    within += target < times[n - 1] - zero ? target : times[n - 1] - zero;
    return (double)within / (double)times[n - 1];
}

static void the_published_measure_is_exact(void **state)
{
    struct sim_random r = sim_random_stream(7, 3);
    static int64_t times[8000];

    (void)state;
    for (int i = 0; i < 5000; i++) {
        struct sim_qos q = {.target = 1000000000};
        struct sim_segment first = {.start = draw(&r, 2000000000), .steps = 1};
        int64_t now = first.start;
        size_t n = 1;

        times[0] = now;
        sim_qos_add(&q, &first, 100000000);
        for (uint32_t parts = 1 + draw(&r, 6); parts > 0; parts--) {
            struct sim_segment g = random_segment(&r);

            g.start += now;
            for (uint32_t k = 1; k <= g.steps; k++)
                times[n++] = sim_segment_end(&g, k);
            now = times[n - 1];
            sim_qos_add(&q, &g, 100000000);
        }
        assert_true(fabs(sim_qos_share(&q, now) - qos_by_token(times, n, 1000000000, 100000000)) <
                    1e-9);
    }
}

static void draws_follow_their_laws(void **state)
{
    struct sim_random r = sim_random_stream(11, 1);
    double sum = 0, squares = 0, below = 0, mean = 0;
    int n = 200000;

    (void)state;
    for (int i = 0; i < n; i++) {
        double g = sim_gamma(&r, 0.25) * 4, x;

        sum += g;
        squares += g * g;
        x = sim_length(&r, "quantile:9,267,770,1400");
        below += x < 267;
        mean += x / n;
    }
    assert_true(fabs(sum / n - 1) < 0.03); /* mean 1, CV 2 */
    assert_true(fabs(sqrt(squares / n - 1) - 2) < 0.1);
    assert_true(fabs(below / n - 0.5) < 0.01 && fabs(mean - 303) < 5); /* as published */
    assert_int_equal(sim_law_check("lognormal:1", NULL), -1);
    assert_int_equal(sim_law_check("quantile:9,2,770,1400", NULL), -1);
    assert_int_equal(sim_law_check("fixed:nan", NULL), -1);
    assert_int_equal(sim_law_check("zeta:2", NULL), -1);
}

/* --- runs ------------------------------------------------------------------------------------- */

static struct cost_table costs_of(const char *text)
{
    struct cost_table t;
    struct error err;

    if (cost_table_parse(&t, text, "test", &err) != 0)
        fail_msg("%s", err.text);
    return t;
}

/* 10 ms a step, 100 ms a prompt of 1,000, 2 s a load. */
#define SIMPLE                                                                                     \
    "Device=d Memory=40e9 Link=5e9\n"                                                              \
    "Model=a Weights=10e9 KvToken=1e5 Context=40000 Prefill=0,1e-4,0 Decode=1e-2,0,0\n"            \
    "Model=b Weights=10e9 KvToken=1e5 Context=40000 Prefill=0,1e-4,0 Decode=1e-2,0,0\n"

static struct sim_fleet fleet(const char *scheduler, uint32_t devices)
{
    return (struct sim_fleet){
        .scheduler = scheduler, .devices = devices, .turn = 0.5, .starve = 60, .seed = 1};
}

static struct sim_trace trace_of(const char *text, const struct cost_table *costs)
{
    FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
    struct sim_trace t;
    struct error err;

    assert_non_null(file);
    if (sim_trace_read(&t, file, "test", costs, &slo, &err) != 0)
        fail_msg("%s", err.text);
    fclose(file);
    return t;
}

static struct sim_report run(const struct sim_trace *t, const struct sim_fleet *f,
                             const struct cost_table *costs)
{
    struct sim_report r;
    struct error err;

    if (sim_run(t, f, costs, &r, &err) != 0)
        fail_msg("%s: %s", f->scheduler, err.text);
    assert_int_equal(r.requests, t->count);
    return r;
}

static int near(double a, double b)
{
    return fabs(a - b) < 1e-6;
}

static const char *const policies[] = {"rr", "fcfs", "sjf", "aegaeon", "slack"};

/* One request: a load of 2 s, a prompt of 0.1 s, 100 steps. */
static void one_request_takes_what_it_costs(void **state)
{
    struct cost_table costs = costs_of(SIMPLE);
    struct sim_trace t =
        trace_of("arrival,model,tenant,input,output,class\n1,a,x,1000,101,\n", &costs);

    (void)state;
    for (int p = 0; p < 5; p++) {
        struct sim_fleet f = fleet(policies[p], 1);
        struct sim_report r = run(&t, &f, &costs);

        assert_true(near(r.ttft[0], 2.1));
        assert_true(near(r.tbt[0], 0.01));
        assert_true(near(r.makespan, 4.1));
        assert_true(near(r.step_seconds, 1.1));
        assert_int_equal(r.tokens, 101);
        assert_true(near(r.token_attainment, 1));
        assert_int_equal(r.loads, 1);
        sim_report_clear(&r);
    }
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

/* fcfs: b waits until a has ended, then loads; its tokens from 26 s on are due every 0.1 s. */
static void late_tokens_are_counted(void **state)
{
    struct cost_table costs = costs_of(SIMPLE);
    struct sim_trace t = trace_of("arrival,model,tenant,input,output,class\n"
                                  "0,a,x,1000,2001,\n0,b,y,1000,201,\n",
                                  &costs);
    struct sim_fleet f = fleet("fcfs", 1);
    struct sim_report r = run(&t, &f, &costs);
    uint32_t late = 1;

    (void)state;
    /* a: 2 + 0.1 + 20 s; b's first token at 22.1 + 2.002 + 0.1 (the hop is 0 here) */
    for (uint32_t k = 1; k <= 200; k++)
        late += 24.2 + 0.01 * k > 10 + 0.1 * k + 1e-9;
    assert_true(near(r.ttft[2], 24.2));
    assert_int_equal(r.on_time, 2001 + 201 - late);
    assert_true(near(r.tenants[0].seconds, 22.1));
    assert_true(near(r.tenants[1].seconds, 4.1)); /* with its load */
    sim_report_clear(&r);
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

/* slack: b comes behind a's turns, and both are on time. */
static void loads_hide_behind_turns(void **state)
{
    struct cost_table costs = costs_of(SIMPLE);
    struct sim_trace t = trace_of("arrival,model,tenant,input,output,class\n"
                                  "0,a,x,1000,2001,\n0,b,y,1000,201,\n",
                                  &costs);
    struct sim_fleet f = fleet("slack", 1);
    struct sim_report r = run(&t, &f, &costs);

    (void)state;
    assert_true(near(r.token_attainment, 1));
    assert_true(near(r.switch_seconds, 0)); /* the first load is waited for by nobody's turn */
    assert_true(near(r.makespan, 2 + 0.1 + 20 + 0.1 + 2));
    assert_int_equal(r.loads, 2);
    assert_int_equal(r.prefetch_hits, 2);
    sim_report_clear(&r);
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

static void the_same_seed_gives_the_same_report(void **state)
{
    struct cost_table costs = costs_of(SIMPLE);
    struct sim_workload w = {.models = 12,
                             .tenants = 3,
                             .rate = 0.2,
                             .duration = 60,
                             .cv = 3,
                             .arrivals = SIM_GAMMA,
                             .zipf = 1,
                             .diurnal = 0.5,
                             .day = 100,
                             .input = "lognormal:6.3,0.7",
                             .output = "exponential:200",
                             .input_scale = 1,
                             .output_scale = 1,
                             .seed = 5};

    (void)state;
    for (int p = 0; p < 5; p++) {
        struct sim_fleet f = fleet(policies[p], 4);
        struct sim_trace a, b;
        struct sim_report ra, rb;

        assert_int_equal(sim_synthesize(&a, &w, &costs, &slo, NULL), 0);
        assert_int_equal(sim_synthesize(&b, &w, &costs, &slo, NULL), 0);
        assert_true(a.count > 50);
        assert_memory_equal(a.requests, b.requests, a.count * sizeof *a.requests);
        ra = run(&a, &f, &costs);
        rb = run(&b, &f, &costs);
        free(ra.tenants);
        free(rb.tenants);
        ra.tenants = rb.tenants = NULL;
        assert_memory_equal(&ra, &rb, sizeof ra);
        sim_trace_clear(&a);
        sim_trace_clear(&b);
    }
    cost_table_clear(&costs);
}

/* --- bursts: nothing is stuck, everything is served ------------------------------------------- */

#define TIGHT                                                                                      \
    "Device=d Memory=24e9 Link=25e9\n"                                                             \
    "Model=a Weights=15e9 KvToken=2e5 Context=40000 Prefill=0,1e-4,1e-9 Decode=1e-2,1e-8,1e-5\n"   \
    "Model=b Weights=6e9 KvToken=8e5 Context=40000 Prefill=0,1e-4,1e-9 Decode=1e-2,1e-8,1e-5\n"

static void add(struct sim_trace *t, double at, uint32_t model, uint32_t tenant, uint32_t in,
                uint32_t out)
{
    struct sim_request r = {.arrival = (int64_t)(at * 1e9),
                            .model = model,
                            .tenant = tenant,
                            .input = in,
                            .output = out};

    assert_int_equal(sim_trace_add(t, &r, NULL), 0);
}

static struct sim_trace empty_trace(const struct cost_table *costs, uint32_t models)
{
    struct sim_workload w = {.models = models,
                             .tenants = 2,
                             .rate = 1e-9,
                             .duration = 1,
                             .input = "fixed:1",
                             .output = "fixed:1",
                             .input_scale = 1,
                             .output_scale = 1,
                             .seed = 1};
    struct sim_trace t;

    assert_int_equal(sim_synthesize(&t, &w, costs, &slo, NULL), 0);
    t.count = 0;
    return t;
}

static void run_all(const struct sim_trace *t, const struct cost_table *costs, uint32_t devices)
{
    for (int p = 0; p < 5; p++) {
        for (int prefetch = 0; prefetch < 3; prefetch++) {
            struct sim_fleet f = fleet(policies[p], devices);
            struct sim_report r;

            f.prefetch = (enum sim_prefetch)prefetch;
            r = run(t, &f, costs);
            assert_true(r.on_time <= r.tokens);
            assert_true(r.overcommitted <= 0);
            sim_report_clear(&r);
        }
    }
}

static void all_models_at_once(void **state)
{
    struct cost_table costs = costs_of(TIGHT);
    struct sim_trace t = empty_trace(&costs, 200);

    (void)state;
    for (uint32_t m = 0; m < 200; m++)
        add(&t, 1, m, m % 2, 500, 50);
    run_all(&t, &costs, 2);
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

static void one_tenant_floods(void **state)
{
    struct cost_table costs = costs_of(TIGHT);
    struct sim_trace t = empty_trace(&costs, 6);
    struct sim_fleet f = fleet("slack", 2);
    struct sim_report r;

    (void)state;
    for (uint32_t i = 0; i < 10000; i++)
        add(&t, 1, i % 4, 0, 100, 20);
    for (uint32_t i = 0; i < 20; i++)
        add(&t, 5 + 4 * i, 4 + i % 2, 1, 100, 100);
    r = run(&t, &f, &costs);
    /* who stays within his share keeps his SLO */
    assert_true(r.tenants[0].attainment < 0.5);
    assert_true(r.tenants[1].attainment > 0.99);
    sim_report_clear(&r);
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

static void a_long_prompt_and_full_memory(void **state)
{
    struct cost_table costs = costs_of(TIGHT);
    struct sim_trace t = empty_trace(&costs, 4);
    uint32_t b = t.models[0].kind == &costs.models[1] ? 0 : 1;

    (void)state;
    assert_true(t.models[b].kind->context < 40000); /* what fits beside its weights */
    add(&t, 0, b, 0, 1000, 500);
    add(&t, 0, b ^ 1, 0, 26000, 100);
    add(&t, 1, b, 1, 22000, 400); /* 18 GB of KV: the whole device */
    add(&t, 1, b, 1, 22000, 400);
    for (uint32_t i = 0; i < 60; i++)
        add(&t, 2 + 0.1 * i, i % 4, i % 2, 2000, 200);
    run_all(&t, &costs, 1);
    run_all(&t, &costs, 3);
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

static void what_cannot_be_promised_is_refused(void **state)
{
    struct cost_table costs = costs_of(SIMPLE);
    struct sim_trace t = empty_trace(&costs, 40);
    struct sim_fleet f = fleet("slack", 1);
    struct sim_report r;

    (void)state;
    for (uint32_t m = 0; m < 40; m++)
        add(&t, 0.001 * m, m, 0, 10, 300);
    f.admit = 1;
    r = run(&t, &f, &costs);
    assert_int_equal(r.refused, 31); /* each needs a tenth of the time, and 0.9 is promised */
    sim_report_clear(&r);
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

/* --- traces ----------------------------------------------------------------------------------- */

static void bad_traces_are_refused(void **state)
{
#define HEAD "arrival,model,tenant,input,output,class\n"
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"when,what\n", "the first line must be"},
        {HEAD, "has no requests"},
        {HEAD "1,a,x,5\n", "not the six fields"},
        {HEAD "1,a,x,5,6,,\n", "not the six fields"},
        {HEAD "x,a,x,5,6,\n", "test:2: arrival is no number"},
        {HEAD "-1,a,x,5,6,\n", "arrival is no number"},
        {HEAD "nan,a,x,5,6,\n", "arrival is no number"},
        {HEAD "1,z,x,5,6,\n", "the costs have no model \"z\""},
        {HEAD "1,a,x,0,6,\n", "input is no number"},
        {HEAD "1,a,x,5,1e99,\n", "output is no number"},
        {HEAD "1,a,x,5,6,fast\n", "TTFT:TBT or best-effort"},
        {HEAD "1,a,x,5,6,1s:\n", "TTFT:TBT or best-effort"},
        {HEAD "2,a,x,5,6,\n1,a,x,5,6,\n", "must not go back"},
    };
    struct cost_table costs = costs_of(SIMPLE);

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        FILE *file = fmemopen((void *)(uintptr_t)bad[i].text, strlen(bad[i].text), "r");
        struct sim_trace t;
        struct error err = {.text = ""};

        assert_int_equal(sim_trace_read(&t, file, "test", &costs, &slo, &err), -1);
        if (strstr(err.text, bad[i].says) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", err.text, bad[i].says);
        fclose(file);
    }
    cost_table_clear(&costs);
}

static void classes_and_names_are_kept(void **state)
{
    static const char text[] = HEAD "0.5,a#1,x,5,6,\n1,a#2,y,99999,99999,1s:50ms\n"
                                    "1,b,x,7,8,best-effort\n2.25,a#1,y,9,10,1s:50ms\n";
    struct cost_table costs = costs_of(SIMPLE);
    struct sim_trace t = trace_of(text, &costs);
    char *out = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&out, &len);

    (void)state;
    assert_int_equal(t.count, 4);
    assert_int_equal(t.model_count, 3);
    assert_int_equal(t.tenant_count, 2);
    assert_int_equal(t.class_count, 3);
    assert_true(t.classes[t.requests[1].class].tbt == 50000000);
    assert_true(t.classes[t.requests[2].class].ttft == 0);
    assert_int_equal(t.requests[1].input + t.requests[1].output, 40000); /* clipped */
    assert_int_equal(sim_trace_write(&t, file), 0);
    fclose(file);
    assert_non_null(strstr(out, "2.250000000,a#1,y,9,10,1s:50ms\n"));
    free(out);
    sim_trace_clear(&t);
    cost_table_clear(&costs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_on_time_are_counted_exactly),
        cmocka_unit_test(steps_end_where_they_end),
        cmocka_unit_test(the_published_measure_is_exact),
        cmocka_unit_test(draws_follow_their_laws),
        cmocka_unit_test(one_request_takes_what_it_costs),
        cmocka_unit_test(late_tokens_are_counted),
        cmocka_unit_test(loads_hide_behind_turns),
        cmocka_unit_test(the_same_seed_gives_the_same_report),
        cmocka_unit_test(all_models_at_once),
        cmocka_unit_test(one_tenant_floods),
        cmocka_unit_test(a_long_prompt_and_full_memory),
        cmocka_unit_test(what_cannot_be_promised_is_refused),
        cmocka_unit_test(bad_traces_are_refused),
        cmocka_unit_test(classes_and_names_are_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
