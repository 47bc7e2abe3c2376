#include "model/arch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "model/family.h"
#include "model/ggml_type.h"

/* What both formats' readers share */

int arch_check_heads(const struct arch *a, const char *name, struct error *err)
{
    if (a->heads % a->kv_heads)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu32 " heads do not share %" PRIu32 " heads of keys evenly",
                         name, a->heads, a->kv_heads);
    if (a->head_dim == 0 || (uint64_t)a->heads * a->head_dim > FIELD_MAX)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu32 " heads of %" PRIu32 " elements are too many", name,
                         a->heads, a->head_dim);
    return 0;
}

void arch_add_eos(struct arch *a, uint32_t token)
{
    for (uint32_t i = 0; i < a->eos_count; i++)
        if (a->eos[i] == token)
            return;
    a->eos[a->eos_count++] = token;
}

/* Tensors */

static int check_tensor(const struct source *s, const struct role_rule *rule,
                        const struct role_place *p, const struct source_tensor *t,
                        struct error *err)
{
    const struct ggml_type *type = ggml_type_get(t->type);
    int vector = rule->vector, floats;

    if (t->shape[0] != p->columns || t->shape[1] != p->all || t->shape[2] != p->depth ||
        t->shape[3] != 1)
        return error_set(err, STATUS_CORRUPT,
                         "%s: tensor %.80s is %" PRIu64 "x%" PRIu64 "x%" PRIu64 "x%" PRIu64
                         ", the model's settings say %" PRIu64 "x%" PRIu64 "x%" PRIu64,
                         source_name(s), t->name, t->shape[0], t->shape[1], t->shape[2],
                         t->shape[3], p->columns, p->all, p->depth);
    floats = t->type == GGML_TYPE_F32 ||
             (!source_gguf(s) && (t->type == GGML_TYPE_F16 || t->type == GGML_TYPE_BF16));
    if (vector ? !floats : !type || !type->weight)
        return error_set(err, STATUS_UNSUPPORTED, "%s: tensor %.80s is stored as %s, %s",
                         source_name(s), t->name, type ? type->name : "an unknown type",
                         vector ? "only F32 is supported there"
                                : "which is not supported; quantize it anew");
    return 0;
}

static int check_one(const struct arch *a, const struct source *s, const struct family *f,
                     enum role role, uint32_t layer, uint32_t expert, unsigned char *seen,
                     struct error *err)
{
    const struct source_tensor *t;
    struct role_place p;

    role_place(f, a, source_gguf(s) != NULL, role, layer, expert, &p);
    t = source_find_tensor(s, p.name);
    if (!t)
        return error_set(err, STATUS_CORRUPT, "%s: tensor %s is missing", source_name(s), p.name);
    seen[t - source_tensor(s, 0)] = 1;
    if (t->scale)
        seen[t->scale - source_tensor(s, 0)] = 1;
    return check_tensor(s, role_rule(role), &p, t, err);
}

/* Tensors that the readers of fields have taken, or that repeat what they know. */
static int has_no_place(const struct arch *a, const struct source *s, const struct family *f,
                        const struct source_tensor *t)
{
    static const char inv_freq[] = "rotary_emb.inv_freq";
    const char *name = t->name;
    size_t len = strlen(name);

    if (source_gguf(s)) {
        if (f->traits & TRAIT_LONGROPE)
            return a->rope[0].scaled == 0 || (strcmp(name, "rope_factors_long.weight") != 0 &&
                                              strcmp(name, "rope_factors_short.weight") != 0);
        return strcmp(name, "rope_freqs.weight") != 0;
    }
    if (len >= sizeof(inv_freq) - 1 && strcmp(name + len - (sizeof(inv_freq) - 1), inv_freq) == 0)
        return 0;
    if (source_is_activation_scale(s, t))
        return 0;
    return !(a->tied && strcmp(name, "lm_head.weight") == 0);
}

static int check_layer(const struct arch *a, const struct source *s, const struct family *f,
                       enum role role, uint32_t layer, unsigned char *seen, struct error *err)
{
    uint32_t experts = role >= ROLE_FIRST_EXPERT ? a->experts : 1;

    if (!role_present(f, a, role, layer))
        return 0;
    for (uint32_t expert = 0; expert < experts; expert++)
        if (check_one(a, s, f, role, layer, expert, seen, err))
            return -1;
    return 0;
}

/* Every tensor of the table is in the file, and none else. */
static int check_tensors(const struct arch *a, const struct source *s, const struct family *f,
                         struct error *err)
{
    size_t count = source_tensor_count(s);
    unsigned char *seen = calloc(count + 1, 1);
    int rv = -1;

    if (!seen)
        return error_set(err, STATUS_NOMEM, "%s: no memory to check its tensors", source_name(s));
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        uint32_t layers = role < ROLE_FIRST_LAYERED ? 1 : a->layers;
        for (uint32_t layer = 0; layer < layers; layer++)
            if (check_layer(a, s, f, role, layer, seen, err))
                goto out;
    }
    for (size_t i = 0; i < count; i++) {
        const struct source_tensor *t = source_tensor(s, i);

        if (!seen[i] && has_no_place(a, s, f, t)) {
            error_set(err, STATUS_UNSUPPORTED, "%s: tensor %.80s has no place in family %s",
                      source_name(s), t->name, f->name);
            goto out;
        }
    }
    rv = 0;
out:
    free(seen);
    return rv;
}

/* Public */

int arch_read(struct arch *out, const struct source *s, struct error *err)
{
    struct arch *a = calloc(1, sizeof(*a));
    const struct family *f = NULL;
    int rv = -1;

    if (!a)
        return error_set(err, STATUS_NOMEM, "%s: no memory for its settings", source_name(s));
    a->bos = -1;
    if (source_gguf(s) ? arch_read_gguf(a, &f, s, err) : arch_read_config(a, &f, s, err))
        goto out;
    if (check_tensors(a, s, f, err))
        goto out;
    *out = *a;
    rv = 0;
out:
    free(a);
    return rv;
}

static int place(const struct arch *a, const struct source *s, enum role role, uint32_t layer,
                 uint32_t expert, struct arch_ref *out)
{
    const struct family *f = family_by_name(a->family, strlen(a->family));
    struct role_place p;

    if (!f || !role_present(f, a, role, layer))
        return 0;
    role_place(f, a, source_gguf(s) != NULL, role, layer, expert, &p);
    out->tensor = source_find_tensor(s, p.name);
    out->first = p.first;
    out->count = role_rule(role)->vector ? p.columns : p.count;
    return out->tensor != NULL;
}

int arch_tensor(const struct arch *a, const struct source *s, enum role role, uint32_t layer,
                struct arch_ref *out)
{
    return role < ROLE_FIRST_EXPERT ? place(a, s, role, layer, 0, out) : 0;
}

int arch_expert(const struct arch *a, const struct source *s, enum role role, uint32_t layer,
                uint32_t expert, struct arch_ref *out)
{
    return role >= ROLE_FIRST_EXPERT && expert < a->experts ? place(a, s, role, layer, expert, out)
                                                            : 0;
}

int arch_check_cols(const struct arch *a, struct error *err)
{
    const struct {
        const char *what;
        uint64_t cols;
    } rows[] = {{"its width", a->width},
                {"heads times their width", (uint64_t)a->heads * a->head_dim},
                {"twice the feed-forward width", (uint64_t)2 * a->ffn},
                {"twice an expert's width", (uint64_t)2 * a->expert_ffn}};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].cols > ARCH_COLS_MAX)
            return error_set(err, STATUS_UNSUPPORTED,
                             "%s is %" PRIu64 ", and an engine's activations have at most %u "
                             "elements",
                             rows[i].what, rows[i].cols, ARCH_COLS_MAX);
    return 0;
}
