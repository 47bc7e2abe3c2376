#include "model/bpe.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_metadata.h"

#define PROBES_MAX 1024u
#define MERGES_MAX (1u << 24)
#define NONE       (-1)

struct bpe_symbol {
    uint32_t token; /* NO_TOKEN: merged into the one before */
    int32_t previous, next;
};

/* Ranks */

/* The finalizer of splitmix64 (Steele 2014). */
static uint64_t hash_pair(uint32_t left, uint32_t right)
{
    uint64_t h = (uint64_t)left << 32 | right;

    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 27) * 0x94d049bb133111ebu;
    return h ^ h >> 31;
}

/* The slot of a pair: taken by it, or free.  NULL if the search is too long. */
static struct bpe_pair *find_pair(const struct bpe *b, uint32_t left, uint32_t right)
{
    uint64_t slot = hash_pair(left, right) & b->mask;

    for (unsigned i = 0; i < PROBES_MAX; i++, slot = (slot + 1) & b->mask) {
        struct bpe_pair *p = &b->slots[slot];

        if (p->rank == UINT32_MAX || (p->left == left && p->right == right))
            return p;
    }
    return NULL;
}

/* "left right" to their tokens and the token of both together. */
static int parse_merge(struct bpe_pair *pair, const struct vocabulary *v,
                       const struct gguf_string *text, char *joined)
{
    const char *space = memchr(text->data, ' ', text->len);
    size_t left, right;

    if (!space || text->len > UINT16_MAX)
        return -1;
    left = (size_t)(space - text->data);
    right = text->len - left - 1;
    memcpy(joined, text->data, left);
    memcpy(joined + left, space + 1, right);
    pair->left = vocabulary_find(v, joined, left);
    pair->right = vocabulary_find(v, space + 1, right);
    pair->merged = vocabulary_find(v, joined, left + right);
    if (left == 0 || right == 0 || pair->left == NO_TOKEN || pair->right == NO_TOKEN ||
        pair->merged == NO_TOKEN)
        return -1;
    return 0;
}

static int fill_pairs(struct bpe *b, const struct vocabulary *v, const struct gguf *g,
                      const struct gguf_string *texts, uint64_t count, struct error *err)
{
    char joined[UINT16_MAX + 1], shown[GGUF_SHOWN_MAX];

    for (uint64_t i = 0; i < count; i++) {
        struct bpe_pair pair = {.rank = (uint32_t)i}, *slot;

        if (parse_merge(&pair, v, &texts[i], joined))
            return error_set(err, STATUS_CORRUPT,
                             "%s: merge %" PRIu64 " (%s) is no pair of tokens that make a token",
                             g->name, i, gguf_show(&texts[i], shown));
        slot = find_pair(b, pair.left, pair.right);
        if (!slot)
            return error_set(err, STATUS_CORRUPT, "%s: merge %" PRIu64 ": too many hash alike",
                             g->name, i);
        *slot = pair; /* of a pair that is there twice the last rank holds, as in Hugging Face's */
    }
    return 0;
}

int bpe_read(struct bpe *b, const struct vocabulary *v, const struct gguf *g, struct error *err)
{
    struct gguf_string *texts = NULL;
    uint64_t count = 0, slots = 16;
    int rv = -1, found;

    memset(b, 0, sizeof(*b));
    found = gguf_get_strings(g, "tokenizer.ggml.merges", &texts, &count, err);
    if (found == 1)
        error_set(err, STATUS_CORRUPT, "%s: key tokenizer.ggml.merges is missing", g->name);
    if (found)
        goto out;
    if (count > MERGES_MAX) {
        error_set(err, STATUS_CORRUPT, "%s: %" PRIu64 " merges are too many", g->name, count);
        goto out;
    }
    while (slots < count * 2)
        slots *= 2;
    b->slots = malloc(slots * sizeof(*b->slots));
    if (!b->slots) {
        error_set(err, STATUS_NOMEM, "%s: no memory for its merges", g->name);
        goto out;
    }
    memset(b->slots, 0xff, slots * sizeof(*b->slots)); /* every rank UINT32_MAX */
    b->mask = slots - 1;
    rv = fill_pairs(b, v, g, texts, count, err);
out:
    free(texts);
    return rv;
}

void bpe_free(struct bpe *b)
{
    free(b->slots);
}

/* The heap: keys of rank, then position, the least on top */

static void heap_push(uint64_t *heap, size_t *count, uint64_t key)
{
    size_t at = (*count)++;

    while (at > 0 && heap[(at - 1) / 2] > key) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = key;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count)
{
    uint64_t top = heap[0], key = heap[--*count];
    size_t at = 0, child;

    while ((child = 2 * at + 1) < *count) {
        if (child + 1 < *count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= key)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
    return top;
}

/* Merging */

int token_push(struct token_list *list, uint32_t token, struct error *err)
{
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 64;
        uint32_t *tokens = reallocarray(list->tokens, room, sizeof(*tokens));

        if (!tokens)
            return error_set(err, STATUS_NOMEM, "no memory for %zu tokens", room);
        list->tokens = tokens;
        list->room = room;
    }
    list->tokens[list->count++] = token;
    return 0;
}

static int grow_work(struct bpe_work *w, size_t symbols, struct error *err)
{
    size_t room = symbols < 256 ? 256 : symbols;
    struct bpe_symbol *grown;
    uint64_t *heap;

    if (symbols <= w->room)
        return 0;
    grown = reallocarray(w->symbols, room, sizeof(*grown));
    if (grown)
        w->symbols = grown;
    heap = reallocarray(w->heap, room, 2 * sizeof(*heap));
    if (heap)
        w->heap = heap;
    if (!grown || !heap)
        return error_set(err, STATUS_NOMEM, "no memory to tokenize a word of %zu bytes", symbols);
    w->room = room;
    return 0;
}

void bpe_work_free(struct bpe_work *w)
{
    free(w->symbols);
    free(w->heap);
}

/* The pair that begins at a symbol; NULL if there is no merge for it. */
static const struct bpe_pair *pair_at(const struct bpe *b, const struct bpe_symbol *s, int32_t at)
{
    const struct bpe_pair *p;

    if (s[at].token == NO_TOKEN || s[at].next == NONE)
        return NULL;
    p = find_pair(b, s[at].token, s[s[at].next].token);
    return p && p->rank != UINT32_MAX ? p : NULL;
}

static void offer(const struct bpe *b, struct bpe_work *w, size_t *count, int32_t at)
{
    const struct bpe_pair *p = pair_at(b, w->symbols, at);

    if (p)
        heap_push(w->heap, count, (uint64_t)p->rank << 32 | (uint32_t)at);
}

/*
 * Each merge takes at least its own entry from the heap and adds two, and there are fewer merges
 * than symbols: twice as many entries as symbols always suffice.  An entry whose pair has changed
 * since is known by its rank.
 */
static void merge(const struct bpe *b, struct bpe_work *w, int32_t symbols)
{
    struct bpe_symbol *s = w->symbols;
    size_t count = 0;

    for (int32_t i = 0; i < symbols; i++)
        offer(b, w, &count, i);
    while (count > 0) {
        uint64_t key = heap_pop(w->heap, &count);
        int32_t at = (int32_t)(key & UINT32_MAX), next;
        const struct bpe_pair *p = pair_at(b, s, at);

        if (!p || p->rank != key >> 32)
            continue;
        next = s[at].next;
        s[at].token = p->merged;
        s[at].next = s[next].next;
        s[next].token = NO_TOKEN;
        if (s[at].next != NONE)
            s[s[at].next].previous = at;
        if (s[at].previous != NONE)
            offer(b, w, &count, s[at].previous);
        offer(b, w, &count, at);
    }
}

int bpe_encode(const struct bpe *b, const struct vocabulary *v, struct bpe_work *w,
               const char *bytes, size_t len, struct token_list *out, struct error *err)
{
    int32_t count = 0;

    if (grow_work(w, len, err))
        return -1;
    for (size_t i = 0; i < len; i++) {
        uint32_t token = v->of_byte[(unsigned char)bytes[i]];

        if (token == NO_TOKEN)
            continue;
        w->symbols[count] = (struct bpe_symbol){token, count - 1, count + 1};
        count++;
    }
    if (count == 0)
        return 0;
    w->symbols[count - 1].next = NONE;
    merge(b, w, count);
    for (int32_t at = 0; at != NONE; at = w->symbols[at].next)
        if (token_push(out, w->symbols[at].token, err))
            return -1;
    return 0;
}
