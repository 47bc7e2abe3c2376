/*
 * dispatch.c - kernels.h's calls, given to the device's table
 */
#include "kernels/device.h"

void device_deterministic(struct device *d)
{
    if (d->ops->deterministic)
        d->ops->deterministic(d);
}

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

enum dtype device_operand(const struct device *d)
{
    return d->ops->operand;
}

uint32_t device_operand_bytes(const struct device *d)
{
    return d->ops->operand == DTYPE_BF16 ? 2 : 4;
}

void device_sync(struct device *d)
{
    d->ops->sync(d);
}

void device_mark(struct device *d, uint32_t number)
{
    d->ops->mark(d, number);
}

void device_wait(struct device *d, uint32_t number)
{
    d->ops->wait(d, number);
}

int device_failed(struct device *d, struct error *err)
{
    return d->ops->failed(d, err);
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

void device_copy_now(struct device *d, void *to, const void *from, uint64_t bytes)
{
    d->ops->copy_now(d, to, from, bytes);
}

void device_move_begin(struct device *d, enum device_way way, uint32_t number)
{
    d->ops->move_begin(d, way, number);
}

void device_move_copy(struct device *d, enum device_way way, void *to, const void *from,
                      uint64_t bytes)
{
    d->ops->move_copy(d, way, to, from, bytes);
}

void device_move_end(struct device *d, enum device_way way, uint32_t number)
{
    d->ops->move_end(d, way, number);
}

int device_move_done(struct device *d, enum device_way way, uint32_t number, int wait, uint64_t *us)
{
    return d->ops->move_done(d, way, number, wait, us);
}

void device_move_after(struct device *d, enum device_way way)
{
    d->ops->move_after(d, way);
}

void device_move_join(struct device *d)
{
    d->ops->move_join(d);
}

int device_host_pin(struct device *d, void *p, uint64_t bytes, struct error *err)
{
    return d->ops->host_pin(d, p, bytes, err);
}

void device_host_unpin(struct device *d, void *p)
{
    d->ops->host_unpin(d, p);
}

struct device_lane *device_lane_open(struct device *d, struct error *err)
{
    return d->ops->lane_open(d, err);
}

void device_lane_close(struct device_lane *l)
{
    if (l)
        l->device->ops->lane_close(l);
}

void device_lane_follow(struct device_lane *l)
{
    l->device->ops->lane_follow(l);
}

void device_lane_copy(struct device_lane *l, void *to, const void *from, uint64_t bytes)
{
    if (bytes > 0)
        l->device->ops->lane_copy(l, to, from, bytes);
}

void device_lane_mark(struct device_lane *l, uint32_t number)
{
    l->device->ops->lane_mark(l, number);
}

int device_lane_wait(struct device_lane *l, uint32_t number, struct error *err)
{
    return l->device->ops->lane_wait(l, number, err);
}

void device_await(struct device_lane *l, uint32_t number)
{
    l->device->ops->lane_await(l, number);
}

uint64_t device_handle_bytes(const struct device *d)
{
    return d->ops->handle_bytes;
}

int device_pool(struct device *d, uint32_t count, struct error *err)
{
    return d->ops->pool(d, count, err);
}

void *device_reserve(struct device *d, uint64_t bytes, struct error *err)
{
    return d->ops->reserve(d, bytes, err);
}

void device_release(struct device *d, void *range, uint64_t bytes)
{
    if (range)
        d->ops->release(d, range, bytes);
}

int device_map(struct device *d, void *range, const uint32_t *handles, uint32_t count,
               struct error *err)
{
    return d->ops->map(d, range, handles, count, err);
}

void device_unmap(struct device *d, void *range, uint32_t count)
{
    if (count > 0)
        d->ops->unmap(d, range, count);
}

int device_remap(struct device *d, void *at, int mapped, uint32_t handle, struct error *err)
{
    return d->ops->remap(d, at, mapped, handle, err);
}

int device_tune(struct device *d, const struct weight *w, struct error *err)
{
    return d->ops->tune(d, w, err);
}

int device_record(struct device *d, struct error *err)
{
    return d->ops->record(d, err);
}

struct graph *device_recorded(struct device *d, struct error *err)
{
    return d->ops->recorded(d, err);
}

void device_replay(struct device *d, struct graph *g)
{
    d->ops->replay(d, g);
}

void device_graph_free(struct device *d, struct graph *g)
{
    if (g)
        d->ops->graph_free(d, g);
}

void k_embed(struct device *d, float *out, const struct weight *table, const uint32_t *tokens,
             uint32_t rows, float scale)
{
    d->ops->embed(d, out, table, tokens, rows, scale);
}

void k_norm(struct device *d, void *out, float *x, const void *y, float y_scale,
            const float *y_norm, const float *w, uint32_t rows, uint32_t cols, float eps)
{
    d->ops->norm(d, out, x, y, y_scale, y_norm, w, rows, cols, eps);
}

void k_matmul(struct device *d, void *out, uint32_t stride, const void *x, const struct weight *w,
              const float *bias, uint32_t rows)
{
    d->ops->matmul(d, out, stride, x, w, bias, rows);
}

void k_matmul_f32(struct device *d, float *out, const void *x, const struct weight *w,
                  uint32_t rows)
{
    d->ops->matmul_f32(d, out, x, w, rows);
}

void k_matmul_add(struct device *d, float *out, float scale, const void *x, const struct weight *w,
                  uint32_t rows)
{
    d->ops->matmul_add(d, out, scale, x, w, rows);
}

void k_matmul_add_norm(struct device *d, void *normed, const float *norm, float eps, float *x,
                       float scale, const void *in, const struct weight *w, uint32_t rows)
{
    if (d->ops->matmul_add_norm &&
        d->ops->matmul_add_norm(d, normed, norm, eps, x, scale, in, w, rows))
        return;
    d->ops->matmul_add(d, x, scale, in, w, rows);
    d->ops->norm(d, normed, x, NULL, 0, NULL, norm, rows, w->rows, eps);
}

void k_matmul_glu(struct device *d, void *out, void *gate_up, const void *x, const struct weight *w,
                  uint32_t rows, enum activation activation)
{
    if (d->ops->matmul_glu && d->ops->matmul_glu(d, out, x, w, rows, activation))
        return;
    d->ops->matmul(d, gate_up, w->rows, x, w, NULL, rows);
    d->ops->glu(d, out, gate_up, rows, w->rows / 2, activation);
}

void k_rope_kv(struct device *d, void *qkv, uint32_t q_heads, const struct qk_norm *norm,
               const struct rope *rope, const struct kv_layout *kv, uint32_t layer,
               const struct attn_step *step)
{
    d->ops->rope_kv(d, qkv, q_heads, norm, rope, kv, layer, step);
}

void k_matmul_rope_kv(struct device *d, void *qkv, const void *x, const struct weight *w,
                      const float *bias, uint32_t q_heads, const struct rope *rope,
                      const struct kv_layout *kv, uint32_t layer, const struct attn_step *step)
{
    if (d->ops->matmul_rope_kv &&
        d->ops->matmul_rope_kv(d, qkv, x, w, bias, q_heads, rope, kv, layer, step))
        return;
    d->ops->matmul(d, qkv, w->rows, x, w, bias, step->rows);
    d->ops->rope_kv(d, qkv, q_heads, NULL, rope, kv, layer, step);
}

void k_attention(struct device *d, void *out, const void *qkv, uint32_t q_heads,
                 const struct attention *attention, const struct kv_layout *kv, uint32_t layer,
                 const struct attn_step *step)
{
    d->ops->attention(d, out, qkv, q_heads, attention, kv, layer, step);
}

void k_glu(struct device *d, void *out, const void *gate_up, uint32_t rows, uint32_t cols,
           enum activation activation)
{
    d->ops->glu(d, out, gate_up, rows, cols, activation);
}

void k_scale(struct device *d, float *x, uint32_t rows, uint32_t cols, float scale, float softcap)
{
    d->ops->scale(d, x, rows, cols, scale, softcap);
}

void k_feed(struct device *d, uint32_t *tokens, const uint32_t *picked, uint32_t rows)
{
    d->ops->feed(d, tokens, picked, rows);
}

void k_sample(struct device *d, uint32_t *tokens, const float *logits, const struct sample *how,
              uint32_t rows, uint32_t vocabulary)
{
    d->ops->sample(d, tokens, logits, how, rows, vocabulary);
}

void k_route(struct device *d, uint32_t *expert_ids, float *expert_weights, const float *logits,
             uint32_t rows, uint32_t experts, uint32_t top_k, int renormalize)
{
    d->ops->route(d, expert_ids, expert_weights, logits, rows, experts, top_k, renormalize);
}

void k_matmul_expert(struct device *d, void *out, const void *x, const struct weight *w,
                     const uint32_t *expert_ids, uint32_t rows, uint32_t share)
{
    d->ops->matmul_expert(d, out, x, w, expert_ids, rows, share);
}

void k_combine(struct device *d, void *out, const void *y, const float *expert_weights,
               uint32_t rows, uint32_t top_k, uint32_t cols)
{
    d->ops->combine(d, out, y, expert_weights, rows, top_k, cols);
}

void k_embed_part(struct device *d, float *out, const struct weight *table, uint32_t first,
                  const uint32_t *tokens, uint32_t rows, float scale)
{
    d->ops->embed_part(d, out, table, first, tokens, rows, scale);
}

void k_squares(struct device *d, float *out, const void *qkv, uint32_t stride, uint32_t q_cols,
               uint32_t k_cols, uint32_t rows)
{
    d->ops->squares(d, out, qkv, stride, q_cols, k_cols, rows);
}
