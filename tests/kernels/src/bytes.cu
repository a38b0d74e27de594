// SPDX-License-Identifier: Apache-2.0
// Text: count_words counts starts of words (letters after a non-letter), find_bytes counts matches of a needle.
__device__ __forceinline__ bool letter(unsigned char c)
{
    return (unsigned char)((c | 32) - 'a') < 26;
}

extern "C" __global__ void count_words(const unsigned char *text, unsigned *count, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    bool start = i < n && letter(text[i]) && (i == 0 || !letter(text[i - 1]));
    int here = __syncthreads_count(start);
    if (threadIdx.x == 0 && here)
        atomicAdd(count, (unsigned)here);
}

extern "C" __global__ void find_bytes(const unsigned char *text, unsigned n, const unsigned char *needle, unsigned len,
                                      unsigned *count, unsigned *first)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i + len > n)
        return;
    for (unsigned j = 0; j < len; j++)
        if (text[i + j] != needle[j])
            return;
    atomicAdd(count, 1u);
    atomicMin(first, i);
}

// Uppercases ASCII letters in place, four bytes a thread.
extern "C" __global__ void upper(uchar4 *text, unsigned quads)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= quads)
        return;
    uchar4 c = text[i];
    c.x -= (unsigned char)(c.x - 'a') < 26 ? 32 : 0;
    c.y -= (unsigned char)(c.y - 'a') < 26 ? 32 : 0;
    c.z -= (unsigned char)(c.z - 'a') < 26 ? 32 : 0;
    c.w -= (unsigned char)(c.w - 'a') < 26 ? 32 : 0;
    text[i] = c;
}
