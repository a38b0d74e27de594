// SPDX-License-Identifier: Apache-2.0
// y = (x - mean) * rsqrt(var + eps) * gamma + beta for each row, one warp a row, block (32, 4).
extern "C" __global__ void layernorm(const float *in, const float *gamma, const float *beta, float *out, unsigned rows,
                                     unsigned cols, float eps)
{
    unsigned row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (row >= rows)
        return;
    const float *x = in + (size_t)row * cols;
    float sum = 0.0f, squares = 0.0f;
    for (unsigned i = lane; i < cols; i += 32)
        sum += x[i];
    for (int d = 16; d; d >>= 1)
        sum += __shfl_xor_sync(0xffffffffu, sum, d);
    float mean = sum / cols;
    for (unsigned i = lane; i < cols; i += 32) {
        float c = x[i] - mean;
        squares += c * c;
    }
    for (int d = 16; d; d >>= 1)
        squares += __shfl_xor_sync(0xffffffffu, squares, d);
    float scale = rsqrtf(squares / cols + eps);
    for (unsigned i = lane; i < cols; i += 32)
        out[(size_t)row * cols + i] = (x[i] - mean) * scale * gamma[i] + beta[i];
}
