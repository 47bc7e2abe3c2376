/*
 * dispatch.c - kernels.h's calls, given to the device's table
 */
#include "kernels/device.h"

void device_destroy(struct device *d)
{
    if (d)
        d->ops->destroy(d);
}

const char *device_name(const struct device *d)
{
    return d->name;
}

enum device_kind device_kind(const struct device *d)
{
    return d->ops->kind;
}

void device_sync(struct device *d)
{
    d->ops->sync(d);
}

int device_check(struct device *d, struct error *err)
{
    return d->ops->check(d, err);
}

int device_memory(struct device *d, uint64_t *free_bytes, uint64_t *total, struct error *err)
{
    return d->ops->memory(d, free_bytes, total, err);
}

void *device_alloc(struct device *d, uint64_t bytes, struct error *err)
{
    return d->ops->alloc(d, bytes, err);
}

void device_free(struct device *d, void *p)
{
    if (p)
        d->ops->free(d, p);
}

void *device_host_alloc(struct device *d, uint64_t bytes, struct error *err)
{
    return d->ops->host_alloc(d, bytes, err);
}

void device_host_free(struct device *d, void *p)
{
    if (p)
        d->ops->host_free(d, p);
}

void device_copy(struct device *d, void *to, const void *from, uint64_t bytes)
{
    if (bytes > 0)
        d->ops->copy(d, to, from, bytes);
}

void k_embed(struct device *d, float *out, const struct weight *table, const uint32_t *tokens,
             uint32_t rows, float scale)
{
    d->ops->embed(d, out, table, tokens, rows, scale);
}

void k_rmsnorm(struct device *d, float *out, const float *x, const float *w, uint32_t rows,
               uint32_t cols, float eps)
{
    d->ops->rmsnorm(d, out, x, w, rows, cols, eps);
}

void k_add_rmsnorm(struct device *d, float *out, float *x, const float *y, float y_scale,
                   const float *w, uint32_t rows, uint32_t cols, float eps)
{
    d->ops->add_rmsnorm(d, out, x, y, y_scale, w, rows, cols, eps);
}

void k_matmul(struct device *d, float *out, const float *x, const struct weight *w,
              const float *bias, uint32_t rows)
{
    d->ops->matmul(d, out, x, w, bias, rows);
}

void k_rope_kv(struct device *d, float *q, float *k, const float *v, uint32_t q_heads,
               const struct rope *rope, const struct kv_layout *kv, uint32_t layer,
               const struct attn_row *seqs, uint32_t seq_count, void *const *pages)
{
    d->ops->rope_kv(d, q, k, v, q_heads, rope, kv, layer, seqs, seq_count, pages);
}

void k_attention(struct device *d, float *out, const float *q, uint32_t q_heads,
                 const struct attention *attention, const struct kv_layout *kv, uint32_t layer,
                 const struct attn_row *seqs, uint32_t seq_count, void *const *pages)
{
    d->ops->attention(d, out, q, q_heads, attention, kv, layer, seqs, seq_count, pages);
}

void k_glu(struct device *d, float *out, const float *gate_up, uint32_t rows, uint32_t cols,
           enum activation activation)
{
    d->ops->glu(d, out, gate_up, rows, cols, activation);
}

void k_scale(struct device *d, float *x, uint32_t rows, uint32_t cols, float scale, float softcap)
{
    d->ops->scale(d, x, rows, cols, scale, softcap);
}

void k_route(struct device *d, uint32_t *expert_ids, float *expert_weights, const float *logits,
             uint32_t rows, uint32_t experts, uint32_t top_k, int renormalize)
{
    d->ops->route(d, expert_ids, expert_weights, logits, rows, experts, top_k, renormalize);
}

void k_matmul_expert(struct device *d, float *out, const float *x, const struct weight *w,
                     const uint32_t *expert_ids, uint32_t rows, uint32_t share)
{
    d->ops->matmul_expert(d, out, x, w, expert_ids, rows, share);
}

void k_combine(struct device *d, float *out, const float *y, const float *expert_weights,
               uint32_t rows, uint32_t top_k, uint32_t cols)
{
    d->ops->combine(d, out, y, expert_weights, rows, top_k, cols);
}
