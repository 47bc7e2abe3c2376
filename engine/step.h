/*
 * step.h - one step: which sequences' tokens go through the forward pass together
 *
 * The oldest sequences of the model, up to the batch, oldest first.  Those that decode (one token)
 * come first in the rows, then chunks of prompts until the rows are used up.
 */
#ifndef MP_ENGINE_STEP_H
#define MP_ENGINE_STEP_H

#include "engine/forward.h"
#include "engine/residency.h"
#include "engine/sequence.h"

struct step {
    struct model *model;
    uint32_t rows;
    uint32_t tokens[STEP_ROWS_MAX];
    struct sequence *members[STEP_ROWS_MAX]; /* of each run of rows */
    struct attn_row runs[STEP_ROWS_MAX];
    struct attn_row local_runs[STEP_ROWS_MAX]; /* the same with the tables of kv_local */
    uint32_t run_count;
    uint32_t head_rows[STEP_ROWS_MAX];
    struct sequence *head_members[STEP_ROWS_MAX]; /* who gets the token of each head row */
    uint32_t head_count;
    uint32_t prefill_tokens; /* prompt tokens among the rows */
    void **table;            /* page tables of all runs, one after the other */
    uint64_t table_room;
};

enum step_result {
    STEP_READY,
    STEP_IDLE,    /* no sequence of the model is ready */
    STEP_KV_FULL, /* members[0] is the sequence for which no page is left */
};

/* Make room for the page tables of a batch of this model. */
int step_fit(struct step *st, const struct model *m, uint32_t max_batch, struct error *err);
void step_clear(struct step *st);

/* Fill the step and take its pages, evicting weights of models that do not run if need be. */
enum step_result step_build(struct step *st, struct model *m, struct sequence_list *seqs,
                            struct residency *r, uint32_t max_batch, uint32_t rows_max);
/* Run it; positions count as computed afterwards. */
void step_run(struct step *st, struct device *d, struct workspace *w);

#endif
