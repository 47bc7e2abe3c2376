/*
 * isa.h - the kernels of one instruction set, as functions over ranges of items
 *
 * ops.c fills a job and lets the pool call the function of the device's instruction set. portable.c
 * and avx2.c compile the same bodies (body_*.h) over their own eight-lane vectors (vec_*.h), so
 * both sum in the same order; they differ only where fused multiply-add rounds once instead of
 * twice.
 */
#ifndef MP_KERNELS_CPU_ISA_H
#define MP_KERNELS_CPU_ISA_H

#include "kernels/cpu/pool.h"
#include "kernels/kernels.h"

/* Before a loop over a constant, small number of vectors that must live in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 12")
#endif

/* Output rows that a matmul item covers; their decoded weights lie in a worker's scratch. */
#define MATMUL_BLOCK 16u
/* Positions that attention's online softmax takes at once, if a page holds as many. */
#define ATTENTION_BLOCK 64u
/* Tokens of a sequence that share an attention item, and the runs of so many in `count` tokens. */
#define ATTENTION_TOKENS      8u
#define ATTENTION_RUNS(count) (((count) + ATTENTION_TOKENS - 1) / ATTENTION_TOKENS)

/* Scratch memory of the workers: worker i has floats [i * stride, (i + 1) * stride). */
struct scratch {
    float *data;
    size_t stride;
};

struct embed_job { /* items: rows */
    float *out;
    const struct weight *table;
    const uint32_t *tokens;
    uint32_t first; /* token of the table's first row; of tokens that it lacks: zeros */
    float scale;
};

struct norm_job { /* items: rows; as k_norm() says */
    float *out, *x;
    const float *y, *y_norm, *w;
    float y_scale;
    uint32_t cols;
    float eps;
};

/* Where a product's sums go: out[r * stride + j] = sum + bias[j], or += scale * sum. */
struct matmul_out {
    float *data;
    size_t stride;
    const float *bias; /* or NULL */
    float scale;
    int add;
};

struct matmul_job { /* items: blocks of MATMUL_BLOCK output rows */
    struct matmul_out out;
    const float *x;
    const struct weight *w;
    uint64_t row_bytes;
    uint32_t rows;
    struct scratch scratch;
};

struct rope_job { /* items: rows; cos, sin: [rope->dims / 2] a row, in the worker's scratch */
    float *qkv;
    uint32_t q_heads, layer;
    const struct qk_norm *norm; /* or NULL */
    const struct rope *rope;
    const double *frequencies; /* [rope->dims / 2] */
    const struct kv_layout *kv;
    const struct attn_row *seqs;
    void *const *pages;
    struct scratch scratch;
};

struct squares_job { /* items: rows; as k_squares() says */
    float *out;
    const float *qkv;
    uint32_t stride, q_cols, k_cols;
};

struct attention_job { /* items: runs of tokens * kv heads */
    float *out;
    const float *qkv;
    uint32_t q_heads, layer;
    const struct attention *attention;
    const struct kv_layout *kv;
    const struct attn_row *seqs;
    void *const *pages;
};

struct glu_job { /* items: rows */
    float *out;
    const float *gate_up;
    uint32_t cols;
    enum activation activation;
};

struct scale_job { /* items: rows */
    float *x;
    uint32_t cols;
    float scale, softcap;
};

struct route_job { /* items: rows */
    uint32_t *ids;
    float *weights;
    const float *logits;
    uint32_t experts, top_k;
    int renormalize;
};

struct expert_job { /* items: blocks of MATMUL_BLOCK output rows, of each row of out in turn */
    float *out;
    const float *x;
    const struct weight *w;
    const uint32_t *ids;
    uint64_t row_bytes, expert_bytes;
    uint32_t share, blocks; /* blocks: of a row of out */
};

struct combine_job { /* items: rows */
    float *out;
    const float *y, *weights;
    uint32_t top_k, cols;
};

struct isa {
    const char *name;
    pool_fn *embed, *norm, *matmul, *rope, *attention, *glu, *scale, *route, *expert, *combine,
        *squares;
};

extern const struct isa isa_portable;
#if defined(__x86_64__)
extern const struct isa isa_avx2, isa_avx512;
#endif

/* Floats of scratch a worker needs for activations of at most cols_max columns: MATMUL_BLOCK
 * decoded rows; the cosines and sines of a rotary embedding need less. */
#define SCRATCH_FLOATS(cols_max)                                                                   \
    ((size_t)MATMUL_BLOCK * (((size_t)(cols_max) + 63) & ~63ull) + 4096)

#endif
