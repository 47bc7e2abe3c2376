/*
 * swap.h - sequences whose KV waits in host memory
 *
 * ORDER_SEQ_SPILL takes a sequence's pages away and keeps their bytes in host memory, within a
 * budget; ORDER_SEQ_FETCH brings them back.  Where the budget or the host's memory is used up, the
 * KV is dropped instead: the sequence is away all the same, and computes its tokens anew when it is
 * back.
 *
 * Pages move in pieces, by the device's moves (kernels.h).  A CPU copies between steps, so much at
 * a time that no step waits for long.  A GPU copies beside the steps, out and in at once, and as
 * many pieces are asked for ahead as keep its bus busy while steps run.  A page is given back when
 * its piece is done, never before.
 *
 * What a sequence shares (share.h) is copied like its own pages, and stays with the cache; what
 * comes back is its own.
 */
#ifndef MP_ENGINE_SWAP_H
#define MP_ENGINE_SWAP_H

#include "engine/residency.h"
#include "engine/sequence.h"
#include "engine/swap_space.h"

#define SWAP_PIECE     ((uint64_t)4 << 20)  /* a CPU's, moved between two steps */
#define SWAP_PIECE_GPU ((uint64_t)32 << 20) /* of which DEVICE_MOVES are under way in each way */

struct swap_piece {
    struct sequence *s;
    uint64_t bytes;
    uint32_t count[2]; /* pages of model.kv, of kv_local */
};

/* One way: pieces under way, done in order. */
struct swap_lane {
    struct swap_piece pieces[DEVICE_MOVES];
    uint32_t first, count;
};

struct swap {
    struct sequence_list *sequences;
    struct residency *residency;
    struct device *device;
    struct swap_space space;   /* a GPU's */
    struct swap_lane lanes[2]; /* enum device_way */
    uint64_t budget, used;     /* bytes of host memory */
    uint64_t piece;            /* bytes, at most; a page at least */
    uint64_t stride;           /* bytes that swap_advance() is asked for between steps */
    uint32_t moving;           /* sequences */
    /* A move has ended: event_seq_moved's fields. */
    void (*notify)(void *context, const struct sequence *s, int out, int ok, uint64_t bytes,
                   uint64_t us);
    void *context;
};

/* `bytes` of host memory at most; a GPU's is taken at once, and there is none if that fails. */
void swap_open(struct swap *w, struct sequence_list *sequences, struct residency *residency,
               struct device *d, uint64_t bytes);
/* No sequence is left. */
void swap_close(struct swap *w);

/* The sequence is not in flight. */
void swap_spill(struct swap *w, struct sequence *s);
/* keep: a model whose weights stay, NULL: none. */
void swap_fetch(struct swap *w, struct sequence *s, const struct model *keep);
/* The sequence is about to be closed. */
void swap_forget(struct swap *w, struct sequence *s);
/* See what is done, and ask for up to so many bytes more of what is on its way. */
void swap_advance(struct swap *w, uint64_t bytes);
/* Wait until a piece of what is leaving is done, which gives pages back; 0: nothing is leaving. */
int swap_wait_leaving(struct swap *w);
/* Wait until a sequence of the model that is coming is here; 0: none is coming. */
int swap_wait_coming(struct swap *w, const struct model *m);
/* Wait for any piece under way; 0: there is none. */
int swap_wait(struct swap *w);

/* Before pages move within the device (pages_squeeze): not ahead of what is under way to and from
 * them.  And after it: what is asked for later comes behind that. */
void swap_hold(struct swap *w);
void swap_go_on(struct swap *w);

#endif
