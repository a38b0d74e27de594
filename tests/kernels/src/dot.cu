// SPDX-License-Identifier: Apache-2.0
// Dot products: dot_f32 in f32 with one atomic a block; dreduce sums doubles with a double atomic; dot_s8 with dp4a.
extern "C" __global__ void dot_f32(const float *a, const float *b, float *sum, unsigned n)
{
    __shared__ float warp[32];
    unsigned tid = threadIdx.x;
    float v = 0.0f;
    for (unsigned i = blockIdx.x * blockDim.x + tid; i < n; i += gridDim.x * blockDim.x)
        v = fmaf(a[i], b[i], v);
    for (int d = 16; d; d >>= 1)
        v += __shfl_down_sync(0xffffffffu, v, d);
    if ((tid & 31) == 0)
        warp[tid >> 5] = v;
    __syncthreads();
    if (tid < 32) {
        v = tid < blockDim.x / 32 ? warp[tid] : 0.0f;
        for (int d = 16; d; d >>= 1)
            v += __shfl_down_sync(0xffffffffu, v, d);
        if (tid == 0)
            atomicAdd(sum, v);
    }
}

extern "C" __global__ void dreduce(const double *x, double *sum, unsigned n)
{
    __shared__ double part[128];
    unsigned tid = threadIdx.x;
    double v = 0.0;
    for (unsigned i = blockIdx.x * blockDim.x + tid; i < n; i += gridDim.x * blockDim.x)
        v += x[i];
    part[tid] = v;
    for (unsigned s = 64; s; s >>= 1) {
        __syncthreads();
        if (tid < s)
            part[tid] += part[tid + s];
    }
    if (tid == 0)
        atomicAdd(sum, part[0]);
}

extern "C" __global__ void dot_s8(const int *a, const int *b, int *sum, unsigned words)
{
    int v = 0;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < words; i += gridDim.x * blockDim.x)
        v = __dp4a(a[i], b[i], v);
    v = __reduce_add_sync(0xffffffffu, v);
    if ((threadIdx.x & 31) == 0)
        atomicAdd(sum, v);
}
