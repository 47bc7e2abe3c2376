/*
 * attention_scene.h - sequences that grow together, for the tests of attention on every device
 *
 * A scene has rows of q, k and v for each sequence, and pages here, which are poisoned (NaN) before
 * each run: what was never written must never be read.  A run goes through it in steps, and who
 * computes a step is the caller's.
 */
#ifndef MP_TESTS_UNIT_ATTENTION_SCENE_H
#define MP_TESTS_UNIT_ATTENTION_SCENE_H

#include "kernels/kernels.h"

#define SEQS_MAX  4u
#define PAGES_MAX 64u
#define LAYERS    2u
#define LAYER     1u
#define ALL       1000u /* tokens: a chunk that holds any sequence */

struct shape {
    uint32_t q_heads, kv_heads, head_dim, page_tokens;
};

struct scene {
    struct shape shape;
    struct kv_layout kv; /* of float32 */
    struct rope rope;
    struct attention attention;
    uint32_t seqs, tokens[SEQS_MAX];
    float *q[SEQS_MAX], *k[SEQS_MAX], *v[SEQS_MAX]; /* [tokens][heads][head_dim] */
    void *pages[PAGES_MAX];
};

/* One step's rows of all its sequences, q, k and v gathered: o is wanted, [total][q_heads *
 * head_dim].  q and k may be overwritten. */
struct scene_step {
    const struct attn_row *rows;
    uint32_t count, total; /* of sequences, of their rows */
    float *o, *q, *k, *v;
};
typedef void (*scene_step_f)(void *arg, struct scene *s, const struct scene_step *step);

/* round: what every element of q, k and v goes through; NULL: nothing. */
void scene_open(struct scene *s, const struct shape *shape, const uint32_t *tokens, uint32_t seqs,
                float (*round)(float), uint64_t *seed);
void scene_close(struct scene *s);
void scene_poison(struct scene *s);

/* Run the whole scene in steps of `chunk` tokens a sequence, all sequences in each step (together)
 * or one after the other; out[i] has sequence i's rows. */
void scene_run(struct scene *s, scene_step_f compute, void *arg, uint32_t chunk, int together,
               float *const *out);
/* A step by the reference; arg is not used. */
void scene_reference(void *arg, struct scene *s, const struct scene_step *step);

struct outputs {
    float *rows[SEQS_MAX];
};

/* Elements of sequence i's rows. */
size_t outputs_size(const struct scene *s, uint32_t i);
struct outputs outputs_open(const struct scene *s);
void outputs_close(struct outputs *o);

/* The norms of q or k that a family asks for, by the reference. */
void norm_rows(float *x, const float *w, uint32_t rows, uint32_t heads, uint32_t dim,
               const struct qk_norm *norm);

#endif
