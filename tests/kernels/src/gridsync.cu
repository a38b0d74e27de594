// SPDX-License-Identifier: Apache-2.0
// All blocks meet at a barrier between two phases, built from atomics (every block must be resident).
__device__ void meet(unsigned *count, unsigned target)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(count, 1u);
        while (atomicAdd(count, 0u) < target)
            ;
        __threadfence();
    }
    __syncthreads();
}

extern "C" __global__ void grid_barrier(unsigned *data, unsigned *out, unsigned *count, unsigned rounds)
{
    unsigned n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
    volatile unsigned *from = data, *to = out;
    for (unsigned r = 0; r < rounds; r++) {
        to[i] = from[(i + blockDim.x) % n] + from[i];
        meet(count, (r + 1) * gridDim.x);
        volatile unsigned *t = from;
        from = to;
        to = t;
    }
}
