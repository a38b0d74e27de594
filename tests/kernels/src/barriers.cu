// SPDX-License-Identifier: Apache-2.0
// Barriers: named barriers with counts (a producer and a consumer half of 64 threads), reductions over a block
// (popc, and, or), arrive without waiting, and threads that leave before a barrier the rest still waits at.
extern "C" __global__ void barriers(const unsigned *in, unsigned *out)
{
    __shared__ unsigned box[64];
    unsigned t = threadIdx.x, i = blockIdx.x * 64 + (t & 63);
    if (t < 64) {
        box[t] = in[i] * 3;
        asm volatile("bar.arrive 1, 128;" ::: "memory");
        asm volatile("bar.sync 2, 64;" ::: "memory");
    } else {
        asm volatile("bar.sync 1, 128;" ::: "memory");
        out[blockIdx.x * 256 + t - 64] = box[(t - 64) ^ 5];
    }
    __syncthreads();
    unsigned odd = in[i] & 1;
    int count = __syncthreads_count(odd), all = __syncthreads_and(odd), any = __syncthreads_or(odd);
    if (t < 64)
        out[blockIdx.x * 256 + 64 + t] = (unsigned)count * 4 + (all ? 2 : 0) + (any ? 1 : 0);
    if (t >= 96)
        return;
    __syncthreads();
    if (t < 64)
        box[t] = t + in[i];
    __syncthreads();
    if (t < 64)
        out[blockIdx.x * 256 + 128 + t] = box[63 - t];
    if (t < 32)
        __syncwarp();
    if (t < 64)
        out[blockIdx.x * 256 + 192 + t] = t;
}
