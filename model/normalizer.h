/*
 * normalizer.h - what is done to a text before it is split: a list of steps, each over all of it
 *
 * The steps are Hugging Face tokenizers': NFC, NFD, NFKC, NFKD (utf8proc), Prepend, Replace and
 * Strip.  Immutable after creation but for normalizer_add_*.
 */
#ifndef MP_MODEL_NORMALIZER_H
#define MP_MODEL_NORMALIZER_H

#include <jansson.h>

#include "common/error.h"
#include "model/bytes.h"
#include "model/regex.h"

struct normalizer;

struct normalizer *normalizer_create(struct error *err); /* with no step yet */
void normalizer_destroy(struct normalizer *n);

int normalizer_add_nfc(struct normalizer *n, struct error *err);
int normalizer_add_prepend(struct normalizer *n, const char *text, struct error *err);
int normalizer_add_replace(struct normalizer *n, const char *text, const char *content,
                           struct error *err);
/* tokenizer.json's "normalizer"; a type that is not in the list is UNSUPPORTED by name. */
int normalizer_add_json(struct normalizer *n, const json_t *json, struct error *err);

/*
 * Normalize well-formed UTF-8.  *out is text itself if there is nothing to do, else the contents of
 * *buffer (the caller's, overwritten).  An empty text stays empty.
 */
int normalizer_run(const struct normalizer *n, struct regex_match *match, const char *text,
                   size_t len, struct bytes *buffer, const char **out, size_t *out_len,
                   struct error *err);

#endif
