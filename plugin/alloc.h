/* alloc.h - the plugin inside sbatch and salloc */
#ifndef MP_PLUGIN_ALLOC_H
#define MP_PLUGIN_ALLOC_H

#include "plugin/args.h"

/* Options are read, nothing is submitted yet.  Called once per component of a heterogeneous job. */
void alloc_post_opt(const struct args *args);

#endif
