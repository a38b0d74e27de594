// SPDX-License-Identifier: Apache-2.0
// A pipeline over mbarriers: warp 0 produces tiles, warps 1..3 consume them, a full and an empty barrier for each of
// two stages, waiting by parity; then one round with cp.async.mbarrier.arrive.
__device__ __forceinline__ void init(unsigned bar, unsigned count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

__device__ __forceinline__ void arrive(unsigned bar)
{
    asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.shared.b64 state, [%0];\n\t}" ::"r"(bar) : "memory");
}

__device__ __forceinline__ void wait(unsigned bar, unsigned parity)
{
    unsigned done;
    do
        asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done)
                     : "r"(bar), "r"(parity)
                     : "memory");
    while (!done);
}

extern "C" __global__ void mbarrier_pipe(const unsigned *in, unsigned *out, unsigned tiles)
{
    __shared__ unsigned stage[2][96];
    __shared__ __align__(8) unsigned long long bars[5];
    unsigned t = threadIdx.x, base = (unsigned)__cvta_generic_to_shared(bars);
    if (t == 0) {
        for (int s = 0; s < 2; s++) {
            init(base + 8 * s, 32);
            init(base + 16 + 8 * s, 96);
        }
        init(base + 32, 128);
    }
    __syncthreads();
    const unsigned *src = in + blockIdx.x * tiles * 96;
    unsigned *dst = out + blockIdx.x * (tiles * 96 + 128);
    if (t < 32) {
        for (unsigned k = 0; k < tiles; k++) {
            unsigned s = k & 1;
            if (k >= 2)
                wait(base + 16 + 8 * s, (k / 2 - 1) & 1);
            for (unsigned i = t; i < 96; i += 32)
                stage[s][i] = src[k * 96 + i] + 1;
            arrive(base + 8 * s);
        }
    } else {
        for (unsigned k = 0; k < tiles; k++) {
            unsigned s = k & 1;
            wait(base + 8 * s, (k / 2) & 1);
            dst[k * 96 + t - 32] = stage[s][127 - t] * 2;
            arrive(base + 16 + 8 * s);
        }
    }
    __syncthreads();
    __shared__ unsigned last[128];
    unsigned to = (unsigned)__cvta_generic_to_shared(&last[t]);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(__cvta_generic_to_global(src + t % 96)) : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(base + 32) : "memory");
    wait(base + 32, 0);
    dst[tiles * 96 + t] = last[127 - t];
    __syncthreads();
    if (t < 5)
        asm volatile("mbarrier.inval.shared.b64 [%0];" ::"r"(base + 8 * t) : "memory");
}
