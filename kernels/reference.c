/*
 * reference.c - the operations of kernels.h in double precision
 */
#include "kernels/reference.h"

#include <math.h>
#include <stdlib.h>

void ref_rmsnorm(float *out, const float *x, const float *w, uint32_t rows, uint32_t cols,
                 float eps)
{
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t i = 0; i < cols; i++)
            sum += (double)x[r * cols + i] * x[r * cols + i];
        double scale = 1 / sqrt(sum / cols + eps);
        for (size_t i = 0; i < cols; i++)
            out[r * cols + i] = (float)(x[r * cols + i] * scale * w[i]);
    }
}

void ref_matmul(float *out, const float *x, const struct weight *w, const float *bias,
                uint32_t rows)
{
    uint64_t row_bytes = dtype_row_bytes(w->dtype, w->cols);
    float *decoded = calloc(w->cols, sizeof(*decoded));

    for (size_t j = 0; j < w->rows; j++) {
        if (decoded)
            ref_dequantize(decoded, (const char *)w->data + j * row_bytes, w->dtype, w->cols);
        for (size_t r = 0; r < rows; r++) {
            /* Out of memory shows as NaN, which fails every comparison. */
            double sum = decoded ? 0 : NAN;
            for (size_t k = 0; decoded && k < w->cols; k++)
                sum += (double)decoded[k] * x[r * w->cols + k];
            out[r * w->rows + j] = (float)(sum + (bias ? bias[j] : 0));
        }
    }
    free(decoded);
}

/* Where head h's vector of a position lies; kv: 0 keys, 1 values. */
static float *cached(const struct kv_layout *kv, uint32_t layer, const struct attn_row *seq,
                     void *const *pages, uint32_t which, uint32_t h, uint32_t pos)
{
    char *page = pages[seq->table + pos / kv->page_tokens];
    float *base = (float *)(page + layer * kv->layer_bytes);
    size_t token = ((size_t)which * kv->kv_heads + h) * kv->page_tokens + pos % kv->page_tokens;
    return base + token * kv->head_dim;
}

static void rotate(float *x, const struct rope *rope, uint32_t pos)
{
    uint32_t half = rope->dims / 2;

    for (uint32_t i = 0; i < half; i++) {
        double angle = pos * pow(rope->theta, -2.0 * i / rope->dims);
        if (rope->factors)
            angle /= rope->factors[i];
        float *a = rope->interleaved ? &x[2 * i] : &x[i];
        float *b = rope->interleaved ? &x[2 * i + 1] : &x[i + half];
        double x0 = *a, x1 = *b;
        *a = (float)((x0 * cos(angle) - x1 * sin(angle)) * rope->scale);
        *b = (float)((x0 * sin(angle) + x1 * cos(angle)) * rope->scale);
    }
}

void ref_rope_kv(float *q, float *k, const float *v, uint32_t q_heads, const struct rope *rope,
                 const struct kv_layout *kv, uint32_t layer, const struct attn_row *seqs,
                 uint32_t seq_count, void *const *pages)
{
    size_t dim = kv->head_dim;

    for (uint32_t s = 0; s < seq_count; s++) {
        for (uint32_t t = 0; t < seqs[s].count; t++) {
            size_t row = seqs[s].first_row + t;
            uint32_t pos = seqs[s].first_pos + t;
            for (size_t h = 0; h < q_heads; h++)
                rotate(q + (row * q_heads + h) * dim, rope, pos);
            for (uint32_t h = 0; h < kv->kv_heads; h++) {
                size_t at = (row * kv->kv_heads + h) * dim;
                rotate(k + at, rope, pos);
                for (size_t i = 0; i < dim; i++) {
                    cached(kv, layer, &seqs[s], pages, 0, h, pos)[i] = k[at + i];
                    cached(kv, layer, &seqs[s], pages, 1, h, pos)[i] = v[at + i];
                }
            }
        }
    }
}

static void attend(float *out, const float *q, uint32_t kv_head, uint32_t pos,
                   const struct attention *attention, const struct kv_layout *kv, uint32_t layer,
                   const struct attn_row *seq, void *const *pages)
{
    double max = -INFINITY, sum = 0, cap = attention->softcap;
    double *p = calloc((size_t)pos + 1, sizeof(*p));
    uint32_t first =
        attention->window && pos >= attention->window ? pos - attention->window + 1 : 0;

    for (uint32_t t = first; p && t <= pos; t++) {
        const float *key = cached(kv, layer, seq, pages, 0, kv_head, t);
        for (uint32_t i = 0; i < kv->head_dim; i++)
            p[t] += (double)q[i] * key[i];
        p[t] *= attention->scale;
        if (cap > 0)
            p[t] = cap * tanh(p[t] / cap);
        max = fmax(max, p[t]);
    }
    for (uint32_t t = first; p && t <= pos; t++)
        sum += p[t] = exp(p[t] - max);
    for (uint32_t i = 0; i < kv->head_dim; i++) {
        double value = p ? 0 : NAN;
        for (uint32_t t = first; p && t <= pos; t++)
            value += p[t] / sum * cached(kv, layer, seq, pages, 1, kv_head, t)[i];
        out[i] = (float)value;
    }
    free(p);
}

void ref_attention(float *out, const float *q, uint32_t q_heads, const struct attention *attention,
                   const struct kv_layout *kv, uint32_t layer, const struct attn_row *seqs,
                   uint32_t seq_count, void *const *pages)
{
    uint32_t group = q_heads / kv->kv_heads;

    for (uint32_t s = 0; s < seq_count; s++) {
        for (uint32_t t = 0; t < seqs[s].count; t++) {
            for (uint32_t h = 0; h < q_heads; h++) {
                size_t at = ((size_t)(seqs[s].first_row + t) * q_heads + h) * kv->head_dim;
                attend(out + at, q + at, h / group, seqs[s].first_pos + t, attention, kv, layer,
                       &seqs[s], pages);
            }
        }
    }
}

void ref_glu(float *out, const float *gate_up, uint32_t rows, uint32_t cols,
             enum activation activation)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < cols; i++) {
            double g = gate_up[r * 2 * cols + i];
            double up = gate_up[r * 2 * cols + cols + i];
            double z = sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
            double a =
                activation == ACTIVATION_GELU_TANH ? g / 2 * (1 + tanh(z)) : g / (1 + exp(-g));
            out[r * cols + i] = (float)(a * up);
        }
    }
}

void ref_scale(float *x, uint32_t rows, uint32_t cols, float scale, float softcap)
{
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        double a = (double)x[i] * scale;
        x[i] = (float)(softcap > 0 ? softcap * tanh(a / softcap) : a);
    }
}

void ref_route(uint32_t *ids, float *weights, const float *logits, uint32_t rows, uint32_t experts,
               uint32_t top_k, int renormalize)
{
    for (uint32_t r = 0; r < rows; r++, ids += top_k, weights += top_k, logits += experts) {
        double all = 0, chosen = 0;
        for (uint32_t e = 0; e < experts; e++) {
            uint32_t rank = 0;
            for (uint32_t o = 0; o < experts; o++)
                rank += logits[o] > logits[e] || (o < e && !(logits[o] < logits[e]));
            all += exp(logits[e]);
            if (rank >= top_k)
                continue;
            ids[rank] = e;
            chosen += exp(logits[e]);
        }
        for (uint32_t k = 0; k < top_k; k++)
            weights[k] = (float)(exp(logits[ids[k]]) / (renormalize ? chosen : all));
    }
}
