/* tokenizer_parts.h - inside of the tokenizer: for tokenizer*.c and detokenizer.c only */
#ifndef MP_MODEL_TOKENIZER_PARTS_H
#define MP_MODEL_TOKENIZER_PARTS_H

#include "model/added.h"
#include "model/bpe.h"
#include "model/normalizer.h"
#include "model/pretokenizer.h"
#include "model/tokenizer.h"
#include "model/unigram.h"
#include "model/vocabulary.h"

#define PREFIX_MAX 8

/* What goes from the beginning of an output. */
enum strip {
    STRIP_NOTHING,
    STRIP_SPACE,        /* one space */
    STRIP_TOKEN_SPACES, /* all those of the first token */
};

struct tokenizer {
    struct vocabulary vocabulary;
    struct added added;      /* cut out first */
    struct added normalized; /* cut out after normalizing */
    struct normalizer *normalizer;
    struct pretokenizer *pre;
    struct bpe bpe;
    struct unigram unigram;      /* instead of bpe if it has an order */
    uint32_t prefix[PREFIX_MAX]; /* what TOKENIZER_ADD_BOS puts before a text */
    size_t prefix_count;
    enum strip strip;
    int64_t bos, eos, unk, pad; /* -1: none */
};

/* Fill a zeroed tokenizer with its special tokens -1, normalizer and pre created and empty.  On
 * failure it is to be destroyed all the same. */
int tokenizer_read_gguf(struct tokenizer *t, const struct gguf *g, struct error *err);
int tokenizer_read_json(struct tokenizer *t, const json_t *root, const json_t *config,
                        const char *name, struct error *err);
/* A vocabulary by ranks: lines of a token in base64 and its rank, or tekken.json.  settings is
 * config.json, config tokenizer_config.json; either may be NULL. */
int tokenizer_read_ranks(struct tokenizer *t, const char *text, size_t len, const json_t *settings,
                         const json_t *config, const char *name, struct error *err);
/* A SentencePiece model (tokenizer.model). */
int tokenizer_read_sentencepiece(struct tokenizer *t, const char *bytes, size_t len,
                                 const json_t *config, const char *name, struct error *err);

/* Parts of them, with the vocabulary there.  Added tokens: a list as tokenizer.json's. */
int tokenizer_read_added(struct tokenizer *t, const json_t *added, struct error *err);
/* Special tokens and prefix as tokenizer_config.json has them, in place of those of t. */
int tokenizer_read_config(struct tokenizer *t, const json_t *config, struct error *err);
/* SentencePiece's BPE with its vocabulary and prefix read; prefix: a space goes before a text. */
int tokenizer_finish_sentencepiece(struct tokenizer *t, int prefix, int phi3, struct error *err);
/* Of tokenizer.json, with the model read: sets strip, refuses what does not undo the pre-tokenizer.
 */
int tokenizer_read_decoder(struct tokenizer *t, const json_t *decoder, struct error *err);

#endif
