/*
 * master.h - a model's master copy, as the daemon has lent it to this engine
 *
 * The daemon owns the file (common/segment.h); an engine gets its descriptor, never its path: an
 * empty file to prepare the weights into, or a complete one, read-only.  Before the first use of a
 * complete one its header is checked here, and its pieces as they are copied for the first time.
 */
#ifndef MP_ENGINE_MASTER_H
#define MP_ENGINE_MASTER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "common/error.h"
#include "common/order.h"

struct device;
struct model;

/* Giving gigabytes of pinned memory back takes a while: a thread does it.  How many are at it. */
struct master_yard {
    pthread_mutex_t lock;
    pthread_cond_t empty;
    uint32_t count;
};

/* A master copy in this process's memory: one for all models that were lent the same file. */
struct master_map {
    atomic_uint users;
    uint64_t device_number, inode; /* of the file */
    uint8_t *base;                 /* all of it */
    uint64_t bytes;
    atomic_int verified; /* all pieces had their checksums, or were written here */
    /* For a lane: each piece pinned, as far as that can be, and checked, by master_ready(). */
    atomic_int ready;
    pthread_mutex_t lock; /* held by who is at it, also while it is shared or left */
    uint8_t *pieces;      /* [pieces]: what was done to each; NULL: nothing yet */
    uint8_t *data;        /* the first of them; the file itself is not looked at to give it up */
    struct device *device;
    struct master_yard *yard;
    struct error unpinned; /* why a piece could not be; OK: all are */
};

struct master {
    enum master_use use;    /* FILL, PREPARE: the descriptor alone; READ: mapped */
    int fd;                 /* good unless use is NONE */
    struct master_map *map; /* or NULL */
    uint64_t file_bytes;
    int writable; /* while it is prepared: by write(), and memory is taken so */
};

void master_yard_open(struct master_yard *y);
/* Waits for what is on its way out. */
void master_yard_close(struct master_yard *y);

/*
 * Take what the daemon lends; fd is duplicated.  `others` have masters: one that reads the same
 * file shares its memory.  What was lent before is given up.  CORRUPT, UNSUPPORTED: a file that is
 * to be read does not hold this model's weights in this layout.
 */
int master_take(struct model *m, const struct order_master *o, int fd, struct model *const *others,
                uint32_t count, struct error *err);
void master_drop(struct master *c);

/* Nothing is left to do before a lane copies from it. */
int master_is_ready(const struct master *c);
/* The weights' place in it; NULL unless it is mapped. */
uint8_t *master_data(const struct master *c);

/* To prepare into it: take memory for its header, or all of it where it cannot be written to by
 * write() (a full file system is EXHAUSTED here, and no signal later), map it, begin the header. */
int master_begin(struct model *m, struct error *err);
/* The weights and the checksums of all pieces are there: the key from the files' hashes, the mark.
 * From now on it is read. */
void master_end(struct model *m, const uint8_t (*hashes)[ORDER_KEY], uint32_t files);
/* A piece, as it was copied to `copy`, has its checksum. */
int master_check_piece(const struct master *c, uint64_t piece, const uint8_t *copy,
                       struct error *err);

/*
 * Pin all pieces for the device's copies and check them, with so many threads; what is done stays
 * done when it is called off (UNAVAILABLE).  A piece that cannot be pinned is copied from all the
 * same, only slower: c->map->unpinned says why.  CORRUPT: a checksum is wrong.
 */
int master_ready(struct model *m, struct master_yard *yard, uint32_t threads, atomic_int *cancel,
                 struct error *err);

#endif
