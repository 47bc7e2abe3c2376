/* prefix.c - the tree of prefixes and its pages */
#include "engine/prefix.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS     (1u << 16)
#define ROOT_TOKENS 2u

struct prefix_cache *prefix_create(struct pages *pool, struct error *err)
{
    struct prefix_cache *c = calloc(1, sizeof(*c));

    if (c != NULL)
        c->buckets = calloc(BUCKETS, sizeof(struct prefix_block *));
    if (c == NULL || c->buckets == NULL) {
        error_set(err, STATUS_NOMEM, "no memory for the table of shared prefixes");
        free(c);
        return NULL;
    }
    c->pool = pool;
    c->count_max = PREFIX_BLOCKS_MAX;
    TAILQ_INIT(&c->blocks);
    TAILQ_INIT(&c->idle);
    /* So that nobody can choose tokens that all fall into one bucket.  Without it they still can,
     * and that costs time alone. */
    if (getrandom(&c->seed, sizeof(c->seed), GRND_NONBLOCK) != (ssize_t)sizeof(c->seed))
        c->seed = (uint64_t)(uintptr_t)c;
    return c;
}

void prefix_destroy(struct prefix_cache *c)
{
    if (c == NULL)
        return;
    while (prefix_evict(c))
        ;
    free(c->buckets);
    free(c);
}

uint32_t prefix_block_tokens(const struct model *m)
{
    uint32_t tokens = m->kv.layers != 0 ? m->kv.page_tokens : 0;

    if (m->kv_local.layers != 0 && m->kv_local.page_tokens > tokens)
        tokens = m->kv_local.page_tokens;
    return tokens;
}

/* --- blocks ----------------------------------------------------------------------------------- */

/* splitmix64's finalizer. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t key_of(const struct prefix_cache *c, const struct prefix_block *parent,
                       const uint32_t *tokens, uint32_t count)
{
    uint64_t key = parent == NULL ? c->seed : parent->key;

    for (uint32_t i = 0; i < count; i++)
        key = mix(key + UINT64_C(0x9e3779b97f4a7c15) + tokens[i]);
    return key;
}

struct prefix_block *prefix_find(const struct prefix_cache *c, const struct prefix_block *parent,
                                 const uint32_t *tokens, uint32_t count)
{
    uint64_t key = key_of(c, parent, tokens, count);
    struct prefix_block *b = c->buckets[key % BUCKETS];

    while (b != NULL && (b->key != key || b->parent != parent || b->token_count != count ||
                         memcmp(b->tokens, tokens, count * sizeof(*tokens)) != 0))
        b = b->chain;
    return b;
}

/* A new one, held once, with room for so many pages of each kind. */
static struct prefix_block *add(struct prefix_cache *c, struct prefix_block *parent,
                                const uint32_t *tokens, uint32_t count, const uint32_t pages[2])
{
    uint64_t head = (sizeof(struct prefix_block) + count * sizeof(*tokens) + 15) / 16 * 16;
    struct prefix_block *b;
    struct prefix_page *p;

    if (c->count >= c->count_max)
        return NULL;
    b = calloc(1, head + (pages[0] + pages[1]) * sizeof(*p));
    if (b == NULL)
        return NULL;
    p = (struct prefix_page *)(void *)((uint8_t *)b + head);
    b->parent = parent;
    b->key = key_of(c, parent, tokens, count);
    b->holds = 1;
    b->token_count = count;
    memcpy(b->tokens, tokens, count * sizeof(*tokens));
    for (int i = 0; i < 2; p += pages[i++]) {
        b->page_count[i] = pages[i];
        b->pages[i] = p;
        for (uint32_t j = 0; j < pages[i]; j++)
            p[j].block = b;
    }
    b->chain = c->buckets[b->key % BUCKETS];
    c->buckets[b->key % BUCKETS] = b;
    TAILQ_INSERT_TAIL(&c->blocks, b, link);
    c->count++;
    if (parent != NULL)
        parent->holds++;
    return b;
}

struct prefix_block *prefix_root(struct prefix_cache *c, const struct model *m, uint32_t sharing)
{
    const uint32_t tokens[ROOT_TOKENS] = {m->id, sharing}, none[2] = {0, 0};
    struct prefix_block *b = prefix_find(c, NULL, tokens, ROOT_TOKENS);

    if (b == NULL)
        return add(c, NULL, tokens, ROOT_TOKENS, none);
    b->holds++;
    return b;
}

struct prefix_block *prefix_make(struct prefix_cache *c, struct prefix_block *parent,
                                 const struct model *m, const uint32_t *tokens)
{
    uint32_t count = prefix_block_tokens(m);
    const uint32_t pages[2] = {m->kv.layers != 0 ? count / m->kv.page_tokens : 0,
                               m->kv_local.layers != 0 ? count / m->kv_local.page_tokens : 0};
    struct prefix_block *b = prefix_find(c, parent, tokens, count);

    if (b == NULL)
        return add(c, parent, tokens, count, pages);
    b->holds++;
    return b;
}

void prefix_hold(struct prefix_block *b)
{
    b->holds++;
}

/* Forget a block that nobody needs, and those above it that nobody needs then. */
static void forget(struct prefix_cache *c, struct prefix_block *b)
{
    while (b != NULL && b->holds == 0 && b->there == 0) {
        struct prefix_block *parent = b->parent, **at = &c->buckets[b->key % BUCKETS];
        while (*at != b)
            at = &(*at)->chain;
        *at = b->chain;
        TAILQ_REMOVE(&c->blocks, b, link);
        c->count--;
        free(b);
        b = parent;
        if (b != NULL)
            b->holds--;
    }
}

void prefix_let_go(struct prefix_cache *c, struct prefix_block *b)
{
    b->holds--;
    forget(c, b);
}

/* --- pages ------------------------------------------------------------------------------------ */

void prefix_keep(struct prefix_page *p, void *page)
{
    p->page = page;
    p->refs = 1;
    p->block->there++;
}

void prefix_use(struct prefix_cache *c, struct prefix_page *p)
{
    if (p->refs++ > 0)
        return;
    TAILQ_REMOVE(&c->idle, p, link);
    pages_set_idle(c->pool, p->page, 0);
}

void prefix_release(struct prefix_cache *c, struct prefix_page *p)
{
    if (--p->refs > 0)
        return;
    TAILQ_INSERT_TAIL(&c->idle, p, link);
    pages_set_idle(c->pool, p->page, 1);
}

int prefix_evict(struct prefix_cache *c)
{
    struct prefix_page *p = TAILQ_FIRST(&c->idle);

    if (p == NULL)
        return 0;
    TAILQ_REMOVE(&c->idle, p, link);
    pages_give(c->pool, p->page);
    p->page = NULL;
    p->block->there--;
    forget(c, p->block);
    return 1;
}

void prefix_forward(struct prefix_cache *c)
{
    struct prefix_block *b;

    TAILQ_FOREACH(b, &c->blocks, link)
    {
        for (int i = 0; i < 2; i++)
            for (uint32_t j = 0; j < b->page_count[i]; j++)
                if (b->pages[i][j].page != NULL)
                    b->pages[i][j].page = pages_forward(c->pool, b->pages[i][j].page);
    }
}
