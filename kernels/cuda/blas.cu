/*
 * blas.cu - matrix products by cuBLASLt
 *
 * Its matrices are column-major: ours are its transposes, so that it computes out' = (W')' x'.
 */
#include <dlfcn.h>
#include <stdio.h>

#include "kernels/cuda/blas.cuh"

static int load(struct blas *b, struct error *err)
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

/* What every product has in common. */
static cublasStatus_t describe(struct blas *b)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t bias = CUBLASLT_EPILOGUE_BIAS;
    const uint64_t workspace = BLAS_WORKSPACE;
    const uint32_t alignment = 16;
    const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasLtMatmulDesc_t *descs[] = {&b->plain, &b->biased};
    cublasLtMatrixLayout_t *layouts[] = {&b->w, &b->x, &b->out};
    cublasStatus_t s = b->Create(&b->lt);

    for (cublasLtMatmulDesc_t *d : descs) {
        if (s == CUBLAS_STATUS_SUCCESS)
            s = b->MatmulDescCreate(d, CUBLAS_COMPUTE_32F, CUDA_R_32F);
        if (s == CUBLAS_STATUS_SUCCESS)
            s = b->MatmulDescSetAttribute(*d, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                          sizeof(transposed));
    }
    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->MatmulDescSetAttribute(b->biased, CUBLASLT_MATMUL_DESC_EPILOGUE, &bias,
                                      sizeof(bias));
    for (cublasLtMatrixLayout_t *l : layouts)
        if (s == CUBLAS_STATUS_SUCCESS)
            s = b->MatrixLayoutCreate(l, CUDA_R_16BF, 16, 16, 16);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->MatmulPreferenceCreate(&b->want);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->MatmulPreferenceSetAttribute(b->want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                            &workspace, sizeof(workspace));
    for (cublasLtMatmulPreferenceAttributes_t a : alignments)
        if (s == CUBLAS_STATUS_SUCCESS)
            s = b->MatmulPreferenceSetAttribute(b->want, a, &alignment, sizeof(alignment));
    return s;
}

int blas_open(struct blas *b, struct error *err)
{
    if (load(b, err) != 0)
        return -1;
    cublasStatus_t s = describe(b);
    if (s != CUBLAS_STATUS_SUCCESS)
        return error_set(err, STATUS_INTERNAL, "cuBLASLt: %s", b->GetStatusString(s));
    cudaError_t e = cudaMalloc(&b->workspace, BLAS_WORKSPACE);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return cuda_failed(err, e, "no GPU memory for cuBLASLt");
    }
    return 0;
}

/* The library itself stays: what it has started in the driver outlives it otherwise. */
void blas_close(struct blas *b)
{
    cublasLtMatmulDesc_t descs[] = {b->plain, b->biased};
    cublasLtMatrixLayout_t layouts[] = {b->w, b->x, b->out};

    for (cublasLtMatmulDesc_t d : descs)
        if (d)
            b->MatmulDescDestroy(d);
    for (cublasLtMatrixLayout_t l : layouts)
        if (l)
            b->MatrixLayoutDestroy(l);
    if (b->want)
        b->MatmulPreferenceDestroy(b->want);
    if (b->lt)
        b->Destroy(b->lt);
    cudaFree(b->workspace);
}

static cublasStatus_t shape(struct blas *b, cublasLtMatrixLayout_t l, cudaDataType_t type,
                            uint64_t rows, uint64_t cols, int64_t ld)
{
    cublasStatus_t s =
        b->MatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_TYPE, &type, sizeof(type));

    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->MatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_ROWS, &rows, sizeof(rows));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->MatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof(cols));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->MatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof(ld));
    return s;
}

static cublasStatus_t shapes(struct blas *b, const struct product *p)
{
    cudaDataType_t out = p->to.sink == SINK_OPERAND ? CUDA_R_16BF : CUDA_R_32F;
    cublasStatus_t s = shape(b, b->w, CUDA_R_16BF, p->w.cols, p->w.rows, p->w.cols);

    if (s == CUBLAS_STATUS_SUCCESS)
        s = shape(b, b->x, CUDA_R_16BF, p->w.cols, p->rows, p->w.cols);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = shape(b, b->out, out, p->w.rows, p->rows, p->to.stride);
    return s;
}

cublasStatus_t blas_multiply(struct blas *b, const struct product *p, const void *bias,
                             const cublasLtMatmulAlgo_t *algo, cudaStream_t stream)
{
    const bool add = p->to.sink == SINK_ADD;
    const float alpha = add ? p->to.scale : 1, beta = add ? 1 : 0;
    cublasLtMatmulDesc_t operation = bias ? b->biased : b->plain;
    cublasStatus_t s = shapes(b, p);

    if (s == CUBLAS_STATUS_SUCCESS && bias)
        s = b->MatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                      sizeof(bias));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = b->Matmul(b->lt, operation, &alpha, p->w.data, b->w, p->x, b->x, &beta, p->to.out,
                      b->out, p->to.out, b->out, algo, b->workspace, BLAS_WORKSPACE, stream);
    return s;
}

int blas_ways(struct blas *b, const struct product *p, cublasLtMatmulHeuristicResult_t *ways)
{
    int count = 0;

    if (shapes(b, p) != CUBLAS_STATUS_SUCCESS ||
        b->MatmulAlgoGetHeuristic(b->lt, b->plain, b->w, b->x, b->out, b->out, b->want,
                                  BLAS_CHOICES, ways, &count) != CUBLAS_STATUS_SUCCESS)
        return 0;
    return count;
}
