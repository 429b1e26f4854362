// Elementwise operators: a kernel for each operator and type.
#include "common.cuh"

#define EACH(i, n) \
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < (n); i += gridDim.x * (i64)blockDim.x)

struct Unary { const void *x; void *y; i64 n; float a, b; };

#define UNARY(name, expression) UNARY_AS(name, float, f32, expression) UNARY_AS(name, __half, f16, expression) UNARY_AS(name, __nv_bfloat16, bf16, expression)
#define UNARY_AS(name, T, ending, expression) \
    extern "C" __global__ void name##_##ending(Unary p) { \
        const T *in = (const T *)p.x; T *out = (T *)p.y; float a = p.a, b = p.b; (void)a; (void)b; \
        EACH(i, p.n) { float x = load(in[i]); out[i] = store<T>(expression); } }

UNARY(Relu, x < 0.0f ? 0.0f : x)
UNARY(LeakyRelu, x < 0.0f ? a * x : x)
UNARY(ThresholdedRelu, x > a ? x : 0.0f)
UNARY(Elu, x < 0.0f ? a * expm1f(x) : x)
UNARY(Selu, x > 0.0f ? b * x : b * a * expm1f(x))
UNARY(HardSigmoid, fmaxf(0.0f, fminf(1.0f, a * x + b)))
UNARY(HardSwish, activate(x, HARD_SWISH))
UNARY(Softplus, softplus(x))
UNARY(Softsign, x / (1.0f + fabsf(x)))
UNARY(Mish, activate(x, MISH))
UNARY(Gelu, gelu(x))
UNARY(GeluTanh, geluTanh(x))
UNARY(Swish, x * sigmoid(a * x))
UNARY(Floor, floorf(x))
UNARY(Ceil, ceilf(x))
UNARY(Round, rintf(x))
UNARY(Sqrt, sqrtf(x))
UNARY(Reciprocal, 1.0f / x)
UNARY(Exp, expf(x))
UNARY(Log, logf(x))
UNARY(Erf, erff(x))
UNARY(Sin, sinf(x))
UNARY(Cos, cosf(x))
UNARY(Tan, tanf(x))
UNARY(Asin, asinf(x))
UNARY(Acos, acosf(x))
UNARY(Atan, atanf(x))
UNARY(Sinh, sinhf(x))
UNARY(Cosh, coshf(x))
UNARY(Tanh, tanhf(x))
UNARY(Asinh, asinhf(x))
UNARY(Acosh, acoshf(x))
UNARY(Atanh, atanhf(x))
UNARY(Sigmoid, 1.0f / (1.0f + expf(-x)))
UNARY(Abs, fabsf(x))
UNARY(Neg, -x)
UNARY(Sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x)

// Operands of two or three broadcast: their strides are 0 along dimensions that they repeat.
#define MAX_RANK 6
struct Broadcast { const void *x[3]; void *y; i64 n; int rank; int dims[MAX_RANK]; int strides[3][MAX_RANK]; float a; };

__device__ __forceinline__ void locate(const Broadcast &p, i64 i, i64 at[3]) {
    at[0] = at[1] = at[2] = 0;
    for (int d = p.rank - 1; d >= 0; d--) {
        int k = (int)(i % p.dims[d]);
        i /= p.dims[d];
        at[0] += (i64)k * p.strides[0][d];
        at[1] += (i64)k * p.strides[1][d];
        at[2] += (i64)k * p.strides[2][d];
    }
}

#define BINARY(name, expression) BINARY_AS(name, float, float, f32, expression) BINARY_AS(name, __half, __half, f16, expression) \
    BINARY_AS(name, __nv_bfloat16, __nv_bfloat16, bf16, expression)
#define COMPARISON(name, expression) BINARY_AS(name, float, unsigned char, f32, expression) \
    BINARY_AS(name, __half, unsigned char, f16, expression) BINARY_AS(name, __nv_bfloat16, unsigned char, bf16, expression)
#define BINARY_AS(name, T, O, ending, expression) \
    extern "C" __global__ void name##_##ending(Broadcast p) { \
        const T *left = (const T *)p.x[0], *right = (const T *)p.x[1]; O *out = (O *)p.y; float a = p.a; (void)a; \
        EACH(i, p.n) { \
            i64 at[3]; \
            locate(p, i, at); \
            float x = load(left[at[0]]), y = load(right[at[1]]); \
            out[i] = store<O>(expression); } }

__device__ __forceinline__ float minimum(float x, float y) { return x != x || y != y ? x + y : fminf(x, y); }
__device__ __forceinline__ float maximum(float x, float y) { return x != x || y != y ? x + y : fmaxf(x, y); }

BINARY(Add, x + y)
BINARY(Sub, x - y)
BINARY(Mul, x * y)
BINARY(Div, x / y)
BINARY(Pow, powf(x, y))
BINARY(PRelu, x < 0.0f ? x * y : x)
BINARY(Min, minimum(x, y))
BINARY(Max, maximum(x, y))
BINARY(Mean, (x + y) * 0.5f)
BINARY(SwiGLU, x * sigmoid(a * x) * y)
BINARY(ReluGradient, y > 0.0f ? x : 0.0f)
BINARY(SwishGradient, x * (sigmoid(a * y) * (1.0f + a * y * (1.0f - sigmoid(a * y)))))
BINARY(GeluGradient, x * (0.5f * (1.0f + erff(y * 0.70710678118654752f)) + y * 0.39894228040143268f * expf(-0.5f * y * y)))
COMPARISON(Equal, x == y ? 1.0f : 0.0f)
COMPARISON(Less, x < y ? 1.0f : 0.0f)
COMPARISON(LessOrEqual, x <= y ? 1.0f : 0.0f)
COMPARISON(Greater, x > y ? 1.0f : 0.0f)
COMPARISON(GreaterOrEqual, x >= y ? 1.0f : 0.0f)

BINARY_AS(And, bool, bool, b8, x != 0.0f && y != 0.0f)
BINARY_AS(Or, bool, bool, b8, x != 0.0f || y != 0.0f)
BINARY_AS(Xor, bool, bool, b8, x != y)
extern "C" __global__ void Not_b8(Broadcast p) { EACH(i, p.n) ((bool *)p.y)[i] = !((const bool *)p.x[0])[i]; }

// Where chooses elements of any type by their width.
#define WHERE(T, width) \
    extern "C" __global__ void Where_##width(Broadcast p) { \
        const unsigned char *condition = (const unsigned char *)p.x[0]; \
        const T *yes = (const T *)p.x[1], *no = (const T *)p.x[2]; T *out = (T *)p.y; \
        EACH(i, p.n) { i64 at[3]; locate(p, i, at); out[i] = condition[at[0]] ? yes[at[1]] : no[at[2]]; } }
WHERE(unsigned char, 1) WHERE(unsigned short, 2) WHERE(unsigned int, 4) WHERE(unsigned long long, 8)

// Cast between numbers of different types; integers go through double.
template <typename T> __device__ __forceinline__ double wide(T x) { return (double)x; }
template <> __device__ __forceinline__ double wide(__half x) { return (double)__half2float(x); }
template <> __device__ __forceinline__ double wide(__nv_bfloat16 x) { return (double)__bfloat162float(x); }
template <typename T> __device__ __forceinline__ T narrow(double x) { return (T)x; }
template <> __device__ __forceinline__ __half narrow(double x) { return __double2half(x); }
template <> __device__ __forceinline__ __nv_bfloat16 narrow(double x) { return __double2bfloat16(x); }
template <> __device__ __forceinline__ bool narrow(double x) { return x != 0.0; }

#define CAST(T, from, O, to) \
    extern "C" __global__ void Cast_##from##_##to(Unary p) { EACH(i, p.n) ((O *)p.y)[i] = narrow<O>(wide(((const T *)p.x)[i])); }
#define CASTS(T, from) CAST(T, from, float, f32) CAST(T, from, __half, f16) CAST(T, from, __nv_bfloat16, bf16) \
    CAST(T, from, int, i32) CAST(T, from, bool, b8)
CASTS(float, f32) CASTS(__half, f16) CASTS(__nv_bfloat16, bf16) CASTS(int, i32) CASTS(i64, i64) CASTS(bool, b8)

// Linear's end: y = activation(y + bias) + residual, rows of so many columns; the residual repeats after its length.
struct Finish { void *y; const void *bias, *residual; i64 n, length; int columns, activation; };
#define FINISH(T, ending) \
    extern "C" __global__ void finish_##ending(Finish p) { \
        T *y = (T *)p.y; const T *bias = (const T *)p.bias, *residual = (const T *)p.residual; \
        EACH(i, p.n) { \
            float x = load(y[i]); \
            if (bias) x += load(bias[i % p.columns]); \
            x = activate(x, p.activation); \
            if (residual) x += load(residual[i % p.length]); \
            y[i] = store<T>(x); } }
FLOATS(FINISH)
