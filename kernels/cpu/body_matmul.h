/*
 * body_matmul.h - embedding rows and matrix products
 *
 * Included by portable.c and avx2.c behind body_decode.h.
 *
 * The order of summation of every output element, in every path below: lane l of one accumulator
 * adds the products of columns k = l mod 8 in ascending order, then v_sum().  A row of x alone
 * multiplies weights as they are decoded, four output rows at a time, so that four chains of
 * additions overlap; several rows of x share weights that were decoded into scratch once.
 */

/* Rows of x, and output rows, that one register tile covers: 12 accumulators. */
#define TILE_X 3u
#define TILE_W 4u

typedef void decode_fn(float *out, enum dtype dtype, const uint8_t *row, uint32_t cols);
typedef void dot_fn(float out[TILE_W], enum dtype dtype, const uint8_t *rows, uint64_t row_bytes,
                    const float *x, uint32_t cols);

/* Sums of n <= TILE_W output rows against one row of x.  Rows are short and memory is far: the next
 * n rows are fetched meanwhile (a prefetch past the end of the matrix does nothing). */
#define DOT_BODY(LOAD, n)                                                                          \
    v8 acc[n], w[4];                                                                               \
    float tail[32];                                                                                \
    uint32_t groups = cols / 32, rest = cols % 32;                                                 \
    const uint8_t *ahead = rows + n * row_bytes;                                                   \
    size_t step = groups ? n * row_bytes / groups : 0;                                             \
    for (int j = 0; j < n; j++)                                                                    \
        acc[j] = v_set(0);                                                                         \
    for (size_t g = 0; g < groups; g++) {                                                          \
        for (size_t o = 0; o < step; o += 64)                                                      \
            __builtin_prefetch(ahead + g * step + o);                                              \
        v8 x0 = v_load(x + 32 * g), x1 = v_load(x + 32 * g + 8);                                   \
        v8 x2 = v_load(x + 32 * g + 16), x3 = v_load(x + 32 * g + 24);                             \
        UNROLL                                                                                     \
        for (int j = 0; j < n; j++) {                                                              \
            LOAD(w, rows + (size_t)j * row_bytes, g);                                              \
            acc[j] = v_fma(w[0], x0, acc[j]);                                                      \
            acc[j] = v_fma(w[1], x1, acc[j]);                                                      \
            acc[j] = v_fma(w[2], x2, acc[j]);                                                      \
            acc[j] = v_fma(w[3], x3, acc[j]);                                                      \
        }                                                                                          \
    }                                                                                              \
    for (int j = 0; j < n; j++) {                                                                  \
        if (rest)                                                                                  \
            load_tail(tail, dtype, rows + (size_t)j * row_bytes, groups, rest);                    \
        for (uint32_t k = 0; k < rest; k += 8) {                                                   \
            const float *xk = x + 32 * groups + k;                                                 \
            v8 xv = rest - k < 8 ? v_load_part(xk, rest - k) : v_load(xk);                         \
            acc[j] = v_fma(v_load(tail + k), xv, acc[j]);                                          \
        }                                                                                          \
        out[j] = v_sum(acc[j]);                                                                    \
    }

#define CODEC(name)                                                                                \
    static void dot1_##name(float out[TILE_W], enum dtype dtype, const uint8_t *rows,              \
                            uint64_t row_bytes, const float *x, uint32_t cols)                     \
    {                                                                                              \
        DOT_BODY(load_##name, 1)                                                                   \
    }                                                                                              \
    static void dot4_##name(float out[TILE_W], enum dtype dtype, const uint8_t *rows,              \
                            uint64_t row_bytes, const float *x, uint32_t cols)                     \
    {                                                                                              \
        DOT_BODY(load_##name, 4)                                                                   \
    }                                                                                              \
    static void decode_##name(float *out, enum dtype dtype, const uint8_t *row, uint32_t cols)     \
    {                                                                                              \
        uint32_t groups = cols / 32, rest = cols % 32;                                             \
        float tail[32];                                                                            \
        v8 w[4];                                                                                   \
        for (size_t g = 0; g < groups; g++) {                                                      \
            load_##name(w, row, g);                                                                \
            UNROLL                                                                                 \
            for (int i = 0; i < 4; i++)                                                            \
                v_store(out + 32 * g + 8 * i, w[i]);                                               \
        }                                                                                          \
        if (rest) {                                                                                \
            load_tail(tail, dtype, row, groups, rest);                                             \
            memcpy(out + 32 * (size_t)groups, tail, rest * sizeof(float));                         \
        }                                                                                          \
    }

CODEC(f32)
CODEC(f16)
CODEC(bf16)
CODEC(q4_0)
CODEC(q4_1)
CODEC(q5_0)
CODEC(q5_1)
CODEC(q8_0)
CODEC(q2_k)
CODEC(q3_k)
CODEC(q4_k)
CODEC(q5_k)
CODEC(q6_k)
CODEC(f8)

struct codec {
    decode_fn *decode;
    dot_fn *dot1, *dot4;
};

static const struct codec *codec(enum dtype dtype)
{
#define ENTRY(name)                                                                                \
    {                                                                                              \
        decode_##name, dot1_##name, dot4_##name                                                    \
    }
    static const struct codec codecs[] = {
        [DTYPE_F32] = ENTRY(f32),   [DTYPE_F16] = ENTRY(f16),   [DTYPE_BF16] = ENTRY(bf16),
        [DTYPE_Q4_0] = ENTRY(q4_0), [DTYPE_Q4_1] = ENTRY(q4_1), [DTYPE_Q5_0] = ENTRY(q5_0),
        [DTYPE_Q5_1] = ENTRY(q5_1), [DTYPE_Q8_0] = ENTRY(q8_0), [DTYPE_Q2_K] = ENTRY(q2_k),
        [DTYPE_Q3_K] = ENTRY(q3_k), [DTYPE_Q4_K] = ENTRY(q4_k), [DTYPE_Q5_K] = ENTRY(q5_k),
        [DTYPE_Q6_K] = ENTRY(q6_k), [DTYPE_F8] = ENTRY(f8),
    };
#undef ENTRY
    return &codecs[dtype];
}

static void embed_range(const void *arg, uint32_t worker, uint32_t begin, uint32_t end)
{
    const struct embed_job *job = arg;
    const struct weight *table = job->table;
    uint64_t row_bytes = dtype_row_bytes(table->dtype, table->cols);
    const struct codec *c = codec(table->dtype);

    (void)worker;
    for (size_t r = begin; r < end; r++) {
        float *out = job->out + r * table->cols;
        uint64_t row = (uint64_t)job->tokens[r] - job->first; /* far beyond if it is less */
        if (row >= table->rows) {
            memset(out, 0, table->cols * sizeof(*out));
            continue;
        }
        c->decode(out, table->dtype, (const uint8_t *)table->data + row * row_bytes, table->cols);
        for (uint32_t i = 0; i < table->cols; i++)
            out[i] *= job->scale;
    }
}

/* A sum of row r and output row j goes where the job says. */
VEC_FN void put_sum(const struct matmul_out *out, size_t r, size_t j, float sum)
{
    float *to = out->data + r * out->stride + j;

    if (out->add)
        *to = *to + sum * out->scale;
    else
        *to = sum + (out->bias ? out->bias[j] : 0);
}

/* nw output rows from j on and nx rows of x from r on; w: decoded, stride cols. */
VEC_FN void tile(const struct matmul_out *out, size_t row, size_t first, const float *w,
                 const float *x, uint32_t cols, const uint32_t nw, const uint32_t nx)
{
    v8 acc[TILE_W * TILE_X], xv[TILE_X], wv;
    uint32_t k = 0;

    UNROLL
    for (uint32_t i = 0; i < TILE_W * TILE_X; i++)
        acc[i] = v_set(0);
    for (; k + 8 <= cols; k += 8) {
        UNROLL
        for (uint32_t r = 0; r < nx; r++)
            xv[r] = v_load(x + (size_t)r * cols + k);
        UNROLL
        for (uint32_t j = 0; j < nw; j++) {
            wv = v_load(w + (size_t)j * cols + k);
            UNROLL
            for (uint32_t r = 0; r < nx; r++)
                acc[j * TILE_X + r] = v_fma(wv, xv[r], acc[j * TILE_X + r]);
        }
    }
    if (k < cols) {
        UNROLL
        for (uint32_t j = 0; j < nw; j++) {
            wv = v_load_part(w + (size_t)j * cols + k, cols - k);
            UNROLL
            for (uint32_t r = 0; r < nx; r++)
                acc[j * TILE_X + r] =
                    v_fma(wv, v_load_part(x + (size_t)r * cols + k, cols - k), acc[j * TILE_X + r]);
        }
    }
    UNROLL
    for (uint32_t i = 0; i < nw * nx; i++) {
        uint32_t j = i / nx, r = i % nx;
        put_sum(out, row + r, first + j, v_sum(acc[j * TILE_X + r]));
    }
}

#define TILE(nw, nx)                                                                               \
    static void tile_##nw##x##nx(const struct matmul_out *out, size_t row, size_t first,           \
                                 const float *w, const float *x, uint32_t cols)                    \
    {                                                                                              \
        tile(out, row, first, w, x, cols, nw, nx);                                                 \
    }

TILE(4, 3)
TILE(1, 3)
TILE(4, 1)
TILE(1, 1)

/* Output rows [begin, begin + n) for all rows of x; w: their decoded weights. */
static void block(const struct matmul_job *job, const float *w, uint32_t begin, uint32_t n)
{
    uint32_t cols = job->w->cols, nx;

    for (uint32_t r = 0; r < job->rows; r += nx) {
        const float *x = job->x + (size_t)r * cols;
        nx = job->rows - r >= TILE_X ? TILE_X : 1;
        for (uint32_t j = 0, nw; j < n; j += nw) {
            const float *wj = w + (size_t)j * cols;
            nw = n - j >= TILE_W ? TILE_W : 1;
            if (nw == TILE_W)
                (nx == TILE_X ? tile_4x3 : tile_4x1)(&job->out, r, begin + j, wj, x, cols);
            else
                (nx == TILE_X ? tile_1x3 : tile_1x1)(&job->out, r, begin + j, wj, x, cols);
        }
    }
}

/* One row of x: output rows [begin, end). */
static void vector(const struct matmul_job *job, uint32_t begin, uint32_t end)
{
    const struct weight *w = job->w;
    const struct codec *c = codec(w->dtype);
    float sums[TILE_W];

    for (uint32_t j = begin, n; j < end; j += n) {
        const uint8_t *rows = (const uint8_t *)w->data + j * job->row_bytes;
        n = end - j >= TILE_W ? TILE_W : 1;
        (n == TILE_W ? c->dot4 : c->dot1)(sums, w->dtype, rows, job->row_bytes, job->x, w->cols);
        for (uint32_t i = 0; i < n; i++)
            put_sum(&job->out, 0, j + i, sums[i]);
    }
}

/* Item: a block of output rows of one row of out, by its expert's matrix; each by the order of
 * summation above. */
static void expert_range(const void *arg, uint32_t worker, uint32_t first, uint32_t last)
{
    const struct expert_job *job = arg;

    (void)worker;
    for (uint32_t item = first; item < last; item++) {
        size_t r = item / job->blocks;
        uint32_t begin = item % job->blocks * MATMUL_BLOCK;
        uint32_t left = job->w->rows - begin;
        struct weight w = *job->w;
        w.data = (const uint8_t *)w.data + job->ids[r] * job->expert_bytes;
        struct matmul_job one = {.out = {.data = job->out + r * w.rows, .stride = w.rows},
                                 .x = job->x + r / job->share * w.cols,
                                 .w = &w,
                                 .row_bytes = job->row_bytes};
        vector(&one, begin, begin + (left < MATMUL_BLOCK ? left : MATMUL_BLOCK));
    }
}

static void matmul_range(const void *arg, uint32_t worker, uint32_t first, uint32_t last)
{
    const struct matmul_job *job = arg;
    const struct weight *w = job->w;
    const struct codec *c = codec(w->dtype);
    float *scratch = job->scratch.data + worker * job->scratch.stride;

    for (uint32_t b = first; b < last; b++) {
        uint32_t begin = b * MATMUL_BLOCK;
        uint32_t n = w->rows - begin < MATMUL_BLOCK ? w->rows - begin : MATMUL_BLOCK;
        const uint8_t *rows = (const uint8_t *)w->data + begin * job->row_bytes;
        if (job->rows == 1) {
            vector(job, begin, begin + n);
            continue;
        }
        for (uint32_t j = 0; j < n; j++)
            c->decode(scratch + (size_t)j * w->cols, w->dtype, rows + j * job->row_bytes, w->cols);
        block(job, scratch, begin, n);
    }
}
