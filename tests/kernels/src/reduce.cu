// SPDX-License-Identifier: Apache-2.0
// Sum of x[0..n]: grid-stride partial sums, a tree in shared memory, a warp shuffle, one atomic a block.
// Launch with 256 threads a block.
extern "C" __global__ void reduce_f32(const float *x, float *sum, unsigned n)
{
    __shared__ float part[256];
    unsigned tid = threadIdx.x;
    float v = 0.0f;
    for (unsigned i = blockIdx.x * blockDim.x + tid; i < n; i += gridDim.x * blockDim.x)
        v += x[i];
    part[tid] = v;
    __syncthreads();
    for (unsigned s = blockDim.x / 2; s >= 32; s >>= 1) {
        if (tid < s)
            part[tid] += part[tid + s];
        __syncthreads();
    }
    if (tid < 32) {
        v = part[tid];
        for (int d = 16; d > 0; d >>= 1)
            v += __shfl_down_sync(0xffffffffu, v, d);
        if (tid == 0)
            atomicAdd(sum, v);
    }
}

// The same over 32-bit integers, so that the result is exact in any order.
extern "C" __global__ void reduce_u32(const unsigned *x, unsigned *sum, unsigned n)
{
    __shared__ unsigned part[256];
    unsigned tid = threadIdx.x;
    unsigned v = 0;
    for (unsigned i = blockIdx.x * blockDim.x + tid; i < n; i += gridDim.x * blockDim.x)
        v += x[i];
    part[tid] = v;
    __syncthreads();
    for (unsigned s = blockDim.x / 2; s > 0; s >>= 1) {
        if (tid < s)
            part[tid] += part[tid + s];
        __syncthreads();
    }
    if (tid == 0)
        atomicAdd(sum, part[0]);
}
