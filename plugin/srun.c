#include "plugin/srun.h"

#include "plugin/submit.h"

void srun_post_opt(const struct args *args)
{
    submit_check(args);
}
