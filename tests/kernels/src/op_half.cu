// SPDX-License-Identifier: Apache-2.0
// Half and bfloat16 arithmetic, scalar and packed. half2_axpy and bf16_axpy: y = alpha x + y, two elements a thread.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define H2(text, a, b) ({ unsigned short r_; asm(text " %0, %1, %2;" : "=h"(r_) : "h"(a), "h"(b)); r_; })
#define H3(text, a, b, c) ({ unsigned short r_; asm(text " %0, %1, %2, %3;" : "=h"(r_) : "h"(a), "h"(b), "h"(c)); r_; })
#define H1(text, a) ({ unsigned short r_; asm(text " %0, %1;" : "=h"(r_) : "h"(a)); r_; })
#define X2(text, a, b) ({ unsigned r_; asm(text " %0, %1, %2;" : "=r"(r_) : "r"(a), "r"(b)); r_; })
#define X3(text, a, b, c) ({ unsigned r_; asm(text " %0, %1, %2, %3;" : "=r"(r_) : "r"(a), "r"(b), "r"(c)); r_; })
#define PLANE(x) out[(k++) * n + i] = (x)

extern "C" __global__ void half2_axpy(__half alpha, const __half2 *x, __half2 *y, unsigned pairs)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < pairs)
        y[i] = __hfma2(__half2half2(alpha), x[i], y[i]);
}

extern "C" __global__ void bf16_axpy(__nv_bfloat16 alpha, const __nv_bfloat162 *x, __nv_bfloat162 *y, unsigned pairs)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < pairs)
        y[i] = __hfma2(__bfloat162bfloat162(alpha), x[i], y[i]);
}

extern "C" __global__ void f16_ops(const unsigned short *pa, const unsigned short *pb, const unsigned short *pc,
                                   unsigned short *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    unsigned short a = pa[i], b = pb[i], c = pc[i];
    PLANE(H2("add.rn.f16", a, b));
    PLANE(H2("sub.rn.f16", a, b));
    PLANE(H2("mul.rn.f16", a, b));
    PLANE(H3("fma.rn.f16", a, b, c));
    PLANE(H3("fma.rn.relu.f16", a, b, c));
    PLANE(H2("add.sat.f16", a, b));
    PLANE(H2("min.f16", a, b));
    PLANE(H2("max.f16", a, b));
    PLANE(H2("max.NaN.f16", a, b));
    PLANE(H1("neg.f16", a));
    PLANE(H1("abs.f16", a));
    unsigned ab = a | (unsigned)b << 16, bc = b | (unsigned)c << 16, ca = c | (unsigned)a << 16, r;
    r = X2("add.rn.f16x2", ab, bc);
    PLANE((unsigned short)r);
    PLANE((unsigned short)(r >> 16));
    r = X3("fma.rn.f16x2", ab, bc, ca);
    PLANE((unsigned short)r);
    PLANE((unsigned short)(r >> 16));
    r = X2("min.f16x2", ab, bc);
    PLANE((unsigned short)r);
    PLANE((unsigned short)(r >> 16));
    asm("{\n\t.reg .pred p, q;\n\tsetp.lt.f16x2 p|q, %1, %2;\n\tselp.u32 %0, 1, 0, p;\n\t@q add.u32 %0, %0, 2;\n\t}"
        : "=r"(r)
        : "r"(ab), "r"(bc));
    PLANE((unsigned short)r);
    asm("{\n\t.reg .pred p;\n\tsetp.ge.f16 p, %1, %2;\n\tselp.u32 %0, 1, 0, p;\n\t}" : "=r"(r) : "h"(a), "h"(b));
    PLANE((unsigned short)r);
}

extern "C" __global__ void bf16_ops(const unsigned short *pa, const unsigned short *pb, const unsigned short *pc,
                                    unsigned short *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    unsigned short a = pa[i], b = pb[i], c = pc[i];
    PLANE(H2("add.rn.bf16", a, b));
    PLANE(H2("sub.rn.bf16", a, b));
    PLANE(H2("mul.rn.bf16", a, b));
    PLANE(H3("fma.rn.bf16", a, b, c));
    PLANE(H2("min.bf16", a, b));
    PLANE(H2("max.bf16", a, b));
    PLANE(H1("neg.bf16", a));
    PLANE(H1("abs.bf16", a));
    unsigned ab = a | (unsigned)b << 16, bc = b | (unsigned)c << 16, ca = c | (unsigned)a << 16, r;
    r = X3("fma.rn.bf16x2", ab, bc, ca);
    PLANE((unsigned short)r);
    PLANE((unsigned short)(r >> 16));
    r = X2("max.bf16x2", ab, bc);
    PLANE((unsigned short)r);
    PLANE((unsigned short)(r >> 16));
    asm("{\n\t.reg .pred p;\n\tsetp.lt.bf16 p, %1, %2;\n\tselp.u32 %0, 1, 0, p;\n\t}" : "=r"(r) : "h"(a), "h"(b));
    PLANE((unsigned short)r);
}

// Approximations in half precision, positive ordinary arguments.
extern "C" __global__ void f16_approx(const __half *pa, __half *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    unsigned short a = __half_as_ushort(pa[i]);
    PLANE(__ushort_as_half(H1("ex2.approx.f16", a)));
    PLANE(__ushort_as_half(H1("tanh.approx.f16", a)));
    PLANE(hexp(pa[i]));
    PLANE(hrsqrt(pa[i]));
    PLANE(hsqrt(pa[i]));
}
