// Gradients through gates: of a token's logits by its scores and by the losses.
#include "gate.cuh"

// addShares adds to g the gradient of factor · Σ weight[e]·p[e], where p is the softmax of row.
__device__ void addShares(const Gate &p, const double *row, Norm n, const double *weight, double factor, double *g) {
    double mean = 0.0;
    for (int e = threadIdx.x % 32; e < p.experts; e += 32) mean += weight[e] * exp(row[e] - n.top) / n.sum;
    mean = warpSum(mean);
    for (int e = threadIdx.x % 32; e < p.experts; e += 32) g[e] += factor * exp(row[e] - n.top) / n.sum * (weight[e] - mean);
}

// addSequenceShares does so for the sigmoids' shares of their sum.
__device__ void addSequenceShares(const Gate &p, const double *row, const double *weight, double factor, double *g) {
    double sum = 0.0, mean = 0.0;
    for (int e = threadIdx.x % 32; e < p.experts; e += 32) {
        double s = logistic(row[e]);
        sum += s, mean += weight[e] * s;
    }
    sum = warpSum(sum), mean = warpSum(mean) / sum;
    for (int e = threadIdx.x % 32; e < p.experts; e += 32) {
        double s = logistic(row[e]);
        g[e] += factor / sum * (weight[e] - mean) * s * (1 - s);
    }
}

// The gradient by the score of a slot, 0 of a dropped one.
__device__ __forceinline__ double byScore(const Gate &p, int token, int j) {
    i64 slot = (i64)token * p.slots + j;
    int e = p.indices[slot];
    if (e < 0) return 0.0;
    double x = p.byScores ? (double)p.byScores[slot] : 0.0;
    if (p.byGivenScores) x += (double)p.byGivenScores[slot];
    if (p.kind == NOISY && p.byAuxLoss) x += (double)*p.byAuxLoss * p.weights[e];
    return x;
}

// addScores adds to g the gradient through the scores that weigh gives. Gates that weigh experts before they drop some have
// those in counted. Scores of one let it pass as if they were shares of softmax (straight-through).
__device__ void addScores(const Gate &p, int token, const double *row, double *g) {
    int lane = threadIdx.x % 32;
    const int *indices = p.kind == GSHARD || p.kind == DC ? p.counted + (i64)token * p.k : p.indices + (i64)token * p.slots;
    bool sigmoids = p.scoring == SIGMOIDS, all = p.scoring == ONES || !p.normalize;
    Norm n = {0.0, 1.0};
    double mean = 0.0;
    if (!sigmoids && all) {
        n = norm(p, token);
    } else if (!all) {
        n.sum = 0.0;
        if (!sigmoids) {
            n.top = -INFINITY;
            for (int j = lane; j < p.slots; j += 32)
                if (indices[j] >= 0) n.top = fmax(n.top, row[indices[j]]);
            n.top = warpMax(n.top);
        }
        for (int j = lane; j < p.slots; j += 32)
            if (indices[j] >= 0) n.sum += sigmoids ? logistic(row[indices[j]]) : exp(row[indices[j]] - n.top);
        n.sum = warpSum(n.sum);
    }
    auto share = [&](int e) { return (sigmoids ? logistic(row[e]) : exp(row[e] - n.top)) / n.sum; };
    if (!sigmoids || !all) {
        for (int j = lane; j < p.slots; j += 32)
            if (indices[j] >= 0) mean += byScore(p, token, j) * share(indices[j]);
        mean = warpSum(mean);
    }
    // In the order of slots, of which two may have one expert, each lane for its experts.
    for (int j = 0; j < p.slots; j++) {
        int e = indices[j];
        if (e < 0 || e % 32 != lane) continue;
        double x = byScore(p, token, j);
        if (sigmoids) g[e] += p.scaling * (x - mean) * share(e) * (1 - logistic(row[e]));
        else g[e] += p.scaling * share(e) * (all ? x : x - mean);
    }
    if (!sigmoids && all)
        for (int e = lane; e < p.experts; e += 32) g[e] -= p.scaling * share(e) * mean;
}

// addLoad adds to g the gradient through the noisy gate's load; direct becomes what the noise's size has beyond that.
__device__ void addLoad(const Gate &p, int token, const double *row, double *g, double *direct) {
    int lane = threadIdx.x % 32;
    Best last = {0, p.indices[(i64)token * p.slots + p.k - 1]};
    last.key = order(row[last.at]);
    int behind = next(row, p.experts, last).at;
    if (behind >= p.experts) behind = 0;
    double ofLast = 0.0, ofBehind = 0.0;
    for (int e = lane; e < p.experts; e += 32) {
        bool is = chosen(row, last.at, e);
        double sigma = deviation(p.noises[(i64)token * p.experts + e]), distance = (row[is ? behind : last.at] - row[e]) / sigma;
        double u = distance + normal(p, token, e); // the chance is Φ(−u)
        double density = (double)*p.byAuxLoss * p.weights[p.experts + e] * exp(-u * u / 2) / (2.5066282746310002 * sigma);
        g[e] += density;
        direct[e] = density * distance;
        (is ? ofBehind : ofLast) += density;
    }
    ofLast = warpSum(ofLast), ofBehind = warpSum(ofBehind);
    __syncwarp();
    if (lane == 0) g[last.at] -= ofLast, g[behind] -= ofBehind;
    __syncwarp();
}

// Shared memory has three rows of numbers of each warp's token.
extern "C" __global__ void differentiate(Gate p) {
    extern __shared__ double memory[];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, token = blockIdx.x * (blockDim.x / 32) + warp;
    if (token >= p.tokens) return;
    double *row = memory + warp * p.room, *g = row + p.experts, *direct = g + p.experts;
    i64 first = (i64)token * p.experts;
    bool is = !masked(p, token);
    for (int e = lane; e < p.experts; e += 32) row[e] = logit(p, token, e), g[e] = 0.0, direct[e] = 0.0;
    __syncwarp();
    if (is && p.byZLoss) {
        Norm n = norm(p, token);
        double factor = (double)*p.byZLoss / *p.totals * 2 * (n.top + log(n.sum)) / n.sum;
        for (int e = lane; e < p.experts; e += 32) g[e] += factor * exp(row[e] - n.top);
    }
    if (is && p.byAuxLoss && p.weights && p.kind != NOISY) {
        const double *weight = p.weights + (i64)(token / p.sequence) * p.experts;
        if (p.kind == DEEPSEEK) addSequenceShares(p, row, weight, *p.byAuxLoss, g);
        else addShares(p, row, norm(p, token), weight, *p.byAuxLoss, g);
    }
    if (is && p.kind != ZERO) addScores(p, token, row, g);
    __syncwarp();
    if (is && p.byAuxLoss && p.chances) addLoad(p, token, row, g, direct);
    for (int e = lane; e < p.experts; e += 32) {
        double x = g[e];
        if (p.byNoise) write(p.byNoise, first + e, p.byType, is ? (float)((normal(p, token, e) * x + direct[e]) * logistic(p.noises[first + e])) : 0.0f);
        else if (p.changed) x *= jitter(p, token, e);
        if (p.byGivenLogits) x += (double)p.byGivenLogits[first + e];
        write(p.byLogits, first + e, p.byType, (float)x);
    }
}

// The gradient by the router's bias, the sums of those by the logits over the tokens: over pieces first, then over those.
struct Columns { const void *x; double *partial; void *y; int rows, columns, typeX, typeY; };
#define PIECE 128
extern "C" __global__ void add_columns(Columns p) {
    int lo = blockIdx.x * PIECE, hi = min(lo + PIECE, p.rows);
    for (int c = threadIdx.x; c < p.columns; c += blockDim.x) {
        double sum = 0.0;
        for (int i = lo; i < hi; i++) sum += (double)read(p.x, (i64)i * p.columns + c, p.typeX);
        p.partial[(i64)blockIdx.x * p.columns + c] = sum;
    }
}
extern "C" __global__ void add_pieces(Columns p) {
    int pieces = (p.rows + PIECE - 1) / PIECE;
    for (int c = threadIdx.x; c < p.columns; c += blockDim.x) {
        double sum = 0.0;
#pragma unroll 8
        for (int i = 0; i < pieces; i++) sum += p.partial[(i64)i * p.columns + c];
        write(p.y, c, p.typeY, (float)sum);
    }
}
