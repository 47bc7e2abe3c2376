/* tier_state.h - what the host tier's files share */
#ifndef MP_DAEMON_TIER_STATE_H
#define MP_DAEMON_TIER_STATE_H

#include "daemon/tier.h"

struct known { /* a file whose contents were seen */
    struct tier_file file;
    uint8_t hash[SEGMENT_KEY];
};

struct tier {
    char place[TIER_PLACE_MAX];
    int dir;
    uint64_t budget, used;
    uint64_t made; /* files so far, for their names */
    struct tier_store store;
    struct tier_masters masters;
    struct known *known;
    size_t known_count;
    void (*evict)(void *context, struct tier_master *m);
    void *evict_context;
};

/* --- tier_source.c: what is known of files' contents --- */
int tier_same_file(const struct tier_file *a, const struct tier_file *b);
/* A file's contents, also for the database. */
void tier_store_source(struct tier *t, const struct tier_file *f, const uint8_t hash[SEGMENT_KEY]);
/* The key, if the contents of all files are known: 1; else 0. */
int tier_known_key(const struct tier *t, const struct tier_file *files, uint32_t count,
                   uint32_t device, uint64_t layout, uint8_t key[SEGMENT_KEY]);

#endif
