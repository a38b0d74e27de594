// SPDX-License-Identifier: Apache-2.0
// Integer instructions, one plane of out each (PTX ISA: Integer Arithmetic, Extended-Precision, Logic and Shift). The
// host reference lists them in the same order. Operands b and c are never 0 in the division planes' low words.
#define OP2(text, a, b) ({ unsigned r_; asm(text " %0, %1, %2;" : "=r"(r_) : "r"(a), "r"(b)); r_; })
#define OP3(text, a, b, c) ({ unsigned r_; asm(text " %0, %1, %2, %3;" : "=r"(r_) : "r"(a), "r"(b), "r"(c)); r_; })
#define OP1(text, a) ({ unsigned r_; asm(text " %0, %1;" : "=r"(r_) : "r"(a)); r_; })
#define PLANE(x) out[(k++) * n + i] = (x)

extern "C" __global__ void int32_ops(const unsigned *pa, const unsigned *pb, const unsigned *pc, unsigned *out,
                                     unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    unsigned a = pa[i], b = pb[i], c = pc[i];
    PLANE(OP2("add.s32", a, b));
    PLANE(OP2("sub.s32", a, b));
    PLANE(OP2("mul.lo.s32", a, b));
    PLANE(OP2("mul.hi.s32", a, b));
    PLANE(OP2("mul.hi.u32", a, b));
    PLANE(OP2("mul24.lo.s32", a, b));
    PLANE(OP2("mul24.lo.u32", a, b));
    PLANE(OP2("mul24.hi.s32", a, b));
    PLANE(OP2("mul24.hi.u32", a, b));
    PLANE(OP3("mad.lo.s32", a, b, c));
    PLANE(OP3("mad.hi.s32", a, b, c));
    PLANE(OP3("mad.hi.u32", a, b, c));
    PLANE(OP3("mad.hi.sat.s32", a, b, c));
    PLANE(OP3("mad24.lo.s32", a, b, c));
    PLANE(OP3("mad24.hi.u32", a, b, c));
    PLANE(OP3("sad.s32", a, b, c));
    PLANE(OP3("sad.u32", a, b, c));
    PLANE(OP2("div.s32", a, b));
    PLANE(OP2("div.u32", a, b));
    PLANE(OP2("rem.s32", a, b));
    PLANE(OP2("rem.u32", a, b));
    PLANE(OP1("abs.s32", a));
    PLANE(OP1("neg.s32", a));
    PLANE(OP2("min.s32", a, b));
    PLANE(OP2("min.u32", a, b));
    PLANE(OP2("max.s32", a, b));
    PLANE(OP2("max.u32", a, b));
    PLANE(OP2("add.sat.s32", a, b));
    PLANE(OP2("sub.sat.s32", a, b));
    PLANE(OP2("and.b32", a, b));
    PLANE(OP2("or.b32", a, b));
    PLANE(OP2("xor.b32", a, b));
    PLANE(OP1("not.b32", a));
    PLANE(OP1("cnot.b32", a & 3));
    PLANE(OP3("dp4a.s32.s32", a, b, c));
    PLANE(OP3("dp4a.u32.u32", a, b, c));
    PLANE(OP3("dp4a.s32.u32", a, b, c));
    PLANE(OP3("dp4a.u32.s32", a, b, c));
    PLANE(OP3("dp2a.lo.s32.s32", a, b, c));
    PLANE(OP3("dp2a.hi.u32.u32", a, b, c));
    PLANE(OP3("vabsdiff4.u32.u32.u32.add", a, b, c));
    PLANE(OP2("min.s16x2", a, b));
    PLANE(OP2("max.u16x2", a, b));
    PLANE(OP2("add.u16x2", a, b));
    PLANE(OP2("min.s32.relu", a, b));
    // 96-bit add and subtract over carries, a 64-bit product out of halves.
    unsigned r0, r1, r2;
    asm("add.cc.u32 %0, %3, %4;\n\taddc.cc.u32 %1, %4, %5;\n\taddc.u32 %2, %5, %3;"
        : "=r"(r0), "=r"(r1), "=r"(r2)
        : "r"(a), "r"(b), "r"(c));
    PLANE(r0);
    PLANE(r1);
    PLANE(r2);
    asm("sub.cc.u32 %0, %3, %4;\n\tsubc.cc.u32 %1, %4, %5;\n\tsubc.u32 %2, %5, %3;"
        : "=r"(r0), "=r"(r1), "=r"(r2)
        : "r"(a), "r"(b), "r"(c));
    PLANE(r0);
    PLANE(r1);
    PLANE(r2);
    asm("mad.lo.cc.u32 %0, %2, %3, %4;\n\tmadc.hi.u32 %1, %2, %3, 0;" : "=r"(r0), "=r"(r1) : "r"(a), "r"(b), "r"(c));
    PLANE(r0);
    PLANE(r1);
}

#define L2(text, a, b) ({ unsigned long long r_; asm(text " %0, %1, %2;" : "=l"(r_) : "l"(a), "l"(b)); r_; })
#define L1(text, a) ({ unsigned long long r_; asm(text " %0, %1;" : "=l"(r_) : "l"(a)); r_; })
#define LW(text, a, b) ({ unsigned long long r_; asm(text " %0, %1, %2;" : "=l"(r_) : "r"(a), "r"(b)); r_; })

extern "C" __global__ void int64_ops(const unsigned long long *pa, const unsigned long long *pb,
                                     unsigned long long *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    unsigned long long a = pa[i], b = pb[i];
    PLANE(L2("add.s64", a, b));
    PLANE(L2("sub.s64", a, b));
    PLANE(L2("mul.lo.s64", a, b));
    PLANE(L2("mul.hi.s64", a, b));
    PLANE(L2("mul.hi.u64", a, b));
    PLANE(LW("mul.wide.s32", (unsigned)a, (unsigned)b));
    PLANE(LW("mul.wide.u32", (unsigned)a, (unsigned)b));
    PLANE(L2("div.s64", a, b));
    PLANE(L2("div.u64", a, b));
    PLANE(L2("rem.s64", a, b));
    PLANE(L2("rem.u64", a, b));
    PLANE(L1("abs.s64", a));
    PLANE(L1("neg.s64", a));
    PLANE(L2("min.s64", a, b));
    PLANE(L2("max.u64", a, b));
    PLANE(L2("and.b64", a, b));
    PLANE(L2("or.b64", a, b));
    PLANE(L2("xor.b64", a, b));
    PLANE(L1("not.b64", a));
    unsigned long long wide;
    asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(wide) : "r"((unsigned)a), "r"((unsigned)b), "l"(a ^ b));
    PLANE(wide);
    asm("mad.lo.s64 %0, %1, %2, %3;" : "=l"(wide) : "l"(a), "l"(b), "l"(a ^ b));
    PLANE(wide);
    unsigned __int128 p = (unsigned __int128)a * b + (((unsigned __int128)b << 64) | a);
    PLANE((unsigned long long)p);
    PLANE((unsigned long long)(p >> 64));
}

#define S2(text, a, b) ({ unsigned short r_; asm(text " %0, %1, %2;" : "=h"(r_) : "h"(a), "h"(b)); r_; })
#define SW(text, a, b) ({ unsigned r_; asm(text " %0, %1, %2;" : "=r"(r_) : "h"(a), "h"(b)); r_; })

extern "C" __global__ void int16_ops(const unsigned short *pa, const unsigned short *pb, unsigned *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    unsigned short a = pa[i], b = pb[i];
    PLANE(S2("add.s16", a, b));
    PLANE(S2("sub.s16", a, b));
    PLANE(S2("mul.lo.s16", a, b));
    PLANE(S2("mul.hi.s16", a, b));
    PLANE(S2("mul.hi.u16", a, b));
    PLANE(SW("mul.wide.s16", a, b));
    PLANE(SW("mul.wide.u16", a, b));
    PLANE(S2("div.s16", a, b));
    PLANE(S2("rem.u16", a, b));
    PLANE(S2("min.s16", a, b));
    PLANE(S2("max.u16", a, b));
    PLANE(S2("and.b16", a, b));
    PLANE(S2("xor.b16", a, b));
    unsigned short r;
    asm("shl.b16 %0, %1, %2;" : "=h"(r) : "h"(a), "r"((unsigned)b & 31));
    PLANE(r);
    asm("shr.s16 %0, %1, %2;" : "=h"(r) : "h"(a), "r"((unsigned)b & 31));
    PLANE(r);
    asm("shr.u16 %0, %1, %2;" : "=h"(r) : "h"(a), "r"((unsigned)b & 31));
    PLANE(r);
    asm("mad.lo.s16 %0, %1, %2, %3;" : "=h"(r) : "h"(a), "h"(b), "h"((unsigned short)i));
    PLANE(r);
    asm("abs.s16 %0, %1;" : "=h"(r) : "h"(a));
    PLANE(r);
}
