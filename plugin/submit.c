#include "plugin/submit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config.h"
#include "plugin/options.h"

static int submit_check_slo(const struct config *config, const char *slo, struct error *err)
{
    if (!slo || strchr(slo, ':') || config_find_slo(config, slo))
        return 0;
    return error_set(err, STATUS_NOT_FOUND, "--model-slo: there is no class \"%s\" in %s", slo,
                     config->path);
}

static int submit_check_models(const struct config *config, const char *models, struct error *err)
{
    while (*models) {
        char name[NAME_MAX_BYTES];
        size_t len = strcspn(models, ",");
        snprintf(name, sizeof name, "%.*s", (int)len, models);
        if (!config_find_model(config, name))
            return error_set(err, STATUS_NOT_FOUND, "--model: there is no model \"%s\" in %s", name,
                             config->path);
        models += len;
        models += *models == ',';
    }
    return 0;
}

/* The daemon is the authority: a file that cannot be read here, or is being edited, refuses
 * nobody. */
static int submit_check_names(const struct args *args, const struct request *request,
                              struct error *err)
{
    struct error unread;
    if (!args->config[0] || access(args->config, R_OK) != 0)
        return 0;
    struct config *config = config_read(args->config, NULL, &unread);
    if (!config) {
        slurm_verbose("modelpool: names are not checked: %s", unread.text);
        return 0;
    }
    int rv = submit_check_models(config, request->models, err) ||
             submit_check_slo(config, request->slo, err);
    config_destroy(config);
    return rv ? -1 : 0;
}

int submit_check(const struct args *args)
{
    struct request request;
    struct error err;
    if (!options_given())
        return 0;
    if (options_check(&request, &err) || submit_check_names(args, &request, &err)) {
        /* The return value of a hook is ignored when the plugin is `optional`, as it should be
         * installed, so the only refusal is to leave.  Nothing was submitted yet. */
        slurm_spank_log("modelpool: %s", err.text);
        _exit(1);
    }
    setenv("MODELPOOL_REQUESTED", "1", 1);
    return 1;
}
