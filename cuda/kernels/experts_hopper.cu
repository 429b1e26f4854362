// Products of all experts in one launch on Hopper's matrix units, for numbers of 16 bits and widths that are multiples of 8.
//
// A block stays on its processor and goes through tiles of the results, those of an expert one after the other, so that its
// weights are in the second cache. A warpgroup brings operands, 64 deep, four stages ahead; two others multiply. Tiles are
// transposed: the units' 64 rows are columns of the result, of which a tile has 256, or 128 of both branches of gated experts,
// and the units' columns, of which there may be few or many, are rows of the result. So an expert's rows are divided evenly, in
// steps of 16, and few rows cost little more than reading the weights.
#include "hopper.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define STAGES 4
#define LEFT (256 * 128)             // bytes of the first operand in a stage
#define STAGE (LEFT + 160 * 128)
#define PITCH 68                     // of 64 results in the memory through which they are turned
#define TURNED (2 * 16 * PITCH)      // numbers that a warpgroup turns at a time
#define BARRIERS (STAGES * STAGE + 2 * TURNED * 4)

// FORWARD: Y = f(X·Wᵀ + bias), of gated experts f(X·Wᵀ + bias)·(X·W2ᵀ + bias2). BACK: Y = X·W, or X·W + X2·W2. OVER_ROWS:
// Y = X2ᵀ·X over the rows of each expert.
enum Kind { FORWARD, BACK, OVER_ROWS };
struct Experts {
    TensorMap weights[2], rows[2]; // [experts, width, depth], or, of BACK, [experts, depth, width]; [rows, depth], without token
    const void *x, *x2; void *y;   // with token [·, depth]; of OVER_ROWS [·, width] and [·, height]; [rows, width], or [experts, height, width]
    const void *bias[2]; void *keep[2]; // [experts, width] or null; what is activated, [most, width], or null
    const int *token, *token2, *offsets, *tiles; // tokens of x's and x2's rows, or null
    int experts, depth, width, height, most, activation, branches, gated;
};

// A tile of the result; or, of OVER_ROWS, rows are lines of the result, and depth are the expert's rows, which begin at deepFirst.
struct Work { int expert, first, rows, column, depth, deepFirst; };

// find finds tile t, at or behind those of expert e, for all threads of a warp.
template <int KIND> __device__ __forceinline__ bool find(const Experts &p, int t, int &e, Work &w) {
    if (KIND == OVER_ROWS) {
        int lines = (p.height + 127) / 128, all = lines * ((p.width + 255) / 256);
        e = t / all;
        if (e >= p.experts) return false;
        t -= e * all;
        int first = p.offsets[e];
        w = {e, t % lines * 128, min(128, p.height - t % lines * 128), t / lines * 256, p.offsets[e + 1] - first, first};
        return true;
    }
    int wide = p.gated ? 128 : 256, columns = (p.width + wide - 1) / wide;
    if (t >= p.tiles[p.experts] * columns) return false;
    for (u32 past = ~0u; past == ~0u;) {
        int i = e + 1 + (int)threadIdx.x % 32;
        past = __ballot_sync(~0u, i < p.experts && p.tiles[i] * columns <= t);
        e += __popc(past);
    }
    int tile = p.tiles[e], tiles = p.tiles[e + 1] - tile, first = p.offsets[e], rows = p.offsets[e + 1] - first;
    t -= tile * columns;
    int each = ((rows + tiles - 1) / tiles + 7) & ~7, from = t % tiles * each;
    w = {e, first + from, min(each, rows - from), t / tiles * wide, p.depth, 0};
    return true;
}

// Of the stages, each of whose barriers ends a phase for every round through them.
struct Ring {
    u32 base, stage, phase;
    __device__ __forceinline__ u32 at() const { return base + stage * STAGE; }
    __device__ __forceinline__ u32 full() const { return base + BARRIERS + stage * 8; }
    __device__ __forceinline__ u32 empty() const { return base + BARRIERS + (STAGES + stage) * 8; }
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, phase ^= 1;
    }
};

// bring copies what tiles are made of.
template <typename T, int KIND> __device__ __forceinline__ void bring(const Experts &p, Ring ring) {
    int line = threadIdx.x / 8, part = threadIdx.x % 8, e = 0;
    u32 swapped = (part ^ line % 8) * 16 + line * 128;
    Work w;
    for (int t = blockIdx.x; find<KIND>(p, t, e, w); t += gridDim.x) {
        if (KIND == OVER_ROWS) {
            // Where rows come from is looked up a stage ahead.
            int from[4], from2[4];
            auto look = [&](int k) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int row = w.deepFirst + min(k + line + 16 * i, w.depth - 1);
                    from[i] = p.token ? p.token[row] : row;
                    from2[i] = p.token2 ? p.token2[row] : row;
                }
            };
            if (w.depth > 0) look(0);
            bool wide[6];
#pragma unroll
            for (int block = 0; block < 6; block++) wide[block] = block < 4 ? w.column + block * 64 + part * 8 < p.width : (block - 4) * 64 + part * 8 < w.rows;
            const T *left = (const T *)p.x + w.column + part * 8, *right = (const T *)p.x2 + w.first + part * 8;
            for (int k = 0; k < w.depth; k += 64, ring.next()) {
                barrierWait(ring.empty(), ring.phase ^ 1);
                u32 to = ring.at() + swapped;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    bool some = k + line + 16 * i < w.depth;
                    const T *x = left + (i64)from[i] * p.width, *x2 = right + (i64)from2[i] * p.height;
#pragma unroll
                    for (int block = 0; block < 4; block++) copy16(to + block * 8192 + i * 2048, wide[block] ? x + block * 64 : p.x, some && wide[block]);
#pragma unroll
                    for (int block = 0; block < 2; block++)
                        copy16(to + LEFT + block * 8192 + i * 2048, wide[4 + block] ? x2 + block * 64 : p.x2, some && wide[4 + block]);
                }
                barrierArriveAfterCopies(ring.full());
                if (k + 64 < w.depth) look(k + 64);
            }
            continue;
        }
        u32 source[10]; // pieces of 16 bytes before the row
        if (p.token)
#pragma unroll
            for (int i = 0; i < 10; i++) source[i] = line + 16 * i < w.rows ? (u32)p.token[w.first + line + 16 * i] * (u32)(p.depth / 8) : 0;
        int boxes = p.token ? 0 : (w.rows + 31) / 32;
        for (int branch = 0; branch < p.branches; branch++)
            for (int k = 0; k < p.depth; k += 64, ring.next()) {
                barrierWait(ring.empty(), ring.phase ^ 1);
                u32 to = ring.at(), full = ring.full();
                if (threadIdx.x == 0) {
                    barrierExpect(full, LEFT + boxes * 4096);
                    if (KIND == FORWARD) {
                        bulkCopy(to, &p.weights[0], k, w.column, w.expert, full);
                        bulkCopy(to + 16384, &p.weights[p.gated], k, w.column + (p.gated ? 0 : 128), w.expert, full);
                    } else {
                        for (int block = 0; block < 4; block++) bulkCopy(to + block * 8192, &p.weights[branch], w.column + block * 64, k, w.expert, full);
                    }
                    for (int box = 0; box < boxes; box++) bulkCopy(to + LEFT + box * 4096, &p.rows[branch], k, w.first + box * 32, 0, full);
                }
                __syncwarp();
                if (!p.token) continue;
                bool deep = k + part * 8 < p.depth;
                const uint4 *x = (const uint4 *)p.x + (deep ? k / 8 + part : 0);
#pragma unroll
                for (int i = 0; i < 10; i++)
                    if (line + 16 * i < w.rows) copy16(to + LEFT + swapped + i * 2048, x + source[i], deep);
                barrierArriveAfterCopies(full);
            }
    }
}

template <typename T> struct __align__(16) Eight { T x[8]; };
template <typename T> __device__ __forceinline__ void storeEight(void *to, i64 at, const float x[8]) {
    Eight<T> out;
#pragma unroll
    for (int i = 0; i < 8; i++) out.x[i] = store<T>(x[i]);
    *(Eight<T> *)((T *)to + at) = out;
}
template <typename T> __device__ __forceinline__ void addEight(float x[8], const void *from, i64 at) {
    if (!from) return;
    Eight<T> some = *(const Eight<T> *)((const T *)from + at);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] += load(some.x[i]);
}
__device__ __forceinline__ void readEight(float x[8], const float *from) {
    *(float4 *)&x[0] = *(const float4 *)from;
    *(float4 *)&x[4] = *(const float4 *)(from + 4);
}

// turn writes what a thread has of 64 × 16 results so that the 64 lie side by side.
__device__ __forceinline__ void turn(float *to, const float *c) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    to += lane % 4 * 2 * PITCH + warp * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 8; i++) to[(i / 4 * 8 + i % 2) * PITCH + i / 2 % 2 * 8] = c[i];
}

// tile computes one of up to N rows.
template <typename T, int KIND, int N> __device__ __forceinline__ void tile(const Experts &p, const Work &w, Ring &ring, float *turned) {
    const int TA = KIND != FORWARD, TB = KIND == OVER_ROWS;
    int group = threadIdx.x / 128 - 1;
    float c[2][N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) c[0][i] = c[1][i] = 0.0f;
    int steps = (w.depth + 63) / 64 * (KIND == BACK ? p.branches : 1);
    bool copies = KIND == OVER_ROWS || p.token;
    u32 before = 0;
    for (int step = 0; step < steps; step++, ring.next()) {
        barrierWait(ring.full(), ring.phase);
        if (copies) copiesSeen();
        u32 left = ring.at() + group * 8192, right = ring.at() + LEFT;
        multiplyBegin();
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int m = 0; m < 2; m++)
                multiplyAdd<TA, TB>(c[m], operand(left + m * 16384 + k * (TA ? 2048 : 32), 16), operand(right + k * (TB ? 2048 : 32), TB ? 8192 : 16), T());
        multiplyCommit();
        if (step > 0) {
            multiplyWait<1>();
            if (threadIdx.x % 32 == 0) barrierArrive(before);
        }
        before = ring.empty();
    }
    multiplyWait<0>();
    if (steps > 0 && threadIdx.x % 32 == 0) barrierArrive(before);

    // Results go through shared memory, 16 rows at a time, so that each thread stores 8 columns side by side.
    bool gated = KIND == FORWARD && p.gated;
    int line = threadIdx.x % 128 / 8, part = threadIdx.x % 8 * 8, rounds = gated ? N / 16 : N / 8, half = 0;
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
        int m = round >= N / 16, piece = round - m * (N / 16);
        if (piece * 16 >= w.rows) continue;
        float *to = turned + half * 16 * PITCH;
        if (gated) groupBarrier(1 + group); // which needs both halves at once
        else half ^= 1;
#pragma unroll
        for (int i = 0; i < N / 16; i++)
            if (i == piece) {
                if (m == 0) turn(to, &c[0][8 * i]);
                else turn(to, &c[1][8 * i]);
                if (gated) turn(to + 16 * PITCH, &c[1][8 * i]);
            }
        groupBarrier(1 + group);
        int row = piece * 16 + line, column = w.column + m * 128 + group * 64 + part;
        if (row >= w.rows || column >= p.width) continue;
        float x[8];
        readEight(x, to + line * PITCH + part);
        i64 at = ((KIND == OVER_ROWS ? (i64)w.expert * p.height : 0) + w.first + row) * p.width + column;
        if (KIND == FORWARD) {
            i64 bias = (i64)w.expert * p.width + column;
            addEight<T>(x, p.bias[0], bias);
            if (p.keep[0]) storeEight<T>(p.keep[0], at, x);
            activateAll(x, p.activation);
            if (gated) {
                float factor[8];
                readEight(factor, to + (16 + line) * PITCH + part);
                addEight<T>(factor, p.bias[1], bias);
                if (p.keep[1]) storeEight<T>(p.keep[1], at, factor);
#pragma unroll
                for (int i = 0; i < 8; i++) x[i] *= factor[i];
            }
        }
        storeEight<T>(p.y, at, x);
    }
    groupBarrier(1 + group); // the next tile begins with the first buffer
}

template <typename T, int KIND> __device__ __forceinline__ void compute(const Experts &p, Ring ring, float *turned) {
    turned += (threadIdx.x / 128 - 1) * TURNED;
    int e = 0;
    Work w;
    for (int t = blockIdx.x; find<KIND>(p, t, e, w); t += gridDim.x) {
        if (KIND == OVER_ROWS) {
            tile<T, KIND, 128>(p, w, ring, turned);
            continue;
        }
        switch ((w.rows + 15) / 16) {
        case 1: tile<T, KIND, 16>(p, w, ring, turned); break;
        case 2: tile<T, KIND, 32>(p, w, ring, turned); break;
        case 3: case 4: tile<T, KIND, 64>(p, w, ring, turned); break;
        case 5: case 6: tile<T, KIND, 96>(p, w, ring, turned); break;
        case 7: case 8: tile<T, KIND, 128>(p, w, ring, turned); break;
        case 9: tile<T, KIND, 144>(p, w, ring, turned); break;
        default: tile<T, KIND, 160>(p, w, ring, turned); break;
        }
    }
    // Rows that nobody has are kept as zeros.
    for (int i = 0; i < 2; i++)
        if (KIND == FORWARD && p.keep[i])
            for (i64 at = (i64)p.offsets[p.experts] * p.width + (blockIdx.x * 256 + threadIdx.x - 128) * 8; at < (i64)p.most * p.width; at += gridDim.x * 256 * 8)
                *(uint4 *)((T *)p.keep[i] + at) = make_uint4(0, 0, 0, 0);
}

template <typename T, int KIND> __device__ __forceinline__ void experts(const Experts &p) {
    extern __shared__ unsigned char memory[];
    u32 base = (sharedAddress(memory) + 1023) & ~1023u;
    Ring ring = {base, 0, 0};
    if (threadIdx.x == 0) {
        int arrivals = KIND == OVER_ROWS ? 128 : p.token ? 129 : 1;
        for (int i = 0; i < STAGES; i++) barrierMake(base + BARRIERS + i * 8, arrivals), barrierMake(base + BARRIERS + (STAGES + i) * 8, 8);
        barriersMade();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        fewerRegisters<40>();
        bring<T, KIND>(p, ring);
    } else {
        moreRegisters<232>();
        compute<T, KIND>(p, ring, (float *)(memory + (base - sharedAddress(memory)) + STAGES * STAGE));
    }
}
#define EXPERTS(T, ending) \
    extern "C" __global__ void __launch_bounds__(384, 1) experts_forward_##ending(const __grid_constant__ Experts p) { experts<T, FORWARD>(p); } \
    extern "C" __global__ void __launch_bounds__(384, 1) experts_back_##ending(const __grid_constant__ Experts p) { experts<T, BACK>(p); } \
    extern "C" __global__ void __launch_bounds__(384, 1) experts_over_rows_##ending(const __grid_constant__ Experts p) { experts<T, OVER_ROWS>(p); }
EXPERTS(__nv_bfloat16, bf16)
EXPERTS(__half, f16)
#endif
