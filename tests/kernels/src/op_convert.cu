// SPDX-License-Identifier: Apache-2.0
// Conversions. convert_int: between integer widths, with saturation and packing. convert_float: floats to integers in
// every rounding, including out of range and NaN. convert_back: integers to floats, between float widths, fp8.
#define PLANE(x) out[(k++) * n + i] = (x)
#define CVT(text, rcon, rtype, con, a) ({ rtype r_; asm("cvt." text " %0, %1;" : "=" rcon(r_) : con(a)); r_; })

extern "C" __global__ void convert_int(const unsigned long long *pa, unsigned long long *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    unsigned long long a = pa[i];
    unsigned w = (unsigned)a, v = (unsigned)(a >> 32);
    unsigned short h = (unsigned short)a;
    PLANE(CVT("s64.s32", "l", unsigned long long, "r", w));
    PLANE(CVT("u64.u32", "l", unsigned long long, "r", w));
    PLANE(CVT("u32.u64", "r", unsigned, "l", a));
    PLANE(CVT("s32.s16", "r", unsigned, "h", h));
    PLANE(CVT("u32.u16", "r", unsigned, "h", h));
    PLANE(CVT("s32.s8", "r", unsigned, "r", w));
    PLANE(CVT("u32.u8", "r", unsigned, "r", w));
    PLANE(CVT("u16.u32", "h", unsigned short, "r", w));
    PLANE(CVT("s64.s8", "l", unsigned long long, "l", a));
    PLANE(CVT("sat.u8.s32", "r", unsigned, "r", w));
    PLANE(CVT("sat.s8.s32", "r", unsigned, "r", w));
    PLANE(CVT("sat.u16.s32", "h", unsigned short, "r", w));
    PLANE(CVT("sat.s16.s64", "h", unsigned short, "l", a));
    PLANE(CVT("sat.s32.s64", "r", unsigned, "l", a));
    PLANE(CVT("sat.u32.s64", "r", unsigned, "l", a));
    PLANE(CVT("sat.s32.u32", "r", unsigned, "r", w));
    PLANE(CVT("sat.u64.s64", "l", unsigned long long, "l", a));
    unsigned r;
    asm("cvt.pack.sat.s16.s32 %0, %1, %2;" : "=r"(r) : "r"(w), "r"(v));
    PLANE(r);
    asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(w), "r"(v), "r"(0xabcd1234u));
    PLANE(r);
}

extern "C" __global__ void convert_float(const float *pf, const double *pd, long long *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    float f = pf[i];
    double d = pd[i];
    PLANE(CVT("rni.s32.f32", "r", int, "f", f));
    PLANE(CVT("rzi.s32.f32", "r", int, "f", f));
    PLANE(CVT("rmi.s32.f32", "r", int, "f", f));
    PLANE(CVT("rpi.s32.f32", "r", int, "f", f));
    PLANE(CVT("rzi.u32.f32", "r", unsigned, "f", f));
    PLANE(CVT("rzi.s64.f32", "l", long long, "f", f));
    PLANE(CVT("rzi.u64.f32", "l", long long, "f", f));
    PLANE(CVT("rzi.s16.f32", "h", short, "f", f));
    PLANE(CVT("rzi.u16.f32", "h", unsigned short, "f", f));
    PLANE(CVT("rni.s32.f64", "r", int, "d", d));
    PLANE(CVT("rmi.s32.f64", "r", int, "d", d));
    PLANE(CVT("rzi.u32.f64", "r", unsigned, "d", d));
    PLANE(CVT("rzi.s64.f64", "l", long long, "d", d));
    PLANE(CVT("rpi.s64.f64", "l", long long, "d", d));
    PLANE(CVT("rzi.u64.f64", "l", long long, "d", d));
    PLANE(CVT("rzi.s32.f16", "r", int, "h", CVT("rn.f16.f32", "h", unsigned short, "f", f)));
    PLANE(CVT("rni.u16.f16", "h", unsigned short, "h", CVT("rn.f16.f32", "h", unsigned short, "f", f)));
}

extern "C" __global__ void convert_back(const unsigned long long *pa, const float *pf, const double *pd,
                                        unsigned long long *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    unsigned long long a = pa[i];
    unsigned w = (unsigned)a;
    float f = pf[i];
    double d = pd[i];
#define F32(x) PLANE(__float_as_uint(x))
#define F64(x) PLANE(__double_as_longlong(x))
    F32(CVT("rn.f32.s32", "f", float, "r", w));
    F32(CVT("rz.f32.s32", "f", float, "r", w));
    F32(CVT("rm.f32.s32", "f", float, "r", w));
    F32(CVT("rp.f32.u32", "f", float, "r", w));
    F32(CVT("rn.f32.s64", "f", float, "l", a));
    F32(CVT("rn.f32.u64", "f", float, "l", a));
    F64(CVT("rn.f64.s32", "d", double, "r", w));
    F64(CVT("rn.f64.u32", "d", double, "r", w));
    F64(CVT("rn.f64.s64", "d", double, "l", a));
    F64(CVT("rz.f64.u64", "d", double, "l", a));
    F64(CVT("f64.f32", "d", double, "f", f));
    F32(CVT("rn.f32.f64", "f", float, "d", d));
    F32(CVT("rz.f32.f64", "f", float, "d", d));
    F32(CVT("rm.f32.f64", "f", float, "d", d));
    F32(CVT("rp.f32.f64", "f", float, "d", d));
    F32(CVT("rni.f32.f32", "f", float, "f", f));
    F32(CVT("rzi.f32.f32", "f", float, "f", f));
    F32(CVT("rmi.f32.f32", "f", float, "f", f));
    F32(CVT("rpi.f32.f32", "f", float, "f", f));
    F32(CVT("sat.f32.f32", "f", float, "f", f));
    F32(CVT("ftz.f32.f32", "f", float, "f", f));
    PLANE(CVT("rn.f16.f32", "h", unsigned short, "f", f));
    PLANE(CVT("rz.f16.f32", "h", unsigned short, "f", f));
    PLANE(CVT("rn.bf16.f32", "h", unsigned short, "f", f));
    PLANE(CVT("rz.bf16.f32", "h", unsigned short, "f", f));
    F32(CVT("f32.f16", "f", float, "h", (unsigned short)a));
    F32(CVT("f32.bf16", "f", float, "h", (unsigned short)a));
    PLANE(CVT("rna.tf32.f32", "r", unsigned, "f", f));
    PLANE(CVT("rn.f16.f64", "h", unsigned short, "d", d));
    PLANE(CVT("rn.f16.s32", "h", unsigned short, "r", w));
    unsigned r;
    float g = (float)(int)w * 0x1p-24f;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(f), "f"(g));
    PLANE(r);
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(f), "f"(g));
    PLANE(r);
    unsigned short h;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(h) : "f"(f), "f"(g));
    PLANE(h);
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(h) : "f"(f), "f"(g));
    PLANE(h);
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"((unsigned short)a));
    PLANE(r);
    asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(r) : "h"((unsigned short)a));
    PLANE(r);
}
