/* The plugin's arguments and options, with Slurm's side of the calls played by this file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "plugin/args.h"
#include "plugin/options.h"

/* --- Slurm's side ----------------------------------------------------------------------------- */

static struct spank_option *registered[8];
static int registered_count;
static const char *environment[4][2];

spank_err_t spank_option_register(spank_t sp, struct spank_option *opt)
{
    (void)sp;
    if (registered_count == 8)
        return ESPANK_NOSPACE;
    registered[registered_count++] = opt;
    return ESPANK_SUCCESS;
}

spank_err_t spank_getenv(spank_t sp, const char *var, char *buf, int len)
{
    (void)sp;
    for (size_t i = 0; i < 4; i++)
        if (environment[i][0] && strcmp(environment[i][0], var) == 0)
            return snprintf(buf, (size_t)len, "%s", environment[i][1]) < len ? ESPANK_SUCCESS
                                                                             : ESPANK_NOSPACE;
    return ESPANK_ENV_NOEXIST;
}

static void give(const char *name, const char *value)
{
    for (int i = 0; i < registered_count; i++)
        if (strcmp(registered[i]->name, name) == 0) {
            assert_int_equal(registered[i]->cb(registered[i]->val, value, 1), 0);
            return;
        }
    fail_msg("no option --%s", name);
}

static int setup(void **state)
{
    (void)state;
    registered_count = 0;
    memset(environment, 0, sizeof environment);
    options_forget();
    return options_register(NULL) == ESPANK_SUCCESS ? 0 : -1;
}

/* --- arguments -------------------------------------------------------------------------------- */

static void args_defaults_and_values(void **state)
{
    (void)state;
    struct args args;
    struct error err;
    assert_int_equal(args_parse(&args, 0, NULL, &err), 0);
    assert_string_equal(args.socket, RUNSTATEDIR "/modelpool/control.sock");
    assert_string_equal(args.config, "");
    char *words[] = {"config=/etc/m.conf", "socket=/run/x"};
    assert_int_equal(args_parse(&args, 2, words, &err), 0);
    assert_string_equal(args.socket, "/run/x");
    assert_string_equal(args.config, "/etc/m.conf");
}

static void args_refusals_change_nothing(void **state)
{
    (void)state;
    char longer[ARGS_PATH_MAX + 16] = "socket=/";
    memset(longer + 8, 'a', sizeof longer - 9);
    longer[sizeof longer - 1] = '\0';
    char *cases[][2] = {{"socket=relative", "absolute"}, {"sock=/x", "unknown argument sock=/x"},
                        {"socket", "unknown argument"},  {"", "unknown argument"},
                        {"socket=", "absolute"},         {longer, "too long"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct args args = {.socket = "/before"};
        struct error err;
        assert_int_equal(args_parse(&args, 1, cases[i], &err), -1);
        assert_non_null(strstr(err.text, cases[i][1]));
        assert_string_equal(args.socket, "/before");
    }
}

/* --- options ---------------------------------------------------------------------------------- */

static void options_are_four_and_described(void **state)
{
    (void)state;
    static const char *const names[] = {"model", "model-slo", "model-tokens", "model-wait"};
    assert_int_equal(registered_count, 4);
    for (int i = 0; i < 4; i++) {
        assert_string_equal(registered[i]->name, names[i]);
        assert_int_equal(registered[i]->has_arg, 1);
        assert_true(strlen(registered[i]->usage) > 10);
    }
    assert_false(options_given());
}

static void options_last_value_counts(void **state)
{
    (void)state;
    struct request request;
    struct error err;
    give("model", "job");
    give("model", "step");
    give("model", "step");
    give("model-wait", "90s");
    give("model-wait", "0.5");
    assert_true(options_given());
    assert_int_equal(options_check(&request, &err), 0);
    assert_string_equal(request.models, "step");
    assert_null(request.slo);
    assert_true(request.tokens == 0 && request.wait == 1); /* seconds, rounded up */
}

static void options_all_values(void **state)
{
    (void)state;
    struct request request;
    struct error err;
    give("model", "a,b-1.5,C_2");
    give("model-slo", "ttft:200ms,tbt:50ms");
    give("model-tokens", "9223372036854775807");
    give("model-wait", "1h");
    assert_int_equal(options_check(&request, &err), 0);
    assert_string_equal(request.models, "a,b-1.5,C_2");
    assert_string_equal(request.slo, "ttft:200ms,tbt:50ms");
    assert_true(request.tokens == INT64_MAX && request.wait == 3600);
}

static void options_refusals_name_the_option(void **state)
{
    (void)state;
    char many[64] = "", longer[4096];
    for (int i = 0; i < 17; i++)
        snprintf(many + 2 * i, 3, "%c,", 'a' + i);
    many[33] = '\0';
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    const char *cases[][3] = {
        {"model", "", "--model"},          {"model", "a,,b", "--model"},
        {"model", "a/b", "--model"},       {"model", many, "at most 16"},
        {"model", longer, "--model: the"}, {"model-slo", "ttft:nan,tbt:1", "--model-slo"},
        {"model-slo", "", "--model-slo"},  {"model-tokens", "", "--model-tokens"},
        {"model-tokens", "0", "above"},    {"model-tokens", "9223372036854775808", "above"},
        {"model-tokens", " 5", "above"},   {"model-wait", "-1", "--model-wait"},
        {"model-wait", "inf", "--model"},  {"model-wait", "1d", "--model-wait"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct request request = {.tokens = 42};
        struct error err;
        options_forget();
        give("model", "tiny");
        give(cases[i][0], cases[i][1]);
        assert_int_equal(options_check(&request, &err), -1);
        assert_int_equal(err.status, STATUS_INVALID);
        if (!strstr(err.text, cases[i][2]))
            fail_msg("--%s=%.20s says: %s", cases[i][0], cases[i][1], err.text);
        assert_true(request.tokens == 42);
    }
}

static void options_need_a_model(void **state)
{
    (void)state;
    struct request request;
    struct error err;
    give("model-tokens", "5");
    assert_int_equal(options_check(&request, &err), -1);
    assert_non_null(strstr(err.text, "--model-tokens needs --model"));
}

static void options_come_from_the_environment_if_none_did(void **state)
{
    (void)state;
    struct request request;
    struct error err;
    environment[0][0] = "SLURM_SPANK__SLURM_SPANK_OPTION_modelpool_model";
    environment[0][1] = "env";
    environment[1][0] = "SLURM_SPANK__SLURM_SPANK_OPTION_modelpool_model_tokens";
    environment[1][1] = "7";
    options_from_environment(NULL);
    assert_int_equal(options_check(&request, &err), 0);
    assert_string_equal(request.models, "env");
    assert_true(request.tokens == 7);

    options_forget();
    give("model", "called");
    options_from_environment(NULL);
    assert_int_equal(options_check(&request, &err), 0);
    assert_string_equal(request.models, "called");
    assert_true(request.tokens == 0);
}

static void options_too_long_in_the_environment(void **state)
{
    (void)state;
    struct request request;
    struct error err;
    char longer[4096];
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    environment[0][0] = "SLURM_SPANK__SLURM_SPANK_OPTION_modelpool_model";
    environment[0][1] = longer;
    options_from_environment(NULL);
    assert_true(options_given());
    assert_int_equal(options_check(&request, &err), -1);
    assert_non_null(strstr(err.text, "--model: the value is over"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(args_defaults_and_values),
        cmocka_unit_test(args_refusals_change_nothing),
        cmocka_unit_test_setup(options_are_four_and_described, setup),
        cmocka_unit_test_setup(options_last_value_counts, setup),
        cmocka_unit_test_setup(options_all_values, setup),
        cmocka_unit_test_setup(options_refusals_name_the_option, setup),
        cmocka_unit_test_setup(options_need_a_model, setup),
        cmocka_unit_test_setup(options_come_from_the_environment_if_none_did, setup),
        cmocka_unit_test_setup(options_too_long_in_the_environment, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
