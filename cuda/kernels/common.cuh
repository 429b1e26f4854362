// What kernels share. Numbers are read from and rounded to T, and computed in float.
#pragma once
#define INFINITY __int_as_float(0x7f800000)
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long i64;
typedef unsigned int u32;

template <typename T> __device__ __forceinline__ float load(T x) { return (float)x; }
template <> __device__ __forceinline__ float load(__half x) { return __half2float(x); }
template <> __device__ __forceinline__ float load(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T> __device__ __forceinline__ T store(float x) { return (T)x; }
template <> __device__ __forceinline__ __half store(float x) { return __float2half(x); }
template <> __device__ __forceinline__ __nv_bfloat16 store(float x) { return __float2bfloat16(x); }

// FLOATS(M) expands M(type, ending of kernel names) for each type of numbers.
#define FLOATS(M) M(float, f32) M(__half, f16) M(__nv_bfloat16, bf16)

// The activations of package moe, by their place in its list.
enum Activation { IDENTITY, RELU, RELU2, GELU, GELU_TANH, QUICK_GELU, SILU, MISH, HARD_SWISH, SIGMOID, TANH };

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ __forceinline__ float geluTanh(float x) { return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x))); }

__device__ __forceinline__ float activate(float x, int a) {
    switch (a) {
    case RELU: return fmaxf(x, 0.0f);
    case RELU2: { float r = fmaxf(x, 0.0f); return r * r; }
    case GELU: return gelu(x);
    case GELU_TANH: return geluTanh(x);
    case QUICK_GELU: return x * sigmoid(1.702f * x);
    case SILU: return x * sigmoid(x);
    case MISH: return x * tanhf(softplus(x));
    case HARD_SWISH: return x * fminf(fmaxf(x / 6.0f + 0.5f, 0.0f), 1.0f);
    case SIGMOID: return sigmoid(x);
    case TANH: return tanhf(x);
    }
    return x;
}

// normalBelow is the normal distribution's Φ by Abramowitz and Stegun's formula 7.1.26 for the error function, right to 2e-7:
// enough where results have 16 bits.
__device__ __forceinline__ float normalBelow(float x) {
    float z = fabsf(x) * 0.70710678118654752f, t = __fdividef(1.0f, 1.0f + 0.3275911f * z);
    float tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f)))) * __expf(-z * z);
    return x < 0.0f ? 0.5f * tail : 1.0f - 0.5f * tail;
}

// activateAll applies an activation to eight numbers, which are to have 16 bits, deciding once.
__device__ __forceinline__ void activateAll(float x[8], int a) {
#define ALL(expression) \
    for (int i = 0; i < 8; i++) x[i] = expression; \
    break;
    switch (a) {
    case IDENTITY: break;
    case SILU: ALL(x[i] * sigmoid(x[i]))
    case GELU: ALL(x[i] * normalBelow(x[i]))
    case GELU_TANH: ALL(geluTanh(x[i]))
    case RELU: ALL(fmaxf(x[i], 0.0f))
    default: ALL(activate(x[i], a))
    }
#undef ALL
}

// Reductions over a block, whose threads are a multiple of 32; each gets the result. The order is fixed.
template <typename F> __device__ __forceinline__ float blockReduce(float x, float none, F f) {
    __shared__ float parts[32];
    for (int i = 16; i > 0; i >>= 1) x = f(x, __shfl_xor_sync(~0u, x, i));
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : none;
    for (int i = 16; i > 0; i >>= 1) x = f(x, __shfl_xor_sync(~0u, x, i));
    return x;
}
__device__ __forceinline__ float blockSum(float x) { return blockReduce(x, 0.0f, [](float a, float b) { return a + b; }); }
__device__ __forceinline__ float blockMax(float x) { return blockReduce(x, -INFINITY, [](float a, float b) { return fmaxf(a, b); }); }
