// SPDX-License-Identifier: Apache-2.0
// Prefix sums. scan_block: inclusive scan inside each block of 256 (warp shuffles, then one warp over the warps' sums)
// plus every block's total. scan_chained: the whole array in one launch; a block takes a ticket and spins until the
// block before it has published its running total, so it needs forward progress between blocks.
__device__ __forceinline__ unsigned warp_scan(unsigned v)
{
    unsigned lane = threadIdx.x & 31;
    for (unsigned d = 1; d < 32; d <<= 1) {
        unsigned up = __shfl_up_sync(0xffffffffu, v, d);
        if (lane >= d)
            v += up;
    }
    return v;
}

__device__ __forceinline__ unsigned block_scan(unsigned v, unsigned *sums)
{
    unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    v = warp_scan(v);
    if (lane == 31)
        sums[warp] = v;
    __syncthreads();
    if (warp == 0) {
        unsigned s = lane < blockDim.x / 32 ? sums[lane] : 0;
        sums[lane] = warp_scan(s);
    }
    __syncthreads();
    return warp ? v + sums[warp - 1] : v;
}

extern "C" __global__ void scan_block(const unsigned *in, unsigned *out, unsigned *totals, unsigned n)
{
    __shared__ unsigned sums[32];
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned v = block_scan(i < n ? in[i] : 0, sums);
    if (i < n)
        out[i] = v;
    if (threadIdx.x == blockDim.x - 1)
        totals[blockIdx.x] = v;
}

// state[0] is the ticket counter, state[1 + b] the published total of blocks 0..=b with bit 63 as "ready".
extern "C" __global__ void scan_chained(const unsigned *in, unsigned *out, unsigned long long *state, unsigned n)
{
    __shared__ unsigned sums[32];
    __shared__ unsigned block, before;
    if (threadIdx.x == 0)
        block = (unsigned)atomicAdd(state, 1ull);
    __syncthreads();
    unsigned i = block * blockDim.x + threadIdx.x;
    unsigned v = block_scan(i < n ? in[i] : 0, sums);
    if (threadIdx.x == blockDim.x - 1) {
        unsigned long long prior = 0;
        if (block != 0) {
            volatile unsigned long long *ready = state + block;
            do
                prior = *ready;
            while (!(prior >> 63));
        }
        before = (unsigned)prior;
        __threadfence();
        atomicExch(state + 1 + block, (1ull << 63) | (unsigned)(before + v));
    }
    __syncthreads();
    if (i < n)
        out[i] = before + v;
}
