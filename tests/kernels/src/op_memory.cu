// SPDX-License-Identifier: Apache-2.0
// Loads and stores of every width, vector and cache modifier, in global, shared and local memory and through generic
// addresses. Each thread reads 64 bytes at its own place and writes them back through another form.
#define G(p) ((unsigned long long)__cvta_generic_to_global(p))

extern "C" __global__ void widths(const unsigned char *in, unsigned char *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned long long p = G(in + (size_t)i * 64), q = G(out + (size_t)i * 64);
    asm volatile("{\n\t.reg .b16 h<4>;\n\t.reg .b32 r<4>;\n\t.reg .b64 l<2>;\n\t.reg .f32 f<4>;\n\t.reg .f64 d<2>;\n\t"
                 "ld.global.u8 h0, [%0];\n\tst.global.u8 [%1], h0;\n\t"
                 "ld.global.s8 r0, [%0+1];\n\tst.global.b8 [%1+1], r0;\n\t"
                 "ld.global.nc.u16 h1, [%0+2];\n\tst.global.u16 [%1+2], h1;\n\t"
                 "ld.global.v4.u8 {h0, h1, h2, h3}, [%0+4];\n\tst.global.v4.u8 [%1+4], {h3, h2, h1, h0};\n\t"
                 "ld.global.v2.u16 {h0, h1}, [%0+8];\n\tst.global.wb.v2.b16 [%1+8], {h1, h0};\n\t"
                 "ld.global.ca.b32 r0, [%0+12];\n\tst.global.cg.b32 [%1+12], r0;\n\t"
                 "ld.global.cg.v2.f32 {f0, f1}, [%0+16];\n\tst.global.cs.v2.f32 [%1+16], {f1, f0};\n\t"
                 "ld.global.cs.b64 l0, [%0+24];\n\tst.global.wt.b64 [%1+24], l0;\n\t"
                 "ld.global.L1::no_allocate.v4.b32 {r0, r1, r2, r3}, [%0+32];\n\t"
                 "st.global.v4.b32 [%1+32], {r3, r2, r1, r0};\n\t"
                 "ld.global.nc.L1::evict_last.L2::128B.v2.f64 {d0, d1}, [%0+48];\n\t"
                 "st.global.v2.f64 [%1+48], {d1, d0};\n\t}" ::"l"(p), "l"(q)
                 : "memory");
}

// Generic addresses that point at global, shared, local and constant memory, chosen per thread.
__constant__ unsigned long long fixed[4] = {11, 22, 33, 44};
extern "C" __global__ void generic(const unsigned long long *in, unsigned long long *out, unsigned n)
{
    __shared__ unsigned long long box[128];
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned long long mine[2];
    mine[0] = i * 3;
    mine[1] = i * 5;
    box[threadIdx.x] = i * 7;
    __syncthreads();
    if (i >= n)
        return;
    const unsigned long long *from;
    switch (i & 3) {
    case 0: from = in + i; break;
    case 1: from = &box[threadIdx.x ^ 1]; break;
    case 2: from = &mine[(i >> 2) & 1]; break;
    default: from = &fixed[(i >> 2) & 3]; break;
    }
    unsigned long long v;
    asm volatile("ld.u64 %0, [%1];" : "=l"(v) : "l"(from) : "memory");
    unsigned long long *to = i & 4 ? out + i : &mine[1];
    asm volatile("st.u64 [%0], %1;" ::"l"(to), "l"(v * 2) : "memory");
    unsigned kind = 0;
    asm("{\n\t.reg .pred p;\n\tisspacep.global p, %1;\n\tselp.u32 %0, 1, 0, p;\n\t"
        "isspacep.shared p, %1;\n\t@p or.b32 %0, %0, 2;\n\tisspacep.local p, %1;\n\t@p or.b32 %0, %0, 4;\n\t}"
        : "=&r"(kind)
        : "l"((i & 3) == 3 ? in : from));
    if (!(i & 4))
        out[i] = mine[1] + 1;
    out[n + i] = kind;
}

// Volatile, relaxed and acquire/release forms, prefetch and fences; one thread at its own place.
extern "C" __global__ void ordered(const unsigned *in, unsigned *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned long long p = G(in + i), q = G(out + i);
    unsigned v;
    asm volatile("prefetch.global.L2 [%0];\n\tprefetchu.L1 [%0];" ::"l"(p));
    asm volatile("ld.volatile.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    asm volatile("st.relaxed.cta.global.u32 [%0], %1;\n\tfence.acq_rel.gpu;" ::"l"(q), "r"(v + 1) : "memory");
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];\n\tfence.sc.sys;\n\tmembar.cta;" : "=r"(v) : "l"(q) : "memory");
    asm volatile("st.release.cta.global.u32 [%0], %1;\n\tmembar.sys;\n\tfence.proxy.async;" ::"l"(q), "r"(v * 2) : "memory");
    asm volatile("ld.relaxed.cluster.global.u32 %0, [%1];" : "=r"(v) : "l"(q) : "memory");
    asm volatile("st.volatile.global.u32 [%0], %1;" ::"l"(q), "r"(v ^ 1) : "memory");
    asm volatile("ld.global.lu.u32 %0, [%1];" : "=r"(v) : "l"(q) : "memory");
    asm volatile("st.weak.global.u32 [%0], %1;" ::"l"(q), "r"(v + 5) : "memory");
}

// Vector moves and packing: mov between 64-bit and halves, 32-bit and shorts, 128-bit loads and stores.
extern "C" __global__ void packing(const ulonglong2 *in, ulonglong2 *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned long long x = in[i].x, y = in[i].y;
    unsigned lo, hi;
    asm("mov.b64 {%0, %1}, %2;" : "=r"(lo), "=r"(hi) : "l"(x));
    asm("mov.b64 %0, {%2, %1};" : "=l"(x) : "r"(lo), "r"(hi));
    unsigned short h0, h1;
    asm("mov.b32 {%0, %1}, %2;" : "=h"(h0), "=h"(h1) : "r"((unsigned)y));
    asm("mov.b32 %0, {%2, %1};" : "=r"(lo) : "h"(h0), "h"(h1));
    out[i] = make_ulonglong2(x, ((unsigned long long)lo << 32) ^ (x + y));
}
