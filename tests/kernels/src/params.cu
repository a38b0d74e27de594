// SPDX-License-Identifier: Apache-2.0
// Kernel parameters of every shape: all scalar widths, a struct with padding, an array indexed at run time, alignment.
struct __align__(16) Big {
    char tag;
    short s;
    int i;
    long long l;
    float f[3];
    double d;
    unsigned char bytes[5];
};

extern "C" __global__ void params(signed char a, unsigned short b, int c, unsigned long long d, float e, double f, Big g,
                                  bool h, long long *out)
{
    if (threadIdx.x != 0)
        return;
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = (long long)d;
    out[4] = (long long)(e * 4);
    out[5] = (long long)(f * 8);
    out[6] = g.tag;
    out[7] = g.s;
    out[8] = g.i;
    out[9] = g.l;
    out[10] = (long long)(g.f[0] + 10 * g.f[1] + 100 * g.f[2]);
    out[11] = (long long)g.d;
    out[12] = g.bytes[0] + 2 * g.bytes[4];
    out[13] = h;
}

struct Table {
    int v[32];
};

extern "C" __global__ void param_index(const __grid_constant__ Table table, const unsigned *in, int *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = table.v[in[i] & 31] - table.v[i & 31];
}
