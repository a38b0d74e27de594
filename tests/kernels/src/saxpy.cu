// SPDX-License-Identifier: Apache-2.0
// y = alpha * x + y over a grid-stride loop (fused multiply-add, as nvcc contracts it).
extern "C" __global__ void saxpy(float alpha, const float *x, float *y, unsigned n)
{
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        y[i] = alpha * x[i] + y[i];
}
