#include "plugin/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"

#define TEXT_MAX 2048 /* sixteen names of 64 bytes, with room */

enum option { OPTION_MODEL, OPTION_SLO, OPTION_TOKENS, OPTION_WAIT, OPTION_COUNT };

static int options_record(int val, const char *optarg, int remote);

static struct spank_option options_table[OPTION_COUNT] = {
    {"model", "NAME[,NAME...]", "language models that the job may use, served by modelpool", 1,
     OPTION_MODEL, options_record},
    {"model-slo", "CLASS|ttft:TIME,tbt:TIME", "latency that its requests need (needs --model)", 1,
     OPTION_SLO, options_record},
    {"model-tokens", "N", "the job's budget of tokens (needs --model)", 1, OPTION_TOKENS,
     options_record},
    {"model-wait", "TIME", "how long its requests may wait for admission (needs --model)", 1,
     OPTION_WAIT, options_record},
};

/* Slurm's callbacks carry no pointer of ours, so what they record is the file's. */
static struct {
    int given;
    int too_long;
    char text[TEXT_MAX];
} options_values[OPTION_COUNT];

spank_err_t options_register(spank_t sp)
{
    for (int i = 0; i < OPTION_COUNT; i++) {
        spank_err_t rc = spank_option_register(sp, &options_table[i]);
        if (rc != ESPANK_SUCCESS)
            return rc;
    }
    return ESPANK_SUCCESS;
}

static int options_record(int val, const char *optarg, int remote)
{
    (void)remote;
    if (val < 0 || val >= OPTION_COUNT)
        return 0;
    int n = snprintf(options_values[val].text, TEXT_MAX, "%s", optarg ? optarg : "");
    options_values[val].too_long = n < 0 || n >= TEXT_MAX;
    options_values[val].given = 1;
    return 0;
}

void options_forget(void)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        options_values[i].given = 0;
}

int options_given(void)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (options_values[i].given)
            return 1;
    return 0;
}

void options_from_environment(spank_t sp)
{
    /* Slurm's own spelling: a fixed prefix, the plugin's name and the option's, with '_' for '-'.
     */
    static const char *const names[OPTION_COUNT] = {
        "SLURM_SPANK__SLURM_SPANK_OPTION_modelpool_model",
        "SLURM_SPANK__SLURM_SPANK_OPTION_modelpool_model_slo",
        "SLURM_SPANK__SLURM_SPANK_OPTION_modelpool_model_tokens",
        "SLURM_SPANK__SLURM_SPANK_OPTION_modelpool_model_wait",
    };
    if (options_given())
        return;
    for (int i = 0; i < OPTION_COUNT; i++) {
        spank_err_t rc = spank_getenv(sp, names[i], options_values[i].text, TEXT_MAX);
        options_values[i].too_long = rc == ESPANK_NOSPACE;
        options_values[i].given = rc == ESPANK_SUCCESS || rc == ESPANK_NOSPACE;
    }
}

/* The value of an option, or NULL if it was not given. */
static const char *options_text(enum option option)
{
    return options_values[option].given ? options_values[option].text : NULL;
}

static int options_check_presence(struct error *err)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (options_values[i].given && options_values[i].too_long)
            return error_set(err, STATUS_INVALID, "--%s: the value is over %d bytes",
                             options_table[i].name, TEXT_MAX - 1);
    for (int i = OPTION_SLO; i < OPTION_COUNT; i++)
        if (options_values[i].given && !options_values[OPTION_MODEL].given)
            return error_set(err, STATUS_INVALID, "--%s needs --model=NAME", options_table[i].name);
    return 0;
}

static int options_parse_tokens(const char *text, uint64_t *tokens, struct error *err)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || errno || *end || n == 0 || n > INT64_MAX)
        return error_set(err, STATUS_INVALID, "--model-tokens: \"%.60s\" is no number above zero",
                         text);
    *tokens = n;
    return 0;
}

static int options_parse_wait(const char *text, uint64_t *seconds, struct error *err)
{
    int64_t us;
    if (config_parse_time(text, &us, err))
        return error_wrap(err, "--model-wait");
    *seconds = ((uint64_t)us + 999999) / 1000000;
    return 0;
}

int options_check(struct request *request, struct error *err)
{
    struct request read = {0};
    int64_t ttft_us, tbt_us;
    if (options_check_presence(err))
        return -1;
    read.models = options_text(OPTION_MODEL);
    if (!read.models)
        return error_set(err, STATUS_INVALID, "--model=NAME was not given");
    if (!read.models[0])
        return error_set(err, STATUS_INVALID, "--model: no model is named");
    if (config_check_models(read.models, err))
        return error_wrap(err, "--model");
    read.slo = options_text(OPTION_SLO);
    if (read.slo && config_parse_slo(read.slo, &ttft_us, &tbt_us, err))
        return error_wrap(err, "--model-slo");
    const char *tokens = options_text(OPTION_TOKENS), *wait = options_text(OPTION_WAIT);
    if (tokens && options_parse_tokens(tokens, &read.tokens, err))
        return -1;
    if (wait && options_parse_wait(wait, &read.wait, err))
        return -1;
    *request = read;
    return 0;
}
