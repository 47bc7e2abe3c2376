/*
 * tune.cu - which way a product with bfloat16 operands is done
 *
 * Few rows: stream.cu.  More: cuBLASLt, on the weights themselves or on a part of them after the
 * other that is expanded to bfloat16.  What suits a shape and a number of rows is remembered: the
 * library's first guess, or, after device_tune(), the fastest of all when they were tried.  A
 * deterministic device chooses between the two ways of alike.cu, whose bits are the same.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/blas.cuh"

#define SHAPES_MAX     512u
#define BUCKETS        12u /* of rows: to 1, 2, 4, ... 2048 and more */
#define EXPANDED_BYTES (64ull << 20)
#define BIAS_MAX       (1u << 20)

/* Rows that the untried stream is taken for: cuBLASLt is at par from 16 on, and expanding
 * quantized weights pays from 64 on. */
#define STREAM_ROWS           8u
#define STREAM_ROWS_QUANTIZED 32u
#define STREAM_ROWS_WIDE      64u /* or for large tiles */
/* Of so few rows the stream's time counts less: it spares the launches behind it (fused.cu). */
#define FUSED_SHARE 0.9f

enum way { WAY_UNKNOWN, WAY_STREAM, WAY_BLAS, WAY_WIDE };

struct choice {
    enum way way;
    cublasLtMatmulAlgo_t algo;
};

struct shape {
    enum dtype dtype;
    uint32_t rows, cols;
    int tried;
    struct choice choices[BUCKETS][2]; /* [1]: sums in float32 */
};

struct tuned {
    struct blas blas;
    __nv_bfloat16 *expanded; /* EXPANDED_BYTES */
    __nv_bfloat16 *bias;     /* BIAS_MAX */
    uint32_t count;
    struct shape shapes[SHAPES_MAX];
};

int cuda_tune_open(struct cuda_device *c, struct error *err)
{
    struct tuned *t = (struct tuned *)calloc(1, sizeof(*t));

    if (!t)
        return error_set(err, STATUS_NOMEM, "no memory for the shapes of products");
    c->tuned = t;
    if (blas_open(&t->blas, err) != 0)
        return -1;
    cudaError_t e = cudaMalloc((void **)&t->expanded, EXPANDED_BYTES);
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&t->bias, BIAS_MAX * sizeof(*t->bias));
    if (e != cudaSuccess) {
        cudaGetLastError();
        return cuda_failed(err, e, "no GPU memory for expanded weights");
    }
    return 0;
}

void cuda_tune_close(struct cuda_device *c)
{
    struct tuned *t = c->tuned;

    if (!t)
        return;
    blas_close(&t->blas);
    cudaFree(t->expanded);
    cudaFree(t->bias);
    free(t);
    c->tuned = NULL;
}

/* ---- the library's way -------------------------------------------------------------------------
 */

static __global__ void bias_kernel(__nv_bfloat16 *to, const float *from, uint32_t n)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;

    await_kernels();
    if (i < n)
        to[i] = __float2bfloat16_rn(from[i]);
}

static bool blas_can(const struct product *p)
{
    uint64_t out = p->to.sink == SINK_OPERAND ? 2 : 4;

    return aligned16(p->x, 2 * (uint64_t)p->w.cols) && aligned16(p->to.out, p->to.stride * out) &&
           (p->w.dtype != DTYPE_BF16 || aligned16(p->w.data, 0)) && p->w.rows % 8 == 0 &&
           p->w.rows <= BIAS_MAX;
}

/* Rows of the weights that are multiplied at once. */
static uint32_t part_rows(const struct product *p)
{
    uint64_t fit = EXPANDED_BYTES / 2 / p->w.cols / 128 * 128;

    return p->w.dtype == DTYPE_BF16 || fit >= p->w.rows ? p->w.rows : (uint32_t)fit;
}

/* p's rows [first, first + count) of the weights. */
static struct product part_of(const struct product *p, const struct tuned *t, uint32_t first,
                              uint32_t count)
{
    struct product part = *p;

    part.w.rows = count;
    if (p->w.dtype != DTYPE_BF16)
        part.w = {t->expanded, DTYPE_BF16, count, p->w.cols};
    if (p->to.sink == SINK_OPERAND)
        part.to.out = (__nv_bfloat16 *)p->to.out + first;
    else
        part.to.out = (float *)p->to.out + first;
    return part;
}

static cublasStatus_t by_blas(struct cuda_device *c, const struct product *p,
                              const cublasLtMatmulAlgo_t *algo)
{
    struct tuned *t = c->tuned;
    uint32_t rows = part_rows(p);
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;

    if (p->to.bias)
        cuda_launch(c, bias_kernel, (p->w.rows + 255) / 256, 256, 0, t->bias, p->to.bias,
                    p->w.rows);
    for (uint32_t first = 0; first < p->w.rows && s == CUBLAS_STATUS_SUCCESS; first += rows) {
        uint32_t count = rows < p->w.rows - first ? rows : p->w.rows - first;
        struct product part = part_of(p, t, first, count);
        if (p->w.dtype != DTYPE_BF16)
            product_expand(c, t->expanded, &p->w, first, count);
        s = blas_multiply(&t->blas, &part, p->to.bias ? t->bias + first : NULL, algo, c->stream);
    }
    return s;
}

/* ---- choosing ----------------------------------------------------------------------------------
 */

static uint32_t bucket_of(uint32_t rows)
{
    uint32_t b = 0;

    while (b + 1 < BUCKETS && 1u << b < rows)
        b++;
    return b;
}

static struct shape *shape_of(struct tuned *t, const struct weight *w)
{
    struct shape *s;

    for (uint32_t i = 0; i < t->count; i++) {
        s = &t->shapes[i];
        if (s->dtype == w->dtype && s->rows == w->rows && s->cols == w->cols)
            return s;
    }
    if (t->count == SHAPES_MAX)
        return NULL;
    s = &t->shapes[t->count++];
    s->dtype = w->dtype;
    s->rows = w->rows;
    s->cols = w->cols;
    return s;
}

/* Untried: a guess. */
static void guess(struct cuda_device *c, struct choice *choice, const struct product *p)
{
    cublasLtMatmulHeuristicResult_t ways[BLAS_CHOICES];
    struct tuned *t = c->tuned;
    struct product part = part_of(p, t, 0, part_rows(p));

    choice->way = WAY_STREAM;
    if (c->deterministic) {
        choice->way = p->rows <= STREAM_ROWS_WIDE ? WAY_STREAM : WAY_WIDE;
        return;
    }
    if (p->rows <= (p->w.dtype == DTYPE_BF16 ? STREAM_ROWS : STREAM_ROWS_QUANTIZED) ||
        blas_ways(&t->blas, &part, ways) == 0)
        return;
    choice->way = WAY_BLAS;
    choice->algo = ways[0].algo;
}

static struct choice *choice_of(struct cuda_device *c, const struct product *p)
{
    struct shape *s = shape_of(c->tuned, &p->w);

    if (!s)
        return NULL;
    struct choice *choice = &s->choices[bucket_of(p->rows)][p->to.sink != SINK_OPERAND];
    if (choice->way == WAY_UNKNOWN)
        guess(c, choice, p);
    return choice;
}

bool product_fused(struct cuda_device *c, const struct product *p)
{
    struct product plain = *p;
    struct choice *choice;

    /* More rows would have to go the same way. */
    if (c->deterministic)
        return false;
    /* What it would be without: the library has no such ends. */
    if (p->to.sink == SINK_NORM)
        plain.to.sink = SINK_ADD;
    else if (p->to.sink == SINK_GLU || p->to.sink == SINK_ROPE)
        plain.to.sink = SINK_OPERAND;
    choice = blas_can(&plain) ? choice_of(c, &plain) : NULL;
    return (!choice || choice->way == WAY_STREAM) && product_stream(c, p);
}

void product_fast(struct cuda_device *c, const struct product *given)
{
    struct product p = *given;
    struct choice *choice = c->deterministic || blas_can(&p) ? choice_of(c, &p) : NULL;
    bool library = choice && choice->way == WAY_BLAS;

    if (choice && choice->way == WAY_WIDE && product_wide(c, &p))
        return;
    p.from = unscaled_take(c, p.x);
    if (p.from.x && (library || p.from.rows != p.rows)) {
        scale_rows(c, p.x, p.w.cols);
        p.from = {};
    }
    if ((library && by_blas(c, &p, &choice->algo) == CUBLAS_STATUS_SUCCESS) ||
        product_stream(c, &p))
        return;
    scale_rows(c, p.x, p.w.cols);
    product_plain<__nv_bfloat16>(c, &p);
}

/* ---- trying ------------------------------------------------------------------------------------
 */

#define TRIAL_BYTES (192ull << 20) /* of weights, past the cache, that a trial goes through */
#define OUT_BYTES   (256ull << 20) /* results that are too large are not tried */
#define TRIAL_RUNS  3

struct trial {
    struct cuda_device *c;
    char *weights;
    __nv_bfloat16 *x;
    void *out;
    uint64_t bytes; /* of one matrix */
    uint32_t copies;
    cudaEvent_t begin, end;
};

/* Ordinary numbers in every type: 0x3c3c is 0.0115 as bfloat16 and 1.06 as a half. */
static __global__ void fill_kernel(uint32_t *to, uint64_t words, uint32_t mask, uint32_t bits)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;

    await_kernels();
    for (; i < words; i += (uint64_t)gridDim.x * blockDim.x) {
        uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        to[i] = ((uint32_t)(z >> 32) & mask) | bits;
    }
}

static void trial_close(struct trial *t)
{
    cudaFree(t->weights);
    cudaFree(t->x);
    cudaFree(t->out);
    if (t->begin)
        cudaEventDestroy(t->begin);
    if (t->end)
        cudaEventDestroy(t->end);
}

static uint32_t rows_tried(const struct cuda_device *c, const struct weight *w)
{
    uint64_t fit = OUT_BYTES / 4 / w->rows, most = 1u << (BUCKETS - 1);

    most = most < c->rows_max ? most : c->rows_max;
    return (uint32_t)(fit < most ? fit : most);
}

static int trial_open(struct trial *t, const struct weight *w, struct error *err)
{
    uint64_t rows = rows_tried(t->c, w), x = 2 * rows * w->cols, out = 4 * rows * w->rows;
    cudaError_t e;

    t->bytes = dtype_row_bytes(w->dtype, w->cols) * w->rows;
    t->copies = (uint32_t)((TRIAL_BYTES + t->bytes - 1) / t->bytes);
    e = cudaMalloc((void **)&t->weights, t->bytes * t->copies + 16);
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&t->x, x + 16);
    if (e == cudaSuccess)
        e = cudaMalloc(&t->out, out + 16);
    if (e == cudaSuccess)
        e = cudaEventCreate(&t->begin);
    if (e == cudaSuccess)
        e = cudaEventCreate(&t->end);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return cuda_failed(err, e, "no GPU memory to try products in");
    }
    cuda_launch(t->c, fill_kernel, 1024, 256, 0, (uint32_t *)t->weights,
                t->bytes * t->copies / 4 + 1, 0x83ff83ffu, 0x3c003c00u);
    cuda_launch(t->c, fill_kernel, 1024, 256, 0, (uint32_t *)t->x, x / 4 + 1, 0x83ff83ffu,
                0x3c003c00u);
    return 0;
}

static bool once(struct trial *t, struct product *p, uint32_t nth, const struct choice *how)
{
    p->w.data = t->weights + nth % t->copies * t->bytes;
    if (how->way == WAY_BLAS)
        return by_blas(t->c, p, &how->algo) == CUBLAS_STATUS_SUCCESS;
    return how->way == WAY_WIDE ? product_wide(t->c, p) : product_stream(t->c, p);
}

/* Milliseconds of one product, the best of some runs of several; negative: it cannot be done. */
static float time_way(struct trial *t, struct product *p, const struct choice *how)
{
    uint32_t runs = p->rows > 512 ? 2 : 8;
    float best = -1, ms;

    if (!once(t, p, 0, how))
        return -1;
    for (uint32_t i = 0; i < TRIAL_RUNS; i++) {
        bool done = true;
        cuda_note(t->c, cudaEventRecord(t->begin, t->c->stream));
        for (uint32_t k = 0; k < runs; k++)
            done &= once(t, p, i * runs + k + 1, how);
        cuda_note(t->c, cudaEventRecord(t->end, t->c->stream));
        if (!done || cudaEventSynchronize(t->end) != cudaSuccess ||
            cudaEventElapsedTime(&ms, t->begin, t->end) != cudaSuccess)
            return -1;
        ms /= (float)runs;
        best = best < 0 || ms < best ? ms : best;
    }
    return best;
}

/* Keep the faster of `how` and what was best. */
static void try_way(struct trial *t, struct product *p, const struct choice *how,
                    struct choice *best, float *best_ms)
{
    float ms = time_way(t, p, how);

    if (ms < 0 || (*best_ms >= 0 && ms >= *best_ms))
        return;
    *best = *how;
    *best_ms = ms;
}

static void try_all(struct trial *t, struct product *p, struct choice *choice)
{
    cublasLtMatmulHeuristicResult_t ways[BLAS_CHOICES];
    struct tuned *tuned = t->c->tuned;
    struct product part = part_of(p, tuned, 0, part_rows(p));
    bool library = !t->c->deterministic && blas_can(p) && p->rows > 1;
    int count = library ? blas_ways(&tuned->blas, &part, ways) : 0;
    struct choice how = {};
    float best_ms = -1;

    choice->way = how.way = WAY_STREAM;
    if (p->rows <= 128)
        try_way(t, p, &how, choice, &best_ms);
    if (p->rows <= STREAM_ROWS && !t->c->deterministic)
        best_ms *= FUSED_SHARE;
    how.way = WAY_WIDE;
    if (t->c->deterministic && p->rows > 8)
        try_way(t, p, &how, choice, &best_ms);
    how.way = WAY_BLAS;
    for (int i = 0; i < count; i++) {
        how.algo = ways[i].algo;
        try_way(t, p, &how, choice, &best_ms);
    }
}

int cuda_tune(struct device *d, const struct weight *w, struct error *err)
{
    struct cuda_device *c = cuda_enter(d);
    struct trial t = {};
    struct shape *s;
    int rv = -1;

    if (w->rows == 0 || w->cols == 0 || dtype_row_bytes(w->dtype, w->cols) == 0)
        return 0;
    s = shape_of(c->tuned, w);
    if (!s || s->tried)
        return 0;
    t.c = c;
    if (trial_open(&t, w, err) != 0)
        goto out;
    for (uint32_t b = 0; b < BUCKETS && 1u << b <= rows_tried(c, w); b++) {
        for (int wide = 0; wide < 2; wide++) {
            struct product p =
                product_of(t.out, wide ? SINK_F32 : SINK_OPERAND, w->rows, t.x, w, 1u << b);
            p.w.data = t.weights;
            try_all(&t, &p, &s->choices[b][wide]);
        }
    }
    s->tried = 1;
    rv = 0;
out:
    cudaStreamSynchronize(c->stream);
    trial_close(&t);
    if (rv == 0 && c->failed != cudaSuccess)
        rv = cuda_failed(err, c->failed, c->device.name);
    return rv;
}
