/*
 * wgmma.cuh - products of a warpgroup (four warps) by Hopper's tensor cores, and what they wait by
 *
 * Only where the code is built for sm_90a.  Operands in shared memory are panels of 64 columns:
 * rows of 128 bytes, whose 16-byte chunks are permuted by the row's number modulo eight ("128-byte
 * swizzle"); panels begin at multiples of 1024 bytes.
 */
#ifndef MP_KERNELS_CUDA_WGMMA_CUH
#define MP_KERNELS_CUDA_WGMMA_CUH

#include "kernels/cuda/operand.cuh"

#define PANEL_ROW 128u /* bytes */

/* Where chunk c of row r lies in an operand of `rows` rows. */
FN uint32_t panel_at(uint32_t rows, uint32_t r, uint32_t c)
{
    return c / 8 * rows * PANEL_ROW + r * PANEL_ROW + ((c ^ r) & 7) * 16;
}

/* A matrix's descriptor: its first address; bytes from one panel to the next, where the product
 * goes across panels in its rows' or columns' direction; 1024 bytes from eight rows to the next. */
FN uint64_t matrix_descriptor(uint32_t address, uint32_t panel_bytes)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(panel_bytes >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* Registers are written before it, by ordinary instructions; products come after it. */
FN void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

FN void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until no more than LEFT groups are under way. */
template <int LEFT> FN void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

/* What the products left in these is looked at behind it. */
template <uint32_t N> FN void wgmma_result(float (&c)[N])
{
#pragma unroll
    for (uint32_t i = 0; i < N; i++)
        asm volatile("" : "+f"(c[i])::"memory");
}

/* Shared memory that others wrote and whose barrier we passed: for the products behind it. */
FN void shared_to_products(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- barriers in shared memory -----------------------------------------------------------------
 */

FN void barrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals)
                 : "memory");
}

FN void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Arrive when all of this thread's asynchronous copies so far are there. */
FN void barrier_arrive_copied(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

/* Until the phase of that parity is over. */
FN void barrier_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t over;

    do
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(over)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    while (!over);
}

/* ---- products ----------------------------------------------------------------------------------
 *
 * c [64][N] = a [64][16] b [16][N], or += where `add`: of a warpgroup's warp w rows 16 w to 16 w +
 * 15, as in multiply() of attention.cuh, four registers for each eight columns.  wgmma_shared: rows
 * of a and columns of b lie in shared memory, each contiguous.  wgmma_registers: a in registers,
 * rows of b contiguous in shared memory.
 */

#define C4(c, i)  "+f"(c[i]), "+f"(c[(i) + 1]), "+f"(c[(i) + 2]), "+f"(c[(i) + 3])
#define C16(c, i) C4(c, i), C4(c, (i) + 4), C4(c, (i) + 8), C4(c, (i) + 12)

/* clang-format off */
FN void wgmma_shared(float (&c)[32], uint64_t a, uint64_t b, uint32_t add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, p, 1, 1, 0, 0;\n}"
                 : C16(c, 0), C16(c, 16)
                 : "l"(a), "l"(b), "r"(add));
}

FN void wgmma_shared(float (&c)[64], uint64_t a, uint64_t b, uint32_t add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, p, 1, 1, 0, 0;\n}"
                 : C16(c, 0), C16(c, 16), C16(c, 32), C16(c, 48)
                 : "l"(a), "l"(b), "r"(add));
}

FN void wgmma_registers(float (&c)[32], const uint32_t *a, uint64_t b, uint32_t add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
                 : C16(c, 0), C16(c, 16)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

FN void wgmma_registers(float (&c)[64], const uint32_t *a, uint64_t b, uint32_t add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
                 : C16(c, 0), C16(c, 16), C16(c, 32), C16(c, 48)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

FN void wgmma_registers(float (&c)[128], const uint32_t *a, uint64_t b, uint32_t add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
                 "{%128, %129, %130, %131}, %132, p, 1, 1, 1;\n}"
                 : C16(c, 0), C16(c, 16), C16(c, 32), C16(c, 48), C16(c, 64), C16(c, 80), C16(c, 96), C16(c, 112)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
/* clang-format on */

#endif
