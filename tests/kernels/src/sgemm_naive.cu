// SPDX-License-Identifier: Apache-2.0
// C[m x n] = A[m x k] B[k x n], row-major, one thread an element, no shared memory.
extern "C" __global__ void sgemm_naive(const float *a, const float *b, float *c, unsigned m, unsigned n, unsigned k)
{
    unsigned col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= m || col >= n)
        return;
    float acc = 0.0f;
    for (unsigned i = 0; i < k; i++)
        acc = fmaf(a[row * k + i], b[i * n + col], acc);
    c[row * n + col] = acc;
}
