// Ranks within a stable order: how many items of the same kind come before each.
#pragma once
#include "common.cuh"

#define CHUNK 1024     // items that a block goes through
#define MAX_KINDS 1024 // experts, or workers

// A thread for each kind counts a chunk of n items. kind(i) is −1 for what is of none.
template <typename F> __device__ void countKinds(int n, int kinds, int *counts, F kind) {
    __shared__ int chunk[CHUNK];
    for (int i = threadIdx.x; i < n; i += blockDim.x) chunk[i] = kind(i);
    __syncthreads();
    for (int k = threadIdx.x; k < kinds; k += blockDim.x) {
        int total = 0;
        for (int i = 0; i < n; i++) total += chunk[i] == k;
        counts[k] = total;
    }
}

// Counts of chunks become those of all chunks before them and start[k].
template <typename F> __device__ __forceinline__ void addUp(int *counts, int chunks, int kinds, F start) {
    for (int k = threadIdx.x; k < kinds; k += blockDim.x) {
        int before = start(k);
        for (int c = 0; c < chunks; c += 16) { // many loads at a time, as each takes long
            int n[16];
#pragma unroll
            for (int i = 0; i < 16; i++) n[i] = c + i < chunks ? counts[(i64)(c + i) * kinds + k] : 0;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                if (c + i < chunks) counts[(i64)(c + i) * kinds + k] = before;
                before += n[i];
            }
        }
    }
}

typedef int Had[MAX_KINDS];
__device__ __forceinline__ Had *hadBefore() { // once for all that eachRank calls
    __shared__ Had had[8];
    return had;
}

// A block of 256 threads goes through n items, an item a thread, and calls visit(i, kind, rank) for each: items of a kind are
// ranked within their warp, and warps by what those before them have of it. next [kinds], in shared memory, is how many there
// were before, and goes on to those behind.
template <typename F, typename G> __device__ void eachRank(int n, int kinds, int *next, F kind, G visit) {
    Had *had = hadBefore();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int from = 0; from < n; from += 256) {
        int i = from + threadIdx.x, k = i < n ? kind(i) : -1;
        for (int w = 0; w < 8; w++)
            for (int j = threadIdx.x; j < kinds; j += 256) had[w][j] = 0;
        __syncthreads();
        u32 alike = __match_any_sync(~0u, k);
        int rank = __popc(alike & ((1u << lane) - 1));
        if (k >= 0 && rank == 0) had[warp][k] = __popc(alike);
        __syncthreads();
        if (k >= 0) {
            rank += next[k];
            for (int w = 0; w < warp; w++) rank += had[w][k];
        }
        if (i < n) visit(i, k, rank);
        __syncthreads();
        for (int j = threadIdx.x; j < kinds; j += 256)
            for (int w = 0; w < 8; w++) next[j] += had[w][j];
        __syncthreads();
    }
}
