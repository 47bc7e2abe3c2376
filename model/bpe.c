#include "model/bpe.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_metadata.h"
#include "model/utf8.h"

/* Longer pieces are merged from symbols, with the same result where merges lead there. */
#define WHOLE_BYTES_MAX 1024u
#define PROBES_MAX      1024u
#define MERGES_MAX      (1u << 24)
#define NONE            (-1)
/* Of a token's text where all its cuts are looked up. */
#define CUT_BYTES_MAX 1024u

struct bpe_symbol {
    uint32_t token;      /* NO_TOKEN: none has this text */
    uint32_t begin, len; /* in the piece; of length 0 if merged into the one before */
    int32_t previous, next;
    uint32_t rank, merged; /* of the pair with the next one; UINT32_MAX: that is none */
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

/* Most pairs of neighbours make no token, which the filter, small enough for a cache, mostly
 * knows. */
static uint64_t filter_bit(const struct bpe *b, uint64_t hash)
{
    return hash >> 20 & (b->mask << 2 | 3);
}

/* The slot of a pair: taken by it, or free.  NULL if the search is too long. */
static struct bpe_pair *find_slot(const struct bpe *b, uint64_t hash, uint32_t left, uint32_t right)
{
    uint64_t slot = hash & b->mask;

    for (unsigned i = 0; i < PROBES_MAX; i++, slot = (slot + 1) & b->mask) {
        struct bpe_pair *p = &b->slots[slot];

        if (p->rank == UINT32_MAX || (p->left == left && p->right == right))
            return p;
    }
    return NULL;
}

static const struct bpe_pair *find_pair(const struct bpe *b, uint32_t left, uint32_t right)
{
    uint64_t hash = hash_pair(left, right), bit = filter_bit(b, hash);
    const struct bpe_pair *p;

    if (!(b->filter[bit / 64] >> bit % 64 & 1))
        return NULL;
    p = find_slot(b, hash, left, right);
    return p && p->rank != UINT32_MAX ? p : NULL;
}

/* In place of one of the same tokens.  -1: too many hash alike. */
static int put_pair(struct bpe *b, const struct bpe_pair *pair)
{
    uint64_t hash = hash_pair(pair->left, pair->right), bit = filter_bit(b, hash);
    struct bpe_pair *slot = find_slot(b, hash, pair->left, pair->right);

    if (!slot)
        return -1;
    *slot = *pair;
    b->filter[bit / 64] |= (uint64_t)1 << bit % 64;
    return 0;
}

/* A merge's texts to their tokens and the token of both together. */
static int find_merge(struct bpe_pair *pair, const struct vocabulary *v, const struct bpe_merge *m,
                      char joined[UINT16_MAX + 1])
{
    if (m->left_len == 0 || m->right_len == 0 || m->left_len > UINT16_MAX ||
        m->right_len > UINT16_MAX - m->left_len)
        return -1;
    memcpy(joined, m->left, m->left_len);
    memcpy(joined + m->left_len, m->right, m->right_len);
    pair->left = vocabulary_find(v, m->left, m->left_len);
    pair->right = vocabulary_find(v, m->right, m->right_len);
    pair->merged = vocabulary_find(v, joined, m->left_len + m->right_len);
    return pair->left == NO_TOKEN || pair->right == NO_TOKEN || pair->merged == NO_TOKEN ? -1 : 0;
}

static int refuse_merge(const char *name, uint64_t i, const struct bpe_merge *m, struct error *err)
{
    const struct gguf_string left = {m->left, m->left_len}, right = {m->right, m->right_len};
    char shown[2][GGUF_SHOWN_MAX];

    return error_set(err, STATUS_CORRUPT,
                     "%s: merge %" PRIu64 " (%s %s) is no pair of tokens that make a token", name,
                     i, gguf_show(&left, shown[0]), gguf_show(&right, shown[1]));
}

static int create_slots(struct bpe *b, const char *name, uint64_t count, struct error *err)
{
    uint64_t slots = 16;

    if (count > MERGES_MAX)
        return error_set(err, STATUS_CORRUPT, "%s: %" PRIu64 " merges are too many", name, count);
    while (slots < count * 2)
        slots *= 2;
    b->slots = malloc(slots * sizeof(*b->slots));
    b->filter = calloc(slots / 16, sizeof(*b->filter));
    if (!b->slots || !b->filter)
        return error_set(err, STATUS_NOMEM, "%s: no memory for its merges", name);
    memset(b->slots, 0xff, slots * sizeof(*b->slots)); /* every rank UINT32_MAX */
    b->mask = slots - 1;
    return 0;
}

int bpe_set_merges(struct bpe *b, const struct vocabulary *v, const char *name,
                   const struct bpe_merge *merges, uint64_t count, struct error *err)
{
    char joined[UINT16_MAX + 1];

    if (create_slots(b, name, count, err))
        return -1;
    for (uint64_t i = 0; i < count; i++) {
        struct bpe_pair pair = {.rank = (uint32_t)i};

        if (find_merge(&pair, v, &merges[i], joined))
            return refuse_merge(name, i, &merges[i], err);
        /* Of a pair that is there twice the last rank holds, as in Hugging Face's. */
        if (put_pair(b, &pair))
            return error_set(err, STATUS_CORRUPT, "%s: merge %" PRIu64 ": too many hash alike",
                             name, i);
    }
    return 0;
}

static int takes_part(const struct vocabulary *v, uint32_t token, int any)
{
    return token != NO_TOKEN && (any || v->tokens[token].type == TOKEN_NORMAL);
}

/* The ways to cut a token into two others, of any type or NORMAL ones, as pairs; with pairs NULL
 * they are counted.  Cuts lie between characters, which are bytes in GPT-2's alphabet. */
static uint64_t cut_token(const struct vocabulary *v, uint32_t token, int any,
                          struct bpe_pair *pairs)
{
    const struct token *t = &v->tokens[token];
    uint64_t count = 0;

    for (uint32_t at = 1; at < t->text_len; at++) {
        struct bpe_pair pair = {.merged = token};

        if (((unsigned char)t->text[at] & 0xc0) == 0x80)
            continue;
        pair.left = vocabulary_find(v, t->text, at);
        if (!takes_part(v, pair.left, any))
            continue;
        pair.right = vocabulary_find(v, t->text + at, t->text_len - at);
        if (!takes_part(v, pair.right, any))
            continue;
        if (pairs)
            pairs[count] = pair;
        count++;
    }
    return count;
}

/* All pairs of tokens that make a NORMAL one; ranks by that one, NULL: its number. */
static int set_cuts(struct bpe *b, const struct vocabulary *v, const char *name,
                    const uint32_t *ranks, struct error *err)
{
    struct bpe_pair pairs[CUT_BYTES_MAX];
    uint64_t count = 0;

    for (uint32_t i = 0; i < v->count; i++) {
        if (v->tokens[i].type != TOKEN_NORMAL)
            continue;
        if (v->tokens[i].text_len > CUT_BYTES_MAX)
            return error_set(err, STATUS_UNSUPPORTED, "%s: token %" PRIu32 " is longer than %u",
                             name, i, CUT_BYTES_MAX);
        count += cut_token(v, i, ranks != NULL, NULL);
    }
    if (create_slots(b, name, count, err))
        return -1;
    for (uint32_t i = 0; i < v->count; i++) {
        count = v->tokens[i].type == TOKEN_NORMAL ? cut_token(v, i, ranks != NULL, pairs) : 0;
        for (uint64_t k = 0; k < count; k++) {
            pairs[k].rank = ranks ? ranks[i] : i;
            if (put_pair(b, &pairs[k]))
                return error_set(err, STATUS_CORRUPT,
                                 "%s: token %" PRIu32 ": too many pairs hash alike", name, i);
        }
    }
    return 0;
}

int bpe_set_ranks(struct bpe *b, const struct vocabulary *v, const char *name, struct error *err)
{
    b->ignores_merges = 1;
    return set_cuts(b, v, name, NULL, err);
}

int bpe_read_merges(struct bpe *b, const struct vocabulary *v, const struct gguf *g,
                    struct error *err)
{
    struct gguf_string *texts = NULL;
    struct bpe_merge *merges = NULL;
    uint64_t count = 0;
    int rv = -1, found;

    found = gguf_get_strings(g, "tokenizer.ggml.merges", &texts, &count, err);
    if (found == 1)
        error_set(err, STATUS_CORRUPT, "%s: key tokenizer.ggml.merges is missing", g->name);
    if (found)
        goto out;
    merges = calloc(count ? count : 1, sizeof(*merges));
    if (!merges) {
        error_set(err, STATUS_NOMEM, "%s: no memory for its merges", g->name);
        goto out;
    }
    for (uint64_t i = 0; i < count; i++) {
        const char *space = memchr(texts[i].data, ' ', texts[i].len);
        uint64_t left = space ? (uint64_t)(space - texts[i].data) : texts[i].len;

        merges[i] = (struct bpe_merge){texts[i].data, texts[i].data + left, left, 0};
        if (!space)
            continue; /* an empty right half, which is refused */
        merges[i].right = space + 1;
        merges[i].right_len = texts[i].len - left - 1;
    }
    rv = bpe_set_merges(b, v, g->name, merges, count, err);
out:
    free(merges);
    free(texts);
    return rv;
}

struct scored {
    float score;
    uint32_t token;
};

/* The best first. */
static int compare_scores(const void *a, const void *b)
{
    float x = ((const struct scored *)a)->score, y = ((const struct scored *)b)->score;

    return x > y ? -1 : x < y;
}

/* Equal scores are equal ranks: of those the leftmost pair merges first. */
static void rank(struct bpe *b, const struct vocabulary *v, const struct scored *order)
{
    uint32_t now = 0;

    for (uint32_t i = 0; i < v->count; i++) {
        if (i > 0 && order[i].score < order[i - 1].score)
            now = i;
        b->ranks[order[i].token] =
            v->tokens[order[i].token].type == TOKEN_NORMAL ? now : UINT32_MAX;
    }
}

int bpe_set_scores(struct bpe *b, const struct vocabulary *v, const char *name, const float *scores,
                   struct error *err)
{
    struct scored *order = calloc(v->count, sizeof(*order));
    int rv = -1;

    b->ranks = calloc(v->count, sizeof(*b->ranks));
    if (!order || !b->ranks) {
        error_set(err, STATUS_NOMEM, "%s: no memory for its scores", name);
        goto out;
    }
    for (uint32_t i = 0; i < v->count; i++) {
        if (isnan(scores[i])) {
            error_set(err, STATUS_CORRUPT, "%s: the score of token %" PRIu32 " is no number", name,
                      i);
            goto out;
        }
        order[i] = (struct scored){scores[i], i};
    }
    qsort(order, v->count, sizeof(*order), compare_scores);
    rank(b, v, order);
    rv = set_cuts(b, v, name, b->ranks, err);
out:
    free(order);
    return rv;
}

int bpe_read_scores(struct bpe *b, const struct vocabulary *v, const struct gguf *g,
                    struct error *err)
{
    float *scores = NULL;
    uint64_t count = 0;
    int rv = -1, found = gguf_get_f32s(g, "tokenizer.ggml.scores", &scores, &count, err);

    if (found < 0)
        return -1;
    if (found == 1 || count != v->count)
        error_set(err, STATUS_CORRUPT,
                  "%s: key tokenizer.ggml.scores has %" PRIu64 " elements for %" PRIu32 " tokens",
                  g->name, count, v->count);
    else
        rv = bpe_set_scores(b, v, g->name, scores, err);
    free(scores);
    return rv;
}

void bpe_free(struct bpe *b)
{
    free(b->slots);
    free(b->filter);
    free(b->ranks);
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

struct merger {
    const struct bpe *b;
    const struct vocabulary *v;
    struct bpe_work *w;
    const char *bytes;
    size_t count; /* of the heap */
    int32_t symbols;
};

/* The rank of the pair that begins at a symbol and the token that it makes; UINT32_MAX: none. */
static uint32_t rank_at(const struct merger *m, const struct bpe_symbol *s, uint32_t *merged)
{
    const struct bpe_symbol *next = &m->w->symbols[s->next];
    const struct bpe_pair *p;

    /* By scores, a symbol that is no token may still be part of one: that is known by its text. */
    if (m->b->ranks && (s->token == NO_TOKEN || next->token == NO_TOKEN)) {
        if (s->len + next->len > m->v->text_max)
            return UINT32_MAX;
        *merged = vocabulary_find(m->v, m->bytes + s->begin, s->len + next->len);
        return *merged == NO_TOKEN ? UINT32_MAX : m->b->ranks[*merged];
    }
    p = find_pair(m->b, s->token, next->token);
    if (!p)
        return UINT32_MAX;
    *merged = p->merged;
    return p->rank;
}

static void offer(struct merger *m, int32_t at)
{
    struct bpe_symbol *s = &m->w->symbols[at];

    s->rank = s->next == NONE ? UINT32_MAX : rank_at(m, s, &s->merged);
    if (s->rank != UINT32_MAX)
        heap_push(m->w->heap, &m->count, (uint64_t)s->rank << 32 | (uint32_t)at);
}

/*
 * Each merge takes at least its own entry from the heap and adds two, and there are fewer merges
 * than symbols: twice as many entries as symbols always suffice.  An entry whose pair has changed
 * since is known by its rank.
 */
static void merge(struct merger *m)
{
    struct bpe_symbol *s = m->w->symbols;

    for (int32_t i = 0; i < m->symbols; i++)
        offer(m, i);
    while (m->count > 0) {
        uint64_t key = heap_pop(m->w->heap, &m->count);
        int32_t at = (int32_t)(key & UINT32_MAX), next;

        if (s[at].len == 0 || s[at].rank != key >> 32)
            continue;
        next = s[at].next;
        s[at].token = s[at].merged;
        s[at].len += s[next].len;
        s[at].next = s[next].next;
        s[next].len = 0;
        if (s[at].next != NONE)
            s[s[at].next].previous = at;
        if (s[at].previous != NONE)
            offer(m, s[at].previous);
        offer(m, at);
    }
}

static void add_symbol(struct merger *m, uint32_t token, size_t begin, size_t len)
{
    m->w->symbols[m->symbols] = (struct bpe_symbol){.token = token,
                                                    .begin = (uint32_t)begin,
                                                    .len = (uint32_t)len,
                                                    .previous = m->symbols - 1,
                                                    .next = m->symbols + 1};
    m->symbols++;
}

/* The tokens of the bytes of a character; 0 if one of them is missing. */
static int add_bytes(struct merger *m, size_t begin, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (m->v->of_byte[(unsigned char)m->bytes[begin + i]] == NO_TOKEN)
            return 0;
    for (size_t i = 0; i < len; i++)
        add_symbol(m, m->v->of_byte[(unsigned char)m->bytes[begin + i]], begin + i, 1);
    return 1;
}

static uint32_t find_symbol(const struct merger *m, const char *text, size_t len)
{
    return m->b->characters ? vocabulary_find(m->v, text, len)
                            : m->v->of_byte[(unsigned char)text[0]];
}

/*
 * The symbols to begin with, by the rules of Hugging Face's BPE: what has no token becomes its
 * bytes' tokens, else the unknown one; a run of those is held back until it ends if it is to be
 * one.  By scores, a symbol without a token may still merge into one.
 */
static void begin_symbols(struct merger *m, size_t len)
{
    size_t unknown = 0, unknown_at = 0; /* bytes held back, and where they are */

    for (size_t at = 0, n; at < len; at += n) {
        uint32_t token;

        n = m->b->characters ? (size_t)utf8_measure(m->bytes + at, len - at) : 1;
        token = find_symbol(m, m->bytes + at, n);
        if (token == NO_TOKEN && !m->b->ranks) {
            if (m->b->byte_fallback && add_bytes(m, at, n))
                continue;
            if (m->b->unknown == NO_TOKEN)
                continue;
            if (unknown && !m->b->fuses_unknown) {
                add_symbol(m, m->b->unknown, unknown_at, unknown);
                unknown = 0;
            }
            unknown_at = unknown ? unknown_at : at;
            unknown += n;
            continue;
        }
        if (unknown)
            add_symbol(m, m->b->unknown, unknown_at, unknown);
        unknown = 0;
        add_symbol(m, token, at, n);
    }
    if (unknown)
        add_symbol(m, m->b->unknown, unknown_at, unknown);
}

/* A symbol by scores that has no token of its own in the end. */
static int push_unknown(const struct merger *m, const struct bpe_symbol *s, int *was_unknown,
                        struct token_list *out, struct error *err)
{
    int complete = m->b->byte_fallback;

    for (uint32_t i = 0; complete && i < s->len; i++)
        complete = m->v->of_byte[(unsigned char)m->bytes[s->begin + i]] != NO_TOKEN;
    for (uint32_t i = 0; complete && i < s->len; i++)
        if (token_push(out, m->v->of_byte[(unsigned char)m->bytes[s->begin + i]], err))
            return -1;
    if (complete || m->b->unknown == NO_TOKEN || (*was_unknown && m->b->fuses_unknown))
        return 0;
    *was_unknown = 1;
    return token_push(out, m->b->unknown, err);
}

static int push_symbols(const struct merger *m, struct token_list *out, struct error *err)
{
    int was_unknown = 0;

    for (int32_t at = 0; at != NONE; at = m->w->symbols[at].next) {
        const struct bpe_symbol *s = &m->w->symbols[at];
        int known =
            s->token != NO_TOKEN && (!m->b->ranks || m->v->tokens[s->token].type == TOKEN_NORMAL);

        if (known ? token_push(out, s->token, err) : push_unknown(m, s, &was_unknown, out, err))
            return -1;
        if (known)
            was_unknown = 0;
    }
    return 0;
}

/* A piece as the vocabulary writes it, if it is a token as a whole. */
static uint32_t find_whole(const struct bpe *b, const struct vocabulary *v, const char *piece,
                           size_t len)
{
    char text[2 * WHOLE_BYTES_MAX];
    size_t count = 0;
    uint32_t token;

    if (len > WHOLE_BYTES_MAX)
        return NO_TOKEN;
    for (size_t i = 0; i < len && !b->characters; i++)
        for (const char *c = v->letters[(unsigned char)piece[i]]; *c; c++)
            text[count++] = *c;
    token = b->characters ? vocabulary_find(v, piece, len) : vocabulary_find(v, text, count);
    return token != NO_TOKEN && v->tokens[token].type == TOKEN_NORMAL ? token : NO_TOKEN;
}

int bpe_encode(const struct bpe *b, const struct vocabulary *v, struct bpe_work *w,
               const char *bytes, size_t len, struct token_list *out, struct error *err)
{
    struct merger m = {.b = b, .v = v, .w = w, .bytes = bytes};

    if (b->ignores_merges) {
        uint32_t token = find_whole(b, v, bytes, len);

        if (token != NO_TOKEN)
            return token_push(out, token, err);
    }
    if (grow_work(w, len, err))
        return -1;
    begin_symbols(&m, len);
    if (m.symbols == 0)
        return 0;
    w->symbols[m.symbols - 1].next = NONE;
    merge(&m);
    return push_symbols(&m, out, err);
}
