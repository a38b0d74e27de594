// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies. cpasync_tile: tiles of 16-byte cp.async, two stages, then a reversal inside the tile.
// cpasync_small: 4- and 8-byte copies, and a copy with zero fill past the end.
extern "C" __global__ void cpasync_tile(const float4 *in, float4 *out, unsigned tiles)
{
    __shared__ float4 buf[2][128];
    unsigned t = threadIdx.x;
    const float4 *src = in + (size_t)blockIdx.x * tiles * 128;
    float4 *dst = out + (size_t)blockIdx.x * tiles * 128;
    auto fetch = [&](unsigned stage, unsigned tile) {
        unsigned to = (unsigned)__cvta_generic_to_shared(&buf[stage][t]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(__cvta_generic_to_global(src + tile * 128 + t))
                     : "memory");
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    fetch(0, 0);
    for (unsigned k = 0; k < tiles; k++) {
        if (k + 1 < tiles) {
            fetch((k + 1) & 1, k + 1);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_all;" ::: "memory");
        }
        __syncthreads();
        float4 v = buf[k & 1][127 - t];
        dst[k * 128 + t] = make_float4(v.w, v.z, v.y, v.x);
        __syncthreads();
    }
}

extern "C" __global__ void cpasync_small(const unsigned *in, unsigned *out, unsigned n)
{
    __shared__ unsigned four[64];
    __shared__ unsigned long long eight[64];
    __shared__ uint4 filled[64];
    unsigned t = threadIdx.x;
    unsigned a = (unsigned)__cvta_generic_to_shared(&four[t]), b = (unsigned)__cvta_generic_to_shared(&eight[t]);
    unsigned c = (unsigned)__cvta_generic_to_shared(&filled[t]);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(a), "l"(__cvta_generic_to_global(in + t)) : "memory");
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(b), "l"(__cvta_generic_to_global(in + 2 * t)) : "memory");
    unsigned left = 4 * t < n ? min(16u, (n - 4 * t) * 4) : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(c),
                 "l"(__cvta_generic_to_global(in + (left ? 4 * t : 0))), "r"(left)
                 : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    uint4 f = filled[t ^ 1];
    unsigned long long e = eight[t ^ 1];
    out[t] = four[63 - t];
    out[64 + t] = (unsigned)e ^ (unsigned)(e >> 32);
    out[128 + t] = f.x + f.y * 3 + f.z * 5 + f.w * 7;
}
