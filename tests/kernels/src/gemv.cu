// SPDX-License-Identifier: Apache-2.0
// y = A x, A row-major with a row length that is a multiple of 4; one warp a row, float4 loads.
extern "C" __global__ void gemv(const float4 *a, const float4 *x, float *y, unsigned rows, unsigned quads)
{
    unsigned row = (blockIdx.x * blockDim.x + threadIdx.x) >> 5, lane = threadIdx.x & 31;
    if (row >= rows)
        return;
    float acc = 0.0f;
    for (unsigned i = lane; i < quads; i += 32) {
        float4 p = a[(size_t)row * quads + i], q = x[i];
        acc = fmaf(p.x, q.x, fmaf(p.y, q.y, fmaf(p.z, q.z, fmaf(p.w, q.w, acc))));
    }
    for (int d = 16; d; d >>= 1)
        acc += __shfl_xor_sync(0xffffffffu, acc, d);
    if (lane == 0)
        y[row] = acc;
}
