/*
 * quantized_avx512.c - matrix products by integer dots, for x86-64 with AVX-512 VNNI
 *
 * The target is set here, as avx2.c says.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/quantized.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))),        \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#endif

/* clang-format off */
#include "kernels/cpu/quantized_vec_avx512.h"
#include "kernels/cpu/quantized_body.h"
/* clang-format on */

const struct quantized_isa quantized_avx512 = {.name = "avx512-vnni", QUANTIZED_FUNCTIONS};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

/* ISO C forbids an empty file. */
typedef int quantized_avx512_is_for_x86_64;

#endif
