// Sums of what has the same index, in the order of places: keys are sorted stably by one block, with the places where they
// were, and runs of equal keys are added up.
#include "common.cuh"

struct Scatter {
    const void *x, *indices;
    void *y;
    int *fault;
    int *keys, *places, *otherKeys, *otherPlaces; // [count]
    float *parts;                                 // [outer, pieces, 2, inner]: of the run that began before, and of the one that goes on
    i64 outer, count, axis, inner, length; // the last one of y
    int wide, bits;
    int elementwise, indexRank;                   // an index for each element, of so many dimensions
    int indexDims[6], strides[6], along;          // the target's strides, and the axis that the index counts
};

#define PIECE 32
#define SORT_THREADS 1024

// Keys are the indices, or where each element has one, the places of elements in the target.
extern "C" __global__ void scatter_keys(Scatter p) {
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < p.count; i += gridDim.x * (i64)blockDim.x) {
        i64 k = p.wide ? ((const i64 *)p.indices)[i] : ((const int *)p.indices)[i];
        if (k < 0) k += p.axis;
        if (k < 0 || k >= p.axis) {
            *p.fault = 1;
            k = 0;
        }
        if (p.elementwise) {
            i64 rest = i, at = 0;
            for (int d = p.indexRank - 1; d >= 0; d--) {
                i64 n = rest % p.indexDims[d];
                rest /= p.indexDims[d];
                at += (d == p.along ? k : n) * p.strides[d];
            }
            k = at;
        }
        p.keys[i] = (int)k;
        p.places[i] = (int)i;
    }
}

// A stable sort by four bits at a time; each thread has neighbours. The sorted keys end in keys.
extern "C" __global__ void scatter_sort(Scatter p) {
    __shared__ int counts[16][SORT_THREADS / 32], starts[16];
    int n = (int)p.count, each = (n + SORT_THREADS - 1) / SORT_THREADS, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int begin = min((int)threadIdx.x * each, n), end = min(begin + each, n);
    int *keys = p.keys, *places = p.places, *toKeys = p.otherKeys, *toPlaces = p.otherPlaces;
    for (int shift = 0; shift < p.bits; shift += 4) {
        int own[16];
        for (int d = 0; d < 16; d++) own[d] = 0;
        for (int i = begin; i < end; i++) {
            int digit = keys[i] >> shift & 15;
            for (int d = 0; d < 16; d++) own[d] += digit == d;
        }
        // own becomes the number of equal digits before this thread's, then their first place.
        for (int d = 0; d < 16; d++) {
            int sum = own[d];
            for (int k = 1; k < 32; k <<= 1) {
                int before = __shfl_up_sync(~0u, sum, k);
                if (lane >= k) sum += before;
            }
            if (lane == 31) counts[d][warp] = sum;
            own[d] = sum - own[d];
        }
        __syncthreads();
        if (threadIdx.x < 16) {
            int sum = 0;
            for (int w = 0; w < SORT_THREADS / 32; w++) {
                int c = counts[threadIdx.x][w];
                counts[threadIdx.x][w] = sum;
                sum += c;
            }
            starts[threadIdx.x] = sum;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int sum = 0;
            for (int d = 0; d < 16; d++) {
                int c = starts[d];
                starts[d] = sum;
                sum += c;
            }
        }
        __syncthreads();
        for (int d = 0; d < 16; d++) own[d] += starts[d] + counts[d][warp];
        for (int i = begin; i < end; i++) {
            int key = keys[i], digit = key >> shift & 15, to = 0;
            for (int d = 0; d < 16; d++)
                if (digit == d) to = own[d]++;
            toKeys[to] = key;
            toPlaces[to] = places[i];
        }
        __syncthreads();
        int *swapped = keys; keys = toKeys; toKeys = swapped;
        swapped = places; places = toPlaces; toPlaces = swapped;
    }
}

template <typename T> __device__ void scatterClear(const Scatter &p) {
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < p.length; i += gridDim.x * (i64)blockDim.x) ((T *)p.y)[i] = store<T>(0.0f);
}

__device__ __forceinline__ float &partOf(const Scatter &p, int piece, int which) {
    i64 r = blockIdx.y * (i64)blockDim.x + threadIdx.x;
    return p.parts[(((i64)blockIdx.z * gridDim.x + piece) * 2 + which) * p.inner + r];
}

// Adds up the runs of a piece of the sorted keys. Where a run began before the piece, its sum goes to parts.
template <typename T> __device__ void scatterSum(const Scatter &p) {
    i64 r = blockIdx.y * (i64)blockDim.x + threadIdx.x, o = blockIdx.z;
    if (r >= p.inner) return;
    int begin = blockIdx.x * PIECE, end = min(begin + PIECE, (int)p.count);
    const T *x = (const T *)p.x + o * p.count * p.inner + r;
    T *y = (T *)p.y + o * p.axis * p.inner + r;
    bool continued = begin > 0 && p.keys[begin - 1] == p.keys[begin];
    int key = p.keys[begin];
    float sum = 0.0f;
    for (int i = begin; i < end; i++) {
        if (p.keys[i] != key) {
            if (continued) partOf(p, blockIdx.x, 0) = sum;
            else y[(i64)key * p.inner] = store<T>(sum);
            continued = false;
            key = p.keys[i];
            sum = 0.0f;
        }
        sum += load(x[(i64)p.places[i] * p.inner]);
    }
    bool goesOn = !continued && end < p.count && p.keys[end] == key;
    if (continued) partOf(p, blockIdx.x, 0) = sum;
    else if (goesOn) partOf(p, blockIdx.x, 1) = sum;
    else y[(i64)key * p.inner] = store<T>(sum);
}

// Adds the parts of the run that is the last to begin in a piece.
template <typename T> __device__ void scatterJoin(const Scatter &p) {
    i64 r = blockIdx.y * (i64)blockDim.x + threadIdx.x, o = blockIdx.z;
    if (r >= p.inner) return;
    int begin = blockIdx.x * PIECE, end = min(begin + PIECE, (int)p.count);
    if (end == p.count || p.keys[end] != p.keys[end - 1]) return;
    int key = p.keys[end - 1];
    if (p.keys[begin] == key && begin > 0 && p.keys[begin - 1] == key) return; // began before
    float sum = partOf(p, blockIdx.x, 1);
    for (int piece = blockIdx.x + 1; piece < gridDim.x && p.keys[piece * PIECE] == key; piece++) sum += partOf(p, piece, 0);
    ((T *)p.y)[o * p.axis * p.inner + (i64)key * p.inner + r] = store<T>(sum);
}
#define SCATTER(T, ending) \
    extern "C" __global__ void scatter_clear_##ending(Scatter p) { scatterClear<T>(p); } \
    extern "C" __global__ void scatter_sum_##ending(Scatter p) { scatterSum<T>(p); } \
    extern "C" __global__ void scatter_join_##ending(Scatter p) { scatterJoin<T>(p); }
FLOATS(SCATTER)
