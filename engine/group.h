/*
 * group.h - the ranks of an instance that runs one model together (tensor parallelism)
 *
 * Each rank has a device, with its memory, its part of the weights and of every KV page, and a
 * thread.  Rank 0's is the engine's own: it alone takes orders, builds steps and picks tokens.  The
 * others wait for it to call them, do their part of the same step on the same plan, and meet in
 * collectives (kernels/collective.h) within it.  Between steps they touch nothing, so that what the
 * engine does to their memory then needs no lock.
 */
#ifndef MP_ENGINE_GROUP_H
#define MP_ENGINE_GROUP_H

#include "engine/forward.h"
#include "kernels/collective.h"

/* How long a rank waits for the others within a step before the instance is given up. */
#define GROUP_TIMEOUT_US ((int64_t)60 * 1000000)

struct group;

/* What every rank does when called: its number is the last argument. */
typedef void group_fn(void *context, uint32_t rank);

/*
 * devices[0] stays the caller's, the others become the group's: they are destroyed with it, and on
 * failure.  ranks: 2..COLLECTIVE_RANKS_MAX.  rows_max and heads_max are those of steps.
 */
struct group *group_create(struct device *const *devices, uint32_t ranks, uint32_t rows_max,
                           uint32_t heads_max, int64_t timeout_us, struct error *err);
/* End the other ranks' threads.  -1: one does not come back, or a GPU may wait for another one for
 * ever, and whatever they may use must stay as it is until the process ends. */
int group_stop(struct group *g);
/* Behind group_stop(), once nothing is mapped on the devices any more. */
void group_destroy(struct group *g);

struct device *group_device(const struct group *g, uint32_t rank);
struct collective *group_collective(const struct group *g);
/* -1, and why: the group has failed, or a device of it. */
int group_failed(struct group *g, struct error *err);
/* Room for the steps of a model, whose plans have up to so many bytes. */
int group_fit(struct group *g, const struct model *m, uint64_t plan_bytes, struct error *err);
/* Call all ranks, and return when they are done; or when the group has failed
 * (collective_failed()). */
void group_run(struct group *g, group_fn *fn, void *context);
/* forward_run() of all ranks: logits at rank 0's w; and what in->picked asks for. */
void group_forward(struct group *g, const struct model *m, struct workspace *w,
                   const struct forward_input *in);

#endif
