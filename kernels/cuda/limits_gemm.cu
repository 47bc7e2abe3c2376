/*
 * limits_gemm.cu - what the matrix units can do: bf16 products by cuBLASLt
 */
#include "kernels/cuda/blas.cuh"
#include "kernels/cuda/limits.cuh"

#define GEMM_SIZE    8192
#define GEMM_REPEATS 5 /* products a sample */

struct gemm {
    struct blas blas;
    struct product p;
    void *x, *w, *out;
};

static int gemm_failed(const struct gemm *g, cublasStatus_t s, struct error *err)
{
    return error_set(err, STATUS_INTERNAL, "a product by cuBLASLt failed: %s",
                     g->blas.GetStatusString(s));
}

static int gemm_open(struct gemm *g, struct probe *p, struct error *err)
{
    int rv = -1;
    const size_t bytes = 2ull * GEMM_SIZE * GEMM_SIZE;
    struct weight w;

    TRY(cudaMalloc(&g->x, bytes), "no GPU memory for matrices");
    TRY(cudaMalloc(&g->w, bytes), "no GPU memory for matrices");
    TRY(cudaMalloc(&g->out, bytes), "no GPU memory for matrices");
    /* bf16 of random sign and mantissa, sizes 0.5 to 2. */
    probe_fill(p, g->x, bytes, 0x80ff80ff, 0x3f003f00);
    probe_fill(p, g->w, bytes, 0x80ff80ff, 0x3f003f00);
    w = {g->w, DTYPE_BF16, GEMM_SIZE, GEMM_SIZE};
    g->p = product_of(g->out, SINK_OPERAND, GEMM_SIZE, g->x, &w, GEMM_SIZE);
    rv = blas_open(&g->blas, err);
out:
    return rv;
}

static cublasStatus_t gemm_run(struct gemm *g, struct probe *p, const cublasLtMatmulAlgo_t *algo,
                               int times)
{
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;

    for (int i = 0; i < times && s == CUBLAS_STATUS_SUCCESS; i++)
        s = blas_multiply(&g->blas, &g->p, NULL, algo, p->stream);
    return s;
}

/* cuBLASLt's first answer is not always its best one: time them all, keep the fastest. */
static int gemm_choose(struct gemm *g, struct probe *p, cublasLtMatmulAlgo_t *best,
                       struct error *err)
{
    double ms, best_ms = 0;
    cublasLtMatmulHeuristicResult_t ways[BLAS_CHOICES];
    int count = blas_ways(&g->blas, &g->p, ways);

    for (int i = 0; i < count; i++) {
        cublasStatus_t s = gemm_run(g, p, &ways[i].algo, 1);
        if (s != CUBLAS_STATUS_SUCCESS)
            continue;
        if (probe_time(
                p, &ms, [&] { s = gemm_run(g, p, &ways[i].algo, 2); }, err) != 0)
            return -1;
        if (s == CUBLAS_STATUS_SUCCESS && (best_ms == 0 || ms < best_ms)) {
            best_ms = ms;
            *best = ways[i].algo;
        }
    }
    if (best_ms == 0)
        return error_set(err, STATUS_INTERNAL, "none of cuBLASLt's %d ways works", count);
    return 0;
}

int probe_gemm(struct probe *p, struct error *err)
{
    int rv = -1;
    struct gemm g = {};
    struct limit l = {};
    cublasLtMatmulAlgo_t best;
    const double flops = 2.0 * GEMM_SIZE * GEMM_SIZE * GEMM_SIZE * GEMM_REPEATS;
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;

    l.name = "bf16 product, cuBLASLt";
    l.params = "8192 x 8192 x 8192";
    l.unit = "TFLOP/s";
    l.flops = flops;
    if (gemm_open(&g, p, err) != 0 || gemm_choose(&g, p, &best, err) != 0)
        goto out;
    rv = probe_sample(
        p, &l, [&] { s = gemm_run(&g, p, &best, GEMM_REPEATS); },
        [&](double ms) { return flops / 1e9 / ms; }, err);
    if (rv == 0 && s != CUBLAS_STATUS_SUCCESS)
        rv = gemm_failed(&g, s, err);
out:
    blas_close(&g.blas);
    cudaFree(g.x);
    cudaFree(g.w);
    cudaFree(g.out);
    return rv;
}
