/*
 * limits_matmul.cu - how near k_matmul comes to the memory's rate
 */
#include <stdio.h>

#include "kernels/cuda/limits.cuh"

#define OUT_ROWS 4096u
#define COLS     14336u
#define X_ROWS   256u
#define TURN     (768ull << 20) /* bytes of weights that a sample goes through: far past the cache */

struct place {
    struct device *device;
    float *x, *out;
    char *weights;
};

static int one(struct probe *p, const struct place *at, enum dtype dtype, uint32_t rows,
               struct error *err)
{
    uint64_t bytes = dtype_row_bytes(dtype, COLS) * OUT_ROWS;
    uint32_t copies = (uint32_t)(TURN / bytes);
    struct limit l = {};
    char params[96];

    /* One set of weights after the other, as in a model; the time is of one. */
    snprintf(params, sizeof(params), "%s %u x %u, rows %u", dtype_name(dtype), OUT_ROWS, COLS,
             rows);
    l.name = "k_matmul";
    l.params = params;
    l.unit = "us";
    l.bytes = (double)(bytes + 4ull * rows * (COLS + OUT_ROWS));
    l.flops = 2.0 * OUT_ROWS * COLS * rows;
    return probe_sample(
        p, &l,
        [&] {
            for (uint32_t i = 0; i < copies; i++) {
                struct weight w = {at->weights + i * bytes, dtype, OUT_ROWS, COLS};
                k_matmul(at->device, at->out, at->x, &w, NULL, rows);
            }
        },
        [&](double ms) { return ms * 1e3 / copies; }, err);
}

int probe_matmul(struct probe *p, struct error *err)
{
    static const enum dtype types[] = {DTYPE_BF16, DTYPE_F32,  DTYPE_Q4_1,
                                       DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q6_K};
    static const uint32_t rows[] = {1, 4, 16, 256};
    int rv = -1;
    struct place at = {};
    cudaStream_t own = p->stream;

    at.device = device_create_cuda((uint32_t)p->gpu, X_ROWS, COLS, err);
    if (!at.device)
        return -1;
    p->stream = ((struct cuda_device *)at.device)->stream;
    TRY(cudaMalloc((void **)&at.x, 4ull * X_ROWS * COLS), "no GPU memory for activations");
    TRY(cudaMalloc((void **)&at.out, 4ull * X_ROWS * OUT_ROWS), "no GPU memory for results");
    TRY(cudaMalloc((void **)&at.weights, TURN), "no GPU memory for weights");
    /* Sizes 0.5 to 2; of the weights no four bytes make a number that is none in any type. */
    probe_fill(p, at.x, 4ull * X_ROWS * COLS, 0x80ffffff, 0x3f000000);
    probe_fill(p, at.weights, TURN, 0xbbbbbbbb, 0);
    for (enum dtype type : types)
        for (uint32_t n : rows)
            if (one(p, &at, type, n, err) != 0)
                goto out;
    rv = device_check(at.device, err);
out:
    p->stream = own;
    cudaFree(at.x);
    cudaFree(at.out);
    cudaFree(at.weights);
    device_destroy(at.device);
    return rv;
}
