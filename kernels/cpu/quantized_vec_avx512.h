/*
 * quantized_vec_avx512.h - sixteen lanes for quantized_body.h, with AVX-512 VNNI
 *
 * The same operations as quantized_vec_avx2.h.
 */
#ifndef MP_KERNELS_CPU_QUANTIZED_VEC_AVX512_H
#define MP_KERNELS_CPU_QUANTIZED_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/quantized.h"

#define VEC_FN static inline __attribute__((always_inline, unused))
#define LANES  16

typedef __m512 vf;
typedef __m512i vi;

VEC_FN vf f_set(float x)
{
    return _mm512_set1_ps(x);
}

VEC_FN vf f_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

VEC_FN void f_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}

VEC_FN vf f_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

VEC_FN vf f_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

VEC_FN vf f_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

VEC_FN vf f_int(vi a)
{
    return _mm512_cvtepi32_ps(a);
}

/* To nearest, even at a tie. */
VEC_FN vi i_round(vf a)
{
    return _mm512_cvtps_epi32(a);
}

VEC_FN vi i_bits(vf a)
{
    return _mm512_castps_si512(a);
}

VEC_FN vi i_set(int x)
{
    return _mm512_set1_epi32(x);
}

/* The same byte everywhere. */
VEC_FN vi i_bytes(int x)
{
    return _mm512_set1_epi8((char)x);
}

VEC_FN vi i_load(const void *p)
{
    return _mm512_loadu_si512(p);
}

VEC_FN void i_store(void *p, vi a)
{
    _mm512_storeu_si512(p, a);
}

VEC_FN vi i_zero(void)
{
    return _mm512_setzero_si512();
}

VEC_FN vi i_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}

VEC_FN vi i_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}

VEC_FN vi i_xor(vi a, vi b)
{
    return _mm512_xor_si512(a, b);
}

VEC_FN vi i_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}

/* Shifts of 32-bit lanes. */
VEC_FN vi i_left(vi a, int n)
{
    return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n));
}

VEC_FN vi i_right(vi a, int n)
{
    return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n));
}

VEC_FN vi i_right_signed(vi a, int n)
{
    return _mm512_sra_epi32(a, _mm_cvtsi32_si128(n));
}

VEC_FN vi i_max_unsigned(vi a, vi b)
{
    return _mm512_max_epu32(a, b);
}

VEC_FN uint32_t i_largest(vi a)
{
    return _mm512_reduce_max_epu32(a);
}

VEC_FN int i_sum(vi a)
{
    return _mm512_reduce_add_epi32(a);
}

/* Lanes in [-128, 127] to bytes. */
VEC_FN void i_store_bytes(int8_t *p, vi a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a));
}

/* Within each 16 bytes: the lower or upper lanes of a and b interleaved. */
VEC_FN vi i_low32(vi a, vi b)
{
    return _mm512_unpacklo_epi32(a, b);
}

VEC_FN vi i_high32(vi a, vi b)
{
    return _mm512_unpackhi_epi32(a, b);
}

VEC_FN vi i_low64(vi a, vi b)
{
    return _mm512_unpacklo_epi64(a, b);
}

VEC_FN vi i_high64(vi a, vi b)
{
    return _mm512_unpackhi_epi64(a, b);
}

/* Lane n of each 16 bytes, four times. */
#define I_SPREAD(a, n) _mm512_shuffle_epi32(a, (_MM_PERM_ENUM)((n)*0x55))

/* Each 16 bytes by the same choice of bytes, 16 of them at `order`. */
VEC_FN vi i_choose(vi a, const uint8_t *order)
{
    __m128i o = _mm_loadu_si128((const __m128i *)(const void *)order);
    return _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(o));
}

/* Bytes `byte` where a and the 16 bytes at `bits`, as often as there are, have a bit in common. */
VEC_FN vi i_where(vi a, const uint8_t *bits, int byte)
{
    __m128i b = _mm_loadu_si128((const __m128i *)(const void *)bits);
    return _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(a, _mm512_broadcast_i32x4(b)),
                                 _mm512_set1_epi8((char)byte));
}

/* Sixteen bytes, as often as there are. */
VEC_FN vi i_repeat16(const uint8_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Four bytes, as often as there are. */
VEC_FN vi i_repeat4(const uint8_t *p)
{
    int x;
    memcpy(&x, p, sizeof(x));
    return _mm512_set1_epi32(x);
}

/* Sixteen bytes each of the rows 0, 4, 8 and 12 below p. */
VEC_FN vi i_rows16(const uint8_t *p, size_t stride)
{
    __m512i a = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)p));
    const uint8_t *p8 = p + 8 * stride;
    a = _mm512_mask_broadcast_i32x4(
        a, 0x00f0, _mm_loadu_si128((const __m128i *)(const void *)(p + 4 * stride)));
    a = _mm512_mask_broadcast_i32x4(a, 0x0f00, _mm_loadu_si128((const __m128i *)(const void *)p8));
    return _mm512_mask_broadcast_i32x4(
        a, 0xf000, _mm_loadu_si128((const __m128i *)(const void *)(p8 + 4 * stride)));
}

/* Where i_rows4 finds each row. */
VEC_FN vi i_row_offsets(size_t stride)
{
    return _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32((int)stride));
}

/* Four bytes of every row. */
VEC_FN vi i_rows4(const uint8_t *p, vi offsets)
{
    return _mm512_i32gather_epi32(offsets, (const void *)p, 1);
}

/* The halves in the lower 16 bits of the lanes. */
VEC_FN vf f_halves(vi a)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
}

/* acc + in each lane, the sum of four products of a's bytes, unsigned, with x's, signed.  wide: a's
 * may be 128 and more. */
VEC_FN vi i_dot(vi acc, vi a, vi x, const int wide)
{
    (void)wide;
    return _mm512_dpbusd_epi32(acc, a, x);
}

#endif
