/* forward.c - the forward pass */
#include "engine/forward.h"

#include <inttypes.h>
#include <string.h>

#include "engine/group.h"

/* Buffers have no elements of their own: `element` bytes each. */
static int buffer_fit(struct workspace *w, void **buffer, uint64_t *room, uint64_t rows,
                      uint64_t cols, uint32_t element, struct error *err)
{
    uint64_t bytes = (rows * cols * element + 63) / 64 * 64;
    void *grown;

    if (bytes <= *room)
        return 0;
    grown = device_alloc(w->device, bytes, err);
    if (grown == NULL)
        return -1;
    device_free(w->device, *buffer);
    *buffer = grown;
    *room = bytes;
    w->generation++;
    return 0;
}

/* The buffers and their widths for a model, in the order of workspace.room. */
struct wanted {
    void **buffer;
    uint64_t rows, cols;
    uint32_t element;
};

int workspace_fit(struct workspace *w, const struct model *m, struct error *err)
{
    const struct arch *a = &m->arch;
    uint64_t q = (uint64_t)a->heads * a->head_dim, kv = (uint64_t)a->kv_heads * a->head_dim;
    uint64_t rows = w->rows_max, chosen = rows * a->experts_used;
    uint32_t operand = device_operand_bytes(w->device), f32 = sizeof(float);
    uint32_t grouped = w->collective != NULL;
    const struct wanted wanted[] = {
        {(void **)&w->x, rows, a->width, f32},
        {&w->norm, rows, a->width, operand},
        {&w->qkv, rows, q + 2 * kv, operand},
        {&w->attn, rows, q, operand},
        {&w->proj, rows, a->width, operand},
        {&w->gate_up, rows, (uint64_t)2 * a->ffn, operand},
        {&w->act, rows, a->ffn, operand},
        {(void **)&w->logits, w->rank == 0 ? w->heads_max : 0, a->vocabulary, f32},
        {(void **)&w->route, rows, a->experts, f32},
        {(void **)&w->route_share, chosen, 1, f32},
        {&w->expert_out, chosen, a->width, operand},
        {(void **)&w->route_id, chosen, 1, sizeof(uint32_t)},
        /* Of models with experts. */
        {&w->gate_up, chosen, (uint64_t)2 * a->expert_ffn, operand},
        {&w->act, chosen, a->expert_ffn, operand},
        /* Of groups. */
        {(void **)&w->logits_part, grouped * w->heads_max,
         w->rank == 0 ? a->vocabulary : m->head.rows, f32},
        {(void **)&w->squares, grouped * rows, 2, f32},
    };
    static const uint32_t room_of[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 5, 6, 12, 13};

    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        if (buffer_fit(w, wanted[i].buffer, &w->room[room_of[i]], wanted[i].rows, wanted[i].cols,
                       wanted[i].element, err) != 0)
            return -1;
    return 0;
}

void workspace_init(struct workspace *w, struct device *d, uint32_t rows_max, uint32_t heads_max)
{
    memset(w, 0, sizeof(*w));
    w->device = d;
    w->rows_max = rows_max;
    w->heads_max = heads_max;
}

void workspace_clear(struct workspace *w)
{
    void *buffers[] = {w->x,          w->norm,     w->qkv,         w->attn,   w->proj,
                       w->gate_up,    w->act,      w->logits,      w->route,  w->route_share,
                       w->expert_out, w->route_id, w->logits_part, w->squares};

    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        if (buffers[i] != NULL)
            device_free(w->device, buffers[i]);
    memset(w, 0, sizeof(*w));
}

/* x -> q, k, v of each row behind each other.  Where the three are of different types, three
 * products leave them so. */
static void project(struct device *d, const struct layer_weights *lw, struct workspace *w,
                    const void *x, uint32_t rows)
{
    const struct weight *parts[] = {&lw->q, &lw->k, &lw->v};
    uint32_t stride = lw->q.rows + lw->k.rows + lw->v.rows, at = 0;

    if (lw->qkv.rows != 0) {
        k_matmul(d, w->qkv, stride, x, &lw->qkv, lw->qkv_bias, rows);
        return;
    }
    for (int i = 0; i < 3; at += parts[i++]->rows)
        k_matmul(d, (char *)w->qkv + (size_t)at * device_operand_bytes(d), stride, x, parts[i],
                 lw->qkv_bias != NULL ? lw->qkv_bias + at : NULL, rows);
}

/* The ranks' parts of proj become their sum. */
static void sum_proj(const struct model *m, struct workspace *w, uint32_t rows)
{
    if (w->collective != NULL)
        collective_sum(w->collective, w->rank, w->proj, (uint64_t)rows * m->arch.width,
                       device_operand(w->device));
}

/* How a part of a layer ends: its result is normed first where there is post_norm; next is the norm
 * of the part behind it, NULL: there is none, or it has no weights. */
struct part_end {
    const float *post_norm, *next;
};

/* What a part of a layer gives: added to the residual stream at once, and the next part's input
 * made of it; or, where it is normed or summed over ranks first, left in proj. */
static void close_part(const struct model *m, struct workspace *w, const void *x,
                       const struct weight *out, const struct part_end *end, uint32_t rows)
{
    if (end->post_norm != NULL || w->collective != NULL) {
        k_matmul(w->device, w->proj, m->arch.width, x, out, NULL, rows);
        sum_proj(m, w, rows);
    } else if (end->next != NULL) {
        k_matmul_add_norm(w->device, w->norm, end->next, m->arch.norm_eps, w->x,
                          m->arch.residual_scale, x, out, rows);
    } else {
        k_matmul_add(w->device, w->x, m->arch.residual_scale, x, out, rows);
    }
}

/* A norm over all heads of q and k, of which this rank has some. */
static void sum_squares(const struct model *m, struct workspace *w, struct qk_norm *norm,
                        uint32_t rows)
{
    const struct arch *a = &m->arch;
    uint32_t q = a->heads * a->head_dim, k = a->kv_heads * a->head_dim;

    if (w->collective == NULL || a->qk_norm != QK_NORM_WIDTH)
        return;
    k_squares(w->device, w->squares, w->qkv, q + 2 * k, q, k, rows);
    collective_sum(w->collective, w->rank, w->squares, (uint64_t)2 * rows, DTYPE_F32);
    norm->squares = w->squares;
    norm->q_all = q * m->shard.ranks;
    norm->k_all = k * m->shard.ranks; /* of heads that several ranks have, as many squares */
}

/* x -> q, k, v, KV of this layer -> attn -> the residual stream, or proj. */
static void attention(const struct model *m, struct workspace *w, const struct forward_input *in,
                      uint32_t layer, const void *x)
{
    static const struct rope no_rope = {.theta = 1, .scale = 1};
    struct device *d = w->device;
    const struct layer_weights *lw = &m->layers[layer];
    const struct arch *a = &m->arch;
    const struct arch_layer *al = &a->layer[layer];
    const struct attention how = {
        .scale = a->attn_scale, .softcap = a->attn_softcap, .window = al->window};
    struct qk_norm norm = {
        .q = lw->q_norm, .k = lw->k_norm, .eps = a->norm_eps, .width = a->qk_norm == QK_NORM_WIDTH};
    const struct kv_layout *kv = lw->cache_local ? &m->kv_local : &m->kv;
    const struct attn_step *step = lw->cache_local ? &in->local : &in->all;

    const struct rope *rope = al->rope == ARCH_NO_ROPE ? &no_rope : &m->rope[al->rope];

    if (lw->qkv.rows != 0 && a->qk_norm == QK_NORM_NONE) {
        k_matmul_rope_kv(d, w->qkv, x, &lw->qkv, lw->qkv_bias, a->heads, rope, kv, lw->cache_layer,
                         step);
    } else {
        project(d, lw, w, x, in->rows);
        sum_squares(m, w, &norm, in->rows);
        k_rope_kv(d, w->qkv, a->heads, a->qk_norm == QK_NORM_NONE ? NULL : &norm, rope, kv,
                  lw->cache_layer, step);
    }
    k_attention(d, w->attn, w->qkv, a->heads, &how, kv, lw->cache_layer, step);
    const struct part_end end = {lw->attn_post_norm, lw->ffn_norm};
    close_part(m, w, w->attn, &lw->o, &end, in->rows);
}

/* x -> act = activation(gate) * up -> the residual stream, or proj. */
static void gated(const struct model *m, struct workspace *w, uint32_t rows, uint32_t layer,
                  const void *x)
{
    const struct layer_weights *lw = &m->layers[layer];
    const struct part_end end = {lw->ffn_post_norm,
                                 layer + 1 < m->arch.layers ? lw[1].attn_norm : NULL};
    struct device *d = w->device;
    uint32_t ffn = m->arch.ffn;

    if (lw->gate_up.rows != 0) {
        k_matmul_glu(d, w->act, w->gate_up, x, &lw->gate_up, rows,
                     (enum activation)m->arch.activation);
    } else {
        k_matmul(d, w->gate_up, 2 * ffn, x, &lw->gate, NULL, rows);
        k_matmul(d, (char *)w->gate_up + (size_t)ffn * device_operand_bytes(d), 2 * ffn, x, &lw->up,
                 NULL, rows);
        k_glu(d, w->act, w->gate_up, rows, ffn, (enum activation)m->arch.activation);
    }
    close_part(m, w, w->act, &lw->down, &end, rows);
}

/* x -> router -> the chosen experts' gated parts -> their weighted sum, in proj. */
static void experts(const struct model *m, struct workspace *w, uint32_t rows,
                    const struct layer_weights *lw, const void *x)
{
    struct device *d = w->device;
    const struct arch *a = &m->arch;
    uint32_t chosen = rows * a->experts_used;

    k_matmul_f32(d, w->route, x, &lw->router, rows);
    k_route(d, w->route_id, w->route_share, w->route, rows, a->experts, a->experts_used,
            a->expert_renormalize);
    k_matmul_expert(d, w->gate_up, x, &lw->expert_gate_up, w->route_id, chosen, a->experts_used);
    k_glu(d, w->act, w->gate_up, chosen, a->expert_ffn, (enum activation)a->activation);
    k_matmul_expert(d, w->expert_out, w->act, &lw->expert_down, w->route_id, chosen, 1);
    k_combine(d, w->proj, w->expert_out, w->route_share, rows, a->experts_used, a->width);
    sum_proj(m, w, rows);
}

/* Whether a part of the layer leaves its result in proj for the norm behind it. */
static const void *pending(const struct workspace *w, const float *post_norm, int moe)
{
    return post_norm != NULL || moe || w->collective != NULL ? w->proj : NULL;
}

/* Logits of normed rows: of ranks, each the tokens that it has, all to rank 0. */
static void logits(const struct model *m, struct workspace *w, uint32_t rows)
{
    const struct arch *a = &m->arch;

    k_matmul_f32(w->device, w->collective == NULL ? w->logits : w->logits_part, w->norm, &m->head,
                 rows);
    if (w->collective != NULL)
        collective_gather(w->collective, w->rank, w->logits, w->logits_part, rows,
                          m->vocabulary_firsts);
    if (w->rank == 0 && (a->logit_scale < 1 || a->logit_scale > 1 || a->logit_softcap > 0))
        k_scale(w->device, w->logits, rows, a->vocabulary, a->logit_scale, a->logit_softcap);
}

/* Last residual and norm of the rows that yield a token alone, gathered, then the head. */
static void head(const struct model *m, struct workspace *w, const struct forward_input *in)
{
    struct device *d = w->device;
    const struct arch *a = &m->arch;
    const struct layer_weights *last = &m->layers[a->layers - 1];
    const char *proj = pending(w, last->ffn_post_norm, a->layer[a->layers - 1].moe);
    uint64_t width = a->width, bytes = device_operand_bytes(d);

    for (uint32_t i = 0, n; i < in->head_count; i += n) {
        uint64_t row = in->head_rows[i];
        for (n = 1; i + n < in->head_count && in->head_rows[i + n] == row + n; n++)
            ;
        k_norm(d, (char *)w->norm + i * width * bytes, w->x + row * width,
               proj != NULL ? proj + row * width * bytes : NULL, a->residual_scale,
               last->ffn_post_norm, m->final_norm, n, a->width, a->norm_eps);
    }
    if (in->head_count > 0)
        logits(m, w, in->head_count);
}

/* Tokens' vectors: of ranks, each those that it has. */
static void embed(const struct model *m, struct workspace *w, const struct forward_input *in)
{
    const struct arch *a = &m->arch;

    if (w->collective == NULL) {
        k_embed(w->device, w->x, &m->embedding, in->tokens, in->rows, a->embed_scale);
        return;
    }
    k_embed_part(w->device, w->x, &m->embedding, m->vocabulary_firsts[w->rank], in->tokens,
                 in->rows, a->embed_scale);
    collective_sum(w->collective, w->rank, w->x, (uint64_t)in->rows * a->width, DTYPE_F32);
}

void forward_rank(const struct model *m, struct workspace *w, const struct forward_input *in)
{
    struct device *d = w->device;
    const struct arch *a = &m->arch;
    const void *part = NULL; /* in proj, of the part before */
    const float *part_norm = NULL;
    int normed = 0; /* that part has made the next one's input */

    model_await(m, m->embedding_end);
    embed(m, w, in);
    for (uint32_t i = 0; i < a->layers; i++) {
        const struct layer_weights *lw = &m->layers[i];
        model_await(m, lw->end);
        if (!normed)
            k_norm(d, w->norm, w->x, part, a->residual_scale, part_norm, lw->attn_norm, in->rows,
                   a->width, a->norm_eps);
        attention(m, w, in, i, w->norm);
        part = pending(w, lw->attn_post_norm, 0);
        if (part != NULL || lw->ffn_norm == NULL)
            k_norm(d, w->norm, w->x, part, a->residual_scale, lw->attn_post_norm, lw->ffn_norm,
                   in->rows, a->width, a->norm_eps);
        if (i + 1 < a->layers)
            model_await(m, lw[1].end); /* this layer's end has the next one's norm */
        if (a->layer[i].moe)
            experts(m, w, in->rows, lw, w->norm);
        else
            gated(m, w, in->rows, i, w->norm);
        part = pending(w, lw->ffn_post_norm, a->layer[i].moe);
        part_norm = lw->ffn_post_norm;
        normed = part == NULL && i + 1 < a->layers && lw[1].attn_norm != NULL;
    }
    model_await(m, m->range_bytes);
    head(m, w, in);
}

void forward_run(const struct model *m, struct workspace *w, const struct forward_input *in)
{
    if (w->group != NULL)
        group_forward(w->group, m, w, in);
    else
        forward_rank(m, w, in);
}
