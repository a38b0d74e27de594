// SPDX-License-Identifier: Apache-2.0
// Predicates and selection: setp in every comparison and with and/or/xor of a predicate, set, selp, slct, predicate
// logic, predicated execution with and without negation.
#define PLANE(x) out[(k++) * n + i] = (x)
#define SETP(text, con, a, b)                                                                                          \
    ({                                                                                                                 \
        unsigned r_;                                                                                                   \
        asm("{\n\t.reg .pred p;\n\tsetp." text " p, %1, %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"                             \
            : "=r"(r_)                                                                                                 \
            : con(a), con(b));                                                                                         \
        r_;                                                                                                            \
    })

extern "C" __global__ void pred_ops(const unsigned *pa, const unsigned *pb, const float *pf, const float *pg,
                                    unsigned *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0, bits = 0;
    if (i >= n)
        return;
    unsigned a = pa[i], b = pb[i];
    float f = pf[i], g = pg[i];
    bits |= SETP("eq.s32", "r", a, b) << 0;
    bits |= SETP("ne.s32", "r", a, b) << 1;
    bits |= SETP("lt.s32", "r", a, b) << 2;
    bits |= SETP("le.s32", "r", a, b) << 3;
    bits |= SETP("gt.s32", "r", a, b) << 4;
    bits |= SETP("ge.s32", "r", a, b) << 5;
    bits |= SETP("lo.u32", "r", a, b) << 6;
    bits |= SETP("ls.u32", "r", a, b) << 7;
    bits |= SETP("hi.u32", "r", a, b) << 8;
    bits |= SETP("hs.u32", "r", a, b) << 9;
    bits |= SETP("lt.u32", "r", a, b) << 10;
    bits |= SETP("ge.u32", "r", a, b) << 11;
    PLANE(bits);
    bits = 0;
    bits |= SETP("eq.f32", "f", f, g) << 0;
    bits |= SETP("ne.f32", "f", f, g) << 1;
    bits |= SETP("lt.f32", "f", f, g) << 2;
    bits |= SETP("le.f32", "f", f, g) << 3;
    bits |= SETP("gt.f32", "f", f, g) << 4;
    bits |= SETP("ge.f32", "f", f, g) << 5;
    bits |= SETP("equ.f32", "f", f, g) << 6;
    bits |= SETP("neu.f32", "f", f, g) << 7;
    bits |= SETP("ltu.f32", "f", f, g) << 8;
    bits |= SETP("leu.f32", "f", f, g) << 9;
    bits |= SETP("gtu.f32", "f", f, g) << 10;
    bits |= SETP("geu.f32", "f", f, g) << 11;
    bits |= SETP("num.f32", "f", f, g) << 12;
    bits |= SETP("nan.f32", "f", f, g) << 13;
    bits |= SETP("lt.f64", "d", (double)f, (double)g) << 14;
    bits |= SETP("neu.f64", "d", (double)f, (double)g) << 15;
    bits |= SETP("lt.ftz.f32", "f", f, g) << 16;
    PLANE(bits);
    unsigned r, s;
    asm("{\n\t.reg .pred p, q, x, y;\n\tsetp.gt.s32 x, %2, 0;\n\tsetp.lt.and.s32 p|q, %2, %3, x;\n\t"
        "selp.u32 %0, 1, 0, p;\n\tselp.u32 %1, 1, 0, q;\n\t}"
        : "=r"(r), "=r"(s)
        : "r"(a), "r"(b));
    PLANE(r | s << 1);
    asm("{\n\t.reg .pred p, q, x;\n\tsetp.gt.s32 x, %2, 0;\n\tsetp.lt.or.s32 p|q, %2, %3, !x;\n\t"
        "selp.u32 %0, 1, 0, p;\n\tselp.u32 %1, 1, 0, q;\n\t}"
        : "=r"(r), "=r"(s)
        : "r"(a), "r"(b));
    PLANE(r | s << 1);
    asm("{\n\t.reg .pred p, x;\n\tsetp.gt.s32 x, %1, 0;\n\tsetp.lt.xor.s32 p, %1, %2, x;\n\tselp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(r)
        : "r"(a), "r"(b));
    PLANE(r);
    asm("set.lt.u32.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    PLANE(r);
    asm("set.gt.f32.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    PLANE(r);
    asm("set.le.u32.f32 %0, %1, %2;" : "=r"(r) : "f"(f), "f"(g));
    PLANE(r);
    asm("selp.b32 %0, %1, %2, 1;" : "=r"(r) : "r"(a), "r"(b));
    PLANE(r);
    asm("slct.u32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(a ^ b));
    PLANE(r);
    asm("slct.u32.f32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "f"(f));
    PLANE(r);
    asm("{\n\t.reg .pred p, q, x;\n\tsetp.lt.u32 p, %1, %2;\n\tsetp.lt.s32 q, %1, %2;\n\tand.pred x, p, q;\n\t"
        "or.pred p, p, q;\n\txor.pred p, p, x;\n\tnot.pred p, p;\n\tmov.pred q, p;\n\tselp.u32 %0, 1, 0, q;\n\t}"
        : "=r"(r)
        : "r"(a), "r"(b));
    PLANE(r);
    asm("{\n\t.reg .pred p;\n\tsetp.lt.u32 p, %1, %2;\n\tmov.u32 %0, 5;\n\t@p add.u32 %0, %0, %1;\n\t"
        "@!p add.u32 %0, %0, %2;\n\t}"
        : "=&r"(r)
        : "r"(a), "r"(b));
    PLANE(r);
    unsigned short h;
    asm("{\n\t.reg .pred p;\n\tsetp.gt.s16 p, %1, %2;\n\tselp.b16 %0, %1, %2, p;\n\t}"
        : "=h"(h)
        : "h"((unsigned short)a), "h"((unsigned short)b));
    PLANE(h);
    unsigned long long l;
    asm("{\n\t.reg .pred p;\n\tsetp.gt.u64 p, %1, %2;\n\tselp.b64 %0, %1, %2, p;\n\t}"
        : "=l"(l)
        : "l"((unsigned long long)a << 20), "l"((unsigned long long)b << 20));
    PLANE((unsigned)(l >> 20));
}
