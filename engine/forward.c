/* forward.c - the forward pass */
#include "engine/forward.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int buffer_fit(float **buffer, uint64_t *room, uint64_t rows, uint64_t cols,
                      struct error *err)
{
    uint64_t bytes = (rows * cols * sizeof(float) + 63) / 64 * 64;
    float *grown;

    if (bytes <= *room)
        return 0;
    grown = aligned_alloc(64, bytes);
    if (grown == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for %" PRIu64 " bytes of activations",
                         bytes);
    free(*buffer);
    *buffer = grown;
    *room = bytes;
    return 0;
}

/* Room of the feed-forward part: one row a token, or one for each of its chosen experts. */
static int experts_fit(struct workspace *w, const struct arch *a, struct error *err)
{
    uint64_t rows = STEP_ROWS_MAX, chosen = rows * a->experts_used;

    _Static_assert(sizeof(*w->route_id) == sizeof(float), "made as a buffer of floats");
    if (buffer_fit(&w->route, &w->room[8], rows, a->experts, err) != 0 ||
        buffer_fit(&w->route_share, &w->room[9], chosen, 1, err) != 0 ||
        buffer_fit(&w->expert_out, &w->room[10], chosen, a->width, err) != 0 ||
        buffer_fit((float **)(void *)&w->route_id, &w->room[11], chosen, 1, err) != 0 ||
        buffer_fit(&w->gate_up, &w->room[5], chosen, (uint64_t)2 * a->expert_ffn, err) != 0 ||
        buffer_fit(&w->act, &w->room[6], chosen, a->expert_ffn, err) != 0)
        return -1;
    return 0;
}

int workspace_fit(struct workspace *w, const struct model *m, uint32_t heads_max, struct error *err)
{
    const struct arch *a = &m->arch;
    uint64_t q = (uint64_t)a->heads * a->head_dim;
    uint64_t kv = (uint64_t)a->kv_heads * a->head_dim;
    uint64_t rows = STEP_ROWS_MAX;

    w->heads_max = heads_max;
    if (buffer_fit(&w->x, &w->room[0], rows, a->width, err) != 0 ||
        buffer_fit(&w->norm, &w->room[1], rows, a->width, err) != 0 ||
        buffer_fit(&w->qkv, &w->room[2], rows, q + 2 * kv, err) != 0 ||
        buffer_fit(&w->attn, &w->room[3], rows, q, err) != 0 ||
        buffer_fit(&w->proj, &w->room[4], rows, a->width, err) != 0 ||
        buffer_fit(&w->gate_up, &w->room[5], rows, (uint64_t)2 * a->ffn, err) != 0 ||
        buffer_fit(&w->act, &w->room[6], rows, a->ffn, err) != 0 ||
        buffer_fit(&w->logits, &w->room[7], heads_max, a->vocabulary, err) != 0)
        return -1;
    return a->experts != 0 ? experts_fit(w, a, err) : 0;
}

void workspace_clear(struct workspace *w)
{
    free(w->x);
    free(w->norm);
    free(w->qkv);
    free(w->attn);
    free(w->proj);
    free(w->gate_up);
    free(w->act);
    free(w->logits);
    free(w->route);
    free(w->route_share);
    free(w->expert_out);
    free(w->route_id);
    memset(w, 0, sizeof(*w));
}

/* Norms of q and k, before they are rotated: over each head, or over all of them together. */
static void norm_heads(struct device *d, const struct model *m, const struct layer_weights *lw,
                       float *q, float *k, uint32_t rows)
{
    const struct arch *a = &m->arch;

    if (a->qk_norm == QK_NORM_HEAD) {
        k_rmsnorm(d, q, q, lw->q_norm, rows * a->heads, a->head_dim, a->norm_eps);
        k_rmsnorm(d, k, k, lw->k_norm, rows * a->kv_heads, a->head_dim, a->norm_eps);
    } else if (a->qk_norm == QK_NORM_WIDTH) {
        k_rmsnorm(d, q, q, lw->q_norm, rows, a->heads * a->head_dim, a->norm_eps);
        k_rmsnorm(d, k, k, lw->k_norm, rows, a->kv_heads * a->head_dim, a->norm_eps);
    }
}

/*
 * x -> q, k, v, KV of this layer -> attn -> proj.  The kernels want q, k and v each packed.  Of a
 * single row the fused product leaves them so; of more rows three products over the same weights
 * do.  The sums are the same either way (kernels.h: an output's order of summation is fixed).
 */
static void attention(struct device *d, const struct model *m, struct workspace *w,
                      const struct forward_input *in, uint32_t layer, const float *x)
{
    static const struct rope no_rope = {.theta = 1, .scale = 1};
    const struct layer_weights *lw = &m->layers[layer];
    const struct arch *a = &m->arch;
    const struct arch_layer *al = &a->layer[layer];
    const struct attention how = {
        .scale = a->attn_scale, .softcap = a->attn_softcap, .window = al->window};
    const struct kv_layout *kv = lw->cache_local ? &m->kv_local : &m->kv;
    const struct attn_row *seqs = lw->cache_local ? in->local_seqs : in->seqs;
    const float *bias = lw->qkv_bias;
    uint64_t rows = in->rows;
    float *q = w->qkv;
    float *k = q + rows * lw->q.rows;
    float *v = k + rows * lw->k.rows;

    if (rows == 1 && lw->qkv.rows != 0) {
        k_matmul(d, q, x, &lw->qkv, bias, in->rows);
    } else {
        k_matmul(d, q, x, &lw->q, bias, in->rows);
        k_matmul(d, k, x, &lw->k, bias != NULL ? bias + lw->q.rows : NULL, in->rows);
        k_matmul(d, v, x, &lw->v, bias != NULL ? bias + lw->q.rows + lw->k.rows : NULL, in->rows);
    }
    norm_heads(d, m, lw, q, k, in->rows);
    k_rope_kv(d, q, k, v, a->heads, al->rope == ARCH_NO_ROPE ? &no_rope : &m->rope[al->rope], kv,
              lw->cache_layer, seqs, in->seq_count, in->pages);
    k_attention(d, w->attn, q, a->heads, &how, kv, lw->cache_layer, seqs, in->seq_count, in->pages);
    k_matmul(d, w->proj, w->attn, &lw->o, NULL, in->rows);
}

/* x -> act = activation(gate) * up -> proj.  Where the two are of different types, their products
 * cannot be interleaved by one call, and go row by row. */
static void gated(struct device *d, const struct model *m, struct workspace *w, uint32_t rows,
                  const struct layer_weights *lw, const float *x)
{
    uint64_t ffn = m->arch.ffn;

    if (lw->gate_up.rows != 0) {
        k_matmul(d, w->gate_up, x, &lw->gate_up, NULL, rows);
    } else {
        for (uint64_t r = 0; r < rows; r++) {
            const float *row = x + r * m->arch.width;
            k_matmul(d, w->gate_up + 2 * r * ffn, row, &lw->gate, NULL, 1);
            k_matmul(d, w->gate_up + (2 * r + 1) * ffn, row, &lw->up, NULL, 1);
        }
    }
    k_glu(d, w->act, w->gate_up, rows, m->arch.ffn, (enum activation)m->arch.activation);
    k_matmul(d, w->proj, w->act, &lw->down, NULL, rows);
}

/* x -> router -> the chosen experts' gated parts -> their weighted sum, proj. */
static void experts(struct device *d, const struct model *m, struct workspace *w, uint32_t rows,
                    const struct layer_weights *lw, const float *x)
{
    const struct arch *a = &m->arch;
    uint32_t chosen = rows * a->experts_used;

    k_matmul(d, w->route, x, &lw->router, NULL, rows);
    k_route(d, w->route_id, w->route_share, w->route, rows, a->experts, a->experts_used,
            a->expert_renormalize);
    k_matmul_expert(d, w->gate_up, x, &lw->expert_gate_up, w->route_id, chosen, a->experts_used);
    k_glu(d, w->act, w->gate_up, chosen, a->expert_ffn, (enum activation)a->activation);
    k_matmul_expert(d, w->expert_out, w->act, &lw->expert_down, w->route_id, chosen, 1);
    k_combine(d, w->proj, w->expert_out, w->route_share, rows, a->experts_used, a->width);
}

/* Add proj, normed where the family has a norm there, to the residual stream, and return what the
 * next part reads: the stream, normed where it has a norm there. */
static const float *residual(struct device *d, const struct model *m, struct workspace *w,
                             uint32_t rows, const float *post_norm, const float *next_norm)
{
    const struct arch *a = &m->arch;

    if (post_norm != NULL)
        k_rmsnorm(d, w->proj, w->proj, post_norm, rows, a->width, a->norm_eps);
    k_add_rmsnorm(d, w->norm, w->x, w->proj, a->residual_scale, next_norm, rows, a->width,
                  a->norm_eps);
    return next_norm != NULL ? w->norm : w->x;
}

/* Last residual and norm of the rows that yield a token alone, gathered, then the head. */
static void head(struct device *d, const struct model *m, struct workspace *w,
                 const struct forward_input *in)
{
    const struct arch *a = &m->arch;
    const float *post_norm = m->layers[a->layers - 1].ffn_post_norm;
    uint64_t width = a->width;

    for (uint32_t i = 0, n; i < in->head_count; i += n) {
        uint64_t row = in->head_rows[i];
        float *proj = w->proj + row * width;
        for (n = 1; i + n < in->head_count && in->head_rows[i + n] == row + n; n++)
            ;
        if (post_norm != NULL)
            k_rmsnorm(d, proj, proj, post_norm, n, a->width, a->norm_eps);
        k_add_rmsnorm(d, w->norm + i * width, w->x + row * width, proj, a->residual_scale,
                      m->final_norm, n, a->width, a->norm_eps);
    }
    if (in->head_count == 0)
        return;
    k_matmul(d, w->logits, w->norm, &m->head, NULL, in->head_count);
    if (a->logit_scale < 1 || a->logit_scale > 1 || a->logit_softcap > 0)
        k_scale(d, w->logits, in->head_count, a->vocabulary, a->logit_scale, a->logit_softcap);
}

void forward_run(struct device *d, const struct model *m, struct workspace *w,
                 const struct forward_input *in)
{
    const struct arch *a = &m->arch;
    const float *x = w->x;

    k_embed(d, w->x, &m->embedding, in->tokens, in->rows, a->embed_scale);
    if (m->layers[0].attn_norm != NULL) {
        k_rmsnorm(d, w->norm, w->x, m->layers[0].attn_norm, in->rows, a->width, a->norm_eps);
        x = w->norm;
    }
    for (uint32_t i = 0; i < a->layers; i++) {
        const struct layer_weights *lw = &m->layers[i];
        attention(d, m, w, in, i, x);
        x = residual(d, m, w, in->rows, lw->attn_post_norm, lw->ffn_norm);
        if (a->layer[i].moe)
            experts(d, m, w, in->rows, lw, x);
        else
            gated(d, m, w, in->rows, lw, x);
        if (i + 1 < a->layers)
            x = residual(d, m, w, in->rows, lw->ffn_post_norm, m->layers[i + 1].attn_norm);
    }
    head(d, m, w, in);
    device_sync(d);
}
