/*
 * share.h - sequences and the prefix cache: what they find there, and what they leave there
 *
 * A sequence with a sharing number hands each block of tokens (prefix.h) to the cache as soon as it
 * is full, and goes on using it.  Before its tokens go through a step it takes over what is there
 * of its next blocks: at its start, and again at each border of blocks, since others may have
 * computed them meanwhile.  Its last token is always computed, so that there are logits.
 *
 * A hit of n tokens needs, of every kind of pages, those that a token from n on sees: all of
 * model.kv, of windowed layers the last ones.  Keys and values have the same bits wherever they
 * were computed (kernels.h), so a hit changes no output on a CPU.
 */
#ifndef MP_ENGINE_SHARE_H
#define MP_ENGINE_SHARE_H

#include "engine/sequence.h"

/* Take over what is there of the next blocks.  Nothing of the sequence is in flight. */
void share_attach(struct sequence_list *l, struct sequence *s);
/* The next `rows` tokens of `first` fill the very block that s needs next, so s had better wait for
 * it than compute the same.  Both have been attached. */
int share_follows(const struct sequence *s, const struct sequence *first, uint32_t rows);
/* Hand over the blocks that have become full. */
void share_publish(struct sequence_list *l, struct sequence *s);
/* The sequence ends, or computes all anew: hand over what is full, and leave the tree.  Its pages
 * are still its. */
void share_end(struct sequence_list *l, struct sequence *s);

#endif
