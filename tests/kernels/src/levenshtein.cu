// SPDX-License-Identifier: Apache-2.0
// Edit distance of pairs of 64-byte strings, one block of 64 threads a pair, by antidiagonals in shared memory.
extern "C" __global__ void levenshtein(const char *left, const char *right, unsigned *out)
{
    __shared__ unsigned diag[3][65];
    __shared__ char a[64], b[64];
    unsigned t = threadIdx.x;
    a[t] = left[blockIdx.x * 64 + t];
    b[t] = right[blockIdx.x * 64 + t];
    __syncthreads();
    for (unsigned d = 0; d <= 128; d++) {
        unsigned *now = diag[d % 3], *one = diag[(d + 2) % 3], *two = diag[(d + 1) % 3];
        for (unsigned i = t; i <= 64; i += 64) {
            if (i > d || d - i > 64)
                continue;
            unsigned j = d - i;
            unsigned v;
            if (i == 0 || j == 0)
                v = i + j;
            else
                v = min(min(one[i - 1], one[i]) + 1, two[i - 1] + (a[i - 1] != b[j - 1]));
            now[i] = v;
        }
        __syncthreads();
    }
    if (t == 0)
        out[blockIdx.x] = diag[128 % 3][64];
}
