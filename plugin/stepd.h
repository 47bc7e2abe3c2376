/*
 * stepd.h - the plugin inside slurmstepd: a grant for the step, its environment for each task
 *
 * Nothing here may fail a hook: a hook that fails drains the node or holds the job.  An error is
 * kept, and the task's own child says it and exits.  Nothing waits longer than STEPD_LIMIT_US.
 */
#ifndef MP_PLUGIN_STEPD_H
#define MP_PLUGIN_STEPD_H

#include <slurm/spank.h>

#include "common/wire.h"
#include "plugin/args.h"

#define STEPD_LIMIT_US 3000000 /* for all that one hook asks of the daemon */

struct stepd {
    int fd;              /* holds the grant as long as this process lives; -1: none */
    int wanted;          /* --model came with this step */
    struct error err;    /* status other than OK: why there is no grant */
    struct wire granted; /* the daemon's answer */
};

/* As root, once a step, before any task is started: ask the daemon. */
void stepd_post_opt(struct stepd *stepd, const struct args *args, spank_t sp);

/* As the user, in a task's own process: set the environment, or say why not and exit. */
void stepd_task_init(struct stepd *stepd, spank_t sp);

/* The step is over. */
void stepd_exit(struct stepd *stepd);

#endif
