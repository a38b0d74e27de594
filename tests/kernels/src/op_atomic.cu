// SPDX-License-Identifier: Apache-2.0
// Atomics of every operation and width in global and shared memory. Each thread works on bins it shares with others;
// the final memory is the same in any order. cas_widths builds additions out of CAS of 16, 32 and 64 bits.
#define G(p) ((unsigned long long)__cvta_generic_to_global(p))

extern "C" __global__ void atomics32(unsigned *bins, const unsigned *in, unsigned *old, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned v = in[i], r;
    unsigned long long b = G(bins + (i & 7) * 16);
#define ATOM(text, at, x) asm volatile("atom." text " %0, [%1+" #at "], %2;" : "=r"(r) : "l"(b), "r"(x) : "memory")
#define RED(text, at, x) asm volatile("red." text " [%0+" #at "], %1;" ::"l"(b), "r"(x) : "memory")
    ATOM("global.add.u32", 0, 1u);
    old[i] = r;
    ATOM("global.and.b32", 4, v | 0xff0000ffu);
    ATOM("global.or.b32", 8, v & 0x0f0f0f0fu);
    ATOM("global.xor.b32", 12, v);
    ATOM("global.min.u32", 16, v);
    ATOM("global.max.u32", 20, v);
    ATOM("global.min.s32", 24, v);
    ATOM("global.max.s32", 28, v);
    ATOM("global.inc.u32", 32, 9u);
    ATOM("global.dec.u32", 36, 6u);
    ATOM("acq_rel.gpu.global.add.u32", 40, 1u);
    RED("global.add.u32", 44, v);
    RED("relaxed.sys.global.max.s32", 48, v);
    RED("global.or.b32", 52, v);
    RED("release.cta.global.add.s32", 56, 3u);
    asm volatile("atom.add.u32 %0, [%1+60], %2;" : "=r"(r) : "l"(bins + (i & 7) * 16), "r"(2u) : "memory");
}

extern "C" __global__ void atomics64(unsigned long long *bins, const unsigned long long *in, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned long long v = in[i], r, b = G(bins + (i & 3) * 16);
#undef ATOM
#undef RED
#define ATOM(text, at, x) asm volatile("atom." text " %0, [%1+" #at "], %2;" : "=l"(r) : "l"(b), "l"(x) : "memory")
#define RED(text, at, x) asm volatile("red." text " [%0+" #at "], %1;" ::"l"(b), "l"(x) : "memory")
    ATOM("global.add.u64", 0, v);
    ATOM("global.and.b64", 8, v | 0xffff00000000ffffull);
    ATOM("global.or.b64", 16, v & 0x0f0f0f0f0f0f0f0full);
    ATOM("global.xor.b64", 24, v);
    ATOM("global.min.u64", 32, v);
    ATOM("global.max.u64", 40, v);
    ATOM("global.min.s64", 48, v);
    ATOM("global.max.s64", 56, v);
    RED("global.add.u64", 64, v);
    RED("global.xor.b64", 72, v);
    RED("global.min.s64", 80, v);
}

// Floating adds of small whole numbers, so that the sums are exact in any order.
extern "C" __global__ void atomics_float(float *f, double *d, unsigned *h, unsigned *bf, float *v4, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    float x = (float)(i % 5);
    float r;
    double rd;
    asm volatile("atom.global.add.f32 %0, [%1], %2;" : "=f"(r) : "l"(G(f + (i & 3))), "f"(x) : "memory");
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(G(f + 4 + (i & 3))), "f"(x) : "memory");
    asm volatile("atom.global.add.f64 %0, [%1], %2;" : "=d"(rd) : "l"(G(d + (i & 3))), "d"((double)x) : "memory");
    // 0x3c00 is 1.0 as f16, 0x4000 is 2.0; 0x3f80 is 1.0 as bf16.
    asm volatile("red.global.add.noftz.f16x2 [%0], %1;" ::"l"(G(h + (i & 15))), "r"(0x40003c00u) : "memory");
    asm volatile("{\n\t.reg .b32 r;\n\tatom.global.add.noftz.bf16x2 r, [%0], %1;\n\t}" ::"l"(G(bf + (i & 15))),
                 "r"(0x3f803f80u)
                 : "memory");
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(G(v4 + (i & 3) * 4)), "f"(x), "f"(1.0f),
                 "f"(-x), "f"(2.0f)
                 : "memory");
}

extern "C" __global__ void atomics_shared(const unsigned *in, unsigned *out, unsigned n)
{
    __shared__ unsigned bins[16];
    __shared__ unsigned long long wide[4];
    __shared__ float sum;
    unsigned t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    if (t < 16)
        bins[t] = t == 5 ? 0xffffffffu : 0;
    if (t < 4)
        wide[t] = 0;
    if (t == 0)
        sum = 0;
    __syncthreads();
    unsigned v = i < n ? in[i] : 0, r;
    unsigned b = (unsigned)__cvta_generic_to_shared(bins), w = (unsigned)__cvta_generic_to_shared(wide);
#define SHARED(text, at, x) asm volatile("atom.shared." text " %0, [%1+" #at "], %2;" : "=r"(r) : "r"(b), "r"(x) : "memory")
    SHARED("add.u32", 0, v);
    SHARED("max.u32", 4, v);
    SHARED("or.b32", 8, v);
    SHARED("xor.b32", 12, v);
    SHARED("inc.u32", 16, 100u);
    SHARED("min.u32", 20, v);
    SHARED("and.b32", 24, v);
    asm volatile("red.shared.add.u32 [%0+28], %1;" ::"r"(b), "r"(1u) : "memory");
    asm volatile("atom.shared.exch.b32 %0, [%1+32], %2;" : "=r"(r) : "r"(b), "r"(blockIdx.x + 77) : "memory");
    asm volatile("red.shared.add.u64 [%0], %1;" ::"r"(w), "l"((unsigned long long)v << 8) : "memory");
    asm volatile("red.shared.max.u64 [%0+8], %1;" ::"r"(w), "l"((unsigned long long)v << 8) : "memory");
    atomicAdd(&sum, (float)(t & 3));
    __syncthreads();
    if (t < 16)
        out[blockIdx.x * 24 + t] = bins[t];
    if (t < 4)
        out[blockIdx.x * 24 + 16 + t] = (unsigned)(wide[t] >> 8);
    if (t == 0)
        out[blockIdx.x * 24 + 20] = (unsigned)sum;
}

extern "C" __global__ void cas_widths(unsigned short *h, unsigned *w, unsigned long long *l,
                                      unsigned long long *swapped, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned short h0 = h[i & 7], hr;
    for (;;) {
        asm volatile("atom.global.cas.b16 %0, [%1], %2, %3;"
                     : "=h"(hr)
                     : "l"(G(h + (i & 7))), "h"(h0), "h"((unsigned short)(h0 + 3))
                     : "memory");
        if (hr == h0)
            break;
        h0 = hr;
    }
    unsigned w0 = w[i & 7], wr;
    while ((wr = atomicCAS(w + (i & 7), w0, w0 + i)) != w0)
        w0 = wr;
    unsigned long long l0 = l[i & 7], lr;
    while ((lr = atomicCAS(l + (i & 7), l0, l0 + ((unsigned long long)i << 20))) != l0)
        l0 = lr;
    // Every thread exchanges a 7 in: once the initial value comes out, then only sevens.
    unsigned long long out;
    asm volatile("atom.global.exch.b64 %0, [%1], %2;" : "=l"(out) : "l"(G(swapped)), "l"(7ull) : "memory");
    asm volatile("red.global.add.u64 [%0], %1;" ::"l"(G(swapped + 1)), "l"(out) : "memory");
}
