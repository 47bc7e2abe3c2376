/* json_member.h - members of a tokenizer's JSON objects, checked; absent ones and null take the
 * default */
#ifndef MP_MODEL_JSON_MEMBER_H
#define MP_MODEL_JSON_MEMBER_H

#include <jansson.h>

#include "common/error.h"

/* NULL if it is absent or null. */
const json_t *member_of(const json_t *object, const char *key);
/* 0, or INVALID if it is there and no boolean. */
int member_bool(const json_t *object, const char *key, int *value, struct error *err);
/* The string, `otherwise` if it is absent, NULL (INVALID) if it is something else.  With otherwise
 * NULL it must be there. */
const char *member_string(const json_t *object, const char *key, const char *otherwise,
                          struct error *err);
/* "pattern": {"String": text} or {"Regex": text} */
int member_pattern(const json_t *object, const char **text, size_t *len, int *literal,
                   struct error *err);
/* UNSUPPORTED: "WHAT TYPE is not supported" */
int refuse_type(const char *what, const char *type, struct error *err);

#endif
