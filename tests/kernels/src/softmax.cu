// SPDX-License-Identifier: Apache-2.0
// Softmax of each row, one block of 128 a row.
extern "C" __global__ void softmax(const float *in, float *out, unsigned cols)
{
    __shared__ float warp[4];
    const float *x = in + (size_t)blockIdx.x * cols;
    float *y = out + (size_t)blockIdx.x * cols;
    unsigned tid = threadIdx.x, lane = tid & 31;
    float top = -INFINITY;
    for (unsigned i = tid; i < cols; i += blockDim.x)
        top = fmaxf(top, x[i]);
    for (int d = 16; d; d >>= 1)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
    if (lane == 0)
        warp[tid >> 5] = top;
    __syncthreads();
    top = fmaxf(fmaxf(warp[0], warp[1]), fmaxf(warp[2], warp[3]));
    __syncthreads();
    float sum = 0.0f;
    for (unsigned i = tid; i < cols; i += blockDim.x) {
        float e = expf(x[i] - top);
        y[i] = e;
        sum += e;
    }
    for (int d = 16; d; d >>= 1)
        sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (lane == 0)
        warp[tid >> 5] = sum;
    __syncthreads();
    sum = warp[0] + warp[1] + warp[2] + warp[3];
    for (unsigned i = tid; i < cols; i += blockDim.x)
        y[i] = y[i] / sum;
}
