/*
 * regex.h - the patterns of tokenizers, as Hugging Face tokenizers reads them
 *
 * Those are Oniguruma's; they are translated to PCRE2's, so that the same text gives the same
 * pieces whatever release of PCRE2 is there: \s is Unicode's White_Space (PCRE2's \s holds U+180E),
 * ^ and $ are at every line, and what Unicode 15 and 16 added to a category is listed for releases
 * that know Unicode 14.  What has no sure translation is UNSUPPORTED by name.
 */
#ifndef MP_MODEL_REGEX_H
#define MP_MODEL_REGEX_H

#include <stddef.h>

#include "common/error.h"

struct regex;

/* literal: no pattern but a text to be found. */
struct regex *regex_create(const char *pattern, size_t len, int literal, struct error *err);
void regex_destroy(struct regex *r);

/* Scratch of one thread; fits every pattern. */
struct regex_match *regex_match_create(struct error *err);
void regex_match_destroy(struct regex_match *m);

/*
 * The first match in text, well-formed UTF-8, from `from` on: 1 with its range, 0 none, -1 an
 * error: of the text (too hard to match) or the pattern (an empty match).
 */
int regex_find(const struct regex *r, struct regex_match *m, const char *text, size_t len,
               size_t from, size_t *begin, size_t *end, struct error *err);

#endif
