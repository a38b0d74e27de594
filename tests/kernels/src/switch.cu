// SPDX-License-Identifier: Apache-2.0
// A dense switch of sixteen different bodies (nvcc writes brx.idx): a small stack machine over byte code.
extern "C" __global__ void bytecode(const unsigned char *code, unsigned length, const unsigned *in, unsigned *out,
                                    unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned a = in[i], b = i, pc = 0, steps = 0;
    while (pc < length && steps++ < 64) {
        unsigned arg = code[pc + 1];
        unsigned op = (code[pc] + (i & 1)) & 15;
        pc += 2;
        switch (op) {
        case 0: a += b; break;
        case 1: a -= arg; break;
        case 2: a *= b | 1; break;
        case 3: a ^= b << 3; break;
        case 4: b = a >> (arg & 31); break;
        case 5: b += __popc(a); break;
        case 6: a = __brev(a); break;
        case 7: { unsigned t = a; a = b; b = t; break; }
        case 8: a = max(a, b); break;
        case 9: b = min(a, b) + arg; break;
        case 10: a = a % (arg + 1); break;
        case 11: if (b & 1) pc += 2; break;
        case 12: a = ~a; break;
        case 13: b = (b << 7) | (b >> 25); break;
        case 14: a |= arg; break;
        case 15: b &= a | 0xff; break;
        }
    }
    out[i] = a ^ b;
}
