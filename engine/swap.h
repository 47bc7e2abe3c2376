/*
 * swap.h - sequences whose KV waits in host memory
 *
 * ORDER_SEQ_SPILL takes a sequence's pages away and keeps their bytes in host memory, within a
 * budget; ORDER_SEQ_FETCH brings them back.  Bytes are moved between steps, so many at a time that
 * no step waits for long, while the other sequences run.  Where the budget or the host's memory is
 * used up, the KV is dropped instead: the sequence is away all the same, and computes its tokens
 * anew when it is back.
 *
 * What a sequence shares (share.h) is copied like its own pages, and stays with the cache; what
 * comes back is its own.
 */
#ifndef MP_ENGINE_SWAP_H
#define MP_ENGINE_SWAP_H

#include "engine/residency.h"
#include "engine/sequence.h"

#define SWAP_PIECE ((uint64_t)4 << 20) /* moved between two steps */

struct swap {
    struct sequence_list *sequences;
    struct residency *residency;
    uint64_t budget, used; /* bytes of host memory */
    uint32_t moving;       /* sequences */
    /* A move has ended: event_seq_moved's fields. */
    void (*notify)(void *context, const struct sequence *s, int out, int ok, uint64_t bytes,
                   uint64_t us);
    void *context;
};

/* The sequence is not in flight. */
void swap_spill(struct swap *w, struct sequence *s);
/* keep: a model whose weights stay, NULL: none. */
void swap_fetch(struct swap *w, struct sequence *s, const struct model *keep);
/* The sequence is about to be closed. */
void swap_forget(struct swap *w, struct sequence *s);
/* Move up to so many bytes of what is on its way. */
void swap_advance(struct swap *w, uint64_t bytes);
/* Move all that is leaving: 1 if there was something. */
int swap_finish_leaving(struct swap *w);
/* Move all that is coming for the model: 1 if there was something. */
int swap_finish_coming(struct swap *w, const struct model *m);

#endif
