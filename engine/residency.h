/*
 * residency.h - which models' weights are in the arena
 *
 * Several stay while they fit.  Who must go is the least recently used one that neither runs nor is
 * pinned.  The KV of sequences is never taken for weights: that is the daemon's decision, by
 * closing or spilling them.  What KV nobody uses goes before any weights do.
 *
 * Two loaders bring weights in: one for the turn that waits for them, one behind the steps
 * (prefetch, preparing and pinning of master copies).  A model that is on its way in is not
 * resident yet, but holds its handles.  By a lane (a GPU) a model is resident as soon as all of its
 * copies are asked for, and `arriving` until they are done: its steps may begin.
 */
#ifndef MP_ENGINE_RESIDENCY_H
#define MP_ENGINE_RESIDENCY_H

#include "engine/loader.h"
#include "engine/weights.h"

#define RESIDENCY_MODELS_MAX 256u

struct residency {
    struct arena *arena;
    struct loader now, behind;
    int by_lane;
    struct master_yard yard;
    uint64_t copied;     /* bytes of master copies, by lanes, of loads that are done */
    struct error failed; /* copies of a model that was used already: the device is lost.  OK */
    int64_t told_us;     /* when progress was told last */
    int channel;         /* descriptor; its end calls a load off.  0: there is none */
    struct model *models[RESIDENCY_MODELS_MAX];
    uint32_t count;
    uint64_t stamp;
    /* Told of each arrival and departure, and of what befalls master copies. */
    void (*notify)(void *context, const struct event_residency *ev);
    void (*master)(void *context, const struct event_master *ev);
    /* Handles that KV could give without loss; and let it give until so many are free, if it can.
     * NULL: there is no KV. */
    uint32_t (*spare)(void *context);
    void (*reclaim)(void *context, uint32_t handles);
    void *context;
};

int residency_open(struct residency *r, struct arena *a, struct error *err);
/* Load by lanes: what residency_open() does for a GPU, and a test for a CPU.  No model is there. */
int residency_open_lanes(struct residency *r, struct error *err);
/* Unload and close all. */
void residency_close(struct residency *r);

struct model *residency_find(const struct residency *r, uint32_t id);

/*
 * Make m resident, evicting others than `keep` (NULL: any other).  *bytes and *us are what the copy
 * took, 0 if it was there.  EXHAUSTED, with nothing evicted, if it cannot fit beside the live KV. A
 * model that is on its way in is waited for.  By a lane it may be arriving still: *us is 0, and
 * what the copy takes is added to m->load_us when it is done.
 */
int residency_load(struct residency *r, struct model *m, const struct model *keep, uint64_t *bytes,
                   uint64_t *us, struct error *err);
/* Wait for the rest of a model that is arriving.  -1: its copies have failed, and the device. */
int residency_arrive(struct residency *r, struct model *m, struct error *err);
int residency_arrive_all(struct residency *r, struct error *err);
/* Take the master copy that the daemon lends, once nothing is on its way to or from m's. */
int residency_lend(struct residency *r, struct model *m, const struct order_master *o, int fd,
                   struct error *err);
/* Calls a load behind the steps off, too. */
void residency_unload(struct residency *r, struct model *m);
/* Evict the least recently used model that is neither of the two (NULL: no such exception); a load
 * behind the steps is called off if nobody else is there.  0 if there is none. */
int residency_evict(struct residency *r, const struct model *keep, const struct model *also);

/* Begin to make m resident behind the steps, once the models of the order, but `running`, have
 * gone.  -1: it cannot be, now. */
int residency_prefetch(struct residency *r, struct model *m, const struct order_prefetch *o,
                       const struct model *running, struct error *err);
/* Is something on its way behind the steps?  Its descriptor is readable when it is done; -1. */
int residency_busy(const struct residency *r);
/* Book what has arrived, tell progress, and begin with a master copy that is to be prepared;
 * between steps. */
void residency_poll(struct residency *r);
/* Wait for what is on its way if it uses this model; NULL: any. */
void residency_settle(struct residency *r, const struct model *m);

#endif
