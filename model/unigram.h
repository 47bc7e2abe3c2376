/*
 * unigram.h - the unigram model of SentencePiece (Kudo 2018) over one piece
 *
 * Of all ways to write the piece in tokens, the one with the greatest sum of scores (Viterbi's
 * algorithm), with the ties, the unknown token's score and its fusing of Hugging Face's Unigram.
 */
#ifndef MP_MODEL_UNIGRAM_H
#define MP_MODEL_UNIGRAM_H

#include "model/tokenizer.h"
#include "model/vocabulary.h"

struct unigram {
    uint32_t *order; /* tokens of the model, sorted by text; NULL: this is no unigram model */
    size_t count;
    double *scores; /* by token */
    double lowest;  /* of them */
    int byte_fallback;
    uint32_t unknown; /* NO_TOKEN: a text that needs it is INVALID */
};

/* Scratch of one encoding thread, grown as needed.  Starts zeroed. */
struct unigram_work {
    struct unigram_node *nodes;
    uint32_t *tokens;
    size_t room;
};

/* The first `count` tokens are the model's; copies scores.  Otherwise *u starts zeroed, with
 * unknown set; on failure it is to be freed as well. */
int unigram_set(struct unigram *u, const struct vocabulary *v, const double *scores, size_t count,
                struct error *err);
void unigram_free(struct unigram *u);
void unigram_work_free(struct unigram_work *w);

/* Append the tokens of well-formed UTF-8. */
int unigram_encode(const struct unigram *u, const struct vocabulary *v, struct unigram_work *w,
                   const char *text, size_t len, struct token_list *out, struct error *err);

#endif
