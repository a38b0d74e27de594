// SPDX-License-Identifier: Apache-2.0
// Keeps the elements above a threshold, in no given order: one ballot and one atomic a warp. count[0] is how many.
extern "C" __global__ void compact(const unsigned *in, unsigned *out, unsigned *count, unsigned threshold, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31;
    unsigned v = i < n ? in[i] : 0;
    bool keep = i < n && v > threshold;
    unsigned mask = __ballot_sync(0xffffffffu, keep), base = 0;
    if (mask == 0)
        return;
    int leader = __ffs(mask) - 1;
    if ((int)lane == leader)
        base = atomicAdd(count, __popc(mask));
    base = __shfl_sync(0xffffffffu, base, leader);
    if (keep)
        out[base + __popc(mask & ((1u << lane) - 1))] = v;
}
