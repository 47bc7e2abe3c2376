/* srun.h - the plugin inside srun */
#ifndef MP_PLUGIN_SRUN_H
#define MP_PLUGIN_SRUN_H

#include "plugin/args.h"

/* Options are read, nothing is submitted yet. */
void srun_post_opt(const struct args *args);

#endif
