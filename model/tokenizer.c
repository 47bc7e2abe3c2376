#include "model/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "model/bpe.h"
#include "model/gguf_metadata.h"
#include "model/pretokenizer.h"
#include "model/utf8.h"
#include "model/vocabulary.h"

/* Bounds the search for added tokens to a constant per byte of text. */
#define ADDED_BYTES_MAX 256u
/* Longer pieces are merged from bytes, with the same result where merges lead there. */
#define WHOLE_BYTES_MAX 1024u
/* Bytes of U+FFFD: the most that one byte of a token can become. */
#define REPLACEMENT_BYTES 3u

struct tokenizer {
    struct vocabulary vocabulary;
    struct bpe bpe;
    struct pretokenizer *pre;
    uint32_t *added; /* control and user-defined tokens, sorted by text */
    size_t added_count;
    unsigned char added_begin[256]; /* an added token begins with this byte */
    int64_t bos, eos;
    int add_bos;
};

/* Creating */

static int compare_texts(const void *a, const void *b, void *vocabulary)
{
    const struct vocabulary *v = vocabulary;

    return strcmp(v->tokens[*(const uint32_t *)a].text, v->tokens[*(const uint32_t *)b].text);
}

static int is_added(const struct token *t)
{
    return (t->type == TOKEN_CONTROL || t->type == TOKEN_USER_DEFINED) && t->text_len > 0;
}

static int collect_added(struct tokenizer *t, const struct gguf *g, struct error *err)
{
    struct vocabulary *v = &t->vocabulary;
    size_t count = 0;

    for (uint32_t i = 0; i < v->count; i++)
        count += (size_t)is_added(&v->tokens[i]);
    t->added = calloc(count ? count : 1, sizeof(*t->added));
    if (!t->added)
        return error_set(err, STATUS_NOMEM, "%s: no memory for its added tokens", g->name);
    for (uint32_t i = 0; i < v->count; i++) {
        if (!is_added(&v->tokens[i]))
            continue;
        if (v->tokens[i].text_len > ADDED_BYTES_MAX)
            return error_set(err, STATUS_UNSUPPORTED,
                             "%s: token %" PRIu32 " is an added token of more than %u bytes",
                             g->name, i, ADDED_BYTES_MAX);
        t->added[t->added_count++] = i;
        t->added_begin[(unsigned char)v->tokens[i].text[0]] = 1;
    }
    qsort_r(t->added, t->added_count, sizeof(*t->added), compare_texts, v);
    return 0;
}

/* A token's id; -1 if the file does not say. */
static int read_id(const struct tokenizer *t, const struct gguf *g, const char *key, int64_t *id,
                   struct error *err)
{
    uint64_t value;
    int found = gguf_get_u64(g, key, &value, err);

    if (found < 0)
        return -1;
    if (found == 0 && value >= t->vocabulary.count)
        return error_set(err, STATUS_CORRUPT,
                         "%s: key %s is %" PRIu64 ", the vocabulary has %" PRIu32 " tokens",
                         g->name, key, value, t->vocabulary.count);
    *id = found == 0 ? (int64_t)value : -1;
    return 0;
}

static int refuse_flag(const struct gguf *g, const char *key, struct error *err)
{
    int value = 0;

    if (gguf_get_bool(g, key, &value, err) < 0)
        return -1;
    if (value)
        return error_set(err, STATUS_UNSUPPORTED, "%s: key %s is not supported", g->name, key);
    return 0;
}

static int read_settings(struct tokenizer *t, const struct gguf *g, struct error *err)
{
    if (read_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err) ||
        read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err) ||
        refuse_flag(g, "tokenizer.ggml.add_eos_token", err) ||
        refuse_flag(g, "tokenizer.ggml.add_space_prefix", err))
        return -1;
    t->add_bos = pretokenizer_wants_bos(t->pre);
    return gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, err) < 0 ? -1 : 0;
}

/* A required string among the file's keys. */
static int read_word(const struct gguf *g, const char *key, struct gguf_string *word,
                     struct error *err)
{
    int found = gguf_get_string(g, key, word, err);

    if (found == 1)
        return error_set(err, STATUS_CORRUPT, "%s: key %s is missing; convert the model anew",
                         g->name, key);
    return found;
}

static int read_tokenizer(struct tokenizer *t, const struct gguf *g, struct error *err)
{
    struct gguf_string model, pre;
    char shown[GGUF_SHOWN_MAX];

    if (read_word(g, "tokenizer.ggml.model", &model, err))
        return -1;
    if (model.len != 4 || memcmp(model.data, "gpt2", 4) != 0)
        return error_set(err, STATUS_UNSUPPORTED, "%s: tokenizer %s is not supported", g->name,
                         gguf_show(&model, shown));
    if (read_word(g, "tokenizer.ggml.pre", &pre, err))
        return -1;
    gguf_show(&pre, shown);
    t->pre = pretokenizer_create(shown, strlen(shown), err);
    if (!t->pre)
        return error_wrap(err, "%s", g->name);
    if (vocabulary_read(&t->vocabulary, g, err) || bpe_read(&t->bpe, &t->vocabulary, g, err) ||
        collect_added(t, g, err))
        return -1;
    return read_settings(t, g, err);
}

struct tokenizer *tokenizer_create(const struct gguf *g, struct error *err)
{
    struct tokenizer *t = calloc(1, sizeof(*t));

    if (!t) {
        error_set(err, STATUS_NOMEM, "%s: no memory for its tokenizer", g->name);
        return NULL;
    }
    if (read_tokenizer(t, g, err)) {
        tokenizer_destroy(t);
        return NULL;
    }
    return t;
}

void tokenizer_destroy(struct tokenizer *t)
{
    if (!t)
        return;
    free(t->added);
    bpe_free(&t->bpe);
    vocabulary_free(&t->vocabulary);
    pretokenizer_destroy(t->pre);
    free(t);
}

/* Encoding */

struct encoder {
    const struct tokenizer *t;
    struct bpe_work work;
    struct token_list *out;
    unsigned flags;
};

/* A piece as the vocabulary writes it, if it is a token as a whole. */
static uint32_t find_whole(const struct vocabulary *v, const char *piece, size_t len)
{
    char text[2 * WHOLE_BYTES_MAX];
    size_t count = 0;
    uint32_t token;

    if (len > WHOLE_BYTES_MAX || len > v->bytes_max)
        return NO_TOKEN;
    for (size_t i = 0; i < len; i++)
        for (const char *c = v->letters[(unsigned char)piece[i]]; *c; c++)
            text[count++] = *c;
    token = vocabulary_find(v, text, count);
    return token != NO_TOKEN && v->tokens[token].type == TOKEN_NORMAL ? token : NO_TOKEN;
}

static int encode_piece(void *arg, const char *piece, size_t len, struct error *err)
{
    struct encoder *e = arg;
    const struct tokenizer *t = e->t;

    if (pretokenizer_ignores_merges(t->pre)) {
        uint32_t token = find_whole(&t->vocabulary, piece, len);

        if (token != NO_TOKEN)
            return token_push(e->out, token, err);
    }
    return bpe_encode(&t->bpe, &t->vocabulary, &e->work, piece, len, e->out, err);
}

/* Narrow added[*low..*high), which agree in their first `depth` bytes, to those that have `byte`
 * next: each search is a step down a trie. */
static void narrow(const struct tokenizer *t, size_t depth, unsigned char byte, size_t *low,
                   size_t *high)
{
    size_t ends[2];

    for (unsigned i = 0; i < 2; i++) {
        size_t from = *low, to = *high;

        while (from < to) {
            size_t middle = from + (to - from) / 2;
            const char *text = t->vocabulary.tokens[t->added[middle]].text;

            if ((unsigned char)text[depth] < byte + i)
                from = middle + 1;
            else
                to = middle;
        }
        ends[i] = from;
    }
    *low = ends[0];
    *high = ends[1];
}

/* The longest added token at the beginning of text; NO_TOKEN if there is none. */
static uint32_t find_added(const struct tokenizer *t, const char *text, size_t len, unsigned flags)
{
    size_t low = 0, high = t->added_count;
    uint32_t best = NO_TOKEN;

    for (size_t depth = 0; depth < len && low < high; depth++) {
        const struct token *token;

        if (text[depth] == '\0') /* the end of a token's text, in none */
            break;
        narrow(t, depth, (unsigned char)text[depth], &low, &high);
        if (low == high)
            break;
        token = &t->vocabulary.tokens[t->added[low]]; /* of several, the shortest comes first */
        if (token->text_len == depth + 1 &&
            (token->type == TOKEN_USER_DEFINED || flags & TOKENIZER_PARSE_SPECIAL))
            best = t->added[low];
    }
    return best;
}

static int encode_text(struct encoder *e, const char *text, size_t len, struct error *err)
{
    const struct tokenizer *t = e->t;
    size_t begin = 0, at = 0;

    while (at < len) {
        uint32_t token = NO_TOKEN;

        if (t->added_begin[(unsigned char)text[at]])
            token = find_added(t, text + at, len - at, e->flags);
        if (token == NO_TOKEN) {
            at++;
            continue;
        }
        if (pretokenizer_split(t->pre, text + begin, at - begin, encode_piece, e, err) ||
            token_push(e->out, token, err))
            return -1;
        at += t->vocabulary.tokens[token].text_len;
        begin = at;
    }
    return pretokenizer_split(t->pre, text + begin, len - begin, encode_piece, e, err);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *out, struct error *err)
{
    struct encoder e = {.t = t, .out = out, .flags = flags};
    size_t count = out->count, bad;
    int rv;

    if (len > BPE_BYTES_MAX)
        return error_set(err, STATUS_INVALID, "a text of %zu bytes is too long", len);
    bad = utf8_check(text, len);
    if (bad != len)
        return error_set(err, STATUS_INVALID, "the text is no UTF-8 at byte %zu", bad);
    if (flags & TOKENIZER_ADD_BOS && t->add_bos && t->bos >= 0 &&
        token_push(out, (uint32_t)t->bos, err))
        return -1;
    rv = encode_text(&e, text, len, err);
    if (rv)
        out->count = count;
    bpe_work_free(&e.work);
    return rv;
}

/* Looking at tokens */

uint32_t tokenizer_vocabulary(const struct tokenizer *t)
{
    return t->vocabulary.count;
}

int64_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int64_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

const char *tokenizer_text(const struct tokenizer *t, uint32_t token)
{
    return token < t->vocabulary.count ? t->vocabulary.tokens[token].text : "";
}

int tokenizer_is_control(const struct tokenizer *t, uint32_t token)
{
    return token < t->vocabulary.count && t->vocabulary.tokens[token].type == TOKEN_CONTROL;
}

void tokenizer_bytes(const struct tokenizer *t, uint32_t token, const char **bytes, size_t *len)
{
    *bytes = "";
    *len = 0;
    if (token >= t->vocabulary.count)
        return;
    *bytes = t->vocabulary.tokens[token].bytes;
    *len = t->vocabulary.tokens[token].bytes_len;
}

size_t tokenizer_bytes_max(const struct tokenizer *t)
{
    return (size_t)t->vocabulary.bytes_max * REPLACEMENT_BYTES;
}
