/* bench_engine.c - how fast an engine decodes and reads prompts, with random weights of a shape */
#include "engine/bench_engine.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/clock.h"
#include "engine/bench_subject.h"

#define MODEL 1u

/* A batch from its prompts to its last token. */
static int run_batch(struct subject *s, uint32_t batch, uint32_t prompt, uint32_t output)
{
    if (subject_batch(s, MODEL, batch, prompt, output) != 0 || subject_turn(s, MODEL, 0) != 0)
        return -1;
    if (s->finished != batch)
        return error_set(s->err, STATUS_INTERNAL, "%" PRIu32 " of %" PRIu32 " sequences ended",
                         s->finished, batch);
    return 0;
}

/* Bytes of one token's keys and values, in all layers. */
static double kv_token_bytes(const struct subject *s)
{
    return (double)model_kv_token_bytes(s->e->residency.models[0]);
}

/* Weights that every step reads: all but the embedding's table, unless it is the head too. */
static double step_weight_bytes(const struct subject *s)
{
    const struct model *m = s->e->residency.models[0];
    double table =
        (double)dtype_row_bytes(m->embedding.dtype, m->embedding.cols) * m->embedding.rows;

    return (double)m->weight_bytes - (s->shape->tied ? 0 : table);
}

/* Multiplications and additions of n tokens at positions first to first + n, the head for one. */
static double prompt_flops(const struct subject *s, double first, double n)
{
    const struct random_shape *h = s->shape;
    double q = (double)h->heads * h->head_dim, kv = (double)h->kv_heads * h->head_dim;
    double layer = (double)h->width * (q + 2 * kv) + q * h->width + 3.0 * h->width * h->ffn;
    double seen = n * first + n * (n + 1) / 2;

    return 2 * h->layers * (layer * n + 2 * q * seen) + 2.0 * h->width * h->vocabulary;
}

static const char *ranks_text(const struct subject *s)
{
    static const char *const texts[] = {"", "", ", 2 ranks", "", ", 4 ranks"};

    return s->how.ranks == 8 ? ", 8 ranks" : s->how.ranks > 4 ? "" : texts[s->how.ranks];
}

/* What stands behind the type in a figure's name. */
static const char *how_summed(const struct subject *s)
{
    return s->how.deterministic ? " deterministic" : "";
}

/* Decoding by `batch` sequences after prompts of `context` tokens. */
static int decode(struct subject *s, uint32_t batch, uint32_t context)
{
    struct limit l = {.name = "decode", .unit = "us"};
    char params[128];
    /* The first sequences decode while the last ones' prompts are read. */
    uint64_t ahead = 2 + (uint64_t)batch * context / (s->e->rows_max - batch);

    if (run_batch(s, batch, context, SUBJECT_STEPS + SUBJECT_FIRST + (uint32_t)ahead) != 0)
        return -1;
    if (s->steps < SUBJECT_STEPS)
        return error_set(s->err, STATUS_INTERNAL, "only %" PRIu32 " full steps were seen",
                         s->steps);
    snprintf(params, sizeof(params),
             "%s %s%s%s, batch %" PRIu32 ", context %" PRIu32 " to %" PRIu32, s->how.shape,
             s->how.dtype, how_summed(s), ranks_text(s), batch, context, context + SUBJECT_STEPS);
    l.params = params;
    l.bytes = step_weight_bytes(s) + batch * kv_token_bytes(s) * (context + SUBJECT_STEPS / 2.0);
    l.flops = batch * (prompt_flops(s, context + SUBJECT_STEPS / 2.0, 1));
    /* Every second one: a limit has room for so many. */
    for (uint32_t i = 0; i + 1 < s->steps - SUBJECT_FIRST && l.count < LIMIT_SAMPLES_MAX; i += 2)
        l.samples[l.count++] = s->step_us[i];
    s->found(s->arg, &l);
    return 0;
}

/* Reading `batch` prompts of `tokens` tokens, three times. */
static int prefill(struct subject *s, uint32_t batch, uint32_t tokens)
{
    struct limit l = {.name = "prefill", .unit = "us"};
    char params[128];

    snprintf(params, sizeof(params), "%s %s%s%s, %" PRIu32 " x %" PRIu32, s->how.shape,
             s->how.dtype, how_summed(s), ranks_text(s), batch, tokens);
    l.params = params;
    l.flops = batch * prompt_flops(s, 0, tokens);
    l.bytes = step_weight_bytes(s);
    for (int i = 0; i < 4; i++) {
        if (run_batch(s, batch, tokens, 1) != 0)
            return -1;
        if (s->prefill_tokens != (uint64_t)batch * tokens)
            return error_set(s->err, STATUS_INTERNAL, "%" PRIu64 " tokens were read",
                             s->prefill_tokens);
        if (i > 0) /* the first warms up */
            l.samples[l.count++] = s->prefill_us;
    }
    s->found(s->arg, &l);
    return 0;
}

/* The first time: from the file, by way of the host's memory if it has room. */
static int load(struct subject *s)
{
    struct limit l = {.name = "load", .params = s->how.shape, .unit = "us", .count = 1};
    int64_t start = clock_monotonic_us();

    if (subject_load(s, MODEL) != 0)
        return -1;
    l.samples[0] = (double)(clock_monotonic_us() - start);
    l.bytes = (double)s->e->residency.models[0]->weight_bytes;
    s->found(s->arg, &l);
    return 0;
}

static int measure(struct subject *s)
{
    static const uint32_t batches[] = {1, 8, 16, 32, 64, 128, 256};
    static const uint32_t prompts[][2] = {{1, 512}, {1, 2048}, {8, 1024}, {1, 8191}};

    for (size_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++)
        if (batches[i] <= s->how.batch_max && decode(s, batches[i], s->how.context) != 0)
            return -1;
    for (size_t i = 0; i < sizeof(prompts) / sizeof(prompts[0]); i++)
        if (prompts[i][1] < s->shape->context && prompts[i][1] <= s->how.prompt_max &&
            prefill(s, prompts[i][0], prompts[i][1]) != 0)
            return -1;
    return 0;
}

int bench_engine(const struct bench_engine *how, limit_f *found, void *arg, struct error *err)
{
    struct subject *s = subject_open(how, found, arg, err);
    int rv = -1;

    if (s == NULL)
        return -1;
    if (subject_model(s, MODEL) == 0 && load(s) == 0)
        rv = measure(s);
    subject_close(s);
    return rv;
}
