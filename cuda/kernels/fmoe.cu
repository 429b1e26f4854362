// FMoE: the experts' products, and the sum of each token's slots.
#include "matrix.cuh"

// Y = finish(X·Wᵀ + bias) for the rows of all experts in one launch: a block computes a tile of one expert's rows.
// X's rows are those of token, where that is given.
struct Product {
    const void *x, *weight, *bias; void *y; // [·, depth], [experts, width, depth], [experts, width], [rows, width]
    const int *token, *offsets, *tiles;
    int experts, depth, width, activation;
    int factor; // y becomes activation(y)·(X·Wᵀ + bias): the second branch of gated experts
};

template <typename T> __device__ __forceinline__ void finish(const Product &p, int e, i64 row, int column, float x) {
    if (p.bias) x += load(((const T *)p.bias)[(i64)e * p.width + column]);
    T *y = (T *)p.y + row * p.width + column;
    *y = store<T>(p.factor ? activate(load(*y), p.activation) * x : activate(x, p.activation));
}

// finishPair is finish for two columns side by side, the first of which is even.
template <typename T> struct Pair { T x, y; };
template <typename T> __device__ __forceinline__ void finishPair(const Product &p, int e, i64 row, int column, float x, float y) {
    if (p.bias) {
        Pair<T> b = *(const Pair<T> *)((const T *)p.bias + (i64)e * p.width + column);
        x += load(b.x), y += load(b.y);
    }
    u32 *to = (u32 *)((T *)p.y + row * p.width + column);
    Pair<T> out;
    if (p.factor) {
        u32 bits = *to;
        Pair<T> v = *(Pair<T> *)&bits;
        x *= activate(load(v.x), p.activation), y *= activate(load(v.y), p.activation);
    } else {
        x = activate(x, p.activation), y = activate(y, p.activation);
    }
    out.x = store<T>(x), out.y = store<T>(y);
    *to = *(u32 *)&out;
}

// On the ordinary units, for float32 and for widths that the matrix units do not take: tiles of 64 × 64.
template <typename T> __device__ void product(const Product &p) {
    __shared__ float a[16][64 + 4], b[16][64 + 4];
    int e = before(p.tiles, p.experts, blockIdx.x);
    if (e < 0) return;
    int first = p.offsets[e] + (blockIdx.x - p.tiles[e]) * 64, rows = min(64, p.offsets[e + 1] - first);
    int column = blockIdx.y * 64, columns = min(64, p.width - column);
    const T *x = (const T *)p.x, *w = (const T *)p.weight + ((i64)e * p.width + column) * p.depth;
    int r = threadIdx.x / 16 * 4, c = threadIdx.x % 16 * 4; // of the thread's 4 × 4 results
    i64 source[4];
    for (int i = 0; i < 4; i++) {
        int row = threadIdx.x / 16 + 16 * i;
        source[i] = row < rows ? (i64)(p.token ? p.token[first + row] : first + row) * p.depth : -1;
    }
    float sums[4][4] = {};
    for (int k = 0; k < p.depth; k += 16) {
        int at = k + threadIdx.x % 16;
        __syncthreads();
        for (int i = 0; i < 4; i++) {
            int row = threadIdx.x / 16 + 16 * i;
            a[threadIdx.x % 16][row] = source[i] >= 0 && at < p.depth ? load(x[source[i] + at]) : 0.0f;
            b[threadIdx.x % 16][row] = row < columns && at < p.depth ? load(w[(i64)row * p.depth + at]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < 16; kk++) {
            float4 u = *(float4 *)&a[kk][r], v = *(float4 *)&b[kk][c];
            float us[4] = {u.x, u.y, u.z, u.w}, vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += us[i] * vs[j];
        }
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            if (r + i < rows && c + j < columns) finish<T>(p, e, first + r + i, column + c + j, sums[i][j]);
}
#define PRODUCT(T, ending) extern "C" __global__ void __launch_bounds__(256) product_##ending(Product p) { product<T>(p); }
FLOATS(PRODUCT)

// On the matrix units (mma.sync): tiles of 128 × 128, 8 warps of 64 × 32 each, 32 deep and two at a time in shared memory.
// depth and width are multiples of 8.
#define DEEP 32
#define PITCH (DEEP + 8)

template <typename T> __device__ void matrixProduct(const Product &p) {
    __shared__ __align__(16) T a[2][128 * PITCH], b[2][128 * PITCH];
    int e = before(p.tiles, p.experts, blockIdx.y);
    if (e < 0) return;
    int first = p.offsets[e] + (blockIdx.y - p.tiles[e]) * 128, rows = min(128, p.offsets[e + 1] - first);
    int column = blockIdx.x * 128, columns = min(128, p.width - column);
    const T *x = (const T *)p.x, *w = (const T *)p.weight + ((i64)e * p.width + column) * p.depth;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = warp / 4 * 64, c = warp % 4 * 32;

    // Each thread copies 16 bytes of two rows of each operand.
    int line = threadIdx.x / 4, part = threadIdx.x % 4 * 8;
    const T *from[2], *weight[2];
    bool hasRow[2], hasColumn[2];
    for (int i = 0; i < 2; i++) {
        int n = line + 64 * i;
        hasRow[i] = n < rows, hasColumn[i] = n < columns;
        i64 row = hasRow[i] ? (p.token ? p.token[first + n] : first + n) : 0;
        from[i] = x + row * p.depth, weight[i] = w + (hasColumn[i] ? (i64)n * p.depth : 0);
    }
    auto fetch = [&](int stage, int k) {
        int at = k + part;
        bool deep = at < p.depth;
        for (int i = 0; i < 2; i++) {
            int to = (line + 64 * i) * PITCH + part;
            copy16(shared(&a[stage][to]), from[i] + (deep ? at : 0), hasRow[i] && deep);
            copy16(shared(&b[stage][to]), weight[i] + (deep ? at : 0), hasColumn[i] && deep);
        }
        asm volatile("cp.async.commit_group;");
    };

    float sums[4][4][4] = {};
    fetch(0, 0);
    int stage = 0;
    for (int k = 0; k < p.depth; k += DEEP, stage ^= 1) {
        if (k + DEEP < p.depth) {
            fetch(stage ^ 1, k + DEEP);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < DEEP; kk += 16) {
            u32 left[4][4], right[2][4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                matrices(left[i], shared(&a[stage][(r + 16 * i + lane % 16) * PITCH + kk + lane / 16 * 8]));
#pragma unroll
            for (int j = 0; j < 2; j++)
                matrices(right[j], shared(&b[stage][(c + 16 * j + lane / 16 * 8 + lane % 8) * PITCH + kk + lane / 8 % 2 * 8]));
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) multiply(sums[i][j], left[i], &right[j / 2][j % 2 * 2], T());
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int n = 0; n < 4; n += 2) {
                int row = r + 16 * i + lane / 4 + n * 4, col = c + 8 * j + lane % 4 * 2;
                if (row < rows && col < columns) finishPair<T>(p, e, first + row, column + col, sums[i][j][n], sums[i][j][n + 1]);
            }
}
extern "C" __global__ void __launch_bounds__(256, 2) matrix_product_bf16(Product p) { matrixProduct<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) matrix_product_f16(Product p) { matrixProduct<__half>(p); }

// y = Σ score·result over a token's slots, in their order, but for those that are dropped (row −1). A block computes a token, each thread W columns side by side.
struct Combine { const void *result; const float *scores; const int *row; void *y; int d, k; };
template <typename T, int W> struct __align__(sizeof(T) * W) Some { T x[W]; };
template <typename T, int W> __device__ void combine(const Combine &p) {
    i64 slot = (i64)blockIdx.x * p.k;
    for (int column = threadIdx.x * W; column < p.d; column += blockDim.x * W) {
        float sums[W] = {};
        for (int j = 0; j < p.k; j++) {
            int row = p.row[slot + j];
            if (row < 0) continue;
            float score = p.scores[slot + j];
            Some<T, W> part = *(const Some<T, W> *)((const T *)p.result + (i64)row * p.d + column);
#pragma unroll
            for (int i = 0; i < W; i++) sums[i] += score * load(part.x[i]);
        }
        Some<T, W> out;
#pragma unroll
        for (int i = 0; i < W; i++) out.x[i] = store<T>(sums[i]);
        *(Some<T, W> *)((T *)p.y + (i64)blockIdx.x * p.d + column) = out;
    }
}
#define COMBINE(T, ending) \
    extern "C" __global__ void combine_##ending(Combine p) { combine<T, 1>(p); } \
    extern "C" __global__ void combine_wide_##ending(Combine p) { combine<T, 16 / sizeof(T)>(p); }
FLOATS(COMBINE)
