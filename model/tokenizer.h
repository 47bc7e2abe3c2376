/*
 * tokenizer.h - text to tokens and back
 *
 * The stages are those of Hugging Face tokenizers: added tokens are cut out, what lies between them
 * is normalized, split into pieces, and each piece is merged to tokens by byte pair encoding
 * (Sennrich 2016): over bytes (GPT-2's alphabet) or over characters with tokens of single bytes to
 * fall back to (SentencePiece's).  Immutable after creation: one tokenizer serves all threads.
 */
#ifndef MP_MODEL_TOKENIZER_H
#define MP_MODEL_TOKENIZER_H

#include "model/source.h"

struct tokenizer;

/*
 * From GGUF's tokenizer.ggml.* keys, or from a folder's tokenizer.json and tokenizer_config.json;
 * in place of tokenizer.json also from a vocabulary by ranks (NAME.tiktoken, Llama 3's
 * tokenizer.model, tekken.json) or a SentencePiece model (tokenizer.model).  UNSUPPORTED names the
 * part that it lacks.  Copies what it needs: s may be closed.
 */
struct tokenizer *tokenizer_create(const struct source *s, struct error *err);
/* From the roots of the two files; config may be NULL.  name is for messages. */
struct tokenizer *tokenizer_create_json(const json_t *root, const json_t *config, const char *name,
                                        struct error *err);
void tokenizer_destroy(struct tokenizer *t);

struct token_list {
    uint32_t *tokens; /* malloc'd, grown by encode; the caller frees it */
    size_t count, room;
};

#define TOKENIZER_PARSE_SPECIAL 1u /* control tokens in the text are tokens, not letters */
#define TOKENIZER_ADD_BOS       2u /* prepend what the file asks for: BOS, mostly */

/* Append the text's tokens to *out.  Text that is no UTF-8 is INVALID. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *out, struct error *err);

uint32_t tokenizer_vocabulary(const struct tokenizer *t);
/* -1: none */
int64_t tokenizer_bos(const struct tokenizer *t);
int64_t tokenizer_eos(const struct tokenizer *t);
int64_t tokenizer_unk(const struct tokenizer *t);
int64_t tokenizer_pad(const struct tokenizer *t);
/* The text of a token as the chat template sees it (bos_token, eos_token); NUL-terminated. */
const char *tokenizer_text(const struct tokenizer *t, uint32_t token);
int tokenizer_is_control(const struct tokenizer *t, uint32_t token);
/* The bytes a token stands for in output; control tokens: none.  Not necessarily whole UTF-8. */
void tokenizer_bytes(const struct tokenizer *t, uint32_t token, const char **bytes, size_t *len);

/*
 * Incremental detokenization: bytes go in token by token, only whole UTF-8 characters come out.
 *
 * Where a SentencePiece vocabulary writes a word with the space before it, the text's first space
 * is the tokenizer's and not the text's; it is left out at the beginning of an output, and only
 * there.  This is what Hugging Face's decode() gives for generated tokens alone; who continues a
 * text and wants the space sets `started`.  Output that is no UTF-8 becomes one U+FFFD for each
 * part that can belong to no character, as it comes; Hugging Face's ByteFallback, which waits for
 * the whole run of bytes, gives one for each byte of a run that has any such part.
 */
struct detokenizer {
    char pending[8]; /* the beginning of a character */
    size_t pending_len;
    int started; /* something came out: a space from now on is a space */
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
