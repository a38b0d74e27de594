// SPDX-License-Identifier: Apache-2.0
// 256-bin histogram of bytes: shared-memory atomics for each block, then one global atomic a bin.
extern "C" __global__ void histogram(const unsigned char *data, unsigned *bins, unsigned n)
{
    __shared__ unsigned local[256];
    for (unsigned b = threadIdx.x; b < 256; b += blockDim.x)
        local[b] = 0;
    __syncthreads();
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&local[data[i]], 1u);
    __syncthreads();
    for (unsigned b = threadIdx.x; b < 256; b += blockDim.x)
        if (local[b])
            atomicAdd(&bins[b], local[b]);
}
