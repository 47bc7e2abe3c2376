/* weights.c - a model's layout, load and unload */
#include "engine/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TENSOR_ALIGN 64u
#define COPY_NAME    64

struct tensor_copy {
    char name[COPY_NAME]; /* for messages */
    uint64_t from;        /* in the file */
    uint64_t to;          /* in the range */
    uint64_t bytes;
};

/* The layout while it grows. */
struct layout {
    struct model *m;
    const struct gguf *g;
    uint64_t cursor;
    uint32_t room;
    struct error *err;
};

static int layout_grow(struct layout *l)
{
    if (l->m->copy_count < l->room)
        return 0;
    uint32_t room = l->room == 0 ? 64 : l->room * 2;
    struct tensor_copy *copies = realloc(l->m->copies, room * sizeof(*copies));
    if (copies == NULL)
        return error_set(l->err, STATUS_NOMEM, "no memory for the tensor list");
    l->m->copies = copies;
    l->room = room;
    return 0;
}

static void layout_align(struct layout *l)
{
    l->cursor = (l->cursor + TENSOR_ALIGN - 1) / TENSOR_ALIGN * TENSOR_ALIGN;
}

/*
 * Give a tensor the place at the cursor.  Until the range exists, weight->data holds the offset;
 * model_rebase() makes pointers of them.  A role that the model lacks leaves *w zero.
 */
static int layout_place(struct layout *l, enum role role, uint32_t layer, struct weight *w)
{
    const struct gguf_tensor *t = arch_tensor(&l->m->arch, l->g, role, layer);
    uint64_t rows, bytes;

    memset(w, 0, sizeof(*w));
    if (t == NULL)
        return 0;
    rows = t->shape[1] * t->shape[2] * t->shape[3];
    bytes = dtype_row_bytes(t->type, t->shape[0]);
    if (bytes == 0 || rows == 0 || rows > UINT32_MAX || t->shape[0] > ENGINE_COLS_MAX ||
        bytes > UINT64_MAX / rows)
        return error_set(l->err, STATUS_UNSUPPORTED,
                         "tensor %.*s: no kernel for %" PRIu64 " rows of %" PRIu64
                         " elements of type %" PRIu32 " (at most %u elements a row)",
                         (int)t->name.len, t->name.data, rows, t->shape[0], t->type,
                         ENGINE_COLS_MAX);
    bytes *= rows;
    if (bytes != t->bytes || l->cursor > UINT64_MAX / 2 - bytes)
        return error_set(l->err, STATUS_CORRUPT,
                         "tensor %.*s: %" PRIu64 " bytes instead of %" PRIu64, (int)t->name.len,
                         t->name.data, t->bytes, bytes);
    if (layout_grow(l) != 0)
        return -1;
    struct tensor_copy *c = &l->m->copies[l->m->copy_count++];
    size_t len = t->name.len < COPY_NAME - 1 ? (size_t)t->name.len : COPY_NAME - 1;
    memcpy(c->name, t->name.data, len);
    c->name[len] = '\0';
    c->from = t->offset;
    c->to = l->cursor;
    c->bytes = bytes;
    *w = (struct weight){.data = (void *)(uintptr_t)l->cursor,
                         .dtype = (enum dtype)t->type,
                         .rows = (uint32_t)rows,
                         .cols = (uint32_t)t->shape[0]};
    l->cursor += bytes;
    return 0;
}

/* A vector of float32, such as a norm; kernels take no other type there. */
static int layout_vector(struct layout *l, enum role role, uint32_t layer, const float **out)
{
    struct weight w;

    layout_align(l);
    *out = NULL;
    if (layout_place(l, role, layer, &w) != 0)
        return -1;
    if (w.rows == 0)
        return 0;
    if (w.dtype != DTYPE_F32)
        return error_set(l->err, STATUS_UNSUPPORTED,
                         "tensor %s: stored as %s, only F32 is supported there",
                         l->m->copies[l->m->copy_count - 1].name, dtype_name(w.dtype));
    *out = w.data;
    return 0;
}

static int layout_matrix(struct layout *l, enum role role, uint32_t layer, struct weight *w)
{
    layout_align(l);
    return layout_place(l, role, layer, w);
}

/* One matrix of several that lie behind each other; rows 0 if their types differ. */
static struct weight weight_join(const struct weight *parts, uint32_t count)
{
    struct weight joined = parts[0];

    for (uint32_t i = 1; i < count; i++) {
        if (parts[i].dtype != joined.dtype || parts[i].cols != joined.cols)
            return (struct weight){0};
        joined.rows += parts[i].rows;
    }
    return joined;
}

/* [q|k|v] biases as one vector; the file has all three or none. */
static int layout_bias(struct layout *l, uint32_t layer, const float **out)
{
    static const enum role roles[3] = {ROLE_Q_BIAS, ROLE_K_BIAS, ROLE_V_BIAS};
    struct weight w;

    *out = NULL;
    if (!l->m->arch.qkv_bias)
        return 0;
    layout_align(l);
    *out = (const float *)(uintptr_t)l->cursor;
    for (int i = 0; i < 3; i++) {
        if (layout_place(l, roles[i], layer, &w) != 0)
            return -1;
        if (w.rows != 1 || w.dtype != DTYPE_F32)
            return error_set(l->err, STATUS_UNSUPPORTED,
                             "layer %" PRIu32 ": its attention biases must be three F32 vectors",
                             layer);
    }
    return 0;
}

static int layout_layer(struct layout *l, uint32_t i, struct layer_weights *w)
{
    struct weight qkv[3], gate_up[2];

    if (layout_vector(l, ROLE_ATTN_NORM, i, &w->attn_norm) != 0)
        return -1;
    layout_align(l);
    if (layout_place(l, ROLE_Q, i, &qkv[0]) != 0 || layout_place(l, ROLE_K, i, &qkv[1]) != 0 ||
        layout_place(l, ROLE_V, i, &qkv[2]) != 0)
        return -1;
    w->q = qkv[0];
    w->k = qkv[1];
    w->v = qkv[2];
    w->qkv = weight_join(qkv, 3);
    if (layout_bias(l, i, &w->qkv_bias) != 0 || layout_matrix(l, ROLE_O, i, &w->o) != 0 ||
        layout_vector(l, ROLE_FFN_NORM, i, &w->ffn_norm) != 0)
        return -1;
    layout_align(l);
    if (layout_place(l, ROLE_GATE, i, &gate_up[0]) != 0 ||
        layout_place(l, ROLE_UP, i, &gate_up[1]) != 0)
        return -1;
    w->gate = gate_up[0];
    w->up = gate_up[1];
    w->gate_up = weight_join(gate_up, 2);
    return layout_matrix(l, ROLE_DOWN, i, &w->down);
}

static int model_layout(struct model *m, const struct gguf *g, struct error *err)
{
    struct layout l = {.m = m, .g = g, .err = err};

    if (layout_matrix(&l, ROLE_EMBEDDING, 0, &m->embedding) != 0)
        return -1;
    for (uint32_t i = 0; i < m->arch.layers; i++)
        if (layout_layer(&l, i, &m->layers[i]) != 0)
            return -1;
    if (layout_vector(&l, ROLE_FINAL_NORM, 0, &m->final_norm) != 0 ||
        layout_vector(&l, ROLE_ROPE_FACTORS, 0, &m->rope.factors) != 0)
        return -1;
    m->head = m->embedding;
    if (!m->arch.tied && layout_matrix(&l, ROLE_HEAD, 0, &m->head) != 0)
        return -1;
    for (uint32_t i = 0; i < m->copy_count; i++)
        m->weight_bytes += m->copies[i].bytes;
    uint64_t handles = (l.cursor + ARENA_HANDLE_BYTES - 1) / ARENA_HANDLE_BYTES;
    if (handles == 0 || handles > UINT32_MAX)
        return error_set(err, STATUS_UNSUPPORTED, "weights of %" PRIu64 " bytes", l.cursor);
    m->handle_count = (uint32_t)handles;
    return 0;
}

/* Offsets become pointers into the range.  `there`: role existed (an offset may be 0). */
static void rebase_weight(const struct model *m, struct weight *w)
{
    if (w->rows != 0)
        w->data = m->range + (uintptr_t)w->data;
}

static void rebase_vector(const struct model *m, const float **v)
{
    /* No vector is first in the layout: the embedding is, so 0 means none. */
    if (*v != NULL)
        *v = (const float *)(const void *)(m->range + (uintptr_t)*v);
}

static void model_rebase(struct model *m)
{
    rebase_weight(m, &m->embedding);
    rebase_weight(m, &m->head);
    rebase_vector(m, &m->final_norm);
    rebase_vector(m, &m->rope.factors);
    for (uint32_t i = 0; i < m->arch.layers; i++) {
        struct layer_weights *w = &m->layers[i];
        struct weight *matrices[] = {&w->q,    &w->k,  &w->v,       &w->qkv, &w->o,
                                     &w->gate, &w->up, &w->gate_up, &w->down};
        for (size_t j = 0; j < sizeof(matrices) / sizeof(matrices[0]); j++)
            rebase_weight(m, matrices[j]);
        rebase_vector(m, &w->attn_norm);
        rebase_vector(m, &w->ffn_norm);
        rebase_vector(m, &w->qkv_bias);
    }
}

static int model_describe(struct model *m, const struct order_model *order, struct error *err)
{
    const struct arch *a = &m->arch;

    m->id = order->model;
    memcpy(m->name, order->name, sizeof(m->name));
    m->max_context = a->context;
    if (order->max_context != 0 && order->max_context < m->max_context)
        m->max_context = order->max_context;
    m->rope = (struct rope){
        .theta = a->rope_theta, .dims = a->rope_dims, .interleaved = a->rope_interleaved};
    m->kv = (struct kv_layout){.layers = a->layers,
                               .kv_heads = a->kv_heads,
                               .head_dim = a->head_dim,
                               .page_tokens = ENGINE_PAGE_TOKENS};
    m->kv.layer_bytes =
        (uint64_t)2 * a->kv_heads * ENGINE_PAGE_TOKENS * a->head_dim * sizeof(float);
    m->kv.page_bytes = m->kv.layer_bytes * a->layers;
    if ((uint64_t)a->heads * a->head_dim > ENGINE_COLS_MAX ||
        (uint64_t)2 * a->ffn > ENGINE_COLS_MAX || a->width > ENGINE_COLS_MAX)
        return error_set(err, STATUS_UNSUPPORTED,
                         "an activation is wider than the %u elements that are supported",
                         ENGINE_COLS_MAX);
    return 0;
}

struct model *model_open(int fd, const struct order_model *order, uint32_t owner, struct error *err)
{
    struct gguf *g = NULL;
    struct model *m = calloc(1, sizeof(*m));

    if (m == NULL)
        goto nomem;
    m->fd = -1;
    m->owner = owner;
    g = gguf_open_fd(fd, order->name, err);
    if (g == NULL || arch_read(&m->arch, g, err) != 0 || model_describe(m, order, err) != 0)
        goto fail;
    m->layers = calloc(m->arch.layers, sizeof(*m->layers));
    if (m->layers == NULL)
        goto nomem;
    if (model_layout(m, g, err) != 0)
        goto fail;
    m->handles = calloc(m->handle_count, sizeof(*m->handles));
    if (m->handles == NULL)
        goto nomem;
    m->range = arena_reserve(m->handle_count * ARENA_HANDLE_BYTES, err);
    if (m->range == NULL)
        goto fail;
    m->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (m->fd < 0) {
        error_errno(err, "cannot keep the file of model %s", order->name);
        goto fail;
    }
    model_rebase(m);
    gguf_close(g);
    return m;
nomem:
    error_set(err, STATUS_NOMEM, "no memory for the tables of model %s", order->name);
fail:
    if (g != NULL)
        gguf_close(g);
    model_close(m);
    return NULL;
}

void model_close(struct model *m)
{
    if (m == NULL)
        return;
    if (m->range != NULL)
        arena_release(m->range, m->handle_count * ARENA_HANDLE_BYTES);
    if (m->fd >= 0)
        close(m->fd);
    free(m->handles);
    free(m->copies);
    free(m->layers);
    free(m);
}

uint64_t model_kv_token_bytes(const struct model *m)
{
    return m->kv.page_bytes / m->kv.page_tokens;
}

static int copy_tensor(const struct model *m, const struct tensor_copy *c, struct error *err)
{
    uint64_t done = 0;

    while (done < c->bytes) {
        ssize_t n = pread(m->fd, m->range + c->to + done, c->bytes - done, (off_t)(c->from + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(err, "model %s: cannot read tensor %s", m->name, c->name);
        if (n == 0)
            return error_set(
                err, STATUS_CORRUPT,
                "model %s: its file ends within tensor %s: it was changed or cut short "
                "after it was opened",
                m->name, c->name);
        done += (uint64_t)n;
    }
    return 0;
}

int model_load(struct model *m, struct arena *a, struct error *err)
{
    if (arena_take(a, m->owner, m->handles, m->handle_count) != 0)
        return error_set(err, STATUS_EXHAUSTED,
                         "model %s needs %" PRIu32 " handles and %" PRIu32 " are free", m->name,
                         m->handle_count, arena_held(a, ARENA_FREE));
    if (arena_map(a, m->range, m->handles, m->handle_count, err) != 0)
        goto give;
    for (uint32_t i = 0; i < m->copy_count; i++)
        if (copy_tensor(m, &m->copies[i], err) != 0)
            goto unmap;
    m->resident = 1;
    return 0;
unmap:
    arena_unmap(m->range, m->handle_count);
give:
    for (uint32_t i = 0; i < m->handle_count; i++)
        arena_give(a, m->owner, m->handles[i]);
    return -1;
}

void model_unload(struct model *m, struct arena *a)
{
    if (!m->resident)
        return;
    arena_unmap(m->range, m->handle_count);
    for (uint32_t i = 0; i < m->handle_count; i++)
        arena_give(a, m->owner, m->handles[i]);
    m->resident = 0;
}
