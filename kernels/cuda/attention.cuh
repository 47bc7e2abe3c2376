/*
 * attention.cuh - what the kernels of attention share
 *
 * attention.cu's is for any head, and for float32 operands, too; attention_decode.cu's for
 * sequences of one token, attention_prefill.cu's and attention_wgmma.cu's (on Hopper) for longer
 * ones, by the tensor cores.
 */
#ifndef MP_KERNELS_CUDA_ATTENTION_CUH
#define MP_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/operand.cuh"

#define LOG2E 1.4426950408889634f

/* By value to the kernels.  Keys of layer, head h and position p: page + layer_bytes +
 * ((h * page_tokens) + p % page_tokens) * head_dim operands; values half_bytes further. */
struct attention_args {
    void *out;
    const void *qkv;
    const struct attn_row *seqs;
    void *const *pages;
    uint64_t layer_bytes, half_bytes;
    uint32_t q_heads, kv_heads, group, head_dim, qkv_cols;
    uint32_t page_tokens, page_shift;
    uint32_t seq_count, rows, window;
    float scale, softcap;
    /* The decode kernel's alone. */
    uint32_t *counters;         /* [COUNTERS], all 0 between launches */
    float2 *sums;               /* [slots][q_heads]: largest score, sum of weights */
    float *parts;               /* [slots][q_heads][head_dim] */
    uint32_t slots;             /* that there is room for */
    uint32_t splits, split_max; /* of a sequence, about; positions of one, about */
};
#define COUNTERS (1u << 16)
/* Of a deterministic device: tokens of a launch, at most; splits of a sequence, about. */
#define ALIKE_MAX    256u
#define ALIKE_SPLITS 16u

/* Launch for the sequences of one token, or of more; 0, and nothing was launched, where the shape
 * is none of theirs. */
int attention_decode(struct cuda_device *c, const struct attention_args *a);
int attention_cluster(struct cuda_device *c, const struct attention_args *a); /* few of them */
int attention_prefill(struct cuda_device *c, const struct attention_args *a);
int attention_wgmma(struct cuda_device *c, const struct attention_args *a); /* the same on Hopper */
/* Once a GPU: let their kernels have all shared memory there is. */
void attention_cluster_prepare(struct cuda_device *c);
void attention_decode_prepare(struct cuda_device *c);
void attention_prefill_prepare(struct cuda_device *c);
void attention_wgmma_prepare(struct cuda_device *c);

/* What a device has for attention. */
struct attention_scratch {
    uint32_t shared_max, shared_sm; /* bytes of a block, of a multiprocessor */
    int wgmma;                      /* the GPU has Hopper's products, and our code for it */
    uint64_t bytes;                 /* of parts */
    uint32_t *counters;
    char *parts;
    struct attn_row *tokens; /* each as a sequence, of a deterministic device; [rows_max] */
};

/* ---- tensor cores ------------------------------------------------------------------------------
 */

FN uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes to shared memory; zeros where !there, and nothing is read. */
FN void copy16(uint32_t to, const void *from, int there)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :
                 : "r"(to), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

FN void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until no more than LEFT groups are under way. */
template <int LEFT> FN void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* Four 8 x 8 matrices of 16 bits; lane i names row i % 8 of matrix i / 8. */
FN void load_matrices(uint32_t r[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

FN void load_matrices_transposed(uint32_t r[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/* c [16][8] += a [16][16] b [16][8].  Lane l holds of c: rows l / 4 (c[0], c[1]) and l / 4 + 8,
 * columns l % 4 * 2 and the next. */
FN void multiply(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

FN float power2(float x)
{
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

/* Where 16-byte chunk c of row r lies, so that eight rows' same chunks are in different banks: rows
 * of a multiple of 128 bytes are permuted, others (an even number of chunks) are padded by one. */
template <uint32_t DIM> struct tile_rows {
    static constexpr uint32_t CHUNKS = DIM / 8;
    static constexpr uint32_t BYTES = CHUNKS % 8 == 0 ? DIM * 2 : DIM * 2 + 16;
    static __device__ __forceinline__ uint32_t at(uint32_t r, uint32_t c)
    {
        return r * BYTES + (CHUNKS % 8 == 0 ? c ^ (r & 7) : c) * 16;
    }
};

/* A score times log2(e). */
FN float scaled_score(float s, float scale, float softcap)
{
    if (softcap > 0) {
        /* tanh x = 1 - 2 / (e^2x + 1) */
        float e = power2(s * scale / softcap * (2 * LOG2E));
        return softcap * LOG2E * (1 - __fdividef(2, e + 1));
    }
    return s * scale * LOG2E;
}

#endif
