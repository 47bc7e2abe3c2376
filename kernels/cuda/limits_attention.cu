/*
 * limits_attention.cu - how near attention comes to the memory's rate and to the matrix units', and
 * how long sampling takes
 *
 * Pages hold all layers, as the engine's do, and lie scattered over a pool; a sample goes through
 * the layers, so that no layer's keys are in the cache from the time before.
 */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/limits.cuh"

#define PAGE_TOKENS 16u
#define ROWS_MOST   8192u
#define VOCABULARY  128256u

struct place {
    struct device *device;
    void *qkv, *out;
    struct attn_row *seqs;
    void **pages;
    char *pool;
};

struct shape {
    uint32_t q_heads, kv_heads, head_dim;
};

/* A step of `seqs` sequences that have `before` positions each, and compute `tokens` more. */
struct work {
    const char *name;
    struct shape shape;
    uint32_t seqs, before, tokens, layers;
};

static void place_free(struct place *at)
{
    cudaFree(at->qkv);
    cudaFree(at->out);
    cudaFree(at->seqs);
    cudaFree(at->pages);
    cudaFree(at->pool);
}

/* Pages in an order of their own, a twelfth of the pool left free. */
static int place_pages(struct place *at, const struct work *w, uint64_t page_bytes,
                       struct error *err)
{
    uint32_t each = (w->before + w->tokens + PAGE_TOKENS - 1) / PAGE_TOKENS, used = each * w->seqs;
    uint32_t all = used + used / 12;
    struct attn_row *seqs = (struct attn_row *)calloc(w->seqs, sizeof(*seqs));
    char **pages = (char **)calloc(all, sizeof(*pages));
    uint64_t random = 1;
    int rv = -1;

    if (!seqs || !pages) {
        error_set(err, STATUS_NOMEM, "no memory for a page table");
        goto out;
    }
    for (uint32_t i = 0; i < w->seqs; i++)
        seqs[i] = {i * w->tokens, w->tokens, w->before, i * each};
    for (uint32_t i = 0; i < all; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint32_t other = (uint32_t)((random >> 32) * (i + 1) >> 32);
        pages[i] = pages[other];
        pages[other] = at->pool + i * page_bytes;
    }
    TRY(cudaMemcpy(at->seqs, seqs, w->seqs * sizeof(*seqs), cudaMemcpyDefault), "cannot copy");
    TRY(cudaMemcpy(at->pages, pages, used * sizeof(*pages), cudaMemcpyDefault), "cannot copy");
    rv = 0;
out:
    free(seqs);
    free(pages);
    return rv;
}

static struct limit limit_of(const struct work *w, char params[96])
{
    const struct shape *s = &w->shape;
    struct limit l = {};
    double seen = 0, rows = (double)w->seqs * w->tokens;

    for (uint32_t i = 0; i < w->tokens; i++)
        seen += w->before + i + 1.0;
    snprintf(params, 96, "%s, %u x %u after %u, heads %u/%u of %u", w->name, w->seqs, w->tokens,
             w->before, s->q_heads, s->kv_heads, s->head_dim);
    l.name = "k_attention";
    l.params = params;
    l.unit = "us";
    /* Keys and values once, queries and results. */
    l.bytes = 4.0 * w->seqs * (w->before + w->tokens) * s->kv_heads * s->head_dim +
              4.0 * rows * s->q_heads * s->head_dim;
    l.flops = 4.0 * s->head_dim * s->q_heads * w->seqs * seen;
    return l;
}

static int one(struct probe *p, struct device *device, const struct work *w, struct error *err)
{
    const struct shape *s = &w->shape;
    uint64_t layer = 4ull * s->kv_heads * s->head_dim * PAGE_TOKENS, page = layer * w->layers;
    uint64_t each = (w->before + w->tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
    uint64_t pages = each * w->seqs + each * w->seqs / 12, rows = (uint64_t)w->seqs * w->tokens;
    uint64_t cols = (s->q_heads + 2ull * s->kv_heads) * s->head_dim;
    struct place at = {};
    struct graph *graph = NULL;
    char params[96];
    struct limit l = limit_of(w, params);
    int rv = -1;

    at.device = device;
    TRY(cudaMalloc(&at.qkv, 2 * rows * cols), "no GPU memory for queries");
    TRY(cudaMalloc(&at.out, 2 * rows * s->q_heads * s->head_dim), "no GPU memory for results");
    TRY(cudaMalloc((void **)&at.seqs, w->seqs * sizeof(*at.seqs)), "no GPU memory for a step");
    TRY(cudaMalloc((void **)&at.pages, pages * sizeof(*at.pages)), "no GPU memory for a step");
    TRY(cudaMalloc((void **)&at.pool, pages * page), "no GPU memory for pages");
    probe_fill(p, at.qkv, 2 * rows * cols, 0x80ff80ff, 0x3f003f00);
    probe_fill(p, at.pool, pages * page, 0x80ff80ff, 0x3f003f00);
    if (place_pages(&at, w, page, err) != 0)
        goto out;
    {
        struct attention a = {0.05f, 0, 0};
        struct kv_layout kv = {w->layers, s->kv_heads, s->head_dim, PAGE_TOKENS, layer, page};
        struct attn_step step = {at.seqs, at.pages, w->seqs, (uint32_t)rows, w->tokens};
        if (device_record(device, err) != 0)
            goto out;
        for (uint32_t i = 0; i < w->layers; i++)
            k_attention(device, at.out, at.qkv, s->q_heads, &a, &kv, i, &step);
        graph = device_recorded(device, err);
        if (!graph)
            goto out;
    }
    rv = probe_sample(
        p, &l, [&] { device_replay(device, graph); },
        [&](double ms) { return ms * 1e3 / w->layers; }, err);
out:
    if (graph)
        device_graph_free(device, graph);
    place_free(&at);
    return rv;
}

static int sampling(struct probe *p, struct device *device, uint32_t rows, const char *name,
                    const struct sample *how, struct error *err)
{
    struct sample all[256];
    struct sample *by = NULL;
    float *logits = NULL;
    uint32_t *tokens = NULL;
    char params[96];
    struct limit l = {};
    int rv = -1;

    for (uint32_t i = 0; i < rows; i++) {
        all[i] = *how;
        all[i].position = i;
    }
    snprintf(params, sizeof(params), "%s, %u x %u", name, rows, VOCABULARY);
    l.name = "k_sample";
    l.params = params;
    l.unit = "us";
    l.bytes = 4.0 * rows * VOCABULARY;
    TRY(cudaMalloc((void **)&logits, 4ull * rows * VOCABULARY), "no GPU memory for logits");
    TRY(cudaMalloc((void **)&by, rows * sizeof(*by)), "no GPU memory for logits");
    TRY(cudaMalloc((void **)&tokens, rows * sizeof(*tokens)), "no GPU memory for tokens");
    TRY(cudaMemcpy(by, all, rows * sizeof(*by), cudaMemcpyDefault), "cannot copy");
    /* Of either sign, 1/8 to 8. */
    probe_fill(p, logits, 4ull * rows * VOCABULARY, 0x82ffffff, 0x3e000000);
    rv = probe_sample(
        p, &l, [&] { k_sample(device, tokens, logits, by, rows, VOCABULARY); },
        [&](double ms) { return ms * 1e3; }, err);
out:
    cudaFree(logits);
    cudaFree(by);
    cudaFree(tokens);
    return rv;
}

static int probe_sampling(struct probe *p, struct device *device, struct error *err)
{
    static const struct {
        const char *name;
        struct sample how;
    } ways[] = {
        {"greedy", {1, 0, 0, 0, 1, 0}},
        {"temperature 1", {1, 0, 0, 1, 1, 0}},
        {"top-p 0.9", {1, 0, 0, 1, 0.9f, 0}},
        {"top-k 50, top-p 0.9", {1, 0, 50, 1, 0.9f, 0}},
    };

    for (auto &way : ways)
        for (uint32_t rows : {1u, 64u, 256u})
            if (sampling(p, device, rows, way.name, &way.how, err) != 0)
                return -1;
    return 0;
}

int probe_attention(struct probe *p, struct error *err)
{
    static const struct work works[] = {
        {"decode", {32, 8, 128}, 1, 511, 1, 32},   {"decode", {32, 8, 128}, 1, 4095, 1, 32},
        {"decode", {32, 8, 128}, 1, 32767, 1, 16}, {"decode", {32, 8, 128}, 16, 1023, 1, 16},
        {"decode", {32, 8, 128}, 64, 511, 1, 16},  {"decode", {32, 8, 128}, 64, 4095, 1, 8},
        {"decode", {32, 8, 128}, 256, 511, 1, 8},  {"decode", {28, 4, 128}, 64, 4095, 1, 8},
        {"decode", {40, 40, 128}, 64, 1023, 1, 4}, {"decode", {32, 8, 64}, 64, 4095, 1, 16},
        {"decode", {16, 8, 256}, 64, 2047, 1, 8},  {"prefill", {32, 8, 128}, 1, 0, 2048, 8},
        {"prefill", {32, 8, 128}, 8, 0, 1024, 8},  {"prefill", {32, 8, 128}, 1, 0, 8192, 4},
        {"prefill", {32, 8, 64}, 1, 0, 8192, 4},   {"prefill", {16, 8, 256}, 1, 0, 8192, 4},
        {"prefill", {32, 32, 96}, 1, 0, 8192, 4},  {"chunk", {32, 8, 128}, 1, 8192, 512, 8},
    };
    cudaStream_t mine = p->stream;
    struct device *device =
        device_create_cuda((uint32_t)p->gpu, PRECISION_FAST, ROWS_MOST, 8192, err);
    int rv = -1;

    if (!device)
        return -1;
    p->stream = ((struct cuda_device *)device)->stream;
    for (auto &w : works)
        if (one(p, device, &w, err) != 0)
            goto out;
    if (probe_sampling(p, device, err) != 0)
        goto out;
    rv = device_check(device, err);
out:
    p->stream = mine;
    device_destroy(device);
    return rv;
}
