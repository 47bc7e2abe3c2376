/*
 * vec_avx2.h - eight float lanes in an AVX2 register
 *
 * The same operations as vec_portable.h, which says what each does.
 */
#ifndef MP_KERNELS_CPU_VEC_AVX2_H
#define MP_KERNELS_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"

#define VEC_FN static inline __attribute__((always_inline, unused))

typedef __m256 v8;
typedef __m256i b32;

VEC_FN v8 v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

VEC_FN void v_store(float *p, v8 a)
{
    _mm256_storeu_ps(p, a);
}

/* All ones in the first n lanes. */
VEC_FN __m256i lanes_below(uint32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

VEC_FN v8 v_load_part(const float *p, uint32_t n)
{
    return _mm256_maskload_ps(p, lanes_below(n));
}

VEC_FN void v_store_part(float *p, v8 a, uint32_t n)
{
    _mm256_maskstore_ps(p, lanes_below(n), a);
}

VEC_FN v8 v_set(float x)
{
    return _mm256_set1_ps(x);
}

VEC_FN v8 v_add(v8 a, v8 b)
{
    return _mm256_add_ps(a, b);
}

VEC_FN v8 v_sub(v8 a, v8 b)
{
    return _mm256_sub_ps(a, b);
}

VEC_FN v8 v_mul(v8 a, v8 b)
{
    return _mm256_mul_ps(a, b);
}

VEC_FN v8 v_div(v8 a, v8 b)
{
    return _mm256_div_ps(a, b);
}

VEC_FN v8 v_fma(v8 a, v8 b, v8 c)
{
    return _mm256_fmadd_ps(a, b, c);
}

VEC_FN v8 v_max(v8 a, v8 b)
{
    return _mm256_max_ps(a, b);
}

VEC_FN v8 v_min(v8 a, v8 b)
{
    return _mm256_min_ps(a, b);
}

VEC_FN v8 v_keep_from(v8 a, v8 x, float limit)
{
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LT_OQ), a);
}

VEC_FN v8 v_below(v8 a, v8 b, v8 x, float limit)
{
    return _mm256_blendv_ps(a, b, _mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LT_OQ));
}

VEC_FN v8 v_sign(v8 a, v8 b)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, b));
}

VEC_FN v8 v_first(v8 a, v8 b, uint32_t n)
{
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(lanes_below(n)));
}

VEC_FN float v_sum(v8 a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

VEC_FN float v_largest(v8 a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* Neighbours, then pairs, then halves: every lane by the same tree. */
VEC_FN v8 v_sums(const v8 a[8])
{
    __m256 s01 = _mm256_hadd_ps(a[0], a[1]), s23 = _mm256_hadd_ps(a[2], a[3]);
    __m256 s45 = _mm256_hadd_ps(a[4], a[5]), s67 = _mm256_hadd_ps(a[6], a[7]);
    __m256 s0123 = _mm256_hadd_ps(s01, s23), s4567 = _mm256_hadd_ps(s45, s67);
    return _mm256_add_ps(_mm256_permute2f128_ps(s0123, s4567, 0x20),
                         _mm256_permute2f128_ps(s0123, s4567, 0x31));
}

VEC_FN v8 v_scale_exp(v8 a, v8 shifted)
{
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23)));
}

/* ---- stored formats ------------------------------------------------------------------------ */

VEC_FN v8 v_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}

VEC_FN v8 v_load_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

VEC_FN v8 v_load_bf16(const uint8_t *p)
{
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

VEC_FN b32 b_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

VEC_FN b32 b_nibbles(const uint8_t *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(x), _mm_srli_epi16(x, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

VEC_FN b32 b_fifths(const uint8_t *p)
{
    int bits;
    memcpy(&bits, p, sizeof(bits));
    /* Byte i gets the byte that holds bit i, then keeps that bit. */
    __m256i spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(bits),
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
    __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    return _mm256_and_si256(set, _mm256_set1_epi8(16));
}

VEC_FN b32 b_shift_mask(b32 a, uint32_t shift, uint8_t mask)
{
    return _mm256_and_si256(_mm256_srl_epi16(a, _mm_cvtsi32_si128((int)shift)),
                            _mm256_set1_epi8((char)mask));
}

VEC_FN b32 b_join(b32 a, b32 b)
{
    return _mm256_or_si256(a, _mm256_slli_epi16(b, 4));
}

VEC_FN b32 b_or(b32 a, b32 b)
{
    return _mm256_or_si256(a, b);
}

VEC_FN void b_floats(v8 w[4], b32 a)
{
    __m128i lo = _mm256_castsi256_si128(a), hi = _mm256_extracti128_si256(a, 1);
    w[0] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(lo));
    w[1] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(lo, 8)));
    w[2] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(hi));
    w[3] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(hi, 8)));
}

/* By way of halves, whose bias is larger by 8 and whose subnormal numbers cost nothing here. */
VEC_FN void v_load_e4m3(v8 w[4], const uint8_t *p)
{
    UNROLL
    for (int i = 0; i < 2; i++) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i));
        __m256i h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(x), 7); /* the sign in two places */
        h = _mm256_and_si256(h, _mm256_set1_epi16((short)0xbfff));
        w[2 * i] = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
        w[2 * i + 1] = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
    }
}

VEC_FN void v_load_i8(v8 w[4], const uint8_t *p)
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m128i x = _mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * i));
        w[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x));
    }
}

#endif
