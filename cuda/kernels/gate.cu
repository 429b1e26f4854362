// Gates choose experts for tokens, each on its own.
#include "gate.cuh"

// keepBestGroups puts the experts of all but the best groups behind the others. groups has room for one number each.
__device__ void keepBestGroups(const Gate &p, double *row, double *groups) {
    int size = p.experts / p.groups, lane = threadIdx.x % 32;
    for (int g = lane; g < p.groups; g += 32) {
        double first = -INFINITY, second = -INFINITY;
        for (int e = g * size; e < (g + 1) * size; e++) {
            double x = row[e];
            if (x > first) second = first, first = x;
            else if (x > second || x != x) second = x;
        }
        groups[g] = size > 1 ? first + second : first;
    }
    __syncwarp();
    Best last = none();
    for (int i = 0; i < p.topGroups; i++) last = next(groups, p.groups, last);
    for (int e = lane; e < p.experts; e += 32) {
        u64 key = order(groups[e / size]);
        if (key < last.key || (key == last.key && e / size > last.at)) row[e] = -INFINITY;
    }
    __syncwarp();
}

// The noisy gate's probabilities that experts would be chosen if their own noise alone were drawn anew: that they then exceed
// the k-th largest of the other logits.
__device__ void chances(const Gate &p, int token, const double *row, Best last) {
    Best behind = next(row, p.experts, last);
    for (int e = threadIdx.x % 32; e < p.experts; e += 32) {
        i64 i = (i64)token * p.experts + e;
        double threshold = chosen(row, last.at, e) ? row[behind.at < p.experts ? behind.at : 0] : row[last.at];
        p.chances[i] = erfc((threshold - (double)p.logits[i]) / (deviation(p.noises[i]) * 1.4142135623730951)) / 2.0;
    }
}

// prepare adds bias, jitter and noise to a token's logits; row becomes what experts are compared by.
__device__ void prepare(const Gate &p, int token, double *row) {
    for (int e = threadIdx.x % 32; e < p.experts; e += 32) {
        i64 i = (i64)token * p.experts + e;
        float x = p.logits[i];
        if (p.bias) p.logits[i] = x += read(p.bias, e, p.routerType);
        if (p.outLogits) p.outLogits[i] = x;
        double z = x;
        if (p.changed) {
            z = p.noises ? z + normal(p, token, e) * deviation(p.noises[i]) : z * jitter(p, token, e);
            p.changed[i] = z;
        }
        row[e] = p.kind == DEEPSEEK ? logistic(z) : z;
        if (p.selection) row[e] += (double)read(p.selection, e, p.routerType);
    }
    __syncwarp();
}

// The choice. Shared memory has room for a row of each warp's token, and for groups.
extern "C" __global__ void choose(Gate p) {
    extern __shared__ double memory[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, token = blockIdx.x * (blockDim.x / 32) + warp;
    if (token >= p.tokens) return;
    double *row = memory + warp * p.room;
    prepare(p, token, row);
    i64 first = (i64)token * p.slots;
    if (masked(p, token)) {
        for (int j = lane; j < p.slots; j += 32) put(p, first + j, -1, 0.0f);
        if (p.counted)
            for (int j = lane; j < p.k; j += 32) p.counted[(i64)token * p.k + j] = -1;
        return;
    }
    if (p.norms) {
        Norm n = findNorm(p, token);
        if (lane == 0) p.norms[2 * (i64)token] = n.top, p.norms[2 * (i64)token + 1] = n.sum;
    }
    if (p.kind == ZERO) {
        for (int j = lane; j < p.slots; j += 32) put(p, first + j, 0, (float)(p.scaling / p.k));
        return;
    }
    if (p.kind == EXPERT_CHOICE) return; // experts choose among all tokens
    if (p.groups) keepBestGroups(p, row, row + p.experts);
    Best last = none();
    for (int j = 0; j < p.k; j++) {
        last = next(row, p.experts, last);
        if (lane == 0) {
            p.indices[first + j] = last.at;
            if (p.counted) p.counted[(i64)token * p.k + j] = last.at;
        }
    }
    for (int j = p.k + lane; j < p.slots; j += 32) p.indices[first + j] = -1;
    __syncwarp();
    weigh(p, token);
    if (p.chances) chances(p, token, row, last);
    if (!p.sums) return;
    // The balance loss of DeepSeek-V3 counts the largest sigmoids, whatever was chosen.
    double sum = 0.0;
    __syncwarp();
    for (int e = lane; e < p.experts; e += 32) sum += row[e] = logistic(logit(p, token, e));
    sum = warpSum(sum);
    if (lane == 0) p.sums[token] = sum;
    __syncwarp();
    last = none();
    for (int j = 0; j < p.k; j++) {
        last = next(row, p.experts, last);
        if (lane == 0) p.counted[(i64)token * p.k + j] = last.at;
    }
}

// reweigh weighs anew what has been settled for a token: choices that moved to other workers, inside a node, or those of
// experts.
extern "C" __global__ void reweigh(Gate p) {
    extern __shared__ double memory[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, token = blockIdx.x * (blockDim.x / 32) + warp;
    if (token >= p.tokens || masked(p, token)) return;
    int *indices = p.indices + (i64)token * p.slots;
    const u8 *marks = p.marks + (i64)token * p.experts;
    if (p.kind == TOPOLOGY) {
        int worker = (int)((((i64)token + 1) * p.workers - 1) / p.tokens), count = p.experts / (p.workers / p.workersPerNode), from = worker / p.workersPerNode * count;
        if (!p.rows[worker]) return; // all keep their choices
        double *row = memory + warp * p.room;
        for (int e = lane; e < count; e += 32) row[e] = logit(p, token, from + e);
        __syncwarp();
        Best best = next(row, count, none()), second = next(row, count, best);
        if (lane == 0) indices[1] = marks[0] ? indices[0] : from + second.at, indices[0] = from + best.at;
    } else if (p.kind == EXPERT_CHOICE) {
        for (int e = lane; e < p.slots; e += 32) indices[e] = marks[e] ? e : -1;
    } else if (p.kind == TOKEN_ROUNDING) {
        // Dropped choices leave their slot, experts that were added follow.
        for (int j = lane; j < p.k; j += 32)
            if (indices[j] >= 0 && !marks[indices[j]]) indices[j] = -2 - indices[j];
        __syncwarp();
        int at = p.k;
        for (int e = lane; e - lane < p.experts; e += 32) {
            bool added = e < p.experts && marks[e];
            for (int j = 0; added && j < p.k; j++) added = indices[j] != e;
            u32 all = __ballot_sync(~0u, added);
            if (added) indices[at + __popc(all & ((1u << lane) - 1))] = e;
            at += __popc(all);
        }
        __syncwarp();
        for (int j = lane; j < p.k; j += 32) indices[j] = max(indices[j], -1);
    }
    __syncwarp();
    weigh(p, token);
}
