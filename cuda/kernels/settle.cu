// What gates decide about all tokens: capacities, which experts or nodes take which tokens, and rows that move between workers.
#include "gate.cuh"
#include "ranks.cuh"

// The tokens that are not masked; a block counts them.
__device__ int unmasked(const Gate &p, int lo, int hi) {
    if (!p.mask) return hi - lo;
    int n = 0;
    for (int i = lo + threadIdx.x; i < hi; i += blockDim.x) n += p.mask[i] != 0;
    return blockTotal(n);
}

// rowsOf is ⌈c·tokens/parts⌉, or no less than there can be without a limit (−1).
__device__ int rowsOf(double c, int tokens, int parts) {
    double x = ceil(c * tokens / parts);
    return c != -1.0 && x < tokens ? (int)x : tokens;
}
__device__ int capacity(const Gate &p, int tokens) {
    if (p.kind == SWITCH) return rowsOf(p.capacity, tokens, p.experts);
    if (p.kind == DC) return rowsOf(p.capacity, tokens, p.workers);
    if (p.kind == EXPERT_CHOICE) return p.capacity == -1.0 ? tokens : min(rowsOf(p.capacity * p.k, tokens, p.experts), tokens);
    double x = ceil(p.capacity * tokens);
    if (p.capacity != -1.0 && x < (double)((i64)tokens * p.experts)) return (int)((i64)x * 2 / p.experts);
    return tokens;
}

// Capacities are granted in the order of the tokens to each expert, in each of the parts of a batch whose workers have
// capacities of their own. A part is cut into chunks of slots.
struct Part { int lo, hi; };
__device__ Part part(const Gate &p, int w, int parts) { return {(int)((i64)w * p.tokens / parts), (int)(((i64)w + 1) * p.tokens / parts)}; }
__device__ int parts(const Gate &p) { return p.kind == GSHARD ? p.workers : 1; }
__device__ int chunksOf(const Gate &p) { return ((p.tokens + parts(p) - 1) / parts(p) * p.slots + CHUNK - 1) / CHUNK; }
struct Range { i64 first; int n; };
__device__ Range chunk(const Gate &p) {
    int chunks = chunksOf(p);
    Part r = part(p, blockIdx.x / chunks, parts(p));
    i64 first = (i64)r.lo * p.slots + blockIdx.x % chunks * CHUNK;
    return {first, (int)max(0ll, min((i64)CHUNK, (i64)r.hi * p.slots - first))};
}
__device__ __forceinline__ int expert(int index) { return index < -1 ? -2 - index : index; }

extern "C" __global__ void grant_count(Gate p) {
    Range r = chunk(p);
    countKinds(r.n, p.experts, p.counts + (i64)blockIdx.x * p.experts, [&](int i) { return expert(p.indices[r.first + i]); });
}

// A block for each part.
extern "C" __global__ void __launch_bounds__(1024) grant_rows(Gate p) {
    Part r = part(p, blockIdx.x, parts(p));
    int rows = capacity(p, unmasked(p, r.lo, r.hi)), chunks = chunksOf(p);
    if (threadIdx.x == 0) p.rows[blockIdx.x] = rows;
    addUp(p.counts + (i64)blockIdx.x * chunks * p.experts, chunks, p.experts, [](int) { return 0; });
}

extern "C" __global__ void grant(Gate p) {
    __shared__ int next[MAX_KINDS];
    Range r = chunk(p);
    int rows = p.rows[blockIdx.x / chunksOf(p)];
    for (int e = threadIdx.x; e < p.experts; e += 256) next[e] = p.counts[(i64)blockIdx.x * p.experts + e];
    eachRank(r.n, p.experts, next, [&](int i) { return expert(p.indices[r.first + i]); },
             [&](int i, int e, int rank) {
                 i64 slot = r.first + i;
                 if (e >= 0 && (rank >= rows || p.indices[slot] < 0)) put(p, slot, -1, 0.0f);
             });
}

// The best of n items of a block of 1024 threads, by their keys: 0 for what is none of them. Digits of the count-th largest key
// are found one after the other; best(i, yes) is told of each item in order, which decides among equal ones.
template <typename F> __device__ void selectBest(const u64 *keys, int n, int count, F best) {
    __shared__ int digits[256], warps[32], digit, left;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 bar = 0;
    int equal = count;
    for (int shift = 56; shift >= 0 && count > 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += blockDim.x) digits[i] = 0;
        __syncthreads();
        for (int from = 0; from < n; from += blockDim.x) {
            int i = from + threadIdx.x;
            u64 key = i < n ? keys[i] : 0;
            int d = key && (shift == 56 || key >> (shift + 8) == bar) ? (int)(key >> shift & 255) : -1;
            u32 alike = __match_any_sync(~0u, d);
            if (d >= 0 && (alike & ((1u << lane) - 1)) == 0) atomicAdd(&digits[d], __popc(alike));
        }
        __syncthreads();
        if (warp == 0) { // lane l has the digits 255−8·l … 248−8·l
            int total = 0;
            for (int i = 0; i < 8; i++) total += digits[255 - 8 * lane - i];
            int before = total;
            for (int i = 1; i < 32; i *= 2) {
                int x = __shfl_up_sync(~0u, before, i);
                if (lane >= i) before += x;
            }
            before -= total;
            int wanted = equal - before; // by this lane
            if ((before < equal && wanted <= total) || (lane == 31 && before < equal)) {
                int d = 255 - 8 * lane, last = d - 7;
                while (d > last && digits[d] < wanted) wanted -= digits[d--];
                digit = d, left = wanted;
            }
        }
        __syncthreads();
        bar = bar << 8 | (u64)digit, equal = left;
        __syncthreads();
    }
    for (int from = 0, seen = 0; from < n; from += blockDim.x) {
        int i = from + threadIdx.x;
        u64 key = i < n ? keys[i] : 0;
        bool same = count > 0 && key && key == bar;
        u32 all = __ballot_sync(~0u, same);
        if (lane == 0) warps[warp] = __popc(all);
        __syncthreads();
        int rank = seen + __popc(all & ((1u << lane) - 1)), total = 0;
        for (int w = 0; w < blockDim.x / 32; w++) {
            if (w < warp) rank += warps[w];
            total += warps[w];
        }
        seen += total;
        if (i < n) best(i, count > 0 && key && (key > bar || (same && rank < equal)));
        __syncthreads();
    }
}

// What experts compare tokens by: shares of softmax, or sigmoids.
__device__ __forceinline__ u64 affinity(const Gate &p, int token, int e) {
    double x = logit(p, token, e);
    return order(p.scoring == SIGMOIDS ? logistic(x) : exp(x - p.norms[2 * (i64)token]) / p.norms[2 * (i64)token + 1]) + 1;
}
__device__ __forceinline__ bool chose(const Gate &p, int token, int e) {
    bool is = false;
    for (int j = 0; j < p.k; j++) is |= p.indices[(i64)token * p.slots + j] == e;
    return is;
}

// A block for each expert marks the tokens that it takes: those that prefer it most, or its own ones but for what fills tiles.
extern "C" __global__ void __launch_bounds__(1024) select_tokens(Gate p) {
    int e = blockIdx.x, tokens = unmasked(p, 0, p.tokens), count, own = 0;
    bool rounds = p.kind == TOKEN_ROUNDING, adds = false;
    if (rounds) {
        for (int n = threadIdx.x; n < p.tokens; n += blockDim.x) own += chose(p, n, e);
        own = blockTotal(own);
        int rounded = min((int)rint((double)own / p.tile) * p.tile, tokens);
        adds = rounded >= own, count = adds ? rounded - own : rounded;
    } else {
        count = capacity(p, tokens);
    }
    u64 *keys = p.keys + (i64)e * p.tokens;
    for (int n = threadIdx.x; n < p.tokens; n += blockDim.x) keys[n] = masked(p, n) || (rounds && chose(p, n, e) == adds) ? 0 : affinity(p, n, e);
    __syncthreads();
    selectBest(keys, p.tokens, count, [&](int n, bool yes) { p.marks[(i64)n * p.experts + e] = yes || (adds && !keys[n] && !masked(p, n)); });
}

// A block for each worker marks the tokens that keep an expert on another node, those that prefer it most, or lets all of its
// tokens keep their choices.
extern "C" __global__ void __launch_bounds__(1024) select_distant(Gate p) {
    Part r = part(p, blockIdx.x, p.workers);
    int experts = p.experts / (p.workers / p.workersPerNode), from = blockIdx.x / p.workersPerNode * experts, outside = 0;
    u64 *keys = p.keys + r.lo;
    for (int n = r.lo + threadIdx.x; n < r.hi; n += blockDim.x) {
        int e = p.indices[2 * (i64)n];
        bool is = e >= 0 && (e < from || e >= from + experts);
        keys[n - r.lo] = is ? order(logit(p, n, e)) + 1 : 0;
        outside += is;
    }
    outside = blockTotal(outside);
    int limit = (int)(unmasked(p, r.lo, r.hi) * p.fraction);
    if (threadIdx.x == 0) p.rows[blockIdx.x] = outside >= limit;
    if (outside < limit) return;
    selectBest(keys, r.hi - r.lo, limit, [&](int i, bool yes) { p.marks[(i64)(r.lo + i) * p.experts] = yes; });
}

// One block of 256 threads: slot after slot, workers accept choices while they have room; the others go to the first with room.
extern "C" __global__ void level(Gate p) {
    __shared__ int room[MAX_KINDS], next[MAX_KINDS], before[MAX_KINDS + 1], movers;
    int each = p.experts / p.workers;
    for (int w = 0; w < p.workers; w++) {
        Part r = part(p, w, p.workers);
        int n = unmasked(p, r.lo, r.hi) * p.k;
        if (threadIdx.x == 0) room[w] = n;
    }
    for (int j = 0; j < p.k; j++) {
        int *indices = p.indices + j;
        __syncthreads();
        for (int w = threadIdx.x; w < p.workers; w += 256) next[w] = 0;
        __syncthreads();
        eachRank(p.tokens, p.workers, next, [&](int n) { return masked(p, n) ? -1 : indices[(i64)n * p.slots] / each; },
                 [&](int n, int w, int rank) { if (w >= 0 && rank >= room[w]) indices[(i64)n * p.slots] = -2; });
        if (threadIdx.x == 0) { // room that is left, and how many movers the workers before have room for
            int total = 0;
            for (int w = 0; w < p.workers; w++) room[w] -= min(next[w], room[w]), before[w] = total, total += room[w];
            before[p.workers] = total, movers = 0;
        }
        __syncthreads();
        eachRank(p.tokens, 1, &movers, [&](int n) { return indices[(i64)n * p.slots] == -2 ? 0 : -1; },
                 [&](int n, int k, int rank) {
                     if (k < 0) return;
                     int lo = 0, hi = p.workers; // before[lo] ≤ rank < before[hi]
                     while (hi - lo > 1) {
                         int middle = (lo + hi) / 2;
                         if (before[middle] <= rank) lo = middle; else hi = middle;
                     }
                     indices[(i64)n * p.slots] = lo * each + j % each;
                 });
        for (int w = threadIdx.x; w < p.workers; w += 256) room[w] -= max(0, min(movers - before[w], room[w]));
    }
}
