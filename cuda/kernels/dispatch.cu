// The stable counting sort of slots by expert, through chunks of slots: each is counted, counts are added up over experts and
// chunks, and slots get their rows in their order. Counts and offsets stay on the device.
#include "ranks.cuh"

struct Sort {
    const int *indices; int *counts;  // [slots], −1 for none; [chunks, experts]
    int *offsets, *tiles;             // [experts+1]: first row, and first tile of rows, of each expert
    int *row, *token, *slot;          // [slots]: row of each slot or −1; of each row its token and its slot
    i64 *outCounts;                   // of the node, or null
    int slots, experts, k, tile;      // k slots of a token
};

extern "C" __global__ void count(Sort p) {
    int first = blockIdx.x * CHUNK;
    countKinds(min(CHUNK, p.slots - first), p.experts, p.counts + (i64)blockIdx.x * p.experts, [&](int i) { return p.indices[first + i]; });
}

// One block; counts become the rows with which each chunk's slots of an expert begin.
extern "C" __global__ void __launch_bounds__(1024) offsets(Sort p) {
    int chunks = (p.slots + CHUNK - 1) / CHUNK;
    for (int e = threadIdx.x; e < p.experts; e += blockDim.x) {
        int total = 0;
#pragma unroll 16
        for (int c = 0; c < chunks; c++) total += p.counts[(i64)c * p.experts + e];
        p.offsets[e] = total;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        int row = 0, tile = 0;
        for (int e = 0; e < p.experts; e++) {
            int n = p.offsets[e];
            if (p.outCounts) p.outCounts[e] = n;
            p.offsets[e] = row, p.tiles[e] = tile;
            row += n, tile += (n + p.tile - 1) / p.tile;
        }
        p.offsets[p.experts] = row, p.tiles[p.experts] = tile;
    }
    __syncthreads();
    addUp(p.counts, chunks, p.experts, [&](int e) { return p.offsets[e]; });
}

extern "C" __global__ void place(Sort p) {
    __shared__ int next[MAX_KINDS];
    int first = blockIdx.x * CHUNK;
    for (int e = threadIdx.x; e < p.experts; e += 256) next[e] = p.counts[(i64)blockIdx.x * p.experts + e];
    eachRank(min(CHUNK, p.slots - first), p.experts, next, [&](int i) { return p.indices[first + i]; },
             [&](int i, int e, int row) {
                 int slot = first + i;
                 p.row[slot] = e < 0 ? -1 : row;
                 if (e >= 0) p.token[row] = slot / p.k, p.slot[row] = slot;
             });
}
