/*
 * forward.h - the forward pass, one for all families and devices
 *
 * Driven by struct arch and the layout in struct model; knows the device by kernels.h alone.
 */
#ifndef MP_ENGINE_FORWARD_H
#define MP_ENGINE_FORWARD_H

#include "engine/weights.h"
#include "kernels/collective.h"
#include "kernels/kernels.h"

struct group;

/* Sequences of a step, and the rows that yield a token. */
#define STEP_BATCH_MAX 256u
/* Tokens of a step: what fills the device. */
#define STEP_ROWS_CPU  256u
#define STEP_ROWS_CUDA 2048u

/* The tokens of one step and where their keys and values go. */
struct forward_input {
    uint32_t rows;
    const uint32_t *tokens;    /* [rows], device memory */
    struct attn_step all;      /* runs of rows, in order, covering all of them */
    struct attn_step local;    /* the same with their pages of the model's kv_local */
    const uint32_t *head_rows; /* rows whose logits are wanted, ascending */
    uint32_t head_count;
    /* For the other ranks of a group (group.h): the host's side of what tokens, seqs and pages
     * point into, with the tables at its end; the number of the step among those in flight; whether
     * tokens are fed; and where the device is to put the step's picks, NULL: it picks none. */
    const uint8_t *plan;
    uint64_t plan_bytes, table_at;
    uint32_t slot;
    int fed;
    uint32_t *picked;
    const struct sample *samples; /* [head_count], device memory */
};

/* Activations in device memory, one row a token; shared by all models.  The three that are float32
 * on every device say so, the others are operands. */
struct workspace {
    struct device *device;
    uint32_t rows_max;   /* tokens of a step */
    uint32_t heads_max;  /* rows of logits */
    uint64_t generation; /* of the buffers' addresses */
    uint64_t room[14];   /* bytes of each buffer below */
    float *x;            /* [rows_max][width]: the residual stream */
    void *norm;          /* [rows_max][width] */
    void *qkv;           /* [rows_max][q + k + v] */
    void *attn;          /* [rows_max][heads * head_dim] */
    void *proj;          /* [rows_max][width] */
    void *gate_up;       /* [rows_max][2 * ffn] */
    void *act;           /* [rows_max][ffn] */
    float *logits;       /* [heads_max][vocabulary] */
    /* Of models with experts; gate_up and act then have a row for each chosen expert of a token. */
    float *route;       /* [rows_max][experts] */
    float *route_share; /* [rows_max][experts_used] */
    void *expert_out;   /* [rows_max][experts_used][width] */
    uint32_t *route_id; /* [rows_max][experts_used] */
    /* Of a rank of a group (group.h); collective NULL: there is no other rank. */
    struct collective *collective;
    uint32_t rank;
    struct group *group; /* rank 0's: it calls the others */
    float *logits_part;  /* [heads_max][the rank's part of the vocabulary; rank 0: all of it] */
    float *squares;      /* [rows_max][2], of q and k */
};

/* An empty one, for steps of at most rows_max tokens, heads_max of which yield a token. */
void workspace_init(struct workspace *w, struct device *d, uint32_t rows_max, uint32_t heads_max);
/* Make room for a model's steps. */
int workspace_fit(struct workspace *w, const struct model *m, struct error *err);
void workspace_clear(struct workspace *w);

/*
 * Ask the device for the step: the KV of its tokens is written, and the logits of head row i left
 * in w->logits + i * vocabulary.  The model is resident.  Does not wait.
 */
void forward_run(const struct model *m, struct workspace *w, const struct forward_input *in);
/* The same of one rank, by its own thread; m is its part of the model. */
void forward_rank(const struct model *m, struct workspace *w, const struct forward_input *in);

#endif
