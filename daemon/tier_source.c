/* tier_source.c - what is known of the contents of models' files */
#include <stdlib.h>
#include <string.h>

#include "daemon/tier_state.h"

#define SOURCES_MAX 65536u

static int same_inode(const struct tier_file *a, const struct tier_file *b)
{
    return a->device == b->device && a->inode == b->inode;
}

int tier_same_file(const struct tier_file *a, const struct tier_file *b)
{
    return same_inode(a, b) && a->size == b->size && a->mtime_ns == b->mtime_ns &&
           a->ctime_ns == b->ctime_ns;
}

static struct known *find_known(const struct tier *t, const struct tier_file *file)
{
    for (size_t i = 0; i < t->known_count; i++) {
        if (same_inode(&t->known[i].file, file))
            return &t->known[i];
    }
    return NULL;
}

static void learn(struct tier *t, const struct tier_file *file, const uint8_t hash[SEGMENT_KEY])
{
    struct known *k = find_known(t, file);

    if (k == NULL && t->known_count < SOURCES_MAX) {
        struct known *more = realloc(t->known, (t->known_count + 1) * sizeof *more);
        if (more == NULL)
            return; /* it is read once more some day */
        t->known = more;
        k = &more[t->known_count++];
    }
    if (k == NULL)
        return;
    k->file = *file;
    memcpy(k->hash, hash, SEGMENT_KEY);
}

void tier_learn(struct tier *t, const struct db_source *row)
{
    const struct tier_file file = {.device = (uint64_t)row->device,
                                   .inode = (uint64_t)row->inode,
                                   .size = (uint64_t)row->size,
                                   .mtime_ns = row->mtime_ns,
                                   .ctime_ns = row->ctime_ns};
    uint8_t hash[SEGMENT_KEY];

    if (segment_parse_name(hash, row->hash) == 0)
        learn(t, &file, hash);
}

void tier_store_source(struct tier *t, const struct tier_file *f, const uint8_t hash[SEGMENT_KEY])
{
    struct db_source row = {.device = (int64_t)f->device,
                            .inode = (int64_t)f->inode,
                            .size = (int64_t)f->size,
                            .mtime_ns = f->mtime_ns,
                            .ctime_ns = f->ctime_ns};

    learn(t, f, hash);
    segment_name(row.hash, hash);
    if (t->store.put_source != NULL)
        t->store.put_source(t->store.context, &row);
}

int tier_known_key(const struct tier *t, const struct tier_file *files, uint32_t count,
                   uint32_t device, uint64_t layout, uint8_t key[SEGMENT_KEY])
{
    uint8_t hashes[ORDER_FILES_MAX][SEGMENT_KEY];

    for (uint32_t i = 0; i < count; i++) {
        const struct known *k = find_known(t, &files[i]);

        if (k == NULL || !tier_same_file(&k->file, &files[i]))
            return 0;
        memcpy(hashes[i], k->hash, SEGMENT_KEY);
    }
    segment_key(key, (const uint8_t(*)[SEGMENT_KEY])hashes, count, device, layout);
    return 1;
}
