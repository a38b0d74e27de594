// SPDX-License-Identifier: Apache-2.0
// Double precision: arithmetic in every rounding, and the library's functions.
#define D1(text, a) ({ double r_; asm(text " %0, %1;" : "=d"(r_) : "d"(a)); r_; })
#define D2(text, a, b) ({ double r_; asm(text " %0, %1, %2;" : "=d"(r_) : "d"(a), "d"(b)); r_; })
#define D3(text, a, b, c) ({ double r_; asm(text " %0, %1, %2, %3;" : "=d"(r_) : "d"(a), "d"(b), "d"(c)); r_; })
#define PLANE(x) out[(k++) * n + i] = (x)

extern "C" __global__ void double_exact(const double *pa, const double *pb, const double *pc, double *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    double a = pa[i], b = pb[i], c = pc[i];
    PLANE(D2("add.rn.f64", a, b));
    PLANE(D2("add.rz.f64", a, b));
    PLANE(D2("add.rm.f64", a, b));
    PLANE(D2("add.rp.f64", a, b));
    PLANE(D2("sub.rn.f64", a, b));
    PLANE(D2("mul.rn.f64", a, b));
    PLANE(D2("mul.rz.f64", a, b));
    PLANE(D2("mul.rm.f64", a, b));
    PLANE(D2("mul.rp.f64", a, b));
    PLANE(D3("fma.rn.f64", a, b, c));
    PLANE(D2("div.rn.f64", a, b));
    PLANE(D1("rcp.rn.f64", a));
    PLANE(D1("sqrt.rn.f64", fabs(a)));
    PLANE(D2("min.f64", a, b));
    PLANE(D2("max.f64", a, b));
    PLANE(D1("abs.f64", a));
    PLANE(D1("neg.f64", a));
    PLANE(D2("copysign.f64", a, b));
    PLANE(floor(a));
    PLANE(ceil(a));
    PLANE(rint(a));
    PLANE(trunc(a));
}

// Arguments are positive and ordinary.
extern "C" __global__ void double_math(const double *pa, const double *pb, double *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    double a = pa[i], b = pb[i];
    PLANE(exp(-a));
    PLANE(log(a));
    PLANE(sin(a));
    PLANE(cos(a * 1000));
    PLANE(tanh(a));
    PLANE(pow(a, b));
    PLANE(atan2(a, b));
    PLANE(erf(a));
    PLANE(cbrt(a));
    PLANE(rsqrt(a));
    PLANE(D1("rcp.approx.ftz.f64", a));
    PLANE(D1("rsqrt.approx.ftz.f64", a));
}
