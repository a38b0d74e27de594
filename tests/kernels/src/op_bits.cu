// SPDX-License-Identifier: Apache-2.0
// Shifts, bit fields, byte permutes, three-input logic, bit counts; one plane of out each.
#define OP2(text, a, b) ({ unsigned r_; asm(text " %0, %1, %2;" : "=r"(r_) : "r"(a), "r"(b)); r_; })
#define OP3(text, a, b, c) ({ unsigned r_; asm(text " %0, %1, %2, %3;" : "=r"(r_) : "r"(a), "r"(b), "r"(c)); r_; })
#define OP1(text, a) ({ unsigned r_; asm(text " %0, %1;" : "=r"(r_) : "r"(a)); r_; })
#define PLANE(x) out[(k++) * n + i] = (x)

extern "C" __global__ void shift_ops(const unsigned *pa, const unsigned *pb, const unsigned *pc, unsigned *out,
                                     unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    unsigned a = pa[i], b = pb[i], c = pc[i];
    // c is a shift amount: most below 32, some beyond (shl and shr clamp, shf.wrap takes five bits).
    PLANE(OP2("shl.b32", a, c));
    PLANE(OP2("shr.u32", a, c));
    PLANE(OP2("shr.s32", a, c));
    PLANE(OP3("shf.l.wrap.b32", a, b, c));
    PLANE(OP3("shf.r.wrap.b32", a, b, c));
    PLANE(OP3("shf.l.clamp.b32", a, b, c));
    PLANE(OP3("shf.r.clamp.b32", a, b, c));
    unsigned long long w = ((unsigned long long)b << 32) | a, r;
    asm("shl.b64 %0, %1, %2;" : "=l"(r) : "l"(w), "r"(c));
    PLANE((unsigned)r);
    PLANE((unsigned)(r >> 32));
    asm("shr.u64 %0, %1, %2;" : "=l"(r) : "l"(w), "r"(c));
    PLANE((unsigned)r);
    PLANE((unsigned)(r >> 32));
    asm("shr.s64 %0, %1, %2;" : "=l"(r) : "l"(w), "r"(c));
    PLANE((unsigned)r);
    PLANE((unsigned)(r >> 32));
}

extern "C" __global__ void bit_ops(const unsigned *pa, const unsigned *pb, const unsigned *pc, unsigned *out,
                                   unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    unsigned a = pa[i], b = pb[i], c = pc[i], pos = c & 63, len = (c >> 8) & 63;
    PLANE(OP1("popc.b32", a));
    PLANE(OP1("clz.b32", a & b & c));
    PLANE(OP1("brev.b32", a));
    PLANE(OP1("bfind.u32", a & b & c));
    PLANE(OP1("bfind.s32", a));
    PLANE(OP1("bfind.shiftamt.u32", a & b));
    PLANE(OP3("bfe.u32", a, pos, len));
    PLANE(OP3("bfe.s32", a, pos, len));
    unsigned r;
    asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(b), "r"(pos), "r"(len));
    PLANE(r);
    PLANE(OP3("prmt.b32", a, b, c));
    PLANE(OP3("prmt.b32.f4e", a, b, c));
    PLANE(OP3("prmt.b32.b4e", a, b, c));
    PLANE(OP3("prmt.b32.rc8", a, b, c));
    PLANE(OP3("prmt.b32.ecl", a, b, c));
    PLANE(OP3("prmt.b32.ecr", a, b, c));
    PLANE(OP3("prmt.b32.rc16", a, b, c));
    asm("lop3.b32 %0, %1, %2, %3, 0xe8;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    PLANE(r);
    asm("lop3.b32 %0, %1, %2, %3, 0x1d;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    PLANE(r);
    PLANE(OP3("fns.b32", a, b & 31, c & 3));
    PLANE(OP2("bmsk.clamp.b32", pos, len));
    PLANE(OP2("bmsk.wrap.b32", pos, len));
    PLANE(OP2("szext.clamp.u32", a, pos));
    PLANE(OP2("szext.wrap.s32", a, pos));
    unsigned long long w = ((unsigned long long)b << 32) | a, q;
    asm("popc.b64 %0, %1;" : "=r"(r) : "l"(w));
    PLANE(r);
    asm("clz.b64 %0, %1;" : "=r"(r) : "l"(w >> (c & 63)));
    PLANE(r);
    asm("brev.b64 %0, %1;" : "=l"(q) : "l"(w));
    PLANE((unsigned)(q >> 32));
    asm("bfe.u64 %0, %1, %2, %3;" : "=l"(q) : "l"(w), "r"(pos), "r"(len));
    PLANE((unsigned)q ^ (unsigned)(q >> 32));
    asm("bfe.s64 %0, %1, %2, %3;" : "=l"(q) : "l"(w), "r"(pos), "r"(len));
    PLANE((unsigned)q ^ (unsigned)(q >> 32));
    asm("bfi.b64 %0, %1, %2, %3, %4;" : "=l"(q) : "l"(w), "l"(~w * 5), "r"(pos), "r"(len));
    PLANE((unsigned)q ^ (unsigned)(q >> 32));
    PLANE(__ffs(a & b) + (__ffsll(w) << 8));
}
