/*
 * step.h - one step: which sequences' tokens go through the forward pass together
 *
 * The oldest sequences of the model, up to the batch, oldest first.  Those that decode (one token)
 * come first in the rows, then chunks of prompts until the rows are used up.
 *
 * What the device reads of it (tokens, runs, page tables) is the plan: one piece of memory that is
 * written here and copied there as a whole; a CPU reads it where it is.
 */
#ifndef MP_ENGINE_STEP_H
#define MP_ENGINE_STEP_H

#include "engine/forward.h"
#include "engine/residency.h"
#include "engine/sequence.h"

/* The plan's parts, at the same offsets on both sides. */
struct plan {
    uint32_t *tokens;            /* [rows_max] */
    struct attn_row *runs;       /* [STEP_BATCH_MAX] */
    struct attn_row *local_runs; /* [STEP_BATCH_MAX]: the same with the tables of kv_local */
    void **table;                /* page tables of all runs, one after the other */
};

struct step {
    struct device *device;
    uint32_t rows_max;
    struct plan host, there; /* there: the same as host on a CPU */
    uint64_t plan_bytes;     /* that each side has room for */
    uint64_t table_room;     /* entries */

    struct model *model;
    uint32_t rows, run_count;
    struct sequence *members[STEP_BATCH_MAX]; /* of each run of rows */
    uint32_t head_rows[STEP_BATCH_MAX];
    struct sequence *head_members[STEP_BATCH_MAX]; /* who gets the token of each head row */
    uint32_t head_count;
    uint32_t prefill_tokens; /* prompt tokens among the rows */
    uint64_t table_used;
};

enum step_result {
    STEP_READY,
    STEP_IDLE,    /* no sequence of the model is ready */
    STEP_KV_FULL, /* members[0] is the sequence for which no page is left */
};

void step_init(struct step *st, struct device *d, uint32_t rows_max);
/* Make room for the plans of a batch of this model. */
int step_fit(struct step *st, const struct model *m, uint32_t max_batch, struct error *err);
void step_clear(struct step *st);

/* Fill the step with at most rows_max rows and take its pages, evicting weights of models that do
 * not run if need be. */
enum step_result step_build(struct step *st, struct model *m, struct sequence_list *seqs,
                            struct residency *r, uint32_t max_batch, uint32_t rows_max);
/* Send the plan, and say what the forward pass is to do: the tokens of all rows, and logits of the
 * head rows. */
void step_input(struct step *st, struct forward_input *in);
/* Its rows are computed: so many positions more. */
void step_done(struct step *st);
/* Run it and wait; positions count as computed afterwards.  -1: the device failed, and with it all
 * that it held. */
int step_run(struct step *st, struct workspace *w, struct error *err);

#endif
