/* metrics_test.c - the text of /metrics */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/metrics.h"

static char *page(const struct metrics *m, const struct metrics_gauge *gauges,
                  const struct policy_snapshot *s)
{
    struct evbuffer *out = evbuffer_new();
    struct error err;

    const struct metrics_tenant tenants[] = {{.account = ""},
                                             {.account = "a\"b\\c",
                                              .number = 1,
                                              .requests = 3,
                                              .tokens_today = 12345678901,
                                              .tokens_per_day = 20000000000}};
    struct metrics_now now = {gauges, tenants, 2, s, 5000000};

    assert_int_equal(metrics_write(m, &now, out, &err), 0);
    size_t len = evbuffer_get_length(out);
    char *text = calloc(1, len + 1);
    evbuffer_remove(out, text, len);
    evbuffer_free(out);
    return text;
}

static void assert_line(const char *text, const char *line)
{
    char with_ends[256];

    snprintf(with_ends, sizeof with_ends, "\n%s\n", line);
    if (!strstr(text, with_ends))
        fail_msg("no line \"%s\" in:\n%s", line, text);
}

static void test_counts(void **state)
{
    struct config_model models[2] = {{.name = "a"}, {.name = "b"}};
    struct config_instance instances[2] = {{.name = "other"}, {.name = "cpu"}};
    struct config config = {
        .models = models, .model_count = 2, .instances = instances, .instance_count = 2};
    struct metrics *m = metrics_create(&config, NULL);
    struct metrics_gauge gauges[2] = {{3, 1, 1}, {0, 0, 0}};
    struct policy_instance_status in = {.index = 1,
                                        .state = "running",
                                        .memory_bytes = 4096,
                                        .turns = 5,
                                        .switches = 2,
                                        .switch_us = 1500000,
                                        .promised = 0.25};
    struct policy_model_status on[2] = {{.resident = 1,
                                         .kv_pages_used = 1,
                                         .kv_pages_total = 4,
                                         .since_us = 3000000,
                                         .due_us = 4500000,
                                         .cost_samples = {9, 0, 1},
                                         .cost_error = {0.125, 0, 0.5}},
                                        {.resident = 0, .due_us = INT64_MAX}};
    struct policy_tenant_status tenants[2] = {{1, 0.5}, {2.5, 7.25}};
    struct policy_snapshot s = {
        .instances = 1, .models = 2, .instance = &in, .model = on, .tenants = 2, .tenant = tenants};

    (void)state;
    metrics_prompt(m, 0, 10);
    metrics_cached(m, 0, 7);
    metrics_first_token(m, 0, 30000);
    metrics_next_token(m, 0, 12000);
    metrics_next_token(m, 0, 99000000);
    metrics_end(m, 0, METRICS_STOP, 5000000);
    metrics_end(m, 0, METRICS_ABORT, 1);
    metrics_answer(m, 200);
    metrics_answer(m, 429);
    metrics_refuse(m, METRICS_ADMISSION);
    char *t = page(m, gauges, &s);
    assert_line(t, "vllm:num_requests_running{model_name=\"a\"} 3");
    assert_line(t, "vllm:num_requests_waiting{model_name=\"a\"} 1");
    assert_line(t, "vllm:prompt_tokens_total{model_name=\"a\"} 10");
    assert_line(t, "vllm:prefix_cache_hits_total{model_name=\"a\"} 7");
    assert_line(t, "vllm:generation_tokens_total{model_name=\"a\"} 3");
    assert_line(t, "vllm:generation_tokens_total{model_name=\"b\"} 0");
    assert_line(t, "vllm:request_success_total{model_name=\"a\",finished_reason=\"stop\"} 1");
    assert_line(t, "vllm:request_success_total{model_name=\"a\",finished_reason=\"abort\"} 1");
    assert_line(t, "vllm:time_to_first_token_seconds_bucket{model_name=\"a\",le=\"0.02\"} 0");
    assert_line(t, "vllm:time_to_first_token_seconds_bucket{model_name=\"a\",le=\"0.04\"} 1");
    assert_line(t, "vllm:time_to_first_token_seconds_count{model_name=\"a\"} 1");
    assert_line(t, "vllm:inter_token_latency_seconds_bucket{model_name=\"a\",le=\"20\"} 1");
    assert_line(t, "vllm:inter_token_latency_seconds_bucket{model_name=\"a\",le=\"+Inf\"} 2");
    assert_line(t, "vllm:inter_token_latency_seconds_sum{model_name=\"a\"} 99.012000");
    assert_line(t, "vllm:e2e_request_latency_seconds_count{model_name=\"a\"} 2");
    assert_line(t, "vllm:kv_cache_usage_perc{model_name=\"a\"} 0.250000");
    assert_line(t, "modelpool_turns_total{instance=\"cpu\"} 5");
    assert_line(t, "modelpool_switches_total{instance=\"cpu\"} 2");
    assert_line(t, "modelpool_switch_seconds_total{instance=\"cpu\"} 1.500000");
    assert_line(t, "modelpool_memory_bytes{instance=\"cpu\"} 4096");
    assert_line(t, "modelpool_instance_up{instance=\"cpu\"} 1");
    assert_line(t, "modelpool_model_resident{model_name=\"a\",instance=\"cpu\"} 1");
    assert_line(t, "modelpool_model_resident{model_name=\"b\",instance=\"cpu\"} 0");
    assert_line(t, "modelpool_http_answers_total{class=\"4xx\"} 1");
    assert_line(t, "modelpool_refused_total{reason=\"admission\"} 1");
    assert_line(t, "modelpool_refused_total{reason=\"tokens_per_day\"} 0");
    assert_line(t, "modelpool_admission_queue{model_name=\"a\"} 1");
    assert_line(t, "modelpool_promised_ratio{instance=\"cpu\"} 0.250000");
    assert_line(t, "modelpool_oldest_wait_seconds{model_name=\"a\",instance=\"cpu\"} 2.000000");
    assert_line(t, "modelpool_slack_seconds{model_name=\"a\",instance=\"cpu\"} -0.500000");
    assert_null(strstr(t, "modelpool_slack_seconds{model_name=\"b\""));
    assert_line(t, "modelpool_cost_error_ratio{model_name=\"a\",instance=\"cpu\",kind=\"step\"} "
                   "0.125000");
    assert_null(strstr(t, "kind=\"prefill\"}"));
    assert_line(t, "modelpool_tenant_gpu_seconds_total{account=\"\"} 0.5");
    assert_line(t, "modelpool_tenant_gpu_seconds_total{account=\"a\\\"b\\\\c\"} 7.25");
    assert_line(t, "modelpool_tenant_share{account=\"a\\\"b\\\\c\"} 2.5");
    assert_line(t, "modelpool_tenant_requests{account=\"a\\\"b\\\\c\"} 3");
    assert_line(t, "modelpool_tenant_tokens_today{account=\"a\\\"b\\\\c\"} 12345678901");
    assert_line(t, "modelpool_tenant_tokens_per_day{account=\"a\\\"b\\\\c\"} 20000000000");
    assert_null(strstr(t, "modelpool_tenant_tokens_per_day{account=\"\"}"));
    free(t);
    metrics_destroy(m);
}

static void test_no_engine_yet(void **state)
{
    struct config_model model = {.name = "a"};
    struct config config = {.models = &model, .model_count = 1};
    struct metrics *m = metrics_create(&config, NULL);
    struct metrics_gauge gauge = {0, 0, 0};
    struct policy_snapshot s = {0};

    (void)state;
    char *t = page(m, &gauge, &s);
    assert_line(t, "vllm:num_requests_running{model_name=\"a\"} 0");
    assert_null(strstr(t, "instance=\""));
    free(t);
    metrics_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_no_engine_yet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
