// Dropout.
#include "common.cuh"

#define EACH(i, n) \
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < (n); i += gridDim.x * (i64)blockDim.x)

// Philox4x32-10 gives four elements their words; the CPU's kernel draws the same.
struct Dropout { const void *x, *ratio; const i64 *step; void *y; i64 n; u32 key[2], layer; };
template <typename T> __device__ void dropout(const Dropout &p) {
    double ratio = (double)load(*(const T *)p.ratio);
    double bound = ceil(ratio * 4294967296.0 - 0.5);
    unsigned long long least = bound > 0.0 ? (unsigned long long)bound : 0;
    float scale = (float)(1.0 / (1.0 - ratio));
    u32 step = (u32)*p.step;
    EACH(group, (p.n + 3) / 4) {
        u32 c[4] = {(u32)group, (u32)(group >> 32), p.layer, step}, k0 = p.key[0], k1 = p.key[1];
        for (int round = 0; round < 10; round++) {
            unsigned long long a = 0xd2511f53ull * c[0], b = 0xcd9e8d57ull * c[2];
            u32 next[4] = {(u32)(b >> 32) ^ c[1] ^ k0, (u32)b, (u32)(a >> 32) ^ c[3] ^ k1, (u32)a};
            for (int j = 0; j < 4; j++) c[j] = next[j];
            k0 += 0x9e3779b9u;
            k1 += 0xbb67ae85u;
        }
        for (int j = 0; j < 4; j++) {
            i64 i = group * 4 + j;
            if (i < p.n) ((T *)p.y)[i] = store<T>(c[j] >= least ? load(((const T *)p.x)[i]) * scale : 0.0f);
        }
    }
}
#define DROPOUT(T, ending) extern "C" __global__ void dropout_##ending(Dropout p) { dropout<T>(p); }
FLOATS(DROPOUT)
