// SPDX-License-Identifier: Apache-2.0
// Calls with frames of their own: structs by value and by pointer, local arrays indexed at run time, results in memory.
struct Vec {
    int x, y, z;
};

__device__ __noinline__ Vec cross(Vec a, Vec b)
{
    return Vec{a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

__device__ __noinline__ void sort_small(int *v, int n)
{
    for (int i = 1; i < n; i++) {
        int key = v[i], j = i - 1;
        for (; j >= 0 && v[j] > key; j--)
            v[j + 1] = v[j];
        v[j + 1] = key;
    }
}

__device__ __noinline__ int median(const int *data, int n)
{
    int copy[9];
    for (int i = 0; i < n; i++)
        copy[i] = data[i];
    sort_small(copy, n);
    return copy[n / 2];
}

extern "C" __global__ void frames(const int *in, int *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    int window[9];
    for (int j = 0; j < 9; j++)
        window[j] = in[(i + j) % n];
    Vec c = cross(Vec{window[0], window[1], window[2]}, Vec{window[3], window[4], window[5]});
    out[3 * i] = median(window, 9);
    out[3 * i + 1] = c.x + 3 * c.y + 7 * c.z;
    out[3 * i + 2] = window[(unsigned)in[i] % 9];
}
