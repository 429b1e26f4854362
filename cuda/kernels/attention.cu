// Attention without the matrix of scores: a block computes one query of one head, going through the keys in pieces with
// softmax online (Milakov and Gimelshein, arXiv:1805.02867).
#include "common.cuh"

#define PIECE 128
#define MAX_SIZE 256

// Vectors of q, k, v and y lie at batch·b + head·h + place·v elements.
struct View { const void *at; i64 batch, head, vector; };
struct Attention {
    View q, k, v, y;
    const void *mask; // of the numbers' type, or bytes where boolean
    i64 maskBatch, maskHead, maskQuery;
    int boolean, maskKeys;
    int heads, kvHeads, queries, keys, size, valueSize;
    int past, causal, left;
    float scale, softcap;
};

template <typename T> __device__ void attention(const Attention &p) {
    __shared__ float query[MAX_SIZE], weights[PIECE];
    int i = blockIdx.x, h = blockIdx.y, b = blockIdx.z, kv = h / (p.heads / p.kvHeads);
    const T *q = (const T *)p.q.at + b * p.q.batch + h * p.q.head + i * p.q.vector;
    const T *k = (const T *)p.k.at + b * p.k.batch + kv * p.k.head;
    const T *v = (const T *)p.v.at + b * p.v.batch + kv * p.v.head;
    T *y = (T *)p.y.at + b * p.y.batch + h * p.y.head + i * p.y.vector;
    i64 line = b * p.maskBatch + h * p.maskHead + i * p.maskQuery;
    for (int d = threadIdx.x; d < p.size; d += blockDim.x) query[d] = load(q[d]) * p.scale;
    int from = 0, to = p.keys, place = p.past + i;
    if (p.causal) to = min(to, place + 1);
    if (p.left >= 0) from = max(0, place - p.left);
    float most = -INFINITY, sum = 0.0f, result[MAX_SIZE / PIECE] = {};
    for (int first = from; first < to; first += PIECE) {
        int j = first + threadIdx.x;
        float s = -INFINITY;
        __syncthreads();
        if (j < to) {
            const T *key = k + j * p.k.vector;
            s = 0.0f;
            for (int d = 0; d < p.size; d++) s += query[d] * load(key[d]);
            if (p.softcap > 0.0f) s = p.softcap * tanhf(s / p.softcap);
            if (p.mask) {
                if (j >= p.maskKeys) s = -INFINITY;
                else if (p.boolean) s = ((const unsigned char *)p.mask)[line + j] ? s : -INFINITY;
                else s += load(((const T *)p.mask)[line + j]);
            }
        }
        float top = fmaxf(most, blockMax(s));
        float w = top == -INFINITY ? 0.0f : expf(s - top), keep = top == -INFINITY ? 1.0f : expf(most - top);
        weights[threadIdx.x] = w;
        sum = sum * keep + blockSum(w);
        most = top;
        __syncthreads();
        int count = min(PIECE, to - first);
        for (int c = 0; c < MAX_SIZE / PIECE; c++) {
            int d = c * PIECE + threadIdx.x;
            if (d >= p.valueSize) continue;
            float total = result[c] * keep;
            for (int n = 0; n < count; n++) total += weights[n] * load(v[(first + n) * p.v.vector + d]);
            result[c] = total;
        }
    }
    for (int c = 0; c < MAX_SIZE / PIECE; c++) {
        int d = c * PIECE + threadIdx.x;
        if (d < p.valueSize) y[d] = store<T>(sum > 0.0f ? result[c] / sum : 0.0f);
    }
}
#define ATTENTION(T, ending) extern "C" __global__ void attention_##ending(Attention p) { attention<T>(p); }
FLOATS(ATTENTION)
