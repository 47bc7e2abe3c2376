#include "plugin/alloc.h"

#include <errno.h>
#include <slurm/spank.h>
#include <string.h>

#include "plugin/submit.h"

void alloc_post_opt(const struct args *args)
{
    static int told;
    if (!submit_check(args) || told || strcmp(program_invocation_short_name, "salloc") != 0)
        return;
    /* No hook runs in salloc's own shell, unless the site starts it as an interactive step. */
    slurm_spank_log("modelpool: in this allocation only programs started by srun have the "
                    "environment for --model");
    told = 1;
}
