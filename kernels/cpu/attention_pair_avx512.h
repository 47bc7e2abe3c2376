/*
 * attention_pair_avx512.h - two query heads at once through a block of positions
 *
 * Included by body_attention.h in avx512.c.  A vector holds eight lanes of one head and the same
 * eight of the other, which both meet the same keys and values; each half goes through exactly what
 * attend_block() does, so the results have the same bits.
 */

typedef __m512 v16;

VEC_FN v16 w_pair(const float *a, const float *b)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(v_load(a)), v_load(b), 1);
}

VEC_FN void w_store_pair(float *a, float *b, v16 x)
{
    v_store(a, _mm512_castps512_ps256(x));
    v_store(b, _mm512_extractf32x8_ps(x, 1));
}

/* Both halves the same. */
VEC_FN v16 w_both(const float *p)
{
    return _mm512_broadcast_f32x8(v_load(p));
}

/* a everywhere in one half, b in the other. */
VEC_FN v16 w_set(float a, float b)
{
    return _mm512_insertf32x8(_mm512_set1_ps(a), v_set(b), 1);
}

/* v_exp() */
VEC_FN v16 w_exp(v16 x)
{
    const v16 shift = _mm512_set1_ps(0x1.8p23f);
    v16 c = _mm512_max_ps(_mm512_set1_ps(-87.3f), _mm512_min_ps(_mm512_set1_ps(88.0f), x));
    v16 shifted = _mm512_fmadd_ps(c, _mm512_set1_ps(0x1.715476p0f), shift);
    v16 n = _mm512_sub_ps(shifted, shift);
    v16 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.62e4p-1f), c);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.7f7d1cp-20f), r);

    v16 p = _mm512_set1_ps(1.0f / 720);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127));
    p = _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23)));
    __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(p, below, _mm512_setzero_ps());
}

/* Neighbours of a, then of b, in each 16 bytes. */
VEC_FN v16 w_add_neighbours(v16 a, v16 b)
{
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

/* v_sums() of each half. */
VEC_FN v16 w_sums(const v16 a[8])
{
    v16 s01 = w_add_neighbours(a[0], a[1]), s23 = w_add_neighbours(a[2], a[3]);
    v16 s45 = w_add_neighbours(a[4], a[5]), s67 = w_add_neighbours(a[6], a[7]);
    v16 s0123 = w_add_neighbours(s01, s23), s4567 = w_add_neighbours(s45, s67);
    v16 sum = _mm512_add_ps(_mm512_shuffle_f32x4(s0123, s4567, 0x88),
                            _mm512_shuffle_f32x4(s0123, s4567, 0xdd));
    return _mm512_shuffle_f32x4(sum, sum, 0xd8);
}

/* The first n lanes of each half, n <= 8. */
VEC_FN __mmask16 w_first(uint32_t n)
{
    uint32_t half = (1u << n) - 1;

    return (__mmask16)(half | half << 8);
}

/* block_scores() without a cap, for q and the head behind it. */
static void pair_scores(v16 *p, float largest[2], const float *q, const float *keys, uint32_t first,
                        uint32_t count, uint32_t dim, float scale)
{
    const v16 none = _mm512_set1_ps(-INFINITY);
    v16 most = none;

    for (uint32_t t = 0; t < count; t += 8) {
        const float *key[8];
        v16 acc[8], s;
        UNROLL
        for (uint32_t l = 0; l < 8; l++) {
            key[l] = keys + (size_t)(t + l < count ? t + l : count - 1) * dim;
            acc[l] = _mm512_setzero_ps();
        }
        for (uint32_t i = 0; i < dim; i += 8) {
            v16 qv = w_pair(q + i, q + dim + i);
            UNROLL
            for (uint32_t l = 0; l < 8; l++)
                acc[l] = _mm512_fmadd_ps(w_both(key[l] + i), qv, acc[l]);
        }
        s = _mm512_mul_ps(w_sums(acc), _mm512_set1_ps(scale));
        if (count - t < 8)
            s = _mm512_mask_mov_ps(none, w_first(count - t), s);
        if (first > t)
            s = _mm512_mask_mov_ps(s, w_first(first - t < 8 ? first - t : 8), none);
        most = _mm512_max_ps(most, s);
        p[t / 8] = s;
    }
    largest[0] = v_largest(_mm512_castps512_ps256(most));
    largest[1] = v_largest(_mm512_extractf32x8_ps(most, 1));
}

/* add_values() for acc and the head behind it. */
VEC_FN void pair_add_values(float *acc, const v16 *p, const float *values, uint32_t count,
                            uint32_t dim, v16 keep, const uint32_t n)
{
    const __m512i halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8);
    v16 a[8];

    UNROLL
    for (uint32_t i = 0; i < n; i++)
        a[i] = _mm512_mul_ps(w_pair(acc + 8 * i, acc + dim + 8 * i), keep);
    for (uint32_t t = 0; t < count; t++) {
        __m512i lane = _mm512_add_epi32(halves, _mm512_set1_epi32((int)(t % 8)));
        v16 pt = _mm512_permutexvar_ps(lane, p[t / 8]);
        UNROLL
        for (uint32_t i = 0; i < n; i++)
            a[i] = _mm512_fmadd_ps(pt, w_both(values + (size_t)t * dim + 8 * i), a[i]);
    }
    UNROLL
    for (uint32_t i = 0; i < n; i++)
        w_store_pair(acc + 8 * i, acc + dim + 8 * i, a[i]);
}

/* attend_block() of two heads, which lie behind each other; dim a multiple of 8. */
static void attend_pair(struct softmax *s, float *acc, const float *q, const float *keys,
                        const float *values, uint32_t first, uint32_t count, uint32_t dim,
                        const struct attention *attention)
{
    v16 p[ATTENTION_BLOCK / 8], keep, max, sum;
    float most[2];
    uint32_t i = 0;

    pair_scores(p, most, q, keys, first, count, dim, attention->scale);
    for (uint32_t h = 0; h < 2; h++)
        most[h] = s[h].max > most[h] ? s[h].max : most[h];
    keep = w_exp(w_set(s[0].max - most[0], s[1].max - most[1]));
    max = w_set(most[0], most[1]);
    sum = _mm512_insertf32x8(_mm512_castps256_ps512(s[0].sum), s[1].sum, 1);
    sum = _mm512_mul_ps(sum, keep);
    for (uint32_t t = 0; t < count; t += 8) {
        p[t / 8] = w_exp(_mm512_sub_ps(p[t / 8], max));
        sum = _mm512_add_ps(sum, p[t / 8]);
    }
    s[0].sum = _mm512_castps512_ps256(sum);
    s[1].sum = _mm512_extractf32x8_ps(sum, 1);
    s[0].max = most[0];
    s[1].max = most[1];
    for (; i + 64 <= dim; i += 64)
        pair_add_values(acc + i, p, values + i, count, dim, keep, 8);
    for (; i < dim; i += 8)
        pair_add_values(acc + i, p, values + i, count, dim, keep, 1);
}
