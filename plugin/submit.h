/* submit.h - what srun, sbatch and salloc do alike when a job is submitted */
#ifndef MP_PLUGIN_SUBMIT_H
#define MP_PLUGIN_SUBMIT_H

#include "plugin/args.h"

/*
 * If an option of ours was given: check it, or end the program with one line; then mark the job's
 * environment with MODELPOOL_REQUESTED=1, by which a job on a node without the plugin can tell.
 * Returns whether one was given.
 */
int submit_check(const struct args *args);

#endif
