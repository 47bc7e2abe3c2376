/*
 * ops.c - kernels.h on the CPU: jobs for the pool
 *
 * Grains only trade the cost of claiming work against balance; no result depends on them.
 */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/device.h"

/* Elements of element-wise work that are worth a thread's while, some microseconds. */
#define ELEMENTS_WORTH 8192u
/* Multiplications that are. */
#define PRODUCTS_WORTH (1u << 16)

/* Items of `cost` each to reach `worth`, at least 1. */
static uint32_t grain(uint64_t worth, uint64_t cost)
{
    return cost == 0 || cost >= worth ? 1 : (uint32_t)(worth / cost);
}

static uint32_t total_rows(const struct attn_row *seqs, uint32_t seq_count)
{
    uint32_t rows = 0;

    for (uint32_t i = 0; i < seq_count; i++)
        rows += seqs[i].count;
    return rows;
}

static void cpu_embed(struct device *d, float *out, const struct weight *table,
                      const uint32_t *tokens, uint32_t rows, float scale)
{
    struct cpu_device *c = (struct cpu_device *)d;
    struct embed_job job = {.out = out, .table = table, .tokens = tokens, .scale = scale};

    pool_run(c->pool, c->isa->embed, &job, rows, grain(ELEMENTS_WORTH, table->cols));
}

static void cpu_embed_part(struct device *d, float *out, const struct weight *table, uint32_t first,
                           const uint32_t *tokens, uint32_t rows, float scale)
{
    struct cpu_device *c = (struct cpu_device *)d;
    struct embed_job job = {
        .out = out, .table = table, .tokens = tokens, .first = first, .scale = scale};

    pool_run(c->pool, c->isa->embed, &job, rows, grain(ELEMENTS_WORTH, table->cols));
}

static void cpu_squares(struct device *d, float *out, const void *qkv, uint32_t stride,
                        uint32_t q_cols, uint32_t k_cols, uint32_t rows)
{
    struct cpu_device *c = (struct cpu_device *)d;
    struct squares_job job = {
        .out = out, .qkv = qkv, .stride = stride, .q_cols = q_cols, .k_cols = k_cols};

    pool_run(c->pool, c->isa->squares, &job, rows, grain(ELEMENTS_WORTH, q_cols + k_cols));
}

static void cpu_norm(struct device *d, void *out, float *x, const void *y, float y_scale,
                     const float *y_norm, const float *w, uint32_t rows, uint32_t cols, float eps)
{
    struct cpu_device *c = (struct cpu_device *)d;
    struct norm_job job = {.out = out,
                           .x = x,
                           .y = y,
                           .y_norm = y_norm,
                           .w = w,
                           .y_scale = y_scale,
                           .cols = cols,
                           .eps = eps};

    pool_run(c->pool, c->isa->norm, &job, rows, grain(ELEMENTS_WORTH, cols));
}

static void product(struct cpu_device *c, struct matmul_out out, const float *x,
                    const struct weight *w, uint32_t rows)
{
    struct matmul_job job = {
        .out = out,
        .x = x,
        .w = w,
        .row_bytes = dtype_row_bytes(w->dtype, w->cols),
        .rows = rows,
        .scratch = c->scratch,
    };
    uint32_t blocks = w->rows / MATMUL_BLOCK + (w->rows % MATMUL_BLOCK != 0);

    assert(w->cols <= c->cols_max);
    if (rows == 0)
        return;
    if (quantized_takes(&c->quantized, w)) {
        quantized_matmul(&c->quantized, c->pool, c->scratch, &out, x, w, rows);
        return;
    }
    pool_run(c->pool, c->isa->matmul, &job, blocks,
             grain(PRODUCTS_WORTH, (uint64_t)MATMUL_BLOCK * w->cols * rows));
}

static void cpu_matmul(struct device *d, void *out, uint32_t stride, const void *x,
                       const struct weight *w, const float *bias, uint32_t rows)
{
    product((struct cpu_device *)d,
            (struct matmul_out){.data = out, .stride = stride, .bias = bias}, x, w, rows);
}

static void cpu_matmul_f32(struct device *d, float *out, const void *x, const struct weight *w,
                           uint32_t rows)
{
    product((struct cpu_device *)d, (struct matmul_out){.data = out, .stride = w->rows}, x, w,
            rows);
}

static void cpu_matmul_add(struct device *d, float *out, float scale, const void *x,
                           const struct weight *w, uint32_t rows)
{
    product((struct cpu_device *)d,
            (struct matmul_out){.data = out, .stride = w->rows, .scale = scale, .add = 1}, x, w,
            rows);
}

static void cpu_rope_kv(struct device *d, void *qkv, uint32_t q_heads, const struct qk_norm *norm,
                        const struct rope *rope, const struct kv_layout *kv, uint32_t layer,
                        const struct attn_step *step)
{
    struct cpu_device *c = (struct cpu_device *)d;
    struct rope_job job = {
        .qkv = qkv,
        .q_heads = q_heads,
        .layer = layer,
        .norm = norm,
        .rope = rope,
        .frequencies = c->frequencies,
        .kv = kv,
        .seqs = step->seqs,
        .pages = step->pages,
        .scratch = c->scratch,
    };
    uint64_t cost = (uint64_t)(q_heads + kv->kv_heads) * kv->head_dim;

    assert(rope->dims <= c->cols_max && rope->dims <= kv->head_dim);
    for (uint32_t i = 0; i < rope->dims / 2; i++)
        c->frequencies[i] = pow((double)rope->theta, -2.0 * i / rope->dims) /
                            (rope->factors ? (double)rope->factors[i] : 1.0);
    pool_run(c->pool, c->isa->rope, &job, total_rows(step->seqs, step->seq_count),
             grain(ELEMENTS_WORTH, 4 * cost));
}

static void cpu_attention(struct device *d, void *out, const void *qkv, uint32_t q_heads,
                          const struct attention *attention, const struct kv_layout *kv,
                          uint32_t layer, const struct attn_step *step)
{
    struct cpu_device *c = (struct cpu_device *)d;
    struct attention_job job = {
        .out = out,
        .qkv = qkv,
        .q_heads = q_heads,
        .layer = layer,
        .attention = attention,
        .kv = kv,
        .seqs = step->seqs,
        .pages = step->pages,
    };
    uint64_t items = 0, products = 0;

    for (uint32_t i = 0; i < step->seq_count; i++) {
        const struct attn_row *seq = &step->seqs[i];
        items += (uint64_t)ATTENTION_RUNS(seq->count) * kv->kv_heads;
        products +=
            (uint64_t)seq->count * (seq->first_pos + seq->count) * q_heads * kv->head_dim * 2;
    }
    pool_run(c->pool, c->isa->attention, &job, (uint32_t)items,
             grain(PRODUCTS_WORTH, items ? products / items : 1));
}

static void cpu_glu(struct device *d, void *out, const void *gate_up, uint32_t rows, uint32_t cols,
                    enum activation activation)
{
    struct cpu_device *c = (struct cpu_device *)d;
    struct glu_job job = {.out = out, .gate_up = gate_up, .cols = cols, .activation = activation};

    pool_run(c->pool, c->isa->glu, &job, rows, grain(ELEMENTS_WORTH, cols));
}

static void cpu_scale(struct device *d, float *x, uint32_t rows, uint32_t cols, float scale,
                      float softcap)
{
    struct cpu_device *c = (struct cpu_device *)d;
    struct scale_job job = {.x = x, .cols = cols, .scale = scale, .softcap = softcap};

    pool_run(c->pool, c->isa->scale, &job, rows, grain(ELEMENTS_WORTH, cols));
}

static void cpu_route(struct device *d, uint32_t *expert_ids, float *expert_weights,
                      const float *logits, uint32_t rows, uint32_t experts, uint32_t top_k,
                      int renormalize)
{
    struct cpu_device *c = (struct cpu_device *)d;
    struct route_job job = {.ids = expert_ids,
                            .weights = expert_weights,
                            .logits = logits,
                            .experts = experts,
                            .top_k = top_k,
                            .renormalize = renormalize};

    assert(top_k <= experts);
    pool_run(c->pool, c->isa->route, &job, rows, grain(ELEMENTS_WORTH, (uint64_t)experts * top_k));
}

static void cpu_matmul_expert(struct device *d, void *out, const void *x, const struct weight *w,
                              const uint32_t *expert_ids, uint32_t rows, uint32_t share)
{
    struct cpu_device *c = (struct cpu_device *)d;
    uint64_t row_bytes = dtype_row_bytes(w->dtype, w->cols);
    struct expert_job job = {
        .out = out,
        .x = x,
        .w = w,
        .ids = expert_ids,
        .row_bytes = row_bytes,
        .expert_bytes = row_bytes * w->rows,
        .share = share,
        .blocks = w->rows / MATMUL_BLOCK + (w->rows % MATMUL_BLOCK != 0),
    };

    if (quantized_takes(&c->quantized, w)) {
        quantized_expert(&c->quantized, c->pool, out, x, w, expert_ids, rows, share);
        return;
    }
    pool_run(c->pool, c->isa->expert, &job, rows * job.blocks,
             grain(PRODUCTS_WORTH, (uint64_t)MATMUL_BLOCK * w->cols));
}

static void cpu_combine(struct device *d, void *out, const void *y, const float *expert_weights,
                        uint32_t rows, uint32_t top_k, uint32_t cols)
{
    struct cpu_device *c = (struct cpu_device *)d;
    struct combine_job job = {
        .out = out, .y = y, .weights = expert_weights, .top_k = top_k, .cols = cols};

    pool_run(c->pool, c->isa->combine, &job, rows, grain(ELEMENTS_WORTH, (uint64_t)top_k * cols));
}

const struct device_ops cpu_ops = {
    .kind = DEVICE_CPU,
    .operand = DTYPE_F32,
    .destroy = cpu_destroy,
    .sync = cpu_sync,
    .mark = cpu_mark,
    .wait = cpu_mark,
    .failed = cpu_check,
    .check = cpu_check,
    .memory = cpu_memory,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .host_alloc = cpu_alloc,
    .host_free = cpu_free,
    .copy = cpu_copy,
    .copy_now = cpu_copy,
    .move_begin = cpu_move_begin,
    .move_copy = cpu_move_copy,
    .move_end = cpu_move_end,
    .move_done = cpu_move_done,
    .move_after = cpu_move_after,
    .move_join = cpu_move_join,
    .host_pin = cpu_host_pin,
    .host_unpin = cpu_host_unpin,
    .lane_open = cpu_lane_open,
    .lane_close = cpu_lane_close,
    .lane_follow = cpu_lane_follow,
    .lane_copy = cpu_lane_copy,
    .lane_mark = cpu_lane_mark,
    .lane_wait = cpu_lane_wait,
    .lane_await = cpu_lane_mark,
    .handle_bytes = CPU_HANDLE_BYTES,
    .pool = cpu_pool,
    .reserve = cpu_reserve,
    .release = cpu_release,
    .map = cpu_map,
    .unmap = cpu_unmap,
    .remap = cpu_remap,
    .tune = cpu_tune,
    .record = cpu_record,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .matmul = cpu_matmul,
    .matmul_f32 = cpu_matmul_f32,
    .matmul_add = cpu_matmul_add,
    .rope_kv = cpu_rope_kv,
    .attention = cpu_attention,
    .glu = cpu_glu,
    .scale = cpu_scale,
    .route = cpu_route,
    .matmul_expert = cpu_matmul_expert,
    .combine = cpu_combine,
    .embed_part = cpu_embed_part,
    .squares = cpu_squares,
};
