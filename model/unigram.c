#include "model/unigram.h"

#include <stdlib.h>
#include <string.h>

#include "model/bpe.h"
#include "model/utf8.h"

#define UNKNOWN_PENALTY 10.0 /* below the lowest score */

/* The best way to write the text up to a byte. */
struct unigram_node {
    double score;
    uint32_t begin; /* of its last token; UINT32_MAX: there is no way yet */
    uint32_t token;
};

/* Creating */

static int compare_texts(const void *a, const void *b, void *vocabulary)
{
    const struct vocabulary *v = vocabulary;

    return strcmp(v->tokens[*(const uint32_t *)a].text, v->tokens[*(const uint32_t *)b].text);
}

int unigram_set(struct unigram *u, const struct vocabulary *v, const double *scores, size_t count,
                struct error *err)
{
    u->order = calloc(count + 1, sizeof(*u->order));
    u->scores = calloc(count + 1, sizeof(*u->scores));
    if (!u->order || !u->scores)
        return error_set(err, STATUS_NOMEM, "no memory for a unigram model");
    for (size_t i = 0; i < count; i++) {
        u->scores[i] = scores[i];
        if (i == 0 || scores[i] < u->lowest)
            u->lowest = scores[i];
        if (v->tokens[i].text_len > 0)
            u->order[u->count++] = (uint32_t)i;
    }
    qsort_r(u->order, u->count, sizeof(*u->order), compare_texts, (void *)v);
    return 0;
}

void unigram_free(struct unigram *u)
{
    free(u->order);
    free(u->scores);
}

static int grow_work(struct unigram_work *w, size_t len, struct error *err)
{
    size_t room = len + 1 < 256 ? 256 : len + 1;
    struct unigram_node *nodes;
    uint32_t *tokens;

    if (len < w->room)
        return 0;
    nodes = reallocarray(w->nodes, room, sizeof(*nodes));
    if (nodes)
        w->nodes = nodes;
    tokens = reallocarray(w->tokens, room, sizeof(*tokens));
    if (tokens)
        w->tokens = tokens;
    if (!nodes || !tokens)
        return error_set(err, STATUS_NOMEM, "no memory to tokenize a text of %zu bytes", len);
    w->room = room;
    return 0;
}

void unigram_work_free(struct unigram_work *w)
{
    free(w->nodes);
    free(w->tokens);
}

/* Encoding */

/* The first of order[low..high), which agree in their first `depth` bytes, whose next byte is at
 * least `byte`; the end of a text counts as 0. */
static size_t first_from(const struct unigram *u, const struct vocabulary *v, size_t depth,
                         unsigned byte, size_t low, size_t high)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if ((unsigned char)v->tokens[u->order[middle]].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void offer(struct unigram_node *to, double score, size_t begin, uint32_t token)
{
    if (to->begin == UINT32_MAX || score > to->score)
        *to = (struct unigram_node){score, (uint32_t)begin, token};
}

/* Every token that begins at a byte; 1 if one of them is the character there. */
static int offer_tokens(const struct unigram *u, const struct vocabulary *v,
                        struct unigram_node *nodes, const char *text, size_t len, size_t at,
                        size_t character)
{
    size_t low = 0, high = u->count;
    int has_character = 0;

    for (size_t depth = 0; at + depth < len && low < high && text[at + depth] != '\0'; depth++) {
        unsigned byte = (unsigned char)text[at + depth];
        uint32_t token;

        low = first_from(u, v, depth, byte, low, high);
        high = first_from(u, v, depth, byte + 1, low, high);
        if (low == high)
            break;
        token = u->order[low]; /* of several, the shortest comes first */
        if (v->tokens[token].text_len != depth + 1)
            continue;
        offer(&nodes[at + depth + 1], nodes[at].score + u->scores[token], at, token);
        has_character |= depth + 1 == character;
    }
    return has_character;
}

static int push_bytes(const struct vocabulary *v, const char *text, size_t len,
                      struct token_list *out, struct error *err)
{
    for (size_t i = 0; i < len; i++)
        if (token_push(out, v->of_byte[(unsigned char)text[i]], err))
            return -1;
    return 0;
}

/* A run of what has no token. */
static int push_unknown(const struct unigram *u, const struct vocabulary *v, const char *text,
                        size_t len, struct token_list *out, struct error *err)
{
    uint32_t token = vocabulary_find(v, text, len);
    int complete = u->byte_fallback;

    if (token != NO_TOKEN && token < u->count)
        return token_push(out, token, err);
    for (size_t i = 0; complete && i < len; i++)
        complete = v->of_byte[(unsigned char)text[i]] != NO_TOKEN;
    return complete ? push_bytes(v, text, len, out, err) : token_push(out, u->unknown, err);
}

/* From the last token back to the first, then forwards. */
static int push_best(const struct unigram *u, const struct vocabulary *v, struct unigram_work *w,
                     const char *text, size_t len, struct token_list *out, struct error *err)
{
    size_t count = 0, unknown = 0, at = 0; /* unknown: bytes that wait, before `at` */

    for (size_t end = len; end > 0; end = w->nodes[end].begin)
        w->tokens[count++] = (uint32_t)end;
    while (count > 0) {
        size_t end = w->tokens[--count];
        uint32_t token = w->nodes[end].token;

        if (token == u->unknown) {
            unknown += end - at;
        } else {
            if ((unknown && push_unknown(u, v, text + at - unknown, unknown, out, err)) ||
                token_push(out, token, err))
                return -1;
            unknown = 0;
        }
        at = end;
    }
    return unknown ? push_unknown(u, v, text + at - unknown, unknown, out, err) : 0;
}

int unigram_encode(const struct unigram *u, const struct vocabulary *v, struct unigram_work *w,
                   const char *text, size_t len, struct token_list *out, struct error *err)
{
    struct unigram_node *nodes;
    size_t n;

    if (grow_work(w, len, err))
        return -1;
    nodes = w->nodes;
    nodes[0] = (struct unigram_node){0, 0, NO_TOKEN};
    for (size_t i = 1; i <= len; i++)
        nodes[i].begin = UINT32_MAX;
    for (size_t at = 0; at < len; at += n) {
        n = (size_t)utf8_measure(text + at, len - at);
        if (offer_tokens(u, v, nodes, text, len, at, n))
            continue;
        if (u->unknown == NO_TOKEN)
            return error_set(err, STATUS_INVALID,
                             "the text has a character at byte %zu for which there is no token",
                             at);
        offer(&nodes[at + n], nodes[at].score + (u->lowest - UNKNOWN_PENALTY), at, u->unknown);
    }
    return push_best(u, v, w, text, len, out, err);
}
