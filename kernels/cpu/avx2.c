/*
 * avx2.c - the kernels for x86-64 with AVX2, FMA and F16C
 *
 * The target is set here and not on the compiler's line, so that nothing outside these functions (a
 * header's inline function that the linker might keep for everybody) is compiled for it.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

/* clang-format off */
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/body.h"
/* clang-format on */

const struct isa isa_avx2 = {.name = "avx2", ISA_FUNCTIONS};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

/* ISO C forbids an empty file. */
typedef int avx2_is_for_x86_64;

#endif
