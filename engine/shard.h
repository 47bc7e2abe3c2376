/*
 * shard.h - which part of a model each rank of a tensor-parallel group holds
 *
 * A table by role, as data.  Products whose results stay apart are split by rows (q, k, v by heads,
 * gate and up by the feed-forward width, embedding and head by vocabulary), those that join them
 * again by columns (o, down): each rank's are then a part of a sum.  Norms and routers are whole
 * everywhere; a norm over all heads is split as they are.  Where there are fewer heads of keys and
 * values than ranks, neighbours hold the same ones (Shoeybi 2019, Megatron-LM; Pope 2022).
 */
#ifndef MP_ENGINE_SHARD_H
#define MP_ENGINE_SHARD_H

#include <stdint.h>

#include "common/error.h"
#include "model/arch.h"

struct shard {
    uint32_t rank, ranks; /* ranks 1: the whole model */
};

/* Some columns of a tensor's rows. */
struct shard_columns {
    uint64_t first, count;
};

/* Can so many ranks hold the model, whose name is for the message?  UNSUPPORTED names what they
 * would split. */
int shard_check(const struct arch *full, uint32_t ranks, const char *name, struct error *err);
/* What the forward pass of a rank is to know: heads and widths are the rank's own. */
void shard_arch(struct arch *local, const struct arch *full, struct shard s);
/* The rank's first token of the vocabulary; of rank `ranks`: its end. */
uint32_t shard_first_token(const struct arch *full, uint32_t rank, uint32_t ranks);
/*
 * Narrow a reference to a role's weights to the rank's rows (of a vector: elements), and say which
 * of `columns` columns are the rank's.
 */
void shard_narrow(const struct arch *full, struct shard s, enum role role, struct arch_ref *ref,
                  uint64_t columns, struct shard_columns *part);
/* The rank's columns are whole blocks of the stored type: UNSUPPORTED names the tensor if not. */
int shard_check_blocks(const struct source_tensor *t, struct shard s,
                       const struct shard_columns *part, struct error *err);

#endif
