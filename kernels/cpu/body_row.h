/*
 * body_row.h - operations on the rows of activations: norms, gates, rotary embedding, experts
 *
 * Included by portable.c and avx2.c behind their vectors.  The last, partial vector of a row holds
 * zeros behind the row's end and goes through the same arithmetic.
 */

/* e^x: x = n ln2 + r with ln2 in two parts (Cody and Waite), a polynomial of degree 6 in |r| <=
 * ln2/2 (Taylor's, 2^-23 relative), 2^n by the exponent.  0 below -87.3, where results would be
 * subnormal; e^88 above 88; NaN stays NaN. */
VEC_FN v8 v_exp(v8 x)
{
    const v8 shift = v_set(0x1.8p23f);
    v8 c = v_max(v_set(-87.3f), v_min(v_set(88.0f), x));
    v8 shifted = v_fma(c, v_set(0x1.715476p0f), shift);
    v8 n = v_sub(shifted, shift);
    v8 r = v_fma(n, v_set(-0x1.62e4p-1f), c);
    r = v_fma(n, v_set(-0x1.7f7d1cp-20f), r);

    v8 p = v_set(1.0f / 720);
    p = v_fma(p, r, v_set(1.0f / 120));
    p = v_fma(p, r, v_set(1.0f / 24));
    p = v_fma(p, r, v_set(1.0f / 6));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p, r, v_set(1.0f));
    p = v_fma(p, r, v_set(1.0f));
    return v_keep_from(v_scale_exp(p, shifted), x, -87.3f);
}

VEC_FN v8 load_upto(const float *p, uint32_t left)
{
    return left >= 8 ? v_load(p) : v_load_part(p, left);
}

VEC_FN void store_upto(float *p, v8 a, uint32_t left)
{
    if (left >= 8)
        v_store(p, a);
    else
        v_store_part(p, a, left);
}

VEC_FN float square_sum(const float *x, uint32_t cols)
{
    v8 squares = v_set(0);

    for (uint32_t i = 0; i < cols; i += 8) {
        v8 a = load_upto(x + i, cols - i);
        squares = v_fma(a, a, squares);
    }
    return v_sum(squares);
}

VEC_FN float square_scale(float sum, uint32_t cols, float eps)
{
    return 1 / sqrtf(sum / (float)cols + eps);
}

/* 1 / rms(x), over cols. */
VEC_FN float norm_scale(const float *x, uint32_t cols, float eps)
{
    return square_scale(square_sum(x, cols), cols, eps);
}

static void squares_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct squares_job *job = arg;

    (void)worker;
    for (size_t r = begin; r < end; r++) {
        const float *q = job->qkv + r * job->stride;
        job->out[2 * r] = square_sum(q, job->q_cols);
        job->out[2 * r + 1] = square_sum(q + job->q_cols, job->k_cols);
    }
}

/* out = x * scale * w; out may be x. */
VEC_FN void norm_apply(float *out, const float *x, const float *w, uint32_t cols, float scale)
{
    for (uint32_t i = 0; i < cols; i += 8) {
        v8 a = v_mul(load_upto(x + i, cols - i), v_set(scale));
        store_upto(out + i, v_mul(a, load_upto(w + i, cols - i)), cols - i);
    }
}

/* x += y_scale * y, y normed where it has a norm. */
VEC_FN void norm_add(const struct norm_job *job, float *x, const float *y)
{
    uint32_t cols = job->cols;
    v8 scale = v_set(job->y_norm ? norm_scale(y, cols, job->eps) : 0);

    for (uint32_t i = 0; i < cols; i += 8) {
        v8 b = load_upto(y + i, cols - i);
        if (job->y_norm)
            b = v_mul(v_mul(b, scale), load_upto(job->y_norm + i, cols - i));
        b = v_mul(b, v_set(job->y_scale));
        store_upto(x + i, v_add(load_upto(x + i, cols - i), b), cols - i);
    }
}

static void norm_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct norm_job *job = arg;
    uint32_t cols = job->cols;

    (void)worker;
    for (size_t r = begin; r < end; r++) {
        float *x = job->x + r * cols, *out = job->out + r * cols;
        if (job->y)
            norm_add(job, x, job->y + r * cols);
        if (job->w)
            norm_apply(out, x, job->w, cols, norm_scale(x, cols, job->eps));
        else
            memcpy(out, x, cols * sizeof(*x));
    }
}

/* tanh x = sign(x) (1 - 2 / (e^2|x| + 1)), and near 0, where that cancels, its series up to x^7. */
VEC_FN v8 v_tanh(v8 x)
{
    v8 magnitude = v_max(v_sub(v_set(0), x), x);
    v8 e = v_exp(v_add(magnitude, magnitude));
    v8 far = v_sub(v_set(1), v_div(v_set(2), v_add(e, v_set(1))));
    v8 square = v_mul(x, x), p = v_set(-17.0f / 315);
    p = v_fma(p, square, v_set(2.0f / 15));
    p = v_fma(p, square, v_set(-1.0f / 3));
    v8 near = v_fma(v_mul(p, square), magnitude, magnitude);
    return v_sign(v_below(far, near, magnitude, 0.2f), x);
}

VEC_FN v8 gate_silu(v8 g)
{
    return v_div(g, v_add(v_set(1), v_exp(v_sub(v_set(0), g))));
}

/* x/2 (1 + tanh z) = x / (1 + e^-2z), z = sqrt(2/pi) (x + 0.044715 x^3). */
VEC_FN v8 gate_gelu(v8 g)
{
    v8 cubic = v_fma(v_mul(g, g), v_set(0.044715f), v_set(1));
    v8 z = v_mul(v_mul(g, cubic), v_set(-2 * 0.7978845608f));
    return v_div(g, v_add(v_set(1), v_exp(z)));
}

static void glu_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct glu_job *job = arg;
    uint32_t cols = job->cols;

    (void)worker;
    for (size_t r = begin; r < end; r++) {
        const float *gate = job->gate_up + r * 2 * cols, *up = gate + cols;
        for (uint32_t i = 0; i < cols; i += 8) {
            v8 g = load_upto(gate + i, cols - i);
            v8 a = job->activation == ACTIVATION_GELU_TANH ? gate_gelu(g) : gate_silu(g);
            store_upto(job->out + r * cols + i, v_mul(a, load_upto(up + i, cols - i)), cols - i);
        }
    }
}

static void scale_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct scale_job *job = arg;
    uint32_t cols = job->cols;
    float cap = job->softcap;

    (void)worker;
    for (size_t r = begin; r < end; r++) {
        float *x = job->x + r * cols;
        for (uint32_t i = 0; i < cols; i += 8) {
            v8 a = v_mul(load_upto(x + i, cols - i), v_set(job->scale));
            if (cap > 0)
                a = v_mul(v_tanh(v_div(a, v_set(cap))), v_set(cap));
            store_upto(x + i, a, cols - i);
        }
    }
}

/* The softmax of one row's chosen logits: the denominator is summed over all experts, ascending,
 * and over the chosen ones, largest first, where they are to sum to 1. */
static void route_row(const struct route_job *job, uint32_t *ids, float *weights,
                      const float *logits)
{
    float sum = 0, lanes[8];

    for (uint32_t k = 0; k < job->top_k; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < job->experts; e++) {
            int taken = 0;
            for (uint32_t j = 0; j < k && !taken; j++)
                taken = ids[j] == e;
            /* What is no number is never larger, but some expert must be named. */
            if (!taken && (best == UINT32_MAX || logits[e] > logits[best]))
                best = e;
        }
        ids[k] = best;
    }
    v8 max = v_set(logits[ids[0]]);
    for (uint32_t e = 0; e < job->experts && !job->renormalize; e++) {
        v_store(lanes, v_exp(v_sub(v_set(logits[e]), max)));
        sum += lanes[0];
    }
    for (uint32_t k = 0; k < job->top_k; k++) {
        v_store(lanes, v_exp(v_sub(v_set(logits[ids[k]]), max)));
        weights[k] = lanes[0];
        sum += job->renormalize ? lanes[0] : 0;
    }
    for (uint32_t k = 0; k < job->top_k; k++)
        weights[k] /= sum;
}

static void route_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct route_job *job = arg;

    (void)worker;
    for (size_t r = begin; r < end; r++)
        route_row(job, job->ids + r * job->top_k, job->weights + r * job->top_k,
                  job->logits + r * job->experts);
}

static void combine_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct combine_job *job = arg;
    uint32_t cols = job->cols;

    (void)worker;
    for (size_t r = begin; r < end; r++) {
        for (uint32_t i = 0; i < cols; i += 8) {
            v8 sum = v_set(0);
            for (size_t k = r * job->top_k; k < (r + 1) * job->top_k; k++)
                sum =
                    v_fma(v_set(job->weights[k]), load_upto(job->y + k * cols + i, cols - i), sum);
            store_upto(job->out + r * cols + i, sum, cols - i);
        }
    }
}

/* Which sequence the step's item-th row belongs to, and its number within: rows are counted through
 * the sequences in their order. */
VEC_FN const struct attn_row *find_row(const struct attn_row *seqs, uint32_t item, uint32_t *token)
{
    while (item >= seqs->count)
        item -= (seqs++)->count;
    *token = item;
    return seqs;
}

/* The key or value vectors of a head in the page that holds position pos. */
VEC_FN float *page_rows(const struct kv_layout *kv, uint32_t layer, const struct attn_row *seq,
                        void *const *pages, uint32_t which, uint32_t head, uint32_t pos)
{
    char *page = pages[seq->table + pos / kv->page_tokens];
    size_t row = ((size_t)which * kv->kv_heads + head) * kv->page_tokens;
    return (float *)(void *)(page + layer * kv->layer_bytes) + row * kv->head_dim;
}

VEC_FN void rotate_head(float *x, const struct rope *rope, const float *cosines, const float *sines)
{
    uint32_t half = rope->dims / 2;
    uint32_t step = rope->interleaved ? 2 : 1, other = rope->interleaved ? 1 : half;

    for (uint32_t i = 0; i < half; i++) {
        float a = x[i * step], b = x[i * step + other];
        x[i * step] = a * cosines[i] - b * sines[i];
        x[i * step + other] = a * sines[i] + b * cosines[i];
    }
}

/* Norm `heads` heads, which lie one after the other: each, or all together. */
VEC_FN void norm_heads(const struct qk_norm *norm, float *x, const float *w, uint32_t heads,
                       uint32_t dim)
{
    uint32_t cols = norm->width ? heads * dim : dim;

    for (uint32_t i = 0; i < heads * dim; i += cols)
        norm_apply(x + i, x + i, w, cols, norm_scale(x + i, cols, norm->eps));
}

/* One token's row: norm, rotate, and into the page. */
VEC_FN void rope_row(const struct rope_job *job, const struct attn_row *seq, uint32_t token,
                     const float *cosines, const float *sines)
{
    const struct kv_layout *kv = job->kv;
    uint32_t pos = seq->first_pos + token, slot = pos % kv->page_tokens;
    size_t dim = kv->head_dim;
    float *q = job->qkv + (seq->first_row + token) * (job->q_heads + 2 * kv->kv_heads) * dim;
    float *k = q + job->q_heads * dim, *v = k + kv->kv_heads * dim;

    if (job->norm && job->norm->squares) {
        const struct qk_norm *n = job->norm;
        const float *sums = n->squares + (size_t)2 * (seq->first_row + token);
        norm_apply(q, q, n->q, job->q_heads * kv->head_dim,
                   square_scale(sums[0], n->q_all, n->eps));
        norm_apply(k, k, n->k, kv->kv_heads * kv->head_dim,
                   square_scale(sums[1], n->k_all, n->eps));
    } else if (job->norm) {
        norm_heads(job->norm, q, job->norm->q, job->q_heads, kv->head_dim);
        norm_heads(job->norm, k, job->norm->k, kv->kv_heads, kv->head_dim);
    }
    for (size_t h = 0; h < job->q_heads + kv->kv_heads; h++)
        rotate_head(q + h * dim, job->rope, cosines, sines);
    for (uint32_t h = 0; h < kv->kv_heads; h++) {
        memcpy(page_rows(kv, job->layer, seq, job->pages, 0, h, pos) + slot * dim, k + h * dim,
               dim * sizeof(float));
        memcpy(page_rows(kv, job->layer, seq, job->pages, 1, h, pos) + slot * dim, v + h * dim,
               dim * sizeof(float));
    }
}

static void rope_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct rope_job *job = arg;
    uint32_t half = job->rope->dims / 2, token;
    float *cosines = job->scratch.data + worker * job->scratch.stride, *sines = cosines + half;

    for (uint32_t item = begin; item < end; item++) {
        const struct attn_row *seq = find_row(job->seqs, item, &token);
        uint32_t pos = seq->first_pos + token;
        for (uint32_t i = 0; i < half; i++) {
            /* In double: an angle of float32 is off by 1e-3 at position 10,000. */
            double s, c;
            sincos(pos * job->frequencies[i], &s, &c);
            cosines[i] = (float)c * job->rope->scale;
            sines[i] = (float)s * job->rope->scale;
        }
        rope_row(job, seq, token, cosines, sines);
    }
}
