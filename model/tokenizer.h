/*
 * tokenizer.h - text to tokens and back
 *
 * Byte-level BPE (Sennrich 2016, GPT-2's byte alphabet): added tokens are cut out first by longest
 * match, the rest is split by the family's pre-tokenizer pattern and merged by rank, leftmost
 * lowest first.  Immutable after creation: one tokenizer serves all threads.
 */
#ifndef MP_MODEL_TOKENIZER_H
#define MP_MODEL_TOKENIZER_H

#include "model/gguf.h"

struct tokenizer;

/* From GGUF's tokenizer.ggml.* keys.  UNSUPPORTED names the model or pre-tokenizer it lacks. Copies
 * what it needs: g may be closed. */
struct tokenizer *tokenizer_create(const struct gguf *g, struct error *err);
void tokenizer_destroy(struct tokenizer *t);

struct token_list {
    uint32_t *tokens; /* malloc'd, grown by encode; the caller frees it */
    size_t count, room;
};

#define TOKENIZER_PARSE_SPECIAL 1u /* control tokens in the text are tokens, not letters */
#define TOKENIZER_ADD_BOS       2u /* prepend BOS if the file asks for it */

/* Append the text's tokens to *out.  Text that is no UTF-8 is INVALID. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *out, struct error *err);

uint32_t tokenizer_vocabulary(const struct tokenizer *t);
/* -1: none */
int64_t tokenizer_bos(const struct tokenizer *t);
int64_t tokenizer_eos(const struct tokenizer *t);
/* The text of a token as the chat template sees it (bos_token, eos_token); NUL-terminated. */
const char *tokenizer_text(const struct tokenizer *t, uint32_t token);
int tokenizer_is_control(const struct tokenizer *t, uint32_t token);
/* The bytes a token stands for in output; control tokens: none.  Not necessarily whole UTF-8. */
void tokenizer_bytes(const struct tokenizer *t, uint32_t token, const char **bytes, size_t *len);

/* Incremental detokenization: bytes go in token by token, only whole UTF-8 characters come out. */
struct detokenizer {
    char pending[8]; /* the beginning of a character */
    size_t pending_len;
};
/*
 * Append the token's bytes to what is pending and write what is complete to out (room >=
 * tokenizer_bytes_max() + 8, which always suffices; nothing is written past room).  What can begin
 * or continue no character becomes U+FFFD.  Returns the bytes written.
 */
size_t detokenizer_push(struct detokenizer *d, const struct tokenizer *t, uint32_t token, char *out,
                        size_t room);
/* At the end: an unfinished character becomes one U+FFFD.  Returns the bytes written (<= 3). */
size_t detokenizer_flush(struct detokenizer *d, char *out, size_t room);
/* The most bytes that one token can become: a byte that is no text grows to the three of U+FFFD. */
size_t tokenizer_bytes_max(const struct tokenizer *t);

#endif
