/*
 * vocabulary.h - the tokens of a byte-level vocabulary: their text, the bytes they stand for
 *
 * GPT-2's byte alphabet writes each byte as one printable character (a space is U+0120), so that a
 * vocabulary file is text; it is undone here once.
 */
#ifndef MP_MODEL_VOCABULARY_H
#define MP_MODEL_VOCABULARY_H

#include "model/gguf.h"

#define NO_TOKEN UINT32_MAX

/* Numbers of the format's tokenizer.ggml.token_type. */
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

struct vocabulary {
    struct token *tokens;
    uint32_t count;
    uint32_t bytes_max;
    char *texts, *bytes;   /* what tokens point into */
    uint32_t *slots;       /* hash table of token ids by text, open addressing */
    uint64_t mask;         /* of slots, a power of two less one */
    uint32_t of_byte[256]; /* the token of a single byte, NO_TOKEN if there is none */
    char letters[256][3];  /* a byte's character, NUL-terminated */
};

/* From tokenizer.ggml.tokens and .token_type.  On failure *v is to be freed as well. */
int vocabulary_read(struct vocabulary *v, const struct gguf *g, struct error *err);
void vocabulary_free(struct vocabulary *v);

/* The token of this text; NO_TOKEN if there is none. */
uint32_t vocabulary_find(const struct vocabulary *v, const char *text, size_t len);

#endif
