// SPDX-License-Identifier: Apache-2.0
// Forward radix-2 FFT of 512 complex numbers a block (256 threads), bit-reversed load, shared memory, sincospif.
extern "C" __global__ void fft512(const float2 *in, float2 *out)
{
    __shared__ float2 v[512];
    unsigned tid = threadIdx.x, base = blockIdx.x * 512;
    for (unsigned i = tid; i < 512; i += 256)
        v[__brev(i) >> 23] = in[base + i];
    __syncthreads();
    for (unsigned half = 1; half < 512; half <<= 1) {
        unsigned k = tid & (half - 1), i = 2 * tid - k;
        float s, c;
        sincospif(-(float)k / (float)half, &s, &c);
        float2 a = v[i], b = v[i + half];
        float2 t = make_float2(b.x * c - b.y * s, b.x * s + b.y * c);
        v[i] = make_float2(a.x + t.x, a.y + t.y);
        v[i + half] = make_float2(a.x - t.x, a.y - t.y);
        __syncthreads();
    }
    for (unsigned i = tid; i < 512; i += 256)
        out[base + i] = v[i];
}
