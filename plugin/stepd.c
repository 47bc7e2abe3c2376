#include "plugin/stepd.h"

#include <slurm/slurm.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/client.h"
#include "common/clock.h"
#include "plugin/options.h"

/* --- asking --------------------------------------------------------------------------------- */

static uint32_t stepd_item(spank_t sp, spank_item_t item, uint32_t otherwise)
{
    uint32_t value = otherwise;
    return spank_get_item(sp, item, &value) == ESPANK_SUCCESS ? value : otherwise;
}

static void stepd_put_step(struct wire *w, uint32_t step)
{
    wire_put_u64(w, "step", step);
    if (step == SLURM_BATCH_SCRIPT)
        wire_put(w, "step_name", "batch");
    else if (step == SLURM_INTERACTIVE_STEP)
        wire_put(w, "step_name", "interactive");
    else
        wire_put_u64(w, "step_name", step);
}

/* Who we are is the launch credential's; account and start time are the controller's, and the
 * daemon's to ask for. */
static int stepd_put_identity(struct wire *w, spank_t sp, struct error *err)
{
    uid_t uid;
    gid_t gid;
    uint32_t job = stepd_item(sp, S_JOB_ID, NO_VAL), step = stepd_item(sp, S_JOB_STEPID, NO_VAL);
    if (job == NO_VAL || step == NO_VAL || spank_get_item(sp, S_JOB_UID, &uid) ||
        spank_get_item(sp, S_JOB_GID, &gid))
        return error_set(err, STATUS_INTERNAL, "Slurm does not say which job this step is of");
    wire_put_u64(w, "job", job);
    stepd_put_step(w, step);
    wire_put_u64(w, "uid", uid);
    wire_put_u64(w, "gid", gid);
    uint32_t array = stepd_item(sp, S_JOB_ARRAY_ID, 0);
    uint32_t task = stepd_item(sp, S_JOB_ARRAY_TASK_ID, NO_VAL);
    if (array != 0 && array != NO_VAL && task != NO_VAL) {
        wire_put_u64(w, "array_job", array);
        wire_put_u64(w, "array_task", task);
    }
    return 0;
}

static void stepd_put_request(struct wire *w, const struct request *request)
{
    wire_put(w, "models", request->models);
    wire_put(w, "slo", request->slo);
    if (request->tokens)
        wire_put_u64(w, "tokens", request->tokens);
    if (request->wait)
        wire_put_u64(w, "wait", request->wait);
}

/* The daemon's answer must have all that a task gets. */
static int stepd_check_granted(const struct wire *w, struct error *err)
{
    static const char *const keys[] = {"base_url", "key", "model", "http_socket", "lease"};
    if (strcmp(wire_type(w), "granted") != 0)
        return error_set(err, STATUS_CORRUPT, "modelpoold answered \"%.40s\" to a grant",
                         wire_type(w));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!wire_get(w, keys[i]))
            return error_set(err, STATUS_CORRUPT, "modelpoold's grant lacks \"%s\"", keys[i]);
    return 0;
}

static int stepd_ask(struct stepd *stepd, const struct args *args, spank_t sp, struct error *err)
{
    int64_t deadline_us = clock_monotonic_us() + STEPD_LIMIT_US;
    struct request request;
    struct wire *w = &stepd->granted;
    if (options_check(&request, err))
        return -1;
    int fd = client_connect(args->socket, "spank_modelpool", deadline_us, NULL, err);
    if (fd < 0)
        return -1;
    wire_start(w, "grant");
    if (stepd_put_identity(w, sp, err))
        goto fail;
    stepd_put_request(w, &request);
    if (client_call(fd, w, deadline_us, err) || stepd_check_granted(w, err))
        goto fail;
    stepd->fd = fd;
    return 0;
fail:
    close(fd);
    return -1;
}

void stepd_post_opt(struct stepd *stepd, const struct args *args, spank_t sp)
{
    if (stepd_item(sp, S_JOB_STEPID, SLURM_EXTERN_CONT) == SLURM_EXTERN_CONT)
        return; /* runs no program of the user */
    options_from_environment(sp);
    if (!options_given())
        return;
    stepd->wanted = 1;
    stepd->err.status = STATUS_OK;
    if (stepd_ask(stepd, args, sp, &stepd->err))
        slurm_verbose("modelpool: no grant for this step: %s", stepd->err.text);
}

void stepd_exit(struct stepd *stepd)
{
    if (stepd->fd >= 0)
        close(stepd->fd);
    stepd->fd = -1;
}

/* --- telling the task ------------------------------------------------------------------------ */

/* A refusal that every node of the step gets alike, since it is about the request. */
static int stepd_refused_everywhere(enum status status)
{
    switch (status) {
    case STATUS_INVALID:
    case STATUS_NOT_FOUND:
    case STATUS_DENIED:
    case STATUS_UNSUPPORTED:
        return 1;
    default:
        return 0;
    }
}

/* One line for the whole step if it concerns the step, one line a node if it concerns the node. */
static void stepd_say_refusal(const struct error *err, spank_t sp)
{
    char node[256] = "";
    if (stepd_refused_everywhere(err->status)) {
        if (stepd_item(sp, S_TASK_GLOBAL_ID, 0) == 0)
            slurm_spank_log("modelpool: %s", err->text);
        return;
    }
    int task = 0;
    if (spank_get_item(sp, S_TASK_ID, &task) == ESPANK_SUCCESS && task != 0)
        return;
    if (spank_getenv(sp, "SLURMD_NODENAME", node, sizeof node) != ESPANK_SUCCESS)
        gethostname(node, sizeof node - 1);
    slurm_spank_log("modelpool: %s: %s", node, err->text);
}

static int stepd_set_environment(const struct wire *w, spank_t sp, struct error *err)
{
    static const char *const pairs[][2] = {
        {"OPENAI_BASE_URL", "base_url"}, {"OPENAI_API_KEY", "key"},
        {"MODELPOOL_MODEL", "model"},    {"MODELPOOL_SOCKET", "http_socket"},
        {"MODELPOOL_LEASE", "lease"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        spank_err_t rc = spank_setenv(sp, pairs[i][0], wire_get(w, pairs[i][1]), 1);
        if (rc != ESPANK_SUCCESS)
            return error_set(err, STATUS_INTERNAL, "cannot set %s: %s", pairs[i][0],
                             spank_strerror(rc));
    }
    return 0;
}

void stepd_task_init(struct stepd *stepd, spank_t sp)
{
    if (!stepd->wanted)
        return;
    if (stepd->err.status == STATUS_OK)
        stepd_set_environment(&stepd->granted, sp, &stepd->err);
    if (stepd->err.status == STATUS_OK)
        return;
    stepd_say_refusal(&stepd->err, sp);
    /* This is the task's own process, a fork of slurmstepd.  A return of -1 would be ignored when
     * the plugin is `optional`, and otherwise adds Slurm's own lines to ours. */
    _exit(1);
}
