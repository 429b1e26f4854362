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
