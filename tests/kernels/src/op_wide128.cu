// SPDX-License-Identifier: Apache-2.0
// Registers of 128 bits: compare-and-swap and exchange of 16 bytes, mov into and out of pairs.
#define G(p) ((unsigned long long)__cvta_generic_to_global(p))

// pairs[i & 3] += (i, 1) by compare-and-swap; swapped takes (7, 9) from every thread and hands the last pair on, whose
// sum goes to total.
extern "C" __global__ void cas128(ulonglong2 *q, ulonglong2 *swapped, unsigned long long *total, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned long long a = 0, b = 0, ra, rb;
    for (;;) {
        asm volatile("{\n\t.reg .b128 old, cmp, new;\n\tmov.b128 cmp, {%3, %4};\n\tmov.b128 new, {%5, %6};\n\t"
                     "atom.global.cas.b128 old, [%2], cmp, new;\n\tmov.b128 {%0, %1}, old;\n\t}"
                     : "=l"(ra), "=l"(rb)
                     : "l"(G(q + (i & 3))), "l"(a), "l"(b), "l"(a + i), "l"(b + 1)
                     : "memory");
        if (ra == a && rb == b)
            break;
        a = ra;
        b = rb;
    }
    asm volatile("{\n\t.reg .b128 old, new;\n\tmov.b128 new, {%3, %4};\n\tatom.global.exch.b128 old, [%2], new;\n\t"
                 "mov.b128 {%0, %1}, old;\n\t}"
                 : "=l"(ra), "=l"(rb)
                 : "l"(G(swapped)), "l"(7ull), "l"(9ull)
                 : "memory");
    atomicAdd(total, ra + rb);
}
