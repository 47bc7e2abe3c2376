/*
 * loader.h - a thread that brings a model's weights in
 *
 * Its work: prepare the master copy if an empty one was lent, then map the model's handles and copy
 * the weights from the master copy, whose pieces are checked at their first copy; without a master
 * copy the files are read into the handles.  With a lane (a GPU) the pieces are pinned and checked
 * first, once; then the copies are asked for in order, and once all of them are (issued), steps of
 * the model may begin, which wait for what they need by model_await().
 *
 * Meanwhile the engine's own thread may go on with steps of other models.  All that the engine's
 * books say (handles, residency) is the engine's thread's: it takes the handles before, and looks
 * at the outcome after.
 */
#ifndef MP_ENGINE_LOADER_H
#define MP_ENGINE_LOADER_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/prepare.h"
#include "engine/weights.h"

struct loader {
    struct device_lane *lane; /* NULL: this thread copies */
    struct staging staging;   /* with a lane: for files */
    uint64_t lane_piece;      /* copied at once; SEGMENT_PIECE is a multiple of it */
    struct master_yard *yard;
    struct model *m; /* NULL: it has no work */
    int to_memory;   /* else the master copy is prepared, and that is all */
    int readies;     /* it only pins and checks, and may stop at any time */
    int behind;      /* steps go on meanwhile: one thread copies */
    pthread_t thread;
    int has_thread;
    int done_fd; /* an eventfd, readable when it is done */
    atomic_int cancel, preparing, done;
    atomic_int hurry; /* a turn waits for what was begun behind the steps */
    /* By a lane: all copies are asked for.  The lock is for waiting alone. */
    atomic_int issued;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct arrival arrival;
    atomic_uint_fast64_t read; /* bytes of files so far */
    uint64_t total;            /* of them */
    /* The outcome: */
    int rv; /* of the load; -1 with err */
    struct error err;
    int mapped;
    uint64_t file_bytes;   /* read from files, but for what event counts */
    struct error unpinned; /* why the master copy, or a part of it, could not be pinned; OK */
    uint64_t copied;       /* bytes given to the lane */
    uint64_t us;           /* of mapping and copying */
    uint64_t disk_us;      /* of preparing the master copy before that */
    int64_t done_us;       /* when it was done */
    /* What befell the master copy, which was dropped unless it is MASTER_COMPLETE. */
    int has_event;
    struct event_master event;
};

/* l is zeroed.  -1: no descriptor for it. */
int loader_open(struct loader *l, struct error *err);
/* Load by a lane of the device. */
int loader_open_lane(struct loader *l, struct device *d, struct master_yard *yard,
                     struct error *err);
void loader_close(struct loader *l);
/* Begin, with the handles taken if it is to go to memory.  Without a thread it is done at once. */
void loader_begin(struct loader *l, struct model *m, int to_memory, int behind);
/* Wait until it is done, at most so long (milliseconds); 1: it is. */
int loader_wait(struct loader *l, int ms);
/* The same until all copies are asked for, or it is done; 1: so it is. */
int loader_wait_issued(struct loader *l, int ms);
/* After loader_wait(): the outcome is final, and l may begin anew once l->m is NULL. */
void loader_join(struct loader *l);

#endif
