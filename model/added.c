#include "model/added.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/utf8.h"

/* Bounds the search for added tokens to a constant per byte of text. */
#define TEXT_BYTES_MAX 256u

/* Building */

int added_add(struct added *a, const char *text, size_t len, uint32_t token, unsigned flags,
              struct error *err)
{
    if (len == 0)
        return 0;
    if (len > TEXT_BYTES_MAX)
        return error_set(err, STATUS_UNSUPPORTED,
                         "token %u is an added token of more than %u bytes", token, TEXT_BYTES_MAX);
    if (a->count == a->room) {
        size_t room = a->room ? a->room * 2 : 64;
        struct added_text *grown = reallocarray(a->texts, room, sizeof(*grown));

        if (!grown)
            return error_set(err, STATUS_NOMEM, "no memory for added tokens");
        a->texts = grown;
        a->room = room;
    }
    a->texts[a->count] = (struct added_text){malloc(len + 1), len, token, flags};
    if (!a->texts[a->count].text)
        return error_set(err, STATUS_NOMEM, "no memory for added tokens");
    memcpy(a->texts[a->count].text, text, len);
    a->texts[a->count].text[len] = '\0';
    a->begins[(unsigned char)text[0]] = 1;
    a->count++;
    return 0;
}

/* By text; of the same text, as they were added, which is by token. */
static int compare_texts(const void *a, const void *b)
{
    const struct added_text *x = a, *y = b;
    size_t len = x->len < y->len ? x->len : y->len;
    int order = memcmp(x->text, y->text, len);

    if (order != 0)
        return order;
    if (x->len != y->len)
        return x->len < y->len ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

void added_complete(struct added *a)
{
    if (a->count > 0)
        qsort(a->texts, a->count, sizeof(*a->texts), compare_texts);
}

void added_free(struct added *a)
{
    for (size_t i = 0; i < a->count; i++)
        free(a->texts[i].text);
    free(a->texts);
    *a = (struct added){.texts = NULL};
}

/* Searching */

/* The first of texts[low..high), which agree in their first `depth` bytes and are longer than
 * that, whose next byte is at least `byte`. */
static size_t first_from(const struct added *a, size_t depth, unsigned byte, size_t low,
                         size_t high)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if ((unsigned char)a->texts[middle].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest one at the beginning of text, NULL if there is none: a walk down a trie. */
static const struct added_text *longest(const struct added *a, const char *text, size_t len)
{
    size_t low = 0, high = a->count;
    const struct added_text *best = NULL;

    for (size_t depth = 0; depth < len; depth++) {
        unsigned byte = (unsigned char)text[depth];

        while (low < high && a->texts[low].len <= depth)
            low++; /* those that end here come first */
        low = first_from(a, depth, byte, low, high);
        high = first_from(a, depth, byte + 1, low, high);
        if (low == high)
            break;
        if (a->texts[low].len == depth + 1)
            best = &a->texts[low];
    }
    return best;
}

/* A character of a word, as \w of regular expressions has it. */
static int is_word(uint32_t code)
{
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return 1;
    default:
        return 0;
    }
}

static int is_single_word(const struct added_walk *w, size_t begin, size_t end)
{
    if (begin > 0) {
        size_t last = utf8_last(w->text, begin);

        if (is_word(utf8_decode(w->text + last, (int)(begin - last))))
            return 0;
    }
    if (end < w->len) {
        int n = utf8_measure(w->text + end, w->len - end);

        if (n > 0 && is_word(utf8_decode(w->text + end, n)))
            return 0;
    }
    return 1;
}

static void take(struct added_walk *w, const struct added_text *found, size_t begin, size_t end)
{
    if (found->flags & ADDED_LSTRIP)
        begin = utf8_space_at_end(w->text, begin);
    if (begin < w->done)
        begin = w->done;
    if (found->flags & ADDED_RSTRIP)
        end += utf8_space_at_start(w->text + end, w->len - end);
    w->begin = begin;
    w->end = end;
    w->done = end;
    w->token = found->token;
}

int added_next(const struct added *a, struct added_walk *w)
{
    while (w->search < w->len) {
        size_t begin = w->search;
        const struct added_text *found = NULL;

        if (a->begins[(unsigned char)w->text[begin]])
            found = longest(a, w->text + begin, w->len - begin);
        w->search += found ? found->len : 1;
        if (!found || (found->flags & ADDED_SPECIAL && !w->special) || w->search <= w->done ||
            (found->flags & ADDED_SINGLE_WORD && !is_single_word(w, begin, w->search)))
            continue;
        take(w, found, begin, w->search);
        return 1;
    }
    w->begin = w->end = w->len;
    return 0;
}
