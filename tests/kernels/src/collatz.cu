// SPDX-License-Identifier: Apache-2.0
// Lengths of Collatz chains: loops of very different lengths in one warp, 64-bit arithmetic.
extern "C" __global__ void collatz(unsigned *out, unsigned start, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned long long v = start + i;
    unsigned steps = 0;
    while (v > 1) {
        v = v & 1 ? 3 * v + 1 : v >> 1;
        steps++;
    }
    out[i] = steps;
}
