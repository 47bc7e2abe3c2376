/*
 * tokenizer_sentencepiece.c - a tokenizer from SentencePiece's own file (tokenizer.model)
 *
 * The file is a message of Protocol Buffers, ModelProto of sentencepiece_model.proto; its fields'
 * numbers are those used here, others are skipped.  Of SentencePiece's models this reads BPE with
 * identity normalization, as Llama 2, Mistral and Gemma have it; the rest is refused by name.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_parts.h"

/* A message, or what is left of it. */
struct message {
    const unsigned char *at, *end;
};

struct field {
    uint32_t number;
    uint64_t value;       /* of a varint or of four or eight bytes */
    struct message bytes; /* of a text or a message */
    int is_bytes;
};

/* What is not there has the proto's default. */
struct settings {
    uint64_t model_type; /* 1 unigram, 2 BPE, 3 words, 4 characters */
    int byte_fallback, suffix_space;
    int64_t unk, bos, eos, pad;
    int prefix, removes_spaces, escapes_spaces, has_table;
};

struct pieces {
    struct gguf_string *texts;
    int64_t *types;
    float *scores;
    size_t count, room;
};

static int corrupt(struct error *err)
{
    return error_set(err, STATUS_CORRUPT, "is no SentencePiece model");
}

static int read_varint(struct message *m, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 64 && m->at < m->end; shift += 7) {
        unsigned char byte = *m->at++;

        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return 0;
    }
    return -1;
}

/* 1 with the next field, 0 at the end, -1: there is none. */
static int read_field(struct message *m, struct field *f)
{
    uint64_t key, len;

    memset(f, 0, sizeof(*f));
    if (m->at == m->end)
        return 0;
    if (read_varint(m, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX)
        return -1;
    f->number = (uint32_t)(key >> 3);
    len = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : 0;
    switch (key & 7) {
    case 0:
        return read_varint(m, &f->value) ? -1 : 1;
    case 2:
        f->is_bytes = 1;
        if (read_varint(m, &len) || len > (uint64_t)(m->end - m->at))
            return -1;
        f->bytes = (struct message){m->at, m->at + len};
        m->at += len;
        return 1;
    case 1:
    case 5:
        if (len > (uint64_t)(m->end - m->at))
            return -1;
        memcpy(&f->value, m->at, len);
        m->at += len;
        return 1;
    default:
        return -1;
    }
}

static int grow_pieces(struct pieces *p, struct error *err)
{
    size_t room = p->room ? p->room * 2 : 4096;
    struct gguf_string *texts = reallocarray(p->texts, room, sizeof(*texts));
    int64_t *types = reallocarray(p->types, room, sizeof(*types));
    float *scores = reallocarray(p->scores, room, sizeof(*scores));

    p->texts = texts ? texts : p->texts;
    p->types = types ? types : p->types;
    p->scores = scores ? scores : p->scores;
    if (!texts || !types || !scores)
        return error_set(err, STATUS_NOMEM, "no memory for the vocabulary");
    p->room = room;
    return 0;
}

/* SentencePiece: piece 1, score 2, type 3; a piece's types are GGUF's. */
static int read_piece(struct pieces *p, struct message m, struct error *err)
{
    struct gguf_string text = {"", 0};
    int64_t type = TOKEN_NORMAL;
    float score = 0;
    struct field f;
    uint32_t bits;
    int found;

    while ((found = read_field(&m, &f)) > 0) {
        if (f.number == 1 && f.is_bytes) {
            text = (struct gguf_string){(const char *)f.bytes.at,
                                        (uint64_t)(f.bytes.end - f.bytes.at)};
        } else if (f.number == 2 && !f.is_bytes) {
            bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof(score));
        } else if (f.number == 3) {
            type = f.value <= TOKEN_BYTE ? (int64_t)f.value : -1;
        }
    }
    if (found < 0 || text.len == 0)
        return corrupt(err);
    if (p->count == p->room && grow_pieces(p, err))
        return -1;
    p->texts[p->count] = text;
    p->types[p->count] = type;
    p->scores[p->count++] = score;
    return 0;
}

/* TrainerSpec */
static int read_trainer(struct settings *s, struct message m, struct error *err)
{
    struct field f;
    int found;

    while ((found = read_field(&m, &f)) > 0) {
        if (f.number == 3)
            s->model_type = f.value;
        else if (f.number == 24)
            s->suffix_space = f.value != 0;
        else if (f.number == 35)
            s->byte_fallback = f.value != 0;
        else if (f.number >= 40 && f.number <= 43)
            *(f.number == 40   ? &s->unk
              : f.number == 41 ? &s->bos
              : f.number == 42 ? &s->eos
                               : &s->pad) = (int32_t)f.value;
    }
    return found < 0 ? corrupt(err) : 0;
}

/* NormalizerSpec */
static int read_normalizer(struct settings *s, struct message m, struct error *err)
{
    struct field f;
    int found;

    while ((found = read_field(&m, &f)) > 0) {
        if (f.number == 2 && f.is_bytes)
            s->has_table = f.bytes.at < f.bytes.end;
        else if (f.number == 3)
            s->prefix = f.value != 0;
        else if (f.number == 4)
            s->removes_spaces = f.value != 0;
        else if (f.number == 5)
            s->escapes_spaces = f.value != 0;
    }
    return found < 0 ? corrupt(err) : 0;
}

/* ModelProto: pieces 1, trainer_spec 2, normalizer_spec 3 */
static int read_model(struct pieces *p, struct settings *s, struct message m, struct error *err)
{
    struct field f;
    int found;

    while ((found = read_field(&m, &f)) > 0) {
        if (!f.is_bytes)
            continue;
        if ((f.number == 1 && read_piece(p, f.bytes, err)) ||
            (f.number == 2 && read_trainer(s, f.bytes, err)) ||
            (f.number == 3 && read_normalizer(s, f.bytes, err)))
            return -1;
    }
    return found < 0 || p->count == 0 ? corrupt(err) : 0;
}

static int refuse_settings(const struct settings *s, struct error *err)
{
    const char *what = s->model_type != 2   ? "a SentencePiece model other than BPE"
                       : s->has_table       ? "normalizing by a precompiled table"
                       : s->removes_spaces  ? "removing extra white space"
                       : !s->escapes_spaces ? "unescaped white space"
                       : s->suffix_space    ? "white space as suffix"
                                            : NULL;

    return what ? error_set(err, STATUS_UNSUPPORTED,
                            "%s is not supported; fetch tokenizer.json, if there is one", what)
                : 0;
}

/* A special token's number, -1 where the model says that it has none. */
static int set_special(const struct tokenizer *t, int64_t number, int64_t *id, struct error *err)
{
    if (number >= t->vocabulary.count)
        return error_set(err, STATUS_CORRUPT, "a special token has number %" PRId64 " of %" PRIu32,
                         number, t->vocabulary.count);
    *id = number < 0 ? -1 : number;
    return 0;
}

int tokenizer_read_sentencepiece(struct tokenizer *t, const char *bytes, size_t len,
                                 const json_t *config, const char *name, struct error *err)
{
    struct message m = {(const unsigned char *)bytes, (const unsigned char *)bytes + len};
    struct settings s = {.model_type = 1,
                         .bos = 1,
                         .eos = 2,
                         .pad = -1,
                         .prefix = 1,
                         .removes_spaces = 1,
                         .escapes_spaces = 1};
    struct pieces p = {.count = 0};
    int rv = -1;

    if (read_model(&p, &s, m, err) || refuse_settings(&s, err) ||
        vocabulary_build(&t->vocabulary, VOCABULARY_SENTENCEPIECE, name, p.texts, p.types, p.count,
                         err) ||
        bpe_set_scores(&t->bpe, &t->vocabulary, name, p.scores, err) ||
        set_special(t, s.unk, &t->unk, err) || set_special(t, s.bos, &t->bos, err) ||
        set_special(t, s.eos, &t->eos, err) || set_special(t, s.pad, &t->pad, err) ||
        tokenizer_finish_sentencepiece(t, s.prefix, 0, err))
        goto out;
    t->bpe.byte_fallback = s.byte_fallback;
    if (t->bos >= 0)
        t->prefix[t->prefix_count++] = (uint32_t)t->bos;
    rv = tokenizer_read_config(t, config, err);
out:
    free(p.texts);
    free(p.types);
    free(p.scores);
    return rv;
}
