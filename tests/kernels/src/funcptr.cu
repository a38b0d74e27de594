// SPDX-License-Identifier: Apache-2.0
// Indirect calls: a table of device functions in global memory, and a pointer chosen in registers.
typedef unsigned (*Fn)(unsigned, unsigned);
__device__ __noinline__ unsigned f_add(unsigned a, unsigned b) { return a + b; }
__device__ __noinline__ unsigned f_mul(unsigned a, unsigned b) { return a * b + 1; }
__device__ __noinline__ unsigned f_xor(unsigned a, unsigned b) { return a ^ (b << 1); }
__device__ __noinline__ unsigned f_rot(unsigned a, unsigned b) { return (a << (b & 31)) | (a >> (-b & 31)); }
__device__ Fn table[4] = {f_add, f_mul, f_xor, f_rot};

extern "C" __global__ void call_table(const unsigned *a, const unsigned *b, unsigned *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = table[(a[i] ^ b[i]) & 3](a[i], b[i]);
}

extern "C" __global__ void call_chosen(const unsigned *a, const unsigned *b, unsigned *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    Fn fn = a[i] > b[i] ? f_xor : f_rot;
    out[i] = fn(a[i], b[i]) + (i & 1 ? f_add(i, 2) : f_mul(i, 3));
}
