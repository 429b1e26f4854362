// The gradients of FMoE's experts. Rows are in the order of the dispatch; what there is of them is known on the device alone, so
// that launches are as large as it may be, and blocks without work end.
#include "matrix.cuh"

// Y = X·W, and + X2·W2 where there are two branches, for the rows of all experts. X's rows are those of token, where that is
// given, X2's are not.
struct Back {
    const void *x, *weight, *x2, *weight2; void *y; // [·, depth], [experts, depth, width]; [rows, width]
    const int *token, *offsets, *tiles;
    int experts, depth, width;
};

// On the ordinary units: tiles of 64 × 64.
template <typename T> __device__ void back(const Back &p) {
    __shared__ float a[16][64 + 4], b[16][64 + 4];
    int e = before(p.tiles, p.experts, blockIdx.x);
    if (e < 0) return;
    int first = p.offsets[e] + (blockIdx.x - p.tiles[e]) * 64, rows = min(64, p.offsets[e + 1] - first);
    int column = blockIdx.y * 64, columns = min(64, p.width - column);
    int r = threadIdx.x / 16 * 4, c = threadIdx.x % 16 * 4; // of the thread's 4 × 4 results
    float sums[4][4] = {};
    for (int branch = 0; branch < (p.x2 ? 2 : 1); branch++) {
        const T *x = (const T *)(branch ? p.x2 : p.x), *w = (const T *)(branch ? p.weight2 : p.weight) + (i64)e * p.depth * p.width + column;
        const int *token = branch ? 0 : p.token;
        for (int k = 0; k < p.depth; k += 16) {
            __syncthreads();
            for (int i = 0; i < 4; i++) {
                int row = threadIdx.x / 16 + 16 * i, at = k + threadIdx.x % 16;
                a[threadIdx.x % 16][row] = row < rows && at < p.depth ? load(x[(i64)(token ? token[first + row] : first + row) * p.depth + at]) : 0.0f;
                int deep = threadIdx.x / 64 + 4 * i, col = threadIdx.x % 64;
                b[deep][col] = k + deep < p.depth && col < columns ? load(w[(i64)(k + deep) * p.width + col]) : 0.0f;
            }
            __syncthreads();
#pragma unroll
            for (int kk = 0; kk < 16; kk++)
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) sums[i][j] += a[kk][r + i] * b[kk][c + j];
        }
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            if (r + i < rows && c + j < columns) ((T *)p.y)[(i64)(first + r + i) * p.width + column + c + j] = store<T>(sums[i][j]);
}
#define BACK(T, ending) extern "C" __global__ void __launch_bounds__(256) back_##ending(Back p) { back<T>(p); }
FLOATS(BACK)

// On the matrix units: tiles of 128 × 128, 8 warps of 64 × 32 each, 32 deep and two at a time in shared memory. Widths are
// multiples of 8. An operand lies there with the dimension that is summed over along its rows (DEEP + 8 apart), or across
// them (128 + 8 apart).
#define DEEP 32
#define ALONG (DEEP + 8)
#define ACROSS (128 + 8)

template <typename T, bool leftAcross> __device__ __forceinline__ void multiplyTiles(float sums[4][4][4], const T *a, const T *b, int r, int c) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int kk = 0; kk < DEEP; kk += 16) {
        u32 left[4][4], right[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (leftAcross) transposed(left[i], shared(&a[(kk + lane / 16 * 8 + lane % 8) * ACROSS + r + 16 * i + lane / 8 % 2 * 8]));
            else matrices(left[i], shared(&a[(r + 16 * i + lane % 16) * ALONG + kk + lane / 16 * 8]));
        }
#pragma unroll
        for (int j = 0; j < 2; j++) transposed(right[j], shared(&b[(kk + lane / 8 % 2 * 8 + lane % 8) * ACROSS + c + 16 * j + lane / 16 * 8]));
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) multiply(sums[i][j], left[i], &right[j / 2][j % 2 * 2], T());
    }
}

template <typename T> __device__ __forceinline__ void storeTiles(T *y, i64 pitch, float sums[4][4][4], int r, int c, int rows, int columns) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int n = 0; n < 4; n += 2) {
                int row = r + 16 * i + lane / 4 + n * 4, col = c + 8 * j + lane % 4 * 2;
                if (row >= rows || col >= columns) continue;
                T two[2] = {store<T>(sums[i][j][n]), store<T>(sums[i][j][n + 1])};
                u32 bits = (u32)*(unsigned short *)&two[0] | (u32)*(unsigned short *)&two[1] << 16;
                *(u32 *)(y + row * pitch + col) = bits;
            }
}

template <typename T> __device__ void matrixBack(const Back &p) {
    __shared__ __align__(16) T a[2][128 * ALONG], b[2][DEEP * ACROSS];
    int e = before(p.tiles, p.experts, blockIdx.y);
    if (e < 0) return;
    int first = p.offsets[e] + (blockIdx.y - p.tiles[e]) * 128, rows = min(128, p.offsets[e + 1] - first);
    int column = blockIdx.x * 128, columns = min(128, p.width - column);
    int warp = threadIdx.x / 32, r = warp / 4 * 64, c = warp % 4 * 32;
    int line = threadIdx.x / 4, part = threadIdx.x % 4 * 8;       // of rows, and of DEEP
    int deepLine = threadIdx.x / 16, widePart = threadIdx.x % 16 * 8; // of DEEP, and of columns
    bool wide = widePart < columns;
    i64 source[2], own[2];
    bool has[2];
    for (int i = 0; i < 2; i++) {
        int n = line + 64 * i;
        has[i] = n < rows;
        own[i] = has[i] ? first + n : 0;
        source[i] = has[i] && p.token ? p.token[first + n] : own[i];
    }
    int steps = (p.depth + DEEP - 1) / DEEP, all = p.x2 ? 2 * steps : steps;
    auto fetch = [&](int stage, int step) {
        bool second = step >= steps;
        const T *x = (const T *)(second ? p.x2 : p.x), *w = (const T *)(second ? p.weight2 : p.weight) + (i64)e * p.depth * p.width + column;
        int k = (second ? step - steps : step) * DEEP;
        for (int i = 0; i < 2; i++) {
            bool deep = k + part < p.depth;
            copy16(shared(&a[stage][(line + 64 * i) * ALONG + part]), x + (second ? own[i] : source[i]) * p.depth + (deep ? k + part : 0), has[i] && deep);
            int at = deepLine + 16 * i;
            bool some = wide && k + at < p.depth;
            copy16(shared(&b[stage][at * ACROSS + widePart]), w + (some ? (i64)(k + at) * p.width + widePart : 0), some);
        }
        asm volatile("cp.async.commit_group;");
    };
    float sums[4][4][4] = {};
    fetch(0, 0);
    for (int step = 0; step < all; step++) {
        if (step + 1 < all) {
            fetch((step + 1) & 1, step + 1);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        multiplyTiles<T, false>(sums, a[step & 1], b[step & 1], r, c);
        __syncthreads();
    }
    storeTiles((T *)p.y + (i64)first * p.width + column, p.width, sums, r, c, rows, columns);
}
extern "C" __global__ void __launch_bounds__(256, 2) matrix_back_bf16(Back p) { matrixBack<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) matrix_back_f16(Back p) { matrixBack<__half>(p); }

// Y = Lᵀ·R over the rows of each expert, which are those of a token where that is given.
struct OverRows {
    const void *left, *right; void *y; // [·, height], [·, width]; [experts, height, width]
    const int *leftToken, *rightToken, *offsets;
    int height, width;
};

template <typename T> __device__ void overRows(const OverRows &p) {
    __shared__ float a[16][64 + 4], b[16][64 + 4];
    int e = blockIdx.z, begin = p.offsets[e], end = p.offsets[e + 1];
    int line = blockIdx.y * 64, lines = min(64, p.height - line), column = blockIdx.x * 64, columns = min(64, p.width - column);
    int r = threadIdx.x / 16 * 4, c = threadIdx.x % 16 * 4;
    float sums[4][4] = {};
    for (int row = begin; row < end; row += 16) {
        __syncthreads();
        for (int i = 0; i < 4; i++) {
            int deep = threadIdx.x / 64 + 4 * i, at = threadIdx.x % 64, n = row + deep;
            a[deep][at] = n < end && at < lines ? load(((const T *)p.left)[(i64)(p.leftToken ? p.leftToken[n] : n) * p.height + line + at]) : 0.0f;
            b[deep][at] = n < end && at < columns ? load(((const T *)p.right)[(i64)(p.rightToken ? p.rightToken[n] : n) * p.width + column + at]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < 16; kk++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += a[kk][r + i] * b[kk][c + j];
    }
    T *y = (T *)p.y + ((i64)e * p.height + line) * p.width + column;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            if (r + i < lines && c + j < columns) y[(i64)(r + i) * p.width + c + j] = store<T>(sums[i][j]);
}
#define OVER_ROWS(T, ending) extern "C" __global__ void __launch_bounds__(256) over_rows_##ending(OverRows p) { overRows<T>(p); }
FLOATS(OVER_ROWS)

template <typename T> __device__ void matrixOverRows(const OverRows &p) {
    __shared__ __align__(16) T a[2][DEEP * ACROSS], b[2][DEEP * ACROSS];
    int e = blockIdx.z, begin = p.offsets[e], end = p.offsets[e + 1];
    int line = blockIdx.y * 128, lines = min(128, p.height - line), column = blockIdx.x * 128, columns = min(128, p.width - column);
    int warp = threadIdx.x / 32, r = warp / 4 * 64, c = warp % 4 * 32;
    int deepLine = threadIdx.x / 16, part = threadIdx.x % 16 * 8;
    auto fetch = [&](int stage, int row) {
        for (int i = 0; i < 2; i++) {
            int at = deepLine + 16 * i, n = row + at;
            bool left = n < end && part < lines, right = n < end && part < columns;
            i64 l = left ? (i64)(p.leftToken ? p.leftToken[n] : n) * p.height + line + part : 0;
            i64 q = right ? (i64)(p.rightToken ? p.rightToken[n] : n) * p.width + column + part : 0;
            copy16(shared(&a[stage][at * ACROSS + part]), (const T *)p.left + l, left);
            copy16(shared(&b[stage][at * ACROSS + part]), (const T *)p.right + q, right);
        }
        asm volatile("cp.async.commit_group;");
    };
    float sums[4][4][4] = {};
    int stage = 0;
    if (begin < end) fetch(0, begin);
    for (int row = begin; row < end; row += DEEP, stage ^= 1) {
        if (row + DEEP < end) {
            fetch(stage ^ 1, row + DEEP);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        multiplyTiles<T, true>(sums, a[stage], b[stage], r, c);
        __syncthreads();
    }
    storeTiles((T *)p.y + ((i64)e * p.height + line) * p.width + column, p.width, sums, r, c, lines, columns);
}
extern "C" __global__ void __launch_bounds__(256, 2) matrix_over_rows_bf16(OverRows p) { matrixOverRows<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) matrix_over_rows_f16(OverRows p) { matrixOverRows<__half>(p); }

// The derivative of an activation.
__device__ __forceinline__ float slope(float x, int a) {
    switch (a) {
    case RELU: return x > 0.0f ? 1.0f : 0.0f;
    case RELU2: return 2.0f * fmaxf(x, 0.0f);
    case GELU: return 0.5f * (1.0f + erff(x * 0.70710678118654752f)) + x * 0.39894228040143268f * expf(-0.5f * x * x);
    case GELU_TANH: {
        float t = tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x));
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.79788456080286536f * (1.0f + 3.0f * 0.044715f * x * x);
    }
    case QUICK_GELU: { float s = sigmoid(1.702f * x); return s + 1.702f * x * s * (1.0f - s); }
    case SILU: { float s = sigmoid(x); return s + x * s * (1.0f - s); }
    case MISH: { float t = tanhf(softplus(x)); return t + x * (1.0f - t * t) * sigmoid(x); }
    case HARD_SWISH: return x <= -3.0f ? 0.0f : x >= 3.0f ? 1.0f : x / 3.0f + 0.5f;
    case SIGMOID: { float s = sigmoid(x); return s * (1.0f - s); }
    case TANH: { float t = tanhf(x); return 1.0f - t * t; }
    }
    return 1.0f;
}

// What happens to hidden values between the products, a block for each row. With P and F what fc1 and fc3 gave, B the gradient
// by the activated values but for the score s: activated becomes s·f(P)·F, byHidden, which has B, becomes s·B·F·f'(P), byFactor
// s·B·f(P), and byScores the gradient by the slot's score.
struct Hidden {
    const void *hidden, *factor, *dy, *bias; void *activated, *byHidden, *byFactor;
    const float *scores; float *byScores;
    const int *token, *slot, *offsets;
    int experts, h, d, activation;
};

template <typename T, int W> struct __align__(sizeof(T) * W) Some { T x[W]; };

// A thread computes W columns side by side.
template <typename T, int W> __device__ void throughHidden(const Hidden &p) {
    int row = blockIdx.x;
    if (row >= p.offsets[p.experts]) return;
    int slot = p.slot[row];
    float s = p.scores[slot], sum = 0.0f;
    i64 at = (i64)row * p.h;
    for (int i = threadIdx.x * W; i < p.h; i += blockDim.x * W) {
        Some<T, W> x = *(const Some<T, W> *)((const T *)p.hidden + at + i), b = *(const Some<T, W> *)((const T *)p.byHidden + at + i);
        Some<T, W> factor, activated, byFactor;
        if (p.factor) factor = *(const Some<T, W> *)((const T *)p.factor + at + i);
#pragma unroll
        for (int j = 0; j < W; j++) {
            float y = load(x.x[j]), by = load(b.x[j]), f = p.factor ? load(factor.x[j]) : 1.0f, a, rise;
            if (sizeof(T) == 2 && p.activation == GELU) {
                float below = normalBelow(y);
                a = y * below, rise = below + y * 0.39894228040143268f * __expf(-0.5f * y * y);
            } else {
                a = activate(y, p.activation), rise = slope(y, p.activation);
            }
            byFactor.x[j] = store<T>(s * by * a);
            sum += by * a * f;
            activated.x[j] = store<T>(s * a * f);
            b.x[j] = store<T>(s * by * f * rise);
        }
        if (p.factor) *(Some<T, W> *)((T *)p.byFactor + at + i) = byFactor;
        *(Some<T, W> *)((T *)p.activated + at + i) = activated;
        *(Some<T, W> *)((T *)p.byHidden + at + i) = b;
    }
    if (p.bias) {
        const T *dy = (const T *)p.dy + (i64)p.token[row] * p.d, *bias = (const T *)p.bias + (i64)before(p.offsets, p.experts, row) * p.d;
        for (int i = threadIdx.x; i < p.d; i += blockDim.x) sum += load(dy[i]) * load(bias[i]);
    }
    sum = blockSum(sum);
    if (threadIdx.x == 0) p.byScores[slot] = sum;
}
#define THROUGH_HIDDEN(T, ending) \
    extern "C" __global__ void __launch_bounds__(256) through_hidden_##ending(Hidden p) { throughHidden<T, 1>(p); } \
    extern "C" __global__ void __launch_bounds__(256) through_hidden_wide_##ending(Hidden p) { throughHidden<T, 16 / sizeof(T)>(p); }
FLOATS(THROUGH_HIDDEN)

// activated = f(hidden)·factor for all rows, of which those that nobody has become zeros in hidden and factor.
template <typename T> __device__ void activateRows(const Hidden &p) {
    int row = blockIdx.x;
    bool some = row < p.offsets[p.experts];
    i64 at = (i64)row * p.h;
    for (int i = threadIdx.x; i < p.h; i += blockDim.x) {
        if (!some) {
            ((T *)p.hidden)[at + i] = store<T>(0.0f);
            if (p.factor) ((T *)p.factor)[at + i] = store<T>(0.0f);
            continue;
        }
        float a = activate(load(((const T *)p.hidden)[at + i]), p.activation);
        if (p.factor) a *= load(((const T *)p.factor)[at + i]);
        ((T *)p.activated)[at + i] = store<T>(a);
    }
}
#define ACTIVATE_ROWS(T, ending) extern "C" __global__ void __launch_bounds__(256) activate_rows_##ending(Hidden p) { activateRows<T>(p); }
FLOATS(ACTIVATE_ROWS)

// Y = Σ score·x over the rows of each expert; without scores each counts once. 8 lines of threads take rows in turn.
struct SumRows {
    const void *x; void *y; // [·, width]; [experts, width]
    const float *scores;
    const int *token, *slot, *offsets;
    int width;
};
template <typename T> __device__ void sumRows(const SumRows &p) {
    __shared__ float parts[8][32];
    int e = blockIdx.y, column = blockIdx.x * 32 + threadIdx.x % 32, line = threadIdx.x / 32;
    float sum = 0.0f;
    if (column < p.width)
        for (int row = p.offsets[e] + line; row < p.offsets[e + 1]; row += 8) {
            float x = load(((const T *)p.x)[(i64)(p.token ? p.token[row] : row) * p.width + column]);
            sum += p.scores ? p.scores[p.slot[row]] * x : x;
        }
    parts[line][threadIdx.x % 32] = sum;
    __syncthreads();
    if (line > 0 || column >= p.width) return;
    for (int i = 1; i < 8; i++) sum += parts[i][threadIdx.x];
    ((T *)p.y)[(i64)e * p.width + column] = store<T>(sum);
}
#define SUM_ROWS(T, ending) extern "C" __global__ void __launch_bounds__(256) sum_rows_##ending(SumRows p) { sumRows<T>(p); }
FLOATS(SUM_ROWS)

// The gradient by each token: what comes through the router, and that by its rows in the order of its slots.
struct CombineBack { const void *byRow; const float *throughRouter; const int *row; void *y; int d, k; };
template <typename T, int W> __device__ void combineBack(const CombineBack &p) {
    i64 slot = (i64)blockIdx.x * p.k, at = (i64)blockIdx.x * p.d;
    for (int column = threadIdx.x * W; column < p.d; column += blockDim.x * W) {
        float sums[W];
#pragma unroll
        for (int i = 0; i < W; i++) sums[i] = p.throughRouter[at + column + i];
        for (int j = 0; p.byRow && j < p.k; j++) {
            int row = p.row[slot + j];
            if (row < 0) continue;
            Some<T, W> part = *(const Some<T, W> *)((const T *)p.byRow + (i64)row * p.d + column);
#pragma unroll
            for (int i = 0; i < W; i++) sums[i] += load(part.x[i]);
        }
        Some<T, W> out;
#pragma unroll
        for (int i = 0; i < W; i++) out.x[i] = store<T>(sums[i]);
        *(Some<T, W> *)((T *)p.y + at + column) = out;
    }
}
#define COMBINE_BACK(T, ending) \
    extern "C" __global__ void __launch_bounds__(256) combine_back_##ending(CombineBack p) { combineBack<T, 1>(p); } \
    extern "C" __global__ void __launch_bounds__(256) combine_back_wide_##ending(CombineBack p) { combineBack<T, 16 / sizeof(T)>(p); }
FLOATS(COMBINE_BACK)
