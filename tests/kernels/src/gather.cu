// SPDX-License-Identifier: Apache-2.0
// gather: out[i] = in[index[i]]. scatter: out[index[i]] = in[i] (index is a permutation).
extern "C" __global__ void gather(const float *in, const unsigned *index, float *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = in[index[i]];
}

extern "C" __global__ void scatter(const float *in, const unsigned *index, float *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[index[i]] = in[i];
}
