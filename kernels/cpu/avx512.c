/*
 * avx512.c - the kernels for x86-64 with AVX-512
 *
 * The same eight lanes as AVX2, so the same bits, with more registers; but heads go through
 * attention in pairs.  The target is set here, as avx2.c says.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))),                   \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
#endif

/* clang-format off */
#define ATTENTION_PAIRS
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/body.h"
/* clang-format on */

const struct isa isa_avx512 = {.name = "avx512", ISA_FUNCTIONS};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

/* ISO C forbids an empty file. */
typedef int avx512_is_for_x86_64;

#endif
