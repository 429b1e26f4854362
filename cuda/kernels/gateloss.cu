// The losses of gates. Sums over tokens are those of pieces of tokens, in their order.
#include "gate.cuh"

#define PIECE 128 // tokens

// Tokens of a sequence, whose balance loss is one of its own, are cut into pieces.
__device__ __forceinline__ int pieces(const Gate &p) { return (p.sequence + PIECE - 1) / PIECE; }

// What a piece adds to two numbers of each expert: how often it was chosen and its shares of tokens, or for the noisy gate its
// scores and the chances to be chosen.
extern "C" __global__ void tally(Gate p) {
    int lo = blockIdx.x / pieces(p) * p.sequence, hi = min(lo + p.sequence, p.tokens);
    lo += blockIdx.x % pieces(p) * PIECE, hi = min(hi, lo + PIECE);
    double *partial = p.partial + (i64)blockIdx.x * 2 * p.experts;
    const int *counted = p.counted ? p.counted : p.indices;
    int stride = p.counted ? p.k : p.slots, counts = p.kind == GSHARD || p.kind == DC || p.kind == TOPOLOGY ? 1 : p.k;
    for (int e = threadIdx.x; e < p.experts; e += blockDim.x) {
        double first = 0.0, second = 0.0;
        for (int n = lo; n < hi; n++) {
            if (masked(p, n)) continue;
            int times = 0;
            for (int j = 0; j < counts; j++)
                if (counted[(i64)n * stride + j] == e) {
                    times++;
                    if (p.kind == NOISY) first += (double)p.scores[(i64)n * p.slots + j];
                }
            if (p.kind == NOISY) {
                second += p.chances ? p.chances[(i64)n * p.experts + e] : times;
            } else {
                double x = logit(p, n, e);
                first += times;
                second += p.kind == DEEPSEEK ? logistic(x) / p.sums[n] : exp(x - p.norms[2 * (i64)n]) / p.norms[2 * (i64)n + 1];
            }
        }
        partial[e] = first, partial[p.experts + e] = second;
    }
}

// variation is the square of the coefficient of variation of numbers of the experts, which become its derivatives by them.
__device__ double variation(double *x, int n) {
    if (n < 2) {
        if (threadIdx.x == 0) x[0] = 0.0;
        return 0.0;
    }
    double mean = 0.0, variance = 0.0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) mean += x[i] / n;
    mean = blockTotal(mean);
    for (int i = threadIdx.x; i < n; i += blockDim.x) variance += (x[i] - mean) * (x[i] - mean) / (n - 1);
    variance = blockTotal(variance);
    double size = mean * mean + 1e-10;
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = 2 * ((x[i] - mean) / (n - 1) - variance / size * mean / n) / size;
    return variance / size;
}

// The sum of a number of an expert over a sequence's pieces.
__device__ __forceinline__ double total(const Gate &p, int sequence, int which, int e) {
    const double *partial = p.partial + ((i64)sequence * pieces(p) * 2 + which) * p.experts + e;
    int n = (min(p.sequence, p.tokens - sequence * p.sequence) + PIECE - 1) / PIECE;
    double sum = 0.0;
#pragma unroll 8
    for (int i = 0; i < n; i++) sum += partial[(i64)i * 2 * p.experts];
    return sum;
}

// balance is the gate's loss. weights become the factors of experts' shares in it, or the derivatives by importance and load.
__device__ double balance(const Gate &p, int tokens) {
    int sequences = (p.tokens + p.sequence - 1) / p.sequence, filled = 0;
    if (p.kind == NOISY) {
        for (int which = 0; which < 2; which++)
            for (int e = threadIdx.x; e < p.experts; e += blockDim.x) p.weights[which * p.experts + e] = total(p, 0, which, e);
        __syncthreads();
        return variation(p.weights, p.experts) + variation(p.weights + p.experts, p.experts);
    }
    double loss = 0.0;
    for (int s = 0; s < sequences; s++) {
        int lo = s * p.sequence, hi = min(lo + p.sequence, p.tokens), here = tokens;
        if (p.kind == SWITCH) { // those that were not dropped
            double kept = 0.0;
            for (int e = threadIdx.x; e < p.experts; e += blockDim.x) kept += total(p, s, 0, e);
            here = (int)blockTotal(kept);
        } else if (sequences > 1) {
            here = 0;
            for (int n = lo + threadIdx.x; n < hi; n += blockDim.x) here += !masked(p, n);
            here = blockTotal(here);
        }
        double factor = here ? (double)p.experts / ((double)here * here) : 0.0;
        if (p.kind == DEEPSEEK) factor /= p.k;
        filled += here > 0;
        for (int e = threadIdx.x; e < p.experts; e += blockDim.x) {
            double weight = factor * total(p, s, 0, e);
            p.weights[(i64)s * p.experts + e] = weight;
            loss += weight * total(p, s, 1, e);
        }
    }
    loss = blockTotal(loss);
    filled = max(1, filled);
    if (filled > 1)
        for (int i = threadIdx.x; i < sequences * p.experts; i += blockDim.x) p.weights[i] /= filled;
    return loss / filled;
}

// One block. totals, the balance loss where there is something to add up, and the z-loss.
extern "C" __global__ void losses(Gate p) {
    int tokens = 0;
    for (int n = threadIdx.x; n < p.tokens; n += blockDim.x) tokens += !masked(p, n);
    tokens = blockTotal(tokens);
    if (threadIdx.x == 0) *p.totals = tokens;
    double loss = p.partial ? balance(p, tokens) : 0.0;
    if (threadIdx.x == 0 && p.auxLoss) *p.auxLoss = (float)loss;
    if (!p.zLoss) return;
    double sum = 0.0;
    for (int n = threadIdx.x; n < p.tokens; n += blockDim.x)
        if (!masked(p, n)) {
            double z = p.norms[2 * (i64)n] + log(p.norms[2 * (i64)n + 1]);
            sum += z * z;
        }
    sum = blockTotal(sum);
    if (threadIdx.x == 0) *p.zLoss = tokens ? (float)(sum / tokens) : 0.0f;
}
