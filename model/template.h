/*
 * template.h - chat templates: the Jinja that model files carry
 *
 * Parsed once, rendered per request with trim_blocks and lstrip_blocks on, as Hugging Face
 * transformers renders them.  Language: Jinja's template documentation, the subset listed in
 * HACKING.md; what is not in it is UNSUPPORTED, with the line.  Immutable after creation. Rendering
 * is bounded in steps, nesting and output size: a hostile template is an error, not a hang.
 */
#ifndef MP_MODEL_TEMPLATE_H
#define MP_MODEL_TEMPLATE_H

#include <jansson.h>
#include <stddef.h>

#include "common/error.h"

struct template;

struct template *template_create(const char *source, size_t len, struct error *err);
void template_destroy(struct template *t);

/* Does the source read a variable of that name?  Does it have that word as a name, of a variable or
 * of an attribute, or as a whole string?  What a template does not mention, it cannot render. */
int template_reads(const struct template *t, const char *variable);
int template_mentions(const struct template *t, const char *word);

/*
 * Render with the object's members as variables (messages, add_generation_prompt, bos_token, tools
 * ...).  *out is malloc'd, NUL-terminated, the caller's.  A template's raise_exception() is INVALID
 * with its text.
 */
int template_render(const struct template *t, const json_t *variables, char **out, size_t *len,
                    struct error *err);

#endif
