// SPDX-License-Identifier: Apache-2.0
// c[i] = a[i] + b[i], one thread an element.
extern "C" __global__ void vecadd(const float *a, const float *b, float *c, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        c[i] = a[i] + b[i];
}
