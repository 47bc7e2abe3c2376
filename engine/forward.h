/*
 * forward.h - the forward pass, one for all families
 *
 * Driven by struct arch and the layout in struct model; knows the device by kernels.h alone.
 */
#ifndef MP_ENGINE_FORWARD_H
#define MP_ENGINE_FORWARD_H

#include "engine/weights.h"
#include "kernels/kernels.h"

#define STEP_ROWS_MAX 256u /* tokens of a step */

/* The tokens of one step and where their keys and values go. */
struct forward_input {
    uint32_t rows;
    const uint32_t *tokens;            /* [rows] */
    const struct attn_row *seqs;       /* runs of rows, in order, covering all of them */
    const struct attn_row *local_seqs; /* the same with their pages of the model's kv_local */
    uint32_t seq_count;
    void *const *pages;        /* the table that all .table point into */
    const uint32_t *head_rows; /* rows whose logits are wanted, ascending */
    uint32_t head_count;
};

/* Activations, float32, one row a token; shared by all models. */
struct workspace {
    uint32_t heads_max; /* rows of logits */
    uint64_t room[12];  /* bytes of each buffer below */
    float *x;           /* [STEP_ROWS_MAX][width]: the residual stream */
    float *norm;        /* [STEP_ROWS_MAX][width] */
    float *qkv;         /* [STEP_ROWS_MAX][q + k + v] */
    float *attn;        /* [STEP_ROWS_MAX][heads * head_dim] */
    float *proj;        /* [STEP_ROWS_MAX][width] */
    float *gate_up;     /* [STEP_ROWS_MAX][2 * ffn] */
    float *act;         /* [STEP_ROWS_MAX][ffn] */
    float *logits;      /* [heads_max][vocabulary] */
    /* Of models with experts; gate_up and act then have a row for each chosen expert of a token. */
    float *route;       /* [STEP_ROWS_MAX][experts] */
    float *route_share; /* [STEP_ROWS_MAX][experts_used] */
    float *expert_out;  /* [STEP_ROWS_MAX][experts_used][width] */
    uint32_t *route_id; /* [STEP_ROWS_MAX][experts_used] */
};

/* Make room for a model's steps of STEP_ROWS_MAX rows, heads_max of which yield a token. */
int workspace_fit(struct workspace *w, const struct model *m, uint32_t heads_max,
                  struct error *err);
void workspace_clear(struct workspace *w);

/*
 * Run the step: write the KV of its tokens, and leave the logits of head row i in
 * w->logits + i * vocabulary.  The model is resident.  Waits for the device.
 */
void forward_run(struct device *d, const struct model *m, struct workspace *w,
                 const struct forward_input *in);

#endif
