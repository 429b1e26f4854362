// Operators that move elements of any type, by their width.
#include "common.cuh"

#define MAX_RANK 6
struct Move { const void *x; void *y; i64 n; int rank; int dims[MAX_RANK]; i64 from[MAX_RANK], to[MAX_RANK]; i64 first, start; };

// y[start + Σ k·to] = x[first + Σ k·from] for all k within dims.
template <typename T> __device__ void move(const Move &p) {
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < p.n; i += gridDim.x * (i64)blockDim.x) {
        i64 from = p.first, to = p.start, rest = i;
        for (int d = p.rank - 1; d >= 0; d--) {
            i64 k = rest % p.dims[d];
            rest /= p.dims[d];
            from += k * p.from[d];
            to += k * p.to[d];
        }
        ((T *)p.y)[to] = ((const T *)p.x)[from];
    }
}

// y[o, i, r] = x[o, indices[i], r] for r < inner. An index outside the axis sets the fault and gives element 0.
struct Gather { const void *x, *indices; void *y; int *fault; i64 n; int wide; i64 axis, count, inner; };
template <typename T> __device__ void gather(const Gather &p) {
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < p.n; i += gridDim.x * (i64)blockDim.x) {
        i64 r = i % p.inner, j = i / p.inner % p.count, o = i / p.inner / p.count;
        i64 at = p.wide ? ((const i64 *)p.indices)[j] : ((const int *)p.indices)[j];
        if (at < 0) at += p.axis;
        if (at < 0 || at >= p.axis) {
            *p.fault = 1;
            at = 0;
        }
        ((T *)p.y)[i] = ((const T *)p.x)[(o * p.axis + at) * p.inner + r];
    }
}

#define WIDTH(T, width) \
    extern "C" __global__ void move_##width(Move p) { move<T>(p); } \
    extern "C" __global__ void gather_##width(Gather p) { gather<T>(p); }
WIDTH(unsigned char, 1) WIDTH(unsigned short, 2) WIDTH(unsigned int, 4) WIDTH(unsigned long long, 8)
