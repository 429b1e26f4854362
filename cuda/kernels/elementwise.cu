// A placeholder that is replaced below.
extern "C" __global__ void fill(float* y, float value, long n) {
    long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i < n) y[i] = value;
}
