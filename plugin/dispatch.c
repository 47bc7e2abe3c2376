/*
 * dispatch.c - what Slurm calls, and which process it calls it in
 *
 * The same module is loaded by srun, by sbatch and salloc, by slurmd and by each slurmstepd.  For a
 * job without our options it registers them and does nothing else: no file, no socket.  There are
 * no prolog and epilog hooks, since Slurm would start a process on each node of every job for them.
 * Every hook returns 0: see stepd.h.
 */
#include <slurm/spank.h>
#include <unistd.h>

#include "plugin/alloc.h"
#include "plugin/args.h"
#include "plugin/options.h"
#include "plugin/srun.h"
#include "plugin/stepd.h"

SPANK_PLUGIN(modelpool, 1)

static struct {
    int ready; /* arguments and options are understood; else every hook does nothing */
    struct args args;
    struct stepd stepd;
} plugin = {.stepd = {.fd = -1}};

int slurm_spank_init(spank_t sp, int ac, char **av)
{
    struct error err;
    spank_context_t context = spank_context();
    if (args_parse(&plugin.args, ac, av, &err)) {
        if (context != S_CTX_REMOTE) /* slurmd's log and the submitter have it; once is enough */
            slurm_error("modelpool: %s: --model is not available", err.text);
        return 0;
    }
    if (context != S_CTX_LOCAL && context != S_CTX_ALLOCATOR && context != S_CTX_REMOTE)
        return 0;
    spank_err_t rc = options_register(sp);
    if (rc != ESPANK_SUCCESS) {
        slurm_error("modelpool: cannot register options: %s", spank_strerror(rc));
        return 0;
    }
    plugin.ready = 1;
    return 0;
}

int slurm_spank_init_post_opt(spank_t sp, int ac, char **av)
{
    (void)ac;
    (void)av;
    if (!plugin.ready)
        return 0;
    switch (spank_context()) {
    case S_CTX_LOCAL:
        srun_post_opt(&plugin.args);
        break;
    case S_CTX_ALLOCATOR:
        alloc_post_opt(&plugin.args);
        break;
    case S_CTX_REMOTE:
        stepd_post_opt(&plugin.stepd, &plugin.args, sp);
        break;
    default:
        break;
    }
    return 0;
}

int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
    (void)ac;
    (void)av;
    if (plugin.ready)
        stepd_task_init(&plugin.stepd, sp);
    return 0;
}

int slurm_spank_exit(spank_t sp, int ac, char **av)
{
    (void)sp;
    (void)ac;
    (void)av;
    stepd_exit(&plugin.stepd);
    return 0;
}
