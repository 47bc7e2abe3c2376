/*
 * engine.h - an engine: everything between its channel and its device
 *
 * One thread.  Orders are taken between steps; with no turn to run, the engine sleeps on the
 * channel.
 */
#ifndef MP_ENGINE_ENGINE_H
#define MP_ENGINE_ENGINE_H

#include "engine/channel.h"
#include "engine/group.h"
#include "engine/sampler.h"
#include "engine/step.h"
#include "engine/swap.h"

#define ENGINE_TURNS_MAX 2u
#define ENGINE_BATCH_MAX STEP_BATCH_MAX

struct turn {
    struct order_turn order;
    uint32_t asked, steps; /* of the device; collected */
    uint32_t prompts;      /* that it has taken on */
    uint64_t step_us, switch_us, switch_bytes;
    int64_t stepped_us; /* when the last step was collected */
};

struct engine {
    struct channel channel;
    char instance[64];
    uint32_t max_batch;
    uint32_t rows_max;     /* of a step: what the device takes, less in tests */
    struct device *device; /* rank 0's */
    struct group *group;   /* NULL: the instance has one rank */
    struct arena *arena;
    struct pages *pages;
    struct prefix_cache *prefixes;
    struct residency residency;
    struct sequence_list sequences;
    struct swap swap;
    struct workspace workspace;
    struct flight flight;
    struct sampler *sampler;
    struct turn turns[ENGINE_TURNS_MAX]; /* the first one runs */
    uint32_t turn_count;
    int deterministic; /* the device was asked to be */
    int gone;          /* the daemon hung up, or the device failed */
};

/* Everything but models: device, arena, pools.  Needs a hello of our version: UNSUPPORTED else. */
struct engine *engine_create(int fd, const struct order_hello *hello, struct error *err);
void engine_destroy(struct engine *e);

/* What engine_create() consists of, in engine_ranks.c: may there be so many ranks?  A rank's
 * device; the other ranks and the arena, once e->rows_max is set. */
int engine_check_ranks(const struct order_hello *hello, struct error *err);
struct device *engine_device(const struct order_hello *hello, uint32_t rank, struct error *err);
int engine_open_ranks(struct engine *e, const struct order_hello *hello, struct error *err);
/* UNSUPPORTED: the instance's settings exclude this model; the text says which and why. */
int engine_check_model(const struct engine *e, const struct model *m, struct error *err);

/* Take one checked order, with the descriptors that came with it (not kept).  What cannot
 * be done is answered by an event, or logged where there is none.  1: it was ORDER_QUIT. */
int engine_order(struct engine *e, const void *order, const struct channel_files *files);

/* Send an event; notes when the daemon is gone. */
void engine_send(struct engine *e, const void *event, size_t len);
/* Forget a sequence, also where it is in flight. */
void engine_close(struct engine *e, struct sequence *s);
/* Send EVENT_SEQ_FAULT and forget the sequence. */
void engine_fault(struct engine *e, struct sequence *s, const char *text);

/* Read ORDER_HELLO from the socket and serve until ORDER_QUIT or the end of the channel: 0.  -1: it
 * could not start, or was spoken to wrongly. */
int engine_serve(int fd, struct error *err);

#endif
