// What the kernels of gates share. Gates compute in double from logits in float, as on the CPU, so that both choose alike;
// what each gate does is in package moe, in the file of its name. A warp looks at a token.
#pragma once
#include "common.cuh"

typedef unsigned long long u64;
typedef unsigned char u8;

enum Kind { NAIVE, NOISY, GSHARD, SWITCH, SWIPE, TOPOLOGY, DC, ZERO, EXPERT_CHOICE, DEEPSEEK, TOKEN_ROUNDING };
enum Scoring { SOFTMAX, SIGMOIDS, ONES };
enum RouterType { FLOAT, HALF, BFLOAT };

struct Gate {
    // What is decided about. Null stands for what is absent; without a step it is evaluation.
    float *logits;                // [tokens, experts]; the bias is added to them
    const void *bias, *selection; // [experts] of the router's type
    const float *noises;          // [tokens, experts]
    const u8 *mask;               // [tokens]
    const i64 *step;
    // What is decided. An index of −1 is a dropped slot; one of −2−e is expert e's until capacities are granted, then dropped.
    int *indices; float *scores;   // [tokens, slots]
    i64 *outIndices; float *outScores, *outLogits, *auxLoss, *zLoss; // of the node
    // On the way there, null where the gate does not need it.
    double *changed, *chances;     // [tokens, experts]: logits with noise or jitter, probabilities of being chosen
    double *norms;                 // [tokens, 2]: the largest logit, and the sum of exponentials divided by its own
    double *sums;                  // [tokens]: of sigmoids
    int *counted;                  // [tokens, k]: the choices that the balance loss counts
    int *counts, *rows;            // [chunks, experts], [parts]: of capacities
    u64 *keys; u8 *marks;          // [groups, items], [tokens, experts]: of selections
    double *partial, *weights;     // [chunks, 2, experts], [sequences, experts]: of the balance loss; the latter is for the gradient
    double *totals;                // unmasked tokens
    // Of the gradient.
    const float *byScores, *byGivenScores, *byAuxLoss, *byZLoss, *byGivenLogits;
    void *byLogits, *byNoise;      // [tokens, experts] of type byType
    double capacity, fraction, jitter, scaling;
    u64 seed;
    int tokens, experts, k, slots, kind, scoring, normalize, routerType, byType, random;
    int groups, topGroups, tile, workers, workersPerNode, layer, sequence, room; // room: doubles of a warp's shared memory
};

__device__ __forceinline__ float read(const void *x, i64 i, int type) {
    if (type == FLOAT) return ((const float *)x)[i];
    return type == HALF ? load(((const __half *)x)[i]) : load(((const __nv_bfloat16 *)x)[i]);
}
__device__ __forceinline__ void write(void *x, i64 i, int type, float v) {
    if (type == FLOAT) ((float *)x)[i] = v;
    else if (type == HALF) ((__half *)x)[i] = store<__half>(v);
    else ((__nv_bfloat16 *)x)[i] = store<__nv_bfloat16>(v);
}

__device__ __forceinline__ bool masked(const Gate &p, int token) { return p.mask && !p.mask[token]; }
__device__ __forceinline__ double logit(const Gate &p, int token, int e) {
    i64 i = (i64)token * p.experts + e;
    return p.changed ? p.changed[i] : (double)p.logits[i];
}
__device__ __forceinline__ double logistic(double x) { return 1.0 / (1.0 + exp(-x)); }
// The noise's standard deviation.
__device__ __forceinline__ double deviation(double x) { return fmax(x, 0.0) + log1p(exp(-fabs(x))) + 0.01; }

// Over a warp; each lane gets the result.
template <typename T, typename F> __device__ __forceinline__ T warpReduce(T x, F f) {
    for (int i = 16; i > 0; i >>= 1) x = f(x, __shfl_xor_sync(~0u, x, i));
    return x;
}
template <typename T> __device__ __forceinline__ T warpSum(T x) { return warpReduce(x, [](T a, T b) { return a + b; }); }
__device__ __forceinline__ double warpMax(double x) { return warpReduce(x, [](double a, double b) { return fmax(a, b); }); }
// Over a block of whole warps; each thread gets the result.
template <typename T> __device__ __forceinline__ T blockTotal(T x) {
    __shared__ T parts[32];
    x = warpSum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    T total = 0;
    for (int i = 0; i < blockDim.x / 32; i++) total += parts[i];
    return total;
}

// Integers of the order of numbers; what is no number comes first.
__device__ __forceinline__ u64 order(double x) {
    if (x != x) return 0;
    u64 bits = (u64)__double_as_longlong(x + 0.0); // −0 becomes 0
    return bits >> 63 ? ~bits : bits | 1ull << 63;
}

// The best of a list behind the one found last, the first of equal ones.
struct Best { u64 key; int at; };
__device__ __forceinline__ Best none() { return {~0ull, -1}; }
__device__ __forceinline__ Best next(const double *list, int n, Best last) {
    Best best = {0, 0x7fffffff};
    auto better = [](u64 key, int at, Best than) { return key > than.key || (key == than.key && at < than.at); };
    for (int i = threadIdx.x % 32; i < n; i += 32) {
        u64 key = order(list[i]);
        if ((key < last.key || (key == last.key && i > last.at)) && better(key, i, best)) best = {key, i};
    }
    for (int i = 16; i > 0; i >>= 1) {
        u64 key = __shfl_xor_sync(~0u, best.key, i);
        int at = __shfl_xor_sync(~0u, best.at, i);
        if (better(key, at, best)) best = {key, at};
    }
    return best;
}

// Whether an expert is among those that are no worse than the last one chosen.
__device__ __forceinline__ bool chosen(const double *row, int last, int e) { return row[e] > row[last] || (row[e] == row[last] && e <= last); }

// Philox4x32-10: the word of a token's random numbers at a place (see moe.Random).
__device__ __forceinline__ u32 word(const Gate &p, int token, int place) {
    u32 c[4] = {(u32)place / 4, (u32)token, (u32)p.layer << 16, (u32)*p.step}, k0 = (u32)p.seed, k1 = (u32)(p.seed >> 32);
    for (int i = 0; i < 10; i++) {
        u32 hi0 = __umulhi(0xd2511f53u, c[0]), lo0 = 0xd2511f53u * c[0], hi1 = __umulhi(0xcd9e8d57u, c[2]), lo1 = 0xcd9e8d57u * c[2];
        c[0] = hi1 ^ c[1] ^ k0, c[1] = lo1, c[2] = hi0 ^ c[3] ^ k1, c[3] = lo0;
        k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
    }
    return place % 4 == 0 ? c[0] : place % 4 == 1 ? c[1] : place % 4 == 2 ? c[2] : c[3];
}
__device__ __forceinline__ double uniform(const Gate &p, int token, int place) { return ((double)word(p, token, place) + 0.5) / 4294967296.0; }
__device__ __forceinline__ double normal(const Gate &p, int token, int place) {
    double radius = sqrt(-2.0 * log(uniform(p, token, place & ~1))), sine, cosine;
    sincospi(2.0 * uniform(p, token, place | 1), &sine, &cosine);
    return radius * (place & 1 ? sine : cosine);
}
__device__ __forceinline__ double jitter(const Gate &p, int token, int e) { return 1.0 - p.jitter + 2.0 * p.jitter * uniform(p, token, e); }

// The largest logit of a token, and the sum of exponentials divided by its own.
struct Norm { double top, sum; };
__device__ __forceinline__ Norm findNorm(const Gate &p, int token) {
    Norm r = {-INFINITY, 0.0};
    for (int e = threadIdx.x % 32; e < p.experts; e += 32) r.top = fmax(r.top, logit(p, token, e));
    r.top = warpMax(r.top);
    for (int e = threadIdx.x % 32; e < p.experts; e += 32) r.sum += exp(logit(p, token, e) - r.top);
    r.sum = warpSum(r.sum);
    return r;
}
__device__ __forceinline__ Norm norm(const Gate &p, int token) {
    if (p.norms) return {p.norms[2 * (i64)token], p.norms[2 * (i64)token + 1]};
    return findNorm(p, token);
}

// put decides about a slot.
__device__ __forceinline__ void put(const Gate &p, i64 slot, int e, float score) {
    p.indices[slot] = e, p.scores[slot] = score;
    if (p.outIndices) p.outIndices[slot] = e;
    if (p.outScores) p.outScores[slot] = score;
}

// weigh gives the experts in a token's slots their scores.
__device__ __forceinline__ void weigh(const Gate &p, int token) {
    int lane = threadIdx.x % 32;
    i64 first = (i64)token * p.slots;
    const int *indices = p.indices + first;
    Norm n = {0.0, 1.0};
    if (p.scoring == SIGMOIDS && p.normalize) {
        n.sum = 0.0;
        for (int j = lane; j < p.slots; j += 32)
            if (indices[j] >= 0) n.sum += logistic(logit(p, token, indices[j]));
        n.sum = warpSum(n.sum);
    } else if (p.scoring == SOFTMAX && p.normalize) {
        n = {-INFINITY, 0.0};
        for (int j = lane; j < p.slots; j += 32)
            if (indices[j] >= 0) n.top = fmax(n.top, logit(p, token, indices[j]));
        n.top = warpMax(n.top);
        for (int j = lane; j < p.slots; j += 32)
            if (indices[j] >= 0) n.sum += exp(logit(p, token, indices[j]) - n.top);
        n.sum = warpSum(n.sum);
    } else if (p.scoring == SOFTMAX) {
        n = norm(p, token);
    }
    for (int j = lane; j < p.slots; j += 32) {
        int e = indices[j];
        double score = 0.0;
        if (e >= 0) {
            double x = logit(p, token, e);
            score = p.scaling * (p.scoring == ONES ? 1.0 : p.scoring == SIGMOIDS ? logistic(x) / n.sum : exp(x - n.top) / n.sum);
            if (p.random && j == 1 && 2 * score / p.scaling < uniform(p, token, 0)) e = -2 - e;
        }
        put(p, first + j, e, (float)score);
    }
}
