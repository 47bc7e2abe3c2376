/*
 * limits_gemm.cu - what the matrix units can do: bf16 products by cuBLASLt
 *
 * The library is opened here alone: it is large, and an engine that serves has no use for it.
 */
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>

#include "kernels/cuda/limits.cuh"

#define GEMM_SIZE      8192
#define GEMM_WORKSPACE (64u << 20)
#define GEMM_CHOICES   8
#define GEMM_REPEATS   5 /* products a sample */

/* The functions of cublasLt* that are used. */
#define BLAS_FUNCTIONS(X)                                                                          \
    X(Create)                                                                                      \
    X(Destroy)                                                                                     \
    X(GetStatusString)                                                                             \
    X(Matmul)                                                                                      \
    X(MatmulAlgoGetHeuristic)                                                                      \
    X(MatmulDescCreate)                                                                            \
    X(MatmulDescDestroy)                                                                           \
    X(MatmulDescSetAttribute)                                                                      \
    X(MatmulPreferenceCreate)                                                                      \
    X(MatmulPreferenceDestroy)                                                                     \
    X(MatmulPreferenceSetAttribute)                                                                \
    X(MatrixLayoutCreate)                                                                          \
    X(MatrixLayoutDestroy)

struct blas {
    void *library;
#define X(name) decltype(&cublasLt##name) name;
    BLAS_FUNCTIONS(X)
#undef X
};

struct gemm {
    struct blas blas;
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t layout;
    void *a, *b, *c, *workspace;
};

static int blas_open(struct blas *b, struct error *err)
{
    char name[64];

    /* Its major version is CUDA's. */
    snprintf(name, sizeof(name), "libcublasLt.so.%d", CUDART_VERSION / 1000);
    b->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!b->library)
        return error_set(err, STATUS_UNSUPPORTED, "cuBLASLt cannot be opened: %s", dlerror());
#define X(name)                                                                                    \
    b->name = (decltype(b->name))dlsym(b->library, "cublasLt" #name);                              \
    if (!b->name)                                                                                  \
        return error_set(err, STATUS_UNSUPPORTED, "cuBLASLt: %s", dlerror());
    BLAS_FUNCTIONS(X)
#undef X
    return 0;
}

static int blas_failed(struct error *err, const struct blas *b, cublasStatus_t s, const char *doing)
{
    return error_set(err, STATUS_INTERNAL, "%s: %s", doing, b->GetStatusString(s));
}

#define TRY_BLAS(call, doing)                                                                      \
    do {                                                                                           \
        cublasStatus_t try_status = (call);                                                        \
        if (try_status != CUBLAS_STATUS_SUCCESS) {                                                 \
            blas_failed(err, &g->blas, try_status, doing);                                         \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

static int gemm_open(struct gemm *g, struct probe *p, struct error *err)
{
    int rv = -1;
    const size_t bytes = 2ull * GEMM_SIZE * GEMM_SIZE;
    cublasOperation_t transposed = CUBLAS_OP_T;
    void **buffers[] = {&g->a, &g->b, &g->c};

    for (void **buffer : buffers)
        TRY(cudaMalloc(buffer, bytes), "no GPU memory for matrices");
    TRY(cudaMalloc(&g->workspace, GEMM_WORKSPACE), "no GPU memory for cuBLASLt");
    /* bf16 of random sign and mantissa, sizes 0.5 to 2. */
    probe_fill(p, g->a, bytes, 0x80ff80ff, 0x3f003f00);
    probe_fill(p, g->b, bytes, 0x80ff80ff, 0x3f003f00);
    if (blas_open(&g->blas, err) != 0)
        goto out;
    TRY_BLAS(g->blas.Create(&g->lt), "no cuBLASLt");
    TRY_BLAS(g->blas.MatmulDescCreate(&g->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
             "no cuBLASLt operation");
    TRY_BLAS(g->blas.MatmulDescSetAttribute(g->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                            sizeof(transposed)),
             "no transposed operand");
    TRY_BLAS(g->blas.MatrixLayoutCreate(&g->layout, CUDA_R_16BF, GEMM_SIZE, GEMM_SIZE, GEMM_SIZE),
             "no cuBLASLt layout");
    rv = 0;
out:
    return rv;
}

static void gemm_close(struct gemm *g)
{
    if (g->layout)
        g->blas.MatrixLayoutDestroy(g->layout);
    if (g->operation)
        g->blas.MatmulDescDestroy(g->operation);
    if (g->lt)
        g->blas.Destroy(g->lt);
    cudaFree(g->a);
    cudaFree(g->b);
    cudaFree(g->c);
    cudaFree(g->workspace);
    /* The library stays open: the GPU's context knows of its code. */
}

static cublasStatus_t gemm_run(const struct gemm *g, const struct probe *p,
                               const cublasLtMatmulAlgo_t *algorithm, int times)
{
    const float one = 1, zero = 0;
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;

    for (int i = 0; i < times && s == CUBLAS_STATUS_SUCCESS; i++)
        s = g->blas.Matmul(g->lt, g->operation, &one, g->a, g->layout, g->b, g->layout, &zero, g->c,
                           g->layout, g->c, g->layout, algorithm, g->workspace, GEMM_WORKSPACE,
                           p->stream);
    return s;
}

/* cuBLASLt's first answer is not always its best one: time them all, keep the fastest. */
static int gemm_choose(const struct gemm *g, struct probe *p, cublasLtMatmulHeuristicResult_t *best,
                       struct error *err)
{
    int rv = -1, count = 0;
    double ms, best_ms = 0;
    uint64_t workspace = GEMM_WORKSPACE;
    cublasLtMatmulPreference_t want = NULL;
    cublasLtMatmulHeuristicResult_t choices[GEMM_CHOICES];

    TRY_BLAS(g->blas.MatmulPreferenceCreate(&want), "no cuBLASLt preference");
    TRY_BLAS(g->blas.MatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &workspace, sizeof(workspace)),
             "no workspace for cuBLASLt");
    TRY_BLAS(g->blas.MatmulAlgoGetHeuristic(g->lt, g->operation, g->layout, g->layout, g->layout,
                                            g->layout, want, GEMM_CHOICES, choices, &count),
             "cuBLASLt knows no way");
    for (int i = 0; i < count; i++) {
        cublasStatus_t s = gemm_run(g, p, &choices[i].algo, 1);
        if (s != CUBLAS_STATUS_SUCCESS)
            continue;
        if (probe_time(
                p, &ms, [&] { s = gemm_run(g, p, &choices[i].algo, 2); }, err) != 0)
            goto out;
        if (s == CUBLAS_STATUS_SUCCESS && (best_ms == 0 || ms < best_ms)) {
            best_ms = ms;
            *best = choices[i];
        }
    }
    if (best_ms == 0) {
        error_set(err, STATUS_INTERNAL, "none of cuBLASLt's %d ways works", count);
        goto out;
    }
    rv = 0;
out:
    if (want)
        g->blas.MatmulPreferenceDestroy(want);
    return rv;
}

int probe_gemm(struct probe *p, struct error *err)
{
    int rv = -1;
    struct gemm g = {};
    struct limit l = {};
    cublasLtMatmulHeuristicResult_t best;
    const double flops = 2.0 * GEMM_SIZE * GEMM_SIZE * GEMM_SIZE * GEMM_REPEATS;
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;

    l.name = "bf16 product, cuBLASLt";
    l.params = "8192 x 8192 x 8192";
    l.unit = "TFLOP/s";
    l.flops = flops;
    if (gemm_open(&g, p, err) != 0 || gemm_choose(&g, p, &best, err) != 0)
        goto out;
    rv = probe_sample(
        p, &l, [&] { s = gemm_run(&g, p, &best.algo, GEMM_REPEATS); },
        [&](double ms) { return flops / 1e9 / ms; }, err);
    if (rv == 0 && s != CUBLAS_STATUS_SUCCESS)
        rv = blas_failed(err, &g.blas, s, "a product failed");
out:
    gemm_close(&g);
    return rv;
}
