#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_parts.h"
#include "model/utf8.h"

/* Bytes of U+FFFD: the most that one byte of a token can become. */
#define REPLACEMENT_BYTES 3u

/* Creating */

static struct tokenizer *create_empty(const char *name, struct error *err)
{
    struct tokenizer *t = calloc(1, sizeof(*t));

    if (!t) {
        error_set(err, STATUS_NOMEM, "%s: no memory for its tokenizer", name);
        return NULL;
    }
    t->bos = t->eos = t->unk = t->pad = -1;
    t->bpe.unknown = t->unigram.unknown = NO_TOKEN;
    t->normalizer = normalizer_create(err);
    t->pre = pretokenizer_create(err);
    if (t->normalizer && t->pre)
        return t;
    tokenizer_destroy(t);
    return NULL;
}

struct tokenizer *tokenizer_create_json(const json_t *root, const json_t *config, const char *name,
                                        struct error *err)
{
    struct tokenizer *t = create_empty(name, err);

    if (t && tokenizer_read_json(t, root, config, name, err)) {
        tokenizer_destroy(t);
        return NULL;
    }
    return t;
}

/* SentencePiece's files begin with a piece, a field of bytes with number 1: a newline. */
static struct tokenizer *create_vocabulary(const struct source *s, const char *file,
                                           const char *bytes, size_t len, struct error *err)
{
    const json_t *config = source_json(s, SOURCE_TOKENIZER_CONFIG);
    struct tokenizer *t = create_empty(source_name(s), err);
    int failed;

    if (!t)
        return NULL;
    if (len > 0 && bytes[0] == '\n')
        failed = tokenizer_read_sentencepiece(t, bytes, len, config, "vocabulary", err);
    else
        failed = tokenizer_read_ranks(t, bytes, len, source_json(s, SOURCE_CONFIG), config,
                                      "vocabulary", err);
    if (!failed)
        return t;
    error_wrap(err, "%s: %s", source_name(s), file);
    tokenizer_destroy(t);
    return NULL;
}

struct tokenizer *tokenizer_create(const struct source *s, struct error *err)
{
    const struct gguf *g = source_gguf(s);
    const char *file, *bytes;
    struct tokenizer *t;
    size_t len;

    if (!g && !source_json(s, SOURCE_TOKENIZER)) {
        if (source_vocabulary(s, &file, &bytes, &len) == 0)
            return create_vocabulary(s, file, bytes, len, err);
        error_set(err, STATUS_NOT_FOUND, "%s: there is no tokenizer.json", source_name(s));
        return NULL;
    }
    if (!g)
        return tokenizer_create_json(source_json(s, SOURCE_TOKENIZER),
                                     source_json(s, SOURCE_TOKENIZER_CONFIG), source_name(s), err);
    t = create_empty(source_name(s), err);
    if (t && tokenizer_read_gguf(t, g, err)) {
        tokenizer_destroy(t);
        return NULL;
    }
    return t;
}

void tokenizer_destroy(struct tokenizer *t)
{
    if (!t)
        return;
    added_free(&t->added);
    added_free(&t->normalized);
    bpe_free(&t->bpe);
    unigram_free(&t->unigram);
    vocabulary_free(&t->vocabulary);
    pretokenizer_destroy(t->pre);
    normalizer_destroy(t->normalizer);
    free(t);
}

/* Encoding */

struct encoder {
    const struct tokenizer *t;
    struct bpe_work work;
    struct unigram_work unigram_work;
    struct regex_match *match;
    struct bytes buffer; /* the normalized text */
    struct token_list *out;
    int special;
};

static int encode_piece(void *arg, const char *piece, size_t len, struct error *err)
{
    struct encoder *e = arg;

    if (e->t->unigram.order)
        return unigram_encode(&e->t->unigram, &e->t->vocabulary, &e->unigram_work, piece, len,
                              e->out, err);
    return bpe_encode(&e->t->bpe, &e->t->vocabulary, &e->work, piece, len, e->out, err);
}

static int encode_normalized(struct encoder *e, const char *text, size_t len, int first,
                             struct error *err)
{
    struct added_walk walk = {.text = text, .len = len, .special = e->special};
    size_t at = 0;
    int found;

    do {
        found = added_next(&e->t->normalized, &walk);
        if (pretokenizer_split(e->t->pre, e->match, text + at, walk.begin - at, first && at == 0,
                               encode_piece, e, err) ||
            (found && token_push(e->out, walk.token, err)))
            return -1;
        at = walk.end;
    } while (found);
    return 0;
}

static int encode_text(struct encoder *e, const char *text, size_t len, struct error *err)
{
    struct added_walk walk = {.text = text, .len = len, .special = e->special};
    size_t at = 0;
    int found;

    do {
        const char *normal;
        size_t normal_len;

        found = added_next(&e->t->added, &walk);
        if (walk.begin > at &&
            (normalizer_run(e->t->normalizer, e->match, text + at, walk.begin - at, &e->buffer,
                            &normal, &normal_len, err) ||
             encode_normalized(e, normal, normal_len, at == 0, err)))
            return -1;
        if (found && token_push(e->out, walk.token, err))
            return -1;
        at = walk.end;
    } while (found);
    return 0;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *out, struct error *err)
{
    struct encoder e = {.t = t, .out = out, .special = (flags & TOKENIZER_PARSE_SPECIAL) != 0};
    size_t count = out->count, bad;
    int rv = -1;

    if (len > BPE_BYTES_MAX / 4) /* what normalizing makes of it must fit as well */
        return error_set(err, STATUS_INVALID, "a text of %zu bytes is too long", len);
    bad = utf8_check(text, len);
    if (bad != len)
        return error_set(err, STATUS_INVALID, "the text is no UTF-8 at byte %zu", bad);
    e.match = regex_match_create(err);
    if (!e.match)
        return -1;
    for (size_t i = 0; i < t->prefix_count && flags & TOKENIZER_ADD_BOS; i++)
        if (token_push(out, t->prefix[i], err))
            goto out;
    rv = encode_text(&e, text, len, err);
out:
    if (rv)
        out->count = count;
    regex_match_destroy(e.match);
    bytes_free(&e.buffer);
    bpe_work_free(&e.work);
    unigram_work_free(&e.unigram_work);
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

int64_t tokenizer_unk(const struct tokenizer *t)
{
    return t->unk;
}

int64_t tokenizer_pad(const struct tokenizer *t)
{
    return t->pad;
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
