/*
 * pretokenizer.h - cutting text into the pieces within which BPE merges
 *
 * A family is a list of patterns, applied in turn: each cuts every piece of the one before into its
 * matches and what lies between them.  The table is in pretokenizer.c.
 */
#ifndef MP_MODEL_PRETOKENIZER_H
#define MP_MODEL_PRETOKENIZER_H

#include <stddef.h>

#include "common/error.h"

struct pretokenizer;

/* By the value of tokenizer.ggml.pre.  UNSUPPORTED if the table lacks it. */
struct pretokenizer *pretokenizer_create(const char *name, size_t len, struct error *err);
void pretokenizer_destroy(struct pretokenizer *p);

/* A piece that is a token as a whole is not merged from bytes. */
int pretokenizer_ignores_merges(const struct pretokenizer *p);
/* BOS begins a text where the file does not say otherwise. */
int pretokenizer_wants_bos(const struct pretokenizer *p);

/* Takes a piece, never empty; -1 ends the splitting with its error. */
typedef int piece_f(void *arg, const char *piece, size_t len, struct error *err);

/* Call piece for each one in order; text is well-formed UTF-8.  Serves any number of threads. */
int pretokenizer_split(const struct pretokenizer *p, const char *text, size_t len, piece_f *piece,
                       void *arg, struct error *err);

#endif
