// What Hopper's matrix units and bulk copies take: barriers in shared memory, copies that arrive at them, and products of
// operands in shared memory (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions" and "Tensor Copy"). Shared memory is
// addressed by 32 bits.
#pragma once
#include "common.cuh"

typedef unsigned long long u64;
struct __align__(64) TensorMap { u64 words[16]; }; // made by the driver

__device__ __forceinline__ u32 sharedAddress(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// A barrier's phase ends when count arrivals and the announced bytes are there. Waiting is for the end of the phase of the
// given parity.
__device__ __forceinline__ void barrierMake(u32 at, int count) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory"); }
__device__ __forceinline__ void barriersMade() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrierArrive(u32 at) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(at) : "memory"); }
__device__ __forceinline__ void barrierExpect(u32 at, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrierArriveAfterCopies(u32 at) { asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(at) : "memory"); }
__device__ __forceinline__ void barrierWait(u32 at, u32 parity) {
    asm volatile("{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(at), "r"(parity) : "memory");
}

// bulkCopy brings a box of a tensor, whose first element is at x, y, z, to shared memory.
__device__ __forceinline__ void bulkCopy(u32 to, const TensorMap *map, int x, int y, int z, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
                 ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier) : "memory");
}

// copy16 brings 16 bytes, or zeros.
__device__ __forceinline__ void copy16(u32 to, const void *from, bool some) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(some ? 16 : 0) : "memory");
}

// copiesSeen orders what cp.async wrote before what the matrix units read.
__device__ __forceinline__ void copiesSeen() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// groupBarrier waits for the 128 threads of a warpgroup. Number 0 is __syncthreads's.
__device__ __forceinline__ void groupBarrier(int number) { asm volatile("bar.sync %0, 128;" ::"r"(number) : "memory"); }

template <int N> __device__ __forceinline__ void fewerRegisters() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ __forceinline__ void moreRegisters() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

// An operand lies in blocks of rows of 128 bytes whose pieces of 16 bytes are swapped by row (row % 8), each block aligned to
// 1 KiB: a row has 64 numbers along the depth, or, of a transposed operand, along the other dimension, the next block
// following after `next` bytes.
__device__ __forceinline__ u64 operand(u32 at, int next) { return (u64)(at >> 4 & 0x3fff) | (u64)(next >> 4) << 16 | 64ull << 32 | 1ull << 62; }

__device__ __forceinline__ void multiplyBegin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void multiplyCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void multiplyWait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

// multiplyAdd adds the product of 64 × 16 and 16 × N numbers to c, for N from 16 to 160; TA and TB are 1 for transposed
// operands. Of each 8 columns, a thread of lane l in warp w of the warpgroup has columns l%4·2 and l%4·2+1 of rows
// 16w + l/4 and 16w + l/4 + 8.
#define COMMA ", "
#define OPERANDS(...) __VA_ARGS__
#define R0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define R1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define R2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define R3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define R4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define R5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define R6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define R7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define R8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define R9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define C0 "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7])
#define C1 "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15])
#define C2 "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23])
#define C3 "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])
#define C4 "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39])
#define C5 "+f"(c[40]), "+f"(c[41]), "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47])
#define C6 "+f"(c[48]), "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55])
#define C7 "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63])
#define C8 "+f"(c[64]), "+f"(c[65]), "+f"(c[66]), "+f"(c[67]), "+f"(c[68]), "+f"(c[69]), "+f"(c[70]), "+f"(c[71])
#define C9 "+f"(c[72]), "+f"(c[73]), "+f"(c[74]), "+f"(c[75]), "+f"(c[76]), "+f"(c[77]), "+f"(c[78]), "+f"(c[79])
#define SIZE(T, type, N, registers, operands, left, right, ta, tb) \
    template <int TA, int TB> __device__ __forceinline__ void multiplyAdd(float (&c)[N / 2], u64 a, u64 b, T) { \
        asm volatile("{ .reg .pred p; setp.eq.b32 p, 1, 1; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type \
                     " {" registers "}, " left ", " right ", p, 1, 1, " ta ", " tb "; }" : operands : "l"(a), "l"(b), "n"(TA), "n"(TB)); }
#define SIZES(T, type) \
    SIZE(T, type, 16, R0, OPERANDS(C0), "%8", "%9", "%10", "%11") \
    SIZE(T, type, 32, R0 COMMA R1, OPERANDS(C0, C1), "%16", "%17", "%18", "%19") \
    SIZE(T, type, 48, R0 COMMA R1 COMMA R2, OPERANDS(C0, C1, C2), "%24", "%25", "%26", "%27") \
    SIZE(T, type, 64, R0 COMMA R1 COMMA R2 COMMA R3, OPERANDS(C0, C1, C2, C3), "%32", "%33", "%34", "%35") \
    SIZE(T, type, 80, R0 COMMA R1 COMMA R2 COMMA R3 COMMA R4, OPERANDS(C0, C1, C2, C3, C4), "%40", "%41", "%42", "%43") \
    SIZE(T, type, 96, R0 COMMA R1 COMMA R2 COMMA R3 COMMA R4 COMMA R5, OPERANDS(C0, C1, C2, C3, C4, C5), "%48", "%49", "%50", "%51") \
    SIZE(T, type, 112, R0 COMMA R1 COMMA R2 COMMA R3 COMMA R4 COMMA R5 COMMA R6, OPERANDS(C0, C1, C2, C3, C4, C5, C6), "%56", "%57", "%58", "%59") \
    SIZE(T, type, 128, R0 COMMA R1 COMMA R2 COMMA R3 COMMA R4 COMMA R5 COMMA R6 COMMA R7, OPERANDS(C0, C1, C2, C3, C4, C5, C6, C7), "%64", "%65", "%66", "%67") \
    SIZE(T, type, 144, R0 COMMA R1 COMMA R2 COMMA R3 COMMA R4 COMMA R5 COMMA R6 COMMA R7 COMMA R8, OPERANDS(C0, C1, C2, C3, C4, C5, C6, C7, C8), "%72", "%73", "%74", "%75") \
    SIZE(T, type, 160, R0 COMMA R1 COMMA R2 COMMA R3 COMMA R4 COMMA R5 COMMA R6 COMMA R7 COMMA R8 COMMA R9, OPERANDS(C0, C1, C2, C3, C4, C5, C6, C7, C8, C9), "%80", "%81", "%82", "%83")
SIZES(__nv_bfloat16, "bf16")
SIZES(__half, "f16")
#undef SIZES
#undef SIZE
