// SPDX-License-Identifier: Apache-2.0
// y = A x, A in CSR form. spmv_scalar: one thread a row. spmv_vector: one warp a row.
extern "C" __global__ void spmv_scalar(const unsigned *rows, const unsigned *cols, const float *values, const float *x,
                                       float *y, unsigned n)
{
    unsigned r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= n)
        return;
    float acc = 0.0f;
    for (unsigned j = rows[r]; j < rows[r + 1]; j++)
        acc = fmaf(values[j], x[cols[j]], acc);
    y[r] = acc;
}

extern "C" __global__ void spmv_vector(const unsigned *rows, const unsigned *cols, const float *values, const float *x,
                                       float *y, unsigned n)
{
    unsigned r = (blockIdx.x * blockDim.x + threadIdx.x) >> 5, lane = threadIdx.x & 31;
    if (r >= n)
        return;
    float acc = 0.0f;
    for (unsigned j = rows[r] + lane; j < rows[r + 1]; j += 32)
        acc = fmaf(__ldg(values + j), __ldg(x + cols[j]), acc);
    for (int d = 16; d; d >>= 1)
        acc += __shfl_down_sync(0xffffffffu, acc, d);
    if (lane == 0)
        y[r] = acc;
}
