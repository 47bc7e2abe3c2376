/*
 * device.h - what every device has: its table of operations
 *
 * Inside kernels/ alone.  An implementation's own structure begins with struct device; dispatch.c
 * gives kernels.h's calls to the table.
 */
#ifndef MP_KERNELS_DEVICE_H
#define MP_KERNELS_DEVICE_H

#include <stdbool.h>

#include "kernels/kernels.h"

/* Each as kernels.h describes the call of its name. */
struct device_ops {
    enum device_kind kind;
    enum dtype operand;
    void (*deterministic)(struct device *d); /* NULL: it always is */
    void (*destroy)(struct device *d);
    void (*sync)(struct device *d);
    void (*mark)(struct device *d, uint32_t number);
    void (*wait)(struct device *d, uint32_t number);
    int (*failed)(struct device *d, struct error *err);
    int (*check)(struct device *d, struct error *err);
    int (*memory)(struct device *d, uint64_t *free_bytes, uint64_t *total, struct error *err);
    void *(*alloc)(struct device *d, uint64_t bytes, struct error *err);
    void (*free)(struct device *d, void *p);
    void *(*host_alloc)(struct device *d, uint64_t bytes, struct error *err);
    void (*host_free)(struct device *d, void *p);
    void (*copy)(struct device *d, void *to, const void *from, uint64_t bytes);
    void (*copy_now)(struct device *d, void *to, const void *from, uint64_t bytes);
    void (*move_begin)(struct device *d, enum device_way way, uint32_t number);
    void (*move_copy)(struct device *d, enum device_way way, void *to, const void *from,
                      uint64_t bytes);
    void (*move_end)(struct device *d, enum device_way way, uint32_t number);
    int (*move_done)(struct device *d, enum device_way way, uint32_t number, int wait,
                     uint64_t *us);
    void (*move_after)(struct device *d, enum device_way way);
    void (*move_join)(struct device *d);
    int (*host_pin)(struct device *d, void *p, uint64_t bytes, struct error *err);
    void (*host_unpin)(struct device *d, void *p);
    struct device_lane *(*lane_open)(struct device *d, struct error *err);
    void (*lane_close)(struct device_lane *l);
    void (*lane_follow)(struct device_lane *l);
    void (*lane_copy)(struct device_lane *l, void *to, const void *from, uint64_t bytes);
    void (*lane_mark)(struct device_lane *l, uint32_t number);
    int (*lane_wait)(struct device_lane *l, uint32_t number, struct error *err);
    void (*lane_await)(struct device_lane *l, uint32_t number);

    uint64_t handle_bytes;
    int (*pool)(struct device *d, uint32_t count, struct error *err);
    void *(*reserve)(struct device *d, uint64_t bytes, struct error *err);
    void (*release)(struct device *d, void *range, uint64_t bytes);
    int (*map)(struct device *d, void *range, const uint32_t *handles, uint32_t count,
               struct error *err);
    void (*unmap)(struct device *d, void *range, uint32_t count);
    int (*remap)(struct device *d, void *at, int mapped, uint32_t handle, struct error *err);
    int (*tune)(struct device *d, const struct weight *w, struct error *err);
    int (*record)(struct device *d, struct error *err);
    struct graph *(*recorded)(struct device *d, struct error *err);
    void (*replay)(struct device *d, struct graph *g);
    void (*graph_free)(struct device *d, struct graph *g);

    void (*embed)(struct device *d, float *out, const struct weight *table, const uint32_t *tokens,
                  uint32_t rows, float scale);
    void (*norm)(struct device *d, void *out, float *x, const void *y, float y_scale,
                 const float *y_norm, const float *w, uint32_t rows, uint32_t cols, float eps);
    void (*matmul)(struct device *d, void *out, uint32_t stride, const void *x,
                   const struct weight *w, const float *bias, uint32_t rows);
    void (*matmul_f32)(struct device *d, float *out, const void *x, const struct weight *w,
                       uint32_t rows);
    void (*matmul_add)(struct device *d, float *out, float scale, const void *x,
                       const struct weight *w, uint32_t rows);
    /* NULL, or false where they did nothing: the two that it stands for are asked for. */
    bool (*matmul_add_norm)(struct device *d, void *normed, const float *norm, float eps, float *x,
                            float scale, const void *in, const struct weight *w, uint32_t rows);
    bool (*matmul_glu)(struct device *d, void *out, const void *x, const struct weight *w,
                       uint32_t rows, enum activation activation);
    bool (*matmul_rope_kv)(struct device *d, void *qkv, const void *x, const struct weight *w,
                           const float *bias, uint32_t q_heads, const struct rope *rope,
                           const struct kv_layout *kv, uint32_t layer,
                           const struct attn_step *step);
    void (*rope_kv)(struct device *d, void *qkv, uint32_t q_heads, const struct qk_norm *norm,
                    const struct rope *rope, const struct kv_layout *kv, uint32_t layer,
                    const struct attn_step *step);
    void (*attention)(struct device *d, void *out, const void *qkv, uint32_t q_heads,
                      const struct attention *attention, const struct kv_layout *kv, uint32_t layer,
                      const struct attn_step *step);
    void (*glu)(struct device *d, void *out, const void *gate_up, uint32_t rows, uint32_t cols,
                enum activation activation);
    void (*scale)(struct device *d, float *x, uint32_t rows, uint32_t cols, float scale,
                  float softcap);
    void (*feed)(struct device *d, uint32_t *tokens, const uint32_t *picked, uint32_t rows);
    void (*sample)(struct device *d, uint32_t *tokens, const float *logits,
                   const struct sample *how, uint32_t rows, uint32_t vocabulary);
    void (*route)(struct device *d, uint32_t *expert_ids, float *expert_weights,
                  const float *logits, uint32_t rows, uint32_t experts, uint32_t top_k,
                  int renormalize);
    void (*matmul_expert)(struct device *d, void *out, const void *x, const struct weight *w,
                          const uint32_t *expert_ids, uint32_t rows, uint32_t share);
    void (*combine)(struct device *d, void *out, const void *y, const float *expert_weights,
                    uint32_t rows, uint32_t top_k, uint32_t cols);
    /* Of devices that work in groups (collective.h); NULL elsewhere. */
    void (*embed_part)(struct device *d, float *out, const struct weight *table, uint32_t first,
                       const uint32_t *tokens, uint32_t rows, float scale);
    void (*squares)(struct device *d, float *out, const void *qkv, uint32_t stride, uint32_t q_cols,
                    uint32_t k_cols, uint32_t rows);
};

struct device {
    const struct device_ops *ops;
    char name[128];
};

#endif
