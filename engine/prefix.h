/*
 * prefix.h - full pages of KV by the tokens before and in them: shared, and kept when unused
 *
 * A tree for each model and sharing number.  A block is as many tokens as the largest of the
 * model's pages holds; its place in the tree is the tokens of all blocks above it and its own.
 * Blocks are found by a hash and believed by comparing: the same parent and the same tokens, up to
 * the root. A block may lack pages: those that nobody kept, and those that windows gave back.
 *
 * A page that came here is full and never written again.  It is counted by the sequences that use
 * it; with none left it is idle, and goes when room is needed, least recently used first. Sequences
 * release their pages last one first, so that of a prefix its end goes first.
 *
 * Who looks only at what his sharing number has learns nothing of others' prompts; the engine's
 * time does tell him whether a prefix was there.
 */
#ifndef MP_ENGINE_PREFIX_H
#define MP_ENGINE_PREFIX_H

#include <sys/queue.h>

#include "engine/pages.h"
#include "engine/weights.h"

#define PREFIX_BLOCKS_MAX (1u << 18) /* beyond them nothing new is kept */

struct prefix_block;

struct prefix_page {
    TAILQ_ENTRY(prefix_page) link; /* of the idle ones, the longest unused first */
    struct prefix_block *block;
    void *page;    /* NULL: not there */
    uint32_t refs; /* sequences that use it */
};

TAILQ_HEAD(prefix_page_queue, prefix_page);
TAILQ_HEAD(prefix_block_queue, prefix_block);

struct prefix_block {
    TAILQ_ENTRY(prefix_block) link; /* all of them */
    struct prefix_block *chain;     /* in its bucket */
    struct prefix_block *parent;    /* NULL: a root, whose tokens are model and sharing number */
    uint64_t key;
    uint32_t holds; /* blocks below it, and sequences that stand here */
    uint32_t there; /* of its pages */
    uint32_t token_count;
    uint32_t page_count[2];       /* of model.kv, of kv_local */
    struct prefix_page *pages[2]; /* [page_count] each */
    uint32_t tokens[];
};

struct prefix_cache {
    struct pages *pool;
    struct prefix_block **buckets;
    struct prefix_block_queue blocks;
    uint32_t count, count_max; /* of blocks */
    struct prefix_page_queue idle;
    uint64_t seed;
};

struct prefix_cache *prefix_create(struct pages *pool, struct error *err);
/* No sequence uses a page any more.  Gives all pages back. */
void prefix_destroy(struct prefix_cache *c);

/* Tokens of a block of this model. */
uint32_t prefix_block_tokens(const struct model *m);
/* The root of a model and sharing number, held.  NULL: no memory. */
struct prefix_block *prefix_root(struct prefix_cache *c, const struct model *m, uint32_t sharing);
/* The block of these tokens below another one, not held.  NULL: there is none. */
struct prefix_block *prefix_find(const struct prefix_cache *c, const struct prefix_block *parent,
                                 const uint32_t *tokens, uint32_t count);
/* The same, made if there is none, and held.  NULL: no memory, or too many blocks. */
struct prefix_block *prefix_make(struct prefix_cache *c, struct prefix_block *parent,
                                 const struct model *m, const uint32_t *tokens);
void prefix_hold(struct prefix_block *b);
/* A block that nothing holds and that has no pages is forgotten. */
void prefix_let_go(struct prefix_cache *c, struct prefix_block *b);

/* A sequence's own page, which is full, becomes this one of a block, which lacks it; the sequence
 * is its first user. */
void prefix_keep(struct prefix_page *p, void *page);
/* One more user. */
void prefix_use(struct prefix_cache *c, struct prefix_page *p);
void prefix_release(struct prefix_cache *c, struct prefix_page *p);
/* Give back the idle page that was unused longest.  0: there is none. */
int prefix_evict(struct prefix_cache *c);
/* Pages have moved (pages_squeeze). */
void prefix_forward(struct prefix_cache *c);

#endif
