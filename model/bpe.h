/*
 * bpe.h - byte pair encoding of one piece (Sennrich 2016)
 *
 * The pair of neighbours with the lowest rank is merged, the leftmost one first, until no pair has
 * a rank.  A heap of candidate pairs over a linked list of symbols does it in O(n log n), so that a
 * hostile word of a megabyte takes no longer than a page of text.
 */
#ifndef MP_MODEL_BPE_H
#define MP_MODEL_BPE_H

#include "model/tokenizer.h"
#include "model/vocabulary.h"

struct bpe_pair {
    uint32_t left, right; /* tokens */
    uint32_t rank;        /* UINT32_MAX: the slot is free */
    uint32_t merged;      /* token */
};

struct bpe {
    /* Which pairs of tokens merge, and in which order. */
    struct bpe_pair *slots; /* hash table by (left, right), open addressing */
    uint64_t mask;
    uint64_t *filter; /* four bits for each slot: set where a pair of slots may be, by its hash */
    /* SentencePiece merges all that make a token, also characters that are none themselves: those
     * are looked up by their text, their rank here. */
    uint32_t *ranks; /* by token; UINT32_MAX: nothing merges into it.  NULL: slots alone decide */
    /* Symbols to begin with are bytes (of a byte-level vocabulary) or characters. */
    int characters;
    int ignores_merges; /* what is a token as a whole is not merged from symbols */
    int byte_fallback;  /* a character without a token becomes the tokens of its bytes */
    int fuses_unknown;  /* several without a token in a row are one unknown token */
    uint32_t unknown;   /* the token of a symbol that has none; NO_TOKEN: it is left out */
};

/* Scratch of one encoding thread, grown as needed.  Starts zeroed. */
struct bpe_work {
    struct bpe_symbol *symbols;
    uint64_t *heap;
    size_t room; /* symbols; the heap holds twice as many */
};

#define BPE_BYTES_MAX (1u << 30) /* positions fit in 31 bits, heap keys in 64 */

/* A merge as text. */
struct bpe_merge {
    const char *left, *right; /* not NUL-terminated */
    uint64_t left_len, right_len;
};

/* Each sets the order of merges; *b starts zeroed with unknown NO_TOKEN, and on failure is to be
 * freed as well.  name is for messages. */
int bpe_set_merges(struct bpe *b, const struct vocabulary *v, const char *name,
                   const struct bpe_merge *merges, uint64_t count, struct error *err);
/* tiktoken's way: any two NORMAL tokens that make another one merge, lowest number of that first;
 * sets ignores_merges.  UNSUPPORTED if a token's text is longer than 1024 bytes. */
int bpe_set_ranks(struct bpe *b, const struct vocabulary *v, const char *name, struct error *err);
/* SentencePiece's way: the same, best score first; scores are one for each token. */
int bpe_set_scores(struct bpe *b, const struct vocabulary *v, const char *name, const float *scores,
                   struct error *err);
/* From tokenizer.ggml.merges. */
int bpe_read_merges(struct bpe *b, const struct vocabulary *v, const struct gguf *g,
                    struct error *err);
/* From tokenizer.ggml.scores. */
int bpe_read_scores(struct bpe *b, const struct vocabulary *v, const struct gguf *g,
                    struct error *err);
void bpe_free(struct bpe *b);
void bpe_work_free(struct bpe_work *w);

/* Append the tokens of `len` <= BPE_BYTES_MAX bytes.  NOMEM. */
int bpe_encode(const struct bpe *b, const struct vocabulary *v, struct bpe_work *w,
               const char *bytes, size_t len, struct token_list *out, struct error *err);

/* Append one token. */
int token_push(struct token_list *list, uint32_t token, struct error *err);

#endif
