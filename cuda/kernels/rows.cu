// Operators that look at lines of elements: reductions, softmax, normalisations. A block computes a line, whose elements
// lie inner apart.
#include "common.cuh"

struct Lines { const void *x; void *y; i64 lines; int length, inner; };

#define LINE(p) \
    i64 line = blockIdx.x; \
    i64 base = line / p.inner * p.inner * p.length + line % p.inner;

#define REDUCTION(name, first, none, join, last) \
    REDUCTION_AS(name, float, f32, first, none, join, last) REDUCTION_AS(name, __half, f16, first, none, join, last) \
    REDUCTION_AS(name, __nv_bfloat16, bf16, first, none, join, last)
#define REDUCTION_AS(name, T, ending, first, none, join, last) \
    extern "C" __global__ void name##_##ending(Lines p) { \
        LINE(p) \
        const T *in = (const T *)p.x + base; \
        float total = none, n = (float)p.length; (void)n; \
        auto f = [](float a, float b) { return join; }; \
        for (int i = threadIdx.x; i < p.length; i += blockDim.x) { float x = load(in[(i64)i * p.inner]); total = f(total, first); } \
        total = blockReduce(total, none, f); \
        if (threadIdx.x == 0) ((T *)p.y)[line] = store<T>(last); }

REDUCTION(ReduceSum, x, 0.0f, a + b, total)
REDUCTION(ReduceMean, x, 0.0f, a + b, total / n)
REDUCTION(ReduceMax, x, -INFINITY, (a != a || b != b ? a + b : fmaxf(a, b)), total)
REDUCTION(ReduceMin, x, INFINITY, (a != a || b != b ? a + b : fminf(a, b)), total)
REDUCTION(ReduceProd, x, 1.0f, a * b, total)
REDUCTION(ReduceL1, fabsf(x), 0.0f, a + b, total)
REDUCTION(ReduceL2, x * x, 0.0f, a + b, sqrtf(total))
REDUCTION(ReduceSumSquare, x * x, 0.0f, a + b, total)
REDUCTION(ReduceLogSum, x, 0.0f, a + b, logf(total))

template <typename T, bool logarithm> __device__ void softmax(Lines p) {
    LINE(p)
    const T *x = (const T *)p.x + base;
    T *y = (T *)p.y + base;
    float most = -INFINITY, sum = 0.0f;
    for (int i = threadIdx.x; i < p.length; i += blockDim.x) most = fmaxf(most, load(x[(i64)i * p.inner]));
    most = blockMax(most);
    for (int i = threadIdx.x; i < p.length; i += blockDim.x) sum += expf(load(x[(i64)i * p.inner]) - most);
    sum = blockSum(sum);
    float scale = logarithm ? logf(sum) : 1.0f / sum;
    for (int i = threadIdx.x; i < p.length; i += blockDim.x) {
        float v = load(x[(i64)i * p.inner]) - most;
        y[(i64)i * p.inner] = store<T>(logarithm ? v - scale : expf(v) * scale);
    }
}
#define SOFTMAX(T, ending) \
    extern "C" __global__ void Softmax_##ending(Lines p) { softmax<T, false>(p); } \
    extern "C" __global__ void LogSoftmax_##ending(Lines p) { softmax<T, true>(p); }
FLOATS(SOFTMAX)

// y = (x − mean)·deviation⁻¹·scale + bias; without center the mean counts as 0.
struct Normalization { const void *x, *scale, *bias; void *y; float *mean, *deviation; int length, center; float epsilon; };
template <typename T> __device__ void normalize(Normalization p) {
    const T *x = (const T *)p.x + (i64)blockIdx.x * p.length, *scale = (const T *)p.scale, *bias = (const T *)p.bias;
    T *y = (T *)p.y + (i64)blockIdx.x * p.length;
    float mean = 0.0f, square = 0.0f;
    if (p.center) {
        for (int i = threadIdx.x; i < p.length; i += blockDim.x) mean += load(x[i]);
        mean = blockSum(mean) / p.length;
    }
    for (int i = threadIdx.x; i < p.length; i += blockDim.x) { float v = load(x[i]) - mean; square += v * v; }
    float inverse = 1.0f / sqrtf(blockSum(square) / p.length + p.epsilon);
    if (threadIdx.x == 0 && p.mean) p.mean[blockIdx.x] = mean;
    if (threadIdx.x == 0 && p.deviation) p.deviation[blockIdx.x] = inverse;
    for (int i = threadIdx.x; i < p.length; i += blockDim.x) {
        float v = (load(x[i]) - mean) * inverse * load(scale[i]);
        y[i] = store<T>(bias ? v + load(bias[i]) : v);
    }
}
#define NORMALIZE(T, ending) extern "C" __global__ void normalize_##ending(Normalization p) { normalize<T>(p); }
FLOATS(NORMALIZE)

// Gradients of softmax, from that of its result and the result.
struct LinesGradient { const void *dy, *y; void *dx; i64 lines; int length, inner; };
template <typename T, bool logarithm> __device__ void softmaxGradient(LinesGradient p) {
    LINE(p)
    const T *dy = (const T *)p.dy + base, *y = (const T *)p.y + base;
    T *dx = (T *)p.dx + base;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < p.length; i += blockDim.x) {
        float g = load(dy[(i64)i * p.inner]);
        sum += logarithm ? g : g * load(y[(i64)i * p.inner]);
    }
    sum = blockSum(sum);
    for (int i = threadIdx.x; i < p.length; i += blockDim.x) {
        float g = load(dy[(i64)i * p.inner]), v = load(y[(i64)i * p.inner]);
        dx[(i64)i * p.inner] = store<T>(logarithm ? g - expf(v) * sum : v * (g - sum));
    }
}
#define SOFTMAX_GRADIENT(T, ending) \
    extern "C" __global__ void SoftmaxGradient_##ending(LinesGradient p) { softmaxGradient<T, false>(p); } \
    extern "C" __global__ void LogSoftmaxGradient_##ending(LinesGradient p) { softmaxGradient<T, true>(p); }
FLOATS(SOFTMAX_GRADIENT)

// Reductions over the middle of [outer, length, inner] where inner is wide: a block of 32 × 8 threads goes down a part of
// 32 columns, whose results another kernel joins in the order of parts.
struct Columns { const void *x; void *y; float *parts; i64 outer; int length, inner, part, count; };

#define COLUMNS(name, first, none, join, last) \
    COLUMNS_AS(name, float, f32, first, none, join, last) COLUMNS_AS(name, __half, f16, first, none, join, last) \
    COLUMNS_AS(name, __nv_bfloat16, bf16, first, none, join, last)
#define COLUMNS_AS(name, T, ending, first, none, join, last) \
    extern "C" __global__ void name##_columns_##ending(Columns p) { \
        __shared__ float rows[8][33]; \
        auto f = [](float a, float b) { return join; }; \
        int tx = threadIdx.x % 32, ty = threadIdx.x / 32, wide = (p.inner + 31) / 32; \
        i64 o = blockIdx.x / wide; \
        int column = (int)(blockIdx.x % wide) * 32 + tx, begin = blockIdx.y * p.part, end = min(begin + p.part, p.length); \
        float total = none, n = (float)p.length; (void)n; \
        if (column < p.inner) \
            for (int i = begin + ty; i < end; i += 8) { \
                float x = load(((const T *)p.x)[(o * p.length + i) * p.inner + column]); \
                total = f(total, first); \
            } \
        rows[ty][tx] = total; \
        __syncthreads(); \
        if (ty == 0 && column < p.inner) { \
            for (int i = 1; i < 8; i++) total = f(total, rows[i][tx]); \
            i64 at = o * p.inner + column; \
            if (p.count > 1) p.parts[blockIdx.y * p.outer * p.inner + at] = total; \
            else ((T *)p.y)[at] = store<T>(last); \
        } } \
    extern "C" __global__ void name##_join_##ending(Columns p) { \
        auto f = [](float a, float b) { return join; }; \
        i64 width = p.outer * p.inner, at = blockIdx.x * (i64)blockDim.x + threadIdx.x; \
        if (at >= width) return; \
        float total = p.parts[at], n = (float)p.length; (void)n; \
        for (int i = 1; i < p.count; i++) total = f(total, p.parts[i * width + at]); \
        ((T *)p.y)[at] = store<T>(last); }

COLUMNS(ReduceSum, x, 0.0f, a + b, total)
COLUMNS(ReduceMean, x, 0.0f, a + b, total / n)
COLUMNS(ReduceMax, x, -INFINITY, (a != a || b != b ? a + b : fmaxf(a, b)), total)
COLUMNS(ReduceMin, x, INFINITY, (a != a || b != b ? a + b : fminf(a, b)), total)
COLUMNS(ReduceProd, x, 1.0f, a * b, total)
COLUMNS(ReduceL1, fabsf(x), 0.0f, a + b, total)
COLUMNS(ReduceL2, x * x, 0.0f, a + b, sqrtf(total))
COLUMNS(ReduceSumSquare, x * x, 0.0f, a + b, total)
COLUMNS(ReduceLogSum, x, 0.0f, a + b, logf(total))
