/*
 * body.h - all kernels of one instruction set
 *
 * Included once by portable.c and avx2.c, behind their vec_*.h.
 */
#ifndef MP_KERNELS_CPU_BODY_H
#define MP_KERNELS_CPU_BODY_H

#include <math.h>
#include <string.h>

#include "kernels/cpu/isa.h"

/* Each of these builds on the ones before. */
/* clang-format off */
#include "kernels/cpu/body_decode.h"
#include "kernels/cpu/body_matmul.h"
#include "kernels/cpu/body_row.h"
#include "kernels/cpu/body_attention.h"
/* clang-format on */

#define ISA_FUNCTIONS                                                                              \
    .embed = embed_range, .norm = norm_range, .matmul = matmul_range, .rope = rope_range,          \
    .attention = attention_range, .glu = glu_range, .scale = scale_range, .route = route_range,    \
    .expert = expert_range, .combine = combine_range, .squares = squares_range

#endif
