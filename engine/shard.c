/* shard.c - a model's parts; see shard.h */
#include "engine/shard.h"

#include <inttypes.h>

#include "kernels/kernels.h"

/* What ranks share out among themselves. */
enum axis { AXIS_NONE, AXIS_Q, AXIS_KV, AXIS_FFN, AXIS_EXPERT_FFN, AXIS_VOCABULARY };

struct shard_rule {
    uint8_t rows, columns; /* enum axis; of vectors, rows are elements */
    uint8_t wide;          /* only where q and k are normed over all heads */
};

static const struct shard_rule rules[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = {.rows = AXIS_VOCABULARY},
    [ROLE_HEAD] = {.rows = AXIS_VOCABULARY},
    [ROLE_Q] = {.rows = AXIS_Q},
    [ROLE_K] = {.rows = AXIS_KV},
    [ROLE_V] = {.rows = AXIS_KV},
    [ROLE_Q_BIAS] = {.rows = AXIS_Q},
    [ROLE_K_BIAS] = {.rows = AXIS_KV},
    [ROLE_V_BIAS] = {.rows = AXIS_KV},
    [ROLE_Q_NORM] = {.rows = AXIS_Q, .wide = 1},
    [ROLE_K_NORM] = {.rows = AXIS_KV, .wide = 1},
    [ROLE_O] = {.columns = AXIS_Q},
    [ROLE_GATE] = {.rows = AXIS_FFN},
    [ROLE_UP] = {.rows = AXIS_FFN},
    [ROLE_DOWN] = {.columns = AXIS_FFN},
    [ROLE_EXPERT_GATE] = {.rows = AXIS_EXPERT_FFN},
    [ROLE_EXPERT_UP] = {.rows = AXIS_EXPERT_FFN},
    [ROLE_EXPERT_DOWN] = {.columns = AXIS_EXPERT_FFN},
};

uint32_t shard_first_token(const struct arch *full, uint32_t rank, uint32_t ranks)
{
    return (uint32_t)((uint64_t)full->vocabulary * rank / ranks);
}

/* The rank's share of what there are `all` of. */
static struct shard_columns share(const struct arch *a, struct shard s, enum axis axis,
                                  uint64_t all)
{
    uint64_t per = all / s.ranks, dim = a->head_dim;

    switch (axis) {
    case AXIS_NONE:
        break;
    case AXIS_KV:
        if (a->kv_heads < s.ranks)
            return (struct shard_columns){(uint64_t)s.rank * a->kv_heads / s.ranks * dim, dim};
        return (struct shard_columns){s.rank * per, per};
    case AXIS_VOCABULARY: /* need not divide evenly */
        per = shard_first_token(a, s.rank, s.ranks);
        return (struct shard_columns){per, shard_first_token(a, s.rank + 1, s.ranks) - per};
    case AXIS_Q:
    case AXIS_FFN:
    case AXIS_EXPERT_FFN:
        return (struct shard_columns){s.rank * per, per};
    }
    return (struct shard_columns){0, all};
}

/* --- the model's settings --------------------------------------------------------------------- */

int shard_check(const struct arch *a, uint32_t ranks, const char *name, struct error *err)
{
    uint32_t dense = 0, moe = 0;

    for (uint32_t i = 0; i < a->layers; i++)
        *(a->layer[i].moe ? &moe : &dense) = 1;
    const struct {
        const char *what;
        uint32_t count;
        int splits;
    } parts[] = {
        {"heads", a->heads, a->heads % ranks != 0},
        {"heads of keys and values", a->kv_heads,
         a->kv_heads % ranks != 0 && ranks % a->kv_heads != 0},
        {"columns of its feed-forward parts", a->ffn, dense && a->ffn % ranks != 0},
        {"columns of its experts", a->expert_ffn, moe && a->expert_ffn % ranks != 0},
        {"tokens of its vocabulary", a->vocabulary, a->vocabulary < ranks},
    };
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (parts[i].splits)
            return error_set(err, STATUS_UNSUPPORTED,
                             "model %s: TensorParallel=%" PRIu32 " does not divide its %" PRIu32
                             " %s: lower it, or run the model on another instance",
                             name, ranks, parts[i].count, parts[i].what);
    return 0;
}

void shard_arch(struct arch *local, const struct arch *full, struct shard s)
{
    *local = *full;
    local->heads /= s.ranks;
    local->kv_heads = full->kv_heads < s.ranks ? 1 : full->kv_heads / s.ranks;
    local->ffn /= s.ranks;
    local->expert_ffn /= s.ranks;
}

/* --- tensors ---------------------------------------------------------------------------------- */

void shard_narrow(const struct arch *full, struct shard s, enum role role, struct arch_ref *ref,
                  uint64_t columns, struct shard_columns *part)
{
    const struct shard_rule *rule = &rules[role];
    int split = s.ranks > 1 && (!rule->wide || full->qk_norm == QK_NORM_WIDTH);
    struct shard_columns rows =
        share(full, s, split ? (enum axis)rule->rows : AXIS_NONE, ref->count);

    *part = share(full, s, split ? (enum axis)rule->columns : AXIS_NONE, columns);
    ref->first += rows.first;
    ref->count = rows.count;
}

int shard_check_blocks(const struct source_tensor *t, struct shard s,
                       const struct shard_columns *part, struct error *err)
{
    uint64_t block = t->type == DTYPE_F8 ? F8_BLOCK : dtype_block_elements(t->type);

    if (block == 0 || part->count == t->shape[0] ||
        (part->first % block == 0 && part->count % block == 0))
        return 0;
    return error_set(err, STATUS_UNSUPPORTED,
                     "tensor %s: TensorParallel=%" PRIu32 " would split its blocks of %" PRIu64
                     " columns (%s, %" PRIu64 " columns a row): lower it, or use the model in "
                     "another type",
                     t->name, s.ranks, block, dtype_name(t->type), t->shape[0]);
}
