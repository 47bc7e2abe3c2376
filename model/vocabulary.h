/*
 * vocabulary.h - the tokens of a vocabulary: their text, the bytes they stand for
 *
 * A vocabulary is of one of two kinds.  Byte-level: GPT-2's alphabet writes each byte as one
 * printable character (a space is U+0120), so that a vocabulary file is text; it is undone here
 * once.  SentencePiece's: U+2581 stands for a space, and tokens named <0x00> to <0xFF> for what has
 * no token of its own.
 */
#ifndef MP_MODEL_VOCABULARY_H
#define MP_MODEL_VOCABULARY_H

#include "model/gguf.h"

#define NO_TOKEN            UINT32_MAX
#define SENTENCEPIECE_SPACE "\xe2\x96\x81"

/* Numbers of GGUF's tokenizer.ggml.token_type. */
enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
};

struct token {
    const char *text; /* as in the file, NUL-terminated */
    const char *bytes;
    uint32_t text_len, bytes_len;
    enum token_type type;
};

enum vocabulary_kind { VOCABULARY_BYTE_LEVEL, VOCABULARY_SENTENCEPIECE };

struct vocabulary {
    enum vocabulary_kind kind;
    struct token *tokens;
    uint32_t count;
    uint32_t text_max, bytes_max;
    char *texts, *bytes;   /* what tokens point into */
    uint32_t *slots;       /* hash table of token ids by text, open addressing */
    uint64_t mask;         /* of slots, a power of two less one */
    uint32_t of_byte[256]; /* the token of a single byte, NO_TOKEN if there is none */
    char letters[256][3];  /* of BYTE_LEVEL: a byte's character, NUL-terminated */
};

/*
 * From texts and types (NULL: all NORMAL), one for each token; copies them.  A text of no bytes is
 * a number that no token has.  name is for messages.  On failure *v is to be freed as well.
 */
int vocabulary_build(struct vocabulary *v, enum vocabulary_kind kind, const char *name,
                     const struct gguf_string *texts, const int64_t *types, uint64_t count,
                     struct error *err);
/* From tokenizer.ggml.tokens and .token_type. */
int vocabulary_read(struct vocabulary *v, enum vocabulary_kind kind, const struct gguf *g,
                    struct error *err);
void vocabulary_free(struct vocabulary *v);

/* GPT-2's alphabet: each byte's character, NUL-terminated. */
void vocabulary_alphabet(char letters[256][3]);

/* The token of this text; NO_TOKEN if there is none. */
uint32_t vocabulary_find(const struct vocabulary *v, const char *text, size_t len);

/* The byte of a text of the form <0xHH>, -1 for another one. */
int vocabulary_byte_of(const char *text, size_t len);

#endif
