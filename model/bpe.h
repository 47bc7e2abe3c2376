/*
 * bpe.h - byte pair encoding of one pre-token (Sennrich 2016)
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
    struct bpe_pair *slots; /* hash table by (left, right), open addressing */
    uint64_t mask;
};

/* Scratch of one encoding thread, grown as needed.  Starts zeroed. */
struct bpe_work {
    struct bpe_symbol *symbols;
    uint64_t *heap;
    size_t room; /* symbols; the heap holds twice as many */
};

#define BPE_BYTES_MAX (1u << 30) /* positions fit in 31 bits, heap keys in 64 */

/* From tokenizer.ggml.merges.  On failure *b is to be freed as well. */
int bpe_read(struct bpe *b, const struct vocabulary *v, const struct gguf *g, struct error *err);
void bpe_free(struct bpe *b);
void bpe_work_free(struct bpe_work *w);

/* Append the tokens of `len` <= BPE_BYTES_MAX bytes.  A byte for which the vocabulary has no token
 * is left out, as Hugging Face tokenizers does without an unknown token.  NOMEM. */
int bpe_encode(const struct bpe *b, const struct vocabulary *v, struct bpe_work *w,
               const char *bytes, size_t len, struct token_list *out, struct error *err);

/* Append one token.  NOMEM. */
int token_push(struct token_list *list, uint32_t token, struct error *err);

#endif
