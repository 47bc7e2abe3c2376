/*
 * attention_cluster.cu - attention of one token a sequence, where there are few of them
 *
 * As attention_decode.cu, but where all splits of all sequences run at once: the splits of a key
 * head are a cluster of blocks, which hand their results on through each other's shared memory
 * rather than through the GPU's.  A sequence's runs of 16 positions are dealt out to the blocks in
 * equal shares, in ascending order; so a token's result follows from its position and the data
 * before it alone.  For GPUs that have clusters (Hopper).
 */
#include "kernels/cuda/attention_run.cuh"

#define CLUSTER 8u /* blocks: as many as every such GPU has */

FN void cluster_arrive(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

FN void cluster_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/* A block's result for a head and four of its dims. */
struct share {
    float4 out;
    float max, sum, unused[2];
};

/* Into the same place in another block of the cluster. */
FN void put_share(const struct share *at, uint32_t rank, const struct folded &f)
{
#if __CUDA_ARCH__ >= 900
    uint32_t to;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(at)), "r"(rank));
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(f.out.x),
                 "f"(f.out.y), "f"(f.out.z), "f"(f.out.w)
                 : "memory");
    asm volatile("st.shared::cluster.v2.f32 [%0 + 16], {%1, %2};" ::"r"(to), "f"(f.max), "f"(f.sum)
                 : "memory");
#endif
}

/* The runs of a sequence that a block has. */
struct share_runs {
    uint32_t first, last; /* positions that are seen */
    uint32_t begin, end;  /* runs */
    uint32_t used;        /* blocks that have any */
};

FN struct share_runs runs_of(uint32_t pos, uint32_t rank, const struct attention_args &a)
{
    uint32_t first = first_visible(pos, a.window), runs = pos / RUN - first / RUN + 1;
    uint32_t each = (runs + CLUSTER - 1) / CLUSTER, begin = first / RUN + rank * each;

    return {first, pos, begin, min(begin + each, pos / RUN + 1), (runs + each - 1) / each};
}

/* ---- copies ------------------------------------------------------------------------------------
 */

/* A warp's: its ring in shared memory, and what comes next. */
template <uint32_t DIM> struct share_copies {
    using rows = tile_rows<DIM>;
    using shape = decode_shape<DIM>;
    struct share_runs runs;
    uint64_t offset; /* of the key head's keys in a page */
    uint32_t ring, in, out, run, table;
    int values; /* the next half is values */
    const char *page;

    __device__ __forceinline__ const char *page_of(uint32_t of, const struct attention_args &a)
    {
        return read_page(a.pages + table + (of * RUN >> a.page_shift)) + offset +
               (uint64_t)(of * RUN & (a.page_tokens - 1)) * (DIM * 2);
    }

    __device__ __forceinline__ void look(const struct attention_args &a)
    {
        if (run < runs.end)
            page = page_of(run, a);
    }

    /* The first runs' into the cache: it is too early to read them. */
    __device__ __forceinline__ void warm(const struct attention_args &a)
    {
        uint32_t lane = threadIdx.x % WARP, of = run;

        for (uint32_t i = 0; i < shape::HALVES / 2 && of < runs.end; i++, of += WARPS) {
            const char *from = page_of(of, a);
            for (uint32_t at = lane * LINE; at < RUN * DIM * 2; at += WARP * LINE) {
                prefetch(from + at);
                prefetch(from + a.half_bytes + at);
            }
        }
    }

    __device__ __forceinline__ void fill(const struct attention_args &a)
    {
        uint32_t lane = threadIdx.x % WARP, start = run * RUN, to = ring + in * shape::HALF;

        if (run < runs.end) {
            const char *from = page + (values ? a.half_bytes : 0);
#pragma unroll
            for (uint32_t i = 0; i < rows::CHUNKS / 2; i++) {
                uint32_t e = lane + WARP * i, r = e / rows::CHUNKS, chunk = e % rows::CHUNKS;
                copy16(to + rows::at(r, chunk), from + e * 16,
                       start + r >= runs.first && start + r <= runs.last);
            }
            values ^= 1;
            if (!values) {
                run += WARPS;
                look(a);
            }
        }
        in = in + 1 == shape::HALVES ? 0 : in + 1;
        copy_commit();
    }

    /* The next half is there; the one before it is not needed any more and makes room. */
    __device__ __forceinline__ uint32_t next(const struct attention_args &a)
    {
        uint32_t half = ring + out * shape::HALF;

        copy_wait<(int)shape::HALVES - 2>();
        __syncwarp();
        fill(a);
        out = out + 1 == shape::HALVES ? 0 : out + 1;
        return half;
    }
};

/* ---- the kernel --------------------------------------------------------------------------------
 */

/* The blocks' results of element e of the heads' rows, four dims each, from the first to the last:
 * block e % CLUSTER has them all. */
template <uint32_t DIM>
FN void fold_shares(const struct share *shares, uint32_t rank, uint32_t used, uint32_t each,
                    uint32_t quads, uint32_t row, uint32_t head, const struct attention_args &a)
{
    for (uint32_t i = threadIdx.x; i < each && i * CLUSTER + rank < quads; i += THREADS) {
        uint32_t e = i * CLUSTER + rank;
        struct folded f = {shares[i].max, shares[i].sum, shares[i].out};
        for (uint32_t r = 1; r < used; r++) {
            const struct share *one = shares + r * each + i;
            fold(&f, {one->max, one->sum, one->out});
        }
        put_out(a, row, head + e / (DIM / 4), e % (DIM / 4) * 4, f);
    }
}

template <uint32_t DIM>
static __global__ void __launch_bounds__(THREADS, decode_shape<DIM>::BLOCKS)
    cluster_kernel(const __grid_constant__ attention_args a)
{
    using shape = decode_shape<DIM>;
    extern __shared__ __align__(128) char memory[];
    __shared__ float2 sums[WARPS][HEADS];
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, rank = blockIdx.x;
    uint32_t heads_parts = (a.group + HEADS - 1) / HEADS, inner = blockIdx.y % heads_parts * HEADS;
    uint32_t kv_head = blockIdx.y / heads_parts, head = kv_head * a.group + inner;
    uint32_t heads = min(a.group - inner, HEADS), quads = heads * (DIM / 4);
    uint32_t each = (quads + CLUSTER - 1) / CLUSTER; /* that a block folds */
    char *query = memory + WARPS * shape::HALVES * shape::HALF;
    float *join = (float *)(query + shape::QUERY);
    struct share *shares = (struct share *)(join + WARPS * heads * shape::JOIN_COLS);
    struct attn_row seq = read_seq(a.seqs + blockIdx.z);
    struct share_copies<DIM> copies = {
    };
    struct query_rows<DIM> rows;
    uint32_t q[DIM <= 128 ? DIM / 16 : 1][4];

    cluster_arrive(); /* the others are to be there before they are written to */
    if (seq.count != 1) {
        await_kernels();
        cluster_wait();
        return;
    }
    copies.runs = runs_of(seq.first_pos, rank, a);
    copies.offset = a.layer_bytes + (uint64_t)kv_head * a.page_tokens * (DIM * 2);
    copies.ring = shared_address(memory) + warp * shape::HALVES * shape::HALF;
    copies.run = copies.runs.begin + warp;
    copies.table = seq.table;
    copies.look(a);
    copies.warm(a);
    wait_kernels();
    for (uint32_t i = 0; i < shape::HALVES - 1; i++)
        copies.fill(a);
    query_load(&rows, seq.first_row, head, heads, a);
    query_store(&rows, query);
    __syncthreads();
    launch_next();
    if (DIM <= 128) {
#pragma unroll
        for (uint32_t i = 0; i < DIM / 16; i++)
            load_matrices(q[DIM <= 128 ? i : 0],
                          shared_address(query) + tile_rows<DIM>::at(lane % 16, i * 2 + lane / 16));
    }
    struct part<DIM> p = {
        {-INFINITY, -INFINITY}, {0, 0},
        {
        }
    };
    const struct share_runs &runs = copies.runs;
    for (uint32_t run = runs.begin + warp; run < runs.end; run += WARPS) {
        float s[2][4];
        run_scores<DIM>(s, q, shared_address(query), copies.next(a));
        run_weights<DIM>(&p, s, run * RUN, runs.first, runs.last, a);
        run_values<DIM>(&p, s, copies.next(a));
    }
    put_part<DIM>(&p, join, sums, heads);
    __syncthreads();
    cluster_wait();
    for (uint32_t e = threadIdx.x; e < quads && rank < runs.used; e += THREADS)
        put_share(shares + rank * each + e / CLUSTER, e % CLUSTER,
                  get_joined<DIM>(join, sums, heads, e / (DIM / 4), e % (DIM / 4) * 4));
    cluster_arrive();
    cluster_wait();
    fold_shares<DIM>(shares, rank, runs.used, each, quads, seq.first_row, head, a);
    copy_wait<0>();
}

/* ---- launches ----------------------------------------------------------------------------------
 */

template <uint32_t DIM> static uint32_t shared_bytes(uint32_t heads)
{
    using shape = decode_shape<DIM>;
    uint32_t each = (heads * (DIM / 4) + CLUSTER - 1) / CLUSTER;

    return WARPS * shape::HALVES * shape::HALF + shape::QUERY +
           WARPS * heads * shape::JOIN_COLS * (uint32_t)sizeof(float) +
           CLUSTER * each * (uint32_t)sizeof(struct share);
}

template <uint32_t DIM>
static int launch(struct cuda_device *c, const struct attention_args *a, uint32_t parts)
{
    uint32_t shared = shared_bytes<DIM>(a->group < HEADS ? a->group : HEADS);
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attributes[2] = {};

    if (shared + 1024 > c->attention->shared_max)
        return 0;
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {CLUSTER, 1, 1};
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(CLUSTER, parts, a->seq_count);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = shared;
    config.stream = c->stream;
    config.attrs = attributes;
    config.numAttrs = 2;
    cuda_note(c, cudaLaunchKernelEx(&config, cluster_kernel<DIM>, *a));
    return 1;
}

int attention_cluster(struct cuda_device *c, const struct attention_args *a)
{
    uint32_t parts = a->kv_heads * ((a->group + HEADS - 1) / HEADS);
    uint64_t blocks = c->sms * (a->head_dim <= 128 ? 2ull : 1ull);

    if (!c->overlap || (uint64_t)parts * a->seq_count * CLUSTER > blocks)
        return 0;
    switch (a->head_dim) {
    case 64:
        return launch<64>(c, a, parts);
    case 80:
        return launch<80>(c, a, parts);
    case 96:
        return launch<96>(c, a, parts);
    case 128:
        return launch<128>(c, a, parts);
    case 256:
        return launch<256>(c, a, parts);
    default:
        return 0;
    }
}

template <uint32_t DIM> static void prepare(struct cuda_device *c)
{
    cuda_note(c,
              cudaFuncSetAttribute(cluster_kernel<DIM>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   (int)c->attention->shared_max - 1024));
}

void attention_cluster_prepare(struct cuda_device *c)
{
    prepare<64>(c);
    prepare<80>(c);
    prepare<96>(c);
    prepare<128>(c);
    prepare<256>(c);
}
