/*
 * operand.cuh - loading and storing activations of either operand type
 *
 * Kernels are templates over T, float or __nv_bfloat16; what is between a load and a store is
 * float.  Vectors begin at multiples of their own size.
 */
#ifndef MP_KERNELS_CUDA_OPERAND_CUH
#define MP_KERNELS_CUDA_OPERAND_CUH

#include <cuda_bf16.h>

#include "kernels/cuda/cuda.cuh"

#define FN static __device__ __forceinline__

FN float operand_load(const float *p)
{
    return *p;
}

FN float operand_load(const __nv_bfloat16 *p)
{
    return __bfloat162float(*p);
}

FN void operand_store(float *p, float v)
{
    *p = v;
}

FN void operand_store(__nv_bfloat16 *p, float v)
{
    *p = __float2bfloat16_rn(v);
}

/* The two bfloat16 of a word, and two floats as such. */
FN float bf16_low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

FN float bf16_high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

FN uint32_t bf16_pair(float low, float high)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&v;
}

FN float4 operand_load4(const float *p)
{
    return *(const float4 *)p;
}

FN float4 operand_load4(const __nv_bfloat16 *p)
{
    uint2 v = *(const uint2 *)p;
    return {bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y)};
}

FN void operand_store4(float *p, float4 v)
{
    *(float4 *)p = v;
}

FN void operand_store4(__nv_bfloat16 *p, float4 v)
{
    *(uint2 *)p = {bf16_pair(v.x, v.y), bf16_pair(v.z, v.w)};
}

/* Whether rows of `cols` from p on all begin where four can be loaded at once. */
template <typename T> static inline bool operand_by4(const T *p, uint32_t cols)
{
    return p == NULL || (((uintptr_t)p | (uint64_t)cols * sizeof(T)) & (4 * sizeof(T) - 1)) == 0;
}

/* The next kernel may be brought onto the multiprocessors. */
FN void launch_next(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* What the kernels before this one wrote is there.  Before it a kernel may read what no kernel of a
 * step writes: weights, seqs and pages. */
FN void wait_kernels(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Every kernel begins with it, or with the two. */
FN void await_kernels(void)
{
    launch_next();
    wait_kernels();
}

/* What a step says of its tokens, read while the kernels ahead run, and never from a cache that may
 * be older than the step: k_embed(), the first of its kernels, lets none begin before it is there.
 */
FN struct attn_row read_seq(const struct attn_row *at)
{
    return {__ldcg(&at->first_row), __ldcg(&at->count), __ldcg(&at->first_pos), __ldcg(&at->table)};
}

FN char *read_page(void *const *at)
{
    return (char *)__ldcg((const unsigned long long *)at);
}

#endif
