/*
 * quantized_vec_avx2.h - eight lanes for quantized_body.h, with AVX2, FMA and F16C
 *
 * The same operations as quantized_vec_avx512.h, which says what each does.  With QUANTIZED_VNNI
 * defined, dots take AVX-VNNI's instruction.
 */
#ifndef MP_KERNELS_CPU_QUANTIZED_VEC_AVX2_H
#define MP_KERNELS_CPU_QUANTIZED_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/quantized.h"

#define VEC_FN static inline __attribute__((always_inline, unused))
#define LANES  8

typedef __m256 vf;
typedef __m256i vi;

VEC_FN vf f_set(float x)
{
    return _mm256_set1_ps(x);
}

VEC_FN vf f_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

VEC_FN void f_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}

VEC_FN vf f_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

VEC_FN vf f_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

VEC_FN vf f_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

VEC_FN vf f_int(vi a)
{
    return _mm256_cvtepi32_ps(a);
}

VEC_FN vi i_round(vf a)
{
    return _mm256_cvtps_epi32(a);
}

VEC_FN vi i_bits(vf a)
{
    return _mm256_castps_si256(a);
}

VEC_FN vi i_set(int x)
{
    return _mm256_set1_epi32(x);
}

VEC_FN vi i_bytes(int x)
{
    return _mm256_set1_epi8((char)x);
}

VEC_FN vi i_load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

VEC_FN void i_store(void *p, vi a)
{
    _mm256_storeu_si256((__m256i *)p, a);
}

VEC_FN vi i_zero(void)
{
    return _mm256_setzero_si256();
}

VEC_FN vi i_and(vi a, vi b)
{
    return _mm256_and_si256(a, b);
}

VEC_FN vi i_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}

VEC_FN vi i_xor(vi a, vi b)
{
    return _mm256_xor_si256(a, b);
}

VEC_FN vi i_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}

VEC_FN vi i_left(vi a, int n)
{
    return _mm256_sll_epi32(a, _mm_cvtsi32_si128(n));
}

VEC_FN vi i_right(vi a, int n)
{
    return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n));
}

VEC_FN vi i_right_signed(vi a, int n)
{
    return _mm256_sra_epi32(a, _mm_cvtsi32_si128(n));
}

VEC_FN vi i_max_unsigned(vi a, vi b)
{
    return _mm256_max_epu32(a, b);
}

VEC_FN uint32_t i_largest(vi a)
{
    __m128i s = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_max_epu32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_max_epu32(s, _mm_shuffle_epi32(s, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(s);
}

VEC_FN int i_sum(vi a)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

VEC_FN void i_store_bytes(int8_t *p, vi a)
{
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(words, words));
}

VEC_FN vi i_low32(vi a, vi b)
{
    return _mm256_unpacklo_epi32(a, b);
}

VEC_FN vi i_high32(vi a, vi b)
{
    return _mm256_unpackhi_epi32(a, b);
}

VEC_FN vi i_low64(vi a, vi b)
{
    return _mm256_unpacklo_epi64(a, b);
}

VEC_FN vi i_high64(vi a, vi b)
{
    return _mm256_unpackhi_epi64(a, b);
}

#define I_SPREAD(a, n) _mm256_shuffle_epi32(a, (n)*0x55)

VEC_FN vi i_repeat16(const uint8_t *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
}

VEC_FN vi i_repeat4(const uint8_t *p)
{
    int x;
    memcpy(&x, p, sizeof(x));
    return _mm256_set1_epi32(x);
}

VEC_FN vi i_choose(vi a, const uint8_t *order)
{
    return _mm256_shuffle_epi8(a, i_repeat16(order));
}

VEC_FN vi i_where(vi a, const uint8_t *bits, int byte)
{
    __m256i none = _mm256_cmpeq_epi8(_mm256_and_si256(a, i_repeat16(bits)), i_zero());
    return _mm256_andnot_si256(none, _mm256_set1_epi8((char)byte));
}

VEC_FN vi i_rows16(const uint8_t *p, size_t stride)
{
    const uint8_t *p4 = p + 4 * stride;
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p)),
        _mm_loadu_si128((const __m128i *)(const void *)p4), 1);
}

VEC_FN vi i_row_offsets(size_t stride)
{
    return _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                              _mm256_set1_epi32((int)stride));
}

VEC_FN vi i_rows4(const uint8_t *p, vi offsets)
{
    return _mm256_i32gather_epi32((const int *)(const void *)p, offsets, 1);
}

VEC_FN vf f_halves(vi a)
{
    __m256i low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
    __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(words));
}

#ifdef QUANTIZED_VNNI
VEC_FN vi i_dot(vi acc, vi a, vi x, const int wide)
{
    (void)wide;
    return _mm256_dpbusd_avx_epi32(acc, a, x);
}
#else
/* Pairs of products are summed in 16 bits, which holds 2 * 127 * 127; what may be more goes by
 * words. */
VEC_FN vi i_dot(vi acc, vi a, vi x, const int wide)
{
    if (!wide) {
        __m256i pairs = _mm256_maddubs_epi16(a, x);
        return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xff)),
                                     _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(x, 8));
    return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
#endif

#endif
