/*
 * limits_matmul.cu - how near k_matmul comes to the memory's rate, and to cuBLASLt
 *
 * Recorded and replayed, as an engine does it: one set of weights after the other, far past the
 * cache, and the time is of one product.
 */
#include <stdio.h>

#include "kernels/cuda/blas.cuh"
#include "kernels/cuda/limits.cuh"

#define X_ROWS   2048u
#define TURN     (768ull << 20) /* bytes of weights that a sample goes through */
#define LAUNCHES 16u            /* of a sample, at least */

struct place {
    struct device *device;
    struct blas blas;
    void *x, *out;
    char *weights;
};

struct size {
    uint32_t rows, cols;
};

static uint64_t matrix_bytes(enum dtype dtype, const struct size *s)
{
    return dtype_row_bytes(dtype, s->cols) * s->rows;
}

static uint32_t copies_of(enum dtype dtype, const struct size *s)
{
    uint64_t copies = TURN / matrix_bytes(dtype, s);

    return copies > 64 ? 64 : copies > 1 ? (uint32_t)copies : 1;
}

/* Record `work`, and sample the replays. */
template <class F>
static int time_replays(struct probe *p, struct place *at, struct limit *l, uint32_t copies, F work,
                        struct error *err)
{
    uint32_t turns = (LAUNCHES + copies - 1) / copies;
    struct graph *g;
    int rv;

    if (device_record(at->device, err) != 0)
        return -1;
    /* So many that starting them is little beside them. */
    for (uint32_t i = 0; i < turns * copies; i++)
        work(i % copies);
    g = device_recorded(at->device, err);
    if (!g)
        return -1;
    rv = probe_sample(
        p, l, [&] { device_replay(at->device, g); },
        [&](double ms) { return ms * 1e3 / (turns * copies); }, err);
    device_graph_free(at->device, g);
    return rv;
}

static struct limit limit_of(const char *name, char params[96], enum dtype dtype,
                             const struct size *s, uint32_t rows, uint32_t operand)
{
    struct limit l = {};

    snprintf(params, 96, "%s %u x %u, rows %u", dtype_name(dtype), s->rows, s->cols, rows);
    l.name = name;
    l.params = params;
    l.unit = "us";
    l.bytes = (double)(matrix_bytes(dtype, s) + (uint64_t)operand * rows * (s->cols + s->rows));
    l.flops = 2.0 * s->rows * s->cols * rows;
    return l;
}

static int own(struct probe *p, struct place *at, enum dtype dtype, const struct size *s,
               uint32_t rows, struct error *err)
{
    char params[96];
    struct limit l = limit_of("k_matmul", params, dtype, s, rows, device_operand_bytes(at->device));

    return time_replays(
        p, at, &l, copies_of(dtype, s),
        [&](uint32_t i) {
            struct weight w = {at->weights + i * matrix_bytes(dtype, s), dtype, s->rows, s->cols};
            k_matmul(at->device, at->out, s->rows, at->x, &w, NULL, rows);
        },
        err);
}

/* cuBLASLt's fastest way. */
static int library(struct probe *p, struct place *at, const struct size *s, uint32_t rows,
                   struct error *err)
{
    cublasLtMatmulHeuristicResult_t ways[BLAS_CHOICES];
    struct weight w = {at->weights, DTYPE_BF16, s->rows, s->cols};
    struct product product = product_of(at->out, SINK_OPERAND, s->rows, at->x, &w, rows);
    int count = blas_ways(&at->blas, &product, ways), best = -1;
    uint32_t copies = copies_of(DTYPE_BF16, s);
    double best_ms = 0, ms;
    char params[96];
    struct limit l = limit_of("cuBLASLt", params, DTYPE_BF16, s, rows, 2);
    auto run = [&](uint32_t i, int way) {
        product.w.data = at->weights + i * matrix_bytes(DTYPE_BF16, s);
        return blas_multiply(&at->blas, &product, NULL, &ways[way].algo, p->stream);
    };

    for (int way = 0; way < count; way++) {
        bool works = run(0, way) == CUBLAS_STATUS_SUCCESS;
        if (!works)
            continue;
        if (probe_time(
                p, &ms,
                [&] {
                    for (uint32_t i = 0; i < copies; i++)
                        works &= run(i, way) == CUBLAS_STATUS_SUCCESS;
                },
                err) != 0)
            return -1;
        if (works && (best < 0 || ms < best_ms)) {
            best = way;
            best_ms = ms;
        }
    }
    if (best < 0)
        return error_set(err, STATUS_INTERNAL, "none of cuBLASLt's %d ways works", count);
    return time_replays(
        p, at, &l, copies, [&](uint32_t i) { run(i, best); }, err);
}

static int choose(struct place *at, enum dtype dtype, const struct size *s, struct error *err)
{
    struct weight w = {NULL, dtype, s->rows, s->cols};

    return device_tune(at->device, &w, err);
}

/* The matrices of an 8B model: o, qkv, gate and up, down, and its head. */
static int probe_bf16(struct probe *p, struct place *at, struct error *err)
{
    static const struct size sizes[] = {
        {4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}};
    static const uint32_t rows[] = {1, 4, 8, 16, 32, 64, 128, 256, 2048};

    for (const struct size &s : sizes) {
        if (choose(at, DTYPE_BF16, &s, err) != 0)
            return -1;
        for (uint32_t n : rows) {
            if (s.rows > 100000 && n > 256)
                continue;
            if (own(p, at, DTYPE_BF16, &s, n, err) != 0 || library(p, at, &s, n, err) != 0)
                return -1;
        }
    }
    return 0;
}

static int probe_quantized(struct probe *p, struct place *at, struct error *err)
{
    static const enum dtype types[] = {DTYPE_F8,   DTYPE_Q4_K, DTYPE_Q6_K,
                                       DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_F16};
    static const struct size sizes[] = {{4096, 4096}, {28672, 4096}, {4096, 14336}};
    static const uint32_t rows[] = {1, 4, 8, 16, 32, 64, 256, 2048};

    for (enum dtype type : types) {
        for (const struct size &s : sizes) {
            if (choose(at, type, &s, err) != 0)
                return -1;
            for (uint32_t n : rows)
                if (own(p, at, type, &s, n, err) != 0)
                    return -1;
        }
    }
    return 0;
}

int probe_matmul(struct probe *p, struct error *err)
{
    int rv = -1;
    struct place at = {};
    cudaStream_t mine = p->stream;
    const uint64_t weights = 2ull * 128256 * 4096;

    at.device = device_create_cuda((uint32_t)p->gpu, PRECISION_FAST, X_ROWS, 28672, err);
    if (!at.device)
        return -1;
    p->stream = ((struct cuda_device *)at.device)->stream;
    if (blas_open(&at.blas, err) != 0)
        goto out;
    TRY(cudaMalloc(&at.x, 2ull * X_ROWS * 14336), "no GPU memory for activations");
    TRY(cudaMalloc(&at.out, 2ull * X_ROWS * 128256), "no GPU memory for results");
    TRY(cudaMalloc((void **)&at.weights, weights), "no GPU memory for weights");
    /* Of random sign and mantissa; four bytes of the weights are numbers in every type. */
    probe_fill(p, at.x, 2ull * X_ROWS * 14336, 0x83ff83ff, 0x3c003c00);
    probe_fill(p, at.weights, weights, 0x83ff83ff, 0x3c003c00);
    if (probe_bf16(p, &at, err) != 0 || probe_quantized(p, &at, err) != 0)
        goto out;
    rv = device_check(at.device, err);
out:
    p->stream = mine;
    blas_close(&at.blas);
    cudaFree(at.x);
    cudaFree(at.out);
    cudaFree(at.weights);
    device_destroy(at.device);
    return rv;
}
