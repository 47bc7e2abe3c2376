/*
 * tier.h - the host tier: master copies of weights, in files that the daemon owns
 *
 * One folder in shared memory, one file a master copy (common/segment.h).  Engines are lent the
 * files' descriptors; neither an engine's end nor the daemon's takes a file away.  The database
 * names the complete ones; at the start those that match are attached again, and what nobody names
 * is removed.  The budget (HostCache=) bounds their bytes: when there is no room, what is cheap to
 * prepare again and long unused goes first.
 *
 * A master copy is found by its source: the weights' files, known by inode, size and times.  Whose
 * contents are known as well names the file by them, so that the same contents under two names, in
 * two places, share one.  Used by one thread at a time: the front makes it, then it is the policy
 * thread's.  No call waits for a disk.
 */
#ifndef MP_DAEMON_TIER_H
#define MP_DAEMON_TIER_H

#include <sys/queue.h>

#include "common/config.h"
#include "common/order.h"
#include "common/segment.h"
#include "db/db.h"

#define TIER_PLACE_MAX 512

struct tier;

struct tier_file { /* one with weights */
    uint64_t device, inode, size;
    int64_t mtime_ns, ctime_ns;
};

enum tier_state {
    TIER_ABSENT,   /* no file */
    TIER_FILLING,  /* an engine has an empty one, or is preparing into it */
    TIER_COMPLETE, /* to be lent for reading */
};

struct tier_master {
    TAILQ_ENTRY(tier_master) link;
    enum tier_state state;
    char model[NAME_MAX_BYTES]; /* that it was made for */
    int pinned;
    uint64_t bytes;       /* of its file, also while there is none */
    int64_t used_us;      /* wall */
    int64_t prepare_us;   /* that it took; 0: not known */
    uint64_t done, total; /* FILLING: of the files' bytes */
    int has_key;
    uint8_t key[SEGMENT_KEY];
    char name[SEGMENT_NAME + 8]; /* of its file, or empty */
    /* The rest is tier.c's. */
    uint64_t layout;
    uint32_t device;
    struct tier_file *files; /* NULL: no model of this run has asked for it yet */
    uint32_t file_count;
    int64_t retry_us; /* not before: the memory was full */
    int64_t told_us;  /* used_us as the database has it */
};
TAILQ_HEAD(tier_masters, tier_master);

/* How what changes gets into the database; any may be NULL. */
struct tier_store {
    void (*put)(void *context, const struct db_segment *row);
    void (*drop)(void *context, const char *key);
    void (*put_source)(void *context, const struct db_source *row);
    void *context;
};

/* Where the files of this node and StateDir= go: HostCacheDir=, else a mounted hugetlbfs that is
 * writable and has pages for all of HostCache=, else /dev/shm; there a folder of our own. */
void tier_place(char place[TIER_PLACE_MAX], const struct config *c);
/* Bytes that master copies may take on this node: HostCache=. */
uint64_t tier_budget(const struct config *c);

/* Makes the folder (0700).  DENIED: there is one of another user. */
struct tier *tier_create(const char *place, uint64_t budget, const struct tier_store *store,
                         struct error *err);
/* What the database knows, before anything else: files' contents, master copies.  One whose file
 * does not match is forgotten. */
void tier_learn(struct tier *t, const struct db_source *row);
void tier_attach(struct tier *t, const struct db_segment *row);
/* Remove the files that no row has named, and what is beyond the budget. */
void tier_sweep(struct tier *t);
/* The files stay. */
void tier_destroy(struct tier *t);

/* Told before a master copy goes: whoever was lent it must be told, too. */
void tier_on_evict(struct tier *t, void (*evict)(void *context, struct tier_master *m),
                   void *context);

/* A model's master copy, whether it has a file or not; bytes of weights in it.  NULL: no memory. */
struct tier_master *tier_find(struct tier *t, const char *model, const struct tier_file *files,
                              uint32_t count, uint32_t device, uint64_t layout, uint64_t bytes);
/*
 * What an engine may have of it: READ, or FILL if there is none yet and the budget has room, with a
 * descriptor that is the caller's; NONE (fd -1): nothing, now.
 */
enum master_use tier_lend(struct tier *t, struct tier_master *m, int *fd);
/* An engine has used it. */
void tier_touch(struct tier *t, struct tier_master *m);
/* It was prepared.  Returns the one that holds these contents, which is another if the same were
 * there already (m is gone then); its state says whether it is COMPLETE. */
struct tier_master *tier_completed(struct tier *t, struct tier_master *m,
                                   const struct event_master *ev);
/* It could not be prepared, or is damaged: its file goes.  full: the memory is, try again later. */
void tier_discard(struct tier *t, struct tier_master *m, int full);

const struct tier_masters *tier_all(const struct tier *t);
const char *tier_folder(const struct tier *t);
uint64_t tier_used(const struct tier *t);

#endif
