/* share.c - sequences and the prefix cache */
#include "engine/share.h"

#include <string.h>

static const struct kv_layout *layout(const struct model *m, int kind)
{
    return kind == 0 ? &m->kv : &m->kv_local;
}

static uint32_t window(const struct model *m, int kind)
{
    return kind == 0 ? m->window : m->window_local;
}

/* Stand at the root if nowhere yet.  0: it shares nothing (any more). */
static int begin(struct sequence_list *l, struct sequence *s)
{
    if (s->sharing == 0)
        return 0;
    if (s->at == NULL)
        s->at = prefix_root(l->prefixes, s->model, s->sharing);
    if (s->at == NULL)
        s->sharing = 0;
    return s->at != NULL;
}

/* One block down; `next` is held already. */
static void descend(struct sequence_list *l, struct sequence *s, struct prefix_block *next)
{
    prefix_let_go(l->prefixes, s->at);
    s->at = next;
    s->blocks++;
}

static void leave(struct sequence_list *l, struct sequence *s)
{
    if (s->at != NULL)
        prefix_let_go(l->prefixes, s->at);
    s->at = NULL;
    s->blocks = 0;
}

/* --- handing over ----------------------------------------------------------------------------- */

/* The sequence's pages of a block become the block's, where it lacks them. */
static void hand_over(struct sequence *s, struct prefix_block *b)
{
    for (int kind = 0; kind < 2; kind++) {
        struct page_list *list = &s->caches[kind];
        for (uint32_t k = 0; k < b->page_count[kind]; k++) {
            uint32_t i = s->blocks * b->page_count[kind] + k;
            struct prefix_page *p = &b->pages[kind][k];
            if (p->page != NULL || i < list->gone || list->shared[i] != NULL)
                continue;
            if (i >= list->count) /* it went to host memory before its last token was known */
                continue;
            prefix_keep(p, list->pages[i]);
            list->shared[i] = p;
        }
    }
}

void share_publish(struct sequence_list *l, struct sequence *s)
{
    uint32_t size = prefix_block_tokens(s->model);
    uint32_t end = s->computed < s->count ? s->computed : s->count;

    if (end < (s->blocks + 1) * size || !begin(l, s))
        return;
    while ((s->blocks + 1) * size <= end) {
        struct prefix_block *b =
            prefix_make(l->prefixes, s->at, s->model, s->tokens + s->blocks * size);
        if (b == NULL) {
            leave(l, s);
            s->sharing = 0;
            return;
        }
        hand_over(s, b);
        descend(l, s, b);
    }
}

void share_end(struct sequence_list *l, struct sequence *s)
{
    share_publish(l, s);
    leave(l, s);
}

/* --- finding ---------------------------------------------------------------------------------- */

/* What of a walk down the tree can be used: from which page of each kind on all are there. */
struct walk {
    uint32_t from[2];
    uint32_t tokens; /* so many positions can be taken over */
};

/* The next block on the way, number `block`. */
static void look_at(struct walk *w, const struct prefix_block *b, uint32_t block)
{
    for (int kind = 0; kind < 2; kind++)
        for (uint32_t k = 0; k < b->page_count[kind]; k++)
            if (b->pages[kind][k].page == NULL)
                w->from[kind] = block * b->page_count[kind] + k + 1;
}

/* Whether positions 0..n-1 can be taken over, as far as the walk has come. */
static int is_usable(const struct walk *w, const struct model *m, uint32_t n)
{
    for (int kind = 0; kind < 2; kind++) {
        const struct kv_layout *kv = layout(m, kind);
        if (kv->layers != 0 && w->from[kind] > sequence_unseen(kv, window(m, kind), n))
            return 0;
    }
    return 1;
}

/* How far the tree goes along with the sequence's tokens, and how much of that can be used. */
static uint32_t usable_tokens(const struct sequence_list *l, const struct sequence *s,
                              uint32_t size)
{
    struct walk w = {{s->caches[0].gone, s->caches[1].gone}, s->computed};
    const struct prefix_block *b = s->at;
    uint32_t block = s->blocks;

    /* The last token is computed. */
    while ((block + 1) * size < s->count) {
        b = prefix_find(l->prefixes, b, s->tokens + block * size, size);
        if (b == NULL)
            break;
        look_at(&w, b, block++);
        if (is_usable(&w, s->model, block * size))
            w.tokens = block * size;
    }
    return w.tokens;
}

/* A block's pages, as far as a token from position `end` on sees them, become the sequence's next
 * ones. */
static void take_over(struct sequence_list *l, struct sequence *s, struct prefix_block *b,
                      uint32_t end)
{
    for (int kind = 0; kind < 2; kind++) {
        struct page_list *list = &s->caches[kind];
        uint32_t unseen = sequence_unseen(layout(s->model, kind), window(s->model, kind), end);
        for (uint32_t k = 0; k < b->page_count[kind]; k++) {
            uint32_t i = list->count++;
            if (i < unseen) {
                list->gone = i + 1;
                continue;
            }
            prefix_use(l->prefixes, &b->pages[kind][k]);
            list->pages[i] = b->pages[kind][k].page;
            list->shared[i] = &b->pages[kind][k];
        }
    }
}

/* Own pages that hold nothing yet, and those that no token from position `end` on sees, go. */
static void clear_way(struct sequence_list *l, struct sequence *s, uint32_t end)
{
    for (int kind = 0; kind < 2; kind++) {
        const struct kv_layout *kv = layout(s->model, kind);
        struct page_list *list = &s->caches[kind];
        uint32_t unseen = sequence_unseen(kv, window(s->model, kind), end);
        uint32_t full = s->computed / kv->page_tokens;
        if (kv->layers == 0)
            continue;
        while (list->count > full) {
            pages_give(l->pool, list->pages[--list->count]);
            list->pages[list->count] = NULL;
        }
        sequence_give_first(l, list, unseen < list->count ? unseen : list->count);
    }
}

static uint32_t of_prompt(const struct sequence *s, uint32_t tokens)
{
    return tokens < s->prompt ? tokens : s->prompt;
}

void share_attach(struct sequence_list *l, struct sequence *s)
{
    uint32_t size = prefix_block_tokens(s->model), end;

    if (s->sharing == 0 || s->pending != 0 || s->computed != s->blocks * size ||
        s->count - s->computed <= size || !begin(l, s))
        return;
    end = usable_tokens(l, s, size);
    if (end == s->computed)
        return;
    clear_way(l, s, end);
    s->cached += of_prompt(s, end) - of_prompt(s, s->computed);
    s->computed = end;
    while (s->blocks * size < end) {
        struct prefix_block *b =
            prefix_find(l->prefixes, s->at, s->tokens + s->blocks * size, size);
        take_over(l, s, b, end);
        prefix_hold(b);
        descend(l, s, b);
    }
}

int share_follows(const struct sequence *s, const struct sequence *first, uint32_t rows)
{
    uint32_t size;

    if (s->at == NULL || s->at != first->at)
        return 0;
    size = prefix_block_tokens(s->model);
    return s->pending == 0 && s->computed == s->blocks * size && s->count - s->computed > size &&
           first->count - s->computed >= size && first->computed + rows >= s->computed + size &&
           memcmp(s->tokens + s->computed, first->tokens + s->computed,
                  size * sizeof(*s->tokens)) == 0;
}
