/* weights.c - a model's layout in its range */
#include "engine/weights.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checksum.h"
#include "engine/pages.h"
#include "engine/weights_copy.h"

#define TENSOR_ALIGN 64u

/* The layout while it grows. */
struct layout {
    struct model *m;
    const struct source *source;
    const struct arch *full; /* the whole model's settings, as the source stores it */
    uint64_t cursor;
    uint32_t room;
    struct error *err;
};

static struct tensor_copy *layout_copy(struct layout *l, const struct source_tensor *t)
{
    if (l->m->copy_count == l->room) {
        uint32_t room = l->room == 0 ? 64 : l->room * 2;
        struct tensor_copy *copies = realloc(l->m->copies, room * sizeof(*copies));
        if (copies == NULL) {
            error_set(l->err, STATUS_NOMEM, "no memory for the tensor list");
            return NULL;
        }
        l->m->copies = copies;
        l->room = room;
    }
    struct tensor_copy *c = &l->m->copies[l->m->copy_count++];
    memset(c, 0, sizeof(*c));
    snprintf(c->name, sizeof(c->name), "%.*s", COPY_NAME - 1, t->name);
    c->file = t->file;
    c->type = t->type;
    c->from = t->offset;
    c->to = l->cursor;
    return c;
}

static void layout_align(struct layout *l)
{
    l->cursor = (l->cursor + TENSOR_ALIGN - 1) / TENSOR_ALIGN * TENSOR_ALIGN;
}

/* Rows of a matrix, or a vector's elements, that the reference names must be the tensor's. */
static int check_ref(const struct layout *l, const struct arch_ref *ref)
{
    const struct source_tensor *t = ref->tensor;
    uint64_t units = t->dims == 1 ? t->shape[0] : t->shape[1] * t->shape[2] * t->shape[3];

    if (ref->count == 0 || ref->first > units || ref->count > units - ref->first)
        return error_set(l->err, STATUS_INTERNAL,
                         "tensor %s: %" PRIu64 " rows from %" PRIu64 " on, and it has %" PRIu64,
                         t->name, ref->count, ref->first, units);
    return 0;
}

/* The rows of FP8 that are to be copied have scales. */
static struct f8_copy describe_f8(const struct arch_ref *ref, const struct shard_columns *part)
{
    const struct source_tensor *t = ref->tensor, *s = t->scale;

    return (struct f8_copy){.cols = part->count,
                            .first_row = ref->first,
                            .first_col = part->first,
                            .scale_rows = t->scale_rows,
                            .scale_cols = t->scale_cols,
                            .tile_rows = (t->shape[1] + t->scale_rows - 1) / t->scale_rows,
                            .tiles = (t->shape[0] + t->scale_cols - 1) / t->scale_cols,
                            .file = s->file,
                            .type = s->type,
                            .from = s->offset};
}

/* The copy takes some columns alone: `stored` bytes are a whole row's. */
static void slice_copy(struct tensor_copy *c, const struct shard_columns *part, uint64_t stored)
{
    int f8 = c->type == DTYPE_F8;

    c->pitch = stored;
    c->slice = f8 ? part->count : dtype_row_bytes(c->type, part->count);
    c->from += f8 ? part->first : dtype_row_bytes(c->type, part->first);
}

/* Give a matrix, or this rank's part of it, the place at the cursor. */
static int place_ref(struct layout *l, enum role role, const struct arch_ref *r, struct weight *w)
{
    struct arch_ref ref = *r;
    const struct source_tensor *t = ref.tensor;
    struct shard_columns part;
    uint64_t row_bytes, stored, bytes;
    int f8 = t->type == DTYPE_F8;

    shard_narrow(l->full, l->m->shard, role, &ref, t->shape[0], &part);
    if (check_ref(l, &ref) != 0 || shard_check_blocks(t, l->m->shard, &part, l->err) != 0)
        return -1;
    row_bytes = dtype_row_bytes(t->type, part.count);
    stored = f8 ? t->shape[0] : dtype_row_bytes(t->type, t->shape[0]);
    if (t->dims == 1 || row_bytes == 0 || stored == 0 || ref.count > UINT32_MAX ||
        t->shape[0] > ENGINE_COLS_MAX)
        return error_set(l->err, STATUS_UNSUPPORTED,
                         "tensor %s: no kernel for %" PRIu64 " rows of %" PRIu64
                         " elements of type %" PRIu32 " (at most %u elements a row)",
                         t->name, ref.count, t->shape[0], t->type, ENGINE_COLS_MAX);
    bytes = row_bytes * ref.count; /* of less than 2^32 rows, each of at most 2^18 bytes */
    if (t->bytes % stored != 0 || t->bytes / stored < ref.first + ref.count ||
        l->cursor > UINT64_MAX / 2 - bytes || (f8 && t->scale == NULL))
        return error_set(l->err, STATUS_CORRUPT, "tensor %s: %" PRIu64 " bytes, rows of %" PRIu64,
                         t->name, t->bytes, stored);
    struct tensor_copy *c = layout_copy(l, t);
    if (c == NULL)
        return -1;
    c->from += ref.first * stored;
    c->bytes = bytes;
    if (part.count != t->shape[0])
        slice_copy(c, &part, stored);
    if (f8)
        c->f8 = describe_f8(&ref, &part);
    *w = (struct weight){.data = (void *)(uintptr_t)l->cursor,
                         .dtype = (enum dtype)t->type,
                         .rows = (uint32_t)ref.count,
                         .cols = (uint32_t)part.count};
    l->cursor += bytes;
    return 0;
}

/*
 * The same by its role.  Until the range exists, weight->data holds the offset; model_rebase()
 * makes pointers of them.  A role that the model lacks leaves *w zero.
 */
static int layout_place(struct layout *l, enum role role, uint32_t layer, struct weight *w)
{
    struct arch_ref ref;

    memset(w, 0, sizeof(*w));
    if (!arch_tensor(l->full, l->source, role, layer, &ref))
        return 0;
    return place_ref(l, role, &ref, w);
}

/* A vector of float32, such as a norm: kernels take no other type there, so F16 and BF16 are
 * converted at load.  Placed at the cursor; *len 0: the model has none. */
static int place_vector(struct layout *l, enum role role, uint32_t layer, float add, uint64_t *len)
{
    struct shard_columns part;
    struct arch_ref ref;

    *len = 0;
    if (!arch_tensor(l->full, l->source, role, layer, &ref))
        return 0;
    const struct source_tensor *t = ref.tensor;
    shard_narrow(l->full, l->m->shard, role, &ref, 1, &part);
    if (check_ref(l, &ref) != 0)
        return -1;
    uint64_t element = t->type == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    if ((t->type != DTYPE_F32 && t->type != DTYPE_F16 && t->type != DTYPE_BF16) || t->dims != 1 ||
        t->shape[0] > ENGINE_COLS_MAX)
        return error_set(l->err, STATUS_UNSUPPORTED,
                         "tensor %s: stored as %s, only vectors of F32, F16 and BF16 are supported "
                         "there",
                         t->name, dtype_name(t->type));
    if (t->bytes != t->shape[0] * element)
        return error_set(l->err, STATUS_CORRUPT, "tensor %s: %" PRIu64 " bytes", t->name, t->bytes);
    struct tensor_copy *c = layout_copy(l, t);
    if (c == NULL)
        return -1;
    c->from += ref.first * element;
    c->bytes = ref.count * sizeof(float);
    c->add = add;
    c->convert = t->type != DTYPE_F32 || add != 0;
    l->cursor += c->bytes;
    *len = ref.count;
    return 0;
}

static int layout_norm(struct layout *l, enum role role, uint32_t layer, const float **out)
{
    uint64_t at, len;

    layout_align(l);
    at = l->cursor;
    if (place_vector(l, role, layer, l->m->arch.norm_offset, &len) != 0)
        return -1;
    *out = len == 0 ? NULL : (const float *)(uintptr_t)at;
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
    uint64_t at, len;

    *out = NULL;
    if (!l->m->arch.qkv_bias)
        return 0;
    layout_align(l);
    at = l->cursor;
    for (int i = 0; i < 3; i++) {
        if (place_vector(l, roles[i], layer, 0, &len) != 0)
            return -1;
        if (len == 0)
            return error_set(l->err, STATUS_UNSUPPORTED,
                             "layer %" PRIu32 ": its attention biases must be three vectors",
                             layer);
    }
    *out = (const float *)(uintptr_t)at;
    return 0;
}

/* All experts' matrices of up to two roles behind each other; *w is the first expert's. */
static int layout_experts(struct layout *l, uint32_t layer, const enum role *roles, uint32_t count,
                          struct weight *w)
{
    layout_align(l);
    for (uint32_t e = 0; e < l->m->arch.experts; e++) {
        struct weight parts[2];
        for (uint32_t i = 0; i < count; i++) {
            struct arch_ref ref;
            if (!arch_expert(l->full, l->source, roles[i], layer, e, &ref))
                return error_set(l->err, STATUS_CORRUPT,
                                 "layer %" PRIu32 ": expert %" PRIu32 " lacks a matrix", layer, e);
            if (place_ref(l, roles[i], &ref, &parts[i]) != 0)
                return -1;
        }
        struct weight joined = weight_join(parts, count);
        if (joined.rows == 0 || (e > 0 && joined.dtype != w->dtype))
            return error_set(l->err, STATUS_UNSUPPORTED,
                             "layer %" PRIu32 ": its experts' matrices are stored as different "
                             "types",
                             layer);
        if (e == 0)
            *w = joined;
    }
    return 0;
}

static int layout_moe(struct layout *l, uint32_t i, struct layer_weights *w)
{
    static const enum role in[2] = {ROLE_EXPERT_GATE, ROLE_EXPERT_UP}, out[1] = {ROLE_EXPERT_DOWN};

    if (layout_matrix(l, ROLE_ROUTER, i, &w->router) != 0 ||
        layout_experts(l, i, in, 2, &w->expert_gate_up) != 0 ||
        layout_experts(l, i, out, 1, &w->expert_down) != 0)
        return -1;
    return 0;
}

static int layout_layer(struct layout *l, uint32_t i, struct layer_weights *w)
{
    struct weight qkv[3], gate_up[2];

    if (layout_norm(l, ROLE_ATTN_NORM, i, &w->attn_norm) != 0)
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
        layout_norm(l, ROLE_Q_NORM, i, &w->q_norm) != 0 ||
        layout_norm(l, ROLE_K_NORM, i, &w->k_norm) != 0 ||
        layout_norm(l, ROLE_ATTN_POST_NORM, i, &w->attn_post_norm) != 0 ||
        layout_norm(l, ROLE_FFN_NORM, i, &w->ffn_norm) != 0 ||
        layout_norm(l, ROLE_FFN_POST_NORM, i, &w->ffn_post_norm) != 0)
        return -1;
    if (l->m->arch.layer[i].moe)
        return layout_moe(l, i, w);
    layout_align(l);
    if (layout_place(l, ROLE_GATE, i, &gate_up[0]) != 0 ||
        layout_place(l, ROLE_UP, i, &gate_up[1]) != 0)
        return -1;
    w->gate = gate_up[0];
    w->up = gate_up[1];
    w->gate_up = weight_join(gate_up, 2);
    return layout_matrix(l, ROLE_DOWN, i, &w->down);
}

static int model_layout(struct model *m, const struct source *source, const struct arch *full,
                        struct error *err)
{
    struct layout l = {.m = m, .source = source, .full = full, .err = err};

    if (layout_matrix(&l, ROLE_EMBEDDING, 0, &m->embedding) != 0)
        return -1;
    m->embedding_end = l.cursor;
    for (uint32_t i = 0; i < m->arch.layers; i++) {
        if (layout_layer(&l, i, &m->layers[i]) != 0)
            return -1;
        m->layers[i].end = l.cursor;
    }
    if (layout_norm(&l, ROLE_FINAL_NORM, 0, &m->final_norm) != 0)
        return -1;
    m->head = m->embedding;
    if (!m->arch.tied && layout_matrix(&l, ROLE_HEAD, 0, &m->head) != 0)
        return -1;
    for (uint32_t i = 0; i < m->copy_count; i++)
        m->weight_bytes += m->copies[i].bytes;
    uint64_t size = arena_handle_bytes(m->arena), handles = (l.cursor + size - 1) / size;
    if (handles == 0 || handles > UINT32_MAX)
        return error_set(err, STATUS_UNSUPPORTED, "weights of %" PRIu64 " bytes", l.cursor);
    m->handle_count = (uint32_t)handles;
    m->range_bytes = l.cursor;
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
    for (uint32_t i = 0; i < m->arch.layers; i++) {
        struct layer_weights *w = &m->layers[i];
        struct weight *matrices[] = {&w->q,
                                     &w->k,
                                     &w->v,
                                     &w->qkv,
                                     &w->o,
                                     &w->gate,
                                     &w->up,
                                     &w->gate_up,
                                     &w->down,
                                     &w->router,
                                     &w->expert_gate_up,
                                     &w->expert_down};
        const float **norms[] = {&w->attn_norm, &w->q_norm,        &w->k_norm,  &w->attn_post_norm,
                                 &w->ffn_norm,  &w->ffn_post_norm, &w->qkv_bias};
        for (size_t j = 0; j < sizeof(matrices) / sizeof(matrices[0]); j++)
            rebase_weight(m, matrices[j]);
        for (size_t j = 0; j < sizeof(norms) / sizeof(norms[0]); j++)
            rebase_vector(m, norms[j]);
    }
}

static struct kv_layout cache_layout(const struct device *d, const struct arch *a, uint32_t layers)
{
    struct kv_layout kv = {.layers = layers,
                           .kv_heads = a->kv_heads,
                           .head_dim = a->head_dim,
                           .page_tokens = ENGINE_PAGE_TOKENS};
    uint64_t token = (uint64_t)2 * a->kv_heads * a->head_dim * device_operand_bytes(d);

    while (device_kind(d) != DEVICE_CPU && kv.page_tokens < ENGINE_PAGE_TOKENS_MAX &&
           token * layers * kv.page_tokens < ENGINE_PAGE_BYTES)
        kv.page_tokens *= 2;
    kv.layer_bytes = token * kv.page_tokens;
    kv.page_bytes = kv.layer_bytes * layers;
    return kv;
}

/* Which layers share pages. */
static void describe_caches(struct model *m)
{
    const struct arch *a = &m->arch;
    uint32_t local = 0, window = 0;

    for (uint32_t i = 0; i < a->layers; i++) {
        local += a->layer[i].window != 0;
        if (a->layer[i].window > window)
            window = a->layer[i].window;
    }
    if (local == a->layers) {
        m->window = window;
        local = 0;
    }
    m->window_local = local != 0 ? window : 0;
    m->kv = cache_layout(arena_device(m->arena), a, a->layers - local);
    m->kv_local = cache_layout(arena_device(m->arena), a, local);
    for (uint32_t i = 0, all = 0, some = 0; i < a->layers; i++) {
        m->layers[i].cache_local = local != 0 && a->layer[i].window != 0;
        m->layers[i].cache_layer = m->layers[i].cache_local ? some++ : all++;
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
    for (int i = 0; i < 2; i++)
        m->rope[i] = (struct rope){.theta = a->rope[i].theta,
                                   .scale = a->rope[i].scale,
                                   .dims = a->rope[i].dims,
                                   .interleaved = a->rope_interleaved,
                                   .factors = arch_rope_factors(&a->rope[i], m->max_context)};
    return arch_check_cols(a, err);
}

/* The model's files, as the order calls them, into a source. */
static struct source *open_source(const struct channel_files *files,
                                  const struct order_model *order, struct error *err)
{
    struct source_files *list = calloc(1, sizeof(*list));
    struct source *source = NULL;

    if (list == NULL) {
        error_set(err, STATUS_NOMEM, "no memory for the files of model %s", order->name);
        return NULL;
    }
    list->count = files->count;
    for (uint32_t i = 0; i < files->count; i++) {
        list->files[i].fd = files->fds[i];
        list->files[i].kind = (enum source_kind)order->kinds[i];
        if (list->files[i].kind == SOURCE_WEIGHTS)
            snprintf(list->files[i].name, sizeof(list->files[i].name), "weights file %" PRIu32,
                     i + 1);
        else if (list->files[i].kind != SOURCE_GGUF)
            snprintf(list->files[i].name, sizeof(list->files[i].name), "file %" PRIu32, i + 1);
    }
    source = source_open_files(list, order->name, err);
    free(list);
    return source;
}

/* Keep duplicates of the files with weights. */
static int keep_files(struct model *m, const struct channel_files *files,
                      const struct order_model *order, struct error *err)
{
    for (uint32_t i = 0; i < files->count; i++) {
        if (order->kinds[i] != SOURCE_GGUF && order->kinds[i] != SOURCE_WEIGHTS)
            continue;
        m->fds[i] = fcntl(files->fds[i], F_DUPFD_CLOEXEC, 3);
        if (m->fds[i] < 0)
            return error_errno(err, "cannot keep a file of model %s", m->name);
    }
    return 0;
}

/* What a master copy's bytes depend on besides the files'. */
static uint64_t layout_digest(const struct model *m)
{
    uint64_t sum = checksum64(&m->range_bytes, sizeof(m->range_bytes), m->copy_count);

    for (uint32_t i = 0; i < m->copy_count; i++) {
        const struct tensor_copy *c = &m->copies[i];
        uint32_t add;
        memcpy(&add, &c->add, sizeof(add));
        const uint64_t what[] = {c->file, c->type, c->convert != 0, add, c->from, c->to, c->bytes};
        sum = checksum64(what, sizeof(what), sum);
        if (c->pitch != 0)
            sum = checksum64(&c->pitch, sizeof(c->pitch), sum);
        if (c->f8.cols != 0)
            sum = checksum64(&c->f8, sizeof(c->f8), sum); /* it has no padding */
    }
    return sum;
}

/* Settings and layout of a part, of which only the rank is known. */
static int part_describe(struct model *m, const struct source *source, const struct arch *full,
                         const struct order_model *order, struct error *err)
{
    shard_arch(&m->arch, full, m->shard);
    for (uint32_t i = 0; i <= m->shard.ranks; i++)
        m->vocabulary_firsts[i] = shard_first_token(full, i, m->shard.ranks);
    if (model_describe(m, order, err) != 0)
        return -1;
    m->layers = calloc(m->arch.layers, sizeof(*m->layers));
    if (m->layers == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for the tables of model %s", order->name);
    describe_caches(m);
    return model_layout(m, source, full, err);
}

/* The other ranks' parts of m, and what they have in common. */
static int add_parts(struct model *m, const struct source *source, const struct arch *full,
                     const struct order_model *order, struct error *err)
{
    for (uint32_t i = 1; i < m->shard.ranks; i++) {
        struct model *part = calloc(1, sizeof(*part));
        if (part == NULL)
            return error_set(err, STATUS_NOMEM, "no memory for the tables of model %s",
                             order->name);
        part->arena = m->arena;
        part->shard = (struct shard){.rank = i, .ranks = m->shard.ranks};
        m->parts[m->part_count++] = part;
        if (part_describe(part, source, full, order, err) != 0)
            return -1;
        m->weight_bytes += part->weight_bytes;
        if (m->handle_count < part->handle_count)
            m->handle_count = part->handle_count;
    }
    for (uint32_t i = 1; i < m->part_count; i++) {
        m->parts[i]->handle_count = m->handle_count;
        memcpy(m->parts[i]->fds, m->fds, sizeof(m->fds)); /* m's to close */
    }
    return 0;
}

static int reserve_ranges(struct model *m, struct error *err)
{
    m->handles = malloc(m->handle_count * sizeof(*m->handles));
    m->mapped = malloc(m->handle_count * sizeof(*m->mapped));
    if (m->handles == NULL || m->mapped == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for the tables of model %s", m->name);
    memset(m->handles, 0xff, m->handle_count * sizeof(*m->handles)); /* none */
    memset(m->mapped, 0xff, m->handle_count * sizeof(*m->mapped));
    for (uint32_t i = 0; i < m->part_count; i++) {
        struct model *part = m->parts[i];
        part->range =
            device_reserve(model_device(part), m->handle_count * arena_handle_bytes(m->arena), err);
        if (part->range == NULL)
            return -1;
        model_rebase(part);
    }
    return 0;
}

struct model *model_open(const struct channel_files *files, const struct order_model *order,
                         struct arena *arena, uint32_t owner, struct error *err)
{
    struct source *source = NULL;
    struct arch *full = malloc(sizeof(*full));
    struct model *m = calloc(1, sizeof(*m));

    if (m == NULL || full == NULL)
        goto nomem;
    m->arena = arena;
    m->owner = owner;
    m->shard.ranks = arena_ranks(arena);
    m->parts[m->part_count++] = m;
    m->fd_count = files->count;
    for (uint32_t i = 0; i < files->count; i++)
        m->fds[i] = -1;
    source = open_source(files, order, err);
    if (source == NULL || arch_read(full, source, err) != 0 ||
        shard_check(full, m->shard.ranks, order->name, err) != 0 ||
        part_describe(m, source, full, order, err) != 0 || keep_files(m, files, order, err) != 0 ||
        add_parts(m, source, full, order, err) != 0 || reserve_ranges(m, err) != 0)
        goto fail;
    m->layout = layout_digest(m);
    m->pinned = (order->flags & MODEL_PINNED) != 0;
    source_close(source);
    free(full);
    return m;
nomem:
    error_set(err, STATUS_NOMEM, "no memory for the tables of model %s", order->name);
fail:
    source_close(source);
    free(full);
    model_close(m);
    return NULL;
}

static void part_close(struct model *m)
{
    for (uint32_t i = 0; i < MODEL_GRAPHS; i++)
        device_graph_free(model_device(m), m->graphs[i]);
    for (uint32_t i = 0; m->mapped != NULL && m->range != NULL && i < m->handle_count; i++)
        if (m->mapped[i] != UINT32_MAX)
            device_unmap(model_device(m), m->range + i * arena_handle_bytes(m->arena), 1);
    if (m->range != NULL)
        device_release(model_device(m), m->range, m->handle_count * arena_handle_bytes(m->arena));
    free(m->copies);
    free(m->layers);
}

void model_close(struct model *m)
{
    if (m == NULL)
        return;
    for (uint32_t i = 1; i < m->part_count; i++) {
        part_close(m->parts[i]);
        free(m->parts[i]);
    }
    if (m->arena != NULL)
        part_close(m);
    master_drop(&m->copy);
    for (uint32_t i = 0; i < m->fd_count; i++)
        if (m->fds[i] >= 0)
            close(m->fds[i]);
    free(m->handles);
    free(m->mapped);
    free(m);
}

uint64_t model_kv_token_bytes(const struct model *m)
{
    return m->kv.page_bytes / m->kv.page_tokens + m->kv_local.page_bytes / m->kv_local.page_tokens;
}

static uint64_t cache_handles(const struct arena *arena, const struct kv_layout *kv,
                              uint64_t window, uint64_t tokens, uint32_t step_rows)
{
    /* Of what a window keeps, the first and the last page are seldom full. */
    uint64_t kept = window + step_rows + 2 * (uint64_t)kv->page_tokens;

    if (kv->layers == 0)
        return 0;
    if (window != 0 && kept < tokens)
        tokens = kept;
    return pages_handles(arena_handle_bytes(arena), kv->page_bytes,
                         (tokens + kv->page_tokens - 1) / kv->page_tokens);
}

uint64_t model_kv_handles(const struct model *m, uint64_t tokens, uint32_t step_rows)
{
    return cache_handles(m->arena, &m->kv, m->window, tokens, step_rows) +
           cache_handles(m->arena, &m->kv_local, m->window_local, tokens, step_rows);
}
