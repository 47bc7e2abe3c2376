/* arch_config.h - inside of the reader of config.json: for arch_config*.c */
#ifndef MP_MODEL_ARCH_CONFIG_H
#define MP_MODEL_ARCH_CONFIG_H

#include "model/family.h"

/* The file while it is read; `where` is for messages. */
struct config {
    const json_t *root;
    const char *where;
    const struct family *family;
    struct error *err;
};

/* null, false or 0: what most keys say where they do nothing. */
int config_is_false(const json_t *v);
/* The value of a key; NULL also for null. */
const json_t *config_get(const json_t *object, const char *key);
/* An integer in 1..most.  A missing one takes `otherwise`, or is an error if that is 0. */
int config_count(const struct config *c, const char *key, uint32_t otherwise, uint32_t most,
                 uint32_t *out);
/* A positive number whose reciprocal is one too; as above. */
int config_number(const struct config *c, const json_t *object, const char *key, double otherwise,
                  double *out);

/* a->rope, as transformers 4 wrote it (rope_theta, rope_scaling) or 5 (rope_parameters). */
int config_read_ropes(const struct config *c, struct arch *a);

#endif
