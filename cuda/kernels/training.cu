// What training needs beside the model's own operators: losses, gradients of normalisations and of tables, optimizers.
#include "common.cuh"

// --- CrossEntropy -------------------------------------------------------------------------------------------------------

struct CrossEntropy {
    const void *logits, *labels; void *y;        // [lines, classes], int64 or int32 [lines]; the logits' gradient
    const float *gradient;                       // of the loss
    float *loss; i64 *count, *correct;           // outputs, or null
    double *losses; int *counted, *right;        // [lines]
    int *fault;
    i64 lines; int classes, labelBytes; i64 ignore; float smoothing, z;
};
__device__ __forceinline__ i64 label(const CrossEntropy &p, i64 line) {
    return p.labelBytes == 8 ? ((const i64 *)p.labels)[line] : ((const int *)p.labels)[line];
}

// A block for each line: its loss, whether it counts, and whether the first of the largest logits is the label's.
template <typename T> __device__ void lineLoss(const CrossEntropy &p) {
    i64 line = blockIdx.x, l = label(p, line);
    bool counts = l != p.ignore;
    if (counts && (l < 0 || l >= p.classes)) { if (threadIdx.x == 0) *p.fault = 1; counts = false; }
    if (!counts) {
        if (threadIdx.x == 0) p.losses[line] = 0.0, p.counted[line] = 0, p.right[line] = 0;
        return;
    }
    const T *x = (const T *)p.logits + line * p.classes;
    float most = -INFINITY, sum = 0.0f, total = 0.0f;
    for (int i = threadIdx.x; i < p.classes; i += blockDim.x) most = fmaxf(most, load(x[i]));
    most = blockMax(most);
    float first = 3e38f;
    for (int i = threadIdx.x; i < p.classes; i += blockDim.x) {
        float v = load(x[i]);
        sum += expf(v - most), total += v;
        if (v == most) first = fminf(first, (float)i); // exact: classes are fewer than 2^24
    }
    sum = blockSum(sum), total = blockSum(total);
    first = -blockMax(-first);
    if (threadIdx.x) return;
    double logZ = (double)most + log((double)sum);
    double at = load(x[l]);
    p.losses[line] = logZ - (1.0 - p.smoothing) * at - (double)p.smoothing * total / p.classes + p.z * logZ * logZ;
    p.counted[line] = 1, p.right[line] = first == (float)l;
}
#define LINE_LOSS(T, ending) extern "C" __global__ void __launch_bounds__(512) line_loss_##ending(CrossEntropy p) { lineLoss<T>(p); }
FLOATS(LINE_LOSS)

// One block of 256: each thread adds every 256th line, and one thread the threads' sums.
extern "C" __global__ void __launch_bounds__(256) total_loss(CrossEntropy p) {
    __shared__ double losses[256];
    __shared__ int counts[256], rights[256];
    double loss = 0.0;
    int count = 0, right = 0;
    for (i64 i = threadIdx.x; i < p.lines; i += 256) {
        count += p.counted[i];
        if (p.losses) loss += p.losses[i], right += p.right[i];
    }
    losses[threadIdx.x] = loss, counts[threadIdx.x] = count, rights[threadIdx.x] = right;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < 256; i++) loss += losses[i], count += counts[i], right += rights[i];
    if (p.loss) *p.loss = count ? (float)(loss / count) : 0.0f;
    if (p.count) *p.count = count;
    if (p.correct) *p.correct = right;
}

extern "C" __global__ void count_labels(CrossEntropy p) {
    i64 line = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (line < p.lines) p.counted[line] = label(p, line) != p.ignore;
}

template <typename T> __device__ void lossGradient(const CrossEntropy &p) {
    i64 line = blockIdx.x, l = label(p, line);
    const T *x = (const T *)p.logits + line * p.classes;
    T *y = (T *)p.y + line * p.classes;
    bool counts = l != p.ignore;
    if (counts && (l < 0 || l >= p.classes)) { if (threadIdx.x == 0) *p.fault = 1; counts = false; }
    if (!counts) {
        for (int i = threadIdx.x; i < p.classes; i += blockDim.x) y[i] = store<T>(0.0f);
        return;
    }
    float most = -INFINITY, sum = 0.0f;
    for (int i = threadIdx.x; i < p.classes; i += blockDim.x) most = fmaxf(most, load(x[i]));
    most = blockMax(most);
    for (int i = threadIdx.x; i < p.classes; i += blockDim.x) sum += expf(load(x[i]) - most);
    sum = blockSum(sum);
    float g = *p.gradient / (float)*p.count, scale = (1.0f + 2.0f * p.z * (most + logf(sum))) / sum, even = p.smoothing / p.classes;
    for (int i = threadIdx.x; i < p.classes; i += blockDim.x) {
        float d = expf(load(x[i]) - most) * scale - even;
        if (i == l) d -= 1.0f - p.smoothing;
        y[i] = store<T>(g * d);
    }
}
#define LOSS_GRADIENT(T, ending) extern "C" __global__ void __launch_bounds__(512) loss_gradient_##ending(CrossEntropy p) { lossGradient<T>(p); }
FLOATS(LOSS_GRADIENT)

// --- Gradients of LayerNormalization and RMSNormalization ---------------------------------------------------------------

#define LINES 64 // lines that a block adds up
struct NormGradient {
    const void *g, *x, *scale; void *dx, *dscale, *dbias; // scale may be null
    float *mean, *inverse, *partialScale, *partialBias;   // [lines]; [pieces, length]
    i64 lines; int length, center; float epsilon;
};

template <typename T> __device__ void normStatistics(const NormGradient &p) {
    const T *x = (const T *)p.x + (i64)blockIdx.x * p.length;
    float mean = 0.0f, square = 0.0f;
    if (p.center) {
        for (int i = threadIdx.x; i < p.length; i += blockDim.x) mean += load(x[i]);
        mean = blockSum(mean) / p.length;
    }
    for (int i = threadIdx.x; i < p.length; i += blockDim.x) { float v = load(x[i]) - mean; square += v * v; }
    square = blockSum(square);
    if (threadIdx.x == 0) p.mean[blockIdx.x] = mean, p.inverse[blockIdx.x] = 1.0f / sqrtf(square / p.length + p.epsilon);
}
template <typename T> __device__ void normSums(const NormGradient &p) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= p.length) return;
    i64 first = (i64)blockIdx.y * LINES, end = min(first + LINES, p.lines);
    float scale = 0.0f, bias = 0.0f;
    for (i64 line = first; line < end; line++) {
        float g = load(((const T *)p.g)[line * p.length + column]);
        bias += g;
        scale += g * (load(((const T *)p.x)[line * p.length + column]) - p.mean[line]) * p.inverse[line];
    }
    p.partialScale[(i64)blockIdx.y * p.length + column] = scale;
    p.partialBias[(i64)blockIdx.y * p.length + column] = bias;
}
template <typename T> __device__ void normTotals(const NormGradient &p) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= p.length) return;
    i64 pieces = (p.lines + LINES - 1) / LINES;
    double scale = 0.0, bias = 0.0;
    for (i64 i = 0; i < pieces; i++) scale += p.partialScale[i * p.length + column], bias += p.partialBias[i * p.length + column];
    if (p.dscale) ((T *)p.dscale)[column] = store<T>((float)scale);
    if (p.dbias) ((T *)p.dbias)[column] = store<T>((float)bias);
}
// dx may lie where g or x does: each thread writes what it alone has read.
template <typename T> __device__ void normBack(const NormGradient &p) {
    i64 at = (i64)blockIdx.x * p.length;
    float mean = p.mean[blockIdx.x], inverse = p.inverse[blockIdx.x], a = 0.0f, b = 0.0f;
    for (int i = threadIdx.x; i < p.length; i += blockDim.x) {
        float g = load(((const T *)p.g)[at + i]) * (p.scale ? load(((const T *)p.scale)[i]) : 1.0f);
        a += g, b += g * (load(((const T *)p.x)[at + i]) - mean) * inverse;
    }
    a = p.center ? blockSum(a) / p.length : 0.0f;
    b = blockSum(b) / p.length;
    for (int i = threadIdx.x; i < p.length; i += blockDim.x) {
        float g = load(((const T *)p.g)[at + i]) * (p.scale ? load(((const T *)p.scale)[i]) : 1.0f);
        float normal = (load(((const T *)p.x)[at + i]) - mean) * inverse;
        ((T *)p.dx)[at + i] = store<T>(inverse * (g - a - normal * b));
    }
}
#define NORM(T, ending) \
    extern "C" __global__ void __launch_bounds__(512) norm_statistics_##ending(NormGradient p) { normStatistics<T>(p); } \
    extern "C" __global__ void __launch_bounds__(256) norm_sums_##ending(NormGradient p) { normSums<T>(p); } \
    extern "C" __global__ void __launch_bounds__(256) norm_totals_##ending(NormGradient p) { normTotals<T>(p); } \
    extern "C" __global__ void __launch_bounds__(512) norm_back_##ending(NormGradient p) { normBack<T>(p); }
FLOATS(NORM)

// --- GatherGradient: y[outer, rows, inner] from g[outer, n, inner] -------------------------------------------------------

struct GatherBack { const void *g, *indices; void *y; int *fault; i64 rows, inner; int n, indexBytes; };
__device__ __forceinline__ i64 indexAt(const GatherBack &p, int i) {
    i64 x = p.indexBytes == 8 ? ((const i64 *)p.indices)[i] : ((const int *)p.indices)[i];
    return x < 0 ? x + p.rows : x;
}
// A block for each index: that of the first of equal ones adds up their slices, in their order. y is zeros before.
template <typename T> __device__ void gatherBack(const GatherBack &p) {
    __shared__ int found[256], counts[8];
    int own = blockIdx.x;
    i64 index = indexAt(p, own);
    if (index < 0 || index >= p.rows) { if (threadIdx.x == 0) *p.fault = 1; return; }
    int before = 0;
    for (int i = threadIdx.x; i < own && !before; i += 256) before = indexAt(p, i) == index;
    if (__syncthreads_or(before)) return;
    const T *g = (const T *)p.g + (i64)blockIdx.y * p.n * p.inner;
    T *y = (T *)p.y + ((i64)blockIdx.y * p.rows + index) * p.inner;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (i64 base = 0; base < p.inner; base += 4 * 256) { // four columns of a thread at a time
        float sums[4] = {};
        for (int first = own; first < p.n; first += 256) {
            bool same = first + threadIdx.x < p.n && indexAt(p, first + threadIdx.x) == index;
            unsigned votes = __ballot_sync(~0u, same);
            __syncthreads();
            if (lane == 0) counts[warp] = __popc(votes);
            __syncthreads();
            int place = __popc(votes & ((1u << lane) - 1)), total = 0;
            for (int w = 0; w < 8; w++) {
                if (w < warp) place += counts[w];
                total += counts[w];
            }
            if (same) found[place] = first + threadIdx.x;
            __syncthreads();
            for (int k = 0; k < total; k++)
                for (int c = 0; c < 4; c++) {
                    i64 column = base + c * 256 + threadIdx.x;
                    if (column < p.inner) sums[c] += load(g[(i64)found[k] * p.inner + column]);
                }
        }
        for (int c = 0; c < 4; c++) {
            i64 column = base + c * 256 + threadIdx.x;
            if (column < p.inner) y[column] = store<T>(sums[c]);
        }
    }
}
#define GATHER_BACK(T, ending) extern "C" __global__ void __launch_bounds__(256) gather_back_##ending(GatherBack p) { gatherBack<T>(p); }
FLOATS(GATHER_BACK)

// --- Optimizers ----------------------------------------------------------------------------------------------------------

struct Adam {
    const float *w, *g, *m, *v, *scale, *decay, *keep, *beta1, *rest1, *beta2, *rest2, *rate, *root, *epsilon;
    const unsigned char *apply; float *newW, *newM, *newV; i64 n;
};
extern "C" __global__ void __launch_bounds__(256) adam(Adam p) {
    i64 i = (i64)blockIdx.x * 256 + threadIdx.x;
    if (i >= p.n) return;
    float w = p.w[i], m = p.m[i], v = p.v[i];
    if (!p.apply || *p.apply) {
        float g = *p.scale * p.g[i] + *p.decay * w;
        m = *p.beta1 * m + *p.rest1 * g;
        v = *p.beta2 * v + *p.rest2 * g * g;
        w = *p.keep * w - *p.rate * m / (*p.root * sqrtf(v) + *p.epsilon);
    }
    if (p.newW) p.newW[i] = w;
    if (p.newM) p.newM[i] = m;
    if (p.newV) p.newV[i] = v;
}

#define SQUARES 16384 // elements that a block adds up
struct Squares { const float *x; double *partial; float *y; i64 n; };
__device__ __forceinline__ double addUp(double sum) { // over 256 threads; the first one gets it
    __shared__ double sums[256];
    sums[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];
}
extern "C" __global__ void __launch_bounds__(256) squares(Squares p) {
    i64 first = (i64)blockIdx.x * SQUARES, end = min(first + SQUARES, p.n);
    double sum = 0.0;
    for (i64 i = first + threadIdx.x; i < end; i += 256) sum += (double)p.x[i] * p.x[i];
    sum = addUp(sum);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
}
extern "C" __global__ void __launch_bounds__(256) total_squares(Squares p) {
    i64 pieces = (p.n + SQUARES - 1) / SQUARES;
    double sum = 0.0;
    for (i64 i = threadIdx.x; i < pieces; i += 256) sum += p.partial[i];
    sum = addUp(sum);
    if (threadIdx.x == 0) *p.y = (float)sum;
}
