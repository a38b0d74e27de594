// SPDX-License-Identifier: Apache-2.0
// Single precision: every rounding, flush to zero, saturation, min and max with NaN, approximations, tests.
// Exact planes come first (float_exact), approximations apart (float_approx), so that each has its own tolerance.
#define F1(text, a) ({ float r_; asm(text " %0, %1;" : "=f"(r_) : "f"(a)); r_; })
#define F2(text, a, b) ({ float r_; asm(text " %0, %1, %2;" : "=f"(r_) : "f"(a), "f"(b)); r_; })
#define F3(text, a, b, c) ({ float r_; asm(text " %0, %1, %2, %3;" : "=f"(r_) : "f"(a), "f"(b), "f"(c)); r_; })
#define PLANE(x) out[(k++) * n + i] = (x)
#define TEST(text, a)                                                                                                  \
    ({                                                                                                                 \
        unsigned r_;                                                                                                   \
        asm("{\n\t.reg .pred p;\n\ttestp." text ".f32 p, %1;\n\tselp.u32 %0, 1, 0, p;\n\t}" : "=r"(r_) : "f"(a));      \
        r_;                                                                                                            \
    })

extern "C" __global__ void float_exact(const float *pa, const float *pb, const float *pc, float *out, unsigned *tests,
                                       unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    float a = pa[i], b = pb[i], c = pc[i];
    PLANE(F2("add.rn.f32", a, b));
    PLANE(F2("add.rz.f32", a, b));
    PLANE(F2("add.rm.f32", a, b));
    PLANE(F2("add.rp.f32", a, b));
    PLANE(F2("add.ftz.f32", a, b));
    PLANE(F2("add.sat.f32", a, b));
    PLANE(F2("sub.rn.f32", a, b));
    PLANE(F2("sub.rp.f32", a, b));
    PLANE(F2("mul.rn.f32", a, b));
    PLANE(F2("mul.rz.f32", a, b));
    PLANE(F2("mul.rm.f32", a, b));
    PLANE(F2("mul.rp.f32", a, b));
    PLANE(F2("mul.ftz.f32", a, b));
    PLANE(F2("mul.sat.f32", a, b));
    PLANE(F3("fma.rn.f32", a, b, c));
    PLANE(F3("fma.rz.f32", a, b, c));
    PLANE(F3("fma.rm.f32", a, b, c));
    PLANE(F3("fma.rp.f32", a, b, c));
    PLANE(F3("fma.rn.ftz.f32", a, b, c));
    PLANE(F3("fma.rn.sat.f32", a, b, c));
    PLANE(F2("div.rn.f32", a, b));
    PLANE(F1("rcp.rn.f32", a));
    PLANE(F1("sqrt.rn.f32", a));
    PLANE(F2("min.f32", a, b));
    PLANE(F2("max.f32", a, b));
    PLANE(F2("min.NaN.f32", a, b));
    PLANE(F2("max.NaN.f32", a, b));
    PLANE(F2("min.xorsign.abs.f32", a, b));
    PLANE(F1("abs.f32", a));
    PLANE(F1("neg.f32", a));
    PLANE(F1("abs.ftz.f32", a));
    PLANE(F2("copysign.f32", a, b));
    unsigned t = 0;
    t |= TEST("finite", a) << 0;
    t |= TEST("infinite", a) << 1;
    t |= TEST("number", a) << 2;
    t |= TEST("notanumber", a) << 3;
    t |= TEST("normal", a) << 4;
    t |= TEST("subnormal", a) << 5;
    tests[i] = t;
}

// Arguments are positive and ordinary.
extern "C" __global__ void float_approx(const float *pa, const float *pb, float *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    float a = pa[i], b = pb[i];
    PLANE(F2("div.approx.f32", a, b));
    PLANE(F2("div.full.f32", a, b));
    PLANE(F1("rcp.approx.f32", a));
    PLANE(F1("rcp.approx.ftz.f32", a));
    PLANE(F1("sqrt.approx.f32", a));
    PLANE(F1("rsqrt.approx.f32", a));
    PLANE(F1("sin.approx.f32", a));
    PLANE(F1("cos.approx.f32", a));
    PLANE(F1("lg2.approx.f32", a));
    PLANE(F1("ex2.approx.f32", a));
    PLANE(F1("ex2.approx.ftz.f32", -a));
    PLANE(F1("tanh.approx.f32", a));
    // The library's versions, which nvcc expands.
    PLANE(expf(-a));
    PLANE(logf(a));
    PLANE(sinf(a * 3));
    PLANE(cosf(a * 3));
    PLANE(tanhf(a));
    PLANE(powf(a, b));
    PLANE(atan2f(a, b));
    PLANE(erff(a));
    PLANE(cbrtf(a));
    PLANE(fmodf(a * 10, b));
}
