/* attention_scene.c - sequences that grow together; see attention_scene.h */
#include "tests/unit/attention_scene.h"

#include "tests/unit/kernels_compare.h"

/* ---- scenes ------------------------------------------------------------------------------------
 */

void scene_poison(struct scene *s)
{
    for (uint32_t i = 0; i < PAGES_MAX; i++)
        memset(s->pages[i], 0xff, s->kv.page_bytes);
}

static void round_all(float *x, size_t n, float (*round)(float))
{
    for (size_t i = 0; round && i < n; i++)
        x[i] = round(x[i]);
}

void scene_open(struct scene *s, const struct shape *shape, const uint32_t *tokens, uint32_t seqs,
                float (*round)(float), uint64_t *seed)
{
    uint64_t layer = 2ull * shape->kv_heads * shape->page_tokens * shape->head_dim * sizeof(float);

    memset(s, 0, sizeof(*s));
    s->shape = *shape;
    s->kv = (struct kv_layout){LAYERS, shape->kv_heads, shape->head_dim, shape->page_tokens,
                               layer,  LAYERS * layer};
    s->rope = (struct rope){.theta = 10000, .scale = 1, .dims = shape->head_dim, .interleaved = 1};
    s->attention = (struct attention){.scale = (float)(1 / sqrt(shape->head_dim))};
    s->seqs = seqs;
    for (uint32_t i = 0; i < seqs; i++) {
        size_t row = (size_t)tokens[i] * shape->head_dim;
        s->tokens[i] = tokens[i];
        s->q[i] = random_floats(row * shape->q_heads, seed);
        s->k[i] = random_floats(row * shape->kv_heads, seed);
        s->v[i] = random_floats(row * shape->kv_heads, seed);
        for (size_t j = 0; j < row * shape->q_heads; j++)
            s->q[i][j] *= 4; /* peaked enough that the running maximum moves */
        round_all(s->q[i], row * shape->q_heads, round);
        round_all(s->k[i], row * shape->kv_heads, round);
        round_all(s->v[i], row * shape->kv_heads, round);
    }
    for (uint32_t i = 0; i < PAGES_MAX; i++)
        s->pages[i] = allocate(s->kv.page_bytes);
    scene_poison(s);
}

void scene_close(struct scene *s)
{
    for (uint32_t i = 0; i < s->seqs; i++) {
        free(s->q[i]);
        free(s->k[i]);
        free(s->v[i]);
    }
    for (uint32_t i = 0; i < PAGES_MAX; i++)
        free(s->pages[i]);
}

/* ---- steps -------------------------------------------------------------------------------------
 */

/* Gather the sequences' rows of a step, or scatter them back. */
static void copy_rows(const struct attn_row *rows, const uint32_t *which, uint32_t n,
                      float *const *of_seq, float *step, size_t width, int back)
{
    for (uint32_t i = 0; i < n; i++) {
        float *a = step + rows[i].first_row * width;
        float *b = of_seq[which[i]] + rows[i].first_pos * width;
        memcpy(back ? b : a, back ? a : b, rows[i].count * width * sizeof(float));
    }
}

static float *gathered(const struct attn_row *rows, const uint32_t *which, uint32_t n,
                       float *const *of_seq, uint32_t total, size_t width)
{
    float *step = allocate(total * width * sizeof(*step));

    copy_rows(rows, which, n, of_seq, step, width, 0);
    return step;
}

void scene_reference(void *arg, struct scene *s, const struct scene_step *step)
{
    (void)arg;
    ref_rope_kv(step->q, step->k, step->v, s->shape.q_heads, &s->rope, &s->kv, LAYER, step->rows,
                step->count, s->pages);
    ref_attention(step->o, step->q, s->shape.q_heads, &s->attention, &s->kv, LAYER, step->rows,
                  step->count, s->pages);
}

/* One step: sequence which[i] computes positions [from[i], to[i]). */
static void run_step(struct scene *s, scene_step_f compute, void *arg, uint32_t n,
                     const uint32_t *which, const uint32_t *from, const uint32_t *to,
                     float *const *out)
{
    struct attn_row rows[SEQS_MAX];
    uint32_t total = 0;
    size_t qw = (size_t)s->shape.q_heads * s->shape.head_dim;
    size_t kw = (size_t)s->shape.kv_heads * s->shape.head_dim;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t table = which[i] * (PAGES_MAX / s->seqs);
        rows[i] = (struct attn_row){total, to[i] - from[i], from[i], table};
        total += to[i] - from[i];
    }
    struct scene_step step = {.rows = rows,
                              .count = n,
                              .total = total,
                              .o = allocate(total * qw * sizeof(float)),
                              .q = gathered(rows, which, n, s->q, total, qw),
                              .k = gathered(rows, which, n, s->k, total, kw),
                              .v = gathered(rows, which, n, s->v, total, kw)};
    compute(arg, s, &step);
    copy_rows(rows, which, n, out, step.o, qw, 1);
    free(step.q);
    free(step.o);
    free(step.k);
    free(step.v);
}

void scene_run(struct scene *s, scene_step_f compute, void *arg, uint32_t chunk, int together,
               float *const *out)
{
    uint32_t done[SEQS_MAX] = {0}, alone = 0;

    scene_poison(s);
    for (;;) {
        uint32_t which[SEQS_MAX], from[SEQS_MAX], to[SEQS_MAX], n = 0;
        while (!together && alone < s->seqs && done[alone] == s->tokens[alone])
            alone++;
        for (uint32_t i = 0; i < s->seqs; i++) {
            uint32_t left = s->tokens[i] - done[i];
            if (left == 0 || (!together && i != alone))
                continue;
            which[n] = i;
            from[n] = done[i];
            to[n++] = done[i] += left < chunk ? left : chunk;
        }
        if (n == 0)
            return;
        run_step(s, compute, arg, n, which, from, to, out);
    }
}

/* ---- outputs -----------------------------------------------------------------------------------
 */

size_t outputs_size(const struct scene *s, uint32_t i)
{
    return (size_t)s->tokens[i] * s->shape.q_heads * s->shape.head_dim;
}

struct outputs outputs_open(const struct scene *s)
{
    struct outputs o = {{0}};

    for (uint32_t i = 0; i < s->seqs; i++)
        o.rows[i] = allocate(outputs_size(s, i) * sizeof(float));
    return o;
}

void outputs_close(struct outputs *o)
{
    for (uint32_t i = 0; i < SEQS_MAX; i++)
        free(o->rows[i]);
}

void norm_rows(float *x, const float *w, uint32_t rows, uint32_t heads, uint32_t dim,
               const struct qk_norm *norm)
{
    if (norm->width)
        ref_rmsnorm(x, x, w, rows, heads * dim, norm->eps);
    else
        ref_rmsnorm(x, x, w, rows * heads, dim, norm->eps);
}
