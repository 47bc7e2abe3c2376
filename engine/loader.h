/*
 * loader.h - a thread that brings a model's weights in, on a CPU
 *
 * Its work: prepare the master copy if an empty one was lent, then map the model's handles and copy
 * the weights from the master copy, whose pieces are checked at their first copy; without a master
 * copy the files are read into the handles.  Meanwhile the engine's own thread may go on with steps
 * of other models.  All that the engine's books say (handles, residency) is the engine's thread's:
 * it takes the handles before, and looks at the outcome after.
 */
#ifndef MP_ENGINE_LOADER_H
#define MP_ENGINE_LOADER_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/prepare.h"
#include "engine/weights.h"

struct loader {
    struct model *m; /* NULL: it has no work */
    int to_memory;   /* else the master copy is prepared, and that is all */
    int behind;      /* steps go on meanwhile: one thread copies */
    pthread_t thread;
    int has_thread;
    int done_fd; /* an eventfd, readable when it is done */
    atomic_int cancel, preparing, done;
    atomic_uint_fast64_t read; /* bytes of files so far */
    uint64_t total;            /* of them */
    /* The outcome: */
    int rv; /* of the load; -1 with err */
    struct error err;
    int mapped;
    uint64_t file_bytes; /* read from files, but for what event counts */
    uint64_t us;         /* of mapping and copying */
    /* What befell the master copy, which was dropped unless it is MASTER_COMPLETE. */
    int has_event;
    struct event_master event;
};

/* l is zeroed.  -1: no descriptor for it. */
int loader_open(struct loader *l, struct error *err);
void loader_close(struct loader *l);
/* Begin, with the handles taken if it is to go to memory.  Without a thread it is done at once. */
void loader_begin(struct loader *l, struct model *m, int to_memory, int behind);
/* Wait until it is done, at most so long (milliseconds); 1: it is. */
int loader_wait(struct loader *l, int ms);
/* After that: the outcome is final, and l may begin anew once l->m is NULL. */
void loader_join(struct loader *l);

#endif
