/* db_sums_test.c - measured costs come back, and what accounts used is summed */
#include "tests/unit/db_bench.h"

#include <stdio.h>

static int take_cost(const struct db_cost *c, void *arg)
{
    struct db_cost *to = arg;
    to[strcmp(c->device, "cpu") == 0] = *c;
    return 0;
}

static void test_costs_come_back(void **state)
{
    struct bench *b = *state;
    struct db_cost got[2];
    struct db_cost c = {.model = "m",
                        .device = "gpu",
                        .weight_bytes = 1ull << 40,
                        .prefill = 0.1,
                        .prefill_token = 0.2,
                        .prefill_square = 1e-12,
                        .decode = 0.3,
                        .decode_context = 4e-9,
                        .decode_row = 0.5,
                        .load = 6.5,
                        .kv_token = 0.7,
                        .step_samples = 8,
                        .prefill_samples = 9,
                        .load_samples = 10,
                        .step_error = 0.11,
                        .prefill_error = 0.12,
                        .load_error = 0.13,
                        .updated_us = 14};
    OK(db_put_cost(b->db, &c, &err));
    snprintf(c.device, sizeof c.device, "cpu");
    c.decode = 1;
    OK(db_put_cost(b->db, &c, &err));
    c.decode = 2;
    c.step_samples = 88;
    OK(db_put_cost(b->db, &c, &err)); /* in place of the last */
    reopen(b);
    OK(db_each_cost(b->db, take_cost, got, &err));
    assert_memory_equal(&got[1], &c, sizeof c);
    assert_true(got[0].decode > 0.29 && got[0].decode < 0.31);
    assert_string_equal(got[0].device, "gpu");
    assert_int_equal(got[0].step_samples, 8);
}

struct sums {
    int64_t physics, bio, others;
};

static int take_sum(const char *account, uint64_t tokens, void *arg)
{
    struct sums *s = arg;
    *(strcmp(account, "physics") == 0 ? &s->physics
      : strcmp(account, "bio") == 0   ? &s->bio
                                      : &s->others) += (int64_t)tokens;
    return 0;
}

static void test_accounts_are_summed(void **state)
{
    struct bench *b = *state;
    struct sums sums = {0};
    struct db_usage u = {.lease = new_lease(b->db, 1), .state = "open", .node = "n"};
    for (int i = 0; i < 6; i++) {
        snprintf(u.request, sizeof u.request, "r%d", i);
        snprintf(u.account, sizeof u.account, "%s", i % 2 ? "physics" : "bio");
        u.prompt_tokens = 10;
        u.completion_tokens = i;
        u.start_us = 1000 + i;
        OK(db_open_usage(b->db, &u, &err));
    }
    OK(db_each_account(b->db, 1002, take_sum, &sums, &err));
    assert_int_equal(sums.physics, 10 + 3 + 10 + 5);
    assert_int_equal(sums.bio, 10 + 2 + 10 + 4);
    assert_int_equal(sums.others, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_costs_come_back),
        TEST(test_accounts_are_summed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
