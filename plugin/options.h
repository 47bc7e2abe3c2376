/*
 * options.h - the options that srun, sbatch and salloc get from us
 *
 * Slurm calls back once or twice per option (before 24.05 a step of srun gets each twice; inside a
 * job first with the job's value, then with the command line's), so a callback only records, and
 * the last value counts.  What was recorded is judged once, by options_check.
 */
#ifndef MP_PLUGIN_OPTIONS_H
#define MP_PLUGIN_OPTIONS_H

#include <slurm/spank.h>
#include <stdint.h>

#include "common/error.h"

struct request {        /* what the options ask for; the texts are the options' own */
    const char *models; /* comma-separated, legal names, none twice */
    const char *slo;    /* class or times; NULL: not given */
    uint64_t tokens;    /* 0: not given */
    uint64_t wait;      /* seconds; 0: not given */
};

/* Register them, in every context that has options.  Returns what Slurm returns. */
spank_err_t options_register(spank_t sp);

/* Forget what was recorded: another module's life begins, in tests. */
void options_forget(void);

/* Was any option given? */
int options_given(void);

/*
 * In slurmstepd: with `--export=NONE` or a list, Slurm before 23.11 loses the options of a batch
 * step on their way, but not the variables by which they travel.  Records those, if no option came.
 */
void options_from_environment(spank_t sp);

/* Judge the values.  INVALID names the option, the value and what is legal. */
int options_check(struct request *request, struct error *err);

#endif
