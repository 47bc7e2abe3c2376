/*
 * none.c - a build without CUDA
 */
#include "kernels/collective.h"
#include "kernels/cuda/limits.h"

static int refuse(struct error *err)
{
    return error_set(err, STATUS_UNSUPPORTED,
                     "modelpool was built without CUDA: configure it with --with-cuda");
}

struct device *device_create_cuda(uint32_t gpu, enum precision precision, uint32_t rows_max,
                                  uint32_t cols_max, struct error *err)
{
    (void)gpu;
    (void)precision;
    (void)rows_max;
    (void)cols_max;
    refuse(err);
    return NULL;
}

struct collective *collective_create_cuda(struct device *const *devices, uint32_t ranks,
                                          struct error *err)
{
    (void)devices;
    (void)ranks;
    refuse(err);
    return NULL;
}

int limits_measure(uint32_t gpu, unsigned what, limit_f *found, void *arg, struct error *err)
{
    (void)gpu;
    (void)what;
    (void)found;
    (void)arg;
    return refuse(err);
}

int limits_about(uint32_t gpu, struct limits_gpu *out, struct error *err)
{
    (void)gpu;
    (void)out;
    return refuse(err);
}
