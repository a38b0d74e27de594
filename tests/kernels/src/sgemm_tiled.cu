// SPDX-License-Identifier: Apache-2.0
// C[m x n] = A[m x k] B[k x n], row-major, 16x16 shared tiles; block (16, 16); any sizes.
#define TILE 16
extern "C" __global__ void sgemm_tiled(const float *a, const float *b, float *c, unsigned m, unsigned n, unsigned k)
{
    __shared__ float as[TILE][TILE], bs[TILE][TILE];
    unsigned tx = threadIdx.x, ty = threadIdx.y;
    unsigned row = blockIdx.y * TILE + ty, col = blockIdx.x * TILE + tx;
    float acc = 0.0f;
    for (unsigned t = 0; t < k; t += TILE) {
        as[ty][tx] = row < m && t + tx < k ? a[row * k + t + tx] : 0.0f;
        bs[ty][tx] = t + ty < k && col < n ? b[(t + ty) * n + col] : 0.0f;
        __syncthreads();
        for (unsigned i = 0; i < TILE; i++)
            acc = fmaf(as[ty][i], bs[i][tx], acc);
        __syncthreads();
    }
    if (row < m && col < n)
        c[row * n + col] = acc;
}
