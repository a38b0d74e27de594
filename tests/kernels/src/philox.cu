// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10: counter (i, 0, 0, 0), key (seed); the four words, and the first as a float in [0, 1).
extern "C" __global__ void philox(uint4 *out, float *uniform, unsigned seed_lo, unsigned seed_hi, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned x = i, y = 0, z = 0, w = 0;
#pragma unroll
    for (int r = 0; r < 10; r++) {
        unsigned hi0 = __umulhi(0xD2511F53u, x), lo0 = 0xD2511F53u * x;
        unsigned hi1 = __umulhi(0xCD9E8D57u, z), lo1 = 0xCD9E8D57u * z;
        x = hi1 ^ y ^ seed_lo;
        y = lo1;
        z = hi0 ^ w ^ seed_hi;
        w = lo0;
        seed_lo += 0x9E3779B9u;
        seed_hi += 0xBB67AE85u;
    }
    out[i] = make_uint4(x, y, z, w);
    uniform[i] = (float)(x >> 8) * 0x1p-24f;
}
