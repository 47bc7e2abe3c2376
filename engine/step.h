/*
 * step.h - one step: which sequences' tokens go through the forward pass together
 *
 * The oldest sequences of the model, up to the batch, oldest first.  Those that decode (one token)
 * come first in the rows, then chunks of prompts until the rows are used up.
 *
 * What the device reads of it (tokens, runs, page tables, how to sample) is the plan: one piece of
 * memory that is written here and copied there as a whole; a CPU reads it where it is.
 *
 * On a GPU two steps are in flight: the second is built and asked for before the first one's tokens
 * are known, which the device picks and feeds by itself.  What a sequence turns out not to have
 * wanted (its first step ended it) is dropped when the second one is collected.
 */
#ifndef MP_ENGINE_STEP_H
#define MP_ENGINE_STEP_H

#include "engine/forward.h"
#include "engine/residency.h"
#include "engine/sequence.h"

#define STEP_FLIGHT_MAX 2u

/* The plan's parts, at the same offsets on both sides. */
struct plan {
    uint32_t *tokens;            /* [rows_max]; SAMPLE_FED + i: what the step before picks */
    struct attn_row *runs;       /* [STEP_BATCH_MAX] */
    struct attn_row *local_runs; /* [STEP_BATCH_MAX]: the same with the tables of kv_local */
    struct sample *samples;      /* [STEP_BATCH_MAX], of head rows */
    void **table;                /* page tables of all runs, one after the other */
};

struct step {
    struct model *model; /* NULL: not in flight */
    uint64_t turn;       /* that it belongs to */
    uint32_t rows, run_count;
    struct sequence *members[STEP_BATCH_MAX]; /* of each run of rows; NULL: gone since */
    uint32_t head_rows[STEP_BATCH_MAX];
    struct sequence *head_members[STEP_BATCH_MAX]; /* who gets the token of each head row */
    uint32_t head_count;
    uint32_t prefill_tokens; /* prompt tokens among the rows */
    uint32_t longest;        /* run */
    uint32_t fed;            /* rows whose token the device alone knows */
    uint64_t table_used;
    struct plan plan; /* the host's side of it */
    uint32_t *picks;  /* [STEP_BATCH_MAX]: the device's, for the host; NULL on a CPU */
    float *logits;    /* [max_batch][vocabulary], of head rows that the host samples */
    int64_t asked_us; /* when */
    int loading;      /* its weights were arriving then */
};

/* What is in flight, and the room for it.  The device has one plan: what is asked of it happens in
 * order, so a plan has been read when the next one arrives. */
struct flight {
    struct device *device;
    uint32_t rows_max, max_batch;
    uint32_t depth; /* steps at once: 1 on a CPU */
    struct step steps[STEP_FLIGHT_MAX];
    uint32_t first, count;             /* the oldest one in flight */
    struct plan there;                 /* on a CPU: the host's */
    uint32_t *picked;                  /* [STEP_BATCH_MAX] on the device; NULL on a CPU */
    uint64_t plan_bytes, logits_bytes; /* that each plan, each step's logits have room for */
    uint64_t generation;               /* of the addresses on the device */
    struct group *group;               /* of an instance of several ranks, or NULL */
};

struct step_choice { /* what a step may hold */
    uint32_t rows_max;
    uint32_t phases; /* enum order_phases */
    uint32_t chunk;  /* rows beside those that decode; 0: as many as fit */
    uint64_t turn;   /* prompts that this one has taken on; 0: all */
};

enum step_result {
    STEP_READY,
    STEP_IDLE,    /* no sequence of the model can run now */
    STEP_KV_FULL, /* members[0] is the sequence for which no page is left */
};

/* Head rows that a step of so large a batch may have, padded as graphs are. */
uint32_t step_heads(uint32_t max_batch);

int flight_open(struct flight *f, struct device *d, uint32_t rows_max, uint32_t max_batch,
                struct error *err);
void flight_close(struct flight *f);
/* Make room for a batch of this model.  Nothing is in flight. */
int flight_fit(struct flight *f, const struct model *m, struct error *err);
/* The sequence is about to be closed: steps in flight forget it. */
void flight_forget(struct flight *f, const struct sequence *s);

/* A step in flight has it. */
int flight_has(const struct flight *f, const struct sequence *s);

/* The step that is built next; there is room in flight for it. */
struct step *flight_next(struct flight *f);
/* Fill it with what may be in it and take its pages, evicting prefixes that nobody uses and weights
 * of models that do not run if need be. */
enum step_result step_build(struct flight *f, struct step *st, struct model *m,
                            struct sequence_list *seqs, struct residency *r,
                            const struct step_choice *choice);
/* Some sequence of the model may be in it, or is in one in flight. */
int step_any(const struct sequence_list *seqs, const struct model *m,
             const struct step_choice *choice);
/* Send the plan, and say what the forward pass is to do: the tokens of all rows, and logits of the
 * head rows. */
void step_input(struct flight *f, struct step *st, struct forward_input *in);
/* Its rows are as good as computed: positions, and a token that is pending, advance; what is full
 * may be shared. */
void step_advance(struct step *st, struct sequence_list *seqs);
/* Ask for all of it: plan, forward pass, picks. */
void step_launch(struct flight *f, struct step *st, struct sequence_list *seqs,
                 struct workspace *w);
/* Wait for the oldest step in flight, which then no longer is.  -1: the device failed, and with it
 * all that it held. */
int step_wait(struct flight *f, struct step **st, struct error *err);

/* Record the model's graphs, one for each number of decoding rows up to the batch, where the device
 * knows such things and addresses have changed since.  The model need not be resident. */
int step_record(struct flight *f, struct model *m, struct workspace *w, struct error *err);

#endif
