// SPDX-License-Identifier: Apache-2.0
// Sorts each run of 1024 keys ascending, one block of 512 a run, in shared memory.
extern "C" __global__ void bitonic_sort(const unsigned *in, unsigned *out)
{
    __shared__ unsigned k[1024];
    unsigned base = blockIdx.x * 1024, tid = threadIdx.x;
    k[tid] = in[base + tid];
    k[tid + 512] = in[base + tid + 512];
    for (unsigned size = 2; size <= 1024; size <<= 1)
        for (unsigned stride = size >> 1; stride; stride >>= 1) {
            __syncthreads();
            unsigned i = 2 * tid - (tid & (stride - 1));
            bool up = !(i & size);
            unsigned a = k[i], b = k[i + stride];
            if ((a > b) == up) {
                k[i] = b;
                k[i + stride] = a;
            }
        }
    __syncthreads();
    out[base + tid] = k[tid];
    out[base + tid + 512] = k[tid + 512];
}
