/*
 * blas.cuh - cuBLASLt, opened at run time: it is large, and only what multiplies by it needs it
 */
#ifndef MP_KERNELS_CUDA_BLAS_CUH
#define MP_KERNELS_CUDA_BLAS_CUH

#include <cublasLt.h>

#include "kernels/cuda/product.cuh"

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
    X(MatrixLayoutDestroy)                                                                         \
    X(MatrixLayoutSetAttribute)

#define BLAS_WORKSPACE (32u << 20)
#define BLAS_CHOICES   12

struct blas {
    void *library;
#define X(name) decltype(&cublasLt##name) name;
    BLAS_FUNCTIONS(X)
#undef X
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t plain, biased;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulPreference_t want;
    void *workspace;
};

/* UNSUPPORTED: there is no such library.  close() also after a failed open(). */
int blas_open(struct blas *b, struct error *err);
void blas_close(struct blas *b);
/* Sums of p, whose weights are bfloat16, to p->to; its bias is bfloat16 here, in device memory.
 * Pointers and rows are aligned to 16 bytes. */
cublasStatus_t blas_multiply(struct blas *b, const struct product *p, const void *bias,
                             const cublasLtMatmulAlgo_t *algo, cudaStream_t stream);
/* The ways that it knows, best guess first; how many, at most BLAS_CHOICES. */
int blas_ways(struct blas *b, const struct product *p, cublasLtMatmulHeuristicResult_t *ways);

#endif
