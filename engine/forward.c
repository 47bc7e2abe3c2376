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
    return 0;
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
    memset(w, 0, sizeof(*w));
}

/*
 * norm -> q, k, v, KV of this layer -> attn.  The kernels want q, k and v each packed.  Of a single
 * row the fused product leaves them so; of more rows three products over the same weights do.  The
 * sums are the same either way (kernels.h: an output's order of summation is fixed).
 */
static void attention(struct device *d, const struct model *m, struct workspace *w,
                      const struct forward_input *in, uint32_t layer)
{
    const struct layer_weights *lw = &m->layers[layer];
    const float *bias = lw->qkv_bias;
    uint64_t rows = in->rows;
    float *q = w->qkv;
    float *k = q + rows * lw->q.rows;
    float *v = k + rows * lw->k.rows;

    if (rows == 1 && lw->qkv.rows != 0) {
        k_matmul(d, q, w->norm, &lw->qkv, bias, in->rows);
    } else {
        k_matmul(d, q, w->norm, &lw->q, bias, in->rows);
        k_matmul(d, k, w->norm, &lw->k, bias != NULL ? bias + lw->q.rows : NULL, in->rows);
        k_matmul(d, v, w->norm, &lw->v, bias != NULL ? bias + lw->q.rows + lw->k.rows : NULL,
                 in->rows);
    }
    k_rope_kv(d, q, k, v, m->arch.heads, &m->rope, &m->kv, layer, in->seqs, in->seq_count,
              in->pages);
    k_attention(d, w->attn, q, m->arch.heads, m->arch.attn_scale, &m->kv, layer, in->seqs,
                in->seq_count, in->pages);
}

/* norm -> act = silu(gate) * up.  Where the two are of different types, their products cannot be
 * interleaved by one call, and go row by row. */
static void gated(struct device *d, const struct model *m, struct workspace *w, uint32_t rows,
                  const struct layer_weights *lw)
{
    uint64_t ffn = m->arch.ffn;

    if (lw->gate_up.rows != 0) {
        k_matmul(d, w->gate_up, w->norm, &lw->gate_up, NULL, rows);
    } else {
        for (uint64_t r = 0; r < rows; r++) {
            const float *x = w->norm + r * m->arch.width;
            k_matmul(d, w->gate_up + 2 * r * ffn, x, &lw->gate, NULL, 1);
            k_matmul(d, w->gate_up + (2 * r + 1) * ffn, x, &lw->up, NULL, 1);
        }
    }
    k_swiglu(d, w->act, w->gate_up, rows, m->arch.ffn);
}

/* Last residual and norm of the rows that yield a token alone, gathered, then the head. */
static void head(struct device *d, const struct model *m, struct workspace *w,
                 const struct forward_input *in)
{
    uint64_t width = m->arch.width;

    for (uint32_t i = 0, n; i < in->head_count; i += n) {
        uint64_t row = in->head_rows[i];
        for (n = 1; i + n < in->head_count && in->head_rows[i + n] == row + n; n++)
            ;
        k_add_rmsnorm(d, w->norm + i * width, w->x + row * width, w->proj + row * width,
                      m->final_norm, n, m->arch.width, m->arch.norm_eps);
    }
    if (in->head_count != 0)
        k_matmul(d, w->logits, w->norm, &m->head, NULL, in->head_count);
}

void forward_run(struct device *d, const struct model *m, struct workspace *w,
                 const struct forward_input *in)
{
    const struct arch *a = &m->arch;

    k_embed(d, w->x, &m->embedding, in->tokens, in->rows, a->embed_scale);
    k_rmsnorm(d, w->norm, w->x, m->layers[0].attn_norm, in->rows, a->width, a->norm_eps);
    for (uint32_t i = 0; i < a->layers; i++) {
        const struct layer_weights *lw = &m->layers[i];
        attention(d, m, w, in, i);
        k_matmul(d, w->proj, w->attn, &lw->o, NULL, in->rows);
        k_add_rmsnorm(d, w->norm, w->x, w->proj, lw->ffn_norm, in->rows, a->width, a->norm_eps);
        gated(d, m, w, in->rows, lw);
        k_matmul(d, w->proj, w->act, &lw->down, NULL, in->rows);
        if (i + 1 < a->layers)
            k_add_rmsnorm(d, w->norm, w->x, w->proj, m->layers[i + 1].attn_norm, in->rows, a->width,
                          a->norm_eps);
    }
    head(d, m, w, in);
    device_sync(d);
}
