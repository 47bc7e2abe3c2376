/*
 * pretokenizer.h - cutting text into the pieces that become tokens each on its own
 *
 * A list of steps, applied in turn: each cuts every piece of the one before, most by a pattern and
 * what is to become of its matches (Hugging Face tokenizers' "behavior").  Families by the name
 * that GGUF files give them are a table in pretokenizer_family.c.
 */
#ifndef MP_MODEL_PRETOKENIZER_H
#define MP_MODEL_PRETOKENIZER_H

#include <jansson.h>
#include <stddef.h>

#include "common/error.h"
#include "model/regex.h"

struct pretokenizer;

enum behavior {
    BEHAVIOR_REMOVED,
    BEHAVIOR_ISOLATED,
    BEHAVIOR_MERGED_WITH_PREVIOUS,
    BEHAVIOR_MERGED_WITH_NEXT,
    BEHAVIOR_CONTIGUOUS,
};

/* With no step yet: a text is one piece. */
struct pretokenizer *pretokenizer_create(struct error *err);
void pretokenizer_destroy(struct pretokenizer *p);

/* literal: the pattern is a text.  invert: what lies between matches counts as the match. */
int pretokenizer_add_split(struct pretokenizer *p, const char *pattern, size_t len, int literal,
                           enum behavior behavior, int invert, struct error *err);
/* GPT-2's: the pieces' bytes are the symbols; prefix_space: a piece that begins without a space
 * gets one; use_regex: GPT-2's pattern.  Must be the last one. */
int pretokenizer_add_byte_level(struct pretokenizer *p, int prefix_space, int use_regex,
                                struct error *err);
/* tokenizer.json's "pre_tokenizer"; a type that is not in the list is UNSUPPORTED by name. */
int pretokenizer_add_json(struct pretokenizer *p, const json_t *json, struct error *err);

/* What else a family's name says. */
struct pretokenizer_family {
    int ignores_merges; /* a piece that is a token as a whole is not merged from bytes */
    int wants_bos;      /* BOS begins a text where the file does not say otherwise */
    int nfc;            /* the text is normalized first */
};
/* Add the steps of a value of tokenizer.ggml.pre.  UNSUPPORTED if the table lacks it. */
int pretokenizer_add_family(struct pretokenizer *p, const char *name, size_t len,
                            struct pretokenizer_family *family, struct error *err);

/* Symbols are bytes, not characters. */
int pretokenizer_is_byte_level(const struct pretokenizer *p);

/* Takes a piece, never empty; -1 ends the splitting with its error. */
typedef int piece_f(void *arg, const char *piece, size_t len, struct error *err);

/* Call piece for each one in order; text is well-formed UTF-8.  first: it begins the whole text.
 * Serves any number of threads, each with a match of its own. */
int pretokenizer_split(const struct pretokenizer *p, struct regex_match *match, const char *text,
                       size_t len, int first, piece_f *piece, void *arg, struct error *err);

#endif
