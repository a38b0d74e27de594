// SPDX-License-Identifier: Apache-2.0
// Module-level variables: constant tables (indexed by uniform and by divergent values), initialised and zeroed
// device variables, a device variable holding the address of another, static shared memory and dynamic shared memory.
__constant__ int powers[8] = {1, 3, 9, 27, 81, 243, 729, 2187};
__constant__ unsigned char names[12] = "turnstile??";
__device__ unsigned counter;
__device__ unsigned primes[8] = {2, 3, 5, 7, 11, 13, 17, 19};
__device__ unsigned *indirect = &primes[2];
__device__ double scale = 1.5;
__device__ unsigned char grid_bytes[3][5] = {{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}, {11, 12, 13, 14, 15}};

extern "C" __global__ void constants(const unsigned *in, int *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = powers[in[i] & 7] + powers[blockIdx.x & 7] + names[in[i] % 11];
}

extern "C" __global__ void variables(unsigned *out, double *scaled, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    out[i] = primes[i & 7] + indirect[i & 3] * 100 + grid_bytes[i % 3][i % 5] * 10000;
    scaled[i] = scale * i;
    atomicAdd(&counter, i);
}

// Adds up what the launches before it left in `counter`; a fresh module holds 0.
extern "C" __global__ void tally(unsigned *out, unsigned n)
{
    unsigned i = threadIdx.x;
    if (i < n)
        atomicAdd(&counter, primes[i & 7]);
    __syncthreads();
    if (i == 0)
        out[0] = atomicExch(&counter, 0u);
}

extern __shared__ unsigned char dynamic[];

extern "C" __global__ void dynshared(const unsigned short *in, unsigned short *out, unsigned words, unsigned shorts)
{
    unsigned *a = (unsigned *)dynamic;
    unsigned short *b = (unsigned short *)(dynamic + words * 4);
    for (unsigned i = threadIdx.x; i < words; i += blockDim.x)
        a[i] = i * 2654435761u;
    for (unsigned i = threadIdx.x; i < shorts; i += blockDim.x)
        b[i] = in[i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < shorts; i += blockDim.x)
        out[i] = b[shorts - 1 - i] ^ (unsigned short)(a[i % words] >> 16);
}
