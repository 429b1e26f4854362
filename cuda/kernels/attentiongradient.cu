// The gradients of attention without the matrix of scores. A block first goes through all keys of one query, for the sum of its
// exponentials, the sum of its probabilities times their gradients, and the query's gradient; then another through all queries of
// one key, for the key's and the value's.
#include "common.cuh"

#define PIECE 128
#define MAX_SIZE 256

struct View { const void *at; i64 batch, head, vector; };
struct AttentionGradient {
    View q, k, v, dy, dq, dk, dv;
    const void *mask; // of the numbers' type, or bytes where boolean
    void *dscores;    // [batch, heads, queries, maskKeys], or null
    float *logSum, *mean; // [batch, heads, queries]: log Σexp of the scores, Σ P·dP
    i64 maskBatch, maskHead, maskQuery;
    int boolean, maskKeys;
    int heads, kvHeads, queries, keys, size, valueSize;
    int causal, left;
    float scale, softcap;
};

// seen reports whether a query sees a key by their places.
__device__ __forceinline__ bool seen(const AttentionGradient &p, int i, int j) {
    return (!p.causal || j <= i) && (p.left < 0 || j >= i - p.left);
}
// score finishes a product of a query, scaled before, and a key; slope is that of the softcap.
template <typename T> __device__ __forceinline__ float score(const AttentionGradient &p, float s, i64 line, int j, float &slope) {
    slope = 1.0f;
    if (p.softcap > 0.0f) {
        float t = tanhf(s / p.softcap);
        s = p.softcap * t, slope = 1.0f - t * t;
    }
    if (p.mask) {
        if (j >= p.maskKeys) s = -INFINITY;
        else if (p.boolean) s = ((const unsigned char *)p.mask)[line + j] ? s : -INFINITY;
        else s += load(((const T *)p.mask)[line + j]);
    }
    return s;
}

template <typename T> __device__ void attentionBackQuery(const AttentionGradient &p) {
    __shared__ float query[MAX_SIZE], gradient[MAX_SIZE], weights[PIECE];
    int i = blockIdx.x, h = blockIdx.y, b = blockIdx.z, kv = h / (p.heads / p.kvHeads);
    const T *q = (const T *)p.q.at + b * p.q.batch + h * p.q.head + i * p.q.vector, *dy = (const T *)p.dy.at + b * p.dy.batch + h * p.dy.head + i * p.dy.vector;
    const T *k = (const T *)p.k.at + b * p.k.batch + kv * p.k.head, *v = (const T *)p.v.at + b * p.v.batch + kv * p.v.head;
    T *dq = (T *)p.dq.at + b * p.dq.batch + h * p.dq.head + i * p.dq.vector;
    i64 line = b * p.maskBatch + h * p.maskHead + i * p.maskQuery, row = ((i64)b * p.heads + h) * p.queries + i;
    for (int d = threadIdx.x; d < p.size; d += PIECE) query[d] = load(q[d]) * p.scale;
    for (int d = threadIdx.x; d < p.valueSize; d += PIECE) gradient[d] = load(dy[d]);
    int from = p.left >= 0 ? max(0, i - p.left) : 0, to = p.causal ? min(p.keys, i + 1) : p.keys;
    auto product = [&](int j, float &s, float &dp, float &slope) {
        s = -INFINITY, dp = 0.0f, slope = 1.0f;
        if (j >= to) return;
        const T *key = k + j * p.k.vector, *value = v + j * p.v.vector;
        float sum = 0.0f;
        for (int d = 0; d < p.size; d++) sum += query[d] * load(key[d]);
        for (int d = 0; d < p.valueSize; d++) dp += gradient[d] * load(value[d]);
        s = score<T>(p, sum, line, j, slope);
    };
    __syncthreads();
    float most = -INFINITY, sum = 0.0f, mean = 0.0f, s, dp, slope;
    for (int first = from; first < to; first += PIECE) {
        product(first + threadIdx.x, s, dp, slope);
        float top = fmaxf(most, blockMax(s));
        float w = top == -INFINITY ? 0.0f : expf(s - top), keep = top == -INFINITY ? 1.0f : expf(most - top);
        sum = sum * keep + blockSum(w), mean = mean * keep + blockSum(w * dp);
        most = top;
    }
    float logSum = sum > 0.0f ? most + logf(sum) : INFINITY;
    mean = sum > 0.0f ? mean / sum : 0.0f;
    if (threadIdx.x == 0) p.logSum[row] = logSum, p.mean[row] = mean;
    if (p.dscores) // of keys that are not seen
        for (int j = threadIdx.x; j < p.maskKeys; j += PIECE) ((T *)p.dscores)[row * p.maskKeys + j] = store<T>(0.0f);
    __syncthreads();
    float result[MAX_SIZE / PIECE] = {};
    for (int first = from; first < to; first += PIECE) {
        int j = first + threadIdx.x;
        product(j, s, dp, slope);
        float ds = expf(s - logSum) * (dp - mean);
        if (p.dscores && j < to && j < p.maskKeys) ((T *)p.dscores)[row * p.maskKeys + j] = store<T>(ds);
        __syncthreads();
        weights[threadIdx.x] = ds * slope;
        __syncthreads();
        int count = min(PIECE, to - first);
        for (int c = 0; c < MAX_SIZE / PIECE; c++) {
            int d = c * PIECE + threadIdx.x;
            if (d >= p.size) continue;
            for (int n = 0; n < count; n++) result[c] += weights[n] * load(k[(first + n) * p.k.vector + d]);
        }
    }
    if (!p.dq.at) return;
    for (int c = 0; c < MAX_SIZE / PIECE; c++) {
        int d = c * PIECE + threadIdx.x;
        if (d < p.size) dq[d] = store<T>(result[c] * p.scale);
    }
}

template <typename T> __device__ void attentionBackKey(const AttentionGradient &p) {
    __shared__ float key[MAX_SIZE], value[MAX_SIZE], weights[PIECE], slopes[PIECE];
    int j = blockIdx.x, kv = blockIdx.y, b = blockIdx.z, group = p.heads / p.kvHeads;
    const T *k = (const T *)p.k.at + b * p.k.batch + kv * p.k.head + j * p.k.vector, *v = (const T *)p.v.at + b * p.v.batch + kv * p.v.head + j * p.v.vector;
    for (int d = threadIdx.x; d < p.size; d += PIECE) key[d] = load(k[d]);
    for (int d = threadIdx.x; d < p.valueSize; d += PIECE) value[d] = load(v[d]);
    __syncthreads();
    float byKey[MAX_SIZE / PIECE] = {}, byValue[MAX_SIZE / PIECE] = {};
    int from = p.causal ? j : 0, to = p.left >= 0 ? min(p.queries, j + p.left + 1) : p.queries;
    for (int h = kv * group; h < (kv + 1) * group; h++) {
        const T *q = (const T *)p.q.at + b * p.q.batch + h * p.q.head, *dy = (const T *)p.dy.at + b * p.dy.batch + h * p.dy.head;
        i64 rows = ((i64)b * p.heads + h) * p.queries;
        for (int first = from; first < to; first += PIECE) {
            int i = first + threadIdx.x;
            float w = 0.0f, ds = 0.0f;
            if (i < to && seen(p, i, j)) {
                float s = 0.0f, dp = 0.0f, slope;
                const T *query = q + i * p.q.vector, *gradient = dy + i * p.dy.vector;
                for (int d = 0; d < p.size; d++) s += load(query[d]) * p.scale * key[d];
                for (int d = 0; d < p.valueSize; d++) dp += load(gradient[d]) * value[d];
                s = score<T>(p, s, b * p.maskBatch + h * p.maskHead + i * p.maskQuery, j, slope);
                w = expf(s - p.logSum[rows + i]);
                ds = w * (dp - p.mean[rows + i]) * slope;
            }
            __syncthreads();
            weights[threadIdx.x] = w, slopes[threadIdx.x] = ds;
            __syncthreads();
            int count = min(PIECE, to - first);
            for (int c = 0; c < MAX_SIZE / PIECE; c++) {
                int d = c * PIECE + threadIdx.x;
                if (d < p.size) for (int n = 0; n < count; n++) byKey[c] += slopes[n] * load(q[(first + n) * p.q.vector + d]);
                if (d < p.valueSize) for (int n = 0; n < count; n++) byValue[c] += weights[n] * load(dy[(first + n) * p.dy.vector + d]);
            }
        }
    }
    for (int c = 0; c < MAX_SIZE / PIECE; c++) {
        int d = c * PIECE + threadIdx.x;
        if (p.dk.at && d < p.size) ((T *)p.dk.at + b * p.dk.batch + kv * p.dk.head + j * p.dk.vector)[d] = store<T>(byKey[c] * p.scale);
        if (p.dv.at && d < p.valueSize) ((T *)p.dv.at + b * p.dv.batch + kv * p.dv.head + j * p.dv.vector)[d] = store<T>(byValue[c]);
    }
}
#define ATTENTION_GRADIENT(T, ending) \
    extern "C" __global__ void __launch_bounds__(PIECE) attention_back_query_##ending(AttentionGradient p) { attentionBackQuery<T>(p); } \
    extern "C" __global__ void __launch_bounds__(PIECE) attention_back_key_##ending(AttentionGradient p) { attentionBackKey<T>(p); }
FLOATS(ATTENTION_GRADIENT)
