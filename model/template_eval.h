/* template_eval.h - between the two halves of the evaluator: statements and expressions. */
#ifndef MP_MODEL_TEMPLATE_EVAL_H
#define MP_MODEL_TEMPLATE_EVAL_H

#include "model/template_internal.h"

int tpl_evaluate(struct tpl_render *r, const struct tpl_node *node, struct tpl_value *out);
/* A filter node on a value that is already there. */
int tpl_evaluate_filter(struct tpl_render *r, const struct tpl_node *node,
                        const struct tpl_value *in, struct tpl_value *out);
/* A name, from the innermost scope outwards, then the language's functions; else undefined. */
int tpl_lookup(struct tpl_render *r, struct tpl_string name, struct tpl_value *out);

#endif
