/*
 * token_entries.h - the tokens of a vocabulary as they are collected from several lists
 */
#ifndef MP_MODEL_TOKEN_ENTRIES_H
#define MP_MODEL_TOKEN_ENTRIES_H

#include <jansson.h>
#include <stdint.h>

#include "common/error.h"
#include "model/gguf.h"

/* Of a tokenizer.json or a vocabulary by ranks; the number of a token is below this. */
#define TOKEN_IDS_MAX (1 << 22)

struct token_entries {
    struct gguf_string *texts; /* borrowed from the lists; of length 0: no token has this number */
    int64_t *types;            /* enum token_type */
    uint64_t count;
};

/* Room for tokens 0..count-1; to be freed also on failure. */
int token_entries_create(struct token_entries *e, uint64_t count, struct error *err);
void token_entries_free(struct token_entries *e);

/* The number of a token, -1 (CORRUPT) if it is none; text is for the message. */
int64_t token_entries_number(const json_t *number, const char *text, struct error *err);
/* Give token `id` its text; CORRUPT if it has another one. */
int token_entries_put(struct token_entries *e, int64_t id, const char *text, size_t len,
                      int64_t type, struct error *err);

/* A list of added tokens, objects with "id", "content" and "special": raise *count, which holds the
 * vocabulary's `own` ones, to hold all of them (CORRUPT if it then is far more than there are:
 * a small file asks for little memory); put them. */
int token_entries_count_added(const json_t *added, uint64_t own, uint64_t *count,
                              struct error *err);
int token_entries_put_added(struct token_entries *e, const json_t *added, struct error *err);

#endif
