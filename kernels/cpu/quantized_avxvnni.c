/*
 * quantized_avxvnni.c - matrix products by integer dots, for x86-64 with AVX-VNNI
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
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif

/* clang-format off */
#define QUANTIZED_VNNI
#include "kernels/cpu/quantized_vec_avx2.h"
#include "kernels/cpu/quantized_body.h"
/* clang-format on */

const struct quantized_isa quantized_avxvnni = {.name = "avx-vnni", QUANTIZED_FUNCTIONS};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

/* ISO C forbids an empty file. */
typedef int quantized_avxvnni_is_for_x86_64;

#endif
