/*
 * sequence.h - one request's tokens, with its KV pages
 *
 * A sequence holds tokens 0..count-1; the KV of positions 0..computed-1 lies in its pages.  It may
 * run once all tokens that its order announced have come.  It is forgotten at ORDER_SEQ_CLOSE, and
 * by the engine itself after its last token or a fault; orders for an unknown sequence are ignored,
 * as the daemon may have sent them before it learned of that.
 */
#ifndef MP_ENGINE_SEQUENCE_H
#define MP_ENGINE_SEQUENCE_H

#include <sys/queue.h>

#include "common/order.h"
#include "engine/prefix.h"
#include "engine/weights.h"

#define SEQUENCES_MAX 4096u

/* Where its KV is (swap.h): it runs only with SEQUENCE_HERE. */
enum sequence_place { SEQUENCE_HERE, SEQUENCE_LEAVING, SEQUENCE_AWAY, SEQUENCE_COMING };

struct sequence {
    TAILQ_ENTRY(sequence) link; /* urgent ones first, each in order of arrival */
    uint64_t id;
    struct model *model;
    struct order_sampling sampling;
    struct token_bias *biases; /* [biases_room], bias_count of which have come */
    uint32_t biases_room, bias_count;
    uint32_t logprobs;  /* as in struct order_seq */
    uint32_t *tokens;   /* room for limit */
    uint32_t count;     /* of tokens that are known */
    uint32_t announced; /* by ORDER_SEQ_OPEN: it runs when count reaches this */
    uint32_t prompt;    /* the first ones; the others are output */
    uint32_t limit;     /* of tokens: FINISH_LENGTH there */
    uint32_t computed;  /* positions whose KV is there */
    uint32_t prefilled; /* prompt tokens computed since the last event */
    uint32_t pending;   /* tokens that steps in flight pick */
    int urgent;
    uint32_t fed;  /* which row of the last one's picks */
    uint64_t turn; /* the last one that took its prompt on, where turns count them */
    /* Of model.kv and of kv_local: room for limit tokens, pages there have been, how many of those
     * (the first ones, now NULL) were given back; which pages are the prefix cache's, not its own.
     */
    struct page_list {
        void **pages;
        struct prefix_page **shared;
        uint32_t count, gone;
    } caches[2];
    /* Sharing of prefixes (share.h): 0: none.  Its first `blocks` blocks are those down to `at`. */
    uint32_t sharing;
    uint32_t blocks;
    struct prefix_block *at; /* held; NULL: it has not begun */
    uint32_t cached;         /* prompt tokens that were found since the last event */
    enum sequence_place place;
    struct swapped
        *swapped; /* its KV in host memory, or on the way; NULL: nothing of it is there */
};

TAILQ_HEAD(sequence_queue, sequence);

struct sequence_list {
    struct sequence_queue queue;
    uint32_t count;
    struct pages *pool;
    struct prefix_cache *prefixes;
    struct swap *swap; /* told when a sequence is closed */
};

void sequence_list_init(struct sequence_list *l, struct pages *pool, struct prefix_cache *prefixes,
                        struct swap *swap);
void sequence_list_clear(struct sequence_list *l);
/* NULL if there is none of that number. */
struct sequence *sequence_find(const struct sequence_list *l, uint64_t id);
/*
 * A new one, last in age among the urgent or the others; its number is free.  INVALID: tokens
 * beyond the model's context, nothing left to generate; EXHAUSTED: too many sequences.
 */
struct sequence *sequence_open(struct sequence_list *l, struct model *m,
                               const struct order_seq *order, struct error *err);
/* Tokens in order, each within the vocabulary: INVALID otherwise. */
int sequence_append(struct sequence *s, const struct order_tokens *order, struct error *err);
/* Its biases, which come before its tokens, all at once: INVALID otherwise. */
int sequence_bias(struct sequence *s, const struct order_bias *order, struct error *err);
/* Give its pages back and forget it. */
void sequence_close(struct sequence_list *l, struct sequence *s);

/* All tokens have come, and its KV is here. */
int sequence_ready(const struct sequence *s);
/* A step may have it: ready, not at its limit, and if its next token is in flight, then one that
 * the device picks and feeds by itself. */
int sequence_runnable(const struct sequence *s);
/* The host must pick its tokens: penalties need all tokens so far, biases and log probabilities are
 * not known to the device. */
int sequence_host_sampled(const struct sequence *s);
/* It has a token of output, or one in flight: what ORDER_DECODE means. */
int sequence_decodes(const struct sequence *s);
/* Pages for positions 0..tokens-1, but for those that no token from position `computed` on sees:
 * they are given back.  -1 if the pool is out of room; what was taken stays with it. */
int sequence_reserve(struct sequence_list *l, struct sequence *s, uint32_t tokens);
/* How many of the first pages of a kind no token from position `computed` on sees. */
uint32_t sequence_unseen(const struct kv_layout *kv, uint32_t window, uint32_t computed);
/* Give back those of the first `count` pages of a kind that are still there. */
void sequence_give_first(struct sequence_list *l, struct page_list *p, uint32_t count);
/* Give back the last page of a kind, which is there. */
void sequence_give_last(struct sequence_list *l, struct page_list *p);
/* Give all pages back, the last one first. */
void sequence_give_all(struct sequence_list *l, struct sequence *s);

#endif
